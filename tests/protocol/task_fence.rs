//! `task.fence`: one promise operation while the lease holds (protocol §9).

use serde_json::{Value, json};

use crate::harness::client::VERSION;
use crate::harness::record::{
    acquired, create, fence, pending, settled, target, task, timed_out, timer, with,
};
use crate::harness::server::{Server, shared};
use crate::harness::snap::{LEASE, versions};

fn settle(id: &str, state: &str) -> Value {
    json!({"id": id, "state": state})
}

#[test]
fn fields_follow_their_rules() {
    let server = shared();
    for (data, message) in [
        (
            fence("", 1, "promise.settle", settle("a", "resolved")),
            "Task ID is required",
        ),
        (
            fence("x", -1, "promise.settle", settle("a", "resolved")),
            "Version must be a non-negative integer",
        ),
    ] {
        server.refused("task.fence", data, 400, message);
    }
}

#[test]
fn row_1_r7_a_task_may_not_act_on_its_own_promise() {
    let server = shared();
    for (kind, data) in [
        ("promise.settle", settle("x", "resolved")),
        ("promise.create", create("x", 1, json!({}))),
    ] {
        server.refused(
            "task.fence",
            fence("x", 1, kind, data),
            400,
            "Action ID must not equal the task ID",
        );
    }
}

#[test]
fn row_2_only_create_and_settle_can_be_fenced() {
    let server = shared();
    for kind in [
        "promise.get",
        "task.create",
        "promise.register_callback",
        "",
        "create",
    ] {
        server.refused(
            "task.fence",
            fence("x", 1, kind, settle("a", "resolved")),
            400,
            "Invalid fence action kind",
        );
    }
}

#[test]
fn row_3_malformed_inner_data() {
    let server = shared();
    for (kind, data, field) in [
        ("promise.create", json!({"id": "a"}), "timeoutAt"),
        (
            "promise.create",
            json!({"id": "a", "timeoutAt": 1.5}),
            "timeoutAt",
        ),
        ("promise.create", json!({"timeoutAt": 1}), "id"),
        (
            "promise.create",
            json!({"id": "a", "timeoutAt": 1, "tags": {"k": 1}}),
            "tags",
        ),
        ("promise.settle", json!({"id": "a"}), "state"),
        (
            "promise.settle",
            settle("a", "rejected_timedout"),
            "rejected_timedout",
        ),
        ("promise.settle", settle("a", "pending"), "pending"),
    ] {
        let response = server.call("task.fence", fence("x", 1, kind, data));
        let message = response.message();
        assert!(
            response.status == 400
                && message.starts_with("Invalid action data: ")
                && message.contains(field),
            "expected `Invalid action data: …` naming {field}{response}"
        );
    }
    for (kind, data, message) in [
        (
            "promise.create",
            json!({"id": "", "timeoutAt": 1}),
            "Promise ID is required",
        ),
        (
            "promise.create",
            json!({"id": "a", "timeoutAt": -1}),
            "TimeoutAt must be a non-negative integer",
        ),
        (
            "promise.settle",
            settle("", "resolved"),
            "Promise ID is required",
        ),
    ] {
        server.refused("task.fence", fence("x", 1, kind, data), 400, message);
    }
}

#[test]
fn row_4_no_task() {
    let server = Server::controlled();
    server.at(1_000).create("plain", 90_000, json!({}));
    for id in ["none", "plain"] {
        server.at(1_000).refused(
            "task.fence",
            fence(id, 1, "promise.create", create("n", 90_000, json!({}))),
            404,
            "Task not found",
        );
    }
    let data = json!({"id": "n"});
    server
        .at(1_000)
        .refused("promise.get", data, 404, "Promise not found");
}

#[test]
fn row_5_a_lost_lease_does_nothing() {
    let server = Server::controlled();
    let lost_leases = server.at(1_000).lost_leases();
    let at = server.at(2_000);
    for (id, version) in lost_leases {
        for (kind, data) in [
            ("promise.create", create("n", 90_000, json!({}))),
            ("promise.settle", settle("a", "resolved")),
            ("promise.settle", settle("none", "resolved")),
        ] {
            at.refused(
                "task.fence",
                fence(id, version, kind, data),
                409,
                "Version mismatch",
            );
        }
    }
    at.refused("promise.get", json!({"id": "n"}), 404, "Promise not found");
    assert_eq!(at.get("a")["state"], "pending");
}

#[test]
fn row_6_create_answers_as_the_inner_operation_alone_would() {
    let server = Server::controlled();
    server.at(1_000).own("x", 90_000, 60_000);
    let at = server.at(2_000);
    let response = at.call(
        "task.fence",
        fence(
            "x",
            1,
            "promise.create",
            with(
                create("x:0", 80_000, json!({"k": "v"})),
                json!({"param": {"data": "d"}}),
            ),
        ),
    );
    let promise = with(
        pending("x:0", 80_000, 2_000, json!({"k": "v"})),
        json!({"param": {"data": "d"}}),
    );
    let answer = json!({
        "action": {
            "kind": "promise.create",
            "head": {"corrId": response.corr_id, "status": 200, "version": VERSION},
            "data": {"promise": promise},
        },
        "preload": [],
    });
    response.expect(200, &answer);
    assert_eq!(at.get("x:0"), promise);
    // The lease is as it was.
    assert_eq!(at.task("x"), acquired("x", 1, 0, "p", 60_000));
    assert_eq!(at.snap().task_timeout("x"), Some((LEASE, 61_000)));
    // Again: the stored record.
    let data = fence("x", 1, "promise.create", create("x:0", 99_000, target()));
    let again = server.at(3_000).ok("task.fence", data);
    assert_eq!(again["action"]["data"], json!({"promise": promise}));
}

