//! The names of a setting: key, environment variable and flag.

use figment::value::{Dict, Value};

use super::Config;

/// The prefix of environment variables.
pub const ENVIRONMENT_PREFIX: &str = "RESONATE_";

/// Every key with its default value, in alphabetical order. An empty value stands for "not set".
pub fn defaults() -> Vec<(String, Value)> {
    let mut leaves = Vec::new();
    if let Ok(Value::Dict(_, dict)) = Value::serialize(Config::default()) {
        flatten("", dict, &mut leaves);
    }
    leaves
}

/// The variable that sets `key`: `tasks.lease_timeout` → `RESONATE_TASKS__LEASE_TIMEOUT`.
pub fn environment_variable(key: &str) -> String {
    format!(
        "{ENVIRONMENT_PREFIX}{}",
        key.replace('.', "__").to_ascii_uppercase()
    )
}

/// The flag that sets `key`: `tasks.lease_timeout` → `--tasks-lease-timeout`.
pub fn flag(key: &str) -> String {
    match key {
        // Repeatable, hence singular.
        "server.cors.allow_origins" => "--server-cors-allow-origin".to_owned(),
        "retention.rules" => "--retention-rule".to_owned(),
        // As other servers of this protocol have it.
        "transports.http_push.auth.audience" => "--transports-http-push-auth-aud".to_owned(),
        _ => format!("--{}", key.replace(['.', '_'], "-")),
    }
}

/// Appends the leaves of `dict` with their full paths.
pub(super) fn flatten(path: &str, dict: Dict, leaves: &mut Vec<(String, Value)>) {
    for (name, value) in dict {
        let path = join(path, &name);
        match value {
            Value::Dict(_, dict) => flatten(&path, dict, leaves),
            value => leaves.push((path, value)),
        }
    }
}

/// The path of `name` inside `path`.
pub(super) fn join(path: &str, name: &str) -> String {
    if path.is_empty() {
        name.to_owned()
    } else {
        format!("{path}.{name}")
    }
}
