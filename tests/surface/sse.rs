//! The poll transport (transports §3): streams, framing, addressing, limits.

use std::time::{Duration, Instant};

use serde_json::{Value, json};

use crate::harness::http::{Connection, DEADLINE};
use crate::harness::server::{Server, shared, shared_single, unique};
use crate::harness::sse::Stream;

fn to(address: &str) -> Value {
    json!({"resonate:target": address})
}

#[test]
fn headers_come_at_once() {
    let server = shared();
    let stream = Stream::open(&server, &unique("g"), "w");
    assert_eq!(
        stream.head.header("content-type"),
        Some("text/event-stream")
    );
    assert_eq!(stream.head.header("cache-control"), Some("no-cache"));
}

#[test]
fn an_execute_comes_right_after_the_create() {
    let server = Server::with(&["--server-url", "https://resonate.example/base"]);
    let stream = Stream::open(&server, "g", "w");
    server
        .client()
        .create("order-1", i64::MAX, to("poll://any@g"));
    assert_eq!(
        stream.next(),
        json!({
            "kind": "execute",
            "head": {"serverUrl": "https://resonate.example/base"},
            "data": {"task": {"id": "order-1", "version": 0}},
        })
    );
}

#[test]
fn every_execute_names_a_server_url() {
    let server = shared();
    let group = unique("g");
    let stream = Stream::open(&server, &group, "w");
    let id = unique("x");
    server
        .client()
        .create(&id, i64::MAX, to(&format!("poll://any@{group}")));
    let event = stream.next();
    let url = event["head"]["serverUrl"].as_str().unwrap();
    assert!(url.starts_with("http://localhost:"), "{event}");
}

#[test]
fn an_unblock_goes_to_the_listener_with_the_whole_record() {
    let server = shared();
    let (group, id) = (unique("g"), unique("x"));
    let stream = Stream::open(&server, &group, "me");
    let _other = Stream::open(&server, &group, "other");
    let promise = server.client().create(&id, i64::MAX, json!({"k": "v"}));
    server
        .client()
        .listen(&id, &format!("poll://uni@{group}/me"));
    let data = json!({"id": id, "state": "resolved", "value": {"data": "NDI="}});
    let settled = server.ok("promise.settle", data)["promise"].clone();
    assert_eq!(settled["param"], promise["param"]);
    assert_eq!(stream.next_unblock(), settled);
}

#[test]
fn only_ascii_on_the_wire_one_data_line_per_event_blank_line_after_it() {
    let server = Server::start();
    let stream = Stream::open(&server, "g", "w");
    let text = "é漢😀 \u{85}\u{2028}\u{2029}\u{1c}\r\n\u{7f}\"\\/";
    server
        .client()
        .create("é漢😀", i64::MAX, to("poll://any@g"));
    assert_eq!(stream.next_execute(), ("é漢😀".to_owned(), 0));
    server.ok(
        "promise.create",
        json!({"id": "p", "timeoutAt": i64::MAX, "param": {"data": text}, "tags": {text: text}}),
    );
    server.client().listen("p", "poll://uni@g/w");
    let promise = server.client().settle("p", "resolved");
    assert_eq!(promise["param"]["data"], text);
    assert_eq!(stream.next_unblock(), promise);
    let bytes = stream.bytes();
    let is_plain = |byte: &u8| *byte == b'\n' || (b' '..=b'~').contains(byte);
    assert!(
        bytes.iter().all(is_plain),
        "{}",
        String::from_utf8_lossy(&bytes)
    );
    let received = String::from_utf8(bytes).unwrap();
    assert!(received.ends_with("\n\n"), "{received:?}");
    let events: Vec<&str> = received.split_terminator("\n\n").collect();
    for event in &events {
        let is_data = event.starts_with("data: {") && event.ends_with('}');
        assert!(!event.contains('\n'), "{event:?}");
        assert!(is_data || event.starts_with(':'), "{event:?}");
    }
    let data = events
        .iter()
        .filter(|event| event.starts_with("data:"))
        .count();
    assert_eq!(data, 2, "{received:?}");
}

#[test]
fn a_message_of_hundreds_of_kilobytes_arrives_whole() {
    let server = Server::start();
    let stream = Stream::open(&server, "g", "w");
    let data = "é".repeat(200_000);
    server.ok(
        "promise.create",
        json!({"id": "p", "timeoutAt": i64::MAX, "param": {"data": data}}),
    );
    server.client().listen("p", "poll://uni@g/w");
    server.client().settle("p", "resolved");
    assert_eq!(stream.next_unblock()["param"]["data"], data);
}

#[test]
fn anycast_prefers_the_named_connection() {
    let server = shared();
    let group = unique("g");
    let _a = Stream::open(&server, &group, "a");
    let b = Stream::open(&server, &group, "b");
    let _c = Stream::open(&server, &group, "c");
    for _ in 0..12 {
        let id = unique("x");
        server
            .client()
            .create(&id, i64::MAX, to(&format!("poll://any@{group}/b")));
        assert_eq!(b.next_execute(), (id, 0));
    }
}

#[test]
fn anycast_with_an_absent_preference_goes_to_any_of_the_group() {
    let server = shared();
    let group = unique("g");
    let stream = Stream::open(&server, &group, "a");
    let id = unique("x");
    server
        .client()
        .create(&id, i64::MAX, to(&format!("poll://any@{group}/gone")));
    assert_eq!(stream.next_execute(), (id, 0));
}

