//! Which tasks have been offered and were not acquired yet, and which stream was told.
//!
//! When a stream opens, everything that waits for it is offered at once. What another worker was told
//! a moment ago is not told again, unless that worker's stream is gone. Only a memory: forgetting an
//! offer repeats it, and recipients tolerate that.

use std::collections::{HashMap, HashSet};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use tokio::time::Instant;

use crate::protocol::record::{Id, Millis, TaskState};
use crate::store::Changes;
use crate::transport::StreamId;

/// Offers remembered; beyond it all are forgotten.
const OFFERS_MAX: usize = 100_000;
/// How long after a pump found a task its own dispatch may still be on the way.
const DISPATCH_LAG_MAX: Duration = Duration::from_secs(1);

/// Who offers.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Source {
    /// A dispatch: a commit made the task due.
    Dispatch,
    /// A stream opened, and the task was found waiting.
    Pump,
}

/// A task that is offered.
#[derive(Clone, Debug)]
pub(super) struct Offer {
    pub version: i64,
    /// Where it waits until it is acquired, and its place there.
    pub queue: Id,
    pub retry_at: Millis,
}

impl Offer {
    /// Whether it is this very offer, made anew by somebody else. A task that was halted and continued is offered
    /// again at the version it had, in another place; a node that took no part in it can tell only by that. Of what
    /// has its retry behind it the next place is not known.
    fn is_repeated_by(&self, other: &Offer) -> bool {
        let is_known = self.retry_at != Millis::MAX && other.retry_at != Millis::MAX;
        self.version == other.version && (!is_known || self.retry_at == other.retry_at)
    }
}

#[derive(Debug)]
struct Remembered {
    offer: Offer,
    /// Found waiting at this instant, before its own dispatch was seen.
    pumped_at: Option<Instant>,
    /// The task is no longer pending at the version offered.
    is_stale: Arc<AtomicBool>,
    /// Who was told.
    stream: Option<StreamId>,
}

/// What a stream that has gone was told.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Lost {
    /// These tasks: (queue, task, retry instant).
    Tasks(Vec<(Id, Id, Millis)>),
    /// Perhaps more than is remembered.
    Unknown,
}

/// See the module documentation.
#[derive(Debug, Default)]
pub(super) struct Offers {
    by_task: HashMap<Id, Remembered>,
    by_stream: HashMap<StreamId, HashSet<Id>>,
    newest_stream: StreamId,
    /// What streams up to this one were told is not remembered whole.
    forgotten_until: StreamId,
}

impl Offers {
    /// Whether the task was offered at this version.
    pub fn is_offered(&self, id: &str, version: i64) -> bool {
        let known = self.by_task.get(id);
        known.is_some_and(|known| known.offer.version == version)
    }

    /// Notes that a task is about to be offered. Returns a flag that is set once the offer is stale; none if it
    /// should not be made: if a pump finds what was offered already, or a dispatch was overtaken by a pump.
    pub fn note(&mut self, id: &Id, offer: Offer, source: Source) -> Option<Arc<AtomicBool>> {
        let known = self.by_task.get_mut(id);
        if let Some(known) = known.filter(|known| known.offer.is_repeated_by(&offer)) {
            match source {
                Source::Pump => return None,
                Source::Dispatch => {
                    // It may not have been known.
                    known.offer.retry_at = offer.retry_at;
                    let pumped_at = known.pumped_at.take();
                    if pumped_at.is_some_and(|at| at.elapsed() < DISPATCH_LAG_MAX) {
                        return None;
                    }
                }
            }
        }
        if self.by_task.len() >= OFFERS_MAX {
            self.clear();
        }
        let earlier = self.remove(id);
        let is_stale = match earlier {
            // It may be under way still: what is true of it is true of this one.
            Some(earlier) if earlier.offer.version == offer.version => earlier.is_stale,
            earlier => {
                if let Some(earlier) = earlier {
                    earlier.is_stale.store(true, Ordering::Relaxed);
                }
                Arc::default()
            }
        };
        let remembered = Remembered {
            offer,
            pumped_at: (source == Source::Pump).then(Instant::now),
            is_stale: Arc::clone(&is_stale),
            stream: None,
        };
        self.by_task.insert(id.clone(), remembered);
        Some(is_stale)
    }

    /// The offer was written to a stream.
    pub fn written(&mut self, id: &Id, version: i64, stream: StreamId) {
        self.newest_stream = self.newest_stream.max(stream);
        let known = self.by_task.get_mut(id);
        let Some(known) = known.filter(|known| known.offer.version == version) else {
            return;
        };
        if let Some(before) = known.stream.replace(stream) {
            self.leave(before, id);
        }
        self.by_stream.entry(stream).or_default().insert(id.clone());
    }

    /// The offer met nobody. Answers it, if it is known and still good.
    pub fn forget(&mut self, id: &Id, version: i64) -> Option<Offer> {
        let known = self.by_task.get(id)?;
        let is_same = known.offer.version == version;
        let known = if is_same { self.remove(id) } else { None };
        known.map(|known| known.offer)
    }

    /// A stream has gone, and may have taken offers with it.
    pub fn forget_stream(&mut self, stream: StreamId) -> Lost {
        let told = self.by_stream.remove(&stream).unwrap_or_default();
        let lost = told.into_iter().filter_map(|id| {
            let offer = self.by_task.remove(&id)?.offer;
            Some((offer.queue, id, offer.retry_at))
        });
        let lost = lost.collect();
        if stream <= self.forgotten_until {
            Lost::Unknown
        } else {
            Lost::Tasks(lost)
        }
    }

