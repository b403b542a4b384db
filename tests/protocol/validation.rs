//! How the fields of `data` are read (protocol §2.1, rows 11 and 12): types, rules, leniency, null
//! bytes; and that a refusal changes nothing.

use serde_json::{Value, json};

use crate::harness::client::VERSION;
use crate::harness::server::{Server, shared, unique};

fn head() -> Value {
    json!({"corrId": "c", "version": VERSION})
}

#[test]
fn row_11_a_missing_field_is_named() {
    let server = shared();
    let value = json!({
        "id": "a", "timeoutAt": 1, "state": "resolved", "awaited": "a", "awaiter": "b",
        "address": "http://h", "version": 0, "pid": "p", "ttl": 1, "tasks": [], "actions": [],
        "cron": "* * * * *", "promiseId": "x", "promiseTimeout": 1,
        "promiseTags": {"resonate:target": "http://h"},
    });
    let cases: [(&str, &[&str]); 18] = [
        ("promise.get", &["id"]),
        ("promise.create", &["id", "timeoutAt"]),
        ("promise.settle", &["id", "state"]),
        ("promise.register_callback", &["awaited", "awaiter"]),
        ("promise.register_listener", &["awaited", "address"]),
        ("task.get", &["id"]),
        ("task.create", &["pid", "ttl", "action"]),
        ("task.acquire", &["id", "version", "pid", "ttl"]),
        ("task.fence", &["id", "version", "action"]),
        ("task.heartbeat", &["pid", "tasks"]),
        ("task.suspend", &["id", "version", "actions"]),
        ("task.fulfill", &["id", "version", "action"]),
        ("task.release", &["id", "version"]),
        ("task.halt", &["id"]),
        ("task.continue", &["id"]),
        ("schedule.get", &["id"]),
        (
            "schedule.create",
            &["id", "cron", "promiseId", "promiseTimeout"],
        ),
        ("schedule.delete", &["id"]),
    ];
    for (kind, fields) in cases {
        for field in fields {
            let mut data = value.clone();
            data["action"] = match kind {
                "task.create" => json!({"kind": "promise.create", "data": {
                    "id": "a", "timeoutAt": 1, "tags": {"resonate:target": "http://h"},
                }}),
                _ => json!({"kind": "promise.settle", "data": {"id": "b", "state": "resolved"}}),
            };
            data.as_object_mut().unwrap().remove(*field);
            server.call(kind, data).expect_invalid(field);
        }
    }
}

#[test]
fn row_11_a_field_of_the_wrong_type_is_named() {
    let server = shared();
    let create = json!({"id": "a", "timeoutAt": 1});
    let cases = [
        ("promise.get", json!({"id": 7}), "id"),
        ("promise.get", json!({"id": null}), "id"),
        ("promise.create", json!({"id": ["a"], "timeoutAt": 1}), "id"),
        (
            "promise.create",
            create_with(&create, "param", json!("x")),
            "param",
        ),
        (
            "promise.create",
            create_with(&create, "param", json!([])),
            "param",
        ),
        (
            "promise.create",
            create_with(&create, "param", json!({"data": 1})),
            "data",
        ),
        (
            "promise.create",
            create_with(&create, "param", json!({"headers": {"a": 1}})),
            "headers",
        ),
        (
            "promise.create",
            create_with(&create, "tags", json!([])),
            "tags",
        ),
        (
            "promise.create",
            create_with(&create, "tags", json!({"a": 1})),
            "tags",
        ),
        (
            "promise.create",
            create_with(&create, "tags", json!({"a": null})),
            "tags",
        ),
        ("promise.settle", json!({"id": "a", "state": 1}), "state"),
        (
            "promise.settle",
            json!({"id": "a", "state": {"resolved": null}}),
            "state",
        ),
        (
            "promise.search",
            json!({"state": {"pending": null}}),
            "state",
        ),
        ("task.search", json!({"state": {"pending": null}}), "state"),
        ("task.heartbeat", json!({"pid": "p", "tasks": {}}), "tasks"),
        (
            "task.heartbeat",
            json!({"pid": "p", "tasks": [{"id": "a"}]}),
            "version",
        ),
        (
            "task.suspend",
            json!({"id": "a", "version": 0, "actions": 1}),
            "actions",
        ),
        ("promise.search", json!({"limit": "1"}), "limit"),
        ("promise.search", json!({"cursor": 1}), "cursor"),
        ("promise.search", json!({"tags": "x"}), "tags"),
        ("task.search", json!({"limit": 1.5}), "limit"),
        ("schedule.search", json!({"tags": {"a": 1}}), "tags"),
    ];
    for (kind, data, field) in cases {
        server.call(kind, data).expect_invalid(field);
    }
}

