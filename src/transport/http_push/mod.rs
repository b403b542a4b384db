//! HTTP push: messages are posted to the address itself (`transports.md` §4).
//!
//! Owns the HTTP client and, by `slots`, the limit of pushes in flight and the queue behind it. Must
//! never follow a redirect, keep a response body, or log more of an address than scheme, host and port;
//! the rest may carry secrets. Says who it is with what `auth` says, and connects only where `targets` lets
//! it.

use std::error::Error as _;
use std::fmt;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use async_trait::async_trait;
use reqwest::header::{CONTENT_TYPE, HeaderValue};
use reqwest::{Client, ClientBuilder, Response, redirect};
use tokio::time::Instant;
use url::Url;

pub use self::auth::{Auth, Mode, bearer};
use self::targets::{Resolver, Targets, system};
use super::health::Health;
use super::slots::{Deliver, Slots};
use super::{Outcome, Outgoing, Room, Transport, install_tls_provider};
use crate::protocol::address::Address;

mod auth;
pub mod targets;
#[cfg(test)]
mod tests;

/// Below the 5 s after which a Node server closes an idle connection: a message must not be lost to a
/// connection that closes while it is being sent.
const IDLE_MAX: Duration = Duration::from_secs(4);
/// A short answer is read so that its connection can be used again; a longer or slower one costs the
/// connection.
const ANSWER_BYTES_MAX: usize = 64 * 1024;
const ANSWER_TIME_MAX: Duration = Duration::from_secs(1);

/// How many pushes, how long each may take, and how they say whom they come from.
#[derive(Clone, Debug)]
pub struct Settings {
    /// Pushes in flight, at least 1; as many more wait.
    pub concurrency: usize,
    /// Until the connection is up.
    pub connect_timeout: Duration,
    /// The whole exchange. Workers may answer only after running until blocked.
    pub request_timeout: Duration,
    /// The header by which workers know this server.
    pub auth: Auth,
    /// Where pushes may go.
    pub targets: Targets,
}

impl Default for Settings {
    fn default() -> Self {
        Settings {
            concurrency: 256,
            connect_timeout: Duration::from_secs(10),
            request_timeout: Duration::from_secs(180),
            auth: Auth::default(),
            targets: Targets::default(),
        }
    }
}

/// The push transport. Cheap to clone.
#[derive(Clone)]
pub struct HttpPush {
    slots: Slots<Pusher>,
}

struct Pusher {
    client: Client,
    authenticator: auth::Authenticator,
    targets: Targets,
    health: Mutex<Health>,
}

impl HttpPush {
    /// Builds the client, with the certificate roots of the platform. Must be called on the tokio
    /// runtime that the pushes are to run on.
    pub fn new(settings: Settings, room: Room) -> reqwest::Result<HttpPush> {
        let client = client(&settings)?;
        Ok(HttpPush::with_client(client, settings, room))
    }

    fn with_client(client: Client, settings: Settings, room: Room) -> HttpPush {
        let pusher = Pusher {
            client,
            authenticator: auth::Authenticator::new(settings.auth),
            targets: settings.targets,
            health: Mutex::default(),
        };
        HttpPush {
            slots: Slots::new(pusher, settings.concurrency, room),
        }
    }
}

#[async_trait]
impl Transport for HttpPush {
    fn send(&self, message: Outgoing) {
        self.slots.send(message);
    }

    fn trouble(&self, address: &Address) -> Option<String> {
        let health = self.slots.deliver().health();
        health.failure(&address.label()).map(str::to_owned)
    }

    async fn close(&self, within: Duration) {
        self.slots.close(within).await;
    }
}

impl fmt::Debug for HttpPush {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("HttpPush")
    }
}

impl Deliver for Pusher {
    /// Posts a message and says what became of it.
    async fn deliver(&self, message: Outgoing) {
        let address = match &message.address {
            Address::Http { url } => url,
            _ => "",
        };
        let Ok(url) = Url::parse(address) else {
            debug_assert!(false, "not an http address: {:?}", message.address);
            message.receipt.report(Outcome::Failed);
            return;
        };
        let target = message.address.label();
        if let Err(refusal) = self.targets.check_url(&url) {
            self.record(&target, Some(&refusal.to_string()));
            message.receipt.report(Outcome::Failed);
            return;
        }
        let identity = self.authenticator.header(address, &url).await;
        let request = self
            .client
            .post(url)
            .header(CONTENT_TYPE, HeaderValue::from_static("application/json"))
            // Replaces the header that a user name in the address makes.
            .headers(identity.into_iter().collect())
            .body(message.body.clone());
        let trace = message.trace.iter().flat_map(|trace| trace.headers());
        let request = trace.fold(request, |request, (name, value)| {
            request.header(name, value)
        });
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
}

impl Pusher {
    fn health(&self) -> MutexGuard<'_, Health> {
        self.health.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn record(&self, target: &str, failure: Option<&str>) {
        let is_news = match failure {
            Some(reason) => self.health().failed(target, reason, Instant::now()),
            None => self.health().delivered(target),
        };
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

fn client(settings: &Settings) -> reqwest::Result<Client> {
    client_builder(settings).build().or_else(|error| {
        // A bare container image: plain http must work all the same. An empty store trusts nobody.
        tracing::warn!(
            reason = reason(&error),
            "no certificate roots, https pushes will fail"
        );
        client_builder(settings).tls_certs_only([]).build()
    })
}

fn client_builder(settings: &Settings) -> ClientBuilder {
    install_tls_provider();
    Client::builder()
        .user_agent(concat!("resonate/", env!("CARGO_PKG_VERSION")))
        .connect_timeout(settings.connect_timeout)
        .timeout(settings.request_timeout)
        .redirect(redirect::Policy::none())
        // Messages carry the promise's data: where they go is the address and this server's own
        // settings, not an HTTP_PROXY that was meant for something else.
        .no_proxy()
        .dns_resolver(Resolver {
            targets: Arc::new(settings.targets.clone()),
            lookup: system,
        })
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
