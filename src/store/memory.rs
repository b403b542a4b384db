//! The store without a disk: for `:memory:` and for tests.
//!
//! Everything lives in ordered maps behind one lock, with an ordered index for each way the server
//! looks for objects, so that no read but a filtered search walks all of them. One batch writes at a
//! time; a batch is checked as a whole and then applied under the lock, so readers see all of it or
//! nothing. Nothing survives the process.

use std::collections::{BTreeMap, BTreeSet};
use std::ops::Bound;
#[cfg(test)]
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, RwLock, RwLockReadGuard, RwLockWriteGuard};

use async_trait::async_trait;

use crate::machine::object::Object;
use crate::protocol::address::queue_of;
use crate::protocol::record::{Id, Millis, Promise, PromiseState, Schedule, TaskState};

use super::rows::{counted, state_counts};
use super::{
    Changes, Deadline, DeadlineKey, Dump, Error, Kind, Loaded, MessageKind, Need, Outline,
    OutlinePage, PromisePage, QueueCursor, Queues, Result, SchedulePage, StateCounts, Store,
    TaskPage, Transaction, Waiting, WaitingCount, WaitingKind,
};

mod transfer;
mod walks;

use walks::without_obligations;

/// A store in memory.
#[derive(Debug, Default)]
pub struct MemoryStore {
    state: RwLock<State>,
    /// Held from `begin` to the end of the batch.
    writer: tokio::sync::Mutex<()>,
    /// What it was asked for, for tests of what things cost.
    #[cfg(test)]
    pub(crate) work: Work,
}

/// Counts since the start.
#[cfg(test)]
#[derive(Debug, Default)]
pub(crate) struct Work {
    /// Pages of waiting messages read.
    pub pages: AtomicUsize,
    /// Messages on them.
    pub waiting: AtomicUsize,
    /// Objects written.
    pub written: AtomicUsize,
}

impl MemoryStore {
    /// Makes an empty store.
    pub fn new() -> Self {
        MemoryStore::default()
    }

    fn read_state(&self) -> RwLockReadGuard<'_, State> {
        self.state.read().expect("no holder of the lock panics")
    }

    fn write_state(&self) -> RwLockWriteGuard<'_, State> {
        self.state.write().expect("no holder of the lock panics")
    }
}

#[derive(Debug, Default)]
struct State {
    objects: BTreeMap<Id, Arc<Object>>,
    schedules: BTreeMap<Id, Arc<Schedule>>,
    /// Armed pending promises.
    timeouts: BTreeSet<(Millis, Id)>,
    /// Acquired tasks.
    leases: BTreeSet<(Millis, Id)>,
    /// Pending tasks and enqueued listeners by the queue of their address, or none.
    queues: BTreeMap<Option<Id>, BTreeSet<QueueEntry>>,
    /// Enqueued listeners: (enqueued, promise, address).
    unblocks: BTreeSet<(Millis, Id, Id)>,
    occurrences: BTreeSet<(Millis, Id)>,
    /// (branch, member).
    branches: BTreeSet<(Id, Id)>,
    /// (pid, acquired task).
    pids: BTreeSet<(Id, Id)>,
}

/// A message that may have to be sent again at an instant: (retry, id, address, kind).
type QueueEntry = (Millis, Id, Id, MessageKind);

/// Puts an entry into an ordered index, or takes it out.
fn mark<T: Ord>(index: &mut BTreeSet<T>, entry: T, is_present: bool) {
    if is_present {
        index.insert(entry);
    } else {
        index.remove(&entry);
    }
}

impl State {
    /// Refuses what a database would refuse, before anything is changed.
    fn check(&self, changes: &Changes) -> Result<()> {
        for change in &changes.objects {
            let id = &change.after.promise.id;
            if self.objects.contains_key(id) != change.before.is_some() {
                let message = format!("promise {id:?} was changed by somebody else");
                return Err(Error::Refused(message));
            }
        }
        Ok(())
    }

