//! What a request is answered: typed replies, and the one place that turns them into statuses, `data`
//! and error codes (`protocol.md` §2, §8–11).

use serde::Serialize;
use serde::ser::{SerializeMap, Serializer};

use super::record::{Id, Promise, Schedule, TaskRecord};

/// The protocol version spoken here.
pub const VERSION: &str = "2026-04-01";

/// The answer to one request.
#[derive(Clone, Debug, PartialEq)]
#[allow(missing_docs, reason = "fields carry the protocol's names")]
pub enum Reply {
    /// 200 `{promise}`.
    Promise(Promise),
    /// 200 `{task}`.
    Task(TaskRecord),
    /// 200 `{task, promise, preload}`.
    Acquired {
        task: TaskRecord,
        promise: Promise,
        preload: Vec<Promise>,
    },
    /// 200 `{action, preload}`: the inner reply is a promise or a refusal.
    Fenced {
        kind: &'static str,
        corr_id: Option<Id>,
        inner: Box<Reply>,
        preload: Vec<Promise>,
    },
    /// 300 `{preload}`: something awaited is settled already.
    Redirect { preload: Vec<Promise> },
    /// 200 `{}`.
    Done,
    /// 200 `{schedule}`.
    Schedule(Schedule),
    /// 200 `{promises, cursor?}`.
    Promises {
        promises: Vec<Promise>,
        cursor: Option<Id>,
    },
    /// 200 `{tasks, cursor?}`.
    Tasks {
        tasks: Vec<TaskRecord>,
        cursor: Option<Id>,
    },
    /// 200 `{schedules, cursor?}`.
    Schedules {
        schedules: Vec<Schedule>,
        cursor: Option<Id>,
    },
    /// 200 `[]`: `debug.tick`.
    Ticked,
    /// 200: `debug.snap`.
    Snap(Snap),
    /// A protocol refusal.
    Refused(Refusal),
}

/// The stored, unprojected state (`protocol.md` §11), each list sorted by id.
#[derive(Clone, Debug, Default, PartialEq, Serialize)]
#[serde(rename_all = "camelCase")]
#[allow(missing_docs, reason = "fields carry the protocol's names")]
pub struct Snap {
    pub promises: Vec<Promise>,
    pub promise_timeouts: Vec<PromiseTimeout>,
    pub callbacks: Vec<Callback>,
    pub listeners: Vec<ListenerEntry>,
    pub tasks: Vec<TaskRecord>,
    pub task_timeouts: Vec<TaskTimeout>,
    pub messages: Vec<MessageEntry>,
}

/// An armed timeout.
#[derive(Clone, Debug, PartialEq, Serialize)]
#[allow(missing_docs, reason = "fields carry the protocol's names")]
pub struct PromiseTimeout {
    pub id: Id,
    pub timeout: i64,
}

/// A callback not yet consumed.
#[derive(Clone, Debug, PartialEq, Serialize)]
#[allow(missing_docs, reason = "fields carry the protocol's names")]
pub struct Callback {
    pub awaiter: Id,
    pub awaited: Id,
}

/// A listener not yet consumed.
#[derive(Clone, Debug, PartialEq, Serialize)]
#[allow(missing_docs, reason = "fields carry the protocol's names")]
pub struct ListenerEntry {
    pub id: Id,
    pub address: Id,
}

/// A retry (type 0, task pending) or a lease (type 1, task acquired).
#[derive(Clone, Debug, PartialEq, Serialize)]
#[allow(missing_docs, reason = "fields carry the protocol's names")]
pub struct TaskTimeout {
    pub id: Id,
    #[serde(rename = "type")]
    pub kind: u8,
    pub timeout: i64,
}

/// An undelivered message.
#[derive(Clone, Debug, PartialEq, Serialize)]
#[allow(missing_docs, reason = "fields carry the protocol's names")]
pub struct MessageEntry {
    pub address: Id,
    pub message: serde_json::Value,
}

