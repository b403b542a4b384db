//! Records as they must be answered, and the data of common requests.

use serde_json::{Value, json};

/// An address nobody ever connects to.
pub const NOBODY: &str = "poll://any@nobody";

/// Tags of a promise with a task.
pub fn target() -> Value {
    json!({"resonate:target": NOBODY})
}

/// Tags of a timer.
pub fn timer() -> Value {
    json!({"resonate:timer": "true"})
}

/// The data of `promise.create`.
#[allow(clippy::needless_pass_by_value, reason = "callers pass `json!`")]
pub fn create(id: &str, timeout_at: i64, tags: Value) -> Value {
    json!({"id": id, "timeoutAt": timeout_at, "tags": tags})
}

/// The data of `task.create`.
#[allow(clippy::needless_pass_by_value, reason = "callers pass `json!`")]
pub fn task_create(id: &str, timeout_at: i64, tags: Value) -> Value {
    json!({
        "pid": "p", "ttl": 1_000,
        "action": {"kind": "promise.create", "data": create(id, timeout_at, tags)},
    })
}

/// The data of `task.suspend`.
pub fn suspend(id: &str, version: i64, awaited: &[&str]) -> Value {
    let actions: Vec<Value> = awaited
        .iter()
        .map(|awaited| {
            json!({
                "kind": "promise.register_callback",
                "data": {"awaited": awaited, "awaiter": id},
            })
        })
        .collect();
    json!({"id": id, "version": version, "actions": actions})
}

/// The data of `task.fence` around an inner operation.
#[allow(clippy::needless_pass_by_value, reason = "callers pass `json!`")]
pub fn fence(id: &str, version: i64, kind: &str, data: Value) -> Value {
    json!({"id": id, "version": version, "action": {"kind": kind, "data": data}})
}

/// The data of `task.fulfill`.
pub fn fulfill(id: &str, version: i64, state: &str) -> Value {
    json!({
        "id": id, "version": version,
        "action": {"kind": "promise.settle", "data": {"id": id, "state": state}},
    })
}

/// A pending promise without param.
#[allow(clippy::needless_pass_by_value, reason = "callers pass `json!`")]
pub fn pending(id: &str, timeout_at: i64, created_at: i64, tags: Value) -> Value {
    json!({
        "id": id, "state": "pending", "param": {}, "value": {}, "tags": tags,
        "timeoutAt": timeout_at, "createdAt": created_at,
    })
}

/// The same promise, settled by a client without a value or by its deadline.
pub fn settled(promise: &Value, state: &str, settled_at: i64) -> Value {
    with(
        promise.clone(),
        json!({"state": state, "settledAt": settled_at}),
    )
}

/// The same promise past its deadline.
pub fn timed_out(promise: &Value) -> Value {
    let timeout_at = promise["timeoutAt"].as_i64().expect("a promise record");
    settled(promise, "rejected_timedout", timeout_at)
}

/// A task that nobody holds.
pub fn task(id: &str, state: &str, version: i64, resumes: i64) -> Value {
    json!({"id": id, "state": state, "version": version, "resumes": resumes})
}

/// A task that somebody holds.
pub fn acquired(id: &str, version: i64, resumes: i64, pid: &str, ttl: i64) -> Value {
    json!({
        "id": id, "state": "acquired", "version": version, "resumes": resumes,
        "ttl": ttl, "pid": pid,
    })
}

/// An object with the members of another put over it.
#[allow(clippy::needless_pass_by_value, reason = "callers pass `json!`")]
pub fn with(mut base: Value, over: Value) -> Value {
    for (key, value) in over.as_object().expect("an object") {
        base[key] = value.clone();
    }
    base
}

/// An object without one member.
pub fn without(mut base: Value, key: &str) -> Value {
    base.as_object_mut().expect("an object").remove(key);
    base
}

/// One member of an object that has no other.
#[track_caller]
pub fn member(data: Value, key: &str) -> Value {
    let Value::Object(mut members) = data else {
        panic!("not an object: {data}");
    };
    members
        .remove(key)
        .unwrap_or_else(|| panic!("no `{key}` in {members:?}"))
}

/// The ids of a list of records, in its order.
#[track_caller]
pub fn ids(list: &Value) -> Vec<&str> {
    let list = list.as_array().expect("an array");
    list.iter()
        .map(|record| record["id"].as_str().expect("a record has an id"))
        .collect()
}
