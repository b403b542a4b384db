//! The servers that share a database: who is there, who listens to which queues, and who does what.
//!
//! ```text
//!   every second:                               Here ──────────> all    who I am
//!   when streams come or go:                    Changed ───────> all    what I listen to now, or no longer
//!   asked by whoever missed one of these:       Listening ─────> all    everything that I listen to
//!   a message for a stream of another node:     Offer ─────────> it     the message, in short
//!   a message for which nobody is known:        Wake ──────────> all    something waits in these queues
//!   stop:                                       Gone ──────────> all
//! ```
//!
//! There is no leader and nothing to agree on: every decision is taken in the database. What is known
//! here only saves work and time. If it is wrong, a message is offered twice, or a timer fires on
//! two nodes and finds on one of them that it is not due.
//!
//! What is said may be lost. So whoever missed something, or sees that another has gone silent, offers
//! everything that waits in its queues anew; and as long as a node hears nothing at all, it does so
//! every `messages.poll_interval`.

use std::collections::{BTreeMap, BTreeSet, HashSet, VecDeque};
use std::hash::{DefaultHasher, Hash, Hasher};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use async_trait::async_trait;
use tokio::sync::Notify;
use tokio::time::{Instant, sleep, sleep_until, timeout_at};

use crate::engine::clock::Clock;
use crate::protocol::record::{Id, Millis};
use crate::store::bus::Bus;
use crate::store::{DeadlineKey, Store};

mod note;
#[cfg(test)]
mod tests;

use note::Note;
pub use note::{NodeId, Parcel};

/// How often a node says that it is there.
const HERE_INTERVAL: Duration = Duration::from_secs(1);
/// How long a node may be silent before it counts as gone.
const SILENCE_MAX: Duration = Duration::from_millis(3500);
/// Least time between two announcements of what a node listens to, or between two wakes.
const ANNOUNCE_PAUSE: Duration = Duration::from_millis(100);
const WAKE_PAUSE: Duration = Duration::from_millis(20);
/// Pause before the database is tried again.
const FAILURE_PAUSE: Duration = Duration::from_millis(100);
/// Parcels not yet sent; beyond it their queues are woken instead.
const PARCELS_MAX: usize = 10_000;
/// Queues to be woken; beyond it all are.
const WAKES_MAX: usize = 1000;

/// What a node does with what it hears.
#[async_trait]
pub trait Inbox: Send + Sync {
    /// The queues that somebody listens to on this node.
    fn listened(&self) -> Vec<Id>;

    /// Whether a queue is one of them.
    fn is_listened(&self, queue: &str) -> bool;

    /// Something may wait in these queues; only those listened to matter.
    fn woken(&self, queues: &[Id]);

    /// Messages for streams of this node.
    async fn delivered(&self, parcels: Vec<Parcel>);
}

/// See the module documentation.
pub struct Cluster {
    me: NodeId,
    bus: Arc<dyn Bus>,
    /// How often everything is offered anew while nothing is heard.
    repair_interval: Duration,
    state: Mutex<State>,
    /// Something is to be sent.
    to_send: Notify,
    /// Streams have come or gone.
    changed: Notify,
}

#[derive(Default)]
struct State {
    peers: BTreeMap<NodeId, Peer>,
    parcels: Vec<(NodeId, Parcel)>,
    wakes: BTreeSet<Id>,
    notes: VecDeque<Note>,
    /// Bumped by every announcement of what this node listens to.
    edition: u64,
    /// Queues whose streams have come or gone since.
    changed: BTreeSet<Id>,
    /// Somebody does not know what this node listens to.
    is_asked: bool,
}

struct Peer {
    heard_at: Instant,
    /// Which announcement `queues` is, and how much of it is still to come.
    edition: u64,
    parts: u32,
    queues: HashSet<Id>,
}

impl Cluster {
    /// A node that nobody knows of yet.
    pub fn new(bus: Arc<dyn Bus>, repair_interval: Duration) -> Arc<Self> {
        Arc::new(Cluster {
            me: NodeId::random(),
            bus,
            repair_interval,
            state: Mutex::default(),
            to_send: Notify::new(),
            changed: Notify::new(),
        })
    }

    /// Another node that listens to a queue; one of them at random.
    pub fn listener(&self, queue: &str) -> Option<NodeId> {
        let state = self.lock();
        let listening = state.peers.iter().filter(|(_, p)| p.queues.contains(queue));
        let listening: Vec<NodeId> = listening.map(|(node, _)| *node).collect();
        fastrand::choice(listening)
    }

