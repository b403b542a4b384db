//! A whole file: read as it is at one instant, also beside the server that uses it, and filled.

use std::path::Path;

use async_trait::async_trait;
use futures_util::StreamExt;
use futures_util::stream::BoxStream;
use sqlx::sqlite::SqliteRow;
use sqlx::{ConnectOptions, Connection, Row, SqliteConnection};

use super::encode;
use super::error::classify;
use super::file::{self, LockFile};
use super::{Durability, columns, sql};
use crate::machine::object::Object;
use crate::protocol::record::Schedule;
use crate::store::transfer::{Counts, Fill, Snapshot};
use crate::store::{Changes, Result};

/// Rows read ahead: each may be megabytes.
const ROWS_AHEAD: usize = 16;

/// In KiB: rows of an import go to all places of the indexes.
const FILL_CACHE: &str = "-65536";

/// See [`Snapshot`].
pub struct SqliteSnapshot {
    connection: SqliteConnection,
}

impl SqliteSnapshot {
    /// Reads a file that this release has written, whoever uses it.
    ///
    /// # Errors
    /// [`crate::store::Error::Unusable`] when it is not there, not ours, or of another schema version.
    pub async fn open(path: &Path) -> Result<Self> {
        let path = &file::existing(path)?;
        let options = file::reading(path).row_buffer_size(ROWS_AHEAD);
        let connecting = options.connect().await;
        let mut connection =
            connecting.map_err(|error| super::error::explain_open(&error, path))?;
        run(&mut connection, "BEGIN").await?;
        // The first read of a transaction is the instant that it sees.
        file::expect_current(&mut connection, path).await?;
        Ok(SqliteSnapshot { connection })
    }

    fn rows<T: Send + 'static>(
        &mut self,
        statement: &'static str,
        decode: fn(&SqliteRow) -> Result<T>,
    ) -> BoxStream<'_, Result<T>> {
        sqlx::query(statement)
            .fetch(&mut self.connection)
            .map(move |row| decode(&row.map_err(|error| classify(&error))?))
            .boxed()
    }
}

#[async_trait]
impl Snapshot for SqliteSnapshot {
    async fn counts(&mut self) -> Result<Counts> {
        counts(&mut self.connection).await
    }

    fn objects(&mut self) -> BoxStream<'_, Result<Object>> {
        self.rows(sql::DUMP_OBJECTS, columns::object)
    }

    fn schedules(&mut self) -> BoxStream<'_, Result<Schedule>> {
        self.rows(sql::DUMP_SCHEDULES, columns::schedule)
    }

    async fn close(self: Box<Self>) {
        // It was only read.
        self.connection.close().await.ok();
    }
}

/// See [`Fill`]: one transaction, which SQLite undoes unless it is committed.
pub struct SqliteFill {
    connection: SqliteConnection,
    lock: LockFile,
}

impl SqliteFill {
    /// Makes or takes an empty file, and keeps servers away from it.
    ///
    /// # Errors
    /// [`crate::store::Error::Unusable`] when it is in use, not empty, or cannot be opened.
    pub async fn open(path: &Path) -> Result<Self> {
        let file::Opened {
            lock,
            options,
            mut connection,
        } = file::open(path, Durability::PowerLoss).await?;
        let there = counts(&mut connection).await?;
        there.expect_empty(&path.display().to_string())?;
        connection.close().await.map_err(|e| classify(&e))?;
        let options = options.pragma("cache_size", FILL_CACHE);
        let mut connection = options.connect().await.map_err(|e| classify(&e))?;
        run(&mut connection, "BEGIN IMMEDIATE").await?;
        Ok(SqliteFill { connection, lock })
    }
}

#[async_trait]
impl Fill for SqliteFill {
    async fn add(&mut self, batch: &Changes) -> Result<()> {
        for statement in encode::statements(batch)? {
            let insert = sqlx::query(statement.sql).bind(statement.rows);
            let inserted = insert.execute(&mut self.connection).await;
            inserted.map_err(|e| classify(&e))?;
        }
        Ok(())
    }

    async fn finish(mut self: Box<Self>, expected: &Counts) -> Result<()> {
        counts(&mut self.connection).await?.expect(expected)?;
        run(&mut self.connection, "COMMIT").await?;
        run(&mut self.connection, "PRAGMA wal_checkpoint(TRUNCATE)").await?;
        self.connection.close().await.map_err(|e| classify(&e))?;
        self.lock.release();
        Ok(())
    }
}

/// How many rows each table has.
pub(super) async fn counts(connection: &mut SqliteConnection) -> Result<Counts> {
    let row = sqlx::query(sql::COUNTS).fetch_one(connection).await;
    let row = row.map_err(|e| classify(&e))?;
    let count = |index| row.try_get::<i64, usize>(index).map_err(|e| classify(&e));
    Ok(Counts::of([
        count(0)?,
        count(1)?,
        count(2)?,
        count(3)?,
        count(4)?,
    ]))
}

async fn run(connection: &mut SqliteConnection, statement: &'static str) -> Result<()> {
    let done = sqlx::query(statement).execute(connection).await;
    done.map(drop).map_err(|e| classify(&e))
}
