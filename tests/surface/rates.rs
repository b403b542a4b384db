//! How often clients may ask: 429, with the time after which to come back.

use std::net::{Ipv4Addr, SocketAddr, TcpStream};
use std::time::Instant;

use serde_json::{Value, json};
use socket2::{Domain, Socket, Type};

use crate::harness::client::{Response, VERSION};
use crate::harness::http::{Connection, DEADLINE, Reply};
use crate::harness::server::Server;

/// More requests than come at once, and than trickle in while they are sent.
const MANY: usize = 1000;

fn request(auth: Option<&str>) -> Vec<u8> {
    json!({
        "kind": "promise.get",
        "head": {"corrId": "c", "version": VERSION, "auth": auth},
        "data": {"id": "none"},
    })
    .to_string()
    .into_bytes()
}

/// Connects from an address of this machine.
fn connect_from(address: Ipv4Addr, server: &Server) -> Connection {
    let socket = Socket::new(Domain::IPV4, Type::STREAM, None).expect("there are sockets");
    let source = SocketAddr::from((address, 0));
    socket
        .bind(&source.into())
        .expect("the address is this machine's");
    socket
        .connect(&server.addr().into())
        .expect("the server accepts");
    Connection::over(TcpStream::from(socket)).expect("the socket can be tuned")
}

/// Sends the same until it is one too many; what was answered then.
#[track_caller]
fn exhaust(mut exchange: impl FnMut() -> Reply) -> Reply {
    (0..MANY)
        .map(|_| exchange())
        .find(|reply| reply.status() == 429)
        .expect("there is a limit")
}

#[test]
fn nobody_is_limited_by_default() {
    let server = Server::single();
    let body = request(Some("token"));
    for _ in 0..MANY {
        assert_eq!(server.request("POST", "/", &[], &body).status(), 404);
    }
}

#[test]
fn an_address_has_a_rate() {
    let server =
        Server::single_with(&["--limits-rate-per-address", "1", "--limits-rate-burst", "3"]);
    let body = request(None);
    let mut here = connect_from(Ipv4Addr::new(127, 0, 0, 1), &server);
    let refused = exhaust(|| here.exchange("POST", "/", &[], &body).unwrap());
    assert_eq!(refused.header("retry-after"), Some("1"));
    let response = Response::read(&body, &refused);
    response.expect(429, &json!("Too many requests; safe to repeat in 1 s"));
    let envelope: Value = serde_json::from_slice(&refused.body).unwrap();
    assert_eq!(envelope["kind"], "promise.get");
    assert_eq!(envelope["head"]["corrId"], "c");
    assert_eq!(envelope["head"]["error"], "rate_limited");

    // Streams count too, probes do not.
    let poll = exhaust(|| server.get("/poll/g/w"));
    assert_eq!(poll.header("retry-after"), Some("1"));
    for path in ["/health", "/ready"] {
        assert_eq!(here.exchange("GET", path, &[], b"").unwrap().status(), 200);
    }

    // Who has not asked is not refused.
    let mut elsewhere = connect_from(Ipv4Addr::new(127, 0, 0, 2), &server);
    let reply = elsewhere.exchange("POST", "/", &[], &body).unwrap();
    assert_eq!(reply.status(), 404);

    // Who comes back later is answered.
    let deadline = Instant::now() + DEADLINE;
    while here.exchange("POST", "/", &[], &body).unwrap().status() == 429 {
        assert!(Instant::now() < deadline, "refused for ever");
    }
}

#[test]
fn what_comes_too_early_and_is_large_is_not_read() {
    let server =
        Server::single_with(&["--limits-rate-per-address", "1", "--limits-rate-burst", "1"]);
    let large = vec![b' '; 1 << 20];
    let refused = exhaust(|| {
        let mut connection = Connection::open(server.addr()).unwrap();
        connection
            .exchange("POST", "/", &[], &request(None))
            .unwrap();
        let head = format!(
            "POST / HTTP/1.1\r\nhost: x\r\ncontent-length: {}\r\n\r\n",
            large.len()
        );
        connection.write(head.as_bytes()).unwrap();
        connection.read_reply().unwrap()
    });
    let response = Response::read(b"", &refused);
    response.expect(429, &json!("Too many requests; safe to repeat in 1 s"));
}

#[test]
fn a_token_has_a_rate_wherever_it_stands() {
    let server = Server::single_with(&[
        "--limits-rate-per-address",
        "1000000000",
        "--limits-rate-per-token",
        "1",
        "--limits-rate-burst",
        "3",
    ]);
    let post = |header: Option<&str>, auth: Option<&str>| {
        let headers: Vec<(&str, &str)> = header
            .map(|value| ("authorization", value))
            .into_iter()
            .collect();
        server.request("POST", "/", &headers, &request(auth))
    };
    let refused = exhaust(|| post(Some("Bearer one"), None));
    assert_eq!(refused.header("retry-after"), Some("1"));
    // D-04: the head comes first, and the scheme has no case.
    exhaust(|| post(Some("Bearer another"), Some("one")));
    exhaust(|| post(Some("bearer one"), None));
    let poll =
        exhaust(|| server.request("GET", "/poll/g/w", &[("authorization", "Bearer one")], b""));
    assert_eq!(poll.text(), "Too many requests; safe to repeat in 1 s");
    for (header, auth) in [
        (Some("Bearer other"), None),
        (Some("Bearer one"), Some("third")),
        (None, None),
    ] {
        assert_eq!(post(header, auth).status(), 404, "{header:?} {auth:?}");
    }
}