    fn apply(&mut self, changes: &Changes) {
        for change in &changes.objects {
            let after = &change.after;
            if let Some(before) = self.objects.insert(after.promise.id.clone(), after.clone()) {
                self.index_object(&before, false);
            }
            self.index_object(after, true);
        }
        for object in &changes.deleted {
            if let Some(before) = self.objects.remove(&object.promise.id) {
                self.index_object(&before, false);
            }
        }
        for change in &changes.schedules {
            if let Some(before) = self.schedules.remove(&change.id) {
                self.occurrences
                    .remove(&(before.next_run_at, before.id.clone()));
            }
            if let Some(after) = &change.after {
                self.occurrences
                    .insert((after.next_run_at, after.id.clone()));
                self.schedules.insert(after.id.clone(), after.clone());
            }
        }
    }

    fn index_object(&mut self, object: &Object, is_present: bool) {
        let promise = &object.promise;
        let id = &promise.id;
        if object.armed && promise.state == PromiseState::Pending {
            mark(
                &mut self.timeouts,
                (promise.timeout_at, id.clone()),
                is_present,
            );
        }
        if let Some(branch) = promise.tags.branch() {
            mark(&mut self.branches, (branch.into(), id.clone()), is_present);
        }
        self.index_task(object, is_present);
        for (address, listener) in &object.listeners {
            let (Some(enqueued_at), Some(retry_at)) = (listener.enqueued_at, listener.retry_at)
            else {
                continue;
            };
            let stale = (enqueued_at, id.clone(), address.clone());
            mark(&mut self.unblocks, stale, is_present);
            let entry = (retry_at, id.clone(), address.clone(), MessageKind::Unblock);
            self.index_queue(entry, is_present);
        }
    }

    fn index_task(&mut self, object: &Object, is_present: bool) {
        let Some(task) = &object.task else { return };
        let id = &object.promise.id;
        match task.state {
            TaskState::Acquired => {
                if let Some(expires_at) = task.expires_at {
                    mark(&mut self.leases, (expires_at, id.clone()), is_present);
                }
                if let Some(pid) = &task.pid {
                    mark(&mut self.pids, (pid.clone(), id.clone()), is_present);
                }
            }
            TaskState::Pending => {
                if let Some(retry_at) = task.retry_at {
                    let target = object.promise.tags.target().unwrap_or_default();
                    let entry = (retry_at, id.clone(), target.into(), MessageKind::Execute);
                    self.index_queue(entry, is_present);
                }
            }
            TaskState::Suspended | TaskState::Halted | TaskState::Fulfilled => {}
        }
    }

    fn index_queue(&mut self, entry: QueueEntry, is_present: bool) {
        let queue = queue_of(&entry.2);
        let entries = self.queues.entry(queue.clone()).or_default();
        mark(entries, entry, is_present);
        if entries.is_empty() {
            self.queues.remove(&queue);
        }
    }

    fn load(&self, need: &Need) -> Loaded {
        let mut ids: BTreeSet<&Id> = need.objects.iter().collect();
        for pid in &need.pids {
            ids.extend(members(&self.pids, pid));
        }
        let (in_trees, are_trees_cut) = self.ids_of_trees(need);
        ids.extend(in_trees);
        let found = |id: &Id| self.objects.get(id).cloned();
        Loaded {
            objects: ids.into_iter().filter_map(found).collect(),
            branch_members: need
                .branches
                .iter()
                .flat_map(|branch| members(&self.branches, branch))
                .filter_map(|id| Some(self.objects.get(id)?.promise.clone()))
                .collect(),
            schedules: need
                .schedules
                .iter()
                .filter_map(|id| Some((**self.schedules.get(id)?).clone()))
                .collect(),
            are_trees_cut,
            ..Loaded::default()
        }
    }

