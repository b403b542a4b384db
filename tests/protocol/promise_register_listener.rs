//! `promise.register_listener` (protocol §8). Which addresses can listen (row 2) is in `addresses`.

use serde_json::json;

use crate::harness::record::{target, timed_out};
use crate::harness::server::{Server, shared};
use crate::harness::snap::pairs;

#[test]
fn row_1_awaited_and_address_are_required() {
    let server = shared();
    for (awaited, address, message) in [
        ("", "http://h", "Awaited promise ID is required"),
        ("a", "", "Address is required"),
    ] {
        let data = json!({"awaited": awaited, "address": address});
        server.refused("promise.register_listener", data, 400, message);
    }
}

#[test]
fn row_3_an_unknown_promise() {
    shared().refused(
        "promise.register_listener",
        json!({"awaited": "no-such-promise", "address": "http://h"}),
        404,
        "Awaited promise not found",
    );
}

#[test]
fn row_4_a_listener_is_recorded_once_per_address_and_arms_the_promise() {
    let server = Server::controlled();
    let at = server.at(1_000);
    let promise = at.create("a", 90_000, json!({}));
    assert_eq!(at.snap().armed("a"), None);
    let addresses = [
        "HTTPS://Host:8080/p?q=1",
        "POLL://any@G",
        "gcps://p/t",
        "http://h",
        "poll://any@g",
        "poll://any@g/",
        "poll://any@g/x",
        "poll://uni@g/x",
        "poll://uni@g/x/y z",
    ];
    for address in addresses {
        assert_eq!(at.listen("a", address), promise);
        assert_eq!(at.listen("a", address), promise);
    }
    let snap = at.snap();
    let expected = addresses.map(|address| ("a", address));
    assert_eq!(snap.listeners(), pairs(&expected));
    assert_eq!(snap.armed("a"), Some(90_000));
    assert_eq!(snap.0["messages"], json!([]));
}

#[test]
fn row_5_a_settled_promise_takes_no_listener_and_no_message_follows() {
    let server = Server::controlled();
    server.at(1_000).create("a", 90_000, json!({}));
    let late = server.at(1_000).create("late", 2_000, json!({}));
    let settled = server.at(1_500).settle("a", "resolved");
    let at = server.at(2_000);
    for _ in 0..2 {
        assert_eq!(at.listen("a", "poll://uni@g/x"), settled);
        assert_eq!(at.listen("late", "poll://uni@g/x"), timed_out(&late));
    }
    at.tick();
    let snap = at.snap();
    assert_eq!(snap.listeners(), []);
    assert_eq!(snap.unblocks(), []);
}

#[test]
fn a_targeted_promise_can_be_listened_to() {
    let server = Server::controlled();
    let at = server.at(1_000);
    let promise = at.create("a", 90_000, target());
    assert_eq!(at.listen("a", "poll://uni@g/x"), promise);
    assert_eq!(at.snap().listeners(), pairs(&[("a", "poll://uni@g/x")]));
}
