//! Objects as rows and rows as objects: what every SQL back end shares.
//!
//! [`RowChanges`] splits the changed objects of a batch into row sets, one per table and kind of
//! change, so that a back end writes each table once per batch. The `*Columns` types are the way
//! back: a back end fills them from a result row and they check every column on decoding. Nothing
//! here knows a database.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use crate::machine::object::{Listener, Object, Task};
use crate::protocol::address::queue_of;
use crate::protocol::record::{
    Id, Millis, Promise, PromiseState, Schedule, Tags, TaskState, Value,
};
use crate::protocol::trace::Trace;

use super::{Changes, Error, Result, StateCounts, WaitingCount};

/// The rows that a batch changes. Sets of one table name different keys.
#[derive(Debug, Default)]
pub struct RowChanges<'a> {
    /// Promises that did not exist.
    pub promises_inserted: Vec<PromiseRow<'a>>,
    /// Promises of which a mutable column changed.
    pub promises_updated: Vec<PromiseUpdate<'a>>,
    /// Tasks that are new or changed.
    pub tasks_upserted: Vec<TaskRow<'a>>,
    /// New callbacks.
    pub callbacks_inserted: Vec<CallbackRow<'a>>,
    /// Consumed callbacks.
    pub callbacks_deleted: Vec<CallbackRow<'a>>,
    /// Listeners that are new or changed.
    pub listeners_upserted: Vec<ListenerRow<'a>>,
    /// Listeners that were told, or given up: (promise id, address).
    pub listeners_deleted: Vec<(&'a str, &'a str)>,
    /// Schedules that are new or changed.
    pub schedules_upserted: Vec<&'a Schedule>,
    /// Ids of deleted schedules.
    pub schedules_deleted: Vec<&'a str>,
    /// Ids of deleted tasks.
    pub tasks_deleted: Vec<&'a str>,
    /// Ids of deleted promises.
    pub promises_deleted: Vec<&'a str>,
}

/// A whole row of `promises`.
#[derive(Debug)]
pub struct PromiseRow<'a> {
    /// The record.
    pub promise: &'a Promise,
    /// See [`Object::armed`].
    pub armed: bool,
}

/// The columns of `promises` that may change after birth.
#[derive(Debug)]
pub struct PromiseUpdate<'a> {
    /// Key.
    pub id: &'a str,
    /// New state.
    pub state: &'static str,
    /// New value, as JSON text.
    pub value: &'a str,
    /// New settlement instant.
    pub settled_at: Option<Millis>,
    /// See [`Object::armed`].
    pub armed: bool,
}

/// A whole row of `tasks`.
#[derive(Debug)]
pub struct TaskRow<'a> {
    /// Key: the promise's id.
    pub id: &'a str,
    /// The task.
    pub task: &'a Task,
    /// The promise's target, immutable.
    pub target: &'a str,
    /// Where its `execute` waits for a stream, immutable.
    pub queue: Option<Id>,
    /// See [`Object::trace`].
    pub trace: Option<&'a Trace>,
}

impl TaskRow<'_> {
    /// The column `traceparent`.
    pub fn traceparent(&self) -> Option<String> {
        self.trace.map(Trace::to_string)
    }

    /// The column `resumes`: a JSON array of ids.
    pub fn resumes(&self) -> String {
        json(&self.task.resumes)
    }
}

/// A whole row of `callbacks`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct CallbackRow<'a> {
    /// The promise that is waited for.
    pub awaited: &'a str,
    /// The task to resume.
    pub awaiter: &'a str,
}

/// A whole row of `listeners`.
#[derive(Debug)]
pub struct ListenerRow<'a> {
    /// Key: the promise.
    pub promise_id: &'a str,
    /// Key: who is to be told.
    pub address: &'a str,
    /// Where its `unblock` waits for a stream, immutable.
    pub queue: Option<Id>,
    /// The rest.
    pub listener: &'a Listener,
}

