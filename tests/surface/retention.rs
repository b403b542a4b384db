//! What retention deletes, what it leaves, and what it says beforehand (`docs/retention.md`).

use serde_json::{Value, json};

use super::metrics::{reaches, scrape, value};
use crate::harness::process::Signal;
use crate::harness::scripts::until;
use crate::harness::server::{Server, free_port, wall_clock_ms};
use crate::harness::store::forgets_on_restart;

const WALKS: &str = "resonate_retention_walks_total";
const DELETED: &str = "resonate_retention_deleted_total";

fn flags(port: u16, more: &[&str]) -> Vec<String> {
    let port = port.to_string();
    let metrics = ["--observability-metrics-port", &port];
    let quick = ["--retention-interval", "1", "--retention-rate", "100000"];
    let all = metrics.iter().chain(&quick).chain(more);
    all.map(|flag| (*flag).to_owned()).collect()
}

/// Waits until a walk that has begun after this has come to its end.
#[track_caller]
fn walk(port: u16) {
    let walks = value(&scrape(port), WALKS);
    reaches(port, WALKS, walks + 2.0);
}

fn is_there(server: &Server, id: &str) -> bool {
    let answer = server.call("promise.get", json!({"id": id}));
    match answer.status {
        200 => true,
        404 => false,
        other => panic!("{other}: {id}"),
    }
}

/// Creates promises with these tags, and settles them.
fn settle_all(server: &Server, promises: &[(&str, Value)]) {
    for (id, tags) in promises {
        server.client().create(id, i64::MAX, tags.clone());
        server.client().settle(id, "resolved");
    }
}

/// Over: whole trees, with and without tags.
const GONE: [&str; 9] = [
    "gone", "gone.0", "gone:1.2", "job.1", "job.1.0", "orphan.0", "test", "worked", "expired",
];
/// What lives, and what has to stay with it.
const KEPT: [&str; 12] = [
    "live",
    "live.0",
    "live:1",
    "halted",
    "halted.0",
    "owing",
    "child",
    "base",
    "elsewhere",
    "job.2",
    "kept",
    "orphans.0",
];

fn fill(server: &Server) {
    let client = server.client();
    settle_all(
        server,
        &[
            ("gone", json!({})),
            (
                "gone.0",
                json!({"resonate:origin": "gone", "resonate:parent": "gone"}),
            ),
            ("gone:1.2", json!({})),
            ("job.1", json!({"resonate:origin": "job.1"})),
            ("job.1.0", json!({"resonate:origin": "job.1"})),
            ("orphan.0", json!({})),
            ("test", json!({"env": "test"})),
            ("live.0", json!({})),
            ("live:1", json!({"resonate:origin": "live"})),
            ("halted.0", json!({})),
            // The child of a live workflow, by a tag only.
            ("child", json!({"resonate:parent": "live"})),
            // What a live promise says it belongs to.
            ("base", json!({})),
            ("kept", json!({"keep": "true"})),
            ("orphans.0", json!({})),
        ],
    );
    client.own("worked", i64::MAX, 60_000);
    client.settle("worked", "resolved");
    client.create("expired", wall_clock_ms() + 1, json!({}));
    client.create("live", i64::MAX, json!({}));
    client.create_targeted("halted", i64::MAX);
    client.halt("halted");
    client.create("owing", i64::MAX, json!({}));
    client.listen("owing", "poll://uni@absent/x");
    client.settle("owing", "resolved");
    client.create("elsewhere", i64::MAX, json!({"resonate:origin": "base"}));
    client.create("job.2", i64::MAX, json!({"resonate:origin": "job.2"}));
    client.create("orphans.1", i64::MAX, json!({}));
}

