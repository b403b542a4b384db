//! Which tasks have been offered to a stream and were not acquired yet.
//!
//! When a stream opens, everything that waits for it is offered at once. What another worker was told
//! a moment ago is not told again, unless that worker's stream is gone. Only a memory: forgetting an
//! offer repeats it, and recipients tolerate that.

use std::collections::HashMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use tokio::time::Instant;

use crate::protocol::record::{Id, TaskState};
use crate::store::Changes;

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

#[derive(Debug)]
struct Offer {
    version: i64,
    queue: Id,
    /// Found waiting at this instant, before its own dispatch was seen.
    pumped_at: Option<Instant>,
    /// The task is no longer pending at the version offered.
    is_stale: Arc<AtomicBool>,
}

/// See the module documentation.
#[derive(Debug, Default)]
pub(super) struct Offers(HashMap<Id, Offer>);

impl Offers {
    /// Notes that a task is about to be offered. Returns a flag that is set once the offer is stale; none if it
    /// should not be made: if a pump finds what was offered already, or a dispatch was overtaken by a pump.
    pub fn note(
        &mut self,
        id: &Id,
        version: i64,
        queue: Id,
        source: Source,
    ) -> Option<Arc<AtomicBool>> {
        if let Some(offer) = self.0.get_mut(id).filter(|offer| offer.version == version) {
            let pumped_at = offer.pumped_at.take();
            match source {
                Source::Pump => {
                    offer.pumped_at = pumped_at;
                    return None;
                }
                Source::Dispatch if pumped_at.is_some_and(|at| at.elapsed() < DISPATCH_LAG_MAX) => {
                    return None;
                }
                Source::Dispatch => {}
            }
        }
        if self.0.len() >= OFFERS_MAX {
            self.0.clear();
        }
        let pumped_at = (source == Source::Pump).then(Instant::now);
        let offer = Offer {
            version,
            queue,
            pumped_at,
            is_stale: Arc::default(),
        };
        let offer = match self.0.remove(id) {
            // It may be under way still: what is true of it is true of this one.
            Some(earlier) if earlier.version == version => Offer {
                is_stale: earlier.is_stale,
                ..offer
            },
            earlier => {
                if let Some(earlier) = earlier {
                    earlier.is_stale.store(true, Ordering::Relaxed);
                }
                offer
            }
        };
        let is_stale = Arc::clone(&offer.is_stale);
        self.0.insert(id.clone(), offer);
        Some(is_stale)
    }

    /// The offer met nobody.
    pub fn forget(&mut self, id: &Id, version: i64) {
        if self.0.get(id).is_some_and(|offer| offer.version == version) {
            self.0.remove(id);
        }
    }

    /// The streams of these queues may have taken offers with them.
    pub fn forget_queues(&mut self, queues: &[Id]) {
        self.0.retain(|_, offer| !queues.contains(&offer.queue));
    }

    /// Forgets offers of tasks that are no longer pending at the version offered.
    pub fn committed(&mut self, changes: &Changes) {
        if self.0.is_empty() {
            return;
        }
        for change in &changes.objects {
            let Some(task) = &change.after.task else {
                continue;
            };
            let id = &change.after.promise.id;
            let is_over = self.0.get(id).is_some_and(|offer| {
                task.state != TaskState::Pending || task.version != offer.version
            });
            if is_over && let Some(offer) = self.0.remove(id) {
                offer.is_stale.store(true, Ordering::Relaxed);
            }
        }
    }

    /// Forgets all.
    pub fn clear(&mut self) {
        self.0.clear();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn note(offers: &mut Offers, version: i64, source: Source) -> bool {
        let offered = offers.note(&"t".into(), version, "any@g".into(), source);
        offered.is_some()
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
    async fn what_a_lost_stream_took_is_offered_again() {
        let mut offers = Offers::default();
        assert!(note(&mut offers, 0, Source::Dispatch));
        offers.forget_queues(&["any@g".into()]);
        assert!(note(&mut offers, 0, Source::Pump));
        offers.forget(&"t".into(), 0);
        assert!(note(&mut offers, 0, Source::Pump));
    }
}
