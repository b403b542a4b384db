//! Linearizability: what many clients see at the wire at once, of one node on SQLite or of three on PostgreSQL, is what
//! the machine does with their requests one after the other, in an order in which none comes before one that was
//! answered when it was sent.
//!
//! A tree of promises is checked by itself: what is about different trees cannot be told apart. `RESONATE_LINEAR_HISTORIES`
//! sets how many histories are recorded, `RESONATE_LINEAR_SEED` what is asked in them; threads and time do the rest.

use std::collections::BTreeMap;
use std::thread;
use std::time::{Duration, Instant};

use resonate::protocol::envelope;
use resonate::protocol::operation::Operation;
use resonate::protocol::parse;
use resonate::protocol::record::Millis;
use serde_json::{Value as Json, json};

use crate::cluster::entry::Nodes;
use crate::harness::client::VERSION;
use crate::harness::database::Database;
use crate::harness::process::Signal;
use crate::harness::server::Server;
use checker::{Call, Refusal, check};
use record::{History, REQUESTS, Request, record};
use spec::{CORR_ID, Event, Machine, specified};

mod checker;
mod record;
mod spec;

/// Histories of the short form.
const HISTORIES: u64 = 3;
const NODES: usize = 3;
/// How far the clocks of servers and clients, all of one machine, may be apart.
const SKEW_MS: Millis = 20;
/// How much later than a deadline requests may be decided as of before it: they share a batch, which may have to be
/// decided again.
const BATCH_MS: Millis = 2000;
/// The last requests of a tree that are shown when no order explains them.
const SHOWN: usize = 12;

fn number(name: &str) -> Option<u64> {
    let text = std::env::var(name).ok()?;
    let number = text.parse();
    Some(number.unwrap_or_else(|_| panic!("{name} is a number")))
}

/// What histories came to.
#[derive(Default)]
struct Tally {
    histories: u64,
    requests: usize,
    unanswered: usize,
    trees: usize,
    /// By kind and status.
    answers: BTreeMap<(&'static str, u16), u64>,
    deadlines: usize,
    checking: Duration,
}

impl Tally {
    /// Checks a history.
    fn take(&mut self, history: &History, is_shared: bool) {
        assert!(history.requests.len() >= REQUESTS);
        let began = Instant::now();
        let trees = history.requests.iter().map(|request| request.tree).max();
        for tree in 0..=trees.expect("there are requests") {
            if let Err(error) = check_tree(history, tree, is_shared) {
                panic!("tree {tree} of history {}: {error}", self.histories);
            }
            self.trees += 1;
        }
        check_times(history);
        self.checking += began.elapsed();
        self.histories += 1;
        self.requests += history.requests.len();
        self.deadlines += history.deadlines.values().map(Vec::len).sum::<usize>();
        for request in &history.requests {
            *self
                .answers
                .entry((request.kind, request.status))
                .or_default() += 1;
            self.unanswered += usize::from(request.ended.is_none());
        }
    }

