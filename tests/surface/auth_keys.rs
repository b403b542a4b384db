//! The keys that tokens are checked with (configuration §5): which there may be, and how they change.

use std::fs;
use std::path::{Path, PathBuf};
use std::thread;
use std::time::{Duration, Instant};

use serde_json::json;

use crate::harness::client::Credentials::Header;
use crate::harness::http::DEADLINE;
use crate::harness::issuer::{Issuer, base64, lasting};
use crate::harness::jwks::{Answer, Provider};
use crate::harness::process::Signal;
use crate::harness::server::{Exit, Server, run_to_exit, serve_args};

/// Long enough that nothing happens by itself.
const NEVER: [&str; 2] = ["--auth-refresh-interval", "3600000"];
const SOON: [&str; 2] = ["--auth-refresh-interval", "20"];

/// A file with keys, in a folder of its own.
struct File {
    path: PathBuf,
    _folder: tempfile::TempDir,
}

impl File {
    fn with(text: &str) -> File {
        let folder = tempfile::tempdir().expect("a temporary directory can be made");
        let path = folder.path().join("keys");
        let file = File {
            path,
            _folder: folder,
        };
        file.write(text);
        file
    }

    fn write(&self, text: &str) {
        fs::write(&self.path, text).expect("the folder is writable");
    }

    fn path(&self) -> &str {
        self.path.to_str().expect("the path is UTF-8")
    }
}

/// What somebody with this token is answered.
fn status(server: &Server, token: &str) -> u16 {
    let client = server.client().with(Header(token));
    client.call("promise.get", json!({"id": "none"})).status
}

/// Waits until the server has logged something so many times.
#[track_caller]
fn logs_times(server: &Server, text: &str, times: usize) {
    let deadline = Instant::now() + DEADLINE;
    while server.log().matches(text).count() < times {
        assert!(
            Instant::now() < deadline,
            "{text:?} is not logged {times} times"
        );
        thread::sleep(Duration::from_millis(2));
    }
}

fn admin(issuer: &Issuer) -> String {
    issuer.token(json!({"role": "admin"}))
}

fn admin_of(issuer: &Issuer, key: &str) -> String {
    issuer.token_of(key, json!({"role": "admin"}))
}

#[test]
fn every_algorithm_is_accepted_of_a_key_of_its_kind() {
    let [rsa, p256, p384, ed25519] = ["RS256", "ES256", "ES384", "EdDSA"].map(Issuer::new);
    let bundle = [&rsa, &p256, &p384, &ed25519].map(Issuer::pem).concat();
    let file = File::with(&bundle);
    let server = Server::single_with(&["--auth-publickey", file.path()]);
    for algorithm in ["RS256", "RS384", "RS512", "PS256", "PS384", "PS512"] {
        assert_eq!(
            status(&server, &admin(&rsa.with(algorithm))),
            404,
            "{algorithm}"
        );
    }
    for issuer in [&p256, &p384, &ed25519] {
        assert_eq!(status(&server, &admin(issuer)), 404);
        // PEM files name no keys: all of them are tried.
        assert_eq!(status(&server, &admin_of(issuer, "whatever")), 404);
    }
    // Signed with a key that is there, by an algorithm that it is not said to be.
    let claims = lasting(json!({"role": "admin"}));
    for name in ["RS384", "PS256", "ES256", "HS256", "none"] {
        let token = rsa.sign(&json!({"alg": name}), &claims);
        assert_eq!(status(&server, &token), 401, "{name}");
    }
}

#[test]
fn keys_in_files_change_on_sighup() {
    let [first, second, third] = [(), (), ()].map(|()| Issuer::new("EdDSA"));
    let file = File::with(&[first.pem(), second.pem()].concat());
    let flags = ["--auth-publickey", file.path(), "--level", "debug"];
    let server = Server::single_with(&[&flags[..], &NEVER].concat());
    let [first, second, third] = [&first, &second, &third].map(|issuer| (admin(issuer), issuer));
    let statuses = || [&first.0, &second.0, &third.0].map(|token| status(&server, token));
    assert_eq!(statuses(), [404, 404, 401]);

    // One is withdrawn: also for tokens that were good a moment ago.
    file.write(&third.1.pem());
    server.signal(Signal::Hup);
    server.logs("keys=1");
    assert_eq!(statuses(), [401, 401, 404]);

    // What cannot be used changes nothing.
    let broken = ["", "garbage", &first.1.pem()[..60]];
    for (index, broken) in broken.into_iter().enumerate() {
        file.write(broken);
        server.signal(Signal::Hup);
        logs_times(&server, "keys cannot be read", index + 1);
        assert_eq!(statuses(), [401, 401, 404]);
    }
    server.logs("keys cannot be read, the last ones stay");
    file.write(&[first.1.pem(), second.1.pem(), third.1.pem()].concat());
    server.signal(Signal::Hup);
    server.logs("keys=3");
    assert_eq!(statuses(), [404, 404, 404]);
}

