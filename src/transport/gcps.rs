//! GCP Pub/Sub: messages are published to a topic (`transports.md` §5), through Google's own client.
//!
//! Owns the client, a publisher per topic and, by `slots`, the limit of messages in flight and the queue
//! behind it. Credentials are Application Default Credentials; nothing is asked for before the first
//! message. A client that failed to authenticate, or let a publish time out, is replaced by a new one: it
//! would keep the failure, or a connection that is dead without knowing.
//!
//! ```text
//!   send -> slot -> connect: credentials, client ──> failed
//!                -> publisher of the topic ────────> delivered | failed | timed out: failed, and the slot
//!                                                    is kept until the client has let go of the message
//! ```

use std::collections::HashMap;
use std::error::Error;
use std::fmt;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use async_trait::async_trait;
use google_cloud_auth::credentials::{Builder as DefaultCredentials, Credentials, anonymous};
use google_cloud_gax::retry_policy::RetryPolicyExt;
use google_cloud_pubsub::client::{BasePublisher, Publisher};
use google_cloud_pubsub::error::PublishError;
use google_cloud_pubsub::model::Message;
use google_cloud_pubsub::retry_policy::RetryableErrors;
use tokio::time::Instant;

use super::health::Health;
use super::slots::{Deliver, Slots};
use super::{Outcome, Outgoing, Room, Transport, google, install_tls_provider};
use crate::protocol::address::Address;

/// Topics whose publishers are kept; beyond it the one used least recently is closed.
const TOPICS_MAX: usize = 256;
/// How long a message waits for others to go in one request with it.
const BATCH_WAIT: Duration = Duration::from_millis(1);
/// A client is replaced at most this often.
const CLIENT_AGE_MIN: Duration = Duration::from_secs(1);
/// What Google's client lets run at once on a connection.
const REQUESTS_PER_CONNECTION: usize = 100;
const CONNECTIONS_MAX: usize = 8;

/// Where to publish, how much at once, and how long each may take.
#[derive(Clone, Debug)]
pub struct Settings {
    /// The project of `gcps:///topic`.
    pub project: Option<String>,
    /// Messages in flight, at least 1; as many more wait.
    pub concurrency: usize,
    /// One publish, all attempts of Google's client included.
    pub timeout: Duration,
    /// `host:port` of an emulator, which is spoken to without TLS and credentials.
    pub emulator: Option<String>,
}

impl Default for Settings {
    fn default() -> Self {
        Settings {
            project: None,
            concurrency: 256,
            timeout: Duration::from_secs(10),
            emulator: None,
        }
    }
}

/// The Pub/Sub transport. Cheap to clone.
#[derive(Clone)]
pub struct Gcps {
    slots: Slots<Publishing>,
}

impl Gcps {
    /// Must be called on the tokio runtime that the publishes are to run on.
    pub fn new(settings: Settings, room: Room) -> Gcps {
        install_tls_provider();
        let concurrency = settings.concurrency;
        let publishing = Publishing {
            settings,
            client: tokio::sync::Mutex::default(),
            health: Mutex::default(),
        };
        Gcps {
            slots: Slots::new(publishing, concurrency, room),
        }
    }
}

#[async_trait]
impl Transport for Gcps {
    fn send(&self, message: Outgoing) {
        self.slots.send(message);
    }

    fn trouble(&self, address: &Address) -> Option<String> {
        let publishing = self.slots.deliver();
        let topic = publishing.topic(address)?;
        publishing.health().failure(&topic).map(str::to_owned)
    }

    async fn close(&self, within: Duration) {
        self.slots.close(within).await;
    }
}

impl fmt::Debug for Gcps {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Gcps")
    }
}

struct Publishing {
    settings: Settings,
    /// Locked while it is made, so that it is made once.
    client: tokio::sync::Mutex<Option<Arc<Client>>>,
    health: Mutex<Health>,
}

struct Client {
    base: BasePublisher,
    credentials: Credentials,
    made_at: Instant,
    publishers: Mutex<Publishers>,
}

#[derive(Default)]
struct Publishers {
    topics: HashMap<Box<str>, (Publisher, u64)>,
    uses: u64,
}

impl Deliver for Publishing {
    /// Publishes a message and says what became of it.
    async fn deliver(&self, message: Outgoing) {
        let Some(topic) = self.topic(&message.address) else {
            debug_assert!(false, "not a gcps address: {:?}", message.address);
            message.receipt.report(Outcome::Failed);
            return;
        };
        let deadline = Instant::now() + self.settings.timeout;

        let client = match tokio::time::timeout_at(deadline, self.connect()).await {
            Ok(Ok(client)) => client,
            Ok(Err(reason)) => return self.book(&topic, message, Some(&reason)),
            Err(_) => {
                self.retire(None).await;
                return self.book(&topic, message, Some("timeout"));
            }
        };
        let mut body = Message::new().set_data(message.body.clone());
        if let Some(trace) = &message.trace {
            body = body.set_attributes(trace.headers());
        }
        let mut publish = client.publisher(&topic).publish(body);
        match tokio::time::timeout_at(deadline, &mut publish).await {
            Ok(Ok(_)) => self.book(&topic, message, None),
            Ok(Err(error)) => {
                if is_authentication(&error) {
                    self.retire(Some(&client)).await;
                }
                self.book(&topic, message, Some(&reason(&error)));
            }
            Err(_) => {
                self.retire(Some(&client)).await;
                self.book(&topic, message, Some("timeout"));
                drop(client);
                // Google's client gives up at about the same time, but not while it connects. As long as
                // it holds the message, the message counts as in flight.
                let _ = publish.await;
            }
        }
    }
}

