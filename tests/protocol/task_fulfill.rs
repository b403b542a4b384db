//! `task.fulfill` (protocol §9).

use serde_json::json;

use crate::harness::record::{fulfill, settled, target, task, timed_out, with};
use crate::harness::server::{Server, shared};
use crate::harness::snap::versions;

#[test]
fn fields_follow_their_rules() {
    let server = shared();
    for (data, message) in [
        (fulfill("", 1, "resolved"), "Task ID is required"),
        (
            fulfill("x", -1, "resolved"),
            "Version must be a non-negative integer",
        ),
    ] {
        let response = server.call("task.fulfill", data);
        let told = response.message().split("; ").any(|told| told == message);
        assert!(
            response.status == 400 && told,
            "expected {message}{response}"
        );
    }
    let mut data = fulfill("x", 1, "resolved");
    data["action"]["data"]["id"] = json!("y");
    server.refused(
        "task.fulfill",
        data,
        400,
        "Action ID must match the task ID",
    );
    for state in ["pending", "rejected_timedout", "done"] {
        let response = server.call("task.fulfill", fulfill("x", 1, state));
        let message = response.message();
        assert!(
            response.status == 400 && message.contains("unknown variant"),
            "{response}"
        );
    }
    let mut data = fulfill("x", 1, "resolved");
    data["action"].as_object_mut().unwrap().remove("kind");
    server.call("task.fulfill", data).expect_invalid("kind");
    // D-13: the kind is checked.
    let mut data = fulfill("x", 1, "resolved");
    data["action"]["kind"] = json!("promise.create");
    assert_eq!(server.call("task.fulfill", data).status, 400);
}

#[test]
fn row_1_no_task() {
    let server = Server::controlled();
    server.at(1_000).create("plain", 90_000, json!({}));
    for id in ["none", "plain"] {
        server.at(1_000).refused(
            "task.fulfill",
            fulfill(id, 1, "resolved"),
            404,
            "Task not found",
        );
    }
}

#[test]
fn row_2_a_lost_lease() {
    let server = Server::controlled();
    for (id, version) in server.at(1_000).lost_leases() {
        server.at(2_000).refused(
            "task.fulfill",
            fulfill(id, version, "resolved"),
            409,
            "Task version mismatch or invalid state",
        );
    }
    // D-49: the deadline has the last word.
    let late = server.at(2_000).get("late");
    assert_eq!(late["state"], "rejected_timedout");
    assert_eq!(late["value"], json!({}));
}

#[test]
fn row_3_promise_and_task_end_together() {
    let server = Server::controlled();
    let value = json!({"headers": {"h": "1"}, "data": "NDI="});
    let states = ["resolved", "rejected", "rejected_canceled"];
    let promises = states.map(|state| {
        let promise = server.at(1_000).create(state, 90_000, target());
        server.at(1_000).acquire(state, 0, 60_000);
        promise
    });
    for (state, promise) in states.into_iter().zip(&promises) {
        let mut data = fulfill(state, 1, state);
        data["action"]["data"]["value"] = value.clone();
        data["action"]["head"] = json!({"corrId": "inner", "version": "2026-04-01"});
        let answer = server.at(2_000).ok("task.fulfill", data.clone());
        let expected = with(settled(promise, state, 2_000), json!({"value": value}));
        assert_eq!(answer, json!({"promise": expected}));
        let at = server.at(2_000);
        assert_eq!(at.get(state), expected);
        assert_eq!(at.task(state), task(state, "fulfilled", 1, 0));
        let snap = at.snap();
        assert_eq!(snap.task_timeout(state), None);
        assert_eq!(snap.armed(state), None);
        // Once only.
        at.refused(
            "task.fulfill",
            data,
            409,
            "Task version mismatch or invalid state",
        );
    }
}

#[test]
fn row_3_at_the_last_instant() {
    let server = Server::controlled();
    server.at(1_000).own("x", 2_000, 60_000);
    server.at(1_000).own("y", 2_000, 60_000);
    let answer = server
        .at(1_999)
        .ok("task.fulfill", fulfill("x", 1, "resolved"));
    assert_eq!(answer["promise"]["settledAt"], 1_999);
    server.at(2_000).tick();
    assert_eq!(server.at(2_000).get("x"), answer["promise"]);
    let y = server.at(2_000).get("y");
    assert_eq!(y, timed_out(&with(y.clone(), json!({"state": "pending"}))));
}

#[test]
fn row_3_an_expired_lease_that_nobody_has_taken_back_still_fulfils() {
    // Semantics §6: only state and version fence a holder out.
    let server = Server::controlled();
    server.at(1_000).own("x", 90_000, 1_000);
    let answer = server
        .at(5_000)
        .ok("task.fulfill", fulfill("x", 1, "resolved"));
    assert_eq!(answer["promise"]["settledAt"], 5_000);
}

#[test]
fn row_3_the_cascade_runs() {
    let server = Server::controlled();
    let at = server.at(1_000);
    at.own("x", 90_000, 60_000);
    at.own("y", 90_000, 60_000);
    at.suspend("y", 1, &["x"]).expect(200, &json!({}));
    at.listen("x", "poll://uni@g/1");
    let answer = at.ok("task.fulfill", fulfill("x", 1, "resolved"));
    assert_eq!(at.task("y"), task("y", "pending", 1, 1));
    let snap = at.snap();
    assert_eq!(snap.executes(), versions(&[("y", 1)]));
    assert_eq!(
        snap.unblocks(),
        [("poll://uni@g/1".to_owned(), answer["promise"].clone())]
    );
}
