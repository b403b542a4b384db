//! What fails, what is told, and with which exit code (cli §1).

use std::process::{Command, Stdio};

use serde_json::json;

use super::fake::{answer, response};
use crate::harness::command::{Done, command, run};
use crate::harness::server::{free_port, shared_single, unique};

#[track_caller]
fn expect_error(done: &Done, sentence: &str) {
    done.expect(1, "", &format!("Error: {sentence}\n"));
}

#[test]
fn refusals_are_told_as_plain_text() {
    let server = shared_single();
    let id = unique("refused");
    server.client().create(&id, i64::MAX, json!({}));
    for (args, sentence) in [
        (&["promises", "get", "nobody"][..], "Promise not found"),
        (&["promises", "get", ""], "Promise ID is required"),
        (&["tasks", "get", "nobody"], "Task not found"),
        (
            &["promises", "search", "--limit", "-1"],
            "Limit must be a positive integer",
        ),
        (
            &["tasks", "release", "nobody", "--version", "-1"],
            "Version must be a non-negative integer",
        ),
        (
            &["promises", "register-callback", &id, "nobody"],
            "Awaiter promise not found",
        ),
        (&["schedules", "delete", "nobody"], "Schedule not found"),
        (&["tree", "nobody"], "Promise not found"),
        (&["promises", "await", "nobody"], "Promise not found"),
        (
            &["invoke", "x", "-f", "f", "--target", "nowhere"],
            "Invalid resonate:target address",
        ),
        (
            &["invoke", "x", "-f", "f", "--target", "nowhere", "--wait"],
            "Invalid resonate:target address",
        ),
    ] {
        expect_error(&server.cli(args), sentence);
    }
}

#[test]
fn bad_input_is_told_by_the_name_of_its_flag() {
    let server = shared_single();
    let not_json = "expected ident at line 1 column 2";
    let create = ["promises", "create", "bad", "--timeout", "1h"];
    let held = ["--version", "1"];
    let schedule = [
        "schedules",
        "create",
        "bad",
        "--cron",
        "* * * * *",
        "--promise-id",
        "x",
        "--promise-timeout",
        "1h",
    ];
    for (command, flag) in [
        (&create[..], "--param"),
        (&create, "--tags"),
        (&["promises", "resolve", "bad"], "--value"),
        (&["promises", "reject", "bad"], "--data"),
        (&["promises", "search"], "--tags"),
        (
            &[&["tasks", "fence", "bad"], &held[..]].concat(),
            "--action",
        ),
        (
            &[&["tasks", "suspend", "bad"], &held[..]].concat(),
            "--actions",
        ),
        (
            &[&["tasks", "complete", "bad"], &held[..]].concat(),
            "--action",
        ),
        (&["tasks", "heartbeat", "--pid", "p"], "--tasks"),
        (&schedule, "--promise-param"),
        (&schedule, "--promise-tags"),
        (&["schedules", "search"], "--tags"),
    ] {
        let done = server.cli(&[command, &[flag, "nope"]].concat());
        expect_error(&done, &format!("Invalid {flag} JSON: {not_json}"));
    }
    let invoke = ["invoke", "bad", "--func", "f"];
    let done = server.cli(&[&invoke[..], &["--json-args", "nope"]].concat());
    expect_error(&done, &format!("Failed to parse --json-args: {not_json}"));
    let done = server.cli(&[&invoke[..], &["--json-args", "{}"]].concat());
    expect_error(
        &done,
        "Failed to parse --json-args: invalid type: map, expected a sequence at line 1 column 0",
    );
    for version in ["0", "-1"] {
        let done = server.cli(&[&invoke[..], &["--version", version]].concat());
        expect_error(&done, "version must be greater than 0");
    }
    server.refused(
        "promise.get",
        json!({"id": "bad"}),
        404,
        "Promise not found",
    );
}

#[test]
fn bad_usage_is_told_with_exit_code_2() {
    let server = shared_single();
    for (args, told) in [
        (&["promises"][..], "Usage: resonate promises"),
        (&["promises", "create", "x"], "--timeout <DURATION>"),
        (
            &["promises", "create", "x", "--timeout", "42"],
            "Missing unit in duration '42'",
        ),
        (
            &["promises", "create", "x", "--timeout", "5w"],
            "Unknown unit 'w' in duration '5w'",
        ),
        (
            &["invoke", "x", "-f", "f", "--delay", "0s"],
            "Invalid duration '0s'",
        ),
        (
            &["promises", "search", "--state", "lost"],
            "rejected_timedout",
        ),
        (
            &["promises", "resolve", "x", "--value", "1", "--data", "1"],
            "cannot be used with",
        ),
        (&["invoke", "x"], "--func <NAME>"),
        (
            &["tasks", "claim", "x", "--pid", "p", "--ttl", "1s"],
            "--version <N>",
        ),
        (&["get", "x"], "unrecognized subcommand 'get'"),
        (
            &["-o", "yaml", "promises", "get", "x"],
            "possible values: text, json",
        ),
    ] {
        let done = server.cli(args);
        assert!(
            done.code == Some(2) && done.stdout.is_empty() && done.stderr.contains(told),
            "{args:?}: {done:?}"
        );
    }
}

