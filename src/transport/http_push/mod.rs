//! HTTP push: messages are posted to the address itself (`transports.md` §4).
//!
//! Owns the HTTP client, the limit of pushes in flight and the queue behind it. A message that finds
//! the queue full is handed back at once: the database is the buffer. Must never follow a redirect,
//! keep a response body, or log more of an address than scheme, host and port; the rest may carry
//! secrets.
//!
//! ```text
//!   send -> in flight (concurrency) -> 2xx: delivered, anything else: failed
//!        -> waiting   (concurrency) -> in flight when a push finishes
//!        -> nobody    (both full; the observer hears once half of the queue is free)
//! ```

use std::collections::VecDeque;
use std::error::Error as _;
use std::fmt;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use reqwest::header::{CONTENT_TYPE, HeaderValue};
use reqwest::{Client, ClientBuilder, Response, redirect};
use tokio::runtime::Handle;
use tokio::sync::watch;
use tokio::time::Instant;
use url::Url;

use self::health::Health;
use super::{Outcome, Outgoing, Transport};
use crate::protocol::address::Address;

mod health;
#[cfg(test)]
mod tests;

/// Below the 5 s after which a Node server closes an idle connection: a message must not be lost to a
/// connection that closes while it is being sent.
const IDLE_MAX: Duration = Duration::from_secs(4);
/// A short answer is read so that its connection can be used again; a longer or slower one costs the
/// connection.
const ANSWER_BYTES_MAX: usize = 64 * 1024;
const ANSWER_TIME_MAX: Duration = Duration::from_secs(1);

/// How many pushes, and how long each may take.
#[derive(Clone, Copy, Debug)]
pub struct Settings {
    /// Whether anything is pushed.
    pub enabled: bool,
    /// Pushes in flight, at least 1; as many more wait.
    pub concurrency: usize,
    /// Until the connection is up.
    pub connect_timeout: Duration,
    /// The whole exchange. Workers may answer only after running until blocked.
    pub request_timeout: Duration,
}

impl Default for Settings {
    fn default() -> Self {
        Settings {
            enabled: true,
            concurrency: 256,
            connect_timeout: Duration::from_secs(10),
            request_timeout: Duration::from_secs(180),
        }
    }
}

/// Whom the transport tells that messages it handed back are worth offering again.
///
/// Called without a lock held, from the task of a push: it must not block.
pub trait Observer: Send + Sync {
    /// The queue had refused messages and has drained to half.
    fn room_push(&self);
}

/// The push transport. Cheap to clone.
#[derive(Clone)]
pub struct HttpPush {
    shared: Arc<Shared>,
}

struct Shared {
    /// None when disabled.
    client: Option<Client>,
    concurrency: usize,
    observer: Arc<dyn Observer>,
    runtime: Handle,
    state: Mutex<State>,
    health: Mutex<Health>,
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

impl HttpPush {
    /// Builds the client, with the certificate roots of the platform. Must be called on the tokio
    /// runtime that the pushes are to run on.
    pub fn new(settings: Settings, observer: Arc<dyn Observer>) -> reqwest::Result<HttpPush> {
        let client = match settings.enabled {
            true => Some(client(settings)?),
            false => None,
        };
        Ok(HttpPush::with_client(client, settings, observer))
    }

    fn with_client(
        client: Option<Client>,
        settings: Settings,
        observer: Arc<dyn Observer>,
    ) -> HttpPush {
        HttpPush {
            shared: Arc::new(Shared {
                client,
                concurrency: settings.concurrency.max(1),
                observer,
                runtime: Handle::current(),
                state: Mutex::default(),
                health: Mutex::default(),
                abort: watch::Sender::new(()),
            }),
        }
    }

    /// Hands back what waits and takes on no more. Pushes in flight may finish within the time given,
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
}

impl Transport for HttpPush {
    fn send(&self, message: Outgoing) {
        if !matches!(message.address, Address::Http { .. }) {
            debug_assert!(false, "not an http address: {:?}", message.address);
            message.receipt.report(Outcome::Failed);
            return;
        }
        let Some(client) = &self.shared.client else {
            message.receipt.report(Outcome::Disabled);
            return;
        };
        match self.shared.admit(message) {
            Admitted::Now(slot, message) => {
                let push = slot.run(client.clone(), message);
                self.shared.runtime.spawn(push);
            }
            Admitted::Waiting => {}
            Admitted::Refused(message) => message.receipt.report(Outcome::Nobody),
        }
    }
}

impl fmt::Debug for HttpPush {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("HttpPush")
    }
}

