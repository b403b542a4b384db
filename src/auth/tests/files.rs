//! What keys there may be (`configuration.md` §5): in PEM files as openssl writes them, and in JWK sets.

use serde_json::json;

use super::{Issuer, base64};
use crate::auth::{jwks, pem};

const RSA: &str = include_str!("keys/rsa.pem");
const RSA_PKCS1: &str = include_str!("keys/rsa_pkcs1.pem");
const P256: &str = include_str!("keys/p256.pem");
const P384: &str = include_str!("keys/p384.pem");
const ED25519: &str = include_str!("keys/ed25519.pem");

fn count(pem: &str) -> Option<usize> {
    pem::keys(pem.as_bytes()).map(|keys| keys.len())
}

#[test]
fn keys_of_every_kind_are_read_alone_and_together() {
    for pem in [RSA, RSA_PKCS1, P256, P384, ED25519] {
        assert_eq!(count(pem), Some(1), "{pem}");
        assert_eq!(count(&pem.replace('\n', "\r\n")), Some(1), "{pem}");
    }
    let bundle = [RSA, "# the next one\n", P256, P384, ED25519].concat();
    assert_eq!(count(&bundle), Some(4));
    // Two forms of one key.
    assert_eq!(pem::keys(RSA.as_bytes()), pem::keys(RSA_PKCS1.as_bytes()));
}

#[test]
fn other_keys_are_refused() {
    let private = P256.replace("PUBLIC KEY", "PRIVATE KEY");
    let tampered = P256.replace("xVVACH3C", "xVVACH3D");
    for (name, pem) in [
        ("nothing", ""),
        ("no key", "key"),
        ("RSA of 1024 bits", include_str!("keys/rsa_1024.pem")),
        ("P-521", include_str!("keys/p521.pem")),
        ("secp256k1", include_str!("keys/secp256k1.pem")),
        ("X25519", include_str!("keys/x25519.pem")),
        ("Ed448", include_str!("keys/ed448.pem")),
        ("a certificate", include_str!("keys/certificate.pem")),
        ("a compressed point", include_str!("keys/compressed.pem")),
        ("a private key", &private),
        ("a point that is not on its curve", &tampered),
    ] {
        assert_eq!(count(pem), None, "{name}");
        // Nor beside a good one, if it is a key at all.
        if pem.contains("BEGIN") {
            assert_eq!(count(&[ED25519, pem].concat()), None, "{name}");
        }
    }
}

/// One that was left out would be missed when tokens are signed with it.
#[test]
fn a_bundle_that_is_cut_off_is_refused() {
    let bundle = [ED25519, P256].concat();
    for end in ED25519.len() + 12..bundle.len() - 1 {
        assert_eq!(count(&bundle[..end]), None, "{}", &bundle[..end]);
    }
}

#[test]
fn a_set_is_read_without_what_is_not_for_us() {
    let ours = Issuer::new(1);
    let with = |name: &str, value: serde_json::Value| {
        let mut jwk = ours.jwk(Some("a"));
        jwk[name] = value;
        jwk
    };
    let usable = [
        ours.jwk(None),
        ours.jwk(Some("a")),
        with("use", json!("sig")),
        with("alg", json!("EdDSA")),
        with("key_ops", json!(["verify"])),
        with("x5c", json!(["whatever"])),
    ];
    for jwk in usable {
        let set = json!({"keys": [jwk]}).to_string();
        assert_eq!(
            jwks::keys(set.as_bytes()).map(|keys| keys.len()),
            Ok(1),
            "{set}"
        );
    }
    let others = [
        with("use", json!("enc")),
        with("alg", json!("HS256")),
        with("alg", json!("none")),
        with("key_ops", json!(["sign"])),
        with("crv", json!("X25519")),
        with("x", json!("c2hvcnQ")),
        with("x", json!("not base64url=")),
        with("kty", json!("oct")),
        json!({"kty": "oct", "k": base64("secret"), "alg": "HS256"}),
        json!({"kty": "RSA", "n": base64([255; 128]), "e": "AQAB"}),
        json!({"kty": "RSA", "n": base64([255; 256]), "e": "AQ"}),
        json!({"kty": "EC", "crv": "P-256", "x": base64([1; 32]), "y": base64([1; 32])}),
        json!(7),
    ];
    let set = json!({"keys": others}).to_string();
    assert_eq!(
        jwks::keys(set.as_bytes()),
        Err("it has no key that can be used")
    );
    let all: Vec<_> = others.into_iter().chain([ours.jwk(None)]).collect();
    let set = json!({"keys": all}).to_string();
    assert_eq!(jwks::keys(set.as_bytes()).map(|keys| keys.len()), Ok(1));
}

#[test]
fn a_set_is_bounded() {
    let key = Issuer::new(1).jwk(None);
    for (count, is_taken) in [(jwks::KEYS_MAX, true), (jwks::KEYS_MAX + 1, false)] {
        let set = json!({"keys": vec![key.clone(); count]}).to_string();
        assert_eq!(jwks::keys(set.as_bytes()).is_ok(), is_taken, "{count}");
    }
    for text in ["", "[]", "{}", r#"{"keys":7}"#, r#"{"keys":[]}"#] {
        assert!(jwks::keys(text.as_bytes()).is_err(), "{text}");
    }
}