    /// Sends a message to a node that listens to its queue.
    pub fn offer(&self, node: NodeId, parcel: Parcel) {
        let mut state = self.lock();
        if state.parcels.len() < PARCELS_MAX {
            state.parcels.push((node, parcel));
        } else {
            state.add_wakes(parcel.queue());
        }
        drop(state);
        self.to_send.notify_one();
    }

    /// Has whoever listens to these queues offer what waits in them.
    pub fn wake(&self, queues: impl IntoIterator<Item = Id>) {
        self.lock().add_wakes(queues);
        self.to_send.notify_one();
    }

    /// Streams of these queues have come or gone: others are told.
    pub fn announce(&self, queues: &[Id]) {
        self.lock().changed.extend(queues.iter().cloned());
        self.changed.notify_one();
    }

    /// Others are told everything that this node listens to.
    fn announce_all(&self) {
        self.lock().is_asked = true;
        self.changed.notify_one();
    }

    /// Whether a deadline found in the store is this node's to fire. Every node that is there reckons the
    /// same; while they disagree about who is, some fire on two nodes or, a little late, on another.
    pub fn is_mine(&self, key: &DeadlineKey) -> bool {
        let state = self.lock();
        let mine = weight(self.me, key);
        let mut others = state.peers.keys().map(|node| weight(*node, key));
        others.all(|other| other < mine)
    }

    /// Talks and listens until the task is dropped.
    pub async fn run(&self, inbox: &dyn Inbox, store: &dyn Store, clock: &Clock) {
        tokio::join!(
            self.hear(inbox, clock),
            self.speak(clock),
            self.say_what_is_listened_to(inbox),
            self.say_here(inbox),
            follow_clock(store, clock),
        );
    }

    /// Tells the others that this node is about to stop, as far as that is possible.
    pub async fn leave(&self) {
        let gone = Note::Gone { node: self.me };
        // They notice anyhow.
        let deadline = Instant::now() + FAILURE_PAUSE;
        let _ = timeout_at(deadline, self.bus.publish(&note::texts([gone]))).await;
    }

    async fn hear(&self, inbox: &dyn Inbox, clock: &Clock) {
        let mut is_deaf = false;
        loop {
            match self.bus.subscribe().await {
                Ok(mut subscription) => {
                    if is_deaf {
                        tracing::warn!("hearing of the other servers again");
                    }
                    is_deaf = false;
                    // What was said meanwhile was missed.
                    inbox.woken(&inbox.listened());
                    self.announce_all();
                    loop {
                        let silence = Instant::now() + SILENCE_MAX;
                        let heard = timeout_at(silence, subscription.next()).await;
                        match heard {
                            Ok(Ok(text)) => self.take_in(&text, inbox, clock).await,
                            Ok(Err(error)) => {
                                tracing::warn!(%error, "lost touch with the other servers");
                                break;
                            }
                            // Not even oneself.
                            Err(_) => {
                                tracing::warn!("heard nothing, not even oneself; listening anew");
                                break;
                            }
                        }
                    }
                }
                Err(error) => {
                    if !is_deaf {
                        tracing::error!(
                            %error,
                            "cannot hear of the other servers; looking for messages instead"
                        );
                    }
                    is_deaf = true;
                    inbox.woken(&inbox.listened());
                    sleep(self.repair_interval).await;
                }
            }
        }
    }

    async fn take_in(&self, text: &str, inbox: &dyn Inbox, clock: &Clock) {
        let note: Note = match serde_json::from_str(text) {
            Ok(note) => note,
            Err(error) => {
                // A newer server may have more to say.
                tracing::debug!(%error, "not understood");
                return;
            }
        };
        match note {
            Note::Here { node, edition } if node != self.me => self.note_here(node, edition),
            Note::Listening {
                node,
                edition,
                part,
                parts,
                queues,
            } if node != self.me => self.note_listening(node, edition, part, parts, queues),
            Note::Changed {
                node,
                edition,
                opened,
                closed,
            } if node != self.me => self.note_changed(node, edition, opened, &closed),
            Note::Again { node } if node == self.me => self.announce_all(),
            Note::Gone { node } if self.forget(node) => inbox.woken(&inbox.listened()),
            Note::Wake { node, queues, at } if node != self.me => {
                // Else what was stored a moment ago would not be due here yet.
                clock.catch_up(at);
                if queues.is_empty() {
                    inbox.woken(&inbox.listened());
                } else {
                    inbox.woken(&queues);
                }
            }
            Note::Offer { to, parcels } if to == self.me => inbox.delivered(parcels).await,
            _ => {}
        }
    }

