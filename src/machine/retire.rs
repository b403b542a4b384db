//! Forgetting what is over: a promise with all below it goes when nothing in it, and nothing that it hangs on,
//! was unsettled for a while, and nobody is owed anything.
//!
//! What is below goes first, or in the same step: a promise that is created anew never meets what is left of
//! its former self.

use std::sync::Arc;

use crate::protocol::lineage::{above, is_root, is_within, named};
use crate::protocol::record::{Id, Millis, TaskState};
use crate::store::Need;

use super::Retirement;
use super::object::Object;
use super::workspace::Workspace;

/// Adds to `need` what a retirement looks at and is not loaded yet: what it is below, what is below it, and what
/// that names.
pub(super) fn missing(ws: &Workspace, retirement: &Retirement, need: &mut Need) {
    let root = &retirement.root;
    if !ws.has_tree(root) {
        need.trees.insert(root.clone());
    }
    let mut want = |id: &str| {
        if !ws.has(id) {
            need.objects.insert(id.into());
        }
    };
    above(root).for_each(&mut want);
    for object in members(ws, root) {
        named_elsewhere(&object, root).for_each(&mut want);
    }
}

/// Deletes a tree, or a part of one, if all of it is over.
pub(super) fn retire(ws: &mut Workspace, retirement: &Retirement, now: Millis) {
    let Retirement {
        root,
        after_ms,
        is_part,
    } = retirement;
    let is_over = |object: &Object| {
        let settled_at = object.promise.settled_at;
        *after_ms > 0 && settled_at.is_some_and(|at| at.saturating_add(*after_ms) <= now)
    };
    let is_over_or_absent = |id: &str| ws.get(id).is_none_or(|object| is_over(object));
    // A tree that hangs below another promise is a part of that one's tree.
    let stands_free = above(root).all(|id| match is_part {
        true => is_over_or_absent(id),
        false => ws.get(id).is_none(),
    });
    // Below nothing: then it says itself that it is a root, or it is an origin.
    let is_whole = above(root).next().is_none()
        || ws
            .get(root)
            .is_some_and(|object| is_root(root, &object.promise.tags));
    if !stands_free || !(*is_part || is_whole) {
        return;
    }
    let members = members(ws, root);
    let may_go = |object: &Arc<Object>| {
        let is_fulfilled = object
            .task
            .as_ref()
            .is_none_or(|task| task.state == TaskState::Fulfilled);
        is_over(object)
            && is_fulfilled
            && object.callbacks.is_empty()
            && object.listeners.is_empty()
            && named_elsewhere(object, root).all(is_over_or_absent)
    };
    if members.iter().all(may_go) {
        for object in members {
            ws.delete(&object.promise.id);
        }
    }
}

fn members(ws: &Workspace, root: &Id) -> Vec<Arc<Object>> {
    let members = ws.tree(root).unwrap_or_default();
    members.into_values().cloned().collect()
}

/// The ids outside the tree that a promise's tags say it hangs on.
fn named_elsewhere<'a>(object: &'a Object, root: &'a str) -> impl Iterator<Item = &'a str> {
    named(&object.promise.tags).filter(move |id| !is_within(id, root))
}

#[cfg(test)]
mod tests;
