//! Starting, stopping, starting again (configuration §1–3).

use std::path::Path;

use serde_json::json;

use crate::harness::client::{Response, VERSION};
use crate::harness::http::Connection;
use crate::harness::process::Signal;
use crate::harness::server::{Exit, Server, Storage, run_to_exit, serve_args};
use crate::harness::sse::Stream;
use crate::harness::store::forgets_on_restart;

fn serve(extra: &[&str], env: &[(&str, &str)], home: &Path) -> Exit {
    let args = serve_args(":memory:");
    let args: Vec<&str> = args
        .iter()
        .map(String::as_str)
        .chain(extra.iter().copied())
        .collect();
    run_to_exit(&args, env, home)
}

#[track_caller]
fn expect_configuration_error(exit: &Exit, reason: &str) {
    let is_told = exit.stderr.lines().any(|line| {
        line.strip_prefix("Fatal: Configuration error: ")
            .is_some_and(|told| told.contains(reason))
    });
    assert!(
        exit.code == Some(1) && is_told,
        "expected exit 1 and `Fatal: Configuration error: … {reason} …`, got {exit:?}"
    );
}

#[test]
fn sigterm_ends_streams_and_exits_0() {
    let mut server = Server::start();
    let streams = ["a", "b"].map(|id| Stream::open(&server, "g", id));
    server.client().create("x", i64::MAX, json!({}));
    server.signal(Signal::Term);
    for stream in &streams {
        stream.expect_end();
    }
    assert_eq!(server.wait(), Some(0), "{}", server.log());
}

#[test]
fn sigterm_with_nothing_open_exits_0() {
    let mut server = Server::start();
    assert_eq!(server.get("/health").status(), 200);
    server.signal(Signal::Term);
    assert_eq!(server.wait(), Some(0), "{}", server.log());
}

#[test]
fn a_request_in_flight_is_answered() {
    let mut server = Server::single();
    let stream = Stream::open(&server, "g", "w");
    let body = json!({
        "kind": "promise.create", "head": {"corrId": "c", "version": VERSION},
        "data": {"id": "x", "timeoutAt": i64::MAX},
    })
    .to_string();
    let mut connection = Connection::open(server.addr()).unwrap();
    let head = format!(
        "POST / HTTP/1.1\r\nhost: localhost\r\nexpect: 100-continue\r\ncontent-length: {}\r\n\r\n",
        body.len()
    );
    connection.write(head.as_bytes()).unwrap();
    // The server asks for the body: the request is in its hands.
    assert_eq!(connection.read_head().unwrap().status, 100);
    server.signal(Signal::Term);
    // The streams end first: the signal has been noticed.
    stream.expect_end();
    connection.write(body.as_bytes()).unwrap();
    let reply = connection.read_reply().unwrap();
    Response::read(body.as_bytes(), &reply).expect_status(200);
    assert_eq!(server.wait(), Some(0), "{}", server.log());
    if forgets_on_restart() {
        return;
    }
    // Acknowledged means on disk.
    let server = server.restart_stopped();
    assert_eq!(server.client().get("x")["state"], "pending");
}

#[test]
fn everything_acknowledged_survives_kill_9() {
    if forgets_on_restart() {
        return;
    }
    let server = Server::with(&["--debug"]);
    let client = server.client();
    client.create("a", i64::MAX, json!({"k": "v"}));
    client.own("x", i64::MAX, i64::MAX);
    client.suspend("x", 1, &["a"]).expect(200, &json!({}));
    client.own("held", i64::MAX, i64::MAX);
    client.create_targeted("y", i64::MAX);
    client.listen("y", "poll://uni@g/1");
    client.halt("y");
    client.create("done", i64::MAX, json!({}));
    client.listen("done", "poll://uni@g/1");
    client.settle("done", "resolved");
    let schedule = json!({
        "id": "s", "cron": "@yearly", "promiseId": "{{.id}}.{{.timestamp}}",
        "promiseTimeout": 1, "promiseTags": {"resonate:target": "poll://any@g"},
    });
    let schedule = client.ok("schedule.create", schedule);
    let before = client.snap();
    let server = server.restart(Signal::Kill);
    let after = server.client().snap();
    for key in [
        "promises",
        "tasks",
        "promiseTimeouts",
        "callbacks",
        "listeners",
        "taskTimeouts",
    ] {
        assert_eq!(after.sorted(key), before.sorted(key), "{key}");
    }
    assert_eq!(after.unblocks(), before.unblocks());
    assert_eq!(server.ok("schedule.get", json!({"id": "s"})), schedule);
}

