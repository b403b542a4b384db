//! Which of the seam's errors a failure of PostgreSQL is.

use sqlx::migrate::MigrateError;

use crate::store::Error;

/// The five characters that say what went wrong, if the database said anything.
fn sql_state(error: &sqlx::Error) -> Option<String> {
    let code = error.as_database_error()?.code()?;
    Some(code.into_owned())
}

/// Classifies a failure of a running store.
pub fn classify(error: &sqlx::Error) -> Error {
    let message = error.to_string();
    let Some(state) = sql_state(error) else {
        return match error {
            sqlx::Error::Decode(_) | sqlx::Error::ColumnDecode { .. } => Error::Corrupt(message),
            sqlx::Error::Encode(_) => Error::Refused(message),
            // Lost, refused, not established in time.
            _ => Error::Unavailable(message),
        };
    };
    match (state.get(..2).unwrap_or_default(), &*state) {
        // Serialization failure, deadlock, lock not available, and a row that another batch has
        // inserted since this one found it missing.
        ("40", _) | (_, "55P03" | "23505") => Error::Conflict(message),
        ("XX", "XX001" | "XX002") => Error::Corrupt(message),
        // A connection exception, a server that starts, stops or has run out of something, a statement
        // cancelled for its time, an I/O error.
        ("08" | "53" | "55" | "57" | "58" | "XX", _) => Error::Unavailable(message),
        // Somebody takes rights, the database or its tables away, or a failover is under way and this
        // is a standby. They come back, or an operator is needed; no request is to blame.
        ("28" | "3D" | "3F" | "25", _) | (_, "42501" | "42P01" | "42703") => {
            Error::Unavailable(message)
        }
        _ => Error::Refused(message),
    }
}

/// Whether the failure may have left a statement running, or a connection that leads nowhere.
pub fn is_connection_suspect(error: &sqlx::Error) -> bool {
    match sql_state(error) {
        None => true,
        Some(state) => {
            let class = state.get(..2).unwrap_or_default();
            matches!(class, "08" | "25" | "57" | "58" | "XX")
        }
    }
}

/// Explains a failure at start. sqlx's errors hold host and role, never a password.
pub fn explain_open(error: &sqlx::Error, place: &str) -> Error {
    let reason = match sql_state(error).as_deref() {
        Some("3D000") => {
            "it does not exist; create it (CREATE DATABASE), resonate makes the tables"
        }
        Some("42501") => "the role may not create tables there (GRANT CREATE ON SCHEMA …)",
        Some("42P07") => "it holds tables of another application by the names resonate needs",
        _ => return Error::Unusable(format!("cannot use the database {place}: {error}")),
    };
    Error::Unusable(format!(
        "cannot use the database {place}: {reason} ({error})"
    ))
}

/// Explains a failure to bring the schema up to date.
pub fn explain_migration(error: MigrateError, place: &str) -> Error {
    match error {
        MigrateError::VersionMismatch(version) => Error::Unusable(format!(
            "schema version {version} of the database {place} is not the one this resonate knows"
        )),
        MigrateError::Execute(error) | MigrateError::ExecuteMigration(error, _) => {
            explain_open(&error, place)
        }
        other => Error::Unusable(format!(
            "cannot bring the database {place} up to date: {other}"
        )),
    }
}
