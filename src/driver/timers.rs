//! Fires what is due: promise timeouts, leases, retries, schedules, repeated `unblock` attempts.
//!
//! ```text
//!   commits ──> deadlines (near future, in memory) ──> steps ──> engine
//!                   ^
//!   store ──sweep───┘  at start, every `timeouts.poll_interval`, and when memory ran out of deadlines
//! ```
//!
//! Where several servers share the database, each holds the deadlines that its own commits set, and of
//! those that a sweep finds its share, and what another has let pass.
//!
//! A deadline means *not before*: every step re-checks, so firing twice, late or early is harmless.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use tokio::sync::Notify;
use tokio::time::Instant;

use crate::engine::{Engine, Error, STEPS_MAX};
use crate::machine::Step;
use crate::protocol::record::Millis;
use crate::store::{Changes, Deadline, DeadlineKey, Queues};
use crate::telemetry::metrics::METRICS;

use super::deadlines::{self, Deadlines};
use super::outbox::Outbox;

/// Deadlines read in one sweep; if there are more, they follow when these are done.
const SWEEP_MAX: usize = 10_000;
/// Schedules fired in one transaction.
const SCHEDULES_MAX: usize = 16;
/// How late a deadline must be before a node fires it that is another's to fire.
const OWNER_GRACE_MS: Millis = 500;
/// Pause after the storage failed a sweep or a step.
const FAILURE_PAUSE: Duration = Duration::from_millis(250);

/// How the timers are set up.
#[derive(Clone, Copy, Debug)]
pub struct Settings {
    /// `timeouts.poll_interval`.
    pub sweep_interval: Duration,
}

/// See the module documentation.
pub struct Timers {
    settings: Settings,
    deadlines: Mutex<Deadlines>,
    changed: Notify,
}

impl Timers {
    /// Timers that know of no deadline yet.
    pub fn new(settings: Settings) -> Self {
        Timers {
            settings,
            deadlines: Mutex::default(),
            changed: Notify::new(),
        }
    }

    /// See [`Settings`].
    pub fn sweep_interval(&self) -> Duration {
        self.settings.sweep_interval
    }

    /// Takes in the deadlines that a commit has set.
    pub fn committed(&self, changes: &Changes, is_listened: impl Fn(&str) -> bool) {
        let mut deadlines = self.lock();
        let found = deadlines::of_changes(changes, |at| deadlines.covers(at), is_listened);
        let mut is_sooner = false;
        for deadline in found {
            is_sooner |= deadlines.insert(deadline);
        }
        drop(deadlines);
        if is_sooner {
            self.changed.notify_one();
        }
    }

    /// Forgets all deadlines (`debug.reset`).
    pub fn clear(&self) {
        self.lock().clear();
    }

    /// Runs until the task is dropped.
    pub async fn run(&self, engine: &Engine, outbox: &Arc<Outbox>) {
        let mut next_sweep = Instant::now();
        let mut health = Health::default();
        loop {
            engine.until_resumed().await;
            let now = engine.clock().now();
            let is_used_up = self.lock().is_used_up(now);
            let result = if is_used_up || Instant::now() >= next_sweep {
                next_sweep = Instant::now() + self.settings.sweep_interval;
                let swept = self.sweep(engine, outbox, now).await;
                health.note(&swept);
                swept
            } else {
                self.fire_due(engine, now).await
            };
            match result {
                Ok(true) => {}
                Ok(false) => self.wait(engine, next_sweep).await,
                Err(_) => {
                    tokio::time::sleep(FAILURE_PAUSE).await;
                    // What was taken from memory, or not read, is still in the store.
                    next_sweep = Instant::now();
                }
            }
        }
    }

    /// Sleeps until the next deadline or sweep, or until a commit sets a nearer one. Never longer than
    /// the sweep interval: the wall clock may jump.
    async fn wait(&self, engine: &Engine, next_sweep: Instant) {
        let next_at = self.lock().next_at();
        let ahead = millis(next_at.saturating_sub(engine.clock().now()));
        let until = next_sweep.min(Instant::now() + ahead);
        tokio::select! {
            biased;
            () = tokio::time::sleep_until(until) => {}
            () = self.changed.notified() => {}
        }
    }

    /// Takes the steps that are due, up to a bound. Returns whether there may be more.
    async fn fire_due(&self, engine: &Engine, now: Millis) -> Result<bool, Error> {
        let due = self.lock().take_due(now, STEPS_MAX);
        if engine.is_paused() {
            let mut deadlines = self.lock();
            for deadline in due {
                deadlines.hold(deadline);
            }
            return Ok(false);
        }
        if due.is_empty() {
            return Ok(false);
        }
        due.iter().for_each(|deadline| note_lag(deadline, now));
        let steps: Vec<Step> = due
            .into_iter()
            .map(|deadline| match deadline.key {
                DeadlineKey::Promise(id) => Step::Promise(id),
                DeadlineKey::Schedule(id) => Step::Schedule(id),
                DeadlineKey::Unblock(promise, address) => Step::UnblockDue { promise, address },
            })
            .collect();
        for steps in transactions(steps) {
            engine.step(steps).await?;
        }
        Ok(true)
    }