#[test]
fn what_is_over_goes_and_what_lives_stays_with_all_it_needs() {
    if forgets_on_restart() {
        return;
    }
    let port = free_port();
    let metrics = ["--observability-metrics-port", &port.to_string()];
    let server = Server::single_with(&metrics);
    fill(&server);
    // It is off by default, and asking deletes nothing.
    let keep = "0 keep=true";
    let asked = server.cli(&[
        "retention",
        "--after",
        "1ms",
        "--rule",
        keep,
        "--rule",
        "1 env=test",
    ]);
    let asked = asked.json();
    let due: Vec<(&Value, &Value, &Value)> = asked["due"]
        .as_array()
        .expect("a list")
        .iter()
        .map(|due| (&due["rule"], &due["trees"], &due["promises"]))
        .collect();
    let (by_rule, by_default) = (json!("1 env=test"), json!("retention.after"));
    let expected = [
        (&by_rule, &json!(1), &json!(1)),
        // One of them still has an `unblock` to deliver.
        (&by_default, &json!(6), &json!(9)),
    ];
    assert_eq!(due, expected, "{asked}");
    assert_eq!(asked["promises"], 22);
    assert_eq!(server.cli(&["retention"]).json()["due"], json!([]));
    assert!(GONE.iter().chain(&KEPT).all(|id| is_there(&server, id)));
    assert_eq!(value(&scrape(port), DELETED), 0.0);

    let port = free_port();
    let more = ["--retention-after", "1", "--retention-rule", keep];
    let server = server.restart_with(Signal::Term, &flags(port, &more));
    until("what is over is gone", || {
        !GONE.iter().any(|id| is_there(&server, id))
    });
    walk(port);
    for id in KEPT {
        assert!(is_there(&server, id), "{id} is gone");
    }
    let gone = f64::from(u8::try_from(GONE.len()).expect("few"));
    assert_eq!(value(&scrape(port), DELETED), gone);

    // The id is free: what is created now is another promise.
    let anew = server.client().create("gone", i64::MAX, json!({}));
    assert_eq!(anew["state"], "pending");
    // What stayed because of others goes once they are over.
    for id in ["live", "elsewhere", "job.2", "orphans.1", "halted"] {
        server.client().settle(id, "resolved");
    }
    let rest = KEPT.iter().filter(|id| !["owing", "kept"].contains(id));
    until("the rest is gone", || {
        !rest.clone().any(|id| is_there(&server, id))
    });
    assert!(
        ["gone", "owing", "kept"]
            .iter()
            .all(|id| is_there(&server, id))
    );
}

#[test]
fn trees_by_tag_go_where_the_others_stay() {
    let port = free_port();
    let more = [
        "--retention-rule",
        "1 env=test",
        "--retention-batch-size",
        "2",
    ];
    let more = flags(port, &more);
    let more: Vec<&str> = more.iter().map(String::as_str).collect();
    let server = Server::single_with(&more);
    settle_all(
        &server,
        &[("prod", json!({"env": "prod"})), ("none", json!({}))],
    );
    // Larger than a batch, and the tags of its root decide.
    let root = server.client();
    root.create("test", i64::MAX, json!({"env": "test"}));
    for n in 0..20 {
        let (child, grandchild) = (format!("test:{n}"), format!("test:{n}.0"));
        settle_all(&server, &[(&child, json!({})), (&grandchild, json!({}))]);
    }
    root.settle("test", "resolved");
    until("the tree is gone", || !is_there(&server, "test"));
    reaches(port, DELETED, 41.0);
    walk(port);
    assert!(is_there(&server, "prod") && is_there(&server, "none"));
    assert_eq!(value(&scrape(port), DELETED), 41.0);
}

#[test]
fn it_waits_while_background_work_is_paused() {
    let quick = ["--retention-after", "1", "--retention-interval", "1"];
    let server = Server::single_with(&[&["--debug"], &quick[..]].concat());
    server.ok("debug.start", json!({}));
    let client = server.at(1_000);
    client.create("p", 2_000, json!({}));
    client.settle("p", "resolved");
    // A tick fires what is due, and deletes nothing.
    server.at(wall_clock_ms()).tick();
    assert_eq!(client.get("p")["state"], "resolved");
    server.ok("debug.stop", json!({}));
    until("it is gone", || !is_there(&server, "p"));
}

#[test]
fn bad_questions_are_refused() {
    let server = Server::single();
    for (query, message) in [
        ("?after=x", "after: expected a number of milliseconds"),
        ("?after=-1", "after: expected a number of milliseconds"),
        ("?rule=x", "rule: expected rules such as"),
    ] {
        let reply = server.get(&format!("/retention{query}"));
        assert_eq!(reply.status(), 400, "{query}");
        assert!(reply.text().contains(message), "{}", reply.text());
    }
}
