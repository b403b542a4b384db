//! The outbox's background work: booking what was delivered, sending what was held back, offering what
//! waits when somebody can receive it, giving up what nobody ever did.

use std::sync::Arc;
use std::time::Duration;

use crate::engine::{Engine, Error, STEPS_MAX};
use crate::machine::Step;
use crate::machine::workspace::Message;
use crate::protocol::address;
use crate::protocol::record::{Id, Millis};
use crate::store::{DeadlineKey, QueueCursor, Waiting};
use crate::telemetry::metrics::METRICS;

use super::offers::Source;
use super::{Bodies, Outbox};

/// How long deliveries are collected before they are booked.
const BOOKING_LAG: Duration = Duration::from_millis(20);
/// Waiting messages read at a time.
const PUMP_PAGE: usize = 256;
/// Pause after the storage failed us.
const FAILURE_PAUSE: Duration = Duration::from_millis(250);
/// Messages in a row that found no room before a pump waits for some.
const REFUSALS_MAX: usize = 16;

impl Outbox {
    pub(super) async fn book_finished(&self, engine: &Engine) {
        loop {
            if self.lock().finished.is_empty() {
                self.has_finished.notified().await;
            }
            // Nobody waits for the books: one commit for all deliveries of a moment, instead of one
            // each that requests and timers would queue behind.
            tokio::time::sleep(BOOKING_LAG).await;
            if let Err(error) = self.book_some(engine).await {
                // The timers log a storage that is out.
                tracing::debug!(%error, "deliveries could not be booked");
                tokio::time::sleep(FAILURE_PAUSE).await;
            }
        }
    }

    /// Books what was delivered and not booked yet, once the drivers have stopped.
    pub async fn book_rest(&self, engine: &Engine) {
        while !self.lock().finished.is_empty() {
            if let Err(error) = self.book_some(engine).await {
                tracing::warn!(%error, "some messages will be delivered twice");
                return;
            }
        }
    }

    /// Books the first of what is finished. It is forgotten only then: what is cut short is repeated.
    async fn book_some(&self, engine: &Engine) -> Result<(), Error> {
        let steps: Vec<Step> = {
            let state = self.lock();
            state.finished.iter().take(STEPS_MAX).cloned().collect()
        };
        engine.step(steps.clone()).await?;
        let mut state = self.lock();
        state.finished.drain(..steps.len());
        for key in steps.iter().filter_map(key_of) {
            state.in_flight.remove(&key);
        }
        Ok(())
    }

    pub(super) async fn send_held_back(self: &Arc<Self>, engine: &Engine) {
        loop {
            let now = engine.clock().now();
            let (due, next_at) = self.take_held_back(now);
            self.emit(due, now);
            let wait = next_at.map_or(Duration::from_secs(60), |at| {
                Duration::from_millis(u64::try_from(at.saturating_sub(now)).unwrap_or(0))
            });
            tokio::select! {
                biased;
                () = tokio::time::sleep(wait) => {}
                () = self.held_back_changed.notified() => {}
            }
        }
    }

    fn take_held_back(&self, now: Millis) -> (Vec<Message>, Option<Millis>) {
        let mut state = self.lock();
        let mut due = Vec::new();
        while state
            .held_back
            .first_key_value()
            .is_some_and(|((at, _), _)| *at <= now)
        {
            due.extend(state.held_back.pop_first().map(|(_, message)| message));
        }
        (
            due,
            state.held_back.first_key_value().map(|((at, _), _)| *at),
        )
    }

    /// The repair sweep: gives up what is too old to deliver.
    pub(super) async fn give_up_stale(&self, engine: &Engine) {
        let mut ticks = tokio::time::interval(self.settings.sweep_interval);
        ticks.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
        loop {
            ticks.tick().await;
            engine.until_resumed().await;
            match self.give_up_some(engine).await {
                Ok(0) => {}
                Ok(count) => tracing::warn!(
                    count,
                    "gave up unblock messages that were undelivered for messages.unblock_ttl"
                ),
                // The timers log a storage that is out.
                Err(error) => tracing::debug!(%error, "stale messages could not be read"),
            }
        }
    }

