//! Dispatch, retry, delay, leases (semantics §6), driven by `debug.tick`.

use serde_json::json;

use crate::harness::record::{acquired, task, task_create, timed_out, with};
use crate::harness::server::Server;
use crate::harness::snap::{LEASE, RETRY, versions};

fn delayed(delay: i64) -> serde_json::Value {
    json!({"resonate:target": "poll://any@g", "resonate:delay": delay.to_string()})
}

#[test]
fn retry_dispatches_again_and_replaces_the_message() {
    let server = Server::controlled();
    server.at(1_000).create_targeted("x", 900_000);
    server.at(30_999).tick();
    assert_eq!(
        server.at(30_999).snap().task_timeout("x"),
        Some((RETRY, 31_000))
    );
    server.at(31_000).tick();
    let snap = server.at(31_000).snap();
    assert_eq!(snap.task_timeout("x"), Some((RETRY, 61_000)));
    assert_eq!(snap.executes(), versions(&[("x", 0)]));
    assert_eq!(*snap.task("x"), task("x", "pending", 0, 0));
    // Late: once, from the instant of the pass on (B18).
    server.at(200_000).tick();
    server.at(200_000).tick();
    let snap = server.at(200_000).snap();
    assert_eq!(snap.task_timeout("x"), Some((RETRY, 230_000)));
    assert_eq!(snap.executes(), versions(&[("x", 0)]));
}

#[test]
fn retry_is_the_servers_setting_not_the_workers_ttl() {
    let server = Server::controlled_with(&["--tasks-retry-timeout", "700"]);
    server.at(1_000).own("x", 90_000, 5_000);
    server.at(2_000).release("x", 1);
    assert_eq!(
        server.at(2_000).snap().task_timeout("x"),
        Some((RETRY, 2_700))
    );
    server.at(2_700).tick();
    assert_eq!(
        server.at(2_700).snap().task_timeout("x"),
        Some((RETRY, 3_400))
    );
}

#[test]
fn retry_stops_at_the_deadline() {
    let server = Server::controlled();
    let promise = server.at(1_000).create_targeted("x", 31_000);
    server.at(31_000).tick();
    let snap = server.at(31_000).snap();
    assert_eq!(*snap.promise("x"), timed_out(&promise));
    assert_eq!(*snap.task("x"), task("x", "fulfilled", 0, 0));
    assert_eq!(snap.executes(), versions(&[]));
    assert_eq!(snap.task_timeout("x"), None);
}

#[test]
fn a_delayed_task_is_dispatched_at_its_delay() {
    let server = Server::controlled();
    server.at(1_000).create("x", 90_000, delayed(5_000));
    assert_eq!(server.at(1_000).task("x"), task("x", "pending", 0, 0));
    for now in [1_000, 4_999] {
        server.at(now).tick();
        let snap = server.at(now).snap();
        assert_eq!(snap.task_timeout("x"), Some((RETRY, 5_000)));
        assert_eq!(snap.0["messages"], json!([]));
    }
    server.at(5_000).tick();
    let snap = server.at(5_000).snap();
    assert_eq!(snap.task_timeout("x"), Some((RETRY, 35_000)));
    assert_eq!(snap.executes(), versions(&[("x", 0)]));
}

#[test]
fn a_delay_that_is_not_in_the_future_delays_nothing() {
    let server = Server::controlled();
    for delay in [0, 999, 1_000] {
        let id = format!("x{delay}");
        server.at(1_000).create(&id, 90_000, delayed(delay));
        assert_eq!(
            server.at(1_000).snap().task_timeout(&id),
            Some((RETRY, 31_000))
        );
    }
    assert_eq!(server.at(1_000).snap().executes().len(), 3);
    server.at(1_000).create("next", 90_000, delayed(1_001));
    assert_eq!(
        server.at(1_000).snap().task_timeout("next"),
        Some((RETRY, 1_001))
    );
    assert_eq!(server.at(1_000).snap().executes().len(), 3);
}

#[test]
fn delay_only_affects_birth() {
    let server = Server::controlled();
    let at = server.at(1_000);
    at.create("x", 90_000, delayed(50_000));
    let answer = at.acquire("x", 0, 1_000);
    assert_eq!(answer["task"], acquired("x", 1, 0, "p", 1_000));
    // Released, expired, resumed: at once each time.
    at.release("x", 1);
    assert_eq!(at.snap().executes(), versions(&[("x", 1)]));
    assert_eq!(at.snap().task_timeout("x"), Some((RETRY, 31_000)));
    at.acquire("x", 1, 1_000);
    server.at(2_000).tick();
    assert_eq!(server.at(2_000).snap().executes(), versions(&[("x", 2)]));
    let at = server.at(2_500);
    at.acquire("x", 2, 1_000);
    at.create("a", 90_000, json!({}));
    at.suspend("x", 3, &["a"]).expect(200, &json!({}));
    at.settle("a", "resolved");
    assert_eq!(at.snap().executes(), versions(&[("x", 3)]));
}

