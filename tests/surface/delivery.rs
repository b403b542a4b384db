//! What is delivered when (transports §7, semantics §6), in real time over a poll stream: work that
//! waits for its worker, restarts, deadlines, leases, delays, the back-off of released tasks.

use std::time::{Duration, Instant};

use serde_json::{Value, json};

use crate::harness::http::DEADLINE;
use crate::harness::process::Signal;
use crate::harness::record::{create, fence, fulfill, settled, timed_out};
use crate::harness::server::{Server, free_port, shared, unique, wall_clock_ms};
use crate::harness::sse::Stream;
use crate::harness::store::{Store, forgets_on_restart, store};
use crate::surface::metrics::{reaches, scrape, value};

fn to(address: &str) -> Value {
    json!({"resonate:target": address})
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
    let soon = wall_clock_ms() + 500;
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
    let group = unique("g");
    let stream = Stream::open(&server, &group, "w");
    let address = format!("poll://uni@{group}/w");
    let promise = server.client().listen_before_deadline(&address);
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
    let (stream, id) = worker_and_task(&server);
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
    let delay = wall_clock_ms() + 200;
    let tags = json!({
        "resonate:target": format!("poll://any@{group}"), "resonate:delay": delay.to_string(),
    });
    server.ok("promise.create", create(&id, i64::MAX, tags));
    // A worker that connects meanwhile does not bring it forward either.
    let second = Stream::open(&server, &group, "v");
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

/// A worker that listens, and a task for it.
fn worker_and_task(server: &Server) -> (Stream, String) {
    let (group, id) = (unique("g"), unique("x"));
    let stream = Stream::open(server, &group, "w");
    let address = format!("poll://any@{group}");
    server.client().create(&id, i64::MAX, to(&address));
    (stream, id)
}

/// Acquires and releases a task `delays.len()` times, from version 0 on; each offer must be put off
/// by at least so many milliseconds. Answers the version reached.
fn release_repeatedly(server: &Server, stream: &Stream, id: &str, delays: &[u64]) -> i64 {
    assert_eq!(stream.next_execute(), (id.to_owned(), 0));
    let mut version = 0;
    for delay in delays {
        server.client().acquire(id, version, 60_000);
        version += 1;
        expect_late_release(server, stream, id, version, *delay);
    }
    version
}

/// Releases a task whose offer must be put off by at least so many milliseconds.
fn expect_late_release(server: &Server, stream: &Stream, id: &str, version: i64, delay: u64) {
    let before = Instant::now();
    server.client().release(id, version);
    assert_eq!(stream.next_execute(), (id.to_owned(), version));
    // A clock that counts whole milliseconds may round some off.
    let waited = before.elapsed() + Duration::from_millis(5);
    assert!(waited >= Duration::from_millis(delay), "after {waited:?}");
}

/// The offers of four releases without progress; the next would wait 800 ms.
const FOUR_DELAYS: [u64; 4] = [0, 100, 200, 400];

/// After progress the next release is the first again. The bound is far above what an offer takes.
fn expect_prompt_release(server: &Server, stream: &Stream, id: &str, version: i64) {
    let before = Instant::now();
    server.client().release(id, version);
    assert_eq!(stream.next_execute(), (id.to_owned(), version));
    let waited = before.elapsed();
    assert!(waited < Duration::from_millis(750), "after {waited:?}");
}

#[test]
fn releases_without_progress_back_off_and_a_fence_that_changes_something_resets() {
    let server = shared();
    let (stream, id) = worker_and_task(&server);
    let version = release_repeatedly(&server, &stream, &id, &FOUR_DELAYS) + 1;
    server.client().acquire(&id, version - 1, 60_000);
    let inner = create(&format!("{id}.0"), i64::MAX, json!({}));
    let data = fence(&id, version, "promise.create", inner);
    server.ok("task.fence", data);
    expect_prompt_release(&server, &stream, &id, version);
}

#[test]
fn a_fence_that_changes_nothing_is_no_progress() {
    let server = shared();
    let (stream, id) = worker_and_task(&server);
    let existing = unique("p");
    server.client().create(&existing, i64::MAX, json!({}));
    let version = release_repeatedly(&server, &stream, &id, &[0, 100]) + 1;
    server.client().acquire(&id, version - 1, 60_000);
    let inner = create(&existing, i64::MAX, json!({}));
    server.ok("task.fence", fence(&id, version, "promise.create", inner));
    expect_late_release(&server, &stream, &id, version, 200);
}

#[test]
fn releases_without_progress_back_off_and_continue_resets() {
    let server = shared();
    let (stream, id) = worker_and_task(&server);
    let version = release_repeatedly(&server, &stream, &id, &FOUR_DELAYS) + 1;
    server.client().halt(&id);
    server.client().resume_halted(&id);
    assert_eq!(stream.next_execute(), (id.clone(), version - 1));
    server.client().acquire(&id, version - 1, 60_000);
    expect_prompt_release(&server, &stream, &id, version);
}

#[test]
fn releases_without_progress_back_off_and_a_suspension_resets() {
    let server = shared();
    let (stream, id) = worker_and_task(&server);
    let version = release_repeatedly(&server, &stream, &id, &FOUR_DELAYS) + 1;
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
    let version = release_repeatedly(&server, &stream, &id, &FOUR_DELAYS);
    server.client().acquire(&id, version, 60_000);
    server.client().release(&id, version + 1);
    let other = unique("y");
    server.client().create(&other, i64::MAX, to(&address));
    // 800 ms lie before the released one.
    assert_eq!(stream.next_execute(), (other, 0));
    assert_eq!(stream.next_execute(), (id, version + 1));
}

#[test]
fn what_disabled_transports_are_given_is_counted() {
    let port = free_port();
    let off = ["http-push", "http-poll", "gcps", "bash-exec"]
        .map(|name| format!("--transports-{name}-enabled=false"));
    let mut flags = off.each_ref().map(String::as_str).to_vec();
    let port_flag = port.to_string();
    flags.extend(["--observability-metrics-port", &port_flag]);
    let server = Server::single_with(&flags);
    let mut listening = vec!["http://127.0.0.1:9/", "gcps://p/t"];
    // Where there may be other servers, what is for streams is left to them.
    if matches!(store(), Store::Sqlite | Store::Memory) {
        listening.push("poll://any@g");
    }
    let all = [&listening[..], &["bash:///"]].concat();
    for (n, address) in all.iter().enumerate() {
        server
            .client()
            .create(&format!("x{n}"), i64::MAX, to(address));
    }
    server.client().create("p", i64::MAX, json!({}));
    for address in &listening {
        server.client().listen("p", address);
    }
    server.client().settle("p", "resolved");
    let count = [all.len(), listening.len()].map(|count| u32::try_from(count).unwrap());
    let dropped = "resonate_deliveries_total{status=\"dropped\"}";
    reaches(port, dropped, f64::from(count[0] + count[1]));
    let scraped = scrape(port);
    for (kind, count) in ["execute", "unblock"].into_iter().zip(count) {
        let taken = format!("resonate_messages_total{{kind=\"{kind}\"}}");
        assert!(value(&scraped, &taken) >= f64::from(count), "{scraped}");
    }
}
