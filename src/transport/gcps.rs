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

use google_cloud_auth::credentials::{Builder as DefaultCredentials, Credentials, anonymous};
use google_cloud_gax::retry_policy::RetryPolicyExt;
use google_cloud_pubsub::client::{BasePublisher, Publisher};
use google_cloud_pubsub::error::PublishError;
use google_cloud_pubsub::model::Message;
use google_cloud_pubsub::retry_policy::RetryableErrors;
use tokio::time::Instant;

use super::health::Health;
use super::slots::{Deliver, Slots};
use super::{Outcome, Outgoing, Transport, google, install_tls_provider};
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
    /// Whether anything is published.
    pub enabled: bool,
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
            enabled: false,
            project: None,
            concurrency: 256,
            timeout: Duration::from_secs(10),
            emulator: None,
        }
    }
}

/// Whom the transport tells that messages it handed back are worth offering again.
///
/// Called without a lock held, from the task of a publish: it must not block.
pub trait Observer: Send + Sync {
    /// The queue had refused messages and has drained to half.
    fn room_publish(&self);
}

/// The Pub/Sub transport. Cheap to clone.
#[derive(Clone)]
pub struct Gcps {
    /// None when disabled.
    slots: Option<Slots<Publishing>>,
}

impl Gcps {
    /// Must be called on the tokio runtime that the publishes are to run on.
    pub fn new(settings: Settings, observer: Arc<dyn Observer>) -> Gcps {
        if !settings.enabled {
            return Gcps { slots: None };
        }
        install_tls_provider();
        let concurrency = settings.concurrency;
        let publishing = Publishing {
            settings,
            client: tokio::sync::Mutex::default(),
            health: Mutex::default(),
        };
        let room = move || observer.room_publish();
        Gcps {
            slots: Some(Slots::new(publishing, concurrency, room)),
        }
    }

    /// Hands back what waits and takes on no more. Publishes in flight may finish within the time given,
    /// then they are aborted; their receipts say that nobody was there, so they stay due.
    pub async fn close(&self, within: Duration) {
        if let Some(slots) = &self.slots {
            slots.close(within).await;
        }
    }
}

impl Transport for Gcps {
    fn send(&self, message: Outgoing) {
        match &self.slots {
            Some(slots) => slots.send(message),
            None => message.receipt.report(Outcome::Disabled),
        }
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
        let Address::Gcps { project, topic } = &message.address else {
            debug_assert!(false, "not a gcps address: {:?}", message.address);
            message.receipt.report(Outcome::Failed);
            return;
        };
        let project = match (project.as_str(), &self.settings.project) {
            ("", Some(default)) => default,
            (named, _) => named,
        };
        let topic = format!("projects/{project}/topics/{topic}");
        let deadline = Instant::now() + self.settings.timeout;

        let client = match tokio::time::timeout_at(deadline, self.connect()).await {
            Ok(Ok(client)) => client,
            Ok(Err(reason)) => return self.book(&topic, message, Some(&reason)),
            Err(_) => {
                self.retire(None).await;
                return self.book(&topic, message, Some("timeout"));
            }
        };
        let body = Message::new().set_data(message.body.clone());
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
        let mut health = self.health.lock().unwrap_or_else(PoisonError::into_inner);
        let is_news = match failure {
            Some(_) => health.failed(topic, Instant::now()),
            None => health.delivered(topic),
        };
        drop(health);
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
