//! Why a task is not running: `GET /targets`, the log and the metrics (transports §7).

use serde_json::{Value, json};

use super::metrics::{reaches, scrape, value};
use crate::harness::scripts::until;
use crate::harness::server::{Server, free_port, wall_clock_ms};
use crate::harness::sink::Sink;
use crate::harness::sse::Stream;

fn to(address: &str) -> Value {
    json!({"resonate:target": address})
}

fn page(server: &Server, query: &str) -> Value {
    let reply = server.get(&format!("/targets{query}"));
    assert_eq!(reply.status(), 200, "{}", reply.text());
    assert_eq!(reply.header("content-type"), Some("application/json"));
    serde_json::from_str(&reply.text()).expect("JSON")
}

/// `target tasks+unblocks reason` of each.
fn targets(server: &Server) -> Vec<String> {
    let page = page(server, "");
    let targets = page["targets"].as_array().expect("a list").iter();
    let text = |target: &Value| {
        let name = target["target"].as_str().expect("a text");
        let reason = target["reason"].as_str().unwrap_or("-");
        format!("{name} {}+{} {reason}", target["tasks"], target["unblocks"])
    };
    targets.map(text).collect()
}

fn count(server: &Server, text: &str) -> usize {
    server.log().matches(text).count()
}

#[test]
fn a_task_without_a_worker_is_reported_until_one_comes() {
    let port = free_port();
    let server = Server::single_with(&[
        "--messages-poll-interval",
        "20",
        "--observability-metrics-port",
        &port.to_string(),
    ]);
    let before = wall_clock_ms();
    for id in ["x", "y"] {
        server
            .client()
            .create(id, i64::MAX, to("poll://any@g/gone"));
    }
    server.client().create("p", i64::MAX, json!({}));
    server.client().listen("p", "poll://uni@g/listener");
    server.client().settle("p", "resolved");
    assert_eq!(
        targets(&server),
        [
            "poll://any@g 2+0 no_receiver",
            "poll://uni@g/listener 0+1 no_receiver"
        ]
    );
    let since = page(&server, "")["targets"][0]["waitingSince"].clone();
    let since = since.as_i64().expect("an instant");
    assert!((before - 1000..=wall_clock_ms() + 1000).contains(&since));
    server.logs(
        "tasks wait target.address=\"poll://any@g\" tasks=2 reason=\"no worker is connected\"",
    );
    reaches(port, "resonate_unserved_tasks", 2.0);
    reaches(port, "resonate_unserved_targets", 1.0);

    let worker = Stream::open(&server, "g", "w");
    for _ in 0..2 {
        worker.next_execute();
    }
    server.logs("tasks no longer wait target.address=\"poll://any@g\"");
    until("the gauges fall", || {
        let scraped = scrape(port);
        value(&scraped, "resonate_unserved_tasks") == 0.0
            && value(&scraped, "resonate_unserved_targets") == 0.0
    });
    // Offered, and not acquired: somebody receives them.
    assert_eq!(targets(&server)[0], "poll://any@g 2+0 -");
    for id in ["x", "y"] {
        server.client().acquire(id, 0, 60_000);
    }
    assert_eq!(targets(&server), ["poll://uni@g/listener 0+1 no_receiver"]);
    assert_eq!(count(&server, "tasks wait"), 1);
}

#[test]
fn a_disabled_transport_is_reported_once_per_target() {
    let server = Server::single_with(&[
        "--transports-http-push-enabled",
        "false",
        "--messages-poll-interval",
        "20",
    ]);
    let mut id = 0;
    let mut create = |address: &str| {
        id += 1;
        let address = to(address);
        server.client().create(&id.to_string(), i64::MAX, address);
    };
    for _ in 0..3 {
        create("http://user:secret@one.example/secret?token=secret");
        create("https://two.example:8443/");
        create("bash:///script.sh");
    }
    let dropped = "messages to this target are dropped: transport disabled target.address=";
    for target in [
        "http://one.example",
        "https://two.example:8443",
        "bash:///script.sh",
    ] {
        server.logs(&format!("{dropped}\"{target}\""));
    }
    assert_eq!(
        targets(&server),
        [
            "bash:///script.sh 3+0 transport_disabled",
            "http://one.example 3+0 transport_disabled",
            "https://two.example:8443 3+0 transport_disabled",
        ]
    );
    // Whatever came before has been dispatched.
    let worker = Stream::open(&server, "g", "w");
    create("poll://any@g");
    worker.next_execute();
    assert_eq!(count(&server, dropped), 3);
    assert!(!server.log().contains("secret"));
}

#[test]
fn a_push_target_that_fails_says_why() {
    let server = Server::single();
    let sink = Sink::scripted(vec![500.into()]);
    let url = sink.url("/secret");
    server.client().create("x", i64::MAX, to(&url));
    sink.next();
    let origin = url.trim_end_matches("/secret");
    until("it is known", || {
        let page = page(&server, "");
        page["targets"][0]["reason"] == "failing"
    });
    let page = page(&server, "");
    assert_eq!(page["targets"][0]["target"], origin);
    assert_eq!(page["targets"][0]["detail"], "status 500");
}

#[test]
fn targets_come_in_pages() {
    let server = Server::single();
    for group in ["a", "b", "c"] {
        let address = to(&format!("poll://any@{group}"));
        server.client().create(group, i64::MAX, address);
    }
    let mut seen = Vec::new();
    let mut query = "?limit=2".to_owned();
    loop {
        let page = page(&server, &query);
        for target in page["targets"].as_array().expect("a list") {
            seen.push(target["target"].clone());
        }
        let Some(cursor) = page["cursor"].as_str() else {
            break;
        };
        query = format!("?limit=2&cursor={}", cursor.replace('@', "%40"));
    }
    assert_eq!(seen, ["poll://any@a", "poll://any@b", "poll://any@c"]);
    assert_eq!(server.get("/targets?limit=many").status(), 400);
}
