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

use std::collections::{BTreeSet, HashSet};
use std::sync::Arc;

use sqlx::sqlite::{SqliteConnectOptions, SqliteRow};
use sqlx::{ConnectOptions, Connection, SqliteConnection};

use crate::protocol::lineage;
use crate::protocol::record::Id;
use crate::store::guesses::Guesses;
use crate::store::rows::{json, limit};
use crate::store::{Changes, Error, Loaded, Need, Result, TREES_MAX};

use super::cache::Cache;
use super::encode::{self, Statement};
use super::error::{classify, is_taken};
use super::{columns, ids, sql};

/// Why nothing was written.
enum Failed {
    /// A row to be inserted is there.
    Exists(String),
    Other(Error),
}

impl From<Error> for Failed {
    fn from(error: Error) -> Self {
        Failed::Other(error)
    }
}

/// Owns the writing connection.
pub struct Writer {
    cache: Arc<Cache>,
    guesses: Guesses,
    options: SqliteConnectOptions,
    /// None once closed, or when it could not be replaced.
    connection: Option<SqliteConnection>,
    /// Whether a transaction may still be open on the connection.
    is_suspect: bool,
    is_closed: bool,
}

impl Writer {
    /// Takes a fresh connection, and what it takes to make another.
    pub fn new(
        options: SqliteConnectOptions,
        connection: SqliteConnection,
        cache: Arc<Cache>,
    ) -> Self {
        Writer {
            cache,
            guesses: Guesses::default(),
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
        let mut loaded = Loaded::default();
        let mut wanted = Vec::new();
        let (ids_of_trees, are_trees_cut) = self.ids_of_trees(need).await?;
        loaded.are_trees_cut = are_trees_cut;
        for id in need.objects.union(&ids_of_trees) {
            if let Some(object) = self.cache.get(id) {
                loaded.objects.push(object);
            } else if self.guesses.may_guess()
                && need.births.contains(id)
                && !ids_of_trees.contains(id)
            {
                loaded.guessed.insert(id.clone());
            } else {
                wanted.push(id);
            }
        }
        let cache = self.cache.clone();
        let (connection, _) = self.clean().await?;
        if !wanted.is_empty() || !need.pids.is_empty() {
            let query = sqlx::query(sql::LOAD_OBJECTS)
                .bind(json(&wanted))
                .bind(ids(&need.pids));
            // A process may hold what was wanted by its id as well.
            let known: HashSet<Id> = match need.pids.is_empty() {
                true => HashSet::new(),
                false => loaded
                    .objects
                    .iter()
                    .map(|o| o.promise.id.clone())
                    .collect(),
            };
            for object in all(query, connection, columns::shared_object).await? {
                if !known.contains(&object.promise.id) {
                    cache.put(object.clone());
                    loaded.objects.push(object);
                }
            }
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

    /// The ids in the trees of a need, or nothing and `true` if there are too many.
    async fn ids_of_trees(&mut self, need: &Need) -> Result<(BTreeSet<Id>, bool)> {
        if need.trees.is_empty() {
            return Ok((BTreeSet::new(), false));
        }
        let ranges: Vec<(String, String)> = need
            .trees
            .iter()
            .flat_map(|id| lineage::ranges(id))
            .collect();
        let query = sqlx::query(sql::TREE_IDS)
            .bind(json(&ranges))
            .bind(limit(TREES_MAX + 1));
        let (connection, _) = self.clean().await?;
        let ids = all(query, connection, columns::id).await?;
        match ids.len() > TREES_MAX {
            true => Ok((BTreeSet::new(), true)),
            false => Ok((ids.into_iter().collect(), false)),
        }
    }

    /// Commits what was decided on what was loaded.
    pub async fn commit(&mut self, changes: &Changes) -> Result<()> {
        let may_guess = self.guesses.may_guess();
        let statements = encode::statements(changes)?;
        if statements.is_empty() {
            return Ok(());
        }
        // From here on until the outcome is known, only the file can tell.
        for change in &changes.objects {
            self.cache.remove(&change.after.promise.id);
        }
        for object in &changes.deleted {
            self.cache.remove(&object.promise.id);
        }
        let outcome = self.write(statements).await;
        self.guesses
            .note(may_guess && matches!(outcome, Err(Failed::Exists(_))));
        match outcome {
            Ok(()) => {
                for change in &changes.objects {
                    self.cache.put(change.after.clone());
                }
                Ok(())
            }
            Err(Failed::Exists(reason)) if may_guess => Err(Error::Conflict(reason)),
            Err(Failed::Exists(reason)) => Err(Error::Refused(reason)),
            Err(Failed::Other(error)) => Err(error),
        }
    }

    /// Runs all statements in one transaction, durably.
    async fn write(&mut self, statements: Vec<Statement>) -> std::result::Result<(), Failed> {
        let is_one = statements.len() == 1;
        let (connection, is_suspect) = self.clean().await?;
        // Set until the outcome is known: the future may be dropped at any await.
        *is_suspect = true;
        let Err(error) = transact(connection, statements).await else {
            *is_suspect = false;
            return Ok(());
        };
        let failed = match is_taken(&error) {
            true => Failed::Exists(error.to_string()),
            false => Failed::Other(classify(&error)),
        };
        // What SQLite refuses of a single statement it has undone itself.
        let is_refused = matches!(failed, Failed::Exists(_) | Failed::Other(Error::Refused(_)));
        *is_suspect = match is_refused {
            true if is_one => false,
            true => execute(connection, "ROLLBACK").await.is_err(),
            false => true,
        };
        Err(failed)
    }

    /// Deletes everything.
    pub async fn reset(&mut self) -> Result<()> {
        let none = || "[]".to_owned();
        let statements = sql::RESET.map(|sql| Statement { sql, rows: none() });
        self.cache.clear();
        self.write(statements.into())
            .await
            .map_err(|failed| match failed {
                Failed::Exists(reason) => Error::Refused(reason),
                Failed::Other(error) => error,
            })
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
