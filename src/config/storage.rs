//! `[storage]`: where promises are kept.

use serde::de::{Deserializer, Error};
use serde::{Deserialize, Serialize};

use super::Postgres;
use super::value;

/// The SQLite path of a database that lives and dies with the process.
pub(super) const MEMORY: &str = ":memory:";

/// Where promises are kept.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Storage {
    /// The kind of database: `storage.type`.
    #[serde(rename = "type")]
    pub backend: Backend,
    /// SQLite.
    pub sqlite: Sqlite,
    /// PostgreSQL.
    pub postgres: Postgres,
}

/// The kind of database.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Backend {
    /// One file, one server.
    #[default]
    Sqlite,
    /// A database server, which may be shared.
    Postgres,
}

impl<'de> Deserialize<'de> for Backend {
    fn deserialize<D: Deserializer<'de>>(from: D) -> Result<Self, D::Error> {
        match String::deserialize(from)?.as_str() {
            "sqlite" => Ok(Backend::Sqlite),
            "postgres" => Ok(Backend::Postgres),
            other => Err(D::Error::custom(format!(
                "Unknown storage backend: '{other}'. Valid options are 'sqlite' and 'postgres'."
            ))),
        }
    }
}

/// SQLite.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Sqlite {
    /// The database file, or `:memory:`; see [`Sqlite::is_memory`].
    #[serde(deserialize_with = "value::not_empty")]
    pub path: String,
    /// What an acknowledgement is worth.
    pub synchronous: Synchronous,
    /// Bytes of promises that are kept in memory beside the file, about; 0 keeps none.
    #[serde(deserialize_with = "value::at_least_zero")]
    pub cache_bytes: usize,
}

impl Sqlite {
    /// Whether the database lives and dies with the process.
    pub fn is_memory(&self) -> bool {
        self.path == MEMORY
    }
}

impl Default for Sqlite {
    fn default() -> Self {
        Sqlite {
            path: "resonate.db".to_owned(),
            synchronous: Synchronous::default(),
            cache_bytes: 128 * 1024 * 1024,
        }
    }
}

/// What an acknowledgement is worth.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Synchronous {
    /// Acknowledged means on disk: every commit is synced.
    #[default]
    Full,
    /// Faster. A crash of the server loses nothing, but power loss may lose the latest acknowledged
    /// writes.
    Normal,
}

impl<'de> Deserialize<'de> for Synchronous {
    fn deserialize<D: Deserializer<'de>>(from: D) -> Result<Self, D::Error> {
        match String::deserialize(from)?.as_str() {
            "full" => Ok(Synchronous::Full),
            "normal" => Ok(Synchronous::Normal),
            other => Err(D::Error::custom(format!(
                "must be 'full' or 'normal' (got '{other}')"
            ))),
        }
    }
}
