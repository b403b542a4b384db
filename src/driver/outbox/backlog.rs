//! Which queues are to be pumped, and how far each has got.
//!
//! Queues take turns, a page each, so that a long one does not keep the others waiting. Holds one entry
//! per queue and kind of message, however often somebody asks for it.
//!
//! A task that was taken stays in its queue until it is acquired. Pumps need not walk over all of those
//! again, each time that somebody has room for a few more:
//!
//! ```text
//!   first      now                         reached                        last     by retry instant
//!     │ overdue │ taken a short while ago     │ not looked at since          │
//!     │ offered │ skipped, but for what       │ offered                      │
//!     │         │ nobody has after all        │                              │
//! ```

use std::collections::{HashMap, VecDeque};

use crate::protocol::record::{Id, Millis};
use crate::store::{MessageKind, QueueCursor};

/// Pages of tasks after which a pump looks again for what is overdue.
const PAGES_MAX: usize = 64;

/// Where a pump begins.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Start {
    /// With what was not offered yet, or is to be offered again.
    Reached,
    /// With the first: who has taken what is not known.
    First,
}

/// A page to be offered.
#[derive(Clone, Debug)]
pub(super) struct Turn {
    pub queue: Id,
    pub kind: MessageKind,
    /// Where the page starts; at the first message if there is none.
    pub after: Option<QueueCursor>,
    /// Up to here everything that is not overdue was taken.
    pub reached: Option<QueueCursor>,
}

impl Turn {
    /// Whether a message that is not overdue was taken by somebody before this pump.
    pub fn has_reached(&self, position: &QueueCursor) -> bool {
        self.reached.as_ref().is_some_and(|end| position <= end)
    }
}

/// How far the messages of one kind in one queue have got.
#[derive(Debug, Default)]
struct Line {
    /// Its turn comes, or a page of it is being offered.
    is_asked_for: bool,
    /// The first page of this pump was begun.
    has_started: bool,
    /// Asked for once more since.
    again: Option<Start>,
    /// Pages of this pump.
    pages: usize,
    after: Option<QueueCursor>,
    reached: Option<QueueCursor>,
    /// The first that nobody has, of those that somebody was to have.
    missed: Option<QueueCursor>,
}

impl Line {
    fn is_blank(&self) -> bool {
        !self.is_asked_for && self.reached.is_none() && self.missed.is_none()
    }

    fn forget(&mut self) {
        self.reached = None;
        self.missed = None;
        if self.has_started {
            self.again = Some(Start::First);
        }
    }
}

/// See the module documentation.
#[derive(Debug, Default)]
pub(super) struct Backlog {
    lines: HashMap<(Id, MessageKind), Line>,
    /// Those whose turn comes; the one being pumped is not among them.
    turns: VecDeque<(Id, MessageKind)>,
}

impl Backlog {
    /// Has a queue pumped.
    pub fn add(&mut self, queue: &Id, from: Start) {
        for kind in [MessageKind::Execute, MessageKind::Unblock] {
            self.add_line((queue.clone(), kind), from);
        }
    }

    fn add_line(&mut self, key: (Id, MessageKind), from: Start) {
        let line = self.lines.entry(key.clone()).or_default();
        if line.has_started {
            line.again = line.again.max(Some(from));
            return;
        }
        if from == Start::First {
            line.reached = None;
            line.missed = None;
        }
        if !line.is_asked_for {
            line.is_asked_for = true;
            self.turns.push_back(key);
        }
    }

    /// The next page. [`Backlog::done`], [`Backlog::more`] or [`Backlog::again`] must follow.
    pub fn next(&mut self) -> Option<Turn> {
        let key = self.turns.pop_front()?;
        let line = self.lines.entry(key.clone()).or_default();
        if !line.has_started {
            line.has_started = true;
            let missed = line.missed.take();
            line.reached = match (line.reached.take(), missed) {
                (Some(reached), Some(missed)) => Some(reached.min(missed)),
                (reached, _) => reached,
            };
        }
        Some(Turn {
            after: line.after.clone(),
            reached: line.reached.clone(),
            queue: key.0,
            kind: key.1,
        })
    }

