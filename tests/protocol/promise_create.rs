//! `promise.create` (protocol §8) and the ids that must be accepted (§6, D-01).

use serde_json::json;

use crate::harness::record::{
    NOBODY, create, pending, settled, target, task, timed_out, timer, with,
};
use crate::harness::server::{Server, shared, unique};
use crate::harness::snap::{RETRY, versions};

#[test]
fn fields_follow_their_rules() {
    let server = shared();
    server.refused(
        "promise.create",
        json!({"id": "", "timeoutAt": 1}),
        400,
        "Promise ID is required",
    );
    server.refused(
        "promise.create",
        json!({"id": "a\u{0}", "timeoutAt": 1}),
        400,
        "Promise ID must not contain null bytes",
    );
    for timeout_at in [-1, i64::MIN] {
        server.refused(
            "promise.create",
            json!({"id": "a", "timeoutAt": timeout_at}),
            400,
            "TimeoutAt must be a non-negative integer",
        );
    }
}

#[test]
fn row_1_an_existing_promise_is_answered_and_nothing_compared() {
    let server = Server::controlled();
    let first = server.at(1_000).ok(
        "promise.create",
        json!({
            "id": "a", "timeoutAt": 10_000, "tags": {"k": "v"},
            "param": {"headers": {"h": "1"}, "data": "d"},
        }),
    );
    let record = json!({
        "id": "a", "state": "pending", "param": {"headers": {"h": "1"}, "data": "d"},
        "value": {}, "tags": {"k": "v"}, "timeoutAt": 10_000, "createdAt": 1_000,
    });
    assert_eq!(first, json!({"promise": record}));
    // Even a deadline that is over, other tags, and a target change nothing.
    for again in [
        create("a", 10_000, json!({"k": "v"})),
        create("a", 500, timer()),
        create("a", 99_000, target()),
        json!({"id": "a", "timeoutAt": 0}),
    ] {
        assert_eq!(server.at(2_000).ok("promise.create", again), first);
    }
    assert!(!server.at(2_000).snap().has_task("a"));
    let settled = server.at(3_000).settle("a", "rejected");
    assert_eq!(server.at(4_000).create("a", 99_000, json!({})), settled);
}

#[test]
fn row_1_an_existing_promise_past_its_deadline_reads_settled() {
    let server = Server::controlled();
    let promise = server.at(1_000).create("a", 2_000, json!({}));
    let sleep = server.at(1_000).create("s", 2_000, timer());
    let at = server.at(2_000);
    assert_eq!(at.create("a", 9_000, json!({})), timed_out(&promise));
    assert_eq!(
        at.create("s", 9_000, timer()),
        settled(&sleep, "resolved", 2_000)
    );
}

#[test]
fn row_2_a_plain_promise_is_born_pending() {
    let server = Server::controlled();
    let promise = server.at(1_000).create("a", 1_001, json!({"k": "v"}));
    assert_eq!(promise, pending("a", 1_001, 1_000, json!({"k": "v"})));
    let snap = server.at(1_000).snap();
    assert!(!snap.has_task("a"));
    assert_eq!(snap.armed("a"), None);
    server
        .at(1_000)
        .refused("task.get", json!({"id": "a"}), 404, "Task not found");
}

#[test]
fn row_2_a_targeted_promise_is_born_with_a_dispatched_task() {
    let server = Server::controlled();
    let promise = server.at(1_000).create_targeted("a", 90_000);
    assert_eq!(promise, pending("a", 90_000, 1_000, target()));
    assert_eq!(server.at(1_000).task("a"), task("a", "pending", 0, 0));
    let snap = server.at(1_000).snap();
    assert_eq!(snap.task_timeout("a"), Some((RETRY, 31_000)));
    assert_eq!(snap.executes(), versions(&[("a", 0)]));
    assert_eq!(
        snap.0["messages"],
        json!([{
            "address": NOBODY,
            "message": {
                "kind": "execute", "head": {}, "data": {"task": {"id": "a", "version": 0}},
            },
        }])
    );
}

#[test]
fn row_3_born_settled() {
    let server = Server::controlled();
    for (id, timeout_at) in [("past", 900), ("now", 1_000), ("zero", 0)] {
        let promise = server.at(1_000).create(id, timeout_at, json!({}));
        let born = pending(id, timeout_at, timeout_at, json!({}));
        assert_eq!(promise, timed_out(&born));
        assert_eq!(server.at(1_000).get(id), promise);
        let sleep = format!("{id}-timer");
        let promise = server.at(1_000).create(&sleep, timeout_at, timer());
        let born = pending(&sleep, timeout_at, timeout_at, timer());
        assert_eq!(promise, settled(&born, "resolved", timeout_at));
    }
}