#[test]
fn keys_in_files_change_by_themselves() {
    let [first, second] = [(), ()].map(|()| Issuer::new("ES384"));
    let set = |keys: &[serde_json::Value]| json!({"keys": keys}).to_string();
    let file = File::with(&set(&[first.jwk("1")]));
    let server = Server::single_with(&[&["--auth-jwks", file.path()], &SOON[..]].concat());
    let (first_token, second_token) = (admin_of(&first, "1"), admin_of(&second, "2"));
    assert_eq!(status(&server, &first_token), 404);
    assert_eq!(status(&server, &second_token), 401);
    file.write(&set(&[first.jwk("1"), second.jwk("2")]));
    server.logs("keys=2");
    assert_eq!(status(&server, &second_token), 404);
    // The name counts: both keys are there, but this is not the one that it names.
    assert_eq!(status(&server, &admin_of(&second, "1")), 401);
}

#[test]
fn a_token_with_an_unknown_key_has_the_set_fetched_but_not_every_one() {
    let [first, second] = [(), ()].map(|()| Issuer::new("EdDSA"));
    let provider = Provider::with(Answer::Keys(vec![first.jwk("1")]));
    let server = Server::single_with(&[&["--auth-jwks", &provider.url()], &NEVER[..]].concat());
    assert_eq!(status(&server, &admin_of(&first, "1")), 404);
    assert_eq!(provider.fetches(), 1);

    // Rotation: the first token of the new key finds it, and the old key is still good.
    provider.answer(Answer::Keys(vec![first.jwk("1"), second.jwk("2")]));
    assert_eq!(status(&server, &admin_of(&second, "2")), 404);
    assert_eq!(provider.fetches(), 2);
    assert_eq!(status(&server, &admin_of(&first, "1")), 404);

    // Made up by somebody, with names of their own. No fetch is left of the ten seconds, or one if they
    // are over meanwhile.
    let stranger = Issuer::new("EdDSA");
    let flood: Vec<String> = (0..30)
        .map(|n| admin_of(&stranger, &format!("unknown-{n}")))
        .collect();
    for _ in 0..10 {
        for token in &flood {
            assert_eq!(status(&server, token), 401);
        }
    }
    assert!(provider.fetches() <= 4, "{}", provider.fetches());
    // Nor do those have it fetched that would be refused anyway.
    let expired = second.token_of("3", json!({"exp": 1}));
    assert_eq!(status(&server, &expired), 401);
    assert_eq!(status(&server, &admin_of(&second, "2")), 404);
    assert!(!server.log().contains("hunter2"));
}

#[test]
fn a_provider_that_is_down_shuts_nobody_out() {
    let issuer = Issuer::new("EdDSA");
    let provider = Provider::with(Answer::Keys(vec![issuer.jwk("1")]));
    let server = Server::single_with(&[&["--auth-jwks", &provider.url()], &SOON[..]].concat());
    let token = admin_of(&issuer, "1");
    let (mut last, mut recoveries) = (0, 0);
    for (answer, reason) in [
        (Answer::Status(500), "status 500"),
        (Answer::Redirect, "status 302"),
        (Answer::Keys(Vec::new()), "it has no key that can be used"),
        (
            Answer::Endless(vec![issuer.jwk("1")]),
            "more than 1048576 bytes",
        ),
    ] {
        let good = Answer::Keys(vec![issuer.jwk("1")]);
        provider.answer(answer);
        server.logs(reason);
        assert!(provider.fetches() > last && provider.fetches() < 1000);
        last = provider.fetches();
        // A token that has not been seen before, too.
        assert_eq!(status(&server, &token), 404, "{reason}");
        assert_eq!(status(&server, &admin_of(&issuer, "1")), 404, "{reason}");
        provider.answer(good);
        recoveries += 1;
        logs_times(&server, "keys can be read again", recoveries);
    }
    assert!(!server.log().contains("hunter2"), "the query is a secret");
}

/// Nobody can say yet whether a token is good: not the client's fault, and worth another try.
#[test]
fn without_keys_requests_are_worth_another_try() {
    let issuer = Issuer::new("EdDSA");
    let provider = Provider::with(Answer::Status(503));
    let server = Server::single_with(&[&["--auth-jwks", &provider.url()], &SOON[..]].concat());
    let token = admin_of(&issuer, "1");
    let bearer = format!("Bearer {token}");
    let headers = [("authorization", &*bearer)];
    let response = server
        .client()
        .with(Header(&token))
        .call("promise.get", json!({"id": "none"}));
    let sentence = "Service unavailable: the keys that tokens are checked with cannot be fetched; \
                    safe to retry";
    response.expect(503, &json!(sentence));
    let poll = server.request("GET", "/poll/g/1", &headers, b"");
    assert_eq!((poll.status(), poll.text()), (503, sentence.to_owned()));
    assert_eq!(poll.header("retry-after"), Some("1"));
    // No token is no token.
    let nobody = server.call("promise.get", json!({"id": "none"}));
    nobody.expect_status(401);
    assert_eq!(server.get("/health").status(), 200);

    provider.answer(Answer::Keys(vec![issuer.jwk("1")]));
    server.logs("keys loaded");
    assert_eq!(status(&server, &token), 404);
}

