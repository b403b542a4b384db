//! `task.suspend` (protocol §9).

use serde_json::{Value, json};

use crate::harness::record::{acquired, settled, suspend, target, task, timed_out, timer, with};
use crate::harness::server::{Server, shared};
use crate::harness::snap::{LEASE, pairs, versions};

#[test]
fn fields_follow_their_rules() {
    let server = shared();
    let response = server.call("task.suspend", suspend("", 1, &["a"]));
    let told = response
        .message()
        .split("; ")
        .any(|told| told == "Task ID is required");
    assert!(response.status == 400 && told, "{response}");
    server.refused(
        "task.suspend",
        suspend("x", -1, &["a"]),
        400,
        "Version must be a non-negative integer",
    );
    let mut data = suspend("x", 1, &["a"]);
    data["actions"][0].as_object_mut().unwrap().remove("kind");
    server.call("task.suspend", data).expect_invalid("kind");
    let mut data = suspend("x", 1, &["a"]);
    data["actions"][0]["data"]
        .as_object_mut()
        .unwrap()
        .remove("awaited");
    let response = server.call("task.suspend", data);
    assert!(
        response.status == 400 && response.message().contains("awaited"),
        "{response}"
    );
}

#[test]
fn d13_the_inner_kind_is_checked() {
    let server = shared();
    let mut data = suspend("x", 1, &["a"]);
    data["actions"][0]["kind"] = json!("promise.register_listener");
    assert_eq!(server.call("task.suspend", data).status, 400);
}

#[test]
fn row_1_no_actions() {
    shared().refused(
        "task.suspend",
        suspend("x", 1, &[]),
        400,
        "Actions array cannot be empty",
    );
}

#[test]
fn row_2_a_foreign_awaiter() {
    let mut data = suspend("x", 1, &["a", "b"]);
    data["actions"][1]["data"]["awaiter"] = json!("y");
    shared().refused(
        "task.suspend",
        data,
        400,
        "All action awaiter IDs must match the task ID",
    );
}

#[test]
fn row_3_a_task_cannot_await_itself() {
    shared().refused(
        "task.suspend",
        suspend("x", 1, &["a", "x"]),
        400,
        "Action awaited promise must not equal the task ID",
    );
}

#[test]
fn row_4_no_task() {
    let server = Server::controlled();
    server.at(1_000).create("plain", 90_000, json!({}));
    for id in ["none", "plain"] {
        server.at(1_000).refused(
            "task.suspend",
            suspend(id, 1, &["a"]),
            404,
            "Task not found",
        );
    }
}

#[test]
fn row_5_a_lost_lease() {
    let server = Server::controlled();
    for (id, version) in server.at(1_000).lost_leases() {
        // The lease is looked at before the awaited promises are.
        for awaited in ["a", "none"] {
            server.at(2_000).refused(
                "task.suspend",
                suspend(id, version, &[awaited]),
                409,
                "Task is not acquired or version mismatch",
            );
        }
    }
}

#[test]
fn row_6_an_unknown_awaited_promise() {
    let server = Server::controlled();
    let at = server.at(1_000);
    at.own("x", 90_000, 60_000);
    at.create("a", 90_000, json!({}));
    at.create("done", 90_000, json!({}));
    at.settle("done", "resolved");
    // It comes before the look at settlement, and nothing is recorded.
    for awaited in [["a", "none"], ["done", "none"], ["none", "done"]] {
        at.refused(
            "task.suspend",
            suspend("x", 1, &awaited),
            422,
            "Awaited promise not found",
        );
    }
    assert_eq!(at.snap().callbacks(), []);
    assert_eq!(at.task("x"), acquired("x", 1, 0, "p", 60_000));
}

#[test]
fn row_7_something_settled_means_go_on() {
    let server = Server::controlled();
    let at = server.at(1_000);
    at.own("x", 90_000, 60_000);
    at.create("a", 90_000, json!({}));
    let done = at.create("done", 90_000, json!({}));
    at.await_by("done", "x");
    at.settle("done", "rejected");
    assert_eq!(at.task("x"), acquired("x", 1, 1, "p", 60_000));
    for awaited in [vec!["done"], vec!["a", "done"], vec!["done", "a"]] {
        server
            .at(2_000)
            .suspend("x", 1, &awaited)
            .expect(300, &json!({"preload": []}));
    }
    assert_eq!(
        server.at(2_000).get("done"),
        settled(&done, "rejected", 1_000)
    );
    let snap = server.at(2_000).snap();
    assert_eq!(snap.callbacks(), []);
    assert_eq!(snap.armed("a"), None);
    // Same version, same lease, resumes cleared.
    assert_eq!(server.at(2_000).task("x"), acquired("x", 1, 0, "p", 60_000));
    assert_eq!(snap.task_timeout("x"), Some((LEASE, 61_000)));
}

