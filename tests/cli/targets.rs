//! `resonate targets`: who is waited for, and why tasks are not running.

use serde_json::{Value, json};
use vt100::Color;

use super::fake::{answer, response};
use crate::harness::command::{command, run};
use crate::harness::server::Server;
use crate::harness::sse::Stream;
use crate::harness::terminal::Terminal;

fn to(address: &str) -> Value {
    json!({"resonate:target": address})
}

/// A task that nobody receives, one that somebody is asked to execute, one that nobody can, and a message.
fn waiting() -> Server {
    let server = Server::single();
    let client = server.client();
    client.create("a", i64::MAX, to("poll://any@absent"));
    client.create("b", i64::MAX, to("bash:///"));
    client.create("p", i64::MAX, json!({}));
    client.listen("p", "poll://uni@absent/listener");
    client.settle("p", "resolved");
    server
}

#[test]
fn in_a_pipe_it_is_what_the_server_says() {
    let server = waiting();
    let page: Value = serde_json::from_str(&server.get("/targets").text()).expect("JSON");
    let since = |n: usize| page["targets"][n]["waitingSince"].clone();
    let expected = format!(
        r#"{{
  "targets": [
    {{
      "target": "poll://any@absent",
      "tasks": 1,
      "unblocks": 0,
      "waitingSince": {},
      "reason": "no_receiver",
      "detail": null
    }},
    {{
      "target": "bash:///",
      "tasks": 1,
      "unblocks": 0,
      "waitingSince": {},
      "reason": "transport_disabled",
      "detail": null
    }},
    {{
      "target": "poll://uni@absent/listener",
      "tasks": 0,
      "unblocks": 1,
      "waitingSince": {},
      "reason": "no_receiver",
      "detail": null
    }}
  ],
  "cursor": null
}}
"#,
        since(0),
        since(1),
        since(2)
    );
    server.cli(&["targets"]).expect(0, &expected, "");
    let page = server.cli(&["targets", "--limit", "1"]).json();
    assert_eq!(page["targets"].as_array().map(Vec::len), Some(1));
    let cursor = page["cursor"].as_str().expect("there is more");
    let rest = server.cli(&["targets", "--cursor", cursor]).json();
    assert_eq!(rest["targets"].as_array().map(Vec::len), Some(2));
}

#[test]
fn on_a_terminal_it_is_a_table() {
    let server = waiting();
    let mut terminal = Terminal::start(&mut server.command(&["targets"]), 100);
    let (code, screen) = terminal.end();
    assert_eq!(code, Some(0), "{screen}");
    // Without how long they wait.
    let lines: Vec<Vec<&str>> = screen
        .lines()
        .map(|line| line.split_whitespace().collect())
        .map(|words: Vec<&str>| [&words[..3], &words[4..]].concat())
        .collect();
    assert_eq!(
        lines,
        [
            &["TARGET", "TASKS", "MESSAGES", "WHY"][..],
            &["poll://any@absent", "1", "0", "nobody", "is", "connected"],
            &["bash:///", "1", "0", "transport", "disabled"],
            &[
                "poll://uni@absent/listener",
                "0",
                "1",
                "nobody",
                "is",
                "connected"
            ],
        ]
    );
    assert_eq!(terminal.color_of("transport disabled"), Color::Idx(1));
    assert_eq!(terminal.color_of("nobody"), Color::Idx(3));
    let more = ["targets", "--limit", "1", "--output", "text"];
    let done = server.cli(&more);
    assert!(done.stdout.contains("\nMore: --cursor="), "{done:?}");
}

#[test]
fn without_messages_it_says_so() {
    let server = Server::single();
    let _worker = Stream::open(&server, "g", "w");
    let done = server.cli(&["targets", "-o", "text"]);
    done.expect(0, "No messages wait.\n", "");
}

#[test]
fn refusals_are_told() {
    let server = Server::single();
    let done = server.cli(&["targets", "--limit", "-1"]);
    let told = "Error: limit: expected a number (HTTP 400 Bad Request)\n";
    done.expect(1, "", told);
    let unauthorized = r#"{"kind":"unknown","head":{"status":401},"data":"Token is expired"}"#;
    for (bytes, told) in [
        (
            response("401 Unauthorized", unauthorized),
            "Token is expired (HTTP 401 Unauthorized)",
        ),
        (response("403 Forbidden", ""), "HTTP 403 Forbidden"),
        (
            response("502 Bad Gateway", "<html>\nsorry"),
            "<html> (HTTP 502 Bad Gateway)",
        ),
        (
            response("200 OK", "<html>"),
            "Failed to parse response: expected value at line 1 column 1 (HTTP 200 OK)",
        ),
    ] {
        let (url, _asked) = answer(&bytes);
        let done = run(&mut command(&url, &["targets"]));
        done.expect(1, "", &format!("Error: {told}\n"));
    }
    let (url, _asked) = answer(&response("404 Not Found", ""));
    let done = run(&mut command(&url, &["targets"]));
    done.expect(1, "", &format!("Error: {url} has no /targets\n"));
}
