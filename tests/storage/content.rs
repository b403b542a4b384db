//! What the databases of the fixtures hold, and what is done with it once a server has opened them.
//!
//! Time is the test's: it is the year 2090, so that nothing is due before the test says so.

use std::time::Duration;

use resonate::protocol::trace::Trace;
use serde_json::{Value, json};

use crate::harness::record;
use crate::harness::server::Server;
use crate::harness::sse::Stream;

/// 2090-01-01. Schedules were created an hour before everything else.
const DAWN: i64 = 3_786_912_000_000;
const HOUR: i64 = 3_600_000;
const NOON: i64 = DAWN + HOUR;
const LATER: i64 = NOON + 10_000;
const DAY: i64 = 24 * HOUR;
/// Long before the fixtures were made: what was enqueued then waits whatever the clock says.
const PAST: i64 = 1_577_836_800_000;

/// Everything that text may be, but for the null character.
const STRANGE: &str = "\u{1}\t\r\n \"'`\\ $1 {{.id}} %s ?1 :a -- /* é ß 漢字 🦀 \u{301}\u{200d}\u{2028}\u{fffd}\u{10ffff}";

/// What one of the tasks is created in.
fn trace() -> Trace {
    let parent = "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01";
    Trace::read(parent, Some("a=1, b='")).expect("it is well formed")
}

/// Fills an empty database by way of a controlled server.
pub fn fill(server: &Server) {
    let dawn = server.at(DAWN);
    for (id, cron) in [("hourly", "0 * * * *"), ("yearly", "@yearly")] {
        let schedule = json!({
            "id": id, "cron": cron, "promiseId": "{{.id}}-{{.timestamp}}", "promiseTimeout": DAY,
            "promiseParam": {"headers": {STRANGE: ""}, "data": STRANGE},
            "promiseTags": {"resonate:target": "poll://any@schema", STRANGE: STRANGE},
        });
        dawn.ok("schedule.create", schedule);
    }
    // One occurrence of the hourly one.
    server.at(NOON).tick();

    let noon = server.at(NOON);
    let value = json!({"headers": {"": "", STRANGE: STRANGE}, "data": STRANGE});
    let strange = json!({
        "id": STRANGE, "timeoutAt": NOON + DAY, "param": value, "tags": {STRANGE: STRANGE, "": ""},
    });
    noon.ok("promise.create", strange);
    noon.create("plain", NOON + DAY, json!({}));
    let empty = json!({"id": "empty", "timeoutAt": i64::MAX, "param": {"headers": {}, "data": ""}});
    noon.ok("promise.create", empty);
    for state in ["resolved", "rejected", "rejected_canceled"] {
        noon.create(state, NOON + DAY, json!({}));
        noon.ok(
            "promise.settle",
            json!({"id": state, "state": state, "value": value}),
        );
    }

    // Deadlines: passed and stored, passed and not stored, and to come.
    let external = json!({"resonate:external": "true"});
    noon.create("timed-out", NOON - 1, record::target());
    noon.create("rung", NOON - 1, record::timer());
    noon.create("unarmed", NOON + 1000, json!({}));
    noon.create("deadline", NOON + 20_000, external);
    noon.create("timer", NOON + 20_000, record::timer());

    // Tasks in every state.
    let branch = json!({"resonate:target": record::NOBODY, "resonate:branch": "branch"});
    noon.in_trace(&trace())
        .create("pending", NOON + DAY, branch);
    noon.create(
        "pending.0",
        NOON + DAY,
        json!({"resonate:branch": "branch"}),
    );
    noon.create(
        "delayed",
        NOON + DAY,
        json!({
            "resonate:target": "poll://any@schema/1", "resonate:delay": (NOON + 60_000).to_string(),
        }),
    );
    noon.own("acquired", NOON + DAY, 60_000);
    noon.own("released", NOON + DAY, 60_000);
    noon.release("released", 1);
    noon.own("fulfilled", NOON + DAY, 60_000);
    noon.ok("task.fulfill", record::fulfill("fulfilled", 1, "resolved"));
    for id in ["awaited", "awaited.1", "elsewhere", "gone"] {
        noon.create(id, NOON + DAY, json!({}));
    }
    for (id, awaited) in [
        ("suspended", &["awaited", "awaited.1", "elsewhere"][..]),
        ("resumed", &["awaited", "gone"]),
        ("halted", &["gone"]),
    ] {
        noon.own(id, NOON + DAY, 60_000);
        noon.suspend(id, 1, awaited).expect(200, &json!({}));
    }
    noon.halt("halted");
    noon.settle("gone", "resolved");

    // Listeners, and messages that nobody has received.
    noon.create("listened", NOON + DAY, json!({}));
    for address in [
        "poll://uni@schema/1",
        "poll://any@schema",
        "https://example.com/?a=b",
    ] {
        noon.listen("listened", address);
    }
    let past = server.at(PAST);
    past.create("told", NOON, json!({}));
    past.listen("told", "poll://uni@schema/1");
    past.ok(
        "promise.settle",
        json!({"id": "told", "state": "resolved", "value": value}),
    );
}