/// Why a request was refused. Nothing was changed by it.
#[derive(Clone, Debug, PartialEq, Eq)]
#[allow(missing_docs, reason = "each variant's sentence says it")]
pub enum Refusal {
    /// Bad input; the sentence says what.
    Invalid(String),
    PromiseNotFound,
    AwaitedNotFound,
    AwaiterNotFound,
    AwaiterNotTargeted,
    TaskNotFound,
    TaskNotPending,
    TaskVersionMismatch,
    TaskNotHeld,
    TaskNotHeldForSuspend,
    TaskIsFulfilled,
    TaskNotHalted,
    TaskExists,
    PromiseNotTargeted,
    SuspendAwaitedNotFound,
    ScheduleNotFound,
}

impl Refusal {
    /// The protocol status.
    pub fn status(&self) -> u16 {
        use Refusal::*;
        match self {
            Invalid(_) => 400,
            PromiseNotFound | AwaitedNotFound | TaskNotFound | ScheduleNotFound => 404,
            TaskNotPending
            | TaskVersionMismatch
            | TaskNotHeld
            | TaskNotHeldForSuspend
            | TaskIsFulfilled
            | TaskNotHalted
            | TaskExists => 409,
            AwaiterNotFound | AwaiterNotTargeted | PromiseNotTargeted | SuspendAwaitedNotFound => {
                422
            }
        }
    }

    /// The sentence in `data`.
    pub fn message(&self) -> &str {
        use Refusal::*;
        match self {
            Invalid(sentence) => sentence,
            PromiseNotFound => "Promise not found",
            AwaitedNotFound | SuspendAwaitedNotFound => "Awaited promise not found",
            AwaiterNotFound => "Awaiter promise not found",
            AwaiterNotTargeted => "Awaiter promise has no resonate:target tag",
            TaskNotFound => "Task not found",
            TaskNotPending => "Task is not pending",
            TaskVersionMismatch => "Version mismatch",
            TaskNotHeld => "Task version mismatch or invalid state",
            TaskNotHeldForSuspend => "Task is not acquired or version mismatch",
            TaskIsFulfilled => "Task is fulfilled",
            TaskNotHalted => "Task is not halted",
            TaskExists => "Already exists",
            PromiseNotTargeted => "The promise does not have a resonate:target tag",
            ScheduleNotFound => "Schedule not found",
        }
    }
}

/// The stable machine-readable code of an error status (`head.error`).
pub fn error_code(status: u16) -> Option<&'static str> {
    Some(match status {
        200 | 300 => return None,
        401 => "unauthorized",
        403 => "forbidden",
        404 => "not_found",
        409 => "conflict",
        429 => "rate_limited",
        503 => "unavailable",
        500..=599 => "internal",
        _ => "contract_error",
    })
}

impl Reply {
    /// Leaves out what the request did not name and what does not begin with `prefix`: promises that
    /// share a branch may be anybody's, and preload is only a hint (`protocol.md` §7).
    pub fn narrow(&mut self, prefix: &str) {
        match self {
            Reply::Acquired { preload, .. }
            | Reply::Fenced { preload, .. }
            | Reply::Redirect { preload } => {
                preload.retain(|promise| promise.id.starts_with(prefix));
            }
            Reply::Promise(_)
            | Reply::Task(_)
            | Reply::Done
            | Reply::Schedule(_)
            | Reply::Promises { .. }
            | Reply::Tasks { .. }
            | Reply::Schedules { .. }
            | Reply::Ticked
            | Reply::Snap(_)
            | Reply::Refused(_) => {}
        }
    }

    /// The protocol status, which is also the HTTP status.
    pub fn status(&self) -> u16 {
        match self {
            Reply::Redirect { .. } => 300,
            Reply::Refused(refusal) => refusal.status(),
            _ => 200,
        }
    }
}

impl From<Refusal> for Reply {
    fn from(refusal: Refusal) -> Self {
        Reply::Refused(refusal)
    }
}

/// `data` of a reply: what the envelope carries beside its head.
pub struct Data<'a> {
    /// The reply.
    pub reply: &'a Reply,
    /// `corrId` of the request, which a fence's inner head falls back to (D-35).
    pub corr_id: &'a str,
}

