//! What clients and workers were told by any node, held against everything that was told before and, in the end,
//! against what is stored.
//!
//! Moments are numbers that only grow: an answer that arrived before another request was sent binds that one's answer
//! (`semantics.md` §13 R2: nothing regresses).

use std::collections::{BTreeMap, HashMap};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Mutex, MutexGuard};
use std::time::Duration;

use resonate::machine::object::Object;
use serde_json::Value;

use super::entry::Faults;
use crate::harness::server::lock;

/// What never changes of a promise.
const BIRTH: [&str; 5] = ["id", "param", "tags", "timeoutAt", "createdAt"];
/// What never changes once it is settled.
const VERDICT: [&str; 3] = ["state", "value", "settledAt"];

/// See the module documentation.
#[derive(Default)]
pub struct Ledger {
    now: AtomicU64,
    state: Mutex<State>,
    pub faults: Faults,
}

#[derive(Default)]
struct State {
    promises: HashMap<String, Known>,
    tasks: HashMap<String, Acquired>,
    /// Who was told to hold a task at a version.
    holders: HashMap<(String, i64), String>,
    counts: BTreeMap<&'static str, u64>,
    writes: u64,
    slowest: Duration,
}

/// A promise as it was told: the record, and since when it is known to be settled.
struct Known {
    record: Value,
    first_at: u64,
    settled_at: Option<u64>,
}

/// The greatest version of a task that anybody was told of, and when.
struct Acquired {
    version: i64,
    at: u64,
}

impl Ledger {
    /// A moment after everything told so far.
    pub fn moment(&self) -> u64 {
        self.now.fetch_add(1, Ordering::SeqCst)
    }

    pub fn count(&self, what: &'static str) {
        *self.lock().counts.entry(what).or_default() += 1;
    }

    pub fn counted(&self, what: &str) -> u64 {
        self.lock().counts.get(what).copied().unwrap_or_default()
    }

    pub fn slowest(&self, took: Duration) {
        let mut state = self.lock();
        state.slowest = state.slowest.max(took);
    }

    /// Whether anybody was told of this promise.
    pub fn knows(&self, id: &str) -> bool {
        self.lock().promises.contains_key(id)
    }

    /// Whether anybody was told that this promise is settled.
    pub fn is_settled(&self, id: &str) -> bool {
        let state = self.lock();
        let known = state.promises.get(id);
        known.is_some_and(|known| known.settled_at.is_some())
    }

    /// Takes in the answer to a request that was sent at a moment.
    pub fn answered(
        &self,
        kind: &'static str,
        asked: &Value,
        sent: u64,
        status: u16,
        data: &Value,
    ) {
        self.count(kind);
        let told = || format!("{kind} {asked} -> {status} {data}");
        let id = asked["id"].as_str().unwrap_or_default();
        let is_fine = match status {
            200 => true,
            300 => kind == "task.suspend",
            409 => kind.starts_with("task."),
            // Only what nobody was told of may be missing.
            404 => self
                .lock()
                .promises
                .get(id)
                .is_none_or(|known| known.first_at > sent),
            _ => false,
        };
        if !is_fine {
            self.faults.add(told());
        }
        if status == 409 {
            self.count("409");
        }
        self.told(data, sent, &told);
        if status == 200 || status == 300 {
            let is_read = kind.ends_with(".get") || kind.ends_with(".search");
            self.lock().writes += u64::from(!is_read);
            self.holder_acted(kind, asked, sent, data, &told);
        }
    }

    /// Takes in every record in something told by an answer to what was sent at a moment.
    pub fn told(&self, data: &Value, sent: u64, told: &dyn Fn() -> String) {
        match data {
            Value::Array(items) => items.iter().for_each(|item| self.told(item, sent, told)),
            Value::Object(members) => {
                if members.contains_key("timeoutAt") {
                    self.promise_told(data, sent, told);
                } else if members.contains_key("resumes") {
                    self.task_told(data, sent, told);
                } else {
                    members
                        .values()
                        .for_each(|item| self.told(item, sent, told));
                }
            }
            _ => {}
        }
    }

