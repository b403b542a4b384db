//! The functional core: what every request and every internal step does to the objects.
//!
//! [`decide`] is synchronous, total and deterministic: `(input, now, workspace) → reply`, with the
//! changed objects and the messages left in the workspace. No I/O, no clock, no randomness. Callers
//! first ask [`missing`] what the decision looks at and load it.
//!
//! | file | rules |
//! |---|---|
//! | `promise` | `protocol.md` §8 |
//! | `task` | `protocol.md` §9, `semantics.md` §6 |
//! | `settle` | `semantics.md` §4, §5 |
//! | `schedule` | `protocol.md` §10, `semantics.md` §8 |
//! | `retire` | what is over and is forgotten |
//! | `query` | reads, projected |
//! | `object` | `semantics.md` §1–3 |
//! | `workspace` | what a batch has loaded, and how its decisions left it |
//! | `invariant` | `semantics.md` §11, §12: what must hold, for tests |

use std::sync::Arc;

use crate::protocol::operation::{Command, FenceAction};
use crate::protocol::record::{Id, Millis, TaskState};
use crate::protocol::reply::Reply;
use crate::store::Need;

pub mod invariant;
pub mod object;
mod promise;
pub mod query;
mod retire;
mod schedule;
mod settle;
mod task;
pub mod workspace;

use object::Object;
use workspace::{Message, Workspace};

/// First back-off of a failed `unblock` delivery; it doubles up to [`UNBLOCK_RETRY_MAX_MS`].
pub const UNBLOCK_RETRY_MIN_MS: Millis = 1000;
/// See [`UNBLOCK_RETRY_MIN_MS`].
pub const UNBLOCK_RETRY_MAX_MS: Millis = 60_000;
/// Back-off of the second release in a row; it doubles up to the retry timeout.
pub const RELEASE_BACKOFF_MIN_MS: Millis = 100;

/// For how many lease lengths after its holder last named a task a heartbeat without a list renews it.
pub const ANONYMOUS_RENEWALS_MAX: Millis = 10;

/// The settings the protocol's rules read.
#[derive(Clone, Copy, Debug)]
pub struct Config {
    /// `tasks.retry_timeout`: redispatch interval of pending tasks; at least 1 (G4).
    pub retry_timeout_ms: Millis,
}

/// What is decided: a request, or an internal step.
#[derive(Clone, Debug, PartialEq)]
pub enum Input {
    /// From a client.
    Request(Command),
    /// From the server itself.
    Step(Step),
}

/// An internal step (`semantics.md` §7). Each re-checks that it is due: late, early and duplicate
/// steps are harmless.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Step {
    /// Promise timeout, else lease timeout or task retry.
    Promise(Id),
    /// Due occurrences of a schedule.
    Schedule(Id),
    /// The next attempt to deliver an `unblock`.
    UnblockDue {
        /// The settled promise.
        promise: Id,
        /// The listener.
        address: Id,
    },
    /// A transport delivered the `unblock`, or it is given up: the entry goes.
    UnblockDone {
        /// The settled promise.
        promise: Id,
        /// The listener.
        address: Id,
    },
    /// A tree, or a part of it, is over for so long that it is to be forgotten.
    Retire(Retirement),
    /// A transport failed to deliver the `unblock`: back off.
    UnblockFailed {
        /// The settled promise.
        promise: Id,
        /// The listener.
        address: Id,
    },
}

/// What [`Step::Retire`] looks at.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Retirement {
    /// To be deleted with all below it.
    pub root: Id,
    /// For how long everything in it must have been settled, in milliseconds; at least 1.
    pub after_ms: Millis,
    /// Whether it is part of a larger tree, of which everything was seen to be over.
    pub is_part: bool,
}

impl Input {
    /// The id by whose origin a server divides its work.
    pub fn subject(&self) -> &Id {
        match self {
            Input::Request(command) => command.subject(),
            Input::Step(step) => step.subject(),
        }
    }
}

impl Step {
    /// The id by whose origin a server divides its work.
    pub fn subject(&self) -> &Id {
        match self {
            Step::Promise(id) | Step::Schedule(id) => id,
            Step::Retire(retirement) => &retirement.root,
            Step::UnblockDue { promise, .. }
            | Step::UnblockDone { promise, .. }
            | Step::UnblockFailed { promise, .. } => promise,
        }
    }
}

