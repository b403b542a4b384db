//! The series of protocol §2.1 and transports §7, scraped from the metrics port.

use std::time::{Duration, Instant};

use serde_json::json;

use crate::harness::http::{Connection, DEADLINE};
use crate::harness::server::{Server, free_port};
use crate::harness::sse::Stream;

pub fn scrape(port: u16) -> String {
    let address = std::net::SocketAddr::from(([127, 0, 0, 1], port));
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
    let deadline = Instant::now() + DEADLINE;
    loop {
        let scraped = scrape(port);
        let is_there = scraped.contains(&format!("{series} "));
        if is_there && value(&scraped, series) >= least {
            return;
        }
        assert!(Instant::now() < deadline, "{series} in\n{scraped}");
        std::thread::sleep(Duration::from_millis(10));
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

#[test]
fn every_documented_series_moves_as_documented() {
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
    server.ok(
        "schedule.create",
        json!({
            "id": "s", "cron": "* * * * * *", "promiseId": "{{.id}}.{{.timestamp}}",
            "promiseTimeout": 60_000, "promiseTags": {"resonate:target": "poll://any@g"},
        }),
    );
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
