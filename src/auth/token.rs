//! Tokens: JWTs in the compact form of RFC 7515, and the rules that their claims must keep
//! (`configuration.md` §5).

use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use serde::de::{Deserializer, IgnoredAny};
use serde::{Deserialize, de::DeserializeOwned};
use serde_json::Value;

use super::key::Algorithm;

/// Longest token. Checking one costs time in proportion.
pub const BYTES_MAX: usize = 16 * 1024;
/// By how much clocks may differ, in seconds.
const LEEWAY_S: f64 = 60.0;

/// A token taken apart; nothing in it has been checked.
#[derive(Debug)]
pub struct Token<'a> {
    /// What is signed.
    pub message: &'a str,
    header: &'a str,
    signature: &'a str,
    /// What it claims.
    pub claims: Claims,
}

/// How a token says that it is signed.
#[derive(Debug)]
pub struct Signed {
    /// By which algorithm.
    pub algorithm: Algorithm,
    /// With which key (`kid`).
    pub key: Option<String>,
    /// The signature.
    pub signature: Vec<u8>,
}

/// What a token claims, as far as anybody asks. A claim that is `null` is absent, but for `groups`.
#[derive(Debug, Default, Deserialize)]
pub struct Claims {
    exp: Option<Value>,
    nbf: Option<Value>,
    iss: Option<Value>,
    aud: Option<Value>,
    /// See `principal`.
    pub role: Option<Value>,
    /// See `principal`.
    pub prefix: Option<Value>,
    /// See `principal`. Nobody is given all groups because somebody's groups are `null`.
    #[serde(default, deserialize_with = "present")]
    pub groups: Option<Value>,
}

fn present<'de, D: Deserializer<'de>>(from: D) -> Result<Option<Value>, D::Error> {
    Value::deserialize(from).map(Some)
}

/// What tokens must claim.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Rules {
    /// The issuer.
    pub iss: Option<String>,
    /// One of the audiences.
    pub aud: Option<String>,
}

/// Why a token is refused. For the log: the client is told nothing but that it is.
pub type Reason = &'static str;

impl<'a> Token<'a> {
    /// Takes a token apart.
    ///
    /// # Errors
    /// When it is too long or not a JWT.
    pub fn parse(token: &'a str) -> Result<Self, Reason> {
        if token.len() > BYTES_MAX {
            return Err("too long");
        }
        let (message, signature) = token.rsplit_once('.').ok_or("not a JWT")?;
        let (header, claims) = message.split_once('.').ok_or("not a JWT")?;
        Ok(Token {
            message,
            header,
            signature,
            claims: object(claims).ok_or("its claims cannot be read")?,
        })
    }

    /// How it is signed.
    ///
    /// # Errors
    /// When it is not, or in a way that no public key can check.
    pub fn signed(&self) -> Result<Signed, Reason> {
        #[derive(Deserialize)]
        struct Header {
            alg: Algorithm,
            kid: Option<String>,
            crit: Option<IgnoredAny>,
        }
        let header: Header = object(self.header).ok_or("no algorithm that is accepted")?;
        if header.crit.is_some() {
            return Err("it has extensions that must be understood");
        }
        Ok(Signed {
            algorithm: header.alg,
            key: header.kid,
            signature: decoded(self.signature).ok_or("its signature cannot be read")?,
        })
    }
}

impl Claims {
    /// Checks the claims that every token must have, at `now_ms`.
    ///
    /// # Errors
    /// The first that it does not keep.
    pub fn check(&self, rules: &Rules, now_ms: i64) -> Result<(), Reason> {
        let expires_at = seconds(self.exp.as_ref().ok_or("no exp")?).ok_or("invalid exp")?;
        #[allow(
            clippy::cast_precision_loss,
            reason = "exact until the year 287396, and a leeway of a minute"
        )]
        let now = now_ms as f64 / 1000.0;
        if now > expires_at + LEEWAY_S {
            return Err("expired");
        }
        if let Some(not_before) = &self.nbf {
            let not_before = seconds(not_before).ok_or("invalid nbf")?;
            if now < not_before - LEEWAY_S {
                return Err("not valid yet");
            }
        }
        if rules.iss.is_some() && self.iss.as_ref().and_then(Value::as_str) != rules.iss.as_deref()
        {
            return Err("another iss");
        }
        match &rules.aud {
            Some(aud) if !self.is_for(aud) => Err("another aud"),
            _ => Ok(()),
        }
    }

    /// Whether `aud` names this audience; a string or a list (D-24).
    fn is_for(&self, audience: &str) -> bool {
        match &self.aud {
            Some(Value::String(one)) => one == audience,
            Some(Value::Array(all)) => all.iter().any(|one| one.as_str() == Some(audience)),
            _ => false,
        }
    }
}

/// A NumericDate of RFC 7519.
fn seconds(date: &Value) -> Option<f64> {
    date.as_f64()
}

/// A JSON object in base64url. Serde alone would read a struct from an array too, and pass over whatever is
/// wrong in members that nobody asks for.
fn object<T: DeserializeOwned>(part: &str) -> Option<T> {
    let json = decoded(part)?;
    let whole: Value = serde_json::from_slice(&json).ok()?;
    whole
        .is_object()
        .then(|| serde_json::from_slice(&json).ok())?
}

fn decoded(part: &str) -> Option<Vec<u8>> {
    URL_SAFE_NO_PAD.decode(part).ok()
}
