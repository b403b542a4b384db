//! Schedule operations (protocol §10): create, get, delete, search.

use serde_json::{Value, json};

use crate::harness::record::{ids, member, with, without};
use crate::harness::server::{Server, shared};
use crate::harness::store::key_bytes_max;

/// The data of a good `schedule.create`.
fn schedule(id: &str, cron: &str) -> Value {
    json!({
        "id": id, "cron": cron, "promiseId": "{{.id}}.{{.timestamp}}", "promiseTimeout": 60_000,
        "promiseParam": {"headers": {}, "data": "e30="},
        "promiseTags": {"resonate:target": "poll://any@g"},
    })
}

#[test]
fn what_an_occurrence_would_cost_is_bounded() {
    let server = shared();
    // Every occurrence would write these ids several times over.
    let template = "{{.id}}".repeat(10_000);
    let bytes_max = key_bytes_max();
    for id in [10, key_bytes_max()].map(|bytes| "i".repeat(bytes)) {
        let data = with(schedule(&id, "* * * * * *"), json!({"promiseId": template}));
        let message = format!("Promise ID template must make ids of at most {bytes_max} bytes");
        server.refused("schedule.create", data, 400, &message);
    }
    // A list that takes seconds to read.
    let cron = format!("{} * * * *", vec!["1"; 100_000].join(","));
    let data = schedule("long", &cron);
    server.refused("schedule.create", data, 400, "Invalid cron expression");
}

#[test]
fn create_fields_follow_their_rules() {
    let server = shared();
    let good = schedule("s", "* * * * *");
    let target = json!({"resonate:target": "poll://any@g"});
    for (over, message) in [
        (json!({"id": ""}), "Schedule ID is required"),
        (json!({"cron": ""}), "Cron expression is required"),
        (json!({"cron": "often"}), "Invalid cron expression"),
        (json!({"promiseId": ""}), "Promise ID template is required"),
        (
            json!({"promiseTimeout": -1}),
            "Promise timeout must be a non-negative integer",
        ),
        (
            json!({"promiseTags": {}}),
            "promiseTags must include a resonate:target tag",
        ),
        (
            json!({"promiseTags": {"resonate:target": "w1"}}),
            "Invalid resonate:target address",
        ),
        (
            json!({"promiseTags": {"resonate:target": "poll://uni@g"}}),
            "Invalid resonate:target address",
        ),
        (
            json!({"promiseTags": with(target, json!({"resonate:timer": "true"}))}),
            "promiseTags must not include a resonate:timer tag",
        ),
    ] {
        server.refused("schedule.create", with(good.clone(), over), 400, message);
    }
    for tags in [
        without(good.clone(), "promiseTags"),
        with(good, json!({"promiseTags": null})),
    ] {
        server.refused(
            "schedule.create",
            tags,
            400,
            "promiseTags must include a resonate:target tag",
        );
    }
}

#[test]
fn create_answers_the_record() {
    let server = Server::controlled();
    let created = server
        .at(1_767_222_000_000)
        .ok("schedule.create", schedule("nightly", "0 2 * * *"));
    let record = with(
        schedule("nightly", "0 2 * * *"),
        json!({"createdAt": 1_767_222_000_000_i64, "nextRunAt": 1_767_232_800_000_i64}),
    );
    assert_eq!(created, json!({"schedule": record}));
    let got = server
        .at(1_767_222_000_000)
        .ok("schedule.get", json!({"id": "nightly"}));
    assert_eq!(got, created);
}

#[test]
fn create_with_defaults_and_dotted_ids() {
    // D-08.
    let server = Server::controlled();
    let data = without(schedule("a.b:c", "* * * * *"), "promiseParam");
    let created = member(
        server.at(1_000).ok("schedule.create", data.clone()),
        "schedule",
    );
    let expected = with(
        data,
        json!({"promiseParam": {}, "createdAt": 1_000, "nextRunAt": 60_000}),
    );
    assert_eq!(created, expected);
    let data = with(
        schedule("timeout", "* * * * *"),
        json!({"promiseTimeout": i64::MAX, "promiseParam": null}),
    );
    let created = member(server.at(1_000).ok("schedule.create", data), "schedule");
    assert_eq!(created["promiseTimeout"], json!(i64::MAX));
    assert_eq!(created["promiseParam"], json!({}));
}