    /// Reads the near deadlines from the store.
    async fn sweep(
        &self,
        engine: &Engine,
        outbox: &Arc<Outbox>,
        now: Millis,
    ) -> Result<bool, Error> {
        // Two intervals ahead, so that the next sweep comes before these run out.
        let ahead = self.settings.sweep_interval.saturating_mul(2) + Duration::from_secs(1);
        let until = now.saturating_add(Millis::try_from(ahead.as_millis()).unwrap_or(Millis::MAX));
        // Before reading: what is committed meanwhile is taken in by `committed`.
        self.lock().cover(until);
        let store = engine.store();
        let queues = outbox.retried_queues(&**store).await?;
        let due = store.due(until, Queues::Only(&queues), SWEEP_MAX).await?;
        {
            let mut deadlines = self.lock();
            if due.len() >= SWEEP_MAX {
                let last = due.last().map_or(now, |last| last.at);
                deadlines.shrink(last.saturating_sub(1));
            }
            for deadline in due.into_iter().filter(|deadline| {
                outbox.is_mine(&deadline.key) || deadline.at.saturating_add(OWNER_GRACE_MS) <= now
            }) {
                let kind = match deadline.key {
                    DeadlineKey::Promise(_) => "promise",
                    DeadlineKey::Schedule(_) => "schedule",
                    DeadlineKey::Unblock(..) => "unblock",
                };
                let is_due = deadline.at <= now;
                if deadlines.hold(deadline) && is_due {
                    METRICS.swept(kind, 1);
                }
            }
        }
        Ok(true)
    }

    /// Has the gauges of the catalogue set.
    pub fn measure(&self, now: Millis) {
        let deadlines = self.lock();
        let overdue = deadlines.first_at().map_or(0, |at| now.saturating_sub(at));
        METRICS.timers(deadlines.count(), millis(overdue));
    }

    fn lock(&self) -> MutexGuard<'_, Deadlines> {
        self.deadlines
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
    }
}

fn note_lag(deadline: &Deadline, now: Millis) {
    let lag = millis(now.saturating_sub(deadline.at));
    match deadline.key {
        DeadlineKey::Schedule(_) => METRICS.schedule_fired(lag),
        DeadlineKey::Promise(_) | DeadlineKey::Unblock(..) => METRICS.timer_fired(lag),
    }
}

/// A duration; none if it is negative.
fn millis(duration: Millis) -> Duration {
    Duration::from_millis(u64::try_from(duration).unwrap_or(0))
}

/// Splits steps so that no transaction keeps requests waiting for long: each of a schedule may create
/// many promises.
fn transactions(steps: Vec<Step>) -> Vec<Vec<Step>> {
    let mut transactions: Vec<Vec<Step>> = Vec::new();
    let mut schedules = 0;
    for step in steps {
        let is_schedule = matches!(step, Step::Schedule(_));
        let is_full = is_schedule && schedules >= SCHEDULES_MAX;
        match transactions.last_mut().filter(|_| !is_full) {
            Some(open) => open.push(step),
            None => {
                schedules = 0;
                transactions.push(vec![step]);
            }
        }
        schedules += usize::from(is_schedule);
    }
    transactions
}

/// Logs a storage that fails the timers once, and once when it is back.
#[derive(Default)]
struct Health {
    is_failing: bool,
}

impl Health {
    fn note<T>(&mut self, result: &Result<T, Error>) {
        match result {
            Err(error) if !self.is_failing => {
                tracing::error!(%error, "timers cannot read the storage; trying on");
                self.is_failing = true;
            }
            Ok(_) if self.is_failing => {
                tracing::warn!("timers read the storage again");
                self.is_failing = false;
            }
            _ => {}
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn few_schedules_fire_in_one_transaction() {
        let schedule = |number: usize| Step::Schedule(number.to_string().into());
        let promise = Step::Promise("p".into());
        let mut steps: Vec<Step> = (0..2 * SCHEDULES_MAX + 1).map(schedule).collect();
        steps.insert(1, promise.clone());
        steps.push(promise);
        let split = transactions(steps.clone());
        let sizes: Vec<usize> = split.iter().map(Vec::len).collect();
        assert_eq!(sizes, [SCHEDULES_MAX + 1, SCHEDULES_MAX, 2]);
        assert_eq!(split.concat(), steps);
        assert!(transactions(Vec::new()).is_empty());
    }
}
