//! The HTTP push transport (transports §4) and the delivery of its messages (§7).

use std::net::{SocketAddr, TcpListener, TcpStream};
use std::sync::{Mutex, mpsc};
use std::time::Duration;

use serde_json::{Value, json};
use socket2::{Domain, Socket, Type};

use crate::harness::process::Signal;
use crate::harness::record::timed_out;
use crate::harness::server::{Server, lock, shared, unique};
use crate::harness::sink::{Answer, Sink};
use crate::harness::sse::Stream;
use crate::harness::store::forgets_on_restart;

/// For executes that are to be repeated before the test gives up.
const SOON: [&str; 2] = ["--tasks-retry-timeout", "500"];

fn to(address: &str) -> Value {
    json!({"resonate:target": address})
}

/// A settled promise whose listener is `address`.
fn unblock(server: &Server, id: &str, address: &str) -> Value {
    server.client().create(id, i64::MAX, json!({}));
    server.client().listen(id, address);
    server.client().settle(id, "resolved")
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
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
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
    let redirect = Answer::Redirect {
        status: 307,
        location: elsewhere.url("/elsewhere"),
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
fn a_push_that_takes_too_long_is_repeated() {
    let limit = ["--transports-http-push-request-timeout", "100"];
    let server = Server::with(&[&limit[..], &SOON].concat());
    let [listener, worker] = [(); 2].map(|()| Sink::scripted(vec![Answer::Silence]));
    unblock(&server, "p", &listener.url("/"));
    server.client().create("x", i64::MAX, to(&worker.url("/")));
    for sink in [&listener, &worker] {
        let first = sink.next();
        assert_eq!(sink.next().message, first.message);
    }
    server.logs("reason=\"timeout\"");
}

#[test]
fn a_target_that_takes_too_long_to_connect_to_is_tried_again() {
    let server = Server::with(&["--transports-http-push-connect-timeout", "100"]);
    // Nobody accepts, and the one place for who waits is taken: the kernel ignores who comes next.
    let full = Socket::new(Domain::IPV4, Type::STREAM, None).unwrap();
    let any = SocketAddr::from(([127, 0, 0, 1], 0));
    full.bind(&any.into()).unwrap();
    full.listen(0).unwrap();
    let listener = TcpListener::from(full);
    let addr = listener.local_addr().unwrap();
    let _first = TcpStream::connect(addr).unwrap();
    let settled = unblock(&server, "p", &format!("http://{addr}/"));
    server.logs("reason=\"timeout\"");
    let sink = Sink::over(listener, |_| 200.into());
    assert_eq!(sink.next().message["data"], json!({"promise": settled}));
}

#[test]
fn what_was_sent_and_not_acknowledged_is_sent_again_after_kill_9() {
    if forgets_on_restart() {
        return;
    }
    let server = Server::with(&SOON);
    let [listener, worker] = [(); 2].map(|()| Sink::scripted(vec![Answer::Silence]));
    let settled = unblock(&server, "p", &listener.url("/"));
    server.client().create("x", i64::MAX, to(&worker.url("/")));
    let expected = [
        json!({"promise": settled}),
        json!({"task": {"id": "x", "version": 0}}),
    ];
    let sinks = [&listener, &worker];
    let heard = || sinks.map(|sink| sink.next().message["data"].clone());
    assert_eq!(heard(), expected);
    let _server = server.restart(Signal::Kill);
    assert_eq!(heard(), expected);
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
    let slow = TcpListener::bind("127.0.0.1:0").unwrap();
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
fn an_execute_that_became_stale_while_it_waited_for_its_turn_is_not_sent() {
    let server = Server::single_with(&["--transports-http-push-concurrency", "1"]);
    let (open, gate) = mpsc::channel::<()>();
    let gate = Mutex::new(gate);
    let sink = Sink::answering(move |delivery| {
        if delivery.path() == "/first" {
            // Open, too, when the test is over.
            let _ = lock(&gate).recv();
        }
        200.into()
    });
    let create = |name: &str| {
        let address = sink.url(&format!("/{name}"));
        let id = format!("x.{name}");
        server.client().create(&id, i64::MAX, to(&address));
    };
    // In flight, and waiting.
    create("first");
    create("stale");
    server.client().settle("x.stale", "rejected_canceled");
    // Answered once everybody has been told of what came before. It waits in the store.
    create("last");
    drop(open);
    for path in ["/first", "/last"] {
        assert_eq!(sink.next().path(), path);
    }
}

#[test]
fn a_disabled_transport_delivers_nothing_harms_nothing_and_what_waits_leaves_once_it_is_enabled() {
    let flag = |value| ["--transports-http-push-enabled", value];
    let server = Server::with(&[&flag("false")[..], &SOON].concat());
    let sink = Sink::start();
    server.client().create("x", i64::MAX, to(&sink.url("/")));
    let settled = unblock(&server, "p", &sink.url("/"));
    // A stream of the other transport is served all the same, after whatever came before.
    let stream = Stream::open(&server, "g", "w");
    server.client().create("y", i64::MAX, to("poll://any@g"));
    assert_eq!(stream.next_execute().0, "y");
    assert!(sink.is_idle());
    if forgets_on_restart() {
        return;
    }
    let flags = [&flag("true")[..], &SOON].concat();
    let flags: Vec<String> = flags.into_iter().map(str::to_owned).collect();
    let _server = server.restart_with(Signal::Term, &flags);
    let mut missing = vec![
        json!({"promise": settled}),
        json!({"task": {"id": "x", "version": 0}}),
    ];
    while !missing.is_empty() {
        let heard = sink.next();
        missing.retain(|missing| *missing != heard.message["data"]);
    }
}
