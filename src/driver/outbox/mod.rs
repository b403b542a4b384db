//! Hands messages to the transports, and books what became of them (`transports.md` §7).
//!
//! ```text
//!   commit ──> emit ──> transport ──receipt──> delivered: unblock entry removed
//!                │                             failed:    unblock entry backs off
//!                │                             nobody:    waits in the store, at no cost
//!                └─ offer_at later: held back here
//!   a stream opens ──> pump: everything that waits for its queues is offered at once
//! ```
//!
//! Owns no message: an `execute` is derived from its task, an `unblock` from its listener, both in the
//! store. What is lost here is found again by a retry or a sweep.

use std::collections::{BTreeMap, HashSet};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError};
use std::time::Duration;

use bytes::Bytes;
use tokio::sync::{Notify, mpsc};

use crate::engine::{Engine, STEPS_MAX};
use crate::machine::Step;
use crate::machine::workspace::Message;
use crate::protocol::address::{Address, Rules};
use crate::protocol::message;
use crate::protocol::record::{Id, Millis};
use crate::store::{Changes, QueueCursor, Waiting};
use crate::telemetry::metrics::METRICS;
use crate::transport::http_push::HttpPush;
use crate::transport::poll::{self, Hub};
use crate::transport::{Outcome, Outgoing, Receipt, Transport};

mod offers;

use offers::{Offers, Source};

/// Messages held back until their instant; beyond it the task's retry timer sends them.
const HELD_BACK_MAX: usize = 100_000;
/// Waiting messages read at a time when a stream opens.
const PUMP_PAGE: usize = 256;

/// The ways out. A new transport is a file in `transport/` and a line in `Transports::of`.
pub struct Transports {
    /// `http://`, `https://`.
    pub http_push: HttpPush,
    /// `poll://`.
    pub poll: Hub,
}

impl Transports {
    fn of(&self, address: &Address) -> Option<&dyn Transport> {
        match address {
            Address::Http { .. } => Some(&self.http_push),
            Address::Poll(_) => Some(&self.poll),
            Address::Gcps { .. } | Address::Bash(_) => None,
        }
    }
}

/// How the outbox is set up.
#[derive(Clone, Debug)]
pub struct Settings {
    /// `server.url`, which `execute` messages carry.
    pub server_url: String,
    /// The address grammar.
    pub address_rules: Rules,
    /// `messages.poll_interval`.
    pub sweep_interval: Duration,
    /// `messages.batch_size`.
    pub sweep_max: usize,
    /// `messages.unblock_ttl`: age at which an undelivered `unblock` is given up.
    pub unblock_ttl_ms: Millis,
}

/// See the module documentation.
pub struct Outbox {
    settings: Settings,
    transports: OnceLock<Transports>,
    state: Mutex<State>,
    /// Bookkeeping steps of finished deliveries. Bounded by what is in flight.
    finished: mpsc::UnboundedSender<Step>,
    finished_rx: Mutex<Option<mpsc::UnboundedReceiver<Step>>>,
    held_back_changed: Notify,
    to_pump: Notify,
}

#[derive(Default)]
struct State {
    is_paused: bool,
    /// `execute` by task while paused; a later one replaces an earlier one.
    held: BTreeMap<Id, Message>,
    /// `unblock` (promise, address) with a transport, or delivered and not yet booked.
    in_flight: HashSet<(Id, Id)>,
    /// `execute` messages that a stream was given.
    offers: Offers,
    /// By instant and task: offers of tasks that are released over and over.
    held_back: BTreeMap<(Millis, Id), Message>,
    /// Queues whose waiting messages are to be offered.
    queues_to_pump: HashSet<Id>,
    /// Schemes whose messages were dropped, to say so once.
    dropped_schemes: HashSet<&'static str>,
}

