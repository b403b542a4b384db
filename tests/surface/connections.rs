//! Connections that ask nothing, or hardly anything: honest clients are answered all the same.

use std::io;
use std::time::{Duration, Instant};

use serde_json::json;

use super::metrics::reaches;
use crate::harness::client::{Response, VERSION};
use crate::harness::http::{Connection, DEADLINE, encode};
use crate::harness::server::{Server, free_port};
use crate::harness::sse::Stream;

/// Between two bytes of somebody who is slow on purpose.
const TRICKLE: Duration = Duration::from_millis(20);

fn envelope() -> Vec<u8> {
    json!({
        "kind": "promise.get", "head": {"corrId": "c", "version": VERSION},
        "data": {"id": "no-such-promise"},
    })
    .to_string()
    .into_bytes()
}

/// Connects with a request that the server waits for: it has asked for the body.
fn busy(server: &Server) -> Connection {
    let mut connection = Connection::open(server.addr()).expect("the server accepts");
    let length = envelope().len();
    let head = format!(
        "POST / HTTP/1.1\r\nhost: x\r\nexpect: 100-continue\r\ncontent-length: {length}\r\n\r\n"
    );
    connection.write(head.as_bytes()).expect("the server reads");
    assert_eq!(
        connection.read_head().expect("the server answers").status,
        100
    );
    connection
}

/// Connects with the beginning of a request.
fn slow(server: &Server) -> Connection {
    let mut connection = Connection::open(server.addr()).expect("the server accepts");
    connection
        .write(b"POST / HTTP/1.1\r\nx-slow: ")
        .expect("the server reads");
    connection
}

/// Whether the server has closed a connection, without waiting for it to.
fn is_closed(connection: &Connection) -> bool {
    let socket = connection.socket();
    socket.set_nonblocking(true).expect("a socket has modes");
    let peeked = socket.peek(&mut [0]);
    socket.set_nonblocking(false).expect("a socket has modes");
    match peeked {
        Ok(bytes) => bytes == 0,
        Err(error) => error.kind() != io::ErrorKind::WouldBlock,
    }
}

/// Waits for the server to close a connection.
#[track_caller]
fn expect_closed(connection: &mut Connection) {
    let error = connection.read_head().expect_err("there is no answer");
    let kind = error.kind();
    assert!(
        matches!(
            kind,
            io::ErrorKind::UnexpectedEof | io::ErrorKind::ConnectionReset
        ),
        "{error}"
    );
}

/// Asks for a promise that is not there.
#[track_caller]
fn expect_answer(connection: &mut Connection) {
    let body = envelope();
    let reply = connection
        .exchange("POST", "/", &[], &body)
        .expect("the server answers");
    Response::read(&body, &reply).expect_status(404);
}

#[test]
fn heads_that_never_end_are_not_waited_for() {
    let server = Server::single_with(&["--server-header-read-timeout", "1000"]);
    let mut slow: Vec<Connection> = (0..200).map(|_| slow(&server)).collect();
    slow.extend((0..20).map(|_| Connection::open(server.addr()).unwrap()));
    let mut honest = Connection::open(server.addr()).unwrap();
    let deadline = Instant::now() + DEADLINE;
    while !slow.is_empty() {
        expect_answer(&mut honest);
        // Each has another byte to say, but for those that never say a word.
        slow.retain_mut(|slow| !is_closed(slow) && slow.write(b"x").is_ok());
        let left = slow.len();
        assert!(Instant::now() < deadline, "{left} connections stay open");
        std::thread::sleep(TRICKLE);
    }
}

#[test]
fn a_connection_kept_alive_outlives_one_that_never_asks() {
    // `clients.md`: some SDKs lose a request that meets the end of a connection.
    let server = Server::single_with(&["--server-header-read-timeout", "300"]);
    let mut kept_alive = Connection::open(server.addr()).unwrap();
    expect_answer(&mut kept_alive);
    let mut silent = Connection::open(server.addr()).unwrap();
    expect_closed(&mut silent);
    expect_answer(&mut kept_alive);
    // A later request has no more time for its head than the first.
    kept_alive.write(b"POST / HT").unwrap();
    expect_closed(&mut kept_alive);
}

#[test]
fn a_connection_kept_alive_for_nothing_is_closed() {
    let server = Server::single_with(&["--server-idle-timeout", "300"]);
    let stream = Stream::open(&server, "g", "w");
    let mut kept_alive = Connection::open(server.addr()).unwrap();
    expect_answer(&mut kept_alive);
    expect_closed(&mut kept_alive);
    // A stream is a request in flight, whatever it carries.
    let target = json!({"resonate:target": "poll://any@g"});
    server.client().create("after", i64::MAX, target);
    assert_eq!(stream.next_execute().0, "after");
}

