//! Waiting for a promise: `invoke --wait`, `promises await`.

use std::process::Command;
use std::thread;
use std::time::{Duration, Instant};

use serde_json::{Value, json};

use super::worker::{self, encoded};
use crate::harness::command::{Done, Running, run, start};
use crate::harness::http::DEADLINE;
use crate::harness::process::Signal;
use crate::harness::record::NOBODY;
use crate::harness::server::{Server, free_port, wall_clock_ms};
use crate::harness::sse::Stream;

fn server() -> Server {
    Server::single_with(&["--debug"])
}

/// Waits until so many addresses listen to a promise.
#[track_caller]
fn until_listeners(server: &Server, id: &str, count: usize) {
    let deadline = Instant::now() + DEADLINE;
    loop {
        let snap = server.ok("debug.snap", json!({}));
        let listeners = snap["listeners"].as_array().expect("a list").iter();
        let of_this = listeners.filter(|listener| listener["id"] == id);
        if of_this.count() == count {
            return;
        }
        assert!(Instant::now() < deadline, "{count} do not listen: {snap}");
        thread::sleep(Duration::from_millis(2));
    }
}

/// Starts to wait for a promise that is pending, and is told of its settlement by a stream.
#[track_caller]
fn attach(server: &Server, id: &str, more: &[&str]) -> Running {
    server.client().create(id, i64::MAX, json!({}));
    let waiting = start(&mut server.command(&[&["promises", "await", id], more].concat()));
    until_listeners(server, id, 1);
    waiting
}

#[track_caller]
fn settle(server: &Server, id: &str, state: &str, value: &Value) {
    let value = json!({"headers": {}, "data": encoded(value)});
    let data = json!({"id": id, "state": state, "value": value});
    server.ok("promise.settle", data);
}

#[test]
fn the_outcome_is_printed_decoded_and_is_the_exit_code() {
    let server = server();
    for (id, state, code, told) in [
        ("a", "resolved", 0, ""),
        ("b", "rejected", 1, "Error: b was rejected\n"),
        ("c", "rejected_canceled", 1, "Error: c was canceled\n"),
    ] {
        let waiting = attach(&server, id, &[]);
        settle(&server, id, state, &json!({"answer": [42, "é"]}));
        let printed = "{\n  \"answer\": [\n    42,\n    \"é\"\n  ]\n}\n";
        waiting.end().expect(code, printed, told);
        // Settled already: the same at once.
        server
            .cli(&["promises", "await", id])
            .expect(code, printed, told);
    }
    // A timeout has no value.
    server
        .client()
        .create("late", wall_clock_ms() + 300, json!({}));
    let done = server.cli(&["promises", "await", "late"]);
    done.expect(2, "", "Error: late timed out\n");
}

#[test]
fn with_output_json_the_record_is_printed() {
    let server = server();
    let waiting = attach(&server, "a", &["--output", "json"]);
    settle(&server, "a", "rejected", &json!("no"));
    let record = server.cli(&["promises", "get", "a"]).stdout;
    waiting.end().expect(1, &record, "Error: a was rejected\n");
}

#[test]
fn values_that_are_no_base64_are_printed_as_they_are() {
    let server = server();
    for (id, data, printed) in [
        ("script", json!({"data": "two\nlines"}), "two\nlines\n"),
        ("nothing", json!({}), ""),
        ("empty", json!({"data": ""}), "\n"),
    ] {
        server.client().create(id, i64::MAX, json!({}));
        server.ok(
            "promise.settle",
            json!({"id": id, "state": "resolved", "value": data}),
        );
        server
            .cli(&["promises", "await", id])
            .expect(0, printed, "");
    }
}

#[test]
fn an_invocation_waits_for_what_a_worker_returns() {
    let server = server();
    worker::beside(&server, || {
        let call = [
            "invoke", "hello.1", "-f", "hello", "--arg", "world", "--wait",
        ];
        server.cli(&call).expect(0, "\"hello world\"\n", "");
        // Once executed, the same for everybody.
        server.cli(&call).expect(0, "\"hello world\"\n", "");
    });
}

#[test]
fn all_who_wait_are_told() {
    let server = server();
    let waiting: Vec<Running> = {
        server.client().create("a", i64::MAX, json!({}));
        let await_it = ["promises", "await", "a"];
        (0..3)
            .map(|_| start(&mut server.command(&await_it)))
            .collect()
    };
    until_listeners(&server, "a", 3);
    settle(&server, "a", "resolved", &json!(1));
    for waiting in waiting {
        waiting.end().expect(0, "1\n", "");
    }
}