impl Outbox {
    /// An outbox without transports; [`Outbox::connect`] follows.
    pub fn new(settings: Settings) -> Arc<Self> {
        let (finished, finished_rx) = mpsc::unbounded_channel();
        Arc::new(Outbox {
            settings,
            transports: OnceLock::new(),
            state: Mutex::default(),
            finished,
            finished_rx: Mutex::new(Some(finished_rx)),
            held_back_changed: Notify::new(),
            to_pump: Notify::new(),
        })
    }

    /// Sets the ways out, once.
    pub fn connect(&self, transports: Transports) {
        let _ = self.transports.set(transports);
    }

    /// The ways out.
    pub fn transports(&self) -> Option<&Transports> {
        self.transports.get()
    }

    /// Queues that somebody listens to.
    pub fn listened_queues(&self) -> Arc<[Id]> {
        self.transports().map_or_else(
            || Arc::from([]),
            |transports| transports.poll.listened_queues(),
        )
    }

    /// Whether somebody listens to the queue.
    pub fn is_listened(&self, queue: &str) -> bool {
        self.transports()
            .is_some_and(|transports| transports.poll.is_listened(queue))
    }

    /// Whether the `unblock` is under way.
    pub fn is_in_flight(&self, promise: &Id, address: &Id) -> bool {
        self.lock()
            .in_flight
            .contains(&(promise.clone(), address.clone()))
    }

    /// Sends messages whose changes are committed, or holds them while paused.
    pub fn emit(self: &Arc<Self>, messages: Vec<Message>, now: Millis) {
        for message in messages {
            if self.hold_while_paused(&message) {
                continue;
            }
            match message {
                Message::Execute { offer_at, .. } if offer_at > now => {
                    self.hold_back(message, offer_at);
                }
                message => {
                    self.send(&message, Source::Dispatch);
                }
            }
        }
    }

    fn hold_while_paused(&self, message: &Message) -> bool {
        let mut state = self.lock();
        if !state.is_paused {
            return false;
        }
        // An unblock is not lost: its entry stays in the store.
        if let Message::Execute { id, .. } = message {
            state.held.insert(id.clone(), message.clone());
        }
        true
    }

    fn hold_back(&self, message: Message, offer_at: Millis) {
        let Message::Execute { id, .. } = &message else {
            return;
        };
        let mut state = self.lock();
        if state.held_back.len() < HELD_BACK_MAX {
            state.held_back.insert((offer_at, id.clone()), message);
            drop(state);
            self.held_back_changed.notify_one();
        }
    }

    /// Hands a message to its transport. Returns whether somebody took it on.
    fn send(self: &Arc<Self>, message: &Message, source: Source) -> bool {
        let Some(transports) = self.transports() else {
            return false;
        };
        let address = match message {
            Message::Execute { address, .. } | Message::Unblock { address, .. } => address,
        };
        let Some(address) = Address::parse(address, &self.settings.address_rules) else {
            tracing::warn!("a stored address is no longer valid; its message is dropped");
            return false;
        };
        let transport = transports.of(&address);
        if transport.is_none() {
            self.warn_dropped(&address);
        }
        let (kind, body, subject) = match message {
            Message::Execute { id, version, .. } => {
                if let Some(queue) = address.queue()
                    && !self.lock().offers.note(id, *version, queue, source)
                {
                    return true;
                }
                let body = message::execute(&self.settings.server_url, id, *version);
                ("execute", body, Subject::Execute(id.clone(), *version))
            }
            Message::Unblock { promise, address } => {
                let key = (promise.id.clone(), address.clone());
                if !self.lock().in_flight.insert(key.clone()) {
                    return true;
                }
                ("unblock", message::unblock(promise), Subject::Unblock(key))
            }
        };
        METRICS.message(kind);
        let is_refused = Arc::new(AtomicBool::new(false));
        let receipt = self.receipt(subject, is_refused.clone());
        match transport {
            Some(transport) => {
                transport.send(Outgoing {
                    address,
                    body: Bytes::from(body),
                    receipt,
                });
            }
            None => receipt.report(Outcome::Disabled),
        }
        !is_refused.load(Ordering::Relaxed)
    }

