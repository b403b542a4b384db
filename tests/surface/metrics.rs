//! The series of protocol §2.1 and transports §7, and those of docs/metrics.md, scraped from the metrics port.

use std::collections::BTreeSet;
use std::thread;
use std::time::{Duration, Instant};

use serde_json::json;

#[cfg(target_os = "linux")]
use crate::harness::disk::{Disk, Fault};
use crate::harness::http::{Connection, DEADLINE};
use crate::harness::process::Signal;
#[cfg(target_os = "linux")]
use crate::harness::record::create;
use crate::harness::scripts::until;
use crate::harness::server::{Server, free_port, wall_clock_ms};
use crate::harness::sink::{Answer, Sink};
use crate::harness::sse::Stream;
#[cfg(target_os = "linux")]
use crate::harness::store::is_on_files;
use crate::harness::store::{Store, forgets_on_restart, store};

const DOCUMENTATION: &str = include_str!("../../docs/metrics.md");
/// Looks and counts come soon.
const SOON: [&str; 4] = [
    "--timeouts-poll-interval",
    "50",
    "--messages-poll-interval",
    "50",
];

pub fn scrape(port: u16) -> String {
    let address = std::net::SocketAddr::from(([127, 0, 0, 1], port));
    // The port is bound a moment after that of the API.
    until("the port of the metrics", || {
        Connection::open(address).is_ok()
    });
    let mut connection = Connection::open(address).expect("metrics are served");
    let reply = connection
        .exchange("GET", "/metrics", &[], b"")
        .expect("a scrape is answered");
    assert_eq!(reply.status(), 200);
    reply.text()
}

/// Waits until a counter has reached a value.
#[track_caller]
pub fn reaches(port: u16, series: &str, least: f64) {
    comes(port, series, |value| value >= least);
}

/// Waits until a series is there, with a value that is expected.
#[track_caller]
fn comes(port: u16, series: &str, is_expected: impl Fn(f64) -> bool) {
    let deadline = Instant::now() + DEADLINE;
    loop {
        let scraped = scrape(port);
        let is_there = scraped.contains(&format!("\n{series} "));
        if is_there && is_expected(value(&scraped, series)) {
            return;
        }
        assert!(Instant::now() < deadline, "{series} in\n{scraped}");
        thread::sleep(Duration::from_millis(10));
    }
}

#[track_caller]
pub fn value(scraped: &str, series: &str) -> f64 {
    let line = scraped
        .lines()
        .find_map(|line| line.strip_prefix(series)?.strip_prefix(' '));
    line.unwrap_or_else(|| panic!("no {series} in\n{scraped}"))
        .parse()
        .expect("a number")
}

/// Waits until a series has this value.
#[track_caller]
fn becomes(port: u16, series: &str, expected: f64) {
    comes(port, series, |value| value == expected);
}

/// A server of one node with metrics on this port.
fn measured(port: u16, more: &[&str]) -> Server {
    let port = port.to_string();
    let flags = [&["--observability-metrics-port", &port], &SOON[..], more].concat();
    Server::single_with(&flags)
}

fn schedule(server: &Server, cron: &str) {
    let data = json!({
        "id": "s", "cron": cron, "promiseId": "{{.id}}.{{.timestamp}}", "promiseTimeout": 60_000,
        "promiseTags": {"resonate:target": "poll://any@g"},
    });
    server.ok("schedule.create", data);
}

/// The names in the first column of the tables.
pub fn documented() -> BTreeSet<&'static str> {
    let rows = DOCUMENTATION.lines();
    rows.filter_map(|line| line.strip_prefix("| `")?.split('`').next())
        .collect()
}

#[test]
fn what_is_documented_is_moved_here_and_what_is_there_is_documented() {
    let documented = documented();
    for name in &documented {
        assert!(
            include_str!("metrics.rs").contains(name),
            "nothing here moves {name}"
        );
    }
    let port = free_port();
    let _server = measured(port, &[]);
    let scraped = scrape(port);
    let there = scraped.lines().filter_map(|line| {
        let (name, kind) = line.strip_prefix("# TYPE ")?.split_once(' ')?;
        Some((name, kind))
    });
    for (name, kind) in there {
        assert!(
            documented.contains(name),
            "{name} is not in docs/metrics.md"
        );
        let row = format!("| `{name}` | {kind}");
        assert!(DOCUMENTATION.contains(&row), "{name} is a {kind}");
    }
}

