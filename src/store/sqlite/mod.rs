//! The store in one SQLite file: the default, for a single server.
//!
//! ```text
//!   begin ─> lock ─> Writer (one connection) ── load*, commit        writer.rs, encode.rs
//!                              │ objects, as loaded and committed
//!                              v
//!   read ────────────────────> Cache                                 cache.rs
//!   read, due, …         ─> a few read-only connections             this file
//!   search               ─> others: they may have to look at every row
//!   rows ─> objects                                                 decode.rs, columns.rs
//! ```
//!
//! The file is in WAL mode: readers never wait for the writer and see the last commit. A commit is
//! fsynced before it returns. One server at a time has the file, by an advisory lock on
//! `<file>.lock` beside it: locking the database file itself by hand would undo SQLite's own locks.

use std::collections::BTreeMap;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use sqlx::pool::PoolConnection;
use sqlx::sqlite::{SqliteArguments, SqliteConnectOptions, SqlitePoolOptions, SqliteRow};
use sqlx::{Connection, Sqlite, SqlitePool};
use tokio::sync::{Mutex, MutexGuard};
use tokio::time::Instant;

use crate::machine::object::Object;
use crate::protocol::record::{Id, Millis, Promise, Schedule, Tags};

use super::columns;
use super::rows::{self, json, limit};
use super::{
    Changes, Deadline, Dump, Kind, Loaded, MessageKind, Need, Outline, OutlinePage, Pool,
    PromisePage, QueueCursor, Queues, Result, SchedulePage, StateCounts, Store, TaskPage,
    Transaction, Waiting, WaitingCount, WaitingKind,
};
use crate::telemetry::metrics::METRICS;
use cache::Cache;
use error::classify;
use file::LockFile;
use writer::Writer;

mod backup;
mod cache;
mod decode;
mod encode;
mod error;
mod file;
mod inspect;
mod sql;
mod transfer;
mod writer;

pub use backup::{copy, expect_unused, verify};
pub use file::{Durability, newest_schema};
pub use inspect::{Inspection, inspect};
pub use transfer::{SqliteFill, SqliteSnapshot};

/// How many reads run at once.
const READERS_MAX: u32 = 4;

/// How many searches run at once. A statement that finds nothing runs to its end, whether anybody
/// still waits for it or not.
const SEARCHERS_MAX: u32 = 2;

/// As metrics name the connection that writes.
const WRITER: &str = "writer";

/// How long a read waits for one of the connections.
const READER_WAIT_MAX: Duration = Duration::from_secs(5);

/// A store in an SQLite file.
pub struct SqliteStore {
    writer: Mutex<Writer>,
    cache: Arc<Cache>,
    readers: Readers,
    searchers: Readers,
    lock: LockFile,
}

impl SqliteStore {
    /// Opens a database file, creates it if it is missing, and brings its schema up to date. About
    /// `cache_bytes` of it are kept in memory.
    ///
    /// # Errors
    /// [`super::Error::Unusable`] when the file is in use by another server, is not a database of
    /// this server, was used by a newer one, or cannot be opened; the sentence names the path.
    pub async fn open(path: &Path, durability: Durability, cache_bytes: usize) -> Result<Self> {
        let file::Opened {
            lock,
            options,
            connection,
        } = file::open(path, durability).await?;
        let cache = Arc::new(Cache::new(cache_bytes));
        Ok(SqliteStore {
            readers: Readers::new("readers", READERS_MAX, &options),
            searchers: Readers::new("searchers", SEARCHERS_MAX, &options),
            writer: Mutex::new(Writer::new(options, connection, cache.clone())),
            cache,
            lock,
        })
    }

    /// Runs a query on a read-only connection.
    async fn all<T>(
        &self,
        query: Query<'_>,
        decode: impl Fn(&SqliteRow) -> Result<T>,
    ) -> Result<Vec<T>> {
        self.readers.all(query, decode).await
    }

    /// Runs a query that may look at every row.
    async fn search<T>(
        &self,
        query: Query<'_>,
        decode: impl Fn(&SqliteRow) -> Result<T>,
    ) -> Result<Vec<T>> {
        self.searchers.all(query, decode).await
    }
}

type Query<'q> = sqlx::query::Query<'q, Sqlite, SqliteArguments>;

/// Read-only connections.
struct Readers {
    name: &'static str,
    pool: SqlitePool,
}

impl Readers {
    fn new(name: &'static str, connections_max: u32, options: &SqliteConnectOptions) -> Self {
        let pool = SqlitePoolOptions::new()
            .max_connections(connections_max)
            .acquire_timeout(READER_WAIT_MAX)
            .idle_timeout(None)
            .max_lifetime(None)
            .test_before_acquire(false)
            .connect_lazy_with(file::reader_options(options));
        Readers { name, pool }
    }

    async fn connection(&self) -> Result<PoolConnection<Sqlite>> {
        let began = Instant::now();
        let connection = self.pool.acquire().await;
        METRICS.storage_wait(self.name, began.elapsed());
        connection.map_err(|e| classify(&e))
    }

