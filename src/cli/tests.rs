//! Flags, help and environment against the settings they stand for, and what a bad one is told.

use std::collections::BTreeMap;
use std::ffi::OsStr;
use std::os::unix::ffi::OsStrExt;

use figment::value::Value;

use super::*;
use crate::config::{Backend, Millis, Synchronous};

fn run(arguments: &[&str]) -> Result<Invocation, Failure> {
    run_with(arguments, &Environment::new())
}

fn run_with(arguments: &[&str], environment: &Environment) -> Result<Invocation, Failure> {
    let directory = tempfile::tempdir().unwrap();
    let file = directory.path().join(config::FILE);
    let action = load(["resonate"].iter().chain(arguments), &file, environment)?;
    match action {
        Action::Serve(invocation) => Ok(*invocation),
        other => panic!("{arguments:?} start no server: {other:?}"),
    }
}

fn usage(arguments: &[&str]) -> clap::Error {
    match run(arguments) {
        Err(Failure::Usage(error)) => error,
        other => panic!("{arguments:?}: {other:?}"),
    }
}

/// Something other than the default that is valid for `key`, as it is written.
fn other_value(key: &str, default: &Value) -> String {
    match (key, default) {
        ("level", _) => "debug".to_owned(),
        ("storage.type", _) => "postgres".to_owned(),
        ("storage.postgres.url", _) => "postgresql://other".to_owned(),
        ("storage.sqlite.synchronous", _) => "normal".to_owned(),
        ("observability.log_format", _) => "json".to_owned(),
        ("observability.otlp_endpoint", _) => "other:4317".to_owned(),
        ("server.url", _) => "http://other".to_owned(),
        ("server.max_body_size", _) => "7".to_owned(),
        ("server.max_in_flight_bytes", _) => "999999999".to_owned(),
        ("retention.rules", _) => "7 a=b".to_owned(),
        ("transports.bash_exec.root_dir", _) => "/".to_owned(),
        ("transports.http_push.auth.mode", _) => "gcp".to_owned(),
        ("transports.http_push.deny", _) => "<metadata>,*.example.com".to_owned(),
        (_, Value::Bool(_, is_on)) => (!is_on).to_string(),
        (_, Value::Num(..)) => "7".to_owned(),
        _ => "other".to_owned(),
    }
}

#[test]
fn the_definitions_are_consistent() {
    command().debug_assert();
}

#[test]
fn every_setting_has_a_flag_that_means_what_its_variable_means() {
    // Without which others have one value only, or no use.
    let base = BTreeMap::from(
        [
            ("storage.postgres.url", "postgres://base"),
            ("auth.publickey", "base.pem"),
            ("server.tls.cert", "base"),
            ("server.tls.key", "base"),
            ("limits.rate_per_address", "1"),
        ]
        .map(|(key, value)| (keys::environment_variable(key), value.to_owned())),
    );
    for (key, default) in keys::defaults() {
        let flag = keys::flag(&key);
        let value = other_value(&key, &default);
        for name in ["serve", "dev"] {
            let by_flag = match key.as_str() {
                "debug" => run_with(&[name, &flag], &base),
                _ => run_with(&[name, &flag, &value], &base),
            };
            let by_flag = by_flag.unwrap().config;
            let variable = keys::environment_variable(&key);
            let mut environment = base.clone();
            environment.insert(variable, value.clone());
            let by_variable = run_with(&[name], &environment).unwrap().config;
            if name == "dev" && key == "storage.sqlite.path" {
                assert_eq!(
                    (by_flag.storage.sqlite.path.as_str(), "other"),
                    ("other", &*value)
                );
                assert_eq!(by_variable.storage.sqlite.path, ":memory:");
                continue;
            }
            assert_eq!(by_flag, by_variable, "{key}");
            let plain = run_with(&[name], &base).unwrap().config;
            assert_ne!(by_flag, plain, "{key}");
        }
    }
}

