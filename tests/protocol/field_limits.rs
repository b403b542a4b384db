//! How much a request may hold (protocol §2.1, row 12; `limits.*` of resonate.toml).

use serde_json::{Value, json};

use crate::harness::record;
use crate::harness::server::{Server, shared, unique};
use crate::harness::store::key_bytes_max;

#[test]
fn an_id_may_be_as_long_as_the_store_takes() {
    let server = shared();
    let longest = key_bytes_max();
    let id = format!("{:x<longest$}", unique("long"));
    server.client().create_targeted(&id, i64::MAX);
    assert_eq!(server.client().acquire(&id, 0, 60_000)["task"]["id"], id);
    assert_eq!(server.client().settle(&id, "resolved")["id"], id);
    let longer = format!("{id}x");
    let message = format!("Promise ID must not be longer than {longest} bytes");
    server.refused("promise.get", json!({"id": longer}), 400, &message);
}

#[test]
fn what_a_request_may_hold_is_limited_by_default() {
    let server = shared();
    let (id, key) = (unique("limited"), key_bytes_max());
    let tags = |tags: Value| json!({"id": id, "timeoutAt": i64::MAX, "tags": tags});
    let many = |count: usize| -> Value {
        let tags = (0..count).map(|n| (n.to_string(), json!("")));
        Value::Object(tags.collect())
    };
    let target = |bytes: usize| format!("poll://any@{:x<1$}", "", bytes - "poll://any@".len());
    let awaits = |count: usize| {
        let awaited: Vec<String> = (0..count).map(|n| n.to_string()).collect();
        let awaited: Vec<&str> = awaited.iter().map(String::as_str).collect();
        record::suspend(&id, 1, &awaited)
    };
    let beats = |count: usize| {
        let tasks: Vec<Value> = (0..count)
            .map(|n| json!({"id": "none", "version": n}))
            .collect();
        json!({"pid": "p", "tasks": tasks})
    };
    let too_long = |field: &str| format!("{field} must not be longer than {key} bytes");
    for (kind, within, beyond, message) in [
        (
            "promise.create",
            tags(many(1000)),
            tags(many(1001)),
            "Tags must not be more than 1000".to_owned(),
        ),
        (
            "promise.create",
            tags(json!({"ab": "x".repeat(65_534)})),
            tags(json!({"ab": "x".repeat(65_535)})),
            "Tags must not be longer than 65536 bytes".to_owned(),
        ),
        (
            "promise.create",
            tags(json!({"resonate:target": target(key)})),
            tags(json!({"resonate:target": target(key + 1)})),
            too_long("resonate:target"),
        ),
        (
            "promise.register_listener",
            json!({"awaited": id, "address": target(key)}),
            json!({"awaited": id, "address": target(key + 1)}),
            too_long("Address"),
        ),
        (
            "task.suspend",
            awaits(10_000),
            awaits(10_001),
            "Actions must not be more than 10000".to_owned(),
        ),
        (
            "task.heartbeat",
            beats(100_000),
            beats(100_001),
            "Tasks must not be more than 100000".to_owned(),
        ),
    ] {
        server.refused(kind, beyond, 400, &message);
        let answered = server.call(kind, within);
        assert!(answered.status != 400, "{kind}: {answered}");
    }
}

#[test]
fn what_a_request_may_hold_is_a_setting() {
    let server = Server::with(&[
        "--limits-max-id-length",
        "5",
        "--limits-max-address-length",
        "12",
        "--limits-max-tags",
        "1",
        "--limits-max-tag-length",
        "20",
        "--limits-max-suspend-actions",
        "1",
        "--limits-max-heartbeat-tasks",
        "1",
    ]);
    let create = |id: &str, tags: Value| json!({"id": id, "timeoutAt": i64::MAX, "tags": tags});
    let beat = json!({"id": "a", "version": 1});
    for (kind, data, message) in [
        (
            "promise.create",
            create("abcdef", json!({})),
            "Promise ID must not be longer than 5 bytes",
        ),
        (
            "promise.create",
            create("a", json!({"a": "b", "c": "d"})),
            "Tags must not be more than 1",
        ),
        (
            "promise.search",
            json!({"tags": {"a": "b", "c": "d"}}),
            "Tags must not be more than 1",
        ),
        (
            "promise.create",
            create("a", json!({"a": "twenty bytes are few"})),
            "Tags must not be longer than 20 bytes",
        ),
        (
            "promise.create",
            create("a", json!({"resonate:branch": "abcdef"})),
            "Tags must not be longer than 20 bytes; resonate:branch must not be longer than 5 bytes",
        ),
        (
            "promise.register_listener",
            json!({"awaited": "a", "address": "poll://any@ab"}),
            "Address must not be longer than 12 bytes",
        ),
        (
            "task.suspend",
            record::suspend("a", 1, &["b", "c"]),
            "Actions must not be more than 1",
        ),
        (
            "task.heartbeat",
            json!({"pid": "p", "tasks": [beat, beat]}),
            "Tasks must not be more than 1",
        ),
    ] {
        server.refused(kind, data, 400, message);
    }
    server
        .client()
        .create("abcde", i64::MAX, json!({"a": "nineteen bytes here"}));
}
