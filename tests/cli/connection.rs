//! Which server is spoken to, and as whom (cli §1).

use std::sync::mpsc::Receiver;

use serde_json::{Value, json};

use super::fake::{answer, answer_all, answer_tls, response};
use crate::harness::command::{command, run, start};
use crate::harness::http::{DEADLINE, Reply};
use crate::harness::mcp::Mcp;
use crate::harness::server::{shared_single, unique};

/// A server that answers one request with nothing.
fn listen() -> (String, Receiver<Reply>) {
    answer(&response("200 OK", r#"{"head":{"status":200},"data":{}}"#))
}

fn envelope(asked: &Reply) -> Value {
    serde_json::from_slice(&asked.body).expect("the body is JSON")
}

#[test]
fn the_envelope_is_complete_and_has_no_nulls() {
    let (url, asked) = listen();
    run(&mut command(&url, &["promises", "search"])).expect(0, "{}\n", "");
    let asked = asked.recv().unwrap();
    assert_eq!(asked.head.start, "POST / HTTP/1.1");
    assert_eq!(asked.header("content-type"), Some("application/json"));
    let envelope = envelope(&asked);
    assert_eq!(envelope["kind"], "promise.search");
    assert_eq!(envelope["data"], json!({"limit": 100}));
    assert_eq!(envelope["head"]["version"], "2026-04-01");
    assert_eq!(envelope["head"].as_object().unwrap().len(), 2);
    let id = envelope["head"]["corrId"].as_str().unwrap();
    let parts: Vec<&str> = id.split('-').collect();
    assert!(
        matches!(parts[..], ["cli", ms, nanos] if ms.parse::<u64>().is_ok() && nanos.parse::<u32>().is_ok()),
        "{id}"
    );
}

#[test]
fn the_trace_that_a_command_is_started_in_is_sent_along() {
    let parent = "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01";
    for (variable, header) in [(parent, Some(parent)), ("00-abc", None), ("", None)] {
        let (url, asked) = listen();
        let mut command = command(&url, &["promises", "get", "x"]);
        command
            .env("TRACEPARENT", variable)
            .env("TRACESTATE", "a=1");
        run(&mut command).expect(0, "{}\n", "");
        let asked = asked.recv().unwrap();
        assert_eq!(asked.header("traceparent"), header);
        assert_eq!(asked.header("tracestate"), header.map(|_| "a=1"));
    }
}

#[test]
fn a_token_is_sent_twice() {
    for (args, variable) in [
        (&["-T", "secret", "promises", "get", "x"][..], ""),
        (&["promises", "get", "x"], "secret"),
        (&["promises", "--token", "secret", "get", "x"], "other"),
    ] {
        let (url, asked) = listen();
        let done = run(command(&url, args).env("RESONATE_TOKEN", variable));
        done.expect(0, "{}\n", "");
        let asked = asked.recv().unwrap();
        assert_eq!(envelope(&asked)["head"]["auth"], "secret");
        assert_eq!(asked.header("authorization"), Some("Bearer secret"));
    }
}

#[test]
fn streams_and_pages_are_asked_for_with_the_token_too() {
    let pending = json!({
        "id": "a", "state": "pending", "param": {}, "value": {}, "tags": {},
        "timeoutAt": i64::MAX, "createdAt": 1,
    });
    let answer = json!({"head": {"status": 200}, "data": {"promise": pending}, "targets": []});
    let (url, asked) = answer_all(&response("200 OK", &answer.to_string()));
    let expect = |start: &str| {
        loop {
            let asked = asked.recv_timeout(DEADLINE).expect(start);
            assert_eq!(asked.header("authorization"), Some("Bearer secret"));
            if asked.head.start.starts_with(start) {
                return;
            }
        }
    };
    let token = ["-T", "secret"];
    run(command(&url, &["targets"]).args(token));
    expect("GET /targets?limit=100 HTTP/1.1");
    let _waiting = start(command(&url, &["promises", "await", "a"]).args(token));
    expect("GET /poll/cli/cli-");
    let _mcp = Mcp::with(&url, &token, &[]);
    expect("GET /poll/mcp/mcp-");
}

#[test]
fn an_empty_token_is_none() {
    let (url, asked) = listen();
    let done = run(command(&url, &["-T", "", "promises", "get", "x"]).env("RESONATE_TOKEN", ""));
    done.expect(0, "{}\n", "");
    let asked = asked.recv().unwrap();
    assert!(envelope(&asked)["head"].get("auth").is_none());
    assert_eq!(asked.header("authorization"), None);
}

#[test]
fn the_flags_of_the_connection_stand_anywhere() {
    let server = shared_single();
    let id = unique("anywhere");
    server.client().create(&id, i64::MAX, json!({}));
    let url = server.url();
    let slash = format!("{url}/");
    for args in [
        ["-S", &url, "promises", "get", &id],
        ["promises", "-S", &url, "get", &id],
        ["promises", "get", "-S", &url, &id],
        ["promises", "get", &id, "--server", &url],
        ["promise", "get", &id, "-S", &slash],
        ["--server", &url, "promise", "get", &id],
    ] {
        // The flag comes before the variable, which names nobody.
        let done = run(&mut command("http://127.0.0.1:9", &args));
        assert_eq!(done.json()["promise"]["id"], *id, "{args:?}");
    }
    for args in [
        &["-S", &url, "invoke", &id, "-f", "f"][..],
        &["invoke", &id, "-f", "f", "-S", &url],
        &["tree", "--output", "json", &id, "-S", &url],
    ] {
        let done = run(&mut command("http://127.0.0.1:9", args));
        assert!(done.json().is_object(), "{args:?}");
    }
}

#[test]
fn a_path_in_the_url_is_kept() {
    let (url, asked) = listen();
    run(&mut command(
        &format!("{url}/base"),
        &["promises", "get", "x"],
    ))
    .expect(0, "{}\n", "");
    assert_eq!(asked.recv().unwrap().head.start, "POST /base/ HTTP/1.1");
}

#[test]
fn https_needs_a_certificate_that_is_trusted() {
    let (port, issuer) = answer_tls();
    let url = format!("https://localhost:{port}");
    let get = ["promises", "get", "x"];
    let done = run(&mut command(&url, &get));
    let told = done
        .stderr
        .starts_with(&format!("Error: Connection error: {url}: "));
    assert!(done.code == Some(1) && told, "{done:?}");
    let folder = tempfile::tempdir().unwrap();
    let trusted = folder.path().join("issuer.pem");
    std::fs::write(&trusted, issuer).unwrap();
    let done = run(command(&url, &get).env("SSL_CERT_FILE", &trusted));
    done.expect(0, "{}\n", "");
}

#[test]
fn a_storage_that_does_not_answer_fails_the_check_of_readiness() {
    let (url, asked) = answer(&response("503 Service Unavailable", ""));
    let told = format!("Error: the storage of {url} does not answer\n");
    run(&mut command(&url, &["health", "--ready"])).expect(1, "", &told);
    assert_eq!(asked.recv().unwrap().head.start, "GET /ready HTTP/1.1");
}
