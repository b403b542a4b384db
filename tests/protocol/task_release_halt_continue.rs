//! `task.release`, `task.halt`, `task.continue` (protocol §9).

use serde_json::{Value, json};

use crate::harness::client::Client;
use crate::harness::record::{acquired, task};
use crate::harness::server::{Server, shared};
use crate::harness::snap::{RETRY, versions};

/// One task of every state, each named after it; `late` is acquired but ends at 2 000.
fn one_of_each(at: Client<'_>) {
    at.create("a", 90_000, json!({}));
    at.create("plain", 90_000, json!({}));
    at.create_targeted("pending", 90_000);
    for id in ["acquired", "suspended", "halted", "fulfilled"] {
        at.own(id, 90_000, 60_000);
    }
    at.own("late", 2_000, 60_000);
    at.own("late-halted", 2_000, 60_000);
    at.suspend("suspended", 1, &["a"]).expect(200, &json!({}));
    at.halt("halted");
    at.halt("late-halted");
    at.settle("fulfilled", "resolved");
}

fn claim(id: &str, version: i64) -> Value {
    json!({"id": id, "version": version})
}

#[test]
fn fields_follow_their_rules() {
    let server = shared();
    server.refused("task.release", claim("", 0), 400, "Task ID is required");
    server.refused(
        "task.release",
        claim("x", -1),
        400,
        "Version must be a non-negative integer",
    );
    server.call("task.release", claim("", -1)).expect_rules(&[
        "Task ID is required",
        "Version must be a non-negative integer",
    ]);
    server.refused("task.halt", json!({"id": ""}), 400, "Task ID is required");
    server.refused(
        "task.continue",
        json!({"id": ""}),
        400,
        "Task ID is required",
    );
}

#[test]
fn release_refusals() {
    let server = Server::controlled();
    one_of_each(server.at(1_000));
    let at = server.at(2_000);
    for id in ["none", "plain"] {
        at.refused("task.release", claim(id, 0), 404, "Task not found");
    }
    for (id, version) in [
        ("pending", 0),
        ("acquired", 0),
        ("acquired", 2),
        ("suspended", 1),
        ("halted", 1),
        ("fulfilled", 1),
        ("late", 1),
    ] {
        let message = "Task version mismatch or invalid state";
        at.refused("task.release", claim(id, version), 409, message);
    }
}

#[test]
fn release_gives_the_task_back_and_dispatches_it_at_once() {
    let server = Server::controlled();
    let at = server.at(1_000);
    at.own("x", 90_000, 60_000);
    at.create("a", 90_000, json!({}));
    at.await_by("a", "x");
    at.settle("a", "resolved");
    server.at(2_000).release("x", 1);
    // Same version, resumes kept, lease dropped.
    assert_eq!(server.at(2_000).task("x"), task("x", "pending", 1, 1));
    let snap = server.at(2_000).snap();
    assert_eq!(snap.task_timeout("x"), Some((RETRY, 32_000)));
    assert_eq!(snap.executes(), versions(&[("x", 1)]));
}

#[test]
fn release_over_and_over_looks_like_any_dispatch() {
    // Only the delivery is put off, which the snap does not show.
    let server = Server::controlled();
    server.at(1_000).create_targeted("x", 90_000);
    for round in 0..8 {
        let now = 1_000 + round;
        server.at(now).acquire("x", round, 60_000);
        server.at(now).release("x", round + 1);
        let snap = server.at(now).snap();
        assert_eq!(snap.task_timeout("x"), Some((RETRY, now + 30_000)));
        assert_eq!(snap.executes(), versions(&[("x", round + 1)]));
    }
}

#[test]
fn halt_refusals() {
    let server = Server::controlled();
    one_of_each(server.at(1_000));
    let at = server.at(2_000);
    for id in ["none", "plain"] {
        at.refused("task.halt", json!({"id": id}), 404, "Task not found");
    }
    // C4: from the deadline on a task is fulfilled, halted or not.
    for id in ["fulfilled", "late", "late-halted"] {
        at.refused("task.halt", json!({"id": id}), 409, "Task is fulfilled");
    }
}

