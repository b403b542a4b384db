//! What schedules create, and when (semantics §8).

use serde_json::{Value, json};

use crate::harness::client::Client;
use crate::harness::record::{create, ids, member, pending, target, task, timed_out, with};
use crate::harness::server::Server;
use crate::harness::snap::{RETRY, versions};

const MINUTE: i64 = 60_000;

fn every_minute(id: &str, template: &str, timeout: i64) -> Value {
    json!({
        "id": id, "cron": "* * * * *", "promiseId": template, "promiseTimeout": timeout,
        "promiseTags": target(),
    })
}

fn get(at: Client<'_>, id: &str) -> Value {
    member(at.ok("schedule.get", json!({"id": id})), "schedule")
}

/// The tags of a promise that a schedule made.
fn injected(schedule: &str, id: &str, own: Value) -> Value {
    with(
        with(target(), own),
        json!({
            "resonate:schedule": schedule, "resonate:origin": id, "resonate:branch": id,
            "resonate:parent": id, "resonate:prefix": id,
        }),
    )
}

#[test]
fn an_occurrence_creates_a_dispatched_promise() {
    let server = Server::controlled();
    let mut data = every_minute("s", "{{.id}}-{{.timestamp}}", 600_000);
    data["promiseParam"] = json!({"headers": {"h": "1"}, "data": "e30="});
    data["promiseTags"]["k"] = json!("v");
    let created = member(server.at(1_000).ok("schedule.create", data), "schedule");
    server.at(MINUTE - 1).tick();
    assert_eq!(server.at(MINUTE - 1).snap().0["promises"], json!([]));
    server.at(MINUTE).tick();
    let at = server.at(MINUTE);
    let promise = with(
        pending(
            "s-60000",
            660_000,
            MINUTE,
            injected("s", "s-60000", json!({"k": "v"})),
        ),
        json!({"param": {"headers": {"h": "1"}, "data": "e30="}}),
    );
    assert_eq!(at.get("s-60000"), promise);
    assert_eq!(at.task("s-60000"), task("s-60000", "pending", 0, 0));
    let snap = at.snap();
    assert_eq!(snap.executes(), versions(&[("s-60000", 0)]));
    assert_eq!(snap.task_timeout("s-60000"), Some((RETRY, 90_000)));
    assert_eq!(snap.armed("s-60000"), Some(660_000));
    let expected = with(
        created,
        json!({"lastRunAt": MINUTE, "nextRunAt": 2 * MINUTE}),
    );
    assert_eq!(get(at, "s"), expected);
    // The same instant again: nothing.
    at.tick();
    assert_eq!(at.snap().0, snap.0);
}

#[test]
fn d09_every_missed_occurrence_fires_once_at_its_own_instant() {
    let server = Server::controlled();
    let data = every_minute("s", "{{.id}}.{{.timestamp}}", 100_000);
    let created = member(server.at(1_000).ok("schedule.create", data), "schedule");
    let now = 5 * MINUTE;
    server.at(now).tick();
    let at = server.at(now);
    let snap = at.snap();
    for t in (1..=5).map(|minute| minute * MINUTE) {
        let id = format!("s.{t}");
        let born = pending(&id, t + 100_000, t, injected("s", &id, json!({})));
        let (promise, state) = if t + 100_000 <= now {
            (timed_out(&born), "fulfilled")
        } else {
            (born, "pending")
        };
        assert_eq!(at.get(&id), promise);
        assert_eq!(*snap.promise(&id), promise);
        assert_eq!(*snap.task(&id), task(&id, state, 0, 0));
    }
    assert_eq!(snap.0["promises"].as_array().unwrap().len(), 5);
    // Who is dead on arrival is never dispatched.
    assert_eq!(
        snap.executes(),
        versions(&[("s.240000", 0), ("s.300000", 0)])
    );
    let expected = with(created, json!({"lastRunAt": now, "nextRunAt": 6 * MINUTE}));
    assert_eq!(get(at, "s"), expected);
}

#[test]
fn a_long_catch_up_is_complete() {
    let server = Server::controlled();
    let mut data = every_minute("s", "{{.id}}.{{.timestamp}}", i64::MAX);
    data["cron"] = json!("* * * * * *");
    server.at(0).ok("schedule.create", data);
    server.at(400_500).tick();
    let at = server.at(400_500);
    let page = at.ok("promise.search", json!({"limit": 1_000}));
    assert_eq!(ids(&page["promises"]).len(), 400);
    assert_eq!(at.get("s.1000")["createdAt"], 1_000);
    // The deadline saturates.
    assert_eq!(at.get("s.1000")["timeoutAt"], json!(i64::MAX));
    assert_eq!(at.get("s.400000")["createdAt"], 400_000);
    assert_eq!(get(at, "s")["lastRunAt"], 400_000);
    assert_eq!(get(at, "s")["nextRunAt"], 401_000);
}

#[test]
fn several_schedules_fire_in_one_pass() {
    let server = Server::controlled();
    for id in ["a", "b", "c"] {
        let data = every_minute(id, "{{.id}}.{{.timestamp}}", 900_000);
        server.at(1_000).ok("schedule.create", data);
    }
    server.at(2 * MINUTE).tick();
    let page = server.at(2 * MINUTE).ok("promise.search", json!({}));
    assert_eq!(
        ids(&page["promises"]),
        [
            "a.120000", "a.60000", "b.120000", "b.60000", "c.120000", "c.60000"
        ]
    );
}

