//! Every operation by every kind of token (protocol §2.1 rows 7 and 8, §3; configuration §5), given in the
//! head of the request and in the header of HTTP.

use resonate::protocol::kinds;
use serde_json::{Value, json};

use crate::harness::client::Credentials::{self, Head, Header};
use crate::harness::client::VERSION;
use crate::harness::issuer::{Issuer, base64, lasting, now};
use crate::harness::record::{create, fence, fulfill, suspend, target, task_create};
use crate::harness::server::{Server, unique};

const DEADLINE: i64 = 4_000_000_000_000;

/// An issuer, and a server with debug enabled that knows it.
fn known() -> (Issuer, Server) {
    let issuer = Issuer::new("EdDSA");
    let server = server(&issuer, &["--debug"]);
    (issuer, server)
}

fn server(issuer: &Issuer, extra: &[&str]) -> Server {
    let folder = tempfile::tempdir().expect("a temporary directory can be made");
    let path = folder.path().join("keys.pem");
    std::fs::write(&path, issuer.pem()).expect("the folder is writable");
    let path = path.display().to_string();
    let flags = [
        "--auth-publickey",
        &path,
        "--auth-iss",
        "me",
        "--auth-aud",
        "you",
    ];
    Server::with(&[&flags[..], extra].concat())
}

/// Claims of the right issuer for the right audience.
#[allow(clippy::needless_pass_by_value, reason = "callers pass `json!`")]
fn claims(more: Value) -> Value {
    let mut claims = json!({"iss": "me", "aud": "you"});
    for (name, value) in more.as_object().expect("an object") {
        claims[name] = value.clone();
    }
    claims
}

/// Data of every kind that names an id which nobody has used, and what it is answered if it is allowed.
fn operations(id: &str) -> Vec<(&'static str, Value, u16)> {
    let child = format!("{id}.0");
    let claim = json!({"id": id, "version": 0});
    let schedule = json!({
        "id": id, "cron": "@yearly", "promiseId": "{{.id}}.{{.timestamp}}", "promiseTimeout": 1,
        "promiseTags": target(),
    });
    let operations = vec![
        ("promise.get", json!({"id": id}), 404),
        ("promise.create", create(id, DEADLINE, json!({})), 200),
        (
            "promise.settle",
            json!({"id": id, "state": "resolved"}),
            404,
        ),
        (
            "promise.register_callback",
            json!({"awaited": child, "awaiter": id}),
            404,
        ),
        (
            "promise.register_listener",
            json!({"awaited": id, "address": "poll://uni@g/1"}),
            404,
        ),
        ("promise.search", json!({}), 200),
        ("task.get", json!({"id": id}), 404),
        ("task.create", task_create(id, DEADLINE, target()), 200),
        (
            "task.acquire",
            json!({"id": id, "version": 0, "pid": "p", "ttl": 1}),
            404,
        ),
        (
            "task.fence",
            fence(id, 0, "promise.create", create(&child, DEADLINE, json!({}))),
            404,
        ),
        ("task.heartbeat", json!({"pid": "p", "tasks": [claim]}), 200),
        ("task.suspend", suspend(id, 0, &[&child]), 404),
        ("task.fulfill", fulfill(id, 0, "resolved"), 404),
        ("task.release", claim, 404),
        ("task.halt", json!({"id": id}), 404),
        ("task.continue", json!({"id": id}), 404),
        ("task.search", json!({}), 200),
        ("schedule.get", json!({"id": id}), 404),
        ("schedule.create", schedule, 200),
        ("schedule.delete", json!({"id": id}), 404),
        ("schedule.search", json!({}), 200),
        ("debug.start", json!({}), 200),
        ("debug.stop", json!({}), 200),
        ("debug.reset", json!({}), 200),
        ("debug.tick", json!({"time": 0}), 200),
        ("debug.snap", json!({}), 200),
        ("no.such.kind", json!({}), 400),
    ];
    for kind in kinds::ALL {
        assert!(
            operations.iter().any(|(known, ..)| *known == kind),
            "{kind}"
        );
    }
    operations
}

/// What a token is good for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Good {
    /// For nothing, and not even to be believed.
    Unbelieved,
    /// For nothing.
    Nothing,
    /// For what names ids only, all of which begin with `mine`.
    Mine,
    Everything,
}

