//! Which targets are failing, so that a dead one costs a line in the log and not a flood.
//!
//! Owns only the decision whether to warn; it must never grow with the number of targets.

use std::collections::HashMap;
use std::time::Duration;

use tokio::time::Instant;

/// Targets remembered at most; failures of others are logged at debug only.
const TARGETS_MAX: usize = 1024;
/// A target that fails and recovers in turn is warned about this often.
const WARNING_INTERVAL: Duration = Duration::from_secs(60);

/// The targets that failed lately.
#[derive(Debug, Default)]
pub(crate) struct Health {
    targets: HashMap<Box<str>, Target>,
}

#[derive(Debug)]
struct Target {
    /// Why, while it is failing.
    failure: Option<Box<str>>,
    /// That it is failing was said.
    is_said: bool,
    warned_at: Instant,
}

impl Health {
    /// Records a failure and why; answers whether to warn that the target is failing.
    pub fn failed(&mut self, target: &str, reason: &str, now: Instant) -> bool {
        if let Some(known) = self.targets.get_mut(target) {
            let is_quiet = now < known.warned_at + WARNING_INTERVAL;
            let is_news = !known.is_said && !is_quiet;
            known.failure = Some(Box::from(reason));
            if is_news {
                known.is_said = true;
                known.warned_at = now;
            }
            return is_news;
        }
        if self.targets.len() == TARGETS_MAX {
            self.targets
                .retain(|_, known| known.is_said && now < known.warned_at + WARNING_INTERVAL);
        }
        let has_room = self.targets.len() < TARGETS_MAX;
        if has_room {
            let target = Box::from(target);
            self.targets.insert(
                target,
                Target {
                    failure: Some(Box::from(reason)),
                    is_said: true,
                    warned_at: now,
                },
            );
        }
        has_room
    }

    /// Records a delivery; answers whether to say that the target recovered.
    pub fn delivered(&mut self, target: &str) -> bool {
        self.targets.get_mut(target).is_some_and(|known| {
            known.failure = None;
            std::mem::replace(&mut known.is_said, false)
        })
    }

    /// Why the target is failing, if it is.
    pub fn failure(&self, target: &str) -> Option<&str> {
        self.targets.get(target)?.failure.as_deref()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn warns_once_per_change() {
        let mut health = Health::default();
        let now = Instant::now();
        assert!(!health.delivered("http://a"));
        assert!(health.failed("http://a", "status 500", now));
        assert!(!health.failed("http://a", "status 500", now + WARNING_INTERVAL * 2));
        assert!(health.failed("http://b", "status 500", now));
        assert!(health.delivered("http://a"));
        assert!(!health.delivered("http://a"));
        assert!(health.failed("http://a", "status 500", now + WARNING_INTERVAL));
    }

    #[test]
    fn a_flapping_target_is_quiet_for_a_while() {
        let mut health = Health::default();
        let now = Instant::now();
        assert!(health.failed("http://a", "status 500", now));
        assert!(health.delivered("http://a"));
        assert!(!health.failed("http://a", "status 500", now));
        assert!(!health.delivered("http://a"));
        assert!(health.failed("http://a", "status 500", now + WARNING_INTERVAL));
    }

    #[test]
    fn remembers_a_bounded_number_of_targets() {
        let mut health = Health::default();
        let now = Instant::now();
        let warnings = (0..TARGETS_MAX * 3)
            .filter(|n| health.failed(&format!("http://{n}"), "status 500", now));
        assert_eq!(warnings.count(), TARGETS_MAX);
        assert_eq!(health.targets.len(), TARGETS_MAX);
        assert!(health.failed("http://later", "status 500", now + WARNING_INTERVAL));
        assert_eq!(health.targets.len(), 1);
    }
}
