//! Merges the layers, then validates.

use std::collections::BTreeMap;

use figment::error::{Actual, Kind};
use figment::value::{Dict, Map, Value};
use figment::{Figment, Metadata, Profile, Provider};

use super::storage::MEMORY;
use super::{
    Backend, Config, Error, Layers, Loaded, auth, environment, file, keys, push_auth, unsupported,
};

pub(super) const DEFAULT: &str = "the built-in default";

/// Merges `layers` over the built-in defaults and validates the result.
///
/// Nothing that is wrong with a lower layer matters once a higher one overrides it, except TOML
/// that cannot be parsed.
pub fn load(layers: &Layers<'_>) -> Result<Loaded, Error> {
    let mut warnings = Vec::new();
    let merged = merge(layers, &mut warnings)?;
    validate(&merged, warnings)
}

/// All layers, the later ones above the earlier.
pub(super) fn merge(layers: &Layers<'_>, warnings: &mut Vec<String>) -> Result<Figment, Error> {
    let known = Known::new();
    let mut assignments: Vec<Assignment> = keys::defaults()
        .into_iter()
        .map(|(key, value)| Assignment {
            key,
            value,
            source: DEFAULT.to_owned(),
        })
        .collect();
    assignments.extend(file::read(layers.file, &known, warnings)?);
    assignments.extend(environment::read(layers.environment, &known, warnings));
    if layers.is_dev {
        assignments.push(Assignment {
            key: "storage.sqlite.path".to_owned(),
            value: MEMORY.into(),
            source: "the dev command".to_owned(),
        });
    }
    assignments.extend(layers.flags.iter().map(|flag| Assignment {
        key: flag.key.to_owned(),
        value: flag.value.clone(),
        source: keys::flag(flag.key),
    }));

    Ok(assignments.into_iter().fold(Figment::new(), Figment::merge))
}

/// Reads the settings, and refuses what does not go together.
pub(super) fn validate(merged: &Figment, mut warnings: Vec<String>) -> Result<Loaded, Error> {
    unsupported::refuse(merged)?;
    let extracted = merged.extract();
    let config: Config = extracted.map_err(|error| refused(&error, &Known::new()))?;
    check_limits(&config, merged)?;
    check_rates(&config, merged)?;
    check_retention(&config, merged)?;
    check_tls(&config, merged)?;
    check_storage(&config, merged)?;
    auth::check(&config, merged, &mut warnings)?;
    push_auth::check(&config.transports, merged, &mut warnings)?;
    Ok(Loaded { config, warnings })
}

/// One setting, from one source. As a figment provider it carries the source into figment's errors.
pub(super) struct Assignment {
    pub key: String,
    pub value: Value,
    pub source: String,
}

impl Provider for Assignment {
    fn metadata(&self) -> Metadata {
        Metadata::named(self.source.clone())
    }

    fn data(&self) -> Result<Map<Profile, Dict>, figment::Error> {
        let nested = figment::util::nest(&self.key, self.value.clone());
        Ok(Profile::Default.collect(nested.into_dict().unwrap_or_default()))
    }
}

/// The keys that may be written, with their defaults: those of [`Config`] and those that are
/// refused.
pub(super) struct Known(BTreeMap<String, Value>);

impl Known {
    fn new() -> Self {
        let refused = unsupported::keys().map(|(key, value)| (key.to_owned(), value));
        Known(keys::defaults().into_iter().chain(refused).collect())
    }

    pub fn iter(&self) -> impl Iterator<Item = (&str, &Value)> {
        self.0.iter().map(|(key, value)| (key.as_str(), value))
    }

    pub fn has(&self, key: &str) -> bool {
        self.0.contains_key(key)
    }

    pub fn has_section(&self, path: &str) -> bool {
        let prefix = format!("{path}.");
        self.0
            .range(prefix.clone()..)
            .next()
            .is_some_and(|(key, _)| key.starts_with(&prefix))
    }
}

/// The source of the value that `key` has.
pub(super) fn source_of(merged: &Figment, key: &str) -> String {
    merged
        .find_metadata(key)
        .map_or(DEFAULT.to_owned(), |metadata| metadata.name.to_string())
}

