//! Bash exec: a message to `bash://` starts a script on this machine (`transports.md` §6).
//!
//! Owns how many scripts run at once ([`BashExec`]), what a script is ([`script`]), what it may know of
//! the server's environment ([`environment`]), and the processes ([`process`]). What a script is for,
//! and what becomes of its outcome, is the business of whoever takes the orders: a worker like any
//! other, inside the server.
//!
//! ```text
//!   send ─> order  (concurrency; each holds a slot) ─> taken by the worker
//!        ─> waits  (concurrency)                    ─> order when a slot is free
//!        ─> nobody (both full; the observer hears once half of those waiting are gone)
//! ```

use std::collections::VecDeque;
use std::fmt;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use bytes::Bytes;
use tokio::sync::mpsc::{self, UnboundedReceiver, UnboundedSender};

use super::{Outcome, Outgoing, Receipt, Transport};
use crate::protocol::address::{Address, Bash};

pub mod environment;
pub mod process;
pub mod script;
#[cfg(test)]
mod tests;

/// Whom the transport tells that messages it handed back are worth offering again.
///
/// Called without a lock held: it must not block.
pub trait Observer: Send + Sync {
    /// Messages had been refused, and half of those waiting are gone.
    fn room_bash(&self);
}

/// The transport. Cheap to clone.
#[derive(Clone)]
pub struct BashExec {
    shared: Arc<Shared>,
}

struct Shared {
    concurrency: usize,
    observer: Arc<dyn Observer>,
    /// No more orders than slots: bounded all the same.
    orders: UnboundedSender<Order>,
    state: Mutex<State>,
}

#[derive(Default)]
struct State {
    running: usize,
    waiting: VecDeque<Outgoing>,
    has_refused: bool,
    is_closed: bool,
}

/// A message that has a slot: a script to run. Its slot is free when the order is dropped.
#[derive(Debug)]
pub struct Order {
    /// What kind of script.
    pub bash: Bash,
    /// The message.
    pub body: Bytes,
    /// Whom to tell that the order is taken.
    pub receipt: Receipt,
    /// One of the places for running scripts.
    pub slot: Slot,
}

impl BashExec {
    /// Runs at most `concurrency` scripts at once; whoever holds the receiver runs them.
    pub fn new(
        concurrency: usize,
        observer: Arc<dyn Observer>,
    ) -> (BashExec, UnboundedReceiver<Order>) {
        let (orders, taken) = mpsc::unbounded_channel();
        let transport = BashExec {
            shared: Arc::new(Shared {
                concurrency: concurrency.max(1),
                observer,
                orders,
                state: Mutex::default(),
            }),
        };
        (transport, taken)
    }

    /// Hands back what waits and takes on no more.
    pub fn close(&self) {
        let waiting = {
            let mut state = self.shared.lock();
            state.is_closed = true;
            std::mem::take(&mut state.waiting)
        };
        drop(waiting);
    }
}

impl Transport for BashExec {
    fn send(&self, message: Outgoing) {
        let mut state = self.shared.lock();
        let refused = if state.is_closed {
            Some(message)
        } else if state.running < self.shared.concurrency {
            state.running += 1;
            drop(state);
            return Slot::new(&self.shared).order(message);
        } else if state.waiting.len() < self.shared.concurrency {
            state.waiting.push_back(message);
            None
        } else {
            state.has_refused = true;
            Some(message)
        };
        drop(state);
        if let Some(message) = refused {
            message.receipt.report(Outcome::Nobody);
        }
    }
}

impl fmt::Debug for BashExec {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("BashExec")
    }
}

impl Shared {
    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// A place for one running script. Dropping it gives it to the next message that waits.
pub struct Slot {
    shared: Arc<Shared>,
}

impl Slot {
    fn new(shared: &Arc<Shared>) -> Slot {
        Slot {
            shared: Arc::clone(shared),
        }
    }

    fn order(self, message: Outgoing) {
        let orders = self.shared.orders.clone();
        let Address::Bash(bash) = message.address else {
            debug_assert!(false, "not a bash address: {:?}", message.address);
            return message.receipt.report(Outcome::Failed);
        };
        // Nobody takes orders any more: the order, dropped, says so.
        let _ = orders.send(Order {
            bash,
            body: message.body,
            receipt: message.receipt,
            slot: self,
        });
    }
}

impl Drop for Slot {
    fn drop(&mut self) {
        let (next, has_room) = {
            let mut state = self.shared.lock();
            let is_taken = !self.shared.orders.is_closed();
            let next = state.waiting.pop_front().filter(|_| is_taken);
            if next.is_none() {
                state.running -= 1;
            }
            let has_room = state.has_refused && state.waiting.len() <= self.shared.concurrency / 2;
            if has_room {
                state.has_refused = false;
            }
            (next, has_room)
        };
        if let Some(message) = next {
            Slot::new(&self.shared).order(message);
        }
        if has_room {
            self.shared.observer.room_bash();
        }
    }
}

impl fmt::Debug for Slot {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Slot")
    }
}