/// What `input` looks at and is not in the workspace yet. Loading that may uncover more: ask again
/// until nothing is missing.
pub fn missing(input: &Input, now: Millis, ws: &Workspace) -> Need {
    let mut need = Need::default();
    match input {
        Input::Request(command) => missing_of_command(command, now, ws, &mut need),
        Input::Step(step) => missing_of_step(step, now, ws, &mut need),
    }
    need
}

fn missing_of_command(command: &Command, now: Millis, ws: &Workspace, need: &mut Need) {
    match command {
        Command::PromiseCreate(op) => want_birth(ws, &op.id, need),
        Command::PromiseSettle(op) => settle::missing(ws, &op.id, now, need),
        Command::PromiseRegisterCallback { awaited, awaiter } => {
            want(ws, awaited, need);
            want(ws, awaiter, need);
        }
        Command::PromiseRegisterListener { awaited, .. } => want(ws, awaited, need),
        Command::TaskCreate(op) => {
            want_birth(ws, &op.action.id, need);
            let branch = match ws.get(&op.action.id) {
                Some(object) => object.promise.tags.branch(),
                None => op.action.tags.branch(),
            };
            want_branch(ws, branch, need);
        }
        Command::TaskAcquire(op) => {
            want(ws, &op.id, need);
            let is_pending = |o: &&Arc<Object>| o.task_state(now) == Some(TaskState::Pending);
            want_branch_of(ws, ws.get(&op.id).filter(is_pending), need);
        }
        Command::TaskFence(op) => {
            want(ws, &op.task.id, need);
            match &op.action {
                FenceAction::Create(create) => want_birth(ws, &create.id, need),
                FenceAction::Settle(settle) => settle::missing(ws, &settle.id, now, need),
            }
            if task::is_held(ws, &op.task, now) {
                want_branch_of(ws, ws.get(&op.task.id), need);
            }
        }
        Command::TaskHeartbeat(op) => {
            for task in &op.tasks {
                want(ws, &task.id, need);
            }
            if op.tasks.is_empty() && !ws.has_pid(&op.pid) {
                need.pids.insert(op.pid.clone());
            }
        }
        Command::TaskSuspend(op) => {
            want(ws, &op.task.id, need);
            for awaited in &op.awaited {
                want(ws, awaited, need);
            }
            if task::is_held(ws, &op.task, now) && task::any_settled(ws, &op.awaited, now) {
                want_branch_of(ws, ws.get(&op.task.id), need);
            }
        }
        Command::TaskFulfill(op) => settle::missing(ws, &op.task.id, now, need),
        Command::TaskRelease(op) => want(ws, &op.id, need),
        Command::TaskHalt { id } | Command::TaskContinue { id } => want(ws, id, need),
        Command::ScheduleCreate(op) => want_schedule(ws, &op.id, need),
        Command::ScheduleDelete { id } => want_schedule(ws, id, need),
    }
}

fn missing_of_step(step: &Step, now: Millis, ws: &Workspace, need: &mut Need) {
    match step {
        Step::Promise(id) => {
            want(ws, id, need);
            if ws.get(id).is_some_and(|object| object.is_settled(now)) {
                settle::missing(ws, id, now, need);
            }
        }
        Step::Schedule(id) => schedule::missing(ws, id, now, need),
        Step::Retire(retirement) => retire::missing(ws, retirement, need),
        Step::UnblockDue { promise, .. }
        | Step::UnblockDone { promise, .. }
        | Step::UnblockFailed { promise, .. } => want(ws, promise, need),
    }
}

fn want(ws: &Workspace, id: &Id, need: &mut Need) {
    if !ws.has(id) {
        need.objects.insert(id.clone());
    }
}

/// Wants what is about to be created: its absence need not be known, as long as it is created.
fn want_birth(ws: &Workspace, id: &Id, need: &mut Need) {
    if !ws.has(id) && !ws.has_guessed(id) {
        need.objects.insert(id.clone());
        need.births.insert(id.clone());
    }
}

fn want_schedule(ws: &Workspace, id: &Id, need: &mut Need) {
    if !ws.has_schedule(id) {
        need.schedules.insert(id.clone());
    }
}

fn want_branch(ws: &Workspace, branch: Option<&str>, need: &mut Need) {
    if let Some(branch) = branch.filter(|branch| !ws.has_branch(branch)) {
        need.branches.insert(branch.into());
    }
}

