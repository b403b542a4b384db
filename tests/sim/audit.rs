//! Checks every commit: the decisions in it, one after the other, against the state that they were taken on.
//!
//! The machine decides once more, over the state as it was, and the specification's oracle predicts what must
//! come of it; both must answer what the server answered, and what is committed must be what all of it comes
//! to. So the order of commits is the order in which everything happened, and there is no other history.
//!
//! Decisions that change nothing may rest on an earlier state, of any moment since the batch began to load:
//! a batch without changes commits nothing that could be found to be overtaken, and members of branches are
//! not compared. What is a preload is compared with all states of that time.

use std::collections::BTreeSet;
use std::sync::Arc;

use resonate::machine::invariant::transition::Transition;
use resonate::machine::invariant::{Entry, Key, State, check_object, check_transition};
use resonate::machine::object::Object;
use resonate::machine::workspace::{Message, Workspace};
use resonate::machine::{Config, Input, Step, decide, missing};
use resonate::protocol::operation::{Command, FenceAction, TaskHeartbeat};
use resonate::protocol::record::{Id, Millis, Promise, TaskState};
use resonate::protocol::reply::Reply;
use resonate::store::{Changes, ScheduleChange};

use super::history::{History, Seq, View, unblocks};
use super::sim::{Checked, Failure, broken};
use crate::model::oracle::{self, Oracle};
use crate::model::rules::same_state;

/// A decision, as the server has taken it.
#[derive(Clone, Debug)]
pub struct Decision {
    pub now: Millis,
    pub input: Input,
    pub reply: Reply,
}

/// What the machine makes of an input, decided once more.
struct Again {
    reply: Reply,
    changes: Changes,
    messages: Vec<Message>,
    /// What was looked at, by id.
    loaded: BTreeSet<Id>,
}

/// Checks decisions that were loaded from `since` on and are committed now, together with what is committed.
/// Answers the rows of the specification's tables that were taken.
pub fn check_commit(
    history: &History,
    since: Seq,
    decisions: &[Decision],
    changes: &Changes,
    unblock_ttl_ms: Millis,
) -> Result<Vec<&'static str>, Failure> {
    let mut view = history.now();
    let taken_back = taken_back(&view, since, decisions, changes);
    let absent = taken_back.iter().map(|id| (id.clone(), None));
    view.schedules_over.extend(absent);
    let mut rows = Vec::new();
    for decision in decisions {
        let (again, seq) = explain(&view, since, decision, changes)?;
        check_booking(&view, decision, unblock_ttl_ms)?;
        rows.extend(check_decision(&view.at(seq), decision, &again)?);
        for change in &again.changes.objects {
            let id = change.after.promise.id.clone();
            view.over.insert(id, change.after.clone());
        }
        for ScheduleChange { id, after } in &again.changes.schedules {
            view.schedules_over.insert(id.clone(), after.clone());
        }
    }
    for id in &taken_back {
        if view.schedules_over.get(id) == Some(&None) {
            view.schedules_over.remove(id);
        }
    }
    check_changes(&view, changes)?;
    Ok(rows)
}

/// Schedules that were absent at the first look, created, and deleted again by what follows: nothing of it is committed,
/// so another batch may have created one meanwhile. All of it happened before that.
fn taken_back(
    view: &View<'_>,
    since: Seq,
    decisions: &[Decision],
    changes: &Changes,
) -> BTreeSet<Id> {
    let created = decisions
        .iter()
        .filter_map(|decision| match &decision.input {
            Input::Request(Command::ScheduleCreate(op)) => Some(&op.id),
            _ => None,
        });
    let is_committed = |id: &Id| changes.schedules.iter().any(|change| change.id == *id);
    let was_absent = |id: &Id| view.at(since).schedule(id).is_none();
    created
        .filter(|id| !is_committed(id) && was_absent(id) && view.schedule(id).is_some())
        .cloned()
        .collect()
}

