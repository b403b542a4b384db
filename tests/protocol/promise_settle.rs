//! `promise.settle` (protocol §8) and the cascade it sets off (semantics §4).

use serde_json::json;

use crate::harness::record::{fulfill, member, settled, target, task, timed_out, timer, with};
use crate::harness::server::{Server, shared};
use crate::harness::snap::{RETRY, pairs, versions};

#[test]
fn fields_follow_their_rules() {
    let server = shared();
    server.refused(
        "promise.settle",
        json!({"id": "", "state": "resolved"}),
        400,
        "Promise ID is required",
    );
    for state in ["pending", "rejected_timedout", "Resolved", "", "canceled"] {
        let response = server.call("promise.settle", json!({"id": "a", "state": state}));
        let message = response.message();
        assert!(
            response.status == 400
                && message.starts_with("Invalid request: ")
                && message.contains("unknown variant"),
            "{response}"
        );
    }
}

#[test]
fn row_1_an_unknown_promise() {
    shared().refused(
        "promise.settle",
        json!({"id": "no-such-promise", "state": "resolved"}),
        404,
        "Promise not found",
    );
}

#[test]
fn row_2_a_pending_promise_takes_state_value_and_instant() {
    let server = Server::controlled();
    let states = ["resolved", "rejected", "rejected_canceled"];
    let promises = states.map(|state| server.at(1_000).create(state, 9_000, json!({"k": "v"})));
    let value = json!({"headers": {"h": "1"}, "data": "NDI="});
    for (state, promise) in states.into_iter().zip(&promises) {
        let data = json!({"id": state, "state": state, "value": value});
        let answer = member(server.at(2_000).ok("promise.settle", data), "promise");
        let expected = with(settled(promise, state, 2_000), json!({"value": value}));
        assert_eq!(answer, expected);
    }
    // The deadline no longer matters.
    for now in [3_000, 9_000] {
        for (state, promise) in states.into_iter().zip(&promises) {
            let expected = with(settled(promise, state, 2_000), json!({"value": value}));
            assert_eq!(server.at(now).get(state), expected);
        }
    }
}

#[test]
fn row_2_settling_at_the_first_and_at_the_last_instant() {
    let server = Server::controlled();
    let first = server.at(1_000).create("first", 9_000, json!({}));
    let last = server.at(1_000).create("last", 9_000, json!({}));
    let answer = server.at(1_000).settle("first", "rejected");
    assert_eq!(answer, settled(&first, "rejected", 1_000));
    let answer = server.at(8_999).settle("last", "resolved");
    assert_eq!(answer, settled(&last, "resolved", 8_999));
}

#[test]
fn row_3_the_first_verdict_stands() {
    let server = Server::controlled();
    server.at(1_000).create("a", 9_000, json!({}));
    let first = server.at(2_000).settle("a", "resolved");
    for state in ["resolved", "rejected", "rejected_canceled"] {
        let data = json!({"id": "a", "state": state, "value": {"data": "other"}});
        let answer = member(server.at(3_000).ok("promise.settle", data), "promise");
        assert_eq!(answer, first);
    }
}

#[test]
fn row_3_a_late_value_is_not_stored() {
    let server = Server::controlled();
    let promise = server.at(1_000).create("a", 2_000, json!({}));
    let sleep = server.at(1_000).create("s", 2_000, timer());
    let data = |id: &str| json!({"id": id, "state": "rejected", "value": {"data": "late"}});
    let at = server.at(2_000);
    let answer = member(at.ok("promise.settle", data("a")), "promise");
    assert_eq!(answer, timed_out(&promise));
    let answer = member(at.ok("promise.settle", data("s")), "promise");
    assert_eq!(answer, settled(&sleep, "resolved", 2_000));
    assert_eq!(server.at(3_000).get("a"), timed_out(&promise));
}

