//! The store in a PostgreSQL database, which any number of servers share.
//!
//! ```text
//!   begin ─> a writer connection: load* (reads, remembers revisions)      revisions.rs
//!                                 commit: one statement                   encode.rs, sql.rs
//!   read, due, …  ─> reader connections                                   links.rs
//!   publish, listen ─> LISTEN/NOTIFY between servers                      bus.rs
//! ```
//!
//! Batches are optimistic: nothing is locked while a batch is decided. Its commit locks what it was
//! decided on, compares it with what was read, and writes, all in one statement; if something changed
//! meanwhile it writes nothing and is a [`Error::Conflict`]. So a batch costs as many round trips as it
//! has loads, and one; and a server that vanishes in the middle leaves no lock behind.

use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use sqlx::Connection;
use sqlx::postgres::{PgArguments, PgRow, Postgres};
use tokio::sync::Semaphore;
use tokio::time::{Instant, sleep};

use crate::machine::object::Object;
use crate::protocol::lineage;
use crate::protocol::record::{Id, Millis, Promise, Schedule, Tags};

use super::columns;
use super::guesses::Guesses;
use super::rows::{self, json, limit};
use super::{
    Changes, Deadline, Dump, Error, Kind, Loaded, MessageKind, Need, Outline, OutlinePage, Pool,
    PromisePage, QueueCursor, Queues, Result, SchedulePage, StateCounts, Store, TREES_MAX,
    TaskPage, Transaction, Waiting, WaitingCount, WaitingKind,
};
use crate::store::bus::Bus;
use bus::PostgresBus;
use links::{Link, Links};
use revisions::Revisions;

mod bus;
mod connect;
mod decode;
mod encode;
mod error;
mod inspect;
mod links;
mod revisions;
mod sql;
mod transfer;

pub use connect::newest_schema;
pub use inspect::Inspection;
pub use transfer::{PostgresFill, PostgresSnapshot};

/// How many batches are under way at once; half of the connections at most.
const WRITERS_MAX: usize = 4;

/// How long a text may be that something is found by: an index entry holds two of them, and 2704 bytes
/// at most.
const KEY_BYTES_MAX: usize = 1000;

/// How long a statement may take, a little longer than the database lets it.
const STATEMENT_MAX: Duration = Duration::from_secs(11);

/// For how long the outcome of a commit is looked for when the connection was lost under it.
const DOUBT_MAX: Duration = Duration::from_secs(10);
const DOUBT_PAUSE: Duration = Duration::from_millis(50);

/// A store in a PostgreSQL database.
pub struct PostgresStore {
    writers: Links,
    writers_max: usize,
    readers: Links,
    bus: Arc<PostgresBus>,
    /// Searches leave some of the readers to others: they may have to look at every row.
    searches: Semaphore,
    guesses: Guesses,
}

impl PostgresStore {
    /// Connects to a database and brings its schema up to date. `pool_size` bounds the connections for
    /// batches and reads (at least one each); listening to other servers takes another.
    ///
    /// # Errors
    /// [`Error::Unusable`] when the database cannot be reached or used; the sentence names it, without
    /// its password.
    pub async fn open(url: &str, pool_size: u32) -> Result<Self> {
        let connect::Opened { options } = connect::open(url).await?;
        let pool_size = usize::try_from(pool_size).unwrap_or(usize::MAX);
        let writers_max = (pool_size / 2).clamp(1, WRITERS_MAX);
        let readers_max = pool_size.saturating_sub(writers_max).max(1);
        let links = |name, links_max| {
            let options = options.clone();
            Links::new(name, options, connect::SETTINGS, STATEMENT_MAX, links_max)
        };
        Ok(PostgresStore {
            writers: links("writers", writers_max),
            writers_max,
            readers: links("readers", readers_max),
            bus: Arc::new(PostgresBus::new(options.clone())),
            searches: Semaphore::new((readers_max / 2).max(1)),
            guesses: Guesses::default(),
        })
    }

    async fn all<T>(&self, query: Query, decode: impl Fn(&PgRow) -> Result<T>) -> Result<Vec<T>> {
        let mut link = self.readers.take().await?;
        all(&mut link, query, decode).await
    }