#[test]
fn every_flag_is_a_setting() {
    let flags: Vec<String> = keys::defaults()
        .iter()
        .map(|(key, _)| keys::flag(key))
        .collect();
    for name in ["serve", "dev"] {
        let command = command();
        let arguments = command.find_subcommand(name).unwrap().get_arguments();
        for argument in arguments {
            let flag = format!("--{}", argument.get_long().unwrap());
            assert!(flags.contains(&flag), "{flag}");
            assert_eq!(argument.get_short(), None);
        }
    }
}

#[test]
fn help_has_the_unit_the_default_and_the_variable_of_every_flag() {
    const UNITS: [&str; 11] = [
        "milliseconds",
        "bytes",
        "requests",
        "entries",
        "streams",
        "messages",
        "connections",
        "scripts",
        "promises",
        "tags",
        "tasks",
    ];
    let comments = config::reference_comments();
    let command = command();
    let serve = command.find_subcommand("serve").unwrap();
    for (key, default) in keys::defaults() {
        let flag = keys::flag(&key);
        let argument = serve
            .get_arguments()
            .find(|argument| argument.get_long() == flag.strip_prefix("--"))
            .unwrap();
        let help = argument.get_help().unwrap().to_string();
        let variable = keys::environment_variable(&key);
        assert!(help.ends_with(&format!(" [env: {variable}]")), "{help}");
        if let Some(n) = default.to_num().and_then(|n| n.to_u128()) {
            assert!(help.contains(&format!("[default: {n}]")), "{help}");
            // The reference says "In milliseconds, …"; the help must name the same unit.
            let comment = comments[&key].replace('\n', " ");
            match UNITS
                .iter()
                .find(|unit| comment.contains(&format!("In {unit}, ")))
            {
                Some(unit) => assert!(help.to_lowercase().contains(unit), "{key}: {help}"),
                None => assert!(help.contains("port, 0 to 65535") || help.contains("endpoint, 0")),
            }
        }
    }
}

#[test]
fn help_shows_the_path_that_the_command_uses() {
    // Lines are wrapped at the width of the terminal.
    let help = |name: &str| {
        let help = usage(&[name, "--help"]).to_string();
        help.split_whitespace().collect::<Vec<_>>().join(" ")
    };
    assert!(help("serve").contains("[default: resonate.db]"));
    assert!(help("dev").contains("[default: :memory:]"));
    assert!(help("dev").contains("[default: http(s)://{host}:{port}]"));
}

#[test]
fn flags_are_read() {
    let invocation = run(&[
        "serve",
        "--debug",
        "--server-port=0",
        "--transports-http-push-enabled",
        "false",
        "--tasks-retry-timeout",
        "5",
        "--storage-sqlite-synchronous",
        "normal",
        "--server-cors-allow-origin",
        "http://a",
        "--server-cors-allow-origin",
        "http://b",
    ])
    .unwrap();
    let config = invocation.config;
    assert!(config.debug);
    assert_eq!(config.server.port, 0);
    assert!(!config.transports.http_push.enabled);
    assert_eq!(config.tasks.retry_timeout, Millis::new(5));
    assert_eq!(config.storage.sqlite.synchronous, Synchronous::Normal);
    assert_eq!(config.server.cors.allow_origins, ["http://a", "http://b"]);
}

#[test]
fn dev_is_serve_with_sqlite_in_memory() {
    let invocation = run(&["dev"]).unwrap();
    assert!(invocation.config.storage.sqlite.is_memory());
    let invocation = run(&["dev", "--storage-sqlite-path", "a.db"]).unwrap();
    assert_eq!(invocation.config.storage.sqlite.path, "a.db");
    let database = [
        "--storage-type=postgres",
        "--storage-postgres-url=postgres://db",
    ];
    let invocation = run(&["dev", database[0], database[1]]).unwrap();
    assert_eq!(invocation.config.storage.backend, Backend::Postgres);
}

