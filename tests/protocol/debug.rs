//! Debug operations (protocol §11). That they are forbidden by default is row 10 of the envelope.

use serde_json::{Value, json};

use crate::harness::client::VERSION;
use crate::harness::record::{NOBODY, acquired, pending, target, task, timer};
use crate::harness::server::Server;
use crate::harness::sse::Stream;

fn empty_snap() -> Value {
    json!({
        "promises": [], "tasks": [], "promiseTimeouts": [], "callbacks": [], "listeners": [],
        "taskTimeouts": [], "messages": [],
    })
}

#[test]
fn start_stop_and_reset_answer_an_empty_object_every_time() {
    let server = Server::with(&["--debug"]);
    for kind in [
        "debug.start",
        "debug.start",
        "debug.reset",
        "debug.stop",
        "debug.stop",
        "debug.reset",
    ] {
        server.call(kind, json!({})).expect(200, &json!({}));
    }
}

#[test]
fn snap_of_nothing_has_exactly_these_keys() {
    let server = Server::controlled();
    server
        .at(0)
        .call("debug.snap", json!({}))
        .expect(200, &empty_snap());
}

#[test]
fn snap_shows_everything_stored_sorted_by_id() {
    let server = Server::controlled();
    let at = server.at(1_000);
    // Made in an order that is not the sorted one.
    at.create("z", 80_000, json!({}));
    at.create("plain", 70_000, json!({}));
    at.create_targeted("b", 90_000);
    at.own("c", 90_000, 60_000);
    at.own("a", 90_000, 5_000);
    at.create("sleep", 5_000, timer());
    at.suspend("c", 1, &["z"]).expect(200, &json!({}));
    at.listen("z", "poll://uni@g/2");
    at.listen("z", "poll://uni@g/1");
    at.create("done", 60_000, json!({}));
    at.listen("done", "poll://uni@g/1");
    let done = at.settle("done", "resolved");
    let snap = at.snap();
    let expected = json!({
        "promises": [
            pending("a", 90_000, 1_000, target()),
            pending("b", 90_000, 1_000, target()),
            pending("c", 90_000, 1_000, target()),
            done,
            pending("plain", 70_000, 1_000, json!({})),
            pending("sleep", 5_000, 1_000, timer()),
            pending("z", 80_000, 1_000, json!({})),
        ],
        "tasks": [
            acquired("a", 1, 0, "p", 5_000),
            task("b", "pending", 0, 0),
            task("c", "suspended", 1, 0),
        ],
        "promiseTimeouts": [
            {"id": "a", "timeout": 90_000}, {"id": "b", "timeout": 90_000},
            {"id": "c", "timeout": 90_000}, {"id": "sleep", "timeout": 5_000},
            {"id": "z", "timeout": 80_000},
        ],
        "callbacks": [{"awaiter": "c", "awaited": "z"}],
        "listeners": [
            {"id": "z", "address": "poll://uni@g/1"}, {"id": "z", "address": "poll://uni@g/2"},
        ],
        "taskTimeouts": [
            {"id": "a", "type": 1, "timeout": 6_000}, {"id": "b", "type": 0, "timeout": 31_000},
        ],
        "messages": [
            {"address": NOBODY, "message": {
                "kind": "execute", "head": {}, "data": {"task": {"id": "b", "version": 0}},
            }},
            {"address": "poll://uni@g/1", "message": {
                "kind": "unblock", "head": {}, "data": {"promise": done},
            }},
        ],
    });
    for key in [
        "promises",
        "tasks",
        "promiseTimeouts",
        "callbacks",
        "taskTimeouts",
        "messages",
    ] {
        assert_eq!(snap.0[key], expected[key], "{key}");
    }
    // Several listeners of one promise have no order among themselves.
    assert_eq!(snap.sorted("listeners")[0]["id"], "z");
    assert_eq!(snap.listeners().len(), 2);
    assert_eq!(snap.0.as_object().unwrap().len(), 7);
}

#[test]
fn snap_is_not_projected() {
    let server = Server::controlled();
    let promise = server.at(1_000).create_targeted("x", 2_000);
    let snap = server.at(5_000).snap();
    assert_eq!(*snap.promise("x"), promise);
    assert_eq!(*snap.task("x"), task("x", "pending", 0, 0));
    assert_eq!(snap.armed("x"), Some(2_000));
}

