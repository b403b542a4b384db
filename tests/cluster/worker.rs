//! A worker of these tests: it takes what its stream brings, works off one task after the other in several steps, and
//! now and then forgets one, gives one back, or vanishes.
//!
//! A workflow `w` is carried on by whoever acquires it, as far as it gets:
//!
//! ```text
//!   w:0   a promise that the worker settles itself, under its fence
//!   w:1   a task in the same origin          x-w   a task in another      await both
//!   w:t   a timer                                                          await
//!   e-w   settled from outside, in another origin                          await
//!   w     fulfilled
//! ```

use std::ops::ControlFlow;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::mpsc::RecvTimeoutError;
use std::time::Duration;

use serde_json::{Value, json};

use super::entry::{Caller, Nodes};
use super::ledger::Ledger;
use crate::harness::record;
use crate::harness::server::wall_clock_ms;
use crate::harness::sse::Stream;

/// The group of all workers.
pub const GROUP: &str = "chaos";
/// How long a promise lives that no test is to see timed out.
pub const LONG_MS: i64 = 3_600_000;
const PATIENCE: Duration = Duration::from_millis(50);
/// What a worker asks for: short, so that what it forgets is soon taken over.
const LEASES_MS: [i64; 3] = [1000, 2000, 4000];

/// The tags of a task for any worker.
pub fn target(branch: &str) -> Value {
    json!({"resonate:target": format!("poll://any@{GROUP}"), "resonate:branch": branch})
}

/// See the module documentation.
pub struct Worker<'a> {
    nodes: &'a Nodes,
    ledger: &'a Ledger,
    caller: Caller<'a>,
    rng: fastrand::Rng,
    pid: String,
    /// Whether its heartbeats name the tasks that it holds. Those that name none keep alive what it has forgotten, for
    /// a while (D-05).
    is_listing: bool,
    /// Whether it may forget, give back and vanish.
    is_careless: &'a AtomicBool,
}

/// A task in hand.
struct Lease {
    id: String,
    version: i64,
    /// Records that came with it.
    preload: Value,
}