/// Everything that a server knows, but for what only its memory holds.
pub fn content(server: &Server) -> Value {
    let at = server.at(LATER);
    let snap = at.snap();
    let mut content = json!({});
    for key in [
        "promises",
        "tasks",
        "promiseTimeouts",
        "callbacks",
        "listeners",
        "taskTimeouts",
    ] {
        content[key] = snap.sorted(key);
    }
    content["unblocks"] = json!(snap.unblocks());
    content["schedules"] = at.ok("schedule.search", json!({"limit": 1000}))["schedules"].clone();
    content["promisesAnswered"] =
        at.ok("promise.search", json!({"limit": 1000}))["promises"].clone();
    content["tasksAnswered"] = at.ok("task.search", json!({"limit": 1000}))["tasks"].clone();
    content
}

/// Goes on with it as workers, clients and time do.
pub fn drive(server: &Server) {
    let at = server.at(LATER);
    // What is there is answered as it is, whoever wants to make it.
    let strange = at.get(STRANGE);
    assert_eq!(strange["param"]["data"], STRANGE);
    assert_eq!(at.create(STRANGE, 1, json!({})), strange);
    assert_eq!(at.settle("resolved", "rejected")["value"]["data"], STRANGE);

    let preload = at.acquire("pending", 0, 60_000)["preload"].clone();
    assert_eq!(record::ids(&preload), ["pending.0"]);
    at.ok("task.fulfill", record::fulfill("pending", 1, "rejected"));
    at.heartbeat("p", &[("acquired", 1)]);
    at.acquire("released", 1, 60_000);
    assert_eq!(at.acquire("resumed", 1, 60_000)["task"]["resumes"], 0);
    at.resume_halted("halted");
    assert_eq!(at.task("halted"), record::task("halted", "pending", 1, 1));
    let fence = record::fence(
        "resumed",
        2,
        "promise.settle",
        json!({"id": "awaited", "state": "resolved"}),
    );
    at.ok("task.fence", fence);
    assert_eq!(
        at.task("suspended"),
        record::task("suspended", "pending", 1, 1)
    );
    at.acquire("suspended", 1, 60_000);
    at.suspend("suspended", 2, &["awaited.1", "elsewhere"])
        .expect(200, &json!({}));
    at.settle("elsewhere", "rejected_canceled");
    at.acquire("suspended", 2, 60_000);
    at.ok("task.fulfill", record::fulfill("suspended", 3, "resolved"));
    at.acquire("delayed", 0, 60_000);
    at.settle("listened", "resolved");
    let unblocks = at.snap().unblocks();
    let unblocks: Vec<(&str, &str)> = unblocks
        .iter()
        .map(|(address, promise)| (promise["id"].as_str().expect("an id"), address.as_str()))
        .collect();
    let listened = |address| ("listened", address);
    assert_eq!(
        unblocks,
        [
            listened("https://example.com/?a=b"),
            listened("poll://any@schema"),
            listened("poll://uni@schema/1"),
            ("told", "poll://uni@schema/1"),
        ]
    );

    // Deadlines, leases and occurrences come to pass.
    assert_eq!(at.get("deadline")["state"], "pending");
    let at = server.at(NOON + HOUR);
    at.tick();
    let snap = at.snap();
    assert_eq!(snap.promise("deadline")["state"], "rejected_timedout");
    assert_eq!(snap.promise("timer")["state"], "resolved");
    assert_eq!(snap.promise("timer")["settledAt"], NOON + 20_000);
    assert_eq!(
        *snap.task("acquired"),
        record::task("acquired", "pending", 1, 0)
    );
    let occurrence = at.get(&format!("hourly-{}", NOON + HOUR));
    assert_eq!(occurrence["param"]["data"], STRANGE);
    let schedule = at.ok("schedule.get", json!({"id": "hourly"}));
    assert_eq!(schedule["schedule"]["lastRunAt"], NOON + HOUR);
    at.ok("schedule.delete", json!({"id": "hourly"}));

    // In real time again: what has waited is delivered.
    server.ok("debug.stop", json!({}));
    let stream = Stream::open(server, "schema", "1");
    assert_eq!(stream.next_unblock()["id"], "told");
    assert_eq!(stream.poll(Duration::from_millis(200)), None);
    server.client().create(
        "new",
        i64::MAX,
        json!({"resonate:target": "poll://any@schema"}),
    );
    assert_eq!(stream.next_execute(), ("new".to_owned(), 0));
}