#[test]
fn one_that_asks_nothing_makes_room_for_one_that_does() {
    let server = Server::single_with(&[
        "--server-max-connections",
        "15",
        "--transports-http-poll-max-connections",
        "5",
    ]);
    let mut kept_alive = Connection::open(server.addr()).unwrap();
    expect_answer(&mut kept_alive);
    let slow: Vec<Connection> = (0..19).map(|_| slow(&server)).collect();
    let mut honest = Vec::new();
    // A tenth of all may be those that have not asked for anything yet.
    for mut oldest in slow.into_iter().take(17) {
        let mut newcomer = Connection::open(server.addr()).unwrap();
        expect_answer(&mut newcomer);
        honest.push(newcomer);
        expect_closed(&mut oldest);
    }
    expect_answer(&mut kept_alive);
    honest.iter_mut().for_each(expect_answer);
}

#[test]
fn beyond_the_limit_of_connections_new_ones_are_closed_at_once() {
    let port = free_port();
    let server = Server::single_with(&[
        "--server-max-connections",
        "3",
        "--transports-http-poll-max-connections",
        "1",
        "--observability-metrics-port",
        &port.to_string(),
    ]);
    let _stream = Stream::open(&server, "g", "w");
    let mut busy: Vec<Connection> = (0..3).map(|_| busy(&server)).collect();
    let mut refused: Vec<Connection> = (0..50)
        .map(|_| Connection::open(server.addr()).unwrap())
        .collect();
    refused.iter_mut().for_each(expect_closed);
    reaches(
        port,
        "resonate_connections_closed_total{reason=\"full\"}",
        50.0,
    );
    // Those that are busy are not disturbed.
    for connection in &mut busy {
        connection.write(&envelope()).unwrap();
        assert_eq!(connection.read_reply().unwrap().status(), 404);
    }
    let mut honest = Connection::open(server.addr()).unwrap();
    expect_answer(&mut honest);
}

#[test]
fn a_body_that_trickles_in_is_given_up() {
    let server = Server::single_with(&["--server-body-read-timeout", "1000"]);
    let mut trickling = busy(&server);
    let deadline = Instant::now() + DEADLINE;
    // A byte at a time is not silence.
    while !is_answered(&trickling) {
        assert!(Instant::now() < deadline, "the body is waited for");
        trickling.write(b" ").unwrap();
        std::thread::sleep(TRICKLE);
    }
    let reply = trickling.read_reply().unwrap();
    let message = "Invalid request envelope: the body stopped arriving";
    Response::read(b"", &reply).expect(400, &json!(message));
}

fn is_answered(connection: &Connection) -> bool {
    let socket = connection.socket();
    socket.set_nonblocking(true).expect("a socket has modes");
    let peeked = socket.peek(&mut [0]);
    socket.set_nonblocking(false).expect("a socket has modes");
    matches!(peeked, Ok(1..))
}

#[test]
fn bodies_that_trickle_in_give_their_places_to_those_that_are_there() {
    let server = Server::single_with(&["--server-max-in-flight", "4"]);
    let mut slow: Vec<Connection> = (0..4).map(|_| busy(&server)).collect();
    let body = envelope();
    let reply = server.request("POST", "/", &[], &body);
    Response::read(&body, &reply).expect_status(404);
    let message = "Service unavailable: the body arrived too slowly while others waited; \
                   safe to retry";
    for slow in &mut slow {
        let reply = slow.read_reply().unwrap();
        assert_eq!(reply.header("retry-after"), Some("1"));
        Response::read(b"", &reply).expect(503, &json!(message));
    }
}

#[test]
fn sigterm_does_not_wait_for_those_who_never_ask() {
    let mut server = Server::single_with(&["--server-shutdown-timeout", "60000"]);
    let mut slow: Vec<Connection> = (0..20).map(|_| slow(&server)).collect();
    let mut kept_alive = Connection::open(server.addr()).unwrap();
    expect_answer(&mut kept_alive);
    server.signal(crate::harness::process::Signal::Term);
    slow.iter_mut().for_each(expect_closed);
    expect_closed(&mut kept_alive);
    assert_eq!(server.wait(), Some(0), "{}", server.log());
}

#[test]
fn a_head_that_is_too_large_is_refused() {
    let server = Server::single();
    let value = "x".repeat(64 * 1024);
    let request = encode("POST", "/", &[("x-large", &value)], &envelope());
    let mut connection = Connection::open(server.addr()).unwrap();
    // The server need not read all of it.
    let _ = connection.write(&request);
    assert_eq!(connection.read_head().unwrap().status, 431);
    assert_eq!(server.get("/health").status(), 200);
}
