//! Clients that ask for much at once, about the same few promises, and write down what they asked and were answered.

use std::collections::BTreeMap;
use std::sync::Mutex;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use resonate::protocol::record::Millis;
use serde_json::{Value as Json, json};

use super::spec::CORR_ID;
use crate::cluster::entry::Nodes;
use crate::harness::client::VERSION;
use crate::harness::http::{Connection, encode};
use crate::harness::record;
use crate::harness::server::{lock, wall_clock_ms};

pub const CLIENTS: usize = 8;
pub const REQUESTS: usize = 1000;
/// Requests about one tree of promises, more or less.
const REQUESTS_PER_TREE: usize = 60;
/// Promises in a tree: the root, and children `.1`, `.2` and so on.
const PROMISES: usize = 4;
const HOUR_MS: Millis = 3_600_000;

/// All kinds of requests, and those that make sense in each state: what stands here twice is asked twice as often.
const KINDS: &[&str] = &[
    "promise.create",
    "promise.get",
    "promise.register_callback",
    "promise.register_listener",
    "promise.settle",
    "task.acquire",
    "task.continue",
    "task.create",
    "task.fence",
    "task.fulfill",
    "task.get",
    "task.halt",
    "task.heartbeat",
    "task.release",
    "task.suspend",
];
const NEW: &[&str] = &[
    "promise.create",
    "promise.create",
    "task.create",
    "promise.get",
];
const PENDING: &[&str] = &[
    "task.acquire",
    "task.acquire",
    "task.acquire",
    "task.get",
    "promise.register_listener",
];
const ACQUIRED: &[&str] = &[
    "task.suspend",
    "task.suspend",
    "task.suspend",
    "task.suspend",
    "task.fence",
    "task.fence",
    "task.release",
    "task.release",
    "task.heartbeat",
    "task.get",
    "promise.register_callback",
    "task.fulfill",
];
const PARKED: &[&str] = &[
    "task.continue",
    "task.continue",
    "task.get",
    "task.get",
    "promise.get",
    "promise.register_callback",
    "task.halt",
];
const OVER: &[&str] = &[
    "promise.get",
    "promise.settle",
    "task.get",
    "promise.register_callback",
];

/// A request, as its client saw it.
#[derive(Clone, Debug)]
pub struct Request {
    /// Nanoseconds from the beginning of the history.
    pub began: u64,
    /// None: there was no answer, or one that leaves open what happened (503).
    pub ended: Option<u64>,
    pub tree: usize,
    pub kind: &'static str,
    pub data: Json,
    pub status: u16,
    pub answered: Json,
}

/// What many clients saw.
pub struct History {
    pub requests: Vec<Request>,
    /// When it began, by the wall clock.
    pub began_at: Millis,
    /// Promises with a deadline within the history, by tree.
    pub deadlines: BTreeMap<usize, Vec<(String, Millis)>>,
}

/// What all clients know.
struct Shared<'a> {
    name: &'a str,
    nodes: &'a Nodes,
    began: Instant,
    asked: AtomicUsize,
    trees: Mutex<BTreeMap<usize, Tree>>,
}

#[derive(Clone)]
struct Tree {
    deadlines: [Millis; PROMISES],
    /// What was seen last.
    known: [Known; PROMISES],
}

/// What somebody has seen of a promise.
#[derive(Clone, Default)]
struct Known {
    is_there: bool,
    version: i64,
    /// Of its task; empty if it has none.
    state: String,
}

