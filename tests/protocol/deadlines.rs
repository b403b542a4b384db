//! Which promises have a durable timeout, and what it does (semantics §7, D-02, C1).

use serde_json::{Value, json};

use crate::harness::record::{settled, target, task, timed_out, timer, with};
use crate::harness::server::Server;

#[test]
fn armed_at_birth_exactly_when_targeted_timer_or_external() {
    let server = Server::controlled();
    let at = server.at(1_000);
    let cases: [(&str, Value, bool); 8] = [
        ("plain", json!({}), false),
        (
            "sdk",
            json!({"resonate:scope": "local", "resonate:origin": "x"}),
            false,
        ),
        ("timer-no", json!({"resonate:timer": "false"}), false),
        ("external-no", json!({"resonate:external": "yes"}), false),
        ("targeted", target(), true),
        ("timer", timer(), true),
        ("external", json!({"resonate:external": "true"}), true),
        ("both", with(timer(), target()), true),
    ];
    for (id, tags, is_armed) in &cases {
        at.create(id, 5_000, tags.clone());
        assert_eq!(at.snap().armed(id), is_armed.then_some(5_000), "{id}");
    }
    // Who is not armed is not even touched by the passing of its deadline.
    server.at(5_000).tick();
    let snap = server.at(5_000).snap();
    assert_eq!(snap.0["promiseTimeouts"], json!([]));
    for (id, _, is_armed) in &cases {
        let is_stored_settled = snap.promise(id)["state"] != "pending";
        assert_eq!(is_stored_settled, *is_armed, "{id}");
        assert_ne!(server.at(5_000).get(id)["state"], "pending", "{id}");
    }
}

#[test]
fn armed_by_the_first_obligation_until_settlement() {
    let server = Server::controlled();
    let at = server.at(1_000);
    at.own("x", 90_000, 60_000);
    for id in ["callback", "listener", "suspend"] {
        at.create(id, 5_000, json!({}));
        assert_eq!(at.snap().armed(id), None);
    }
    at.await_by("callback", "x");
    at.listen("listener", "poll://uni@g/1");
    at.suspend("x", 1, &["suspend"]).expect(200, &json!({}));
    for id in ["callback", "listener", "suspend"] {
        assert_eq!(at.snap().armed(id), Some(5_000), "{id}");
    }
    // The awaiter's end does not disarm what it awaited.
    at.settle("x", "resolved");
    assert_eq!(at.snap().armed("callback"), Some(5_000));
    at.settle("listener", "resolved");
    assert_eq!(at.snap().armed("listener"), None);
}

#[test]
fn nobody_is_armed_by_a_refused_or_pointless_obligation() {
    let server = Server::controlled();
    let at = server.at(1_000);
    at.create("a", 5_000, json!({}));
    at.create("done", 5_000, json!({}));
    at.settle("done", "resolved");
    at.own("x", 90_000, 60_000);
    at.suspend("x", 1, &["a", "done"])
        .expect(300, &json!({"preload": []}));
    at.call(
        "task.suspend",
        crate::harness::record::suspend("x", 1, &["a", "none"]),
    )
    .expect_status(422);
    let data = json!({"awaited": "a", "address": "nowhere"});
    at.call("promise.register_listener", data)
        .expect_status(400);
    assert_eq!(at.snap().armed("a"), None);
}

#[test]
fn a_deadline_fires_at_its_instant_whenever_the_pass_runs() {
    let server = Server::controlled();
    let at = server.at(1_000);
    let external = at.create("e", 5_000, json!({"resonate:external": "true"}));
    let sleep = at.create("s", 5_000, timer());
    let work = at.create("w", 5_000, target());
    server.at(4_999).tick();
    assert_eq!(server.at(4_999).snap().armed("e"), Some(5_000));
    assert_eq!(*server.at(4_999).snap().promise("s"), sleep);
    server.at(77_000).tick();
    let snap = server.at(77_000).snap();
    assert_eq!(*snap.promise("e"), timed_out(&external));
    assert_eq!(*snap.promise("s"), settled(&sleep, "resolved", 5_000));
    assert_eq!(*snap.promise("w"), timed_out(&work));
    assert_eq!(*snap.task("w"), task("w", "fulfilled", 0, 0));
    // A second pass finds nothing to do.
    server.at(77_000).tick();
    assert_eq!(server.at(77_000).snap().0, snap.0);
}

#[test]
fn hundreds_of_deadlines_fire_in_one_pass() {
    let server = Server::controlled();
    for number in 0..250 {
        server
            .at(1_000)
            .create(&format!("s{number:03}"), 5_000, timer());
    }
    server.at(5_000).tick();
    let snap = server.at(5_000).snap();
    assert_eq!(snap.0["promiseTimeouts"], json!([]));
    let promises = snap.0["promises"].as_array().unwrap();
    assert_eq!(promises.len(), 250);
    assert!(
        promises
            .iter()
            .all(|promise| promise["state"] == "resolved")
    );
}

#[test]
fn a_chain_of_deadlines_is_one_complete_pass() {
    // The root awaits a child that awaits a grandchild; each resumes the next only by settling.
    let server = Server::controlled();
    let at = server.at(1_000);
    at.create("root.1.1", 3_000, json!({}));
    at.own("root.1", 3_000, 60_000);
    at.own("root", 90_000, 60_000);
    at.suspend("root", 1, &["root.1"]).expect(200, &json!({}));
    at.suspend("root.1", 1, &["root.1.1"])
        .expect(200, &json!({}));
    at.listen("root.1", "poll://uni@g/1");
    server.at(3_000).tick();
    let snap = server.at(3_000).snap();
    assert_eq!(*snap.task("root.1"), task("root.1", "fulfilled", 1, 0));
    assert_eq!(*snap.task("root"), task("root", "pending", 1, 1));
    assert_eq!(snap.executes(), [("root".to_owned(), 1)]);
    assert_eq!(snap.callbacks(), []);
    let unblocks = snap.unblocks();
    assert_eq!(unblocks.len(), 1);
    assert_eq!(unblocks[0].1, server.at(3_000).get("root.1"));
}