/// Everything that the decisions come to is committed, and nothing else.
fn check_changes(view: &View<'_>, changes: &Changes) -> Checked {
    let check = "a commit is what was decided";
    for (id, object) in &view.over {
        let committed = changes.objects.iter().find(|c| c.after.promise.id == *id);
        let is_changed = view.history.object(id) != Some(object);
        match committed {
            Some(change) if change.after == *object => {}
            None if !is_changed => {}
            other => return broken(check, format!("{object:?} is committed as {other:?}")),
        }
    }
    let is_known = |id: &Id| view.over.contains_key(id);
    if let Some(other) = changes
        .objects
        .iter()
        .find(|c| !is_known(&c.after.promise.id))
    {
        return broken(check, format!("nobody asked for {:?}", other.after));
    }
    for (id, schedule) in &view.schedules_over {
        let committed = changes.schedules.iter().find(|c| c.id == *id);
        let is_changed = view.history.now().schedule(id) != schedule.as_ref();
        if committed.map(|c| &c.after) != Some(schedule) && is_changed {
            return broken(
                check,
                format!("schedule {id} is committed as {committed:?}"),
            );
        }
    }
    Ok(())
}

/// An `unblock` is forgotten only when somebody has received it, or it is too old.
fn check_booking(view: &View<'_>, decision: &Decision, unblock_ttl_ms: Millis) -> Checked {
    let Input::Step(Step::UnblockDone { promise, address }) = &decision.input else {
        return Ok(());
    };
    let listener = view
        .object(promise)
        .and_then(|object| object.listeners.get(address));
    let Some(enqueued_at) = listener.and_then(|listener| listener.enqueued_at) else {
        return Ok(());
    };
    let key = (promise.clone(), address.clone());
    let is_received = view.history.received.contains(&key);
    match is_received || enqueued_at.saturating_add(unblock_ttl_ms) <= decision.now {
        true => Ok(()),
        false => broken(
            "every unblock is delivered or stays stored",
            format!("nobody at {address} has heard of {promise}"),
        ),
    }
}

/// Finds a state on which the machine answers as the server did: the one that is committed on, unless the
/// input changes nothing there.
fn explain(
    view: &View<'_>,
    since: Seq,
    decision: &Decision,
    changes: &Changes,
) -> Result<(Again, Seq), Failure> {
    // What it changes is committed, as it is or changed once more.
    let is_committed = |again: &Again| {
        again.changes.objects.iter().all(|made| {
            let id = &made.after.promise.id;
            changes
                .objects
                .iter()
                .any(|change| change.after.promise.id == *id)
        })
    };
    let answers = |again: &Again| {
        bare(&again.reply) == bare(&decision.reply) && is_preload_of(view, since, decision, again)
    };
    let again = decide_again(view, decision);
    if answers(&again) && is_committed(&again) {
        return Ok((again, view.seq));
    }
    for seq in (since..view.seq).rev() {
        let before = decide_again(&view.at(seq), decision);
        if before.changes.is_empty() && answers(&before) {
            return Ok((before, seq));
        }
    }
    // Taken back by one that follows: what is committed shows whether it was.
    if answers(&again) {
        return Ok((again, view.seq));
    }
    Err(Failure {
        check: "every answer follows from the state it was decided on".to_owned(),
        detail: format!(
            "{:?}\n  at {} was answered {:?}\n  instead of          {:?}",
            decision.input, decision.now, decision.reply, again.reply
        ),
    })
}

fn decide_again(view: &View<'_>, decision: &Decision) -> Again {
    let config = Config {
        retry_timeout_ms: view.history.retry_timeout_ms,
    };
    let mut ws = Workspace::default();
    let mut loaded = BTreeSet::new();
    loop {
        let need = missing(&decision.input, decision.now, &ws);
        if need.is_empty() {
            break;
        }
        let found = view.load(&need);
        loaded.extend(need.objects.iter().cloned());
        loaded.extend(found.objects.iter().map(|object| object.promise.id.clone()));
        ws.absorb(&need, found);
    }
    let reply = decide(&decision.input, decision.now, &mut ws, &config);
    let (changes, messages) = ws.finish();
    Again {
        reply,
        changes,
        messages,
        loaded,
    }
}

