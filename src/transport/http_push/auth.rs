//! By what workers know who pushes: `<header>: Bearer <token>` (`transports.md` §4).
//!
//! Owns the ID tokens of mode `gcp`, one per audience, which Google's client keeps fresh. A token that
//! cannot be had costs the push its header and not its delivery: the worker refuses, and the message is
//! sent again. Must never log a token, nor more of an audience than its origin.

use std::collections::HashMap;
use std::panic::AssertUnwindSafe;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use futures_util::FutureExt;
use google_cloud_auth::credentials::idtoken::{self, IDTokenCredentials};
use reqwest::header::{AUTHORIZATION, HeaderName, HeaderValue};
use tokio::time::Instant;
use url::Url;

use crate::transport::google::reason;
use crate::transport::health::Health;

/// Audiences whose tokens are kept; beyond it the one used least recently is forgotten.
const AUDIENCES_MAX: usize = 256;
/// A push waits for its token as long as for a connection.
const MINT_TIME_MAX: Duration = Duration::from_secs(10);
/// After a failure no token of the audience is asked for during this time.
const MINT_PAUSE: Duration = Duration::from_secs(1);

/// The header that pushes carry.
#[derive(Clone, Debug)]
pub struct Auth {
    /// Its name.
    pub header: HeaderName,
    /// Where its token comes from.
    pub mode: Mode,
}

/// Where the token comes from.
#[derive(Clone, Debug)]
pub enum Mode {
    /// There is none, and no header.
    None,
    /// The whole value of the header, marked as sensitive.
    Bearer(HeaderValue),
    /// An OIDC ID token, through Application Default Credentials.
    Gcp {
        /// Whom it is for; each address itself if not set.
        audience: Option<String>,
    },
}

impl Default for Auth {
    fn default() -> Self {
        Auth {
            header: AUTHORIZATION,
            mode: Mode::None,
        }
    }
}

/// `Bearer <token>`, hidden from debug output; none if the token has characters that no header may have.
pub fn bearer(token: &str) -> Option<HeaderValue> {
    let mut value = HeaderValue::from_str(&format!("Bearer {token}")).ok()?;
    value.set_sensitive(true);
    Some(value)
}

/// Makes the header of a push.
pub(super) struct Authenticator {
    auth: Auth,
    tokens: Mutex<Tokens>,
    health: Mutex<Health>,
}

#[derive(Default)]
struct Tokens {
    audiences: HashMap<Box<str>, Audience>,
    uses: u64,
}

struct Audience {
    used_at: u64,
    /// Which of the credentials made for it these are.
    generation: u64,
    source: Source,
}

#[derive(Clone)]
enum Source {
    /// Caches its token, and renews it minutes before it expires.
    Credentials(IDTokenCredentials),
    /// Failed; not tried again before the instant.
    Paused(Instant),
}

impl Authenticator {
    pub fn new(auth: Auth) -> Self {
        Authenticator {
            auth,
            tokens: Mutex::default(),
            health: Mutex::default(),
        }
    }

    /// The header of a push to `address`, which has been parsed as `url`. None if there is to be none,
    /// or if it cannot be made.
    pub async fn header(&self, address: &str, url: &Url) -> Option<(HeaderName, HeaderValue)> {
        let value = match &self.auth.mode {
            Mode::None => return None,
            Mode::Bearer(value) => value.clone(),
            Mode::Gcp { audience: Some(of) } => self.mint(of).await?,
            Mode::Gcp { audience: None } => self.mint(&audience_of(address, url)).await?,
        };
        Some((self.auth.header.clone(), value))
    }

    async fn mint(&self, audience: &str) -> Option<HeaderValue> {
        let known = self.lock().source(audience);
        let minted = match known {
            (Source::Paused(until), _) if Instant::now() < until => return None,
            (Source::Paused(_), _) => self.renew(audience).await,
            (Source::Credentials(credentials), generation) => {
                self.id_token(audience, generation, credentials).await
            }
        };
        self.record(audience, minted.as_ref().err().map(String::as_str));
        minted.ok()
    }

    /// New credentials: those of old keep a failure for good.
    async fn renew(&self, audience: &str) -> Result<HeaderValue, String> {
        let (credentials, generation) = {
            let mut tokens = self.lock();
            // Somebody else may have been faster.
            match tokens.source(audience) {
                (Source::Credentials(credentials), generation) => (credentials, generation),
                (Source::Paused(_), _) => {
                    let built = idtoken::Builder::new(audience).build();
                    let credentials = match built {
                        Ok(credentials) => credentials,
                        Err(error) => {
                            tokens.pause(audience);
                            return Err(reason(&error));
                        }
                    };
                    let generation = tokens.keep(audience, credentials.clone());
                    (credentials, generation)
                }
            }
        };
        self.id_token(audience, generation, credentials).await
    }