#[test]
fn reset_deletes_everything() {
    let server = Server::controlled();
    let at = server.at(1_000);
    at.create("a", 80_000, json!({}));
    at.own("x", 90_000, 60_000);
    at.suspend("x", 1, &["a"]).expect(200, &json!({}));
    at.listen("a", "poll://uni@g/1");
    at.create_targeted("y", 90_000);
    let schedule = json!({
        "id": "s", "cron": "* * * * *", "promiseId": "{{.id}}", "promiseTimeout": 1,
        "promiseTags": target(),
    });
    at.ok("schedule.create", schedule);
    at.call("debug.reset", json!({})).expect(200, &json!({}));
    at.call("debug.snap", json!({})).expect(200, &empty_snap());
    at.refused("promise.get", json!({"id": "a"}), 404, "Promise not found");
    at.refused("task.get", json!({"id": "x"}), 404, "Task not found");
    at.refused(
        "schedule.get",
        json!({"id": "s"}),
        404,
        "Schedule not found",
    );
    assert_eq!(at.ok("promise.search", json!({})), json!({"promises": []}));
    // Nothing of it fires later, and its ids are free.
    server.at(900_000).tick();
    server
        .at(900_000)
        .call("debug.snap", json!({}))
        .expect(200, &empty_snap());
    assert_eq!(
        server.at(900_000).create("a", 990_000, json!({}))["createdAt"],
        900_000
    );
}

#[test]
fn tick_needs_an_integer_time() {
    let server = Server::controlled();
    for data in [
        json!({}),
        json!({"time": null}),
        json!({"time": "5000"}),
        json!({"time": 5000.5}),
        json!({"time": []}),
    ] {
        server.refused("debug.tick", data, 400, "Missing or invalid 'time' field");
    }
}

#[test]
fn tick_at_another_time_than_the_request_is_refused() {
    let server = Server::controlled();
    server.at(5_000).refused(
        "debug.tick",
        json!({"time": 5_001}),
        400,
        "resonate:debug_time must equal data.time",
    );
    let equal = server.at(5_000).call("debug.tick", json!({"time": 5_000}));
    equal.expect(200, &json!([]));
}

#[test]
fn tick_without_a_head_time_passes_at_its_own() {
    let server = Server::controlled();
    server.at(1_000).create("s", 5_000, timer());
    server
        .call("debug.tick", json!({"time": 5_000}))
        .expect(200, &json!([]));
    assert_eq!(server.at(5_000).snap().promise("s")["state"], "resolved");
}

#[test]
fn debug_time_is_the_now_of_its_request() {
    let server = Server::controlled();
    assert_eq!(server.at(0).create("zero", 1, json!({}))["createdAt"], 0);
    assert_eq!(server.at(7).create("seven", 9, json!({}))["createdAt"], 7);
    let body = json!({
        "kind": "promise.get",
        "head": {"corrId": "c", "version": VERSION, "resonate:debug_time": 9},
        "data": {"id": "seven"},
    });
    let response = server.post(body.to_string().as_bytes());
    assert_eq!(
        response.data["promise"]["state"], "rejected_timedout",
        "{response}"
    );
}

#[test]
fn start_pauses_delivery_and_stop_resumes_it() {
    let server = Server::controlled();
    let stream = Stream::open(&server, "g", "w");
    let tags = json!({"resonate:target": "poll://any@g"});
    server.client().create("first", i64::MAX, tags.clone());
    server.client().create("second", i64::MAX, tags);
    let expected = vec![("first".to_owned(), 0), ("second".to_owned(), 0)];
    assert_eq!(server.client().snap().executes(), expected);
    // Nothing has been taken from the outbox although somebody listens.
    assert_eq!(
        stream.bytes().iter().filter(|byte| **byte == b'{').count(),
        0
    );
    server.call("debug.stop", json!({})).expect(200, &json!({}));
    let mut received = vec![stream.next_execute(), stream.next_execute()];
    received.sort();
    assert_eq!(received, expected);
}

#[test]
fn d34_the_loops_run_until_start() {
    let server = Server::with(&["--debug"]);
    let stream = Stream::open(&server, "g", "w");
    let tags = json!({"resonate:target": "poll://any@g"});
    server.client().create("x", i64::MAX, tags);
    assert_eq!(stream.next_execute(), ("x".to_owned(), 0));
}
