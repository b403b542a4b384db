//! The HTTP surface (protocol §1).

use serde_json::json;

use crate::harness::client::{Response, VERSION};
use crate::harness::http::{Connection, encode};
use crate::harness::server::{Server, shared, shared_single, unique};

const GONE: &str =
    r#"{"error":"This endpoint is no longer supported. Please update to the latest SDK."}"#;

fn envelope(kind: &str) -> Vec<u8> {
    json!({
        "kind": kind, "head": {"corrId": "c", "version": VERSION},
        "data": {"id": "no-such-promise"},
    })
    .to_string()
    .into_bytes()
}

#[test]
fn health_and_ready_answer_200_with_an_empty_body() {
    let server = shared_single();
    for path in ["/health", "/ready"] {
        let reply = server.get(path);
        assert_eq!(
            (reply.status(), reply.text()),
            (200, String::new()),
            "{path}"
        );
    }
}

#[test]
fn an_unknown_path_is_404_and_empty() {
    let server = shared_single();
    for (method, path) in [
        ("GET", "/nope"),
        ("POST", "/nope"),
        ("POST", "/promise.get"),
        ("GET", "/poll"),
        ("GET", "/healthy"),
    ] {
        let reply = server.request(method, path, &[], b"");
        let answer = (reply.status(), reply.text());
        assert_eq!(answer, (404, String::new()), "{method} {path}");
    }
}

#[test]
fn a_known_path_with_another_method_is_405_and_empty() {
    let server = shared_single();
    for (method, path) in [
        ("GET", "/"),
        ("PUT", "/"),
        ("DELETE", "/"),
        ("POST", "/health"),
        ("DELETE", "/ready"),
        ("POST", "/poll/g/id"),
        ("HEAD", "/poll/g/id"),
        ("PUT", "/poll/g/id"),
    ] {
        let reply = server.request(method, path, &[], b"");
        let answer = (reply.status(), reply.text());
        assert_eq!(answer, (405, String::new()), "{method} {path}");
    }
}

#[test]
fn d12_legacy_paths_are_gone_whatever_the_method() {
    let server = shared_single();
    for path in [
        "/promises",
        "/promises/",
        "/promises/a",
        "/promises/a/resolve",
        "/promises?id=x",
        "/schedules",
        "/schedules/a",
        "/tasks",
        "/tasks/claim",
        "/tasks/complete/a/1",
    ] {
        for method in ["GET", "POST", "PUT", "PATCH", "DELETE"] {
            let reply = server.request(method, path, &[], b"{}");
            assert_eq!(reply.status(), 410, "{method} {path}");
            assert_eq!(reply.text(), GONE, "{method} {path}");
            let content_type = reply.header("content-type");
            assert_eq!(content_type, Some("application/json"), "{method} {path}");
        }
    }
}

#[test]
fn a_protocol_404_is_json() {
    // A TypeScript worker takes any other 404 for a server of the older API.
    let response = shared_single().post(&envelope("promise.get"));
    response.expect(404, &json!("Promise not found"));
}

#[test]
fn the_content_type_of_a_request_is_not_looked_at() {
    let server = shared_single();
    let body = envelope("promise.get");
    for headers in [
        &[][..],
        &[("content-type", "text/plain")],
        &[("content-type", "nonsense")],
        &[("content-type", "application/json; charset=utf-8")],
        &[
            ("accept", "text/html"),
            ("x-unknown", "1"),
            ("authorization", "Bearer x"),
        ],
    ] {
        let reply = server.request("POST", "/", headers, &body);
        Response::read(&body, &reply).expect_status(404);
    }
}

#[test]
fn d45_a_header_line_with_a_colon_in_its_name_is_tolerated() {
    let server = shared_single();
    let body = envelope("promise.get");
    for origin in ["root", "root.1", "r\u{f6}\u{f6}t", ""] {
        let mut connection = Connection::open(server.addr()).unwrap();
        let head = format!(
            "POST / HTTP/1.1\r\nhost: localhost\r\nresonate:origin: {origin}\r\n\
             content-length: {}\r\n\r\n",
            body.len()
        );
        connection.write(head.as_bytes()).unwrap();
        connection.write(&body).unwrap();
        let reply = connection.read_reply().unwrap();
        Response::read(&body, &reply).expect_status(404);
    }
}

#[test]
fn a_connection_serves_many_requests_pipelined_or_not() {
    let server = shared_single();
    let body = envelope("promise.get");
    let mut connection = Connection::open(server.addr()).unwrap();
    for _ in 0..3 {
        let reply = connection.exchange("POST", "/", &[], &body).unwrap();
        Response::read(&body, &reply).expect_status(404);
    }
    // A refusal does not cost the connection.
    let reply = connection.exchange("POST", "/", &[], b"junk").unwrap();
    Response::read(b"junk", &reply).expect_status(400);
    let two = encode("POST", "/", &[], &body).repeat(2);
    connection.write(&two).unwrap();
    for _ in 0..2 {
        let reply = connection.read_reply().unwrap();
        Response::read(&body, &reply).expect_status(404);
    }
}

