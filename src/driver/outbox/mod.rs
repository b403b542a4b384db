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
use crate::store::Changes;
use crate::telemetry::metrics::METRICS;
use crate::transport::bash_exec::BashExec;
use crate::transport::gcps::Gcps;
use crate::transport::http_push::HttpPush;
use crate::transport::poll::{self, Hub};
use crate::transport::{Outcome, Outgoing, Receipt, Transport};

mod background;
mod backlog;
mod offers;
mod peers;

use backlog::Backlog;
use offers::{Offers, Source};
pub use peers::Ear;

/// Messages held back until their instant; beyond it the task's retry timer sends them.
const HELD_BACK_MAX: usize = 100_000;
/// Failed messages remembered; beyond it all are forgotten.
const BACKING_OFF_MAX: usize = 100_000;

/// The ways out. A new transport is a file in `transport/` and a line in `Transports::of`.
pub struct Transports {
    /// `http://`, `https://`.
    pub http_push: HttpPush,
    /// `poll://`.
    pub poll: Hub,
    /// `gcps://`.
    pub gcps: Gcps,
    /// `bash://`, unless disabled.
    pub bash_exec: Option<BashExec>,
}

impl Transports {
    fn of(&self, address: &Address) -> Option<&dyn Transport> {
        match address {
            Address::Http { .. } => Some(&self.http_push),
            Address::Poll(_) => Some(&self.poll),
            Address::Gcps { .. } => Some(&self.gcps),
            Address::Bash(_) => self.bash_exec.as_ref().map(|bash| bash as &dyn Transport),
        }
    }
}

/// How the outbox is set up.
#[derive(Clone)]
pub struct Settings {
    /// `server.url`, which `execute` messages carry.
    pub server_url: String,
    /// The address grammar.
    pub address_rules: Rules,
    /// The queues of enabled transports that a server delivers from by itself, whoever is connected: of
    /// pushes, of publishes ([`address::is_served_anywhere`]), of scripts.
    pub own_queues: Vec<Id>,
    /// `messages.poll_interval`.
    pub sweep_interval: Duration,
    /// `messages.batch_size`.
    pub sweep_max: usize,
    /// The other servers of the database, if there can be any.
    pub cluster: Option<Arc<Cluster>>,
    /// `messages.unblock_ttl`: age at which an undelivered `unblock` is given up.
    pub unblock_ttl_ms: Millis,
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
    /// Bookkeeping steps of finished deliveries, until they are committed; all are in flight.
    finished: VecDeque<Step>,
    /// `unblock` messages that failed: they wait for their retry, no pump offers them. Only a memory:
    /// what is forgotten is offered early.
    backing_off: HashSet<(Id, Id)>,
    /// `execute` messages that a stream was given.
    offers: Offers,
    /// By instant and task: offers of tasks that are released over and over.
    held_back: BTreeMap<(Millis, Id), Message>,
    /// Queues whose waiting messages are to be offered.
    backlog: Backlog,
    /// Schemes whose messages were dropped, to say so once.
    dropped_schemes: HashSet<&'static str>,
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
    pub fn listened_queues(&self) -> Arc<[Id]> {
        self.queues(|_| true)
    }

    /// Those of them that not every server can deliver from: streams, and scripts where they are enabled.
    fn local_queues(&self) -> Arc<[Id]> {
        self.queues(|own| !address::is_served_anywhere(own))
    }

    /// The queues of streams, and some of the server's own.
    fn queues(&self, is_wanted: impl Fn(&str) -> bool) -> Arc<[Id]> {
        let Some(transports) = self.transports() else {
            return Arc::from([]);
        };
        let polled = transports.poll.listened_queues();
        let own = &self.settings.own_queues;
        let own = own.iter().filter(|own| is_wanted(own));
        polled.iter().chain(own).cloned().collect()
    }

    /// Whether somebody listens to the queue.
    pub fn is_listened(&self, queue: &str) -> bool {
        self.settings.own_queues.iter().any(|own| **own == *queue)
            || self
                .transports()
                .is_some_and(|transports| transports.poll.is_listened(queue))
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
        let address = match message {
            Message::Execute { address, .. } | Message::Unblock { address, .. } => address,
        };
        let Some(address) = Address::parse(address, &self.settings.address_rules) else {
            tracing::warn!("a stored address is no longer valid; its message is dropped");
            return false;
        };
        let transport = transports.of(&address);
        let scheme = scheme_of(&address);
        let (kind, body, subject) = match message {
            Message::Execute { id, version, .. } => {
                let queue = address.queue();
                if !self.lock().offers.note(id, *version, queue, source) {
                    return true;
                }
                let body = message::execute(&self.settings.server_url, id, *version);
                (
                    "execute",
                    Bytes::from(body),
                    Subject::Execute(id.clone(), *version),
                )
            }
            Message::Unblock { promise, address } => {
                let key = (promise.id.clone(), address.clone());
                let mut state = self.lock();
                let is_early = source == Source::Pump && state.backing_off.contains(&key);
                if is_early || !state.in_flight.insert(key.clone()) {
                    return true;
                }
                state.backing_off.remove(&key);
                drop(state);
                ("unblock", bodies.unblock(promise), Subject::Unblock(key))
            }
        };
        METRICS.message(kind);
        let is_refused = Arc::new(AtomicBool::new(false));
        let receipt = self.receipt(subject, scheme, is_refused.clone());
        match transport {
            Some(transport) => {
                transport.send(Outgoing {
                    address,
                    body,
                    receipt,
                });
            }
            None => receipt.report(Outcome::Disabled),
        }
        !is_refused.load(Ordering::Relaxed)
    }