    fn promise_told(&self, record: &Value, sent: u64, told: &dyn Fn() -> String) {
        let at = self.moment();
        let id = record["id"].as_str().expect("a promise has an id");
        let is_settled = record["state"] != "pending";
        let mut state = self.lock();
        let known = state
            .promises
            .entry(id.to_owned())
            .or_insert_with(|| Known {
                record: record.clone(),
                first_at: at,
                settled_at: is_settled.then_some(at),
            });
        let mut differs = BIRTH.iter().any(|name| known.record[name] != record[name]);
        match known.settled_at {
            Some(_) if is_settled => {
                differs |= VERDICT
                    .iter()
                    .any(|name| known.record[name] != record[name]);
            }
            Some(settled_at) => differs |= settled_at < sent,
            None if is_settled => {
                known.record = record.clone();
                known.settled_at = Some(at);
            }
            None => {}
        }
        if differs {
            let fault = format!("{id} was told as {}, and then by {}", known.record, told());
            drop(state);
            self.faults.add(fault);
        }
    }

    fn task_told(&self, record: &Value, sent: u64, told: &dyn Fn() -> String) {
        let at = self.moment();
        let id = record["id"].as_str().expect("a task has an id");
        let version = record["version"].as_i64().expect("a version");
        let mut state = self.lock();
        let newest = state.tasks.entry(id.to_owned());
        let newest = newest.or_insert(Acquired { version, at });
        let mut differs = newest.version > version && newest.at < sent;
        if version > newest.version {
            *newest = Acquired { version, at };
        }
        let known = state.promises.get(id);
        let is_over = known.is_some_and(|known| known.settled_at.is_some_and(|at| at < sent));
        differs |= is_over && record["state"] != "fulfilled";
        drop(state);
        if differs {
            self.faults
                .add(format!("{id} goes back in time: {}", told()));
        }
    }

    /// One holder per task and version; and a version that somebody else was told to have followed is no longer good
    /// for anything.
    fn holder_acted(
        &self,
        kind: &str,
        asked: &Value,
        sent: u64,
        data: &Value,
        told: &dyn Fn() -> String,
    ) {
        let mut state = self.lock();
        match kind {
            "task.create" | "task.acquire" if data["task"]["state"] == "acquired" => {
                let id = data["task"]["id"].as_str().expect("an id").to_owned();
                let version = data["task"]["version"].as_i64().expect("a version");
                let pid = asked["pid"].as_str().expect("a pid").to_owned();
                let other = state.holders.insert((id, version), pid);
                if let Some(other) = other {
                    drop(state);
                    self.faults.add(format!("{other} holds it too: {}", told()));
                }
            }
            "task.fence" | "task.suspend" | "task.fulfill" | "task.release" => {
                let id = asked["id"].as_str().expect("an id");
                let version = asked["version"].as_i64().expect("a version");
                let newest = state.tasks.get(id);
                let is_stale = newest.is_some_and(|new| new.version > version && new.at < sent);
                if is_stale {
                    drop(state);
                    self.faults.add(format!("its version is over: {}", told()));
                }
            }
            _ => {}
        }
    }

    /// Everything that was told must be stored as it was told.
    pub fn compare(&self, stored: &BTreeMap<String, Object>) {
        let state = self.lock();
        for (id, known) in &state.promises {
            let Some(object) = stored.get(id) else {
                self.faults.add(format!("{id} is lost: {}", known.record));
                continue;
            };
            let kept = serde_json::to_value(&object.promise).expect("a record serialises");
            let verdict = known.settled_at.map_or(&[][..], |_| &VERDICT);
            for name in BIRTH.iter().chain(verdict) {
                if kept[name] != known.record[name] {
                    let fault = format!("{id} is stored as {kept}, told was {}", known.record);
                    self.faults.add(fault);
                }
            }
        }
    }

    /// What was done, for people.
    pub fn report(&self) -> String {
        let state = self.lock();
        let counts = state.counts.iter();
        let counts: Vec<String> = counts.map(|(what, n)| format!("{what} {n}")).collect();
        let promises = &state.promises;
        let settled = promises.values().filter(|known| known.settled_at.is_some());
        format!(
            "told of {} promises, {} of them settled; {} tasks acquired {} times; slowest answer {} ms\n  {}",
            promises.len(),
            settled.count(),
            state.tasks.len(),
            state.holders.len(),
            state.slowest.as_millis(),
            counts.join(", ")
        )
    }

    /// How many requests to change something were answered 200 or 300.
    pub fn writes(&self) -> u64 {
        self.lock().writes
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        lock(&self.state)
    }
}