    /// There is more after this page, which ends at `after`.
    pub fn more(&mut self, turn: Turn, after: QueueCursor) {
        let key = (turn.queue.clone(), turn.kind);
        let Some(line) = self.lines.get_mut(&key) else {
            return;
        };
        line.pages += 1;
        if line.pages >= PAGES_MAX && turn.kind == MessageKind::Execute {
            line.again = line.again.max(Some(Start::Reached));
            self.done(turn, Some(after));
        } else {
            line.after = Some(after);
            self.turns.push_back(key);
        }
    }

    /// The page was not offered.
    pub fn again(&mut self, turn: Turn) {
        let key = (turn.queue, turn.kind);
        if self.lines.contains_key(&key) {
            self.turns.push_back(key);
        }
    }

    /// Nothing is left, or nobody has room. Tasks up to `end` were looked at; those that were refused were
    /// [`Backlog::missed`].
    pub fn done(&mut self, turn: Turn, end: Option<QueueCursor>) {
        let key = (turn.queue, turn.kind);
        let Some(line) = self.lines.get_mut(&key) else {
            return;
        };
        line.is_asked_for = false;
        line.has_started = false;
        line.pages = 0;
        line.after = None;
        let again = line.again.take();
        line.reached = match key.1 {
            MessageKind::Execute => line.reached.take().max(end),
            // It leaves its queue as soon as it was delivered.
            MessageKind::Unblock => None,
        };
        if let Some(from) = again {
            self.add_line(key, from);
        } else if line.is_blank() {
            self.lines.remove(&key);
        }
    }

    /// Nobody has this task, which has its place in the queue by `retry_at`.
    pub fn missed(&mut self, queue: &Id, id: &Id, retry_at: Millis) {
        let key = (queue.clone(), MessageKind::Execute);
        let Some(line) = self.lines.get_mut(&key) else {
            // Its next pump begins with the first.
            return;
        };
        // Just before it.
        let position = (retry_at, id.clone(), Id::from(""));
        if line.missed.as_ref().is_none_or(|first| position < *first) {
            line.missed = Some(position);
        }
    }

    /// Whether a queue is being pumped, or is about to be.
    pub fn is_busy(&self, queue: &Id) -> bool {
        let line = self.lines.get(&(queue.clone(), MessageKind::Execute));
        line.is_some_and(|line| line.is_asked_for)
    }

    /// Forgets how far queues have got, unless it is still true.
    pub fn retain(&mut self, is_true: impl Fn(&Id) -> bool) {
        self.lines.retain(|(queue, _), line| {
            if !is_true(queue) {
                line.forget();
            }
            !line.is_blank()
        });
    }

    /// Forgets how far a queue has got: nobody listens any more.
    pub fn forget(&mut self, queue: &Id) {
        let key = (queue.clone(), MessageKind::Execute);
        if let Some(line) = self.lines.get_mut(&key) {
            line.forget();
            if line.is_blank() {
                self.lines.remove(&key);
            }
        }
    }

