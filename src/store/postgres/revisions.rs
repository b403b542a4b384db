//! What a batch was decided on: which rows it has read, and at which revision.

use std::collections::BTreeMap;

use crate::machine::object::Object;
use crate::protocol::record::{Id, Schedule};

use super::decode::Revised;

/// See the module documentation. What is read twice counts as it was the first time, as it does in the
/// workspace.
#[derive(Debug, Default)]
pub struct Revisions {
    promises: BTreeMap<Id, i64>,
    tasks: BTreeMap<Id, i64>,
    schedules: BTreeMap<Id, i64>,
}

/// Ids in the order in which all batches lock them, and their revisions.
type Rows = (Vec<String>, Vec<i64>);

/// The arguments of the part that locks and compares.
pub struct Held {
    pub promises: Rows,
    pub tasks: Rows,
    pub schedules: Rows,
}

impl Revisions {
    /// Remembers an object.
    pub fn saw_object(&mut self, seen: &Revised<Object>) {
        let id = &seen.row.promise.id;
        self.promises.entry(id.clone()).or_insert(seen.rev);
        if let Some(rev) = seen.task_rev {
            self.tasks.entry(id.clone()).or_insert(rev);
        }
    }

    /// Remembers a schedule.
    pub fn saw_schedule(&mut self, seen: &Revised<Schedule>) {
        let id = &seen.row.id;
        self.schedules.entry(id.clone()).or_insert(seen.rev);
    }

    /// Whether the schedule was there.
    pub fn has_schedule(&self, id: &str) -> bool {
        self.schedules.contains_key(id)
    }

    /// Whether nothing that was looked at was there.
    pub fn is_empty(&self) -> bool {
        self.promises.is_empty() && self.tasks.is_empty() && self.schedules.is_empty()
    }

    /// Everything, in order.
    pub fn held(&self) -> Held {
        let rows = |seen: &BTreeMap<Id, i64>| {
            let ids = seen.keys().map(ToString::to_string).collect();
            (ids, seen.values().copied().collect())
        };
        Held {
            promises: rows(&self.promises),
            tasks: rows(&self.tasks),
            schedules: rows(&self.schedules),
        }
    }
}
