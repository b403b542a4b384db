//! The tag rules (protocol §5.1), the same at every door through which a promise is born:
//! `promise.create`, a fenced create, `task.create`. What a target may be is in `addresses`.

use serde_json::{Value, json};

use crate::harness::record::{create, fence, task_create, with};
use crate::harness::server::{shared, unique};

#[track_caller]
fn refused_at_every_door(timeout_at: i64, tags: &Value, message: &str) {
    let server = shared();
    let id = unique("tags");
    let data = create(&id, timeout_at, tags.clone());
    server.refused("promise.create", data.clone(), 400, message);
    // The inner action is looked at before the fence is.
    let data = fence("no-such-task", 1, "promise.create", data);
    server.refused("task.fence", data, 400, message);
    server.refused("promise.get", json!({"id": id}), 404, "Promise not found");
}

#[test]
fn a_delay_must_be_a_decimal_instant_before_the_deadline() {
    let with_delay = |delay: &str| json!({"resonate:target": "http://h", "resonate:delay": delay});
    for delay in [
        "",
        "-1",
        "1.5",
        "soon",
        "0x10",
        " 1",
        "1 ",
        "1e3",
        "99999999999999999999",
    ] {
        refused_at_every_door(
            i64::MAX,
            &with_delay(delay),
            "resonate:delay must be a non-negative integer",
        );
    }
    for delay in ["5000", "5001", "9223372036854775807"] {
        refused_at_every_door(
            5_000,
            &with_delay(delay),
            "resonate:delay must be less than timeoutAt",
        );
    }
}

#[test]
fn a_delay_needs_a_target() {
    let tags = json!({"resonate:delay": "1"});
    refused_at_every_door(
        5_000,
        &tags,
        "resonate:delay requires a resonate:target tag",
    );
}

#[test]
fn task_create_wants_a_target_and_neither_delay_nor_timer() {
    let server = shared();
    let target = json!({"resonate:target": "http://h"});
    for (tags, message) in [
        (json!({}), "Action must have a resonate:target tag"),
        (
            with(target.clone(), json!({"resonate:delay": "1"})),
            "Action must not have a resonate:delay tag",
        ),
        (
            with(target, json!({"resonate:timer": "true"})),
            "Action must not have a resonate:timer tag",
        ),
    ] {
        server.refused(
            "task.create",
            task_create("n", i64::MAX, tags),
            400,
            message,
        );
    }
}

#[test]
fn other_tags_are_free() {
    let server = shared();
    let tags = json!({
        "": "", "resonate:": "x", "resonate:scope": "galactic", "resonate:external": "maybe",
        "resonate:schedule": "mine", "key with spaces": "é漢😀",
    });
    let id = unique("free");
    let promise = server.client().create(&id, i64::MAX, tags.clone());
    assert_eq!(promise["tags"], tags);
}
