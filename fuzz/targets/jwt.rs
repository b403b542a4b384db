//! Tokens and the keys that they are checked with (`configuration.md` §5): whatever they hold, they are
//! refused or keep the rules, and none is believed that nobody has signed.

use std::cell::RefCell;
use std::fs;

use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use resonate::auth::{Authenticator, Keys, Rules, Source};
use serde_json::{Value, json};
use tempfile::TempDir;

use super::requests::RUNTIME;

/// A day in 2026.
const NOW_MS: i64 = 1_767_225_600_000;
const LEEWAY_S: f64 = 60.0;
const ISS: &str = "issuer";
const AUD: &str = "audience";
/// A key that nothing here is signed with: RFC 8037, appendix A.2.
const KEY: &str = "11qYAYKxCrfVS_7TyWQHOg7hcvPapiMlrwIaaPcHURo";

/// What is asked about tokens: a server that checks nothing but claims, and one that has keys.
struct Servers {
    folder: TempDir,
    unchecked: Authenticator,
    checked: Authenticator,
}

thread_local! {
    static SERVERS: RefCell<Servers> = RefCell::new(Servers::make());
}

impl Servers {
    fn make() -> Servers {
        let folder = tempfile::tempdir().expect("a temporary directory can be made");
        let file = folder.path().join("jwks.json");
        let key = |kid: &str| json!({"kty": "OKP", "crv": "Ed25519", "x": KEY, "kid": kid});
        let set = json!({"keys": [key("a"), key("b")]});
        fs::write(&file, set.to_string()).expect("the folder is writable");
        let rules = Rules {
            iss: Some(ISS.to_owned()),
            aud: Some(AUD.to_owned()),
        };
        let load = |keys| Authenticator::load(keys, rules.clone()).expect("the keys are good");
        Servers {
            unchecked: load(Keys::Unchecked),
            checked: load(Keys::From(vec![Source::Jwks(file)])),
            folder,
        }
    }
}

/// Lines: header, claims and signature of a token before they are encoded; or one line, a token. After a
/// NUL, a file with keys.
pub fn run(data: &[u8]) {
    let (token, keys) = match data.iter().position(|byte| *byte == 0) {
        Some(at) => (&data[..at], Some(&data[at + 1..])),
        None => (data, None),
    };
    SERVERS.with_borrow(|servers| {
        if let Some(keys) = keys {
            reads_keys(servers, keys);
        }
        let parts: Vec<&[u8]> = token.splitn(3, |byte| *byte == b'\n').collect();
        let (token, claims) = match parts[..] {
            [header, claims, signature] => {
                let encoded = [header, claims, signature].map(|part| URL_SAFE_NO_PAD.encode(part));
                (encoded.join("."), Some(claims))
            }
            _ => (String::from_utf8_lossy(token).into_owned(), None),
        };
        RUNTIME.with(|runtime| runtime.block_on(check(servers, &token, claims)));
    });
}

async fn check(servers: &Servers, token: &str, claims: Option<&[u8]>) {
    let forged = servers.checked.authenticate(Some(token), NOW_MS).await;
    assert!(forged.is_err(), "nobody has signed it");
    let believed = servers.unchecked.authenticate(Some(token), NOW_MS).await;
    if believed.is_ok()
        && let Some(claims) = claims
    {
        keeps_the_rules(&serde_json::from_slice(claims).expect("claims are JSON"));
    }
}

fn keeps_the_rules(claims: &Value) {
    assert!(claims.is_object());
    let now = 1_767_225_600.0;
    let expires_at = claims["exp"].as_f64().expect("exp is required");
    assert!(expires_at + LEEWAY_S >= now, "expired");
    let not_before = &claims["nbf"];
    let is_valid = not_before.as_f64().is_some_and(|at| at - LEEWAY_S <= now);
    assert!(not_before.is_null() || is_valid, "not valid yet");
    assert_eq!(claims["iss"], ISS);
    let audiences = claims["aud"].as_array();
    let is_among = audiences.is_some_and(|all| all.iter().any(|one| one == AUD));
    assert!(claims["aud"] == AUD || is_among, "for somebody else");
}

/// A file of either kind is refused, or has keys.
fn reads_keys(servers: &Servers, keys: &[u8]) {
    let path = servers.folder.path().join("keys");
    fs::write(&path, keys).expect("the folder is writable");
    for source in [Source::Pem(path.clone()), Source::Jwks(path.clone())] {
        let read = source.read().expect("it is a file");
        assert!(read.is_err() || read.is_ok_and(|keys| !keys.is_empty()));
    }
}
