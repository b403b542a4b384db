//! By which tokens clients are known: what goes with what, and what is refused.

use super::*;

const PUBLICKEY: &str = "auth.publickey";
const JWKS: &str = "auth.jwks";

#[test]
fn the_parts_may_come_from_different_layers() {
    let given = given()
        .file("auth.publickey = \"keys.pem\"")
        .env("RESONATE_AUTH__ISS", "me")
        .flag("auth.aud", "you");
    let auth = given.config().auth;
    assert_eq!(auth.mode(), AuthMode::Signed);
    assert_eq!(auth.iss.as_deref(), Some("me"));
    assert_eq!(auth.aud.as_deref(), Some("you"));
    assert_eq!(Auth::default().mode(), AuthMode::Off);
}

#[test]
fn issuer_and_audience_need_keys() {
    let sentence = "auth.publickey is required when auth.iss or auth.aud is set";
    for key in ["auth.iss", "auth.aud"] {
        assert_eq!(
            given().file(&format!("{key} = \"x\"")).error(),
            format!("{sentence} ({key} from resonate.toml)")
        );
        let with_keys = given().file(&format!("{key} = \"x\"\n{JWKS} = \"keys.json\""));
        assert_eq!(with_keys.config().auth.mode(), AuthMode::Signed);
    }
}

#[test]
fn blank_settings_are_refused() {
    for key in [PUBLICKEY, JWKS, "auth.iss", "auth.aud"] {
        assert_eq!(
            given().flag(key, " ").error(),
            format!("{key} must not be empty (from {})", keys::flag(key))
        );
    }
}

#[test]
fn keys_are_fetched_from_nobody_in_between() {
    for url in [
        "https://id.example.com/keys?x=1",
        "http://localhost:8080/keys",
        "http://127.0.0.1/keys",
        "http://[::1]:1/keys",
    ] {
        let jwks = given().flag(JWKS, url).config().auth.jwks();
        assert!(
            matches!(&jwks, Some(Jwks::Url(parsed)) if parsed.as_str() == url),
            "{jwks:?}"
        );
    }
    for path in ["keys.json", "/etc/resonate/keys.json", "./https:keys"] {
        let jwks = given().flag(JWKS, path).config().auth.jwks();
        assert_eq!(jwks, Some(Jwks::File(path.into())));
    }
    for (url, shown) in [
        ("http://id.example.com/keys", "http://id.example.com/keys"),
        ("ftp://localhost/keys", "ftp://localhost/keys"),
        ("http://me:hunter2@id/keys", "http://me:***@id/keys"),
        (
            "http://localhost.example.com/",
            "http://localhost.example.com/",
        ),
    ] {
        assert_eq!(
            given().flag(JWKS, url).error(),
            format!("{JWKS} must be a path or an https URL (got {shown:?}) (from --auth-jwks)")
        );
    }
}

#[test]
fn unsigned_tokens_are_for_tests() {
    let none = || given().flag(PUBLICKEY, "none");
    assert_eq!(
        none().error(),
        "auth.publickey must not be \"none\" unless server.bind is a loopback address or debug is on: \
         anybody could make a token of an admin (from --auth-publickey)"
    );
    assert!(none().flag("server.bind", "192.0.2.1").load().is_err());
    let warning = "auth.publickey = \"none\" (from --auth-publickey): signatures of tokens are not \
                   checked, anybody can make one";
    for allowed in [
        none().flag("server.bind", "127.0.0.1"),
        none().flag("server.bind", "[::1]"),
        none().flag("server.bind", "localhost"),
        none().flag("debug", true),
    ] {
        let loaded = allowed.load().unwrap();
        assert_eq!(loaded.config.auth.mode(), AuthMode::Unchecked);
        assert_eq!(loaded.warnings, [warning]);
    }
    assert_eq!(
        none().flag("debug", true).flag(JWKS, "keys.json").error(),
        "auth.jwks must not be set when auth.publickey = \"none\" (from --auth-jwks)"
    );
}
