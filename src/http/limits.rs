//! What may be in flight at once. A request takes its permit before its body is read: beyond the
//! limits the server stops reading, and the socket is the queue: memory does not grow with load.
//!
//! While requests wait for a place, bodies that hardly arrive lose theirs.

use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use tokio::sync::{Notify, OwnedSemaphorePermit, Semaphore};
use tokio::time::{Instant, timeout};

/// Bytes are counted in blocks, so that a semaphore's permits suffice.
const BLOCK_BYTES: usize = 1024;
/// How many requests may wait for a place. More are refused at once: they take memory too.
const WAITING_MAX: usize = 16_384;
/// How often those who wait look for bodies that hardly arrive.
const SHED_INTERVAL: Duration = Duration::from_millis(100);
/// Bytes a second that must arrive for a body not to lose its place to those who wait, and for how long
/// any body may arrive slower.
const SLOW_BYTES: u128 = 64 * 1024;
const SLOW_MIN: Duration = Duration::from_secs(1);

/// See the module documentation.
pub struct Limits {
    /// Largest body, in bytes.
    pub body_bytes_max: usize,
    /// How long a body may stand still, or a part of it take.
    pub body_read_timeout: Duration,
    /// How long a request may be held before it is refused.
    pub request_deadline: Duration,
    requests: Arc<Semaphore>,
    blocks: Arc<Semaphore>,
    waiting: Semaphore,
    shed: Notify,
    shed_at: Mutex<Instant>,
}

/// How much there may be.
#[derive(Clone, Copy, Debug)]
pub struct Settings {
    /// Largest body, in bytes.
    pub body_bytes_max: usize,
    /// How long each 64 KiB of a body may take to arrive.
    pub body_read_timeout: Duration,
    /// How long a request may be held before it is refused.
    pub request_deadline: Duration,
    /// Requests in flight.
    pub in_flight_max: usize,
    /// Bytes of their bodies.
    pub in_flight_bytes_max: usize,
}

/// The place of a request in flight, given back when dropped.
#[must_use]
pub struct Permit {
    _request: OwnedSemaphorePermit,
    _blocks: OwnedSemaphorePermit,
}

impl Limits {
    /// Nothing is in flight yet.
    pub fn new(settings: Settings) -> Self {
        let semaphore = |permits: usize| Semaphore::new(permits.min(Semaphore::MAX_PERMITS));
        Limits {
            body_bytes_max: settings.body_bytes_max,
            body_read_timeout: settings.body_read_timeout,
            request_deadline: settings.request_deadline,
            requests: Arc::new(semaphore(settings.in_flight_max)),
            blocks: Arc::new(semaphore(
                settings.in_flight_bytes_max.div_ceil(BLOCK_BYTES),
            )),
            waiting: semaphore(WAITING_MAX),
            shed: Notify::new(),
            shed_at: Mutex::new(Instant::now()),
        }
    }

    /// Waits for a place for a request of `bytes` (at most the largest body); none when there is none
    /// within the deadline, or too many wait already.
    pub async fn admit(&self, bytes: usize) -> Option<Permit> {
        let blocks = bytes.min(self.body_bytes_max).div_ceil(BLOCK_BYTES);
        let blocks = u32::try_from(blocks).unwrap_or(u32::MAX);
        let _waiting = self.waiting.try_acquire().ok()?;
        let deadline = Instant::now() + self.request_deadline;
        let admitted = async {
            let request = self.requests.clone().acquire_owned().await.ok()?;
            let blocks = self.blocks.clone().acquire_many_owned(blocks).await.ok()?;
            Some(Permit {
                _request: request,
                _blocks: blocks,
            })
        };
        tokio::pin!(admitted);
        loop {
            let left = deadline.saturating_duration_since(Instant::now());
            match timeout(left.min(SHED_INTERVAL), &mut admitted).await {
                Ok(permit) => return permit,
                Err(_) if left.is_zero() => return None,
                Err(_) => self.shed_slow(),
            }
        }
    }

    /// Returns when the body of which `bytes` have arrived since `started_at` has to make room.
    pub async fn is_shed(&self, started_at: Instant, bytes: usize) {
        loop {
            self.shed.notified().await;
            let elapsed = started_at.elapsed();
            if elapsed >= SLOW_MIN && bytes as u128 * 1000 < SLOW_BYTES * elapsed.as_millis() {
                return;
            }
        }
    }

    /// Not for each of those who wait.
    fn shed_slow(&self) {
        let now = Instant::now();
        let mut shed_at = self.shed_at.lock().unwrap_or_else(PoisonError::into_inner);
        if now - *shed_at >= SHED_INTERVAL {
            *shed_at = now;
            self.shed.notify_waiters();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn limits(in_flight_max: usize, in_flight_bytes_max: usize) -> Limits {
        Limits::new(Settings {
            body_bytes_max: 10_000,
            body_read_timeout: Duration::from_secs(10),
            request_deadline: Duration::from_secs(8),
            in_flight_max,
            in_flight_bytes_max,
        })
    }

    #[tokio::test(start_paused = true)]
    async fn a_request_waits_for_room_and_is_refused_after_the_deadline() {
        let limits = limits(2, 20_000);
        let first = limits.admit(10_000).await.expect("room");
        let second = limits.admit(8_000).await.expect("room");
        let asked_at = Instant::now();
        assert!(limits.admit(0).await.is_none());
        assert_eq!(asked_at.elapsed(), Duration::from_secs(8));
        drop(second);
        assert!(limits.admit(10_000).await.is_some());
        drop(first);
    }

    #[tokio::test(start_paused = true)]
    async fn a_body_that_hardly_arrives_makes_room_only_if_somebody_waits() {
        let limits = limits(2, 20_000);
        let held = (limits.admit(0).await, limits.admit(0).await);
        let started_at = Instant::now();
        let slow = limits.is_shed(started_at, 1_000);
        tokio::pin!(slow);
        let hour = Duration::from_secs(3_600);
        assert!(timeout(hour, &mut slow).await.is_err());

        let started_at = Instant::now();
        let (slow, quick) = (
            limits.is_shed(started_at, 1_000),
            limits.is_shed(started_at, 600_000),
        );
        tokio::select! {
            () = quick => panic!("600 kB in eight seconds are quick"),
            () = slow => {}
            permit = limits.admit(0) => assert!(permit.is_none()),
        }
        let shed_after = started_at.elapsed();
        assert!(
            shed_after >= SLOW_MIN && shed_after < SLOW_MIN * 2,
            "{shed_after:?}"
        );
        drop(held);
    }

    #[tokio::test(start_paused = true)]
    async fn when_too_many_wait_the_next_is_refused_at_once() {
        let limits = limits(1, 20_000);
        let _held = limits.admit(0).await;
        let waiting: Vec<_> = (0..WAITING_MAX).map(|_| limits.admit(0)).collect();
        let crowd = futures_util::future::join_all(waiting);
        let asked_at = Instant::now();
        tokio::select! {
            biased;
            _ = crowd => panic!("nobody gives a place back"),
            permit = limits.admit(0) => assert!(permit.is_none()),
        }
        assert_eq!(asked_at.elapsed(), Duration::ZERO);
    }
}
