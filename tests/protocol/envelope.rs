//! How a request is read and bad input answered (protocol §2.1): the rows of the table, in its order.
//! Rows 7 and 8 belong to authentication; row 13 cannot be provoked from outside.

use serde_json::{Value, json};

use crate::harness::client::{Response, VERSION};
use crate::harness::server::{Server, clock_lag_ms_max, shared, unique, wall_clock_ms};

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
    let server = Server::single_with(&["--server-max-body-size", "1000"]);
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
    let server = Server::single_with(&["--server-max-body-size", "1000"]);
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
        (before - 1 - clock_lag_ms_max()..=wall_clock_ms()).contains(&created_at),
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
