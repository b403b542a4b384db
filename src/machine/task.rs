//! `task.*` commands (`protocol.md` §9) and dispatch (`semantics.md` §6).
//!
//! ```text
//!            acquire                      suspend (200)
//!   pending ────────> acquired ───────────────────────> suspended
//!      ^  ^──────────────┘ release, lease expiry             │
//!      └─────────────────────────────────────────────────────┘ an awaited promise settles
//!   any but fulfilled ──halt──> halted ──continue──> pending
//!   any ──own promise settles──> fulfilled
//! ```

use std::sync::Arc;

use crate::protocol::operation::{
    FenceAction, PromiseCreate, TaskAcquire, TaskCreate, TaskFence, TaskFulfill, TaskHeartbeat,
    TaskRef, TaskSuspend,
};
use crate::protocol::record::{Id, Millis, Promise, TaskRecord, TaskState};
use crate::protocol::reply::{Refusal, Reply};

use super::object::{Object, Task, project};
use super::promise::{self, add_callback, newborn};
use super::workspace::{Message, Workspace};
use super::{ANONYMOUS_RENEWALS_MAX, Config, RELEASE_BACKOFF_MIN_MS};

/// Makes the task pending and puts its `execute` on the way: at `offer_at`, and again every
/// `retry_timeout`. The caller has set what depends on the way it got here.
pub(super) fn dispatch(
    ws: &mut Workspace,
    id: &Id,
    now: Millis,
    offer_at: Millis,
    config: &Config,
) {
    let retry_at = now.saturating_add(config.retry_timeout_ms);
    ws.update(id, |object| {
        if let Some(task) = &mut object.task {
            task.state = TaskState::Pending;
            task.pid = None;
            task.ttl = None;
            task.expires_at = None;
            task.claimed_at = None;
            task.retry_at = Some(retry_at);
            task.offer_at = Some(offer_at);
        }
    });
    let Some(object) = ws.get(id).cloned() else {
        return;
    };
    if let (Some(task), Some(target)) = (&object.task, object.promise.tags.target()) {
        let (id, version, address) = (id.clone(), task.version, target.into());
        let trace = object.trace.clone();
        let cause = ws.trace().filter(|cause| trace.as_ref() != Some(cause));
        let cause = cause.cloned();
        ws.send(Message::Execute {
            id,
            version,
            address,
            offer_at,
            retry_at,
            trace,
            cause,
        });
    }
}

/// The object, if its task is viewed acquired at this version.
fn held<'a>(ws: &'a Workspace, task: &TaskRef, now: Millis) -> Option<&'a Arc<Object>> {
    let object = ws.get(&task.id)?;
    let is_held = object.task_state(now) == Some(TaskState::Acquired)
        && object
            .task
            .as_ref()
            .is_some_and(|t| t.version == task.version);
    is_held.then_some(object)
}

/// Whether the task is viewed acquired at this version.
pub(super) fn is_held(ws: &Workspace, task: &TaskRef, now: Millis) -> bool {
    held(ws, task, now).is_some()
}

fn exists(ws: &Workspace, id: &str) -> bool {
    ws.get(id).is_some_and(|object| object.task.is_some())
}

fn update_task(ws: &mut Workspace, id: &Id, change: impl FnOnce(&mut Task)) {
    ws.update(id, |object| {
        if let Some(task) = &mut object.task {
            change(task);
        }
    });
}

/// `task.create`.
pub(super) fn create(ws: &mut Workspace, op: &TaskCreate, now: Millis) -> Reply {
    let id = &op.action.id;
    let Some(object) = ws.get(id) else {
        return create_acquired(ws, op, now);
    };
    let Some(task) = object.task_view(now) else {
        return Refusal::PromiseNotTargeted.into();
    };
    match task.state {
        TaskState::Fulfilled => Reply::Acquired {
            task,
            promise: object.view(now),
            preload: Vec::new(),
        },
        TaskState::Pending => {
            grant(ws, id, &op.pid, op.ttl, now);
            acquired(ws, id, now)
        }
        TaskState::Acquired | TaskState::Suspended | TaskState::Halted => {
            Refusal::TaskExists.into()
        }
    }
}

fn create_acquired(ws: &mut Workspace, op: &TaskCreate, now: Millis) -> Reply {
    let action: &PromiseCreate = &op.action;
    let mut object = newborn(action, now);
    object.trace = ws.trace().cloned();
    if object.is_settled(now) {
        let task = Task::cleared(TaskState::Fulfilled, 0);
        object.task = Some(task);
        let promise = object.view(now);
        let task = object.task_view(now);
        ws.insert(object);
        return match task {
            Some(task) => Reply::Acquired {
                task,
                promise,
                preload: Vec::new(),
            },
            None => Refusal::TaskNotFound.into(),
        };
    }
    object.task = Some(Task::cleared(TaskState::Pending, 0));
    ws.insert(object);
    grant(ws, &action.id, &op.pid, op.ttl, now);
    acquired(ws, &action.id, now)
}

