//! The HTTP push transport (transports §4) and the delivery of its messages (§7).

use std::time::Duration;

use serde_json::{Value, json};

use crate::harness::process::Signal;
use crate::harness::record::timed_out;
use crate::harness::server::{Server, forgets_on_restart, shared, unique};
use crate::harness::sink::{Answer, Sink};

fn to(address: &str) -> Value {
    json!({"resonate:target": address})
}

#[test]
fn an_execute_is_posted_to_the_target() {
    let server = Server::with(&["--server-url", "https://resonate.example"]);
    let sink = Sink::start();
    server
        .client()
        .create("x", i64::MAX, to(&sink.url("/work?group=g")));
    let delivery = sink.next();
    assert_eq!(delivery.start, "POST /work?group=g HTTP/1.1");
    assert_eq!(delivery.content_type.as_deref(), Some("application/json"));
    assert_eq!(delivery.authorization, None);
    assert_eq!(
        delivery.message,
        json!({
            "kind": "execute",
            "head": {"serverUrl": "https://resonate.example"},
            "data": {"task": {"id": "x", "version": 0}},
        })
    );
}

#[test]
fn an_unblock_is_posted_to_the_listener() {
    let server = shared();
    let sink = Sink::start();
    let id = unique("p");
    server.client().create(&id, i64::MAX, json!({"k": "é漢😀"}));
    server.client().listen(&id, &sink.url("/listen"));
    let settled = server.client().settle(&id, "rejected");
    let delivery = sink.next();
    assert_eq!(delivery.path(), "/listen");
    assert_eq!(delivery.content_type.as_deref(), Some("application/json"));
    assert_eq!(delivery.message["kind"], "unblock");
    assert!(delivery.message["head"].is_object(), "{delivery:?}");
    assert_eq!(delivery.message["data"], json!({"promise": settled}));
}

#[test]
fn the_unblock_of_a_deadline_is_posted_by_itself() {
    let server = shared();
    let sink = Sink::start();
    let promise = server.client().listen_before_deadline(&sink.url("/"));
    let delivery = sink.next();
    assert_eq!(
        delivery.message["data"],
        json!({"promise": timed_out(&promise)})
    );
}

#[test]
fn any_2xx_acknowledges() {
    // Retried, an unblock would come again before the one sent after it.
    let server = shared();
    let sink = Sink::scripted(vec![201.into(), 204.into(), 299.into()]);
    for _ in 0..4 {
        let id = unique("p");
        server.client().create(&id, i64::MAX, json!({}));
        server.client().listen(&id, &sink.url("/"));
        server.client().settle(&id, "resolved");
        assert_eq!(sink.next().message["data"]["promise"]["id"], id);
    }
}

#[test]
fn an_unacknowledged_unblock_is_retried() {
    // In parallel, because each waits for its first retry (about a second).
    let server = shared();
    let sinks = [500, 404, 400, 429].map(|status| Sink::scripted(vec![status.into()]));
    let ids = sinks.each_ref().map(|sink| {
        let id = unique("p");
        server.client().create(&id, i64::MAX, json!({}));
        server.client().listen(&id, &sink.url("/"));
        server.client().settle(&id, "resolved");
        id
    });
    for (sink, id) in sinks.iter().zip(&ids) {
        let first = sink.next();
        assert_eq!(first.message["data"]["promise"]["id"], **id);
        assert_eq!(sink.next().message, first.message);
    }
}

#[test]
fn an_unblock_for_a_listener_that_is_down_reaches_it_once_it_is_up() {
    let server = shared();
    // A port that was free a moment ago; the listener is started on it after the first attempt.
    let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let addr = listener.local_addr().unwrap();
    drop(listener);
    let id = unique("p");
    server.client().create(&id, i64::MAX, json!({}));
    server.client().listen(&id, &format!("http://{addr}/"));
    let settled = server.client().settle(&id, "resolved");
    let sink = Sink::on(addr);
    assert_eq!(sink.next().message["data"], json!({"promise": settled}));
}

#[test]
fn a_redirect_is_not_followed_and_counts_as_not_delivered() {
    let server = shared();
    let elsewhere = Sink::start();
    let redirect = Answer {
        status: 307,
        location: Some(elsewhere.url("/elsewhere")),
    };
    let sink = Sink::scripted(vec![redirect]);
    let id = unique("p");
    server.client().create(&id, i64::MAX, json!({}));
    server.client().listen(&id, &sink.url("/here"));
    server.client().settle(&id, "resolved");
    assert_eq!(sink.next().path(), "/here");
    assert_eq!(sink.next().path(), "/here");
    assert!(elsewhere.is_idle());
}

#[test]
fn an_execute_that_failed_is_dispatched_again_after_the_retry_timeout() {
    let server = Server::with(&["--tasks-retry-timeout", "150"]);
    let sink = Sink::scripted(vec![500.into()]);
    server.client().create("x", i64::MAX, to(&sink.url("/")));
    for _ in 0..2 {
        assert_eq!(sink.next().message["data"]["task"]["id"], "x");
    }
}

#[test]
fn an_undelivered_unblock_survives_kill_9() {
    if forgets_on_restart() {
        return;
    }
    let server = Server::start();
    let sink = Sink::scripted(vec![503.into()]);
    server.client().create("p", i64::MAX, json!({}));
    server.client().listen("p", &sink.url("/"));
    let settled = server.client().settle("p", "resolved");
    let expected = json!({"promise": settled});
    assert_eq!(sink.next().message["data"], expected);
    let _server = server.restart(Signal::Kill);
    assert_eq!(sink.next().message["data"], expected);
}

#[test]
fn a_delivered_unblock_is_not_repeated_after_a_graceful_restart() {
    if forgets_on_restart() {
        return;
    }
    let server = Server::start();
    let sink = Sink::start();
    for id in ["a", "b", "c"] {
        server.client().create(id, i64::MAX, json!({}));
        server.client().listen(id, &sink.url("/"));
        server.client().settle(id, "resolved");
        sink.next();
    }
    let server = server.restart(Signal::Term);
    // Sent by the same start that would repeat the others.
    server.client().create("x", i64::MAX, to(&sink.url("/")));
    assert_eq!(sink.next().message["kind"], "execute");
    std::thread::sleep(Duration::from_millis(300));
    assert!(sink.is_idle());
}

#[test]
fn a_slow_worker_does_not_hold_up_the_others() {
    // Workers answer only after running until blocked (transports §4).
    let server = shared();
    let slow = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let address = format!("http://{}/", slow.local_addr().unwrap());
    for _ in 0..3 {
        server.client().create(&unique("x"), i64::MAX, to(&address));
    }
    // It takes the connections and never answers.
    let _held: Vec<_> = (0..3).map(|_| slow.accept().unwrap()).collect();
    let sink = Sink::start();
    let id = unique("x");
    server.client().create(&id, i64::MAX, to(&sink.url("/")));
    assert_eq!(sink.next().message["data"]["task"]["id"], id);
}

#[test]
fn a_disabled_transport_delivers_nothing_and_harms_nothing() {
    let server = Server::with(&["--transports-http-push-enabled", "false"]);
    let sink = Sink::start();
    server.client().create("x", i64::MAX, to(&sink.url("/")));
    server.client().listen("x", &sink.url("/"));
    server.client().settle("x", "resolved");
    // A stream of the other transport is served all the same, after whatever came before.
    let stream = crate::harness::sse::Stream::open(&server, "g", "w");
    server.client().create("y", i64::MAX, to("poll://any@g"));
    assert_eq!(stream.next_execute().0, "y");
    assert!(sink.is_idle());
}
