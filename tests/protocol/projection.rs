//! Timeout always wins (semantics §3): no endpoint answers `pending` for what another answers
//! settled. The boundary is inclusive. `promise.get`, searches and preload have their own files.

use serde_json::{Value, json};

use crate::harness::client::Client;
use crate::harness::record::{create, fence, fulfill, suspend, task, timed_out};
use crate::harness::server::Server;

/// One task per operation, all ending at 2 000, each in the state its operation needs.
fn tasks(at: Client<'_>) {
    at.create("open", 90_000, json!({}));
    at.create_targeted("acquire", 2_000);
    for id in ["release", "fulfill", "fence", "suspend", "halt", "continue"] {
        at.own(id, 2_000, 60_000);
    }
    at.halt("continue");
}

fn operations() -> [(&'static str, Value, &'static str); 7] {
    let claim = |id: &str, version: i64| json!({"id": id, "version": version});
    let acquire = json!({"id": "acquire", "version": 0, "pid": "p", "ttl": 1_000});
    let inner = create("n", 90_000, json!({}));
    [
        ("task.acquire", acquire, "Task is not pending"),
        (
            "task.release",
            claim("release", 1),
            "Task version mismatch or invalid state",
        ),
        (
            "task.fulfill",
            fulfill("fulfill", 1, "resolved"),
            "Task version mismatch or invalid state",
        ),
        (
            "task.fence",
            fence("fence", 1, "promise.create", inner),
            "Version mismatch",
        ),
        (
            "task.suspend",
            suspend("suspend", 1, &["open"]),
            "Task is not acquired or version mismatch",
        ),
        ("task.halt", json!({"id": "halt"}), "Task is fulfilled"),
        (
            "task.continue",
            json!({"id": "continue"}),
            "Task is not halted",
        ),
    ]
}

#[test]
fn task_operations_work_until_the_last_instant() {
    let server = Server::controlled();
    tasks(server.at(1_000));
    for (kind, data, _) in operations() {
        server.at(1_999).ok(kind, data);
    }
}

#[test]
fn task_operations_are_refused_from_the_deadline_on() {
    let server = Server::controlled();
    tasks(server.at(1_000));
    for (kind, data, message) in operations() {
        server.at(2_000).refused(kind, data, 409, message);
    }
    server.at(2_000).tick();
    // The same once the settlement is stored: no response regresses (C8).
    for (kind, data, message) in operations() {
        server.at(2_000).refused(kind, data, 409, message);
    }
    let id = json!({"id": "n"});
    server
        .at(2_000)
        .refused("promise.get", id, 404, "Promise not found");
}

#[test]
fn projected_and_stored_answers_are_identical() {
    // Stamped with the deadline, never with the clock.
    let server = Server::controlled();
    let promise = server.at(1_000).create_targeted("x", 2_000);
    let projected = server.at(3_000).get("x");
    assert_eq!(projected, timed_out(&promise));
    let projected_task = server.at(3_000).task("x");
    server.at(4_000).tick();
    assert_eq!(*server.at(4_000).snap().promise("x"), projected);
    assert_eq!(server.at(5_000).get("x"), projected);
    assert_eq!(server.at(5_000).task("x"), projected_task);
    assert_eq!(server.at(5_000).create("x", 99_000, json!({})), projected);
    assert_eq!(server.at(5_000).settle("x", "resolved"), projected);
}

#[test]
fn every_answer_with_a_promise_agrees_at_the_deadline() {
    let server = Server::controlled();
    let at = server.at(1_000);
    at.own("holder", 90_000, 60_000);
    let promise = at.create("a", 2_000, json!({}));
    let at = server.at(2_000);
    let expected = timed_out(&promise);
    let answers = [
        at.get("a"),
        at.create("a", 90_000, json!({})),
        at.settle("a", "resolved"),
        at.await_by("a", "holder"),
        at.listen("a", "poll://uni@g/1"),
        at.ok("promise.search", json!({}))["promises"][0].clone(),
        at.ok(
            "task.fence",
            fence(
                "holder",
                1,
                "promise.create",
                create("a", 90_000, json!({})),
            ),
        )["action"]["data"]["promise"]
            .clone(),
    ];
    for answer in answers {
        assert_eq!(answer, expected);
    }
}

#[test]
fn the_unblock_of_a_deadline_carries_the_settled_record() {
    let server = Server::controlled();
    let promise = server.at(1_000).create("a", 2_000, json!({}));
    server.at(1_000).listen("a", "poll://uni@g/1");
    server.at(1_999).tick();
    assert_eq!(server.at(1_999).snap().unblocks(), []);
    server.at(2_500).tick();
    assert_eq!(
        server.at(2_500).snap().unblocks(),
        [("poll://uni@g/1".to_owned(), timed_out(&promise))]
    );
}

#[test]
fn an_obligation_of_a_promise_past_its_deadline_is_still_discharged_when_a_settle_meets_it() {
    let server = Server::controlled();
    let at = server.at(1_000);
    let promise = at.create("a", 2_000, json!({}));
    at.own("x", 90_000, 60_000);
    at.suspend("x", 1, &["a"]).expect(200, &json!({}));
    at.listen("a", "poll://uni@g/1");
    // A late settle may store the deadline's verdict or leave that to the next step.
    assert_eq!(
        server.at(3_000).settle("a", "resolved"),
        timed_out(&promise)
    );
    server.at(3_000).tick();
    assert_eq!(server.at(3_000).task("x"), task("x", "pending", 1, 1));
    let snap = server.at(3_000).snap();
    assert_eq!(snap.callbacks(), []);
    assert_eq!(
        snap.unblocks(),
        [("poll://uni@g/1".to_owned(), timed_out(&promise))]
    );
}