#[test]
fn an_existing_schedule_is_answered_and_nothing_compared() {
    let server = Server::controlled();
    let first = server
        .at(1_000)
        .ok("schedule.create", schedule("s", "* * * * *"));
    let other = with(
        schedule("s", "0 0 1 1 *"),
        json!({"promiseId": "x", "promiseTimeout": 0, "promiseTags": {
            "resonate:target": "http://h",
        }}),
    );
    assert_eq!(server.at(2_000).ok("schedule.create", other), first);
    // The rules still apply.
    server.at(2_000).refused(
        "schedule.create",
        schedule("s", "x"),
        400,
        "Invalid cron expression",
    );
}

#[test]
fn the_next_occurrence_is_strictly_after_now() {
    let server = Server::controlled();
    for (now, next) in [
        (0, 60_000),
        (1, 60_000),
        (59_999, 60_000),
        (60_000, 120_000),
    ] {
        let data = schedule(&format!("s{now}"), "* * * * *");
        let created = server.at(now).ok("schedule.create", data);
        assert_eq!(created["schedule"]["nextRunAt"], next);
    }
}

#[test]
fn cron_formats() {
    // All from the epoch on, a Thursday.
    const MINUTE: i64 = 60_000;
    const HOUR: i64 = 60 * MINUTE;
    const DAY: i64 = 24 * HOUR;
    let server = Server::controlled();
    for (cron, next) in [
        // Five fields.
        ("* * * * *", MINUTE),
        ("*/15 * * * *", 15 * MINUTE),
        ("10-20/5 * * * *", 10 * MINUTE),
        ("5,7 * * * *", 5 * MINUTE),
        ("0 2 * * *", 2 * HOUR),
        ("30 23 * * *", 23 * HOUR + 30 * MINUTE),
        ("0 0 2 * *", DAY),
        ("0 0 1 FEB *", 31 * DAY),
        ("0 0 1 2 *", 31 * DAY),
        ("0 0 29 2 *", 789 * DAY),
        // Weekdays in Quartz numbering, 1 = SUN.
        ("0 0 * * 1", 3 * DAY),
        ("0 0 ? * 1", 3 * DAY),
        ("0 0 * * SUN", 3 * DAY),
        ("0 0 * * sun", 3 * DAY),
        ("0 0 * * 7", 2 * DAY),
        ("0 0 * * SAT", 2 * DAY),
        ("0 0 * * 2,4", 4 * DAY),
        ("0 0 * * 2-6", DAY),
        ("0 0 * * MON-FRI", DAY),
        // Six, with leading seconds; seven, with trailing year.
        ("* * * * * *", 1_000),
        ("30 0 * * * *", 30_000),
        ("*/20 * * * * *", 20_000),
        ("0 0 0 1 1 ? 1971", 365 * DAY),
        ("15 * * * * * *", 15_000),
        // Names.
        ("@hourly", HOUR),
        ("@daily", DAY),
        ("@weekly", 3 * DAY),
        ("@monthly", 31 * DAY),
        ("@yearly", 365 * DAY),
    ] {
        let created = server.at(0).ok("schedule.create", schedule(cron, cron));
        assert_eq!(created["schedule"]["nextRunAt"], next, "{cron}");
        assert_eq!(created["schedule"]["cron"], cron);
    }
}

#[test]
fn invalid_cron_expressions() {
    let server = shared();
    for cron in [
        "x",
        "*",
        "* * * *",
        "* * * * * * * *",
        "60 * * * *",
        "* 24 * * *",
        "* * 0 * *",
        "* * 32 * *",
        "* * * 13 *",
        "0 0 * * 0",
        "0 0 * * 8",
        "0 0 * * FUNDAY",
        "@never",
        "-1 * * * *",
        "20-10 * * * *",
    ] {
        server.refused(
            "schedule.create",
            schedule("s", cron),
            400,
            "Invalid cron expression",
        );
    }
}