/// An answer without its preload.
fn bare(reply: &Reply) -> Reply {
    let mut bare = reply.clone();
    match &mut bare {
        Reply::Acquired { preload, .. }
        | Reply::Fenced { preload, .. }
        | Reply::Redirect { preload } => preload.clear(),
        _ => {}
    }
    bare
}

pub fn preload_of(reply: &Reply) -> &[Promise] {
    match reply {
        Reply::Acquired { preload, .. }
        | Reply::Fenced { preload, .. }
        | Reply::Redirect { preload } => preload,
        _ => &[],
    }
}

/// Whether each record is one that the promise had since then, and none is left out that was there then.
fn is_preload_of(view: &View<'_>, since: Seq, decision: &Decision, again: &Again) -> bool {
    let preload = preload_of(&decision.reply);
    let subject = match (&decision.input, &decision.reply) {
        (Input::Request(command), Reply::Fenced { .. } | Reply::Redirect { .. }) => {
            command.subject()
        }
        (Input::Request(command), Reply::Acquired { task, .. })
            if task.state == TaskState::Acquired =>
        {
            command.subject()
        }
        _ => return preload.is_empty(),
    };
    let made = again.changes.objects.iter().map(|change| &change.after);
    let made = made
        .into_iter()
        .find(|object| object.promise.id == *subject);
    let object = made.or_else(|| view.object(subject));
    let Some(branch) = object.and_then(|object| object.promise.tags.branch()) else {
        return preload.is_empty();
    };
    let was = view.history.at(since);
    let is_there = |id: &Id| preload.iter().any(|promise| promise.id == *id);
    let others = was.members(branch).into_iter().filter(|p| p.id != *subject);
    let is_complete = others.map(|promise| promise.id).all(|id| is_there(&id));
    let is_right = preload.iter().all(|promise| {
        let stored = view.history.versions(&promise.id, since, view.seq);
        let own = view.over.get(&promise.id).cloned();
        let made = again
            .changes
            .objects
            .iter()
            .map(|change| change.after.clone());
        let made = made.filter(|object| object.promise.id == promise.id);
        let mut any = stored.into_iter().flatten().chain(own).chain(made);
        any.any(|object| oracle::view(&object.promise, decision.now) == *promise)
    });
    is_complete && is_right && preload.is_sorted_by(|a, b| a.id < b.id)
}

