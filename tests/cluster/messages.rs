//! What one node commits and another has to send, whatever happens to either of them or to what is between them.
//!
//! `tasks.retry_timeout` is left at its 30 s: a message that was lost would be found by it, long after these tests have
//! given up.

use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use serde_json::{Value, json};
use sqlx::Connection as _;
use sqlx::postgres::PgConnection;

use super::entry::Over;
use super::ledger::Ledger;
use crate::harness::client::VERSION;
use crate::harness::database::Database;
use crate::harness::http::{Connection, DEADLINE};
use crate::harness::process::Signal;
use crate::harness::record;
use crate::harness::server::{Server, lock, unique, wall_clock_ms};
use crate::harness::sse::Stream;

/// A silent node is missed after 3.5 s, a node that was cut off notices as much later and looks at once. Well below
/// `tasks.retry_timeout`.
const REPAIR_MAX: Duration = Duration::from_secs(8);
/// For how long connections are cut.
const CUTTING: Duration = Duration::from_secs(5);
const LONG_MS: i64 = 3_600_000;

fn nodes<const N: usize>() -> (Database, [Server; N]) {
    let database = Database::fresh();
    let nodes = std::array::from_fn(|_| Server::on(&database.url(), &[]));
    (database, nodes)
}

fn later() -> i64 {
    wall_clock_ms() + LONG_MS
}

fn create(node: &Server, id: &str, target: &str) {
    let tags = json!({"resonate:target": target});
    node.client().create(id, later(), tags);
}

/// What nodes are made acquainted by. Some of it may come twice, and late.
const HELLO: &str = "hello";

fn is_hello(message: &Value) -> bool {
    let id = message["data"]["task"]["id"].as_str();
    id.is_some_and(|id| id.starts_with(HELLO))
}

/// The next message that is the test's own, if it comes soon.
fn poll(stream: &Stream, patience: Duration) -> Option<Value> {
    let until = Instant::now() + patience;
    loop {
        let message = stream.poll(until.saturating_duration_since(Instant::now()))?;
        if !is_hello(&message) {
            return Some(message);
        }
    }
}

/// The next message, which must be an `execute`: task id and version.
fn next_execute(stream: &Stream) -> (String, i64) {
    let message = poll(stream, DEADLINE).expect("a message comes");
    let task = &message["data"]["task"];
    let id = task["id"].as_str().expect("an execute names a task");
    (id.to_owned(), task["version"].as_i64().expect("a version"))
}

/// Waits until a message sent on one node comes out of a stream of another at once: they know each other.
fn wait_until_acquainted(from: &Server, stream: &Stream, target: &str) {
    let deadline = Instant::now() + DEADLINE;
    loop {
        let id = unique(HELLO);
        create(from, &id, target);
        let sent = Instant::now();
        while stream.next_execute().0 != id {}
        if sent.elapsed() < Duration::from_millis(100) {
            return;
        }
        assert!(Instant::now() < deadline, "every message takes long");
    }
}

/// Waits until a node knows of a stream on another, whose name is preferred to one of its own.
fn wait_until_preferred(from: &Server, name: &str, named: &Stream, other: &Stream) {
    let deadline = Instant::now() + DEADLINE;
    loop {
        create(from, &unique(HELLO), &format!("poll://any@g/{name}"));
        loop {
            if named.poll(Duration::from_millis(20)).is_some() {
                return;
            }
            if other.poll(Duration::ZERO).is_some() {
                break;
            }
            assert!(Instant::now() < deadline, "{name} is not known");
        }
    }
}

/// Takes executes until all these tasks were offered; how long it took.
fn expect_all(stream: &Stream, ids: &[String], patience: Duration) -> Duration {
    let began = Instant::now();
    let mut missing: Vec<&String> = ids.iter().collect();
    while !missing.is_empty() {
        let left = patience.saturating_sub(began.elapsed());
        let Some(message) = poll(stream, left) else {
            panic!("not offered within {patience:?}: {missing:?}");
        };
        let id = &message["data"]["task"]["id"];
        missing.retain(|missing| *id != ***missing);
    }
    began.elapsed()
}

