//! Which queues are to be pumped, and how far each has got.
//!
//! Queues take turns, a page each, so that a long one does not keep the others waiting. Holds one entry
//! per queue, however often somebody asks for it.

use std::collections::{HashMap, VecDeque};

use crate::protocol::record::Id;
use crate::store::QueueCursor;

#[derive(Debug, Default)]
struct Job {
    after: Option<QueueCursor>,
    has_started: bool,
    /// Asked for once more since it has started.
    again: bool,
}

/// See the module documentation.
#[derive(Debug, Default)]
pub(super) struct Backlog {
    jobs: HashMap<Id, Job>,
    /// Those whose turn comes; the one being pumped is not among them.
    turns: VecDeque<Id>,
}

impl Backlog {
    /// Has a queue pumped from its beginning.
    pub fn add(&mut self, queue: Id) {
        match self.jobs.get_mut(&queue) {
            Some(job) => job.again = job.has_started,
            None => {
                self.jobs.insert(queue.clone(), Job::default());
                self.turns.push_back(queue);
            }
        }
    }

    /// The next queue, and the page to go on after. [`Backlog::done`] or [`Backlog::more`] must follow.
    pub fn next(&mut self) -> Option<(Id, Option<QueueCursor>)> {
        let queue = self.turns.pop_front()?;
        let job = self.jobs.get_mut(&queue)?;
        job.has_started = true;
        Some((queue, job.after.clone()))
    }

    /// Nothing is left in the queue, or nobody has room.
    pub fn done(&mut self, queue: Id) {
        if self.jobs.remove(&queue).is_some_and(|job| job.again) {
            self.add(queue);
        }
    }

    /// There is more after this page.
    pub fn more(&mut self, queue: Id, after: Option<QueueCursor>) {
        if let Some(job) = self.jobs.get_mut(&queue) {
            job.after = after;
            self.turns.push_back(queue);
        }
    }

    /// Forgets everything.
    pub fn clear(&mut self) {
        *self = Backlog::default();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn next(backlog: &mut Backlog) -> Option<(String, bool)> {
        let (queue, after) = backlog.next()?;
        Some((queue.to_string(), after.is_some()))
    }

    fn cursor() -> Option<QueueCursor> {
        Some((1, "id".into(), "address".into()))
    }

    #[test]
    fn queues_take_turns() {
        let mut backlog = Backlog::default();
        for queue in ["long", "short", "long"] {
            backlog.add(queue.into());
        }
        assert_eq!(next(&mut backlog), Some(("long".to_owned(), false)));
        backlog.more("long".into(), cursor());
        assert_eq!(next(&mut backlog), Some(("short".to_owned(), false)));
        backlog.done("short".into());
        assert_eq!(next(&mut backlog), Some(("long".to_owned(), true)));
        backlog.done("long".into());
        assert_eq!(next(&mut backlog), None);
        assert!(backlog.jobs.is_empty());
    }

    #[test]
    fn a_queue_asked_for_meanwhile_is_pumped_again_from_its_beginning_once() {
        let mut backlog = Backlog::default();
        backlog.add("q".into());
        backlog.next();
        backlog.add("q".into());
        backlog.more("q".into(), cursor());
        backlog.add("q".into());
        assert_eq!(next(&mut backlog), Some(("q".to_owned(), true)));
        backlog.done("q".into());
        assert_eq!(next(&mut backlog), Some(("q".to_owned(), false)));
        backlog.done("q".into());
        assert_eq!(next(&mut backlog), None);
    }
}
