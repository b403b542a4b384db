//! What may be in flight at once. A request takes its permit before its body is read: beyond the
//! limits the server stops reading, and the socket is the queue: memory does not grow with load.

use std::sync::Arc;
use std::time::Duration;

use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tokio::time::Instant;

/// Bytes are counted in blocks, so that a semaphore's permits suffice.
const BLOCK_BYTES: usize = 1024;

/// See the module documentation.
pub struct Limits {
    /// Largest body, in bytes.
    pub body_bytes_max: usize,
    /// How long a request may be held before it is refused.
    pub request_deadline: Duration,
    requests: Arc<Semaphore>,
    blocks: Arc<Semaphore>,
}

/// The place of a request in flight, given back when dropped.
#[must_use]
pub struct Permit {
    _request: OwnedSemaphorePermit,
    _blocks: OwnedSemaphorePermit,
}

impl Limits {
    /// Limits of so many requests and so many bytes in flight.
    pub fn new(
        body_bytes_max: usize,
        request_deadline: Duration,
        in_flight_max: usize,
        in_flight_bytes_max: usize,
    ) -> Self {
        let semaphore =
            |permits: usize| Arc::new(Semaphore::new(permits.min(Semaphore::MAX_PERMITS)));
        Limits {
            body_bytes_max,
            request_deadline,
            requests: semaphore(in_flight_max),
            blocks: semaphore(in_flight_bytes_max.div_ceil(BLOCK_BYTES)),
        }
    }

    /// Waits for a place for a request of `bytes` (at most the largest body); none when there is none
    /// within the deadline.
    pub async fn admit(&self, bytes: usize) -> Option<Permit> {
        let blocks = bytes.min(self.body_bytes_max).div_ceil(BLOCK_BYTES);
        let blocks = u32::try_from(blocks).unwrap_or(u32::MAX);
        let deadline = Instant::now() + self.request_deadline;
        let admitted = async {
            let request = self.requests.clone().acquire_owned().await.ok()?;
            let blocks = self.blocks.clone().acquire_many_owned(blocks).await.ok()?;
            Some(Permit {
                _request: request,
                _blocks: blocks,
            })
        };
        tokio::time::timeout_at(deadline, admitted)
            .await
            .ok()
            .flatten()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test(start_paused = true)]
    async fn a_request_waits_for_room_and_is_refused_after_the_deadline() {
        let limits = Limits::new(10_000, Duration::from_secs(8), 2, 20_000);
        let first = limits.admit(10_000).await.expect("room");
        let second = limits.admit(8_000).await.expect("room");
        assert!(limits.admit(0).await.is_none());
        drop(second);
        assert!(limits.admit(10_000).await.is_some());
        drop(first);
    }
}
