//! The database crashes, stays away, and loses connections, under load: servers hold what they were asked, say what
//! they know, and go on by themselves.
//!
//! `RESONATE_DATABASE_RESTARTS` sets how often.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use serde_json::json;
use sqlx::Connection as _;
use sqlx::postgres::PgConnection;

use super::client::every_second;
use super::entry::{Caller, Nodes, Over};
use super::ledger::Ledger;
use super::relay::Relay;
use super::stored::Stored;
use crate::harness::database::Database;
use crate::harness::http::Connection;
use crate::harness::postgres::{Postgres, Stop};
use crate::harness::server::{Server, lock, wall_clock_ms};
use crate::storage::workflow::{STORED, steps, stored};

const WRITERS: usize = 6;
const RESTARTS: usize = 3;
/// Every so many restarts the database stays away for longer than a request is held.
const LONG_OUTAGES: usize = 3;
/// `server.request_deadline`, by default.
const REQUEST_DEADLINE: Duration = Duration::from_secs(8);
/// Longer than that.
const OUTAGE: Duration = Duration::from_secs(10);
/// How long a server may take to serve once the database does.
const RESUMING_MAX: Duration = Duration::from_secs(5);

/// How far each workflow has come: the last step that was answered.
type Progress = Mutex<BTreeMap<String, usize>>;

/// Takes one workflow after the other through its steps. Nobody else touches them, so no step is refused, unless it
/// was answered 503 before and has happened.
fn write(
    caller: &mut Caller,
    prefix: &str,
    ledger: &Ledger,
    progress: &Progress,
    is_over: &AtomicBool,
) {
    for n in 0.. {
        let root = format!("{prefix}-{n}");
        for (index, (kind, data)) in steps(&root).into_iter().enumerate() {
            if is_over.load(Ordering::SeqCst) {
                return;
            }
            let answer = caller.call(kind, data.clone());
            match answer.status {
                200 => {}
                409 if answer.unanswered > 0 => ledger.count("happened unawares"),
                status => {
                    let told = format!("{kind} {data} -> {status} {}", answer.data);
                    ledger.faults.add(format!("refused: {told}"));
                    return;
                }
            }
            lock(progress).insert(root.clone(), index + 1);
        }
    }
}

/// Starts everybody who writes; they go on until it is over.
fn start_writers<'scope>(
    scope: &'scope thread::Scope<'scope, '_>,
    nodes: &'scope Nodes,
    ledger: &'scope Ledger,
    progress: &'scope Progress,
    is_over: &'scope AtomicBool,
) {
    for writer in 0..WRITERS {
        let mut caller = Caller::new(nodes, ledger);
        scope.spawn(move || {
            let prefix = format!("w{writer}");
            write(&mut caller, &prefix, ledger, progress, is_over);
        });
    }
}

/// Every workflow is stored as far as it was answered, no further, and nothing by halves.
fn check_progress(ledger: &Ledger, progress: &Progress, all: &Stored) {
    for (root, step) in lock(progress).iter() {
        let found = stored(&all.objects, root);
        if found != STORED[*step] {
            let fault = format!("{root}: step {step} was answered, stored is {found:?}");
            ledger.faults.add(fault);
        }
    }
}

/// What the test knows of the database. Anything may be answered while it changes.
struct Health {
    /// Even while it changes; `DOWN` and `UP` by turns otherwise.
    epoch: AtomicU64,
}

const DOWN: u64 = 1;
const UP: u64 = 3;

impl Health {
    fn is_down(epoch: u64) -> bool {
        epoch % 4 == DOWN
    }

    fn set(&self, is_changing_to: u64) {
        let now = self.epoch.load(Ordering::SeqCst);
        let next = (now..).find(|epoch| epoch % 4 == is_changing_to);
        self.epoch
            .store(next.expect("numbers go on"), Ordering::SeqCst);
    }

    fn changes(&self) {
        self.epoch.fetch_add(1, Ordering::SeqCst);
    }
}

fn ready(addr: SocketAddr) -> u16 {
    let connection = Connection::open(addr);
    let reply =
        connection.and_then(|mut connection| connection.exchange("GET", "/ready", &[], b""));
    reply.expect("/ready is always answered").status()
}

/// Asks a server over and over whether it is ready; never while the database is down.
fn watch(addr: SocketAddr, health: &Health, ledger: &Ledger, is_over: &AtomicBool) {
    while !is_over.load(Ordering::SeqCst) {
        let before = health.epoch.load(Ordering::SeqCst);
        let status = ready(addr);
        let after = health.epoch.load(Ordering::SeqCst);
        ledger.count(if status == 200 { "ready" } else { "not ready" });
        if before == after && Health::is_down(before) && status != 503 {
            let fault = format!("/ready was {status} without a database");
            ledger.faults.add(fault);
        }
        thread::sleep(Duration::from_millis(20));
    }
}

