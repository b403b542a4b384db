//! What has been answered and not been sent yet: clients that ask and do not read must not fill the memory.
//!
//! An answer holds room from when it is made until its last byte has been handed to the system. Without
//! room the next ones wait, small ones apart from large ones; while they do, connections that take the
//! answers they were given too slowly are closed.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use bytes::Bytes;
use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tokio::time::{Instant, timeout};

use crate::net::Cut;

/// An answer up to this size is small.
const SMALL_BYTES_MAX: usize = 16 * 1024;
/// Bytes of all small ones.
const ALL_SMALL_BYTES_MAX: usize = 64 * 1024 * 1024;
/// Bytes are counted in blocks, so that a semaphore's permits suffice.
const BLOCK_BYTES: usize = 1024;
/// How often those who wait look for connections that are too slow.
const CUT_INTERVAL: Duration = Duration::from_millis(250);
/// How long an answer may take to be sent while others wait, and bytes a second for what it is larger.
const SENDING_MIN: Duration = Duration::from_secs(1);
const SENDING_BYTES: usize = 1024 * 1024;

/// See the module documentation.
pub struct Responses {
    small: Arc<Semaphore>,
    large: Arc<Semaphore>,
    large_blocks_max: usize,
    state: Mutex<State>,
}

struct State {
    next_number: u64,
    sending: BTreeMap<u64, Sending>,
    looked_at: Instant,
}

/// An answer on its way, on a connection that can be closed.
struct Sending {
    slow_at: Instant,
    cut: Cut,
}

/// Room for so many bytes, given back when dropped.
pub struct Room {
    bytes: usize,
    _permit: OwnedSemaphorePermit,
}

impl Responses {
    /// Room for `bytes_max` of large answers.
    pub fn new(bytes_max: usize) -> Arc<Responses> {
        let blocks = |bytes: usize| bytes.div_ceil(BLOCK_BYTES).min(Semaphore::MAX_PERMITS);
        let large_blocks_max = blocks(bytes_max);
        Arc::new(Responses {
            small: Arc::new(Semaphore::new(blocks(ALL_SMALL_BYTES_MAX))),
            large: Arc::new(Semaphore::new(large_blocks_max)),
            large_blocks_max,
            state: Mutex::new(State {
                next_number: 0,
                sending: BTreeMap::new(),
                looked_at: Instant::now(),
            }),
        })
    }

    /// Room for an answer, if there is some at once.
    pub fn try_room(&self, bytes: usize) -> Option<Room> {
        let (semaphore, blocks) = self.kind(bytes);
        let _permit = semaphore.clone().try_acquire_many_owned(blocks).ok()?;
        Some(Room { bytes, _permit })
    }

    /// Waits for room; none when there is none until `deadline`.
    pub async fn room(&self, bytes: usize, deadline: Instant) -> Option<Room> {
        let (semaphore, blocks) = self.kind(bytes);
        let permit = semaphore.clone().acquire_many_owned(blocks);
        tokio::pin!(permit);
        loop {
            self.cut_slow();
            let left = deadline.saturating_duration_since(Instant::now());
            match timeout(left.min(CUT_INTERVAL), &mut permit).await {
                Ok(permit) => {
                    let _permit = permit.ok()?;
                    return Some(Room { bytes, _permit });
                }
                Err(_) if left.is_zero() => return None,
                Err(_) => {}
            }
        }
    }

    /// Sends an answer on a connection, for which there is room.
    pub fn send(self: &Arc<Self>, body: Vec<u8>, room: Room, cut: Cut) -> Bytes {
        let allowed = SENDING_MIN + Duration::from_secs(1) * u32_of(body.len() / SENDING_BYTES);
        let slow_at = Instant::now() + allowed;
        let mut state = self.lock();
        let number = state.next_number;
        state.next_number += 1;
        state.sending.insert(number, Sending { slow_at, cut });
        drop(state);
        Bytes::from_owner(Answer {
            body,
            number,
            responses: self.clone(),
            _room: room,
        })
    }