/// Gives the lease of a pending task: version up, the lease set, everything else cleared.
fn grant(ws: &mut Workspace, id: &Id, pid: &Id, ttl: Millis, now: Millis) {
    update_task(ws, id, |task| {
        let releases = task.releases;
        *task = Task::cleared(TaskState::Acquired, task.version.saturating_add(1));
        task.pid = Some(pid.clone());
        task.ttl = Some(ttl);
        task.expires_at = Some(now.saturating_add(ttl));
        task.claimed_at = Some(now);
        task.releases = releases;
    });
}

fn acquired(ws: &Workspace, id: &Id, now: Millis) -> Reply {
    let Some(object) = ws.get(id) else {
        return Refusal::TaskNotFound.into();
    };
    let Some(task) = object.task_view(now) else {
        return Refusal::TaskNotFound.into();
    };
    Reply::Acquired {
        task,
        promise: object.view(now),
        preload: preload(ws, object, now),
    }
}

/// `protocol.md` §7: the other promises of the task's branch, by id, projected.
fn preload(ws: &Workspace, object: &Object, now: Millis) -> Vec<Promise> {
    let Some(branch) = object.promise.tags.branch() else {
        return Vec::new();
    };
    ws.branch(branch)
        .filter(|promise| promise.id != object.promise.id)
        .map(|promise| project(promise, now))
        .collect()
}

/// `task.acquire`.
pub(super) fn acquire(ws: &mut Workspace, op: &TaskAcquire, now: Millis) -> Reply {
    let Some(task) = view(ws, &op.id, now) else {
        return Refusal::TaskNotFound.into();
    };
    if task.state != TaskState::Pending {
        return Refusal::TaskNotPending.into();
    }
    if task.version != op.version {
        return Refusal::TaskVersionMismatch.into();
    }
    grant(ws, &op.id, &op.pid, op.ttl, now);
    acquired(ws, &op.id, now)
}

fn view(ws: &Workspace, id: &str, now: Millis) -> Option<TaskRecord> {
    ws.get(id)?.task_view(now)
}

/// `task.fence`.
pub(super) fn fence(ws: &mut Workspace, op: &TaskFence, now: Millis, config: &Config) -> Reply {
    if !exists(ws, &op.task.id) {
        return Refusal::TaskNotFound.into();
    }
    if !is_held(ws, &op.task, now) {
        return Refusal::TaskVersionMismatch.into();
    }
    let (kind, (is_progress, inner)) = match &op.action {
        FenceAction::Create(create) => ("promise.create", promise::create(ws, create, now, config)),
        FenceAction::Settle(settle) => (
            "promise.settle",
            promise::settle_by_client(ws, settle, now, config),
        ),
    };
    if is_progress {
        note_progress(ws, &op.task.id);
    }
    let preload = ws
        .get(&op.task.id)
        .map(|object| preload(ws, object, now))
        .unwrap_or_default();
    Reply::Fenced {
        kind,
        corr_id: op.corr_id.clone(),
        inner: Box::new(inner),
        preload,
    }
}

/// Forgets earlier releases: the task got somewhere.
fn note_progress(ws: &mut Workspace, id: &Id) {
    let had_releases = ws
        .get(id)
        .and_then(|object| object.task.as_ref())
        .is_some_and(|task| task.releases > 0);
    if had_releases {
        update_task(ws, id, |task| task.releases = 0);
    }
}

/// `task.heartbeat`: renews the leases named, or with an empty list all that the process holds (D-05).
///
/// Who sends an empty list beats for as long as it lives, also for a task that it does not know it
/// holds, because the answer to its acquire was lost. So an empty list renews a lease only for
/// [`ANONYMOUS_RENEWALS_MAX`] of its lengths after the holder last named the task, and only of tasks
/// that it may name.
pub(super) fn heartbeat(ws: &mut Workspace, op: &TaskHeartbeat, now: Millis) -> Reply {
    let TaskHeartbeat { pid, tasks, within } = op;
    if tasks.is_empty() {
        let within = within.as_deref().unwrap_or_default();
        let held = ws.held_by(pid).into_iter();
        for id in held.filter(|id| id.starts_with(within)) {
            if may_renew_anonymously(ws, &id, now) {
                renew(ws, &id, pid, None, now);
            }
        }
    }
    for task in tasks {
        renew(ws, &task.id, pid, Some(task.version), now);
    }
    Reply::Done
}

fn may_renew_anonymously(ws: &Workspace, id: &Id, now: Millis) -> bool {
    let task = ws.get(id).and_then(|object| object.task.as_ref());
    task.and_then(|task| {
        let span = task.ttl?.saturating_mul(ANONYMOUS_RENEWALS_MAX);
        Some(now <= task.claimed_at?.saturating_add(span))
    })
    .unwrap_or(false)
}

fn renew(ws: &mut Workspace, id: &Id, pid: &Id, version: Option<i64>, now: Millis) {
    let Some(object) = ws.get(id) else { return };
    if object.task_state(now) != Some(TaskState::Acquired) {
        return;
    }
    let Some(task) = &object.task else { return };
    if task.pid.as_ref() != Some(pid) || version.is_some_and(|version| version != task.version) {
        return;
    }
    let expires_at = task.ttl.map(|ttl| now.saturating_add(ttl));
    let claimed_at = if version.is_some() {
        Some(now)
    } else {
        task.claimed_at
    };
    if task.expires_at != expires_at || task.claimed_at != claimed_at {
        update_task(ws, id, |task| {
            task.expires_at = expires_at;
            task.claimed_at = claimed_at;
        });
    }
}