#[test]
fn a_second_server_on_the_same_file_is_refused() {
    let first = Server::start();
    let Storage::File(path) = first.storage() else {
        eprintln!("SKIPPED: needs a store that is a file");
        return;
    };
    let database = path.display().to_string();
    let home = tempfile::tempdir().unwrap();
    let args = serve_args(&database);
    let args: Vec<&str> = args.iter().map(String::as_str).collect();
    let exit = run_to_exit(&args, &[], home.path());
    assert!(exit.code.is_some_and(|code| code != 0), "{exit:?}");
    assert!(exit.stderr.contains("resonate.db"), "{exit:?}");
    // The first is unharmed, and its file free again once it has gone, however it went.
    first.client().create("x", i64::MAX, json!({}));
    let second = first.restart(Signal::Kill);
    assert_eq!(second.client().get("x")["state"], "pending");
}

#[test]
fn a_port_in_use_is_told() {
    let taken = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let port = taken.local_addr().unwrap().port().to_string();
    let home = tempfile::tempdir().unwrap();
    let args = [
        "serve",
        "--server-bind",
        "127.0.0.1",
        "--server-port",
        &port,
        "--observability-metrics-port",
        "0",
        "--storage-sqlite-path",
        ":memory:",
    ];
    let exit = run_to_exit(&args, &[], home.path());
    assert_eq!(exit.code, Some(1), "{exit:?}");
    let expected = format!("Failed to bind to 127.0.0.1:{port}: ");
    assert!(exit.stderr.contains(&expected), "{exit:?}");
}

#[test]
fn bad_values_are_refused_with_the_reason() {
    let home = tempfile::tempdir().unwrap();
    for (flags, reason) in [
        (
            &["--storage-type", "oracle"][..],
            "Unknown storage backend: 'oracle'. Valid options are 'sqlite' and 'postgres'.",
        ),
        (
            &["--storage-type", "postgres"],
            "storage.type=postgres requires RESONATE_STORAGE__POSTGRES__URL",
        ),
        (
            &["--tasks-retry-timeout", "0"],
            "tasks.retry_timeout must be at least 1 (got 0)",
        ),
        (
            &["--transports-http-push-concurrency", "0"],
            "transports.http_push.concurrency must be at least 1 (got 0)",
        ),
        (
            &["--server-max-body-size", "0"],
            "server.max_body_size must be at least 1 (got 0)",
        ),
        (&["--server-cors-allow-origin", "bad\norigin"], ""),
    ] {
        expect_configuration_error(&serve(flags, &[], home.path()), reason);
    }
}

#[test]
fn a_password_in_a_url_that_is_refused_is_not_shown() {
    let home = tempfile::tempdir().unwrap();
    for url in ["mysql://me:hunter2@db/r", "postgres://me:1/hunter2@db/r"] {
        let env = [("RESONATE_STORAGE__POSTGRES__URL", url)];
        let exit = serve(&["--storage-type", "postgres"], &env, home.path());
        let reason = "storage.postgres.url must be a postgres:// or postgresql:// URL";
        expect_configuration_error(&exit, reason);
        assert!(!exit.stderr.contains("hunter2"), "{exit:?}");
    }
}

#[test]
fn bad_values_of_the_environment_and_of_the_file_are_refused_too() {
    let home = tempfile::tempdir().unwrap();
    let env = [("RESONATE_TASKS__RETRY_TIMEOUT", "0")];
    expect_configuration_error(
        &serve(&[], &env, home.path()),
        "tasks.retry_timeout must be at least 1 (got 0)",
    );
    let env = [("RESONATE_SERVER__SHUTDOWN_TIMEOUT", "soon")];
    expect_configuration_error(&serve(&[], &env, home.path()), "shutdown_timeout");
    std::fs::write(
        home.path().join("resonate.toml"),
        "[tasks]\nlease_timeout = 0\n",
    )
    .unwrap();
    expect_configuration_error(
        &serve(&[], &[], home.path()),
        "tasks.lease_timeout must be at least 1 (got 0)",
    );
    std::fs::write(home.path().join("resonate.toml"), "not toml").unwrap();
    expect_configuration_error(&serve(&[], &[], home.path()), "");
}

#[test]
fn bad_flags_are_a_usage_error() {
    let home = tempfile::tempdir().unwrap();
    for flags in [
        &["--no-such-flag"][..],
        &["--server-port", "often"],
        &["--server-port", "65536"],
        &["--tasks-retry-timeout"],
    ] {
        let exit = serve(flags, &[], home.path());
        assert_eq!(exit.code, Some(2), "{flags:?}: {exit:?}");
    }
}
