//! A database as lines of JSON, the same bytes whatever database it is taken from.
//!
//! ```text
//!   {"header":{"format":"resonate-archive","version":1,"schema":1,"promises":2,"schedules":1}}
//!   {"promise":{"id":"a",…,"task":{…},"callbacks":["b"],"listeners":{"poll://uni@g/1":{…}}}}
//!   {"promise":{"id":"b",…}}
//!   {"schedule":{"id":"s",…}}
//!   {"trailer":{"counts":{…},"sha256":"…"}}
//! ```
//!
//! Promises come first, then schedules, each ascending bytewise by id; [`line`] has their fields. Instants
//! are absolute. Whatever reads an archive sees at its last line whether it is whole; until then nothing
//! that was read may be made final.

use std::io::{self, BufRead, Write};

use futures_util::TryStreamExt;

use super::transfer::{Counts, Fill, Snapshot};
use super::{Change, Changes, ScheduleChange};
use crate::machine::object::Object;
use crate::protocol::record::Schedule;

mod line;
mod read;
#[cfg(test)]
mod tests;
mod write;

pub use line::Header;
pub use read::Reader;
pub use write::Writer;

/// What the header says.
pub const FORMAT: &str = "resonate-archive";

/// What this release writes, and the newest that it reads.
pub const VERSION: u32 = 1;

/// A batch of an import is closed once it holds so many lines, or bytes of them.
const BATCH_LINES_MAX: usize = 500;
const BATCH_BYTES_SOFT_MAX: usize = 4 << 20;

/// Why an archive was not written or not read.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// It is not as it was written.
    #[error("line {line} of the archive: {reason}")]
    Broken {
        /// Counted from 1.
        line: u64,
        /// What is wrong with it.
        reason: String,
    },
    /// The file cannot be read or written.
    #[error("the archive: {0}")]
    Io(#[from] io::Error),
    /// The database.
    #[error(transparent)]
    Store(#[from] super::Error),
}

/// One promise or schedule.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Record {
    /// A promise with all that hangs on it.
    Object(Box<Object>),
    /// A schedule.
    Schedule(Box<Schedule>),
}

/// How far it is: lines done, and lines in all.
pub type Progress<'a> = &'a mut (dyn FnMut(u64, u64) + Send);

/// Writes everything of a snapshot, of this schema version. Answers how much.
///
/// # Errors
/// When the database cannot be read or the archive cannot be written.
pub async fn export(
    snapshot: &mut dyn Snapshot,
    schema: i64,
    output: impl Write + Send,
    progress: Progress<'_>,
) -> Result<Counts, Error> {
    let counts = snapshot.counts().await?;
    let total = counts.promises + counts.schedules;
    let mut done = 0;
    let mut step = || {
        done += 1;
        progress(done, total);
    };
    let mut writer = Writer::begin(output, schema, &counts)?;
    let mut objects = snapshot.objects();
    while let Some(object) = objects.try_next().await? {
        writer.object(&object)?;
        step();
    }
    drop(objects);
    let mut schedules = snapshot.schedules();
    while let Some(schedule) = schedules.try_next().await? {
        writer.schedule(&schedule)?;
        step();
    }
    drop(schedules);
    writer.end()
}

/// Fills an empty database with an archive, of this schema version at most. Answers how much. If it fails,
/// the database stays empty.
///
/// # Errors
/// When the archive is not whole, or the database does not take what it holds.
pub async fn import(
    mut fill: Box<dyn Fill + '_>,
    schema: i64,
    input: impl BufRead + Send,
    progress: Progress<'_>,
) -> Result<Counts, Error> {
    let mut reader = Reader::begin(input)?;
    let header = reader.header();
    if header.schema > schema {
        return Err(reader.broken(format!(
            "it was taken from a database of schema version {}; this resonate knows {schema}: \
             use a newer one",
            header.schema
        )));
    }
    let total = header.promises + header.schedules;
    let key_bytes_max = fill.key_bytes_max();
    let mut done = 0;
    let mut batch = Batch::default();
    while let Some(record) = reader.next()? {
        if let Some(reason) = key_bytes_max.and_then(|max| record.objection(max)) {
            return Err(reader.broken(reason));
        }
        batch.add(record, reader.line_bytes());
        if batch.is_full() {
            fill.add(&std::mem::take(&mut batch).changes).await?;
        }
        done += 1;
        progress(done, total);
    }
    fill.add(&batch.changes).await?;
    let counts = reader.counts();
    fill.finish(&counts).await?;
    Ok(counts)
}

#[derive(Default)]
struct Batch {
    changes: Changes,
    bytes: usize,
}

impl Batch {
    fn add(&mut self, record: Record, bytes: usize) {
        self.bytes += bytes;
        match record {
            Record::Object(object) => self.changes.objects.push(Change {
                before: None,
                after: (*object).into(),
            }),
            Record::Schedule(schedule) => self.changes.schedules.push(ScheduleChange {
                id: schedule.id.clone(),
                after: Some((*schedule).into()),
            }),
        }
    }

    fn is_full(&self) -> bool {
        let lines = self.changes.objects.len() + self.changes.schedules.len();
        lines >= BATCH_LINES_MAX || self.bytes >= BATCH_BYTES_SOFT_MAX
    }
}

impl Record {
    /// What of it the database cannot find anything by, if a key may be so long.
    fn objection(&self, key_bytes_max: usize) -> Option<String> {
        let is_long = |text: &&str| text.len() > key_bytes_max;
        let (id, key) = match self {
            Record::Schedule(schedule) => (&schedule.id, Some(&*schedule.id).filter(is_long)),
            Record::Object(object) => {
                let promise = &object.promise;
                let pid = object.task.as_ref().and_then(|task| task.pid.as_deref());
                let tags = [promise.tags.branch(), promise.tags.target(), pid];
                let mut keys = std::iter::once(&*promise.id)
                    .chain(tags.into_iter().flatten())
                    .chain(object.callbacks.iter().map(|id| &**id))
                    .chain(object.listeners.keys().map(|address| &**address));
                (&promise.id, keys.find(is_long))
            }
        };
        let key = key?;
        let shown: String = id.chars().take(100).collect();
        Some(format!(
            "{shown:?} has an id or address of {} bytes; this database takes {key_bytes_max}",
            key.len()
        ))
    }
}
