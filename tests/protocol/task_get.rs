//! `task.get` (protocol §9) and the fields a task shows in each state (semantics §2).

use serde_json::json;

use crate::harness::record::{acquired, task, timer};
use crate::harness::server::Server;

#[test]
fn an_id_is_required_and_must_have_a_task() {
    let server = Server::controlled();
    let at = server.at(1_000);
    at.create("plain", 90_000, json!({}));
    at.create("sleep", 90_000, timer());
    at.refused("task.get", json!({"id": ""}), 400, "Task ID is required");
    for id in ["none", "plain", "sleep"] {
        at.refused("task.get", json!({"id": id}), 404, "Task not found");
    }
}

#[test]
fn ttl_and_pid_are_shown_exactly_while_acquired() {
    let server = Server::controlled();
    let at = server.at(1_000);
    at.create("a", 90_000, json!({}));
    at.create_targeted("x", 90_000);
    assert_eq!(at.task("x"), task("x", "pending", 0, 0));
    at.acquire("x", 0, 500);
    assert_eq!(at.task("x"), acquired("x", 1, 0, "p", 500));
    at.suspend("x", 1, &["a"]).expect(200, &json!({}));
    assert_eq!(at.task("x"), task("x", "suspended", 1, 0));
    at.settle("a", "resolved");
    assert_eq!(at.task("x"), task("x", "pending", 1, 1));
    at.halt("x");
    assert_eq!(at.task("x"), task("x", "halted", 1, 1));
    at.settle("x", "resolved");
    assert_eq!(at.task("x"), task("x", "fulfilled", 1, 0));
}

#[test]
fn every_state_reads_fulfilled_from_the_deadline_on() {
    let server = Server::controlled();
    let at = server.at(1_000);
    at.create("a", 90_000, json!({}));
    at.create_targeted("pending", 2_000);
    for id in ["acquired", "suspended", "halted"] {
        at.own(id, 2_000, 60_000);
    }
    at.create("b", 90_000, json!({}));
    at.await_by("b", "acquired");
    at.settle("b", "resolved");
    at.suspend("suspended", 1, &["a"]).expect(200, &json!({}));
    at.halt("halted");
    let before = server.at(1_999);
    assert_eq!(before.task("pending"), task("pending", "pending", 0, 0));
    assert_eq!(
        before.task("acquired"),
        acquired("acquired", 1, 1, "p", 60_000)
    );
    assert_eq!(
        before.task("suspended"),
        task("suspended", "suspended", 1, 0)
    );
    assert_eq!(before.task("halted"), task("halted", "halted", 1, 0));
    for (id, version) in [
        ("pending", 0),
        ("acquired", 1),
        ("suspended", 1),
        ("halted", 1),
    ] {
        assert_eq!(server.at(2_000).task(id), task(id, "fulfilled", version, 0));
    }
}
