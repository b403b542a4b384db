//! Everything in memory: read as it is at one instant, and filled.

use std::sync::Arc;

use async_trait::async_trait;
use futures_util::StreamExt;
use futures_util::stream::{self, BoxStream};
use tokio::sync::MutexGuard;

use super::MemoryStore;
use crate::machine::object::Object;
use crate::protocol::record::Schedule;
use crate::store::transfer::{Counts, Fill, Snapshot};
use crate::store::{Changes, Result};

/// See [`Snapshot`].
struct MemorySnapshot {
    objects: Vec<Arc<Object>>,
    schedules: Vec<Arc<Schedule>>,
}

/// See [`Fill`].
struct MemoryFill<'a> {
    store: &'a MemoryStore,
    _writer: MutexGuard<'a, ()>,
    changes: Changes,
}

impl MemoryStore {
    /// Everything as it is now.
    pub fn snapshot(&self) -> Box<dyn Snapshot> {
        let state = self.read_state();
        Box::new(MemorySnapshot {
            objects: state.objects.values().cloned().collect(),
            schedules: state.schedules.values().cloned().collect(),
        })
    }

    /// Begins to fill it, if it is empty.
    ///
    /// # Errors
    /// [`crate::store::Error::Unusable`] when it is not.
    pub async fn fill(&self) -> Result<Box<dyn Fill + '_>> {
        let writer = self.writer.lock().await;
        let there = self.snapshot().counts().await?;
        there.expect_empty("in memory")?;
        Ok(Box::new(MemoryFill {
            store: self,
            _writer: writer,
            changes: Changes::default(),
        }))
    }
}

#[async_trait]
impl Snapshot for MemorySnapshot {
    async fn counts(&mut self) -> Result<Counts> {
        let mut counts = Counts {
            schedules: self.schedules.len() as u64,
            ..Counts::default()
        };
        for object in &self.objects {
            counts.add(object);
        }
        Ok(counts)
    }

    fn objects(&mut self) -> BoxStream<'_, Result<Object>> {
        stream::iter(&self.objects)
            .map(|object| Ok((**object).clone()))
            .boxed()
    }

    fn schedules(&mut self) -> BoxStream<'_, Result<Schedule>> {
        stream::iter(&self.schedules)
            .map(|schedule| Ok((**schedule).clone()))
            .boxed()
    }

    async fn close(self: Box<Self>) {}
}

#[async_trait]
impl Fill for MemoryFill<'_> {
    async fn add(&mut self, batch: &Changes) -> Result<()> {
        self.changes.objects.extend_from_slice(&batch.objects);
        self.changes.schedules.extend_from_slice(&batch.schedules);
        Ok(())
    }

    async fn finish(self: Box<Self>, expected: &Counts) -> Result<()> {
        let mut state = self.store.write_state();
        let mut filled = Counts {
            schedules: self.changes.schedules.len() as u64,
            ..Counts::default()
        };
        for change in &self.changes.objects {
            filled.add(&change.after);
        }
        filled.expect(expected)?;
        state.check(&self.changes)?;
        state.apply(&self.changes);
        Ok(())
    }
}
