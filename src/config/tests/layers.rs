//! Each layer beats the one below, for each kind of value.

use super::*;

#[test]
fn without_any_layer_the_defaults_hold() {
    assert_eq!(given().config(), Config::default());
}

#[test]
fn an_empty_file_changes_nothing() {
    assert_eq!(given().file("").config(), Config::default());
    assert_eq!(
        given().file("[server]\n[storage.sqlite]\n").config(),
        Config::default()
    );
}

#[test]
fn every_layer_beats_the_one_below_for_integers() {
    let file = || given().file("tasks.retry_timeout = 1");
    let environment = || file().env("RESONATE_TASKS__RETRY_TIMEOUT", "2");
    let flag = || environment().flag("tasks.retry_timeout", 3);
    assert_eq!(given().config().tasks.retry_timeout, Millis::new(30_000));
    assert_eq!(file().config().tasks.retry_timeout, Millis::new(1));
    assert_eq!(environment().config().tasks.retry_timeout, Millis::new(2));
    assert_eq!(flag().config().tasks.retry_timeout, Millis::new(3));
}

#[test]
fn every_layer_beats_the_one_below_for_counts_and_ports() {
    let file = || given().file("server.port = 1\nmessages.batch_size = 11");
    let environment = || {
        file()
            .env("RESONATE_SERVER__PORT", " 2 ")
            .env("RESONATE_MESSAGES__BATCH_SIZE", "12")
    };
    let flag = || {
        environment()
            .flag("server.port", 3)
            .flag("messages.batch_size", 13)
    };
    let seen = |config: Config| (config.server.port, config.messages.batch_size);
    assert_eq!(seen(given().config()), (8001, 100));
    assert_eq!(seen(file().config()), (1, 11));
    assert_eq!(seen(environment().config()), (2, 12));
    assert_eq!(seen(flag().config()), (3, 13));
}

#[test]
fn every_layer_beats_the_one_below_for_booleans() {
    let file = || given().file("transports.http_push.enabled = false");
    let environment = || file().env("RESONATE_TRANSPORTS__HTTP_PUSH__ENABLED", "true");
    let flag = || environment().flag("transports.http_push.enabled", false);
    assert!(given().config().transports.http_push.enabled);
    assert!(!file().config().transports.http_push.enabled);
    assert!(environment().config().transports.http_push.enabled);
    assert!(!flag().config().transports.http_push.enabled);
}

#[test]
fn every_layer_beats_the_one_below_for_strings() {
    let file = || given().file("server.host = \"file\"");
    let environment = || file().env("RESONATE_SERVER__HOST", "environment");
    let flag = || environment().flag("server.host", "flag");
    assert_eq!(given().config().server.host, "localhost");
    assert_eq!(file().config().server.host, "file");
    assert_eq!(environment().config().server.host, "environment");
    assert_eq!(flag().config().server.host, "flag");
}

#[test]
fn every_layer_beats_the_one_below_for_optional_strings() {
    let file = || given().file("server.url = \"http://file\"");
    let environment = || file().env("RESONATE_SERVER__URL", "http://environment");
    let flag = || environment().flag("server.url", "https://flag");
    let url = |given: Given| given.config().server.public_url(8001);
    assert_eq!(url(given()), "http://localhost:8001");
    assert_eq!(url(file()), "http://file");
    assert_eq!(url(environment()), "http://environment");
    assert_eq!(url(flag()), "https://flag");
}

#[test]
fn every_layer_beats_the_one_below_for_choices() {
    let file = || given().file("storage.sqlite.synchronous = \"normal\"");
    let environment = || file().env("RESONATE_STORAGE__SQLITE__SYNCHRONOUS", "full");
    let flag = || environment().flag("storage.sqlite.synchronous", "normal");
    let synchronous = |given: Given| given.config().storage.sqlite.synchronous;
    assert_eq!(synchronous(given()), Synchronous::Full);
    assert_eq!(synchronous(file()), Synchronous::Normal);
    assert_eq!(synchronous(environment()), Synchronous::Full);
    assert_eq!(synchronous(flag()), Synchronous::Normal);
}

#[test]
fn the_variable_of_opentelemetry_stands_above_those_of_this_server() {
    const OTEL: &str = "OTEL_EXPORTER_OTLP_ENDPOINT";
    let endpoint = |given: Given| {
        let endpoint = given.config().observability.otlp_endpoint;
        endpoint.map(|endpoint| endpoint.to_string())
    };
    let own = || {
        let file = given().file("observability.otlp_endpoint = \"file:1\"");
        file.env("RESONATE_OBSERVABILITY__OTLP_ENDPOINT", "own:1")
    };
    let both = || own().env(OTEL, "http://otel:1");
    let flag = both().flag("observability.otlp_endpoint", "flag:1");
    assert_eq!(endpoint(given()), None);
    assert_eq!(endpoint(own()).as_deref(), Some("own:1"));
    assert_eq!(endpoint(both()).as_deref(), Some("http://otel:1"));
    assert_eq!(endpoint(flag).as_deref(), Some("flag:1"));
    // Empty means not set, as OpenTelemetry has it.
    assert_eq!(endpoint(own().env(OTEL, "")).as_deref(), Some("own:1"));
    let sentence = "observability.otlp_endpoint must be host:port, or an http or https URL \
                    without user, query and fragment (from environment variable OTEL_EXPORTER_OTLP_ENDPOINT)";
    let secret = given().env(OTEL, "https://me:hunter2@collector").error();
    assert_eq!(secret, sentence);
}

