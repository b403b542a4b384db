//! `task.create`: create and acquire in one step (protocol §9).

use serde_json::{Value, json};

use crate::harness::record::{
    acquired, pending, settled, target, task, task_create, timed_out, timer, with,
};
use crate::harness::server::{Server, shared, unique};
use crate::harness::snap::{LEASE, versions};

#[test]
fn fields_follow_their_rules() {
    let server = shared();
    let data = task_create("n", i64::MAX, target());
    let cases = [
        (json!({"pid": ""}), "Process ID is required"),
        (json!({"ttl": 0}), "TTL must be a positive integer"),
        (json!({"ttl": -1}), "TTL must be a positive integer"),
        (
            json!({"action": {"kind": "promise.settle", "data": {"id": "n", "state": "resolved"}}}),
            "Invalid action kind",
        ),
        (
            json!({"action": {"kind": "", "data": data["action"]["data"]}}),
            "Invalid action kind",
        ),
        (
            json!({"action": {"kind": "promise.create", "data": {
                "id": "", "timeoutAt": 1, "tags": target(),
            }}}),
            "Promise ID is required",
        ),
        (
            json!({"action": {"kind": "promise.create", "data": {
                "id": "n", "timeoutAt": -1, "tags": target(),
            }}}),
            "TimeoutAt must be a non-negative integer",
        ),
    ];
    for (over, message) in cases {
        server.refused("task.create", with(data.clone(), over), 400, message);
    }
    let several = with(data, json!({"pid": "", "ttl": 0}));
    server
        .call("task.create", several)
        .expect_rules(&["Process ID is required", "TTL must be a positive integer"]);
}

#[test]
fn the_inner_kind_is_required_and_the_inner_head_is_not() {
    // D-13.
    let server = shared();
    let id = unique("inner");
    let mut data = task_create(&id, i64::MAX, target());
    data["action"].as_object_mut().unwrap().remove("kind");
    server
        .call("task.create", data.clone())
        .expect_invalid("kind");
    data["action"]["kind"] = json!("promise.create");
    data["action"]["head"] = json!({"corrId": "inner", "version": "2026-04-01", "more": null});
    server.call("task.create", data).expect_status(200);
}

#[test]
fn row_1_a_new_promise_is_born_acquired_without_a_message() {
    let server = Server::controlled();
    let tags = json!({"resonate:target": "poll://any@g", "resonate:branch": "x"});
    let mut data = task_create("x", 90_000, tags.clone());
    data["action"]["data"]["param"] = json!({"headers": {}, "data": "e30="});
    let answer = server.at(1_000).ok("task.create", data);
    let promise = with(
        pending("x", 90_000, 1_000, tags),
        json!({"param": {"headers": {}, "data": "e30="}}),
    );
    let task = acquired("x", 1, 0, "p", 1_000);
    assert_eq!(
        answer,
        json!({"task": task, "promise": promise, "preload": []})
    );
    let snap = server.at(1_000).snap();
    assert_eq!(snap.task_timeout("x"), Some((LEASE, 2_000)));
    assert_eq!(snap.armed("x"), Some(90_000));
    assert_eq!(snap.0["messages"], json!([]));
    assert_eq!(server.at(1_000).task("x"), task);
}

#[test]
fn row_2_a_promise_past_its_deadline_is_born_settled() {
    let server = Server::controlled();
    for (id, timeout_at) in [("past", 900), ("now", 1_000)] {
        let answer = server
            .at(1_000)
            .ok("task.create", task_create(id, timeout_at, target()));
        let promise = timed_out(&pending(id, timeout_at, timeout_at, target()));
        assert_eq!(
            answer,
            json!({"task": task(id, "fulfilled", 0, 0), "promise": promise, "preload": []})
        );
    }
    let snap = server.at(1_000).snap();
    assert_eq!(snap.0["taskTimeouts"], json!([]));
    assert_eq!(snap.0["messages"], json!([]));
}