impl<'a> RowChanges<'a> {
    /// Splits the changes of a batch.
    pub fn of(changes: &'a Changes) -> Self {
        let mut rows = RowChanges::default();
        for change in &changes.objects {
            rows.add_object(change.before.as_deref(), &change.after);
        }
        for object in &changes.deleted {
            rows.delete_object(object);
        }
        for change in &changes.schedules {
            match &change.after {
                Some(schedule) => rows.schedules_upserted.push(schedule),
                None => rows.schedules_deleted.push(&change.id),
            }
        }
        rows
    }

    fn add_object(&mut self, before: Option<&'a Object>, after: &'a Object) {
        self.add_promise(before, after);
        self.add_task(before, after);
        self.add_callbacks(before, after);
        self.add_listeners(before, after);
    }

    fn delete_object(&mut self, object: &'a Object) {
        let id = &*object.promise.id;
        let callbacks = object.callbacks.iter();
        self.callbacks_deleted
            .extend(callbacks.map(|awaiter| CallbackRow {
                awaited: id,
                awaiter,
            }));
        let listeners = object.listeners.keys();
        self.listeners_deleted
            .extend(listeners.map(|address| (id, &**address)));
        if object.task.is_some() {
            self.tasks_deleted.push(id);
        }
        self.promises_deleted.push(id);
    }

    fn add_promise(&mut self, before: Option<&Object>, after: &'a Object) {
        let promise = &after.promise;
        let armed = after.armed;
        let Some(before) = before else {
            self.promises_inserted.push(PromiseRow { promise, armed });
            return;
        };
        debug_assert_eq!(before.promise.id, promise.id);
        debug_assert_eq!(before.promise.timeout_at, promise.timeout_at);
        let is_unchanged = before.promise.state == promise.state
            && before.promise.settled_at == promise.settled_at
            && before.armed == armed
            && before.promise.value == promise.value;
        if !is_unchanged {
            self.promises_updated.push(PromiseUpdate {
                id: &promise.id,
                state: promise.state.as_str(),
                value: promise.value.as_json(),
                settled_at: promise.settled_at,
                armed,
            });
        }
    }

    fn add_task(&mut self, before: Option<&Object>, after: &'a Object) {
        let known = before.and_then(|object| object.task.as_ref());
        let Some(task) = after.task.as_ref().filter(|task| known != Some(*task)) else {
            // A task lives as long as its promise.
            debug_assert!(after.task.is_some() || known.is_none());
            return;
        };
        let target = after.promise.tags.target().unwrap_or_default();
        self.tasks_upserted.push(TaskRow {
            id: &after.promise.id,
            task,
            target,
            queue: queue_of(target),
            trace: after.trace.as_deref(),
        });
    }

    fn add_callbacks(&mut self, before: Option<&'a Object>, after: &'a Object) {
        static NONE: BTreeSet<Id> = BTreeSet::new();
        let known = before.map_or(&NONE, |object| &object.callbacks);
        let awaited = &*after.promise.id;
        let row = |awaiter: &'a Id| CallbackRow { awaited, awaiter };
        self.callbacks_inserted
            .extend(after.callbacks.difference(known).map(row));
        self.callbacks_deleted
            .extend(known.difference(&after.callbacks).map(row));
    }

    fn add_listeners(&mut self, before: Option<&'a Object>, after: &'a Object) {
        static NONE: BTreeMap<Id, Listener> = BTreeMap::new();
        let known = before.map_or(&NONE, |object| &object.listeners);
        let promise_id = &*after.promise.id;
        for (address, listener) in &after.listeners {
            if known.get(address) != Some(listener) {
                self.listeners_upserted.push(ListenerRow {
                    promise_id,
                    address,
                    queue: queue_of(address),
                    listener,
                });
            }
        }
        for address in known.keys() {
            if !after.listeners.contains_key(address) {
                self.listeners_deleted.push((promise_id, address));
            }
        }
    }
}

