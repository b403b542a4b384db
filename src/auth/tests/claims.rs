//! What a token must claim (`configuration.md` §5), and what that allows (`protocol.md` §3).

use std::borrow::Cow;
use std::sync::Arc;

use serde_json::{Value, json};

use super::{Issuer, NOW, base64, lasting};
use crate::auth::principal::Principal;
use crate::auth::token::{BYTES_MAX, Token};
use crate::auth::{Authenticator, Denied, Keys, Rules};
use crate::protocol::scope::Scope;

fn rules(iss: Option<&str>, aud: Option<&str>) -> Rules {
    Rules {
        iss: iss.map(str::to_owned),
        aud: aud.map(str::to_owned),
    }
}

/// What is wrong with claims.
fn complaint(claims: &Value, rules: &Rules) -> Option<&'static str> {
    let token = Issuer::new(1).sign(&json!({"alg": "EdDSA"}), claims);
    let token = match Token::parse(&token) {
        Ok(token) => token,
        Err(reason) => return Some(reason),
    };
    token.claims.check(rules, NOW * 1000).err()
}

#[test]
fn a_token_has_its_time() {
    for (claims, reason) in [
        (json!({"exp": NOW + 1}), None),
        (json!({"exp": NOW - 60}), None),
        (json!({"exp": NOW - 61}), Some("expired")),
        (json!({"exp": 0}), Some("expired")),
        (json!({"exp": -1}), Some("expired")),
        (json!({"exp": i64::MAX}), None),
        (json!({"exp": u64::MAX}), None),
        (json!({"exp": 1e300}), None),
        (json!({"exp": 1_800_000_000.5}), None),
        (json!({}), Some("no exp")),
        (json!({"exp": null}), Some("no exp")),
        (json!({"exp": (NOW + 1).to_string()}), Some("invalid exp")),
        (json!({"exp": [NOW + 1]}), Some("invalid exp")),
        (json!({"exp": NOW + 1, "nbf": NOW + 60}), None),
        (
            json!({"exp": NOW + 1, "nbf": NOW + 61}),
            Some("not valid yet"),
        ),
        (json!({"exp": NOW + 1, "nbf": "x"}), Some("invalid nbf")),
        (json!({"exp": NOW + 1, "nbf": null, "iat": NOW + 99}), None),
    ] {
        assert_eq!(complaint(&claims, &Rules::default()), reason, "{claims}");
    }
}

/// D-24: an audience may be a string or a list.
#[test]
fn issuer_and_audience_are_those_configured() {
    let both = rules(Some("me"), Some("you"));
    for (claims, reason) in [
        (json!({"iss": "me", "aud": "you"}), None),
        (json!({"iss": "me", "aud": ["they", "you"]}), None),
        (json!({"iss": "me", "aud": ["they", 7, "you"]}), None),
        (json!({"iss": "Me", "aud": "you"}), Some("another iss")),
        (json!({"iss": ["me"], "aud": "you"}), Some("another iss")),
        (json!({"aud": "you"}), Some("another iss")),
        (json!({"iss": null, "aud": "you"}), Some("another iss")),
        (json!({"iss": "me"}), Some("another aud")),
        (json!({"iss": "me", "aud": []}), Some("another aud")),
        (json!({"iss": "me", "aud": "your"}), Some("another aud")),
        (json!({"iss": "me", "aud": {"you": 1}}), Some("another aud")),
    ] {
        let claims = lasting(claims);
        assert_eq!(complaint(&claims, &both), reason, "{claims}");
        assert_eq!(complaint(&claims, &Rules::default()), None, "{claims}");
    }
}

