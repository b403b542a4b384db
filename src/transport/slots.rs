//! How many deliveries of a transport run at once, and how many more wait.
//!
//! Owns the limit and the queue behind it. A message that finds the queue full is handed back at once:
//! the database is the buffer.
//!
//! ```text
//!   send -> running (concurrency) -> whatever the delivery says
//!        -> waiting (concurrency) -> running when a delivery ends
//!        -> nobody  (both full; whoever asked hears of room once half of the queue is free)
//! ```

use std::collections::VecDeque;
use std::future::Future;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use tokio::runtime::Handle;
use tokio::sync::watch;

use super::{Outcome, Outgoing, Room};

/// What is done with a message that has its turn.
pub trait Deliver: Send + Sync + 'static {
    /// Delivers a message and says what became of it. Dropped when the transport closes first.
    fn deliver(&self, message: Outgoing) -> impl Future<Output = ()> + Send;
}

/// See the module documentation. Cheap to clone.
pub struct Slots<D> {
    shared: Arc<Shared<D>>,
}

struct Shared<D> {
    deliver: D,
    concurrency: usize,
    /// Tells that messages that were handed back are worth offering again.
    room: Room,
    runtime: Handle,
    state: Mutex<State>,
    /// Every running task holds a receiver; a value tells them to stop.
    abort: watch::Sender<()>,
}

#[derive(Default)]
struct State {
    running: usize,
    waiting: VecDeque<Outgoing>,
    has_refused: bool,
    is_closed: bool,
}

impl<D: Deliver> Slots<D> {
    /// At most `concurrency` deliveries at once, on the tokio runtime of the caller. `room` is called
    /// without a lock held, from the task of a delivery, and must not block.
    pub fn new(deliver: D, concurrency: usize, room: Room) -> Self {
        Slots {
            shared: Arc::new(Shared {
                deliver,
                concurrency: concurrency.max(1),
                room,
                runtime: Handle::current(),
                state: Mutex::default(),
                abort: watch::Sender::new(()),
            }),
        }
    }

    /// What delivers.
    pub fn deliver(&self) -> &D {
        &self.shared.deliver
    }

    /// Takes a message on, or hands it back at once.
    pub fn send(&self, message: Outgoing) {
        match self.shared.admit(message) {
            Admitted::Now(slot, message) => {
                self.shared.runtime.spawn(slot.run(message));
            }
            Admitted::Waiting => {}
            Admitted::Refused(message) => message.receipt.report(Outcome::Nobody),
        }
    }

    /// Hands back what waits and takes on no more. Running deliveries may finish within the time given,
    /// then they are aborted; their receipts say that nobody was there, so they stay due.
    pub async fn close(&self, within: Duration) {
        let waiting = {
            let mut state = self.shared.lock();
            state.is_closed = true;
            std::mem::take(&mut state.waiting)
        };
        drop(waiting);
        let abort = &self.shared.abort;
        if tokio::time::timeout(within, abort.closed()).await.is_err() {
            abort.send_replace(());
            abort.closed().await;
        }
    }

    /// How many deliveries run.
    #[cfg(test)]
    pub fn running(&self) -> usize {
        self.shared.lock().running
    }
}

impl<D> Clone for Slots<D> {
    fn clone(&self) -> Self {
        Slots {
            shared: Arc::clone(&self.shared),
        }
    }
}

enum Admitted<D> {
    Now(Slot<D>, Outgoing),
    Waiting,
    Refused(Outgoing),
}

impl<D> Shared<D> {
    fn admit(self: &Arc<Self>, message: Outgoing) -> Admitted<D> {
        let mut state = self.lock();
        if state.is_closed {
            Admitted::Refused(message)
        } else if state.running < self.concurrency {
            state.running += 1;
            // Subscribed under the lock, so that a close that follows waits for it.
            let slot = Slot {
                shared: Arc::clone(self),
                aborted: self.abort.subscribe(),
                is_freed: false,
            };
            Admitted::Now(slot, message)
        } else if state.waiting.len() < self.concurrency {
            state.waiting.push_back(message);
            Admitted::Waiting
        } else {
            state.has_refused = true;
            Admitted::Refused(message)
        }
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// One of the deliveries that run: a task that works through what waits until nothing does.
struct Slot<D> {
    shared: Arc<Shared<D>>,
    aborted: watch::Receiver<()>,
    is_freed: bool,
}

impl<D: Deliver> Slot<D> {
    async fn run(mut self, first: Outgoing) {
        let mut next = Some(first);
        while let Some(message) = next {
            // It may have waited for long.
            if !message.receipt.is_stale() {
                let delivery = self.shared.deliver.deliver(message);
                tokio::select! {
                    biased;
                    () = delivery => {}
                    _ = self.aborted.changed() => return,
                }
            }
            next = self.next();
        }
    }

    /// The next message that waits; without one the slot is free.
    fn next(&mut self) -> Option<Outgoing> {
        let (next, has_room) = {
            let mut state = self.shared.lock();
            let next = state.waiting.pop_front();
            if next.is_none() {
                // Together with the look at the queue: a message queued in between would wait for a
                // delivery that never ends.
                state.running -= 1;
                self.is_freed = true;
            }
            let has_room = state.has_refused && state.waiting.len() <= self.shared.concurrency / 2;
            if has_room {
                state.has_refused = false;
            }
            (next, has_room)
        };
        if has_room {
            (self.shared.room)();
        }
        next
    }
}

impl<D> Drop for Slot<D> {
    fn drop(&mut self) {
        if !self.is_freed {
            self.shared.lock().running -= 1;
        }
    }
}