/// Waits until something is true; how long it took.
fn within(patience: Duration, what: &str, is_true: impl Fn() -> bool) -> Duration {
    let began = Instant::now();
    while !is_true() {
        assert!(
            began.elapsed() < patience,
            "not within {patience:?}: {what}"
        );
        thread::sleep(Duration::from_millis(5));
    }
    began.elapsed()
}

#[test]
fn a_database_that_crashes_under_load_loses_nothing_and_is_served_again_at_once() {
    let restarts = std::env::var("RESONATE_DATABASE_RESTARTS").map_or(RESTARTS, |restarts| {
        restarts
            .parse()
            .expect("RESONATE_DATABASE_RESTARTS is a number")
    });
    let mut cluster = Postgres::start();
    let database = Database::fresh_on(cluster.url());
    let servers = [(); 2].map(|()| Server::on(&database.url(), &[]));
    let addrs = servers.each_ref().map(Server::addr);
    let nodes = Nodes::new(addrs);
    let ledger = Ledger::default();
    let progress = Progress::default();
    let is_over = AtomicBool::new(false);
    let health = Health {
        epoch: AtomicU64::new(UP),
    };
    let mut caller = Caller::new(&nodes, &ledger);
    let schedule = caller.call("schedule.create", every_second("cron"));
    let created_at = schedule.data["schedule"]["createdAt"].as_i64().unwrap();
    let mut resumed = Vec::new();
    let mut readied = Vec::new();
    thread::scope(|scope| {
        let _over = Over(&is_over);
        start_writers(scope, &nodes, &ledger, &progress, &is_over);
        for addr in addrs {
            let (health, ledger, is_over) = (&health, &ledger, &is_over);
            scope.spawn(move || watch(addr, health, ledger, is_over));
        }
        for restart in 1..=restarts {
            let before = ledger.writes();
            within(RESUMING_MAX, "load", || ledger.writes() >= before + 100);
            thread::sleep(Duration::from_millis(fastrand::u64(..500)));
            let refused = ledger.counted("503");
            health.changes();
            let stopped = Instant::now();
            cluster.stop(Stop::Immediate);
            health.set(DOWN);
            let is_long = restart % LONG_OUTAGES == 0;
            if is_long {
                thread::sleep(OUTAGE);
            }
            health.changes();
            cluster.start_again();
            health.set(UP);
            let began = Instant::now();
            let before = ledger.writes();
            let enough = before + u64::try_from(2 * WRITERS).expect("few");
            within(RESUMING_MAX, "writes", || ledger.writes() >= enough);
            resumed.push(began.elapsed());
            let left = RESUMING_MAX.saturating_sub(began.elapsed());
            within(left, "/ready", || {
                addrs.iter().all(|addr| ready(*addr) == 200)
            });
            readied.push(began.elapsed());
            let refused = ledger.counted("503") - refused;
            // A machine that is busy may take longer than requests are held to start a database.
            let is_short = !is_long && stopped.elapsed() < REQUEST_DEADLINE;
            if is_short && refused > 0 {
                let fault = format!("{refused} requests were not held through a short outage");
                ledger.faults.add(fault);
            }
            if is_long && refused == 0 {
                ledger.faults.add("requests were held for ever".to_owned());
            }
        }
        let now = wall_clock_ms();
        let has_fired = || {
            let schedule = servers[0].ok("schedule.get", json!({"id": "cron"}));
            schedule["schedule"]["nextRunAt"].as_i64() > Some(now)
        };
        within(RESUMING_MAX, "the schedule fires", has_fired);
    });
    drop(servers);
    let all = Stored::read(&database);
    all.check(&ledger);
    check_progress(&ledger, &progress, &all);
    let lasting = BTreeMap::from([("cron".to_owned(), created_at)]);
    let occurrences = all.occurrences(&ledger, &lasting);
    for times in [&mut resumed, &mut readied] {
        times.sort_unstable();
    }
    eprintln!(
        "{restarts} restarts of PostgreSQL; {} writes acknowledged, {} workflows, {occurrences} occurrences of a schedule; \
         serving again after {:?} (median), {:?} (longest), ready after {:?}, {:?}\n  {}",
        ledger.writes(),
        lock(&progress).len(),
        resumed[restarts / 2],
        resumed[restarts - 1],
        readied[restarts / 2],
        readied[restarts - 1],
        ledger.report(),
    );
    ledger.faults.expect_none();
}

/// A connection to the database past the server.
struct Sql {
    runtime: tokio::runtime::Runtime,
    connection: Mutex<PgConnection>,
}

impl Sql {
    fn connect(database: &Database) -> Sql {
        let runtime = tokio::runtime::Runtime::new().expect("a runtime starts");
        let connection = runtime.block_on(PgConnection::connect(&database.url()));
        let connection = Mutex::new(connection.expect("the database takes connections"));
        Sql {
            runtime,
            connection,
        }
    }

