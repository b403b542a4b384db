//! The poll transport (transports §3): streams, framing, addressing, limits.

use std::ops::RangeInclusive;
use std::thread;
use std::time::{Duration, Instant};

use serde_json::{Value, json};

use crate::harness::http::{Connection, DEADLINE, encode};
use crate::harness::process::Signal;
use crate::harness::server::{Server, shared, shared_single, unique};
use crate::harness::sse::Stream;
use crate::harness::store::forgets_on_restart;

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
fn every_chunk_is_whole_events_and_a_silent_stream_says_so() {
    let server = Server::single_with(&["--transports-http-poll-keep-alive", "50"]);
    let mut connection = Connection::open(server.addr()).unwrap();
    connection
        .write(&encode("GET", "/poll/g/w", &[], b""))
        .unwrap();
    let head = connection.read_head().unwrap();
    let client = server.client();
    client.create("x", i64::MAX, to("poll://any@g"));
    for (id, chars) in [("p", 0), ("q", 500_000)] {
        let param = json!({"data": "é".repeat(chars)});
        server.ok(
            "promise.create",
            json!({"id": id, "timeoutAt": i64::MAX, "param": param}),
        );
        client.listen(id, "poll://uni@g/w");
        client.settle(id, "resolved");
    }
    let (mut messages, mut comments) = (0, 0);
    while messages < 3 || comments < 3 {
        let chunk = connection.read_part(&head).unwrap().unwrap();
        let text = String::from_utf8(chunk).unwrap();
        assert!(text.ends_with("\n\n"), "{text:.100}");
        for event in text.split_terminator("\n\n") {
            match event.strip_prefix("data: ") {
                Some(json) => {
                    serde_json::from_str::<Value>(json).unwrap();
                    messages += 1;
                }
                None => {
                    assert!(event.starts_with(':'), "{event:.100}");
                    comments += 1;
                }
            }
        }
    }
}

