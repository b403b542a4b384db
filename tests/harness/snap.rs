//! What `debug.snap` shows: the stored state, obligations and undelivered messages included.

use serde_json::{Value, json};

/// Task timeout types of the snap.
pub const RETRY: i64 = 0;
pub const LEASE: i64 = 1;

/// One snap.
#[derive(Clone, Debug)]
pub struct Snap(pub Value);

impl Snap {
    pub fn new(data: Value) -> Self {
        Snap(data)
    }

    fn list(&self, key: &str) -> &[Value] {
        let list = self.0.get(key).and_then(Value::as_array);
        list.unwrap_or_else(|| panic!("no array `{key}` in {}", self.0))
    }

    fn find(&self, key: &str, id: &str) -> Option<&Value> {
        self.list(key).iter().find(|record| record["id"] == id)
    }

    /// The stored promise.
    #[track_caller]
    pub fn promise(&self, id: &str) -> &Value {
        self.find("promises", id)
            .unwrap_or_else(|| panic!("no promise {id} in {}", self.0))
    }

    /// The stored task.
    #[track_caller]
    pub fn task(&self, id: &str) -> &Value {
        self.find("tasks", id)
            .unwrap_or_else(|| panic!("no task {id} in {}", self.0))
    }

    pub fn has_task(&self, id: &str) -> bool {
        self.find("tasks", id).is_some()
    }

    /// When the promise's durable timeout fires, if it is armed.
    pub fn armed(&self, id: &str) -> Option<i64> {
        self.find("promiseTimeouts", id)
            .and_then(|entry| entry["timeout"].as_i64())
    }

    /// The task's timeout: type and instant.
    pub fn task_timeout(&self, id: &str) -> Option<(i64, i64)> {
        let entry = self.find("taskTimeouts", id)?;
        Some((entry["type"].as_i64()?, entry["timeout"].as_i64()?))
    }

    /// The whole list, in a fixed order where the protocol leaves it open.
    pub fn sorted(&self, key: &str) -> Value {
        let mut list = self.list(key).to_vec();
        list.sort_by_key(Value::to_string);
        Value::Array(list)
    }

    /// (awaiter, awaited) pairs, sorted.
    pub fn callbacks(&self) -> Vec<(String, String)> {
        self.pairs("callbacks", "awaiter", "awaited")
    }

    /// (id, address) pairs, sorted.
    pub fn listeners(&self) -> Vec<(String, String)> {
        self.pairs("listeners", "id", "address")
    }

    /// (task id, version) of every undelivered `execute` that is not stale: whether the message of a
    /// task that has been acquired or has ended is withdrawn or left over is the server's choice.
    pub fn executes(&self) -> Vec<(String, i64)> {
        let mut executes = Vec::new();
        for message in self.messages_of("execute") {
            let task = &message["message"]["data"]["task"];
            let expected = json!({
                "address": message["address"],
                "message": {"kind": "execute", "head": {}, "data": {"task": {
                    "id": task["id"], "version": task["version"],
                }}},
            });
            assert_eq!(*message, expected);
            let id = task["id"].as_str().expect("an execute names a task");
            let current = self.task(id);
            if current["state"] == "pending" && current["version"] == task["version"] {
                executes.push((id.to_owned(), task["version"].as_i64().expect("a version")));
            }
        }
        executes.sort();
        executes
    }

    /// (address, promise record) of every undelivered `unblock`, sorted by id, then address.
    pub fn unblocks(&self) -> Vec<(String, Value)> {
        let mut unblocks: Vec<(String, Value)> = self
            .messages_of("unblock")
            .map(|message| {
                let address = message["address"].as_str().expect("an address");
                let promise = &message["message"]["data"]["promise"];
                (address.to_owned(), promise.clone())
            })
            .collect();
        unblocks.sort_by_key(|(address, promise)| (promise["id"].to_string(), address.clone()));
        unblocks
    }

    fn messages_of(&self, kind: &str) -> impl Iterator<Item = &Value> {
        self.list("messages")
            .iter()
            .filter(move |message| message["message"]["kind"] == kind)
    }

    fn pairs(&self, key: &str, first: &str, second: &str) -> Vec<(String, String)> {
        let text = |value: &Value| value.as_str().expect("a string").to_owned();
        let mut pairs: Vec<(String, String)> = self
            .list(key)
            .iter()
            .map(|entry| (text(&entry[first]), text(&entry[second])))
            .collect();
        pairs.sort();
        pairs
    }
}

/// Owned pairs, to compare with what a snap lists.
pub fn pairs(pairs: &[(&str, &str)]) -> Vec<(String, String)> {
    pairs
        .iter()
        .map(|&(first, second)| (first.to_owned(), second.to_owned()))
        .collect()
}

/// Owned (id, version) pairs, to compare with what a snap lists.
pub fn versions(pairs: &[(&str, i64)]) -> Vec<(String, i64)> {
    pairs
        .iter()
        .map(|&(id, version)| (id.to_owned(), version))
        .collect()
}