/// Encodes what holds only strings and numbers: JSON columns.
pub fn json<T: serde::Serialize + ?Sized>(value: &T) -> String {
    serde_json::to_string(value).expect("strings and numbers always serialise")
}

/// How many tags, and bytes of them, a statement looks for: each costs a walk through the tags of
/// every row.
const WANTED_TAGS_MAX: usize = 16;
const WANTED_BYTES_MAX: usize = 4096;

/// The tags that a search has its statement look for; see [`super::PromisePage::tags`].
pub fn wanted(tags: &Tags) -> impl Iterator<Item = (&str, &str)> {
    let mut bytes = 0;
    tags.iter()
        .take(WANTED_TAGS_MAX)
        .take_while(move |(name, value)| {
            bytes += name.len() + value.len();
            bytes <= WANTED_BYTES_MAX
        })
}

/// The argument of a `LIMIT`.
pub fn limit(rows: usize) -> i64 {
    i64::try_from(rows).unwrap_or(i64::MAX)
}

/// The columns of a promise record, as read.
#[derive(Clone, Copy, Debug)]
#[allow(
    missing_docs,
    reason = "named after the columns and the record's fields"
)]
pub struct PromiseColumns<'r> {
    pub id: &'r str,
    pub state: &'r str,
    pub timeout_at: Millis,
    pub created_at: Millis,
    pub settled_at: Option<Millis>,
    pub tags: &'r str,
    pub value: &'r str,
    pub param: &'r str,
}

/// The columns of a task, as read.
#[derive(Clone, Copy, Debug)]
#[allow(
    missing_docs,
    reason = "named after the columns and the object's fields"
)]
pub struct TaskColumns<'r> {
    pub state: &'r str,
    pub version: i64,
    pub pid: Option<&'r str>,
    pub ttl: Option<Millis>,
    pub expires_at: Option<Millis>,
    pub retry_at: Option<Millis>,
    pub offer_at: Option<Millis>,
    pub claimed_at: Option<Millis>,
    pub releases: i64,
    pub resumes: &'r str,
    pub traceparent: Option<&'r str>,
}

/// The columns of a whole object, as read.
#[derive(Clone, Copy, Debug)]
pub struct ObjectColumns<'r> {
    /// The record.
    pub promise: PromiseColumns<'r>,
    /// See [`Object::armed`].
    pub armed: bool,
    /// None where the promise has no task.
    pub task: Option<TaskColumns<'r>>,
    /// JSON array of awaiter ids.
    pub callbacks: &'r str,
    /// JSON array of `[address, enqueued_at, retry_at, attempts]`.
    pub listeners: &'r str,
}

/// The columns of a schedule, as read.
#[derive(Clone, Copy, Debug)]
#[allow(
    missing_docs,
    reason = "named after the columns and the record's fields"
)]
pub struct ScheduleColumns<'r> {
    pub id: &'r str,
    pub cron: &'r str,
    pub promise_id: &'r str,
    pub promise_timeout: Millis,
    pub promise_param: &'r str,
    pub promise_tags: &'r str,
    pub created_at: Millis,
    pub next_run_at: Millis,
    pub last_run_at: Option<Millis>,
}

impl PromiseColumns<'_> {
    /// Checks and decodes.
    ///
    /// # Errors
    /// [`Error::Corrupt`], naming the column and the id.
    pub fn decode(&self) -> Result<Promise> {
        let at = Place("promises", self.id);
        Ok(Promise {
            id: self.id.into(),
            state: PromiseState::parse(self.state)
                .ok_or_else(|| at.corrupt("state", self.state))?,
            param: at.value("param", self.param)?,
            value: at.value("value", self.value)?,
            tags: at.tags("tags", self.tags)?,
            timeout_at: self.timeout_at,
            created_at: self.created_at,
            settled_at: self.settled_at,
        })
    }
}

