//! Public keys in JWK sets (RFC 7517). A set may hold keys that are not for us: those are left out.

use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use serde::Deserialize;
use serde_json::Value;

use super::key::{Algorithm, Key};

/// Keys that a set may have: a token that names none is tried with each.
pub const KEYS_MAX: usize = 64;

#[derive(Deserialize)]
struct Set {
    keys: Vec<Value>,
}

#[derive(Deserialize)]
struct Jwk {
    kty: String,
    kid: Option<String>,
    alg: Option<Algorithm>,
    #[serde(rename = "use")]
    used_for: Option<String>,
    key_ops: Option<Vec<String>>,
    crv: Option<String>,
    n: Option<String>,
    e: Option<String>,
    x: Option<String>,
    y: Option<String>,
}

/// The keys of a set that signatures can be checked with.
///
/// # Errors
/// When it is not a set, has more than [`KEYS_MAX`] such keys, or none.
pub fn keys(json: &[u8]) -> Result<Vec<Key>, &'static str> {
    let set: Set = serde_json::from_slice(json).map_err(|_| "it is not a JWK set")?;
    let keys: Vec<Key> = set.keys.into_iter().filter_map(key).collect();
    match keys.len() {
        0 => Err("it has no key that can be used"),
        1..=KEYS_MAX => Ok(keys),
        _ => Err("it has too many keys"),
    }
}

fn key(jwk: Value) -> Option<Key> {
    // Whatever else it is, with an `alg` that is not one of ours it is not for us.
    let jwk: Jwk = serde_json::from_value(jwk).ok()?;
    let is_for_signatures = jwk.used_for.is_none_or(|used_for| used_for == "sig");
    let may_verify = jwk
        .key_ops
        .is_none_or(|operations| operations.iter().any(|operation| operation == "verify"));
    if !is_for_signatures || !may_verify {
        return None;
    }
    let bytes = |member: Option<String>| URL_SAFE_NO_PAD.decode(member?).ok();
    let key = match (jwk.kty.as_str(), jwk.crv.as_deref()) {
        ("RSA", _) => Key::rsa(&bytes(jwk.n)?, &bytes(jwk.e)?),
        ("EC", Some("P-256")) => Key::p256(point(32, &bytes(jwk.x)?, &bytes(jwk.y)?)?),
        ("EC", Some("P-384")) => Key::p384(point(48, &bytes(jwk.x)?, &bytes(jwk.y)?)?),
        ("OKP", Some("Ed25519")) => Key::ed25519(bytes(jwk.x)?),
        _ => None,
    };
    Some(key?.named(jwk.kid, jwk.alg))
}

fn point(bytes: usize, x: &[u8], y: &[u8]) -> Option<Vec<u8>> {
    (x.len() == bytes && y.len() == bytes).then(|| [&[4], x, y].concat())
}
