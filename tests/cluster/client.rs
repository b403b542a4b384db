//! A client of these tests: it starts workflows and hears of their ends, settles what they wait for, and makes promises,
//! deadlines and schedules come and go.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::RecvTimeoutError;
use std::time::{Duration, Instant};

use serde_json::{Value, json};

use super::entry::{Caller, Nodes};
use super::ledger::Ledger;
use super::worker::{GROUP, LONG_MS, target};
use crate::harness::record;
use crate::harness::server::wall_clock_ms;
use crate::harness::sse::Stream;

/// The group of all clients.
const CLIENTS: &str = "clients";
/// Workflows of a client that are not over.
const OPEN_MAX: usize = 12;
/// Promises near their deadline.
const FADING_MAX: usize = 6;
const PATIENCE: Duration = Duration::from_millis(20);

/// A workflow that is not known to be over.
struct Open {
    /// Whether the client is to be told of its end.
    is_listening: bool,
}

/// See the module documentation.
pub struct Client<'a> {
    nodes: &'a Nodes,
    ledger: &'a Ledger,
    caller: Caller<'a>,
    rng: fastrand::Rng,
    name: String,
    made: u64,
    open: BTreeMap<String, Open>,
    /// Over, as some answer had it, before the message that says so.
    untold: BTreeMap<String, Instant>,
    /// Id and deadline.
    fading: Vec<(String, i64)>,
    stream: Option<Stream>,
    pub report: Report,
}

/// What a client has to say of its messages.
#[derive(Default)]
pub struct Report {
    pub workflows: u64,
    pub unblocks: u64,
    /// Longest between an answer that said settled and the message that did.
    pub unblock_lag_max: Duration,
}

