//! The grammar of addresses (transports §1), at every door through which one comes in, and that they are stored and
//! echoed as they were given.

use serde_json::{Value, json};

use crate::harness::record::{create, fence, task_create};
use crate::harness::server::{Server, shared};

/// Of workers and of listeners.
const VALID: [&str; 29] = [
    "http://h",
    "http://h/",
    "HTTP://h",
    "hTTpS://Host:8080/p/../q?a=B&c=%2F#f",
    "http://127.0.0.1:1/x",
    "http://[::1]:8080",
    "http://user:word@h/",
    "http://h/a b%zz",
    "poll://any@g",
    "poll://any@g/",
    "poll://any@g/x",
    "poll://any@g//",
    "poll://uni@g/x",
    "poll://uni@g/x/y z",
    "POLL://any@G",
    "Poll://uni@g%20x/w%2F1",
    "poll://any@g%zz",
    "poll://any@%2F",
    "poll://any@a@b/c@d",
    "poll://any@g?q=1#f",
    "poll://uni@é漢😀/ü",
    "poll://any@any",
    "gcps://p/t",
    "gcps://p/t/u",
    "gcps://p//",
    "GCPS://My-Project/Topic",
    "gcps://p/t%20x",
    "gcps://p%2Fq/t",
    "GcpS://p/t?q",
];

/// Of workers only: nothing could receive an `unblock` there (§6).
const SCRIPTS: [&str; 11] = [
    "bash://",
    "bash:///",
    "bash://bash",
    "bash://bash/",
    "BASH:///",
    "bash:///a.sh",
    "bash:///dir/My Script.sh",
    "bash:///..%2fup.sh",
    "bash:////etc/passwd",
    "bash://docker/img",
    "Bash://docker/registry.example:5000/team/Image:1.2",
];

/// Of nobody.
const INVALID: [&str; 50] = [
    "w1",
    "any@g",
    "://",
    "//g",
    "://any@g",
    " poll://any@g",
    "poll //any@g",
    "http",
    "http:",
    "http:h",
    "http:/h",
    "http://",
    "http:///p",
    "https://?q",
    "https://#f",
    "http://\\h",
    "http://:80/",
    "http://h:99999/",
    "http://a b/",
    "http://[::1/",
    "httpx://h",
    "poll:any@g",
    "poll:/any@g",
    "poll://",
    "poll://g",
    "poll://g/x",
    "poll://@g",
    "poll://w@g",
    "poll://worker-1@default",
    "poll://any@",
    "poll://any@/x",
    "poll://uni@",
    "poll://uni@/x",
    // D-16
    "poll://uni@g",
    "poll://uni@g/",
    "poll://ANY@g",
    "poll://Uni@g/x",
    "poll://an%79@g",
    "gcps://",
    "gcps://p",
    "gcps://p/",
    "gcps:///",
    // D-18
    "gcps:///t",
    "ftp://h/x",
    "nats://h",
    "local://any@g",
    // D-22d
    "bash://docker",
    "bash://docker/",
    "bash://bash/x",
    "bash://BASH",
];

fn tags(address: &str) -> Value {
    json!({"resonate:target": address})
}

#[test]
fn what_is_no_address_is_refused_at_every_door() {
    let server = shared();
    let elsewhere = [
        "bash://elsewhere",
        "bash://tensorlake/",
        "bash://localhost/",
    ];
    for address in INVALID.into_iter().chain(elsewhere) {
        let listener = json!({"awaited": "no-such-promise", "address": address});
        let invalid = "Invalid listener address";
        server.refused("promise.register_listener", listener, 400, invalid);
        refused_as_target(&server, address);
    }
    refused_as_target(&server, "");
}

#[track_caller]
fn refused_as_target(server: &Server, address: &str) {
    let promise = create("refused", i64::MAX, tags(address));
    let schedule = json!({
        "id": "s", "cron": "@yearly", "promiseId": "{{.id}}", "promiseTimeout": 1, "promiseTags": tags(address),
    });
    for (kind, data) in [
        ("promise.create", promise.clone()),
        (
            "task.create",
            task_create("refused", i64::MAX, tags(address)),
        ),
        // The inner action is looked at before the fence is.
        (
            "task.fence",
            fence("no-such-task", 1, "promise.create", promise),
        ),
        ("schedule.create", schedule),
    ] {
        server.refused(kind, data, 400, "Invalid resonate:target address");
    }
}

#[test]
fn a_script_does_not_listen() {
    let server = shared();
    for address in SCRIPTS {
        let data = json!({"awaited": "no-such-promise", "address": address});
        let invalid = "Invalid listener address";
        server.refused("promise.register_listener", data, 400, invalid);
    }
}

#[test]
fn every_valid_address_is_kept_as_it_was_given_whether_its_transport_runs_or_not() {
    let server = Server::controlled_with(&["--transports-http-push-enabled", "false"]);
    let at = server.at(1_000);
    at.create("awaited", i64::MAX, json!({}));
    for address in VALID {
        at.listen("awaited", address);
    }
    for (n, address) in VALID.into_iter().chain(SCRIPTS).enumerate() {
        let id = format!("t{n:02}");
        let promise = at.create(&id, i64::MAX, tags(address));
        assert_eq!(promise["tags"], tags(address));
        assert_eq!(at.get(&id), promise);
        assert_eq!(at.task(&id)["state"], "pending", "{address}");
        let owned = at.ok(
            "task.create",
            task_create(&format!("o{n:02}"), i64::MAX, tags(address)),
        );
        assert_eq!(owned["promise"]["tags"], tags(address));
        let schedule = json!({
            "id": id, "cron": "@yearly", "promiseId": "{{.id}}", "promiseTimeout": 1, "promiseTags": tags(address),
        });
        let schedule = at.ok("schedule.create", schedule);
        assert_eq!(schedule["schedule"]["promiseTags"], tags(address));
    }
    at.settle("awaited", "resolved");
    let snap = at.snap();
    let messages = snap.0["messages"].as_array().unwrap();
    let of_kind = |kind: &str| -> Vec<&str> {
        let messages = messages.iter().filter(|m| m["message"]["kind"] == *kind);
        let mut addresses: Vec<&str> = messages.map(|m| m["address"].as_str().unwrap()).collect();
        addresses.sort_unstable();
        addresses
    };
    let sorted = |addresses: &[&'static str]| {
        let mut addresses = addresses.to_vec();
        addresses.sort_unstable();
        addresses
    };
    assert_eq!(of_kind("unblock"), sorted(&VALID));
    assert_eq!(of_kind("execute"), sorted(&[&VALID[..], &SCRIPTS].concat()));
}

#[test]
fn d18_a_default_project_makes_the_short_topic_form_valid() {
    let server = Server::controlled_with(&["--transports-gcps-project", "home"]);
    let at = server.at(1_000);
    for (id, address) in [("a", "gcps:///t"), ("b", "GCPS:///t/u")] {
        let promise = at.create(id, i64::MAX, tags(address));
        assert_eq!(promise["tags"], tags(address));
        at.listen(id, address);
    }
    for address in ["gcps:///", "gcps://", "gcps://q", "gcps://q/"] {
        refused_as_target(&server, address);
        let data = json!({"awaited": "a", "address": address});
        let invalid = "Invalid listener address";
        server.refused("promise.register_listener", data, 400, invalid);
    }
}
