//! The near deadlines of the store, in memory.
//!
//! Everything at or before `covered_until` that this process knows of is in here; what lies beyond is
//! left in the store, where the next sweep finds it. So memory holds only the near future, and a commit
//! that sets a deadline far away costs nothing.

use std::collections::BTreeSet;

use crate::protocol::record::{Millis, PromiseState, TaskState};
use crate::store::{Change, Changes, Deadline, DeadlineKey};

/// Deadlines held at most; beyond it the latest are left to the store.
pub const DEADLINES_MAX: usize = 100_000;

/// See the module documentation.
#[derive(Debug, Default)]
pub struct Deadlines {
    soonest: BTreeSet<Deadline>,
    covered_until: Millis,
}

impl Deadlines {
    /// Adds a deadline if it is near. Returns whether it is now the first.
    pub fn insert(&mut self, deadline: Deadline) -> bool {
        if deadline.at > self.covered_until {
            return false;
        }
        let is_first = self.soonest.first().is_none_or(|first| deadline < *first);
        self.soonest.insert(deadline);
        if self.soonest.len() > DEADLINES_MAX
            && let Some(last) = self.soonest.pop_last()
        {
            self.covered_until = self.covered_until.min(last.at.saturating_sub(1));
        }
        is_first
    }

    /// Adds a deadline that a sweep has read, near or not. Returns whether it was not there.
    pub fn hold(&mut self, deadline: Deadline) -> bool {
        self.soonest.insert(deadline)
    }

    /// How many are held.
    pub fn count(&self) -> usize {
        self.soonest.len()
    }

    /// The instant of the first.
    pub fn first_at(&self) -> Option<Millis> {
        self.soonest.first().map(|first| first.at)
    }

    /// Takes what is due, at most `limit`.
    pub fn take_due(&mut self, now: Millis, limit: usize) -> Vec<Deadline> {
        let mut due = Vec::new();
        while due.len() < limit && self.soonest.first().is_some_and(|first| first.at <= now) {
            due.extend(self.soonest.pop_first());
        }
        due
    }

    /// The earliest instant at which there is something to do: a deadline, or, when none is left, the
    /// end of what is covered.
    pub fn next_at(&self) -> Millis {
        self.soonest
            .first()
            .map_or(self.covered_until, |first| first.at)
    }

    /// Whether everything at or before `now` has been taken, and what follows must be read anew.
    pub fn is_used_up(&self, now: Millis) -> bool {
        self.soonest.is_empty() && self.covered_until <= now
    }

    /// From now on deadlines up to `until` are taken in.
    pub fn cover(&mut self, until: Millis) {
        self.covered_until = until;
    }

    /// Deadlines after `until` may be missing.
    pub fn shrink(&mut self, until: Millis) {
        self.covered_until = self.covered_until.min(until);
    }

    /// Whether a deadline at this instant would be taken in.
    pub fn covers(&self, at: Millis) -> bool {
        at <= self.covered_until
    }

    /// Forgets everything.
    pub fn clear(&mut self) {
        self.soonest.clear();
    }
}

/// The deadlines that a commit has set, as far as `is_near` wants them and somebody listens: the retry
/// of a task nobody can receive waits, at no cost, for a stream to open.
pub fn of_changes(
    changes: &Changes,
    is_near: impl Fn(Millis) -> bool,
    is_listened: impl Fn(&str) -> bool,
) -> Vec<Deadline> {
    let mut found = Vec::new();
    for change in &changes.objects {
        of_object(change, &is_near, &is_listened, &mut found);
    }
    for change in &changes.schedules {
        if let Some(schedule) = change
            .after
            .as_ref()
            .filter(|after| is_near(after.next_run_at))
        {
            let key = DeadlineKey::Schedule(schedule.id.clone());
            found.push(Deadline {
                at: schedule.next_run_at,
                key,
            });
        }
    }
    found
}

fn of_object(
    change: &Change,
    is_near: impl Fn(Millis) -> bool,
    is_listened: impl Fn(&str) -> bool,
    found: &mut Vec<Deadline>,
) {
    let object = &change.after;
    let promise = &object.promise;
    let mut add = |at: Millis| {
        if is_near(at) {
            found.push(Deadline {
                at,
                key: DeadlineKey::Promise(promise.id.clone()),
            });
        }
    };
    if promise.state == PromiseState::Pending && object.armed {
        add(promise.timeout_at);
    }
    if let Some(task) = &object.task {
        let at = match task.state {
            TaskState::Acquired => task.expires_at,
            TaskState::Pending => task.retry_at,
            TaskState::Suspended | TaskState::Halted | TaskState::Fulfilled => None,
        };
        let waits_for_a_stream = |at: &Millis| {
            task.state == TaskState::Pending
                && is_near(*at)
                && promise
                    .tags
                    .target()
                    .and_then(crate::protocol::address::queue_of)
                    .is_some_and(|queue| !is_listened(&queue))
        };
        if let Some(at) = at.filter(|at| !waits_for_a_stream(at)) {
            add(at);
        }
    }
    // The first attempt is under way already; only a failed one is to be repeated.
    for (address, listener) in object.listeners.iter().filter(|(_, l)| l.attempts > 0) {
        if let Some(at) = listener.retry_at.filter(|at| is_near(*at)) {
            let key = DeadlineKey::Unblock(promise.id.clone(), address.clone());
            found.push(Deadline { at, key });
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn deadline(at: Millis) -> Deadline {
        Deadline {
            at,
            key: DeadlineKey::Schedule(at.to_string().into()),
        }
    }

    #[test]
    fn only_the_near_future_is_held() {
        let mut deadlines = Deadlines::default();
        deadlines.cover(100);
        assert!(deadlines.insert(deadline(50)));
        assert!(!deadlines.insert(deadline(101)));
        assert!(!deadlines.insert(deadline(60)));
        assert_eq!(deadlines.next_at(), 50);
        assert_eq!(deadlines.take_due(55, 10), vec![deadline(50)]);
        assert_eq!(deadlines.take_due(55, 10), vec![]);
        assert_eq!(deadlines.take_due(60, 10), vec![deadline(60)]);
        assert_eq!(deadlines.next_at(), 100);
        assert!(deadlines.is_used_up(100) && !deadlines.is_used_up(99));
    }

    #[test]
    fn what_does_not_fit_is_left_to_the_store() {
        let mut deadlines = Deadlines::default();
        deadlines.cover(Millis::MAX);
        let most = Millis::try_from(DEADLINES_MAX).unwrap();
        for at in 0..most + 10 {
            deadlines.insert(deadline(at));
        }
        assert!(!deadlines.covers(most + 1));
        assert!(deadlines.covers(most - 2));
    }
}
