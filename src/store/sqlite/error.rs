//! Which of the seam's errors a failure of SQLite is.

use std::fs::{self, File};
use std::io::{self, Write};
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

/// A page: what SQLite writes at least.
const PROBE_BYTES: usize = 4096;

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

/// Whether a row could not be inserted because one with its key is there.
pub fn is_taken(error: &sqlx::Error) -> bool {
    error
        .as_database_error()
        .is_some_and(|e| e.is_unique_violation())
}

/// Explains a failure at start.
pub fn explain_open(error: &sqlx::Error, named: &Path) -> Error {
    let path = named.display();
    match primary_code(error) {
        Some(code::NOTADB) => Error::Unusable(format!("{path} is not an SQLite database")),
        Some(code::CORRUPT) => Error::Unusable(format!("the database {path} is damaged: {error}")),
        Some(code::READONLY) => Error::Unusable(format!("the database {path} is not writable")),
        Some(code::BUSY | code::LOCKED) => Error::Unavailable(format!(
            "the database {path} is locked by another program: {error}"
        )),
        Some(code::IOERR | code::FULL) => {
            let reason =
                refusal_to_write(named).map_or_else(|| error.to_string(), |e| e.to_string());
            Error::Unusable(format!("cannot open the database {path}: {reason}"))
        }
        _ => Error::Unusable(format!("cannot open the database {path}: {error}")),
    }
}

/// Why nothing can be written beside the database. SQLite says that something failed; the system says what.
fn refusal_to_write(database: &Path) -> Option<io::Error> {
    let mut probe = database.as_os_str().to_owned();
    probe.push(".probe");
    let written = File::create(&probe).and_then(|mut file| {
        file.write_all(&[0; PROBE_BYTES])?;
        file.sync_all()
    });
    // There may be none.
    let _ = fs::remove_file(&probe);
    written.err()
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
