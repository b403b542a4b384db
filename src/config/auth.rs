//! `[auth]`: by which tokens clients and workers are known.

use std::net::IpAddr;
use std::path::PathBuf;

use figment::Figment;
use serde::{Deserialize, Serialize};
use url::Url;

use super::load::source_of;
use super::value::{self, Millis};
use super::{Config, Error, redact};

const PUBLICKEY: &str = "auth.publickey";
const JWKS: &str = "auth.jwks";
const BIND: &str = "server.bind";
/// The `publickey` of a server that does not check signatures.
const NONE: &str = "none";

/// By which tokens clients and workers are known.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Auth {
    /// PEM file with the public keys, or `none`; see [`Auth::mode`].
    #[serde(deserialize_with = "value::not_empty_if_set")]
    pub publickey: Option<String>,
    /// Where more public keys are: the path or URL of a JWK set; see [`Auth::jwks`].
    #[serde(deserialize_with = "value::not_empty_if_set")]
    pub jwks: Option<String>,
    /// The issuer of all tokens.
    #[serde(deserialize_with = "value::not_empty_if_set")]
    pub iss: Option<String>,
    /// Whom all tokens are for.
    #[serde(deserialize_with = "value::not_empty_if_set")]
    pub aud: Option<String>,
    /// How often the keys are read and fetched again.
    #[serde(deserialize_with = "value::at_least_one")]
    pub refresh_interval: Millis,
}

impl Default for Auth {
    fn default() -> Self {
        Auth {
            publickey: None,
            jwks: None,
            iss: None,
            aud: None,
            refresh_interval: Millis::new(60_000),
        }
    }
}

/// What tokens are checked with.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum AuthMode {
    /// There are none.
    Off,
    /// Only what they claim is looked at.
    Unchecked,
    /// They are signed.
    Signed,
}

/// A JWK set.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Jwks {
    /// In a file.
    File(PathBuf),
    /// Behind a URL.
    Url(Url),
}

impl Auth {
    /// What tokens are checked with.
    pub fn mode(&self) -> AuthMode {
        match (&self.publickey, &self.jwks) {
            (Some(path), _) if path == NONE => AuthMode::Unchecked,
            (None, None) => AuthMode::Off,
            _ => AuthMode::Signed,
        }
    }

    /// The JWK set, if there is one. What looks like a URL is one.
    pub fn jwks(&self) -> Option<Jwks> {
        let jwks = self.jwks.as_ref()?;
        Some(match Url::parse(jwks) {
            Ok(url) if url.has_host() => Jwks::Url(url),
            _ => Jwks::File(jwks.into()),
        })
    }
}

/// Refuses settings that would check less than they seem to.
pub(super) fn check(
    config: &Config,
    merged: &Figment,
    warnings: &mut Vec<String>,
) -> Result<(), Error> {
    let auth = &config.auth;
    let refused = |key: &str, reason: &str| Err(Error::of(key, &source_of(merged, key), reason));
    for (key, value) in [("auth.iss", &auth.iss), ("auth.aud", &auth.aud)] {
        if value.is_some() && auth.mode() == AuthMode::Off {
            let reason = format!("{PUBLICKEY} is required when auth.iss or auth.aud is set");
            return refused(key, &reason);
        }
    }
    if let Some(Jwks::Url(url)) = auth.jwks()
        && url.scheme() != "https"
        && !(url.scheme() == "http" && url.host_str().is_some_and(is_loopback))
    {
        let shown = redact::url(url.as_str());
        let reason = format!("must be a path or an https URL (got {shown:?})");
        return refused(JWKS, &reason);
    }
    if auth.mode() == AuthMode::Unchecked {
        if auth.jwks.is_some() {
            let reason = format!("must not be set when {PUBLICKEY} = \"{NONE}\"");
            return refused(JWKS, &reason);
        }
        if !config.debug && !is_loopback(&config.server.bind) {
            let reason = format!(
                "must not be \"{NONE}\" unless {BIND} is a loopback address or debug is on: \
                 anybody could make a token of an admin"
            );
            return refused(PUBLICKEY, &reason);
        }
        warnings.push(format!(
            "{PUBLICKEY} = \"{NONE}\" (from {}): signatures of tokens are not checked, \
             anybody can make one",
            source_of(merged, PUBLICKEY)
        ));
    }
    Ok(())
}

/// Whether only this machine is meant.
pub fn is_loopback(host: &str) -> bool {
    let host = host.trim_matches(['[', ']']);
    host.eq_ignore_ascii_case("localhost")
        || host.parse::<IpAddr>().is_ok_and(|ip| ip.is_loopback())
}
