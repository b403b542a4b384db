//! A workflow in eight steps, of which it is known what must be stored after each: for tests that crash something.

use std::collections::BTreeMap;

use resonate::machine::object::Object;
use serde_json::{Value, json};

use crate::harness::record;

const PID: &str = "p";
const FOR_EVER: i64 = i64::MAX;

/// The requests of a workflow, in order.
pub fn steps(root: &str) -> Vec<(&'static str, Value)> {
    let child = |n: usize| format!("{root}.{n}");
    let tags = json!({"resonate:target": "poll://any@crash"});
    let settle = |id: &str| json!({"id": id, "state": "resolved", "value": {"data": id}});
    vec![
        (
            "task.create",
            json!({"pid": PID, "ttl": FOR_EVER, "action": {
                "kind": "promise.create", "data": record::create(root, FOR_EVER, tags)}}),
        ),
        (
            "task.fence",
            record::fence(
                root,
                1,
                "promise.create",
                record::create(&child(0), FOR_EVER, json!({})),
            ),
        ),
        (
            "promise.create",
            record::create(&child(1), FOR_EVER, json!({})),
        ),
        (
            "task.suspend",
            record::suspend(root, 1, &[&child(0), &child(1)]),
        ),
        ("promise.settle", settle(&child(0))),
        (
            "task.acquire",
            json!({"id": root, "version": 1, "pid": PID, "ttl": FOR_EVER}),
        ),
        ("promise.settle", settle(&child(1))),
        (
            "task.fulfill",
            json!({"id": root, "version": 2, "action": {
                "kind": "promise.settle", "data": settle(root)}}),
        ),
    ]
}

/// What is stored after so many steps: state of the root, its task, the children and who awaits them.
pub const STORED: [&str; 9] = [
    "",
    "pending acquired 1 []",
    "pending acquired 1 [] | .0 pending []",
    "pending acquired 1 [] | .0 pending [] | .1 pending []",
    "pending suspended 1 [] | .0 pending [root] | .1 pending [root]",
    "pending pending 1 [.0] | .0 resolved [] | .1 pending [root]",
    "pending acquired 2 [] | .0 resolved [] | .1 pending [root]",
    "pending acquired 2 [.1] | .0 resolved [] | .1 resolved []",
    "resolved fulfilled 2 [] | .0 resolved [] | .1 resolved []",
];

pub fn stored(objects: &BTreeMap<String, Object>, root: &str) -> String {
    let short = |ids: Vec<&str>| {
        let short: Vec<&str> = ids
            .into_iter()
            .map(|id| {
                if id == root {
                    "root"
                } else {
                    &id[root.len()..]
                }
            })
            .collect();
        format!("[{}]", short.join(" "))
    };
    let mut text = String::new();
    if let Some(object) = objects.get(root) {
        let task = object.task.as_ref().expect("a targeted promise has a task");
        let resumes = short(task.resumes.iter().map(|id| &**id).collect());
        let (promise, task) = (&object.promise, task);
        text = format!(
            "{} {} {} {resumes}",
            promise.state.as_str(),
            task.state.as_str(),
            task.version
        );
    }
    for suffix in [".0", ".1"] {
        if let Some(object) = objects.get(&format!("{root}{suffix}")) {
            let awaiters = short(object.callbacks.iter().map(|id| &**id).collect());
            text += &format!(" | {suffix} {} {awaiters}", object.promise.state.as_str());
        }
    }
    text
}