/// The specification's view of a decision.
fn check_decision(
    view: &View<'_>,
    decision: &Decision,
    again: &Again,
) -> Result<Vec<&'static str>, Failure> {
    let Decision { now, input, reply } = decision;
    let slice = slice(view, input, &again.loaded);
    let retry = view.history.retry_timeout_ms;
    let schedules = |after: bool| {
        let id = match input {
            Input::Request(Command::ScheduleCreate(op)) => &op.id,
            Input::Request(Command::ScheduleDelete { id }) | Input::Step(Step::Schedule(id)) => id,
            _ => return Vec::new(),
        };
        let changed = again.changes.schedules.iter().find(|c| c.id == *id);
        let found = match changed.filter(|_| after) {
            Some(change) => change.after.as_ref(),
            None => view.schedule(id),
        };
        found
            .map(|schedule| (**schedule).clone())
            .into_iter()
            .collect()
    };
    let stored: Vec<&Object> = slice
        .iter()
        .filter_map(|id| Some(&**view.object(id)?))
        .collect();
    let outbox: Vec<Entry> = stored.iter().flat_map(|object| unblocks(object)).collect();
    let keys: BTreeSet<Key> = outbox.iter().map(Entry::key).collect();
    let before = State::of(stored, schedules(false), outbox, *now, retry);
    let mut oracle = Oracle::new(before.clone());
    let expected = oracle.predict(input);
    if bare(&expected) != bare(reply) {
        let detail = format!("{input:?} was answered {reply:?} instead of {expected:?}");
        return Err(Failure {
            check: "every answer is the specification's".to_owned(),
            detail,
        });
    }
    let changed = |id: &Id| {
        again
            .changes
            .objects
            .iter()
            .find(|c| c.after.promise.id == *id)
    };
    let born = again.changes.objects.iter().map(|c| &c.after.promise.id);
    let all: BTreeSet<&Id> = slice.iter().chain(born).collect();
    let after: Vec<&Arc<Object>> = all
        .into_iter()
        .filter_map(|id| changed(id).map(|c| &c.after).or_else(|| view.object(id)))
        .collect();
    let mut outbox: Vec<Entry> = after.iter().flat_map(|object| unblocks(object)).collect();
    for entry in outbox
        .iter_mut()
        .filter(|entry| !keys.contains(&entry.key()))
    {
        entry.serial = 2;
    }
    let executes = again
        .messages
        .iter()
        .filter(|m| matches!(m, Message::Execute { .. }));
    outbox.extend(executes.map(|message| Entry {
        serial: 2,
        message: message.clone(),
    }));
    let after = after.into_iter().map(|object| &**object);
    let after = State::of(after, schedules(true), outbox, *now, retry);
    let delivered = match input {
        Input::Step(Step::UnblockDone { promise, address }) => {
            BTreeSet::from([Key::Unblock(promise.clone(), address.clone())])
        }
        _ => BTreeSet::new(),
    };
    let is_internal = matches!(input, Input::Step(_));
    let transition = Transition::of(&before, &after, is_internal, &delivered);
    let named = |violation: resonate::machine::invariant::Violation| Failure {
        check: format!("{} {}", violation.number, violation.name),
        detail: format!("{}\n  by {input:?} at {now}", violation.detail),
    };
    check_transition(&transition).map_err(named)?;
    let latest = view.history.latest.max(*now);
    for change in &again.changes.objects {
        check_object(&change.after, latest).map_err(named)?;
    }
    let rows = oracle.rows;
    same_state(oracle.state, after).map_err(|error| Failure {
        check: "every change is the specification's".to_owned(),
        detail: format!("{input:?} at {now}: {error}"),
    })?;
    Ok(rows)
}

/// The objects that a decision may look at or change, by the specification's rules: those that it names,
/// whoever waits for them, and its branch.
fn slice(view: &View<'_>, input: &Input, loaded: &BTreeSet<Id>) -> BTreeSet<Id> {
    let mut ids = BTreeSet::new();
    match input {
        Input::Request(command) => name(view, command, &mut ids),
        // The occurrences' ids are the machine's to make; the oracle makes them, too.
        Input::Step(Step::Schedule(_)) => ids.extend(loaded.iter().cloned()),
        Input::Step(step) => {
            ids.insert(step.subject().clone());
        }
    }
    let mut open: Vec<Id> = ids.iter().cloned().collect();
    while let Some(id) = open.pop() {
        for awaiter in view.object(&id).iter().flat_map(|object| &object.callbacks) {
            if ids.insert(awaiter.clone()) {
                open.push(awaiter.clone());
            }
        }
    }
    ids
}

fn name(view: &View<'_>, command: &Command, ids: &mut BTreeSet<Id>) {
    let mut add = |id: &Id| {
        ids.insert(id.clone());
    };
    match command {
        Command::PromiseRegisterCallback { awaited, awaiter } => {
            add(awaited);
            add(awaiter);
        }
        Command::TaskFence(op) => {
            add(&op.task.id);
            match &op.action {
                FenceAction::Create(create) => add(&create.id),
                FenceAction::Settle(settle) => add(&settle.id),
            }
        }
        Command::TaskHeartbeat(TaskHeartbeat { pid, tasks, .. }) if tasks.is_empty() => {
            ids.extend(view.held_by(pid));
        }
        Command::TaskHeartbeat(TaskHeartbeat { tasks, .. }) => {
            tasks.iter().for_each(|task| add(&task.id));
        }
        Command::TaskSuspend(op) => {
            add(&op.task.id);
            op.awaited.iter().for_each(add);
        }
        Command::ScheduleCreate(_) | Command::ScheduleDelete { .. } => {}
        command => add(command.subject()),
    }
}
