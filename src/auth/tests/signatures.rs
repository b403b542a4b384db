//! Which signatures are believed. The published examples were not made by the library that checks them.

use ring::hmac;
use serde_json::{Value, json};

use super::{Issuer, NOW, base64, lasting};
use crate::auth::key::{Algorithm, Key};
use crate::auth::keyring::{Keyring, Verdict};
use crate::auth::source::Source;
use crate::auth::token::Token;
use crate::auth::{Authenticator, Denied, Keys, Rules, jwks};

/// The key of RFC 7515, A.2.
const RSA_N: &str = "ofgWCuLjybRlzo0tZWJjNiuSfb4p4fAkd_wWJcyQoTbji9k0l8W26mPddxHmfHQp-Vaw-4qPCJrcS2mJPMEzP1Pt0Bm4d4QlL-yRT-SFd2lZS-pCgNMsD1W_YpRPEwOWvG6b32690r2jZ47soMZo9wGzjb_7OMg0LOL-bSf63kpaSHSXndS5z5rexMdbBYUsLA9e-KXBdQOS-UTo7WTBEMa2R2CapHg665xsmtdVMTBQY4uDZlxvb3qCo5ZwKh9kG4LT6_I5IhlJH7aGhyxXFvUK-DWNmoudF8NAco9_h9iaGNj8q2ethFkMLs91kzk2PAcDTW9gb54h4FRWyuXpoQ";
/// What A.2 and A.3 of RFC 7515 sign.
const PAYLOAD: &str = "eyJpc3MiOiJqb2UiLA0KICJleHAiOjEzMDA4MTkzODAsDQogImh0dHA6Ly9leGFtcGxlLmNvbS9pc19yb290Ijp0cnVlfQ";
/// The signature of RFC 7515, A.2.
const RS256_SIGNATURE: &str = "cC4hiUPoj9Eetdgtv3hF80EGrhuB__dzERat0XF9g2VtQgr9PJbu3XOiZj5RZmh7AAuHIm4Bh-0Qc_lF5YKt_O8W2Fp5jujGbds9uJdbF9CUAr7t1dnZcAcQjbKBYNX4BAynRFdiuB--f_nZLgrnbyTyWzO75vRK5h6xBArLIARNPvkSjtQBMHlb1L07Qe7K0GarZRmB_eSN9383LcOLn6_dO--xi12jzDwusC-eOkHWEsqtFZESc6BfI7noOPqvhJ1phCnvWh6IeYI2w9QOYEUipUTI8np6LbgGY9Fs98rqVt5AXLIhWkWywlVmtVrBp0igcN_IoypGlUPQGe77Rw";

fn key(jwk: &Value) -> Key {
    let set = json!({"keys": [jwk]}).to_string();
    jwks::keys(set.as_bytes()).unwrap().remove(0)
}

fn decoded(text: &str) -> Vec<u8> {
    use base64::Engine;
    super::URL_SAFE_NO_PAD.decode(text).unwrap()
}

