//! Every bad value is refused by a sentence that names key and source.

use super::*;

/// The settings that must be at least 1.
const AT_LEAST_ONE: [&str; 43] = [
    "auth.refresh_interval",
    "limits.max_address_length",
    "limits.max_heartbeat_tasks",
    "limits.max_id_length",
    "limits.max_suspend_actions",
    "limits.max_tag_length",
    "limits.max_tags",
    "limits.rate_burst",
    "messages.batch_size",
    "messages.poll_interval",
    "messages.unblock_ttl",
    "retention.batch_size",
    "retention.interval",
    "retention.rate",
    "server.body_read_timeout",
    "server.header_read_timeout",
    "server.idle_timeout",
    "server.max_body_size",
    "server.max_connections",
    "server.max_in_flight",
    "server.max_in_flight_bytes",
    "server.request_deadline",
    "storage.postgres.pool_size",
    "tasks.lease_timeout",
    "tasks.retry_timeout",
    "timeouts.poll_interval",
    "transports.bash_exec.concurrency",
    "transports.gcps.concurrency",
    "transports.gcps.timeout",
    "transports.http_poll.buffer_size",
    "transports.http_poll.keep_alive",
    "transports.http_poll.max_connections",
    "transports.http_poll.stream_lifetime",
    "transports.http_push.concurrency",
    "transports.http_push.connect_timeout",
    "transports.http_push.request_timeout",
    // These may be 0, but are listed so that the next test sees every integer.
    "limits.rate_per_address",
    "limits.rate_per_token",
    "observability.slow_request",
    "retention.after",
    "storage.sqlite.cache_bytes",
    "server.shutdown_timeout",
    "server.port",
];

fn variable(key: &str) -> String {
    keys::environment_variable(key)
}

#[test]
fn every_integer_is_in_the_table_of_this_test() {
    for (key, default) in keys::defaults() {
        let is_listed = AT_LEAST_ONE.contains(&key.as_str()) || key == "observability.metrics_port";
        assert_eq!(default.to_num().is_some(), is_listed, "{key}");
    }
}

#[test]
fn integers_that_must_be_at_least_one_say_so_whatever_their_source() {
    for key in &AT_LEAST_ONE[..36] {
        let flag = keys::flag(key);
        for n in [0_i64, -5] {
            let sentence = format!("{key} must be at least 1 (got {n})");
            assert_eq!(
                given().file(&format!("{key} = {n}")).error(),
                format!("{sentence} (from resonate.toml)")
            );
            assert_eq!(
                given().env(&variable(key), &n.to_string()).error(),
                format!("{sentence} (from environment variable {})", variable(key))
            );
            assert_eq!(
                given().flag(key, n).error(),
                format!("{sentence} (from {flag})")
            );
        }
    }
}

#[test]
fn a_shutdown_timeout_may_be_zero_but_not_negative() {
    let config = given().file("server.shutdown_timeout = 0").config();
    assert_eq!(config.server.shutdown_timeout, Millis::new(0));
    assert_eq!(
        given().file("server.shutdown_timeout = -1").error(),
        "server.shutdown_timeout must be at least 0 (got -1) (from resonate.toml)"
    );
}

#[test]
fn integers_beyond_the_largest_are_refused() {
    assert_eq!(
        given()
            .env("RESONATE_TASKS__RETRY_TIMEOUT", "9007199254740992")
            .error(),
        "tasks.retry_timeout must be at most 9007199254740991 (got 9007199254740992) \
         (from environment variable RESONATE_TASKS__RETRY_TIMEOUT)"
    );
    let config = given()
        .file("tasks.retry_timeout = 9007199254740991")
        .config();
    assert_eq!(config.tasks.retry_timeout.as_i64(), 9_007_199_254_740_991);
}

#[test]
fn batches_of_retention_are_bounded_and_its_rules_are_told_apart() {
    assert_eq!(
        given().file("retention.batch_size = 1001").error(),
        "retention.batch_size must be at most 1000 (got 1001) (from resonate.toml)"
    );
    let rules = |text: &str| given().env("RESONATE_RETENTION__RULES", text);
    let config = rules("60000 env=test,0 keep=true").config();
    let written: Vec<String> = config
        .retention
        .rules
        .iter()
        .map(ToString::to_string)
        .collect();
    assert_eq!(written, ["60000 env=test", "0 keep=true"]);
    assert_eq!(
        rules("1d env=test").error(),
        "retention.rules must be a list of rules such as \"86400000 stage=test\": milliseconds, a space, \
         tag=value (got \"1d env=test\") (from environment variable RESONATE_RETENTION__RULES)"
    );
}

#[test]
fn ports_are_from_0_to_65535() {
    for key in ["server.port", "observability.metrics_port"] {
        for n in [-1_i64, 65_536] {
            let sentence = format!("{key} must be a port from 0 to 65535 (got {n})");
            assert_eq!(
                given().file(&format!("{key} = {n}")).error(),
                format!("{sentence} (from resonate.toml)")
            );
            assert_eq!(
                given().flag(key, n).error(),
                format!("{sentence} (from {})", keys::flag(key))
            );
        }
        assert!(given().flag(key, 0).load().is_ok());
        assert!(given().flag(key, 65_535).load().is_ok());
    }
}

