//! Three nodes, a mixed load, and `kill -9` at random: nothing that was answered is lost or taken back, and everything
//! that was begun comes to its end.
//!
//! `RESONATE_CHAOS_SECONDS` sets for how long, `RESONATE_CHAOS_SEED` which nodes die when; threads and time do the
//! rest, so a seed repeats the plan, not the run.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use serde_json::json;

use super::client::{Client, every_second};
use super::entry::{Caller, Nodes, Over};
use super::ledger::Ledger;
use super::stored::Stored;
use super::worker::Worker;
use crate::harness::database::Database;
use crate::harness::process::Signal;
use crate::harness::server::{Server, wall_clock_ms};

const NODES: usize = 3;
const CLIENTS: usize = 3;
const WORKERS: usize = 4;
const SCHEDULES: usize = 2;
/// What is left when the chaos ends must be over so much later: well before `tasks.retry_timeout`, which would find
/// every message that was lost.
const SETTLING_MAX: Duration = Duration::from_secs(25);
const SECONDS: u64 = 60;

fn number(name: &str) -> Option<u64> {
    let text = std::env::var(name).ok()?;
    Some(
        text.parse()
            .unwrap_or_else(|_| panic!("{name} is a number")),
    )
}

/// Kills nodes and starts them again. Answers how often.
struct Monkey<'a> {
    nodes: &'a Nodes,
    database: &'a Database,
    servers: Vec<Option<Server>>,
    kills: usize,
    most_at_once: usize,
}

impl Monkey<'_> {
    fn kill(&mut self, node: usize) {
        if let Some(mut server) = self.servers[node].take() {
            server.signal(Signal::Kill);
            self.nodes.set(node, None);
            server.wait();
            self.kills += 1;
        }
        let down = self
            .servers
            .iter()
            .filter(|server| server.is_none())
            .count();
        self.most_at_once = self.most_at_once.max(down);
    }

    fn start(&mut self) {
        for node in 0..NODES {
            if self.servers[node].is_none() {
                let server = Server::on(&self.database.url(), &[]);
                self.nodes.set(node, Some(server.addr()));
                self.servers[node] = Some(server);
            }
        }
    }

    /// One node at a time, mostly; the others go on. All of them now and then, for as long as a start takes.
    fn rage(&mut self, rng: &mut fastrand::Rng, until: Instant) {
        while Instant::now() < until {
            thread::sleep(Duration::from_millis(rng.u64(200..2500)));
            let victims = match rng.u32(..20) {
                0 => 3,
                1..5 => 2,
                _ => 1,
            };
            let first = rng.usize(..NODES);
            (0..victims).for_each(|n| self.kill((first + n) % NODES));
            if victims < NODES {
                thread::sleep(Duration::from_millis(rng.u64(..2000)));
            }
            self.start();
        }
    }
}

