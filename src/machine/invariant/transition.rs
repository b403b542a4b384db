//! What holds of every transition (`semantics.md` §12).

use std::collections::{BTreeSet, HashMap};

use crate::machine::workspace::Message;
use crate::protocol::record::{Id, Millis, TaskState};

use super::{Entry, Facts, Key, PromiseRow, State, TaskRow, Violation};

/// One step: a request, an internal step, or a delivery.
pub struct Transition<'a> {
    pub(super) before: Facts<'a>,
    pub(super) after: Facts<'a>,
    pub(super) now: Millis,
    pub(super) is_internal: bool,
    pub(super) delivered: &'a BTreeSet<Key>,
    /// What the step changed: rows that are as they were cannot break a property.
    pub(super) promises: Vec<(Option<&'a PromiseRow>, &'a PromiseRow)>,
    pub(super) tasks: Vec<(Option<&'a TaskRow>, &'a TaskRow)>,
    /// Entries the step put into the outbox.
    pub(super) entries: Vec<&'a Entry>,
    /// (awaited, awaiter) of the callbacks that the step took away.
    pub(super) consumed: BTreeSet<(&'a Id, &'a Id)>,
}

impl<'a> Transition<'a> {
    /// Compares two states. `is_internal`: no request made the step. `delivered`: the outbox entries
    /// that a transport took, or that were given up.
    pub fn of(
        before: &'a State,
        after: &'a State,
        is_internal: bool,
        delivered: &'a BTreeSet<Key>,
    ) -> Self {
        let (was, is) = (Facts::of(before), Facts::of(after));
        let promises: Vec<_> = after
            .promises
            .iter()
            .map(|row| (was.promise(row.id()), row))
            .filter(|(old, row)| *old != Some(row))
            .collect();
        let tasks = after
            .tasks
            .iter()
            .map(|row| (was.task(&row.id), row))
            .filter(|(old, row)| *old != Some(row))
            .collect();
        let serials: HashMap<Key, u64> =
            before.outbox.iter().map(|e| (e.key(), e.serial)).collect();
        let entries = after
            .outbox
            .iter()
            .filter(|entry| serials.get(&entry.key()) != Some(&entry.serial))
            .collect();
        let consumed = promises
            .iter()
            .filter_map(|(old, new)| Some(((*old)?, *new)))
            .flat_map(|(old, new)| {
                let gone = old
                    .callbacks
                    .iter()
                    .filter(|id| !new.callbacks.contains(id));
                gone.map(|awaiter| (&old.record.id, awaiter))
            })
            .collect();
        Transition {
            before: was,
            after: is,
            now: after.now,
            is_internal,
            delivered,
            promises,
            tasks,
            entries,
            consumed,
        }
    }

    /// The execute that this step put into the outbox for a task.
    pub(super) fn dispatched(&self, task: &TaskRow) -> bool {
        self.entries.iter().any(|entry| {
            matches!(&entry.message, Message::Execute { id, version, .. }
                if *id == task.id && *version == task.version)
        })
    }

    /// B16: due at once, or dispatched here and armed for the retry.
    pub(super) fn is_pending_armed(&self, task: &TaskRow) -> bool {
        let retry_at = self.now.saturating_add(self.after.state.retry_timeout_ms);
        task.retry_at.is_some_and(|at| at <= self.now)
            || (self.dispatched(task) && task.retry_at == Some(retry_at))
    }
}

/// One row of §12.
pub struct Property {
    /// Its number.
    pub number: &'static str,
    /// Its portable name.
    pub name: &'static str,
    rule: Rule,
}

/// The predicate, by what it ranges over.
pub(super) enum Rule {
    /// Promises that were there and changed: before, after.
    Promise(fn(&PromiseRow, &PromiseRow, &Transition<'_>) -> bool),
    /// Promises that are new.
    NewPromise(fn(&PromiseRow, &Transition<'_>) -> bool),
    /// Tasks that were there and changed: before, after.
    Task(fn(&TaskRow, &TaskRow, &Transition<'_>) -> bool),
    /// Tasks that are new or changed.
    AnyTask(fn(Option<&TaskRow>, &TaskRow, &Transition<'_>) -> bool),
    /// Messages that are new.
    Entry(fn(&Entry, &Transition<'_>) -> bool),
    /// The whole step.
    Step(fn(&Transition<'_>) -> bool),
}

impl Property {
    /// Looks at everything it ranges over.
    ///
    /// # Errors
    /// The first change that breaks it.
    pub fn check(&self, step: &Transition<'_>) -> Result<(), Violation> {
        let breach = match self.rule {
            Rule::Promise(holds) => step.promises.iter().find_map(|(old, new)| {
                let old = (*old)?;
                (!holds(old, new, step)).then(|| format!("{old:?} -> {new:?}"))
            }),
            Rule::NewPromise(holds) => step
                .promises
                .iter()
                .find(|(old, new)| old.is_none() && !holds(new, step))
                .map(|(_, new)| format!("{new:?}")),
            Rule::Task(holds) => step.tasks.iter().find_map(|(old, new)| {
                let old = (*old)?;
                (!holds(old, new, step)).then(|| format!("{old:?} -> {new:?}"))
            }),
            Rule::AnyTask(holds) => step
                .tasks
                .iter()
                .find(|(old, new)| !holds(*old, new, step))
                .map(|(old, new)| format!("{old:?} -> {new:?}")),
            Rule::Entry(holds) => step
                .entries
                .iter()
                .find(|entry| !holds(entry, step))
                .map(|entry| format!("{entry:?}")),
            Rule::Step(holds) => {
                (!holds(step)).then(|| format!("{:?} -> {:?}", step.before.state, step.after.state))
            }
        };
        match breach {
            None => Ok(()),
            Some(detail) => Err(Violation {
                number: self.number,
                name: self.name,
                detail,
            }),
        }
    }
}

/// A row of the table.
pub(super) const fn row(number: &'static str, name: &'static str, rule: Rule) -> Property {
    Property { number, name, rule }
}

pub(super) fn is_subset(part: &[Id], whole: &[Id]) -> bool {
    part.iter().all(|id| whole.contains(id))
}

/// The table of §2.
pub(super) fn is_edge(from: TaskState, to: TaskState) -> bool {
    use TaskState::*;
    match from {
        Pending => matches!(to, Pending | Acquired | Halted | Fulfilled),
        Acquired => true,
        Suspended => matches!(to, Suspended | Pending | Halted | Fulfilled),
        Halted => matches!(to, Halted | Pending | Fulfilled),
        Fulfilled => to == Fulfilled,
    }
}

/// Enters `pending`.
pub(super) fn is_entry(a: &TaskRow, b: &TaskRow) -> bool {
    a.state != TaskState::Pending && b.state == TaskState::Pending
}

/// An awaited promise settled.
pub(super) fn is_wake(a: &TaskRow, b: &TaskRow) -> bool {
    a.state == TaskState::Suspended && b.state == TaskState::Pending
}

/// Stays pending, and the retry moves.
pub(super) fn is_rearmed(a: &TaskRow, b: &TaskRow) -> bool {
    a.state == TaskState::Pending && b.state == TaskState::Pending && a.retry_at != b.retry_at
}

/// The lease ends one ttl from now.
pub(super) fn is_lease_from(task: &TaskRow, now: Millis) -> bool {
    task.expires_at == task.ttl.map(|ttl| now.saturating_add(ttl))
}
