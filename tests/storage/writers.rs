//! Concurrent writers, and what they were told: for tests that take something away from under them.
//!
//! Every writer takes one workflow after the other through the same eight steps. What is stored
//! afterwards must be exactly the state after the last acknowledged step, or after the one that follows it.

use std::collections::BTreeMap;
use std::sync::mpsc;
use std::thread;

use resonate::engine::clock::Clock;
use resonate::machine::invariant::{State, check_state};
use resonate::machine::object::Object;
use resonate::store::Dump;
use serde_json::{Value, json};

use super::workflow::{STORED, steps, stored};
use crate::harness::http::Connection;
use crate::harness::server::Server;

const WRITERS: usize = 8;

/// An acknowledged step: of which workflow, the how manieth, and the records answered.
struct Acknowledged {
    root: String,
    step: usize,
    data: Value,
}

/// What was acknowledged.
#[derive(Default)]
pub struct Ledger {
    /// The last step of every workflow.
    progress: BTreeMap<String, usize>,
    all: Vec<Acknowledged>,
}

impl Ledger {
    /// How many steps.
    pub fn steps(&self) -> usize {
        self.all.len()
    }

    /// Of how many workflows.
    pub fn workflows(&self) -> usize {
        self.progress.len()
    }

    /// Has writers write until they have no server any more. `acknowledged` is told of every step how many there were.
    pub fn write(&mut self, server: &Server, prefix: &str, mut acknowledged: impl FnMut(usize)) {
        let (sender, receiver) = mpsc::channel();
        thread::scope(|scope| {
            for writer in 0..WRITERS {
                let sender = sender.clone();
                scope.spawn(move || write(server, &format!("{prefix}w{writer}"), &sender));
            }
            drop(sender);
            for (index, step) in receiver.into_iter().enumerate() {
                acknowledged(index + 1);
                self.progress.insert(step.root.clone(), step.step);
                self.all.push(step);
            }
        });
    }

    /// Panics unless all of it is stored, no step half-way, and the state is sound.
    pub fn check(&self, dump: Dump, after: &str) {
        let lost = self.check_sound(dump, after);
        assert_eq!(lost, 0, "{after}: acknowledged and lost");
    }

    /// Same, but that whole steps may be missing from the end: how many.
    pub fn check_sound(&self, dump: Dump, after: &str) -> usize {
        let now = Clock::system().now();
        let state = State::of(&dump.objects, dump.schedules, Vec::new(), now, 30_000);
        if let Err(violation) = check_state(&state) {
            panic!("{after}: {violation}");
        }
        let objects: BTreeMap<String, Object> = dump
            .objects
            .into_iter()
            .map(|object| (object.promise.id.to_string(), object))
            .collect();
        let mut reached = BTreeMap::new();
        let mut lost = 0;
        for (root, step) in &self.progress {
            let found = stored(&objects, root);
            let at = STORED.iter().position(|stored| *stored == found);
            let at = at.unwrap_or_else(|| panic!("{after}, {root}: half a step: {found:?}"));
            assert!(
                at <= step + 1,
                "{after}, {root}: step {step} was the last that was acknowledged, stored is {found:?}"
            );
            lost += step.saturating_sub(at);
            reached.insert(root, at);
        }
        let mut kept = self
            .all
            .iter()
            .filter(|step| step.step <= reached[&step.root]);
        kept.by_ref().for_each(|step| check_records(&objects, step));
        lost
    }
}

fn write(server: &Server, prefix: &str, acknowledged: &mpsc::Sender<Acknowledged>) {
    let Ok(mut connection) = Connection::open(server.addr()) else {
        return;
    };
    for n in 0.. {
        let root = format!("{prefix}-{n}");
        for (index, (kind, data)) in steps(&root).into_iter().enumerate() {
            let head = json!({"corrId": "c", "version": "2026-04-01"});
            let body = json!({"kind": kind, "head": head, "data": data}).to_string();
            let mut is_repeated = false;
            let reply = loop {
                // The server was killed: what was sent last was not acknowledged.
                let Ok(reply) = connection.exchange("POST", "/", &[], body.as_bytes()) else {
                    return;
                };
                let status = reply.status();
                let Ok(reply) = serde_json::from_slice::<Value>(&reply.body) else {
                    // A proxy answers for nodes that were killed, with a page of its own.
                    assert!((502..=504).contains(&status), "{status}");
                    return;
                };
                if status != 503 {
                    break reply;
                }
                is_repeated = true;
            };
            // Who was told that the storage is out may meet his own success.
            let is_own_success = is_repeated && reply["head"]["status"] == 409;
            assert!(
                is_own_success || reply["head"]["status"] == 200,
                "{body} -> {reply}"
            );
            let acknowledgement = Acknowledged {
                root: root.clone(),
                step: index + 1,
                data: reply["data"].clone(),
            };
            if acknowledged.send(acknowledgement).is_err() {
                return;
            }
        }
    }
}

/// Settled and created records that were answered must be stored as they were answered.
fn check_records(objects: &BTreeMap<String, Object>, acknowledged: &Acknowledged) {
    let data = &acknowledged.data;
    for record in [&data["promise"], &data["action"]["data"]["promise"]] {
        let Some(id) = record["id"].as_str() else {
            continue;
        };
        let object = objects
            .get(id)
            .unwrap_or_else(|| panic!("{id} was acknowledged and is lost"));
        let kept = serde_json::to_value(&object.promise).expect("a record serialises");
        let mut names = vec!["id", "param", "tags", "timeoutAt", "createdAt"];
        if record["state"] != "pending" {
            names.extend(["state", "value", "settledAt"]);
        }
        for name in names {
            assert_eq!(kept[name], record[name], "{name} of {id}");
        }
    }
}
