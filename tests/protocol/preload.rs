//! Preload (protocol §7): the other promises of the task's branch, at each of its four doors.

use serde_json::{Value, json};

use crate::harness::client::Client;
use crate::harness::record::{create, fence, ids, target, task_create, timed_out, timer, with};
use crate::harness::server::Server;

fn branch(name: &str) -> Value {
    json!({"resonate:branch": name})
}

fn member_of(name: &str) -> Value {
    with(target(), branch(name))
}

/// Creates and acquires `x` in branch `x`, and fills the branch: ids on both sides of `x`, of other
/// lineages, and promises that do not belong.
fn branch_of_x(at: Client<'_>) {
    at.create("x", 90_000, member_of("x"));
    for id in ["x:1", "x:0", "x.10", "x.2", "a", "z", "é", "X"] {
        at.create(id, 80_000, branch("x"));
    }
    at.create("x:other", 80_000, branch("x:other"));
    at.create("x:none", 80_000, json!({}));
    at.create("x:empty", 80_000, branch(""));
    at.create(
        "x:origin",
        80_000,
        json!({"resonate:origin": "x", "resonate:parent": "x"}),
    );
}

const BRANCH_OF_X: [&str; 8] = ["X", "a", "x.10", "x.2", "x:0", "x:1", "z", "é"];

#[test]
fn acquire_answers_the_branch_ordered_bytewise_without_the_promise_itself() {
    let server = Server::controlled();
    let at = server.at(1_000);
    branch_of_x(at);
    let answer = at.acquire("x", 0, 60_000);
    assert_eq!(ids(&answer["preload"]), BRANCH_OF_X);
    for record in answer["preload"].as_array().unwrap() {
        assert_eq!(*record, at.get(record["id"].as_str().unwrap()));
    }
}

#[test]
fn task_create_answers_it_when_the_task_ends_acquired() {
    let server = Server::controlled();
    let at = server.at(1_000);
    branch_of_x(at);
    // Row 5: the pending task is acquired.
    let answer = at.ok("task.create", task_create("x", 90_000, target()));
    assert_eq!(ids(&answer["preload"]), BRANCH_OF_X);
    // Row 1: a new one; its branch is what the request says.
    let answer = at.ok(
        "task.create",
        task_create("new", 90_000, member_of("x:other")),
    );
    assert_eq!(ids(&answer["preload"]), ["x:other"]);
    // Rows 2 and 4: not acquired (D-36).
    let answer = at.ok("task.create", task_create("late", 1_000, member_of("x")));
    assert_eq!(answer["preload"], json!([]));
    at.settle("x", "resolved");
    let answer = at.ok("task.create", task_create("x", 90_000, member_of("x")));
    assert_eq!(answer["preload"], json!([]));
}

#[test]
fn the_request_may_name_a_branch_that_the_stored_promise_does_not_have() {
    let server = Server::controlled();
    let at = server.at(1_000);
    branch_of_x(at);
    at.create_targeted("plain", 90_000);
    let answer = at.ok("task.create", task_create("plain", 90_000, member_of("x")));
    assert_eq!(answer["preload"], json!([]));
}

#[test]
fn fence_answers_it_after_its_own_effect() {
    let server = Server::controlled();
    let at = server.at(1_000);
    at.ok("task.create", task_create("x", 90_000, member_of("x")));
    at.create("x:1", 80_000, branch("x"));
    let data = fence("x", 1, "promise.create", create("x:0", 80_000, branch("x")));
    let answer = at.ok("task.fence", data);
    assert_eq!(answer["preload"], json!([at.get("x:0"), at.get("x:1")]));
    let data = json!({"id": "x:1", "state": "resolved", "value": {"data": "MQ=="}});
    let answer = at.ok("task.fence", fence("x", 1, "promise.settle", data));
    assert_eq!(answer["preload"][1], answer["action"]["data"]["promise"]);
    assert_eq!(answer["preload"], json!([at.get("x:0"), at.get("x:1")]));
    // An inner operation elsewhere, and one that finds nothing, answer it too.
    for data in [
        fence("x", 1, "promise.create", create("n", 80_000, json!({}))),
        fence(
            "x",
            1,
            "promise.settle",
            json!({"id": "none", "state": "resolved"}),
        ),
    ] {
        let answer = at.ok("task.fence", data);
        assert_eq!(ids(&answer["preload"]), ["x:0", "x:1"]);
    }
}

#[test]
fn suspend_answers_it_with_300_only() {
    let server = Server::controlled();
    let at = server.at(1_000);
    at.ok("task.create", task_create("x", 90_000, member_of("x")));
    at.create("x:0", 80_000, branch("x"));
    at.create("x:1", 80_000, branch("x"));
    at.settle("x:0", "resolved");
    let preload = json!([at.get("x:0"), at.get("x:1")]);
    at.suspend("x", 1, &["x:0", "x:1"])
        .expect(300, &json!({"preload": preload}));
    at.suspend("x", 1, &["x:1"]).expect(200, &json!({}));
}

#[test]
fn without_a_branch_it_is_empty() {
    let server = Server::controlled();
    let at = server.at(1_000);
    branch_of_x(at);
    at.create_targeted("plain", 90_000);
    at.create("empty", 90_000, member_of(""));
    assert_eq!(at.acquire("plain", 0, 1_000)["preload"], json!([]));
    assert_eq!(at.acquire("empty", 0, 1_000)["preload"], json!([]));
}

#[test]
fn records_are_projected() {
    let server = Server::controlled();
    let at = server.at(1_000);
    at.create("x", 90_000, member_of("x"));
    let plain = at.create("x:0", 2_000, branch("x"));
    let sleep = at.create("x:1", 2_000, with(timer(), branch("x")));
    let later = at.create("x:2", 2_001, branch("x"));
    let answer = server.at(2_000).acquire("x", 0, 60_000);
    let woken = with(sleep, json!({"state": "resolved", "settledAt": 2_000}));
    let expected = json!([timed_out(&plain), woken, later]);
    assert_eq!(answer["preload"], expected);
}

#[test]
fn a_branch_may_hold_several_tasks() {
    // Children of a remote call carry the branch of their own task; here two share one.
    let server = Server::controlled();
    let at = server.at(1_000);
    at.create("x", 90_000, member_of("b"));
    at.create("y", 90_000, member_of("b"));
    assert_eq!(ids(&at.acquire("x", 0, 1_000)["preload"]), ["y"]);
    assert_eq!(ids(&at.acquire("y", 0, 1_000)["preload"]), ["x"]);
}

#[test]
fn a_branch_of_hundreds_is_whole() {
    let server = Server::controlled();
    let at = server.at(1_000);
    at.create("x", 90_000, member_of("x"));
    let expected: Vec<String> = (0..250).map(|number| format!("x:{number:03}")).collect();
    for id in &expected {
        at.create(id, 80_000, branch("x"));
    }
    assert_eq!(ids(&at.acquire("x", 0, 1_000)["preload"]), expected);
}