/// `task.suspend`.
pub(super) fn suspend(ws: &mut Workspace, op: &TaskSuspend, now: Millis) -> Reply {
    let id = &op.task.id;
    if !exists(ws, id) {
        return Refusal::TaskNotFound.into();
    }
    if !is_held(ws, &op.task, now) {
        return Refusal::TaskNotHeldForSuspend.into();
    }
    if op.awaited.iter().any(|awaited| ws.get(awaited).is_none()) {
        return Refusal::SuspendAwaitedNotFound.into();
    }
    if any_settled(ws, &op.awaited, now) {
        let has_resumes = ws
            .get(id)
            .and_then(|object| object.task.as_ref())
            .is_some_and(|task| !task.resumes.is_empty());
        if has_resumes {
            update_task(ws, id, |task| task.resumes.clear());
        }
        let preload = ws
            .get(id)
            .map(|object| preload(ws, object, now))
            .unwrap_or_default();
        return Reply::Redirect { preload };
    }
    for awaited in &op.awaited {
        add_callback(ws, awaited, id);
    }
    update_task(ws, id, |task| {
        *task = Task::cleared(TaskState::Suspended, task.version);
    });
    Reply::Done
}

/// Whether one of the promises is loaded and logically settled.
pub(super) fn any_settled(ws: &Workspace, ids: &[Id], now: Millis) -> bool {
    ids.iter()
        .any(|id| ws.get(id).is_some_and(|object| object.is_settled(now)))
}

/// `task.fulfill`.
pub(super) fn fulfill(ws: &mut Workspace, op: &TaskFulfill, now: Millis, config: &Config) -> Reply {
    if !exists(ws, &op.task.id) {
        return Refusal::TaskNotFound.into();
    }
    if !is_held(ws, &op.task, now) {
        return Refusal::TaskNotHeld.into();
    }
    promise::settle_by_client(ws, &op.action, now, config).1
}

/// `task.release`. The first redispatch is immediate; a task that is released over and over without
/// progress backs off, up to the retry timeout (`clients.md`, *What follows for us*, 6).
pub(super) fn release(ws: &mut Workspace, op: &TaskRef, now: Millis, config: &Config) -> Reply {
    if !exists(ws, &op.id) {
        return Refusal::TaskNotFound.into();
    }
    if !is_held(ws, op, now) {
        return Refusal::TaskNotHeld.into();
    }
    let mut releases = 0;
    update_task(ws, &op.id, |task| {
        task.releases = task.releases.saturating_add(1);
        releases = task.releases;
    });
    let offer_at = now.saturating_add(backoff(releases, config));
    dispatch(ws, &op.id, now, offer_at, config);
    Reply::Done
}

/// How long the `execute` of a task released this many times in a row is held back.
fn backoff(releases: u32, config: &Config) -> Millis {
    match releases {
        0 | 1 => 0,
        n => {
            let doublings = (n - 2).min(30);
            (RELEASE_BACKOFF_MIN_MS << doublings).min(config.retry_timeout_ms)
        }
    }
}

/// `task.halt`.
pub(super) fn halt(ws: &mut Workspace, id: &Id, now: Millis) -> Reply {
    let Some(task) = view(ws, id, now) else {
        return Refusal::TaskNotFound.into();
    };
    match task.state {
        TaskState::Fulfilled => Refusal::TaskIsFulfilled.into(),
        TaskState::Halted => Reply::Done,
        TaskState::Pending | TaskState::Acquired | TaskState::Suspended => {
            update_task(ws, id, |task| {
                let resumes = std::mem::take(&mut task.resumes);
                *task = Task::cleared(TaskState::Halted, task.version);
                task.resumes = resumes;
            });
            Reply::Done
        }
    }
}

/// `task.continue`.
pub(super) fn resume_halted(ws: &mut Workspace, id: &Id, now: Millis, config: &Config) -> Reply {
    let Some(task) = view(ws, id, now) else {
        return Refusal::TaskNotFound.into();
    };
    if task.state != TaskState::Halted {
        return Refusal::TaskNotHalted.into();
    }
    dispatch(ws, id, now, now, config);
    Reply::Done
}

/// Lease timeout and task retry (`semantics.md` §6). A promise past its deadline is left to it.
pub(super) fn fire(ws: &mut Workspace, id: &Id, now: Millis, config: &Config) {
    let Some(object) = ws.get(id) else { return };
    if object.is_settled(now) {
        return;
    }
    let Some(task) = &object.task else { return };
    let is_due = match task.state {
        TaskState::Acquired => task.expires_at.is_some_and(|at| at <= now),
        TaskState::Pending => task.retry_at.is_some_and(|at| at <= now),
        TaskState::Suspended | TaskState::Halted | TaskState::Fulfilled => false,
    };
    if is_due {
        dispatch(ws, id, now, now, config);
    }
}
