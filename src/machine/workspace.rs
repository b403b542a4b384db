//! The workspace: the objects a batch was given, as the decisions so far have left them.
//!
//! Later operations of a batch see the effects of earlier ones. Ids are *loaded* (present or known to
//! be absent) or not; deciding over an id that is not loaded is a mistake of the caller, who asks
//! [`super::missing`] first.

use std::collections::{BTreeMap, BTreeSet, HashMap, HashSet};
use std::sync::Arc;

use crate::protocol::lineage::is_within;
use crate::protocol::record::{Id, Millis, Promise, Schedule};
use crate::protocol::trace::Trace;
use crate::store::{Change, Changes, Loaded, Need, ScheduleChange};

use super::object::{Object, is_expired};

/// A message to be sent once the changes are committed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Message {
    /// A task waits to be acquired.
    Execute {
        /// The task.
        id: Id,
        /// Its version; acquiring it answers one more.
        version: i64,
        /// Its promise's target.
        address: Id,
        /// Not to be sent before this instant.
        offer_at: Millis,
        /// When it is sent again unless the task was acquired: its place in its queue.
        retry_at: Millis,
        /// The request that created the task.
        trace: Option<Arc<Trace>>,
        /// The request that had it sent, if that is another.
        cause: Option<Arc<Trace>>,
    },
    /// A promise has settled.
    Unblock {
        /// The settled record.
        promise: Promise,
        /// The listener.
        address: Id,
        /// The request that settled it. Not stored: a later attempt may have none.
        trace: Option<Arc<Trace>>,
    },
}

impl Message {
    /// Where it goes.
    pub fn address(&self) -> &Id {
        match self {
            Message::Execute { address, .. } | Message::Unblock { address, .. } => address,
        }
    }

    /// The span that it comes of.
    pub fn trace(&self) -> Option<&Arc<Trace>> {
        match self {
            Message::Execute { trace, .. } | Message::Unblock { trace, .. } => trace.as_ref(),
        }
    }
}

#[derive(Clone, Debug)]
struct Slot<T> {
    before: Option<Arc<T>>,
    now: Option<Arc<T>>,
    is_changed: bool,
}

/// See the module documentation.
#[derive(Clone, Debug, Default)]
pub struct Workspace {
    objects: HashMap<Id, Slot<Object>>,
    guessed: HashSet<Id>,
    schedules: HashMap<Id, Slot<Schedule>>,
    /// Members of the loaded branches, kept up to date with `objects`.
    branches: HashMap<Id, BTreeMap<Id, Promise>>,
    pids: HashSet<Id>,
    trees: HashSet<Id>,
    are_trees_cut: bool,
    messages: Vec<Message>,
    /// Of the input that is being decided.
    trace: Option<Arc<Trace>>,
}

impl Workspace {
    /// Takes in what was loaded for `need`. What is there already, and may be changed, stays.
    pub fn absorb(&mut self, need: &Need, loaded: Loaded) {
        for object in loaded.objects {
            let id = object.promise.id.clone();
            if !self.has(&id) {
                let slot = Slot {
                    before: Some(object.clone()),
                    now: Some(object),
                    is_changed: false,
                };
                self.guessed.remove(&id);
                self.objects.insert(id, slot);
            }
        }
        for id in &need.objects {
            if loaded.guessed.contains(id) {
                if !self.has(id) {
                    self.guessed.insert(id.clone());
                }
                continue;
            }
            self.guessed.remove(id);
            let absent = || Slot {
                before: None,
                now: None,
                is_changed: false,
            };
            self.objects.entry(id.clone()).or_insert_with(absent);
        }
        for schedule in loaded.schedules {
            let schedule = Arc::new(schedule);
            self.schedules
                .entry(schedule.id.clone())
                .or_insert_with(|| Slot {
                    before: Some(schedule.clone()),
                    now: Some(schedule),
                    is_changed: false,
                });
        }
        for id in &need.schedules {
            let absent = || Slot {
                before: None,
                now: None,
                is_changed: false,
            };
            self.schedules.entry(id.clone()).or_insert_with(absent);
        }
        self.pids.extend(need.pids.iter().cloned());
        self.trees.extend(need.trees.iter().cloned());
        self.are_trees_cut |= loaded.are_trees_cut;
        self.absorb_branches(&need.branches, loaded.branch_members);
    }

    fn absorb_branches(&mut self, branches: &BTreeSet<Id>, members: Vec<Promise>) {
        if branches.is_empty() {
            return;
        }
        for branch in branches {
            self.branches.entry(branch.clone()).or_default();
        }
        for promise in members {
            if let Some(group) = promise.tags.branch().and_then(|b| self.branches.get_mut(b)) {
                group.entry(promise.id.clone()).or_insert(promise);
            }
        }
        // What this batch has changed already is newer than what was loaded.
        for object in self
            .objects
            .values()
            .filter(|s| s.is_changed)
            .filter_map(|s| s.now.as_ref())
        {
            note_branch(&mut self.branches, &object.promise);
        }
    }