    fn run(&self, statement: &'static str) {
        let mut connection = lock(&self.connection);
        let ran = sqlx::query(statement).execute(&mut *connection);
        self.runtime.block_on(ran).expect("the statement runs");
    }

    /// How many connections of an application wait for something.
    fn waiting(&self, application: &str, event: &str) -> i64 {
        let mut connection = lock(&self.connection);
        let count = sqlx::query_scalar(
            "SELECT count(*) FROM pg_stat_activity
             WHERE application_name = $1 AND wait_event = $2",
        );
        let count = count
            .bind(application)
            .bind(event)
            .fetch_one(&mut *connection);
        self.runtime.block_on(count).expect("the statement runs")
    }
}

/// The database does what it was told, and the server does not hear of it: what it answers is what has happened.
#[test]
fn a_commit_whose_answer_is_lost_is_answered_as_it_happened() {
    let database = Database::fresh();
    let relay = Relay::to(&database);
    let url = relay.url(&database.url());
    let servers = [(); 2].map(|()| Server::on(&url, &[]));
    let nodes = Nodes::new(servers.each_ref().map(Server::addr));
    let ledger = Ledger::default();
    let progress = Progress::default();
    let is_over = AtomicBool::new(false);
    let cuts = 30;
    thread::scope(|scope| {
        let _over = Over(&is_over);
        start_writers(scope, &nodes, &ledger, &progress, &is_over);
        for _ in 0..cuts {
            let before = ledger.writes();
            within(RESUMING_MAX, "load", || ledger.writes() >= before + 40);
            relay.cut(Duration::from_millis(fastrand::u64(1..30)));
        }
        let before = ledger.writes();
        within(RESUMING_MAX, "load", || ledger.writes() >= before + 40);
    });
    drop(servers);
    let all = Stored::read(&database);
    all.check(&ledger);
    check_progress(&ledger, &progress, &all);
    eprintln!(
        "{cuts} cuts, {} answers of the database lost; {} writes acknowledged\n  {}",
        relay.swallowed(),
        ledger.writes(),
        ledger.report(),
    );
    if ledger.counted("503") > 0 {
        ledger.faults.add("requests were not held".to_owned());
    }
    assert!(relay.swallowed() > cuts, "nothing was lost");
    ledger.faults.expect_none();
}

/// A commit that takes its time goes on when its connection breaks: it has not failed.
#[test]
fn a_commit_under_way_when_its_connection_breaks_is_waited_for() {
    let cluster = Postgres::start();
    let database = Database::fresh_on(cluster.url());
    let relay = Relay::to(&database);
    let server = Server::on(&relay.url(&database.url()), &[]);
    let [sql, other] = [(); 2].map(|()| Sql::connect(&database));
    let target = json!({"resonate:target": "poll://any@nobody"});
    let create = json!({"id": "x", "timeoutAt": i64::MAX, "tags": target});
    let action = json!({"kind": "promise.create", "data": create});
    for (kind, data) in [
        ("schedule.create", every_second("s")),
        ("schedule.delete", json!({"id": "s"})),
        (
            "task.create",
            json!({"pid": "p", "ttl": i64::MAX, "action": action}),
        ),
        ("task.release", json!({"id": "x", "version": 1})),
        (
            "task.acquire",
            json!({"id": "x", "version": 1, "pid": "p", "ttl": i64::MAX}),
        ),
        ("task.halt", json!({"id": "x"})),
        ("task.continue", json!({"id": "x"})),
    ] {
        // Nothing is committed before a standby has it, and there is none.
        sql.run("ALTER SYSTEM SET synchronous_standby_names = 'nobody'");
        sql.run("SELECT pg_reload_conf()");
        let is_over = AtomicBool::new(false);
        thread::scope(|scope| {
            let _over = Over(&is_over);
            // It takes a while until that holds.
            scope.spawn(|| {
                while !is_over.load(Ordering::SeqCst) {
                    other.run("UPDATE compatibility SET oldest_schema = oldest_schema");
                }
            });
            within(RESUMING_MAX, "commits wait", || {
                sql.waiting("", "SyncRep") > 0
            });
            let asked = scope.spawn(|| server.call(kind, data));
            let waiting = |event| sql.waiting("resonate", event) > 0;
            within(RESUMING_MAX, "the commit waits", || waiting("SyncRep"));
            relay.cut(Duration::ZERO);
            within(RESUMING_MAX, "it is waited for", || {
                waiting("transactionid")
            });
            is_over.store(true, Ordering::SeqCst);
            sql.run("ALTER SYSTEM RESET synchronous_standby_names");
            sql.run("SELECT pg_reload_conf()");
            let answer = asked.join().expect("an answer");
            assert_eq!(answer.status, 200, "{answer}");
        });
    }
}