    /// Books the outcome: of an `execute` there is nothing to book, its task's retry stands behind it.
    fn receipt(self: &Arc<Self>, subject: Subject, is_refused: Arc<AtomicBool>) -> Receipt {
        let outbox = self.clone();
        Receipt::new(move |outcome| {
            let status = match outcome {
                Outcome::Delivered => "success",
                Outcome::Failed => "error",
                Outcome::Nobody | Outcome::Disabled => "dropped",
            };
            METRICS.deliveries(status, 1);
            if outcome == Outcome::Nobody {
                is_refused.store(true, Ordering::Relaxed);
            }
            match (subject, outcome) {
                (Subject::Execute(..), Outcome::Delivered) => {}
                (Subject::Execute(id, version), _) => outbox.lock().offers.forget(&id, version),
                (Subject::Unblock((promise, address)), Outcome::Delivered) => {
                    let _ = outbox.finished.send(Step::UnblockDone { promise, address });
                }
                (Subject::Unblock((promise, address)), Outcome::Failed | Outcome::Disabled) => {
                    let _ = outbox
                        .finished
                        .send(Step::UnblockFailed { promise, address });
                }
                (Subject::Unblock(key), Outcome::Nobody) => {
                    outbox.lock().in_flight.remove(&key);
                }
            }
        })
    }

    fn warn_dropped(&self, address: &Address) {
        let scheme = match address {
            Address::Gcps { .. } => "gcps",
            Address::Bash(_) => "bash",
            Address::Http { .. } => "http",
            Address::Poll(_) => "poll",
        };
        if self.lock().dropped_schemes.insert(scheme) {
            tracing::warn!(
                scheme,
                "messages to this kind of address are dropped: transport disabled"
            );
        }
    }

    /// Pauses delivery, or resumes it and sends what was held.
    pub fn set_paused(self: &Arc<Self>, is_paused: bool, now: Millis) {
        let held = {
            let mut state = self.lock();
            state.is_paused = is_paused;
            if is_paused {
                BTreeMap::new()
            } else {
                std::mem::take(&mut state.held)
            }
        };
        self.emit(held.into_values().collect(), now);
        if !is_paused {
            // What was enqueued meanwhile waits in the store.
            self.pump_soon(self.listened_queues().iter().cloned());
        }
    }

    /// `execute` messages held while paused.
    pub fn held(&self) -> Vec<Message> {
        self.lock().held.values().cloned().collect()
    }

    /// Takes note of tasks that are no longer pending at the version offered.
    pub fn committed(&self, changes: &Changes) {
        self.lock().offers.committed(changes);
    }

    /// Forgets everything held (`debug.reset`).
    pub fn reset(&self) {
        let mut state = self.lock();
        state.held.clear();
        state.held_back.clear();
        state.offers.clear();
    }

    /// Has everything that waits in these queues offered.
    pub fn pump_soon(&self, queues: impl IntoIterator<Item = Id>) {
        self.lock().queues_to_pump.extend(queues);
        self.to_pump.notify_one();
    }

    /// Runs the bookkeeping until the task is dropped.
    pub async fn run(self: &Arc<Self>, engine: &Arc<Engine>) {
        let finished = self
            .finished_rx
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .take();
        let Some(finished) = finished else { return };
        tokio::join!(
            self.book_finished(engine, finished),
            self.send_held_back(engine),
            self.pump_queues(engine),
            self.give_up_stale(engine),
        );
    }

    async fn book_finished(&self, engine: &Engine, mut finished: mpsc::UnboundedReceiver<Step>) {
        loop {
            let mut steps = Vec::with_capacity(STEPS_MAX);
            if finished.recv_many(&mut steps, STEPS_MAX).await == 0 {
                return;
            }
            let keys: Vec<(Id, Id)> = steps.iter().filter_map(key_of).collect();
            // If it fails the entries stay, and are delivered again: at least once.
            if let Err(error) = engine.step(steps).await {
                tracing::debug!(%error, "deliveries could not be booked");
            }
            let mut state = self.lock();
            for key in keys {
                state.in_flight.remove(&key);
            }
        }
    }

