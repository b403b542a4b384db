//! A poll stream, read (`transports.md` §3).

use futures_util::StreamExt;
use serde::Deserialize;
use serde_json::value::RawValue;
use sse_stream::SseStream;

use super::{Client, Error};
use crate::protocol::record::Promise;

/// One message of a stream.
#[derive(Debug, Deserialize)]
pub struct Message {
    /// `execute` or `unblock`.
    pub kind: String,
    /// What it is about.
    pub data: Box<RawValue>,
}

#[derive(Deserialize)]
struct Unblock {
    promise: Promise,
}

impl Message {
    /// The settled promise that an `unblock` brings.
    pub fn unblocked(&self) -> Option<Promise> {
        if self.kind != "unblock" {
            return None;
        }
        let unblock: Unblock = serde_json::from_str(self.data.get()).ok()?;
        Some(unblock.promise)
    }
}

/// An open stream. Dropping it closes it.
pub struct PollStream {
    events: SseStream<reqwest::Body>,
}

impl Client {
    /// Opens a stream as `poll://…@<group>/<id>`. When this returns, the server has accepted it.
    pub async fn poll(&self, group: &str, id: &str) -> Result<PollStream, Error> {
        let url = self.below(&["poll", group, id]);
        let sent = self.http.get(url).send().await;
        let response = sent.map_err(|error| self.lost(&error))?;
        if response.status() != reqwest::StatusCode::OK {
            return Err(super::refusal(response).await);
        }
        Ok(PollStream {
            events: SseStream::new(response.into()),
        })
    }
}

impl PollStream {
    /// The next message; none once the stream has ended or broken.
    pub async fn next(&mut self) -> Option<Message> {
        loop {
            let event = self.events.next().await?.ok()?;
            // What cannot be read is not for us: the next one may be.
            if let Some(message) = event.data.and_then(|data| serde_json::from_str(&data).ok()) {
                return Some(message);
            }
        }
    }
}
