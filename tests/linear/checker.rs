//! Decides whether calls that overlap in time are what a sequential specification does with them in some order in which
//! none comes before one that had ended when it began (Wing and Gong's search, with Lowe's memory of what was tried).
//!
//! A call that nobody was answered may take effect at any later time, or never.

use std::collections::HashSet;

/// Orders tried before the search gives up: an answer this late is none.
const STEPS_MAX: u64 = 3_000_000;

/// What is specified.
pub trait Specification {
    type Event;
    type State: Clone;

    fn start(&self) -> Self::State;

    /// The state after an event; none if the specification does not allow it, or not with this outcome.
    fn after(&self, state: &Self::State, event: &Self::Event) -> Option<Self::State>;

    /// Tells states apart.
    fn key(&self, state: &Self::State) -> String;
}

/// A call, by an order of all beginnings and ends.
#[derive(Clone, Debug)]
pub struct Call<E> {
    pub began: u64,
    /// None: nobody was answered.
    pub ended: Option<u64>,
    pub event: E,
}

/// Why a history is refused.
#[derive(Debug)]
pub enum Refusal {
    /// No order explains it. The longest that explains a beginning of it, and the calls that could have been next.
    Wrong { order: Vec<usize>, next: Vec<usize> },
    /// The search took too long.
    Undecided,
}

/// A prefix of an order.
struct Node<S> {
    state: S,
    /// The call that led here.
    call: Option<usize>,
    /// Calls that may be next and were not tried.
    next: Vec<usize>,
}

struct Search<'a, S: Specification> {
    specification: &'a S,
    calls: &'a [Call<S::Event>],
    is_done: Vec<bool>,
    /// Calls that were answered and are not done.
    left: usize,
    seen: HashSet<(Vec<u64>, String)>,
    longest: (Vec<usize>, Vec<usize>),
}

/// Checks calls, which are sorted by their beginning. Answers an order that explains them.
pub fn check<S: Specification>(
    specification: &S,
    calls: &[Call<S::Event>],
) -> Result<Vec<usize>, Refusal> {
    assert!(calls.is_sorted_by_key(|call| call.began));
    let mut search = Search {
        specification,
        calls,
        is_done: vec![false; calls.len()],
        left: calls.iter().filter(|call| call.ended.is_some()).count(),
        seen: HashSet::new(),
        longest: (Vec::new(), Vec::new()),
    };
    search.run()
}

impl<S: Specification> Search<'_, S> {
    fn run(&mut self) -> Result<Vec<usize>, Refusal> {
        let mut path = vec![Node {
            state: self.specification.start(),
            call: None,
            next: self.next(),
        }];
        let mut steps = 0;
        while self.left > 0 {
            let Some(node) = path.last_mut() else {
                let (order, next) = std::mem::take(&mut self.longest);
                return Err(Refusal::Wrong { order, next });
            };
            let Some(call) = node.next.pop() else {
                if let Some(call) = path.pop().and_then(|node| node.call) {
                    self.set_done(call, false);
                }
                continue;
            };
            steps += 1;
            if steps > STEPS_MAX {
                return Err(Refusal::Undecided);
            }
            let event = &self.calls[call].event;
            let Some(state) = self.specification.after(&node.state, event) else {
                continue;
            };
            let key = self.specification.key(&state);
            // What changed nothing for nobody may as well not have happened.
            let is_idle =
                self.calls[call].ended.is_none() && key == self.specification.key(&node.state);
            if is_idle {
                continue;
            }
            self.set_done(call, true);
            if !self.seen.insert((self.done(), key)) {
                self.set_done(call, false);
                continue;
            }
            let next = self.next();
            if path.len() > self.longest.0.len() {
                let order = path.iter().filter_map(|node| node.call).chain([call]);
                self.longest = (order.collect(), next.clone());
            }
            path.push(Node {
                state,
                call: Some(call),
                next,
            });
        }
        Ok(path.iter().filter_map(|node| node.call).collect())
    }

    fn set_done(&mut self, call: usize, is_done: bool) {
        self.is_done[call] = is_done;
        if self.calls[call].ended.is_some() {
            if is_done {
                self.left -= 1;
            } else {
                self.left += 1;
            }
        }
    }

    /// The calls that began before any that is left has ended; the likeliest last.
    fn next(&self) -> Vec<usize> {
        let left = || (0..self.calls.len()).filter(|call| !self.is_done[*call]);
        let first_end = left()
            .filter_map(|call| self.calls[call].ended)
            .min()
            .unwrap_or(u64::MAX);
        let mut next: Vec<usize> = left()
            .take_while(|call| self.calls[*call].began < first_end)
            .collect();
        next.sort_by_key(|call| std::cmp::Reverse(self.calls[*call].ended.unwrap_or(u64::MAX)));
        next
    }

    /// Which calls are done, in bits.
    fn done(&self) -> Vec<u64> {
        let bits = |chunk: &[bool]| {
            chunk
                .iter()
                .rev()
                .fold(0, |bits, is_done| bits << 1 | u64::from(*is_done))
        };
        self.is_done.chunks(64).map(bits).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A register: what is written, and what was read.
    struct Register;

    #[derive(Clone, Debug)]
    enum Event {
        Writes(u32),
        Reads(u32),
    }

    impl Specification for Register {
        type Event = Event;
        type State = u32;

        fn start(&self) -> u32 {
            0
        }

        fn after(&self, state: &u32, event: &Event) -> Option<u32> {
            match event {
                Event::Writes(value) => Some(*value),
                Event::Reads(value) => (value == state).then_some(*state),
            }
        }

        fn key(&self, state: &u32) -> String {
            state.to_string()
        }
    }

    fn holds(calls: &[(u64, Option<u64>, Event)]) -> bool {
        let calls: Vec<Call<Event>> = calls
            .iter()
            .cloned()
            .map(|(began, ended, event)| Call {
                began,
                ended,
                event,
            })
            .collect();
        check(&Register, &calls).is_ok()
    }

    #[test]
    fn what_overlaps_may_come_in_any_order() {
        use Event::*;
        let first = [(0, Some(9), Writes(1)), (1, Some(8), Reads(0))];
        let second = [(0, Some(9), Writes(1)), (1, Some(8), Reads(1))];
        assert!(holds(&first) && holds(&second));
        assert!(holds(&[
            (0, Some(9), Writes(1)),
            (1, Some(10), Writes(2)),
            (2, Some(3), Reads(2)),
            (4, Some(5), Reads(1)),
        ]));
    }

    #[test]
    fn what_has_ended_comes_first() {
        use Event::*;
        assert!(!holds(&[(0, Some(1), Writes(1)), (2, Some(3), Reads(0))]));
        assert!(!holds(&[
            (0, Some(9), Writes(1)),
            (1, Some(2), Reads(1)),
            (3, Some(4), Reads(0)),
        ]));
    }

    #[test]
    fn what_nobody_was_answered_may_happen_later_or_never() {
        use Event::*;
        assert!(holds(&[(0, None, Writes(1)), (2, Some(3), Reads(0))]));
        assert!(holds(&[
            (0, None, Writes(1)),
            (2, Some(3), Reads(0)),
            (4, Some(5), Reads(1)),
        ]));
        assert!(!holds(&[
            (0, None, Writes(1)),
            (2, Some(3), Reads(1)),
            (4, Some(5), Reads(0)),
        ]));
    }
}
