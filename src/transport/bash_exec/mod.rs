//! Bash exec: a message to `bash://` starts a script on this machine (`transports.md` §6).
//!
//! Owns how many scripts run at once ([`BashExec`]), what a script is ([`script`]), what it may know of
//! the server's environment ([`environment`]), and the processes ([`process`]). What a script is for,
//! and what becomes of its outcome, is the business of whoever takes the orders: a worker like any
//! other, inside the server. A slot (`slots`) is taken for as long as the worker holds its order.

use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use tokio::sync::mpsc::{self, UnboundedReceiver, UnboundedSender};
use tokio::sync::oneshot;

use super::slots::{Deliver, Slots};
use super::{Outcome, Outgoing, Receipt, Room, Transport};
use crate::protocol::address::{Address, Bash};
use crate::protocol::trace::Trace;

pub mod environment;
pub mod process;
pub mod script;
#[cfg(test)]
mod tests;

/// The transport. Cheap to clone.
#[derive(Clone)]
pub struct BashExec {
    slots: Slots<Ordering>,
}

struct Ordering {
    /// No more orders than slots: bounded all the same.
    orders: UnboundedSender<Order>,
}

/// A message that has a slot: a script to run. Its slot is free when the order is dropped.
#[derive(Debug)]
pub struct Order {
    /// What kind of script.
    pub bash: Bash,
    /// The message.
    pub body: Bytes,
    /// The span that it comes of.
    pub trace: Option<Arc<Trace>>,
    /// Whom to tell that the order is taken.
    pub receipt: Receipt,
    /// One of the places for running scripts.
    pub slot: Slot,
}

/// A place for one running script. Dropping it gives it to the next message that waits.
#[derive(Debug)]
pub struct Slot {
    _held: oneshot::Sender<()>,
}

impl BashExec {
    /// Runs at most `concurrency` scripts at once; whoever holds the receiver runs them. Must be called on
    /// the tokio runtime that messages are to wait on.
    pub fn new(concurrency: usize, room: Room) -> (BashExec, UnboundedReceiver<Order>) {
        let (orders, taken) = mpsc::unbounded_channel();
        let slots = Slots::new(Ordering { orders }, concurrency, room);
        (BashExec { slots }, taken)
    }

    /// Hands back what waits and takes on no more. What is ordered stays with whoever has the order.
    pub async fn close(&self) {
        self.slots.close(Duration::ZERO).await;
    }
}

impl Transport for BashExec {
    fn send(&self, message: Outgoing) {
        self.slots.send(message);
    }
}

impl fmt::Debug for BashExec {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("BashExec")
    }
}

impl Deliver for Ordering {
    /// Orders a script, and returns when nobody holds the order any more.
    async fn deliver(&self, message: Outgoing) {
        let Address::Bash(bash) = message.address else {
            debug_assert!(false, "not a bash address: {:?}", message.address);
            return message.receipt.report(Outcome::Failed);
        };
        let (held, dropped) = oneshot::channel();
        // Nobody takes orders any more: the order, dropped, says so.
        let _ = self.orders.send(Order {
            bash,
            body: message.body,
            trace: message.trace,
            receipt: message.receipt,
            slot: Slot { _held: held },
        });
        let _ = dropped.await;
    }
}