fn check_limits(config: &Config, merged: &Figment) -> Result<(), Error> {
    const BODY: &str = "server.max_body_size";
    const IN_FLIGHT: &str = "server.max_in_flight_bytes";
    let (body, in_flight) = (
        config.server.max_body_size,
        config.server.max_in_flight_bytes,
    );
    if in_flight >= body {
        return Ok(());
    }
    Err(Error::new(format!(
        "{IN_FLIGHT} must be at least {BODY} (got {in_flight} from {}, and {body} from {})",
        source_of(merged, IN_FLIGHT),
        source_of(merged, BODY),
    )))
}

/// The larger a transaction, the longer requests wait for it.
fn check_retention(config: &Config, merged: &Figment) -> Result<(), Error> {
    const KEY: &str = "retention.batch_size";
    const MAX: usize = 1000;
    let size = config.retention.batch_size;
    if size <= MAX {
        return Ok(());
    }
    let reason = format!("must be at most {MAX} (got {size})");
    Err(Error::of(KEY, &source_of(merged, KEY), &reason))
}

/// Tokens cost nothing to make up, each with a rate of its own.
fn check_rates(config: &Config, merged: &Figment) -> Result<(), Error> {
    const TOKEN: &str = "limits.rate_per_token";
    const ADDRESS: &str = "limits.rate_per_address";
    let limits = &config.limits;
    if limits.rate_per_token == 0 || limits.rate_per_address > 0 {
        return Ok(());
    }
    let reason = format!("{TOKEN} requires {ADDRESS}: whoever makes up tokens would have no limit");
    Err(Error::of(TOKEN, &source_of(merged, TOKEN), &reason))
}

fn check_tls(config: &Config, merged: &Figment) -> Result<(), Error> {
    const CERT: &str = "server.tls.cert";
    const KEY: &str = "server.tls.key";
    let tls = &config.server.tls;
    let (given, missing) = match (&tls.cert, &tls.key) {
        (Some(_), None) => (CERT, KEY),
        (None, Some(_)) => (KEY, CERT),
        _ => return Ok(()),
    };
    let reason = format!("{missing} is required when {given} is set");
    Err(Error::of(given, &source_of(merged, given), &reason))
}

fn check_storage(config: &Config, merged: &Figment) -> Result<(), Error> {
    let storage = &config.storage;
    if storage.backend != Backend::Postgres || storage.postgres.url.is_some() {
        return Ok(());
    }
    const TYPE: &str = "storage.type";
    let variable = keys::environment_variable("storage.postgres.url");
    let reason = format!("{TYPE}=postgres requires {variable}");
    Err(Error::of(TYPE, &source_of(merged, TYPE), &reason))
}

/// Says in one sentence what figment found.
fn refused(error: &figment::Error, known: &Known) -> Error {
    let key = key_of(&error.path, known);
    let source = error
        .metadata
        .as_ref()
        .map_or(DEFAULT, |metadata| &metadata.name);
    let reason = match &error.kind {
        Kind::Message(message) => message.clone(),
        Kind::InvalidType(actual, expected) | Kind::InvalidValue(actual, expected) => {
            format!("must be {} (got {})", expectation(expected), shown(actual))
        }
        kind => format!("is not valid: {kind}"),
    };
    Error::of(&key, source, &reason)
}

/// The longest part of `path` that is a key: an element of a list is reported as its list.
fn key_of(path: &[String], known: &Known) -> String {
    (1..=path.len())
        .rev()
        .map(|len| path[..len].join("."))
        .find(|key| known.has(key))
        .unwrap_or_else(|| path.join("."))
}

fn expectation(expected: &str) -> &str {
    match expected {
        "a boolean" => "true or false",
        "a sequence" => "a list of strings",
        other => other,
    }
}

fn shown(actual: &Actual) -> String {
    match actual {
        Actual::Bool(is_on) => is_on.to_string(),
        Actual::Unsigned(n) => n.to_string(),
        Actual::Signed(n) => n.to_string(),
        Actual::Float(n) => n.to_string(),
        Actual::Str(text) => format!("{:?}", super::redact::url(text)),
        Actual::Seq => "a list".to_owned(),
        Actual::Map => "a table".to_owned(),
        other => other.to_string(),
    }
}