/// Records a history of a name that is no other's. `meanwhile` runs beside it.
pub fn record(name: &str, nodes: &Nodes, seed: u64, meanwhile: impl FnOnce()) -> History {
    let shared = Shared {
        name,
        nodes,
        began: Instant::now(),
        asked: AtomicUsize::new(0),
        trees: Mutex::default(),
    };
    let began_at = wall_clock_ms();
    let mut rng = fastrand::Rng::with_seed(seed);
    let mut requests: Vec<Request> = thread::scope(|scope| {
        let clients: Vec<_> = (0..CLIENTS)
            .map(|number| {
                let client = Client {
                    shared: &shared,
                    rng: rng.fork(),
                    pid: format!("p{number}"),
                    connection: None,
                };
                scope.spawn(move || client.run())
            })
            .collect();
        meanwhile();
        let requests = clients.into_iter().map(|client| client.join());
        requests
            .flat_map(|client| client.expect("clients do not panic"))
            .collect()
    });
    requests.sort_by_key(|request| request.began);
    let trees = shared.trees.into_inner().expect("nobody panicked with it");
    let near = |index: usize, tree: Tree| {
        let near = (0..PROMISES).filter(|n| tree.deadlines[*n] < began_at + HOUR_MS);
        let named = near.map(|n| (promise_id(name, index, n), tree.deadlines[n]));
        (index, named.collect())
    };
    History {
        requests,
        began_at,
        deadlines: trees
            .into_iter()
            .map(|(index, tree)| near(index, tree))
            .collect(),
    }
}

fn promise_id(name: &str, tree: usize, promise: usize) -> String {
    match promise {
        0 => format!("{name}-{tree}"),
        child => format!("{name}-{tree}.{child}"),
    }
}

struct Client<'a> {
    shared: &'a Shared<'a>,
    rng: fastrand::Rng,
    pid: String,
    connection: Option<(usize, Connection)>,
}