/// RFC 7515, A.2 and A.3; RFC 8037, A.4.
#[test]
fn published_signatures_are_verified() {
    let rsa = key(&json!({"kty": "RSA", "n": RSA_N, "e": "AQAB"}));
    let p256 = key(&json!({
        "kty": "EC", "crv": "P-256",
        "x": "f83OJ3D2xF1Bg8vub9tLe1gHMzV76e8Tus9uPHvRVEU",
        "y": "x_FEzRu9m36HLN_tue659LNpXW6pCyStikYjKIWI5a0",
    }));
    let ed25519 = key(&json!({
        "kty": "OKP", "crv": "Ed25519", "x": "11qYAYKxCrfVS_7TyWQHOg7hcvPapiMlrwIaaPcHURo",
    }));
    let examples = [
        (
            &rsa,
            Algorithm::RS256,
            format!("eyJhbGciOiJSUzI1NiJ9.{PAYLOAD}"),
            RS256_SIGNATURE,
        ),
        (
            &p256,
            Algorithm::ES256,
            format!("eyJhbGciOiJFUzI1NiJ9.{PAYLOAD}"),
            "DtEhU3ljbEg8L38VWAfUAqOyKAM6-Xx-F4GawxaepmXFCgfTjDxw5djxLa8ISlSApmWQxfKTUJqPP3-Kg6NU1Q",
        ),
        (
            &ed25519,
            Algorithm::EdDSA,
            "eyJhbGciOiJFZERTQSJ9.RXhhbXBsZSBvZiBFZDI1NTE5IHNpZ25pbmc".to_owned(),
            "hgyY0il_MGCjP0JzlnLWG1PPOt7-09PGcvMg3AIbQR6dWbhijcNR4ki4iylGjg5BhVsPt9g7sVvpAr_MuM0KAg",
        ),
    ];
    let algorithms = [
        Algorithm::RS256,
        Algorithm::RS384,
        Algorithm::RS512,
        Algorithm::PS256,
        Algorithm::PS384,
        Algorithm::PS512,
        Algorithm::ES256,
        Algorithm::ES384,
        Algorithm::EdDSA,
    ];
    for (key, its_own, message, signature) in examples {
        let signature = decoded(signature);
        // With any other it is another signature.
        for algorithm in algorithms {
            let is_verified = key.verifies(algorithm, message.as_bytes(), &signature);
            assert_eq!(
                is_verified,
                algorithm == its_own,
                "{its_own:?} {algorithm:?}"
            );
        }
        let mut other = message.clone();
        other.push('x');
        assert!(!key.verifies(its_own, other.as_bytes(), &signature));
        for cut in [0, 1, signature.len() - 1] {
            assert!(!key.verifies(its_own, message.as_bytes(), &signature[..cut]));
        }
    }
}

fn keyring(jwks: &Value) -> Keyring {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("keys.json");
    std::fs::write(&path, json!({"keys": jwks}).to_string()).unwrap();
    Keyring::load(vec![Source::Jwks(path)]).unwrap()
}

fn judged(keyring: &Keyring, token: &str) -> Result<Verdict, &'static str> {
    let token = Token::parse(token)?;
    let signed = token.signed()?;
    Ok(keyring.current().judge(&signed, token.message))
}

/// A key that a token names is the only one that it can be signed with, but for those without a name.
#[test]
fn kid_is_respected() {
    let [a, b, c] = [1, 2, 3].map(Issuer::new);
    let named = keyring(&json!([a.jwk(Some("a")), b.jwk(Some("b"))]));
    let mixed = keyring(&json!([a.jwk(Some("a")), c.jwk(None)]));
    let token = |issuer: &Issuer, kid: Option<&str>| {
        let mut header = json!({"alg": "EdDSA"});
        if let Some(kid) = kid {
            header["kid"] = json!(kid);
        }
        issuer.sign(&header, &lasting(json!({})))
    };
    use Verdict::{Forged, Genuine, UnknownKey};
    for (keyring, issuer, kid, verdict) in [
        (&named, &a, Some("a"), Genuine),
        (&named, &b, Some("b"), Genuine),
        (&named, &a, Some("b"), Forged),
        (&named, &a, None, Genuine),
        (&named, &b, None, Genuine),
        (&named, &c, None, Forged),
        (&named, &a, Some("c"), UnknownKey),
        (&named, &c, Some("c"), UnknownKey),
        (&mixed, &c, Some("c"), Genuine),
        (&mixed, &c, Some("a"), Genuine),
        (&mixed, &b, Some("b"), UnknownKey),
        (&mixed, &b, Some("a"), Forged),
    ] {
        assert_eq!(judged(keyring, &token(issuer, kid)), Ok(verdict), "{kid:?}");
    }
}