#[test]
fn an_expression_without_a_future_occurrence_is_refused() {
    let server = Server::controlled();
    let at = server.at(1_767_222_000_000);
    for cron in ["0 0 30 2 *", "0 0 31 4,6,9,11 *", "0 0 0 1 1 ? 1999"] {
        at.refused(
            "schedule.create",
            schedule("s", cron),
            400,
            "Cron expression has no future occurrence",
        );
    }
    at.refused(
        "schedule.get",
        json!({"id": "s"}),
        404,
        "Schedule not found",
    );
}

#[test]
fn get_and_delete_refusals() {
    let server = shared();
    for kind in ["schedule.get", "schedule.delete"] {
        server.refused(kind, json!({"id": ""}), 400, "Schedule ID is required");
        server.refused(kind, json!({"id": "no-such"}), 404, "Schedule not found");
    }
}

#[test]
fn delete_removes() {
    let server = Server::controlled();
    let at = server.at(1_000);
    at.ok("schedule.create", schedule("s", "* * * * *"));
    let id = json!({"id": "s"});
    at.call("schedule.delete", id.clone())
        .expect(200, &json!({}));
    at.refused("schedule.get", id.clone(), 404, "Schedule not found");
    at.refused("schedule.delete", id, 404, "Schedule not found");
    assert_eq!(
        at.ok("schedule.search", json!({})),
        json!({"schedules": []})
    );
}

#[test]
fn search_limits() {
    let server = shared();
    for (limit, message) in [
        (0, "Limit must be a positive integer"),
        (-7, "Limit must be a positive integer"),
        (1_001, "Invalid 'limit' — must be between 1 and 1000"),
    ] {
        server.refused("schedule.search", json!({"limit": limit}), 400, message);
    }
}

#[test]
fn search_filters_by_promise_tags_and_pages_by_ten() {
    let server = Server::controlled();
    let at = server.at(1_000);
    for number in 0..12 {
        let kind = if number % 2 == 0 { "even" } else { "odd" };
        let mut data = schedule(&format!("s.{number:02}"), "* * * * *");
        data["promiseTags"]["kind"] = json!(kind);
        at.ok("schedule.create", data);
    }
    let page = at.ok("schedule.search", json!({}));
    let expected: Vec<String> = (0..10).map(|number| format!("s.{number:02}")).collect();
    assert_eq!(ids(&page["schedules"]), expected);
    assert_eq!(page["cursor"], "s.09");
    let page = at.ok("schedule.search", json!({"cursor": "s.09"}));
    assert_eq!(ids(&page["schedules"]), ["s.10", "s.11"]);
    assert!(page.get("cursor").is_none(), "{page}");
    let page = at.ok(
        "schedule.search",
        json!({"tags": {"kind": "odd"}, "limit": 5}),
    );
    assert_eq!(
        ids(&page["schedules"]),
        ["s.01", "s.03", "s.05", "s.07", "s.09"]
    );
    assert_eq!(page["cursor"], "s.09");
    let page = at.ok(
        "schedule.search",
        json!({"tags": {"kind": "odd"}, "limit": 6}),
    );
    assert!(page.get("cursor").is_none(), "{page}");
    let one = at.ok("schedule.get", json!({"id": "s.03"}))["schedule"].clone();
    assert_eq!(page["schedules"][1], one);
    let tags = json!({"kind": "odd", "resonate:target": "poll://any@other"});
    let page = at.ok("schedule.search", json!({"tags": tags}));
    assert_eq!(page, json!({"schedules": []}));
    let page = at.ok("schedule.search", json!({"limit": 1_000}));
    assert_eq!(ids(&page["schedules"]).len(), 12);
}