    /// Books the outcome: of an `execute` there is nothing to book, its task's retry stands behind it.
    fn receipt(
        self: &Arc<Self>,
        subject: Subject,
        scheme: &'static str,
        is_refused: Arc<AtomicBool>,
    ) -> Receipt {
        let outbox = self.clone();
        Receipt::new(move |outcome| {
            let status = match outcome {
                Outcome::Delivered => "success",
                Outcome::Failed => "error",
                Outcome::Nobody | Outcome::Disabled => "dropped",
            };
            METRICS.deliveries(status, 1);
            match outcome {
                Outcome::Nobody => is_refused.store(true, Ordering::Relaxed),
                Outcome::Disabled => outbox.warn_dropped(scheme),
                Outcome::Delivered | Outcome::Failed => {}
            }
            match (subject, outcome) {
                // What failed is offered by its retry, not as soon as there is room again.
                (Subject::Execute(..), Outcome::Delivered | Outcome::Failed) => {}
                (Subject::Execute(id, version), _) => outbox.lock().offers.forget(&id, version),
                (Subject::Unblock((promise, address)), Outcome::Delivered) => {
                    outbox.finish(Step::UnblockDone { promise, address });
                }
                (Subject::Unblock((promise, address)), Outcome::Failed | Outcome::Disabled) => {
                    outbox.back_off((promise.clone(), address.clone()));
                    outbox.finish(Step::UnblockFailed { promise, address });
                }
                (Subject::Unblock(key), Outcome::Nobody) => {
                    outbox.lock().in_flight.remove(&key);
                }
            }
        })
    }

    fn back_off(&self, key: (Id, Id)) {
        let mut state = self.lock();
        if state.backing_off.len() >= BACKING_OFF_MAX {
            state.backing_off.clear();
        }
        state.backing_off.insert(key);
    }

    fn finish(&self, step: Step) {
        self.lock().finished.push_back(step);
        self.has_finished.notify_one();
    }

    fn warn_dropped(&self, scheme: &'static str) {
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
        state.backing_off.clear();
    }

    /// Has everything that waits in these queues offered.
    pub fn pump_soon(&self, queues: impl IntoIterator<Item = Id>) {
        let mut state = self.lock();
        for queue in queues {
            state.backlog.add(queue);
        }
        drop(state);
        self.to_pump.notify_one();
    }

    /// Runs the bookkeeping until the task is dropped.
    pub async fn run(self: &Arc<Self>, engine: &Arc<Engine>) {
        // An earlier run may have ended in the middle of a pump; before the first, pushes and publishes
        // wait.
        self.lock().backlog.clear();
        let queues = self.listened_queues();
        // The pushes and publishes of other servers are under way. Those that one left behind are offered
        // when they are due again.
        let is_alone = self.settings.cluster.is_none();
        let queues = queues
            .iter()
            .filter(|queue| is_alone || !address::is_served_anywhere(queue));
        self.pump_soon(queues.cloned());
        tokio::join!(
            self.book_finished(engine),
            self.send_held_back(engine),
            self.pump_queues(engine),
            self.give_up_stale(engine),
        );
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

fn scheme_of(address: &Address) -> &'static str {
    match address {
        Address::Gcps { .. } => "gcps",
        Address::Bash(_) => "bash",
        Address::Http { .. } => "http",
        Address::Poll(_) => "poll",
    }
}

/// The body of the `unblock` made last. All listeners of a promise are told the same, one after the other;
/// with a copy for each, a large value and many listeners would fill the memory.
#[derive(Default)]
struct Bodies(Option<(Id, Bytes)>);

impl Bodies {
    fn unblock(&mut self, promise: &Promise) -> Bytes {
        match &self.0 {
            Some((id, body)) if *id == promise.id => body.clone(),
            _ => {
                let body = Bytes::from(message::unblock(promise));
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
            outbox.pump_soon(queues);
            outbox.announce();
        }
    }

    fn closed(&self, queues: poll::Queues) {
        if let Some(outbox) = self.0.upgrade() {
            outbox.lock().offers.forget_queues(&queues);
            outbox.hand_over(&queues);
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
    fn room_push(&self) {
        if let Some(outbox) = self.0.upgrade() {
            outbox.pump_soon([address::push_queue()]);
        }
    }
}

impl crate::transport::gcps::Observer for Observer {
    fn room_publish(&self) {
        if let Some(outbox) = self.0.upgrade() {
            outbox.pump_soon([address::gcps_queue()]);
        }
    }
}

impl crate::transport::bash_exec::Observer for Observer {
    fn room_bash(&self) {
        if let Some(outbox) = self.0.upgrade() {
            outbox.pump_soon([address::bash_queue()]);
        }
    }
}