#[test]
fn requests_messages_and_schedules_are_counted() {
    let port = free_port();
    let server = Server::single_with(&["--observability-metrics-port", &port.to_string()]);
    let stream = Stream::open(&server, "g", "w");
    let tags = json!({"resonate:target": "poll://any@g"});
    server.client().create("x", i64::MAX, tags);
    stream.next_execute();
    server.client().listen("x", "poll://uni@g/w");
    server.client().settle("x", "resolved");
    stream.next_unblock();
    server.refused(
        "promise.get",
        json!({"id": "none"}),
        404,
        "Promise not found",
    );
    server.call("no.such.kind", json!({}));
    server.call("another kind", json!({}));
    schedule(&server, "* * * * * *");
    stream.next_execute();

    let scraped = scrape(port);
    let requests = |kind: &str, status: u16| {
        format!("resonate_request_total{{kind=\"{kind}\",status=\"{status}\"}}")
    };
    assert_eq!(value(&scraped, &requests("promise.create", 200)), 1.0);
    assert_eq!(value(&scraped, &requests("promise.get", 404)), 1.0);
    // D-48: label values are not the client's to choose.
    assert_eq!(value(&scraped, &requests("unknown", 400)), 2.0);
    let count = "resonate_request_duration_seconds_count{kind=\"promise.settle\"}";
    assert_eq!(value(&scraped, count), 1.0);
    assert!(value(&scraped, "resonate_messages_total{kind=\"execute\"}") >= 2.0);
    assert_eq!(
        value(&scraped, "resonate_messages_total{kind=\"unblock\"}"),
        1.0
    );
    assert!(value(&scraped, "resonate_deliveries_total{status=\"success\"}") >= 2.0);
    assert!(value(&scraped, "resonate_schedule_promises_total") >= 1.0);
}

#[test]
fn batches_and_connections_to_the_storage_are_measured() {
    let port = free_port();
    let server = measured(port, &[]);
    server.client().create("p", i64::MAX, json!({}));
    server.ok("promise.search", json!({}));
    let scraped = scrape(port);
    for series in [
        "resonate_queue_wait_seconds_count",
        "resonate_batch_jobs_sum",
        "resonate_load_duration_seconds_count",
        "resonate_commit_duration_seconds_count",
    ] {
        assert!(value(&scraped, series) >= 1.0, "{series} in\n{scraped}");
    }
    let build = format!(
        "resonate_build_info{{version=\"{}\"}}",
        env!("CARGO_PKG_VERSION")
    );
    assert_eq!(value(&scraped, &build), 1.0);
    assert_eq!(value(&scraped, "resonate_storage_up"), 1.0);
    assert_eq!(value(&scraped, "resonate_queue_jobs"), 0.0);
    let writer = match store() {
        Store::Memory => return,
        Store::Sqlite => "writer",
        Store::Postgres | Store::Cluster => "writers",
    };
    for pool in [writer, "readers"] {
        let waits = format!("resonate_storage_wait_seconds_count{{pool=\"{pool}\"}}");
        assert!(value(&scraped, &waits) >= 1.0, "{pool}");
        let most = format!("resonate_storage_connections{{pool=\"{pool}\",state=\"max\"}}");
        assert!(value(&scraped, &most) >= 1.0, "{pool}");
    }
}

#[cfg(target_os = "linux")]
#[test]
fn a_storage_that_takes_no_writes_shows() {
    if !is_on_files() {
        return;
    }
    let port = free_port();
    let disk = Disk::new();
    let metrics_port = port.to_string();
    let server = Server::on_disk(&disk, &["--observability-metrics-port", &metrics_port]);
    let created = server.call("promise.create", create("before", i64::MAX, json!({})));
    created.expect_status(200);
    disk.fails_with(Fault::Full);
    thread::scope(|scope| {
        let write = |id| {
            let server = &server;
            scope.spawn(move || server.call("promise.create", create(id, i64::MAX, json!({}))))
        };
        let first = write("first");
        becomes(port, "resonate_storage_up", 0.0);
        reaches(
            port,
            "resonate_commit_failures_total{reason=\"unavailable\"}",
            1.0,
        );
        // It waits behind the first, which is tried again and again.
        let second = write("second");
        becomes(port, "resonate_queue_jobs", 1.0);
        let used = "resonate_storage_connections{pool=\"writer\",state=\"used\"}";
        comes(port, used, |used| used <= 1.0);
        disk.fails_with(Fault::Nothing);
        for answered in [first, second] {
            let answered = answered.join().expect("it is answered");
            answered.expect_status(200);
        }
    });
    becomes(port, "resonate_storage_up", 1.0);
    becomes(port, "resonate_queue_jobs", 0.0);
}