#[test]
fn every_layer_replaces_the_list_of_the_one_below() {
    let file = || given().file("server.cors.allow_origins = [\"http://a\", \"http://b\"]");
    let environment = || file().env("RESONATE_SERVER__CORS__ALLOW_ORIGINS", "http://c");
    let flag = || environment().flag("server.cors.allow_origins", vec!["http://d", "*"]);
    let origins = |given: Given| given.config().server.cors.allow_origins;
    assert_eq!(origins(given()), Vec::<String>::new());
    assert_eq!(origins(file()), ["http://a", "http://b"]);
    assert_eq!(origins(environment()), ["http://c"]);
    assert_eq!(origins(flag()), ["http://d", "*"]);
}

#[test]
fn settings_of_one_section_may_come_from_different_layers() {
    let config = given()
        .file("[transports.http_poll]\nbuffer_size = 5\nkeep_alive = 6\n")
        .env("RESONATE_TRANSPORTS__HTTP_POLL__KEEP_ALIVE", "7")
        .flag("transports.http_poll.max_connections", 8)
        .config();
    let poll = config.transports.http_poll;
    assert_eq!(
        poll,
        HttpPoll {
            buffer_size: 5,
            keep_alive: Millis::new(7),
            max_connections: 8,
            ..HttpPoll::default()
        }
    );
}

#[test]
fn lists_in_the_environment_are_toml_or_plain_text() {
    for (text, origins) in [
        (r#"["http://a","http://b"]"#, vec!["http://a", "http://b"]),
        (r#" [ 'http://a' ] "#, vec!["http://a"]),
        ("[]", vec![]),
        ("", vec![]),
        ("http://a", vec!["http://a"]),
        ("http://a, http://b,", vec!["http://a", "http://b"]),
        ("*", vec!["*"]),
    ] {
        let config = given()
            .env("RESONATE_SERVER__CORS__ALLOW_ORIGINS", text)
            .config();
        assert_eq!(config.server.cors.allow_origins, origins, "{text}");
    }
}

#[test]
fn a_variable_is_read_as_what_its_setting_is() {
    let config = given()
        .env("RESONATE_SERVER__HOST", "123")
        .env("RESONATE_STORAGE__SQLITE__PATH", "true")
        .env("RESONATE_DEBUG", "true")
        .config();
    assert_eq!(config.server.host, "123");
    assert_eq!(config.storage.sqlite.path, "true");
    assert!(config.debug);
}

#[test]
fn dev_keeps_everything_in_memory_unless_the_flag_names_a_file() {
    let path = |given: Given| given.config().storage.sqlite.path;
    let set = || {
        given()
            .file("storage.sqlite.path = \"file.db\"")
            .env("RESONATE_STORAGE__SQLITE__PATH", "environment.db")
    };
    assert_eq!(path(given()), "resonate.db");
    assert_eq!(path(given().dev()), ":memory:");
    assert_eq!(path(set()), "environment.db");
    assert_eq!(path(set().dev()), ":memory:");
    assert_eq!(
        path(set().dev().flag("storage.sqlite.path", "flag.db")),
        "flag.db"
    );
    assert!(set().dev().config().storage.sqlite.is_memory());
}

#[test]
fn dev_takes_everything_else_from_all_layers() {
    let config = given()
        .dev()
        .file("server.port = 1\ntasks.lease_timeout = 2\nlevel = \"debug\"")
        .env("RESONATE_SERVER__PORT", "3")
        .config();
    assert_eq!(config.server.port, 3);
    assert_eq!(config.tasks.lease_timeout, Millis::new(2));
    assert_eq!(config.level, "debug");
}

#[test]
fn the_public_url_has_the_port_that_was_bound() {
    let server = |host: &str| given().flag("server.host", host).config().server;
    assert_eq!(
        server("localhost").public_url(41_234),
        "http://localhost:41234"
    );
    assert_eq!(server("::1").public_url(8001), "http://[::1]:8001");
}

#[test]
fn debug_output_hides_passwords() {
    let config = given()
        .env("RESONATE_SERVER__URL", "http://me:hunter2@proxy/")
        .config();
    let shown = format!("{config:?}");
    assert!(!shown.contains("hunter2"), "{shown}");
    assert!(shown.contains("http://me:***@proxy/"), "{shown}");
    assert_eq!(config.server.public_url(1), "http://me:hunter2@proxy/");
    let flag = Flag::new("server.url", "http://me:hunter2@proxy/");
    assert!(!format!("{flag:?}").contains("hunter2"));
}
