//! Public keys, and which signatures each of them can check (`configuration.md` §5).
//!
//! What algorithm a token claims only ever selects among those of a key's own kind: there is no `none`
//! here and no HMAC, so no token can choose how it is believed.

use ring::agreement;
use ring::rand::SystemRandom;
use ring::signature::{self, RsaPublicKeyComponents, UnparsedPublicKey};
use serde::Deserialize;

const RSA_BITS: std::ops::RangeInclusive<usize> = 2048..=8192;
/// Bytes of an exponent below 2³³.
const EXPONENT_BYTES_MAX: usize = 5;
const ED25519_BYTES: usize = 32;

/// An algorithm that some key can check.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize)]
#[allow(missing_docs, reason = "variants carry the names of RFC 7518")]
pub enum Algorithm {
    RS256,
    RS384,
    RS512,
    PS256,
    PS384,
    PS512,
    ES256,
    ES384,
    EdDSA,
}

/// A public key.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Key {
    /// By what name tokens call it. One without a name is tried for all of them.
    id: Option<String>,
    /// The one algorithm that it is for, if it is not for all of its kind.
    algorithm: Option<Algorithm>,
    material: Material,
}

/// What a key is made of.
#[derive(Clone, Debug, PartialEq, Eq)]
enum Material {
    Rsa { n: Vec<u8>, e: Vec<u8> },
    P256(Vec<u8>),
    P384(Vec<u8>),
    Ed25519(Vec<u8>),
}

impl Key {
    fn new(material: Material) -> Key {
        Key {
            id: None,
            algorithm: None,
            material,
        }
    }

    /// An RSA key of 2048 to 8192 bits, by modulus and exponent (big-endian).
    pub fn rsa(n: &[u8], e: &[u8]) -> Option<Key> {
        let (n, e) = (without_zeroes(n), without_zeroes(e));
        let bits = 8 * n.len() - usize::try_from(n.first()?.leading_zeros()).ok()?;
        let is_sound = RSA_BITS.contains(&bits)
            && e.len() <= EXPONENT_BYTES_MAX
            && e.last()? % 2 == 1
            && e != [1];
        is_sound.then(|| {
            Key::new(Material::Rsa {
                n: n.to_vec(),
                e: e.to_vec(),
            })
        })
    }

    /// A point of P-256, uncompressed.
    pub fn p256(point: Vec<u8>) -> Option<Key> {
        is_point(&agreement::ECDH_P256, &point).then(|| Key::new(Material::P256(point)))
    }

    /// A point of P-384, uncompressed.
    pub fn p384(point: Vec<u8>) -> Option<Key> {
        is_point(&agreement::ECDH_P384, &point).then(|| Key::new(Material::P384(point)))
    }

    /// An Ed25519 key.
    pub fn ed25519(bytes: Vec<u8>) -> Option<Key> {
        (bytes.len() == ED25519_BYTES).then(|| Key::new(Material::Ed25519(bytes)))
    }

    /// The same key by a name, or for one algorithm only.
    pub fn named(self, id: Option<String>, algorithm: Option<Algorithm>) -> Key {
        Key {
            id,
            algorithm,
            ..self
        }
    }

    /// Whether tokens call it by this name.
    pub fn is_called(&self, id: &str) -> bool {
        self.id.as_deref() == Some(id)
    }

    /// Whether a token of this algorithm, that names this key or none, may be signed with it.
    pub fn is_for(&self, algorithm: Algorithm, id: Option<&str>) -> bool {
        let is_named = id.is_none_or(|id| self.id.is_none() || self.is_called(id));
        is_named && self.algorithm.is_none_or(|own| own == algorithm)
    }

    /// Whether the signature is this key's. Never, if the algorithm is not one of its kind.
    pub fn verifies(&self, algorithm: Algorithm, message: &[u8], signature: &[u8]) -> bool {
        use Algorithm::{ES256, ES384, EdDSA, PS256, PS384, PS512, RS256, RS384, RS512};
        let verified = match (&self.material, algorithm) {
            (Material::Rsa { n, e }, RS256 | RS384 | RS512 | PS256 | PS384 | PS512) => {
                let parameters = match algorithm {
                    RS256 => &signature::RSA_PKCS1_2048_8192_SHA256,
                    RS384 => &signature::RSA_PKCS1_2048_8192_SHA384,
                    RS512 => &signature::RSA_PKCS1_2048_8192_SHA512,
                    PS256 => &signature::RSA_PSS_2048_8192_SHA256,
                    PS384 => &signature::RSA_PSS_2048_8192_SHA384,
                    _ => &signature::RSA_PSS_2048_8192_SHA512,
                };
                RsaPublicKeyComponents { n, e }.verify(parameters, message, signature)
            }
            (Material::P256(point), ES256) => {
                UnparsedPublicKey::new(&signature::ECDSA_P256_SHA256_FIXED, point)
                    .verify(message, signature)
            }
            (Material::P384(point), ES384) => {
                UnparsedPublicKey::new(&signature::ECDSA_P384_SHA384_FIXED, point)
                    .verify(message, signature)
            }
            (Material::Ed25519(bytes), EdDSA) => {
                UnparsedPublicKey::new(&signature::ED25519, bytes).verify(message, signature)
            }
            _ => return false,
        };
        verified.is_ok()
    }
}

fn without_zeroes(mut number: &[u8]) -> &[u8] {
    while let [0, rest @ ..] = number {
        number = rest;
    }
    number
}

/// Whether a key agreement would take it: the one check of a point that the library offers.
fn is_point(curve: &'static agreement::Algorithm, point: &[u8]) -> bool {
    let Ok(other) = agreement::EphemeralPrivateKey::generate(curve, &SystemRandom::new()) else {
        return false;
    };
    let point = agreement::UnparsedPublicKey::new(curve, point);
    agreement::agree_ephemeral(other, &point, |_| ()).is_ok()
}
