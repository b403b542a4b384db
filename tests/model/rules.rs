//! What is checked of a step beyond the numbered properties: the prediction, the design's own facts,
//! and the properties of responses that one step can show (`semantics.md` §13).

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use resonate::machine::invariant::{Entry, Key, State};
use resonate::machine::object::{Listener, Object};
use resonate::machine::workspace::Message;
use resonate::machine::{Input, Step};
use resonate::protocol::operation::{Command, FenceAction};
use resonate::protocol::record::{Id, PromiseState, TaskState};
use resonate::protocol::reply::Reply;

use super::world::{Decision, Outcome, World, equal};

/// R6.
pub fn refusals_change_nothing(decision: &Decision) -> Outcome<()> {
    let is_refused = matches!(decision.reply, Reply::Refused(_));
    match is_refused && !(decision.changes.is_empty() && decision.messages.is_empty()) {
        true => Err(format!(
            "R6: {:?} changed {:?}",
            decision.reply, decision.changes
        )),
        false => Ok(()),
    }
}

/// The prediction and what came of it, up to the order of sets, the serials, and when a message is
/// offered (a released task may back off).
pub fn same_state(expected: State, actual: State) -> Outcome<()> {
    let (expected, actual) = (normal(expected), normal(actual));
    rows("promise", &actual.promises, &expected.promises)?;
    rows("task", &actual.tasks, &expected.tasks)?;
    rows("schedule", &actual.schedules, &expected.schedules)?;
    rows("outbox", &actual.outbox, &expected.outbox)
}

fn rows<T: PartialEq + std::fmt::Debug>(what: &str, actual: &[T], expected: &[T]) -> Outcome<()> {
    for pair in actual.iter().zip(expected) {
        equal(what, &pair.0, &pair.1)?;
    }
    equal("their number", &actual.len(), &expected.len()).map_err(|e| format!("{what}: {e}"))
}

fn normal(mut state: State) -> State {
    for promise in &mut state.promises {
        promise.callbacks.sort();
        promise.listeners.sort();
    }
    for task in &mut state.tasks {
        task.resumes.sort();
    }
    for entry in &mut state.outbox {
        entry.serial = 0;
        if let Message::Execute { offer_at, .. } = &mut entry.message {
            *offer_at = 0;
        }
    }
    state.promises.sort_by(|a, b| a.record.id.cmp(&b.record.id));
    state.tasks.sort_by(|a, b| a.id.cmp(&b.id));
    state.schedules.sort_by(|a, b| a.id.cmp(&b.id));
    state.outbox.sort_by_key(Entry::key);
    state
}

/// Facts of this design that the specification does not number.
pub fn design(
    world: &World,
    input: &Input,
    messages: &[Message],
    before: &BTreeMap<Id, Arc<Object>>,
) -> Outcome<()> {
    let mut enqueued = BTreeSet::new();
    for (id, object) in &world.objects {
        let is_settled = object.promise.state != PromiseState::Pending;
        for (address, listener) in &object.listeners {
            let is_regular = listener.enqueued_at.is_some() == is_settled
                && listener.retry_at.is_some() == is_settled
                && (is_settled || listener.attempts == 0);
            if !is_regular {
                return Err(format!("listener of {id}: {listener:?}"));
            }
            let was = before.get(id).and_then(|o| o.listeners.get(address));
            if is_settled && was.is_none_or(|was| was.enqueued_at.is_none()) {
                let first = Listener {
                    enqueued_at: Some(world.now),
                    retry_at: Some(world.now.saturating_add(1000)),
                    attempts: 0,
                };
                equal("a new unblock", listener, &first)?;
            }
            if is_settled {
                enqueued.insert(Key::Unblock(id.clone(), address.clone()));
            }
        }
        let Some(task) = &object.task else { continue };
        let is_pending = task.state == TaskState::Pending;
        let may_have_releases = is_pending || task.state == TaskState::Acquired;
        if task.offer_at.is_some() != is_pending
            || task.claimed_at.is_some() != (task.state == TaskState::Acquired)
            || task.offer_at > task.retry_at
            || (task.releases > 0 && !may_have_releases)
        {
            return Err(format!("task of {id}: {task:?}"));
        }
        let was = before.get(id).and_then(|o| o.task.as_ref());
        if let Some(was) = was.filter(|_| may_have_releases) {
            let expected = releases(world, input, before, id, was.releases, !messages.is_empty());
            equal("releases in a row", &task.releases, &expected)?;
        }
    }
    let unblocks = world
        .outbox
        .keys()
        .filter(|key| matches!(key, Key::Unblock(..)));
    equal(
        "the enqueued listeners",
        &enqueued,
        &unblocks.cloned().collect(),
    )?;
    match input {
        Input::Step(Step::UnblockFailed { promise, address }) => {
            backs_off(world, before, promise, address)
        }
        Input::Step(Step::UnblockDue { promise, address }) => {
            let listener = before.get(promise).and_then(|o| o.listeners.get(address));
            let is_due = listener.is_some_and(|l| l.retry_at.is_some_and(|at| at <= world.now));
            equal("whether it is offered", &!messages.is_empty(), &is_due)?;
            let now_due = world
                .objects
                .get(promise)
                .and_then(|o| o.listeners.get(address));
            match now_due.and_then(|listener| listener.retry_at) {
                Some(at) if at <= world.now => Err("offered, and due at once again".to_owned()),
                _ => Ok(()),
            }
        }
        Input::Request(Command::TaskRelease(task)) if !messages.is_empty() => {
            let task = before[&task.id].task.as_ref();
            released(world, task.map_or(0, |task| task.releases), messages)
        }
        _ => Ok(()),
    }
}

