//! How a request is read and bad input answered (protocol §2.1): the rows of the table, in its order.
//! Rows 7 and 8 belong to authentication; row 13 cannot be provoked from outside.

use serde_json::{Value, json};

use crate::harness::client::{Response, VERSION};
use crate::harness::server::{Server, shared, unique, wall_clock_ms};

#[track_caller]
fn expect(response: &Response, status: u16, kind: &str, corr_id: &str, data: &str) {
    assert!(
        response.kind == kind && response.corr_id == corr_id,
        "expected kind {kind:?}, corrId {corr_id:?}{response}"
    );
    response.expect(status, &json!(data));
}

/// Rows 2 and 3: the reason is the parser's own, but a field at fault is named.
#[track_caller]
fn expect_no_envelope(response: &Response, kind: &str, corr_id: &str, field: &str) {
    assert!(
        response.kind == kind && response.corr_id == corr_id,
        "expected kind {kind:?}, corrId {corr_id:?}{response}"
    );
    let message = response.message();
    assert!(
        response.status == 400
            && message.starts_with("Invalid request envelope: ")
            && message.contains(field),
        "expected `Invalid request envelope: …` naming {field:?}{response}"
    );
}

fn head() -> Value {
    json!({"corrId": "c", "version": VERSION})
}

#[test]
fn row_1_a_body_over_the_limit_is_answered_as_an_envelope() {
    let server = Server::with(&["--server-max-body-size", "1000"]);
    let sized = |size: usize| {
        let envelope = json!({
            "kind": "promise.get", "head": head(), "data": {"id": "a", "padding": ""},
        });
        let fill = size - envelope.to_string().len();
        let mut envelope = envelope;
        envelope["data"]["padding"] = json!("x".repeat(fill));
        envelope.to_string()
    };
    let response = server.post(sized(1_000).as_bytes());
    expect(&response, 404, "promise.get", "c", "Promise not found");
    let response = server.post(sized(1_001).as_bytes());
    expect(&response, 413, "unknown", "0", "Request body too large");
}

#[test]
fn row_1_a_chunked_body_over_the_limit_is_refused_as_well() {
    let server = Server::with(&["--server-max-body-size", "1000"]);
    let mut connection = crate::harness::http::Connection::open(server.addr()).unwrap();
    let chunk = "x".repeat(1_500);
    let request = format!(
        "POST / HTTP/1.1\r\nhost: localhost\r\ntransfer-encoding: chunked\r\n\r\n{:x}\r\n{chunk}\r\n0\r\n\r\n",
        chunk.len()
    );
    connection.write(request.as_bytes()).unwrap();
    let reply = connection.read_reply().unwrap();
    let response = Response::read(b"(chunked)", &reply);
    expect(&response, 413, "unknown", "0", "Request body too large");
}

#[test]
fn bodies_of_several_mib_are_accepted_by_default() {
    let server = shared();
    let id = unique("large");
    let data = "x".repeat(5 << 20);
    let created = server.ok(
        "promise.create",
        json!({"id": id, "timeoutAt": i64::MAX, "param": {"data": data}}),
    );
    assert_eq!(created["promise"]["param"]["data"], data);
}

#[test]
fn row_2_what_is_not_json_is_no_envelope() {
    let server = shared();
    let cases: [&[u8]; 8] = [
        b"",
        b" ",
        b"not json",
        b"{",
        b"{\"kind\":\"promise.get\"",
        b"{\"kind\":\"promise.get\"}trailing",
        b"\xff\xfe",
        b"{\"kind\":\"\xff\"}",
    ];
    for body in cases {
        expect_no_envelope(&server.post(body), "unknown", "0", "");
    }
}

#[test]
fn row_3_only_an_object_is_an_envelope() {
    let server = shared();
    let bodies = [
        json!(null),
        json!(true),
        json!(1),
        json!("promise.get"),
        json!([]),
        json!(["promise.get", head(), {"id": "a"}]),
    ];
    for body in bodies {
        let response = server.post(body.to_string().as_bytes());
        expect_no_envelope(&response, "unknown", "0", "");
    }
}

#[test]
fn row_3_a_missing_or_mistyped_member_is_named_and_the_others_echoed() {
    let server = shared();
    let get = "promise.get";
    let data = json!({"id": "a"});
    let cases = [
        (
            json!({"head": head(), "data": data}),
            "unknown",
            "c",
            "kind",
        ),
        (
            json!({"kind": null, "head": head(), "data": data}),
            "unknown",
            "c",
            "kind",
        ),
        (
            json!({"kind": 7, "head": head(), "data": data}),
            "unknown",
            "c",
            "kind",
        ),
        (json!({"kind": get, "data": data}), get, "0", "head"),
        (
            json!({"kind": get, "head": "x", "data": data}),
            get,
            "0",
            "head",
        ),
        (
            json!({"kind": get, "head": [], "data": data}),
            get,
            "0",
            "head",
        ),
        (
            json!({"kind": get, "head": {"version": VERSION}, "data": data}),
            get,
            "0",
            "corrId",
        ),
        (
            json!({"kind": get, "head": {"corrId": 7, "version": VERSION}, "data": data}),
            get,
            "0",
            "corrId",
        ),
        (
            json!({"kind": get, "head": {"corrId": null, "version": VERSION}, "data": data}),
            get,
            "0",
            "corrId",
        ),
        (
            json!({"kind": get, "head": {"corrId": "c"}, "data": data}),
            get,
            "c",
            "version",
        ),
        (
            json!({"kind": get, "head": {"corrId": "c", "version": 1}, "data": data}),
            get,
            "c",
            "version",
        ),
        (json!({"kind": get, "head": head()}), get, "c", "data"),
        (json!({"head": head()}), "unknown", "c", ""),
        (json!({}), "unknown", "0", ""),
    ];
    for (body, kind, corr_id, field) in cases {
        let response = server.post(body.to_string().as_bytes());
        expect_no_envelope(&response, kind, corr_id, field);
    }
}

