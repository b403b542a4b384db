//! The `execute` messages that streams took and whose tasks are still pending.
//!
//! Whoever opens a stream is not told again of what another worker was told already, unless that
//! worker's stream is gone. Only saves needless messages: an offer may be forgotten at any time.

use std::collections::HashMap;

use crate::protocol::record::{Id, TaskState};
use crate::store::Changes;

/// Offers remembered; beyond it they are forgotten, and may be repeated.
const OFFERS_MAX: usize = 100_000;

/// See the module documentation.
#[derive(Debug, Default)]
pub struct Offers {
    /// By task: version and queue.
    by_task: HashMap<Id, (i64, Id)>,
}

impl Offers {
    /// Notes that a task is being offered.
    pub fn note(&mut self, id: &Id, version: i64, queue: Id) {
        if self.by_task.len() >= OFFERS_MAX {
            self.by_task.clear();
        }
        self.by_task.insert(id.clone(), (version, queue));
    }

    /// Whether the task is on offer at this version.
    pub fn has(&self, id: &Id, version: i64) -> bool {
        self.by_task
            .get(id)
            .is_some_and(|(offered, _)| *offered == version)
    }

    /// Forgets an offer that met nobody.
    pub fn forget(&mut self, id: &Id, version: i64) {
        if self.has(id, version) {
            self.by_task.remove(id);
        }
    }

    /// Forgets what a stream of these queues took and may not have acted upon.
    pub fn forget_queues(&mut self, queues: &[Id]) {
        self.by_task.retain(|_, (_, queue)| !queues.contains(queue));
    }

    /// Forgets offers of tasks that are no longer pending at the version offered.
    pub fn committed(&mut self, changes: &Changes) {
        for change in &changes.objects {
            let id = &change.after.promise.id;
            let Some(task) = &change.after.task else {
                continue;
            };
            let is_over = self.by_task.get(id).is_some_and(|(version, _)| {
                task.state != TaskState::Pending || task.version != *version
            });
            if is_over {
                self.by_task.remove(id);
            }
        }
    }
}