    /// Runs a query that may look at every row.
    async fn search<T>(
        &self,
        query: Query,
        decode: impl Fn(&PgRow) -> Result<T>,
    ) -> Result<Vec<T>> {
        // The semaphore is never closed.
        let _permit = self.searches.acquire().await;
        self.all(query, decode).await
    }

    async fn is_standby(&self) -> Result<bool> {
        let mut link = self.readers.take().await?;
        let is_standby = link.run(async |connection| {
            sqlx::query_scalar(sql::IS_STANDBY)
                .fetch_one(connection)
                .await
        });
        is_standby.await
    }

    /// Finds out what became of a commit whose connection was lost: it happened if something has its
    /// revision, and otherwise it did not, or has been overwritten. A commit that is still under way is
    /// waited for.
    async fn resolve_doubt(&self, changes: &Changes, rev: i64, reason: String) -> Result<()> {
        let until = Instant::now() + DOUBT_MAX;
        while Instant::now() < until {
            sleep(DOUBT_PAUSE).await;
            match self.has_committed(changes, rev).await {
                Ok(true) => return Ok(()),
                Ok(false) => break,
                Err(_) => {}
            }
        }
        Err(Error::Unavailable(reason))
    }

    async fn has_committed(&self, changes: &Changes, rev: i64) -> Result<bool> {
        let deleted = changes.deleted.iter().map(|object| &*object.promise.id);
        let mut objects: Vec<&str> = deleted.collect();
        let mut born: Vec<&str> = Vec::new();
        for change in &changes.objects {
            let id = &*change.after.promise.id;
            objects.push(id);
            if change.before.is_none() {
                born.push(id);
            }
        }
        let schedules: Vec<&str> = changes.schedules.iter().map(|c| &*c.id).collect();
        // What is deleted has no revision to tell by. If it is gone, it does not matter who did it.
        let is_deletion =
            changes.objects.is_empty() && changes.schedules.iter().all(|c| c.after.is_none());
        let mut link = self.writers.take().await?;
        let found = link.run(async |connection| {
            if !born.is_empty() {
                let mut probe = connection.begin().await?;
                let awaited = sqlx::query(sql::AWAIT_INSERTS).bind(&born);
                awaited.execute(&mut *probe).await?;
                probe.rollback().await?;
            }
            sqlx::query_scalar::<_, bool>(sql::HAS_COMMITTED)
                .bind(rev)
                .bind(&objects)
                .bind(&schedules)
                .bind(is_deletion)
                .fetch_one(connection)
                .await
        });
        found.await
    }
}

type Query = sqlx::query::Query<'static, Postgres, PgArguments>;

async fn all<T>(
    link: &mut Link<'_>,
    query: Query,
    decode: impl Fn(&PgRow) -> Result<T>,
) -> Result<Vec<T>> {
    let rows = link.run(async |connection| query.fetch_all(connection).await);
    rows.await?.iter().map(decode).collect()
}

fn texts<'a>(ids: impl IntoIterator<Item = &'a Id>) -> Vec<String> {
    ids.into_iter().map(ToString::to_string).collect()
}

/// The argument of a tag filter: members as they stand in the column.
fn wanted(tags: &Tags) -> Vec<String> {
    let member = |(name, value)| format!("{}:{}", json(name), json(value));
    rows::wanted(tags).map(member).collect()
}

struct PostgresTransaction<'a> {
    store: &'a PostgresStore,
    link: Link<'a>,
    seen: Revisions,
    has_guessed: bool,
}