#[test]
fn a_stream_ends_cleanly_by_itself_and_the_next_gets_what_fell_between() {
    let server = Server::single_with(&["--transports-http-poll-stream-lifetime", "200"]);
    let mut connection = Connection::open(server.addr()).unwrap();
    connection
        .write(&encode("GET", "/poll/g/w", &[], b""))
        .unwrap();
    let head = connection.read_head().unwrap();
    // The last chunk, not a broken connection.
    while connection.read_part(&head).unwrap().is_some() {}
    server.client().create("x", i64::MAX, to("poll://any@g"));
    server.client().create("p", i64::MAX, json!({}));
    server.client().listen("p", "poll://uni@g/w");
    let settled = server.client().settle("p", "resolved");
    let stream = Stream::open(&server, "g", "w");
    let mut events = [stream.next(), stream.next()];
    events.sort_by_key(|event| event["kind"].to_string());
    assert_eq!(
        events[0]["data"],
        json!({"task": {"id": "x", "version": 0}})
    );
    assert_eq!(events[1]["data"], json!({"promise": settled}));
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

/// Uniform choice: the share of each of three has a standard deviation of 26.
const ANYCAST_COUNT: usize = 3_000;
const ANYCAST_SHARES: RangeInclusive<usize> = 800..=1_200;

#[test]
fn anycast_goes_to_exactly_one_connection_of_the_group_and_is_spread_evenly() {
    const CREATORS: usize = 6;
    let server = shared();
    let group = unique("g");
    let streams = ["a", "b", "c"].map(|id| Stream::open(&server, &group, id));
    let root = unique("x");
    let expected: Vec<String> = (0..ANYCAST_COUNT)
        .map(|number| format!("{root}.{number:04}"))
        .collect();
    thread::scope(|scope| {
        for part in expected.chunks(ANYCAST_COUNT / CREATORS) {
            let (server, tags) = (&server, to(&format!("poll://any@{group}")));
            scope.spawn(move || {
                for id in part {
                    server.client().create(id, i64::MAX, tags.clone());
                }
            });
        }
    });
    let mut received = Vec::new();
    let mut shares = [0; 3];
    let deadline = Instant::now() + DEADLINE;
    while received.len() < expected.len() {
        let count = received.len();
        assert!(Instant::now() < deadline, "{count} arrived");
        for (stream, share) in streams.iter().zip(&mut shares) {
            while let Some(event) = stream.poll(Duration::from_millis(5)) {
                received.push(event["data"]["task"]["id"].as_str().unwrap().to_owned());
                *share += 1;
            }
        }
    }
    received.sort();
    assert_eq!(received, expected);
    let is_even = shares.iter().all(|share| ANYCAST_SHARES.contains(share));
    assert!(is_even, "{shares:?}");
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
    let address = format!("poll://uni@{group}/w");
    let create = || {
        let id = unique("x");
        server.client().create(&id, i64::MAX, to(&address));
        (id, 0)
    };
    let mut streams = Vec::new();
    for _ in 0..3 {
        streams.push(Stream::open(&server, &group, "w"));
        let created = create();
        assert_eq!(streams.last().unwrap().next_execute(), created);
    }
    for older in &streams[..2] {
        assert_eq!(older.poll(Duration::ZERO), None);
    }
    // Without it, the newest of the others; what it was told and did not acquire as well.
    let untaken: Vec<(String, i64)> = std::iter::once(create())
        .inspect(|created| assert_eq!(streams[2].next_execute(), *created))
        .collect();
    streams.pop();
    let created = create();
    let mut missing = [untaken, vec![created]].concat();
    while !missing.is_empty() {
        let heard = streams[1].next_execute();
        missing.retain(|missing| *missing != heard);
    }
    assert_eq!(streams[0].poll(Duration::ZERO), None);
}

#[test]
fn d46_path_segments_are_decoded_and_addresses_match_raw_or_decoded() {
    let server = shared();
    // `G` stands for the name of a group, which no other test uses.
    let [decoded, raw] = [
        // Named as the decoded segments of the path, or with escapes that make them.
        [
            "poll://any@G x",
            "poll://any@G%20x",
            "poll://uni@G x/w/1",
            "poll://uni@G%20x/w%2F1",
            "poll://uni@G%20x/%77%2f1",
            "poll://any@G%20x/w%2F1",
        ],
        // A group and an id with percent signs in them: as they are, or escaped.
        [
            "poll://any@G%20x",
            "poll://any@G%2520x",
            "poll://uni@G%20x/w%2F1",
            "poll://uni@G%2520x/w%252F1",
            "poll://uni@G%20x/w%252F1",
            "poll://any@G%2520x/w%2F1",
        ],
    ];
    for ([group, id], addresses) in [(["G%20x", "w%2F1"], decoded), (["G%2520x", "w%252F1"], raw)] {
        let name = unique("g");
        let create = |address: &str| {
            let id = unique("x");
            let address = address.replace('G', &name);
            server.client().create(&id, i64::MAX, to(&address));
            (id, 0)
        };
        // What was there before the stream, too.
        let mut missing: Vec<_> = addresses.iter().map(|address| create(address)).collect();
        let stream = Stream::open(&server, &group.replace('G', &name), id);
        while !missing.is_empty() {
            let heard = stream.next_execute();
            assert!(missing.contains(&heard), "{heard:?}");
            missing.retain(|missing| *missing != heard);
        }
        for address in [
            "poll://uni@G x/w",
            "poll://uni@G x/w/1/",
            "poll://uni@G x/W/1",
            "poll://any@Gx",
        ] {
            create(address);
        }
        for address in addresses {
            let created = create(address);
            assert_eq!(stream.next_execute(), created, "{address}");
        }
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
        let request = encode("GET", "/poll/g/b", &[], b"");
        connection.write(&request).unwrap();
        if connection.read_head().unwrap().status == 200 {
            break;
        }
        assert!(Instant::now() < deadline, "the place stays taken");
        thread::sleep(Duration::from_millis(5));
    }
}

#[test]
fn d21_a_disabled_transport_takes_no_streams_and_accepts_addresses() {
    let flag = |value| ["--transports-http-poll-enabled", value].map(str::to_owned);
    let server = Server::single_with(&["--transports-http-poll-enabled", "false"]);
    let reply = server.get("/poll/g/a");
    let answer = (reply.status(), reply.text());
    assert_eq!(answer, (503, "Poll transport disabled".to_owned()));
    server.client().create("x", i64::MAX, to("poll://any@g"));
    server.client().create("y", i64::MAX, to("poll://any@g"));
    server.client().listen("x", "poll://uni@g/a");
    let settled = server.client().settle("x", "resolved");
    assert_eq!(server.client().task("x")["state"], "fulfilled");
    if forgets_on_restart() {
        return;
    }
    let server = server.restart_with(Signal::Term, &flag("true"));
    let stream = Stream::open(&server, "g", "a");
    let mut events = [stream.next(), stream.next()];
    events.sort_by_key(|event| event["kind"].to_string());
    assert_eq!(
        events[0]["data"],
        json!({"task": {"id": "y", "version": 0}})
    );
    assert_eq!(events[1]["data"], json!({"promise": settled}));
}