#[test]
fn templates_substitute_id_and_timestamp_and_nothing_else() {
    let server = Server::controlled();
    let cases = [
        (
            "a",
            "{{.id}}{{.id}}-{{.timestamp}}/{{.timestamp}}",
            "aa-60000/60000",
        ),
        (
            "b",
            "{{.id}}-{{id}}-{{.time}}-{{ .id }}-{.id}",
            "b-{{id}}-{{.time}}-{{ .id }}-{.id}",
        ),
        ("c", "fixed", "fixed"),
        ("d.e:f", "{{.id}}", "d.e:f"),
    ];
    for (id, template, _) in cases {
        let data = every_minute(id, template, 900_000);
        let created = server.at(1_000).ok("schedule.create", data);
        assert_eq!(created["schedule"]["promiseId"], template);
    }
    server.at(MINUTE).tick();
    for (_, _, promise) in cases {
        assert_eq!(server.at(MINUTE).get(promise)["createdAt"], MINUTE);
    }
}

#[test]
fn without_a_timestamp_later_occurrences_do_nothing() {
    let server = Server::controlled();
    let data = every_minute("s", "{{.id}}-once", 900_000);
    server.at(1_000).ok("schedule.create", data);
    server.at(3 * MINUTE).tick();
    let at = server.at(3 * MINUTE);
    let first = at.get("s-once");
    assert_eq!(first["createdAt"], MINUTE);
    assert_eq!(get(at, "s")["lastRunAt"], 3 * MINUTE);
    at.settle("s-once", "resolved");
    server.at(4 * MINUTE).tick();
    assert_eq!(server.at(4 * MINUTE).get("s-once")["state"], "resolved");
    let page = server.at(4 * MINUTE).ok("promise.search", json!({}));
    assert_eq!(ids(&page["promises"]), ["s-once"]);
}

#[test]
fn an_id_that_exists_is_adopted_silently() {
    let server = Server::controlled();
    let data = every_minute("s", "{{.id}}.{{.timestamp}}", 900_000);
    server.at(1_000).ok("schedule.create", data);
    let adopted = server
        .at(2_000)
        .ok("promise.create", create("s.60000", 5_000, json!({})));
    server.at(MINUTE).tick();
    let at = server.at(MINUTE);
    assert_eq!(at.get("s.60000"), timed_out(&adopted["promise"]));
    assert!(!at.snap().has_task("s.60000"));
    assert_eq!(get(at, "s")["lastRunAt"], MINUTE);
}

#[test]
fn injected_tags_override_the_schedules_own() {
    let server = Server::controlled();
    let mut data = every_minute("s", "{{.id}}.{{.timestamp}}", 900_000);
    let own = json!({
        "resonate:schedule": "mine", "resonate:origin": "mine", "resonate:branch": "mine",
        "resonate:parent": "mine", "resonate:prefix": "mine", "resonate:scope": "global",
    });
    data["promiseTags"] = with(target(), own.clone());
    server.at(1_000).ok("schedule.create", data);
    server.at(MINUTE).tick();
    let tags = server.at(MINUTE).get("s.60000")["tags"].clone();
    let scope = json!({"resonate:scope": "global"});
    assert_eq!(tags, injected("s", "s.60000", scope));
    // The schedule's record is as it was given.
    let record = get(server.at(MINUTE), "s");
    assert_eq!(record["promiseTags"], with(target(), own));
}

#[test]
fn a_timeout_of_zero_is_dead_at_birth() {
    let server = Server::controlled();
    let data = every_minute("s", "{{.id}}.{{.timestamp}}", 0);
    server.at(1_000).ok("schedule.create", data);
    server.at(MINUTE).tick();
    let at = server.at(MINUTE);
    let tags = injected("s", "s.60000", json!({}));
    let born = pending("s.60000", MINUTE, MINUTE, tags);
    assert_eq!(at.get("s.60000"), timed_out(&born));
    assert_eq!(at.snap().executes(), versions(&[]));
}

#[test]
fn an_expression_that_runs_out_never_fires_again() {
    let server = Server::controlled();
    let mut data = every_minute("s", "{{.id}}.{{.timestamp}}", 900_000);
    data["cron"] = json!("0 1 0 1 1 ? 1970");
    let created = server.at(1_000).ok("schedule.create", data);
    assert_eq!(created["schedule"]["nextRunAt"], MINUTE);
    for now in [MINUTE, 2 * MINUTE, 4_000_000_000_000] {
        server.at(now).tick();
        let record = get(server.at(now), "s");
        assert_eq!(record["nextRunAt"], json!(9_007_199_254_740_991_i64));
        assert_eq!(record["lastRunAt"], MINUTE);
    }
    let page = server.at(4_000_000_000_000).ok("promise.search", json!({}));
    assert_eq!(ids(&page["promises"]), ["s.60000"]);
}

#[test]
fn deleting_stops_future_occurrences_only() {
    let server = Server::controlled();
    let data = every_minute("s", "{{.id}}.{{.timestamp}}", 900_000);
    server.at(1_000).ok("schedule.create", data.clone());
    server.at(MINUTE).tick();
    let fired = server.at(MINUTE).get("s.60000");
    server.at(MINUTE).ok("schedule.delete", json!({"id": "s"}));
    server.at(3 * MINUTE).tick();
    let page = server.at(3 * MINUTE).ok("promise.search", json!({}));
    assert_eq!(page, json!({"promises": [fired]}));
    // Recreated, it starts afresh.
    let again = member(
        server.at(3 * MINUTE).ok("schedule.create", data),
        "schedule",
    );
    assert_eq!(again["createdAt"], 3 * MINUTE);
    assert_eq!(again["nextRunAt"], 4 * MINUTE);
    assert!(again.get("lastRunAt").is_none(), "{again}");
    server.at(4 * MINUTE).tick();
    let page = server.at(4 * MINUTE).ok("promise.search", json!({}));
    assert_eq!(ids(&page["promises"]), ["s.240000", "s.60000"]);
}