    async fn id_token(
        &self,
        audience: &str,
        generation: u64,
        credentials: IDTokenCredentials,
    ) -> Result<HeaderValue, String> {
        // The client panics on tokens without an expiry. It must not take the push with it.
        let minting = AssertUnwindSafe(credentials.id_token()).catch_unwind();
        let minted = match tokio::time::timeout(MINT_TIME_MAX, minting).await {
            Ok(Ok(Ok(token))) => {
                bearer(&token).ok_or_else(|| "what was minted is not a token".to_owned())
            }
            Ok(Ok(Err(error))) => Err(reason(&error)),
            Ok(Err(_)) => Err("what was minted is not a token".to_owned()),
            Err(_) => Err("timeout".to_owned()),
        };
        let mut tokens = self.lock();
        if minted.is_err() && tokens.source(audience).1 == generation {
            tokens.pause(audience);
        }
        minted
    }

    fn record(&self, audience: &str, failure: Option<&str>) {
        let origin = Url::parse(audience).map_or_else(
            |_| "other".to_owned(),
            |url| url.origin().ascii_serialization(),
        );
        let mut health = self.health.lock().unwrap_or_else(PoisonError::into_inner);
        let is_news = match failure {
            Some(reason) => health.failed(&origin, reason, Instant::now()),
            None => health.delivered(&origin),
        };
        drop(health);
        match failure {
            Some(reason) if is_news => tracing::warn!(
                audience.origin = origin,
                reason,
                "OIDC ID token mint failed, pushes carry no token"
            ),
            Some(reason) => {
                tracing::debug!(
                    audience.origin = origin,
                    reason,
                    "OIDC ID token mint failed"
                );
            }
            None if is_news => {
                tracing::warn!(audience.origin = origin, "OIDC ID tokens are minted again");
            }
            None => {}
        }
    }

    fn lock(&self) -> MutexGuard<'_, Tokens> {
        self.tokens.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Tokens {
    /// Where the tokens of an audience come from. One that is not known is one whose pause is over.
    fn source(&mut self, audience: &str) -> (Source, u64) {
        self.uses += 1;
        match self.audiences.get_mut(audience) {
            Some(known) => {
                known.used_at = self.uses;
                (known.source.clone(), known.generation)
            }
            None => (Source::Paused(Instant::now()), 0),
        }
    }

    fn pause(&mut self, audience: &str) {
        self.insert(audience, Source::Paused(Instant::now() + MINT_PAUSE));
    }

    fn keep(&mut self, audience: &str, credentials: IDTokenCredentials) -> u64 {
        self.insert(audience, Source::Credentials(credentials))
    }

    fn insert(&mut self, audience: &str, source: Source) -> u64 {
        let is_full = self.audiences.len() >= AUDIENCES_MAX;
        if is_full && !self.audiences.contains_key(audience) {
            let oldest = self.audiences.iter().min_by_key(|(_, known)| known.used_at);
            let oldest = oldest.map(|(audience, _)| audience.clone());
            oldest.and_then(|oldest| self.audiences.remove(&oldest));
        }
        self.uses += 1;
        let audience = Box::from(audience);
        let entry = Audience {
            used_at: self.uses,
            generation: self.uses,
            source,
        };
        self.audiences.insert(audience, entry);
        self.uses
    }
}

/// The address as it stands, but for a user name and password: an audience is no secret.
fn audience_of(address: &str, url: &Url) -> String {
    if url.username().is_empty() && url.password().is_none() && url.fragment().is_none() {
        return address.to_owned();
    }
    let mut url = url.clone();
    url.set_fragment(None);
    // An http URL has a host, and may therefore lose its user.
    let _ = url.set_username("");
    let _ = url.set_password(None);
    url.into()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_audience_is_the_address_without_its_secrets() {
        for (address, audience) in [
            ("https://a.run.app", "https://a.run.app"),
            ("HTTPS://a.run.app/x?y=1", "HTTPS://a.run.app/x?y=1"),
            ("https://user:word@a.run.app/x", "https://a.run.app/x"),
            ("https://a.run.app/x#y", "https://a.run.app/x"),
        ] {
            assert_eq!(
                audience_of(address, &Url::parse(address).unwrap()),
                audience
            );
        }
    }

    #[test]
    fn a_token_is_hidden_and_fits_into_a_header() {
        let value = bearer("hunter2").unwrap();
        assert_eq!(value, "Bearer hunter2");
        assert!(!format!("{value:?}").contains("hunter2"));
        assert!(bearer("hunter2\r\nx: y").is_none());
    }

    #[test]
    fn the_audience_used_least_recently_is_forgotten() {
        let mut tokens = Tokens::default();
        for n in 0..AUDIENCES_MAX {
            tokens.pause(&format!("https://{n}"));
        }
        tokens.source("https://0");
        tokens.pause("https://one-more");
        assert_eq!(tokens.audiences.len(), AUDIENCES_MAX);
        assert!(tokens.audiences.contains_key("https://0"));
        assert!(!tokens.audiences.contains_key("https://1"));
    }
}
