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

use std::collections::{BTreeMap, HashSet, VecDeque};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError};
use std::time::Duration;

use bytes::Bytes;
use tokio::sync::Notify;

use crate::cluster::Cluster;
use crate::engine::Engine;
use crate::machine::Step;
use crate::machine::workspace::Message;
use crate::protocol::address::{self, Address, Rules};
use crate::protocol::message;
use crate::protocol::record::{Id, Millis, Promise};
use crate::protocol::trace::Trace;
use crate::store::Changes;
use crate::telemetry::metrics::METRICS;
use crate::telemetry::tracer::Tracer;
use crate::transport::health::Health;
use crate::transport::poll::{self, Hub};
use crate::transport::{Outcome, Outgoing, Receipt, Room, StreamId, Table};

mod background;
mod backlog;
mod delivery;
mod offers;
mod peers;
mod targets;

use backlog::{Backlog, Start};
use delivery::Delivery;
use offers::{Offer, Offers, Source};
pub use peers::Ear;
pub use targets::{Reason, Target, Targets};

/// Messages held back until their instant; beyond it the task's retry timer sends them.
const HELD_BACK_MAX: usize = 100_000;
/// Failed messages remembered, and as many that were refused; beyond it all are forgotten.
const REMEMBERED_MAX: usize = 100_000;

/// The ways out.
pub struct Transports {
    /// Those that are enabled.
    table: Table,
    /// Who is connected.
    streams: Hub,
    /// The queues of enabled transports that a server delivers from by itself, whoever is connected: of
    /// pushes, of publishes ([`address::is_served_anywhere`]), of scripts.
    own_queues: Vec<Id>,
}

impl Transports {
    /// The transports that are enabled, and the streams of `poll://`, which may not be among them.
    pub fn new(table: Table, streams: Hub) -> Self {
        Transports {
            own_queues: table.schemes().filter_map(address::own_queue).collect(),
            table,
            streams,
        }
    }

    /// Closes all but the streams: [`Hub::close`].
    pub async fn close(&self, within: Duration) {
        self.table.close(within).await;
    }
}

/// How the outbox is set up.
#[derive(Clone)]
pub struct Settings {
    /// `server.url`, which `execute` messages carry.
    pub server_url: String,
    /// The address grammar.
    pub address_rules: Rules,
    /// `messages.poll_interval`.
    pub sweep_interval: Duration,
    /// `messages.batch_size`.
    pub sweep_max: usize,
    /// The other servers of the database, if there can be any.
    pub cluster: Option<Arc<Cluster>>,
    /// `messages.unblock_ttl`: age at which an undelivered `unblock` is given up.
    pub unblock_ttl_ms: Millis,
    /// Begins the spans of deliveries.
    pub tracer: Tracer,
}

/// See the module documentation.
pub struct Outbox {
    settings: Settings,
    transports: OnceLock<Transports>,
    state: Mutex<State>,
    has_finished: Notify,
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
    /// Delivered and booked while a page of waiting messages was being read, which may have them still: in flight until
    /// it is dealt with. None while no page is.
    booked: Option<Vec<(Id, Id)>>,
    /// Bookkeeping steps of finished deliveries, until they are committed; all are in flight.
    finished: VecDeque<Step>,
    /// `unblock` messages that failed: they wait for their retry, no pump offers them. Only a memory:
    /// what is forgotten is offered early.
    backing_off: HashSet<(Id, Id)>,
    /// `unblock` messages that nobody took: they go when there is room, though to the store those that failed before
    /// are pausing again. Only a memory: what is forgotten waits for its retry.
    refused: HashSet<(Id, Id)>,
    /// `execute` messages that a stream was given.
    offers: Offers,
    /// By instant and task: offers of tasks that are released over and over.
    held_back: BTreeMap<(Millis, Id), Message>,
    /// Queues whose waiting messages are to be offered.
    backlog: Backlog,
    /// Targets whose messages nobody takes: nobody is there, or the transport is disabled.
    unserved: Health,
}

