//! `resonate.toml` at the root of the repository is complete, and says what the code does.

use std::collections::BTreeMap;

use figment::providers::{Format, Toml};
use figment::value::{Dict, Value};

use super::*;

const REFERENCE: &str = include_str!("../../../resonate.toml");

/// The reference with the markers of its key lines removed: `#port = 8001`, as opposed to `#
/// Prose.`
fn with_keys_set() -> String {
    let lines: Vec<&str> = REFERENCE
        .lines()
        .map(|line| match line.strip_prefix('#') {
            Some(key) if key.starts_with(|c: char| c.is_ascii_lowercase()) => key,
            _ => line,
        })
        .collect();
    lines.join("\n")
}

/// The comment in front of each key.
pub(crate) fn comments() -> BTreeMap<String, String> {
    let mut comments = BTreeMap::new();
    let (mut section, mut comment) = (String::new(), String::new());
    for line in with_keys_set().lines() {
        if let Some(text) = line.strip_prefix("# ") {
            comment += text;
            comment.push('\n');
        } else if let Some(name) = line.strip_prefix('[') {
            section = name.trim_end_matches(']').to_owned();
        } else if let Some((name, _)) = line.split_once(" = ") {
            comments.insert(keys::join(&section, name), std::mem::take(&mut comment));
        } else {
            comment.clear();
        }
    }
    comments
}

#[test]
fn as_it_is_it_changes_nothing() {
    assert_eq!(given().file(REFERENCE).config(), Config::default());
}

#[test]
fn with_every_key_set_it_still_gives_the_defaults() {
    // A token that the mode does not use is worth a warning.
    let mut config = given().file(&with_keys_set()).load().unwrap().config;
    // The default URL is made of host and port, so the reference can only show it.
    assert_eq!(
        config.server.public_url(0),
        Config::default()
            .server
            .public_url(Config::default().server.port)
    );
    config.server.url = None;
    // Likewise the address of the API, for metrics.
    assert!(config.observability.metrics_bind.take().is_some());
    assert!(config.observability.otlp_endpoint.take().is_some());
    assert!(config.server.tls.cert.take().is_some());
    assert!(config.server.tls.key.take().is_some());
    // There is no default database, so the reference can only show one.
    assert!(config.storage.postgres.url.take().is_some());
    let auth = &mut config.auth;
    assert!(auth.publickey.take().is_some() && auth.jwks.take().is_some());
    assert!(auth.iss.take().is_some() && auth.aud.take().is_some());
    let transports = &mut config.transports;
    assert!(transports.http_push.auth.token.take().is_some());
    assert!(transports.http_push.auth.audience.take().is_some());
    assert!(transports.gcps.project.take().is_some());
    assert!(transports.bash_exec.root_dir.take().is_some());
    assert_eq!(config, Config::default());
}

#[test]
fn it_has_every_key_and_no_other() {
    let mut written = Vec::new();
    keys::flatten(
        "",
        Toml::from_str::<Dict>(&with_keys_set()).unwrap(),
        &mut written,
    );
    let written: Vec<String> = written.into_iter().map(|(key, _)| key).collect();
    let known: Vec<String> = keys::defaults().into_iter().map(|(key, _)| key).collect();
    assert_eq!(written, known);
}

#[test]
fn every_key_names_its_flag_and_its_variable() {
    let comments = comments();
    for (key, _) in keys::defaults() {
        let comment = &comments[&key];
        let (flag, variable) = (keys::flag(&key), keys::environment_variable(&key));
        let last = comment.lines().last().unwrap_or_default();
        assert!(last == format!("{flag}, {variable}") || last.starts_with(&format!("{flag} (")));
        assert!(last.ends_with(&format!(", {variable}")), "{key}: {last}");
    }
}

#[test]
fn every_number_has_its_range_and_what_was_added_says_so() {
    for (key, default) in keys::defaults() {
        let comment = comments()[&key].replace('\n', " ");
        if default.to_num().is_some() {
            let has_range = ["at least ", "0 to 65535"]
                .iter()
                .any(|range| comment.contains(range));
            assert!(has_range, "{key}: {comment}");
        }
        if matches!(default, Value::Bool(..)) {
            assert!(comment.contains("true or false"), "{key}: {comment}");
        }
    }
    for key in [
        "limits.max_address_length",
        "limits.max_heartbeat_tasks",
        "limits.max_id_length",
        "limits.max_suspend_actions",
        "limits.max_tag_length",
        "limits.max_tags",
        "limits.rate_burst",
        "limits.rate_per_address",
        "limits.rate_per_token",
        "observability.log_format",
        "observability.metrics_bind",
        "observability.slow_request",
        "server.body_read_timeout",
        "server.header_read_timeout",
        "server.idle_timeout",
        "server.max_connections",
        "server.tls.cert",
        "server.tls.key",
        "server.max_body_size",
        "server.request_deadline",
        "server.max_in_flight",
        "server.max_in_flight_bytes",
        "auth.jwks",
        "auth.refresh_interval",
        "storage.sqlite.synchronous",
        "storage.sqlite.cache_bytes",
        "messages.unblock_ttl",
        "retention.after",
        "retention.rules",
        "retention.batch_size",
        "retention.rate",
        "retention.interval",
        "transports.bash_exec.concurrency",
        "transports.http_poll.stream_lifetime",
        "transports.http_poll.keep_alive",
        "transports.http_push.allow",
        "transports.http_push.deny",
    ] {
        let comment = comments()[key].replace('\n', " ");
        assert!(comment.contains("An addition of this server."), "{key}");
    }
}
