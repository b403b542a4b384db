//! What looks at many objects: whole trees, and pages of everything.

use std::collections::{BTreeMap, BTreeSet};
use std::ops::Bound;

use super::State;
use crate::machine::object::Object;
use crate::protocol::lineage::ranges;
use crate::protocol::record::{Id, Promise, Value};
use crate::store::{Need, Outline, OutlinePage, TREES_MAX};

impl State {
    /// The ids in the trees of a need, or nothing and `true` if there are too many.
    pub(super) fn ids_of_trees(&self, need: &Need) -> (Vec<&Id>, bool) {
        let mut ids = Vec::new();
        for (from, until) in need.trees.iter().flat_map(|root| ranges(root)) {
            let range = (Bound::Included(&*from), Bound::Excluded(&*until));
            ids.extend(self.objects.range::<str, _>(range).map(|(id, _)| id));
        }
        match ids.len() > TREES_MAX {
            true => (Vec::new(), true),
            false => (ids, false),
        }
    }

    pub(super) fn outlines(&self, page: &OutlinePage) -> Vec<Outline> {
        let after = page.after.as_deref().unwrap_or_default();
        let start = Bound::Included(after.max(&page.from));
        let objects = self.objects.range::<str, _>((start, Bound::Unbounded));
        let is_before_end = |id: &Id| page.until.as_deref().is_none_or(|until| **id < *until);
        objects
            .take_while(|(id, _)| is_before_end(id))
            .filter(|(id, _)| Some(*id) != page.after.as_ref())
            .take(page.limit)
            .map(|(_, object)| Outline {
                promise: Promise {
                    value: Value::empty(),
                    param: Value::empty(),
                    ..object.promise.clone()
                },
                resumes: object
                    .task
                    .iter()
                    .flat_map(|task| task.resumes.clone())
                    .collect(),
            })
            .collect()
    }

    pub(super) fn callbacks(&self, after: Option<&(Id, Id)>, limit: usize) -> Vec<(Id, Id)> {
        let start = after.map_or("", |(awaited, _)| awaited);
        let start = (Bound::Included(start), Bound::Unbounded);
        let pairs = self
            .objects
            .range::<str, _>(start)
            .flat_map(|(id, object)| {
                let awaiters = object.callbacks.iter();
                awaiters.map(|awaiter| (id.clone(), awaiter.clone()))
            });
        let is_after = |pair: &(Id, Id)| after.is_none_or(|after| pair > after);
        pairs.filter(is_after).take(limit).collect()
    }
}

/// The object as reads outside a batch answer it.
pub(super) fn without_obligations(object: &Object) -> Object {
    Object {
        promise: object.promise.clone(),
        armed: object.armed,
        callbacks: BTreeSet::new(),
        listeners: BTreeMap::new(),
        task: object.task.clone(),
        trace: object.trace.clone(),
    }
}