#[test]
fn row_6_create_of_every_kind_of_promise() {
    let server = Server::controlled();
    let at = server.at(1_000);
    at.own("x", 90_000, 60_000);
    let inner = |id: &str, timeout_at: i64, tags: Value| {
        let data = fence("x", 1, "promise.create", create(id, timeout_at, tags));
        at.ok("task.fence", data)["action"]["data"]["promise"].clone()
    };
    assert_eq!(
        inner("t", 80_000, target()),
        pending("t", 80_000, 1_000, target())
    );
    assert_eq!(at.task("t"), task("t", "pending", 0, 0));
    assert_eq!(at.snap().executes(), versions(&[("t", 0)]));
    let late = pending("late", 1_000, 1_000, json!({}));
    assert_eq!(inner("late", 1_000, json!({})), timed_out(&late));
    let both = with(timer(), target());
    assert_eq!(
        inner("s", 80_000, both.clone()),
        pending("s", 80_000, 1_000, both)
    );
    assert!(!at.snap().has_task("s"));
    assert_eq!(inner("elsewhere", 80_000, json!({}))["state"], "pending");
}

#[test]
fn row_6_settle_answers_as_the_inner_operation_alone_would() {
    let server = Server::controlled();
    let at = server.at(1_000);
    at.own("x", 90_000, 60_000);
    let promise = at.create("x:0", 80_000, json!({}));
    let data = json!({"id": "x:0", "state": "resolved", "value": {"data": "MQ=="}});
    let response = server
        .at(2_000)
        .call("task.fence", fence("x", 1, "promise.settle", data));
    let settled = with(
        settled(&promise, "resolved", 2_000),
        json!({"value": {"data": "MQ=="}}),
    );
    let answer = json!({
        "action": {
            "kind": "promise.settle",
            "head": {"corrId": response.corr_id, "status": 200, "version": VERSION},
            "data": {"promise": settled},
        },
        "preload": [],
    });
    response.expect(200, &answer);
    // The first verdict stands here too.
    let data = fence("x", 1, "promise.settle", settle("x:0", "rejected"));
    let again = server.at(3_000).ok("task.fence", data);
    assert_eq!(again["action"]["data"], json!({"promise": settled}));
}

#[test]
fn row_6_settle_of_an_unknown_promise_is_an_inner_404() {
    let server = Server::controlled();
    server.at(1_000).own("x", 90_000, 60_000);
    let data = fence("x", 1, "promise.settle", settle("none", "resolved"));
    let response = server.at(1_000).call("task.fence", data);
    let answer = json!({
        "action": {
            "kind": "promise.settle",
            "head": {"corrId": response.corr_id, "status": 404, "version": VERSION},
            "data": "Promise not found",
        },
        "preload": [],
    });
    response.expect(200, &answer);
}

#[test]
fn row_6_a_late_inner_settle_reads_timed_out() {
    let server = Server::controlled();
    server.at(1_000).own("x", 90_000, 60_000);
    let promise = server.at(1_000).create("x:0", 2_000, json!({}));
    let data = json!({"id": "x:0", "state": "resolved", "value": {"data": "late"}});
    let answer = server
        .at(2_000)
        .ok("task.fence", fence("x", 1, "promise.settle", data));
    assert_eq!(
        answer["action"]["data"],
        json!({"promise": timed_out(&promise)})
    );
}

#[test]
fn row_6_a_fenced_settle_cascades() {
    let server = Server::controlled();
    let at = server.at(1_000);
    at.own("x", 90_000, 60_000);
    at.own("y", 90_000, 60_000);
    at.create_targeted("x.0", 80_000);
    at.suspend("y", 1, &["x.0"]).expect(200, &json!({}));
    at.listen("x.0", "poll://uni@g/1");
    let data = fence("x", 1, "promise.settle", settle("x.0", "resolved"));
    at.call("task.fence", data).expect_status(200);
    assert_eq!(at.task("x.0"), task("x.0", "fulfilled", 0, 0));
    assert_eq!(at.task("y"), task("y", "pending", 1, 1));
    let snap = at.snap();
    assert_eq!(snap.executes(), versions(&[("y", 1)]));
    assert_eq!(
        snap.unblocks(),
        [("poll://uni@g/1".to_owned(), at.get("x.0"))]
    );
}

#[test]
fn d35_the_inner_corr_id_is_echoed_if_given() {
    let server = Server::controlled();
    let at = server.at(1_000);
    at.own("x", 90_000, 60_000);
    let mut data = fence("x", 1, "promise.settle", settle("none", "resolved"));
    data["action"]["head"] = json!({"corrId": "inner", "version": VERSION, "auth": null});
    let answer = at.ok("task.fence", data.clone());
    assert_eq!(answer["action"]["head"]["corrId"], "inner");
    data["action"]["head"] = json!({});
    let response = at.call("task.fence", data);
    let head = &response.expect_status(200)["action"]["head"];
    assert_eq!(head["corrId"], response.corr_id, "{response}");
}