#[test]
fn row_3_a_stored_promise_without_a_task() {
    let server = Server::controlled();
    let at = server.at(1_000);
    at.create("plain", 90_000, json!({}));
    at.create("late", 1_500, json!({}));
    at.create("done", 90_000, json!({}));
    at.settle("done", "resolved");
    for id in ["plain", "late", "done"] {
        server.at(2_000).refused(
            "task.create",
            task_create(id, 90_000, target()),
            422,
            "The promise does not have a resonate:target tag",
        );
    }
}

#[test]
fn row_4_a_fulfilled_task_is_answered_with_its_promise() {
    let server = Server::controlled();
    let at = server.at(1_000);
    let promise = at.create_targeted("done", 90_000);
    let late = at.create_targeted("late", 2_000);
    let held = at.own("held", 2_000, 60_000);
    assert_eq!(held["version"], 1);
    at.settle("done", "rejected");
    // A sibling of the same branch: no preload for a task that is not acquired (D-36).
    let at = server.at(2_000);
    let create = |id: &str| at.ok("task.create", task_create(id, 99_000, target()));
    let expected = |id: &str, version: i64, promise: Value| json!({"task": task(id, "fulfilled", version, 0), "promise": promise, "preload": []});
    let done = settled(&promise, "rejected", 1_000);
    assert_eq!(create("done"), expected("done", 0, done));
    assert_eq!(create("late"), expected("late", 0, timed_out(&late)));
    let held = timed_out(&pending("held", 2_000, 1_000, target()));
    assert_eq!(create("held"), expected("held", 1, held));
}

#[test]
fn row_5_a_pending_task_is_acquired() {
    let server = Server::controlled();
    let at = server.at(1_000);
    let promise = at.create_targeted("x", 90_000);
    let answer = at.ok(
        "task.create",
        task_create(
            "x",
            99_000,
            json!({
                "resonate:target": "http://elsewhere",
            }),
        ),
    );
    assert_eq!(
        answer,
        json!({"task": acquired("x", 1, 0, "p", 1_000), "promise": promise, "preload": []})
    );
    let snap = at.snap();
    assert_eq!(snap.executes(), versions(&[]));
    assert_eq!(snap.task_timeout("x"), Some((LEASE, 2_000)));
    // Released and taken again: the version goes on, resumes are cleared.
    at.create("a", 90_000, json!({}));
    at.await_by("a", "x");
    at.settle("a", "resolved");
    at.release("x", 1);
    assert_eq!(at.task("x"), task("x", "pending", 1, 1));
    let answer = at.ok("task.create", task_create("x", 99_000, target()));
    assert_eq!(answer["task"], acquired("x", 2, 0, "p", 1_000));
}

#[test]
fn row_5_a_delayed_task_is_acquired_before_its_delay() {
    let server = Server::controlled();
    let tags = json!({"resonate:target": "poll://any@g", "resonate:delay": "50000"});
    server.at(1_000).create("x", 90_000, tags);
    let answer = server
        .at(2_000)
        .ok("task.create", task_create("x", 90_000, target()));
    assert_eq!(answer["task"], acquired("x", 1, 0, "p", 1_000));
    let snap = server.at(2_000).snap();
    assert_eq!(snap.task_timeout("x"), Some((LEASE, 3_000)));
}

#[test]
fn row_6_a_task_in_other_hands_is_a_conflict() {
    let server = Server::controlled();
    let at = server.at(1_000);
    at.create("a", 90_000, json!({}));
    for id in ["acquired", "suspended", "halted"] {
        at.own(id, 90_000, 60_000);
    }
    at.suspend("suspended", 1, &["a"]).expect(200, &json!({}));
    at.halt("halted");
    for id in ["acquired", "suspended", "halted"] {
        at.refused(
            "task.create",
            task_create(id, 90_000, target()),
            409,
            "Already exists",
        );
    }
}

#[test]
fn a_timer_that_exists_has_no_task_to_create() {
    // D-03: its promise carries a target, but is not targeted.
    let server = Server::controlled();
    let tags = with(timer(), json!({"resonate:target": "poll://any@g"}));
    server.at(1_000).create("x", 90_000, tags);
    server.at(1_000).refused(
        "task.create",
        task_create("x", 90_000, target()),
        422,
        "The promise does not have a resonate:target tag",
    );
}