impl Publishing {
    /// The full name of the topic.
    fn topic(&self, address: &Address) -> Option<String> {
        let Address::Gcps { project, topic } = address else {
            return None;
        };
        let project = match (project.as_str(), &self.settings.project) {
            ("", Some(default)) => default,
            (named, _) => named,
        };
        Some(format!("projects/{project}/topics/{topic}"))
    }

    fn health(&self) -> MutexGuard<'_, Health> {
        self.health.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The client, with credentials that were good a moment ago.
    async fn connect(&self) -> Result<Arc<Client>, String> {
        let client = {
            let mut client = self.client.lock().await;
            match &*client {
                Some(client) => Arc::clone(client),
                None => {
                    let made = Arc::new(self.make_client().await?);
                    *client = Some(Arc::clone(&made));
                    made
                }
            }
        };
        // Asked here, because Google's client would wait for them as long as it takes.
        let headers = client.credentials.headers(Default::default()).await;
        if let Err(error) = headers {
            self.retire(Some(&client)).await;
            return Err(google::reason(&error));
        }
        Ok(client)
    }

    async fn make_client(&self) -> Result<Client, String> {
        let mut builder = BasePublisher::builder()
            .with_retry_policy(RetryableErrors.with_time_limit(self.settings.timeout))
            .with_grpc_subchannel_count(
                self.settings
                    .concurrency
                    .div_ceil(REQUESTS_PER_CONNECTION)
                    .min(CONNECTIONS_MAX),
            );
        let credentials = match &self.settings.emulator {
            Some(host) => {
                builder = builder.with_endpoint(format!("http://{host}"));
                anonymous::Builder::new().build()
            }
            None => DefaultCredentials::default()
                .build()
                .map_err(|error| google::reason(&error))?,
        };
        let base = builder
            .with_credentials(credentials.clone())
            .build()
            .await
            .map_err(|error| google::reason(&error))?;
        Ok(Client {
            base,
            credentials,
            made_at: Instant::now(),
            publishers: Mutex::default(),
        })
    }

    /// Has the next publish make a new client instead of this one, or of whichever there is.
    async fn retire(&self, failed: Option<&Arc<Client>>) {
        // While somebody makes a new one there is nothing to retire.
        let Ok(mut client) = self.client.try_lock() else {
            return;
        };
        let is_retired = client.as_ref().is_some_and(|current| {
            failed.is_none_or(|failed| Arc::ptr_eq(current, failed))
                && current.made_at.elapsed() >= CLIENT_AGE_MIN
        });
        if is_retired {
            *client = None;
        }
    }

    fn book(&self, topic: &str, message: Outgoing, failure: Option<&str>) {
        let is_news = match failure {
            Some(reason) => self.health().failed(topic, reason, Instant::now()),
            None => self.health().delivered(topic),
        };
        match failure {
            Some(reason) if is_news => tracing::warn!(topic, reason, "topic is failing"),
            Some(reason) => tracing::debug!(topic, reason, "publish failed"),
            None if is_news => tracing::warn!(topic, "topic recovered"),
            None => {}
        }
        message.receipt.report(match failure {
            None => Outcome::Delivered,
            Some(_) => Outcome::Failed,
        });
    }
}

impl Client {
    /// The publisher of a topic. Closing one that is forgotten finishes what it has begun.
    fn publisher(&self, topic: &str) -> Publisher {
        let mut publishers = self.publishers();
        publishers.uses += 1;
        let now = publishers.uses;
        if let Some((publisher, used_at)) = publishers.topics.get_mut(topic) {
            *used_at = now;
            return publisher.clone();
        }
        if publishers.topics.len() >= TOPICS_MAX {
            let oldest = publishers
                .topics
                .iter()
                .min_by_key(|(_, (_, used_at))| *used_at);
            let oldest = oldest.map(|(topic, _)| topic.clone());
            oldest.and_then(|oldest| publishers.topics.remove(&oldest));
        }
        let publisher = self
            .base
            .publisher(topic)
            .set_delay_threshold(BATCH_WAIT)
            .build();
        publishers
            .topics
            .insert(Box::from(topic), (publisher.clone(), now));
        publisher
    }

    fn publishers(&self) -> MutexGuard<'_, Publishers> {
        self.publishers
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
    }
}

fn is_authentication(error: &PublishError) -> bool {
    matches!(error, PublishError::Rpc(error) if error.is_authentication())
}

/// What the service said of it, or what kept it from being asked.
fn reason(error: &PublishError) -> String {
    let PublishError::Rpc(error) = error else {
        return error.to_string();
    };
    if let Some(status) = error.status() {
        return format!("{}: {}", status.code.name(), status.message);
    }
    let mut cause: &dyn Error = &**error;
    while let Some(inner) = cause.source() {
        cause = inner;
    }
    cause.to_string()
}