impl<'a> Client<'a> {
    pub fn new(
        nodes: &'a Nodes,
        ledger: &'a Ledger,
        rng: fastrand::Rng,
        name: String,
    ) -> Client<'a> {
        Client {
            nodes,
            ledger,
            caller: Caller::new(nodes, ledger),
            rng,
            name,
            made: 0,
            open: BTreeMap::new(),
            untold: BTreeMap::new(),
            fading: Vec::new(),
            stream: None,
            report: Report::default(),
        }
    }

    /// Does one thing after the other until it is told to come to an end.
    pub fn run(&mut self, is_ending: &AtomicBool) {
        while !is_ending.load(Ordering::SeqCst) {
            let is_full = self.open.len() >= OPEN_MAX;
            self.hear(if is_full { PATIENCE } else { Duration::ZERO });
            match self.rng.u32(..20) {
                0..4 => self.start(),
                4..6 => self.register(),
                6..9 => self.settle_external(),
                9..11 => self.look(),
                11 => self.search(),
                12 => self.halt(),
                13..15 => self.settle_twice(),
                15..18 => self.fade(),
                18 => self.hold(),
                _ => self.schedule(),
            }
        }
    }

    /// Works until all its workflows are over and it was told of all that it listens to; those left when the deadline
    /// has passed.
    pub fn finish(&mut self, deadline: Instant) -> Vec<String> {
        while !(self.open.is_empty() && self.untold.is_empty()) && Instant::now() < deadline {
            self.hear(PATIENCE);
            self.settle_external();
            self.look();
        }
        let open = self.open.keys().map(|id| format!("{id} is not over"));
        let untold = self.untold.keys().map(|id| format!("{id} was not told of"));
        open.chain(untold).collect()
    }

    fn next_id(&mut self, kind: char) -> String {
        self.made += 1;
        format!("{kind}{}n{}", self.name, self.made)
    }

    fn any_open(&mut self) -> Option<String> {
        let ids = self.open.keys().cloned();
        self.rng.choice(ids.collect::<Vec<_>>())
    }

    fn address(&self) -> String {
        format!("poll://uni@{CLIENTS}/{}", self.name)
    }

    /// Takes what its stream has brought.
    fn hear(&mut self, patience: Duration) {
        let Some(stream) = &self.stream else {
            self.stream = self.nodes.listen(&mut self.rng, CLIENTS, &self.name);
            return;
        };
        loop {
            let message = match stream.wait(patience) {
                Ok(message) => message,
                Err(RecvTimeoutError::Timeout) => return,
                Err(RecvTimeoutError::Disconnected) => {
                    self.stream = None;
                    return;
                }
            };
            assert_eq!(message["kind"], "unblock", "{message}");
            self.ledger.told(&message, 0, &|| message.to_string());
            let promise = &message["data"]["promise"];
            assert_eq!(promise["state"], "resolved", "{message}");
            let id = promise["id"].as_str().expect("a promise has an id");
            self.report.unblocks += 1;
            self.open.remove(id);
            if let Some(since) = self.untold.remove(id) {
                let lag = since.elapsed();
                self.report.unblock_lag_max = self.report.unblock_lag_max.max(lag);
            }
        }
    }

    fn start(&mut self) {
        if self.open.len() >= OPEN_MAX {
            return;
        }
        let id = self.next_id('w');
        let data = record::create(&id, wall_clock_ms() + LONG_MS, target(&id));
        self.caller.call("promise.create", data);
        self.report.workflows += 1;
        let is_listening = false;
        self.open.insert(id, Open { is_listening });
    }

    /// Starts a workflow under a lease of its own, which it lets run out or gives back.
    fn hold(&mut self) {
        if self.open.len() >= OPEN_MAX {
            return;
        }
        let id = self.next_id('w');
        let create = record::create(&id, wall_clock_ms() + LONG_MS, target(&id));
        let action = json!({"kind": "promise.create", "data": create});
        let data = json!({"pid": self.name, "ttl": 1500, "action": action});
        let answer = self.caller.call("task.create", data);
        self.report.workflows += 1;
        let is_listening = false;
        self.open.insert(id.clone(), Open { is_listening });
        if answer.status == 200 && self.rng.bool() {
            let version = &answer.data["task"]["version"];
            let data = json!({"id": id, "version": version});
            self.caller.call("task.release", data);
        }
    }

    /// Asks to be told of the end of a workflow.
    fn register(&mut self) {
        let Some(id) = self.any_open() else { return };
        let data = json!({"awaited": id, "address": self.address()});
        let answer = self.caller.call("promise.register_listener", data);
        if answer.data["promise"]["state"] == "pending" {
            let is_listening = true;
            self.open.insert(id, Open { is_listening });
        } else {
            self.over(&id);
        }
    }

    fn over(&mut self, id: &str) {
        let Some(open) = self.open.remove(id) else {
            return;
        };
        if open.is_listening {
            self.untold.insert(id.to_owned(), Instant::now());
        }
    }

    fn look(&mut self) {
        let Some(id) = self.any_open() else { return };
        let answer = self.caller.call("promise.get", json!({"id": id}));
        if answer.data["promise"]["state"] != "pending" {
            self.over(&id);
        }
        self.caller.call("task.get", json!({"id": id}));
    }

    fn search(&mut self) {
        let Some(id) = self.any_open() else { return };
        let data = json!({"tags": {"resonate:branch": id}});
        self.caller.call("promise.search", data);
    }

    /// Settles what a workflow waits for; it may not be there yet.
    fn settle_external(&mut self) {
        let Some(id) = self.any_open() else { return };
        let id = format!("e-{id}");
        if self.ledger.knows(&id) && !self.ledger.is_settled(&id) {
            let data = json!({"id": id, "state": "rejected", "value": {"data": self.name}});
            self.caller.call("promise.settle", data);
        }
    }

    fn halt(&mut self) {
        let Some(id) = self.any_open() else { return };
        for kind in ["task.halt", "task.continue"] {
            self.caller.call(kind, json!({"id": id}));
        }
    }

    /// The first verdict stands.
    fn settle_twice(&mut self) {
        let id = self.next_id('s');
        let data = record::create(&id, wall_clock_ms() + LONG_MS, json!({}));
        self.caller.call("promise.create", data);
        for state in ["resolved", "rejected_canceled"] {
            let data = json!({"id": id, "state": state, "value": {"data": state}});
            self.caller.call("promise.settle", data);
        }
    }

    /// Makes promises that time out, and asks for them and settles them while they do.
    fn fade(&mut self) {
        if self.fading.len() < FADING_MAX {
            let id = self.next_id('f');
            let timeout_at = wall_clock_ms() + self.rng.i64(50..1500);
            let tags = match self.rng.u32(..3) {
                0 => json!({"resonate:timer": "true"}),
                1 => json!({"resonate:external": "true"}),
                _ => json!({}),
            };
            let data = record::create(&id, timeout_at, tags);
            self.caller.call("promise.create", data);
            self.fading.push((id, timeout_at));
        }
        let soonest = self.fading.iter().min_by_key(|(_, at)| *at);
        let Some((id, timeout_at)) = soonest.cloned() else {
            return;
        };
        if timeout_at - wall_clock_ms() > 20 {
            return;
        }
        for kind in ["promise.get", "promise.settle", "promise.get"] {
            let data = json!({"id": id, "state": "resolved", "value": {"data": "late"}});
            self.caller.call(kind, data);
        }
        if self.ledger.is_settled(&id) {
            self.fading.retain(|(other, _)| *other != id);
        }
    }

    /// A schedule that does not live for long.
    fn schedule(&mut self) {
        if self.rng.u32(..4) > 0 {
            return;
        }
        let id = self.next_id('c');
        self.caller.call("schedule.create", every_second(&id));
        self.caller.call("schedule.get", json!({"id": id}));
        self.start();
        self.look();
        self.caller.call("schedule.delete", json!({"id": id}));
    }
}

/// A schedule that makes a task each second.
pub fn every_second(id: &str) -> Value {
    json!({
        "id": id, "cron": "* * * * * *", "promiseId": "{{.id}}-{{.timestamp}}",
        "promiseTimeout": LONG_MS,
        "promiseTags": {"resonate:target": format!("poll://any@{GROUP}")},
    })
}
