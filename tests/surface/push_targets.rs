//! Where pushes may go (`transports.http_push.allow`, `.deny`): what a target may be is the grammar's to say,
//! transports §1; whether anything is sent there is the operator's.

use serde_json::json;

use super::metrics::reaches;
use crate::harness::server::{Server, free_port};
use crate::harness::sink::Sink;

const REFUSED: &str = "refused by transports.http_push.deny";

#[test]
fn nothing_is_sent_to_a_denied_target_and_the_log_says_so_once() {
    let port = free_port().to_string();
    let server = Server::single_with(&[
        "--transports-http-push-deny",
        "<metadata>",
        "--transports-http-push-deny",
        "<loopback>",
        "--tasks-retry-timeout",
        "100",
        "--observability-metrics-port",
        &port,
    ]);
    let sink = Sink::start();
    let address = sink.url("/secret");
    for (id, address) in [
        ("a", address.clone()),
        ("b", address.replace("127.0.0.1", "localhost")),
        ("c", address.replace("127.0.0.1", "[::ffff:127.0.0.1]")),
        ("d", address.replace("127.0.0.1", "2130706433")),
    ] {
        let created = server
            .client()
            .create(id, i64::MAX, json!({"resonate:target": address}));
        assert_eq!(
            created["tags"]["resonate:target"], *address,
            "it is an address"
        );
        server.client().listen(id, &address);
        server.client().settle(id, "resolved");
    }
    server
        .client()
        .create("e", i64::MAX, json!({"resonate:target": address}));
    // Each `unblock` once, and one task again and again.
    let errors = r#"resonate_deliveries_total{status="error"}"#;
    reaches(port.parse().unwrap(), errors, 10.0);
    assert!(sink.is_idle());
    let log = server.log();
    let of_one = log.lines().filter(|line| {
        line.contains(REFUSED)
            && line.contains(&address["http://".len()..address.len() - 7])
            && line.contains("http://127.0.0.1")
    });
    assert!(of_one.count() == 1 && !log.contains("/secret"), "{log}");
}

#[test]
fn only_what_is_allowed_is_sent_to() {
    let server = Server::with(&["--transports-http-push-allow", "127.0.0.2, *.invalid"]);
    let elsewhere = Sink::start();
    let allowed = Sink::on(([127, 0, 0, 2], 0).into());
    for (id, address) in [("a", elsewhere.url("/")), ("b", allowed.url("/"))] {
        server
            .client()
            .create(id, i64::MAX, json!({"resonate:target": address}));
    }
    assert_eq!(allowed.next().message["data"]["task"]["id"], "b");
    server.logs("not in transports.http_push.allow");
    assert!(elsewhere.is_idle());
}

/// A proxy would resolve names where nobody checks what they resolve to.
#[test]
fn no_proxy_of_the_environment_is_used() {
    let proxy = Sink::start();
    let variables = ["HTTP_PROXY", "http_proxy", "ALL_PROXY", "all_proxy"];
    let url = proxy.url("");
    let server = Server::with_env(&[], &variables.map(|name| (name, &*url)));
    let sink = Sink::start();
    let tags = json!({"resonate:target": sink.url("/")});
    server.client().create("x", i64::MAX, tags);
    assert_eq!(sink.next().message["data"]["task"]["id"], "x");
    assert!(proxy.is_idle());
}