    fn note_here(&self, node: NodeId, edition: u64) {
        let mut state = self.lock();
        let now = Instant::now();
        let peer = state.peers.entry(node).or_insert_with(|| Peer::new(now));
        peer.heard_at = now;
        if peer.edition != edition || peer.parts > 0 {
            state.notes.push_back(Note::Again { node });
            drop(state);
            self.to_send.notify_one();
        }
    }

    fn note_listening(&self, node: NodeId, edition: u64, part: u32, parts: u32, queues: Vec<Id>) {
        let mut state = self.lock();
        let now = Instant::now();
        let peer = state.peers.entry(node).or_insert_with(|| Peer::new(now));
        peer.heard_at = now;
        if part == 0 {
            peer.edition = edition;
            peer.parts = parts;
            peer.queues.clear();
        }
        if peer.edition == edition {
            peer.parts = peer.parts.saturating_sub(1);
            peer.queues.extend(queues);
        }
    }

    fn note_changed(&self, node: NodeId, edition: u64, opened: Vec<Id>, closed: &[Id]) {
        let mut state = self.lock();
        let now = Instant::now();
        let peer = state.peers.entry(node).or_insert_with(|| Peer::new(now));
        peer.heard_at = now;
        // One that was missed is noticed at the next sign of life.
        if peer.parts == 0 && peer.edition.checked_add(1) == Some(edition) {
            peer.edition = edition;
            peer.queues.extend(opened);
            for queue in closed {
                peer.queues.remove(queue);
            }
        }
    }

    async fn speak(&self, clock: &Clock) {
        let mut next_wake = Instant::now();
        loop {
            let next = {
                let state = self.lock();
                if !state.parcels.is_empty() || !state.notes.is_empty() {
                    Some(Instant::now())
                } else {
                    // Wakes can wait for each other: they are many when nobody listens.
                    (!state.wakes.is_empty()).then_some(next_wake)
                }
            };
            match next {
                None => {
                    self.to_send.notified().await;
                    continue;
                }
                Some(at) if at > Instant::now() => {
                    tokio::select! {
                        biased;
                        () = sleep_until(at) => {}
                        () = self.to_send.notified() => {}
                    }
                    continue;
                }
                Some(_) => {}
            }
            let (notes, parcels) = self.take_unsent(Instant::now() >= next_wake, clock.now());
            if notes.iter().any(|note| matches!(note, Note::Wake { .. })) {
                next_wake = Instant::now() + WAKE_PAUSE;
            }
            let unsent = parcels.iter().filter_map(|(_, parcel)| parcel.queue());
            let unsent: Vec<Id> = unsent.chain(woken(&notes)).collect();
            let texts = note::texts(notes.into_iter().chain(note::offers(&parcels)));
            if let Err(error) = self.bus.publish(&texts).await {
                tracing::debug!(%error, "the other servers were not told");
                // Whoever listens by then finds what waits.
                self.lock().add_wakes(unsent);
                sleep(FAILURE_PAUSE).await;
            }
        }
    }

    fn take_unsent(&self, with_wakes: bool, at: Millis) -> (Vec<Note>, Vec<(NodeId, Parcel)>) {
        let mut state = self.lock();
        let mut notes: Vec<Note> = state.notes.drain(..).collect();
        if with_wakes && !state.wakes.is_empty() {
            let queues: Vec<Id> = std::mem::take(&mut state.wakes).into_iter().collect();
            // Too many to name: whatever waits.
            let queues = if queues.len() > WAKES_MAX {
                Vec::new()
            } else {
                queues
            };
            notes.push(Note::Wake {
                node: self.me,
                queues,
                at,
            });
        }
        (notes, state.parcels.drain(..).collect())
    }