impl Serialize for Data<'_> {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        match self.reply {
            Reply::Refused(refusal) => serializer.serialize_str(refusal.message()),
            Reply::Ticked => serializer.collect_seq(std::iter::empty::<()>()),
            Reply::Snap(snap) => snap.serialize(serializer),
            reply => {
                let mut map = serializer.serialize_map(None)?;
                self.members(reply, &mut map)?;
                map.end()
            }
        }
    }
}

impl Data<'_> {
    fn members<M: SerializeMap>(&self, reply: &Reply, map: &mut M) -> Result<(), M::Error> {
        match reply {
            Reply::Promise(promise) => map.serialize_entry("promise", promise),
            Reply::Task(task) => map.serialize_entry("task", task),
            Reply::Schedule(schedule) => map.serialize_entry("schedule", schedule),
            Reply::Acquired {
                task,
                promise,
                preload,
            } => {
                map.serialize_entry("task", task)?;
                map.serialize_entry("promise", promise)?;
                map.serialize_entry("preload", preload)
            }
            Reply::Fenced {
                kind,
                corr_id,
                inner,
                preload,
            } => {
                let corr_id = corr_id.as_deref().unwrap_or(self.corr_id);
                let action = Inner {
                    kind,
                    head: Head {
                        error: None,
                        ..head(corr_id, inner.status())
                    },
                    data: Data {
                        reply: inner,
                        corr_id,
                    },
                };
                map.serialize_entry("action", &action)?;
                map.serialize_entry("preload", preload)
            }
            Reply::Redirect { preload } => map.serialize_entry("preload", preload),
            Reply::Promises { promises, cursor } => page(map, "promises", promises, cursor),
            Reply::Tasks { tasks, cursor } => page(map, "tasks", tasks, cursor),
            Reply::Schedules { schedules, cursor } => page(map, "schedules", schedules, cursor),
            Reply::Done | Reply::Ticked | Reply::Snap(_) | Reply::Refused(_) => Ok(()),
        }
    }
}

fn page<M: SerializeMap, T: Serialize>(
    map: &mut M,
    name: &'static str,
    records: &[T],
    cursor: &Option<Id>,
) -> Result<(), M::Error> {
    map.serialize_entry(name, records)?;
    match cursor {
        Some(cursor) => map.serialize_entry("cursor", cursor),
        None => Ok(()),
    }
}

/// A whole response: `{kind, head, data}`.
pub struct Envelope<'a> {
    /// The request's kind, echoed.
    pub kind: &'a str,
    /// The request's corrId, echoed.
    pub corr_id: &'a str,
    /// What it carries.
    pub reply: &'a Reply,
}

/// The answer to the inner operation of a fence; its head has three members (`protocol.md` §9).
#[derive(Serialize)]
struct Inner<'a> {
    kind: &'a str,
    head: Head<'a>,
    data: Data<'a>,
}

#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct Head<'a> {
    corr_id: &'a str,
    status: u16,
    version: &'a str,
    #[serde(skip_serializing_if = "Option::is_none")]
    error: Option<&'a str>,
}

fn head(corr_id: &str, status: u16) -> Head<'_> {
    Head {
        corr_id,
        status,
        version: VERSION,
        error: error_code(status),
    }
}

impl Serialize for Envelope<'_> {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let mut map = serializer.serialize_map(Some(3))?;
        map.serialize_entry("kind", self.kind)?;
        map.serialize_entry("head", &head(self.corr_id, self.reply.status()))?;
        map.serialize_entry(
            "data",
            &Data {
                reply: self.reply,
                corr_id: self.corr_id,
            },
        )?;
        map.end()
    }
}

/// A response that no [`Reply`] stands for: transport-level refusals and server failures.
#[derive(Serialize)]
pub struct ErrorEnvelope<'a> {
    kind: &'a str,
    head: Head<'a>,
    data: &'a str,
}

impl<'a> ErrorEnvelope<'a> {
    /// Makes the response of an error status.
    pub fn new(kind: &'a str, corr_id: &'a str, status: u16, data: &'a str) -> Self {
        ErrorEnvelope {
            kind,
            head: head(corr_id, status),
            data,
        }
    }
}