/// Releases in a row without progress: a fence that did something is progress.
fn releases(
    world: &World,
    input: &Input,
    before: &BTreeMap<Id, Arc<Object>>,
    id: &Id,
    was: u32,
    is_dispatched: bool,
) -> u32 {
    match input {
        Input::Request(Command::TaskRelease(task)) if task.id == *id && is_dispatched => was + 1,
        Input::Request(Command::TaskFence(op)) if op.task.id == *id => {
            let inner = match &op.action {
                FenceAction::Create(create) => &create.id,
                FenceAction::Settle(settle) => &settle.id,
            };
            match before.get(inner) == world.objects.get(inner) {
                true => was,
                false => 0,
            }
        }
        _ => was,
    }
}

/// A task released over and over is offered later and later: 0.1 s doubling to the retry timeout.
fn released(world: &World, before: u32, messages: &[Message]) -> Outcome<()> {
    let retry = world.config.retry_timeout_ms;
    let wait = match before {
        0 => 0,
        n => (1..n)
            .fold(100, |wait: i64, _| (wait * 2).min(retry))
            .min(retry),
    };
    let offers = messages.iter().map(|message| match message {
        Message::Execute { offer_at, .. } => *offer_at,
        Message::Unblock { .. } => 0,
    });
    let expected = world.now.saturating_add(wait);
    equal(
        "when it is offered",
        &offers.collect::<Vec<_>>(),
        &vec![expected],
    )
}

/// `transports.md` §7: 1 s doubling to 60 s.
fn backs_off(
    world: &World,
    before: &BTreeMap<Id, Arc<Object>>,
    promise: &Id,
    address: &Id,
) -> Outcome<()> {
    let find = |objects: &BTreeMap<Id, Arc<Object>>| {
        let object = objects.get(promise)?;
        object.listeners.get(address).cloned()
    };
    let (Some(was), Some(is)) = (find(before), find(&world.objects)) else {
        return Ok(());
    };
    if was.enqueued_at.is_none() {
        return equal("a pending listener", &is, &was);
    }
    let mut wait = 1000;
    for _ in 0..was.attempts {
        wait = (wait * 2).min(60_000);
    }
    equal("the attempts", &is.attempts, &(was.attempts + 1))?;
    equal(
        "the next attempt",
        &is.retry_at,
        &Some(world.now.saturating_add(wait)),
    )
}

/// R3, R4 and the other commands that may be repeated: the same answer, and nothing happens.
pub fn repeats(world: &World, input: &Input, reply: &Reply) -> Outcome<()> {
    let is_repeatable = match input {
        Input::Request(command) => matches!(
            command,
            Command::PromiseCreate(_)
                | Command::PromiseSettle(_)
                | Command::PromiseRegisterCallback { .. }
                | Command::PromiseRegisterListener { .. }
                | Command::TaskHeartbeat(_)
                | Command::TaskHalt { .. }
                | Command::ScheduleCreate(_)
        ),
        // Duplicate firings are harmless. A schedule may have more to catch up with.
        Input::Step(step) => !matches!(step, Step::UnblockFailed { .. } | Step::Schedule(_)),
    };
    if !is_repeatable {
        return Ok(());
    }
    let again = world.decide_on(&world.objects, input)?;
    equal("the answer to a repeat", &again.reply, reply)?;
    let is_offer = matches!(input, Input::Step(Step::UnblockDue { .. }));
    match again.changes.is_empty() && (again.messages.is_empty() || is_offer) {
        true => Ok(()),
        false => Err(format!("a repeat changed {:?}", again.changes)),
    }
}

/// R5, up to resumes and to the back-off of repeated releases.
pub fn release_is_halt_then_continue(
    world: &World,
    input: &Input,
    reply: &Reply,
    before: &BTreeMap<Id, Arc<Object>>,
) -> Outcome<()> {
    let (Input::Request(Command::TaskRelease(task)), Reply::Done) = (input, reply) else {
        return Ok(());
    };
    let mut objects = before.clone();
    for command in [
        Command::TaskHalt {
            id: task.id.clone(),
        },
        Command::TaskContinue {
            id: task.id.clone(),
        },
    ] {
        let decision = world.decide_on(&objects, &Input::Request(command))?;
        equal("R5", &decision.reply, &Reply::Done)?;
        let changed = decision.changes.objects.into_iter();
        objects.extend(changed.map(|change| (change.after.promise.id.clone(), change.after)));
    }
    let plain = |objects: &BTreeMap<Id, Arc<Object>>| {
        let mut object = (*objects[&task.id]).clone();
        if let Some(task) = &mut object.task {
            task.releases = 0;
            task.offer_at = None;
        }
        object
    };
    equal("R5", &plain(&objects), &plain(&world.objects))
}
