//! `task.heartbeat` (protocol §9, D-05).

use serde_json::json;

use crate::harness::record::{acquired, task};
use crate::harness::server::{Server, shared};
use crate::harness::snap::{LEASE, RETRY};

#[test]
fn fields_follow_their_rules() {
    let server = shared();
    for (data, message) in [
        (json!({"pid": "", "tasks": []}), "Process ID is required"),
        (
            json!({"pid": "p", "tasks": [{"id": "", "version": 1}]}),
            "Task ID is required",
        ),
        (
            json!({"pid": "p", "tasks": [{"id": "a", "version": -1}]}),
            "Version must be a non-negative integer",
        ),
    ] {
        server.refused("task.heartbeat", data, 400, message);
    }
}

#[test]
fn a_lease_becomes_now_plus_the_tasks_own_ttl() {
    let server = Server::controlled();
    // Of several origins in one request, one of them twice.
    server.at(1_000).own("x", 90_000, 5_000);
    server.at(1_000).own("other.1", 90_000, 7_000);
    server.at(1_000).own("third", 90_000, 8_000);
    server
        .at(2_000)
        .heartbeat("p", &[("x", 1), ("other.1", 1), ("x", 1)]);
    let snap = server.at(2_000).snap();
    assert_eq!(snap.task_timeout("x"), Some((LEASE, 7_000)));
    assert_eq!(snap.task_timeout("other.1"), Some((LEASE, 9_000)));
    assert_eq!(snap.task_timeout("third"), Some((LEASE, 9_000)));
    assert_eq!(server.at(2_000).task("x"), acquired("x", 1, 0, "p", 5_000));
}

#[test]
fn what_is_not_held_is_skipped_silently() {
    let server = Server::controlled();
    let at = server.at(1_000);
    at.create("a", 90_000, json!({}));
    at.create("plain", 90_000, json!({}));
    at.create_targeted("pending", 90_000);
    for id in ["held", "suspended", "halted", "done"] {
        at.own(id, 90_000, 5_000);
    }
    at.suspend("suspended", 1, &["a"]).expect(200, &json!({}));
    at.halt("halted");
    at.settle("done", "resolved");
    let before = at.snap().0;
    let at = server.at(2_000);
    at.heartbeat("q", &[("held", 1)]);
    at.heartbeat("p", &[("held", 0), ("held", 2)]);
    at.heartbeat(
        "p",
        &[("suspended", 1), ("halted", 1), ("done", 1), ("pending", 0)],
    );
    at.heartbeat("p", &[("none", 1), ("plain", 1)]);
    assert_eq!(at.snap().0, before);
    // The good ones among bad ones are renewed.
    at.heartbeat("p", &[("none", 1), ("held", 1), ("halted", 1)]);
    assert_eq!(at.snap().task_timeout("held"), Some((LEASE, 7_000)));
}

#[test]
fn c7_the_lease_of_a_dead_task_is_not_renewed() {
    let server = Server::controlled();
    server.at(1_000).own("x", 3_000, 1_500);
    let at = server.at(3_000);
    at.heartbeat("p", &[("x", 1)]);
    at.heartbeat("p", &[]);
    let renewed = at.snap().task_timeout("x") == Some((LEASE, 4_500));
    assert!(!renewed, "{:?}", at.snap());
    assert_eq!(at.task("x"), task("x", "fulfilled", 1, 0));
}

#[test]
fn d05_an_empty_list_renews_everything_the_process_holds() {
    let server = Server::controlled();
    let at = server.at(1_000);
    at.own("x", 90_000, 5_000);
    at.own("other.1", 90_000, 7_000);
    at.create_targeted("foreign", 90_000);
    let data = json!({"id": "foreign", "version": 0, "pid": "q", "ttl": 5_000});
    at.ok("task.acquire", data);
    at.create_targeted("pending", 90_000);
    at.own("halted", 90_000, 5_000);
    at.halt("halted");
    server.at(2_000).heartbeat("p", &[]);
    let snap = server.at(2_000).snap();
    assert_eq!(snap.task_timeout("x"), Some((LEASE, 7_000)));
    assert_eq!(snap.task_timeout("other.1"), Some((LEASE, 9_000)));
    assert_eq!(snap.task_timeout("foreign"), Some((LEASE, 6_000)));
    assert_eq!(snap.task_timeout("pending"), Some((RETRY, 31_000)));
    assert_eq!(snap.task_timeout("halted"), None);
    // A process that holds nothing.
    server.at(2_000).heartbeat("nobody", &[]);
}

#[test]
fn a_renewed_lease_outlives_its_first_end() {
    let server = Server::controlled();
    server.at(1_000).own("x", 90_000, 5_000);
    server.at(5_999).heartbeat("p", &[("x", 1)]);
    server.at(6_000).tick();
    assert_eq!(server.at(6_000).task("x"), acquired("x", 1, 0, "p", 5_000));
    server.at(10_998).tick();
    assert_eq!(server.at(10_998).task("x"), acquired("x", 1, 0, "p", 5_000));
    server.at(10_999).tick();
    assert_eq!(server.at(10_999).task("x"), task("x", "pending", 1, 0));
}

#[test]
fn an_expired_lease_that_nobody_has_taken_back_can_still_be_renewed() {
    // Expiry is an internal step; until it has run the task is held.
    let server = Server::controlled();
    server.at(1_000).own("x", 90_000, 5_000);
    server.at(6_000).heartbeat("p", &[("x", 1)]);
    let timeout = server.at(6_000).snap().task_timeout("x");
    assert_eq!(timeout, Some((LEASE, 11_000)));
}

#[test]
fn d05_an_empty_list_does_not_keep_a_lease_that_its_holder_never_names() {
    // A worker that lost the answer to its acquire beats on, and does not know of the task.
    let server = Server::controlled();
    server.at(1_000).own("x", 900_000, 5_000);
    server.at(1_000).own("named", 900_000, 5_000);
    for beat in 1..=10 {
        server.at(1_000 + beat * 5_000 - 1).heartbeat("p", &[]);
    }
    server.at(51_000).heartbeat("p", &[]);
    server.at(51_000).heartbeat("p", &[("named", 1)]);
    server.at(55_000).heartbeat("p", &[]);
    let snap = server.at(55_000).snap();
    assert_eq!(snap.task_timeout("x"), Some((LEASE, 56_000)));
    assert_eq!(snap.task_timeout("named"), Some((LEASE, 60_000)));
    server.at(56_000).tick();
    assert_eq!(server.at(56_000).task("x")["state"], "pending");
    assert_eq!(server.at(56_000).task("named")["state"], "acquired");
}