    /// Tells the others what is listened to here, whenever that changes: only what has, unless somebody asks
    /// for all.
    async fn say_what_is_listened_to(&self, inbox: &dyn Inbox) {
        let mut announced = HashSet::new();
        loop {
            self.changed.notified().await;
            let (changed, is_asked) = {
                let mut state = self.lock();
                let changed = std::mem::take(&mut state.changed);
                (changed, std::mem::take(&mut state.is_asked))
            };
            if is_asked {
                let queues = inbox.listened();
                let mut state = self.lock();
                state.edition += 1;
                let notes = note::listening(self.me, state.edition, &queues);
                // Announcements that have not left yet are overtaken by this one.
                state.notes.retain(|note| !note.is_announcement());
                state.notes.extend(notes);
                announced = queues.into_iter().collect();
            } else {
                let (now, gone): (Vec<Id>, Vec<Id>) =
                    changed.into_iter().partition(|q| inbox.is_listened(q));
                let new = |queue: &Id| announced.insert(queue.clone());
                let opened: Vec<Id> = now.into_iter().filter(new).collect();
                let old = |queue: &Id| announced.remove(queue);
                let closed: Vec<Id> = gone.into_iter().filter(old).collect();
                let mut state = self.lock();
                let notes = note::changed(self.me, state.edition, opened, closed);
                state.edition += u64::try_from(notes.len()).unwrap_or(0);
                state.notes.extend(notes);
            }
            self.to_send.notify_one();
            sleep(ANNOUNCE_PAUSE).await;
        }
    }

    async fn say_here(&self, inbox: &dyn Inbox) {
        loop {
            {
                let mut state = self.lock();
                let here = Note::Here {
                    node: self.me,
                    edition: state.edition,
                };
                state
                    .notes
                    .retain(|note| !matches!(note, Note::Here { .. }));
                state.notes.push_back(here);
            }
            self.to_send.notify_one();
            sleep(HERE_INTERVAL).await;
            if self.forget_silent() {
                inbox.woken(&inbox.listened());
            }
        }
    }

    /// Answers whether it was known.
    fn forget(&self, node: NodeId) -> bool {
        self.forget_if(|other, _| other == node)
    }

    /// Answers whether there were any.
    fn forget_silent(&self) -> bool {
        self.forget_if(|_, peer| peer.heard_at.elapsed() >= SILENCE_MAX)
    }

    /// Has others look for what this node may have told those it forgets in vain: they may have looked too early, or
    /// not have known of them. Answers whether there were any.
    fn forget_if(&self, is_gone: impl Fn(NodeId, &Peer) -> bool) -> bool {
        let mut state = self.lock();
        let gone = state
            .peers
            .extract_if(.., |node, peer| is_gone(*node, peer));
        let gone: Vec<Peer> = gone.map(|(_, peer)| peer).collect();
        let queues = gone.iter().flat_map(|peer| &peer.queues);
        let left: HashSet<&Id> = state.peers.values().flat_map(|peer| &peer.queues).collect();
        let shared: Vec<Id> = queues
            .filter(|queue| left.contains(queue))
            .cloned()
            .collect();
        state.add_wakes(shared);
        drop(state);
        self.to_send.notify_one();
        !gone.is_empty()
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl State {
    fn add_wakes(&mut self, queues: impl IntoIterator<Item = Id>) {
        for queue in queues {
            if self.wakes.len() <= WAKES_MAX {
                self.wakes.insert(queue);
            }
        }
    }
}

fn woken(notes: &[Note]) -> impl Iterator<Item = Id> {
    notes.iter().flat_map(|note| match note {
        Note::Wake { queues, .. } => queues.clone(),
        _ => Vec::new(),
    })
}

impl Peer {
    fn new(now: Instant) -> Self {
        Peer {
            heard_at: now,
            edition: 0,
            parts: 0,
            queues: HashSet::new(),
        }
    }
}

/// Who has the greatest weight for a key has it.
fn weight(node: NodeId, key: &DeadlineKey) -> (u64, NodeId) {
    let mut hasher = DefaultHasher::new();
    (node, key).hash(&mut hasher);
    (hasher.finish(), node)
}

/// All servers of a database go by its clock.
async fn follow_clock(store: &dyn Store, clock: &Clock) {
    loop {
        sleep(HERE_INTERVAL).await;
        let asked_at = Instant::now();
        match store.now().await {
            Ok(Some(now)) => clock.follow(now, asked_at.elapsed()),
            Ok(None) => {}
            // Until it is back, time passes as it did.
            Err(error) => tracing::debug!(%error, "the database does not tell the time"),
        }
    }
}
