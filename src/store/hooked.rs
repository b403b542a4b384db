//! A store in memory whose calls tests stall, fail and make panic.

use std::ops::Deref;
use std::sync::Arc;

use async_trait::async_trait;

use super::memory::MemoryStore;
use super::{
    Bus, Changes, Deadline, Dump, Kind, Loaded, MessageKind, Need, Outline, OutlinePage,
    PromisePage, QueueCursor, Queues, Result, SchedulePage, StateCounts, Store, TaskPage,
    Transaction, Waiting, WaitingCount, WaitingKind,
};
use crate::machine::object::Object;
use crate::protocol::record::{Id, Millis, Promise, Schedule};

/// What happens before a call gets through.
#[async_trait]
pub(crate) trait Before: Send + Sync + 'static {
    fn bus(&self) -> Option<Arc<dyn Bus>> {
        None
    }
    fn load(&self, _: &Need) {}
    async fn commit(&self, _: &Changes) -> Result<()> {
        Ok(())
    }
    fn committed(&self, _: &Changes) {}
    fn read(&self, _: &[Id]) {}
    fn due(&self) {}
    fn waiting(&self) {}
    fn ping(&self) {}
}

/// See the module documentation. Dereferences to what is the test's own.
pub(crate) struct Hooked<B> {
    pub inner: MemoryStore,
    before: B,
}

impl<B> Hooked<B> {
    pub fn new(before: B) -> Arc<Self> {
        Arc::new(Hooked {
            inner: MemoryStore::new(),
            before,
        })
    }
}

impl<B> Deref for Hooked<B> {
    type Target = B;

    fn deref(&self) -> &B {
        &self.before
    }
}

struct HookedTransaction<'a, B> {
    before: &'a B,
    inner: Box<dyn Transaction + 'a>,
}

#[async_trait]
impl<B: Before> Transaction for HookedTransaction<'_, B> {
    async fn load(&mut self, need: &Need) -> Result<Loaded> {
        self.before.load(need);
        self.inner.load(need).await
    }

    async fn commit(self: Box<Self>, changes: &Changes) -> Result<()> {
        self.before.commit(changes).await?;
        self.inner.commit(changes).await?;
        self.before.committed(changes);
        Ok(())
    }
}

#[async_trait]
impl<B: Before> Store for Hooked<B> {
    fn bus(&self) -> Option<Arc<dyn Bus>> {
        self.before.bus()
    }
    async fn begin(&self) -> Result<Box<dyn Transaction + '_>> {
        Ok(Box::new(HookedTransaction {
            before: &self.before,
            inner: self.inner.begin().await?,
        }))
    }
    async fn read(&self, ids: &[Id]) -> Result<Vec<Arc<Object>>> {
        self.before.read(ids);
        self.inner.read(ids).await
    }
    async fn read_schedule(&self, id: &str) -> Result<Option<Schedule>> {
        self.inner.read_schedule(id).await
    }
    async fn promises(&self, page: &PromisePage) -> Result<Vec<Promise>> {
        self.inner.promises(page).await
    }
    async fn outlines(&self, page: &OutlinePage) -> Result<Vec<Outline>> {
        self.inner.outlines(page).await
    }
    async fn callbacks(&self, after: Option<&(Id, Id)>, limit: usize) -> Result<Vec<(Id, Id)>> {
        self.inner.callbacks(after, limit).await
    }
    async fn tasks(&self, page: &TaskPage) -> Result<Vec<Object>> {
        self.inner.tasks(page).await
    }
    async fn schedules(&self, page: &SchedulePage) -> Result<Vec<Schedule>> {
        self.inner.schedules(page).await
    }
    async fn due(&self, until: Millis, queues: Queues<'_>, limit: usize) -> Result<Vec<Deadline>> {
        self.before.due();
        self.inner.due(until, queues, limit).await
    }
    async fn waiting(
        &self,
        queue: &str,
        kind: MessageKind,
        now: Millis,
        after: Option<&QueueCursor>,
        limit: usize,
    ) -> Result<Vec<Waiting>> {
        self.before.waiting();
        self.inner.waiting(queue, kind, now, after, limit).await
    }
    async fn queues(
        &self,
        kind: WaitingKind,
        after: Option<&str>,
        limit: usize,
    ) -> Result<Vec<Id>> {
        self.inner.queues(kind, after, limit).await
    }
    async fn waiting_by_address(
        &self,
        queue: &str,
        now: Millis,
        limit: usize,
    ) -> Result<Vec<WaitingCount>> {
        self.inner.waiting_by_address(queue, now, limit).await
    }
    async fn count_by_state(
        &self,
        kind: Kind,
        after: Option<&str>,
        limit: usize,
    ) -> Result<StateCounts> {
        self.inner.count_by_state(kind, after, limit).await
    }
    async fn stale_unblocks(&self, before: Millis, limit: usize) -> Result<Vec<(Id, Id)>> {
        self.inner.stale_unblocks(before, limit).await
    }
    async fn dump(&self) -> Result<Dump> {
        self.inner.dump().await
    }
    async fn reset(&self) -> Result<()> {
        self.inner.reset().await
    }
    async fn ping(&self) -> Result<()> {
        self.before.ping();
        self.inner.ping().await
    }
    async fn close(&self) {
        self.inner.close().await;
    }
}