#[test]
fn usage_errors_exit_with_2() {
    for arguments in [
        &[][..],
        &["bogus"],
        &["serve", "--bogus"],
        &["serve", "extra"],
        &["serve", "--server-port"],
        &["serve", "--server-port", "abc"],
        &["serve", "--debug=true"],
        &["serve", "--transports-http-poll-enabled"],
        &["serve", "--transports-http-poll-enabled", "maybe"],
        // Settings that this version does not serve.
        &["serve", "--legacy-rest", "true"],
        // Flags of clients.
        &["serve", "-S", "http://a"],
        &["-S", "http://a", "serve"],
        &["-T", "t", "dev"],
        &["-o", "json", "completions", "bash"],
    ] {
        let error = usage(arguments);
        assert_eq!(error.exit_code(), 2, "{arguments:?}");
        assert!(error.use_stderr());
    }
}

#[test]
fn help_and_version_exit_with_0_everywhere() {
    for arguments in [
        &["--help"][..],
        &["-h"],
        &["help"],
        &["help", "serve"],
        &["serve", "--help"],
        &["dev", "-h"],
        &["--version"],
        &["-V"],
        &["serve", "--version"],
        &["dev", "-V"],
    ] {
        let error = usage(arguments);
        assert_eq!(error.exit_code(), 0, "{arguments:?}");
        assert!(!error.use_stderr());
    }
    assert!(
        usage(&["-V"])
            .to_string()
            .contains(env!("CARGO_PKG_VERSION"))
    );
}

#[test]
fn bad_values_are_fatal_and_name_the_flag() {
    for (flag, value, sentence) in [
        (
            "--tasks-retry-timeout",
            "0",
            "tasks.retry_timeout must be at least 1 (got 0)",
        ),
        (
            "--tasks-retry-timeout",
            "-1",
            "tasks.retry_timeout must be at least 1 (got -1)",
        ),
        (
            "--server-port",
            "70000",
            "server.port must be a port from 0 to 65535 (got 70000)",
        ),
    ] {
        let failure = run(&["serve", flag, value]).unwrap_err().to_string();
        assert_eq!(
            failure,
            format!("Fatal: Configuration error: {sentence} (from {flag})")
        );
    }
    let failure = run(&["serve", "--storage-type", "oracle"])
        .unwrap_err()
        .to_string();
    assert_eq!(
        failure,
        "Fatal: Configuration error: Unknown storage backend: 'oracle'. \
         Valid options are 'sqlite' and 'postgres'. (storage.type from --storage-type)"
    );
}

#[test]
fn rust_log_is_handed_on_and_must_be_a_filter() {
    let with = |text: &str| {
        run_with(
            &["serve"],
            &BTreeMap::from([("RUST_LOG".to_owned(), text.to_owned())]),
        )
    };
    assert_eq!(
        with("resonate=debug").unwrap().rust_log.as_deref(),
        Some("resonate=debug")
    );
    assert_eq!(run(&["serve"]).unwrap().rust_log, None);
    assert_eq!(
        with("resonate=loud").unwrap_err().to_string(),
        "Fatal: Configuration error: Unknown log level: 'resonate=loud' \
         (from environment variable RUST_LOG)"
    );
}

#[test]
fn settings_that_are_not_unicode_are_refused() {
    let broken = || OsStr::from_bytes(b"\xff").to_owned();
    let variables = |name: &str| [(OsString::from(name), broken())].into_iter();
    assert_eq!(
        environment(variables("LESSOPEN")).unwrap(),
        Environment::new()
    );
    assert_eq!(
        environment(variables("RESONATE_SERVER__HOST"))
            .unwrap_err()
            .to_string(),
        "Configuration error: environment variable RESONATE_SERVER__HOST is not valid Unicode"
    );
}

#[test]
fn warnings_reach_the_invocation() {
    let environment = BTreeMap::from([("RESONATE_TYPO".to_owned(), "1".to_owned())]);
    let invocation = run_with(&["serve"], &environment).unwrap();
    assert_eq!(
        invocation.warnings,
        ["unknown environment variable RESONATE_TYPO is ignored"]
    );
}
