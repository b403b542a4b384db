//! A worker of the group `default` with two functions: `hello(name)`, and `order()`, which charges a card,
//! sleeps, and ships. Calls of other functions stay pending.

use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::Duration;

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use serde_json::{Value, json};

use crate::harness::record;
use crate::harness::server::Server;
use crate::harness::sse::Stream;

const PATIENCE: Duration = Duration::from_millis(20);

/// Runs `body` while such a worker listens.
pub fn beside<T>(server: &Server, body: impl FnOnce() -> T) -> T {
    let is_over = AtomicBool::new(false);
    let stream = Stream::open(server, "default", "w");
    thread::scope(|scope| {
        let is_over = &is_over;
        scope.spawn(move || {
            while !is_over.load(Ordering::Relaxed) {
                if let Some(message) = stream.poll(PATIENCE) {
                    let id = message["data"]["task"]["id"].as_str();
                    execute(server, id.expect("an execute names a task"));
                }
            }
        });
        // Also when the body fails, or the scope would wait for ever.
        let _over = Over(is_over);
        body()
    })
}

struct Over<'a>(&'a AtomicBool);

impl Drop for Over<'_> {
    fn drop(&mut self) {
        self.0.store(true, Ordering::Relaxed);
    }
}

fn execute(server: &Server, id: &str) {
    let client = server.client();
    let call = call_of(&client.get(id));
    let value = match call["func"].as_str() {
        Some("hello") => json!(format!("hello {}", call["args"][0].as_str().unwrap_or("?"))),
        Some("order") => json!({"shipped": true}),
        _ => return,
    };
    let version = client.acquire(id, 0, 60_000)["task"]["version"].as_i64();
    let version = version.expect("a task has a version");
    if call["func"] == "order" {
        let call = |func: &str| json!({"func": func, "args": [], "version": 1});
        let steps = [call("charge"), Value::Null, call("ship")];
        for (n, call) in steps.iter().enumerate() {
            step(server, (id, version), n, call);
        }
    }
    let mut data = record::fulfill(id, version, "resolved");
    data["action"]["data"]["value"] = json!({"headers": {}, "data": encoded(&value)});
    client.ok("task.fulfill", data);
}

/// One child, created and resolved: a local call, or a sleep if it calls nothing.
fn step(server: &Server, (root, version): (&str, i64), n: usize, call: &Value) {
    let id = format!("{root}:{n}");
    let mut tags = json!({
        "resonate:origin": root, "resonate:parent": root, "resonate:branch": root,
        "resonate:scope": "local",
    });
    let mut promise = record::create(&id, i64::MAX, Value::Null);
    if call.is_null() {
        tags["resonate:timer"] = json!("true");
    } else {
        promise["param"] = json!({"headers": {}, "data": encoded(call)});
    }
    promise["tags"] = tags;
    for (kind, data) in [
        ("promise.create", promise),
        ("promise.settle", json!({"id": id, "state": "resolved"})),
    ] {
        server.ok("task.fence", record::fence(root, version, kind, data));
    }
}

/// What the param of a promise calls.
pub fn call_of(promise: &Value) -> Value {
    let data = promise["param"]["data"].as_str().unwrap_or_default();
    let text = STANDARD.decode(data).unwrap_or_default();
    serde_json::from_slice(&text).unwrap_or_default()
}

pub fn encoded(value: &Value) -> String {
    STANDARD.encode(value.to_string())
}
