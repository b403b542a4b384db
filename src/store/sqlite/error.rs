//! Which of the seam's errors a failure of SQLite is.

use std::path::Path;

use sqlx::migrate::MigrateError;

use crate::store::Error;

/// Primary result codes of SQLite.
mod code {
    pub const BUSY: i64 = 5;
    pub const LOCKED: i64 = 6;
    pub const NOMEM: i64 = 7;
    pub const READONLY: i64 = 8;
    pub const IOERR: i64 = 10;
    pub const CORRUPT: i64 = 11;
    pub const FULL: i64 = 13;
    pub const CANTOPEN: i64 = 14;
    pub const NOTADB: i64 = 26;
}

/// The primary result code, if SQLite itself failed.
fn primary_code(error: &sqlx::Error) -> Option<i64> {
    let code = error.as_database_error()?.code()?;
    // The low byte of an extended code is the primary one.
    Some(code.parse::<i64>().ok()? & 0xff)
}

/// Classifies a failure of a running store.
pub fn classify(error: &sqlx::Error) -> Error {
    let message = error.to_string();
    match (primary_code(error), error) {
        (
            Some(
                code::BUSY
                | code::LOCKED
                | code::NOMEM
                | code::READONLY
                | code::IOERR
                | code::FULL
                | code::CANTOPEN,
            ),
            _,
        ) => Error::Unavailable(message),
        (Some(code::CORRUPT | code::NOTADB), _)
        | (_, sqlx::Error::Decode(_) | sqlx::Error::ColumnDecode { .. }) => Error::Corrupt(message),
        (Some(_), _) => Error::Refused(message),
        (None, _) => Error::Unavailable(message),
    }
}

/// Explains a failure at start.
pub fn explain_open(error: &sqlx::Error, path: &Path) -> Error {
    let path = path.display();
    match primary_code(error) {
        Some(code::NOTADB) => Error::Unusable(format!("{path} is not an SQLite database")),
        Some(code::CORRUPT) => Error::Unusable(format!("the database {path} is damaged: {error}")),
        Some(code::READONLY) => Error::Unusable(format!("the database {path} is not writable")),
        Some(code::BUSY | code::LOCKED) => Error::Unavailable(format!(
            "the database {path} is locked by another program: {error}"
        )),
        _ => Error::Unusable(format!("cannot open the database {path}: {error}")),
    }
}

/// Explains a failure to bring the schema up to date.
pub fn explain_migration(error: MigrateError, path: &Path) -> Error {
    match error {
        MigrateError::VersionMissing(version) => Error::Unusable(format!(
            "the database {} has schema version {version}, which this resonate does not know: it \
             was used by a newer one; start that one, or give another path",
            path.display()
        )),
        MigrateError::VersionMismatch(version) => Error::Unusable(format!(
            "schema version {version} of the database {} is not the one this resonate knows",
            path.display()
        )),
        MigrateError::Execute(error) | MigrateError::ExecuteMigration(error, _) => {
            explain_open(&error, path)
        }
        other => Error::Unusable(format!(
            "cannot bring the database {} up to date: {other}",
            path.display()
        )),
    }
}