#[test]
fn cascade_1_the_own_task_is_fulfilled_whatever_its_state() {
    let server = Server::controlled();
    let at = server.at(1_000);
    at.create("awaited", 90_000, json!({}));
    at.create_targeted("pending", 90_000);
    for id in ["acquired", "halted", "suspended", "resumed"] {
        at.own(id, 90_000, 60_000);
    }
    at.halt("halted");
    at.create("first", 90_000, json!({}));
    at.suspend("suspended", 1, &["awaited"])
        .expect(200, &json!({}));
    at.suspend("resumed", 1, &["first"]).expect(200, &json!({}));
    at.settle("first", "resolved");
    assert_eq!(at.task("resumed"), task("resumed", "pending", 1, 1));
    for (id, version) in [
        ("pending", 0),
        ("acquired", 1),
        ("halted", 1),
        ("suspended", 1),
        ("resumed", 1),
    ] {
        server.at(2_000).settle(id, "rejected_canceled");
        let fulfilled = task(id, "fulfilled", version, 0);
        assert_eq!(server.at(2_000).task(id), fulfilled);
        let snap = server.at(2_000).snap();
        assert_eq!(*snap.task(id), fulfilled);
        assert_eq!(snap.task_timeout(id), None);
        assert_eq!(snap.armed(id), None);
    }
    assert_eq!(server.at(2_000).snap().executes(), versions(&[]));
}

#[test]
fn cascade_2_awaiters_are_resumed_at_once() {
    // D-51: in the same transaction, as SDK tests expect.
    let server = Server::controlled();
    let at = server.at(1_000);
    at.create("a", 90_000, json!({}));
    at.own("x", 90_000, 60_000);
    at.own("y", 90_000, 60_000);
    at.suspend("x", 1, &["a"]).expect(200, &json!({}));
    at.suspend("y", 1, &["a"]).expect(200, &json!({}));
    server.at(2_000).settle("a", "resolved");
    assert_eq!(server.at(2_000).task("x"), task("x", "pending", 1, 1));
    let snap = server.at(2_000).snap();
    assert_eq!(snap.callbacks(), []);
    assert_eq!(snap.executes(), versions(&[("x", 1), ("y", 1)]));
    assert_eq!(snap.task_timeout("x"), Some((RETRY, 32_000)));
    assert_eq!(snap.task_timeout("y"), Some((RETRY, 32_000)));
}

#[test]
fn cascade_3_each_listener_becomes_one_unblock_with_the_settled_record() {
    let server = Server::controlled();
    let at = server.at(1_000);
    at.create("a", 90_000, json!({}));
    for address in ["poll://uni@g/1", "poll://uni@g/2", "http://h/x"] {
        at.listen("a", address);
        at.listen("a", address);
    }
    let promise = server.at(2_000).settle("a", "resolved");
    let snap = server.at(2_000).snap();
    assert_eq!(snap.listeners(), []);
    let expected = ["http://h/x", "poll://uni@g/1", "poll://uni@g/2"]
        .map(|address| (address.to_owned(), promise.clone()));
    assert_eq!(snap.unblocks(), expected);
    // Settling again adds nothing.
    server.at(3_000).settle("a", "rejected");
    server.at(3_000).tick();
    assert_eq!(server.at(3_000).snap().unblocks(), expected);
}

#[test]
fn d17_cancelling_does_not_reach_other_promises() {
    let server = Server::controlled();
    let at = server.at(1_000);
    at.own("root", 90_000, 60_000);
    let tags = json!({
        "resonate:origin": "root", "resonate:parent": "root", "resonate:branch": "root",
    });
    at.create("root:0", 90_000, tags);
    at.create("root.1", 90_000, target());
    at.settle("root", "rejected_canceled");
    assert_eq!(at.get("root:0")["state"], "pending");
    assert_eq!(at.task("root.1"), task("root.1", "pending", 0, 0));
}

#[test]
fn d15_callbacks_of_a_fulfilled_awaiter_are_dropped_only_by_settlement() {
    let server = Server::controlled();
    let at = server.at(1_000);
    at.create("a", 90_000, json!({}));
    at.own("x", 90_000, 60_000);
    at.await_by("a", "x");
    at.settle("x", "resolved");
    assert_eq!(at.snap().callbacks(), pairs(&[("x", "a")]));
    at.settle("a", "resolved");
    assert_eq!(at.snap().callbacks(), []);
    assert_eq!(at.task("x"), task("x", "fulfilled", 1, 0));
}

/// P4: the clocks of two servers of one database are milliseconds apart.
#[test]
fn a_settlement_is_stamped_no_earlier_than_the_creation() {
    let server = Server::controlled();
    let promise = server.at(1_000).create("x", 9_000, json!({}));
    let answered = server.at(993).settle("x", "resolved");
    assert_eq!(answered, settled(&promise, "resolved", 1_000));
    server.at(990).own("t", 9_000, 60_000);
    let fulfilled = server
        .at(985)
        .ok("task.fulfill", fulfill("t", 1, "rejected"));
    assert_eq!(fulfilled["promise"]["settledAt"], 990);
}