#[test]
fn a_task_created_on_one_node_reaches_a_worker_on_another_at_once() {
    let (_database, [a, b]) = nodes();
    let stream = Stream::open(&b, "g", "w");
    wait_until_acquainted(&a, &stream, "poll://any@g");
    let mut times: Vec<Duration> = (0..200)
        .map(|n| {
            let id = format!("t{n}");
            let began = Instant::now();
            create(&a, &id, "poll://any@g");
            assert_eq!(next_execute(&stream), (id, 0));
            began.elapsed()
        })
        .collect();
    times.sort_unstable();
    let [median, slowest] = [times[times.len() / 2], times[times.len() - 1]];
    eprintln!("create to execute across nodes: median {median:?}, slowest {slowest:?}");
    // Loosely: tests run beside each other. The figure is what benches are for.
    assert!(median < Duration::from_millis(100), "{median:?}");
    assert!(slowest < REPAIR_MAX, "{slowest:?}");
}

#[test]
fn a_task_continued_on_one_node_is_offered_again_to_a_worker_on_another() {
    // At the version it had: its worker's node knows it as offered already, and was told of no halt.
    let (_database, [a, b]) = nodes();
    for n in 0..20 {
        let (group, id) = (format!("g{n}"), format!("t{n}"));
        let stream = Stream::open(&b, &group, "w");
        create(&a, &id, &format!("poll://any@{group}"));
        // First before the nodes know of the stream, then when they do.
        for _ in 0..10 {
            assert_eq!(next_execute(&stream), (id.clone(), 0));
            a.client().halt(&id);
            a.client().resume_halted(&id);
        }
        assert_eq!(next_execute(&stream), (id, 0));
    }
}

#[test]
fn an_unblock_finds_its_listener_on_another_node_whatever_its_size() {
    let (_database, [a, b]) = nodes();
    let stream = Stream::open(&b, "g", "w");
    let client = a.client();
    // The largest that a notification takes is 8000 bytes.
    for bytes in [0, 5, 7_000, 8_000, 9_000, 100_000] {
        let id = format!("p{bytes}");
        client.create(&id, later(), json!({}));
        client.listen(&id, "poll://uni@g/w");
        let value = json!({"data": "é".repeat(bytes / 2)});
        let settle = json!({"id": id, "state": "resolved", "value": value});
        let began = Instant::now();
        let settled = record::member(a.ok("promise.settle", settle), "promise");
        assert_eq!(stream.next_unblock(), settled);
        let took = began.elapsed();
        assert!(took < REPAIR_MAX, "{bytes} bytes took {took:?}");
    }
    // Delivered, and booked so: nothing waits for the next stream.
    while poll(&stream, Duration::from_millis(500)).is_some() {}
    drop(stream);
    let next = Stream::open(&a, "g", "w");
    assert_eq!(poll(&next, Duration::from_millis(500)), None);
}

#[test]
fn a_worker_named_is_preferred_on_whatever_node_it_is() {
    let (_database, [a, b]) = nodes();
    let here = Stream::open(&a, "g", "here");
    let there = Stream::open(&b, "g", "there");
    wait_until_preferred(&a, "there", &there, &here);
    wait_until_preferred(&b, "here", &here, &there);
    for n in 0..20 {
        for (name, stream) in [("here", &here), ("there", &there)] {
            for (at, node) in [("a", &a), ("b", &b)] {
                let id = format!("{name}-{at}-{n}");
                create(node, &id, &format!("poll://any@g/{name}"));
                assert_eq!(next_execute(stream), (id, 0));
            }
        }
    }
    // Gone, it is anybody's.
    drop(there);
    create(&a, "orphan", "poll://any@g/there");
    expect_all(&here, &["orphan".to_owned()], REPAIR_MAX);
}

