//! One open stream: the body of a `GET /poll/{group}/{id}` response.
//!
//! Owns the framing, the keep-alive, the lifetime and the moment at which a message counts as
//! delivered. A message is *taken* when its chunk is handed to the connection writer, and *delivered*
//! only when the writer comes back for more: it does so once the chunk went towards the socket. A
//! stream that is dropped first gives everything not yet delivered back to the hub.
//!
//! It must never write part of an event, or anything but ASCII (`clients.md`, SSE).

use std::convert::Infallible;
use std::future::Future;
use std::pin::Pin;
use std::task::{Context, Poll, ready};
use std::time::Duration;

use bytes::{BufMut, Bytes, BytesMut};
use futures_util::Stream;
use tokio::time::{Instant, Sleep, sleep_until};

use super::Hub;
use crate::transport::{Outcome, Outgoing, StreamId};

/// Sent at once, so that headers and a first byte leave before there is a message.
const GREETING: &[u8] = b": ok\n\n";
/// Sent when nothing else was for a while: dead peers are noticed, idle time-outs are not hit.
const KEEP_ALIVE: &[u8] = b": keep-alive\n\n";

/// A registered connection: messages are routed to it until it is dropped.
#[derive(Debug)]
pub struct Connection(Seat);

impl Connection {
    pub(super) fn new(hub: Hub, key: StreamId) -> Connection {
        Connection(Seat {
            hub,
            key,
            taken: None,
        })
    }

    /// The stream that carries its messages, for use as a response body.
    ///
    /// Needs a tokio runtime. Ends by itself after the lifetime, or when the hub closes, once what is
    /// queued was written; dropping it gives undelivered messages to others.
    pub fn into_body_stream(self) -> Events {
        let settings = &self.0.hub.shared.settings;
        let now = Instant::now();
        let ends_at = now + jittered(settings.stream_lifetime);
        Events {
            keep_alive: settings.keep_alive,
            is_greeted: false,
            has_ended: false,
            written_at: now,
            ends_at,
            timer: Box::pin(sleep_until(ends_at.min(now + settings.keep_alive))),
            seat: self.0,
        }
    }
}

/// A place in the hub's table. Dropping it gives the place up and what is undelivered back.
#[derive(Debug)]
struct Seat {
    hub: Hub,
    key: StreamId,
    /// Handed to the connection writer, which did not come back yet.
    taken: Option<Outgoing>,
}

impl Drop for Seat {
    fn drop(&mut self) {
        self.hub.remove(self.key, self.taken.take());
    }
}

/// The chunks of a stream, each a whole event or comment.
#[derive(Debug)]
pub struct Events {
    seat: Seat,
    keep_alive: Duration,
    is_greeted: bool,
    has_ended: bool,
    written_at: Instant,
    ends_at: Instant,
    timer: Pin<Box<Sleep>>,
}

impl Stream for Events {
    type Item = Result<Bytes, Infallible>;

    fn poll_next(self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Option<Self::Item>> {
        let this = self.get_mut();
        if let Some(message) = this.seat.taken.take() {
            message.receipt.report(Outcome::Written(this.seat.key));
        }
        if !this.is_greeted {
            this.is_greeted = true;
            return Poll::Ready(Some(Ok(Bytes::from_static(GREETING))));
        }
        while !this.has_ended {
            let now = Instant::now();
            if now >= this.ends_at {
                this.seat.hub.unlink(this.seat.key);
            }
            let (message, is_leaving) = this.seat.hub.take(this.seat.key, context.waker());
            if let Some(message) = message {
                let chunk = event(&message.body);
                this.seat.taken = Some(message);
                this.written_at = now;
                return Poll::Ready(Some(Ok(chunk)));
            }
            if is_leaving {
                this.has_ended = true;
                break;
            }
            let due = this.written_at + this.keep_alive;
            if now >= due {
                this.written_at = now;
                return Poll::Ready(Some(Ok(Bytes::from_static(KEEP_ALIVE))));
            }
            // Left to fire early after a message was written: re-arming then costs less than
            // re-arming for every message.
            ready!(this.timer.as_mut().poll(context));
            this.timer.as_mut().reset(due.min(this.ends_at));
        }
        Poll::Ready(None)
    }
}

fn event(json: &[u8]) -> Bytes {
    let mut chunk = BytesMut::with_capacity(json.len() + 8);
    chunk.put_slice(b"data: ");
    chunk.put_slice(json);
    chunk.put_slice(b"\n\n");
    chunk.freeze()
}

/// Up to a tenth less, so that streams opened together do not all reconnect together.
fn jittered(lifetime: Duration) -> Duration {
    lifetime.mul_f64(1.0 - 0.1 * fastrand::f64())
}
