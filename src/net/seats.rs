//! How many connections there may be, and which of them has to go when another one comes.
//!
//! ```text
//!              first request            answered
//!   newcomer ───────────────> busy ────────────────> kept alive
//!                               <────────────────────┘ next request
//! ```
//!
//! A busy connection is never closed for another. Of the others the newcomer that has been silent for
//! longest goes first: clients ask as soon as they are connected, and some lose a request that meets the
//! end of a connection that was kept alive. Only while newcomers are fewer than a tenth of all does one
//! of those go, lest whoever holds the rest kept alive shut everybody out.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use tokio::sync::Notify;

/// Kept-alive connections go only while newcomers are fewer than this part of all.
const NEWCOMERS_PART: usize = 10;
/// So many that were told to go may be there still before no further connection is accepted.
const LEAVING_MAX: usize = 256;

/// All connections of a listener.
pub(super) struct Seats {
    max: usize,
    state: Mutex<State>,
    /// One that was told to go is gone.
    left: Notify,
}

#[derive(Default)]
struct State {
    /// Without those that were told to go.
    open: usize,
    leaving: usize,
    next_number: u64,
    newcomers: BTreeMap<u64, Arc<Order>>,
    kept_alive: BTreeMap<u64, Arc<Order>>,
}

/// A connection's place, given back when dropped.
pub(super) struct Seat {
    seats: Arc<Seats>,
    order: Arc<Order>,
    queue: Queue,
}

/// The order to go.
#[derive(Default)]
pub(super) struct Order {
    given: Notify,
    /// Changed and read under the lock of [`State`].
    is_given: AtomicBool,
}

/// Where a connection waits to be told to go.
#[derive(Clone, Copy)]
enum Queue {
    Newcomers(u64),
    KeptAlive(u64),
    /// In none: it is busy, or was told.
    Neither,
}

impl Seats {
    /// Seats for `max` connections.
    pub fn new(max: usize) -> Arc<Seats> {
        Arc::new(Seats {
            max,
            state: Mutex::default(),
            left: Notify::new(),
        })
    }

    /// A seat for a new connection, for which another may have to go; none if all are busy.
    pub fn take(self: &Arc<Self>) -> Option<Seat> {
        let mut state = self.lock();
        if state.open >= self.max && !state.tell_one_to_go(self.max) {
            return None;
        }
        state.open += 1;
        let order = Arc::new(Order::default());
        let number = state.number();
        state.newcomers.insert(number, order.clone());
        Some(Seat {
            seats: self.clone(),
            order,
            queue: Queue::Newcomers(number),
        })
    }

    /// Tells up to `count` connections to go: the process has run out of something that each of them holds.
    pub fn free(&self, count: usize) {
        let mut state = self.lock();
        for _ in 0..count {
            if !state.tell_one_to_go(self.max) {
                return;
            }
        }
    }

