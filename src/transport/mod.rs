//! The transport seam: a transport gets a message and an address, and says whether it was delivered.
//! It knows nothing of promises.
//!
//! [`Transport::send`] never blocks and never fails: what became of the message is told through its
//! [`Receipt`], exactly once, also when the message is dropped on the way (a stream that closes with
//! messages still buffered, a task that dies).

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use async_trait::async_trait;
use bytes::Bytes;
use futures_util::future::join_all;

use crate::protocol::address::Address;
use crate::protocol::trace::Trace;

pub mod bash_exec;
pub mod gcps;
mod google;
pub(crate) mod health;
pub mod http_push;
pub mod poll;
pub mod slots;

/// Names a stream, for as long as the process lives; a newer one has a greater name.
pub type StreamId = u64;

/// What became of a message.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Outcome {
    /// Acknowledged: a 2xx, accepted by Pub/Sub, or taken by the worker that runs scripts.
    Delivered,
    /// Written to an open stream, which is an acknowledgement too. Who reads it may be gone before
    /// acting upon it: then this stream closes.
    Written(StreamId),
    /// Nobody is there to receive it now, or everybody's buffer is full. Costs nothing to wait.
    Nobody,
    /// It was tried and failed; try again later.
    Failed,
    /// The transport is disabled; nothing will come of trying again.
    Disabled,
}

/// The promise to say what became of a message. Dropping it says [`Outcome::Nobody`].
pub struct Receipt {
    report: Option<Box<dyn FnOnce(Outcome) + Send>>,
    is_stale: Option<Arc<AtomicBool>>,
}

impl Receipt {
    /// Calls `report` once, on [`Receipt::report`] or on drop.
    pub fn new(report: impl FnOnce(Outcome) + Send + 'static) -> Self {
        Receipt {
            report: Some(Box::new(report)),
            is_stale: None,
        }
    }

    /// Of a message that nobody needs any more once the flag is set.
    #[must_use]
    pub fn unless(mut self, is_stale: Arc<AtomicBool>) -> Self {
        self.is_stale = Some(is_stale);
        self
    }

    /// Whether nobody needs the message any more: what has waited may be dropped.
    pub fn is_stale(&self) -> bool {
        let is_stale = self.is_stale.as_ref();
        is_stale.is_some_and(|is_stale| is_stale.load(Ordering::Relaxed))
    }

    /// Says what became of the message.
    pub fn report(mut self, outcome: Outcome) {
        if let Some(report) = self.report.take() {
            report(outcome);
        }
    }
}

impl Drop for Receipt {
    fn drop(&mut self) {
        if let Some(report) = self.report.take() {
            report(Outcome::Nobody);
        }
    }
}

impl std::fmt::Debug for Receipt {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Receipt")
    }
}

/// A message on its way out: JSON on one line, ASCII only (`clients.md`, SSE), the same bytes on
/// every transport.
#[derive(Debug)]
pub struct Outgoing {
    /// Where to.
    pub address: Address,
    /// The message.
    pub body: Bytes,
    /// The span that it comes of: named beside the message, where there is a place for that.
    pub trace: Option<Arc<Trace>>,
    /// Whom to tell.
    pub receipt: Receipt,
}

/// A way out.
#[async_trait]
pub trait Transport: Send + Sync + 'static {
    /// Takes a message on. Returns at once.
    fn send(&self, message: Outgoing);

    /// Why messages to this address fail, if the last one did.
    fn trouble(&self, _address: &Address) -> Option<String> {
        None
    }

    /// Hands back what waits and takes on no more. What is in flight may finish within the time given,
    /// then it is aborted; its receipts say that nobody was there, so it stays due.
    async fn close(&self, _within: Duration) {}
}

/// Tells that messages which were handed back are worth offering again. Called without a lock held; it
/// must not block.
pub type Room = Box<dyn Fn() + Send + Sync>;

/// The transports that are enabled, by [`Address::scheme`].
#[derive(Default)]
pub struct Table(BTreeMap<&'static str, Arc<dyn Transport>>);

impl Table {
    /// Adds the transport of a scheme.
    #[must_use]
    pub fn with(mut self, scheme: &'static str, transport: impl Transport) -> Self {
        self.0.insert(scheme, Arc::new(transport));
        self
    }

    /// The transport of an address; none if it is disabled.
    pub fn of(&self, address: &Address) -> Option<&dyn Transport> {
        self.0.get(address.scheme()).map(|transport| &**transport)
    }

    /// The schemes.
    pub fn schemes(&self) -> impl Iterator<Item = &'static str> {
        self.0.keys().copied()
    }

    /// Closes all, side by side.
    pub async fn close(&self, within: Duration) {
        join_all(self.0.values().map(|transport| transport.close(within))).await;
    }
}

/// TLS clients take the process-wide provider, and panic without one.
fn install_tls_provider() {
    // An error only says that there is one already.
    let _ = rustls::crypto::ring::default_provider().install_default();
}
