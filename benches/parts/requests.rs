//! Requests, as they come over the wire, and how they are decided.

use std::hint::black_box;

use resonate::machine::workspace::Workspace;
use resonate::machine::{Config, Input, decide, missing};
use resonate::protocol::operation::Operation;
use resonate::protocol::parse::Context;
use resonate::protocol::{envelope, parse};
use resonate::store::{Loaded, Need};
use serde_json::{Value, json};

/// When everything happens.
const NOW: i64 = 1_800_000_000_000;
/// `tasks.retry_timeout`, by default.
const CONFIG: Config = Config {
    retry_timeout_ms: 60_000,
};

fn text(kind: &str, data: &Value) -> String {
    let head = json!({"corrId": "bench", "version": "2026-04-01"});
    json!({"kind": kind, "head": head, "data": data}).to_string()
}

/// `promise.create`, with what a step of a workflow carries.
pub fn create(id: &str) -> String {
    let tags = json!({"resonate:origin": "bench", "resonate:scope": "local"});
    let param = json!({"headers": {}, "data": "eyJmdW5jIjoiZm9vIiwiYXJncyI6WzEsMl19"});
    text(
        "promise.create",
        &json!({"id": id, "timeoutAt": NOW + 86_400_000, "param": param, "tags": tags}),
    )
}

/// `promise.settle`.
pub fn settle(id: &str) -> String {
    let value = json!({"headers": {}, "data": "NDI="});
    text(
        "promise.settle",
        &json!({"id": id, "state": "resolved", "value": value}),
    )
}

/// `task.create`, which creates the promise and acquires its task.
pub fn task(id: &str) -> String {
    let tags = json!({"resonate:target": "poll://any@bench"});
    let create = json!({"id": id, "timeoutAt": NOW + 86_400_000, "param": {}, "tags": tags});
    let head = json!({"corrId": "bench", "version": "2026-04-01"});
    let action = json!({"kind": "promise.create", "head": head, "data": create});
    text(
        "task.create",
        &json!({"pid": "worker", "ttl": 60_000, "action": action}),
    )
}

/// What a request is, once it is read.
pub fn input(body: &str) -> Input {
    let envelope = envelope::parse(body.as_bytes()).expect("a valid envelope");
    match parse::operation(&envelope, &Context::default()) {
        Ok(Operation::Command(command)) => Input::Request(command),
        other => panic!("{body} is no command: {other:?}"),
    }
}

/// Decides one after the other, on what is loaded for it.
pub async fn decided(inputs: &[Input], mut load: impl AsyncFnMut(Need) -> Loaded) -> Workspace {
    let mut ws = Workspace::default();
    for input in inputs {
        loop {
            let need = missing(input, NOW, &ws);
            if need.is_empty() {
                break;
            }
            let loaded = load(need.clone()).await;
            ws.absorb(&need, loaded);
        }
        black_box(decide(input, NOW, &mut ws, &CONFIG));
    }
    ws
}