    /// Forgets offers of tasks that are no longer pending at the version offered.
    pub fn committed(&mut self, changes: &Changes) {
        if self.by_task.is_empty() {
            return;
        }
        for change in &changes.objects {
            let Some(task) = &change.after.task else {
                continue;
            };
            let id = &change.after.promise.id;
            let is_over = self.by_task.get(id).is_some_and(|known| {
                task.state != TaskState::Pending || task.version != known.offer.version
            });
            if is_over && let Some(known) = self.remove(id) {
                known.is_stale.store(true, Ordering::Relaxed);
            }
        }
    }

    /// Forgets all.
    pub fn clear(&mut self) {
        self.by_task.clear();
        self.by_stream.clear();
        self.forgotten_until = self.newest_stream;
    }

    fn remove(&mut self, id: &Id) -> Option<Remembered> {
        let known = self.by_task.remove(id)?;
        if let Some(stream) = known.stream {
            self.leave(stream, id);
        }
        Some(known)
    }

    fn leave(&mut self, stream: StreamId, id: &Id) {
        if let Some(told) = self.by_stream.get_mut(&stream) {
            told.remove(id);
            if told.is_empty() {
                self.by_stream.remove(&stream);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn note(offers: &mut Offers, version: i64, source: Source) -> bool {
        note_task(offers, "t", version, source)
    }

    fn note_task(offers: &mut Offers, id: &str, version: i64, source: Source) -> bool {
        let offer = Offer {
            version,
            queue: "any@g".into(),
            retry_at: 7,
        };
        offers.note(&id.into(), offer, source).is_some()
    }

    #[tokio::test(start_paused = true)]
    async fn a_pump_repeats_nothing_and_a_dispatch_does() {
        let mut offers = Offers::default();
        assert!(note(&mut offers, 0, Source::Dispatch));
        assert!(!note(&mut offers, 0, Source::Pump));
        assert!(note(&mut offers, 0, Source::Dispatch));
        assert!(note(&mut offers, 1, Source::Pump));
    }

    #[tokio::test(start_paused = true)]
    async fn a_dispatch_overtaken_by_a_pump_is_not_repeated_but_a_later_one_is() {
        let mut offers = Offers::default();
        assert!(note(&mut offers, 0, Source::Pump));
        assert!(!note(&mut offers, 0, Source::Dispatch));
        assert!(note(&mut offers, 0, Source::Dispatch));
        assert!(note(&mut offers, 2, Source::Pump));
        tokio::time::advance(DISPATCH_LAG_MAX).await;
        assert!(note(&mut offers, 2, Source::Dispatch));
    }

    #[tokio::test(start_paused = true)]
    async fn a_task_continued_on_another_node_is_offered_again_at_the_version_it_had() {
        let (mut offers, id) = (Offers::default(), Id::from("t"));
        let mut note = |retry_at, source| {
            let (version, queue) = (4, "any@g".into());
            let offer = Offer {
                version,
                queue,
                retry_at,
            };
            offers.note(&id, offer, source).is_some()
        };
        assert!(note(7, Source::Pump));
        // Its dispatch went with the halt; this is the one of the continuation.
        assert!(note(9, Source::Dispatch));
        assert!(!note(9, Source::Pump));
        // Continued once more, by a node that does not know of our stream, and has us look.
        assert!(note(11, Source::Pump));
        assert!(!note(11, Source::Dispatch));
        // A retry that is overdue becomes a step; its dispatch is told of the new place.
        assert!(!note(Millis::MAX, Source::Pump));
        assert!(note(13, Source::Dispatch));
        assert!(!note(13, Source::Pump));
    }

    #[tokio::test(start_paused = true)]
    async fn what_a_lost_stream_was_told_is_offered_again_and_nothing_else() {
        let mut offers = Offers::default();
        for id in ["lost", "other's", "nobody's", "passed on"] {
            assert!(note_task(&mut offers, id, 0, Source::Dispatch));
        }
        offers.written(&"lost".into(), 0, 1);
        offers.written(&"other's".into(), 0, 2);
        offers.written(&"passed on".into(), 0, 1);
        offers.written(&"passed on".into(), 0, 2);
        let lost = vec![("any@g".into(), "lost".into(), 7)];
        assert_eq!(offers.forget_stream(1), Lost::Tasks(lost));
        assert_eq!(offers.forget_stream(1), Lost::Tasks(vec![]));
        assert!(note_task(&mut offers, "lost", 0, Source::Pump));
        assert!(!note_task(&mut offers, "other's", 0, Source::Pump));
        assert!(!note_task(&mut offers, "nobody's", 0, Source::Pump));
        assert!(offers.forget(&"nobody's".into(), 0).is_some());
        assert!(note_task(&mut offers, "nobody's", 0, Source::Pump));
        assert!(offers.by_stream.len() == 1 && offers.by_task.len() == 4);
    }

    #[tokio::test(start_paused = true)]
    async fn what_is_forgotten_for_want_of_room_is_known_to_be() {
        let mut offers = Offers::default();
        for n in 0..=OFFERS_MAX {
            assert!(note_task(&mut offers, &n.to_string(), 0, Source::Dispatch));
            offers.written(&n.to_string().into(), 0, 1);
        }
        assert_eq!(offers.by_task.len(), 1);
        assert_eq!(offers.forget_stream(1), Lost::Unknown);
        assert_eq!(offers.forget_stream(2), Lost::Tasks(vec![]));
    }
}
