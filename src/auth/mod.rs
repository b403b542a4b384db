//! Who sends a request, and what they may do (`configuration.md` §5, `protocol.md` §3).
//!
//! ```text
//!   token ─> cache ─────────────────────────────┐
//!     └────> parse ─> claims ─> signature ──────┴─> Principal ─> may it do what the request names?
//!                                  │ keyring <─ source: PEM, JWK set, URL
//! ```
//!
//! Owns the public keys and the rules of tokens. Must never log a token, nor tell a client why its own
//! was refused: only the log says that, at level debug, in words that quote nothing.

use std::sync::Arc;
use std::time::Duration;

use tokio::signal::unix::{SignalKind, signal};
use tokio::sync::oneshot;
use tokio::task::JoinSet;

use cache::{Cache, Genuine};
use keyring::{Keyring, Verdict};
use token::{Reason, Token};

mod cache;
mod jwks;
mod key;
mod keyring;
mod pem;
mod principal;
mod source;
#[cfg(test)]
mod tests;
mod token;

pub use principal::Principal;
pub use source::{Fetcher, Source};
pub use token::Rules;

/// How long a server that starts waits for its first keys.
const START_PATIENCE: Duration = Duration::from_secs(2);

/// What tokens are checked with.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Keys {
    /// Public keys.
    From(Vec<Source>),
    /// Nothing: anybody can make one. For tests.
    Unchecked,
}

/// Why there is no principal.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Denied {
    /// There is no token, or it is not to be believed.
    #[error("Unauthorized")]
    Unauthorized,
    /// The keys have not been fetched yet.
    #[error(
        "Service unavailable: the keys that tokens are checked with cannot be fetched; safe to retry"
    )]
    NoKeys,
}

impl Denied {
    /// The protocol status.
    pub fn status(self) -> u16 {
        match self {
            Denied::Unauthorized => 401,
            Denied::NoKeys => 503,
        }
    }
}

/// Tells by their tokens who sends requests.
pub struct Authenticator {
    rules: Rules,
    /// None where signatures are not checked.
    keyring: Option<Arc<Keyring>>,
    cache: Cache,
}

impl Authenticator {
    /// Reads the files that keys come from. Tokens can be checked after [`Authenticator::start`].
    ///
    /// # Errors
    /// When a file cannot be read or has no usable keys, or when URLs cannot be fetched from here.
    pub fn load(keys: Keys, rules: Rules) -> anyhow::Result<Authenticator> {
        let keyring = match keys {
            Keys::From(sources) => Some(Arc::new(Keyring::load(sources)?)),
            Keys::Unchecked => None,
        };
        Ok(Authenticator {
            rules,
            keyring,
            cache: Cache::default(),
        })
    }

    /// Fetches the keys of a URL, if there is one, and keeps all keys up to date from then on. Waits for
    /// them a moment: whoever comes before they are there is refused.
    ///
    /// # Errors
    /// When SIGHUP cannot be listened for.
    pub async fn start(&self, interval: Duration, tasks: &mut JoinSet<()>) -> std::io::Result<()> {
        let Some(keyring) = self.keyring.clone() else {
            return Ok(());
        };
        let hangup = signal(SignalKind::hangup())?;
        let (fetched, is_fetched) = oneshot::channel();
        tasks.spawn(async move { keyring.run(interval, hangup, fetched).await });
        if tokio::time::timeout(START_PATIENCE, is_fetched)
            .await
            .is_err()
        {
            tracing::warn!("keys are not there yet");
        }
        Ok(())
    }

    /// Who sends this token, at `now_ms`.
    ///
    /// # Errors
    /// When there is none, or it is not to be believed, or nobody can say yet.
    pub async fn authenticate(
        &self,
        token: Option<&str>,
        now_ms: i64,
    ) -> Result<Arc<Principal>, Denied> {
        let checked = match token {
            Some(token) => self.check(token, now_ms).await,
            None => Err(Refused::For("there is none")),
        };
        checked.map_err(|refused| match refused {
            Refused::For(reason) => {
                tracing::debug!(reason, "token refused");
                Denied::Unauthorized
            }
            Refused::NoKeys => Denied::NoKeys,
        })
    }

    async fn check(&self, text: &str, now_ms: i64) -> Result<Arc<Principal>, Refused> {
        let Some(keyring) = &self.keyring else {
            let token = Token::parse(text)?;
            token.claims.check(&self.rules, now_ms)?;
            return Ok(Arc::new(Principal::of(&token.claims)));
        };
        let mut keys = keyring.current();
        if let Some(known) = self.cache.get(text, keys.generation) {
            known.claims.check(&self.rules, now_ms)?;
            return Ok(Arc::clone(&known.principal));
        }
        if keys.is_empty() {
            return Err(Refused::NoKeys);
        }
        let token = Token::parse(text)?;
        // Before the signature: what would be refused anyway has no keys fetched.
        token.claims.check(&self.rules, now_ms)?;
        let signed = token.signed()?;
        let mut verdict = keys.judge(&signed, token.message);
        if verdict == Verdict::UnknownKey {
            keyring.ask().await;
            // There may be others even if nobody was asked: somebody else's request had them fetched.
            keys = keyring.current();
            verdict = keys.judge(&signed, token.message);
        }
        match verdict {
            Verdict::Genuine => {}
            Verdict::Forged => return Err("its signature is not that of a key".into()),
            Verdict::UnknownKey => return Err("it names a key that is not known".into()),
        }
        let principal = Arc::new(Principal::of(&token.claims));
        let genuine = Arc::new(Genuine {
            claims: token.claims,
            principal: Arc::clone(&principal),
        });
        self.cache.put(text, keys.generation, genuine);
        Ok(principal)
    }
}

enum Refused {
    For(Reason),
    NoKeys,
}

impl From<Reason> for Refused {
    fn from(reason: Reason) -> Self {
        Refused::For(reason)
    }
}