fn tokens(issuer: &Issuer) -> Vec<(&'static str, String, Good)> {
    use Good::{Everything, Mine, Nothing, Unbelieved};
    let other = Issuer::new("EdDSA");
    let admin = claims(json!({"role": "admin"}));
    let with = |name: &str, value: Value| {
        let mut claims = admin.clone();
        claims[name] = value;
        issuer.token(claims)
    };
    let header = json!({"alg": "EdDSA"});
    let mut forged = issuer.token(admin.clone());
    forged.replace_range(forged.len() - 10..forged.len() - 8, "AA");
    let unsigned = format!(
        "{}.{}.",
        base64(r#"{"alg":"none"}"#),
        base64(lasting(admin.clone()).to_string())
    );
    let admin_once = || issuer.token(admin.clone());
    vec![
        ("garbage", "garbage".to_owned(), Unbelieved),
        ("three parts of garbage", "a.b.c".to_owned(), Unbelieved),
        ("wrong key", other.token(admin.clone()), Unbelieved),
        ("forged", forged, Unbelieved),
        ("unsigned", unsigned, Unbelieved),
        ("expired", with("exp", json!(now() - 3600)), Unbelieved),
        ("no exp", issuer.sign(&header, &admin), Unbelieved),
        (
            "not valid yet",
            with("nbf", json!(now() + 3600)),
            Unbelieved,
        ),
        ("wrong iss", with("iss", json!("another")), Unbelieved),
        ("no iss", with("iss", json!(null)), Unbelieved),
        ("wrong aud", with("aud", json!("another")), Unbelieved),
        ("wrong auds", with("aud", json!(["a", "b"])), Unbelieved),
        ("no aud", with("aud", json!(null)), Unbelieved),
        ("no prefix", issuer.token(claims(json!({}))), Nothing),
        (
            "a prefix that is no string",
            issuer.token(claims(json!({"prefix": ["mine"]}))),
            Nothing,
        ),
        (
            "prefix miss",
            issuer.token(claims(json!({"prefix": "yours"}))),
            Nothing,
        ),
        (
            "prefix hit",
            issuer.token(claims(json!({"prefix": "mine"}))),
            Mine,
        ),
        (
            "empty prefix",
            issuer.token(claims(json!({"prefix": ""}))),
            Everything,
        ),
        ("admin", admin_once(), Everything),
        (
            "admin of several audiences",
            with("aud", json!(["they", "you"])),
            Everything,
        ),
        (
            "Admin with a prefix",
            issuer.token(claims(json!({"role": "Admin", "prefix": "yours"}))),
            Everything,
        ),
    ]
}

fn names_ids_only(kind: &str) -> bool {
    !(kind.ends_with(".search") || kind.starts_with("debug.") || kind == "no.such.kind")
}

#[test]
fn every_operation_is_answered_as_the_token_allows() {
    let (issuer, server) = known();
    let mut tokens = tokens(&issuer);
    let (_, admin, _) = tokens.last().expect("there are some").clone();
    let admin = server.client().with(Head(&admin));
    tokens.push(("no token", String::new(), Good::Unbelieved));
    for (name, token, good) in &tokens {
        for place in [Head, Header] {
            let credentials = match *name {
                "no token" => Credentials::None,
                _ => place(token),
            };
            let id = unique("mine");
            for (kind, data, allowed) in operations(&id) {
                // Each on an id of its own: what one of them does is not the next one's business.
                let id = unique("mine");
                let fresh = operations(&id);
                let index = fresh.iter().position(|(other, ..)| *other == kind);
                let data = index.map_or(data, |index| fresh[index].1.clone());
                let response = server.client().with(credentials).call(kind, data);
                let case = format!("{kind} by {name} ({credentials:?})");
                let is_allowed = match good {
                    Good::Unbelieved | Good::Nothing => false,
                    Good::Mine => names_ids_only(kind),
                    Good::Everything => true,
                };
                if is_allowed {
                    assert_eq!(response.status, allowed, "{case}{response}");
                    continue;
                }
                let (status, message) = match good {
                    Good::Unbelieved => (401, "Unauthorized"),
                    _ => (403, "Forbidden"),
                };
                response.expect(status, &json!(message));
                // Rows 7 and 8 write nothing.
                let what = if kind.starts_with("schedule") {
                    "schedule"
                } else {
                    "promise"
                };
                admin
                    .call(&format!("{what}.get"), json!({"id": id}))
                    .expect_status(404);
            }
        }
    }
}

/// D-04: `head.auth` if it is a string that is not empty, else the header.
#[test]
fn the_head_comes_before_the_header() {
    let (issuer, server) = known();
    let token = issuer.token(claims(json!({"prefix": "mine"})));
    let ask = |auth: Value, header: &str| {
        let mut head = json!({"corrId": "c", "version": VERSION});
        head["auth"] = auth;
        let data = json!({"id": "mine.none"});
        let body = json!({"kind": "promise.get", "head": head, "data": data}).to_string();
        server
            .post_with(&[("Authorization", header)], body.as_bytes())
            .status
    };
    let good = format!("Bearer {token}");
    assert_eq!(ask(json!(token), "Bearer garbage"), 404);
    assert_eq!(ask(json!("garbage"), &good), 401);
    for absent in [json!(""), json!(null), json!(7)] {
        assert_eq!(ask(absent.clone(), &good), 404, "{absent}");
        assert_eq!(ask(absent.clone(), "Bearer garbage"), 401, "{absent}");
    }
    // The scheme is written in any case; other schemes say nothing.
    for (header, status) in [
        (format!("bearer {token}"), 404),
        (format!("BEARER {token}"), 404),
        (format!("Basic {token}"), 401),
        (token.clone(), 401),
        ("Bearer".to_owned(), 401),
    ] {
        assert_eq!(ask(json!(null), &header), status, "{header}");
    }
    let body = json!({
        "kind": "promise.get", "head": {"corrId": "c", "version": VERSION}, "data": {"id": "mine.none"},
    });
    let both = [("authorization", &*good), ("authorization", &*good)];
    let twice = server.post_with(&both, body.to_string().as_bytes());
    twice.expect(401, &json!("Unauthorized"));
}

/// §2.1: rows 2–6 come before row 7, that before row 8, and that before rows 9–12.
#[test]
fn checks_are_made_in_their_order() {
    let (issuer, server) = known();
    let token = issuer.token(claims(json!({"prefix": "mine"})));
    let nobody = server.client();
    let somebody = nobody.with(Head(&token));
    // Rows 2 to 6.
    for body in [
        "{".to_owned(),
        json!({"kind": "promise.get"}).to_string(),
        json!({"kind": "", "head": {"corrId": "c", "version": VERSION}, "data": {}}).to_string(),
        json!({"kind": "k", "head": {"corrId": "c", "version": VERSION}, "data": []}).to_string(),
        json!({"kind": "k", "head": {"corrId": "c", "version": "1"}, "data": {}}).to_string(),
    ] {
        server.post(body.as_bytes()).expect_status(400);
    }
    // Row 7 before 9, 11 and 12.
    for (kind, data) in [
        ("no.such.kind", json!({})),
        ("promise.get", json!({})),
        ("promise.get", json!({"id": ""})),
    ] {
        nobody.refused(kind, data, 401, "Unauthorized");
    }
    // Row 8 before 9, 11 and 12, as far as the ids can be read.
    for (kind, data) in [
        ("no.such.kind", json!({})),
        ("promise.create", json!({"id": "yours"})),
        ("promise.settle", json!({"id": "yours", "state": "bogus"})),
        ("promise.register_callback", json!({"awaited": "yours"})),
        ("promise.search", json!({"limit": "x"})),
        (
            "task.suspend",
            json!({"id": "yours", "version": 1, "actions": []}),
        ),
        (
            "task.suspend",
            json!({"id": "mine", "version": -1, "actions": [{"data": {"awaited": "yours"}}]}),
        ),
        (
            "task.fence",
            json!({"id": "mine", "action": {"kind": "k", "data": {"id": "yours"}}}),
        ),
        (
            "task.create",
            json!({"action": {"kind": "k", "data": {"id": "yours"}}}),
        ),
        (
            "task.heartbeat",
            json!({"tasks": [{"id": "mine"}, {"id": "yours"}]}),
        ),
        (
            "schedule.create",
            json!({"id": "mine", "promiseId": "yours.{{.id}}"}),
        ),
    ] {
        somebody.refused(kind, data, 403, "Forbidden");
    }
    for (kind, data) in [
        ("promise.get", json!({})),
        ("promise.get", json!({"id": 7})),
        ("promise.create", json!({"id": "mine"})),
        ("promise.settle", json!({"id": "mine", "state": "bogus"})),
        (
            "task.suspend",
            json!({"id": "mine", "version": 1, "actions": 7}),
        ),
        (
            "task.fence",
            json!({"id": "mine", "version": 1, "action": ["yours"]}),
        ),
        (
            "schedule.create",
            json!({"id": "mine", "promiseId": "{{.id}}"}),
        ),
    ] {
        somebody.call(kind, data).expect_status(400);
    }
}

/// §2.1 rows 8 and 10: who may not is not told that debug is disabled.
#[test]
fn debug_needs_the_switch_and_the_token() {
    let issuer = Issuer::new("ES256");
    let server = server(&issuer, &[]);
    let admin = issuer.token(claims(json!({"role": "admin"})));
    let other = issuer.token(claims(json!({"prefix": "mine"})));
    let snap = |token: &str, message: &str| {
        let client = server.client().with(Header(token));
        client.refused("debug.snap", json!({}), 403, message);
    };
    snap(&admin, "Debug operations are disabled");
    snap(&other, "Forbidden");
}

#[test]
fn a_refusal_says_how_to_ask_and_the_log_does_not_say_what_was_asked() {
    let issuer = Issuer::new("EdDSA");
    let server = server(&issuer, &["--level", "trace"]);
    let good = issuer.token(claims(json!({"prefix": "mine"})));
    let expired = issuer.token(claims(json!({"exp": 1})));
    let client = server.client();
    client.with(Head(&good)).create("mine", DEADLINE, json!({}));
    client.with(Header(&good)).get("mine");
    client
        .with(Head(&expired))
        .call("promise.get", json!({"id": "mine"}));
    client
        .with(Header(&expired))
        .call("promise.get", json!({"id": "mine"}));
    let body = json!({
        "kind": "promise.get", "head": {"corrId": "c", "version": VERSION}, "data": {"id": "mine"},
    });
    let reply = server.request("POST", "/", &[], body.to_string().as_bytes());
    assert_eq!(reply.status(), 401);
    assert_eq!(reply.header("www-authenticate"), Some("Bearer"));
    assert!(reply.text().contains("\"error\":\"unauthorized\""));

    server.logs("token refused reason=\"expired\"");
    for token in [&good, &expired] {
        for part in token.split('.').filter(|part| part.len() > 30) {
            assert!(!server.log().contains(part), "{part}");
        }
    }
}
