//! The keys in force, and how they are kept up to date.
//!
//! ```text
//!   every refresh_interval, SIGHUP ──> files and URL ──┐
//!   a token with an unknown kid ─────> URL ────────────┴─> new keys ─> a new generation
//! ```
//!
//! What cannot be read or fetched keeps the keys that it last gave: an identity provider that is down
//! shuts nobody out. A token that names an unknown key has the URL fetched at once, and its request waits
//! a moment for that; whoever makes such tokens up causes one fetch in [`ASK_PAUSE`].

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use tokio::signal::unix::Signal;
use tokio::sync::{Notify, oneshot, watch};
use tokio::time::{Instant, sleep_until, timeout};
use url::Url;

use super::key::Key;
use super::source::{Error, Fetcher, Source};
use super::token::Signed;

/// Tokens with unknown keys cause at most one fetch in this time.
const ASK_PAUSE: Duration = Duration::from_secs(10);
/// How long a request with such a token waits for it.
const ASK_PATIENCE: Duration = Duration::from_secs(2);
/// Before the second of several attempts; doubled before each of the others.
const RETRY_MIN: Duration = Duration::from_secs(1);

/// The keys at one time.
#[derive(Debug, Default)]
pub struct KeySet {
    keys: Vec<Key>,
    /// Another for every other set.
    pub generation: u64,
}

/// Whether a signature is that of a key.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Verdict {
    /// It is.
    Genuine,
    /// It is not.
    Forged,
    /// It is not, but it is said to be that of a key which is not known.
    UnknownKey,
}

impl KeySet {
    /// Whether there are no keys yet.
    pub fn is_empty(&self) -> bool {
        self.keys.is_empty()
    }

    /// Whether the message was signed with one of the keys.
    pub fn judge(&self, signed: &Signed, message: &str) -> Verdict {
        let named = signed.key.as_deref();
        let candidates = self.keys.iter();
        let is_genuine = candidates
            .filter(|key| key.is_for(signed.algorithm, named))
            .any(|key| key.verifies(signed.algorithm, message.as_bytes(), &signed.signature));
        let is_known = |named: &str| self.keys.iter().any(|key| key.is_called(named));
        match named {
            _ if is_genuine => Verdict::Genuine,
            Some(named) if !is_known(named) => Verdict::UnknownKey,
            _ => Verdict::Forged,
        }
    }
}

/// See the module documentation.
pub struct Keyring {
    fetcher: Option<Fetcher>,
    sources: Mutex<Vec<Kept>>,
    current: watch::Sender<Arc<KeySet>>,
    asked: Mutex<Asked>,
    wanted: Notify,
    /// Counts the fetches that have come to their end.
    fetches: watch::Sender<u64>,
}

/// A source, and the keys that it last gave.
#[derive(Debug)]
struct Kept {
    source: Source,
    keys: Option<Vec<Key>>,
    is_failing: bool,
}

/// What tokens with unknown keys have asked for.
#[derive(Debug, Default)]
struct Asked {
    at: Option<Instant>,
    is_waiting: bool,
}

impl Keyring {
    /// Reads the files. Keys of a URL are there once [`Keyring::run`] has fetched them.
    ///
    /// # Errors
    /// When a file cannot be read or has no usable keys, or when URLs cannot be fetched from here.
    pub fn load(sources: Vec<Source>) -> anyhow::Result<Keyring> {
        let has_remote = sources.iter().any(Source::is_remote);
        let sources = sources.into_iter().map(|source| {
            let keys = source.read().transpose()?;
            Ok(Kept {
                source,
                keys,
                is_failing: false,
            })
        });
        let keyring = Keyring {
            sources: Mutex::new(sources.collect::<Result<_, Error>>()?),
            fetcher: has_remote.then(Fetcher::new).transpose()?,
            current: watch::Sender::default(),
            asked: Mutex::default(),
            wanted: Notify::new(),
            fetches: watch::Sender::default(),
        };
        keyring.publish();
        Ok(keyring)
    }

    /// The keys in force.
    pub fn current(&self) -> Arc<KeySet> {
        self.current.borrow().clone()
    }

    /// Has keys fetched because a token names one that is not known, unless that was done just now, and
    /// waits for them. Whether there may be others now.
    pub async fn ask(&self) -> bool {
        if self.fetcher.is_none() {
            return false;
        }
        let mut fetches = self.fetches.subscribe();
        {
            let mut asked = lock(&self.asked);
            if !asked.is_waiting {
                if asked.at.is_some_and(|at| at.elapsed() < ASK_PAUSE) {
                    return false;
                }
                *asked = Asked {
                    at: Some(Instant::now()),
                    is_waiting: true,
                };
                self.wanted.notify_one();
            }
        }
        timeout(ASK_PATIENCE, fetches.changed()).await.is_ok()
    }