    async fn send_held_back(self: &Arc<Self>, engine: &Engine) {
        loop {
            let now = engine.clock().now();
            let (due, next_at) = self.take_held_back(now);
            self.emit(due, now);
            let wait = next_at.map_or(Duration::from_secs(60), |at| {
                Duration::from_millis(u64::try_from(at.saturating_sub(now)).unwrap_or(0))
            });
            tokio::select! {
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
    async fn give_up_stale(&self, engine: &Engine) {
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

    async fn give_up_some(&self, engine: &Engine) -> Result<usize, crate::engine::Error> {
        let before = engine
            .clock()
            .now()
            .saturating_sub(self.settings.unblock_ttl_ms);
        let stale = engine
            .store()
            .stale_unblocks(before, self.settings.sweep_max)
            .await?;
        let count = stale.len();
        if count > 0 {
            METRICS.deliveries("dropped", u64::try_from(count).unwrap_or(u64::MAX));
            let done = |(promise, address)| Step::UnblockDone { promise, address };
            engine.step(stale.into_iter().map(done).collect()).await?;
        }
        Ok(count)
    }

    async fn pump_queues(self: &Arc<Self>, engine: &Engine) {
        loop {
            self.to_pump.notified().await;
            loop {
                engine.until_resumed().await;
                let queue = {
                    let mut state = self.lock();
                    let queue = state.queues_to_pump.iter().next().cloned();
                    if let Some(queue) = &queue {
                        state.queues_to_pump.remove(queue);
                    }
                    queue
                };
                let Some(queue) = queue else { break };
                if let Err(error) = self.pump(engine, &queue).await {
                    tracing::debug!(%error, "waiting messages could not be read");
                    self.lock().queues_to_pump.insert(queue);
                    tokio::time::sleep(Duration::from_millis(250)).await;
                }
            }
        }
    }

    /// Offers everything that waits in a queue, until nobody has room: then draining a buffer brings
    /// us back here.
    async fn pump(
        self: &Arc<Self>,
        engine: &Engine,
        queue: &Id,
    ) -> Result<(), crate::engine::Error> {
        let mut after: Option<QueueCursor> = None;
        loop {
            let now = engine.clock().now();
            let page = engine
                .store()
                .waiting(queue, now, after.as_ref(), PUMP_PAGE)
                .await?;
            let is_last = page.len() < PUMP_PAGE;
            after = page.last().map(cursor_of);
            // Overdue retries become steps, so that the next retry is armed again.
            let mut overdue = Vec::new();
            for waiting in page {
                match waiting {
                    Waiting::Execute { id, retry_at, .. } if retry_at <= now => {
                        overdue.push(Step::Promise(id));
                    }
                    waiting => {
                        if !self.send(&message_of(waiting, now), Source::Pump) {
                            return Ok(());
                        }
                    }
                }
            }
            if !overdue.is_empty() {
                engine.step(overdue).await?;
            }
            if is_last || !self.is_listened(queue) {
                return Ok(());
            }
        }
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// What a receipt is about.
enum Subject {
    /// A task at a version.
    Execute(Id, i64),
    /// A promise and a listener.
    Unblock((Id, Id)),
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

/// What the transports tell: streams that opened or have room again.
pub struct Observer(pub std::sync::Weak<Outbox>);

impl poll::Observer for Observer {
    fn opened(&self, queues: poll::Queues) {
        if let Some(outbox) = self.0.upgrade() {
            outbox.pump_soon(queues);
        }
    }

    fn closed(&self, queues: poll::Queues) {
        if let Some(outbox) = self.0.upgrade() {
            outbox.lock().offers.forget_queues(&queues);
            outbox.pump_soon(queues);
        }
    }

    fn room(&self, queues: poll::Queues) {
        if let Some(outbox) = self.0.upgrade() {
            outbox.pump_soon(queues);
        }
    }
}

impl crate::transport::http_push::Observer for Observer {
    // What the push queue refused is offered again by its retry: one second for an unblock.
    fn room_push(&self) {}
}
