//! What the settlement of an awaited promise does to its awaiter (semantics §5), row by row.

use serde_json::json;

use crate::harness::record::{acquired, fulfill, task, timed_out};
use crate::harness::server::Server;
use crate::harness::snap::{LEASE, RETRY, pairs, versions};

#[test]
fn fulfilled_the_callback_is_dropped() {
    let server = Server::controlled();
    let at = server.at(1_000);
    at.create("a", 90_000, json!({}));
    at.own("x", 90_000, 60_000);
    at.await_by("a", "x");
    at.ok("task.fulfill", fulfill("x", 1, "resolved"));
    at.settle("a", "resolved");
    assert_eq!(at.task("x"), task("x", "fulfilled", 1, 0));
    let snap = at.snap();
    assert_eq!(snap.callbacks(), []);
    assert_eq!(snap.executes(), versions(&[]));
}

#[test]
fn expired_c6_an_awaiter_past_its_own_deadline_is_never_dispatched() {
    let server = Server::controlled();
    let at = server.at(1_000);
    at.create("a", 90_000, json!({}));
    at.own("x", 2_000, 60_000);
    at.own("y", 2_001, 60_000);
    at.suspend("x", 1, &["a"]).expect(200, &json!({}));
    at.suspend("y", 1, &["a"]).expect(200, &json!({}));
    let at = server.at(2_000);
    at.settle("a", "resolved");
    assert_eq!(at.task("x"), task("x", "fulfilled", 1, 0));
    assert_eq!(at.task("y"), task("y", "pending", 1, 1));
    assert_eq!(at.snap().executes(), versions(&[("y", 1)]));
    // Whichever way was taken, nothing is left once the deadline has been stored.
    at.tick();
    let snap = at.snap();
    assert_eq!(*snap.task("x"), task("x", "fulfilled", 1, 0));
    assert_eq!(snap.promise("x")["state"], "rejected_timedout");
    assert_eq!(snap.callbacks(), []);
    assert_eq!(snap.executes(), versions(&[("y", 1)]));
    assert_eq!(snap.task_timeout("x"), None);
}

#[test]
fn resumed_a_suspended_task_becomes_pending_and_is_dispatched() {
    let server = Server::controlled();
    let at = server.at(1_000);
    at.create("a", 90_000, json!({}));
    at.create("b", 90_000, json!({}));
    at.own("x", 90_000, 60_000);
    at.suspend("x", 1, &["a", "b"]).expect(200, &json!({}));
    server.at(2_000).settle("b", "rejected");
    assert_eq!(server.at(2_000).task("x"), task("x", "pending", 1, 1));
    let snap = server.at(2_000).snap();
    assert_eq!(snap.task_timeout("x"), Some((RETRY, 32_000)));
    assert_eq!(snap.executes(), versions(&[("x", 1)]));
    // The other callback stays, and buffers.
    assert_eq!(snap.callbacks(), pairs(&[("x", "a")]));
    server.at(3_000).settle("a", "resolved");
    assert_eq!(server.at(3_000).task("x"), task("x", "pending", 1, 2));
    let snap = server.at(3_000).snap();
    assert_eq!(snap.task_timeout("x"), Some((RETRY, 32_000)));
    assert_eq!(snap.callbacks(), []);
    let answer = server.at(4_000).acquire("x", 1, 500);
    assert_eq!(answer["task"], acquired("x", 2, 0, "p", 500));
}

#[test]
fn resumed_across_origins() {
    // D-01b; the resume may be a step of its own right after the settlement.
    let server = Server::controlled();
    let at = server.at(1_000);
    at.create("chosen", 90_000, json!({}));
    at.own("root:1", 90_000, 60_000);
    at.suspend("root:1", 1, &["chosen"]).expect(200, &json!({}));
    at.settle("chosen", "resolved");
    at.tick();
    assert_eq!(at.task("root:1"), task("root:1", "pending", 1, 1));
    assert_eq!(at.snap().callbacks(), []);
}

#[test]
fn buffered_a_live_awaiter_counts_and_gets_no_message() {
    let server = Server::controlled();
    let at = server.at(1_000);
    at.create_targeted("pending", 90_000);
    at.own("acquired", 90_000, 60_000);
    at.own("halted", 90_000, 60_000);
    at.halt("halted");
    for awaited in ["a", "b"] {
        at.create(awaited, 90_000, json!({}));
        for awaiter in ["pending", "acquired", "halted"] {
            at.await_by(awaited, awaiter);
        }
    }
    for (count, awaited) in [(1, "a"), (2, "b")] {
        let at = server.at(1_000 + count * 1_000);
        at.settle(awaited, "resolved");
        assert_eq!(at.task("pending"), task("pending", "pending", 0, count));
        assert_eq!(
            at.task("acquired"),
            acquired("acquired", 1, count, "p", 60_000)
        );
        assert_eq!(at.task("halted"), task("halted", "halted", 1, count));
        let snap = at.snap();
        // The dispatch of its birth, and nothing new.
        assert_eq!(snap.executes(), versions(&[("pending", 0)]));
        assert_eq!(snap.task_timeout("pending"), Some((RETRY, 31_000)));
        assert_eq!(snap.task_timeout("acquired"), Some((LEASE, 61_000)));
    }
    assert_eq!(server.at(3_000).snap().callbacks(), []);
}

