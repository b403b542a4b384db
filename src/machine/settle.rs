//! Settling a promise and everything that follows from it in the same step (`semantics.md` §4, §5).
//!
//! ```text
//!   settle a ──> its task: fulfilled
//!            ──> its listeners: unblock messages
//!            ──> its callbacks: resume each awaiter
//!                   suspended            -> pending, dispatched
//!                   pending/acquired/halted -> buffered in `resumes`
//!                   past its own deadline   -> settled by it, here (C6), which cascades in turn
//!                   settled, or no task     -> dropped
//! ```

use std::collections::BTreeSet;

use crate::protocol::record::{Id, Millis, PromiseState, TaskState, Value};
use crate::store::Need;

use super::object::{self, Task, deadline_state};
use super::task::dispatch;
use super::workspace::{Message, Workspace};
use super::{Config, UNBLOCK_RETRY_MIN_MS};

/// What a promise settles to.
pub(super) struct Settlement {
    pub state: PromiseState,
    pub value: Value,
    pub settled_at: Millis,
}

/// Settles a stored-pending promise, with all that follows. Everything that [`missing`] asks for must
/// be loaded.
pub(super) fn settle(ws: &mut Workspace, id: &Id, how: Settlement, now: Millis, config: &Config) {
    let mut resumes = settle_one(ws, id, how, now);
    while let Some((awaiter, awaited)) = resumes.pop() {
        // The callback is consumed already: going on would lose a wake-up for good.
        assert!(
            ws.has(&awaiter),
            "the awaiters of a promise are loaded before it settles"
        );
        // An awaiter past its own deadline is settled by it, never resumed (C6).
        if is_expired(ws, &awaiter, now) {
            resumes.extend(expire_one(ws, &awaiter, now));
        } else {
            resume(ws, &awaiter, &awaited, now, config);
        }
    }
}

/// Settles a promise by its deadline if that has passed and it is stored pending.
pub(super) fn expire(ws: &mut Workspace, id: &Id, now: Millis, config: &Config) -> bool {
    if !is_expired(ws, id, now) {
        return false;
    }
    let Some(how) = verdict_of_deadline(ws, id) else {
        return false;
    };
    settle(ws, id, how, now, config);
    true
}

/// Adds to `need` what settling `id` at `now` touches and is not loaded yet.
pub(super) fn missing(ws: &Workspace, id: &Id, now: Millis, need: &mut Need) {
    let mut seen = BTreeSet::new();
    let mut open = vec![id.clone()];
    while let Some(id) = open.pop() {
        if !seen.insert(id.clone()) {
            continue;
        }
        if !ws.has(&id) {
            need.objects.insert(id);
            continue;
        }
        let Some(object) = ws.get(&id) else { continue };
        if object.promise.state != PromiseState::Pending {
            continue;
        }
        for awaiter in &object.callbacks {
            if !ws.has(awaiter) {
                need.objects.insert(awaiter.clone());
            } else if is_expired(ws, awaiter, now) {
                open.push(awaiter.clone());
            }
        }
    }
}

fn is_expired(ws: &Workspace, id: &str, now: Millis) -> bool {
    ws.get(id)
        .is_some_and(|object| object::is_expired(&object.promise, now))
}

fn verdict_of_deadline(ws: &Workspace, id: &str) -> Option<Settlement> {
    let promise = &ws.get(id)?.promise;
    Some(Settlement {
        state: deadline_state(promise),
        value: Value::empty(),
        settled_at: promise.timeout_at,
    })
}

fn expire_one(ws: &mut Workspace, id: &Id, now: Millis) -> Vec<(Id, Id)> {
    match verdict_of_deadline(ws, id) {
        Some(how) => settle_one(ws, id, how, now),
        None => Vec::new(),
    }
}

/// Settles the promise and its task, turns listeners into messages, and returns the resumes owed as
/// (awaiter, awaited), last first.
fn settle_one(ws: &mut Workspace, id: &Id, how: Settlement, now: Millis) -> Vec<(Id, Id)> {
    let mut awaiters = BTreeSet::new();
    ws.update(id, |object| {
        object.promise.state = how.state;
        object.promise.value = how.value;
        object.promise.settled_at = Some(how.settled_at);
        if let Some(task) = &mut object.task {
            *task = Task::cleared(TaskState::Fulfilled, task.version);
        }
        awaiters = std::mem::take(&mut object.callbacks);
        for listener in object.listeners.values_mut() {
            listener.enqueued_at = Some(now);
            listener.retry_at = Some(now.saturating_add(UNBLOCK_RETRY_MIN_MS));
        }
    });
    if let Some(object) = ws.get(id).cloned() {
        for address in object.listeners.keys() {
            let promise = object.promise.clone();
            let trace = ws.trace().cloned();
            ws.send(Message::Unblock {
                promise,
                address: address.clone(),
                trace,
            });
        }
    }
    awaiters
        .into_iter()
        .rev()
        .map(|awaiter| (awaiter, id.clone()))
        .collect()
}

/// `semantics.md` §5, for an awaiter that is not past its deadline.
fn resume(ws: &mut Workspace, awaiter: &Id, awaited: &Id, now: Millis, config: &Config) {
    let Some(task) = ws.get(awaiter).and_then(|object| object.task.as_ref()) else {
        return;
    };
    match task.state {
        TaskState::Fulfilled => {}
        TaskState::Suspended => {
            ws.update(awaiter, |object| {
                if let Some(task) = &mut object.task {
                    task.resumes.insert(awaited.clone());
                }
            });
            dispatch(ws, awaiter, now, now, config);
        }
        TaskState::Pending | TaskState::Acquired | TaskState::Halted => {
            if task.resumes.contains(awaited) {
                return;
            }
            ws.update(awaiter, |object| {
                if let Some(task) = &mut object.task {
                    task.resumes.insert(awaited.clone());
                }
            });
        }
    }
}
