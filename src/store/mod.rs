//! The storage seam: objects in, objects out, no protocol knowledge.
//!
//! A back end keeps objects (promise, task, callbacks, listeners) and schedules, finds them by id and
//! by a few plain columns, and commits sets of changed objects atomically. Every decision was made
//! before it is asked to write, and every record it answers is the stored one, unprojected.
//!
//! ```text
//!   lanes:  begin -> load* -> commit        as many transactions at once as there are lanes
//!   reads:  read, promises, tasks, due …    committed state only, any number at once
//!   moves:  Snapshot, Fill                  all of it, without a server ([`transfer`], [`archive`])
//! ```

pub mod archive;
pub mod bus;
mod columns;
mod guesses;
#[cfg(test)]
pub(crate) mod hooked;
pub mod memory;
pub mod postgres;
pub mod rows;
pub mod sqlite;
#[cfg(test)]
pub(crate) mod suite;
pub mod transfer;

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use async_trait::async_trait;

use self::bus::Bus;
use crate::machine::Input;
use crate::machine::object::Object;
use crate::protocol::record::{Id, Millis, Promise, PromiseState, Schedule, Tags, TaskState};
use crate::protocol::reply::Reply;
use crate::protocol::trace::Trace;
pub use crate::telemetry::metrics::Pool;

/// Why a back end did not do what it was asked. Nothing was written unless said so.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// Busy, out of space, unreachable: the same call may work later. After a commit the outcome is
    /// unknown; every operation is safe to repeat.
    #[error("storage unavailable: {0}")]
    Unavailable(String),
    /// Another batch has changed something that this one was decided on: load and decide anew.
    #[error("conflict: {0}")]
    Conflict(String),
    /// The call can never work: a value too large, a constraint broken.
    #[error("storage refused: {0}")]
    Refused(String),
    /// A stored row does not read as what it should be.
    #[error("corrupt row: {0}")]
    Corrupt(String),
    /// The database cannot be used by this server at all (newer schema, held by another server).
    #[error("{0}")]
    Unusable(String),
}

/// Shorthand for results of this seam.
pub type Result<T> = std::result::Result<T, Error>;

/// What a batch needs to have in its workspace before it can be decided.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Need {
    /// Whole objects by id.
    pub objects: BTreeSet<Id>,
    /// Of these, what is about to be created, unless it is there: a back end that would notice it at the
    /// commit need not look.
    pub births: BTreeSet<Id>,
    /// Preload groups: every promise with this `resonate:branch`.
    pub branches: BTreeSet<Id>,
    /// Schedules by id.
    pub schedules: BTreeSet<Id>,
    /// Whole objects of all tasks that a process holds acquired.
    pub pids: BTreeSet<Id>,
    /// Whole objects of these ids, and of all below them ([`lineage::is_within`]).
    ///
    /// [`lineage::is_within`]: crate::protocol::lineage::is_within
    pub trees: BTreeSet<Id>,
}

impl Need {
    /// Whether nothing is needed.
    pub fn is_empty(&self) -> bool {
        self.objects.is_empty()
            && self.branches.is_empty()
            && self.schedules.is_empty()
            && self.pids.is_empty()
            && self.trees.is_empty()
    }

    /// Adds all of another need.
    pub fn extend(&mut self, other: Need) {
        self.objects.extend(other.objects);
        self.births.extend(other.births);
        self.branches.extend(other.branches);
        self.schedules.extend(other.schedules);
        self.pids.extend(other.pids);
        self.trees.extend(other.trees);
    }
}

/// What was found of a [`Need`]. Ids that do not exist are simply not there.
#[derive(Clone, Debug, Default)]
pub struct Loaded {
    /// The objects found, those of `need.pids` and `need.trees` included.
    pub objects: Vec<Arc<Object>>,
    /// Whether the trees are too large to be loaded at once ([`TREES_MAX`]): some of their objects are missing.
    pub are_trees_cut: bool,
    /// Births that were not looked for, and are taken to be absent. If one is there after all, the commit
    /// that creates it is refused with [`Error::Conflict`], and they are looked for the next time.
    pub guessed: BTreeSet<Id>,
    /// Members of the branches, stored records only, in no particular order.
    pub branch_members: Vec<Promise>,
    /// The schedules found.
    pub schedules: Vec<Schedule>,
}