#[test]
fn a_lease_expires_at_its_end_and_not_before() {
    let server = Server::controlled();
    server.at(1_000).own("x", 90_000, 5_000);
    server.at(5_999).tick();
    assert_eq!(server.at(5_999).task("x"), acquired("x", 1, 0, "p", 5_000));
    server.at(6_000).tick();
    assert_eq!(server.at(6_000).task("x"), task("x", "pending", 1, 0));
    let snap = server.at(6_000).snap();
    assert_eq!(*snap.task("x"), task("x", "pending", 1, 0));
    assert_eq!(snap.task_timeout("x"), Some((RETRY, 36_000)));
    assert_eq!(snap.executes(), versions(&[("x", 1)]));
    // The old holder is fenced out, by version once somebody else has it.
    let claim = json!({"id": "x", "version": 1});
    let message = "Task version mismatch or invalid state";
    server
        .at(6_000)
        .refused("task.release", claim.clone(), 409, message);
    server.at(6_000).acquire("x", 1, 5_000);
    server
        .at(6_000)
        .refused("task.release", claim, 409, message);
    assert_eq!(server.at(6_000).task("x"), acquired("x", 2, 0, "p", 5_000));
}

#[test]
fn c5_the_deadline_owns_the_cleanup_of_an_expired_lease() {
    let server = Server::controlled();
    let late = server.at(1_000).own("x", 6_000, 5_000);
    assert_eq!(late["version"], 1);
    server.at(1_000).own("y", 4_000, 5_000);
    server.at(7_000).tick();
    let snap = server.at(7_000).snap();
    for id in ["x", "y"] {
        assert_eq!(*snap.task(id), task(id, "fulfilled", 1, 0));
        assert_eq!(snap.promise(id)["state"], "rejected_timedout");
        assert_eq!(snap.task_timeout(id), None);
    }
    assert_eq!(snap.0["messages"], json!([]));
}

#[test]
fn an_expired_lease_has_no_effect_until_its_step_has_run() {
    let server = Server::controlled();
    server.at(1_000).own("x", 90_000, 5_000);
    server.at(9_000).refused(
        "task.create",
        task_create("x", 90_000, json!({"resonate:target": "http://h"})),
        409,
        "Already exists",
    );
    assert_eq!(
        server.at(9_000).snap().task_timeout("x"),
        Some((LEASE, 6_000))
    );
}

#[test]
fn the_version_rises_by_acquisition_alone() {
    // B1; R5: halt then continue is a release.
    let server = Server::controlled();
    let at = server.at(1_000);
    at.create_targeted("x", 90_000);
    at.create("a", 90_000, json!({}));
    let version = |expected: i64| assert_eq!(at.task("x")["version"], expected);
    version(0);
    at.halt("x");
    at.resume_halted("x");
    version(0);
    at.acquire("x", 0, 60_000);
    version(1);
    at.heartbeat("p", &[("x", 1)]);
    at.release("x", 1);
    version(1);
    at.acquire("x", 1, 60_000);
    at.suspend("x", 2, &["a"]).expect(200, &json!({}));
    version(2);
    at.settle("a", "resolved");
    version(2);
    at.acquire("x", 2, 60_000);
    at.halt("x");
    at.resume_halted("x");
    version(3);
    at.settle("x", "resolved");
    version(3);
}

#[test]
fn one_message_per_task_and_one_per_listener() {
    // U4: outbox keys are unique, however often a task is dispatched.
    let server = Server::controlled();
    let at = server.at(1_000);
    at.create_targeted("x", 900_000);
    for version in 0..3 {
        at.acquire("x", version, 60_000);
        at.release("x", version + 1);
    }
    server.at(40_000).tick();
    let snap = server.at(40_000).snap();
    assert_eq!(snap.executes(), versions(&[("x", 3)]));
    assert_eq!(
        snap.0["messages"],
        json!([{
            "address": "poll://any@nobody",
            "message": {
                "kind": "execute", "head": {}, "data": {"task": {"id": "x", "version": 3}},
            },
        }])
    );
}

#[test]
fn a_halted_task_is_not_dispatched_until_continued() {
    let server = Server::controlled();
    let at = server.at(1_000);
    at.create_targeted("x", 900_000);
    at.create("y", 900_000, delayed(5_000));
    at.own("z", 900_000, 5_000);
    for id in ["x", "y", "z"] {
        at.halt(id);
    }
    server.at(100_000).tick();
    let snap = server.at(100_000).snap();
    assert_eq!(snap.executes(), versions(&[]));
    assert_eq!(snap.0["taskTimeouts"], json!([]));
    for id in ["x", "y", "z"] {
        server.at(200_000).resume_halted(id);
    }
    let snap = server.at(200_000).snap();
    assert_eq!(snap.executes(), versions(&[("x", 0), ("y", 0), ("z", 1)]));
    let retry = |id: &str| json!({"id": id, "type": RETRY, "timeout": 230_000});
    assert_eq!(
        snap.0["taskTimeouts"],
        json!([retry("x"), retry("y"), retry("z")])
    );
}

#[test]
fn a_long_lease_is_not_shortened_by_time() {
    let server = Server::controlled();
    let data = with(
        task_create("x", i64::MAX, json!({"resonate:target": "http://h"})),
        json!({"ttl": i64::MAX}),
    );
    server.at(1_000).ok("task.create", data);
    server.at(4_000_000_000_000).tick();
    let expected = acquired("x", 1, 0, "p", i64::MAX);
    assert_eq!(server.at(4_000_000_000_000).task("x"), expected);
}
