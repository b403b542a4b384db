//! The environment layer: `RESONATE_` and the path, `__` between levels.
//!
//! A variable is read as what its setting is: `RESONATE_SERVER__HOST=123` is a host, not a number.

use std::collections::BTreeMap;

use figment::providers::{Format, Toml};
use figment::value::{Dict, Value};

use super::keys;
use super::load::{Assignment, Known};

/// Names and values of environment variables.
pub type Environment = BTreeMap<String, String>;

/// Variables of SDKs, of the command line's client commands and of scripts that the server runs.
const OTHERS: [&str; 16] = [
    "RESONATE_API_KEY",
    "RESONATE_AUTH_TOKEN",
    "RESONATE_ENCRYPTION_KEY",
    "RESONATE_GROUP",
    "RESONATE_HOST",
    "RESONATE_PASSWORD",
    "RESONATE_PID",
    "RESONATE_PREFIX",
    "RESONATE_PROMISE_CREATED_AT",
    "RESONATE_PROMISE_ID",
    "RESONATE_PROMISE_TIMEOUT_AT",
    "RESONATE_SCHEME",
    "RESONATE_TOKEN",
    "RESONATE_TTL",
    "RESONATE_URL",
    "RESONATE_USERNAME",
];

/// Kubernetes puts these into every pod that can see a service called `resonate`.
const SERVICE_LINKS: [&str; 2] = ["RESONATE_SERVICE_", "RESONATE_PORT"];

const OTLP_ENDPOINT: &str = "OTEL_EXPORTER_OTLP_ENDPOINT";

/// What the environment sets, and the names in it that are not understood.
pub(super) fn read(
    environment: &Environment,
    known: &Known,
    warnings: &mut Vec<String>,
) -> Vec<Assignment> {
    let by_variable: BTreeMap<String, (&str, &Value)> = known
        .iter()
        .map(|(key, default)| (keys::environment_variable(key), (key, default)))
        .collect();
    let mut assignments = Vec::new();
    for (name, text) in environment {
        if let Some((key, default)) = by_variable.get(name) {
            assignments.push(Assignment {
                key: (*key).to_owned(),
                value: parse(text, default),
                source: format!("environment variable {name}"),
            });
        } else if name.starts_with(keys::ENVIRONMENT_PREFIX) && !is_of_others(name) {
            warnings.push(unknown(name, by_variable.keys()));
        }
    }
    // Above the others; empty means not set, as OpenTelemetry has it.
    if let Some(text) = environment.get(OTLP_ENDPOINT)
        && !text.trim().is_empty()
    {
        assignments.push(Assignment {
            key: "observability.otlp_endpoint".to_owned(),
            value: text.as_str().into(),
            source: format!("environment variable {OTLP_ENDPOINT}"),
        });
    }
    assignments
}

fn is_of_others(name: &str) -> bool {
    OTHERS.contains(&name) || SERVICE_LINKS.iter().any(|prefix| name.starts_with(prefix))
}

fn unknown<'a>(name: &str, mut variables: impl Iterator<Item = &'a String>) -> String {
    let flat = |name: &str| name.replace("__", "_").to_ascii_uppercase();
    match variables.find(|variable| flat(variable) == flat(name)) {
        Some(meant) => {
            format!("unknown environment variable {name} is ignored; did you mean {meant}?")
        }
        None => format!("unknown environment variable {name} is ignored"),
    }
}

/// Reads `text` as the kind of value that `default` is. What cannot be read stays text, and is
/// refused when the setting is.
fn parse(text: &str, default: &Value) -> Value {
    match default {
        Value::Bool(..) => text
            .trim()
            .parse::<bool>()
            .map_or_else(|_| text.into(), Value::from),
        Value::Num(..) => text
            .trim()
            .parse::<i128>()
            .map_or_else(|_| text.into(), Value::from),
        Value::Array(..) => list(text),
        _ => text.into(),
    }
}

/// A TOML array, or plain strings between commas.
fn list(text: &str) -> Value {
    if text.trim_start().starts_with('[') {
        return Toml::from_str::<Dict>(&format!("list = {}", text.trim()))
            .ok()
            .and_then(|mut dict| dict.remove("list"))
            .unwrap_or_else(|| text.into());
    }
    let items: Vec<&str> = text
        .split(',')
        .map(str::trim)
        .filter(|item| !item.is_empty())
        .collect();
    Value::from(items)
}