/// Ends the connections by which nodes hear of each other; how many there were.
async fn cut_ears(database: &Database) -> sqlx::Result<i64> {
    let mut connection = PgConnection::connect(&database.url()).await?;
    let cut = sqlx::query_scalar(
        "SELECT count(pg_terminate_backend(pid)) FROM pg_stat_activity
         WHERE datname = current_database() AND application_name = 'resonate-listen'",
    )
    .fetch_one(&mut connection)
    .await?;
    connection.close().await?;
    Ok(cut)
}

#[test]
fn cutting_the_connection_that_listens_loses_no_message_and_delays_few() {
    let (database, [a, b]) = nodes();
    let stream = Stream::open(&b, "g", "w");
    wait_until_acquainted(&a, &stream, "poll://any@g");
    let runtime = tokio::runtime::Runtime::new().unwrap();
    let is_over = AtomicBool::new(false);
    let mut delays = Vec::new();
    let cuts = thread::scope(|scope| {
        let over = Over(&is_over);
        let cuts = scope.spawn(|| {
            let mut cuts = 0;
            while !is_over.load(Ordering::SeqCst) {
                cuts += runtime.block_on(cut_ears(&database)).unwrap();
                thread::sleep(Duration::from_millis(fastrand::u64(20..400)));
            }
            cuts
        });
        let began = Instant::now();
        while began.elapsed() < CUTTING {
            let id = unique("t");
            let began = Instant::now();
            create(&a, &id, "poll://any@g");
            // Others may come twice.
            expect_all(&stream, &[id], REPAIR_MAX);
            delays.push(began.elapsed());
        }
        drop(over);
        cuts.join().unwrap()
    });
    delays.sort_unstable();
    let [median, slowest] = [delays[delays.len() / 2], delays[delays.len() - 1]];
    let count = delays.len();
    eprintln!(
        "{cuts} connections cut under {count} messages: median {median:?}, slowest {slowest:?}"
    );
    assert!(cuts >= 4, "{cuts}");
}

#[test]
fn what_a_node_committed_before_it_was_killed_is_sent_by_another() {
    let mut slowest = Duration::ZERO;
    let mut count = 0;
    for round in 0..8 {
        let (_database, [a, b]) = nodes();
        let stream = Stream::open(&b, "g", "w");
        wait_until_acquainted(&a, &stream, "poll://any@g");
        // Waits for a stream of the node that dies.
        let lost = Stream::open(&a, "h", "w");
        create(&a, "of-h", "poll://any@h");
        let ids = Mutex::new(Vec::new());
        thread::scope(|scope| {
            for writer in 0..8 {
                let (a, ids) = (&a, &ids);
                scope.spawn(move || create_until_it_dies(a, &format!("r{round}w{writer}"), ids));
            }
            while lock(&ids).len() < 50 {
                thread::yield_now();
            }
            a.signal(Signal::Kill);
        });
        let ids = lock(&ids);
        count += ids.len();
        slowest = slowest.max(expect_all(&stream, &ids, REPAIR_MAX));
        let next = Stream::open(&b, "h", "w");
        expect_all(&next, &["of-h".to_owned()], REPAIR_MAX);
        drop(lost);
    }
    eprintln!("{count} executes of nodes that were killed: all offered within {slowest:?}");
}

/// Creates tasks until the node is gone; the ids of those that were acknowledged.
fn create_until_it_dies(node: &Server, prefix: &str, acknowledged: &Mutex<Vec<String>>) {
    let mut connection = Connection::open(node.addr()).expect("the node accepts");
    for n in 0.. {
        let id = format!("{prefix}-{n}");
        let data = record::create(&id, later(), json!({"resonate:target": "poll://any@g"}));
        let head = json!({"corrId": "c", "version": VERSION});
        let body = json!({"kind": "promise.create", "head": head, "data": data}).to_string();
        let Ok(reply) = connection.exchange("POST", "/", &[], body.as_bytes()) else {
            return;
        };
        assert_eq!(reply.status(), 200, "{}", reply.text());
        lock(acknowledged).push(id);
    }
}

