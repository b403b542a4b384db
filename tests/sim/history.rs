//! Every state that the storage was ever in, and what was decided in between.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::sync::Arc;

use resonate::machine::invariant::{Entry, State, check_state};
use resonate::machine::object::Object;
use resonate::machine::workspace::Message;
use resonate::protocol::operation::Command;
use resonate::protocol::record::{Id, Millis, Promise, Schedule, TaskState};
use resonate::protocol::reply::Reply;
use resonate::store::{Changes, Loaded, Need};

use super::sim::{Checked, Failure, broken};

/// Commits between two looks at everything.
const WHOLE_STATE_EVERY: u64 = 40;
/// Decisions remembered for callers that are not answered yet.
const UNCLAIMED_MAX: usize = 500;

/// Numbers the states of the storage: 0 is the empty one, and every commit makes the next.
pub type Seq = u64;

/// A schedule, or that there is none, since a commit.
type ScheduleVersion = (Seq, Option<Arc<Schedule>>);

/// A decision that is stored, and that somebody may be told of.
struct Unclaimed {
    /// When it was stored ([`super::sim::Sim::event`]).
    event: u64,
    command: Command,
    reply: Reply,
}

/// See the module documentation.
pub struct History {
    pub retry_timeout_ms: Millis,
    /// The latest instant that anything was decided at.
    pub latest: Millis,
    seq: Seq,
    objects: BTreeMap<Id, Vec<(Seq, Arc<Object>)>>,
    schedules: BTreeMap<Id, Vec<ScheduleVersion>>,
    branches: BTreeMap<Id, BTreeSet<Id>>,
    /// In the order of their birth.
    births: Vec<Id>,
    /// By incarnation of a node.
    unclaimed: BTreeMap<u64, VecDeque<Unclaimed>>,
    /// `unblock` messages that somebody has received: (promise, address).
    pub received: BTreeSet<(Id, Id)>,
}

impl History {
    pub fn new(retry_timeout_ms: Millis) -> History {
        History {
            retry_timeout_ms,
            latest: Millis::MIN,
            seq: 0,
            objects: BTreeMap::new(),
            schedules: BTreeMap::new(),
            branches: BTreeMap::new(),
            births: Vec::new(),
            unclaimed: BTreeMap::new(),
            received: BTreeSet::new(),
        }
    }

    pub fn seq(&self) -> Seq {
        self.seq
    }

    /// The state after a commit.
    pub fn at(&self, seq: Seq) -> View<'_> {
        View {
            history: self,
            seq,
            over: BTreeMap::new(),
            schedules_over: BTreeMap::new(),
        }
    }

    pub fn now(&self) -> View<'_> {
        self.at(self.seq)
    }

    pub fn object(&self, id: &str) -> Option<&Arc<Object>> {
        Some(&self.objects.get(id)?.last()?.1)
    }

    /// The commit that left the object as it is.
    pub fn changed_at(&self, id: &str) -> Option<Seq> {
        Some(self.objects.get(id)?.last()?.0)
    }

    pub fn schedule_changed_at(&self, id: &str) -> Option<Seq> {
        Some(self.schedules.get(id)?.last()?.0)
    }

    /// All promises, the youngest first.
    pub fn youngest(&self) -> impl Iterator<Item = &Id> {
        self.births.iter().rev()
    }

    pub fn objects(&self) -> impl Iterator<Item = (&Id, &Arc<Object>)> {
        let last = |versions: &'_ Vec<(Seq, Arc<Object>)>| versions.len() - 1;
        self.objects
            .iter()
            .map(move |(id, versions)| (id, &versions[last(versions)].1))
    }

    pub fn schedules(&self) -> impl Iterator<Item = &Arc<Schedule>> {
        self.schedules
            .values()
            .filter_map(|versions| versions.last()?.1.as_ref())
    }

    /// The states that an object was in from one commit to another, the latest first; none: it was not there.
    pub fn versions(&self, id: &str, from: Seq, until: Seq) -> Vec<Option<Arc<Object>>> {
        let Some(all) = self.objects.get(id) else {
            return vec![None];
        };
        let mut versions = Vec::new();
        for (seq, object) in all.iter().rev().filter(|(seq, _)| *seq <= until) {
            versions.push(Some(object.clone()));
            if *seq <= from {
                return versions;
            }
        }
        versions.push(None);
        versions
    }

    pub fn schedule_versions(&self, id: &str, from: Seq, until: Seq) -> Vec<Option<Arc<Schedule>>> {
        let Some(all) = self.schedules.get(id) else {
            return vec![None];
        };
        let mut versions = Vec::new();
        for (seq, schedule) in all.iter().rev().filter(|(seq, _)| *seq <= until) {
            versions.push(schedule.clone());
            if *seq <= from {
                return versions;
            }
        }
        versions.push(None);
        versions
    }

    /// Members of a branch.
    pub fn members(&self, branch: &str) -> impl Iterator<Item = &Id> {
        self.branches.get(branch).into_iter().flatten()
    }

    /// Takes in a commit.
    pub fn apply(&mut self, changes: &Changes) -> Checked {
        self.seq += 1;
        for change in &changes.objects {
            let id = &change.after.promise.id;
            if self.object(id) != change.before.as_ref() {
                let detail = format!(
                    "{id} is {:?}, and was taken for {:?}",
                    self.object(id),
                    change.before
                );
                return broken("no write is lost", detail);
            }
            if let Some(branch) = change.after.promise.tags.branch() {
                self.branches
                    .entry(branch.into())
                    .or_default()
                    .insert(id.clone());
            }
            let versions = self.objects.entry(id.clone()).or_default();
            if versions.is_empty() {
                self.births.push(id.clone());
            }
            versions.push((self.seq, change.after.clone()));
        }
        for change in &changes.schedules {
            let versions = self.schedules.entry(change.id.clone()).or_default();
            versions.push((self.seq, change.after.clone()));
        }
        match self.seq % WHOLE_STATE_EVERY {
            0 => self.check_everything(),
            _ => Ok(()),
        }
    }

    /// Every invariant of `semantics.md` §11.
    pub fn check_everything(&self) -> Checked {
        let objects: Vec<&Object> = self.objects().map(|(_, object)| &**object).collect();
        let schedules = self
            .schedules()
            .map(|schedule| (**schedule).clone())
            .collect();
        let outbox = objects.iter().flat_map(|object| unblocks(object)).collect();
        let state = State::of(
            objects,
            schedules,
            outbox,
            self.latest,
            self.retry_timeout_ms,
        );
        check_state(&state).map_err(|violation| Failure {
            check: format!("{} {}", violation.number, violation.name),
            detail: violation.detail,
        })
    }

    /// A decision is stored, and may be told.
    pub fn record(&mut self, node: u64, event: u64, command: Command, reply: Reply) {
        let unclaimed = self.unclaimed.entry(node).or_default();
        unclaimed.push_back(Unclaimed {
            event,
            command,
            reply,
        });
        if unclaimed.len() > UNCLAIMED_MAX {
            unclaimed.pop_front();
        }
    }

    /// A node has answered a request that it got at an event: what it says must have been decided and stored
    /// since, and nobody else been told of that decision.
    pub fn claim(&mut self, node: u64, since: u64, command: &Command, reply: &Reply) -> Checked {
        let unclaimed = self.unclaimed.entry(node).or_default();
        let is_it =
            |one: &Unclaimed| one.event >= since && one.command == *command && one.reply == *reply;
        match unclaimed.iter().position(is_it) {
            Some(index) => {
                unclaimed.remove(index);
                Ok(())
            }
            None => broken(
                "acknowledged means stored",
                format!("{command:?} was answered {reply:?}, and no commit says so"),
            ),
        }
    }

    pub fn forget_node(&mut self, node: u64) {
        self.unclaimed.remove(&node);
    }
}

