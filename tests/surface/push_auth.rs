//! By what workers know who pushes (transports §4): none, a static token, and OIDC ID tokens minted by a fake
//! of Google's metadata server.

use serde_json::{Value, json};

use crate::harness::google::Metadata;
use crate::harness::server::{Server, run_to_exit, serve_args};
use crate::harness::sink::Sink;

const TOKEN: &str = "hunter2-hunter2";
const GCP: [&str; 2] = ["--transports-http-push-auth-mode", "gcp"];
const BEARER: [&str; 4] = [
    "--transports-http-push-auth-mode",
    "bearer",
    "--transports-http-push-auth-token",
    TOKEN,
];

fn to(address: &str) -> Value {
    json!({"resonate:target": address})
}

fn gcp_server(metadata: &Metadata, extra: &[&str]) -> Server {
    let flags = [&GCP[..], &["--level", "trace"], extra].concat();
    Server::with_env(&flags, &[("GCE_METADATA_HOST", &metadata.host())])
}

#[test]
fn a_bearer_token_is_sent_and_not_logged() {
    let flags = [&BEARER[..], &["--level", "trace"]].concat();
    let server = Server::with(&flags);
    let sink = Sink::start();
    // The token of the configuration beats the user of the address.
    let address = sink.url("/").replace("http://", "http://user:word@");
    server.client().create("x", i64::MAX, to(&address));
    let delivery = sink.next();
    assert_eq!(delivery.authorization, Some(format!("Bearer {TOKEN}")));
    assert!(!server.log().contains(TOKEN));
}

#[test]
fn the_header_is_configured() {
    let header = ["--transports-http-push-auth-header", "X-Worker-Token"];
    let server = Server::with(&[&BEARER[..], &header].concat());
    let sink = Sink::start();
    server.client().create("x", i64::MAX, to(&sink.url("/")));
    let delivery = sink.next();
    let expected = format!("Bearer {TOKEN}");
    assert_eq!(delivery.authorization, None);
    assert_eq!(delivery.head.header("x-worker-token"), Some(&*expected));
}

#[test]
fn bearer_without_a_token_does_not_start() {
    let folder = tempfile::tempdir().expect("a temporary directory can be made");
    let args = [
        serve_args(":memory:"),
        BEARER[..2].iter().map(|&arg| arg.to_owned()).collect(),
    ];
    let args: Vec<String> = args.concat();
    let args: Vec<&str> = args.iter().map(String::as_str).collect();
    let exit = run_to_exit(&args, &[], folder.path());
    assert_eq!(exit.code, Some(1));
    let reason = "Fatal: Configuration error: \
         transports.http_push.auth.token is required when mode = \"bearer\"";
    assert!(exit.stderr.starts_with(reason), "{}", exit.stderr);
}

#[test]
fn an_id_token_is_minted_once_per_address() {
    let metadata = Metadata::refusing(0);
    let server = Server::single_with_env(
        &[&GCP[..], &["--level", "trace"]].concat(),
        &[("GCE_METADATA_HOST", &metadata.host())],
    );
    let sink = Sink::start();
    for (id, path) in [("a", "/x?y=1&z"), ("b", "/x?y=1&z"), ("c", "/other")] {
        let address = sink.url(path);
        server.client().create(id, i64::MAX, to(&address));
        let delivery = sink.next();
        if id != "b" {
            let minted = metadata.next();
            assert_eq!(minted.audience, address);
            assert_eq!(
                delivery.authorization,
                Some(format!("Bearer {}", minted.token))
            );
            assert!(!server.log().contains(&minted.token));
        }
        assert!(delivery.authorization.is_some());
    }
    assert!(metadata.is_idle());
}

#[test]
fn the_audience_is_configured() {
    let metadata = Metadata::refusing(0);
    let audience = ["--transports-http-push-auth-aud", "https://workers.example"];
    let server = gcp_server(&metadata, &audience);
    let sink = Sink::start();
    server.client().create("x", i64::MAX, to(&sink.url("/x")));
    sink.next();
    assert_eq!(metadata.next().audience, "https://workers.example");
}

#[test]
fn without_a_token_the_push_leaves_without_the_header_and_tokens_come_back() {
    let metadata = Metadata::refusing(usize::MAX);
    let server = gcp_server(&metadata, &["--tasks-retry-timeout", "100"]);
    let sink = Sink::start();
    server.client().create("x", i64::MAX, to(&sink.url("/")));
    let delivery = sink.next();
    assert_eq!(delivery.authorization, None);
    assert_eq!(delivery.message["data"]["task"]["id"], "x");
    server.logs("OIDC ID token mint failed");
    assert!(!server.log().contains("secret-account"));

    metadata.refuse(0);
    let minted = metadata.next();
    let expected = Some(format!("Bearer {}", minted.token));
    while sink.next().authorization != expected {}
}
