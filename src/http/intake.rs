//! How the body of a request is read: in a place of its own, up to its limit, and not for ever.

use std::time::Duration;

use axum::body::Body;
use bytes::{Bytes, BytesMut};
use http_body_util::BodyExt;
use tokio::time::{Instant, timeout_at};

use super::head::Head;
use super::limits::{Limits, Permit};

/// Bytes of a body that must arrive within `body_read_timeout`, and again each further so many.
const STRIDE_BYTES: usize = 64 * 1024;
/// How much of a body that is too large is read and thrown away before it is refused, and for how
/// long. Most clients write all of it before they look for an answer, and would find the connection
/// broken instead of the 413.
const DISCARDED_BYTES_MAX: usize = 256 * 1024 * 1024;
const DISCARDING_MAX: Duration = Duration::from_secs(5);

/// Why there is no whole body.
pub(super) enum Unread {
    /// Larger than may be; whoever asked before sending it, if it may be, sends nothing when told no.
    TooLarge(Option<Body>),
    /// There is no place for the request.
    NoRoom,
    /// Others waited for the place of a body that hardly arrived.
    TooSlow,
    /// It ended early, or stopped.
    Broken(String),
}

/// Reads a body of at most `bytes_max` (itself at most the largest there may be), once there is a place for
/// the request.
pub(super) async fn read(
    limits: &Limits,
    head: &Head,
    mut body: Body,
    bytes_max: usize,
) -> Result<(Bytes, Permit), Unread> {
    let announced = head.content_length;
    if announced.is_some_and(|bytes| bytes > bytes_max) {
        return Err(Unread::TooLarge((!head.asks_first).then_some(body)));
    }
    let reserved = announced.unwrap_or(bytes_max);
    let permit = limits.admit(reserved).await.ok_or(Unread::NoRoom)?;
    match read_frames(limits, &mut body, bytes_max).await {
        Ok(bytes) => Ok((bytes, permit)),
        Err(Unread::TooLarge(None)) => Err(Unread::TooLarge(Some(body))),
        Err(unread) => Err(unread),
    }
}

async fn read_frames(limits: &Limits, body: &mut Body, bytes_max: usize) -> Result<Bytes, Unread> {
    let mut read = BytesMut::new();
    let started_at = Instant::now();
    let mut stride_until = started_at + limits.body_read_timeout;
    let mut stride_ends = STRIDE_BYTES;
    loop {
        let frame = tokio::select! {
            biased;
            frame = timeout_at(stride_until, body.frame()) => frame,
            () = limits.is_shed(started_at, read.len()) => return Err(Unread::TooSlow),
        };
        let frame = match frame {
            Ok(Some(Ok(frame))) => frame,
            Ok(None) => return Ok(read.freeze()),
            Ok(Some(Err(error))) => {
                return Err(Unread::Broken(format!("the body ended early: {error}")));
            }
            Err(_) => return Err(Unread::Broken("the body stopped arriving".to_owned())),
        };
        // Trailers say nothing.
        let Ok(data) = frame.into_data() else {
            continue;
        };
        if data.len() > bytes_max - read.len() {
            return Err(Unread::TooLarge(None));
        }
        read.extend_from_slice(&data);
        if read.len() >= stride_ends {
            stride_ends = read.len() + STRIDE_BYTES;
            stride_until = Instant::now() + limits.body_read_timeout;
        }
    }
}

/// Reads and throws away what may still come of a body that is too large.
pub(super) async fn discard(mut body: Body) {
    let deadline = Instant::now() + DISCARDING_MAX;
    let mut bytes = 0;
    while bytes < DISCARDED_BYTES_MAX {
        let Ok(Some(Ok(frame))) = timeout_at(deadline, body.frame()).await else {
            return;
        };
        bytes += frame.data_ref().map_or(0, Bytes::len);
    }
}