    /// How many objects and branches have been looked at so far.
    pub fn loaded(&self) -> usize {
        self.objects.len() + self.branches.len()
    }

    /// Whether the object is loaded: present, or known to be absent.
    pub fn has(&self, id: &str) -> bool {
        self.objects.contains_key(id)
    }

    /// Whether the object is taken to be absent, which nobody has looked for: it may be created, and nothing
    /// else be decided on it.
    pub fn has_guessed(&self, id: &str) -> bool {
        self.guessed.contains(id)
    }

    /// Whether the schedule is loaded.
    pub fn has_schedule(&self, id: &str) -> bool {
        self.schedules.contains_key(id)
    }

    /// Whether the branch is loaded.
    pub fn has_branch(&self, branch: &str) -> bool {
        self.branches.contains_key(branch)
    }

    /// Whether the tasks of the process are loaded.
    pub fn has_pid(&self, pid: &str) -> bool {
        self.pids.contains(pid)
    }

    /// Whether the tree is loaded, or known to be too large for it.
    pub fn has_tree(&self, root: &str) -> bool {
        self.trees.contains(root)
    }

    /// The objects of a loaded tree that exist, by id; none if it is too large.
    pub fn tree(&self, root: &str) -> Option<BTreeMap<&Id, &Arc<Object>>> {
        let objects = self.objects.iter();
        let members = objects.filter(|(id, _)| is_within(id, root));
        let there = members.filter_map(|(id, slot)| Some((id, slot.now.as_ref()?)));
        (!self.are_trees_cut).then(|| there.collect())
    }

    /// The object, if it exists.
    pub fn get(&self, id: &str) -> Option<&Arc<Object>> {
        self.objects.get(id)?.now.as_ref()
    }

    /// Promises that are past their deadline at `now` and still stored pending: objects, and members of
    /// branches that may not be loaded as objects. In order.
    pub fn expired(&self, now: Millis) -> BTreeSet<Id> {
        let objects = self.objects.values().filter_map(|slot| slot.now.as_ref());
        let objects = objects.map(|object| &object.promise);
        let members = self.branches.values().flat_map(BTreeMap::values);
        // A member that is loaded as an object is what the object says.
        let members = members.filter(|promise| !self.has(&promise.id));
        objects
            .chain(members)
            .filter(|promise| is_expired(promise, now))
            .map(|promise| promise.id.clone())
            .collect()
    }

    /// The schedule, if it exists.
    pub fn schedule(&self, id: &str) -> Option<&Arc<Schedule>> {
        self.schedules.get(id)?.now.as_ref()
    }

    /// The members of a loaded branch, stored records, by id.
    pub fn branch(&self, branch: &str) -> impl Iterator<Item = &Promise> {
        self.branches
            .get(branch)
            .into_iter()
            .flat_map(BTreeMap::values)
    }

    /// Ids of all loaded objects whose task the process holds acquired, sorted.
    pub fn held_by(&self, pid: &str) -> Vec<Id> {
        let mut ids: Vec<Id> = self
            .objects
            .values()
            .filter_map(|slot| slot.now.as_ref())
            .filter(|o| {
                o.task
                    .as_ref()
                    .is_some_and(|t| t.pid.as_deref() == Some(pid))
            })
            .map(|o| o.promise.id.clone())
            .collect();
        ids.sort();
        ids
    }

    /// Changes an object in place; does nothing if it does not exist.
    pub(super) fn update(&mut self, id: &str, change: impl FnOnce(&mut Object)) {
        let Some(slot) = self.objects.get_mut(id) else {
            return;
        };
        let Some(object) = slot.now.as_mut() else {
            return;
        };
        change(Arc::make_mut(object));
        slot.is_changed = true;
        note_branch(&mut self.branches, &object.promise);
    }

    /// Deletes an object. The batch creates nothing in its place: it ends with the job that deletes.
    pub(super) fn delete(&mut self, id: &Id) {
        if let Some(slot) = self.objects.get_mut(id) {
            slot.now = None;
            slot.is_changed = true;
        }
        for members in self.branches.values_mut() {
            members.remove(id);
        }
    }

    /// Adds a new object.
    pub(super) fn insert(&mut self, object: Object) {
        note_branch(&mut self.branches, &object.promise);
        let id = object.promise.id.clone();
        let slot = self.objects.entry(id).or_insert(Slot {
            before: None,
            now: None,
            is_changed: true,
        });
        assert!(slot.before.is_none(), "what was there is not created");
        slot.now = Some(Arc::new(object));
        slot.is_changed = true;
    }