impl<'a> Worker<'a> {
    pub fn new(
        nodes: &'a Nodes,
        ledger: &'a Ledger,
        rng: fastrand::Rng,
        is_careless: &'a AtomicBool,
    ) -> Worker<'a> {
        Worker {
            nodes,
            ledger,
            caller: Caller::new(nodes, ledger),
            rng,
            pid: String::new(),
            is_listing: true,
            is_careless,
        }
    }

    /// Works until it is told that everything is over.
    pub fn run(&mut self, is_over: &AtomicBool) {
        static NEXT: AtomicU64 = AtomicU64::new(0);
        let mut stream: Option<Stream> = None;
        while !is_over.load(Ordering::SeqCst) {
            let Some(open) = stream.take() else {
                // Whoever vanished comes back as somebody else.
                if self.pid.is_empty() {
                    self.pid = format!("p{}", NEXT.fetch_add(1, Ordering::SeqCst));
                    self.is_listing = self.rng.bool();
                }
                stream = self.nodes.listen(&mut self.rng, GROUP, &self.pid);
                match stream {
                    Some(_) => self.ledger.count("streams"),
                    None => std::thread::sleep(PATIENCE),
                }
                continue;
            };
            let has_stayed = match open.wait(PATIENCE) {
                Ok(message) => self.work(&message).is_continue(),
                Err(RecvTimeoutError::Timeout) => true,
                Err(RecvTimeoutError::Disconnected) => false,
            };
            if has_stayed {
                stream = Some(open);
            }
        }
    }

    /// Breaks when it vanishes, with whatever its stream still brings.
    fn work(&mut self, message: &Value) -> ControlFlow<()> {
        assert_eq!(message["kind"], "execute", "{message}");
        let task = &message["data"]["task"];
        let id = task["id"].as_str().expect("an execute names a task");
        let ttl = self.rng.choice(LEASES_MS);
        let data = json!({"id": id, "version": task["version"], "pid": self.pid, "ttl": ttl});
        let answer = self.caller.call("task.acquire", data);
        if answer.status != 200 {
            return ControlFlow::Continue(());
        }
        let lease = Lease {
            id: id.to_owned(),
            version: answer.data["task"]["version"].as_i64().expect("a version"),
            preload: answer.data["preload"].clone(),
        };
        match self.carry_on(&lease) {
            Ok(()) | Err(Leave::Lost) => {}
            Err(Leave::Forget) => self.ledger.count("forgotten"),
            Err(Leave::Release) => {
                let data = json!({"id": lease.id, "version": lease.version});
                self.caller.call("task.release", data);
            }
            Err(Leave::Vanish) => {
                self.ledger.count("vanished");
                self.pid.clear();
                return ControlFlow::Break(());
            }
        }
        ControlFlow::Continue(())
    }

    /// Takes a task as far as it gets: to its end, or to where it has to wait.
    fn carry_on(&mut self, lease: &Lease) -> Result<(), Leave> {
        let root = lease.id.as_str();
        if !root.starts_with('w') || root.contains(':') {
            self.step(lease)?;
            return self.fulfill(lease);
        }
        let now = wall_clock_ms();
        let own = format!("{root}:0");
        let tags = json!({"resonate:branch": root});
        if !self.child(lease, &own, now + LONG_MS, tags)? {
            let data = json!({"id": own, "state": "resolved", "value": {"data": self.pid}});
            self.fenced(lease, "promise.settle", data)?;
        }
        let timer_at = now + self.rng.i64(100..1500);
        let timer = json!({"resonate:timer": "true", "resonate:branch": root});
        let external = json!({"resonate:external": "true"});
        for children in [
            &[
                (format!("{root}:1"), now + LONG_MS, target(root)),
                (format!("x-{root}"), now + LONG_MS, target("x")),
            ][..],
            &[(format!("{root}:t"), timer_at, timer)],
            &[(format!("e-{root}"), now + LONG_MS, external)],
        ] {
            self.step(lease)?;
            while let Some(awaited) = self.open(lease, children)? {
                let data = record::suspend(root, lease.version, &awaited);
                if self.caller.call("task.suspend", data).status != 300 {
                    return Ok(());
                }
            }
        }
        self.fulfill(lease)
    }

    /// Creates what is not there yet; those that are not settled, if there are any.
    fn open<'c>(
        &mut self,
        lease: &Lease,
        children: &'c [(String, i64, Value)],
    ) -> Result<Option<Vec<&'c str>>, Leave> {
        let mut open = Vec::new();
        for (id, timeout_at, tags) in children {
            if !self.child(lease, id, *timeout_at, tags.clone())? {
                open.push(id.as_str());
            }
        }
        Ok(Some(open).filter(|open| !open.is_empty()))
    }

    /// Creates a child, unless the preload has it settled. Answers whether it is settled.
    fn child(
        &mut self,
        lease: &Lease,
        id: &str,
        timeout_at: i64,
        tags: Value,
    ) -> Result<bool, Leave> {
        let preload = lease.preload.as_array().expect("a list");
        if preload
            .iter()
            .any(|known| known["id"] == id && known["state"] != "pending")
        {
            return Ok(true);
        }
        let data = record::create(id, timeout_at, tags);
        let child = self.fenced(lease, "promise.create", data)?;
        Ok(child["state"] != "pending")
    }

    /// Does something while it holds the lease; the promise answered.
    fn fenced(&mut self, lease: &Lease, kind: &str, data: Value) -> Result<Value, Leave> {
        let data = record::fence(&lease.id, lease.version, kind, data);
        let answer = self.caller.call("task.fence", data);
        if answer.status != 200 {
            return Err(Leave::Lost);
        }
        Ok(answer.data["action"]["data"]["promise"].clone())
    }

    fn fulfill(&mut self, lease: &Lease) -> Result<(), Leave> {
        let settle = json!({"id": lease.id, "state": "resolved", "value": {"data": lease.id}});
        let action = json!({"kind": "promise.settle", "data": settle});
        let data = json!({"id": lease.id, "version": lease.version, "action": action});
        self.caller.call("task.fulfill", data);
        Ok(())
    }

    /// What comes before each step: a heartbeat, unless it has other things in mind.
    fn step(&mut self, lease: &Lease) -> Result<(), Leave> {
        if self.is_careless.load(Ordering::SeqCst) {
            match self.rng.u32(..100) {
                0..2 => return Err(Leave::Vanish),
                2..4 if self.is_listing => return Err(Leave::Forget),
                4..8 => return Err(Leave::Release),
                _ => {}
            }
        }
        let tasks = if self.is_listing {
            json!([{"id": lease.id, "version": lease.version}])
        } else {
            json!([])
        };
        let data = json!({"pid": self.pid, "tasks": tasks});
        self.caller.call("task.heartbeat", data);
        Ok(())
    }
}

/// Why a task is left where it is.
enum Leave {
    /// Somebody else has it, or it is over.
    Lost,
    Forget,
    Release,
    Vanish,
}