/// Keys of a file and of a URL are good together.
#[test]
fn sources_are_added_up() {
    let [pem, jwk] = ["ES256", "RS256"].map(Issuer::new);
    let file = File::with(&pem.pem());
    let provider = Provider::with(Answer::Keys(vec![jwk.jwk("1")]));
    let flags = [
        "--auth-publickey",
        file.path(),
        "--auth-jwks",
        &provider.url(),
    ];
    let server = Server::single_with(&flags);
    assert_eq!(status(&server, &admin(&pem)), 404);
    assert_eq!(status(&server, &admin_of(&jwk, "1")), 404);
    assert_eq!(status(&server, &admin(&Issuer::new("ES256"))), 401);
}

fn exit(flags: &[&str]) -> Exit {
    let folder = tempfile::tempdir().expect("a temporary directory can be made");
    let args = serve_args(":memory:");
    let args: Vec<&str> = args
        .iter()
        .map(String::as_str)
        .chain(flags.iter().copied())
        .collect();
    run_to_exit(&args, &[], folder.path())
}

#[test]
fn files_without_keys_do_not_start() {
    let garbage = File::with("-----BEGIN PUBLIC KEY-----\nAAAA\n-----END PUBLIC KEY-----\n");
    let gone = Path::new(garbage.path()).with_extension("gone");
    let gone = gone.to_str().expect("the path is UTF-8");
    for (flag, path, reason) in [
        (
            "--auth-publickey",
            gone,
            format!("Failed to read public key file '{gone}': No such file or directory"),
        ),
        (
            "--auth-publickey",
            garbage.path(),
            format!(
                "Unsupported or invalid public key in '{}'. Supported types: RSA, EC (P-256/P-384), Ed25519.",
                garbage.path()
            ),
        ),
        (
            "--auth-jwks",
            gone,
            format!("Failed to read JWK set file '{gone}': No such file or directory"),
        ),
        (
            "--auth-jwks",
            garbage.path(),
            format!(
                "Unsupported or invalid JWK set in '{}': it is not a JWK set",
                garbage.path()
            ),
        ),
    ] {
        let exit = exit(&[flag, path]);
        let line = format!("Fatal: Configuration error: {reason}");
        assert!(
            exit.code == Some(1) && exit.stderr.contains(&line),
            "{line}: {exit:?}"
        );
    }
    let exposed = ["--server-bind", "0.0.0.0", "--auth-publickey", "none"];
    let args = [
        &[
            "serve",
            "--server-port",
            "0",
            "--storage-sqlite-path",
            ":memory:",
        ],
        &exposed[..],
    ];
    let folder = tempfile::tempdir().expect("a temporary directory can be made");
    let exit = run_to_exit(&args.concat(), &[], folder.path());
    let reason =
        "Fatal: Configuration error: auth.publickey must not be \"none\" unless server.bind";
    assert!(
        exit.code == Some(1) && exit.stderr.contains(reason),
        "{exit:?}"
    );
}

/// `publickey = "none"`: signatures are not checked, everything else is (D-24).
#[test]
fn unsigned_tokens_are_good_where_they_are_allowed() {
    let server = Server::with(&["--auth-publickey", "none", "--auth-iss", "me"]);
    server.logs("signatures of tokens are not checked");
    let made_up = |header: &str, claims: serde_json::Value| {
        let claims = base64(lasting(claims).to_string());
        format!("{}.{claims}.", base64(header))
    };
    let none = r#"{"alg":"none"}"#;
    let admin = json!({"iss": "me", "role": "admin"});
    for header in [none, r#"{"alg":"HS256"}"#, r#"{"alg":"EdDSA"}"#] {
        assert_eq!(
            status(&server, &made_up(header, admin.clone())),
            404,
            "{header}"
        );
    }
    for (claims, expected) in [
        (json!({"iss": "you", "role": "admin"}), 401),
        (json!({"iss": "me", "role": "admin", "exp": 1}), 401),
        (json!({"iss": "me", "prefix": "other"}), 403),
        (json!({"iss": "me"}), 403),
        (json!({"iss": "me", "prefix": "no"}), 404),
    ] {
        assert_eq!(
            status(&server, &made_up(none, claims.clone())),
            expected,
            "{claims}"
        );
    }
    assert_eq!(status(&server, "garbage"), 401);
}
