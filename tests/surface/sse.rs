//! The poll transport (transports §3): streams, addressing, and what waits for whom (§7).

use std::time::{Duration, Instant};

use serde_json::{Value, json};

use crate::harness::http::{Connection, DEADLINE};
use crate::harness::record::{create, fulfill, settled, timed_out};
use crate::harness::server::{Server, Signal, forgets_on_restart, shared, unique, wall_clock_ms};
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
    let server = shared();
    for path in ["/poll/g", "/poll/g/", "/poll//id", "/poll/"] {
        assert_eq!(server.get(path).status(), 404, "{path}");
    }
}

#[test]
fn a_stream_too_many_is_refused() {
    let server = Server::with(&["--transports-http-poll-max-connections", "2"]);
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
    let server = Server::with(&["--transports-http-poll-max-connections", "1"]);
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
    let server = Server::with(&["--transports-http-poll-enabled", "false"]);
    let reply = server.get("/poll/g/a");
    let answer = (reply.status(), reply.text());
    assert_eq!(answer, (503, "Poll transport disabled".to_owned()));
    server.client().create("x", i64::MAX, to("poll://any@g"));
    server.client().listen("x", "poll://uni@g/a");
    server.client().settle("x", "resolved");
    assert_eq!(server.client().task("x")["state"], "fulfilled");
}

#[test]
fn work_created_before_its_worker_is_offered_at_once_when_it_connects() {
    let server = shared();
    let group = unique("g");
    let ids: Vec<String> = (0..5).map(|_| unique("x")).collect();
    for id in &ids {
        server
            .client()
            .create(id, i64::MAX, to(&format!("poll://any@{group}")));
    }
    let preferred = unique("x");
    server.client().create(
        &preferred,
        i64::MAX,
        to(&format!("poll://any@{group}/gone")),
    );
    let unicast = unique("x");
    server
        .client()
        .create(&unicast, i64::MAX, to(&format!("poll://uni@{group}/w")));
    let stream = Stream::open(&server, &group, "w");
    let mut expected = [ids, vec![preferred, unicast]].concat();
    let mut received: Vec<String> = expected.iter().map(|_| stream.next_execute().0).collect();
    expected.sort();
    received.sort();
    assert_eq!(received, expected);
}

#[test]
fn what_was_acquired_meanwhile_need_not_be_offered_and_what_remains_is() {
    let server = shared();
    let group = unique("g");
    let (taken, free) = (unique("x"), unique("x"));
    for id in [&taken, &free] {
        server
            .client()
            .create(id, i64::MAX, to(&format!("poll://any@{group}")));
    }
    server.client().acquire(&taken, 0, 60_000);
    let stream = Stream::open(&server, &group, "w");
    // Stale messages are allowed; the one of the free task must come.
    while stream.next_execute().0 != free {}
}

#[test]
fn an_unblock_is_kept_for_a_listener_that_connects_later() {
    let server = shared();
    let group = unique("g");
    let ids: Vec<String> = (0..3).map(|_| unique("p")).collect();
    let mut expected = Vec::new();
    for id in &ids {
        server.client().create(id, i64::MAX, json!({}));
        server.client().listen(id, &format!("poll://uni@{group}/w"));
        expected.push(server.client().settle(id, "resolved"));
    }
    let stream = Stream::open(&server, &group, "w");
    let mut received: Vec<Value> = ids.iter().map(|_| stream.next_unblock()).collect();
    received.sort_by_key(|promise| promise["id"].to_string());
    expected.sort_by_key(|promise| promise["id"].to_string());
    assert_eq!(received, expected);
}

/// Everything that waits for `w` of group `g` across a restart.
fn waits_across_a_restart(signal: Signal) {
    if forgets_on_restart() {
        return;
    }
    let server = Server::start();
    server
        .client()
        .create("pending", i64::MAX, to("poll://any@g"));
    server.client().create("held", i64::MAX, to("poll://any@g"));
    server.client().acquire("held", 0, i64::MAX);
    server.client().create("promise", i64::MAX, json!({}));
    server.client().listen("promise", "poll://uni@g/w");
    let settled = server.client().settle("promise", "resolved");
    let held = server.client().task("held");
    let server = server.restart(signal);
    assert_eq!(server.client().get("promise"), settled);
    assert_eq!(server.client().task("held"), held);
    let stream = Stream::open(&server, "g", "w");
    let mut events = [stream.next(), stream.next()];
    events.sort_by_key(|event| event["kind"].to_string());
    assert_eq!(
        events[0]["data"],
        json!({"task": {"id": "pending", "version": 0}})
    );
    assert_eq!(events[1]["data"], json!({"promise": settled}));
    // The lease of before the restart still holds.
    server.ok("task.fulfill", fulfill("held", 1, "resolved"));
}

#[test]
fn what_waits_survives_sigterm() {
    waits_across_a_restart(Signal::Term);
}

