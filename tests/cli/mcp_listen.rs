//! `resonate mcp` tells of settled promises (cli §7), whatever happens to the server meanwhile.

use serde_json::{Value, json};

use crate::harness::mcp::Mcp;
use crate::harness::process::Signal;
use crate::harness::record::member;
use crate::harness::scripts::{ENABLED, base64, until};
use crate::harness::server::{Server, free_port, shared, unique, wall_clock_ms};
use crate::harness::store::forgets_on_restart;

const FAR: i64 = 9_007_199_254_740_991;

/// Waits for the notification of a promise, which must be the next; its status, and the record.
#[track_caller]
fn told(mcp: &mut Mcp, id: &str) -> (String, Value) {
    let notification = mcp.notification();
    let params = &notification["params"];
    let status = params["meta"]["status"].as_str().expect("a status");
    let content = params["content"].as_str().expect("content is a text");
    assert_eq!(
        notification,
        json!({
            "jsonrpc": "2.0",
            "method": "notifications/claude/channel",
            "params": {"content": content, "meta": {"handle": id, "status": status}},
        })
    );
    let promise = serde_json::from_str(content).expect("content is JSON");
    (status.to_owned(), promise)
}

/// Makes a pending promise that the client listens to.
#[track_caller]
fn listen(server: &Server, mcp: &mut Mcp, id: &str) {
    let promise = server.client().create(id, FAR, json!({}));
    let answer = mcp.ok("promise-listen", json!({"id": id}));
    assert_eq!(answer, json!({"promise": promise}));
}

#[test]
fn a_promise_that_is_settled_is_told_with_its_record() {
    let server = shared();
    let mut mcp = Mcp::start(&server);
    for (state, status) in [
        ("resolved", "resolved"),
        ("rejected", "rejected"),
        ("rejected_canceled", "canceled"),
    ] {
        let id = unique("mcp");
        listen(&server, &mut mcp, &id);
        let settled = server.client().settle(&id, state);
        assert_eq!(told(&mut mcp, &id), (status.to_owned(), settled));
    }
}

#[test]
fn a_promise_that_times_out_is_told() {
    let server = shared();
    let mut mcp = Mcp::start(&server);
    // A machine that is busy may take its time.
    for window_ms in [100, 1_000, 5_000] {
        let id = unique("mcp");
        let deadline = wall_clock_ms() + window_ms;
        server.client().create(&id, deadline, json!({}));
        let promise = member(mcp.ok("promise-listen", json!({"id": id})), "promise");
        if promise["state"] == "pending" {
            let (status, promise) = told(&mut mcp, &id);
            assert_eq!(status, "timedout");
            assert_eq!(promise["state"], "rejected_timedout");
            return;
        }
    }
    panic!("nobody could listen in time");
}

#[test]
fn a_promise_is_told_once_and_only_to_who_waits_for_its_settlement() {
    let server = shared();
    let mut mcp = Mcp::start(&server);
    let [twice, settled, last] = ["a", "b", "c"].map(unique);
    listen(&server, &mut mcp, &twice);
    mcp.ok("promise-listen", json!({"id": twice}));

    // Nothing follows where nothing is to come.
    server.client().create(&settled, FAR, json!({}));
    let promise = server.client().settle(&settled, "resolved");
    let answer = mcp.ok("promise-listen", json!({"id": settled}));
    assert_eq!(answer, json!({"promise": promise}));
    mcp.refused(
        "promise-listen",
        json!({"id": "nobody"}),
        "Awaited promise not found",
    );

    server.client().settle(&twice, "resolved");
    assert_eq!(told(&mut mcp, &twice).0, "resolved");
    let answer = mcp.ok("promise-listen", json!({"id": twice}));
    assert_eq!(answer["promise"]["state"], "resolved");
    listen(&server, &mut mcp, &last);
    server.client().settle(&last, "rejected");
    assert_eq!(told(&mut mcp, &last).0, "rejected");
    assert_eq!(mcp.close(), (Some(0), Vec::new()));
}

#[test]
fn a_script_is_run_and_its_outcome_told() {
    let server = Server::with(&ENABLED);
    let mut mcp = Mcp::start(&server);
    // It waits to be let go, so that it is pending when it is listened to.
    let script = "while [ ! -e go ]; do sleep 0.02; done; echo \"$0 done\"";
    let arguments = json!({"script": script, "id": "s", "tags": {"team": "a"}});
    let now = wall_clock_ms();
    let started = mcp.ok("resonate-bash", arguments);
    let promise = server.client().get("s");
    assert_eq!(
        started,
        json!({"promise": promise, "listener_registered": true, "target": "bash://"})
    );
    assert_eq!(promise["param"], json!({"data": base64(script)}));
    assert_eq!(
        promise["tags"],
        json!({"resonate:target": "bash://", "team": "a"})
    );
    let timeout = promise["timeoutAt"].as_i64().expect("a time") - now;
    assert!((300_000..360_000).contains(&timeout), "{timeout}");

    std::fs::write(server.home().join("go"), "").expect("a file is written");
    let (status, promise) = told(&mut mcp, "s");
    assert_eq!(status, "resolved");
    let printed = promise["value"]["data"].as_str().expect("a text");
    assert!(printed.ends_with(" done"), "{printed}");

    // It has run: nothing is to come.
    let again = mcp.ok("resonate-bash", json!({"script": "exit 1", "id": "s"}));
    assert_eq!(
        again,
        json!({"promise": promise, "listener_registered": false, "target": "bash://"})
    );
}

