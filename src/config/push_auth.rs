//! `[transports.http_push.auth]`: by what workers know who pushes.

use std::fmt;

use axum::http::{HeaderName, HeaderValue};
use figment::Figment;
use serde::de::{Deserializer, Error as _};
use serde::{Deserialize, Serialize, Serializer};

use super::load::source_of;
use super::{Error, Transports, value};

const MODE: &str = "transports.http_push.auth.mode";
const TOKEN: &str = "transports.http_push.auth.token";
const AUDIENCE: &str = "transports.http_push.auth.audience";

/// By what workers know who pushes.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct PushAuth {
    /// Where the token comes from.
    pub mode: PushAuthMode,
    /// The token of mode `bearer`. Not optional then.
    pub token: Option<Token>,
    /// Whom the tokens of mode `gcp` are for; each address itself if not set.
    #[serde(deserialize_with = "value::not_empty_if_set")]
    pub audience: Option<String>,
    /// The name of the header.
    #[serde(deserialize_with = "header_name")]
    pub header: String,
}

impl Default for PushAuth {
    fn default() -> Self {
        PushAuth {
            mode: PushAuthMode::None,
            token: None,
            audience: None,
            header: "Authorization".to_owned(),
        }
    }
}

/// Where the token of a push comes from.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum PushAuthMode {
    /// There is none.
    None,
    /// It is configured.
    Bearer,
    /// It is minted through Application Default Credentials.
    Gcp,
}

impl<'de> Deserialize<'de> for PushAuthMode {
    fn deserialize<D: Deserializer<'de>>(from: D) -> Result<Self, D::Error> {
        match String::deserialize(from)?.as_str() {
            "none" => Ok(PushAuthMode::None),
            "bearer" => Ok(PushAuthMode::Bearer),
            "gcp" => Ok(PushAuthMode::Gcp),
            // It may be a token in the wrong place.
            _ => Err(D::Error::custom("must be \"none\", \"bearer\" or \"gcp\"")),
        }
    }
}

/// A token. It leaves by [`Token::as_str`] only.
#[derive(Clone, PartialEq, Eq)]
pub struct Token(String);

impl Token {
    /// The token as it was given.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl fmt::Debug for Token {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("***")
    }
}

impl Serialize for Token {
    fn serialize<S: Serializer>(&self, to: S) -> Result<S::Ok, S::Error> {
        to.serialize_str("***")
    }
}

impl<'de> Deserialize<'de> for Token {
    fn deserialize<D: Deserializer<'de>>(from: D) -> Result<Self, D::Error> {
        // A token that is no string would be shown by the error about it.
        match String::deserialize(from) {
            Ok(token) if HeaderValue::from_str(&token).is_ok() => Ok(Token(token)),
            _ => Err(D::Error::custom(
                "must be a string of characters that a header may have",
            )),
        }
    }
}

fn header_name<'de, D: Deserializer<'de>>(from: D) -> Result<String, D::Error> {
    let name = String::deserialize(from)?;
    match HeaderName::from_bytes(name.as_bytes()) {
        Ok(_) => Ok(name),
        Err(_) => Err(D::Error::custom(format!(
            "must be the name of a header (got {name:?})"
        ))),
    }
}

/// Refuses a mode that lacks what it needs, and tells of settings that the mode does not look at.
pub(super) fn check(
    transports: &Transports,
    merged: &Figment,
    warnings: &mut Vec<String>,
) -> Result<(), Error> {
    let auth = &transports.http_push.auth;
    let has_token = auth
        .token
        .as_ref()
        .is_some_and(|token| !token.as_str().trim().is_empty());
    if auth.mode == PushAuthMode::Bearer && !has_token {
        let reason = format!("{TOKEN} is required when mode = \"bearer\"");
        return Err(Error::of(MODE, &source_of(merged, MODE), &reason));
    }
    for (key, is_set, is_used) in [
        (TOKEN, has_token, auth.mode == PushAuthMode::Bearer),
        (
            AUDIENCE,
            auth.audience.is_some(),
            auth.mode == PushAuthMode::Gcp,
        ),
    ] {
        if is_set && !is_used {
            warnings.push(format!(
                "{key} (from {}) has no effect: {MODE} is {:?}",
                source_of(merged, key),
                format!("{:?}", auth.mode).to_ascii_lowercase(),
            ));
        }
    }
    Ok(())
}
