//! The log: its formats, what it tells of requests, and its level while the server runs (configuration §2,
//! `level`, `observability.log_format`, `observability.slow_request`).

use std::fs;

use serde_json::{Value, json};

use crate::harness::process::Signal;
use crate::harness::server::{Server, run_to_exit, unique};

const LEVEL: [&str; 2] = ["--level", "resonate=debug"];
const JSON: [&str; 2] = ["--observability-log-format", "json"];
const PARENT: &str = "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01";
const TRACE_ID: &str = "4bf92f3577b34da6a3ce929d0e0e4736";

/// The lines of a log that is JSON.
#[track_caller]
fn objects(log: &str) -> Vec<Value> {
    let object = |line: &str| {
        let object: Value = serde_json::from_str(line).expect(line);
        for member in ["timestamp", "level", "target"] {
            assert!(object[member].is_string(), "{line}");
        }
        assert!(object["fields"].is_object(), "{line}");
        object
    };
    log.lines().map(object).collect()
}

#[track_caller]
fn line_of(objects: &[Value], message: &str, kind: &str) -> Value {
    let is_it = |object: &&Value| {
        object["fields"]["message"] == message && object["fields"]["kind"] == kind
    };
    let line = objects.iter().find(is_it);
    line.unwrap_or_else(|| panic!("no {message} of {kind} in {objects:#?}"))
        .clone()
}

fn create(server: &Server, corr_id: &str, headers: &[(&str, &str)]) {
    let data = json!({"id": unique("p"), "timeoutAt": i64::MAX, "param": {"data": "s3cret"}});
    let head = json!({"corrId": corr_id, "version": "2026-04-01"});
    let body = json!({"kind": "promise.create", "head": head, "data": data}).to_string();
    server
        .post_with(headers, body.as_bytes())
        .expect_status(200);
}

#[test]
fn a_log_may_be_json_with_a_line_for_every_request() {
    let server = Server::single_with(&[LEVEL, JSON].concat());
    create(&server, "a\n\"b", &[("traceparent", PARENT)]);
    server.logs("promise.create");
    let log = server.log();
    let objects = objects(&log);
    let request = line_of(&objects, "request", "promise.create");
    assert_eq!(request["level"], "DEBUG");
    let fields = &request["fields"];
    assert_eq!(fields["corr_id"], "a\n\"b");
    assert_eq!(fields["status"], 200);
    assert_eq!(fields["trace_id"], TRACE_ID);
    assert!(fields["elapsed_us"].is_number(), "{request}");
    assert!(!log.contains("s3cret"), "{log}");
    // Where the server listens is told whatever the format.
    let has_address = |object: &Value| object["fields"]["addr"].is_string();
    assert!(objects.iter().any(has_address), "{log}");
}

#[test]
fn a_log_of_text_tells_of_requests_too() {
    let server = Server::single_with(&LEVEL);
    create(&server, "c1", &[("traceparent", PARENT)]);
    server.logs(&format!("trace_id={TRACE_ID}"));
    let server = Server::single_with(&LEVEL);
    create(&server, "c1", &[]);
    server.logs("corr_id=\"c1\"");
    assert!(!server.log().contains("trace_id"), "{}", server.log());
}

#[test]
fn a_slow_request_is_told_with_its_parts() {
    // What is read, parsed, copied and stored for so large a body takes longer on any machine.
    let server = Server::single_with(&[&JSON[..], &["--observability-slow-request", "1"]].concat());
    let large = "x".repeat(8 << 20);
    let data = json!({"id": unique("p"), "timeoutAt": i64::MAX, "param": {"data": large}});
    server.ok("promise.create", data);
    server.logs("slow request");
    let slow = line_of(&objects(&server.log()), "slow request", "promise.create");
    assert_eq!(slow["level"], "WARN");
    for part in [
        "took_ms",
        "queue_ms",
        "load_ms",
        "decide_ms",
        "commit_ms",
        "others",
    ] {
        assert!(slow["fields"][part].is_number(), "{part}: {slow}");
    }
}

#[test]
fn an_unknown_format_is_refused() {
    let home = tempfile::tempdir().unwrap();
    let args = ["serve", "--observability-log-format", "xml"];
    let exit = run_to_exit(&args, &[], home.path());
    assert_eq!(exit.code, Some(1), "{exit:?}");
    let reason = "observability.log_format must be 'text' or 'json' (got 'xml')";
    assert!(exit.stderr.contains(reason), "{exit:?}");
}

#[test]
fn the_level_is_read_again_on_sighup() {
    let server = Server::single_with(&[]);
    let path = server.home().join("resonate.toml");
    let hang_up = |toml: &str, told: &str| {
        fs::write(&path, toml).unwrap();
        server.signal(Signal::Hup);
        server.logs(told);
    };
    create(&server, "before", &[]);
    hang_up(
        "level = \"debug\"",
        "the log level was changed from=\"info\" to=\"debug\"",
    );
    create(&server, "during", &[]);
    server.logs("during");
    // What cannot be used leaves the level as it is.
    hang_up("level = \"loud\"", "Unknown log level: 'loud'");
    create(&server, "still", &[]);
    server.logs("still");
    hang_up(
        "level =",
        "stays as it is error=Configuration error: resonate.toml",
    );
    hang_up("level = \"info\"", "from=\"debug\" to=\"info\"");
    create(&server, "after", &[]);
    hang_up("", "from=\"info\" to=\"info\"");
    let log = server.log();
    assert!(!log.contains("before") && !log.contains("after"), "{log}");
}

#[test]
fn a_level_of_the_environment_stays() {
    let env = [("RUST_LOG", "resonate=debug")];
    let server = Server::single_with_env(&[], &env);
    server.signal(Signal::Hup);
    server.logs("the log level stays as RUST_LOG has it");
    create(&server, "here", &[]);
    server.logs("here");
}