#[test]
fn what_is_stored_and_what_waits_is_counted() {
    let port = free_port();
    let server = measured(port, &[]);
    let client = server.client();
    client.create("plain", i64::MAX, json!({}));
    for id in ["waits", "waits-too"] {
        client.create(
            id,
            i64::MAX,
            json!({"resonate:target": "poll://any@nobody"}),
        );
    }
    client.create("told", i64::MAX, json!({}));
    client.listen("told", "poll://uni@nobody/1");
    client.settle("told", "resolved");
    schedule(&server, "0 0 1 1 *");
    let objects =
        |kind: &str, state: &str| format!("resonate_objects{{kind=\"{kind}\",state=\"{state}\"}}");
    becomes(port, &objects("promise", "pending"), 3.0);
    becomes(port, &objects("promise", "resolved"), 1.0);
    becomes(port, &objects("task", "pending"), 2.0);
    becomes(port, &objects("task", "acquired"), 0.0);
    becomes(port, &objects("schedule", "active"), 1.0);
    let of = |name: &str| format!("{name}{{group=\"nobody\",transport=\"poll\"}}");
    becomes(port, &of("resonate_tasks_pending"), 2.0);
    comes(port, &of("resonate_tasks_pending_oldest_seconds"), |age| {
        age > 0.0
    });
    becomes(port, "resonate_unserved_targets", 1.0);
    becomes(port, "resonate_unserved_tasks", 2.0);
    becomes(port, "resonate_outbox_unblocks{transport=\"poll\"}", 1.0);
    let oldest = "resonate_outbox_oldest_seconds{transport=\"poll\"}";
    comes(port, oldest, |age| age > 0.0);

    // Somebody comes, and takes it all.
    let stream = Stream::open(&server, "nobody", "1");
    becomes(port, "resonate_streams{group=\"nobody\"}", 1.0);
    for _ in 0..3 {
        stream.next();
    }
    becomes(port, "resonate_unserved_targets", 0.0);
    for (id, version) in [("waits", 0), ("waits-too", 0)] {
        client.acquire(id, version, 60_000);
    }
    becomes(port, &objects("task", "acquired"), 2.0);
    for gone in ["resonate_tasks_pending{", "resonate_outbox_unblocks{"] {
        until(gone, || !scrape(port).contains(gone));
    }
    drop(stream);
    until("the end of the stream", || {
        !scrape(port).contains("resonate_streams{")
    });
}

#[test]
fn failed_deliveries_and_retries_are_counted() {
    let port = free_port();
    let server = measured(port, &[]);
    let sink = Sink::scripted(vec![Answer::Status(500), Answer::Status(200)]);
    let client = server.client();
    client.create("p", i64::MAX, json!({}));
    client.listen("p", &sink.url("/w"));
    client.settle("p", "resolved");
    sink.next();
    sink.next();
    reaches(
        port,
        "resonate_delivery_failures_total{transport=\"http\"}",
        1.0,
    );
    reaches(
        port,
        "resonate_delivery_retries_total{transport=\"http\"}",
        1.0,
    );
    let scraped = scrape(port);
    assert_eq!(
        value(&scraped, "resonate_deliveries_total{status=\"error\"}"),
        1.0
    );
}

#[test]
fn timers_and_schedules_show_how_late_they_are() {
    let port = free_port();
    let server = measured(port, &["--debug"]);
    let client = server.client();
    schedule(&server, "* * * * * *");
    client.listen_before_deadline("poll://any@g");
    reaches(port, "resonate_timer_lag_seconds_count", 1.0);
    reaches(port, "resonate_schedule_lag_seconds_count", 1.0);
    reaches(port, "resonate_timers", 1.0);
    // Nothing is fired from here on.
    server.ok("debug.start", json!({}));
    comes(port, "resonate_timers_overdue_seconds", |overdue| {
        overdue > 0.0
    });
    server.ok("debug.stop", json!({}));
    becomes(port, "resonate_timers_overdue_seconds", 0.0);
}

