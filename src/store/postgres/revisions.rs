//! What a batch was decided on: which rows it has read, and at which revision.

use std::collections::{BTreeMap, BTreeSet};

use crate::machine::object::Object;
use crate::protocol::lineage;
use crate::protocol::record::{Id, Schedule};

use super::decode::Revised;

/// See the module documentation. What is read twice counts as it was the first time, as it does in the
/// workspace.
#[derive(Debug, Default)]
pub struct Revisions {
    promises: BTreeMap<Id, i64>,
    tasks: BTreeMap<Id, i64>,
    schedules: BTreeMap<Id, i64>,
    trees: BTreeSet<Id>,
    wanted: BTreeSet<Id>,
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

    /// Remembers trees, and ids that were looked for.
    pub fn looked_for(&mut self, trees: &BTreeSet<Id>, wanted: &[String]) {
        self.trees.extend(trees.iter().cloned());
        self.wanted.extend(wanted.iter().map(|id| Id::from(&**id)));
    }

    /// The ranges of ids that the trees are in.
    pub fn ranges(&self) -> impl Iterator<Item = (String, String)> {
        self.trees.iter().flat_map(|root| lineage::ranges(root))
    }

    /// How many promises have been seen in the trees.
    pub fn in_trees(&self) -> usize {
        let is_in_tree = |id: &&Id| self.trees.iter().any(|root| lineage::is_within(id, root));
        self.promises.keys().filter(is_in_tree).count()
    }

    /// What was looked for and was not there.
    pub fn absent(&self) -> Vec<String> {
        let absent = self.wanted.iter();
        let absent = absent.filter(|id| !self.promises.contains_key(*id));
        absent.map(ToString::to_string).collect()
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