#[test]
fn what_is_no_token_is_refused() {
    let good = Issuer::new(1).token(json!({}));
    assert!(Token::parse(&good).is_ok());
    let header = base64(r#"{"alg":"EdDSA"}"#);
    let deep = format!("{{\"aud\":{}{}}}", "[".repeat(5000), "]".repeat(5000));
    for claims in [
        "",
        "7",
        "null",
        "[1]",
        "\"x\"",
        "{",
        "{\"exp\":1e999}",
        "{\"exp\":1,\"exp\":2}",
        "{\"role\":\"user\",\"role\":\"admin\"}",
        &deep,
    ] {
        let token = format!("{header}.{}.{}", base64(claims), base64("signature"));
        assert!(Token::parse(&token).is_err(), "{claims:.40}");
    }
    let long = Issuer::new(1).token(json!({"x": "y".repeat(BYTES_MAX)}));
    let (head, _) = good.rsplit_once('.').unwrap();
    for token in ["", ".", "..", "...", "a.b.c", "a.b", "é.é.é", head, &long] {
        assert!(Token::parse(token).is_err(), "{token:.40}");
    }
}

fn principal(claims: Value) -> Principal {
    let token = Issuer::new(1).token(claims);
    Principal::of(&Token::parse(&token).unwrap().claims)
}

fn ids(ids: &'static [&str]) -> Scope<'static> {
    Scope::Ids(ids.iter().map(|id| Cow::Borrowed(*id)).collect())
}

#[test]
fn roles_and_prefixes_allow_what_they_allow() {
    let (own, foreign, some) = (&["a", "a.1"][..], &["b"][..], &["a", "b"][..]);
    let everything = [true, true, true, true];
    let only_own = [true, false, false, false];
    let nothing = [false, false, false, false];
    for (claims, allowed) in [
        (json!({"role": "admin"}), everything),
        (json!({"role": "ADMIN", "prefix": "x"}), everything),
        (json!({"prefix": ""}), everything),
        (json!({"role": "user", "prefix": "a"}), only_own),
        (json!({"role": ["admin"], "prefix": "a"}), only_own),
        (json!({"prefix": "A"}), nothing),
        (json!({}), nothing),
        (json!({"prefix": null}), nothing),
        (json!({"prefix": 7}), nothing),
        (json!({"prefix": ["a"]}), nothing),
        (json!({"role": "administrator"}), nothing),
    ] {
        let principal = principal(claims.clone());
        let scopes = [ids(own), ids(foreign), ids(some), Scope::Everything];
        assert_eq!(
            scopes.map(|scope| principal.may(|| scope)),
            allowed,
            "{claims}"
        );
    }
    // A prefix is of bytes: where a name ends, its owner says.
    assert!(principal(json!({"prefix": "a"})).may(|| ids(&["ab"])));
    assert!(!principal(json!({"prefix": "a."})).may(|| ids(&["ab"])));
}

#[test]
fn groups_restrict_whom_one_may_listen_to() {
    for (claims, allowed) in [
        (json!({}), [true, true]),
        (json!({"groups": ["g", "other"]}), [true, false]),
        (json!({"groups": "g"}), [true, false]),
        (json!({"groups": ["G", "gh", ""]}), [false, false]),
        (json!({"groups": []}), [false, false]),
        (json!({"groups": null}), [false, false]),
        (json!({"groups": 7}), [false, false]),
        (json!({"groups": ["g", 7]}), [false, false]),
        (json!({"groups": [], "prefix": ""}), [false, false]),
        (json!({"groups": [], "role": "admin"}), [true, true]),
    ] {
        let principal = principal(claims.clone());
        assert_eq!(
            ["g", "h"].map(|group| principal.may_poll(group)),
            allowed,
            "{claims}"
        );
    }
}

/// `configuration.md` §5: signatures are not checked, everything else is.
#[tokio::test]
async fn unchecked_tokens_are_still_looked_at() {
    let rules = rules(Some("me"), None);
    let authenticator = Authenticator::load(Keys::Unchecked, rules).unwrap();
    let made_up = |header: &str, claims: Value| {
        let claims = base64(lasting(claims).to_string());
        format!("{}.{claims}.", base64(header))
    };
    let admin = json!({"iss": "me", "role": "admin"});
    for header in [r#"{"alg":"none"}"#, r#"{"alg":"HS256"}"#, r#"{"alg":"x"}"#] {
        let token = made_up(header, admin.clone());
        let principal = authenticator.authenticate(Some(&token), NOW * 1000).await;
        assert_eq!(principal, Ok(Arc::new(Principal::anybody())), "{header}");
    }
    for claims in [
        json!({"iss": "you", "role": "admin"}),
        json!({"iss": "me", "exp": NOW - 61}),
        json!({"iss": "me", "exp": null}),
    ] {
        let token = made_up(r#"{"alg":"none"}"#, claims.clone());
        let answer = authenticator.authenticate(Some(&token), NOW * 1000).await;
        assert_eq!(answer, Err(Denied::Unauthorized), "{claims}");
    }
}