impl TaskColumns<'_> {
    fn decode(&self, id: &str) -> Result<Task> {
        let at = Place("tasks", id);
        Ok(Task {
            state: TaskState::parse(self.state).ok_or_else(|| at.corrupt("state", self.state))?,
            version: self.version,
            resumes: resumes_of(id, self.resumes)?,
            pid: self.pid.map(Id::from),
            ttl: self.ttl,
            expires_at: self.expires_at,
            retry_at: self.retry_at,
            offer_at: self.offer_at,
            claimed_at: self.claimed_at,
            releases: u32::try_from(self.releases).map_err(|e| at.corrupt("releases", e))?,
        })
    }
}

impl ObjectColumns<'_> {
    /// Checks and decodes.
    ///
    /// # Errors
    /// [`Error::Corrupt`], naming the table, the column and the id.
    pub fn decode(&self) -> Result<Object> {
        type ListenerEntry = (Id, Option<Millis>, Option<Millis>, u32);
        let id = self.promise.id;
        let listeners: Vec<ListenerEntry> =
            Place("listeners", id).json("address", self.listeners)?;
        Ok(Object {
            promise: self.promise.decode()?,
            armed: self.armed,
            callbacks: Place("callbacks", id).json("awaiter", self.callbacks)?,
            listeners: listeners
                .into_iter()
                .map(|(address, enqueued_at, retry_at, attempts)| {
                    let listener = Listener {
                        enqueued_at,
                        retry_at,
                        attempts,
                    };
                    (address, listener)
                })
                .collect(),
            task: self.task.map(|task| task.decode(id)).transpose()?,
            trace: trace(self.task.and_then(|task| task.traceparent)),
        })
    }
}

impl ScheduleColumns<'_> {
    /// Checks and decodes.
    ///
    /// # Errors
    /// [`Error::Corrupt`], naming the column and the id.
    pub fn decode(&self) -> Result<Schedule> {
        let at = Place("schedules", self.id);
        Ok(Schedule {
            id: self.id.into(),
            cron: self.cron.into(),
            promise_id: self.promise_id.into(),
            promise_timeout: self.promise_timeout,
            promise_param: at.value("promise_param", self.promise_param)?,
            promise_tags: at.tags("promise_tags", self.promise_tags)?,
            created_at: self.created_at,
            next_run_at: self.next_run_at,
            last_run_at: self.last_run_at,
        })
    }
}

/// Checks and decodes the column `resumes` of a task.
///
/// # Errors
/// [`Error::Corrupt`], naming the column and the id.
pub fn resumes_of(id: &str, resumes: &str) -> Result<BTreeSet<Id>> {
    Place("tasks", id).json("resumes", resumes)
}

/// Reads the column `traceparent`. No workflow is to fail for what is only told about it: a text that is
/// none is taken for none.
pub fn trace(text: Option<&str>) -> Option<Arc<Trace>> {
    text?.parse().ok().map(Arc::new)
}

/// Table and id of a row under decoding.
#[derive(Clone, Copy)]
struct Place<'r>(&'static str, &'r str);

impl Place<'_> {
    fn corrupt(&self, column: &str, detail: impl std::fmt::Display) -> Error {
        let Place(table, id) = self;
        Error::Corrupt(format!("{table}.{column} of {id:?}: {detail}"))
    }

    fn json<T: serde::de::DeserializeOwned>(&self, column: &str, text: &str) -> Result<T> {
        serde_json::from_str(text).map_err(|e| self.corrupt(column, e))
    }

    fn value(&self, column: &str, text: &str) -> Result<Value> {
        if text == Value::empty().as_json() {
            return Ok(Value::empty());
        }
        Value::from_json(text.to_owned()).map_err(|e| self.corrupt(column, e))
    }

    fn tags(&self, column: &str, text: &str) -> Result<Tags> {
        self.json(column, text)
    }
}