#[test]
fn a_timer_set_on_a_node_that_dies_fires_on_another() {
    let (_database, [a, b]) = nodes();
    let stream = Stream::open(&b, "g", "w");
    let client = a.client();
    wait_until_acquainted(&a, &stream, "poll://any@g");
    let timeout_at = wall_clock_ms() + 1500;
    let timers: Vec<String> = (0..20).map(|n| format!("timer{n}")).collect();
    for timer in &timers {
        client.create(timer, timeout_at, record::timer());
        client.listen(timer, "poll://uni@g/w");
    }
    client.own("leased", later(), 1500);
    create(&a, "leased-there", "poll://any@g");
    assert_eq!(next_execute(&stream).0, "leased-there");
    client.acquire("leased-there", 0, 1500);
    a.signal(Signal::Kill);
    let mut fired = Vec::new();
    let mut is_offered = false;
    let mut latest = 0;
    while fired.len() < timers.len() || !is_offered {
        let message = poll(&stream, REPAIR_MAX).expect("all timers fire");
        latest = wall_clock_ms() - timeout_at;
        assert!(latest >= 0, "{message} came too early");
        if message["kind"] == "execute" {
            assert_eq!(message["data"]["task"]["id"], "leased-there");
            assert_eq!(message["data"]["task"]["version"], 1);
            is_offered = true;
            continue;
        }
        let promise = &message["data"]["promise"];
        assert_eq!(promise["state"], "resolved");
        assert_eq!(promise["settledAt"], timeout_at);
        let id = promise["id"].as_str().unwrap().to_owned();
        assert!(!fired.contains(&id), "{id} fired twice");
        fired.push(id);
    }
    eprintln!("timers of a node that was killed: the last fired {latest} ms late");
    assert_eq!(b.client().task("leased")["state"], "pending");
}

#[test]
fn tasks_that_a_closed_stream_had_not_acquired_go_to_a_worker_on_another_node() {
    let (_database, [a, b]) = nodes();
    let first = Stream::open(&a, "g", "first");
    let second = Stream::open(&b, "g", "second");
    wait_until_acquainted(&a, &second, "poll://uni@g/second");
    let ids: Vec<String> = (0..30).map(|n| format!("t{n}")).collect();
    ids.iter().for_each(|id| create(&a, id, "poll://any@g"));
    expect_all(&first, &ids, REPAIR_MAX);
    // One is acquired: it stays with its holder.
    let held = a.client().acquire("t0", 0, LONG_MS)["task"].clone();
    drop(first);
    // Some may have been offered to both.
    let took = expect_all(&second, &ids[1..], REPAIR_MAX);
    eprintln!("tasks of a closed stream: all offered on the other node after {took:?}");
    assert_eq!(b.client().task("t0"), held);
}