/// The messages that wait for the listeners of an object.
pub fn unblocks(object: &Object) -> impl Iterator<Item = Entry> {
    let enqueued = object
        .listeners
        .iter()
        .filter(|(_, l)| l.enqueued_at.is_some());
    enqueued.map(|(address, _)| Entry {
        serial: 1,
        message: Message::Unblock {
            trace: None,
            promise: object.promise.clone(),
            address: address.clone(),
        },
    })
}

/// A state of the storage, and what decisions since then have made of it.
pub struct View<'a> {
    pub history: &'a History,
    pub seq: Seq,
    pub over: BTreeMap<Id, Arc<Object>>,
    pub schedules_over: BTreeMap<Id, Option<Arc<Schedule>>>,
}

impl<'a> View<'a> {
    /// An earlier state, and the same decisions.
    pub fn at(&self, seq: Seq) -> View<'a> {
        View {
            history: self.history,
            seq,
            over: self.over.clone(),
            schedules_over: self.schedules_over.clone(),
        }
    }

    pub fn object(&self, id: &str) -> Option<&Arc<Object>> {
        if let Some(object) = self.over.get(id) {
            return Some(object);
        }
        let versions = self.history.objects.get(id)?;
        let (_, object) = versions.iter().rev().find(|(seq, _)| *seq <= self.seq)?;
        Some(object)
    }

    pub fn schedule(&self, id: &str) -> Option<&Arc<Schedule>> {
        if let Some(schedule) = self.schedules_over.get(id) {
            return schedule.as_ref();
        }
        let versions = self.history.schedules.get(id)?;
        let (_, schedule) = versions.iter().rev().find(|(seq, _)| *seq <= self.seq)?;
        schedule.as_ref()
    }

    /// Members of a branch, by id.
    pub fn members(&self, branch: &str) -> Vec<Promise> {
        let mut members: BTreeMap<&Id, &Promise> = BTreeMap::new();
        let stored = self
            .history
            .members(branch)
            .filter_map(|id| self.object(id));
        let own = self.over.values();
        for object in stored.chain(own) {
            if object.promise.tags.branch() == Some(branch) {
                members.insert(&object.promise.id, &object.promise);
            }
        }
        members.into_values().cloned().collect()
    }

    /// Tasks that a process holds.
    pub fn held_by(&self, pid: &str) -> BTreeSet<Id> {
        let all = self.history.objects.keys().chain(self.over.keys());
        all.filter(|id| {
            let task = self.object(id).and_then(|object| object.task.as_ref());
            task.is_some_and(|task| {
                task.state == TaskState::Acquired && task.pid.as_deref() == Some(pid)
            })
        })
        .cloned()
        .collect()
    }

    /// What a storage in this state would load.
    pub fn load(&self, need: &Need) -> Loaded {
        let mut ids = need.objects.clone();
        for pid in &need.pids {
            ids.extend(self.held_by(pid));
        }
        let branches = need.branches.iter().flat_map(|branch| self.members(branch));
        let schedules = need.schedules.iter().filter_map(|id| self.schedule(id));
        Loaded {
            objects: ids
                .iter()
                .filter_map(|id| self.object(id).cloned())
                .collect(),
            branch_members: branches.collect(),
            schedules: schedules.map(|schedule| (**schedule).clone()).collect(),
            ..Loaded::default()
        }
    }
}
