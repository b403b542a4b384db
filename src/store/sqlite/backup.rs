//! A copy of a database file, made while a server uses it.

use std::path::Path;

use sqlx::sqlite::SqliteConnectOptions;
use sqlx::{ConnectOptions, Connection};

use super::error::{classify, explain_open};
use super::file::{self, LockFile};
use super::transfer::counts;
use crate::store::transfer::Counts;
use crate::store::{Error, Result};

/// Writes the database as it is at one instant into an empty file. The server goes on meanwhile: what it
/// writes gathers in its log.
///
/// # Errors
/// [`Error::Unusable`] when the database is not there or not ours; otherwise whatever fails.
pub async fn copy(database: &Path, target: &Path) -> Result<()> {
    let database = &file::existing(database)?;
    let Some(name) = target.to_str() else {
        let message = format!("{} is not valid Unicode", target.display());
        return Err(Error::Unusable(message));
    };
    let connecting = file::reading(database).connect().await;
    let mut connection = connecting.map_err(|error| explain_open(&error, database))?;
    if file::schema_of(&mut connection, database).await?.is_none() {
        let message = format!("{} has never been used by a server", database.display());
        return Err(Error::Unusable(message));
    }
    let copying = sqlx::query("VACUUM INTO ?").bind(name);
    let copied = copying.execute(&mut connection).await;
    copied.map_err(|error| classify(&error))?;
    connection.close().await.map_err(|error| classify(&error))
}

/// Reads a copy from end to end. Answers what it holds.
///
/// # Errors
/// [`Error::Corrupt`] when it is not sound.
pub async fn verify(copy: &Path) -> Result<Counts> {
    let options = SqliteConnectOptions::new()
        .filename(copy)
        .immutable(true)
        .disable_statement_logging();
    let connecting = options.connect().await;
    let mut connection = connecting.map_err(|error| explain_open(&error, copy))?;
    file::schema_of(&mut connection, copy).await?;
    let verdict = sqlx::query_scalar("PRAGMA integrity_check(1)").fetch_one(&mut connection);
    let verdict: String = verdict.await.map_err(|error| classify(&error))?;
    if verdict != "ok" {
        let message = format!("the copy {} is damaged: {verdict}", copy.display());
        return Err(Error::Corrupt(message));
    }
    let counts = counts(&mut connection).await?;
    connection.close().await.map_err(|error| classify(&error))?;
    Ok(counts)
}

/// Refuses a place that a server uses, or has left its log beside: the log would be taken for that of the
/// copy.
///
/// # Errors
/// [`Error::Unusable`], naming it.
pub fn expect_unused(target: &Path) -> Result<()> {
    if LockFile::is_taken(target) {
        let message = format!("{} is in use by a resonate server", target.display());
        return Err(Error::Unusable(message));
    }
    for suffix in ["-wal", "-journal"] {
        let mut log = target.as_os_str().to_owned();
        log.push(suffix);
        let log = Path::new(&log);
        if log.exists() {
            let message = format!(
                "{} belongs to another database of this name; choose another name",
                log.display()
            );
            return Err(Error::Unusable(message));
        }
    }
    Ok(())
}