    async fn give_up_some(&self, engine: &Engine) -> Result<usize, Error> {
        let before = engine
            .clock()
            .now()
            .saturating_sub(self.settings.unblock_ttl_ms);
        let stale = engine
            .store()
            .stale_unblocks(before, self.settings.sweep_max)
            .await?;
        if engine.is_paused() {
            // What was stored since then has times of its own.
            return Ok(0);
        }
        let count = stale.len();
        if count > 0 {
            METRICS.deliveries("dropped", u64::try_from(count).unwrap_or(u64::MAX));
            self.forget_failures(&stale);
            let done = |(promise, address)| Step::UnblockDone { promise, address };
            engine.step(stale.into_iter().map(done).collect()).await?;
        }
        Ok(count)
    }

    fn forget_failures(&self, keys: &[(Id, Id)]) {
        let mut state = self.lock();
        for key in keys {
            state.backing_off.remove(key);
        }
    }

    pub(super) async fn pump_queues(self: &Arc<Self>, engine: &Engine) {
        loop {
            engine.until_resumed().await;
            let Some((queue, after)) = self.next_turn() else {
                self.to_pump.notified().await;
                continue;
            };
            let outcome = self.pump(engine, &queue, after.as_ref()).await;
            let is_out = matches!(outcome, Err(Error::Unavailable(_)));
            {
                let backlog = &mut self.lock().backlog;
                match outcome {
                    Ok(None) => backlog.done(queue),
                    Ok(next) => backlog.more(queue, next),
                    // The timers log a storage that is out.
                    Err(Error::Unavailable(_)) => backlog.more(queue, after),
                    Err(error) => {
                        tracing::error!(%queue, %error, "waiting messages cannot be read");
                        backlog.done(queue);
                    }
                }
            }
            if is_out {
                tokio::time::sleep(FAILURE_PAUSE).await;
            }
        }
    }

    fn next_turn(&self) -> Option<(Id, Option<QueueCursor>)> {
        self.lock().backlog.next()
    }

    /// Offers a page of what waits in a queue. Answers where the next one starts, unless there is none or
    /// nobody has room: then draining a buffer brings us back here.
    async fn pump(
        self: &Arc<Self>,
        engine: &Engine,
        queue: &Id,
        after: Option<&QueueCursor>,
    ) -> Result<Option<QueueCursor>, Error> {
        let now = engine.clock().now();
        let page = engine.store().waiting(queue, now, after, PUMP_PAGE).await?;
        if engine.is_paused() {
            // Once it goes on, everything is pumped anew.
            return Ok(None);
        }
        let is_last = page.len() < PUMP_PAGE;
        let next = page.last().map(cursor_of);
        // Overdue retries become steps, so that the next retry is armed again.
        let mut overdue = Vec::new();
        let mut refusals = 0;
        let mut bodies = Bodies::default();
        let is_shared = address::is_served_anywhere(queue);
        for waiting in page {
            // Any server can deliver it: each sees to its share.
            if is_shared && !self.is_mine(&DeadlineKey::Promise(waiting.position().1.into())) {
                continue;
            }
            match waiting {
                Waiting::Execute { id, retry_at, .. } if retry_at <= now => {
                    overdue.push(Step::Promise(id));
                }
                waiting => {
                    let is_taken = self.send(&message_of(waiting, now), Source::Pump, &mut bodies);
                    refusals = if is_taken { 0 } else { refusals + 1 };
                    if refusals > REFUSALS_MAX {
                        break;
                    }
                }
            }
        }
        if !overdue.is_empty() {
            engine.step(overdue).await?;
        }
        let is_over = is_last || refusals > REFUSALS_MAX || !self.is_listened(queue);
        Ok(next.filter(|_| !is_over))
    }
}

fn key_of(step: &Step) -> Option<(Id, Id)> {
    match step {
        Step::UnblockDone { promise, address } | Step::UnblockFailed { promise, address } => {
            Some((promise.clone(), address.clone()))
        }
        _ => None,
    }
}

fn cursor_of(waiting: &Waiting) -> QueueCursor {
    match waiting {
        Waiting::Execute {
            id,
            address,
            retry_at,
            ..
        } => (*retry_at, id.clone(), address.clone()),
        Waiting::Unblock {
            promise,
            address,
            retry_at,
        } => (*retry_at, promise.id.clone(), address.clone()),
    }
}

fn message_of(waiting: Waiting, now: Millis) -> Message {
    match waiting {
        Waiting::Execute {
            id,
            version,
            address,
            ..
        } => Message::Execute {
            id,
            version,
            address,
            offer_at: now,
        },
        Waiting::Unblock {
            promise, address, ..
        } => Message::Unblock { promise, address },
    }
}