enum Admitted {
    Now(Slot, Outgoing),
    Waiting,
    Refused(Outgoing),
}

impl Shared {
    fn admit(self: &Arc<Self>, message: Outgoing) -> Admitted {
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

    /// Posts a message and says what became of it.
    async fn deliver(&self, client: &Client, message: Outgoing) {
        let url = match &message.address {
            Address::Http { url } => Url::parse(url).ok(),
            _ => None,
        };
        let Some(url) = url else {
            message.receipt.report(Outcome::Failed);
            return;
        };
        let target = url.origin().ascii_serialization();
        let request = client
            .post(url)
            .header(CONTENT_TYPE, HeaderValue::from_static("application/json"))
            .body(message.body.clone());
        let response = request.send().await;
        let failure = match &response {
            Ok(response) if response.status().is_success() => None,
            Ok(response) => Some(format!("status {}", response.status().as_u16())),
            Err(error) => Some(reason(error)),
        };
        self.record(&target, failure.as_deref());
        message.receipt.report(match failure {
            None => Outcome::Delivered,
            Some(_) => Outcome::Failed,
        });
        if let Ok(response) = response {
            discard(response).await;
        }
    }

    fn record(&self, target: &str, failure: Option<&str>) {
        let mut health = self.health.lock().unwrap_or_else(PoisonError::into_inner);
        let is_news = match failure {
            Some(_) => health.failed(target, Instant::now()),
            None => health.delivered(target),
        };
        drop(health);
        match failure {
            Some(reason) if is_news => {
                tracing::warn!(target.origin = target, reason, "push target is failing");
            }
            Some(reason) => tracing::debug!(target.origin = target, reason, "push failed"),
            None if is_news => tracing::warn!(target.origin = target, "push target recovered"),
            None => {}
        }
    }
}

/// One of the pushes in flight: a task that works through what waits until nothing does.
struct Slot {
    shared: Arc<Shared>,
    aborted: watch::Receiver<()>,
    is_freed: bool,
}

impl Slot {
    async fn run(mut self, client: Client, first: Outgoing) {
        let mut next = Some(first);
        while let Some(message) = next {
            let delivery = self.shared.deliver(&client, message);
            tokio::select! {
                () = delivery => {}
                _ = self.aborted.changed() => return,
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
                // push that never finishes.
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
            self.shared.observer.room_push();
        }
        next
    }
}

impl Drop for Slot {
    fn drop(&mut self) {
        if !self.is_freed {
            self.shared.lock().running -= 1;
        }
    }
}

fn client(settings: Settings) -> reqwest::Result<Client> {
    client_builder(settings).build().or_else(|error| {
        // A bare container image: plain http must work all the same. An empty store trusts nobody.
        tracing::warn!(
            reason = reason(&error),
            "no certificate roots, https pushes will fail"
        );
        client_builder(settings).tls_certs_only([]).build()
    })
}

fn client_builder(settings: Settings) -> ClientBuilder {
    // reqwest takes the process-wide provider and panics without one; an error only says that there
    // is one already.
    let _ = rustls::crypto::ring::default_provider().install_default();
    Client::builder()
        .user_agent(concat!("resonate/", env!("CARGO_PKG_VERSION")))
        .connect_timeout(settings.connect_timeout)
        .timeout(settings.request_timeout)
        .redirect(redirect::Policy::none())
        // Messages carry the promise's data: where they go is the address and this server's own
        // settings, not an HTTP_PROXY that was meant for something else.
        .no_proxy()
        .referer(false)
        .tcp_nodelay(true)
        .pool_idle_timeout(IDLE_MAX)
        .pool_max_idle_per_host(settings.concurrency)
}

/// Reads a short answer to its end.
async fn discard(mut response: Response) {
    let reading = async {
        let mut bytes = 0;
        while bytes < ANSWER_BYTES_MAX
            && let Ok(Some(chunk)) = response.chunk().await
        {
            bytes += chunk.len();
        }
    };
    // Too slow is as good as too long.
    let _ = tokio::time::timeout(ANSWER_TIME_MAX, reading).await;
}

/// The innermost cause, which names no URL.
fn reason(error: &reqwest::Error) -> String {
    if error.is_timeout() {
        return "timeout".to_owned();
    }
    let mut cause = error.source();
    while let Some(inner) = cause.and_then(std::error::Error::source) {
        cause = Some(inner);
    }
    cause.map_or_else(
        || "request refused by the client".to_owned(),
        ToString::to_string,
    )
}
