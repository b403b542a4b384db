//! The GCP Pub/Sub transport (transports §5), against a fake that speaks its gRPC protocol, and the delivery
//! of its messages (§7).

use std::collections::BTreeSet;

use serde_json::{Value, json};

use crate::harness::google::{Answer, PubSub};
use crate::harness::process::Signal;
use crate::harness::server::{Server, free_port};
use crate::harness::sse::Stream;
use crate::harness::store::forgets_on_restart;
use crate::surface::metrics::{reaches, scrape, value};

const ON: [&str; 4] = [
    "--transports-gcps-enabled",
    "true",
    "--transports-gcps-project",
    "home",
];

const FAILED: &str = "resonate_deliveries_total{status=\"error\"}";

fn to(address: &str) -> Value {
    json!({"resonate:target": address})
}

fn server(fake: &PubSub, extra: &[&str]) -> Server {
    let flags = [&ON[..], extra].concat();
    Server::with_env(&flags, &[("PUBSUB_EMULATOR_HOST", &fake.host())])
}

/// A settled promise whose listener is `address`.
fn unblock(server: &Server, id: &str, address: &str) -> Value {
    server.client().create(id, i64::MAX, json!({}));
    server.client().listen(id, address);
    server.client().settle(id, "resolved")
}

#[test]
fn an_execute_is_published_to_the_topic() {
    let fake = PubSub::start();
    let server = server(&fake, &["--server-url", "https://resonate.example"]);
    server.client().create("x", i64::MAX, to("GCPS://p-1/T"));
    let published = fake.next();
    assert_eq!(published.topic, "projects/p-1/topics/T");
    assert!(published.attributes.is_empty() && !published.has_ordering_key);
    assert_eq!(
        published.message,
        json!({
            "kind": "execute",
            "head": {"serverUrl": "https://resonate.example"},
            "data": {"task": {"id": "x", "version": 0}},
        })
    );
}

#[test]
fn an_unblock_is_published_to_the_default_project() {
    let fake = PubSub::start();
    let server = server(&fake, &[]);
    let settled = unblock(&server, "p", "gcps:///t");
    let published = fake.next();
    assert_eq!(published.topic, "projects/home/topics/t");
    assert_eq!(published.message["kind"], "unblock");
    assert_eq!(published.message["data"], json!({"promise": settled}));
}

#[test]
fn without_a_default_project_an_address_must_name_one() {
    let fake = PubSub::start();
    let server = Server::with_env(&ON[..2], &[("PUBSUB_EMULATOR_HOST", &fake.host())]);
    let create = json!({
        "id": "x", "timeoutAt": i64::MAX, "param": {}, "tags": {"resonate:target": "gcps:///t"},
    });
    server.refused(
        "promise.create",
        create,
        400,
        "Invalid resonate:target address",
    );
    unblock(&server, "p", "gcps://q/t");
    assert_eq!(fake.next().topic, "projects/q/topics/t");
}

#[test]
fn a_refused_unblock_is_published_again_and_counted() {
    let port = free_port();
    let metrics_port = port.to_string();
    let fake = PubSub::scripted(&[Answer::NotFound], Answer::Accept);
    let flags = [&ON[..], &["--observability-metrics-port", &metrics_port]].concat();
    let server = Server::single_with_env(&flags, &[("PUBSUB_EMULATOR_HOST", &fake.host())]);
    unblock(&server, "p", "gcps:///t");
    let first = fake.next();
    assert_eq!(fake.next().message, first.message);
    reaches(port, "resonate_deliveries_total{status=\"success\"}", 1.0);
    let scraped = scrape(port);
    assert_eq!(value(&scraped, FAILED), 1.0);
    let messages = "resonate_messages_total{kind=\"unblock\"}";
    assert_eq!(value(&scraped, messages), 2.0);
    server.logs("topic is failing");
    server.logs("topic recovered");
}

#[test]
fn a_publish_that_takes_too_long_is_repeated() {
    let fake = PubSub::scripted(&[Answer::Hold], Answer::Accept);
    let server = server(&fake, &["--transports-gcps-timeout", "100"]);
    unblock(&server, "p", "gcps:///t");
    let first = fake.next();
    assert_eq!(fake.next().message, first.message);
    fake.release(1);
}