fn want_branch_of(ws: &Workspace, object: Option<&Arc<Object>>, need: &mut Need) {
    let branch = object.and_then(|object| object.promise.tags.branch());
    want_branch(ws, branch, need);
}

/// Decides one input at `now`. What [`missing`] names must be loaded.
pub fn decide(input: &Input, now: Millis, ws: &mut Workspace, config: &Config) -> Reply {
    match input {
        Input::Request(command) => decide_command(command, now, ws, config),
        Input::Step(step) => {
            take_step(step, now, ws, config);
            Reply::Done
        }
    }
}

fn decide_command(command: &Command, now: Millis, ws: &mut Workspace, config: &Config) -> Reply {
    match command {
        Command::PromiseCreate(op) => promise::create(ws, op, now, config).1,
        Command::PromiseSettle(op) => promise::settle_by_client(ws, op, now, config).1,
        Command::PromiseRegisterCallback { awaited, awaiter } => {
            promise::register_callback(ws, awaited, awaiter, now)
        }
        Command::PromiseRegisterListener { awaited, address } => {
            promise::register_listener(ws, awaited, address, now)
        }
        Command::TaskCreate(op) => task::create(ws, op, now),
        Command::TaskAcquire(op) => task::acquire(ws, op, now),
        Command::TaskFence(op) => task::fence(ws, op, now, config),
        Command::TaskHeartbeat(op) => task::heartbeat(ws, op, now),
        Command::TaskSuspend(op) => task::suspend(ws, op, now),
        Command::TaskFulfill(op) => task::fulfill(ws, op, now, config),
        Command::TaskRelease(op) => task::release(ws, op, now, config),
        Command::TaskHalt { id } => task::halt(ws, id, now),
        Command::TaskContinue { id } => task::resume_halted(ws, id, now, config),
        Command::ScheduleCreate(op) => schedule::create(ws, op, now),
        Command::ScheduleDelete { id } => schedule::delete(ws, id),
    }
}

fn take_step(step: &Step, now: Millis, ws: &mut Workspace, config: &Config) {
    match step {
        Step::Promise(id) => {
            if !settle::expire(ws, id, now, config) {
                task::fire(ws, id, now, config);
            }
        }
        Step::Schedule(id) => schedule::fire(ws, id, now, config),
        Step::Retire(retirement) => retire::retire(ws, retirement, now),
        Step::UnblockDue { promise, address } => offer_unblock(ws, promise, address, now),
        Step::UnblockDone { promise, address } => {
            if is_enqueued(ws, promise, address) {
                ws.update(promise, |object| {
                    object.listeners.remove(address);
                });
            }
        }
        Step::UnblockFailed { promise, address } => {
            if is_enqueued(ws, promise, address) {
                ws.update(promise, |object| {
                    if let Some(listener) = object.listeners.get_mut(address) {
                        let doublings = listener.attempts.min(16);
                        let wait = (UNBLOCK_RETRY_MIN_MS << doublings).min(UNBLOCK_RETRY_MAX_MS);
                        listener.attempts = listener.attempts.saturating_add(1);
                        listener.retry_at = Some(now.saturating_add(wait));
                    }
                });
            }
        }
    }
}

fn is_enqueued(ws: &Workspace, promise: &str, address: &str) -> bool {
    ws.get(promise)
        .and_then(|object| object.listeners.get(address))
        .is_some_and(|listener| listener.enqueued_at.is_some())
}

/// Like the dispatch of a task, this arms the next attempt.
fn offer_unblock(ws: &mut Workspace, promise: &Id, address: &Id, now: Millis) {
    let Some(object) = ws.get(promise).cloned() else {
        return;
    };
    let is_due = object
        .listeners
        .get(address)
        .and_then(|listener| listener.retry_at)
        .is_some_and(|retry_at| retry_at <= now);
    if !is_due {
        return;
    }
    ws.send(Message::Unblock {
        promise: object.promise.clone(),
        address: address.clone(),
        trace: ws.trace().cloned(),
    });
    // Not due again until the attempt has had its chance, however it ends: what a transport has no room
    // for would otherwise be the first of all deadlines for ever, and hide the others.
    ws.update(promise, |object| {
        if let Some(listener) = object.listeners.get_mut(address) {
            listener.retry_at = Some(now.saturating_add(UNBLOCK_RETRY_MAX_MS));
        }
    });
}
