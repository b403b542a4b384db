//! `docs/openapi.yaml` describes the server: all kinds and no others, what each of them takes and answers, and the
//! other paths. That every other exchange of the tests is as described is checked where answers are read
//! (`harness::client`).

use std::collections::BTreeSet;
use std::net::SocketAddr;

use resonate::protocol::kinds;
use serde_json::{Value, json};

use crate::harness::http::{Connection, Reply};
use crate::harness::openapi::{description, differs};
use crate::harness::record;
use crate::harness::scripts::until;
use crate::harness::server::{Server, free_port};
use crate::harness::sse::Stream;

/// A request of every kind, in an order in which all of them succeed.
fn requests() -> Vec<(&'static str, Value)> {
    let targeted = |id: &str| record::create(id, i64::MAX, record::target());
    let settle = |id: &str| json!({"id": id, "state": "resolved", "value": {"data": "eA==", "headers": {"a": "b"}}});
    let (held, ttl) = (json!({"id": "t", "version": 1}), 60_000);
    let callback =
        json!({"kind": "promise.register_callback", "data": {"awaited": "c", "awaiter": "t"}});
    let schedule = json!({
        "id": "s", "cron": "0 2 * * *", "promiseId": "{{.id}}.{{.timestamp}}", "promiseTimeout": 1000,
        "promiseParam": {"data": ""}, "promiseTags": {"resonate:target": "poll://any@g"},
    });
    vec![
        ("debug.start", json!({})),
        ("promise.create", targeted("p")),
        ("promise.create", record::create("c", i64::MAX, json!({}))),
        ("promise.get", json!({"id": "p"})),
        (
            "promise.register_callback",
            json!({"awaited": "c", "awaiter": "p"}),
        ),
        (
            "promise.register_listener",
            json!({"awaited": "c", "address": "poll://uni@g/x"}),
        ),
        (
            "promise.search",
            json!({"state": "pending", "tags": {}, "limit": 1, "cursor": null}),
        ),
        ("task.get", json!({"id": "p"})),
        (
            "task.create",
            json!({"pid": "w", "ttl": ttl, "action": {"kind": "promise.create", "data": targeted("t")}}),
        ),
        ("task.heartbeat", json!({"pid": "w", "tasks": [held]})),
        (
            "task.fence",
            json!({"id": "t", "version": 1, "action": {"kind": "promise.create", "data": targeted("f")}}),
        ),
        (
            "task.fence",
            json!({"id": "t", "version": 1, "action": {"kind": "promise.settle", "data": settle("nobody")}}),
        ),
        (
            "task.suspend",
            json!({"id": "t", "version": 1, "actions": [callback]}),
        ),
        ("debug.snap", json!({})),
        ("promise.settle", settle("c")),
        ("debug.snap", json!({})),
        (
            "task.acquire",
            json!({"id": "t", "version": 1, "pid": "v", "ttl": ttl}),
        ),
        // Answered 300.
        (
            "task.suspend",
            json!({"id": "t", "version": 2, "actions": [callback]}),
        ),
        ("task.release", json!({"id": "t", "version": 2})),
        ("task.halt", json!({"id": "t"})),
        ("task.search", json!({"state": "halted", "limit": 1})),
        ("task.continue", json!({"id": "t"})),
        (
            "task.acquire",
            json!({"id": "t", "version": 2, "pid": "v", "ttl": ttl}),
        ),
        (
            "task.fulfill",
            json!({"id": "t", "version": 3, "action": {"kind": "promise.settle", "data": settle("t")}}),
        ),
        ("schedule.create", schedule),
        ("schedule.get", json!({"id": "s"})),
        ("schedule.search", json!({"tags": {}, "limit": 1})),
        ("schedule.delete", json!({"id": "s"})),
        ("debug.tick", json!({"time": 5_000})),
        ("debug.reset", json!({})),
        ("debug.stop", json!({})),
    ]
}

/// The same request without one of its members, or with one that no schema admits: every way of it, at every depth
/// that the server reads.
fn spoiled(data: &Value) -> Vec<Value> {
    let mut all = Vec::new();
    for name in data
        .as_object()
        .into_iter()
        .flat_map(|members| members.keys())
    {
        let mut without = data.clone();
        without.as_object_mut().expect("an object").remove(name);
        all.push(without);
        // No member of any request is a list of lists.
        let mut wrong = data.clone();
        wrong[name] = json!([[]]);
        all.push(wrong);
        if matches!(name.as_str(), "action" | "data") {
            all.extend(spoiled(&data[name]).into_iter().map(|inner| {
                let mut outer = data.clone();
                outer[name] = inner;
                outer
            }));
        }
    }
    all
}

#[test]
fn it_has_every_kind_and_no_other() {
    let kinds: BTreeSet<&str> = kinds::ALL.into_iter().collect();
    for (schema, suffix) in [("Request", ""), ("Answer", ".answer")] {
        let schema = &description()["components"]["schemas"][schema];
        let mapping = schema["discriminator"]["mapping"].as_object();
        let mapping = mapping.expect("kinds are told apart");
        let described: BTreeSet<&str> = mapping.keys().map(String::as_str).collect();
        assert_eq!(described, kinds);
        let listed = schema["oneOf"].as_array().expect("a list");
        assert_eq!(listed.len(), kinds.len());
        for (kind, reference) in mapping {
            let expected = format!("#/components/schemas/{kind}{suffix}");
            assert_eq!(*reference, expected);
            assert!(listed.contains(&json!({"$ref": expected})), "{kind}");
        }
    }
}