fn create_with(create: &Value, field: &str, value: Value) -> Value {
    let mut create = create.clone();
    create[field] = value;
    create
}

#[test]
fn row_11_integers_must_be_json_integers() {
    let server = shared();
    let numbers = [
        "5000.5",
        "5000.0",
        "\"5000\"",
        "1e3",
        "9223372036854775808",
        "1e999",
    ];
    let cases = [
        ("promise.create", r#"{"id":"a","timeoutAt":@}"#, "timeoutAt"),
        (
            "task.acquire",
            r#"{"id":"a","version":@,"pid":"p","ttl":1}"#,
            "version",
        ),
        (
            "task.acquire",
            r#"{"id":"a","version":0,"pid":"p","ttl":@}"#,
            "ttl",
        ),
        ("task.release", r#"{"id":"a","version":@}"#, "version"),
        ("promise.search", r#"{"limit":@}"#, "limit"),
        (
            "schedule.create",
            r#"{"id":"a","cron":"* * * * *","promiseId":"x","promiseTimeout":@,"promiseTags":{"resonate:target":"http://h"}}"#,
            "promiseTimeout",
        ),
    ];
    for (kind, data, field) in cases {
        for number in numbers {
            // As text: no JSON library writes these numbers as they stand.
            let body = format!(
                r#"{{"kind":"{kind}","head":{},"data":{}}}"#,
                head(),
                data.replace('@', number)
            );
            let response = server.post(body.as_bytes());
            let message = response.message();
            // `1e999` is no number at all to some parsers, which then find no envelope.
            assert!(
                response.status == 400 && message.starts_with("Invalid request"),
                "{response}"
            );
            if number != "1e999" {
                response.expect_invalid(field);
            }
        }
    }
}

#[test]
fn row_12_several_broken_rules_are_all_told() {
    let server = shared();
    server
        .call("promise.create", json!({"id": "", "timeoutAt": -1}))
        .expect_rules(&[
            "Promise ID is required",
            "TimeoutAt must be a non-negative integer",
        ]);
    server
        .call(
            "task.acquire",
            json!({"id": "", "version": -1, "pid": "", "ttl": 0}),
        )
        .expect_rules(&[
            "Task ID is required",
            "Version must be a non-negative integer",
            "Process ID is required",
            "TTL must be a positive integer",
        ]);
    let data = json!({"awaited": "", "awaiter": ""});
    let response = server.call("promise.register_callback", data);
    let given: Vec<&str> = response.message().split("; ").collect();
    for message in [
        "Awaited promise ID is required",
        "Awaiter promise ID is required",
    ] {
        assert!(given.contains(&message), "{response}");
    }
}

#[test]
fn null_means_absent_where_a_field_is_optional() {
    let server = shared();
    let id = unique("null");
    let body = json!({
        "kind": "promise.create",
        "head": {"corrId": "c", "version": VERSION, "auth": null},
        "data": {"id": id, "timeoutAt": i64::MAX, "param": null, "tags": null},
    });
    let created = server.post(body.to_string().as_bytes());
    let promise = &created.expect_status(200)["promise"];
    assert_eq!(promise["param"], json!({}), "{created}");
    assert_eq!(promise["tags"], json!({}), "{created}");
    let settled = server.ok(
        "promise.settle",
        json!({"id": id, "state": "resolved", "value": {"headers": null, "data": null}}),
    );
    assert_eq!(settled["promise"]["value"], json!({}));

    let other = unique("null");
    server.ok(
        "promise.create",
        json!({"id": other, "timeoutAt": i64::MAX}),
    );
    server.ok(
        "promise.settle",
        json!({"id": other, "state": "resolved", "value": null}),
    );
    for kind in ["promise.search", "task.search"] {
        let data = json!({"state": null, "tags": null, "limit": null, "cursor": null});
        server.call(kind, data).expect_status(200);
    }
    let data = json!({"tags": null, "limit": null, "cursor": null});
    server.call("schedule.search", data).expect_status(200);
}

#[test]
fn an_empty_value_is_not_an_absent_one() {
    let server = shared();
    for param in [
        json!({}),
        json!({"headers": {}}),
        json!({"data": ""}),
        json!({"headers": {}, "data": ""}),
        json!({"headers": {"a": "b"}, "data": "not base64 é 漢 😀 \n\t\"\\"}),
    ] {
        let id = unique("value");
        let data = json!({"id": id, "timeoutAt": i64::MAX, "param": param});
        assert_eq!(server.ok("promise.create", data)["promise"]["param"], param);
        let data = json!({"id": id, "state": "rejected", "value": param});
        assert_eq!(server.ok("promise.settle", data)["promise"]["value"], param);
        assert_eq!(server.client().get(&id)["param"], param);
        assert_eq!(server.client().get(&id)["value"], param);
    }
}

#[test]
fn unknown_fields_are_ignored_everywhere() {
    let server = shared();
    let id = unique("extra");
    let body = json!({
        "kind": "promise.create",
        "head": {
            "corrId": "c", "version": VERSION, "resonate:origin": id, "traceparent": {"a": []},
        },
        "data": {
            "id": id, "timeoutAt": i64::MAX, "strict": true,
            "param": {"data": "x", "encoding": "none", "size": 1}, "more": [{"deep": null}],
        },
        "extra": {"a": 1},
    });
    let response = server.post(body.to_string().as_bytes());
    let promise = &response.expect_status(200)["promise"];
    assert_eq!(promise["param"], json!({"data": "x"}), "{response}");
    assert_eq!(server.client().get(&id), *promise);
    server.ok("task.search", json!({"tags": 7}));
    server.ok("schedule.search", json!({"state": 7}));
}

#[test]
fn null_bytes_are_refused_in_ids_tags_headers_addresses_and_data() {
    let server = shared();
    let z = "a\u{0}b";
    let target = json!({"resonate:target": "http://h"});
    let schedule = |field: &str, value: Value| {
        let mut data = json!({
            "id": "s", "cron": "* * * * *", "promiseId": "x", "promiseTimeout": 1,
            "promiseTags": target,
        });
        data[field] = value;
        data
    };
    let settle = |data: Value| json!({"kind": "promise.settle", "data": data});
    let cases = [
        (
            "promise.create",
            json!({"id": "n", "timeoutAt": 1, "tags": {"k": z}}),
        ),
        (
            "promise.create",
            json!({"id": "n", "timeoutAt": 1, "tags": {z: "v"}}),
        ),
        (
            "promise.create",
            json!({"id": "n", "timeoutAt": 1, "param": {"data": z}}),
        ),
        (
            "promise.create",
            json!({"id": "n", "timeoutAt": 1, "param": {"headers": {"k": z}}}),
        ),
        (
            "promise.create",
            json!({"id": "n", "timeoutAt": 1, "param": {"headers": {z: "v"}}}),
        ),
        (
            "promise.settle",
            json!({"id": "n", "state": "resolved", "value": {"data": z}}),
        ),
        (
            "promise.register_callback",
            json!({"awaited": z, "awaiter": "n"}),
        ),
        (
            "promise.register_callback",
            json!({"awaited": "n", "awaiter": z}),
        ),
        (
            "promise.register_listener",
            json!({"awaited": z, "address": "http://h"}),
        ),
        (
            "promise.register_listener",
            json!({"awaited": "n", "address": "http://h/\u{0}"}),
        ),
        ("task.get", json!({"id": z})),
        (
            "task.acquire",
            json!({"id": z, "version": 0, "pid": "p", "ttl": 1}),
        ),
        (
            "task.acquire",
            json!({"id": "n", "version": 0, "pid": z, "ttl": 1}),
        ),
        ("task.heartbeat", json!({"pid": z, "tasks": []})),
        (
            "task.heartbeat",
            json!({"pid": "p", "tasks": [{"id": z, "version": 1}]}),
        ),
        ("task.release", json!({"id": z, "version": 0})),
        ("task.halt", json!({"id": z})),
        ("task.continue", json!({"id": z})),
        (
            "task.fulfill",
            json!({"id": "n", "version": 1, "action": settle(json!({
                "id": "n", "state": "resolved", "value": {"data": z},
            }))}),
        ),
        (
            "task.fence",
            json!({"id": "n", "version": 1, "action": settle(json!({
                "id": "m", "state": "resolved", "value": {"data": z},
            }))}),
        ),
        (
            "task.create",
            json!({"pid": z, "ttl": 1, "action": {"kind": "promise.create", "data": {
                "id": "n", "timeoutAt": 1, "tags": target,
            }}}),
        ),
        ("schedule.get", json!({"id": z})),
        ("schedule.delete", json!({"id": z})),
        ("promise.search", json!({"cursor": z})),
        ("promise.search", json!({"tags": {"k": z}})),
        ("promise.search", json!({"tags": {z: "v"}})),
        ("task.search", json!({"cursor": z})),
        ("schedule.search", json!({"cursor": z})),
        ("schedule.search", json!({"tags": {"k": z}})),
        ("schedule.create", schedule("id", json!(z))),
        ("schedule.create", schedule("cron", json!("* * * * *\u{0}"))),
        ("schedule.create", schedule("promiseId", json!(z))),
        (
            "schedule.create",
            schedule("promiseParam", json!({"data": z})),
        ),
        (
            "schedule.create",
            schedule(
                "promiseTags",
                json!({"resonate:target": "http://h", "k": z}),
            ),
        ),
    ];
    for (kind, data) in cases {
        let response = server.call(kind, data);
        let told = response
            .message()
            .split("; ")
            .any(|message| message.ends_with(" must not contain null bytes"));
        assert!(response.status == 400 && told, "{response}");
    }
    for (kind, data) in [
        ("promise.create", json!({"id": z, "timeoutAt": 1})),
        ("promise.get", json!({"id": z})),
        ("promise.settle", json!({"id": z, "state": "resolved"})),
    ] {
        server.refused(kind, data, 400, "Promise ID must not contain null bytes");
    }
}

#[test]
fn a_refusal_writes_nothing() {
    // R6. The fields at fault stand last, so that everything before them could have been done.
    let server = Server::controlled();
    server.at(1_000).create_targeted("t", 10_000);
    server.at(1_000).create("p", 10_000, json!({}));
    let before = server.at(1_000).snap().0;
    let refused = [
        (
            "promise.create",
            json!({"id": "n", "timeoutAt": 9_000, "tags": {"k": 1}}),
        ),
        (
            "promise.settle",
            json!({"id": "p", "state": "rejected_timedout"}),
        ),
        (
            "promise.register_callback",
            json!({"awaited": "p", "awaiter": "p"}),
        ),
        (
            "promise.register_callback",
            json!({"awaited": "t", "awaiter": "p"}),
        ),
        (
            "promise.register_listener",
            json!({"awaited": "p", "address": "poll://uni@g"}),
        ),
        (
            "task.acquire",
            json!({"id": "t", "version": 1, "pid": "p", "ttl": 1}),
        ),
        (
            "task.acquire",
            json!({"id": "t", "version": 0, "pid": "p", "ttl": 0}),
        ),
        ("task.release", json!({"id": "t", "version": 0})),
        ("task.continue", json!({"id": "t"})),
        ("schedule.delete", json!({"id": "s"})),
    ];
    for (kind, data) in refused {
        let response = server.at(2_000).call(kind, data);
        assert!(response.status >= 400, "{response}");
    }
    assert_eq!(server.at(2_000).snap().0, before);
}
