//! The numbered properties of `semantics.md` §11 (every state) and §12 (every transition), as
//! predicates over a state laid out the way the specification lays it out.
//!
//! One table each: [`INVARIANTS`] and [`PROPERTIES`]. A breach is a [`Violation`] under the
//! specification's portable name. Nothing here asks the machine what is right: projection,
//! tags and edges are written out again from the specification, so that a mistake in the machine
//! cannot excuse itself.
//!
//! Model tests check everything after every step; [`check_object`] is the part that a single object
//! can answer for.

use std::collections::{HashMap, HashSet};
use std::fmt;

use crate::protocol::record::{Id, Millis, Promise, PromiseState, Schedule, Tags, TaskState};

pub use properties::PROPERTIES;
pub use state::INVARIANTS;

use super::object::Object;
use super::workspace::Message;

mod properties;
pub mod state;
#[cfg(test)]
mod tests;
pub mod transition;

/// A property that does not hold.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Violation {
    /// The number in `semantics.md`, such as `P1`.
    pub number: &'static str,
    /// The portable name.
    pub name: &'static str,
    /// The ids concerned, and what is known of them.
    pub detail: String,
}

impl fmt::Display for Violation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} {}: {}", self.number, self.name, self.detail)
    }
}

impl std::error::Error for Violation {}

/// A whole state. Lists, not maps: that nothing is there twice is itself a property.
#[derive(Clone, Debug, PartialEq)]
pub struct State {
    /// When it is looked at.
    pub now: Millis,
    /// `tasks.retry_timeout`.
    pub retry_timeout_ms: Millis,
    /// All promises.
    pub promises: Vec<PromiseRow>,
    /// All tasks.
    pub tasks: Vec<TaskRow>,
    /// All schedules.
    pub schedules: Vec<Schedule>,
    /// Messages not yet delivered.
    pub outbox: Vec<Entry>,
}

/// A promise with its obligations.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PromiseRow {
    /// The stored record.
    pub record: Promise,
    /// Whether its timeout fires without any request.
    pub armed: bool,
    /// Awaiters to resume.
    pub callbacks: Vec<Id>,
    /// Addresses still owed an `unblock`. One that has been enqueued is in the outbox instead.
    pub listeners: Vec<Id>,
}

/// A task; it shares its id with its promise.
#[derive(Clone, Debug, PartialEq, Eq)]
#[allow(missing_docs, reason = "semantics.md §1 and §2 name the fields")]
pub struct TaskRow {
    pub id: Id,
    pub state: TaskState,
    pub version: i64,
    pub resumes: Vec<Id>,
    pub pid: Option<Id>,
    pub ttl: Option<Millis>,
    pub expires_at: Option<Millis>,
    pub claimed_at: Option<Millis>,
    pub retry_at: Option<Millis>,
}

/// A message in the outbox.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Entry {
    /// Grows with every message put in: a replaced entry has another serial.
    pub serial: u64,
    /// What is to be delivered.
    pub message: Message,
}

/// What an outbox holds at most one entry of.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Key {
    /// By task.
    Execute(Id),
    /// By promise and address.
    Unblock(Id, Id),
}

impl Entry {
    /// The entry's key.
    pub fn key(&self) -> Key {
        match &self.message {
            Message::Execute { id, .. } => Key::Execute(id.clone()),
            Message::Unblock {
                promise, address, ..
            } => Key::Unblock(promise.id.clone(), address.clone()),
        }
    }
}

impl State {
    /// Lays out stored objects. Listeners turned `unblock` are not obligations any more; their
    /// entries are the caller's to give.
    pub fn of<'a>(
        objects: impl IntoIterator<Item = &'a Object>,
        schedules: Vec<Schedule>,
        outbox: Vec<Entry>,
        now: Millis,
        retry_timeout_ms: Millis,
    ) -> State {
        let mut promises = Vec::new();
        let mut tasks = Vec::new();
        for object in objects {
            promises.push(PromiseRow {
                record: object.promise.clone(),
                armed: object.armed,
                callbacks: object.callbacks.iter().cloned().collect(),
                listeners: object
                    .listeners
                    .iter()
                    .filter(|(_, listener)| listener.enqueued_at.is_none())
                    .map(|(address, _)| address.clone())
                    .collect(),
            });
            if let Some(task) = &object.task {
                tasks.push(TaskRow {
                    id: object.promise.id.clone(),
                    state: task.state,
                    version: task.version,
                    resumes: task.resumes.iter().cloned().collect(),
                    pid: task.pid.clone(),
                    ttl: task.ttl,
                    expires_at: task.expires_at,
                    claimed_at: task.claimed_at,
                    retry_at: task.retry_at,
                });
            }
        }
        State {
            now,
            retry_timeout_ms,
            promises,
            tasks,
            schedules,
            outbox,
        }
    }
}

