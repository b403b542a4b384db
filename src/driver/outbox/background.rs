//! The outbox's background work: booking what was delivered, sending what was held back, offering what
//! waits when somebody can receive it, giving up what nobody ever did.

use std::sync::Arc;
use std::time::Duration;

use crate::engine::{Engine, Error, STEPS_MAX};
use crate::machine::Step;
use crate::machine::workspace::Message;
use crate::protocol::address;
use crate::protocol::record::{Id, Millis};
use crate::store::{self, DeadlineKey, MessageKind, QueueCursor, Store, Waiting, WaitingKind};
use crate::telemetry::metrics::METRICS;

use super::backlog::Turn;
use super::offers::Source;
use super::{Bodies, Outbox};

/// How long deliveries are collected before they are booked.
const BOOKING_LAG: Duration = Duration::from_millis(20);
/// Waiting messages read at a time.
const PUMP_PAGE: usize = 256;
/// The same at the front of a queue, where only what is overdue is of interest.
const OVERDUE_PAGE: usize = 32;
/// As many queues as this are looked into one by one.
const FEW_QUEUES: usize = 64;
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
        for step in &steps {
            let Some(key) = key_of(step) else { continue };
            match &mut state.booked {
                Some(booked) if matches!(step, Step::UnblockDone { .. }) => booked.push(key),
                _ => {
                    state.in_flight.remove(&key);
                }
            }
        }
        Ok(())
    }

    /// No page of waiting messages is being read any more.
    pub(super) fn page_done(&self) {
        let mut state = self.lock();
        for key in state.booked.take().into_iter().flatten() {
            state.in_flight.remove(&key);
        }
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
            METRICS.swept("stale", count);
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
            state.refused.remove(key);
        }
    }

    pub(super) async fn pump_queues(self: &Arc<Self>, engine: &Engine) {
        loop {
            engine.until_resumed().await;
            let Some(turn) = self.next_turn() else {
                self.to_pump.notified().await;
                continue;
            };
            self.lock().booked = Some(Vec::new());
            let outcome = self.pump_page(engine, &turn).await;
            self.page_done();
            let is_out = matches!(outcome, Err(Error::Unavailable(_)));
            {
                let backlog = &mut self.lock().backlog;
                match outcome {
                    Ok(Page::Last(end)) => backlog.done(turn, end),
                    Ok(Page::More(end)) => backlog.more(turn, end),
                    // The timers log a storage that is out.
                    Err(Error::Unavailable(_)) => backlog.again(turn),
                    Err(error) => {
                        tracing::error!(queue = %turn.queue, %error, "waiting messages cannot be read");
                        backlog.done(turn, None);
                    }
                }
            }
            if is_out {
                tokio::time::sleep(FAILURE_PAUSE).await;
            }
        }
    }

    fn next_turn(&self) -> Option<Turn> {
        self.lock().backlog.next()
    }

    /// Offers a page of what waits in a queue.
    async fn pump_page(self: &Arc<Self>, engine: &Engine, turn: &Turn) -> Result<Page, Error> {
        if !self.is_listened(&turn.queue) {
            // When a stream opens, we are here again.
            return Ok(Page::Last(None));
        }
        let now = engine.clock().now();
        let size = turn.page_size();
        let page = engine.store();
        let page = page.waiting(&turn.queue, turn.kind, now, turn.after.as_ref(), size);
        let page = page.await?;
        if engine.is_paused() {
            // Once it goes on, everything is pumped anew.
            return Ok(Page::Last(None));
        }
        let mut is_over = page.len() < size;
        let mut end = None;
        // Overdue retries become steps, so that the next retry is armed again.
        let mut overdue = Vec::new();
        let mut refusals = 0;
        let mut bodies = Bodies::default();
        let is_shared = address::is_served_anywhere(&turn.queue);
        for waiting in page {
            let position = waiting.position();
            let is_overdue = turn.kind == MessageKind::Execute && position.0 <= now;
            if !is_overdue && turn.has_reached(&position) {
                end = turn.reached.clone();
                is_over = false;
                break;
            }
            let subject = position.1.clone();
            end = Some(position);
            // Any server can deliver it: each sees to its share.
            if is_shared && !self.is_mine(&DeadlineKey::Promise(subject.clone())) {
                continue;
            }
            // A failure of this server is remembered; of those of others only the store knows.
            let is_pausing = self.settings.cluster.is_some() && waiting.is_pausing(now);
            let message = message_of(waiting, now);
            if is_pausing && !self.was_refused(&message) {
                continue;
            }
            // The dispatch that follows the step finds it taken; or finds whoever it is for elsewhere.
            let is_taken = (is_overdue && !self.is_for_here(message.address()))
                || self.send(&message, Source::Pump, &mut bodies);
            if is_taken && is_overdue {
                overdue.push(Step::Promise(subject));
            }
            refusals = if is_taken { 0 } else { refusals + 1 };
            if refusals > REFUSALS_MAX {
                // Draining a buffer brings us back here.
                is_over = true;
                break;
            }
        }
        if !overdue.is_empty() {
            engine.step(overdue).await?;
        }
        Ok(match end {
            Some(end) if !is_over => Page::More(end),
            end => Page::Last(end),
        })
    }

    /// Whether the last attempt at it met nobody who took it: no failure to pause after.
    fn was_refused(&self, message: &Message) -> bool {
        let Message::Unblock {
            promise, address, ..
        } = message
        else {
            return false;
        };
        let key = (promise.id.clone(), address.clone());
        self.lock().refused.contains(&key)
    }

    /// The queues whose retries are timers: somebody listens, and has room. For the others messages wait,
    /// at no cost, until somebody does.
    ///
    /// # Errors
    /// When the storage cannot be read.
    pub async fn retried_queues(&self, store: &dyn Store) -> store::Result<Vec<Id>> {
        let Some(transports) = self.transports() else {
            return Ok(Vec::new());
        };
        let streams = &transports.streams;
        let listened = streams.listened();
        // For few of thousands of streams something waits; or for thousands that are not there.
        let mut queues = match listened {
            0..=FEW_QUEUES => streams.listened_queues(),
            _ => store.queues(WaitingKind::Any, None, listened).await?,
        };
        if queues.len() >= listened {
            queues = streams.listened_queues();
        }
        {
            let backlog = &mut self.lock().backlog;
            backlog.retain(|queue| self.is_listened(queue));
            queues.retain(|queue| !backlog.is_busy(queue));
        }
        queues.retain(|queue| streams.is_listened(queue) && !streams.is_full(queue));
        queues.extend_from_slice(&transports.own_queues);
        Ok(queues)
    }
}

/// What has become of a page.
enum Page {
    /// There are more after this.
    More(QueueCursor),
    /// There are not, or nobody has room.
    Last(Option<QueueCursor>),
}

impl Turn {
    fn page_size(&self) -> usize {
        if self.after.is_none() && self.reached.is_some() {
            OVERDUE_PAGE
        } else {
            PUMP_PAGE
        }
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

/// What has its retry behind it will have another place in its queue, which is not known yet.
fn message_of(waiting: Waiting, now: Millis) -> Message {
    match waiting {
        Waiting::Execute {
            id,
            version,
            address,
            retry_at,
            trace,
        } => Message::Execute {
            id,
            version,
            address,
            offer_at: now,
            retry_at: if retry_at > now {
                retry_at
            } else {
                Millis::MAX
            },
            trace,
            cause: None,
        },
        Waiting::Unblock {
            promise, address, ..
        } => Message::Unblock {
            promise,
            address,
            trace: None,
        },
    }
}