    fn due(&self, until: Millis, queues: Queues<'_>, limit: usize) -> Vec<Deadline> {
        let promise = |(at, id): &(Millis, Id)| Deadline {
            at: *at,
            key: DeadlineKey::Promise(id.clone()),
        };
        let schedule = |(at, id): &(Millis, Id)| Deadline {
            at: *at,
            key: DeadlineKey::Schedule(id.clone()),
        };
        let message = |(at, id, address, kind): &QueueEntry| Deadline {
            at: *at,
            key: match kind {
                MessageKind::Execute => DeadlineKey::Promise(id.clone()),
                MessageKind::Unblock => DeadlineKey::Unblock(id.clone(), address.clone()),
            },
        };
        let is_due = |(at, _): &&(Millis, Id)| *at <= until;
        let first = |index: &BTreeSet<(Millis, Id)>,
                     deadline: &dyn Fn(&(Millis, Id)) -> Deadline| {
            let due = index.iter().take_while(is_due).take(limit);
            due.map(deadline).collect::<Vec<_>>()
        };
        let mut all = first(&self.timeouts, &promise);
        all.extend(first(&self.leases, &promise));
        all.extend(first(&self.occurrences, &schedule));
        let mut add_queue = |entries: &BTreeSet<QueueEntry>| {
            let due = entries.iter().take_while(|entry| entry.0 <= until);
            all.extend(due.take(limit).map(message));
        };
        match queues {
            Queues::All => self.queues.values().for_each(&mut add_queue),
            Queues::Only(names) => {
                let names: BTreeSet<&Id> = names.iter().collect();
                let keys = names.into_iter().cloned().map(Some).chain([None]);
                keys.filter_map(|queue| self.queues.get(&queue))
                    .for_each(&mut add_queue);
            }
        }
        all.sort_unstable();
        all.truncate(limit);
        all
    }

    fn waiting(
        &self,
        queue: &str,
        kind: MessageKind,
        now: Millis,
        after: Option<&QueueCursor>,
        limit: usize,
    ) -> Vec<Waiting> {
        let Some(entries) = self.queues.get(&Some(queue.into())) else {
            return Vec::new();
        };
        let start = match after.cloned() {
            Some((at, id, address)) => Bound::Excluded((at, id, address, MessageKind::Unblock)),
            None => Bound::Unbounded,
        };
        let page = entries.range((start, Bound::Unbounded));
        page.filter(|entry| entry.3 == kind)
            .filter_map(|entry| self.offered(entry, now))
            .take(limit)
            .collect()
    }

    /// Since when the message of a queue entry has been on offer.
    fn offered_since(&self, entry: &QueueEntry) -> Option<Millis> {
        let (_, id, address, kind) = entry;
        let object = self.objects.get(id)?;
        match kind {
            MessageKind::Execute => object.task.as_ref()?.offer_at,
            MessageKind::Unblock => object.listeners.get(address)?.enqueued_at,
        }
    }

    /// The message of a queue entry, if it was offered by `now`.
    fn offered(&self, entry: &QueueEntry, now: Millis) -> Option<Waiting> {
        let (retry_at, id, address, kind) = entry;
        let object = self.objects.get(id)?;
        match kind {
            MessageKind::Execute => {
                let task = object.task.as_ref()?;
                (task.offer_at? <= now).then(|| Waiting::Execute {
                    id: id.clone(),
                    version: task.version,
                    address: address.clone(),
                    retry_at: *retry_at,
                    trace: object.trace.clone(),
                })
            }
            MessageKind::Unblock => {
                let listener = object.listeners.get(address)?;
                (listener.enqueued_at? <= now).then(|| Waiting::Unblock {
                    promise: object.promise.clone(),
                    address: address.clone(),
                    retry_at: *retry_at,
                    is_backing_off: listener.attempts > 0,
                })
            }
        }
    }
}

/// The second halves of all pairs that start with `group`.
fn members<'a>(index: &'a BTreeSet<(Id, Id)>, group: &Id) -> impl Iterator<Item = &'a Id> {
    let pairs = index.range((group.clone(), Id::from(""))..);
    let group = group.clone();
    pairs
        .take_while(move |(name, _)| *name == group)
        .map(|(_, id)| id)
}

/// All entries behind a page's cursor.
fn behind<'a, T>(
    map: &'a BTreeMap<Id, Arc<T>>,
    after: Option<&'a Id>,
) -> impl Iterator<Item = &'a T> {
    let start = after.map_or(Bound::Unbounded, |id| Bound::Excluded(&**id));
    map.range::<str, _>((start, Bound::Unbounded))
        .map(|(_, entry)| &**entry)
}

