//! `[storage.postgres]`: a PostgreSQL database.

use std::fmt;
use std::net::IpAddr;

use serde::de::{Deserializer, Error};
use serde::{Deserialize, Serialize, Serializer};
use url::Url;

use super::{redact, value};

/// A PostgreSQL database.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Postgres {
    /// Where it is, and as whom to connect. Not optional if this is the storage in use.
    pub url: Option<PostgresUrl>,
    /// Connections that the server may hold.
    #[serde(deserialize_with = "value::at_least_one")]
    pub pool_size: u32,
}

impl Default for Postgres {
    fn default() -> Self {
        Postgres {
            url: None,
            pool_size: 10,
        }
    }
}

/// A `postgres` or `postgresql` URL. Its password leaves it by [`PostgresUrl::as_str`] only.
#[derive(Clone, PartialEq, Eq)]
pub struct PostgresUrl(String);

impl PostgresUrl {
    /// The URL as it was given, secrets included.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl fmt::Debug for PostgresUrl {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Debug::fmt(&redact::url(&self.0), f)
    }
}

impl Serialize for PostgresUrl {
    fn serialize<S: Serializer>(&self, to: S) -> Result<S::Ok, S::Error> {
        to.serialize_str(&redact::url(&self.0))
    }
}

impl<'de> Deserialize<'de> for PostgresUrl {
    fn deserialize<D: Deserializer<'de>>(from: D) -> Result<Self, D::Error> {
        let text = String::deserialize(from)?;
        check(&text).map_err(D::Error::custom)?;
        Ok(PostgresUrl(text))
    }
}

/// Says what is wrong, and nothing of what was given but the names of parameters: where the password
/// is in a text that is no URL, or the wrong one, is anybody's guess.
fn check(text: &str) -> Result<(), String> {
    const KIND: &str = "must be a postgres:// or postgresql:// URL";
    const ENCODED: &str =
        "with '@', ':', '/', '?' and '#' inside its parts percent-encoded ('@' as %40)";
    let url = Url::parse(text).map_err(|error| format!("{KIND}, {ENCODED} ({error})"))?;
    if !matches!(url.scheme(), "postgres" | "postgresql") || !url.has_authority() {
        return Err(KIND.to_owned());
    }
    // A password with one of these characters ends the authority early, and its rest would be taken
    // for a database, and shown as one.
    let is_cut = url.fragment().is_some()
        || url.path().contains('@')
        || url.query().is_some_and(|query| query.contains('@'));
    if is_cut {
        return Err(format!("{KIND}, {ENCODED}"));
    }
    url.query_pairs()
        .try_for_each(|(name, value)| check_parameter(&name, &value))
}

/// Refuses what the driver would ignore: `ssl_mode=verify-full` would verify nothing, and the value
/// of `sslpassword` would be logged.
fn check_parameter(name: &str, value: &str) -> Result<(), String> {
    let is_valid = match name {
        "sslmode" | "ssl-mode" => is_ssl_mode(value),
        "port" => value.parse::<u16>().is_ok(),
        "hostaddr" => value.parse::<IpAddr>().is_ok(),
        "statement-cache-capacity" => value.parse::<usize>().is_ok(),
        "host" | "dbname" | "user" | "password" | "application_name" | "options" => true,
        "sslrootcert" | "ssl-root-cert" | "ssl-ca" => true,
        "sslcert" | "ssl-cert" | "sslkey" | "ssl-key" => true,
        _ if name.starts_with("options[") && name.ends_with(']') => true,
        _ => {
            return Err(format!(
                "must not have the parameter {name:?}: it is not known"
            ));
        }
    };
    if is_valid {
        return Ok(());
    }
    Err(format!(
        "must have a valid value for its parameter {name:?}"
    ))
}

fn is_ssl_mode(value: &str) -> bool {
    const MODES: [&str; 6] = [
        "disable",
        "allow",
        "prefer",
        "require",
        "verify-ca",
        "verify-full",
    ];
    MODES.iter().any(|mode| value.eq_ignore_ascii_case(mode))
}
