//! The objects the machine decides over: a promise with everything that hangs on it, and its task.
//!
//! One [`Object`] is the unit of loading and of change. The wire never shows callbacks, listeners,
//! lease deadlines or retry instants (`semantics.md` R1).

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use crate::protocol::record::{Id, Millis, Promise, PromiseState, TaskRecord, TaskState};
use crate::protocol::trace::Trace;

/// A promise as stored, its obligations, and its task.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Object {
    /// The stored record. Stored `pending` may be logically settled: see [`Object::is_settled`].
    pub promise: Promise,
    /// Whether the timeout fires without any request (`semantics.md` §7).
    pub armed: bool,
    /// Ids of the awaiters to resume when the promise settles.
    pub callbacks: BTreeSet<Id>,
    /// By address: who is to be told of the settlement, and, once it is settled, who has not been.
    pub listeners: BTreeMap<Id, Listener>,
    /// Present exactly when the promise is targeted (X1).
    pub task: Option<Task>,
    /// The request that created the task, if it belonged to a trace: the messages about the task do as well.
    /// Immutable.
    pub trace: Option<Arc<Trace>>,
}

/// A registration to be told of a settlement. While the promise is pending it is an obligation;
/// settling turns it into the outbox entry of an `unblock`, which stays until delivered or given up.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Listener {
    /// When the `unblock` was enqueued; none while the promise is pending.
    pub enqueued_at: Option<Millis>,
    /// When delivery is tried again, unless it succeeded or failed before; none while the promise is
    /// pending.
    pub retry_at: Option<Millis>,
    /// Failed deliveries so far.
    pub attempts: u32,
}

/// The lease under which a worker executes a targeted promise.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Task {
    /// See [`TaskState`].
    pub state: TaskState,
    /// Fencing token (`semantics.md` §2).
    pub version: i64,
    /// Awaited promises that settled since the last acquisition.
    pub resumes: BTreeSet<Id>,
    /// Lease holder; set exactly when acquired.
    pub pid: Option<Id>,
    /// Lease length; set exactly when acquired.
    pub ttl: Option<Millis>,
    /// Lease deadline; set exactly when acquired.
    pub expires_at: Option<Millis>,
    /// When the holder last named this task: the acquisition, or a heartbeat that lists it. Set exactly
    /// when acquired; a heartbeat that lists nothing renews for a bounded time after it.
    pub claimed_at: Option<Millis>,
    /// Next dispatch; set exactly when pending.
    pub retry_at: Option<Millis>,
    /// When the latest dispatch may leave: later than its commit for a delayed birth or for a task
    /// that is released over and over. Set exactly when pending.
    pub offer_at: Option<Millis>,
    /// Releases in a row without progress; sets the back-off.
    pub releases: u32,
}

impl Task {
    /// A task in `state` with nothing else set.
    pub fn cleared(state: TaskState, version: i64) -> Self {
        Task {
            state,
            version,
            resumes: BTreeSet::new(),
            pid: None,
            ttl: None,
            expires_at: None,
            claimed_at: None,
            retry_at: None,
            offer_at: None,
            releases: 0,
        }
    }
}

impl Object {
    /// Whether the promise is settled at `now`: stored so, or past its deadline
    /// (`semantics.md` §3; the boundary is inclusive).
    pub fn is_settled(&self, now: Millis) -> bool {
        self.promise.state != PromiseState::Pending || self.promise.timeout_at <= now
    }

    /// The record as every endpoint answers it at `now` (`semantics.md` §3).
    pub fn view(&self, now: Millis) -> Promise {
        project(&self.promise, now)
    }

    /// The task's state as every endpoint sees it at `now`.
    pub fn task_state(&self, now: Millis) -> Option<TaskState> {
        let task = self.task.as_ref()?;
        Some(if self.is_settled(now) {
            TaskState::Fulfilled
        } else {
            task.state
        })
    }

    /// The task's record as every endpoint answers it at `now`.
    pub fn task_view(&self, now: Millis) -> Option<TaskRecord> {
        let task = self.task.as_ref()?;
        let is_settled = self.is_settled(now);
        Some(TaskRecord {
            id: self.promise.id.clone(),
            state: if is_settled {
                TaskState::Fulfilled
            } else {
                task.state
            },
            version: task.version,
            resumes: if is_settled { 0 } else { task.resumes.len() },
            ttl: task.ttl.filter(|_| !is_settled),
            pid: task.pid.clone().filter(|_| !is_settled),
        })
    }

    /// Whether the promise holds an obligation: a callback, or a listener not yet turned `unblock`.
    pub fn is_obligated(&self) -> bool {
        !self.callbacks.is_empty() || self.listeners.values().any(|l| l.enqueued_at.is_none())
    }
}

/// Whether the promise is stored pending and settled by its deadline at `now`.
pub fn is_expired(promise: &Promise, now: Millis) -> bool {
    promise.state == PromiseState::Pending && promise.timeout_at <= now
}

/// When the promise settled, as it reads at `now`; none while it is pending.
pub fn settled_at(promise: &Promise, now: Millis) -> Option<Millis> {
    match is_expired(promise, now) {
        true => Some(promise.timeout_at),
        false => promise.settled_at,
    }
}

/// The record as it reads at `now`: past its deadline a stored-pending promise is settled, stamped
/// with the deadline, without a value.
pub fn project(promise: &Promise, now: Millis) -> Promise {
    let mut view = promise.clone();
    if is_expired(&view, now) {
        view.state = deadline_state(&view);
        view.settled_at = settled_at(promise, now);
    }
    view
}

/// What the deadline makes of a promise: timers resolve, everything else times out.
pub fn deadline_state(promise: &Promise) -> PromiseState {
    if promise.tags.is_timer() {
        PromiseState::Resolved
    } else {
        PromiseState::RejectedTimedout
    }
}