#[test]
fn a_script_has_a_name_a_deadline_and_a_target_of_its_own() {
    let server = shared();
    let mut mcp = Mcp::start(&server);
    let now = wall_clock_ms();
    let arguments = json!({
        "script": "true",
        "timeoutMs": 1_000_000,
        "target": "bash://docker/alpine",
        "tags": {"resonate:target": "poll://any@g"},
    });
    let started = mcp.ok("resonate-bash", arguments);
    assert_eq!(started["target"], "bash://docker/alpine");
    let promise = &started["promise"];
    assert_eq!(
        promise["tags"],
        json!({"resonate:target": "bash://docker/alpine"})
    );
    let timeout = promise["timeoutAt"].as_i64().expect("a time") - now;
    assert!((1_000_000..1_060_000).contains(&timeout), "{timeout}");
    let id = promise["id"].as_str().expect("an id");
    let parts: Vec<&str> = id.split('-').collect();
    let is_made_up = matches!(parts[..], ["bash", ms, nanos]
        if ms.parse::<i64>().is_ok() && nanos.parse::<u32>().is_ok());
    assert!(is_made_up, "{id}");
    // What is wrong with it, the server says.
    let arguments = json!({"script": "true", "target": "ftp://x"});
    mcp.refused(
        "resonate-bash",
        arguments,
        "Invalid resonate:target address",
    );
}

#[test]
fn after_a_restart_it_listens_as_before() {
    if forgets_on_restart() {
        return;
    }
    let port = free_port().to_string();
    let server = Server::single_with(&["--server-port", &port]);
    let mut mcp = Mcp::start(&server);
    for id in ["during", "after"] {
        listen(&server, &mut mcp, id);
    }
    let server = server.restart(Signal::Kill);
    // It comes back within 3 s; this is sooner, or at least as good.
    let settled = server.client().settle("during", "resolved");
    assert_eq!(told(&mut mcp, "during"), ("resolved".to_owned(), settled));
    let settled = server.client().settle("after", "rejected");
    assert_eq!(told(&mut mcp, "after"), ("rejected".to_owned(), settled));
    listen(&server, &mut mcp, "new");
    server.client().settle("new", "resolved");
    // No other came twice.
    assert_eq!(told(&mut mcp, "new").0, "resolved");
    assert_eq!(mcp.close(), (Some(0), Vec::new()));
}

#[test]
fn where_the_server_has_forgotten_it_registers_again() {
    let port = free_port().to_string();
    let folder = tempfile::tempdir().expect("a temporary directory can be made");
    let flags = ["--server-port", &port, "--debug"];
    let mut server = Server::on_file(&folder.path().join("first.db"), &flags);
    let mut mcp = Mcp::start(&server);
    for id in ["gone", "kept", "settled"] {
        listen(&server, &mut mcp, id);
    }
    server.signal(Signal::Kill);
    server.wait();
    let server = Server::on_file(&folder.path().join("second.db"), &flags);
    server.client().create("kept", FAR, json!({}));
    server.client().create("settled", FAR, json!({}));
    // Until it is back, nobody would be told of this.
    let settled = server.client().settle("settled", "resolved");
    assert_eq!(told(&mut mcp, "settled"), ("resolved".to_owned(), settled));
    let has_listener = || {
        let listeners = server.client().snap().listeners();
        listeners.iter().any(|(id, _)| id == "kept")
    };
    until("the listener is registered", has_listener);
    server.client().settle("kept", "rejected_canceled");
    assert_eq!(told(&mut mcp, "kept").0, "canceled");
    until("the loss is logged", || {
        mcp.log().contains("no longer awaited")
    });
    assert_eq!(mcp.close(), (Some(0), Vec::new()));
}

#[test]
fn without_a_server_it_goes_on_until_there_is_one() {
    let port = free_port().to_string();
    let mut mcp = Mcp::with(&format!("http://127.0.0.1:{port}/"), &[], &[]);
    let (text, is_error) = mcp.call("promise-listen", json!({"id": "x"}));
    assert!(is_error && text.starts_with("Connection error: "), "{text}");
    let server = Server::single_with(&["--server-port", &port]);
    listen(&server, &mut mcp, "x");
    let settled = server.client().settle("x", "resolved");
    assert_eq!(told(&mut mcp, "x"), ("resolved".to_owned(), settled));
}