    /// Fetches the keys of a URL, then keeps all keys up to date for as long as it is polled. `fetched` is
    /// told when the first fetch has come to its end.
    pub async fn run(&self, interval: Duration, mut hangup: Signal, fetched: oneshot::Sender<()>) {
        let mut failures = 0;
        let mut fetch_at = self.fetch_again_at(&mut failures, interval).await;
        let mut files_at = Instant::now() + interval;
        // Nobody waits any more when the server is told to stop meanwhile.
        let _ = fetched.send(());
        loop {
            let (is_file_due, is_url_due) = tokio::select! {
                _ = hangup.recv() => (true, true),
                () = self.wanted.notified() => (false, true),
                () = sleep_until(files_at) => (true, false),
                () = sleep_until(fetch_at), if self.fetcher.is_some() => (false, true),
            };
            if is_file_due {
                self.read().await;
                files_at = Instant::now() + interval;
            }
            if is_url_due {
                fetch_at = self.fetch_again_at(&mut failures, interval).await;
            }
        }
    }

    /// Fetches the keys of a URL. When to do so again: soon, if that has failed.
    async fn fetch_again_at(&self, failures: &mut u32, interval: Duration) -> Instant {
        let pause = if self.fetch().await {
            *failures = 0;
            interval
        } else {
            let pause = RETRY_MIN.saturating_mul(1 << (*failures).min(16));
            *failures += 1;
            pause.min(interval)
        };
        Instant::now() + pause
    }

    /// Whether the keys of all URLs could be fetched.
    async fn fetch(&self) -> bool {
        let urls: Vec<(usize, Url)> = {
            let sources = lock(&self.sources);
            let urls = sources.iter().enumerate();
            urls.filter_map(|(index, kept)| match &kept.source {
                Source::Url(url) => Some((index, url.clone())),
                Source::Pem(_) | Source::Jwks(_) => None,
            })
            .collect()
        };
        let mut is_complete = true;
        for (index, url) in urls {
            if let Some(fetcher) = &self.fetcher {
                is_complete &= self.take(index, fetcher.fetch(&url).await);
            }
        }
        self.publish();
        lock(&self.asked).is_waiting = false;
        self.fetches.send_modify(|fetches| *fetches += 1);
        is_complete
    }

    async fn read(&self) {
        let sources: Vec<Source> = {
            let sources = lock(&self.sources);
            sources.iter().map(|kept| kept.source.clone()).collect()
        };
        let reading =
            tokio::task::spawn_blocking(move || sources.iter().map(Source::read).collect());
        let read: Vec<Option<Result<Vec<Key>, Error>>> = reading.await.unwrap_or_default();
        for (index, keys) in read.into_iter().enumerate() {
            if let Some(keys) = keys {
                self.take(index, keys);
            }
        }
        self.publish();
    }

    /// Keeps what a source gave, or what it last gave. Whether it gave something.
    fn take(&self, index: usize, keys: Result<Vec<Key>, Error>) -> bool {
        let mut sources = lock(&self.sources);
        let Some(kept) = sources.get_mut(index) else {
            return false;
        };
        let name = kept.source.name();
        let is_news = keys.is_err() != std::mem::replace(&mut kept.is_failing, keys.is_err());
        match keys {
            Ok(keys) => {
                if kept.keys.as_ref() != Some(&keys) {
                    tracing::info!(source = name, keys = keys.len(), "keys loaded");
                } else if is_news {
                    tracing::warn!(source = name, "keys can be read again");
                }
                kept.keys = Some(keys);
                true
            }
            Err(error) if is_news && kept.keys.is_some() => {
                tracing::warn!(source = name, %error, "keys cannot be read, the last ones stay");
                false
            }
            Err(error) if is_news => {
                tracing::warn!(source = name, %error, "keys cannot be read");
                false
            }
            Err(error) => {
                tracing::debug!(source = name, %error, "keys cannot be read");
                false
            }
        }
    }

    /// Puts into force what the sources gave.
    fn publish(&self) {
        let sources = lock(&self.sources);
        let keys = sources.iter().flat_map(|kept| kept.keys.iter().flatten());
        let keys: Vec<Key> = keys.cloned().collect();
        self.current.send_if_modified(|current| {
            if current.keys == keys {
                return false;
            }
            let generation = current.generation + 1;
            *current = Arc::new(KeySet { keys, generation });
            true
        });
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