    async fn all<T>(
        &self,
        query: Query<'_>,
        decode: impl Fn(&SqliteRow) -> Result<T>,
    ) -> Result<Vec<T>> {
        let mut connection = self.connection().await?;
        let rows = query.fetch_all(&mut *connection).await;
        rows.map_err(|e| classify(&e))?.iter().map(decode).collect()
    }

    fn in_use(&self) -> Pool {
        let size = usize::try_from(self.pool.size()).unwrap_or(usize::MAX);
        Pool {
            name: self.name,
            used: size.saturating_sub(self.pool.num_idle()),
            max: usize::try_from(self.pool.options().get_max_connections()).unwrap_or(usize::MAX),
        }
    }
}

/// The argument of a statement that takes ids.
fn ids<'a>(ids: impl IntoIterator<Item = &'a Id>) -> String {
    json(&ids.into_iter().collect::<Vec<_>>())
}

/// The argument of a tag filter; none matches all rows.
fn wanted(tags: &Tags) -> Option<String> {
    let few: BTreeMap<&str, &str> = rows::wanted(tags).collect();
    (!few.is_empty()).then(|| json(&few))
}

struct SqliteTransaction<'a> {
    writer: MutexGuard<'a, Writer>,
}

#[async_trait]
impl Transaction for SqliteTransaction<'_> {
    async fn load(&mut self, need: &Need) -> Result<Loaded> {
        self.writer.load(need).await
    }

    async fn commit(mut self: Box<Self>, changes: &Changes) -> Result<()> {
        self.writer.commit(changes).await
    }
}