impl Client<'_> {
    fn run(mut self) -> Vec<Request> {
        let mut requests = Vec::new();
        loop {
            let number = self.shared.asked.fetch_add(1, Ordering::Relaxed);
            if number >= REQUESTS {
                return requests;
            }
            let tree = number / REQUESTS_PER_TREE + [0, 0, 0, 1][self.rng.usize(..4)];
            let (kind, data) = self.request(tree);
            match self.ask(tree, kind, data) {
                Some(request) => {
                    self.learn(&request);
                    requests.push(request);
                }
                None => {
                    // Never sent: it does not count.
                    self.shared.asked.fetch_sub(1, Ordering::Relaxed);
                    thread::sleep(Duration::from_millis(5));
                }
            }
        }
    }

    /// Sends a request; none if nobody could be reached.
    fn ask(&mut self, tree: usize, kind: &'static str, data: Json) -> Option<Request> {
        let head = json!({"corrId": CORR_ID, "version": VERSION});
        let body = json!({"kind": kind, "head": head, "data": data}).to_string();
        let bytes = encode("POST", "/", &[], body.as_bytes());
        let node = self.rng.usize(..self.shared.nodes.len());
        let kept = self.connection.take().filter(|(of, _)| *of == node);
        let mut connection = match kept {
            Some((_, connection)) => connection,
            None => Connection::open(self.shared.nodes.get(node)?).ok()?,
        };
        let began = self.moment();
        let is_answered = connection.write(&bytes).is_ok() && self.rng.u32(..100) > 0;
        // Now and then nobody waits for the answer.
        let reply = is_answered.then(|| connection.read_reply().ok()).flatten();
        let mut request = Request {
            began,
            ended: None,
            tree,
            kind,
            data,
            status: 0,
            answered: Json::Null,
        };
        if let Some(reply) = reply {
            request.ended = Some(self.moment()).filter(|_| reply.status() != 503);
            request.status = reply.status();
            let mut envelope: Json = serde_json::from_slice(&reply.body).expect("an envelope");
            request.answered = envelope["data"].take();
            self.connection = Some((node, connection));
        }
        Some(request)
    }

    fn moment(&self) -> u64 {
        u64::try_from(self.shared.began.elapsed().as_nanos()).expect("histories are short")
    }

    /// What an answer says of the promise asked about.
    fn learn(&self, request: &Request) {
        let data = &request.data;
        let id = ["id", "awaiter", "awaited"].map(|name| &data[name]);
        let id = id.into_iter().chain([&data["action"]["data"]["id"]]);
        let Some(id) = id.into_iter().find_map(Json::as_str) else {
            return;
        };
        let promise = (0..PROMISES).find(|n| promise_id(self.shared.name, request.tree, *n) == id);
        let mut trees = lock(&self.shared.trees);
        let tree = trees.get_mut(&request.tree).expect("it was asked about");
        let known = &mut tree.known[promise.expect("it was named")];
        known.is_there |= request.status == 200;
        let task = &request.answered["task"];
        if let (Some(version), Some(state)) = (task["version"].as_i64(), task["state"].as_str()) {
            known.version = version.max(known.version);
            known.state = state.to_owned();
        }
        let state = match (request.kind, request.status) {
            ("promise.create", 200) if !data["tags"]["resonate:target"].is_null() => "pending",
            ("task.release" | "task.continue", 200) => "pending",
            ("task.suspend", 200) => "suspended",
            ("task.halt", 200) => "halted",
            ("task.fulfill" | "promise.settle", 200) => "fulfilled",
            _ => return,
        };
        state.clone_into(&mut known.state);
    }

    fn tree(&mut self, index: usize) -> Tree {
        let mut trees = lock(&self.shared.trees);
        let rng = &mut self.rng;
        let tree = trees.entry(index).or_insert_with(|| {
            let now = wall_clock_ms();
            Tree {
                deadlines: std::array::from_fn(|_| match rng.u32(..3) {
                    0 => now + rng.i64(30..400),
                    _ => now + 10 * HOUR_MS,
                }),
                known: std::array::from_fn(|_| Known::default()),
            }
        });
        tree.clone()
    }

    fn request(&mut self, index: usize) -> (&'static str, Json) {
        let tree = self.tree(index);
        let one = self.rng.usize(..PROMISES);
        let other = (one + self.rng.usize(1..PROMISES)) % PROMISES;
        let name = |promise| promise_id(self.shared.name, index, promise);
        let (id, awaited) = (name(one), name(other));
        let known = &tree.known[one];
        let rng = &mut self.rng;
        let version = known.version + [0, 0, 0, 0, 0, 0, 0, 0, 1, -1][rng.usize(..10)];
        let version = version.max(0);
        let state = ["resolved", "rejected", "rejected_canceled"][rng.usize(..3)];
        let value = json!({"data": rng.u32(..).to_string()});
        let settle = |id: &str| json!({"id": id, "state": state, "value": value});
        let tags = match rng.u32(..8) {
            0 => json!({}),
            1 => record::timer(),
            _ => record::target(),
        };
        let create = |promise: usize, tags: Json| {
            record::create(&name(promise), tree.deadlines[promise], tags)
        };
        let action = |kind: &str, data: Json| json!({"kind": kind, "data": data});
        let task = json!({"id": id, "version": version});
        // Mostly what makes sense.
        let choices = match known.state.as_str() {
            _ if rng.u32(..4) == 0 => KINDS,
            _ if !known.is_there => NEW,
            "pending" => PENDING,
            "acquired" => ACQUIRED,
            "suspended" | "halted" => PARKED,
            _ => OVER,
        };
        let kind = choices[rng.usize(..choices.len())];
        let data = match kind {
            "promise.create" => create(one, tags),
            "promise.settle" => settle(&id),
            "promise.register_callback" => json!({"awaited": awaited, "awaiter": id}),
            "promise.register_listener" => json!({"awaited": id, "address": record::NOBODY}),
            "task.create" => {
                let action = action("promise.create", create(one, record::target()));
                json!({"pid": self.pid, "ttl": HOUR_MS, "action": action})
            }
            "task.acquire" => {
                json!({"id": id, "version": version, "pid": self.pid, "ttl": HOUR_MS})
            }
            "task.fence" if rng.u32(..3) > 0 => {
                record::fence(&id, version, "promise.create", create(other, tags))
            }
            "task.fence" => record::fence(&id, version, "promise.settle", settle(&awaited)),
            "task.suspend" => record::suspend(&id, version, &[&awaited]),
            "task.fulfill" => {
                json!({"id": id, "version": version, "action": action("promise.settle", settle(&id))})
            }
            "task.heartbeat" => json!({"pid": self.pid, "tasks": [task]}),
            "task.release" => task,
            // Reads, and what names nothing but an id.
            _ => json!({"id": id}),
        };
        (kind, data)
    }
}
