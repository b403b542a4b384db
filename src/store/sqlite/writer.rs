//! The one connection that writes.
//!
//! Loads of a batch run outside any database transaction: nobody else writes (the file is locked
//! against other servers, and the connection is behind a lock), so they all see the state that the
//! batch's commit will change. The commit is one transaction.
//!
//! ```text
//!                  error, or the caller went away
//!   clean ──write──> suspect ────────────────────────> (next use) replaced ──> clean
//!     ^                 │
//!     └─────────────────┘ committed, or refused and rolled back
//! ```

use sqlx::sqlite::{SqliteConnectOptions, SqliteRow};
use sqlx::{ConnectOptions, Connection, SqliteConnection};

use crate::store::{Error, Loaded, Need, Result};

use super::encode::Statement;
use super::error::classify;
use super::{columns, ids, sql};

/// Owns the writing connection.
pub struct Writer {
    options: SqliteConnectOptions,
    /// None once closed, or when it could not be replaced.
    connection: Option<SqliteConnection>,
    /// Whether a transaction may still be open on the connection.
    is_suspect: bool,
    is_closed: bool,
}

impl Writer {
    /// Takes a fresh connection, and what it takes to make another.
    pub fn new(options: SqliteConnectOptions, connection: SqliteConnection) -> Self {
        Writer {
            options,
            connection: Some(connection),
            is_suspect: false,
            is_closed: false,
        }
    }

    /// The connection, with no transaction open on it, and the flag that says so.
    async fn clean(&mut self) -> Result<(&mut SqliteConnection, &mut bool)> {
        if self.is_closed {
            return Err(Error::Unavailable("the database is closed".to_owned()));
        }
        if self.is_suspect {
            if let Some(connection) = &mut self.connection {
                // Waits for a statement that nobody waits for any more: a commit either happens
                // before the next load, or never.
                connection.ping().await.ok();
            }
            if let Some(connection) = self.connection.take() {
                connection.close().await.ok();
            }
            self.is_suspect = false;
        }
        if self.connection.is_none() {
            let fresh = self.options.connect().await.map_err(|e| classify(&e))?;
            self.connection = Some(fresh);
        }
        let connection = self.connection.as_mut().expect("just made if missing");
        Ok((connection, &mut self.is_suspect))
    }

    /// Loads the need of a batch: one statement for the objects, one for branches, one for schedules.
    pub async fn load(&mut self, need: &Need) -> Result<Loaded> {
        let (connection, _) = self.clean().await?;
        let mut loaded = Loaded::default();
        if !need.objects.is_empty() || !need.pids.is_empty() {
            let query = sqlx::query(sql::LOAD_OBJECTS)
                .bind(ids(&need.objects))
                .bind(ids(&need.pids));
            loaded.objects = all(query, connection, columns::object).await?;
        }
        if !need.branches.is_empty() {
            let query = sqlx::query(sql::LOAD_BRANCHES).bind(ids(&need.branches));
            loaded.branch_members = all(query, connection, columns::promise).await?;
        }
        if !need.schedules.is_empty() {
            let query = sqlx::query(sql::LOAD_SCHEDULES).bind(ids(&need.schedules));
            loaded.schedules = all(query, connection, columns::schedule).await?;
        }
        Ok(loaded)
    }

    /// Runs all statements in one transaction, durably.
    pub async fn write(&mut self, statements: Vec<Statement>) -> Result<()> {
        let (connection, is_suspect) = self.clean().await?;
        // Set until the outcome is known: the future may be dropped at any await.
        *is_suspect = true;
        let Err(error) = transact(connection, statements).await else {
            *is_suspect = false;
            return Ok(());
        };
        // Nothing to roll back is an error too, and then a new connection costs little.
        let is_rolled_back = execute(connection, "ROLLBACK").await.is_ok();
        let error = classify(&error);
        *is_suspect = !(is_rolled_back && matches!(error, Error::Refused(_)));
        Err(error)
    }

    /// Deletes everything.
    pub async fn reset(&mut self) -> Result<()> {
        let none = || "[]".to_owned();
        let statements = sql::RESET.map(|sql| Statement { sql, rows: none() });
        self.write(statements.into()).await
    }

    /// Moves the log into the database file and closes it.
    pub async fn close(&mut self) {
        self.is_closed = true;
        if let Some(mut connection) = self.connection.take() {
            connection.ping().await.ok();
            if let Err(error) = execute(&mut connection, "PRAGMA wal_checkpoint(TRUNCATE)").await {
                tracing::warn!(%error, "could not checkpoint the database; its log stays");
            }
            connection.close().await.ok();
        }
    }
}

/// Runs a query whose rows all decode.
async fn all<T>(
    query: sqlx::query::Query<'_, sqlx::Sqlite, sqlx::sqlite::SqliteArguments>,
    connection: &mut SqliteConnection,
    decode: fn(&SqliteRow) -> Result<T>,
) -> Result<Vec<T>> {
    let rows = query
        .fetch_all(connection)
        .await
        .map_err(|e| classify(&e))?;
    rows.iter().map(decode).collect()
}

async fn execute(connection: &mut SqliteConnection, sql: &'static str) -> sqlx::Result<()> {
    sqlx::query(sql).execute(connection).await.map(drop)
}

/// Runs all statements in one go: every hop to the connection's thread and back costs about as much as
/// a small statement itself. sqlx hands the arguments out from left to right, and stops at the first
/// failure with the transaction open.
async fn transact(
    connection: &mut SqliteConnection,
    statements: Vec<Statement>,
) -> sqlx::Result<()> {
    let script = match &*statements {
        // A single statement is a transaction of its own.
        [statement] => statement.sql.to_owned(),
        several => {
            let texts: Vec<&str> = several.iter().map(|statement| statement.sql).collect();
            format!("BEGIN IMMEDIATE;{};COMMIT", texts.join(";"))
        }
    };
    // The texts are all constants of this crate, in few combinations: they stay prepared.
    let mut query = sqlx::query(sqlx::AssertSqlSafe(script));
    for statement in statements {
        query = query.bind(statement.rows);
    }
    query.execute(connection).await.map(drop)
}

#[cfg(test)]
impl Writer {
    /// A connection such as another program would have.
    pub async fn another_connection(&self) -> SqliteConnection {
        self.options.connect().await.unwrap()
    }

    /// Sets something on the connection as it is now.
    pub async fn set(&mut self, pragma: &'static str) {
        let (connection, _) = self.clean().await.unwrap();
        execute(connection, pragma).await.unwrap();
    }
}