/// The first of two ascending pages, each name once.
pub fn first_of_both(some: Vec<Id>, others: Vec<Id>, limit: usize) -> Vec<Id> {
    let all: BTreeSet<Id> = some.into_iter().chain(others).collect();
    all.into_iter().take(limit).collect()
}

/// Counts of states as one page.
pub fn state_counts(counts: impl IntoIterator<Item = (&'static str, usize, Id)>) -> StateCounts {
    let mut page = StateCounts::default();
    for (state, count, last) in counts {
        *page.by_state.entry(state).or_default() += count;
        page.last = page.last.max(Some(last));
    }
    page
}

/// Puts together how many executes and how many unblocks wait for each address, and since when.
pub fn counted(
    executes: Vec<(Id, usize, Millis)>,
    unblocks: Vec<(Id, usize, Millis)>,
) -> Vec<WaitingCount> {
    let mut counts: BTreeMap<Id, WaitingCount> = BTreeMap::new();
    let executes = executes
        .into_iter()
        .map(|(address, n, at)| (address, n, 0, at));
    let unblocks = unblocks
        .into_iter()
        .map(|(address, n, at)| (address, 0, n, at));
    for (address, executes, unblocks, since) in executes.chain(unblocks) {
        let count = counts.entry(address.clone()).or_insert(WaitingCount {
            address,
            executes: 0,
            unblocks: 0,
            since,
        });
        count.executes += executes;
        count.unblocks += unblocks;
        count.since = count.since.min(since);
    }
    counts.into_values().collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    const PROMISE: PromiseColumns<'_> = PromiseColumns {
        id: "p",
        state: "pending",
        timeout_at: 2,
        created_at: 1,
        settled_at: None,
        tags: "{}",
        value: "{}",
        param: "{}",
    };
    const TASK: TaskColumns<'_> = TaskColumns {
        state: "halted",
        version: 0,
        pid: None,
        ttl: None,
        expires_at: None,
        retry_at: None,
        offer_at: None,
        claimed_at: None,
        releases: 0,
        resumes: "[]",
        traceparent: None,
    };

    fn object(promise: PromiseColumns<'_>, task: TaskColumns<'_>, listeners: &str) -> String {
        let columns = ObjectColumns {
            promise,
            armed: false,
            task: Some(task),
            callbacks: "[]",
            listeners,
        };
        match columns.decode() {
            Ok(_) => "fine".to_owned(),
            Err(error) => error.to_string(),
        }
    }

    #[test]
    fn every_bad_column_is_named_with_its_table_and_row() {
        assert_eq!(object(PROMISE, TASK, "[]"), "fine");
        let with = |change: fn(&mut PromiseColumns<'_>)| {
            let mut promise = PROMISE;
            change(&mut promise);
            object(promise, TASK, "[]")
        };
        assert_eq!(
            with(|p| p.state = "x"),
            "corrupt row: promises.state of \"p\": x"
        );
        assert!(with(|p| p.param = "{").starts_with("corrupt row: promises.param of \"p\": "));
        assert!(with(|p| p.value = "").starts_with("corrupt row: promises.value of \"p\": "));
        assert!(with(|p| p.tags = "[]").starts_with("corrupt row: promises.tags of \"p\": "));
        let with = |change: fn(&mut TaskColumns<'_>)| {
            let mut task = TASK;
            change(&mut task);
            object(PROMISE, task, "[]")
        };
        assert_eq!(
            with(|t| t.state = ""),
            "corrupt row: tasks.state of \"p\": "
        );
        assert!(with(|t| t.releases = -1).starts_with("corrupt row: tasks.releases of \"p\": "));
        assert!(with(|t| t.resumes = "{}").starts_with("corrupt row: tasks.resumes of \"p\": "));
        assert!(object(PROMISE, TASK, r#"[["a",1,1,-1]]"#).contains("listeners.address"));
    }
}