#[test]
fn nodes_that_are_killed_at_random_lose_nothing_and_everything_comes_to_its_end() {
    let seconds = number("RESONATE_CHAOS_SECONDS").unwrap_or(SECONDS);
    let seed = number("RESONATE_CHAOS_SEED").unwrap_or_else(|| fastrand::u64(..));
    eprintln!("RESONATE_CHAOS_SEED={seed}");
    let mut rng = fastrand::Rng::with_seed(seed);
    let database = Database::fresh();
    let servers: Vec<Server> = (0..NODES)
        .map(|_| Server::on(&database.url(), &[]))
        .collect();
    let nodes = Nodes::new(servers.iter().map(Server::addr));
    let ledger = Ledger::default();
    let mut monkey = Monkey {
        nodes: &nodes,
        database: &database,
        servers: servers.into_iter().map(Some).collect(),
        kills: 0,
        most_at_once: 0,
    };
    let mut caller = Caller::new(&nodes, &ledger);
    let mut schedules = BTreeMap::new();
    for n in 0..SCHEDULES {
        let id = format!("cron{n}");
        let answer = caller.call("schedule.create", every_second(&id));
        schedules.insert(id, answer.data["schedule"]["createdAt"].as_i64().unwrap());
    }

    let [is_ending, is_over] = [(); 2].map(|()| AtomicBool::new(false));
    let is_careless = AtomicBool::new(true);
    let (reports, settling) = thread::scope(|scope| {
        let _over = [Over(&is_ending), Over(&is_over)];
        for _ in 0..WORKERS {
            let mut worker = Worker::new(&nodes, &ledger, rng.fork(), &is_careless);
            let is_over = &is_over;
            scope.spawn(move || worker.run(is_over));
        }
        let clients: Vec<_> = (0..CLIENTS)
            .map(|n| {
                let name = n.to_string();
                let mut client = Client::new(&nodes, &ledger, rng.fork(), name);
                let (is_ending, ledger) = (&is_ending, &ledger);
                scope.spawn(move || {
                    client.run(is_ending);
                    for unfinished in client.finish(Instant::now() + SETTLING_MAX) {
                        ledger.faults.add(unfinished);
                    }
                    client.report
                })
            })
            .collect();
        monkey.rage(&mut rng, Instant::now() + Duration::from_secs(seconds));
        is_careless.store(false, Ordering::SeqCst);
        is_ending.store(true, Ordering::SeqCst);
        let ended = Instant::now();
        let clients = clients.into_iter().map(|client| client.join());
        let reports: Vec<_> = clients.map(|report| report.expect("see above")).collect();
        let now = wall_clock_ms();
        for id in schedules.keys() {
            wait_for_occurrences(&mut caller, id, now);
            caller.call("schedule.delete", json!({"id": id}));
        }
        while has_open_tasks(&mut caller) && ended.elapsed() < SETTLING_MAX {
            thread::sleep(Duration::from_millis(50));
        }
        let settling = ended.elapsed();
        is_over.store(true, Ordering::SeqCst);
        (reports, settling)
    });
    for server in monkey.servers.iter_mut().flatten() {
        server.signal(Signal::Term);
        assert_eq!(server.wait(), Some(0), "{}", server.log());
    }

    let stored = Stored::read(&database);
    stored.check(&ledger);
    stored.all_is_over(&ledger);
    let occurrences = stored.occurrences(&ledger, &schedules);
    let sum = |of: &dyn Fn(&super::client::Report) -> u64| reports.iter().map(of).sum::<u64>();
    eprintln!(
        "{seconds} s, {} kills, up to {} nodes down at once; {} writes acknowledged, {} workflows, {} objects, \
         {occurrences} occurrences of schedules; {} unblocks, at most {} ms after another answer; \
         all over {} ms after the chaos\n  {}",
        monkey.kills,
        monkey.most_at_once,
        ledger.writes(),
        sum(&|report| report.workflows),
        stored.objects.len(),
        sum(&|report| report.unblocks),
        reports
            .iter()
            .map(|report| report.unblock_lag_max)
            .max()
            .unwrap_or_default()
            .as_millis(),
        settling.as_millis(),
        ledger.report(),
    );
    ledger.faults.expect_none();
}

/// Returns when a schedule has fired everything up to now.
fn wait_for_occurrences(caller: &mut Caller, id: &str, now: i64) {
    let deadline = Instant::now() + SETTLING_MAX;
    loop {
        let answer = caller.call("schedule.get", json!({"id": id}));
        let schedule = &answer.data["schedule"];
        if schedule["nextRunAt"].as_i64().expect("an instant") > now {
            return;
        }
        assert!(Instant::now() < deadline, "{schedule} does not fire");
        thread::sleep(Duration::from_millis(20));
    }
}

fn has_open_tasks(caller: &mut Caller) -> bool {
    ["pending", "acquired", "suspended", "halted"]
        .iter()
        .any(|state| {
            let answer = caller.call("task.search", json!({"state": state, "limit": 1}));
            answer.data["tasks"] != json!([])
        })
}