#[async_trait]
impl Transaction for PostgresTransaction<'_> {
    async fn load(&mut self, need: &Need) -> Result<Loaded> {
        let mut loaded = Loaded::default();
        if self.store.guesses.may_guess() {
            loaded.guessed = need.births.clone();
            self.has_guessed |= !need.births.is_empty();
        }
        let wanted = need.objects.iter();
        let mut wanted = texts(wanted.filter(|id| !loaded.guessed.contains(*id)));
        if !need.pids.is_empty() {
            let query = sqlx::query(sql::HELD_BY).bind(texts(&need.pids));
            let held = all(&mut self.link, query, columns::id).await?;
            wanted.extend(held.iter().map(ToString::to_string));
        }
        if !need.trees.is_empty() {
            let ranges = need.trees.iter().flat_map(|root| lineage::ranges(root));
            let (from, until): (Vec<String>, Vec<String>) = ranges.unzip();
            let query = sqlx::query(sql::TREE_IDS)
                .bind(from)
                .bind(until)
                .bind(limit(TREES_MAX + 1));
            let ids = all(&mut self.link, query, columns::id).await?;
            loaded.are_trees_cut = ids.len() > TREES_MAX;
            if !loaded.are_trees_cut {
                wanted.extend(ids.iter().map(ToString::to_string));
            }
        }
        self.seen.looked_for(&need.trees, &wanted);
        if !wanted.is_empty() {
            let query = sqlx::query(sql::LOAD_OBJECTS).bind(wanted);
            for object in all(&mut self.link, query, decode::revised_object).await? {
                self.seen.saw_object(&object);
                loaded.objects.push(Arc::new(object.row));
            }
        }
        if !need.branches.is_empty() {
            let branches: Vec<String> = need
                .branches
                .iter()
                .map(|b| encode::searchable(b))
                .collect();
            let query = sqlx::query(sql::LOAD_BRANCHES).bind(branches);
            loaded.branch_members = all(&mut self.link, query, columns::promise).await?;
        }
        if !need.schedules.is_empty() {
            let query = sqlx::query(sql::LOAD_SCHEDULES).bind(texts(&need.schedules));
            for schedule in all(&mut self.link, query, decode::revised_schedule).await? {
                self.seen.saw_schedule(&schedule);
                loaded.schedules.push(schedule.row);
            }
        }
        Ok(loaded)
    }

    async fn commit(self: Box<Self>, changes: &Changes) -> Result<()> {
        let rev = fastrand::i64(1..);
        let Some(commit) = encode::commit(changes, &self.seen, rev)? else {
            return Ok(());
        };
        let PostgresTransaction {
            store,
            mut link,
            has_guessed,
            ..
        } = *self;
        let query = sqlx::query_scalar_with::<_, bool, _>(
            // Put together of constants of this crate, in few combinations: they stay prepared.
            sqlx::AssertSqlSafe(commit.sql),
            commit.arguments,
        );
        let outcome = link
            .run(async |connection| query.fetch_one(connection).await)
            .await;
        let is_conflict = matches!(outcome, Ok(false) | Err(Error::Conflict(_)));
        store.guesses.note(has_guessed && is_conflict);
        match outcome {
            Ok(true) => Ok(()),
            Ok(false) => Err(Error::Conflict(
                "another batch has changed what this one was decided on".to_owned(),
            )),
            Err(Error::Unavailable(reason)) if link.is_lost() => {
                drop(link);
                store.resolve_doubt(changes, rev, reason).await
            }
            Err(error) => Err(error),
        }
    }
}

#[async_trait]
impl Store for PostgresStore {
    fn lanes(&self) -> usize {
        self.writers_max
    }

    fn key_bytes_max(&self) -> Option<usize> {
        Some(KEY_BYTES_MAX)
    }

    fn bus(&self) -> Option<Arc<dyn Bus>> {
        Some(self.bus.clone())
    }

