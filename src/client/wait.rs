//! Waiting for a promise: a listener on a poll stream, never a question asked over and over, as long as
//! the server has poll streams to give.
//!
//! ```text
//!   open a stream ── register the listener ── settled? ─ yes ─> done
//!        ▲                                       │ no
//!        │ ended, broken                         ▼
//!        └────────────────────────────── unblock comes ──────> done
//! ```
//!
//! Every new stream is followed by a new registration, whose answer tells what happened in between.
//! Without a stream the promise is asked for every [`ASK_INTERVAL`], and a stream tried for each time.

use std::time::Duration;

use serde_json::json;
use tokio::time::{Instant, sleep, timeout};

use super::poll::PollStream;
use super::{Client, Error, PromiseAnswer, clock};
use crate::protocol::record::{Promise, PromiseState};

/// Registrations are repeated, as SDKs do: should a message be lost, this is how late it is.
const REGISTER_INTERVAL: Duration = Duration::from_secs(60);
/// Between two questions while there is no stream.
const ASK_INTERVAL: Duration = Duration::from_secs(2);
/// Between two attempts to open a stream; doubles up to [`ASK_INTERVAL`] while they do not last.
const RECONNECT_PAUSE_MIN: Duration = Duration::from_millis(50);
const LASTING: Duration = Duration::from_secs(5);

/// The group of all streams of this command line.
const GROUP: &str = "cli";

/// What a user who waits may want to know.
#[derive(Debug)]
pub enum Notice {
    /// The server cannot be reached any more, for this reason; it is tried again.
    Lost(Error),
    /// It is back.
    Back,
    /// It gives no stream, for this reason; it is asked every few seconds instead.
    NoStream(Error),
}

struct Wait<'a, F> {
    client: &'a Client,
    id: &'a str,
    /// Of the stream.
    listener: String,
    tell: F,
    is_lost: bool,
    is_without_stream: bool,
}

/// Waits until a promise is settled; the settled record. A server that goes away is waited for.
///
/// # Errors
/// When the server refuses for good, as when there is no such promise.
pub async fn settled(
    client: &Client,
    id: &str,
    tell: impl FnMut(Notice),
) -> Result<Promise, Error> {
    let mut wait = Wait {
        client,
        id,
        listener: clock::unique("cli"),
        tell,
        is_lost: false,
        is_without_stream: false,
    };
    let mut pause = RECONNECT_PAUSE_MIN;
    loop {
        let begun = Instant::now();
        match wait.attempt().await {
            Ok(Some(promise)) => return Ok(promise),
            // The server ends streams from time to time.
            Ok(None) => {}
            Err(error) if error.is_transient() => {
                if !std::mem::replace(&mut wait.is_lost, true) {
                    (wait.tell)(Notice::Lost(error));
                }
            }
            Err(error) => return Err(error),
        }
        if begun.elapsed() >= LASTING {
            pause = RECONNECT_PAUSE_MIN;
        }
        sleep(pause).await;
        pause = (pause * 2).min(ASK_INTERVAL);
    }
}

impl<F: FnMut(Notice)> Wait<'_, F> {
    /// Waits with one stream, or asks once without; the promise if it is settled.
    async fn attempt(&mut self) -> Result<Option<Promise>, Error> {
        match self.client.poll(GROUP, &self.listener).await {
            Ok(stream) => self.listen(stream).await,
            // Not even reached: to ask would not help.
            Err(error @ Error::Connection(_)) => Err(error),
            Err(error) => {
                let settled = self.ask().await?;
                if settled.is_none() && !std::mem::replace(&mut self.is_without_stream, true) {
                    (self.tell)(Notice::NoStream(error));
                }
                Ok(settled)
            }
        }
    }

    async fn listen(&mut self, mut stream: PollStream) -> Result<Option<Promise>, Error> {
        loop {
            let settled = self.register().await?;
            if settled.is_some() {
                return Ok(settled);
            }
            match timeout(REGISTER_INTERVAL, self.unblocked(&mut stream)).await {
                Ok(Some(promise)) => return Ok(Some(promise)),
                Ok(None) => return Ok(None),
                Err(_) => {}
            }
        }
    }

    async fn unblocked(&self, stream: &mut PollStream) -> Option<Promise> {
        loop {
            let promise = stream.next().await?.unblocked();
            if let Some(promise) = promise
                && &*promise.id == self.id
            {
                return Some(promise);
            }
        }
    }

    async fn register(&mut self) -> Result<Option<Promise>, Error> {
        let address = format!("poll://uni@{GROUP}/{}", self.listener);
        let data = json!({"awaited": self.id, "address": address});
        let answer: PromiseAnswer = self.client.ask("promise.register_listener", &data).await?;
        Ok(self.reached(answer.promise))
    }

    async fn ask(&mut self) -> Result<Option<Promise>, Error> {
        let promise = self.client.promise(self.id).await?;
        Ok(self.reached(promise))
    }

    /// The promise if it is settled; and the server is there.
    fn reached(&mut self, promise: Promise) -> Option<Promise> {
        if std::mem::take(&mut self.is_lost) {
            (self.tell)(Notice::Back);
        }
        (promise.state != PromiseState::Pending).then_some(promise)
    }
}
