//! The typed operations: what a request asks, after parsing and validation (`protocol.md` §8–11).
//!
//! `super::parse` is the only place that makes them from the wire.

use super::record::{Id, Millis, PromiseState, Tags, TaskState, Value, Verdict};

/// One protocol request, by what serves it.
#[derive(Clone, Debug, PartialEq)]
pub enum Operation {
    /// May change objects: decided in a lane.
    Command(Command),
    /// Changes nothing: answered from committed state.
    Query(Query),
    /// Drives the server itself (`protocol.md` §11).
    Debug(Debug),
}

impl Operation {
    /// The id that it is most about; searches and debug requests are about none.
    pub fn subject(&self) -> Option<&Id> {
        match self {
            Operation::Command(command) => Some(command.subject()),
            Operation::Query(
                Query::PromiseGet { id } | Query::TaskGet { id } | Query::ScheduleGet { id },
            ) => Some(id),
            Operation::Query(_) | Operation::Debug(_) => None,
        }
    }
}

/// A request that may change objects.
#[derive(Clone, Debug, PartialEq)]
#[allow(missing_docs, reason = "variants carry the protocol's names")]
pub enum Command {
    PromiseCreate(PromiseCreate),
    PromiseSettle(PromiseSettle),
    PromiseRegisterCallback { awaited: Id, awaiter: Id },
    PromiseRegisterListener { awaited: Id, address: Id },
    TaskCreate(TaskCreate),
    TaskAcquire(TaskAcquire),
    TaskFence(TaskFence),
    TaskHeartbeat(TaskHeartbeat),
    TaskSuspend(TaskSuspend),
    TaskFulfill(TaskFulfill),
    TaskRelease(TaskRef),
    TaskHalt { id: Id },
    TaskContinue { id: Id },
    ScheduleCreate(ScheduleCreate),
    ScheduleDelete { id: Id },
}

impl Command {
    /// The id by whose origin a server divides its work: that of the object which it is most about.
    pub fn subject(&self) -> &Id {
        match self {
            Command::PromiseCreate(op) => &op.id,
            Command::PromiseSettle(op) => &op.id,
            Command::PromiseRegisterCallback { awaited, .. }
            | Command::PromiseRegisterListener { awaited, .. } => awaited,
            Command::TaskCreate(op) => &op.action.id,
            Command::TaskAcquire(op) => &op.id,
            Command::TaskFence(op) => &op.task.id,
            Command::TaskHeartbeat(op) => op.tasks.first().map_or(&op.pid, |task| &task.id),
            Command::TaskSuspend(op) => &op.task.id,
            Command::TaskFulfill(op) => &op.task.id,
            Command::TaskRelease(op) => &op.id,
            Command::TaskHalt { id } | Command::TaskContinue { id } => id,
            Command::ScheduleCreate(op) => &op.id,
            Command::ScheduleDelete { id } => id,
        }
    }
}

/// A request that changes nothing.
#[derive(Clone, Debug, PartialEq)]
#[allow(missing_docs, reason = "variants carry the protocol's names")]
pub enum Query {
    PromiseGet { id: Id },
    PromiseSearch(PromiseSearch),
    TaskGet { id: Id },
    TaskSearch(TaskSearch),
    ScheduleGet { id: Id },
    ScheduleSearch(ScheduleSearch),
}

/// A debug request.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[allow(missing_docs, reason = "variants carry the protocol's names")]
pub enum Debug {
    Start,
    Stop,
    Reset,
    Tick { time: Millis },
    Snap,
}

/// `promise.create`, alone, fenced or inside `task.create`.
#[derive(Clone, Debug, PartialEq)]
#[allow(missing_docs, reason = "fields carry the protocol's names")]
pub struct PromiseCreate {
    pub id: Id,
    pub timeout_at: Millis,
    pub param: Value,
    pub tags: Tags,
}