    async fn begin(&self) -> Result<Box<dyn Transaction + '_>> {
        Ok(Box::new(PostgresTransaction {
            store: self,
            link: self.writers.take().await?,
            seen: Revisions::default(),
            has_guessed: false,
        }))
    }

    async fn read(&self, wanted: &[Id]) -> Result<Vec<Arc<Object>>> {
        let query = sqlx::query(sql::READ_OBJECTS).bind(texts(wanted));
        self.all(query, columns::shared_object).await
    }

    async fn read_schedule(&self, id: &str) -> Result<Option<Schedule>> {
        let query = sqlx::query(sql::LOAD_SCHEDULES).bind(vec![id.to_owned()]);
        Ok(self.all(query, columns::schedule).await?.pop())
    }

    async fn promises(&self, page: &PromisePage) -> Result<Vec<Promise>> {
        let query = sqlx::query(sql::PROMISES)
            .bind(page.after.as_deref().map(str::to_owned))
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
            .bind(page.from.clone())
            .bind(page.after.as_deref().map(str::to_owned))
            .bind(limit(page.limit));
        let query = match &page.until {
            Some(until) => query.bind(until.clone()),
            None => query,
        };
        self.all(query, columns::outline).await
    }

    async fn callbacks(&self, after: Option<&(Id, Id)>, rows: usize) -> Result<Vec<(Id, Id)>> {
        let (awaited, awaiter) = after.map_or(("", ""), |(awaited, awaiter)| (awaited, awaiter));
        let query = sqlx::query(sql::CALLBACKS)
            .bind(awaited.to_owned())
            .bind(awaiter.to_owned())
            .bind(limit(rows));
        self.all(query, columns::listener_key).await
    }

    async fn tasks(&self, page: &TaskPage) -> Result<Vec<Object>> {
        let query = sqlx::query(sql::TASKS)
            .bind(page.after.as_deref().map(str::to_owned))
            .bind(page.state.map(|state| state.as_str()))
            .bind(page.or_due)
            .bind(limit(page.limit));
        self.search(query, columns::object).await
    }

    async fn schedules(&self, page: &SchedulePage) -> Result<Vec<Schedule>> {
        let query = sqlx::query(sql::SCHEDULES)
            .bind(page.after.as_deref().map(str::to_owned))
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
                .bind(texts(names)),
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
            .bind(queue.to_owned())
            .bind(now)
            .bind(at)
            .bind(id.to_owned())
            .bind(address.to_owned())
            .bind(limit(rows));
        self.all(page, decode).await
    }

    async fn queues(&self, kind: WaitingKind, after: Option<&str>, rows: usize) -> Result<Vec<Id>> {
        let page = |sql| {
            sqlx::query(sql)
                .bind(after.unwrap_or_default().to_owned())
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
        let page = |sql| {
            sqlx::query(sql)
                .bind(queue.to_owned())
                .bind(now)
                .bind(limit(rows))
        };
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
            .bind(after.unwrap_or_default().to_owned())
            .bind(limit(rows));
        let counts = self
            .all(page, |row| columns::state_count(row, kind))
            .await?;
        Ok(rows::state_counts(counts))
    }

    fn pools(&self) -> Vec<Pool> {
        vec![self.writers.in_use(), self.readers.in_use()]
    }

    async fn stale_unblocks(&self, before: Millis, rows: usize) -> Result<Vec<(Id, Id)>> {
        let query = sqlx::query(sql::STALE_UNBLOCKS)
            .bind(before)
            .bind(limit(rows));
        self.all(query, columns::listener_key).await
    }

    async fn dump(&self) -> Result<Dump> {
        let mut link = self.readers.take().await?;
        let rows = link.run(async |connection| {
            let begin = "BEGIN ISOLATION LEVEL REPEATABLE READ READ ONLY";
            let mut snapshot = connection.begin_with(begin).await?;
            let objects = sqlx::query(sql::DUMP_OBJECTS).fetch_all(&mut *snapshot);
            let objects = objects.await?;
            let schedules = sqlx::query(sql::DUMP_SCHEDULES).fetch_all(&mut *snapshot);
            let schedules = schedules.await?;
            snapshot.rollback().await?;
            Ok((objects, schedules))
        });
        let (objects, schedules) = rows.await?;
        Ok(Dump {
            objects: objects.iter().map(columns::object).collect::<Result<_>>()?,
            schedules: schedules
                .iter()
                .map(columns::schedule)
                .collect::<Result<_>>()?,
        })
    }

    async fn reset(&self) -> Result<()> {
        let mut link = self.readers.take().await?;
        let done = link.run(async |connection| sqlx::query(sql::RESET).execute(connection).await);
        done.await.map(drop)
    }

    async fn ping(&self) -> Result<()> {
        let is_standby = match self.is_standby().await {
            // The connection may only have been an old one.
            Err(_) => self.is_standby().await?,
            Ok(is_standby) => is_standby,
        };
        if is_standby {
            return Err(Error::Unavailable(
                "the database is a standby, which takes no writes".to_owned(),
            ));
        }
        Ok(())
    }

    async fn now(&self) -> Result<Option<Millis>> {
        let mut link = self.readers.take().await?;
        let now =
            link.run(async |connection| sqlx::query_scalar(sql::CLOCK).fetch_one(connection).await);
        now.await.map(Some)
    }

    async fn close(&self) {
        self.bus.close().await;
        self.readers.close().await;
        self.writers.close().await;
    }
}

#[cfg(test)]
mod tests;