    /// Returns once few of those that were told to go are still there.
    pub async fn until_few_are_leaving(&self) {
        loop {
            let left = self.left.notified();
            if self.lock().leaving < LEAVING_MAX {
                return;
            }
            left.await;
        }
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        // Nothing panics half-way through a change.
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl State {
    fn tell_one_to_go(&mut self, max: usize) -> bool {
        let are_newcomers_many = self.newcomers.len() * NEWCOMERS_PART >= max;
        let one = if are_newcomers_many || self.kept_alive.is_empty() {
            self.newcomers.pop_first()
        } else {
            self.kept_alive.pop_first()
        };
        let Some((_, order)) = one else {
            return false;
        };
        order.is_given.store(true, Ordering::Relaxed);
        order.given.notify_one();
        self.open -= 1;
        self.leaving += 1;
        true
    }

    fn number(&mut self) -> u64 {
        self.next_number += 1;
        self.next_number
    }

    fn remove(&mut self, queue: Queue) {
        match queue {
            Queue::Newcomers(number) => self.newcomers.remove(&number),
            Queue::KeptAlive(number) => self.kept_alive.remove(&number),
            Queue::Neither => None,
        };
    }
}

impl Seat {
    /// The order to go, to be waited for.
    pub fn order(&self) -> Arc<Order> {
        self.order.clone()
    }

    /// The connection has a request to answer.
    pub fn busy(&mut self) {
        let queue = std::mem::replace(&mut self.queue, Queue::Neither);
        self.seats.lock().remove(queue);
    }

    /// It has answered all of them.
    pub fn idle(&mut self) {
        let mut state = self.seats.lock();
        if !self.order.is_given.load(Ordering::Relaxed) {
            let number = state.number();
            state.kept_alive.insert(number, self.order.clone());
            self.queue = Queue::KeptAlive(number);
        }
    }
}

impl Drop for Seat {
    fn drop(&mut self) {
        let mut state = self.seats.lock();
        state.remove(self.queue);
        if self.order.is_given.load(Ordering::Relaxed) {
            state.leaving -= 1;
            self.seats.left.notify_one();
        } else {
            state.open -= 1;
        }
    }
}

impl Order {
    /// Returns when it is given.
    pub async fn given(&self) {
        self.given.notified().await;
    }
}

#[cfg(test)]
mod tests {
    use futures_util::FutureExt;

    use super::*;

    fn is_told(seat: &Seat) -> bool {
        seat.order.is_given.load(Ordering::Relaxed)
    }

    fn kept_alive(seats: &Arc<Seats>) -> Seat {
        let mut seat = seats.take().unwrap();
        seat.busy();
        seat.idle();
        seat
    }

    #[test]
    fn the_newcomer_that_is_silent_for_longest_goes_first() {
        let seats = Seats::new(3);
        let (kept_alive, first, second) = (kept_alive(&seats), seats.take(), seats.take());
        let third = seats.take();
        assert!(third.is_some());
        let told = [&first, &second, &third].map(|seat| is_told(seat.as_ref().unwrap()));
        assert_eq!(told, [true, false, false]);
        assert!(!is_told(&kept_alive));
    }

    #[test]
    fn whoever_holds_everything_kept_alive_shuts_nobody_out() {
        let seats = Seats::new(20);
        let held: Vec<Seat> = (0..20).map(|_| kept_alive(&seats)).collect();
        let newcomers: Vec<Seat> = (0..5).map(|_| seats.take().unwrap()).collect();
        // Two of twenty are enough newcomers; from then on they make room for each other.
        let told = held.iter().map(is_told).filter(|told| *told).count();
        assert_eq!(told, 2);
        assert!(is_told(&held[0]) && is_told(&held[1]));
        let told: Vec<bool> = newcomers.iter().map(is_told).collect();
        assert_eq!(told, [true, true, true, false, false]);
    }

    #[test]
    fn who_is_busy_stays() {
        let seats = Seats::new(2);
        let mut busy: Vec<Seat> = (0..2).map(|_| seats.take().unwrap()).collect();
        busy.iter_mut().for_each(Seat::busy);
        assert!(seats.take().is_none());
        busy[1].idle();
        assert!(seats.take().is_some());
        assert!(!is_told(&busy[0]));
    }

    #[tokio::test]
    async fn nobody_is_accepted_while_many_are_leaving() {
        let seats = Seats::new(LEAVING_MAX);
        let mut first: Vec<Seat> = (0..LEAVING_MAX).map(|_| seats.take().unwrap()).collect();
        let _second: Vec<Seat> = (0..LEAVING_MAX).map(|_| seats.take().unwrap()).collect();
        let waiting = seats.until_few_are_leaving();
        tokio::pin!(waiting);
        assert!(waiting.as_mut().now_or_never().is_none());
        first.pop();
        waiting.await;
    }

    #[tokio::test]
    async fn who_was_told_while_its_request_came_finishes_that_one_only() {
        let seats = Seats::new(1);
        let mut told = seats.take().unwrap();
        let _other = seats.take().unwrap();
        told.order().given().await;
        told.busy();
        told.idle();
        // It waits in no queue to be told again.
        assert!(seats.lock().kept_alive.is_empty());
        drop(told);
        let state = seats.lock();
        assert_eq!((state.open, state.leaving), (1, 0));
    }
}