#[test]
fn what_waits_survives_kill_9() {
    waits_across_a_restart(Signal::Kill);
}

#[test]
fn deadlines_leases_and_schedules_fire_after_a_restart() {
    if forgets_on_restart() {
        return;
    }
    let server = Server::start();
    let soon = wall_clock_ms() + 150;
    let promise = server
        .client()
        .create("sleep", soon, json!({"resonate:timer": "true"}));
    server.client().listen("sleep", "poll://uni@g/w");
    let data = json!({"id": "x", "version": 0, "pid": "p", "ttl": 150});
    server.client().create("x", i64::MAX, to("poll://any@g"));
    server.ok("task.acquire", data);
    let server = server.restart(Signal::Kill);
    let stream = Stream::open(&server, "g", "w");
    let mut events = [stream.next(), stream.next()];
    events.sort_by_key(|event| event["kind"].to_string());
    assert_eq!(
        events[0]["data"],
        json!({"task": {"id": "x", "version": 1}})
    );
    let woken = settled(&promise, "resolved", soon);
    assert_eq!(events[1]["data"], json!({"promise": woken}));
}

#[test]
fn the_deadline_of_a_plain_promise_fires_by_itself_once_somebody_listens() {
    let server = shared();
    let (group, id) = (unique("g"), unique("p"));
    let stream = Stream::open(&server, &group, "w");
    let promise = server
        .client()
        .create(&id, wall_clock_ms() + 100, json!({}));
    server
        .client()
        .listen(&id, &format!("poll://uni@{group}/w"));
    assert_eq!(stream.next_unblock(), timed_out(&promise));
}

#[test]
fn a_settlement_wakes_the_awaiter_and_redispatches_it() {
    let server = shared();
    let (group, id) = (unique("g"), unique("x"));
    let stream = Stream::open(&server, &group, "w");
    let awaited = format!("{id}.0");
    server
        .client()
        .create(&id, i64::MAX, to(&format!("poll://any@{group}")));
    assert_eq!(stream.next_execute(), (id.clone(), 0));
    server.client().acquire(&id, 0, 60_000);
    server.client().create(&awaited, i64::MAX, json!({}));
    server
        .client()
        .suspend(&id, 1, &[&awaited])
        .expect(200, &json!({}));
    server.client().settle(&awaited, "resolved");
    assert_eq!(stream.next_execute(), (id, 1));
}

#[test]
fn an_expired_lease_is_redispatched() {
    let server = shared();
    let (group, id) = (unique("g"), unique("x"));
    let stream = Stream::open(&server, &group, "w");
    server
        .client()
        .create(&id, i64::MAX, to(&format!("poll://any@{group}")));
    assert_eq!(stream.next_execute(), (id.clone(), 0));
    server.client().acquire(&id, 0, 50);
    assert_eq!(stream.next_execute(), (id, 1));
}

#[test]
fn an_unacquired_task_is_offered_again_after_the_retry_timeout() {
    let server = Server::with(&["--tasks-retry-timeout", "100"]);
    let stream = Stream::open(&server, "g", "w");
    server.client().create("x", i64::MAX, to("poll://any@g"));
    for _ in 0..3 {
        assert_eq!(stream.next_execute(), ("x".to_owned(), 0));
    }
}

#[test]
fn a_delayed_task_is_offered_at_its_delay_and_not_before() {
    let server = shared();
    let (group, id) = (unique("g"), unique("x"));
    let stream = Stream::open(&server, &group, "w");
    let delay = wall_clock_ms() + 150;
    let tags = json!({
        "resonate:target": format!("poll://any@{group}"), "resonate:delay": delay.to_string(),
    });
    server.ok("promise.create", create(&id, i64::MAX, tags));
    // A worker that connects meanwhile does not bring it forward either.
    let second = Stream::open(&server, &group, "v");
    let other = unique("x");
    server
        .client()
        .create(&other, i64::MAX, to(&format!("poll://any@{group}/w")));
    assert_eq!(stream.next_execute().0, other);
    let deadline = Instant::now() + DEADLINE;
    let received = loop {
        assert!(Instant::now() < deadline, "the delayed task never came");
        let patience = Duration::from_millis(5);
        if let Some(event) = stream.poll(patience).or_else(|| second.poll(patience)) {
            break event;
        }
    };
    assert_eq!(received["data"]["task"]["id"], id);
    assert!(wall_clock_ms() >= delay);
}

#[test]
fn a_timer_with_a_target_is_never_offered() {
    // D-03. The marker after it proves that nothing was before it.
    let server = shared();
    let (group, timer, marker) = (unique("g"), unique("t"), unique("x"));
    let address = format!("poll://any@{group}");
    let tags = json!({"resonate:target": address, "resonate:timer": "true"});
    server.client().create(&timer, i64::MAX, tags);
    let stream = Stream::open(&server, &group, "w");
    server.client().create(&marker, i64::MAX, to(&address));
    assert_eq!(stream.next_execute().0, marker);
}

