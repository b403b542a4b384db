//! `promise.*` commands (`protocol.md` §8).

use std::collections::{BTreeMap, BTreeSet};

use crate::protocol::operation::{PromiseCreate, PromiseSettle};
use crate::protocol::record::{Id, Millis, Promise, PromiseState, TaskState, Value};
use crate::protocol::reply::{Refusal, Reply};

use super::Config;
use super::object::{Listener, Object, Task, deadline_state};
use super::settle::{Settlement, settle};
use super::task::dispatch;
use super::workspace::Workspace;

/// `promise.create`. Returns whether the promise is new, and the answer.
pub(super) fn create(
    ws: &mut Workspace,
    op: &PromiseCreate,
    now: Millis,
    config: &Config,
) -> (bool, Reply) {
    // 1: idempotent by id alone; nothing is compared.
    if let Some(existing) = ws.get(&op.id) {
        return (false, Reply::Promise(existing.view(now)));
    }
    bear(ws, op, now, now, config);
    (true, answer(ws, &op.id, now))
}

/// Creates a promise that does not exist, with its task, as of the instant `born_at` (an occurrence
/// of a schedule may lie in the past; everybody else is born now).
pub(super) fn bear(
    ws: &mut Workspace,
    op: &PromiseCreate,
    born_at: Millis,
    now: Millis,
    config: &Config,
) {
    let is_settled = op.timeout_at <= born_at;
    let mut object = newborn(op, born_at);
    if object.promise.tags.is_targeted() {
        let state = if is_settled {
            TaskState::Fulfilled
        } else {
            TaskState::Pending
        };
        object.task = Some(Task::cleared(state, 0));
        object.trace = ws.trace().cloned();
    }
    let has_task = object.task.is_some();
    let delay = object.promise.tags.delay().filter(|delay| *delay > now);
    ws.insert(object);
    if is_settled || !has_task {
        return;
    }
    match delay {
        // Delay: no message before it; the retry timer sends the first.
        Some(delay) => park(ws, &op.id, delay),
        // An occurrence caught up after its own deadline is never dispatched; its timeout is due.
        None if op.timeout_at <= now => park(ws, &op.id, now),
        None => dispatch(ws, &op.id, now, now, config),
    }
}

/// The object of a new promise, without a task.
pub(super) fn newborn(op: &PromiseCreate, born_at: Millis) -> Object {
    let mut promise = Promise {
        id: op.id.clone(),
        state: PromiseState::Pending,
        param: op.param.clone(),
        value: Value::empty(),
        tags: op.tags.clone(),
        timeout_at: op.timeout_at,
        created_at: born_at,
        settled_at: None,
    };
    if op.timeout_at <= born_at {
        promise.state = deadline_state(&promise);
        promise.created_at = op.timeout_at;
        promise.settled_at = Some(op.timeout_at);
    }
    let tags = &promise.tags;
    let armed = tags.is_targeted() || tags.is_timer() || tags.is_external();
    Object {
        promise,
        armed,
        callbacks: BTreeSet::new(),
        listeners: BTreeMap::new(),
        task: None,
        trace: None,
    }
}

fn park(ws: &mut Workspace, id: &Id, until: Millis) {
    ws.update(id, |object| {
        if let Some(task) = &mut object.task {
            task.retry_at = Some(until);
            task.offer_at = Some(until);
        }
    });
}

/// `promise.settle`. Returns whether this request settled it, and the answer.
pub(super) fn settle_by_client(
    ws: &mut Workspace,
    op: &PromiseSettle,
    now: Millis,
    config: &Config,
) -> (bool, Reply) {
    let Some(object) = ws.get(&op.id) else {
        return (false, Refusal::PromiseNotFound.into());
    };
    if object.is_settled(now) {
        return (false, Reply::Promise(object.view(now)));
    }
    let how = Settlement {
        state: op.state.into(),
        value: op.value.clone(),
        // Another server, whose clock is a little ahead, may have created it just now.
        settled_at: now.max(object.promise.created_at),
    };
    settle(ws, &op.id, how, now, config);
    (true, answer(ws, &op.id, now))
}

/// `promise.register_callback`.
pub(super) fn register_callback(
    ws: &mut Workspace,
    awaited: &Id,
    awaiter: &Id,
    now: Millis,
) -> Reply {
    let Some(awaited_object) = ws.get(awaited) else {
        return Refusal::AwaitedNotFound.into();
    };
    let Some(awaiter_object) = ws.get(awaiter) else {
        return Refusal::AwaiterNotFound.into();
    };
    if awaiter_object.task.is_none() {
        return Refusal::AwaiterNotTargeted.into();
    }
    if !awaited_object.is_settled(now) && !awaiter_object.is_settled(now) {
        add_callback(ws, awaited, awaiter);
    }
    answer(ws, awaited, now)
}

/// Records a callback and arms the awaited promise (D-02). A repeat changes nothing.
pub(super) fn add_callback(ws: &mut Workspace, awaited: &Id, awaiter: &Id) {
    let is_new = ws
        .get(awaited)
        .is_some_and(|o| !o.callbacks.contains(awaiter) || !o.armed);
    if is_new {
        ws.update(awaited, |object| {
            object.callbacks.insert(awaiter.clone());
            object.armed = true;
        });
    }
}

/// `promise.register_listener`.
pub(super) fn register_listener(
    ws: &mut Workspace,
    awaited: &Id,
    address: &Id,
    now: Millis,
) -> Reply {
    let Some(object) = ws.get(awaited) else {
        return Refusal::AwaitedNotFound.into();
    };
    if !object.is_settled(now) && !object.listeners.contains_key(address) {
        ws.update(awaited, |object| {
            object
                .listeners
                .insert(address.clone(), Listener::default());
            object.armed = true;
        });
    }
    answer(ws, awaited, now)
}

/// The projected record of a promise that exists.
pub(super) fn answer(ws: &Workspace, id: &str, now: Millis) -> Reply {
    match ws.get(id) {
        Some(object) => Reply::Promise(object.view(now)),
        None => Refusal::PromiseNotFound.into(),
    }
}
