//! The lines of an archive, and how an object becomes one and comes back.
//!
//! A field that is not set is left out, and one that is not known is refused: it comes from a newer
//! release, and to drop it would lose what it says. Fields stand in the order of these types. To add one,
//! add it here, optional and left out while it is not set: then older archives stay readable.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use serde::{Deserialize, Serialize};

use crate::machine::object::{Listener, Object, Task};
use crate::protocol::record::{
    Id, Millis, Promise, PromiseState, Schedule, Tags, TaskState, Value,
};
use crate::protocol::trace::Trace;
use crate::store::transfer::Counts;

/// One line, by its only member.
#[derive(Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub enum Line {
    Header(Header),
    Promise(Box<PromiseLine>),
    Schedule(Box<ScheduleLine>),
    Trailer(Trailer),
}

/// The first line.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Header {
    /// [`super::FORMAT`].
    pub format: String,
    /// [`super::VERSION`].
    pub version: u32,
    /// The schema version of the database that it was taken from.
    pub schema: i64,
    /// How many lines of promises follow.
    pub promises: u64,
    /// How many lines of schedules follow these.
    pub schedules: u64,
}

/// The last line.
#[derive(Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Trailer {
    /// How much the lines before it hold.
    pub counts: Counts,
    /// SHA-256 of all bytes before this line, in hexadecimal.
    pub sha256: String,
}

/// A promise with all that hangs on it.
#[derive(Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct PromiseLine {
    id: Id,
    state: PromiseState,
    timeout_at: Millis,
    created_at: Millis,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    settled_at: Option<Millis>,
    armed: bool,
    tags: Tags,
    param: Value,
    value: Value,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    task: Option<TaskLine>,
    #[serde(default, skip_serializing_if = "BTreeSet::is_empty")]
    callbacks: BTreeSet<Id>,
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    listeners: BTreeMap<Id, ListenerLine>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    trace: Option<Arc<Trace>>,
}

/// Its target is a tag of the promise.
#[derive(Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
struct TaskLine {
    state: TaskState,
    version: i64,
    #[serde(default, skip_serializing_if = "BTreeSet::is_empty")]
    resumes: BTreeSet<Id>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pid: Option<Id>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    ttl: Option<Millis>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    expires_at: Option<Millis>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    claimed_at: Option<Millis>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    retry_at: Option<Millis>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    offer_at: Option<Millis>,
    #[serde(default, skip_serializing_if = "is_zero")]
    releases: u32,
}

#[derive(Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
struct ListenerLine {
    #[serde(default, skip_serializing_if = "Option::is_none")]
    enqueued_at: Option<Millis>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    retry_at: Option<Millis>,
    #[serde(default, skip_serializing_if = "is_zero")]
    attempts: u32,
}

/// A schedule.
#[derive(Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct ScheduleLine {
    id: Id,
    cron: Id,
    promise_id: Id,
    promise_timeout: Millis,
    promise_tags: Tags,
    promise_param: Value,
    created_at: Millis,
    next_run_at: Millis,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    last_run_at: Option<Millis>,
}

#[allow(
    clippy::trivially_copy_pass_by_ref,
    reason = "serde hands out references"
)]
fn is_zero(number: &u32) -> bool {
    *number == 0
}

// All fields are named below: one that is added to an object is to be added to the archive.

impl From<&Object> for PromiseLine {
    fn from(object: &Object) -> Self {
        let Object {
            promise,
            armed,
            callbacks,
            listeners,
            task,
            trace,
        } = object;
        let Promise {
            id,
            state,
            param,
            value,
            tags,
            timeout_at,
            created_at,
            settled_at,
        } = promise;
        let listeners = listeners.iter();
        PromiseLine {
            id: id.clone(),
            state: *state,
            timeout_at: *timeout_at,
            created_at: *created_at,
            settled_at: *settled_at,
            armed: *armed,
            tags: tags.clone(),
            param: param.clone(),
            value: value.clone(),
            task: task.as_ref().map(TaskLine::from),
            callbacks: callbacks.clone(),
            listeners: listeners
                .map(|(address, listener)| (address.clone(), ListenerLine::from(listener)))
                .collect(),
            trace: trace.clone(),
        }
    }
}

impl From<PromiseLine> for Object {
    fn from(line: PromiseLine) -> Self {
        Object {
            promise: Promise {
                id: line.id,
                state: line.state,
                param: line.param,
                value: line.value,
                tags: line.tags,
                timeout_at: line.timeout_at,
                created_at: line.created_at,
                settled_at: line.settled_at,
            },
            armed: line.armed,
            callbacks: line.callbacks,
            listeners: line
                .listeners
                .into_iter()
                .map(|(address, listener)| (address, listener.into()))
                .collect(),
            task: line.task.map(Task::from),
            trace: line.trace,
        }
    }
}

impl From<&Task> for TaskLine {
    fn from(task: &Task) -> Self {
        let Task {
            state,
            version,
            resumes,
            pid,
            ttl,
            expires_at,
            claimed_at,
            retry_at,
            offer_at,
            releases,
        } = task;
        TaskLine {
            state: *state,
            version: *version,
            resumes: resumes.clone(),
            pid: pid.clone(),
            ttl: *ttl,
            expires_at: *expires_at,
            claimed_at: *claimed_at,
            retry_at: *retry_at,
            offer_at: *offer_at,
            releases: *releases,
        }
    }
}

impl From<TaskLine> for Task {
    fn from(line: TaskLine) -> Self {
        Task {
            state: line.state,
            version: line.version,
            resumes: line.resumes,
            pid: line.pid,
            ttl: line.ttl,
            expires_at: line.expires_at,
            claimed_at: line.claimed_at,
            retry_at: line.retry_at,
            offer_at: line.offer_at,
            releases: line.releases,
        }
    }
}

impl From<&Listener> for ListenerLine {
    fn from(listener: &Listener) -> Self {
        let Listener {
            enqueued_at,
            retry_at,
            attempts,
        } = listener;
        ListenerLine {
            enqueued_at: *enqueued_at,
            retry_at: *retry_at,
            attempts: *attempts,
        }
    }
}

impl From<ListenerLine> for Listener {
    fn from(line: ListenerLine) -> Self {
        Listener {
            enqueued_at: line.enqueued_at,
            retry_at: line.retry_at,
            attempts: line.attempts,
        }
    }
}

impl From<&Schedule> for ScheduleLine {
    fn from(schedule: &Schedule) -> Self {
        let Schedule {
            id,
            cron,
            promise_id,
            promise_timeout,
            promise_param,
            promise_tags,
            created_at,
            next_run_at,
            last_run_at,
        } = schedule;
        ScheduleLine {
            id: id.clone(),
            cron: cron.clone(),
            promise_id: promise_id.clone(),
            promise_timeout: *promise_timeout,
            promise_tags: promise_tags.clone(),
            promise_param: promise_param.clone(),
            created_at: *created_at,
            next_run_at: *next_run_at,
            last_run_at: *last_run_at,
        }
    }
}

impl From<ScheduleLine> for Schedule {
    fn from(line: ScheduleLine) -> Self {
        Schedule {
            id: line.id,
            cron: line.cron,
            promise_id: line.promise_id,
            promise_timeout: line.promise_timeout,
            promise_param: line.promise_param,
            promise_tags: line.promise_tags,
            created_at: line.created_at,
            next_run_at: line.next_run_at,
            last_run_at: line.last_run_at,
        }
    }
}