#[test]
fn a_schedule_fires_by_the_clock() {
    let server = Server::start();
    let stream = Stream::open(&server, "g", "w");
    let data = json!({
        "id": "s", "cron": "* * * * * *", "promiseId": "{{.id}}.{{.timestamp}}",
        "promiseTimeout": 60_000, "promiseTags": {"resonate:target": "poll://any@g"},
    });
    let schedule = server.ok("schedule.create", data)["schedule"].clone();
    let first = schedule["nextRunAt"].as_i64().unwrap();
    assert_eq!(stream.next_execute(), (format!("s.{first}"), 0));
    assert_eq!(stream.next_execute(), (format!("s.{}", first + 1_000), 0));
    let promise = server.client().get(&format!("s.{first}"));
    assert_eq!(promise["createdAt"], first);
}

/// Acquires and releases a task until the server has begun to put its offers off: 0, 100, 200 ms.
/// Answers its version.
fn release_three_times(server: &Server, stream: &Stream, id: &str) -> i64 {
    assert_eq!(stream.next_execute(), (id.to_owned(), 0));
    for (version, delay) in [(1, 0), (2, 100), (3, 200)] {
        server.client().acquire(id, version - 1, 60_000);
        let before = Instant::now();
        server.client().release(id, version);
        assert_eq!(stream.next_execute(), (id.to_owned(), version));
        // A clock that counts whole milliseconds may round one off.
        let waited = before.elapsed() + Duration::from_millis(5);
        assert!(waited >= Duration::from_millis(delay), "after {waited:?}");
    }
    3
}

/// The next release would wait 400 ms; after progress it is the first again. A bound far below what
/// the back-off would take, and far above what an offer takes.
fn expect_prompt_release(server: &Server, stream: &Stream, id: &str, version: i64) {
    let before = Instant::now();
    server.client().release(id, version);
    assert_eq!(stream.next_execute(), (id.to_owned(), version));
    let waited = before.elapsed();
    assert!(waited < Duration::from_millis(350), "after {waited:?}");
}

#[test]
fn releases_without_progress_back_off_and_a_fence_that_changes_something_resets() {
    let server = shared();
    let (group, id) = (unique("g"), unique("x"));
    let stream = Stream::open(&server, &group, "w");
    server
        .client()
        .create(&id, i64::MAX, to(&format!("poll://any@{group}")));
    let version = release_three_times(&server, &stream, &id) + 1;
    server.client().acquire(&id, version - 1, 60_000);
    let inner = create(&format!("{id}.0"), i64::MAX, json!({}));
    let data = crate::harness::record::fence(&id, version, "promise.create", inner);
    server.ok("task.fence", data);
    expect_prompt_release(&server, &stream, &id, version);
}

#[test]
fn releases_without_progress_back_off_and_continue_resets() {
    let server = shared();
    let (group, id) = (unique("g"), unique("x"));
    let stream = Stream::open(&server, &group, "w");
    server
        .client()
        .create(&id, i64::MAX, to(&format!("poll://any@{group}")));
    let version = release_three_times(&server, &stream, &id) + 1;
    server.client().halt(&id);
    server.client().resume_halted(&id);
    assert_eq!(stream.next_execute(), (id.clone(), version - 1));
    server.client().acquire(&id, version - 1, 60_000);
    expect_prompt_release(&server, &stream, &id, version);
}

#[test]
fn releases_without_progress_back_off_and_a_suspension_resets() {
    let server = shared();
    let (group, id) = (unique("g"), unique("x"));
    let stream = Stream::open(&server, &group, "w");
    server
        .client()
        .create(&id, i64::MAX, to(&format!("poll://any@{group}")));
    let version = release_three_times(&server, &stream, &id) + 1;
    server.client().acquire(&id, version - 1, 60_000);
    let awaited = unique("a");
    server.client().create(&awaited, i64::MAX, json!({}));
    server
        .client()
        .suspend(&id, version, &[&awaited])
        .expect(200, &json!({}));
    server.client().settle(&awaited, "resolved");
    assert_eq!(stream.next_execute(), (id.clone(), version));
    server.client().acquire(&id, version, 60_000);
    expect_prompt_release(&server, &stream, &id, version + 1);
}

#[test]
fn other_work_is_not_slowed_by_a_task_that_backs_off() {
    let server = shared();
    let (group, id) = (unique("g"), unique("x"));
    let stream = Stream::open(&server, &group, "w");
    let address = format!("poll://any@{group}");
    server.client().create(&id, i64::MAX, to(&address));
    let version = release_three_times(&server, &stream, &id);
    server.client().acquire(&id, version, 60_000);
    server.client().release(&id, version + 1);
    let other = unique("y");
    server.client().create(&other, i64::MAX, to(&address));
    // 400 ms lie before the released one.
    assert_eq!(stream.next_execute(), (other, 0));
    assert_eq!(stream.next_execute(), (id, version + 1));
}