#[test]
fn version_and_help_are_everywhere() {
    let server = shared_single();
    let version = concat!("resonate ", env!("CARGO_PKG_VERSION"), "\n");
    for args in [&["-V"][..], &["--version"]] {
        server.cli(args).expect(0, version, "");
    }
    // `--version` is the task's there, or the function's.
    for args in [
        &["promises", "get", "-V"][..],
        &["tasks", "claim", "-V"],
        &["invoke", "-V"],
    ] {
        let done = server.cli(args);
        let told = done.stdout.trim_end().ends_with(env!("CARGO_PKG_VERSION"));
        assert!(done.code == Some(0) && told, "{args:?}: {done:?}");
    }
    // What it refuses it does not offer.
    for (command, is_there) in [("mcp", false), ("tree", true)] {
        let help = server.cli(&[command, "--help"]).stdout;
        assert_eq!(help.contains("--output"), is_there, "{help}");
    }
    for args in [
        &["help", "promises", "await"][..],
        &["promises", "await", "--help"],
    ] {
        let done = server.cli(args);
        let told = done.stdout.contains("$ resonate promises await approval-7");
        assert!(done.code == Some(0) && told, "{done:?}");
    }
}

#[test]
fn a_server_that_is_not_there_is_told() {
    let url = format!("http://127.0.0.1:{}", free_port());
    for args in [
        &["promises", "get", "x"][..],
        &["invoke", "x", "-f", "f", "--wait"],
        &["promises", "await", "x"],
        &["tree", "x", "--watch"],
    ] {
        let done = run(&mut command(&url, args));
        let told = done.stderr.starts_with(&format!(
            "Error: Connection error: {url}: Connection refused"
        ));
        assert!(
            done.code == Some(1) && done.stdout.is_empty() && told,
            "{done:?}"
        );
    }
    for (url, told) in [
        ("localhost:8001", "it must begin with http:// or https://"),
        ("ftp://a", "it must begin with http:// or https://"),
        ("http://", "empty host"),
        ("nope", "relative URL without a base"),
    ] {
        let done = run(&mut command("", &["-S", url, "promises", "get", "x"]));
        expect_error(
            &done,
            &format!("Connection error: invalid server URL '{url}': {told}"),
        );
    }
}

#[test]
fn what_is_no_answer_is_told() {
    let moved = "HTTP/1.1 308 Permanent Redirect\r\nlocation: http://127.0.0.1:9/\r\n\
                 content-length: 0\r\n\r\n";
    for (bytes, told) in [
        (
            &response("502 Bad Gateway", "<html>")[..],
            "expected value at line 1 column 1 (HTTP 502 Bad Gateway)",
        ),
        (
            &response("200 OK", "{}"),
            "missing field `head` at line 1 column 2 (HTTP 200 OK)",
        ),
        // Not followed: the token is for this server alone.
        (
            moved,
            "EOF while parsing a value at line 1 column 0 (HTTP 308 Permanent Redirect)",
        ),
    ] {
        let (url, _asked) = answer(bytes);
        let done = run(&mut command(&url, &["promises", "get", "x"]));
        expect_error(&done, &format!("Failed to parse response: {told}"));
    }
    let (url, _asked) = answer("HTTP/1.1 200 OK\r\ncontent-length: 100\r\n\r\n{\"head\"");
    let done = run(&mut command(&url, &["promises", "get", "x"]));
    let told = done
        .stderr
        .starts_with(&format!("Error: Connection error: {url}: "));
    assert!(done.code == Some(1) && told, "{done:?}");
}

#[test]
fn a_reader_that_has_seen_enough_is_no_failure() {
    let server = shared_single();
    let id = unique("broken-pipe");
    // More than a pipe holds.
    let long = "x".repeat(50_000);
    let tags = json!({"a": long, "b": long, "c": long});
    server.client().create(&id, i64::MAX, tags);
    let line = format!(
        "'{}' promises get {id} | head -n 1",
        env!("CARGO_BIN_EXE_resonate")
    );
    let mut shell = Command::new("bash");
    shell
        .args(["-c", &format!("set -o pipefail; {line}")])
        .env("RESONATE_URL", server.url());
    run(&mut shell).expect(0, "{\n", "");
}

#[test]
fn an_output_that_cannot_be_written_is_a_failure() {
    let full = std::fs::OpenOptions::new().write(true).open("/dev/full");
    let Ok(full) = full else {
        return eprintln!("SKIPPED: this system has no /dev/full");
    };
    let server = shared_single();
    let output = server
        .command(&["promises", "search"])
        .stdout(Stdio::from(full))
        .output()
        .expect("the binary starts");
    assert_eq!(output.status.code(), Some(1));
    assert_eq!(
        String::from_utf8_lossy(&output.stderr),
        "Error: cannot write the output: No space left on device (os error 28)\n"
    );
}