#[test]
fn wrong_types_name_what_was_expected() {
    for (text, sentence) in [
        (
            "server.port = \"abc\"",
            "server.port must be a port from 0 to 65535 (got \"abc\")",
        ),
        (
            "server.port = \"8001\"",
            "server.port must be a port from 0 to 65535 (got \"8001\")",
        ),
        (
            "tasks.retry_timeout = 1.5",
            "tasks.retry_timeout must be an integer (got 1.5)",
        ),
        (
            "tasks.retry_timeout = [1]",
            "tasks.retry_timeout must be an integer (got a list)",
        ),
        (
            "debug = \"yes\"",
            "debug must be true or false (got \"yes\")",
        ),
        ("debug = 1", "debug must be true or false (got 1)"),
        ("level = 3", "level must be a string (got 3)"),
        (
            "server.host = false",
            "server.host must be a string (got false)",
        ),
        ("[level]\nx = 1", "level must be a string (got a table)"),
        ("server = 5", "server must be a table"),
        (
            "storage.sqlite = \"a.db\"",
            "storage.sqlite must be a table",
        ),
        (
            "server.cors.allow_origins = \"*\"",
            "server.cors.allow_origins must be a list of strings (got \"*\")",
        ),
        (
            "server.cors.allow_origins = [1]",
            "server.cors.allow_origins must be a string (got 1)",
        ),
    ] {
        assert_eq!(
            given().file(text).error(),
            format!("{sentence} (from resonate.toml)")
        );
    }
}

#[test]
fn variables_that_cannot_be_read_are_refused() {
    for (name, text, sentence) in [
        (
            "RESONATE_SERVER__PORT",
            "abc",
            "server.port must be a port from 0 to 65535",
        ),
        (
            "RESONATE_SERVER__PORT",
            "",
            "server.port must be a port from 0 to 65535",
        ),
        (
            "RESONATE_TASKS__LEASE_TIMEOUT",
            "15s",
            "tasks.lease_timeout must be an integer",
        ),
        ("RESONATE_DEBUG", "1", "debug must be true or false"),
        (
            "RESONATE_SERVER__CORS__ALLOW_ORIGINS",
            "[http://a]",
            "server.cors.allow_origins must be a list of strings",
        ),
    ] {
        assert_eq!(
            given().env(name, text).error(),
            format!("{sentence} (got {text:?}) (from environment variable {name})")
        );
    }
}

#[test]
fn malformed_toml_shows_the_line() {
    let error = given()
        .file("level = \"info\"\n\n[server]\nport = = 1\n")
        .error();
    assert!(error.starts_with("resonate.toml line 4: "), "{error}");
    assert!(error.ends_with(": `port = = 1`"), "{error}");
    let error = given().file("level = \"info\"\nlevel = \"warn\"").error();
    assert!(
        error.starts_with("resonate.toml line 2: duplicate key"),
        "{error}"
    );
    let error = given()
        .file("[server]\nurl = \"http://me:hunter2@x")
        .error();
    assert!(error.starts_with("resonate.toml line 2: "), "{error}");
    assert!(!error.contains("hunter2"), "{error}");
}

#[test]
fn a_file_that_cannot_be_read_is_refused() {
    let directory = tempfile::tempdir().unwrap();
    let error = given().load_with(directory.path()).unwrap_err().to_string();
    assert!(
        error.starts_with("Configuration error: resonate.toml cannot be read: "),
        "{error}"
    );
}

#[test]
fn unknown_log_levels_are_refused() {
    assert_eq!(
        given().file("level = \"loud\"").error(),
        "Unknown log level: 'loud' (level from resonate.toml)"
    );
    assert_eq!(
        given().env("RESONATE_LEVEL", "3").error(),
        "Unknown log level: '3' (level from environment variable RESONATE_LEVEL)"
    );
    assert_eq!(
        given().flag("level", "info,loud").error(),
        "Unknown log level: 'info,loud' (level from --level)"
    );
    assert_eq!(
        given().flag("level", "info,resonate=debug").config().level,
        "info,resonate=debug"
    );
}

#[test]
fn unknown_storage_backends_are_refused() {
    for name in ["oracle", "mysql", "", "SQLite"] {
        assert_eq!(
            given().flag("storage.type", name).error(),
            format!(
                "Unknown storage backend: '{name}'. Valid options are 'sqlite' and 'postgres'. \
                 (storage.type from --storage-type)"
            )
        );
    }
}

#[test]
fn other_choices_and_empty_strings_are_refused() {
    for (text, sentence) in [
        (
            "storage.sqlite.synchronous = \"off\"",
            "storage.sqlite.synchronous must be 'full' or 'normal' (got 'off')",
        ),
        (
            "storage.sqlite.path = \"\"",
            "storage.sqlite.path must not be empty",
        ),
        ("server.bind = \" \"", "server.bind must not be empty"),
        ("server.host = \"\"", "server.host must not be empty"),
        (
            "server.url = \"\"",
            "server.url must be an http or https URL (got \"\")",
        ),
        (
            "server.url = \"localhost:8001\"",
            "server.url must be an http or https URL (got \"localhost:8001\")",
        ),
    ] {
        assert_eq!(
            given().file(text).error(),
            format!("{sentence} (from resonate.toml)")
        );
    }
}

