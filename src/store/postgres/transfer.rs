//! A whole database: read as it is at one instant, also beside the servers that use it, and filled.
//!
//! A database that is being filled is closed to servers: one that has a connection is noticed by its name,
//! and one that starts waits for the lock under which all bring the schema up to date.

use async_trait::async_trait;
use futures_util::StreamExt;
use futures_util::stream::BoxStream;
use sqlx::migrate::Migrate;
use sqlx::postgres::PgRow;
use sqlx::{Connection, PgConnection, Row};

use super::connect::{self, MOVE_SETTINGS, Use};
use super::error::{classify, explain_migration};
use super::revisions::Revisions;
use super::{KEY_BYTES_MAX, columns, encode, sql};
use crate::machine::object::Object;
use crate::protocol::record::Schedule;
use crate::store::transfer::{Counts, Fill, Snapshot};
use crate::store::{Changes, Error, Result};

/// By these names the database shows the connections of exports and imports.
const SNAPSHOT_NAME: &str = "resonate export";
const FILL_NAME: &str = "resonate import";

/// See [`Snapshot`]. A standby will do.
pub struct PostgresSnapshot {
    connection: PgConnection,
}

impl PostgresSnapshot {
    /// Reads a database that this release has written, whoever uses it.
    ///
    /// # Errors
    /// [`Error::Unusable`] when it cannot be reached, or is of another schema version.
    pub async fn open(url: &str) -> Result<Self> {
        let options = connect::options(url, SNAPSHOT_NAME)?;
        let place = &connect::place(&options);
        let mut connection = connect::connect(&options, place, MOVE_SETTINGS).await?;
        connect::check_server(&mut connection, place, Use::Reads).await?;
        run(
            &mut connection,
            "BEGIN ISOLATION LEVEL REPEATABLE READ READ ONLY",
        )
        .await?;
        // The first read of a transaction is the instant that it sees.
        let (found, newest) = (
            connect::schema_of(&mut connection, place).await?,
            connect::newest_schema(),
        );
        if found != Some(newest) {
            let found = found.map_or("no schema".to_owned(), |version| {
                format!("schema version {version}")
            });
            return Err(Error::Unusable(format!(
                "the database {place} has {found}, this resonate needs {newest}: use the release \
                 that its servers run, or start a server of this one on it first"
            )));
        }
        Ok(PostgresSnapshot { connection })
    }

    fn rows<T: Send + 'static>(
        &mut self,
        statement: &'static str,
        decode: fn(&PgRow) -> Result<T>,
    ) -> BoxStream<'_, Result<T>> {
        sqlx::query(statement)
            .fetch(&mut self.connection)
            .map(move |row| decode(&row.map_err(|error| classify(&error))?))
            .boxed()
    }
}

#[async_trait]
impl Snapshot for PostgresSnapshot {
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

/// See [`Fill`]: one transaction, on a connection that holds the lock of those who change the schema.
pub struct PostgresFill {
    connection: PgConnection,
}

impl PostgresFill {
    /// Brings the schema of an empty database up to date, and keeps servers away from it.
    ///
    /// # Errors
    /// [`Error::Unusable`] when it cannot be reached, is in use, or not empty.
    pub async fn open(url: &str) -> Result<Self> {
        let options = connect::options(url, FILL_NAME)?;
        let place = &connect::place(&options);
        let mut connection = connect::connect(&options, place, MOVE_SETTINGS).await?;
        connect::check_server(&mut connection, place, Use::Writes).await?;
        // Held until the connection ends.
        let locked = connection.lock().await;
        locked.map_err(|error| match error {
            sqlx::migrate::MigrateError::Execute(error) if is_lock_timeout(&error) => {
                Error::Unusable(format!(
                    "the database {place} is being filled by another import, or a server is \
                     bringing its schema up to date"
                ))
            }
            error => explain_migration(error, place),
        })?;
        let servers = connect::servers(&mut connection, place).await?;
        if servers > 0 {
            return Err(Error::Unusable(format!(
                "the database {place} is in use: resonate servers have {servers} connections to it"
            )));
        }
        connect::migrate(&mut connection, place, &connect::migrations()).await?;
        run(&mut connection, "BEGIN").await?;
        run(&mut connection, sql::LOCK_TABLES).await?;
        counts(&mut connection).await?.expect_empty(place)?;
        Ok(PostgresFill { connection })
    }
}

#[async_trait]
impl Fill for PostgresFill {
    fn key_bytes_max(&self) -> Option<usize> {
        Some(KEY_BYTES_MAX)
    }

    async fn add(&mut self, batch: &Changes) -> Result<()> {
        let rev = fastrand::i64(1..);
        let Some(commit) = encode::commit(batch, &Revisions::default(), rev)? else {
            return Ok(());
        };
        // Put together of constants of this crate, in few combinations: they stay prepared.
        let insert = sqlx::query_with(sqlx::AssertSqlSafe(commit.sql), commit.arguments);
        let inserted = insert.execute(&mut self.connection).await;
        inserted.map(drop).map_err(|error| classify(&error))
    }

    async fn finish(mut self: Box<Self>, expected: &Counts) -> Result<()> {
        counts(&mut self.connection).await?.expect(expected)?;
        run(&mut self.connection, "COMMIT").await?;
        // It is stored, whatever becomes of the connection.
        self.connection.close().await.ok();
        Ok(())
    }
}

/// How many rows each table has.
async fn counts(connection: &mut PgConnection) -> Result<Counts> {
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

async fn run(connection: &mut PgConnection, statement: &'static str) -> Result<()> {
    let done = sqlx::query(statement).execute(connection).await;
    done.map(drop).map_err(|e| classify(&e))
}

fn is_lock_timeout(error: &sqlx::Error) -> bool {
    let code = error.as_database_error().and_then(|error| error.code());
    code.is_some_and(|code| code == "55P03")
}
