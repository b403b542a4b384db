//! How clients and workers of these tests reach a cluster: any node that is up, and the next one if that does not
//! answer. Every answer goes through the ledger.

use std::io;
use std::net::SocketAddr;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Mutex, PoisonError, RwLock};
use std::thread;
use std::time::{Duration, Instant};

use serde_json::{Value, json};

use super::ledger::Ledger;
use crate::harness::client::VERSION;
use crate::harness::http::Connection;
use crate::harness::sse::Stream;

/// A request that nobody answers for so long fails the test.
const ANSWER_MAX: Duration = Duration::from_secs(60);
/// Pause before the next node is tried.
const RETRY_PAUSE: Duration = Duration::from_millis(20);

/// Says that it is over, also when the test fails: a scope waits for its threads.
pub struct Over<'a>(pub &'a AtomicBool);

impl Drop for Over<'_> {
    fn drop(&mut self) {
        self.0.store(true, Ordering::SeqCst);
    }
}

/// Where the nodes listen at the moment; those that are down, nowhere.
pub struct Nodes(Vec<RwLock<Option<SocketAddr>>>);

impl Nodes {
    pub fn new(addrs: impl IntoIterator<Item = SocketAddr>) -> Nodes {
        Nodes(
            addrs
                .into_iter()
                .map(|addr| RwLock::new(Some(addr)))
                .collect(),
        )
    }

    pub fn set(&self, node: usize, addr: Option<SocketAddr>) {
        *self.0[node].write().unwrap_or_else(PoisonError::into_inner) = addr;
    }

    pub fn len(&self) -> usize {
        self.0.len()
    }

    pub fn get(&self, node: usize) -> Option<SocketAddr> {
        *self.0[node].read().unwrap_or_else(PoisonError::into_inner)
    }

    /// A stream on any node that accepts one; none if all are down.
    pub fn listen(&self, rng: &mut fastrand::Rng, group: &str, id: &str) -> Option<Stream> {
        let mut order: Vec<usize> = (0..self.len()).collect();
        rng.shuffle(&mut order);
        order.into_iter().find_map(|node| {
            let stream = Stream::connect(self.get(node)?, group, id).ok()?;
            (stream.head.status == 200).then_some(stream)
        })
    }
}

/// What a request came to.
pub struct Answer {
    pub status: u16,
    pub data: Value,
    /// How often it was sent before without being answered, or answered 503: each of these may have happened.
    pub unanswered: u32,
}

/// One client, with a connection to each node that it has spoken to.
pub struct Caller<'a> {
    nodes: &'a Nodes,
    ledger: &'a Ledger,
    connections: Vec<Option<(SocketAddr, Connection)>>,
    turn: usize,
}

impl<'a> Caller<'a> {
    pub fn new(nodes: &'a Nodes, ledger: &'a Ledger) -> Caller<'a> {
        Caller {
            nodes,
            ledger,
            connections: (0..nodes.len()).map(|_| None).collect(),
            turn: fastrand::usize(..nodes.len()),
        }
    }

    /// Sends a request to one node after the other until one of them answers.
    #[allow(clippy::needless_pass_by_value, reason = "callers pass `json!`")]
    pub fn call(&mut self, kind: &'static str, data: Value) -> Answer {
        let head = json!({"corrId": "c", "version": VERSION});
        let body = json!({"kind": kind, "head": head, "data": data}).to_string();
        let began = Instant::now();
        let mut unanswered = 0;
        loop {
            self.turn = (self.turn + 1) % self.nodes.len();
            let sent = self.ledger.moment();
            if let Some(addr) = self.nodes.get(self.turn) {
                match self.exchange(addr, body.as_bytes()) {
                    Ok((503, _)) => self.ledger.count("503"),
                    Ok((status, answered)) => {
                        self.ledger.answered(kind, &data, sent, status, &answered);
                        self.ledger.slowest(began.elapsed());
                        return Answer {
                            status,
                            data: answered,
                            unanswered,
                        };
                    }
                    Err(_) => self.ledger.count("broken off"),
                }
                unanswered += 1;
            }
            assert!(began.elapsed() < ANSWER_MAX, "nobody answers {body}");
            thread::sleep(RETRY_PAUSE);
        }
    }

    fn exchange(&mut self, addr: SocketAddr, body: &[u8]) -> io::Result<(u16, Value)> {
        let kept = self.connections[self.turn].take();
        let mut connection = match kept.filter(|(of, _)| *of == addr) {
            Some((_, connection)) => connection,
            None => Connection::open(addr)?,
        };
        let reply = connection.exchange("POST", "/", &[], body)?;
        self.connections[self.turn] = Some((addr, connection));
        let reply: Value = serde_json::from_slice(&reply.body).expect("an envelope");
        let status = reply["head"]["status"].as_u64().expect("a status");
        let status = u16::try_from(status).expect("a status");
        Ok((status, reply["data"].clone()))
    }
}

/// What went wrong on any thread; the first of it is told.
#[derive(Default)]
pub struct Faults(Mutex<Vec<String>>);

impl Faults {
    pub fn add(&self, fault: String) {
        self.0
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .push(fault);
    }

    #[track_caller]
    pub fn expect_none(&self) {
        let faults = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let first: Vec<&str> = faults.iter().take(20).map(String::as_str).collect();
        assert!(
            first.is_empty(),
            "{} faults, such as:\n{}",
            faults.len(),
            first.join("\n")
        );
    }
}