#[test]
fn buffered_resumes_survive_release_and_lease_expiry_and_halt() {
    let server = Server::controlled();
    let at = server.at(1_000);
    at.create("a", 90_000, json!({}));
    at.own("x", 90_000, 1_000);
    at.await_by("a", "x");
    at.settle("a", "resolved");
    server.at(2_000).tick();
    assert_eq!(server.at(2_000).task("x"), task("x", "pending", 1, 1));
    let at = server.at(3_000);
    at.halt("x");
    at.resume_halted("x");
    assert_eq!(at.task("x"), task("x", "pending", 1, 1));
    at.acquire("x", 1, 1_000);
    assert_eq!(at.task("x"), acquired("x", 2, 0, "p", 1_000));
}

#[test]
fn a_deadline_resumes_like_any_settlement() {
    // D-02: whatever was awaited fires by itself.
    let server = Server::controlled();
    let at = server.at(1_000);
    for (awaited, tags) in [
        ("plain", json!({})),
        ("sleep", json!({"resonate:timer": "true"})),
        ("external", json!({"resonate:external": "true"})),
        ("targeted", json!({"resonate:target": "poll://any@g"})),
    ] {
        let awaiter = format!("by-{awaited}");
        at.create(awaited, 2_000, tags);
        at.own(&awaiter, 90_000, 60_000);
        at.suspend(&awaiter, 1, &[awaited]).expect(200, &json!({}));
    }
    server.at(1_999).tick();
    assert_eq!(server.at(1_999).snap().callbacks().len(), 4);
    server.at(2_000).tick();
    let at = server.at(2_000);
    let snap = at.snap();
    assert_eq!(snap.callbacks(), []);
    for awaited in ["plain", "sleep", "external", "targeted"] {
        let awaiter = format!("by-{awaited}");
        assert_eq!(at.task(&awaiter), task(&awaiter, "pending", 1, 1));
        assert_eq!(snap.task_timeout(&awaiter), Some((RETRY, 32_000)));
        let state = if awaited == "sleep" {
            "resolved"
        } else {
            "rejected_timedout"
        };
        assert_eq!(snap.promise(awaited)["state"], state);
        assert_eq!(snap.promise(awaited)["settledAt"], 2_000);
    }
}

#[test]
fn settlements_of_a_pass_come_before_its_resumes() {
    // Semantics §7: both end at 2 000, so the awaiter goes straight to fulfilled.
    let server = Server::controlled();
    let at = server.at(1_000);
    let mut promises = Vec::new();
    for (awaited, awaiter) in [("a", "z"), ("y", "b")] {
        promises.push(at.create(awaited, 2_000, json!({})));
        at.own(awaiter, 2_000, 60_000);
        at.suspend(awaiter, 1, &[awaited]).expect(200, &json!({}));
    }
    server.at(2_000).tick();
    let snap = server.at(2_000).snap();
    for awaiter in ["z", "b"] {
        assert_eq!(*snap.task(awaiter), task(awaiter, "fulfilled", 1, 0));
    }
    for promise in promises {
        let id = promise["id"].as_str().unwrap();
        assert_eq!(*snap.promise(id), timed_out(&promise));
    }
    assert_eq!(snap.callbacks(), []);
    assert_eq!(snap.executes(), versions(&[]));
}

#[test]
fn one_settlement_wakes_many() {
    let server = Server::controlled();
    let at = server.at(1_000);
    at.create("a", 90_000, json!({}));
    let awaiters: Vec<String> = (0..120).map(|number| format!("x{number:03}")).collect();
    for awaiter in &awaiters {
        at.own(awaiter, 90_000, 60_000);
        at.suspend(awaiter, 1, &["a"]).expect(200, &json!({}));
    }
    at.settle("a", "resolved");
    at.tick();
    let expected: Vec<(String, i64)> = awaiters.into_iter().map(|id| (id, 1)).collect();
    assert_eq!(at.snap().executes(), expected);
    assert_eq!(at.snap().callbacks(), []);
}