/// One changed object: what was loaded (none: it did not exist) and what is to be stored.
#[derive(Clone, Debug)]
pub struct Change {
    /// As loaded in this transaction.
    pub before: Option<Arc<Object>>,
    /// As decided.
    pub after: Arc<Object>,
}

/// One changed schedule; `after` none deletes it.
#[derive(Clone, Debug)]
pub struct ScheduleChange {
    /// Which.
    pub id: Id,
    /// As decided.
    pub after: Option<Arc<Schedule>>,
}

/// Objects that [`Need::trees`] may come to.
pub const TREES_MAX: usize = 10_000;

/// Everything a batch decided, to be committed together or not at all.
#[derive(Clone, Debug, Default)]
pub struct Changes {
    /// At most one per id.
    pub objects: Vec<Change>,
    /// At most one per id.
    pub schedules: Vec<ScheduleChange>,
    /// Objects that are no more, as loaded in this transaction; none of them is in `objects`.
    pub deleted: Vec<Arc<Object>>,
}

impl Changes {
    /// Whether there is nothing to write.
    pub fn is_empty(&self) -> bool {
        self.objects.is_empty() && self.schedules.is_empty() && self.deleted.is_empty()
    }
}

/// A batch's transaction: what it loads is committed state, and if anything of that changes before the
/// commit, other than members of branches, the commit is refused with [`Error::Conflict`]. What was absent may
/// be created meanwhile by others; but not before a commit begins that deletes: then what has come up in the trees
/// that were loaded, or was looked for in vain, is a conflict too.
#[async_trait]
pub trait Transaction: Send {
    /// Loads what is needed in a constant number of statements, whatever the size of the need.
    async fn load(&mut self, need: &Need) -> Result<Loaded>;

    /// What was decided on it, one decision after the other, before the changes that come of all of them
    /// are committed. Nothing that is to be stored; for tests that check each decision.
    fn decided(&mut self, _now: Millis, _input: &Input, _reply: &Reply) {}

    /// Makes all changes durable, or none. On return they are on disk as far as the back end's
    /// durability setting promises, and visible to every later read. A commit without changes is free.
    async fn commit(self: Box<Self>, changes: &Changes) -> Result<()>;
}

/// A page of stored promises: ids strictly after `after`, ascending bytewise.
#[derive(Clone, Debug)]
pub struct PromisePage {
    /// Only rows stored in this state, or stored pending with a deadline at or before `or_due`.
    pub state: Option<PromiseState>,
    /// See `state`.
    pub or_due: Option<Millis>,
    /// Only rows with all these tags; of many, a back end need look at a few only, and callers look at
    /// all.
    pub tags: Tags,
    /// Exclusive lower bound.
    pub after: Option<Id>,
    /// At most this many rows.
    pub limit: usize,
}

/// A stored promise without its value and parameter, for those who look at many.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Outline {
    /// With an empty value and parameter.
    pub promise: Promise,
    /// What its task has been told of since it was last acquired.
    pub resumes: BTreeSet<Id>,
}

/// A page of outlines: ids from `from` on, after `after` and before `until`, ascending bytewise.
#[derive(Clone, Debug, Default)]
pub struct OutlinePage {
    /// Inclusive lower bound.
    pub from: String,
    /// Exclusive lower bound.
    pub after: Option<Id>,
    /// Exclusive upper bound.
    pub until: Option<String>,
    /// At most this many rows.
    pub limit: usize,
}

/// A page of objects that have a task (callbacks and listeners are left empty).
#[derive(Clone, Debug)]
pub struct TaskPage {
    /// Only tasks stored in this state, or whose promise is stored pending and due at `or_due`.
    pub state: Option<TaskState>,
    /// See `state`.
    pub or_due: Option<Millis>,
    /// Exclusive lower bound.
    pub after: Option<Id>,
    /// At most this many rows.
    pub limit: usize,
}

/// A page of schedules.
#[derive(Clone, Debug)]
pub struct SchedulePage {
    /// Only schedules whose promise tags contain all these; see [`PromisePage::tags`].
    pub tags: Tags,
    /// Exclusive lower bound.
    pub after: Option<Id>,
    /// At most this many rows.
    pub limit: usize,
}

/// What a deadline is about.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum DeadlineKey {
    /// A promise's timeout, or its task's lease or retry: one step looks at all three.
    Promise(Id),
    /// A schedule's next occurrence.
    Schedule(Id),
    /// The next attempt to deliver an `unblock`: promise id, address.
    Unblock(Id, Id),
}