/// `promise.settle`, alone, fenced or inside `task.fulfill`.
#[derive(Clone, Debug, PartialEq)]
#[allow(missing_docs, reason = "fields carry the protocol's names")]
pub struct PromiseSettle {
    pub id: Id,
    pub state: Verdict,
    pub value: Value,
}

/// `promise.search`: a page of promises by logical state and tags.
#[derive(Clone, Debug, PartialEq)]
#[allow(missing_docs, reason = "fields carry the protocol's names")]
pub struct PromiseSearch {
    pub state: Option<PromiseState>,
    pub tags: Tags,
    pub limit: usize,
    pub cursor: Option<Id>,
}

/// `task.search`: a page of tasks by viewed state.
#[derive(Clone, Debug, PartialEq)]
#[allow(missing_docs, reason = "fields carry the protocol's names")]
pub struct TaskSearch {
    pub state: Option<TaskState>,
    pub limit: usize,
    pub cursor: Option<Id>,
}

/// `schedule.search`: a page of schedules by their promise tags.
#[derive(Clone, Debug, PartialEq)]
#[allow(missing_docs, reason = "fields carry the protocol's names")]
pub struct ScheduleSearch {
    pub tags: Tags,
    pub limit: usize,
    pub cursor: Option<Id>,
}

/// A task at a version: the claim a worker makes with every task operation.
#[derive(Clone, Debug, PartialEq, Eq)]
#[allow(missing_docs, reason = "fields carry the protocol's names")]
pub struct TaskRef {
    pub id: Id,
    pub version: i64,
}

/// `task.create`: create a promise and acquire its task in one step.
#[derive(Clone, Debug, PartialEq)]
#[allow(missing_docs, reason = "fields carry the protocol's names")]
pub struct TaskCreate {
    pub pid: Id,
    pub ttl: Millis,
    pub action: PromiseCreate,
}

/// `task.acquire`.
#[derive(Clone, Debug, PartialEq)]
#[allow(missing_docs, reason = "fields carry the protocol's names")]
pub struct TaskAcquire {
    pub id: Id,
    pub version: i64,
    pub pid: Id,
    pub ttl: Millis,
}

/// `task.fence`: one promise operation, only while the lease holds.
#[derive(Clone, Debug, PartialEq)]
pub struct TaskFence {
    /// The lease that must hold.
    pub task: TaskRef,
    /// `action.head.corrId`, if the request gave one.
    pub corr_id: Option<Id>,
    /// What to do under it.
    pub action: FenceAction,
}

/// What a fence may carry.
#[derive(Clone, Debug, PartialEq)]
#[allow(missing_docs, reason = "variants carry the protocol's names")]
pub enum FenceAction {
    Create(PromiseCreate),
    Settle(PromiseSettle),
}

/// `task.heartbeat`.
#[derive(Clone, Debug, PartialEq)]
pub struct TaskHeartbeat {
    /// Who holds the leases.
    pub pid: Id,
    /// Whose leases; all that the process holds if there are none (D-05).
    pub tasks: Vec<TaskRef>,
    /// Where to look for those, if the request may not name every id: what their ids begin with.
    pub within: Option<Id>,
}

/// `task.suspend`.
#[derive(Clone, Debug, PartialEq)]
pub struct TaskSuspend {
    /// The lease that must hold.
    pub task: TaskRef,
    /// The promises to wait for, in the order given, duplicates included (D-06).
    pub awaited: Vec<Id>,
}

/// `task.fulfill`.
#[derive(Clone, Debug, PartialEq)]
pub struct TaskFulfill {
    /// The lease that must hold.
    pub task: TaskRef,
    /// The verdict on the task's own promise.
    pub action: PromiseSettle,
}

/// `schedule.create`.
#[derive(Clone, Debug, PartialEq)]
#[allow(missing_docs, reason = "fields carry the protocol's names")]
pub struct ScheduleCreate {
    pub id: Id,
    pub cron: Id,
    pub promise_id: Id,
    pub promise_timeout: Millis,
    pub promise_param: Value,
    pub promise_tags: Tags,
}