#[test]
fn row_7_a_deadline_that_has_passed_counts_as_settled() {
    let server = Server::controlled();
    server.at(1_000).own("x", 90_000, 60_000);
    let plain = server.at(1_000).create("a", 2_000, json!({}));
    server.at(1_000).create("s", 2_000, timer());
    for awaited in ["a", "s"] {
        server
            .at(2_000)
            .suspend("x", 1, &[awaited])
            .expect(300, &json!({"preload": []}));
    }
    assert_eq!(server.at(2_000).get("a"), timed_out(&plain));
    assert_eq!(server.at(2_000).snap().callbacks(), []);
}

#[test]
fn row_8_an_instant_before_the_deadline_counts_as_pending() {
    let server = Server::controlled();
    server.at(1_000).own("x", 90_000, 60_000);
    server.at(1_000).create("a", 2_000, json!({}));
    server
        .at(1_999)
        .suspend("x", 1, &["a"])
        .expect(200, &json!({}));
}

#[test]
fn row_8_everything_pending_means_sleep() {
    let server = Server::controlled();
    let at = server.at(1_000);
    at.own("x.1", 90_000, 60_000);
    // Of any kind and any origin (D-01b, D-02).
    for (id, tags) in [
        ("x.1.plain", json!({})),
        ("elsewhere", json!({})),
        ("timer", timer()),
        ("targeted", target()),
        ("external", json!({"resonate:external": "true"})),
    ] {
        at.create(id, 80_000, tags);
    }
    let awaited = ["x.1.plain", "elsewhere", "timer", "targeted", "external"];
    at.suspend("x.1", 1, &awaited).expect(200, &json!({}));
    assert_eq!(at.task("x.1"), task("x.1", "suspended", 1, 0));
    let snap = at.snap();
    let expected = awaited.map(|awaited| ("x.1", awaited));
    let mut expected = pairs(&expected);
    expected.sort();
    assert_eq!(snap.callbacks(), expected);
    for id in awaited {
        assert_eq!(snap.armed(id), Some(80_000), "{id}");
    }
    assert_eq!(snap.task_timeout("x.1"), None);
}

#[test]
fn row_8_d06_duplicates_collapse() {
    let server = Server::controlled();
    let at = server.at(1_000);
    at.own("x", 90_000, 60_000);
    at.create("a", 80_000, json!({}));
    at.await_by("a", "x");
    at.suspend("x", 1, &["a", "a", "a"]).expect(200, &json!({}));
    assert_eq!(at.snap().callbacks(), pairs(&[("x", "a")]));
    at.settle("a", "resolved");
    assert_eq!(at.task("x"), task("x", "pending", 1, 1));
    assert_eq!(at.snap().executes(), versions(&[("x", 1)]));
}

#[test]
fn row_8_a_buffered_resume_alone_does_not_prevent_sleep() {
    // Semantics §5: only a settled promise among the awaited ones does.
    let server = Server::controlled();
    let at = server.at(1_000);
    at.own("x", 90_000, 60_000);
    at.create("a", 80_000, json!({}));
    at.create("b", 80_000, json!({}));
    at.await_by("a", "x");
    at.settle("a", "resolved");
    assert_eq!(at.task("x"), acquired("x", 1, 1, "p", 60_000));
    at.suspend("x", 1, &["b"]).expect(200, &json!({}));
    assert_eq!(at.task("x"), task("x", "suspended", 1, 0));
    at.tick();
    assert_eq!(at.task("x"), task("x", "suspended", 1, 0));
}

#[test]
fn inner_heads_are_optional_and_ignored() {
    let server = Server::controlled();
    let at = server.at(1_000);
    at.own("x", 90_000, 60_000);
    at.create("a", 80_000, json!({}));
    at.create("b", 80_000, json!({}));
    let mut data = suspend("x", 1, &["a", "b"]);
    data["actions"][0]["head"] = json!({"corrId": "same", "version": "2026-04-01"});
    data["actions"][1] = with(
        data["actions"][1].clone(),
        json!({"head": {"corrId": "same", "auth": Value::Null}}),
    );
    at.call("task.suspend", data).expect(200, &json!({}));
}