/// An instant at which a stored object wants a step.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Deadline {
    /// Not before this instant.
    pub at: Millis,
    /// What to look at.
    pub key: DeadlineKey,
}

/// Which queues' task retries and `unblock` attempts a range read covers. A queue is where messages
/// wait for a poll stream or for room ([`crate::protocol::address::queue_of`]); an address that is no
/// longer valid has none, and is always covered.
#[derive(Clone, Copy, Debug)]
pub enum Queues<'a> {
    /// All of them.
    All,
    /// Those that somebody listens to.
    Only(&'a [Id]),
}

/// Where a page of waiting messages starts: after this (instant, id, address).
pub type QueueCursor = (Millis, Id, Id);

/// A message that waits in a queue for a stream to open.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Waiting {
    /// A pending task whose latest offer may have met nobody.
    Execute {
        /// The task.
        id: Id,
        /// Its current version.
        version: i64,
        /// Its target.
        address: Id,
        /// Its next retry.
        retry_at: Millis,
        /// See [`Object::trace`].
        trace: Option<Arc<Trace>>,
    },
    /// An `unblock` not yet delivered.
    Unblock {
        /// The settled promise.
        promise: Promise,
        /// The listener.
        address: Id,
        /// Its next attempt.
        retry_at: Millis,
        /// Whether the one before failed.
        is_backing_off: bool,
    },
}

impl Waiting {
    /// Where it stands among those of its kind in its queue: the cursor of a page that starts after it.
    pub fn position(&self) -> QueueCursor {
        match self {
            Waiting::Execute {
                id,
                address,
                retry_at,
                ..
            } => (*retry_at, id.clone(), address.clone()),
            Waiting::Unblock {
                promise,
                address,
                retry_at,
                is_backing_off: _,
            } => (*retry_at, promise.id.clone(), address.clone()),
        }
    }
}

impl Waiting {
    /// Whether it failed, and the pause after that is not over.
    pub fn is_pausing(&self, now: Millis) -> bool {
        matches!(self, Waiting::Unblock { is_backing_off: true, retry_at, .. } if *retry_at > now)
    }
}

/// What kind of messages.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum MessageKind {
    /// Tasks.
    Execute,
    /// `unblock` messages.
    Unblock,
}

/// Which waiting messages make a queue count.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum WaitingKind {
    /// Tasks.
    Execute,
    /// Tasks and `unblock` messages.
    Any,
}

/// How much waits for an address.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct WaitingCount {
    /// The address.
    pub address: Id,
    /// Tasks.
    pub executes: usize,
    /// `unblock` messages.
    pub unblocks: usize,
    /// When the first of them was offered.
    pub since: Millis,
}

/// What there may be millions of.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// Promises, by [`PromiseState`].
    Promise,
    /// Tasks, by [`TaskState`].
    Task,
    /// Schedules, all of which are `active`.
    Schedule,
}

impl Kind {
    /// All of them.
    pub const ALL: [Kind; 3] = [Kind::Promise, Kind::Task, Kind::Schedule];

    /// As metrics name it.
    pub fn as_str(self) -> &'static str {
        match self {
            Kind::Promise => "promise",
            Kind::Task => "task",
            Kind::Schedule => "schedule",
        }
    }

    /// The states of it.
    pub fn states(self) -> &'static [&'static str] {
        match self {
            Kind::Promise => {
                const {
                    &[
                        PromiseState::Pending.as_str(),
                        PromiseState::Resolved.as_str(),
                        PromiseState::Rejected.as_str(),
                        PromiseState::RejectedCanceled.as_str(),
                        PromiseState::RejectedTimedout.as_str(),
                    ]
                }
            }
            Kind::Task => {
                const {
                    &[
                        TaskState::Pending.as_str(),
                        TaskState::Acquired.as_str(),
                        TaskState::Suspended.as_str(),
                        TaskState::Halted.as_str(),
                        TaskState::Fulfilled.as_str(),
                    ]
                }
            }
            Kind::Schedule => &["active"],
        }
    }
}

/// A page of what is stored, counted.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct StateCounts {
    /// How many, by state.
    pub by_state: BTreeMap<&'static str, usize>,
    /// The last of them: where the next page starts.
    pub last: Option<Id>,
}