impl Outbox {
    /// An outbox without transports; [`Outbox::connect`] follows.
    pub fn new(settings: Settings) -> Arc<Self> {
        Arc::new(Outbox {
            settings,
            transports: OnceLock::new(),
            state: Mutex::default(),
            has_finished: Notify::new(),
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
    pub fn listened_queues(&self) -> Vec<Id> {
        let Some(transports) = self.transports() else {
            return Vec::new();
        };
        let mut queues = transports.streams.listened_queues();
        queues.extend_from_slice(&transports.own_queues);
        queues
    }

    /// Those of them that not every server can deliver from: streams, and scripts where they are enabled.
    fn local_queues(&self) -> Vec<Id> {
        let mut queues = self.listened_queues();
        queues.retain(|queue| !address::is_served_anywhere(queue));
        queues
    }

    /// Whether somebody listens to the queue.
    pub fn is_listened(&self, queue: &str) -> bool {
        self.transports().is_some_and(|transports| {
            transports.own_queues.iter().any(|own| **own == *queue)
                || transports.streams.is_listened(queue)
        })
    }

    /// Sends messages whose changes are committed, or holds them while paused.
    pub fn emit(self: &Arc<Self>, messages: Vec<Message>, now: Millis) {
        let mut bodies = Bodies::default();
        for message in messages {
            if self.hold_while_paused(&message) {
                continue;
            }
            match message {
                Message::Execute { offer_at, .. } if offer_at > now => {
                    self.hold_back(message, offer_at);
                }
                message => self.dispatch(&message, &mut bodies),
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
    fn send(self: &Arc<Self>, message: &Message, source: Source, bodies: &mut Bodies) -> bool {
        let Some(transports) = self.transports() else {
            return false;
        };
        let Some(address) = Address::parse(message.address(), &self.settings.address_rules) else {
            tracing::warn!("a stored address is no longer valid; its message is dropped");
            return false;
        };
        let transport = transports.table.of(&address);
        let (scheme, queue) = (address.scheme(), address.queue());
        let delivery = Delivery::begin(&self.settings.tracer, message, scheme);
        let trace = delivery.trace().cloned();
        let mut is_stale = None;
        let (kind, body, subject) = match message {
            Message::Execute {
                id,
                version,
                retry_at,
                ..
            } => {
                let offer = Offer {
                    version: *version,
                    queue: queue.clone(),
                    retry_at: *retry_at,
                };
                let mut state = self.lock();
                let is_again = state.offers.is_offered(id, *version);
                is_stale = state.offers.note(id, offer, source);
                drop(state);
                if is_stale.is_none() {
                    return true;
                }
                if is_again {
                    METRICS.delivery_retried(scheme);
                }
                let url = &self.settings.server_url;
                let body = message::execute(url, id, *version, trace.as_deref());
                (
                    "execute",
                    Bytes::from(body),
                    Subject::Execute(id.clone(), *version),
                )
            }
            Message::Unblock {
                promise, address, ..
            } => {
                let key = (promise.id.clone(), address.clone());
                let mut state = self.lock();
                let is_early = source == Source::Pump && state.backing_off.contains(&key);
                if is_early || !state.in_flight.insert(key.clone()) {
                    return true;
                }
                if state.backing_off.remove(&key) {
                    METRICS.delivery_retried(scheme);
                }
                state.refused.remove(&key);
                drop(state);
                (
                    "unblock",
                    bodies.unblock(promise, trace.as_deref()),
                    Subject::Unblock(key),
                )
            }
        };
        METRICS.message(kind);
        let is_refused = Arc::new(AtomicBool::new(false));
        let mut receipt = self.receipt(subject, delivery, is_refused.clone());
        if let Some(is_stale) = is_stale {
            receipt = receipt.unless(is_stale);
        }
        match transport {
            Some(transport) => {
                transport.send(Outgoing {
                    address,
                    body,
                    trace,
                    receipt,
                });
            }
            None => {
                self.warn_disabled(&address);
                receipt.report(Outcome::Disabled);
            }
        }
        let is_refused = is_refused.load(Ordering::Relaxed);
        let has_room =
            || transports.streams.is_listened(&queue) && !transports.streams.is_full(&queue);
        if is_refused && source == Source::Dispatch && has_room() {
            // There was none when it came. Whoever has some by now was told so too early.
            self.pump([queue], Start::Reached);
        }
        !is_refused
    }

    /// Books the outcome: of an `execute` there is nothing to book, its task's retry stands behind it.
    fn receipt(
        self: &Arc<Self>,
        subject: Subject,
        delivery: Delivery,
        is_refused: Arc<AtomicBool>,
    ) -> Receipt {
        let outbox = self.clone();
        let transport = delivery.scheme;
        Receipt::new(move |outcome| {
            delivery.end(outcome);
            let status = match outcome {
                Outcome::Delivered | Outcome::Written(_) => "success",
                Outcome::Failed => "error",
                Outcome::Nobody | Outcome::Disabled => "dropped",
            };
            METRICS.deliveries(status, 1);
            if outcome == Outcome::Failed {
                METRICS.delivery_failed(transport);
            }
            if outcome == Outcome::Nobody {
                is_refused.store(true, Ordering::Relaxed);
            }
            match (subject, outcome) {
                // What failed is offered by its retry, not as soon as there is room again.
                (Subject::Execute(..), Outcome::Delivered | Outcome::Failed) => {}
                (Subject::Execute(id, version), Outcome::Written(stream)) => {
                    outbox.lock().offers.written(&id, version, stream);
                }
                (Subject::Execute(id, version), Outcome::Nobody | Outcome::Disabled) => {
                    outbox.lock().miss(&id, version);
                }
                (
                    Subject::Unblock((promise, address)),
                    Outcome::Delivered | Outcome::Written(_),
                ) => {
                    outbox.finish(Step::UnblockDone { promise, address });
                }
                (Subject::Unblock((promise, address)), Outcome::Failed | Outcome::Disabled) => {
                    outbox.back_off((promise.clone(), address.clone()));
                    outbox.finish(Step::UnblockFailed { promise, address });
                }
                (Subject::Unblock(key), Outcome::Nobody) => {
                    let mut state = outbox.lock();
                    state.in_flight.remove(&key);
                    remember(&mut state.refused, key);
                }
            }
        })
    }

    fn back_off(&self, key: (Id, Id)) {
        remember(&mut self.lock().backing_off, key);
    }

    fn finish(&self, step: Step) {
        self.lock().finished.push_back(step);
        self.has_finished.notify_one();
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
            self.pump_soon(self.listened_queues());
        }
    }

    /// `execute` messages held while paused.
    pub fn held(&self) -> Vec<Message> {
        self.lock().held.values().cloned().collect()
    }

    /// Takes note of tasks that are no longer pending at the version offered, or to be offered.
    pub fn committed(&self, changes: &Changes) {
        let mut state = self.lock();
        state.offers.committed(changes);
        if state.held_back.is_empty() {
            return;
        }
        for change in &changes.objects {
            let task = change.before.as_ref().and_then(|o| o.task.as_ref());
            let Some((task, offer_at)) = task.and_then(|task| Some((task, task.offer_at?))) else {
                continue;
            };
            let is_same = change.after.task.as_ref().is_some_and(|after| {
                (after.state, after.version, after.offer_at)
                    == (task.state, task.version, task.offer_at)
            });
            if !is_same {
                let id = change.after.promise.id.clone();
                state.held_back.remove(&(offer_at, id));
            }
        }
    }

    /// Forgets everything held (`debug.reset`).
    pub fn reset(&self) {
        let mut state = self.lock();
        state.held.clear();
        state.held_back.clear();
        state.offers.clear();
        state.backing_off.clear();
        state.refused.clear();
        state.backlog.retain(|_| false);
    }

    /// Has everything that waits in these queues offered.
    pub fn pump_soon(&self, queues: impl IntoIterator<Item = Id>) {
        self.pump(queues, Start::First);
    }

    fn pump(&self, queues: impl IntoIterator<Item = Id>, from: Start) {
        let mut state = self.lock();
        for queue in queues {
            state.backlog.add(&queue, from);
        }
        drop(state);
        self.to_pump.notify_one();
    }

    /// Runs the bookkeeping until the task is dropped.
    pub async fn run(self: &Arc<Self>, engine: &Arc<Engine>) {
        // An earlier run may have ended in the middle of a pump; before the first, pushes and publishes
        // wait.
        self.lock().backlog.clear();
        self.page_done();
        // The pushes and publishes of other servers are under way. Those that one left behind are offered
        // when they are due again.
        self.pump_soon(match self.settings.cluster {
            None => self.listened_queues(),
            Some(_) => self.local_queues(),
        });
        tokio::join!(
            self.book_finished(engine),
            self.send_held_back(engine),
            self.pump_queues(engine),
            self.give_up_stale(engine),
            self.watch_targets(engine),
        );
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl State {
    /// Nobody has this task any more, or yet.
    fn miss(&mut self, id: &Id, version: i64) {
        if let Some(offer) = self.offers.forget(id, version) {
            self.backlog.missed(&offer.queue, id, offer.retry_at);
        }
    }
}

/// The body of the `unblock` made last. All listeners of a promise are told the same, one after the other;
/// with a copy for each, a large value and many listeners would fill the memory.
#[derive(Default)]
struct Bodies(Option<(Id, Bytes)>);

impl Bodies {
    fn unblock(&mut self, promise: &Promise, trace: Option<&Trace>) -> Bytes {
        match &self.0 {
            Some((id, body)) if *id == promise.id => body.clone(),
            _ => {
                let body = Bytes::from(message::unblock(promise, trace));
                self.0 = Some((promise.id.clone(), body.clone()));
                body
            }
        }
    }
}

/// What a receipt is about.
enum Subject {
    /// A task at a version.
    Execute(Id, i64),
    /// A promise and a listener.
    Unblock((Id, Id)),
}

/// What the transports tell: streams that opened or have room again.
pub struct Observer(pub std::sync::Weak<Outbox>);

impl poll::Observer for Observer {
    fn opened(&self, queues: poll::Queues) {
        if let Some(outbox) = self.0.upgrade() {
            outbox.announce(&queues);
            outbox.pump(queues, Start::Reached);
        }
    }

    fn closed(&self, queues: poll::Queues, stream: StreamId) {
        if let Some(outbox) = self.0.upgrade() {
            outbox.announce(&queues);
            outbox.hand_over(&queues, stream);
        }
    }

    fn room(&self, queues: poll::Queues) {
        if let Some(outbox) = self.0.upgrade() {
            outbox.pump(queues, Start::Reached);
        }
    }
}

/// Adds to what is only a memory.
fn remember(keys: &mut HashSet<(Id, Id)>, key: (Id, Id)) {
    if keys.len() >= REMEMBERED_MAX {
        keys.clear();
    }
    keys.insert(key);
}

impl Observer {
    /// Tells that a queue of messages that do not wait for streams had refused some, and has room again.
    pub fn room(&self, queue: Id) -> Room {
        let outbox = self.0.clone();
        Box::new(move || {
            if let Some(outbox) = outbox.upgrade() {
                outbox.pump([queue.clone()], Start::Reached);
            }
        })
    }
}