#[test]
fn timers_and_schedules_fire_once_though_every_node_sweeps() {
    let (_database, [a, b, c]) = nodes();
    // Every effect of a firing is a message.
    let stream = Stream::open(&b, "g", "w");
    wait_until_acquainted(&a, &stream, "poll://any@g");
    wait_until_acquainted(&c, &stream, "poll://any@g");
    let timeout_at = wall_clock_ms() + 6000;
    let mut expected: Vec<String> = Vec::new();
    for (n, node) in [&a, &b, &c].into_iter().cycle().take(60).enumerate() {
        let id = format!("timer{n:02}");
        node.client().create(&id, timeout_at, record::timer());
        node.client().listen(&id, "poll://uni@g/w");
        expected.push(id);
    }
    let schedule = json!({
        "id": "s", "cron": "* * * * * *", "promiseId": "{{.id}}-{{.timestamp}}",
        "promiseTimeout": LONG_MS, "promiseTags": {"resonate:target": "poll://any@g"},
    });
    let schedule = a.ok("schedule.create", schedule)["schedule"].clone();
    let until = timeout_at + 2000;
    let mut heard = Vec::new();
    while wall_clock_ms() < until {
        if let Some(message) = poll(&stream, Duration::from_millis(50)) {
            heard.push(message);
        }
    }
    b.ok("schedule.delete", json!({"id": "s"}));
    while let Some(message) = poll(&stream, Duration::from_millis(500)) {
        heard.push(message);
    }
    let ids = |kind: &str, member: &str| {
        let of_kind = heard.iter().filter(|message| message["kind"] == kind);
        let mut ids: Vec<String> = of_kind
            .map(|message| &message["data"][member]["id"])
            .map(|id| id.as_str().unwrap().to_owned())
            .collect();
        ids.sort();
        let count = ids.len();
        ids.dedup();
        eprintln!(
            "{count} messages {kind} of timers and schedules, {} of them different",
            ids.len()
        );
        ids
    };
    assert_eq!(ids("unblock", "promise"), expected);
    let first = schedule["nextRunAt"].as_i64().unwrap();
    let occurrences = ids("execute", "task");
    assert!(occurrences.len() >= 3, "{occurrences:?}");
    let contiguous: Vec<String> = (first..)
        .step_by(1000)
        .take(occurrences.len())
        .map(|at| format!("s-{at}"))
        .collect();
    assert_eq!(occurrences, contiguous);
}

/// C8: what was answered once is answered ever after, on every node, while a deadline passes.
#[test]
fn nodes_answer_as_one_while_a_deadline_passes() {
    let (_database, nodes) = nodes::<2>();
    let ledger = Ledger::default();
    let rounds = 40;
    let mut verdicts = [0, 0];
    for round in 0..rounds {
        let id = format!("p{round}");
        let tags = match round % 4 {
            0 => record::timer(),
            1 => json!({"resonate:external": "true"}),
            2 => json!({}),
            _ => record::target(),
        };
        let has_task = round % 4 == 3;
        let timeout_at = wall_clock_ms() + 60;
        nodes[0].client().create(&id, timeout_at, tags);
        thread::scope(|scope| {
            for (n, node) in nodes.iter().cycle().take(4).enumerate() {
                let (ledger, id) = (&ledger, &id);
                scope.spawn(move || {
                    let mut kinds = vec!["promise.get", "promise.search", "promise.settle"];
                    if has_task {
                        kinds.push("task.get");
                    }
                    let mut settles = 0;
                    for &kind in kinds.iter().cycle() {
                        let now = wall_clock_ms();
                        if now > timeout_at + 40 {
                            break;
                        }
                        // Only at the last moment: mostly the deadline is to win.
                        if kind == "promise.settle" && (now < timeout_at - 2 || n > 1) {
                            continue;
                        }
                        settles += usize::from(kind == "promise.settle");
                        let value = json!({"data": format!("{n}-{settles}")});
                        let data = match kind {
                            "promise.search" => json!({"limit": 1000, "state": "pending"}),
                            _ => json!({"id": id, "state": "resolved", "value": value}),
                        };
                        let sent = ledger.moment();
                        let answer = node.call(kind, data.clone());
                        ledger.answered(kind, &data, sent, answer.status, &answer.data);
                    }
                });
            }
        });
        let settled = nodes[1].client().get(&id);
        let is_by_deadline = settled["settledAt"] == timeout_at;
        verdicts[usize::from(is_by_deadline)] += 1;
        assert_eq!(nodes[0].client().get(&id), settled);
    }
    eprintln!(
        "{rounds} deadlines, {} met by a client; {}",
        verdicts[0],
        ledger.report()
    );
    ledger.faults.expect_none();
}