fn is_pending_and_due(promise: &Promise, or_due: Option<Millis>) -> bool {
    promise.state == PromiseState::Pending && or_due.is_some_and(|now| promise.timeout_at <= now)
}

struct MemoryTransaction<'a> {
    store: &'a MemoryStore,
    _writer: tokio::sync::MutexGuard<'a, ()>,
}

#[async_trait]
impl Transaction for MemoryTransaction<'_> {
    async fn load(&mut self, need: &Need) -> Result<Loaded> {
        Ok(self.store.read_state().load(need))
    }

    async fn commit(self: Box<Self>, changes: &Changes) -> Result<()> {
        if changes.is_empty() {
            return Ok(());
        }
        let mut state = self.store.write_state();
        state.check(changes)?;
        state.apply(changes);
        #[cfg(test)]
        {
            let written = changes.objects.len();
            self.store.work.written.fetch_add(written, Ordering::SeqCst);
        }
        Ok(())
    }
}

#[async_trait]
impl Store for MemoryStore {
    async fn begin(&self) -> Result<Box<dyn Transaction + '_>> {
        Ok(Box::new(MemoryTransaction {
            store: self,
            _writer: self.writer.lock().await,
        }))
    }

    async fn read(&self, ids: &[Id]) -> Result<Vec<Arc<Object>>> {
        let state = self.read_state();
        let ids: BTreeSet<&Id> = ids.iter().collect();
        let found = ids.into_iter().filter_map(|id| state.objects.get(id));
        Ok(found.cloned().collect())
    }

    async fn read_schedule(&self, id: &str) -> Result<Option<Schedule>> {
        let state = self.read_state();
        Ok(state.schedules.get(id).map(|schedule| (**schedule).clone()))
    }

    async fn promises(&self, page: &PromisePage) -> Result<Vec<Promise>> {
        let state = self.read_state();
        Ok(behind(&state.objects, page.after.as_ref())
            .map(|object| &object.promise)
            .filter(|promise| {
                let is_wanted = |state| promise.state == state;
                page.state.is_none_or(is_wanted) || is_pending_and_due(promise, page.or_due)
            })
            .filter(|promise| promise.tags.contain(&page.tags))
            .take(page.limit)
            .cloned()
            .collect())
    }

    async fn outlines(&self, page: &OutlinePage) -> Result<Vec<Outline>> {
        Ok(self.read_state().outlines(page))
    }

    async fn callbacks(&self, after: Option<&(Id, Id)>, limit: usize) -> Result<Vec<(Id, Id)>> {
        Ok(self.read_state().callbacks(after, limit))
    }

    async fn tasks(&self, page: &TaskPage) -> Result<Vec<Object>> {
        let state = self.read_state();
        Ok(behind(&state.objects, page.after.as_ref())
            .filter(|object| {
                object.task.as_ref().is_some_and(|task| {
                    page.state.is_none_or(|state| task.state == state)
                        || is_pending_and_due(&object.promise, page.or_due)
                })
            })
            .take(page.limit)
            .map(without_obligations)
            .collect())
    }

    async fn schedules(&self, page: &SchedulePage) -> Result<Vec<Schedule>> {
        let state = self.read_state();
        Ok(behind(&state.schedules, page.after.as_ref())
            .filter(|schedule| schedule.promise_tags.contain(&page.tags))
            .take(page.limit)
            .cloned()
            .collect())
    }

    async fn due(&self, until: Millis, queues: Queues<'_>, limit: usize) -> Result<Vec<Deadline>> {
        Ok(self.read_state().due(until, queues, limit))
    }

    async fn waiting(
        &self,
        queue: &str,
        kind: MessageKind,
        now: Millis,
        after: Option<&QueueCursor>,
        limit: usize,
    ) -> Result<Vec<Waiting>> {
        let page = self.read_state().waiting(queue, kind, now, after, limit);
        #[cfg(test)]
        {
            self.work.pages.fetch_add(1, Ordering::SeqCst);
            self.work.waiting.fetch_add(page.len(), Ordering::SeqCst);
        }
        Ok(page)
    }

    async fn queues(
        &self,
        kind: WaitingKind,
        after: Option<&str>,
        limit: usize,
    ) -> Result<Vec<Id>> {
        let state = self.read_state();
        let is_after = |queue: &&Id| after.is_none_or(|after| ***queue > *after);
        let is_wanted = |entry: &QueueEntry| match kind {
            WaitingKind::Execute => entry.3 == MessageKind::Execute,
            WaitingKind::Any => true,
        };
        let queues = state.queues.iter();
        Ok(queues
            .filter(|(_, entries)| entries.iter().any(is_wanted))
            .filter_map(|(queue, _)| queue.as_ref())
            .filter(is_after)
            .take(limit)
            .cloned()
            .collect())
    }

    async fn waiting_by_address(
        &self,
        queue: &str,
        now: Millis,
        limit: usize,
    ) -> Result<Vec<WaitingCount>> {
        let state = self.read_state();
        let Some(entries) = state.queues.get(&Some(queue.into())) else {
            return Ok(Vec::new());
        };
        let count = |kind| {
            let first = entries.iter().filter(move |entry| entry.3 == kind);
            let offered = first.take(limit).filter_map(|entry| {
                let since = state.offered_since(entry)?;
                (since <= now).then(|| (entry.2.clone(), 1, since))
            });
            offered.collect()
        };
        Ok(counted(
            count(MessageKind::Execute),
            count(MessageKind::Unblock),
        ))
    }

    async fn count_by_state(
        &self,
        kind: Kind,
        after: Option<&str>,
        limit: usize,
    ) -> Result<StateCounts> {
        let state = self.read_state();
        let after = after.map(Id::from);
        let objects = behind(&state.objects, after.as_ref());
        let id_of = |object: &Object| object.promise.id.clone();
        Ok(match kind {
            Kind::Promise => state_counts(
                objects
                    .map(|object| (object.promise.state.as_str(), 1, id_of(object)))
                    .take(limit),
            ),
            Kind::Task => state_counts(
                objects
                    .filter_map(|o| Some((o.task.as_ref()?.state.as_str(), 1, id_of(o))))
                    .take(limit),
            ),
            Kind::Schedule => state_counts(
                behind(&state.schedules, after.as_ref())
                    .map(|schedule| ("active", 1, schedule.id.clone()))
                    .take(limit),
            ),
        })
    }

    async fn stale_unblocks(&self, before: Millis, limit: usize) -> Result<Vec<(Id, Id)>> {
        let state = self.read_state();
        let stale = state.unblocks.iter().take_while(|entry| entry.0 <= before);
        Ok(stale
            .take(limit)
            .map(|(_, id, address)| (id.clone(), address.clone()))
            .collect())
    }

    async fn dump(&self) -> Result<Dump> {
        let state = self.read_state();
        Ok(Dump {
            objects: state.objects.values().map(|o| (**o).clone()).collect(),
            schedules: state.schedules.values().map(|s| (**s).clone()).collect(),
        })
    }

    async fn reset(&self) -> Result<()> {
        let _writer = self.writer.lock().await;
        *self.write_state() = State::default();
        Ok(())
    }

    async fn ping(&self) -> Result<()> {
        Ok(())
    }

    async fn close(&self) {}
}

#[cfg(test)]
mod tests {
    async fn open() -> (super::MemoryStore, ()) {
        (super::MemoryStore::new(), ())
    }

    crate::store::suite::behaviours!(open);
    crate::store::suite::moves!(place);

    async fn place() -> std::sync::Arc<super::MemoryStore> {
        std::sync::Arc::default()
    }

    #[tokio::test]
    async fn indexes_are_empty_once_nothing_wants_a_step() {
        let store = super::MemoryStore::new();
        crate::store::suite::ended_objects_have_no_deadlines(&store).await;
        let state = store.read_state();
        assert!(state.timeouts.is_empty() && state.leases.is_empty() && state.pids.is_empty());
        assert!(state.queues.is_empty() && state.unblocks.is_empty());
        assert!(state.occurrences.is_empty());
    }
}
