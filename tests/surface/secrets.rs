//! What is told in confidence does not come out: tokens, passwords in URLs, what promises carry. At the most
//! talkative level, and by whichever library it passes through. (The password of a database:
//! `storage::connection`; what is refused at start: `lifecycle`.)

use serde_json::{Value, json};

use crate::harness::client::VERSION;
use crate::harness::server::Server;
use crate::harness::sink::{Answer, Sink};
use crate::harness::sse::Stream;

/// Part of everything that must not be logged.
const SECRET: &str = "hunter2";

#[track_caller]
fn expect_no_secret(server: &Server, library: &str) {
    let log = server.log();
    let line = log.lines().find(|line| {
        let line = line.to_ascii_lowercase();
        // As it is, in base64 (of `u:hunter2`), and as bytes.
        let spellings = [
            SECRET,
            "dtpodw50zxiy",
            "104, 117, 110, 116, 101, 114, 50",
            "68756e74657232",
        ];
        spellings.iter().any(|spelling| line.contains(spelling))
    });
    assert_eq!(line, None);
    assert!(
        log.contains(&format!("TRACE {library}")),
        "it was not talkative"
    );
}

fn with_secrets(url: &str) -> String {
    url.replace("http://", &format!("http://u:{SECRET}@"))
        + &format!("/{SECRET}?token={SECRET}#{SECRET}")
}

#[test]
fn no_secret_of_a_push_is_logged_whatever_becomes_of_it() {
    let server = Server::with_env(
        &["--level", "trace", "--tasks-retry-timeout", "100"],
        &[
            ("RESONATE_TRANSPORTS__HTTP_PUSH__AUTH__MODE", "bearer"),
            (
                "RESONATE_TRANSPORTS__HTTP_PUSH__AUTH__TOKEN",
                &format!("{SECRET}-token"),
            ),
            ("RESONATE_TRANSPORTS__HTTP_PUSH__DENY", "127.0.0.3"),
        ],
    );
    let redirect = Answer::Redirect {
        status: 307,
        location: format!("http://u:{SECRET}@h/{SECRET}"),
    };
    let sink = Sink::scripted(vec![redirect, 500.into()]);
    let good = with_secrets(&sink.url(""));
    let plain = good.replace("http://", "https://");
    let denied = good.replace("127.0.0.1", "127.0.0.3");
    let unresolved = with_secrets("http://none.invalid");
    let closed = with_secrets("http://127.0.0.1:1");
    let payload = json!({"headers": {"k": SECRET}, "data": SECRET});
    for (id, address) in [&good, &plain, &denied, &unresolved, &closed]
        .into_iter()
        .enumerate()
    {
        let data = json!({
            "id": id.to_string(), "timeoutAt": i64::MAX, "param": payload,
            "tags": {"resonate:target": address, "k": SECRET},
        });
        server.ok("promise.create", data);
        server.client().listen(&id.to_string(), address);
        server.ok(
            "promise.settle",
            json!({"id": id.to_string(), "state": "resolved", "value": payload}),
        );
    }
    while sink.next().message["kind"] != "unblock" {}
    for reason in [
        "status 500",
        "status 307",
        "refused by transports.http_push.deny",
    ] {
        server.logs(reason);
    }
    for target in [
        "https://127.0.0.1",
        "http://none.invalid",
        "http://127.0.0.1:1",
    ] {
        server.logs(&format!("push target is failing target.origin=\"{target}"));
    }
    let targets = server.get("/targets").text();
    assert!(
        targets.contains("none.invalid") && !targets.contains(SECRET),
        "{targets}"
    );
    expect_no_secret(&server, "hyper_util");
}

#[test]
fn no_secret_of_a_request_is_logged_or_told_to_others() {
    let server = Server::single_with(&["--level", "trace"]);
    let stream = Stream::open(&server, "g", SECRET);
    let head = json!({"corrId": "c", "version": VERSION, "auth": format!("{SECRET}-in-head")});
    let bearer = format!("Bearer {SECRET}-in-header");
    let headers = [
        ("authorization", &*bearer),
        ("cookie", "session=hunter2"),
        ("x-api-key", SECRET),
    ];
    let create = json!({
        "id": "a", "timeoutAt": i64::MAX, "param": {"data": SECRET},
        "tags": {"resonate:target": format!("http://u:{SECRET}@")},
    });
    let post = |kind: &str, data: &Value| {
        let body = json!({"kind": kind, "head": head, "data": data}).to_string();
        server.request("POST", "/", &headers, body.as_bytes())
    };
    let refused = post("promise.create", &create);
    assert!(
        refused.status() == 400 && !refused.text().contains(SECRET),
        "{}",
        refused.text()
    );
    for (kind, data) in [
        ("promise.get", json!({"id": SECRET})),
        (
            "promise.create",
            json!({"id": "b", "timeoutAt": SECRET, "param": {"data": SECRET}}),
        ),
        (
            "promise.search",
            json!({"tags": {"k": SECRET}, "cursor": SECRET}),
        ),
        (
            "task.acquire",
            json!({"id": "b", "version": 0, "pid": SECRET, "ttl": 1}),
        ),
    ] {
        assert!(post(kind, &data).status() >= 200);
    }
    let over_http_2 = reqwest_over_http_2(&server, &bearer);
    assert_eq!(over_http_2, 400);
    drop(stream);
    expect_no_secret(&server, "h2");
}

/// The status of a request whose body is none, with a token.
fn reqwest_over_http_2(server: &Server, bearer: &str) -> u16 {
    // The client asks for it even where there is no TLS. It may be there already.
    let _ = rustls::crypto::ring::default_provider().install_default();
    let url = format!("http://{}/", server.addr());
    let client = reqwest::Client::builder()
        .http2_prior_knowledge()
        .no_proxy()
        .build();
    let request = client
        .expect("a client can be made")
        .post(url)
        .header("authorization", bearer)
        .body(SECRET);
    let runtime = tokio::runtime::Runtime::new().expect("a runtime starts");
    let response = runtime.block_on(request.send());
    response.expect("the server answers").status().as_u16()
}