#[test]
fn halt_stops_a_task_in_any_live_state() {
    let server = Server::controlled();
    one_of_each(server.at(1_000));
    let at = server.at(1_500);
    for (id, version) in [
        ("pending", 0),
        ("acquired", 1),
        ("suspended", 1),
        ("halted", 1),
    ] {
        at.halt(id);
        assert_eq!(at.task(id), task(id, "halted", version, 0));
        at.halt(id);
        let snap = at.snap();
        assert_eq!(snap.task_timeout(id), None);
        assert_eq!(*snap.task(id), task(id, "halted", version, 0));
    }
    assert_eq!(at.snap().executes(), versions(&[]));
    // No lease, no retry: time alone does nothing.
    server.at(89_999).tick();
    for id in ["pending", "acquired", "suspended", "halted"] {
        assert_eq!(server.at(89_999).task(id)["state"], "halted");
    }
}

#[test]
fn halt_keeps_resumes_and_buffers_more() {
    let server = Server::controlled();
    let at = server.at(1_000);
    at.own("x", 90_000, 60_000);
    for id in ["a", "b", "c"] {
        at.create(id, 80_000, json!({}));
        at.await_by(id, "x");
    }
    at.settle("a", "resolved");
    assert_eq!(at.task("x"), acquired("x", 1, 1, "p", 60_000));
    at.halt("x");
    assert_eq!(at.task("x"), task("x", "halted", 1, 1));
    at.settle("b", "resolved");
    assert_eq!(at.task("x"), task("x", "halted", 1, 2));
    assert_eq!(at.snap().executes(), versions(&[]));
    at.resume_halted("x");
    assert_eq!(at.task("x"), task("x", "pending", 1, 2));
}

#[test]
fn a_halted_promise_can_be_settled_and_times_out() {
    let server = Server::controlled();
    let at = server.at(1_000);
    for (id, timeout_at) in [("x", 90_000), ("y", 2_000)] {
        at.own(id, timeout_at, 60_000);
        at.halt(id);
    }
    assert_eq!(at.settle("x", "resolved")["state"], "resolved");
    assert_eq!(at.task("x"), task("x", "fulfilled", 1, 0));
    server.at(2_000).tick();
    let snap = server.at(2_000).snap();
    assert_eq!(snap.promise("y")["state"], "rejected_timedout");
    assert_eq!(*snap.task("y"), task("y", "fulfilled", 1, 0));
}

#[test]
fn continue_refusals() {
    let server = Server::controlled();
    one_of_each(server.at(1_000));
    let at = server.at(2_000);
    for id in ["none", "plain"] {
        at.refused("task.continue", json!({"id": id}), 404, "Task not found");
    }
    for id in [
        "pending",
        "acquired",
        "suspended",
        "fulfilled",
        "late",
        "late-halted",
    ] {
        at.refused(
            "task.continue",
            json!({"id": id}),
            409,
            "Task is not halted",
        );
    }
}

#[test]
fn continue_dispatches_at_once() {
    let server = Server::controlled();
    server.at(1_000).own("x", 90_000, 60_000);
    server.at(1_000).halt("x");
    server.at(2_000).resume_halted("x");
    assert_eq!(server.at(2_000).task("x"), task("x", "pending", 1, 0));
    let snap = server.at(2_000).snap();
    assert_eq!(snap.task_timeout("x"), Some((RETRY, 32_000)));
    assert_eq!(snap.executes(), versions(&[("x", 1)]));
    server.at(2_000).refused(
        "task.continue",
        json!({"id": "x"}),
        409,
        "Task is not halted",
    );
    assert_eq!(
        server.at(2_000).acquire("x", 1, 500)["task"],
        acquired("x", 2, 0, "p", 500)
    );
}

#[test]
fn continue_ignores_a_delay() {
    // Delay only affects birth.
    let server = Server::controlled();
    let tags = json!({"resonate:target": "poll://any@g", "resonate:delay": "50000"});
    server.at(1_000).create("x", 90_000, tags);
    server.at(1_000).halt("x");
    server.at(2_000).resume_halted("x");
    let snap = server.at(2_000).snap();
    assert_eq!(snap.task_timeout("x"), Some((RETRY, 32_000)));
    assert_eq!(snap.executes(), versions(&[("x", 0)]));
}
