//! The one source of `now`. It never goes back, and reads never run ahead of a batch in flight.
//!
//! A batch is decided at one instant and becomes visible a little later. A read in between that took a
//! later `now` could answer *timed out* for a promise which the batch settles before its deadline, and
//! the next read would take that back. So reads use the instant of the batch in flight, if there is one.
//!
//! Where several servers share a database, each goes by the database's clock, which it asks now and then:
//! its own wall clock does not matter. In between, time passes as the monotonic clock says.
//!
//! When the wall clock is set back, time goes on at half its speed until the wall clock has caught up:
//! if it stood still, so would every lease and retry.

use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use tokio::time::Instant;

use crate::protocol::record::Millis;

/// How far ahead another server's clock is believed.
const CATCH_UP_MAX: Millis = 1000;

/// See the module documentation.
#[derive(Debug)]
pub struct Clock {
    source: Source,
    state: Mutex<State>,
}

#[derive(Debug)]
enum Source {
    System,
    Database,
    Manual,
}

#[derive(Debug, Default)]
struct State {
    last: Millis,
    /// When the database was last asked, and what it said.
    anchor: Option<(Instant, Millis)>,
    /// The latest reading at which the wall clock was not behind, and what it said.
    abreast: Option<(Instant, Millis)>,
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

    /// The clock of a database that says `now`; [`Clock::follow`] keeps it in step. In between it goes by
    /// tokio's clock, which tests may pause.
    pub fn of_database(now: Millis) -> Self {
        Clock {
            source: Source::Database,
            state: Mutex::new(State {
                anchor: Some((Instant::now(), now)),
                ..State::default()
            }),
        }
    }

    /// What the database said within the last `round_trip`: since then, at most that has passed. A
    /// reading that this allows is kept: halfway between the two is no better, and a busy machine would
    /// have time jump to and fro. Any other clock takes no notice.
    pub fn follow(&self, said: Millis, round_trip: Duration) {
        let mut state = self.lock();
        if matches!(self.source, Source::Database) {
            let at = Instant::now();
            let passed = Millis::try_from(round_trip.as_millis()).unwrap_or(Millis::MAX);
            // Both are whole milliseconds, rounded off.
            let latest = said.saturating_add(passed).saturating_add(1);
            let reading = state.anchored(at).unwrap_or(said);
            if !(said..=latest).contains(&reading) {
                state.anchor = Some((at, reading.clamp(said, latest)));
            }
            self.advance(&mut state);
        }
    }

    /// Another server of the database has read this instant: what it stored then must not lie in the
    /// future here. Any other clock takes no notice.
    pub fn catch_up(&self, instant: Millis) {
        let mut state = self.lock();
        if matches!(self.source, Source::Database) {
            let now = self.advance(&mut state);
            state.last = instant.min(now.saturating_add(CATCH_UP_MAX)).max(now);
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
            Source::System => state.follow(wall_ms(), Instant::now()),
            Source::Database => {
                let now = Instant::now();
                if let Some(reading) = state.anchored(now) {
                    state.follow(reading, now);
                }
            }
            Source::Manual => {}
        }
        state.last
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl State {
    /// What the database's clock shows, going by when it was asked.
    fn anchored(&self, at: Instant) -> Option<Millis> {
        let (asked_at, said) = self.anchor?;
        let passed = at.saturating_duration_since(asked_at).as_millis();
        Some(said.saturating_add(Millis::try_from(passed).unwrap_or(Millis::MAX)))
    }

    /// Takes in what the wall clock says at a moment of the monotonic clock.
    fn follow(&mut self, wall: Millis, at: Instant) {
        match self.abreast {
            Some((since, then)) if wall < self.last => {
                let passed = at.saturating_duration_since(since).as_millis() / 2;
                let passed = Millis::try_from(passed).unwrap_or(Millis::MAX);
                self.last = self.last.max(then.saturating_add(passed));
            }
            _ => {
                self.last = self.last.max(wall);
                self.abreast = Some((at, self.last));
            }
        }
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
    fn time_goes_on_slowly_while_the_wall_clock_is_behind() {
        let mut state = State::default();
        let start = Instant::now();
        let mut at = |wall, ms| {
            state.follow(wall, start + Duration::from_millis(ms));
            state.last
        };
        assert_eq!((at(10_000, 0), at(10_100, 100)), (10_000, 10_100));
        // Set back by a second, and read often.
        let readings: Vec<Millis> = (0..2000)
            .map(|ms| at(9_100 + ms, 100 + ms.unsigned_abs()))
            .collect();
        assert_eq!((readings[0], readings[1000]), (10_100, 10_600));
        assert!(readings.is_sorted());
        // Abreast after two seconds, and from then on as before.
        assert_eq!((at(11_100, 2100), at(11_600, 2600)), (11_100, 11_600));
        // Set forward.
        assert_eq!(at(50_000, 2700), 50_000);
    }

    #[test]
    fn the_clock_of_a_database_follows_what_it_says_but_never_back() {
        let clock = Clock::of_database(1_000_000);
        assert!((1_000_000..1_001_000).contains(&clock.now()));
        clock.follow(5_000_000, Duration::from_millis(10));
        assert!((5_000_000..5_001_000).contains(&clock.now()));
        clock.follow(2_000_000, Duration::ZERO);
        assert!((5_000_000..5_001_000).contains(&clock.now()));
    }

    #[test]
    fn an_answer_that_took_long_does_not_move_a_clock_that_may_be_right() {
        let clock = Clock::of_database(1_000_000);
        clock.follow(500_000, Duration::from_secs(10_000));
        assert!((1_000_000..1_001_000).contains(&clock.now()));
    }

    #[test]
    fn a_server_catches_up_with_the_others_but_not_with_a_clock_gone_mad() {
        let clock = Clock::of_database(1_000_000);
        clock.catch_up(1_000_900);
        assert!((1_000_900..1_001_900).contains(&clock.now()));
        clock.catch_up(9_000_000);
        assert!((1_001_900..1_010_000).contains(&clock.now()));
        clock.catch_up(5);
        assert!(clock.now() >= 1_001_900);
    }

    #[test]
    fn it_never_goes_back() {
        let clock = Clock::manual(10);
        clock.set(5);
        assert_eq!(clock.now(), 10);
    }
}