/// A state with its rows by id. Where an id is there twice the last one is found.
pub struct Facts<'a> {
    /// The state.
    pub state: &'a State,
    promises: HashMap<&'a str, &'a PromiseRow>,
    tasks: HashMap<&'a str, &'a TaskRow>,
    awaiters: HashSet<&'a str>,
}

impl<'a> Facts<'a> {
    /// Indexes a state.
    pub fn of(state: &'a State) -> Self {
        let promises: HashMap<_, _> = state.promises.iter().map(|p| (p.id(), p)).collect();
        let tasks = state.tasks.iter().map(|t| (&*t.id, t)).collect();
        let callbacks = state.promises.iter().flat_map(|p| &p.callbacks);
        Facts {
            state,
            promises,
            tasks,
            awaiters: callbacks.map(|id| &**id).collect(),
        }
    }

    /// A promise by id.
    pub fn promise(&self, id: &str) -> Option<&'a PromiseRow> {
        self.promises.get(id).copied()
    }

    /// A task by id.
    pub fn task(&self, id: &str) -> Option<&'a TaskRow> {
        self.tasks.get(id).copied()
    }

    /// Whether some promise holds a callback of this awaiter.
    fn is_awaiter(&self, id: &str) -> bool {
        self.awaiters.contains(id)
    }

    /// Whether the promise exists, is stored pending, and is not past its deadline.
    fn is_alive(&self, id: &str, now: Millis) -> bool {
        self.promise(id)
            .is_some_and(|p| p.is_pending() && p.record.timeout_at > now)
    }
}

impl PromiseRow {
    fn id(&self) -> &str {
        &self.record.id
    }

    fn is_pending(&self) -> bool {
        self.record.state == PromiseState::Pending
    }

    fn is_settled(&self) -> bool {
        !self.is_pending()
    }

    /// Whether it was settled by its deadline.
    fn is_by_deadline(&self) -> bool {
        self.record.settled_at == Some(self.record.timeout_at)
    }

    /// What its deadline makes of it.
    fn deadline_verdict(&self) -> PromiseState {
        match is_timer(&self.record.tags) {
            true => PromiseState::Resolved,
            false => PromiseState::RejectedTimedout,
        }
    }
}

fn is_timer(tags: &Tags) -> bool {
    tags.get("resonate:timer") == Some("true")
}

fn target(tags: &Tags) -> Option<&str> {
    tags.get("resonate:target")
}

fn delay(tags: &Tags) -> Option<Millis> {
    tags.get("resonate:delay")?.parse().ok()
}

/// A promise that must have a task (D-03).
fn is_targeted(tags: &Tags) -> bool {
    target(tags).is_some() && !is_timer(tags)
}

fn is_unique<T: Eq + std::hash::Hash>(items: impl IntoIterator<Item = T>) -> bool {
    let mut seen = HashSet::new();
    items.into_iter().all(|item| seen.insert(item))
}

/// Checks every invariant of §11.
///
/// # Errors
/// The first one that does not hold.
pub fn check_state(state: &State) -> Result<(), Violation> {
    let facts = Facts::of(state);
    INVARIANTS
        .iter()
        .try_for_each(|invariant| invariant.check(&facts))
}

/// Checks the invariants of §11 that one object, with its task, can answer for by itself.
///
/// # Errors
/// The first one that does not hold.
pub fn check_object(object: &Object, now: Millis) -> Result<(), Violation> {
    let state = State::of([object], Vec::new(), Vec::new(), now, 1);
    let facts = Facts::of(&state);
    INVARIANTS
        .iter()
        .filter(|invariant| invariant.is_local)
        .try_for_each(|invariant| invariant.check(&facts))
}

/// Checks every property of §12.
///
/// # Errors
/// The first one that does not hold.
pub fn check_transition(transition: &transition::Transition<'_>) -> Result<(), Violation> {
    PROPERTIES
        .iter()
        .try_for_each(|property| property.check(transition))
}