#[test]
fn row_3_born_settled_and_targeted_has_a_fulfilled_task_and_no_message() {
    let server = Server::controlled();
    let promise = server.at(1_000).create_targeted("a", 1_000);
    assert_eq!(promise, timed_out(&pending("a", 1_000, 1_000, target())));
    assert_eq!(server.at(1_000).task("a"), task("a", "fulfilled", 0, 0));
    let snap = server.at(1_000).snap();
    assert_eq!(snap.0["messages"], json!([]));
    assert_eq!(snap.0["taskTimeouts"], json!([]));
    assert_eq!(snap.0["promiseTimeouts"], json!([]));
}

#[test]
fn row_3_a_param_survives_being_born_settled() {
    let server = Server::controlled();
    let data = with(create("a", 10, json!({})), json!({"param": {"data": "x"}}));
    let promise = server.at(1_000).ok("promise.create", data)["promise"].clone();
    assert_eq!(promise["param"], json!({"data": "x"}));
    assert_eq!(promise["value"], json!({}));
}

#[test]
fn d03_a_timer_with_a_target_is_a_timer() {
    let server = Server::controlled();
    let tags = json!({"resonate:timer": "true", "resonate:target": NOBODY});
    let promise = server.at(1_000).create("a", 2_000, tags.clone());
    assert_eq!(promise, pending("a", 2_000, 1_000, tags.clone()));
    server
        .at(1_000)
        .refused("task.get", json!({"id": "a"}), 404, "Task not found");
    let snap = server.at(1_000).snap();
    assert!(!snap.has_task("a"));
    assert_eq!(snap.armed("a"), Some(2_000));
    assert_eq!(snap.0["messages"], json!([]));
    server.at(2_000).tick();
    assert_eq!(
        *server.at(2_000).snap().promise("a"),
        settled(&promise, "resolved", 2_000)
    );
    // Born settled: still no task.
    let promise = server.at(3_000).create("b", 2_500, tags);
    assert_eq!(promise["state"], "resolved");
    assert!(!server.at(3_000).snap().has_task("b"));
}

#[test]
fn only_the_text_true_makes_a_timer() {
    let server = Server::controlled();
    let values = ["false", "True", "1", ""];
    let id = |value: &str| format!("t{value}");
    for value in values {
        let tags = json!({"resonate:timer": value, "resonate:target": NOBODY});
        server.at(1_000).create(&id(value), 2_000, tags);
        assert_eq!(
            server.at(1_000).task(&id(value)),
            task(&id(value), "pending", 0, 0)
        );
    }
    for value in values {
        assert_eq!(
            server.at(2_000).get(&id(value))["state"],
            "rejected_timedout"
        );
    }
}

#[test]
fn the_largest_deadline_is_kept() {
    let server = Server::controlled();
    let promise = server.at(1_000).create_targeted("a", i64::MAX);
    assert_eq!(promise["timeoutAt"], json!(i64::MAX));
    assert_eq!(server.at(1_000).snap().armed("a"), Some(i64::MAX));
    assert_eq!(server.at(i64::MAX - 1).get("a")["state"], "pending");
}

#[test]
fn ids_of_every_sdk_lineage_are_accepted() {
    // §6, D-01: no tag constrains the id.
    let server = shared();
    let root = unique("root");
    let ids = [
        format!("{root}.0"),
        format!("{root}.0.1"),
        format!("{root}:0"),
        format!("{root}:0.1"),
        format!("{root}:d0af"),
        format!("{root}.1:0"),
        format!("{root} with spaces / and é漢😀 \"quotes\""),
        format!(".{root}"),
        format!(":{root}"),
        unique("chosen"),
    ];
    for id in ids {
        let tags = json!({
            "resonate:origin": root, "resonate:branch": root, "resonate:parent": root,
            "resonate:prefix": "dotted.prefix", "resonate:scope": "local",
        });
        let created = server.client().create(&id, i64::MAX, tags.clone());
        assert_eq!(created["id"], id);
        assert_eq!(created["tags"], tags);
        assert_eq!(server.client().get(&id), created);
    }
    let dotted = unique("countdown.1");
    let tags = json!({"resonate:origin": dotted, "resonate:branch": dotted});
    assert_eq!(
        server.client().create(&dotted, i64::MAX, tags)["id"],
        dotted
    );
}