/// Everything stored, for `debug.snap`, for the model tests and for tools. Ordered by id.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Dump {
    /// All objects.
    pub objects: Vec<Object>,
    /// All schedules.
    pub schedules: Vec<Schedule>,
}

/// A storage back end.
#[async_trait]
pub trait Store: Send + Sync + 'static {
    /// How many transactions there may be at once; more wait.
    fn lanes(&self) -> usize {
        1
    }

    /// How long a text may be, in bytes, that something is found by: an id, an address; none if any may.
    fn key_bytes_max(&self) -> Option<usize> {
        None
    }

    /// How to reach the other servers that use the same database at the same time; none if there can be
    /// no others.
    fn bus(&self) -> Option<Arc<dyn Bus>> {
        None
    }

    /// Starts the transaction of one batch.
    async fn begin(&self) -> Result<Box<dyn Transaction + '_>>;

    /// Loads objects outside any batch, for reads. Callbacks and listeners may be left empty.
    async fn read(&self, ids: &[Id]) -> Result<Vec<Arc<Object>>>;

    /// Reads one schedule.
    async fn read_schedule(&self, id: &str) -> Result<Option<Schedule>>;

    /// Reads a page of promises.
    async fn promises(&self, page: &PromisePage) -> Result<Vec<Promise>>;

    /// Reads a page of outlines.
    async fn outlines(&self, page: &OutlinePage) -> Result<Vec<Outline>>;

    /// Reads a page of callbacks after `after`, by (awaited, awaiter).
    async fn callbacks(&self, after: Option<&(Id, Id)>, limit: usize) -> Result<Vec<(Id, Id)>>;

    /// Reads a page of objects with tasks.
    async fn tasks(&self, page: &TaskPage) -> Result<Vec<Object>>;

    /// Reads a page of schedules.
    async fn schedules(&self, page: &SchedulePage) -> Result<Vec<Schedule>>;

    /// The earliest deadlines at or before `until`, ascending by instant; at most `limit` of them.
    /// A promise may appear more than once (timeout and lease).
    async fn due(&self, until: Millis, queues: Queues<'_>, limit: usize) -> Result<Vec<Deadline>>;

    /// Messages of a kind waiting in `queue` whose offer is at or before `now`, after `after`, ascending by
    /// (retry instant, id, address); at most `limit` of them.
    async fn waiting(
        &self,
        queue: &str,
        kind: MessageKind,
        now: Millis,
        after: Option<&QueueCursor>,
        limit: usize,
    ) -> Result<Vec<Waiting>>;

    /// The queues after `after` that tasks are pending or `unblock` messages undelivered in, ascending; at
    /// most `limit` of them. Costs as much as there are queues, not messages.
    async fn queues(&self, kind: WaitingKind, after: Option<&str>, limit: usize)
    -> Result<Vec<Id>>;

    /// How much waits in `queue` since `now` or before, by address. Counts among the first `limit` tasks and
    /// the first `limit` `unblock` messages, by retry instant.
    async fn waiting_by_address(
        &self,
        queue: &str,
        now: Millis,
        limit: usize,
    ) -> Result<Vec<WaitingCount>>;

    /// Counts the first `limit` of a kind after `after`, by id, as they are stored.
    async fn count_by_state(
        &self,
        kind: Kind,
        after: Option<&str>,
        limit: usize,
    ) -> Result<StateCounts>;

    /// Connections to the database, as they are used at this moment.
    fn pools(&self) -> Vec<Pool> {
        Vec::new()
    }

    /// `unblock` messages enqueued at or before `before`, to be given up: (promise id, address).
    async fn stale_unblocks(&self, before: Millis, limit: usize) -> Result<Vec<(Id, Id)>>;

    /// Everything, in one consistent read. For debugging and tests: memory grows with the data.
    async fn dump(&self) -> Result<Dump>;

    /// Deletes everything (`debug.reset`).
    async fn reset(&self) -> Result<()>;

    /// Whether the back end answers (`GET /ready`).
    async fn ping(&self) -> Result<()>;

    /// What the clock says that all servers of a shared database go by; none if there is no such clock.
    async fn now(&self) -> Result<Option<Millis>> {
        Ok(None)
    }

    /// Flushes and closes. Nothing may be asked afterwards.
    async fn close(&self);
}
