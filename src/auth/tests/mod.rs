//! Tokens as issuers make them, and as attackers do. What clients see of it is tested in `tests/surface`.

use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use ring::signature::{Ed25519KeyPair, KeyPair};
use serde_json::{Value, json};

mod claims;
mod files;
mod signatures;

/// Where the tests stand in time, in seconds.
const NOW: i64 = 1_800_000_000;

fn base64(bytes: impl AsRef<[u8]>) -> String {
    URL_SAFE_NO_PAD.encode(bytes)
}

/// Who makes tokens: an Ed25519 key.
struct Issuer(Ed25519KeyPair);

impl Issuer {
    /// One of several; the same number is the same issuer.
    fn new(number: u8) -> Issuer {
        Issuer(Ed25519KeyPair::from_seed_unchecked(&[number; 32]).unwrap())
    }

    /// Its public key.
    fn jwk(&self, id: Option<&str>) -> Value {
        let x = base64(self.0.public_key());
        let mut jwk = json!({"kty": "OKP", "crv": "Ed25519", "x": x});
        if let Some(id) = id {
            jwk["kid"] = json!(id);
        }
        jwk
    }

    /// A token with exactly this header and these claims.
    fn sign(&self, header: &Value, claims: &Value) -> String {
        self.sign_text(&header.to_string(), &claims.to_string())
    }

    fn sign_text(&self, header: &str, claims: &str) -> String {
        let message = format!("{}.{}", base64(header), base64(claims));
        let signature = base64(self.0.sign(message.as_bytes()));
        format!("{message}.{signature}")
    }

    /// A token that is good for a minute and claims this besides.
    fn token(&self, claims: Value) -> String {
        self.sign(&json!({"alg": "EdDSA"}), &lasting(claims))
    }
}

/// Claims that expire in a minute, unless they say when.
fn lasting(mut claims: Value) -> Value {
    let claims_of = claims.as_object_mut().unwrap();
    claims_of.entry("exp").or_insert(json!(NOW + 60));
    claims
}