#[test]
fn a_sweep_that_finds_something_shows() {
    if forgets_on_restart() {
        return;
    }
    let port = free_port();
    let mut server = measured(port, &[]);
    let client = server.client();
    let due_at = wall_clock_ms() + 2_000;
    client.create("due", due_at, json!({"resonate:timer": "true"}));
    client.create("told", i64::MAX, json!({}));
    client.listen("told", "poll://any@nobody");
    client.settle("told", "resolved");
    server.signal(Signal::Kill);
    server.wait();
    // It falls due while nobody is there.
    until("the deadline", || wall_clock_ms() > due_at);
    let port_text = port.to_string();
    let flags = [
        "--observability-metrics-port",
        &port_text,
        "--messages-unblock-ttl",
        "1",
    ];
    let flags: Vec<String> = [&flags[..], &SOON]
        .concat()
        .iter()
        .map(|&flag| flag.to_owned())
        .collect();
    let _server = server.restart_stopped_with(&flags);
    reaches(port, "resonate_sweep_found_total{kind=\"promise\"}", 1.0);
    reaches(port, "resonate_sweep_found_total{kind=\"stale\"}", 1.0);
    reaches(port, "resonate_deliveries_total{status=\"dropped\"}", 1.0);
}

#[test]
fn what_is_refused_is_counted() {
    let port = free_port();
    let flags = [
        "--limits-rate-per-address",
        "1",
        "--limits-rate-burst",
        "1",
        "--server-header-read-timeout",
        "200",
    ];
    let server = measured(port, &flags);
    let silent = std::net::TcpStream::connect(server.addr()).expect("the port is open");
    reaches(
        port,
        "resonate_connections_closed_total{reason=\"head\"}",
        1.0,
    );
    drop(silent);
    for _ in 0..3 {
        server.call("promise.get", json!({"id": "p"}));
    }
    reaches(port, "resonate_rate_limited_total{by=\"address\"}", 1.0);
}

#[test]
fn spans_that_nobody_takes_are_counted() {
    let port = free_port();
    let nowhere = format!("127.0.0.1:{}", free_port());
    let server = measured(port, &["--observability-otlp-endpoint", &nowhere]);
    server.call("promise.get", json!({"id": "p"}));
    let dropped = "resonate_otlp_spans_dropped_total{reason=\"refused\"}";
    reaches(port, dropped, 1.0);
}

#[cfg(target_os = "linux")]
#[test]
fn the_process_is_measured() {
    let port = free_port();
    let server = measured(port, &[]);
    let before = scrape(port);
    for name in [
        "process_resident_memory_bytes",
        "process_virtual_memory_bytes",
        "process_threads",
        "process_max_fds",
        "process_start_time_seconds",
    ] {
        assert!(value(&before, name) > 0.0, "{name}");
    }
    let _streams = [
        Stream::open(&server, "g", "1"),
        Stream::open(&server, "g", "2"),
    ];
    let files = value(&before, "process_open_fds");
    comes(port, "process_open_fds", |now| now > files);
    let used = value(&before, "process_cpu_seconds_total");
    until("work", || {
        server.ok("promise.search", json!({}));
        value(&scrape(port), "process_cpu_seconds_total") > used
    });
}

#[test]
fn metrics_may_be_bound_elsewhere() {
    let port = free_port();
    let server = Server::single_with(&[
        "--observability-metrics-port",
        &port.to_string(),
        "--observability-metrics-bind",
        "127.0.0.2",
    ]);
    assert_eq!(server.get("/health").status(), 200);
    let at = |host: [u8; 4]| Connection::open((host, port).into());
    let mut elsewhere = at([127, 0, 0, 2]).expect("metrics are served");
    let reply = elsewhere.exchange("GET", "/metrics", &[], b"").unwrap();
    assert_eq!(reply.status(), 200);
    assert!(at([127, 0, 0, 1]).is_err());
}

#[test]
fn a_metrics_port_that_is_taken_does_not_stop_the_server() {
    let taken = std::net::TcpListener::bind("127.0.0.1:0").expect("a port is free");
    let port = taken
        .local_addr()
        .expect("it has an address")
        .port()
        .to_string();
    let server = Server::single_with(&["--observability-metrics-port", &port]);
    assert_eq!(server.get("/health").status(), 200);
}

#[test]
fn what_retention_deletes_and_leaves_shows() {
    let port = free_port();
    let more = ["--retention-after", "1", "--retention-interval", "1"];
    let server = measured(port, &more);
    let client = server.client();
    for id in ["over", "owing"] {
        client.create(id, i64::MAX, json!({}));
    }
    // What is to be told of it stays undelivered.
    client.listen("owing", "poll://uni@absent/x");
    client.settle("over", "resolved");
    client.settle("owing", "resolved");
    becomes(port, "resonate_retention_deleted_total", 1.0);
    reaches(port, "resonate_retention_oldest_seconds", 1.0);
    reaches(port, "resonate_retention_walks_total", 2.0);
}