#[test]
fn row_4_an_empty_kind() {
    let server = shared();
    let message = "Missing or invalid 'kind' field — must be a non-empty string";
    let body = json!({"kind": "", "head": head(), "data": {}});
    expect(
        &server.post(body.to_string().as_bytes()),
        400,
        "",
        "c",
        message,
    );
    // It comes before the checks of data and version.
    let body = json!({"kind": "", "head": {"corrId": "c", "version": "1"}, "data": null});
    expect(
        &server.post(body.to_string().as_bytes()),
        400,
        "",
        "c",
        message,
    );
}

#[test]
fn row_5_data_that_is_not_an_object() {
    let server = shared();
    let message = "Invalid 'data' field — must be an object";
    for data in [json!(null), json!([]), json!("x"), json!(1), json!(false)] {
        let body = json!({"kind": "promise.get", "head": head(), "data": data});
        let response = server.post(body.to_string().as_bytes());
        expect(&response, 400, "promise.get", "c", message);
    }
    // It comes before the check of the version.
    let body = json!({"kind": "x", "head": {"corrId": "c", "version": "1"}, "data": []});
    expect(
        &server.post(body.to_string().as_bytes()),
        400,
        "x",
        "c",
        message,
    );
}

#[test]
fn row_6_another_protocol_version() {
    let server = shared();
    for version in ["", "2025-01-15", "2026-04-02", "2026-04-01 "] {
        let body = json!({
            "kind": "no.such", "head": {"corrId": "c", "version": version}, "data": {},
        });
        let response = server.post(body.to_string().as_bytes());
        let message = format!(
            "Unsupported protocol version '{version}', supported versions: [\"2026-04-01\"]"
        );
        expect(&response, 400, "no.such", "c", &message);
    }
}

#[test]
fn row_9_an_unknown_operation() {
    let server = shared();
    for kind in [
        "promise",
        "promises.get",
        "Promise.get",
        "task.claim",
        "debug.no",
        " ",
    ] {
        let message = format!("Unknown operation: {kind}");
        server.refused(kind, json!({}), 400, &message);
    }
}

#[test]
fn row_10_debug_operations_are_forbidden_unless_enabled() {
    let server = shared();
    for kind in [
        "debug.start",
        "debug.stop",
        "debug.reset",
        "debug.tick",
        "debug.snap",
    ] {
        server.refused(kind, json!({}), 403, "Debug operations are disabled");
        // It comes before the checks of data fields.
        server.refused(
            kind,
            json!({"time": "x"}),
            403,
            "Debug operations are disabled",
        );
    }
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
fn hostile_json_is_refused_and_harms_nobody() {
    let server = shared();
    // A lone surrogate is no Unicode text: refused wherever the reader notices it.
    for body in [
        r#"{"kind":"promise.get","head":{"corrId":"c","version":"2026-04-01"},"data":{"id":"\ud800"}}"#,
        r#"{"kind":"promise.get","head":{"corrId":"\udc00","version":"2026-04-01"},"data":{"id":"a"}}"#,
        r#"{"kind":"\ud800","head":{"corrId":"c","version":"2026-04-01"},"data":{"id":"a"}}"#,
    ] {
        let response = server.post(body.as_bytes());
        let message = response.message();
        assert!(
            response.status == 400 && message.starts_with("Invalid request"),
            "{response}"
        );
    }
    let deep = "[".repeat(100_000);
    expect_no_envelope(&server.post(deep.as_bytes()), "unknown", "0", "");
    let deep = "{\"a\":".repeat(100_000);
    expect_no_envelope(&server.post(deep.as_bytes()), "unknown", "0", "");
    let closed = format!("{}1{}", "[".repeat(50_000), "]".repeat(50_000));
    let body = format!(
        r#"{{"kind":"promise.get","head":{},"data":{{"id":"a","x":{closed}}}}}"#,
        head()
    );
    // An ignored field may be skipped whatever its depth, or refused: it must only not kill.
    assert!([400, 404].contains(&server.post(body.as_bytes()).status));
    assert_eq!(server.get("/health").status(), 200);
}

#[test]
fn kind_and_corr_id_are_echoed_as_they_came() {
    let server = shared();
    for corr_id in [
        "",
        " ",
        "sr-1767222000000",
        "é漢😀\"\\\n",
        &"x".repeat(10_000),
    ] {
        let body = json!({
            "kind": "nö \"such\"", "head": {"corrId": corr_id, "version": VERSION}, "data": {},
        });
        let response = server.post(body.to_string().as_bytes());
        expect(
            &response,
            400,
            "nö \"such\"",
            corr_id,
            "Unknown operation: nö \"such\"",
        );
    }
}

#[test]
fn debug_time_is_ignored_unless_debug_is_enabled() {
    let server = shared();
    let id = unique("clock");
    let before = wall_clock_ms();
    let created = server.at(5).create(&id, i64::MAX, json!({}));
    let created_at = created["createdAt"].as_i64().unwrap();
    assert!(
        (before - 1..=wall_clock_ms()).contains(&created_at),
        "{created}"
    );
    // Ignored altogether: not even its type is looked at.
    let body = json!({
        "kind": "promise.get",
        "head": {"corrId": "c", "version": VERSION, "resonate:debug_time": "soon"},
        "data": {"id": id},
    });
    server.post(body.to_string().as_bytes()).expect_status(200);
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