    /// Stores or deletes a schedule.
    pub(super) fn put_schedule(&mut self, id: &Id, schedule: Option<Schedule>) {
        let absent = Slot {
            before: None,
            now: None,
            is_changed: true,
        };
        let slot = self.schedules.entry(id.clone()).or_insert(absent);
        slot.now = schedule.map(Arc::new);
        slot.is_changed = true;
    }

    /// What is decided from here on is asked for in this trace.
    pub fn set_trace(&mut self, trace: Option<Arc<Trace>>) {
        self.trace = trace;
    }

    /// The trace of the input that is being decided, if it belongs to one.
    pub(super) fn trace(&self) -> Option<&Arc<Trace>> {
        self.trace.as_ref()
    }

    /// Adds a message to be sent after the commit.
    pub(super) fn send(&mut self, message: Message) {
        self.messages.push(message);
    }

    /// Ends the batch: what to commit, and what to send afterwards. An `unblock` of which the batch also books that it
    /// was delivered is not sent again.
    pub fn finish(mut self) -> (Changes, Vec<Message>) {
        let mut messages = std::mem::take(&mut self.messages);
        messages.retain(|message| match message {
            Message::Unblock {
                promise, address, ..
            } => self
                .get(&promise.id)
                .is_none_or(|object| object.listeners.contains_key(address)),
            Message::Execute { .. } => true,
        });
        let mut changes = Changes::default();
        for slot in self.objects.into_values().filter(|slot| slot.is_changed) {
            match (slot.before, slot.now) {
                (before, Some(after)) if before.as_ref() != Some(&after) => {
                    changes.objects.push(Change { before, after });
                }
                (Some(before), None) => changes.deleted.push(before),
                _ => {}
            }
        }
        for (id, slot) in self
            .schedules
            .into_iter()
            .filter(|(_, slot)| slot.is_changed)
        {
            if slot.before != slot.now {
                changes.schedules.push(ScheduleChange {
                    id,
                    after: slot.now,
                });
            }
        }
        // One order whatever the hash seeds were: equal batches write equal bytes.
        changes
            .objects
            .sort_by(|a, b| a.after.promise.id.cmp(&b.after.promise.id));
        changes.schedules.sort_by(|a, b| a.id.cmp(&b.id));
        changes
            .deleted
            .sort_by(|a, b| a.promise.id.cmp(&b.promise.id));
        (changes, messages)
    }
}

fn note_branch(branches: &mut HashMap<Id, BTreeMap<Id, Promise>>, promise: &Promise) {
    if branches.is_empty() {
        return;
    }
    if let Some(group) = promise
        .tags
        .branch()
        .and_then(|branch| branches.get_mut(branch))
    {
        group.insert(promise.id.clone(), promise.clone());
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::machine::object::Listener;
    use crate::machine::{Config, Input, Step, decide};
    use crate::protocol::record::{PromiseState, Tags, Value};

    /// A settled promise whose listener, `"http://a"`, is due to be told.
    fn owing() -> Object {
        let listener = Listener {
            enqueued_at: Some(1),
            retry_at: Some(2),
            attempts: 0,
        };
        Object {
            promise: Promise {
                id: "p".into(),
                state: PromiseState::Resolved,
                param: Value::empty(),
                value: Value::empty(),
                tags: Tags::default(),
                timeout_at: 9,
                created_at: 0,
                settled_at: Some(1),
            },
            armed: false,
            callbacks: BTreeSet::new(),
            listeners: BTreeMap::from([("http://a".into(), listener)]),
            task: None,
            trace: None,
        }
    }

    fn messages_after(steps: Vec<Step>) -> usize {
        let mut workspace = Workspace::default();
        let loaded = Loaded {
            objects: vec![Arc::new(owing())],
            ..Loaded::default()
        };
        workspace.absorb(&Need::default(), loaded);
        let config = Config {
            retry_timeout_ms: 1000,
        };
        for step in steps {
            decide(&Input::Step(step), 2, &mut workspace, &config);
        }
        workspace.finish().1.len()
    }

    /// Its delivery may be reported while its retry is under way: both can be in one batch.
    #[test]
    fn what_a_batch_books_as_delivered_it_does_not_send_again() {
        let (promise, address): (Id, Id) = ("p".into(), "http://a".into());
        let due = Step::UnblockDue {
            promise: promise.clone(),
            address: address.clone(),
        };
        let done = Step::UnblockDone { promise, address };
        assert_eq!(messages_after(vec![due.clone()]), 1);
        assert_eq!(messages_after(vec![due.clone(), done.clone()]), 0);
        assert_eq!(messages_after(vec![done, due]), 0);
    }
}