/// No token can choose how it is believed.
#[test]
fn algorithms_cannot_be_confused() {
    let issuer = Issuer::new(1);
    let jwk = issuer.jwk(None);
    let keyring = keyring(&json!([jwk]));
    let claims = lasting(json!({"role": "admin"}));
    let refused = |token: &str| judged(&keyring, token) != Ok(Verdict::Genuine);
    assert!(!refused(&issuer.sign(&json!({"alg": "EdDSA"}), &claims)));

    // The public key, in every form that somebody might take for a secret.
    let public = decoded(jwk["x"].as_str().unwrap());
    let secrets = [
        public,
        jwk["x"].as_str().unwrap().as_bytes().to_vec(),
        jwk.to_string().into_bytes(),
        Vec::new(),
    ];
    for (name, algorithm) in [
        ("HS256", hmac::HMAC_SHA256),
        ("HS384", hmac::HMAC_SHA384),
        ("HS512", hmac::HMAC_SHA512),
    ] {
        for secret in &secrets {
            let header = json!({"alg": name});
            let message = format!(
                "{}.{}",
                base64(header.to_string()),
                base64(claims.to_string())
            );
            let tag = hmac::sign(&hmac::Key::new(algorithm, secret), message.as_bytes());
            assert!(refused(&format!("{message}.{}", base64(tag))), "{name}");
        }
    }
    for name in [
        "none", "None", "NONE", "", "ES256", "RS256", "eddsa", "Ed25519",
    ] {
        let signed = issuer.sign(&json!({"alg": name}), &claims);
        assert!(refused(&signed), "{name}");
        let (unsigned, _) = signed.rsplit_once('.').unwrap();
        assert!(refused(&format!("{unsigned}.")), "{name}");
    }
    for header in [
        json!({}),
        json!({"alg": null}),
        json!({"alg": ["EdDSA"]}),
        json!({"alg": "EdDSA", "crit": ["b64"], "b64": false}),
        json!({"alg": "EdDSA", "kid": 7}),
        json!(["EdDSA"]),
    ] {
        assert!(refused(&issuer.sign(&header, &claims)), "{header}");
    }
    let twice = r#"{"alg":"none","alg":"EdDSA"}"#;
    assert!(refused(&issuer.sign_text(twice, &claims.to_string())));
}

/// One byte changed anywhere is another token.
#[test]
fn no_byte_can_be_changed() {
    let issuer = Issuer::new(1);
    let keyring = keyring(&json!([issuer.jwk(None)]));
    let token = issuer.token(json!({"prefix": "a"}));
    assert_eq!(judged(&keyring, &token), Ok(Verdict::Genuine));
    for at in 0..token.len() {
        for byte in [b'A', b'B', b'.', b'=', b' '] {
            let mut other = token.clone().into_bytes();
            if std::mem::replace(&mut other[at], byte) == byte {
                continue;
            }
            let other = String::from_utf8(other).unwrap();
            assert_ne!(
                judged(&keyring, &other),
                Ok(Verdict::Genuine),
                "{at} {byte}"
            );
        }
    }
}

#[tokio::test]
async fn a_known_token_is_checked_again_for_its_time() {
    let issuer = Issuer::new(1);
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("keys.json");
    std::fs::write(&path, json!({"keys": [issuer.jwk(None)]}).to_string()).unwrap();
    let keys = Keys::From(vec![Source::Jwks(path)]);
    let authenticator = Authenticator::load(keys, Rules::default()).unwrap();
    let token = issuer.token(json!({"prefix": "", "nbf": NOW}));
    for (seconds, is_good) in [
        (0, true),
        (0, true),
        (60, true),
        (121, false),
        (-61, false),
        (1, true),
    ] {
        let now_ms = (NOW + seconds) * 1000;
        let answer = authenticator.authenticate(Some(&token), now_ms).await;
        assert_eq!(answer.is_ok(), is_good, "{seconds}");
    }
    let nobody = authenticator.authenticate(None, NOW * 1000).await;
    assert_eq!(nobody, Err(Denied::Unauthorized));
}
