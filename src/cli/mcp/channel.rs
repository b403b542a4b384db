//! What a client has been promised to hear of, and the stream on which the server tells.
//!
//! A promise is told of once: whoever takes it out of `awaited` tells. Before it is settled it is there;
//! a listener that the server has twice, or a message that it sends twice, is found missing.

use std::collections::BTreeSet;
use std::convert::Infallible;
use std::pin::pin;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use rmcp::model::{CustomNotification, ServerNotification};
use rmcp::service::{Peer, RoleServer};
use serde_json::json;
use serde_json::value::RawValue;
use tokio::time::sleep;

use crate::client::{self, Client, Error, clock};
use crate::protocol::record::{Promise, PromiseState};

/// The group of all streams of MCP servers.
const GROUP: &str = "mcp";
/// Between a stream's end, or an attempt that failed, and the next attempt.
const RECONNECT_PAUSE: Duration = Duration::from_secs(3);
/// How a settled promise is told.
pub(super) const METHOD: &str = "notifications/claude/channel";

/// One client, as long as it is connected.
pub(super) struct Channel {
    pub client: Client,
    id: String,
    /// Ids of promises that were pending when they were last heard of.
    awaited: Mutex<BTreeSet<String>>,
}

impl Channel {
    pub(super) fn new(client: Client) -> Channel {
        Channel {
            client,
            id: clock::unique("mcp"),
            awaited: Mutex::default(),
        }
    }

    /// Registers for a promise; the `data` of the answer, and whether it is pending, so that
    /// the client will be told.
    pub(super) async fn listen(&self, id: &str) -> Result<(Box<RawValue>, bool), Error> {
        // Before the answer, which its settlement may overtake.
        let is_new = self.awaited().insert(id.to_owned());
        let answer = self.register(id).await;
        let is_pending = matches!(&answer, Ok((_, promise)) if is_pending(promise));
        // Otherwise somebody who asked before is still to be told.
        if is_new && !is_pending {
            self.awaited().remove(id);
        }
        answer.map(|(data, _)| (data, is_pending))
    }

    async fn register(&self, id: &str) -> Result<(Box<RawValue>, Promise), Error> {
        let address = format!("poll://uni@{GROUP}/{}", self.id);
        let data = json!({"awaited": id, "address": address});
        let data = self.client.call("promise.register_listener", &data).await?;
        let promise = client::promise_of(&data)?;
        Ok((data, promise))
    }

    /// Holds the stream, and tells `peer` of settled promises.
    pub(super) async fn follow(&self, peer: &Peer<RoleServer>) -> Infallible {
        let mut trouble = None;
        loop {
            let reason = match self.attend(peer, &mut trouble).await {
                Ok(()) => "the server has closed it".to_owned(),
                Err(error) => error.to_string(),
            };
            // Logged as it changes, not every three seconds.
            if trouble.as_ref() != Some(&reason) {
                tracing::warn!(reason, "no poll stream");
                trouble = Some(reason);
            }
            sleep(RECONNECT_PAUSE).await;
        }
    }

    /// Follows one stream to its end.
    async fn attend(
        &self,
        peer: &Peer<RoleServer>,
        trouble: &mut Option<String>,
    ) -> Result<(), Error> {
        let mut stream = self.client.poll(GROUP, &self.id).await?;
        if trouble.take().is_some() {
            tracing::info!("the poll stream is back");
        }
        let mut renewal = pin!(self.renew(peer));
        let mut is_renewed = false;
        loop {
            tokio::select! {
                renewed = &mut renewal, if !is_renewed => {
                    renewed?;
                    is_renewed = true;
                }
                message = stream.next() => match message {
                    Some(message) => {
                        if let Some(promise) = message.unblocked() {
                            self.tell(peer, &promise).await;
                        }
                    }
                    None => return Ok(()),
                },
            }
        }
    }

    /// Registers again for what is awaited: the server may have forgotten, or given up telling.
    async fn renew(&self, peer: &Peer<RoleServer>) -> Result<(), Error> {
        let ids: Vec<String> = self.awaited().iter().cloned().collect();
        for id in ids {
            match self.register(&id).await {
                Ok((_, promise)) if is_pending(&promise) => {}
                Ok((_, promise)) => self.tell(peer, &promise).await,
                Err(error) if error.is_transient() => return Err(error),
                Err(error) => {
                    tracing::warn!(promise.id = id, %error, "a promise is no longer awaited");
                    self.awaited().remove(&id);
                }
            }
        }
        Ok(())
    }

    /// Tells of a settled promise, unless it has been told of.
    async fn tell(&self, peer: &Peer<RoleServer>, promise: &Promise) {
        let Some(status) = status(promise.state) else {
            return;
        };
        if !self.awaited().remove(&*promise.id) {
            return;
        }
        let content = match serde_json::to_string(promise) {
            Ok(content) => content,
            Err(error) => {
                tracing::error!(promise.id = %promise.id, %error, "a promise cannot be written");
                return;
            }
        };
        let params = json!({"content": content, "meta": {"handle": promise.id, "status": status}});
        let notification = CustomNotification::new(METHOD, Some(params));
        let notification = ServerNotification::CustomNotification(notification);
        if let Err(error) = peer.send_notification(notification).await {
            tracing::error!(promise.id = %promise.id, %error, "the client cannot be told");
        }
    }

    fn awaited(&self) -> MutexGuard<'_, BTreeSet<String>> {
        self.awaited.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

fn is_pending(promise: &Promise) -> bool {
    promise.state == PromiseState::Pending
}

/// The word of the channel for a state; none for a promise that is not settled.
fn status(state: PromiseState) -> Option<&'static str> {
    match state {
        PromiseState::Pending => None,
        PromiseState::Resolved => Some("resolved"),
        PromiseState::Rejected => Some("rejected"),
        PromiseState::RejectedCanceled => Some("canceled"),
        PromiseState::RejectedTimedout => Some("timedout"),
    }
}