#[test]
fn every_kind_is_taken_and_answered_as_described() {
    let server = Server::single_with(&["--debug"]);
    let mut done = BTreeSet::new();
    let mut redirected = 0;
    for (kind, data) in requests() {
        // Answers are held against the description when they are read.
        let response = server.call(kind, data);
        assert!(matches!(response.status, 200 | 300), "{kind}{response}");
        redirected += usize::from(response.status == 300);
        done.insert(kind);
    }
    assert_eq!(done, kinds::ALL.into_iter().collect());
    assert_eq!(redirected, 1);
}

#[test]
fn what_the_server_refuses_the_description_does_not_have() {
    let server = Server::single_with(&["--debug"]);
    let mut refused = BTreeSet::new();
    let mut differing = Vec::new();
    for (kind, data) in requests() {
        let request = |data: &Value| json!({"kind": kind, "head": {"corrId": "1", "version": "2026-04-01"}, "data": data});
        assert_eq!(differs(kind, &request(&data)), None);
        for data in spoiled(&data) {
            let is_described = differs(kind, &request(&data)).is_none();
            let response = server.call(kind, data);
            let is_taken = response.status != 400;
            if !is_taken {
                refused.insert(kind);
            }
            if is_described != is_taken {
                differing.push(response.to_string());
            }
        }
    }
    assert!(differing.is_empty(), "{}", differing.join("\n"));
    let no_members = ["debug.start", "debug.stop", "debug.reset", "debug.snap"];
    let all = kinds::ALL
        .into_iter()
        .filter(|kind| !no_members.contains(kind));
    assert_eq!(refused, all.collect());
}

/// Asserts that a path's answer has a status and a content type that the description gives it.
#[track_caller]
fn is_described(path: &str, reply: &Reply) {
    let status = reply.status().to_string();
    let described = &description()["paths"][path]["get"]["responses"][&status];
    assert!(described.is_object(), "{path}: {status} is not described");
    let named = described["$ref"]
        .as_str()
        .and_then(|name| name.rsplit('/').next());
    let described = match named {
        Some(name) => &description()["components"]["responses"][name],
        None => described,
    };
    let content_type = reply.header("content-type").unwrap_or_default();
    let content_type = content_type.split(';').next().unwrap_or_default();
    match described["content"].as_object() {
        Some(content) => assert!(content.contains_key(content_type), "{path}: {content_type}"),
        None => assert!(reply.body.is_empty(), "{path}: {}", reply.text()),
    }
}

#[test]
fn the_other_paths_answer_as_described() {
    let metrics = free_port();
    let server = Server::single_with(&["--observability-metrics-port", &metrics.to_string()]);
    for path in ["/health", "/ready", "/targets", "/retention"] {
        is_described(path, &server.get(path));
    }
    is_described("/targets", &server.get("/targets?limit=many"));
    is_described("/retention", &server.get("/retention?after=long"));
    let address = SocketAddr::from(([127, 0, 0, 1], metrics));
    let page = Connection::open(address).and_then(|mut c| c.exchange("GET", "/metrics", &[], b""));
    is_described("/metrics", &page.expect("metrics are served"));
    let client = server.client();
    client.create_targeted("t", i64::MAX);
    client.create("p", i64::MAX, json!({}));
    client.listen("p", "poll://uni@absent/x");
    client.settle("p", "resolved");
    let page: Value = serde_json::from_str(&server.get("/targets").text()).expect("JSON");
    assert_eq!(page["targets"].as_array().map(Vec::len), Some(2), "{page}");
    assert_eq!(differs("Targets", &page), None);
    client.create("over", i64::MAX, json!({}));
    client.settle("over", "resolved");
    let due = || -> Value {
        serde_json::from_str(&server.get("/retention?after=1").text()).expect("JSON")
    };
    until("something that is over", || due()["due"][0].is_object());
    assert_eq!(differs("Retention", &due()), None);
}

#[test]
fn messages_are_as_described() {
    let server = Server::single();
    let stream = Stream::open(&server, "default", "w");
    let content_type = stream.head.header("content-type");
    assert_eq!(content_type, Some("text/event-stream"));
    let described = &description()["paths"]["/poll/{group}/{id}"]["get"]["responses"];
    assert!(described["200"]["content"]["text/event-stream"].is_object());
    let client = server.client();
    let target = json!({"resonate:target": "poll://any@default"});
    client.create("t", i64::MAX, target);
    client.create("p", i64::MAX, json!({}));
    client.listen("p", "poll://uni@default/w");
    client.settle("p", "rejected");
    let mut kinds = BTreeSet::new();
    for _ in 0..2 {
        let message = stream.next();
        assert_eq!(differs("Message", &message), None, "{message}");
        kinds.insert(message["kind"].as_str().map(str::to_owned));
    }
    assert_eq!(kinds.len(), 2);
}
