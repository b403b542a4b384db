//! Who makes tokens. Keys and signatures are openssl's: not made by what checks them.

use std::fs;
use std::path::PathBuf;
use std::process::Command;
use std::sync::atomic::{AtomicUsize, Ordering};

use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use serde_json::{Value, json};

use super::server::wall_clock_ms;

/// A private key, and the algorithm that it signs with.
pub struct Issuer {
    folder: tempfile::TempDir,
    algorithm: &'static str,
    signed: AtomicUsize,
}

pub fn base64(bytes: impl AsRef<[u8]>) -> String {
    URL_SAFE_NO_PAD.encode(bytes)
}

/// The wall clock, in seconds.
pub fn now() -> i64 {
    wall_clock_ms() / 1000
}

/// Claims that are good for an hour.
#[allow(clippy::needless_pass_by_value, reason = "callers pass `json!`")]
pub fn lasting(claims: Value) -> Value {
    let mut lasting = json!({"exp": now() + 3600});
    for (name, value) in claims.as_object().expect("claims are an object") {
        lasting[name] = value.clone();
    }
    lasting
}

impl Issuer {
    /// One with a new key for this algorithm.
    pub fn new(algorithm: &'static str) -> Issuer {
        let issuer = Issuer {
            folder: tempfile::tempdir().expect("a temporary directory can be made"),
            algorithm,
            signed: AtomicUsize::new(0),
        };
        let kind: &[&str] = match algorithm {
            "ES256" => &["EC", "-pkeyopt", "ec_paramgen_curve:P-256"],
            "ES384" => &["EC", "-pkeyopt", "ec_paramgen_curve:P-384"],
            "EdDSA" => &["ed25519"],
            _ => &["RSA", "-pkeyopt", "rsa_keygen_bits:2048"],
        };
        let key = issuer.key();
        openssl(&[&["genpkey", "-out", &key, "-algorithm"], kind].concat());
        issuer
    }

    /// The same key with another algorithm.
    pub fn with(&self, algorithm: &'static str) -> Issuer {
        let folder = tempfile::tempdir().expect("a temporary directory can be made");
        fs::copy(self.key(), folder.path().join("key.pem")).expect("the key is readable");
        Issuer {
            folder,
            algorithm,
            signed: AtomicUsize::new(0),
        }
    }

    fn path(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    fn key(&self) -> String {
        self.path("key.pem").display().to_string()
    }

    /// The public key as a PEM file.
    pub fn pem(&self) -> String {
        let pem = openssl(&["pkey", "-in", &self.key(), "-pubout"]);
        String::from_utf8(pem).expect("PEM is text")
    }

    /// The public key as a JWK.
    pub fn jwk(&self, id: &str) -> Value {
        let der = openssl(&["pkey", "-in", &self.key(), "-pubout", "-outform", "DER"]);
        let end = |bytes: usize| &der[der.len() - bytes..];
        let mut jwk = match self.algorithm {
            "ES256" => {
                let (x, y) = end(64).split_at(32);
                json!({"kty": "EC", "crv": "P-256", "x": base64(x), "y": base64(y)})
            }
            "ES384" => {
                let (x, y) = end(96).split_at(48);
                json!({"kty": "EC", "crv": "P-384", "x": base64(x), "y": base64(y)})
            }
            "EdDSA" => json!({"kty": "OKP", "crv": "Ed25519", "x": base64(end(32))}),
            // It ends with the modulus (256 bytes) and the exponent 65537 (tag, length, 3 bytes).
            _ => json!({"kty": "RSA", "n": base64(&end(261)[..256]), "e": "AQAB"}),
        };
        jwk["kid"] = json!(id);
        jwk
    }

    /// A token that is good for an hour, unless it claims otherwise.
    pub fn token(&self, claims: Value) -> String {
        self.sign(&json!({"alg": self.algorithm}), &lasting(claims))
    }

    /// Same, which names a key.
    pub fn token_of(&self, id: &str, claims: Value) -> String {
        let header = json!({"alg": self.algorithm, "kid": id});
        self.sign(&header, &lasting(claims))
    }

    /// A token with exactly this header and these claims.
    pub fn sign(&self, header: &Value, claims: &Value) -> String {
        let message = format!(
            "{}.{}",
            base64(header.to_string()),
            base64(claims.to_string())
        );
        // Several threads may sign at once.
        let n = self.signed.fetch_add(1, Ordering::Relaxed);
        let file = self.path(&format!("message-{n}"));
        fs::write(&file, &message).expect("the folder is writable");
        let signature = self.signature(&file.display().to_string());
        format!("{message}.{}", base64(signature))
    }

    fn signature(&self, file: &str) -> Vec<u8> {
        let key = self.key();
        if self.algorithm == "EdDSA" {
            return openssl(&["pkeyutl", "-sign", "-rawin", "-inkey", &key, "-in", file]);
        }
        let (family, bits) = self.algorithm.split_at(2);
        let hash = format!("-sha{bits}");
        let mut arguments = vec!["dgst", &hash, "-sign", &key];
        if family == "PS" {
            let pss = ["rsa_padding_mode:pss", "rsa_pss_saltlen:digest"];
            arguments.extend(pss.iter().flat_map(|option| ["-sigopt", *option]));
        }
        arguments.push(file);
        let signature = openssl(&arguments);
        match self.algorithm {
            "ES256" => fixed(&signature, 32),
            "ES384" => fixed(&signature, 48),
            _ => signature,
        }
    }
}

/// The two numbers of an ECDSA signature, `SEQUENCE { r INTEGER, s INTEGER }`, each of so many bytes.
fn fixed(der: &[u8], bytes: usize) -> Vec<u8> {
    let mut rest = &der[2..];
    let mut numbers = Vec::new();
    for _ in 0..2 {
        let (number, more) = rest[2..].split_at(rest[1].into());
        let number = &number[number.len().saturating_sub(bytes)..];
        numbers.extend(vec![0; bytes - number.len()]);
        numbers.extend(number);
        rest = more;
    }
    numbers
}

fn openssl(arguments: &[&str]) -> Vec<u8> {
    let output = Command::new("openssl").args(arguments).output();
    let output = output.expect("openssl runs");
    assert!(
        output.status.success(),
        "openssl {arguments:?}: {}",
        String::from_utf8_lossy(&output.stderr)
    );
    output.stdout
}