#[test]
fn an_execute_that_failed_is_published_again_after_the_retry_timeout() {
    let fake = PubSub::scripted(&[Answer::NotFound], Answer::Accept);
    let server = server(&fake, &["--tasks-retry-timeout", "150"]);
    server.client().create("x", i64::MAX, to("gcps:///t"));
    for _ in 0..2 {
        assert_eq!(fake.next().message["data"]["task"]["id"], "x");
    }
}

#[test]
fn a_disabled_transport_publishes_nothing_says_so_and_what_waits_leaves_once_it_is_enabled() {
    let fake = PubSub::start();
    let soon = ["--tasks-retry-timeout", "500"];
    let off = ["--transports-gcps-enabled", "false"];
    let host = fake.host();
    let server = Server::with_env(
        &[&off[..], &soon].concat(),
        &[("PUBSUB_EMULATOR_HOST", &host)],
    );
    server.client().create("x", i64::MAX, to("gcps://p/t"));
    let settled = unblock(&server, "p", "gcps://p/t");
    // A stream of another transport is served all the same, after whatever came before.
    let stream = Stream::open(&server, "g", "w");
    server.client().create("y", i64::MAX, to("poll://any@g"));
    assert_eq!(stream.next_execute().0, "y");
    assert!(fake.is_idle());
    server.logs("messages to this target are dropped: transport disabled");
    if forgets_on_restart() {
        return;
    }
    let flags = [&ON[..], &soon].concat();
    let flags: Vec<String> = flags.into_iter().map(str::to_owned).collect();
    let _server = server.restart_with(Signal::Term, &flags);
    let mut missing = vec![
        json!({"promise": settled}),
        json!({"task": {"id": "x", "version": 0}}),
    ];
    while !missing.is_empty() {
        let heard = fake.next();
        missing.retain(|missing| *missing != heard.message["data"]);
    }
}

#[test]
fn without_credentials_nothing_is_delivered_and_nothing_harmed() {
    let port = free_port();
    let metrics_port = port.to_string();
    let flags = [&ON[..], &["--observability-metrics-port", &metrics_port]].concat();
    let nobody = format!("127.0.0.1:{}", free_port());
    let server = Server::single_with_env(&flags, &[("GCE_METADATA_HOST", &nobody)]);
    unblock(&server, "p", "gcps:///t");
    // The second attempt as well.
    reaches(port, FAILED, 2.0);
    server.client().create("q", i64::MAX, json!({}));
}

#[test]
fn an_unblock_that_was_sent_and_not_acknowledged_survives_kill_9() {
    if forgets_on_restart() {
        return;
    }
    let fake = PubSub::scripted(&[Answer::Hold], Answer::Accept);
    let server = server(&fake, &[]);
    let settled = unblock(&server, "p", "gcps:///t");
    let expected = json!({"promise": settled});
    assert_eq!(fake.next().message["data"], expected);
    let _server = server.restart(Signal::Kill);
    assert_eq!(fake.next().message["data"], expected);
}

#[test]
fn a_published_unblock_is_not_repeated_after_a_graceful_restart() {
    if forgets_on_restart() {
        return;
    }
    let fake = PubSub::start();
    let server = server(&fake, &[]);
    for id in ["a", "b", "c"] {
        unblock(&server, id, "gcps:///t");
        fake.next();
    }
    let server = server.restart(Signal::Term);
    // Sent by a start that would have repeated the others before.
    unblock(&server, "d", "gcps:///t");
    assert_eq!(fake.next().message["data"]["promise"]["id"], "d");
    assert!(fake.is_idle());
}

#[test]
fn no_more_are_in_flight_than_allowed_and_what_found_no_room_follows() {
    const COUNT: usize = 40;
    let fake = PubSub::scripted(&[], Answer::Hold);
    let flags = [&ON[..], &["--transports-gcps-concurrency", "2"]].concat();
    let server = Server::single_with_env(&flags, &[("PUBSUB_EMULATOR_HOST", &fake.host())]);
    let ids: BTreeSet<String> = (0..COUNT).map(|n| format!("p{n}")).collect();
    for id in &ids {
        unblock(&server, id, "gcps:///t");
    }
    let mut told = BTreeSet::new();
    while told.len() < COUNT {
        let id = fake.next().message["data"]["promise"]["id"].clone();
        told.insert(id.as_str().expect("an id").to_owned());
        fake.release(1);
    }
    assert_eq!(told, ids);
    assert_eq!(fake.in_flight_max(), 2);
}
