//! Who may listen, and what is open to everybody (protocol §1, transports §3, configuration §5).

use serde_json::json;

use crate::harness::client::Credentials::Head;
use crate::harness::issuer::Issuer;
use crate::harness::server::{Server, free_port};
use crate::harness::sse::Stream;
use crate::surface::metrics::scrape;

fn server(issuer: &Issuer, extra: &[&str]) -> Server {
    let folder = tempfile::tempdir().expect("a temporary directory can be made");
    let path = folder.path().join("keys.pem");
    std::fs::write(&path, issuer.pem()).expect("the folder is writable");
    let path = path.display().to_string();
    Server::with(&[&["--auth-publickey", &path], extra].concat())
}

/// Status, type and body of what a request for a stream is refused with.
fn refusal(server: &Server, path: &str, token: Option<&str>) -> (u16, String, String) {
    let bearer = token.map(|token| format!("Bearer {token}"));
    let headers: Vec<(&str, &str)> = bearer.iter().map(|b| ("authorization", &**b)).collect();
    let reply = server.request("GET", path, &headers, b"");
    let content_type = reply.header("content-type").unwrap_or_default().to_owned();
    (reply.status(), content_type, reply.text())
}

fn plain(status: u16, text: &str) -> (u16, String, String) {
    let content_type = "text/plain; charset=utf-8".to_owned();
    (status, content_type, text.to_owned())
}

/// transports §3: a token is needed; what it is good for is not looked at.
#[test]
fn a_stream_needs_a_token_in_the_header() {
    let issuer = Issuer::new("EdDSA");
    let server = server(&issuer, &[]);
    let expired = issuer.token(json!({"exp": 1, "role": "admin"}));
    for token in [None, Some("garbage"), Some(&*expired)] {
        let refused = refusal(&server, "/poll/g/1", token);
        assert_eq!(refused, plain(401, "Unauthorized"));
    }
    let admin = issuer.token(json!({"role": "admin"}));
    for (id, claims) in [
        ("1", json!({})),
        ("2", json!({"prefix": "a"})),
        ("3", json!({"role": "admin"})),
    ] {
        let stream = Stream::open_with(&server, "g", id, &issuer.token(claims));
        let promise = format!("x.{id}");
        let tags = json!({"resonate:target": format!("poll://uni@g/{id}")});
        let client = server.client().with(Head(&admin));
        client.create(&promise, i64::MAX, tags);
        assert_eq!(stream.next_execute(), (promise, 0));
    }
}

#[test]
fn groups_say_which_streams_a_token_may_open() {
    let issuer = Issuer::new("EdDSA");
    let server = server(&issuer, &[]);
    let admin = issuer.token(json!({"role": "admin"}));
    let own = issuer.token(json!({"prefix": "a", "groups": ["g", "h i"]}));
    let none = issuer.token(json!({"prefix": "", "groups": []}));
    let forbidden = plain(403, "Forbidden");
    for (path, token) in [
        ("/poll/other/1", &own),
        ("/poll/G/1", &own),
        ("/poll/g%2F/1", &own),
        ("/poll/h/1", &own),
        ("/poll/g/1", &none),
    ] {
        assert_eq!(refusal(&server, path, Some(token)), forbidden, "{path}");
    }
    // A message for the group waits for somebody who may take it.
    let tags = json!({"resonate:target": "poll://any@other"});
    let client = server.client().with(Head(&admin));
    client.create("b", i64::MAX, tags);
    let mine = Stream::open_with(&server, "g", "1", &own);
    let spaced = Stream::open_with(&server, "h%20i", "1", &own);
    let theirs = Stream::open_with(&server, "other", "1", &admin);
    assert_eq!(theirs.next_execute(), ("b".to_owned(), 0));
    for (stream, id, target) in [
        (&mine, "c", "poll://any@g"),
        (&spaced, "d", "poll://any@h i"),
    ] {
        client.create(id, i64::MAX, json!({"resonate:target": target}));
        // Nothing came before it.
        assert_eq!(stream.next_execute(), (id.to_owned(), 0));
    }
}

/// protocol §1: health, readiness and metrics need no token, nor does a preflight (configuration §4), nor
/// what is gone.
#[test]
fn what_is_open_stays_open() {
    let issuer = Issuer::new("EdDSA");
    let port = free_port();
    let folder = tempfile::tempdir().expect("a temporary directory can be made");
    let path = folder.path().join("keys.pem");
    std::fs::write(&path, issuer.pem()).expect("the folder is writable");
    let server = Server::single_with(&[
        "--auth-publickey",
        &path.display().to_string(),
        "--observability-metrics-port",
        &port.to_string(),
        "--server-cors-allow-origin",
        "https://app.example",
    ]);
    assert_eq!(server.get("/health").status(), 200);
    assert_eq!(server.get("/ready").status(), 200);
    assert_eq!(server.get("/promises").status(), 410);
    assert_eq!(server.get("/nope").status(), 404);
    let preflight = [
        ("origin", "https://app.example"),
        ("access-control-request-method", "POST"),
        ("access-control-request-headers", "authorization"),
    ];
    for path in ["/", "/poll/g/1"] {
        let reply = server.request("OPTIONS", path, &preflight, b"");
        assert_eq!(reply.status(), 200, "{path}");
    }
    server
        .call("promise.get", json!({"id": "x"}))
        .expect_status(401);
    let series = "resonate_request_total{kind=\"promise.get\",status=\"401\"} 1";
    assert!(scrape(port).contains(series));
}

/// configuration §3: the log of the start says whether it is on.
#[test]
fn the_log_says_whether_tokens_are_asked_for() {
    let issuer = Issuer::new("EdDSA");
    server(&issuer, &[]).logs("auth=true");
    Server::start().logs("auth=false");
}
