//! Background work: timers, the outbox, retention, and the worker that runs scripts. Woken by commits, by the
//! nearest deadline and by streams that open; polling only repairs what a crash lost.

use std::panic::AssertUnwindSafe;
use std::sync::Arc;
use std::time::Duration;

use futures_util::FutureExt;
use tokio::task::JoinSet;

use crate::engine::clock::Clock;
use crate::engine::{Engine, Hooks};
use crate::machine::workspace::Message;
use crate::protocol::record::tag;
use crate::store::{Change, Changes};
use crate::telemetry::metrics::METRICS;

mod census;
pub mod deadlines;
pub mod outbox;
pub mod retention;
pub mod scripts;
#[cfg(test)]
mod tests;
pub mod timers;

use outbox::{Ear, Outbox};
use retention::Retention;
use scripts::Scripts;
use timers::Timers;

/// Pause before a driver that ended is started again.
const RESTART_PAUSE: Duration = Duration::from_secs(1);

/// The drivers of one engine, and what the engine tells of its commits.
pub struct Drivers {
    /// Deadlines and sweeps.
    pub timers: Timers,
    /// Messages.
    pub outbox: Arc<Outbox>,
    /// Scripts, if this server runs any.
    pub scripts: Option<Arc<Scripts>>,
    /// What deletes.
    pub retention: Arc<Retention>,
    clock: Arc<Clock>,
}

impl Drivers {
    /// Drivers that are not running yet.
    pub fn new(
        timers: Timers,
        outbox: Arc<Outbox>,
        scripts: Option<Arc<Scripts>>,
        retention: Arc<Retention>,
        clock: Arc<Clock>,
    ) -> Arc<Self> {
        Arc::new(Drivers {
            timers,
            outbox,
            scripts,
            retention,
            clock,
        })
    }

    /// Starts them; they run until the set is shut down.
    pub fn start(self: &Arc<Self>, engine: &Arc<Engine>) -> JoinSet<()> {
        let mut tasks = JoinSet::new();
        let (drivers, timed) = (self.clone(), engine.clone());
        tasks.spawn(for_ever("timers", async move || {
            drivers.timers.run(&timed, &drivers.outbox).await;
        }));
        if let Some(scripts) = self.scripts.clone() {
            let engine = engine.clone();
            tasks.spawn(for_ever("scripts", async move || {
                scripts.run(&engine).await;
            }));
        }
        if self.retention.is_on() {
            let (drivers, engine) = (self.clone(), engine.clone());
            tasks.spawn(for_ever("retention", async move || {
                drivers.retention.run(&engine, &drivers.outbox).await;
            }));
        }
        let (drivers, counted) = (self.clone(), engine.clone());
        tasks.spawn(for_ever("census", async move || {
            let interval = drivers.timers.sweep_interval();
            census::run(&counted, &drivers.outbox, interval).await;
        }));
        let (outbox, engine) = (self.outbox.clone(), engine.clone());
        if let Some(cluster) = self.outbox.cluster().cloned() {
            let (outbox, engine) = (self.outbox.clone(), engine.clone());
            let ear = Ear { outbox, engine };
            let clock = self.clock.clone();
            tasks.spawn(for_ever("cluster", async move || {
                cluster.run(&ear, &**ear.engine.store(), &clock).await;
            }));
        }
        tasks.spawn(for_ever("outbox", async move || outbox.run(&engine).await));
        tasks
    }
}

impl Hooks for Drivers {
    fn committed(&self, changes: &Changes) {
        METRICS.schedule_promises(occurrences(changes));
        self.retention.committed(changes);
        self.outbox.committed(changes);
        if let Some(scripts) = &self.scripts {
            scripts.committed(changes);
        }
        self.timers
            .committed(changes, |queue| self.outbox.is_listened(queue));
    }

    fn emit(&self, messages: Vec<Message>) {
        self.outbox.emit(messages, self.clock.now());
    }

    fn reset(&self) {
        self.timers.clear();
        self.outbox.reset();
        if let Some(scripts) = &self.scripts {
            scripts.reset();
        }
    }

    fn paused(&self, is_paused: bool) {
        self.outbox.set_paused(is_paused, self.clock.now());
    }

    fn held(&self) -> Vec<Message> {
        self.outbox.held()
    }
}

/// How many of the new promises were created by a schedule that fired in the same commit.
fn occurrences(changes: &Changes) -> u64 {
    if changes.schedules.is_empty() {
        return 0;
    }
    let is_occurrence = |change: &&Change| {
        let of = change.after.promise.tags.get(tag::SCHEDULE);
        change.before.is_none() && changes.schedules.iter().any(|s| Some(&*s.id) == of)
    };
    u64::try_from(changes.objects.iter().filter(is_occurrence).count()).unwrap_or(u64::MAX)
}

/// Runs a driver again when it ends, which it does only by a defect: without it nothing would fire.
async fn for_ever(name: &'static str, run: impl AsyncFn()) {
    loop {
        let outcome = AssertUnwindSafe(run()).catch_unwind().await;
        let is_panic = outcome.is_err();
        tracing::error!(driver = name, is_panic, "a driver ended; starting it again");
        tokio::time::sleep(RESTART_PAUSE).await;
    }
}
