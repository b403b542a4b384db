//! Requests made to cost more than they are worth.

use std::io::Write;
use std::thread;

use serde_json::json;

use crate::harness::client::{Response, VERSION};
use crate::harness::http::{Connection, encode};
use crate::harness::server::Server;

const GIB: u64 = 1 << 30;

fn request(kind: &str, data: &str) -> Vec<u8> {
    let head = format!(r#"{{"corrId":"c","version":"{VERSION}"}}"#);
    format!(r#"{{"kind":"{kind}","head":{head},"data":{data}}}"#).into_bytes()
}

/// Writes pieces until `bytes` are through or the server reads no more, while the answer is waited for;
/// how many went through.
fn pour(server: &Server, head: &str, piece: &[u8], bytes: u64) -> (Response, u64) {
    let mut connection = Connection::open(server.addr()).expect("the server accepts");
    connection.write(head.as_bytes()).expect("the server reads");
    let mut socket = connection
        .socket()
        .try_clone()
        .expect("a socket can be shared");
    thread::scope(|scope| {
        let pouring = scope.spawn(move || {
            let mut poured = 0;
            while poured < bytes && socket.write_all(piece).is_ok() {
                poured += piece.len() as u64;
            }
            poured
        });
        let reply = connection.read_reply().expect("the server answers");
        drop(connection);
        (
            Response::read(b"", &reply),
            pouring.join().expect("nothing panics"),
        )
    })
}

#[test]
fn a_gigabyte_is_answered_413_without_being_read() {
    // `protocol.md` §2.1, row 1.
    let server = Server::single();
    let mut piece = b"100000\r\n".to_vec();
    piece.extend(vec![b'x'; 1 << 20]);
    piece.extend(b"\r\n");
    for head in [
        format!("POST / HTTP/1.1\r\nhost: x\r\ncontent-length: {GIB}\r\n\r\n"),
        "POST / HTTP/1.1\r\nhost: x\r\ntransfer-encoding: chunked\r\n\r\n".to_owned(),
    ] {
        let (response, poured) = pour(&server, &head, &piece, GIB);
        response.expect(413, &json!("Request body too large"));
        assert!(poured < GIB / 2, "{poured} bytes were read");
        assert_eq!(server.get("/health").status(), 200);
    }
}

#[test]
fn arrays_of_a_million_elements_are_refused() {
    let server = Server::single();
    let list = |element: &str, count: usize| vec![element; count].join(",");
    let actions = format!(
        r#"{{"id":"a","version":1,"actions":[{}]}}"#,
        list("{}", 1_000_000)
    );
    let beat = r#"{"id":"a","version":1}"#;
    let beats = |count: usize| format!(r#"{{"pid":"p","tasks":[{}]}}"#, list(beat, count));
    let tags: Vec<String> = (0..1_000_000).map(|n| format!(r#""{n:x}":"""#)).collect();
    let tags = format!(
        r#"{{"id":"a","timeoutAt":1,"tags":{{{}}}}}"#,
        tags.join(",")
    );
    let unknown = format!(r#"{{"id":"a","unknown":[{}]}}"#, list("[]", 1_000_000));
    for (kind, data, status, message) in [
        (
            "task.suspend",
            actions,
            400,
            "Invalid request: missing field `kind` (field `actions[0]`)",
        ),
        (
            "task.heartbeat",
            beats(700_000),
            400,
            "Tasks must not be more than 100000",
        ),
        (
            "task.heartbeat",
            beats(1_000_000),
            413,
            "Request body too large",
        ),
        (
            "promise.create",
            tags,
            400,
            "Tags must not be more than 1000",
        ),
        ("promise.get", unknown, 404, "Promise not found"),
    ] {
        let body = request(kind, &data);
        let reply = server.request("POST", "/", &[], &body);
        let sent = if status == 413 { &b""[..] } else { &body };
        Response::read(sent, &reply).expect(status, &json!(message));
    }
}

#[test]
fn compressed_bodies_are_not_unpacked() {
    // `protocol.md` §1: unknown headers are ignored, so that it is no JSON (§2.1, row 2).
    let server = Server::single();
    let bomb = [
        &[0x1f, 0x8b, 0x08, 0, 0, 0, 0, 0, 0, 3][..],
        &[0xff; 100_000],
    ]
    .concat();
    for encoding in ["gzip", "deflate", "br", "zstd"] {
        let reply = server.request("POST", "/", &[("content-encoding", encoding)], &bomb);
        let response = Response::read(&bomb, &reply);
        response.expect_status(400);
        let told = response.data.as_str().unwrap();
        assert!(
            told.starts_with("Invalid request envelope: not UTF-8: "),
            "{told}"
        );
        assert!(
            told.ends_with(" (content-encoding is not supported)"),
            "{told}"
        );
    }
}

#[test]
fn who_asks_and_never_reads_is_cut_off_when_others_wait() {
    // Room for two answers of a megabyte.
    let server = Server::single_with(&[
        "--server-max-body-size",
        "2500000",
        "--server-max-in-flight-bytes",
        "2500000",
    ]);
    let data =
        json!({"id": "large", "timeoutAt": i64::MAX, "param": {"data": "x".repeat(1 << 20)}});
    server.ok("promise.create", data);
    let ask = encode(
        "POST",
        "/",
        &[],
        &request("promise.get", r#"{"id":"large"}"#),
    );
    let deaf: Vec<Connection> = (0..50)
        .map(|_| {
            let mut connection = Connection::open(server.addr()).expect("the server accepts");
            // More than the system keeps for it.
            connection.write(&ask.repeat(20)).expect("they are small");
            connection
        })
        .collect();
    let honest = server.ok("promise.get", json!({"id": "large"}));
    assert_eq!(
        honest["promise"]["param"]["data"].as_str().map(str::len),
        Some(1 << 20)
    );
    // Small answers do not wait for large ones.
    server.refused(
        "promise.get",
        json!({"id": "none"}),
        404,
        "Promise not found",
    );
    drop(deaf);
}
