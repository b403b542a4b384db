//! The one source of `now`. It never goes back, and reads never run ahead of a batch in flight.
//!
//! A batch is decided at one instant and becomes visible a little later. A read in between that took a
//! later `now` could answer *timed out* for a promise which the batch settles before its deadline, and
//! the next read would take that back. So reads use the instant of the batch in flight, if there is one.

use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::{SystemTime, UNIX_EPOCH};

use crate::protocol::record::Millis;

/// See the module documentation.
#[derive(Debug)]
pub struct Clock {
    source: Source,
    state: Mutex<State>,
}

#[derive(Debug)]
enum Source {
    System,
    Manual,
    /// Follows tokio's clock, which tests may pause.
    #[cfg(test)]
    Simulated(tokio::time::Instant),
}

#[derive(Debug, Default)]
struct State {
    last: Millis,
    /// Instants of the batches in flight; one per lane at the most.
    in_flight: Vec<Millis>,
}

impl Clock {
    /// The wall clock.
    pub fn system() -> Self {
        Clock {
            source: Source::System,
            state: Mutex::default(),
        }
    }

    /// A clock that stands still until [`Clock::set`], for tests.
    pub fn manual(now: Millis) -> Self {
        Clock {
            source: Source::Manual,
            state: Mutex::new(State {
                last: now,
                ..State::default()
            }),
        }
    }

    /// A clock that starts at `now` and follows tokio's, for tests.
    #[cfg(test)]
    pub fn simulated(now: Millis) -> Self {
        let started_at =
            tokio::time::Instant::now() - std::time::Duration::from_millis(now.unsigned_abs());
        Clock {
            source: Source::Simulated(started_at),
            state: Mutex::default(),
        }
    }

    /// Moves a manual clock; it does not go back.
    pub fn set(&self, now: Millis) {
        let mut state = self.lock();
        state.last = state.last.max(now);
    }

    /// The current instant.
    pub fn now(&self) -> Millis {
        self.advance(&mut self.lock())
    }

    /// The instant to project a read at.
    pub fn read_now(&self) -> Millis {
        let mut state = self.lock();
        match state.in_flight.iter().min() {
            Some(earliest) => *earliest,
            None => self.advance(&mut state),
        }
    }

    /// Takes the instant of a batch; reads stay at it until the guard is dropped, after the commit.
    pub fn start_batch(&self) -> BatchTime<'_> {
        let mut state = self.lock();
        let now = self.advance(&mut state);
        state.in_flight.push(now);
        BatchTime { clock: self, now }
    }

    fn advance(&self, state: &mut State) -> Millis {
        match self.source {
            Source::System => state.last = state.last.max(wall_ms()),
            Source::Manual => {}
            #[cfg(test)]
            Source::Simulated(since) => {
                state.last = Millis::try_from(since.elapsed().as_millis()).unwrap_or(Millis::MAX);
            }
        }
        state.last
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[allow(clippy::disallowed_methods, reason = "this is the one place")]
fn wall_ms() -> Millis {
    let since = SystemTime::now()
        .duration_since(UNIX_EPOCH)
        .unwrap_or_default();
    Millis::try_from(since.as_millis()).unwrap_or(Millis::MAX)
}

/// The instant of a batch in flight.
#[derive(Debug)]
pub struct BatchTime<'a> {
    clock: &'a Clock,
    /// The one `now` of the batch.
    pub now: Millis,
}

impl Drop for BatchTime<'_> {
    fn drop(&mut self) {
        let mut state = self.clock.lock();
        if let Some(index) = state.in_flight.iter().position(|now| *now == self.now) {
            state.in_flight.swap_remove(index);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_read_does_not_run_ahead_of_a_batch_in_flight() {
        let clock = Clock::manual(10);
        let batch = clock.start_batch();
        clock.set(20);
        assert_eq!((clock.read_now(), clock.now()), (10, 20));
        drop(batch);
        assert_eq!(clock.read_now(), 20);
    }

    #[test]
    fn it_never_goes_back() {
        let clock = Clock::manual(10);
        clock.set(5);
        assert_eq!(clock.now(), 10);
    }
}
