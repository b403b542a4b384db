//! `task.acquire` (protocol §9).

use serde_json::{Value, json};

use crate::harness::record::{acquired, task};
use crate::harness::server::{Server, shared};
use crate::harness::snap::{LEASE, versions};

fn claim(id: &str, version: i64) -> Value {
    json!({"id": id, "version": version, "pid": "p", "ttl": 5_000})
}

#[test]
fn fields_follow_their_rules() {
    let server = shared();
    for (data, message) in [
        (
            json!({"id": "", "version": 0, "pid": "p", "ttl": 1}),
            "Task ID is required",
        ),
        (
            json!({"id": "a", "version": -1, "pid": "p", "ttl": 1}),
            "Version must be a non-negative integer",
        ),
        (
            json!({"id": "a", "version": 0, "pid": "", "ttl": 1}),
            "Process ID is required",
        ),
        (
            json!({"id": "a", "version": 0, "pid": "p", "ttl": 0}),
            "TTL must be a positive integer",
        ),
        (
            json!({"id": "a", "version": 0, "pid": "p", "ttl": -5}),
            "TTL must be a positive integer",
        ),
    ] {
        server.refused("task.acquire", data, 400, message);
    }
}

#[test]
fn row_1_no_task() {
    let server = Server::controlled();
    server.at(1_000).create("plain", 90_000, json!({}));
    for id in ["none", "plain"] {
        server
            .at(1_000)
            .refused("task.acquire", claim(id, 0), 404, "Task not found");
    }
}

#[test]
fn row_2_a_task_that_is_not_pending() {
    let server = Server::controlled();
    let at = server.at(1_000);
    at.create("a", 90_000, json!({}));
    at.create_targeted("fulfilled", 90_000);
    at.settle("fulfilled", "resolved");
    for id in ["acquired", "suspended", "halted"] {
        at.own(id, 90_000, 60_000);
    }
    at.suspend("suspended", 1, &["a"]).expect(200, &json!({}));
    at.halt("halted");
    for id in ["fulfilled", "acquired", "suspended", "halted"] {
        // State before version, whichever version is named.
        for version in [0, 1, 7] {
            at.refused(
                "task.acquire",
                claim(id, version),
                409,
                "Task is not pending",
            );
        }
    }
}

#[test]
fn row_2_a_task_past_its_deadline() {
    let server = Server::controlled();
    server.at(1_000).create_targeted("x", 2_000);
    server.at(1_000).create_targeted("y", 2_000);
    server.at(1_999).ok("task.acquire", claim("y", 0));
    server
        .at(2_000)
        .refused("task.acquire", claim("x", 0), 409, "Task is not pending");
}

#[test]
fn row_3_another_version() {
    let server = Server::controlled();
    let at = server.at(1_000);
    at.create_targeted("x", 90_000);
    at.refused("task.acquire", claim("x", 1), 409, "Version mismatch");
    at.acquire("x", 0, 1_000);
    at.release("x", 1);
    for version in [0, 2] {
        at.refused("task.acquire", claim("x", version), 409, "Version mismatch");
    }
    at.acquire("x", 1, 1_000);
}

#[test]
fn row_4_the_lease_begins() {
    let server = Server::controlled();
    let promise = server.at(1_000).create_targeted("x", 90_000);
    let answer = server.at(2_000).ok("task.acquire", claim("x", 0));
    assert_eq!(
        answer,
        json!({"task": acquired("x", 1, 0, "p", 5_000), "promise": promise, "preload": []})
    );
    let snap = server.at(2_000).snap();
    assert_eq!(snap.task_timeout("x"), Some((LEASE, 7_000)));
    assert_eq!(snap.executes(), versions(&[]));
    // Not idempotent.
    server
        .at(2_000)
        .refused("task.acquire", claim("x", 0), 409, "Task is not pending");
}

#[test]
fn row_4_buffered_resumes_are_cleared() {
    let server = Server::controlled();
    let at = server.at(1_000);
    for id in ["a", "b"] {
        at.create(id, 90_000, json!({}));
    }
    at.own("x", 90_000, 60_000);
    at.suspend("x", 1, &["a", "b"]).expect(200, &json!({}));
    at.settle("a", "resolved");
    at.settle("b", "resolved");
    assert_eq!(at.task("x"), task("x", "pending", 1, 2));
    let answer = at.ok("task.acquire", claim("x", 1));
    assert_eq!(answer["task"], acquired("x", 2, 0, "p", 5_000));
}

#[test]
fn a_lease_without_end_saturates() {
    let server = Server::controlled();
    let at = server.at(1_000);
    at.create_targeted("x", i64::MAX);
    let answer = at.acquire("x", 0, i64::MAX);
    assert_eq!(answer["task"], acquired("x", 1, 0, "p", i64::MAX));
    assert_eq!(at.snap().task_timeout("x"), Some((LEASE, i64::MAX)));
    at.heartbeat("p", &[("x", 1)]);
    assert_eq!(at.snap().task_timeout("x"), Some((LEASE, i64::MAX)));
    at.own("y", i64::MAX, i64::MAX);
    assert_eq!(at.snap().task_timeout("y"), Some((LEASE, i64::MAX)));
}