#[test]
fn ctrl_c_leaves_the_workflow_running_and_says_how_to_come_back() {
    let server = server();
    let id = "it's mine";
    let url = server.url();
    let invoke = [
        "-S", &url, "invoke", id, "-f", "f", "--target", NOBODY, "--wait", "-T", "secret",
    ];
    let waiting = start(&mut server.command(&invoke));
    until_listeners(&server, id, 1);
    waiting.signal(Signal::Interrupt);
    let Done {
        code,
        stdout,
        stderr,
    } = waiting.end();
    assert_eq!((code, stdout.as_str()), (Some(130), ""), "{stderr}");
    assert_eq!(server.client().get(id)["state"], "pending");
    let expected = format!(
        "{id} goes on without this command. To wait for it again:\n\n  \
         resonate -S {url} promises await \"it's mine\"\n\n"
    );
    assert_eq!(stderr, expected);
    settle(&server, id, "resolved", &json!("done"));
    // As it was told, but for where the program is.
    let line = stderr
        .lines()
        .find_map(|line| line.strip_prefix("  resonate "));
    let line = format!(
        "'{}' {}",
        env!("CARGO_BIN_EXE_resonate"),
        line.expect("a command line")
    );
    let again = run(Command::new("sh").args(["-c", &line]));
    again.expect(0, "\"done\"\n", "");
}

#[test]
fn ctrl_c_leads_back_to_ids_that_look_like_flags() {
    let server = server();
    server.client().create("-x", i64::MAX, json!({}));
    let waiting = start(&mut server.command(&["promises", "await", "--", "-x"]));
    until_listeners(&server, "-x", 1);
    waiting.signal(Signal::Interrupt);
    let expected = "-x goes on without this command. To wait for it again:\n\n  \
                    resonate promises await -- -x\n\n";
    waiting.end().expect(130, "", expected);
}

#[test]
fn a_server_that_goes_away_is_waited_for() {
    let port = free_port().to_string();
    let flags = ["--debug", "--server-port", &port];
    let mut server = Server::single_with(&flags);
    let mut waiting = attach(&server, "a", &[]);
    if crate::harness::store::forgets_on_restart() {
        return;
    }
    server.signal(Signal::Kill);
    server.wait();
    waiting.tells("; trying again until the server is back\n");
    let server = server.restart_stopped();
    waiting.tells("the server is back\n");
    assert!(waiting.is_running());
    settle(&server, "a", "resolved", &json!("late"));
    let done = waiting.end();
    assert_eq!((done.code, done.stdout.as_str()), (Some(0), "\"late\"\n"));
    assert!(
        done.stderr
            .starts_with("Connection error: http://127.0.0.1:"),
        "{done:?}"
    );
}

#[test]
fn a_promise_that_is_gone_is_told() {
    let port = free_port().to_string();
    let flags = ["--debug", "--server-port", &port];
    let server = Server::single_with(&flags);
    let waiting = attach(&server, "a", &[]);
    // Another server, which knows nothing.
    drop(server);
    let _server = Server::single_with(&flags);
    let done = waiting.end();
    let told = done.stderr.ends_with("Error: Awaited promise not found\n");
    assert!(done.code == Some(1) && told, "{done:?}");
}

#[test]
fn streams_that_the_server_ends_are_opened_again() {
    let lifetime = ["--debug", "--transports-http-poll-stream-lifetime", "50"];
    let server = Server::single_with(&lifetime);
    let waiting = attach(&server, "a", &[]);
    // Until some streams later.
    server
        .client()
        .create("timer", wall_clock_ms() + 300, json!({}));
    let timer = server.cli(&["promises", "await", "timer"]);
    timer.expect(2, "", "Error: timer timed out\n");
    settle(&server, "a", "resolved", &json!(1));
    waiting.end().expect(0, "1\n", "");
}

#[test]
fn without_a_stream_the_promise_is_asked_for() {
    let disabled = ["--debug", "--transports-http-poll-enabled", "false"];
    let full = ["--debug", "--transports-http-poll-max-connections", "1"];
    for (flags, reason) in [
        (&disabled, "Poll transport disabled"),
        (&full, "Poll registration at capacity"),
    ] {
        let server = Server::single_with(flags);
        let _place = (flags == &full).then(|| Stream::open(&server, "g", "w"));
        server.client().create("a", i64::MAX, json!({}));
        let mut waiting = start(&mut server.command(&["promises", "await", "a"]));
        let told = format!(
            "No poll stream: {reason} (HTTP 503 Service Unavailable); \
             asking every 2 s instead of being told\n"
        );
        waiting.tells(&told);
        settle(&server, "a", "resolved", &json!(1));
        waiting.end().expect(0, "1\n", &told);
    }
}