#[test]
fn the_root_of_scripts_must_be_a_directory_that_exists() {
    const KEY: &str = "transports.bash_exec.root_dir";
    let directory = tempfile::tempdir().unwrap();
    let file = directory.path().join("file");
    std::fs::write(&file, "").unwrap();
    for path in ["/nonexistent/scripts", "", file.to_str().unwrap()] {
        let sentence = format!("{KEY} must be an existing directory (got {path:?})");
        assert_eq!(
            given().flag(KEY, path).error(),
            format!("{sentence} (from {})", keys::flag(KEY))
        );
    }
    let path = directory.path().to_str().unwrap();
    let config = given().env(&variable(KEY), path).config();
    assert_eq!(config.transports.bash_exec.root_dir.as_deref(), Some(path));
    assert_eq!(
        given()
            .file("transports.bash_exec.working_dir = \" \"")
            .error(),
        "transports.bash_exec.working_dir must not be empty (from resonate.toml)"
    );
}

#[test]
fn origins_must_be_header_values() {
    for origin in ["http://a\nb", "http://a\u{7f}", ""] {
        assert_eq!(
            given()
                .flag("server.cors.allow_origins", vec!["*", origin])
                .error(),
            format!(
                "server.cors.allow_origins must be a list of valid header values (got {origin:?}) \
                 (from --server-cors-allow-origin)"
            )
        );
    }
}

#[test]
fn bytes_in_flight_must_admit_the_largest_body() {
    assert_eq!(
        given().flag("server.max_body_size", 268_435_457).error(),
        "server.max_in_flight_bytes must be at least server.max_body_size \
         (got 268435456 from the built-in default, and 268435457 from --server-max-body-size)"
    );
    let config = given()
        .file("[server]\nmax_body_size = 5\nmax_in_flight_bytes = 5")
        .config();
    assert_eq!(config.server.max_in_flight_bytes, 5);
}

#[test]
fn a_rate_for_tokens_that_anybody_can_make_up_is_refused() {
    assert_eq!(
        given().file("limits.rate_per_token = 5").error(),
        "limits.rate_per_token requires limits.rate_per_address: whoever makes up tokens would have \
         no limit (limits.rate_per_token from resonate.toml)"
    );
    let limits = given()
        .file("[limits]\nrate_per_token = 5\nrate_per_address = 50")
        .config()
        .limits;
    assert_eq!((limits.rate_per_token, limits.rate_per_address), (5, 50));
    assert_eq!(
        given().file("limits.rate_per_address = -1").error(),
        "limits.rate_per_address must be at least 0 (got -1) (from resonate.toml)"
    );
}

#[test]
fn a_certificate_comes_with_its_key() {
    for (given_key, missing) in [
        ("server.tls.cert", "server.tls.key"),
        ("server.tls.key", "server.tls.cert"),
    ] {
        assert_eq!(
            given().file(&format!("{given_key} = \"x.pem\"")).error(),
            format!(
                "{missing} is required when {given_key} is set ({given_key} from resonate.toml)"
            )
        );
        assert_eq!(
            given().file(&format!("{given_key} = \"\"")).error(),
            format!("{given_key} must not be empty (from resonate.toml)")
        );
    }
    let plain = given().config().server;
    assert_eq!(plain.public_url(1), "http://localhost:1");
    let encrypted = given()
        .file("[server.tls]\ncert = \"x.pem\"\nkey = \"x.key\"")
        .config();
    assert_eq!(encrypted.server.public_url(1), "https://localhost:1");
    let host = given()
        .file("[server]\nhost = \"::1\"\ntls.cert = \"x.pem\"\ntls.key = \"x.key\"")
        .config();
    assert_eq!(host.server.public_url(1), "https://[::1]:1");
}

#[test]
fn a_bad_value_that_a_higher_layer_overrides_does_not_matter() {
    let config = given()
        .file("tasks.retry_timeout = 0\nserver.port = \"abc\"\nstorage.type = \"oracle\"")
        .env("RESONATE_TASKS__RETRY_TIMEOUT", "5")
        .env("RESONATE_SERVER__PORT", "99999")
        .env("RESONATE_STORAGE__TYPE", "sqlite")
        .flag("server.port", 1234)
        .config();
    assert_eq!(config.tasks.retry_timeout, Millis::new(5));
    assert_eq!(config.server.port, 1234);
}

#[test]
fn a_good_value_that_a_higher_layer_spoils_is_refused() {
    assert_eq!(
        given()
            .file("tasks.retry_timeout = 5")
            .flag("tasks.retry_timeout", 0)
            .error(),
        "tasks.retry_timeout must be at least 1 (got 0) (from --tasks-retry-timeout)"
    );
}