#[async_trait]
impl Store for SqliteStore {
    async fn begin(&self) -> Result<Box<dyn Transaction + '_>> {
        let began = Instant::now();
        let writer = self.writer.lock().await;
        METRICS.storage_wait(WRITER, began.elapsed());
        Ok(Box::new(SqliteTransaction { writer }))
    }

    async fn read(&self, wanted: &[Id]) -> Result<Vec<Arc<Object>>> {
        if let [id] = wanted
            && let Some(object) = self.cache.get(id)
        {
            return Ok(vec![object]);
        }
        let query = sqlx::query(sql::READ_OBJECTS).bind(ids(wanted));
        self.all(query, columns::shared_object).await
    }

    async fn read_schedule(&self, id: &str) -> Result<Option<Schedule>> {
        let query = sqlx::query(sql::LOAD_SCHEDULES).bind(json(&[id]));
        Ok(self.all(query, columns::schedule).await?.pop())
    }

    async fn promises(&self, page: &PromisePage) -> Result<Vec<Promise>> {
        let query = sqlx::query(sql::PROMISES)
            .bind(page.after.as_deref())
            .bind(page.state.map(|state| state.as_str()))
            .bind(page.or_due)
            .bind(wanted(&page.tags))
            .bind(limit(page.limit));
        self.search(query, columns::promise).await
    }

    async fn outlines(&self, page: &OutlinePage) -> Result<Vec<Outline>> {
        let sql = match page.until {
            Some(_) => sql::OUTLINES_UNTIL,
            None => sql::OUTLINES,
        };
        let query = sqlx::query(sql)
            .bind(&*page.from)
            .bind(page.after.as_deref())
            .bind(limit(page.limit));
        let query = match &page.until {
            Some(until) => query.bind(&**until),
            None => query,
        };
        self.all(query, columns::outline).await
    }

    async fn callbacks(&self, after: Option<&(Id, Id)>, rows: usize) -> Result<Vec<(Id, Id)>> {
        let (awaited, awaiter) = after.map_or(("", ""), |(awaited, awaiter)| (awaited, awaiter));
        let query = sqlx::query(sql::CALLBACKS)
            .bind(awaited)
            .bind(awaiter)
            .bind(limit(rows));
        self.all(query, columns::listener_key).await
    }

    async fn tasks(&self, page: &TaskPage) -> Result<Vec<Object>> {
        let query = sqlx::query(sql::TASKS)
            .bind(page.after.as_deref())
            .bind(page.state.map(|state| state.as_str()))
            .bind(page.or_due)
            .bind(limit(page.limit));
        self.search(query, columns::object).await
    }

    async fn schedules(&self, page: &SchedulePage) -> Result<Vec<Schedule>> {
        let query = sqlx::query(sql::SCHEDULES)
            .bind(page.after.as_deref())
            .bind(wanted(&page.tags))
            .bind(limit(page.limit));
        self.search(query, columns::schedule).await
    }

    async fn due(&self, until: Millis, queues: Queues<'_>, rows: usize) -> Result<Vec<Deadline>> {
        let query = match queues {
            Queues::All => sqlx::query(sql::DUE_ALL).bind(until).bind(limit(rows)),
            Queues::Only(names) => sqlx::query(sql::DUE_ONLY)
                .bind(until)
                .bind(limit(rows))
                .bind(ids(names)),
        };
        self.all(query, columns::deadline).await
    }

    async fn waiting(
        &self,
        queue: &str,
        kind: MessageKind,
        now: Millis,
        after: Option<&QueueCursor>,
        rows: usize,
    ) -> Result<Vec<Waiting>> {
        let (at, id, address) = match after {
            Some((at, id, address)) => (*at, &**id, &**address),
            None => (Millis::MIN, "", ""),
        };
        let statement = match kind {
            MessageKind::Execute => sql::WAITING_EXECUTES,
            MessageKind::Unblock => sql::WAITING_UNBLOCKS,
        };
        let decode = match kind {
            MessageKind::Execute => columns::waiting_execute,
            MessageKind::Unblock => columns::waiting_unblock,
        };
        let page = sqlx::query(statement)
            .bind(queue)
            .bind(now)
            .bind(at)
            .bind(id)
            .bind(address)
            .bind(limit(rows));
        self.all(page, decode).await
    }

    async fn queues(&self, kind: WaitingKind, after: Option<&str>, rows: usize) -> Result<Vec<Id>> {
        let page = |sql| {
            sqlx::query(sql)
                .bind(after.unwrap_or_default())
                .bind(limit(rows))
        };
        let executes = self.all(page(sql::QUEUES_OF_EXECUTES), columns::id).await?;
        let unblocks = match kind {
            WaitingKind::Execute => Vec::new(),
            WaitingKind::Any => self.all(page(sql::QUEUES_OF_UNBLOCKS), columns::id).await?,
        };
        Ok(rows::first_of_both(executes, unblocks, rows))
    }

    async fn waiting_by_address(
        &self,
        queue: &str,
        now: Millis,
        rows: usize,
    ) -> Result<Vec<WaitingCount>> {
        let page = |sql| sqlx::query(sql).bind(queue).bind(now).bind(limit(rows));
        let executes = self.all(page(sql::COUNT_EXECUTES), columns::count).await?;
        let unblocks = self.all(page(sql::COUNT_UNBLOCKS), columns::count).await?;
        Ok(rows::counted(executes, unblocks))
    }

    async fn count_by_state(
        &self,
        kind: Kind,
        after: Option<&str>,
        rows: usize,
    ) -> Result<StateCounts> {
        let statement = match kind {
            Kind::Promise => sql::COUNT_PROMISES,
            Kind::Task => sql::COUNT_TASKS,
            Kind::Schedule => sql::COUNT_SCHEDULES,
        };
        let page = sqlx::query(statement)
            .bind(after.unwrap_or_default())
            .bind(limit(rows));
        let counts = self
            .all(page, |row| columns::state_count(row, kind))
            .await?;
        Ok(rows::state_counts(counts))
    }

    fn pools(&self) -> Vec<Pool> {
        let writer = Pool {
            name: WRITER,
            used: usize::from(self.writer.try_lock().is_err()),
            max: 1,
        };
        vec![writer, self.readers.in_use(), self.searchers.in_use()]
    }

    async fn stale_unblocks(&self, before: Millis, rows: usize) -> Result<Vec<(Id, Id)>> {
        let query = sqlx::query(sql::STALE_UNBLOCKS)
            .bind(before)
            .bind(limit(rows));
        self.all(query, columns::listener_key).await
    }

    async fn dump(&self) -> Result<Dump> {
        let mut connection = self.readers.connection().await?;
        let mut snapshot = connection.begin().await.map_err(|e| classify(&e))?;
        let objects = sqlx::query(sql::DUMP_OBJECTS).fetch_all(&mut *snapshot);
        let objects = objects.await.map_err(|e| classify(&e))?;
        let schedules = sqlx::query(sql::DUMP_SCHEDULES).fetch_all(&mut *snapshot);
        let schedules = schedules.await.map_err(|e| classify(&e))?;
        snapshot.rollback().await.map_err(|e| classify(&e))?;
        Ok(Dump {
            objects: objects.iter().map(columns::object).collect::<Result<_>>()?,
            schedules: schedules
                .iter()
                .map(columns::schedule)
                .collect::<Result<_>>()?,
        })
    }

    async fn reset(&self) -> Result<()> {
        self.writer.lock().await.reset().await
    }

    async fn ping(&self) -> Result<()> {
        // Unlike a bare `SELECT 1`, this reads the file.
        let query = sqlx::query("SELECT 1 FROM sqlite_schema LIMIT 1");
        let mut connection = self.readers.connection().await?;
        let answer = query.execute(&mut *connection).await;
        answer.map(drop).map_err(|e| classify(&e))
    }

    async fn close(&self) {
        // Readers first: the log cannot be truncated under them.
        self.readers.pool.close().await;
        self.searchers.pool.close().await;
        self.writer.lock().await.close().await;
        self.lock.release();
    }
}

#[cfg(test)]
mod tests;