#[test]
fn anycast_goes_to_exactly_one_connection_of_the_group() {
    let server = shared();
    let group = unique("g");
    let streams = ["a", "b", "c"].map(|id| Stream::open(&server, &group, id));
    let root = unique("x");
    let expected: Vec<String> = (0..60)
        .map(|number| format!("{root}.{number:02}"))
        .collect();
    for id in &expected {
        server
            .client()
            .create(id, i64::MAX, to(&format!("poll://any@{group}")));
    }
    let mut received = Vec::new();
    let mut shares = [0; 3];
    let deadline = Instant::now() + DEADLINE;
    while received.len() < expected.len() {
        assert!(
            Instant::now() < deadline,
            "{} of 60 arrived",
            received.len()
        );
        for (stream, share) in streams.iter().zip(&mut shares) {
            while let Some(event) = stream.poll(Duration::from_millis(5)) {
                received.push(event["data"]["task"]["id"].as_str().unwrap().to_owned());
                *share += 1;
            }
        }
    }
    received.sort();
    assert_eq!(received, expected);
    // Uniform choice: that one of three gets nothing of sixty has a probability of 1 in 10^10.
    assert!(shares.iter().all(|share| *share > 0), "{shares:?}");
}

#[test]
fn unicast_reaches_the_named_connection_only() {
    let server = shared();
    let group = unique("g");
    let a = Stream::open(&server, &group, "a");
    let b = Stream::open(&server, &group, "b");
    let elsewhere = Stream::open(&server, &unique("g"), "a");
    let ids = ["a", "b"].map(unique);
    for (id, name) in ids.iter().zip(["a", "b"]) {
        server
            .client()
            .create(id, i64::MAX, to(&format!("poll://uni@{group}/{name}")));
    }
    assert_eq!(a.next_execute().0, ids[0]);
    assert_eq!(b.next_execute().0, ids[1]);
    assert_eq!(elsewhere.poll(Duration::ZERO), None);
}

#[test]
fn d37_the_newest_connection_of_an_id_gets_unicast() {
    let server = shared();
    let group = unique("g");
    let mut streams = Vec::new();
    for _ in 0..3 {
        streams.push(Stream::open(&server, &group, "w"));
        let id = unique("x");
        server
            .client()
            .create(&id, i64::MAX, to(&format!("poll://uni@{group}/w")));
        assert_eq!(streams.last().unwrap().next_execute(), (id, 0));
    }
}

#[test]
fn d46_path_segments_are_decoded_and_addresses_match_raw_or_decoded() {
    let server = shared();
    let group = unique("g x");
    let escaped = group.replace(' ', "%20");
    let stream = Stream::open(&server, &escaped, "w%2F1");
    for address in [
        format!("poll://any@{escaped}"),
        format!("poll://any@{group}"),
        format!("poll://uni@{group}/w/1"),
        format!("poll://uni@{escaped}/w%2F1"),
    ] {
        let id = unique("x");
        server.client().create(&id, i64::MAX, to(&address));
        assert_eq!(stream.next_execute(), (id, 0), "{address}");
    }
}

#[test]
fn groups_are_compared_with_their_case() {
    let server = shared();
    let lower = unique("group");
    let upper = lower.to_uppercase();
    let ids = ["lower", "upper"].map(unique);
    let listener = Stream::open(&server, &upper, "w");
    server
        .client()
        .create(&ids[0], i64::MAX, to(&format!("poll://any@{lower}")));
    server
        .client()
        .create(&ids[1], i64::MAX, to(&format!("POLL://any@{upper}")));
    assert_eq!(listener.next_execute().0, ids[1]);
    assert_eq!(Stream::open(&server, &lower, "w").next_execute().0, ids[0]);
}

#[test]
fn both_path_segments_are_required() {
    let server = shared_single();
    for path in ["/poll/g", "/poll/g/", "/poll//id", "/poll/"] {
        assert_eq!(server.get(path).status(), 404, "{path}");
    }
}

#[test]
fn a_stream_too_many_is_refused() {
    let server = Server::single_with(&["--transports-http-poll-max-connections", "2"]);
    let _first = Stream::open(&server, "g", "a");
    let _second = Stream::open(&server, "h", "a");
    let mut connection = Connection::open(server.addr()).unwrap();
    let reply = connection.exchange("GET", "/poll/i/a", &[], b"").unwrap();
    let answer = (reply.status(), reply.text());
    assert_eq!(answer, (503, "Poll registration at capacity".to_owned()));
    let content_type = reply.header("content-type").unwrap_or_default();
    assert!(content_type.starts_with("text/plain"), "{content_type}");
}

#[test]
fn a_closed_stream_makes_room() {
    let server = Server::single_with(&["--transports-http-poll-max-connections", "1"]);
    drop(Stream::open(&server, "g", "a"));
    // The server notices a closed socket by itself, but when is its own affair.
    let deadline = Instant::now() + DEADLINE;
    loop {
        let mut connection = Connection::open(server.addr()).unwrap();
        let request = crate::harness::http::encode("GET", "/poll/g/b", &[], b"");
        connection.write(&request).unwrap();
        if connection.read_head().unwrap().status == 200 {
            break;
        }
        assert!(Instant::now() < deadline, "the place stays taken");
        std::thread::sleep(Duration::from_millis(5));
    }
}

#[test]
fn d21_a_disabled_transport_takes_no_streams_and_accepts_addresses() {
    let server = Server::single_with(&["--transports-http-poll-enabled", "false"]);
    let reply = server.get("/poll/g/a");
    let answer = (reply.status(), reply.text());
    assert_eq!(answer, (503, "Poll transport disabled".to_owned()));
    server.client().create("x", i64::MAX, to("poll://any@g"));
    server.client().listen("x", "poll://uni@g/a");
    server.client().settle("x", "resolved");
    assert_eq!(server.client().task("x")["state"], "fulfilled");
}
