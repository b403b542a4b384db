//! A worker that holds its stream open and reads nothing (transports §3): its buffer is full, nobody else notices, and
//! nothing is lost.
//!
//! A message larger than what sockets hold is begun and never ends: from then on messages for this worker stay in its
//! buffer, which has room for two.

use std::fs;
use std::time::Duration;

use serde_json::{Value, json};

use crate::harness::process::Signal;
use crate::harness::record::member;
use crate::harness::server::{Server, free_port, unique};
use crate::harness::sse::{Stream, Unread};
use crate::harness::store::forgets_on_restart;
use crate::surface::metrics::reaches;

const BUFFER: [&str; 2] = ["--transports-http-poll-buffer-size", "2"];
const DROPPED: &str = "resonate_deliveries_total{status=\"dropped\"}";
/// Characters of a message that no buffer of a socket holds, each six bytes on a stream.
fn huge_chars() -> usize {
    // The last is the largest that a socket may have; usually 4 MB.
    let sizes = fs::read_to_string("/proc/sys/net/ipv4/tcp_wmem").unwrap_or_default();
    let largest = sizes.split_whitespace().last().map(str::parse);
    largest.and_then(Result::ok).unwrap_or(4_194_304) / 6 + 300_000
}

fn to(address: &str) -> Value {
    json!({"resonate:target": address})
}

/// A promise of which `address` is told; the record it is told.
fn unblock(server: &Server, address: &str, data: &str) -> Value {
    let id = unique("p");
    let create = json!({"id": id, "timeoutAt": i64::MAX, "param": {"data": data}});
    server.ok("promise.create", create);
    server.client().listen(&id, address);
    let settle = json!({"id": id, "state": "resolved"});
    member(server.ok("promise.settle", settle), "promise")
}

fn for_stalled(server: &Server) -> Value {
    unblock(server, "poll://uni@g/stalled", "small")
}

/// A worker `stalled` in group `g` that is in the middle of a message, which is answered too.
fn stall(server: &Server) -> (Unread, Value) {
    let mut stalled = Unread::open(server, "g", "stalled");
    let huge = unblock(server, "poll://uni@g/stalled", &"é".repeat(huge_chars()));
    stalled.wait();
    (stalled, huge)
}

/// Takes as many `unblock` messages as are expected; these must be them.
#[track_caller]
fn expect_unblocks(stream: &Stream, mut expected: Vec<Value>) {
    let mut heard = Vec::new();
    while heard.len() < expected.len() {
        let event = stream.next();
        // Tasks of a stream that has closed may be offered to more than one other.
        if event["kind"] == "unblock" {
            heard.push(event["data"]["promise"].clone());
        }
    }
    let by_id = |promise: &Value| promise["id"].to_string();
    heard.sort_by_key(by_id);
    expected.sort_by_key(by_id);
    let ids = |list: &[Value]| list.iter().map(by_id).collect::<Vec<_>>();
    assert_eq!(ids(&heard), ids(&expected));
    // Not printed: one of them is huge.
    assert!(heard == expected, "another record than was answered");
}

#[test]
fn a_stream_that_nobody_reads_delays_nobody_else() {
    let port = free_port();
    let metrics = ["--observability-metrics-port", &port.to_string()];
    let server = Server::single_with(&[&BUFFER[..], &metrics].concat());
    let other = Stream::open(&server, "g", "other");
    let elsewhere = Stream::open(&server, "h", "w");
    let (stalled, huge) = stall(&server);
    // Two fill the buffer; the third finds no room.
    let mut waiting = vec![huge];
    waiting.extend((0..3).map(|_| for_stalled(&server)));
    reaches(port, DROPPED, 1.0);
    let client = server.client();
    for _ in 0..20 {
        for (stream, address) in [
            (&other, "poll://any@g"),
            (&other, "poll://any@g/stalled"),
            (&other, "poll://uni@g/other"),
            (&elsewhere, "poll://any@h"),
        ] {
            let id = unique("x");
            client.create(&id, i64::MAX, to(address));
            assert_eq!(stream.next_execute(), (id, 0), "{address}");
        }
        let settled = unblock(&server, "poll://any@g/stalled", "small");
        assert_eq!(other.next_unblock(), settled);
    }
    let read = stalled.read();
    expect_unblocks(&read, waiting);
    for stream in [&read, &other, &elsewhere] {
        assert_eq!(stream.poll(Duration::ZERO), None);
    }
}

#[test]
fn what_a_stalled_stream_held_goes_to_others_when_it_closes() {
    let server = Server::single_with(&BUFFER);
    let (stalled, huge) = stall(&server);
    let small = for_stalled(&server);
    let task = unique("x");
    server.client().create(&task, i64::MAX, to("poll://any@g"));
    let refused = for_stalled(&server);
    let other = Stream::open(&server, "g", "other");
    drop(stalled);
    assert_eq!(other.next_execute(), (task, 0));
    let again = Stream::open(&server, "g", "stalled");
    expect_unblocks(&again, vec![huge, small, refused]);
}

#[test]
fn what_was_not_written_survives_kill_9() {
    if forgets_on_restart() {
        return;
    }
    let server = Server::single_with(&BUFFER);
    let (_stalled, huge) = stall(&server);
    let mut waiting = vec![huge];
    waiting.extend((0..3).map(|_| for_stalled(&server)));
    let server = server.restart(Signal::Kill);
    expect_unblocks(&Stream::open(&server, "g", "stalled"), waiting);
}
