//! The configuration: typed settings, merged from four layers.
//!
//! built-in defaults < `resonate.toml` < `RESONATE_*` environment < command-line flags
//!
//! [`load()`] merges the layers, then validates the result, so that a bad value is refused wherever
//! it came from, by an [`Error`] that names its key and its source. The layers are passed in:
//! nothing here reads the process environment.
//!
//! A setting is one field of [`Config`]. Its key, its environment variable and its flag follow from
//! the field's path ([`keys`]); `resonate.toml` at the root of the repository is the reference, and
//! a test compares it with the fields, the defaults and the flags.

use std::path::Path;

use serde::{Deserialize, Serialize};

mod auth;
mod effective;
mod environment;
mod file;
pub mod keys;
mod limits;
mod load;
mod observability;
mod postgres;
mod push_auth;
pub mod redact;
mod retention;
mod server;
mod storage;
mod tasks;
mod transports;
mod unsupported;
mod value;

#[cfg(test)]
mod tests;
#[cfg(test)]
pub(crate) use tests::reference::comments as reference_comments;

pub use auth::{Auth, AuthMode, Jwks, is_loopback};
pub use effective::{Effective, Setting, effective};
pub use environment::Environment;
pub use limits::Limits;
pub use load::load;
pub use observability::{LogFormat, Observability};
pub use postgres::{Postgres, PostgresUrl};
pub use push_auth::{PushAuth, PushAuthMode, Token};
pub use retention::Retention;
pub use server::{Cors, Server, Tls};
pub use storage::{Backend, Sqlite, Storage, Synchronous};
pub use tasks::{Messages, Tasks, Timeouts};
pub use transports::{BashExec, Gcps, HttpPoll, HttpPush, Transports};
pub use value::Millis;

pub use crate::transport::http_push::targets::Entry as PushTarget;

/// The name of the configuration file, looked for in the working directory.
pub const FILE: &str = "resonate.toml";

/// Every setting of the server. `Debug` hides secrets.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Config {
    /// Log level, or a filter such as `info,resonate=debug`.
    #[serde(deserialize_with = "value::log_level")]
    pub level: String,
    /// Whether `debug.*` operations and `resonate:debug_time` are allowed.
    pub debug: bool,
    /// The API.
    pub server: Server,
    /// By which tokens clients and workers are known.
    pub auth: Auth,
    /// What one request may hold, and how often clients may ask.
    pub limits: Limits,
    /// Where promises are kept.
    pub storage: Storage,
    /// Leases and redispatch.
    pub tasks: Tasks,
    /// The repair sweep for whatever is due.
    pub timeouts: Timeouts,
    /// The repair sweep for messages.
    pub messages: Messages,
    /// What is deleted once it is over.
    pub retention: Retention,
    /// The ways out to workers.
    pub transports: Transports,
    /// Metrics, spans and the log.
    pub observability: Observability,
}

impl Default for Config {
    fn default() -> Self {
        Config {
            level: "info".to_owned(),
            debug: false,
            server: Server::default(),
            auth: Auth::default(),
            limits: Limits::default(),
            storage: Storage::default(),
            tasks: Tasks::default(),
            timeouts: Timeouts::default(),
            messages: Messages::default(),
            retention: Retention::default(),
            transports: Transports::default(),
            observability: Observability::default(),
        }
    }
}

/// What [`load()`] merges on top of the built-in defaults.
#[derive(Clone, Copy, Debug)]
pub struct Layers<'a> {
    /// The configuration file; it need not exist.
    pub file: &'a Path,
    /// The environment; only `RESONATE_*` and a few well-known names are looked at.
    pub environment: &'a Environment,
    /// The flags that were given.
    pub flags: &'a [Flag],
    /// `resonate dev`: SQLite is in memory, unless a flag names a database file.
    pub is_dev: bool,
}

/// A flag that was given on the command line. `Debug` shows its key only.
#[derive(Clone, PartialEq)]
pub struct Flag {
    key: &'static str,
    value: figment::value::Value,
}

impl Flag {
    /// The flag of the setting `key`.
    pub fn new(key: &'static str, value: impl Into<figment::value::Value>) -> Self {
        Flag {
            key,
            value: value.into(),
        }
    }
}

impl std::fmt::Debug for Flag {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Flag")
            .field("key", &self.key)
            .finish_non_exhaustive()
    }
}

/// A validated configuration, and what the operator should be told about it.
#[derive(Clone, Debug)]
pub struct Loaded {
    /// The settings.
    pub config: Config,
    /// Keys and variables that were not understood, one sentence each; to be logged once logging is
    /// up.
    pub warnings: Vec<String>,
}

/// A configuration that the server refuses to start with.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("Configuration error: {reason}")]
pub struct Error {
    reason: String,
}

impl Error {
    /// An error with a complete sentence that names key and source.
    pub fn new(reason: impl Into<String>) -> Self {
        Error {
            reason: reason.into(),
        }
    }

    /// The error of the setting `key`, set by `source`. A predicate ("must be …") gets the key in
    /// front.
    fn of(key: &str, source: &str, reason: &str) -> Self {
        if reason.starts_with("must ") || reason.starts_with("is ") {
            Error::new(format!("{key} {reason} (from {source})"))
        } else {
            Error::new(format!("{reason} ({key} from {source})"))
        }
    }
}
