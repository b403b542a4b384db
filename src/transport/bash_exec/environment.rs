//! What a script may know of the environment that the server was started with.
//!
//! Everything but the server's own settings and secrets. This keeps them out of logs and of programs
//! that scripts start; it is no wall: a script runs as the server's user.

use std::ffi::{OsStr, OsString};

/// Names and values.
pub type Environment = Vec<(OsString, OsString)>;

/// Every setting of the server, and of the SDKs, is `RESONATE_…`; the driver of the database reads `PG…`.
const OWN_PREFIXES: [&str; 2] = ["RESONATE_", "PG"];
/// Credentials that the server itself uses, by the names that others gave them.
const OWN_NAMES: [&str; 5] = [
    "GOOGLE_APPLICATION_CREDENTIALS",
    "OTEL_EXPORTER_OTLP_HEADERS",
    "TENSORLAKE_API_KEY",
    // The trace that the server was started in is not the one that a script belongs to.
    "TRACEPARENT",
    "TRACESTATE",
];
const DATABASE_NAME: &str = "DATABASE_URL";
const DATABASE_SCHEMES: [&str; 3] = ["postgres://", "postgresql://", "mysql://"];

/// What of the server's environment its scripts inherit.
pub fn inherited(variables: impl IntoIterator<Item = (OsString, OsString)>) -> Environment {
    let variables = variables.into_iter();
    variables
        .filter(|(name, value)| !is_own(&name.to_string_lossy()) && !is_database(value))
        .collect()
}

fn is_own(name: &str) -> bool {
    let name = name.to_ascii_uppercase();
    let is_named = OWN_NAMES.contains(&name.as_str()) || name.ends_with(DATABASE_NAME);
    is_named || OWN_PREFIXES.iter().any(|prefix| name.starts_with(prefix))
}

/// Whatever its name: the URL of a database.
fn is_database(value: &OsStr) -> bool {
    let value = value.to_string_lossy();
    let value = value.trim_start();
    DATABASE_SCHEMES.iter().any(|scheme| {
        let start = value.get(..scheme.len());
        start.is_some_and(|start| start.eq_ignore_ascii_case(scheme))
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_servers_own_settings_and_secrets_stay_with_the_server() {
        let variables = [
            ("PATH", "/bin"),
            ("DEPLOY_TOKEN", "for the script"),
            ("PAGER", "less"),
            ("RESONATE_STORAGE__POSTGRES__URL", "x"),
            ("RESONATE_TRANSPORTS__HTTP_PUSH__AUTH__TOKEN", "x"),
            ("RESONATE_TOKEN", "x"),
            ("resonate_server__port", "1"),
            ("PGPASSWORD", "x"),
            ("PGHOST", "x"),
            ("DATABASE_URL", "sqlite:x"),
            ("APP_DATABASE_URL", "x"),
            ("WHATEVER", "postgres://me:secret@db/x"),
            ("OTHER", "PostgreSQL://me:secret@db/x"),
            ("TENSORLAKE_API_KEY", "x"),
            ("GOOGLE_APPLICATION_CREDENTIALS", "/key.json"),
            ("TRACEPARENT", "x"),
        ];
        let variables = variables.map(|(name, value)| (name.into(), value.into()));
        let names: Vec<OsString> = inherited(variables).into_iter().map(|(n, _)| n).collect();
        assert_eq!(names, ["PATH", "DEPLOY_TOKEN", "PAGER"]);
    }
}