    /// Tells what was seen; some of it must have been.
    fn report(&self) {
        eprintln!(
            "{} histories, {} requests of {} clients, {} unanswered, {} trees, {} deadlines, checked in {:.1} s",
            self.histories,
            self.requests,
            record::CLIENTS,
            self.unanswered,
            self.trees,
            self.deadlines,
            self.checking.as_secs_f64(),
        );
        for ((kind, status), count) in &self.answers {
            eprintln!("{count:>8}  {kind} {status}");
        }
        for seen in [
            ("task.acquire", 200),
            ("task.acquire", 409),
            ("task.suspend", 200),
            ("task.suspend", 300),
            ("task.fence", 200),
            ("task.fence", 409),
            ("task.fulfill", 200),
            ("task.release", 200),
            ("promise.settle", 200),
        ] {
            assert!(self.answers.contains_key(&seen), "never seen: {seen:?}");
        }
    }
}

fn operation(request: &Request) -> Operation {
    let head = json!({"corrId": CORR_ID, "version": VERSION});
    let body = json!({"kind": request.kind, "head": head, "data": request.data}).to_string();
    let envelope = envelope::parse(body.as_bytes()).expect("an envelope");
    let operation = parse::operation(&envelope, &parse::Context::default());
    operation.unwrap_or_else(|rejection| panic!("{}: {body}", rejection.message))
}

/// What is said of a tree, and what its deadlines do.
fn calls(history: &History, tree: usize, is_shared: bool) -> Vec<Call<Event>> {
    let asked = history
        .requests
        .iter()
        .filter(|request| request.tree == tree);
    let mut calls: Vec<Call<Event>> = asked
        .map(|request| {
            let answer = (request.status, specified(request.answered.clone()));
            let answer = request.ended.map(|_| answer);
            Call {
                began: request.began,
                ended: request.ended,
                event: Event::Asked(operation(request), answer),
            }
        })
        .collect();
    let moment = |at: Millis| {
        let ms = u64::try_from(at - history.began_at).unwrap_or(0);
        ms * 1_000_000
    };
    for (id, at) in history.deadlines.get(&tree).into_iter().flatten() {
        let id: resonate::protocol::record::Id = id.as_str().into();
        let began = moment(at - SKEW_MS);
        calls.push(Call {
            began,
            ended: Some(moment(at + BATCH_MS)),
            event: Event::Passes(id.clone(), *at),
        });
        if !is_shared {
            calls.push(Call {
                began,
                ended: None,
                event: Event::Stored(id),
            });
        }
    }
    calls.sort_by_key(|call| call.began);
    calls
}

fn check_tree(history: &History, tree: usize, is_shared: bool) -> Result<(), String> {
    let machine = Machine {
        start: history.began_at - 10_000,
        is_shared,
    };
    let calls = calls(history, tree, is_shared);
    let show = |call: usize| {
        let Call {
            began,
            ended,
            event,
        } = &calls[call];
        let at = |ns: u64| ns / 1000;
        let ended = ended.map_or("-".to_owned(), |ns| at(ns).to_string());
        format!("  {:>9}..{ended:<9} {event:?}", at(*began))
    };
    let list = |calls: &[usize]| -> String {
        let lines: Vec<String> = calls.iter().map(|call| show(*call)).collect();
        lines.join("\n")
    };
    match check(&machine, &calls) {
        Ok(_) => Ok(()),
        Err(Refusal::Undecided) => Err(format!(
            "no order was found in time for {} calls",
            calls.len()
        )),
        Err(Refusal::Wrong { order, next }) => {
            let shown = &order[order.len().saturating_sub(SHOWN)..];
            Err(format!(
                "not linearizable (microseconds, call). After {} of {} calls, the last of them\n{}\nnone of these can \
                 be next:\n{}",
                order.len(),
                calls.len(),
                list(shown),
                list(&next),
            ))
        }
    }
}

/// What the order does not say: a promise was created at one instant, and settled at one.
fn check_times(history: &History) {
    let mut seen: BTreeMap<(String, &str), i64> = BTreeMap::new();
    for request in history.requests.iter().filter(|r| r.ended.is_some()) {
        let promise = &request.answered["promise"];
        let Some(id) = promise["id"].as_str() else {
            continue;
        };
        for name in ["createdAt", "settledAt"] {
            if let Some(at) = promise[name].as_i64() {
                let first = *seen.entry((id.to_owned(), name)).or_insert(at);
                assert_eq!(first, at, "{name} of {promise} changed");
            }
        }
    }
}

fn effort() -> (u64, u64) {
    let histories = number("RESONATE_LINEAR_HISTORIES").unwrap_or(HISTORIES);
    let seed = number("RESONATE_LINEAR_SEED").unwrap_or_else(|| fastrand::u64(..));
    eprintln!("RESONATE_LINEAR_SEED={seed}");
    (histories, seed)
}

#[test]
fn one_node_on_sqlite_is_linearizable() {
    let (histories, seed) = effort();
    let folder = tempfile::tempdir().unwrap();
    let server = Server::on_file(&folder.path().join("resonate.db"), &[]);
    let nodes = Nodes::new([server.addr()]);
    let mut tally = Tally::default();
    for number in 0..histories {
        let history = record(&format!("h{number}"), &nodes, seed ^ number, || {});
        tally.take(&history, false);
    }
    tally.report();
}

#[test]
fn three_nodes_on_postgres_are_linearizable_and_when_one_is_killed() {
    let (histories, seed) = effort();
    let database = Database::fresh();
    let start = || Server::on(&database.url(), &[]);
    let mut servers: Vec<Server> = (0..NODES).map(|_| start()).collect();
    let nodes = Nodes::new(servers.iter().map(Server::addr));
    let mut tally = Tally::default();
    for number in 0..histories {
        let victim = usize::try_from(number).expect("few") % (2 * NODES);
        let history = record(&format!("h{number}"), &nodes, seed ^ number, || {
            // In every second history, one after the other.
            let Some(server) = servers.get_mut(victim) else {
                return;
            };
            thread::sleep(Duration::from_millis(fastrand::u64(20..400)));
            server.signal(Signal::Kill);
            nodes.set(victim, None);
            server.wait();
            *server = start();
            nodes.set(victim, Some(server.addr()));
        });
        tally.take(&history, true);
    }
    tally.report();
}

/// A history of one client, whose answers are as good as any.
fn history_of(requests: &[(&'static str, Json, u16, Json)]) -> History {
    let requests = (0..).zip(requests);
    let requests = requests.map(|(n, (kind, data, status, answered))| Request {
        began: 10 * n,
        ended: Some(10 * n + 5),
        tree: 0,
        kind,
        data: data.clone(),
        status: *status,
        answered: answered.clone(),
    });
    History {
        requests: requests.collect(),
        began_at: 1_700_000_000_000,
        deadlines: BTreeMap::new(),
    }
}

#[test]
fn a_history_that_never_was_is_refused() {
    let far = 1_800_000_000_000_i64;
    let tags = crate::harness::record::target();
    let create = crate::harness::record::create("a", far, tags.clone());
    let record = json!({
        "id": "a", "state": "pending", "param": {}, "value": {}, "tags": tags, "timeoutAt": far,
        "createdAt": 1_700_000_000_001_i64,
    });
    let created = ("promise.create", create, 200, json!({"promise": record}));
    let acquire = |pid: &str, status, answered| {
        let data = json!({"id": "a", "version": 0, "pid": pid, "ttl": 1000});
        ("task.acquire", data, status, answered)
    };
    let lease = |pid: &str| {
        let task = json!({
            "id": "a", "state": "acquired", "version": 1, "resumes": 0, "ttl": 1000, "pid": pid,
        });
        json!({"task": task, "promise": record, "preload": []})
    };
    let get = (
        "promise.get",
        json!({"id": "a"}),
        404,
        json!("Promise not found"),
    );
    let is_refused = |requests: &[_]| {
        let refused = check_tree(&history_of(requests), 0, false);
        refused.is_err_and(|error| error.starts_with("not linearizable"))
    };
    // As it is, it holds.
    let taken = acquire("p", 200, lease("p"));
    let good = [get.clone(), created.clone(), taken.clone()];
    check_tree(&history_of(&good), 0, false).unwrap();
    // An acknowledged write is not read, a version has two holders.
    assert!(is_refused(&[created.clone(), get]));
    assert!(is_refused(&[created, taken, acquire("q", 200, lease("q"))]));
}
