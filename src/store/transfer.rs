//! Whole databases: read from end to end as they are at one instant, and filled while nobody uses them.
//!
//! ```text
//!   Snapshot ──objects, schedules──> archive (a file) ──batches──> Fill ──finish──> a database
//! ```
//!
//! Neither holds more than a few rows in memory, however much is stored.

use async_trait::async_trait;
use futures_util::stream::BoxStream;
use serde::{Deserialize, Serialize};

use super::{Changes, Error, Result};
use crate::machine::object::Object;
use crate::protocol::record::Schedule;

/// How much is stored, by kind.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
#[allow(missing_docs, reason = "named after the tables")]
pub struct Counts {
    pub promises: u64,
    pub tasks: u64,
    pub callbacks: u64,
    pub listeners: u64,
    pub schedules: u64,
}

impl Counts {
    /// Counts an object.
    pub fn add(&mut self, object: &Object) {
        self.promises += 1;
        self.tasks += u64::from(object.task.is_some());
        self.callbacks += object.callbacks.len() as u64;
        self.listeners += object.listeners.len() as u64;
    }

    /// Whether there is nothing.
    pub fn is_empty(&self) -> bool {
        *self == Counts::default()
    }

    /// From a count of each table, in the order of the fields.
    pub(super) fn of(counts: [i64; 5]) -> Counts {
        let [promises, tasks, callbacks, listeners, schedules] =
            counts.map(|count| u64::try_from(count).unwrap_or(0));
        Counts {
            promises,
            tasks,
            callbacks,
            listeners,
            schedules,
        }
    }

    /// Refuses to fill what is not empty.
    ///
    /// # Errors
    /// [`Error::Unusable`], with what there is.
    pub(super) fn expect_empty(&self, place: &str) -> Result<()> {
        if self.is_empty() {
            return Ok(());
        }
        Err(Error::Unusable(format!(
            "the database {place} is not empty: it holds {} promises and {} schedules",
            self.promises, self.schedules
        )))
    }

    /// Compares what is stored in the end with what there should be.
    ///
    /// # Errors
    /// [`Error::Corrupt`], with both.
    pub(super) fn expect(&self, expected: &Counts) -> Result<()> {
        if self == expected {
            return Ok(());
        }
        Err(Error::Corrupt(format!(
            "the database holds {self:?} in place of {expected:?}"
        )))
    }
}

/// Everything that is stored, as it is at the instant when the snapshot is made, whatever is written
/// meanwhile.
#[async_trait]
pub trait Snapshot: Send {
    /// How much there is.
    async fn counts(&mut self) -> Result<Counts>;

    /// All objects, ascending bytewise by id. Rows are read as they are asked for.
    fn objects(&mut self) -> BoxStream<'_, Result<Object>>;

    /// All schedules, in the same way.
    fn schedules(&mut self) -> BoxStream<'_, Result<Schedule>>;

    /// Lets go of it.
    async fn close(self: Box<Self>);
}

/// An empty database, closed to servers, that is being filled. Dropped before it is finished, or ended
/// with its process, it leaves the database empty.
#[async_trait]
pub trait Fill: Send {
    /// How long a text may be, in bytes, that something is found by; none if any may.
    fn key_bytes_max(&self) -> Option<usize> {
        None
    }

    /// Adds what is not there yet: objects without a `before`, and schedules.
    async fn add(&mut self, batch: &Changes) -> Result<()>;

    /// Makes everything that was added durable and visible at once, if it is as much as expected.
    async fn finish(self: Box<Self>, expected: &Counts) -> Result<()>;
}