    /// Forgets everything. Not in the middle of a page: nothing may follow it.
    pub fn clear(&mut self) {
        *self = Backlog::default();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(retry_at: Millis) -> QueueCursor {
        (retry_at, "id".into(), "address".into())
    }

    /// The next pages: queue, `E` or `U`, where it starts, and what is skipped.
    fn next(backlog: &mut Backlog) -> Option<(Turn, String)> {
        let turn = backlog.next()?;
        let kind = match turn.kind {
            MessageKind::Execute => "E",
            MessageKind::Unblock => "U",
        };
        let at = |cursor: &Option<QueueCursor>| cursor.as_ref().map_or(0, |cursor| cursor.0);
        let text = format!(
            "{} {kind} {} {}",
            turn.queue,
            at(&turn.after),
            at(&turn.reached)
        );
        Some((turn, text))
    }

    /// Takes the next turn, which must be this one.
    fn expect(backlog: &mut Backlog, expected: &str) -> Turn {
        let (turn, text) = next(backlog).expect("a turn");
        assert_eq!(text, expected);
        turn
    }

    /// Pumps the executes of `q` once, up to an end; there is nothing to unblock.
    fn pump_to(backlog: &mut Backlog, from: Start, expected: &str, end: Option<QueueCursor>) {
        backlog.add(&"q".into(), from);
        let executes = expect(backlog, expected);
        backlog.done(executes, end);
        let unblocks = expect(backlog, "q U 0 0");
        backlog.done(unblocks, None);
        assert!(backlog.next().is_none());
    }

    #[test]
    fn queues_take_turns() {
        let mut backlog = Backlog::default();
        for queue in ["long", "short", "long"] {
            backlog.add(&queue.into(), Start::Reached);
        }
        let first = expect(&mut backlog, "long E 0 0");
        backlog.more(first, at(1));
        for expected in ["long U 0 0", "short E 0 0", "short U 0 0"] {
            let turn = expect(&mut backlog, expected);
            backlog.done(turn, None);
        }
        let second = expect(&mut backlog, "long E 1 0");
        backlog.done(second, None);
        assert!(next(&mut backlog).is_none());
        assert!(backlog.lines.is_empty());
    }

    #[test]
    fn a_queue_asked_for_meanwhile_is_pumped_once_more() {
        let mut backlog = Backlog::default();
        backlog.add(&"q".into(), Start::Reached);
        let first = expect(&mut backlog, "q E 0 0");
        let unblocks = expect(&mut backlog, "q U 0 0");
        backlog.done(unblocks, None);
        backlog.add(&"q".into(), Start::Reached);
        backlog.more(first, at(1));
        backlog.add(&"q".into(), Start::Reached);
        let unblocks = expect(&mut backlog, "q U 0 0");
        backlog.done(unblocks, None);
        let second = expect(&mut backlog, "q E 1 0");
        assert!(backlog.is_busy(&"q".into()));
        backlog.done(second, Some(at(9)));
        let again = expect(&mut backlog, "q E 0 9");
        backlog.done(again, Some(at(9)));
        assert!(next(&mut backlog).is_none() && !backlog.is_busy(&"q".into()));
    }

    #[test]
    fn a_pump_skips_what_was_reached_but_for_what_was_missed() {
        let mut backlog = Backlog::default();
        let queue: Id = "q".into();
        pump_to(&mut backlog, Start::Reached, "q E 0 0", Some(at(5)));
        // A pump that stops at what is overdue gets no further.
        pump_to(&mut backlog, Start::Reached, "q E 0 5", Some(at(2)));
        backlog.missed(&queue, &"id".into(), 7);
        backlog.missed(&queue, &"id".into(), 4);
        backlog.missed(&queue, &"id".into(), 6);
        pump_to(&mut backlog, Start::Reached, "q E 0 4", Some(at(9)));
        pump_to(&mut backlog, Start::Reached, "q E 0 9", Some(at(9)));
        pump_to(&mut backlog, Start::First, "q E 0 0", Some(at(9)));
        backlog.forget(&queue);
        pump_to(&mut backlog, Start::Reached, "q E 0 0", None);
        assert!(backlog.lines.is_empty());
    }

    #[test]
    fn a_long_pump_looks_at_the_front_now_and_then() {
        let mut backlog = Backlog::default();
        backlog.add(&"q".into(), Start::Reached);
        let mut starts = Vec::new();
        for retry_at in 1..200 {
            let (turn, text) = loop {
                let (turn, text) = next(&mut backlog).expect("a turn");
                if turn.kind == MessageKind::Execute {
                    break (turn, text);
                }
                backlog.done(turn, None);
            };
            if turn.after.is_none() {
                starts.push(text);
            }
            backlog.more(turn, at(retry_at));
        }
        assert_eq!(starts, ["q E 0 0", "q E 0 64", "q E 0 128", "q E 0 192"]);
    }

    #[test]
    fn what_is_missed_is_not_itself_skipped() {
        let mut backlog = Backlog::default();
        let queue: Id = "q".into();
        pump_to(&mut backlog, Start::Reached, "q E 0 0", Some(at(5)));
        backlog.missed(&queue, &"id".into(), 5);
        backlog.add(&queue, Start::Reached);
        assert!(!expect(&mut backlog, "q E 0 5").has_reached(&at(5)));
    }

    #[test]
    fn a_pump_that_lost_its_listeners_proves_nothing() {
        let mut backlog = Backlog::default();
        let queue: Id = "q".into();
        backlog.add(&queue, Start::Reached);
        let executes = expect(&mut backlog, "q E 0 0");
        backlog.forget(&queue);
        backlog.done(executes, Some(at(5)));
        backlog.retain(|_| true);
        let unblocks = expect(&mut backlog, "q U 0 0");
        backlog.done(unblocks, None);
        expect(&mut backlog, "q E 0 0");
    }
}
