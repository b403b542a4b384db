//! `promise.register_callback` (protocol §8).

use serde_json::json;

use crate::harness::record::{acquired, task, timed_out, timer};
use crate::harness::server::{Server, shared};
use crate::harness::snap::pairs;

#[test]
fn row_1_both_ids_are_required() {
    let server = shared();
    for (awaited, awaiter, message) in [
        ("", "x", "Awaited promise ID is required"),
        ("a", "", "Awaiter promise ID is required"),
    ] {
        let data = json!({"awaited": awaited, "awaiter": awaiter});
        server.refused("promise.register_callback", data, 400, message);
    }
}

#[test]
fn row_2_a_promise_cannot_await_itself() {
    shared().refused(
        "promise.register_callback",
        json!({"awaited": "a", "awaiter": "a"}),
        400,
        "Awaited and awaiter must be different promises",
    );
}

#[test]
fn rows_3_to_5_both_must_exist_and_the_awaiter_have_a_task() {
    let server = Server::controlled();
    let at = server.at(1_000);
    at.create("plain", 90_000, json!({}));
    at.create_targeted("x", 90_000);
    let tags = json!({"resonate:timer": "true", "resonate:target": "poll://any@g"});
    at.create("sleep", 90_000, tags);
    let refused = |awaited: &str, awaiter: &str, status, message| {
        let data = json!({"awaited": awaited, "awaiter": awaiter});
        at.refused("promise.register_callback", data, status, message);
    };
    refused("none", "x", 404, "Awaited promise not found");
    refused("none", "nobody", 404, "Awaited promise not found");
    refused("plain", "none", 422, "Awaiter promise not found");
    refused(
        "x",
        "plain",
        422,
        "Awaiter promise has no resonate:target tag",
    );
    // A timer has no task, whatever its tags (D-03).
    refused(
        "x",
        "sleep",
        422,
        "Awaiter promise has no resonate:target tag",
    );
}

#[test]
fn rows_3_to_5_come_before_the_look_at_settlement() {
    let server = Server::controlled();
    let at = server.at(1_000);
    at.create("plain", 2_000, json!({}));
    server.at(2_000).refused(
        "promise.register_callback",
        json!({"awaited": "plain", "awaiter": "none"}),
        422,
        "Awaiter promise not found",
    );
}

#[test]
fn row_6_a_callback_is_recorded_once_and_arms_the_awaited() {
    let server = Server::controlled();
    let at = server.at(1_000);
    let awaited = at.create("a", 90_000, json!({}));
    at.own("x", 80_000, 60_000);
    assert_eq!(at.snap().armed("a"), None);
    assert_eq!(at.await_by("a", "x"), awaited);
    assert_eq!(at.await_by("a", "x"), awaited);
    let snap = at.snap();
    assert_eq!(snap.callbacks(), pairs(&[("x", "a")]));
    assert_eq!(
        snap.0["callbacks"],
        json!([{"awaiter": "x", "awaited": "a"}])
    );
    assert_eq!(snap.armed("a"), Some(90_000));
    // The awaiter goes on: registering is not suspending.
    assert_eq!(at.task("x"), acquired("x", 1, 0, "p", 60_000));
}

#[test]
fn row_6_every_kind_of_promise_can_be_awaited() {
    // D-02: no tag is asked for; origins may differ (D-01b).
    let server = Server::controlled();
    let at = server.at(1_000);
    at.create_targeted("root.1", 80_000);
    for (id, tags) in [
        ("root.1.plain", json!({})),
        ("elsewhere:plain", json!({})),
        ("chosen", json!({"resonate:origin": "root.1"})),
        ("timer", timer()),
        ("external", json!({"resonate:external": "true"})),
    ] {
        let awaited = at.create(id, 90_000, tags);
        assert_eq!(at.await_by(id, "root.1"), awaited);
        assert_eq!(at.snap().armed(id), Some(90_000));
    }
    assert_eq!(at.snap().callbacks().len(), 5);
}

#[test]
fn row_7_c11_a_settled_promise_takes_no_callback_and_wakes_nobody() {
    let server = Server::controlled();
    let at = server.at(1_000);
    at.create("a", 90_000, json!({}));
    at.create("other", 90_000, json!({}));
    at.create_targeted("pending", 80_000);
    for id in ["acquired", "suspended", "halted"] {
        at.own(id, 80_000, 60_000);
    }
    at.suspend("suspended", 1, &["other"])
        .expect(200, &json!({}));
    at.halt("halted");
    let settled = at.settle("a", "resolved");
    let before = at.snap().0;
    for awaiter in ["pending", "acquired", "suspended", "halted"] {
        let version = i64::from(awaiter != "pending");
        assert_eq!(at.await_by("a", awaiter), settled);
        if awaiter != "acquired" {
            assert_eq!(at.task(awaiter), task(awaiter, awaiter, version, 0));
        }
    }
    at.tick();
    assert_eq!(at.snap().0, before);
}

#[test]
fn row_7_an_awaited_promise_past_its_deadline_takes_no_callback() {
    let server = Server::controlled();
    let promise = server.at(1_000).create("a", 2_000, json!({}));
    server.at(1_000).own("x", 90_000, 60_000);
    assert_eq!(server.at(2_000).await_by("a", "x"), timed_out(&promise));
    assert_eq!(server.at(2_000).snap().callbacks(), []);
    server.at(2_000).tick();
    assert_eq!(server.at(2_000).task("x"), acquired("x", 1, 0, "p", 60_000));
}

#[test]
fn row_7_a_settled_awaiter_records_nothing() {
    let server = Server::controlled();
    let awaited = server.at(1_000).create("a", 90_000, json!({}));
    server.at(1_000).create_targeted("done", 80_000);
    server.at(1_000).create_targeted("late", 2_000);
    server.at(1_000).settle("done", "resolved");
    for awaiter in ["done", "late"] {
        assert_eq!(server.at(2_000).await_by("a", awaiter), awaited);
        let snap = server.at(2_000).snap();
        assert_eq!(snap.callbacks(), []);
        assert_eq!(snap.armed("a"), None);
    }
}