#[test]
fn a_client_that_goes_away_in_the_middle_harms_nobody() {
    let server = Server::single();
    for bytes in [
        &b"POST / HTTP/1.1\r\nhost: x\r\ncontent-length: 100\r\n\r\n{\"kind\""[..],
        b"POST / HT",
        b"\x16\x03\x01\x02\x00\x01\x00",
        b"\r\n\r\n\r\n",
        b"",
    ] {
        let mut connection = Connection::open(server.addr()).unwrap();
        connection.write(bytes).unwrap();
    }
    assert_eq!(server.get("/health").status(), 200);
    server.client().create("after", i64::MAX, json!({}));
}

#[test]
fn concurrent_creates_of_one_id_agree_on_one_record() {
    // R3, over the wire: whoever comes first, everybody reads the same.
    let server = shared();
    let id = unique("race");
    let records: Vec<_> = std::thread::scope(|scope| {
        let racers: Vec<_> = (0..8)
            .map(|number| {
                let (server, id) = (&server, &id);
                scope.spawn(move || {
                    server
                        .client()
                        .create(id, i64::MAX - number, json!({"n": number.to_string()}))
                })
            })
            .collect();
        racers
            .into_iter()
            .map(|racer| racer.join().unwrap())
            .collect()
    });
    let stored = server.client().get(&id);
    assert!(
        records.iter().all(|record| *record == stored),
        "{records:?}"
    );
}

#[test]
fn concurrent_acquires_have_one_winner() {
    // C10.
    let server = shared();
    let id = unique("claim");
    server.client().create_targeted(&id, i64::MAX);
    let statuses: Vec<u16> = std::thread::scope(|scope| {
        let racers: Vec<_> = (0..8)
            .map(|number| {
                let (server, id) = (&server, &id);
                scope.spawn(move || {
                    let data = json!({
                        "id": id, "version": 0, "pid": number.to_string(), "ttl": 60_000,
                    });
                    server.call("task.acquire", data).status
                })
            })
            .collect();
        racers
            .into_iter()
            .map(|racer| racer.join().unwrap())
            .collect()
    });
    let winners = statuses.iter().filter(|status| **status == 200).count();
    let losers = statuses.iter().filter(|status| **status == 409).count();
    assert_eq!((winners, losers), (1, 7), "{statuses:?}");
}

#[test]
fn beyond_the_limit_a_request_waits_and_is_refused_at_the_deadline() {
    let server = Server::single_with(&[
        "--server-max-in-flight",
        "1",
        "--server-request-deadline",
        "300",
    ]);
    // A request whose body is not there yet holds the only place.
    let body = envelope("promise.get");
    let whole = encode("POST", "/", &[], &body);
    let mut slow = Connection::open(server.addr()).unwrap();
    slow.write(&whole[..whole.len() - 1]).unwrap();

    let deadline = std::time::Instant::now() + std::time::Duration::from_secs(20);
    let refused = loop {
        let reply = server.request("POST", "/", &[], &body);
        if reply.status() == 503 {
            break reply;
        }
        // The server has not seen the slow one yet.
        assert!(std::time::Instant::now() < deadline, "never refused");
    };
    assert_eq!(refused.header("retry-after"), Some("1"));
    let refused: serde_json::Value = serde_json::from_slice(&refused.body).unwrap();
    assert_eq!(refused["head"]["status"], 503);
    assert_eq!(refused["head"]["error"], "unavailable");
    assert!(refused["data"].is_string(), "{refused}");

    slow.write(&whole[whole.len() - 1..]).unwrap();
    assert_eq!(slow.read_reply().unwrap().status(), 404);
    assert_eq!(server.request("POST", "/", &[], &body).status(), 404);
}

#[test]
fn who_writes_a_body_that_is_too_large_to_its_end_is_told_so() {
    let server = Server::single_with(&["--server-max-body-size", "1000"]);
    let body = vec![b'x'; 20_000_000];
    let mut announced = encode("POST", "/", &[], &body);
    let mut chunked = b"POST / HTTP/1.1\r\nhost: x\r\ntransfer-encoding: chunked\r\n\r\n".to_vec();
    for chunk in body.chunks(1_000_000) {
        chunked.extend(format!("{:x}\r\n", chunk.len()).into_bytes());
        chunked.extend(chunk);
        chunked.extend(b"\r\n");
    }
    chunked.extend(b"0\r\n\r\n");
    for request in [&mut announced, &mut chunked] {
        let mut connection = Connection::open(server.addr()).unwrap();
        connection
            .write(request)
            .expect("the server reads all of it");
        let reply = connection.read_reply().unwrap();
        Response::read(b"", &reply).expect(413, &json!("Request body too large"));
    }
}