    /// Which of the two it counts against, and how much. One that is larger than all that may be takes all.
    fn kind(&self, bytes: usize) -> (&Arc<Semaphore>, u32) {
        let blocks = bytes.div_ceil(BLOCK_BYTES);
        if bytes <= SMALL_BYTES_MAX {
            (&self.small, u32_of(blocks))
        } else {
            (&self.large, u32_of(blocks.min(self.large_blocks_max)))
        }
    }

    /// Not for each of those who wait.
    fn cut_slow(&self) {
        let now = Instant::now();
        let mut state = self.lock();
        if now - state.looked_at < CUT_INTERVAL {
            return;
        }
        state.looked_at = now;
        for sending in state.sending.values() {
            if now >= sending.slow_at {
                sending.cut.cut();
            }
        }
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Room {
    /// Whether it suffices for so many.
    pub fn holds(&self, bytes: usize) -> bool {
        bytes <= self.bytes
    }
}

fn u32_of(number: usize) -> u32 {
    u32::try_from(number).unwrap_or(u32::MAX)
}

/// The bytes of an answer. Dropped when they have been handed to the system, or the connection has ended.
struct Answer {
    body: Vec<u8>,
    number: u64,
    responses: Arc<Responses>,
    _room: Room,
}

impl AsRef<[u8]> for Answer {
    fn as_ref(&self) -> &[u8] {
        &self.body
    }
}

impl Drop for Answer {
    fn drop(&mut self) {
        self.responses.lock().sending.remove(&self.number);
    }
}

#[cfg(test)]
mod tests {
    use futures_util::FutureExt;

    use super::*;

    const LARGE: usize = 100 * 1024;

    fn is_cut(cut: &Cut) -> bool {
        cut.is_cut().now_or_never().is_some()
    }

    #[tokio::test(start_paused = true)]
    async fn an_answer_holds_room_until_it_is_sent() {
        let responses = Responses::new(2 * LARGE);
        let send = || {
            let room = responses.try_room(LARGE)?;
            Some(responses.send(vec![0; LARGE], room, Cut::default()))
        };
        let (first, second) = (send().expect("room"), send().expect("room"));
        assert!(send().is_none());
        // Half of it is still to be sent.
        let rest = first.slice(LARGE / 2..);
        drop(first);
        assert!(send().is_none());
        drop(rest);
        assert!(send().is_some());
        // Small ones have room of their own.
        assert!(responses.try_room(SMALL_BYTES_MAX).is_some());
        drop(second);
        assert!(responses.lock().sending.is_empty());
    }

    #[tokio::test(start_paused = true)]
    async fn who_does_not_take_an_answer_is_cut_off_if_others_wait() {
        let responses = Responses::new(LARGE);
        let cut = Cut::default();
        let room = responses.try_room(LARGE).expect("room");
        let sent = responses.send(vec![0; LARGE], room, cut.clone());
        tokio::time::advance(Duration::from_secs(3600)).await;
        assert!(!is_cut(&cut));
        let deadline = Instant::now() + Duration::from_secs(8);
        let waiting = responses.room(LARGE, deadline);
        tokio::pin!(waiting);
        assert!(waiting.as_mut().now_or_never().is_none());
        assert!(is_cut(&cut));
        drop(sent);
        assert!(waiting.await.is_some());
        assert!(Instant::now() < deadline);
    }

    #[tokio::test(start_paused = true)]
    async fn a_large_answer_may_take_its_time_to_be_sent() {
        let bytes = 10 * SENDING_BYTES;
        let responses = Responses::new(bytes);
        let cut = Cut::default();
        let room = responses.try_room(bytes).expect("room");
        let _sent = responses.send(vec![0; bytes], room, cut.clone());
        let deadline = Instant::now() + Duration::from_secs(8);
        assert!(responses.room(LARGE, deadline).await.is_none());
        assert_eq!(Instant::now(), deadline);
        assert!(!is_cut(&cut));
        let deadline = Instant::now() + Duration::from_secs(8);
        assert!(responses.room(LARGE, deadline).await.is_none());
        assert!(is_cut(&cut));
    }
}
