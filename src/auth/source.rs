//! Where public keys come from: files, and the URL of an identity provider.
//!
//! Must never follow a redirect, read without a bound, or log more of a URL than its origin.

use std::fs::File;
use std::io::{self, Read};
use std::path::PathBuf;
use std::time::Duration;

use reqwest::{Client, redirect};
use url::Url;

use super::key::Key;
use super::{jwks, pem};

/// Largest file or answer.
const BYTES_MAX: usize = 1024 * 1024;
/// Until the connection is up.
const CONNECT_TIME_MAX: Duration = Duration::from_secs(5);
/// The whole exchange.
const FETCH_TIME_MAX: Duration = Duration::from_secs(10);

/// Where keys come from.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Source {
    /// A PEM file.
    Pem(PathBuf),
    /// A file with a JWK set.
    Jwks(PathBuf),
    /// A URL that answers with a JWK set.
    Url(Url),
}

/// Keys that cannot be had; the display says why.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[allow(missing_docs, reason = "each variant's sentence says it")]
pub enum Error {
    #[error("Failed to read public key file '{path}': {reason}")]
    PemUnread { path: String, reason: String },
    #[error(
        "Unsupported or invalid public key in '{path}'. \
         Supported types: RSA, EC (P-256/P-384), Ed25519."
    )]
    PemUnusable { path: String },
    #[error("Failed to read JWK set file '{path}': {reason}")]
    JwksUnread { path: String, reason: String },
    #[error("Unsupported or invalid JWK set in '{path}': {reason}")]
    JwksUnusable { path: String, reason: &'static str },
    #[error("Failed to fetch the JWK set of {origin}: {reason}")]
    Url { origin: String, reason: String },
}

impl Source {
    /// Whether it is elsewhere, and may be out of reach for a while.
    pub fn is_remote(&self) -> bool {
        matches!(self, Source::Url(_))
    }

    /// How it is called in the log.
    pub fn name(&self) -> String {
        match self {
            Source::Pem(path) | Source::Jwks(path) => path.display().to_string(),
            Source::Url(url) => url.origin().ascii_serialization(),
        }
    }

    /// The keys of a file. Blocks. None, if it is no file.
    ///
    /// # Errors
    /// When it cannot be read, or has no keys that can be used.
    pub fn read(&self) -> Option<Result<Vec<Key>, Error>> {
        match self {
            Source::Pem(path) => {
                let shown = path.display().to_string();
                Some(match contents(path) {
                    Err(error) => Err(Error::PemUnread {
                        path: shown,
                        reason: error.to_string(),
                    }),
                    Ok(bytes) => pem::keys(&bytes).ok_or(Error::PemUnusable { path: shown }),
                })
            }
            Source::Jwks(path) => {
                let shown = path.display().to_string();
                Some(match contents(path) {
                    Err(error) => Err(Error::JwksUnread {
                        path: shown,
                        reason: error.to_string(),
                    }),
                    Ok(bytes) => jwks::keys(&bytes).map_err(|reason| Error::JwksUnusable {
                        path: shown,
                        reason,
                    }),
                })
            }
            Source::Url(_) => None,
        }
    }
}

fn contents(path: &PathBuf) -> io::Result<Vec<u8>> {
    let mut bytes = Vec::new();
    let bound = u64::try_from(BYTES_MAX).unwrap_or(u64::MAX);
    File::open(path)?.take(bound + 1).read_to_end(&mut bytes)?;
    if bytes.len() > BYTES_MAX {
        return Err(io::Error::other(format!("more than {BYTES_MAX} bytes")));
    }
    Ok(bytes)
}

/// Fetches JWK sets.
#[derive(Clone, Debug)]
pub struct Fetcher(Client);

impl Fetcher {
    /// A client with the certificate roots of the platform.
    ///
    /// # Errors
    /// When there are none.
    pub fn new() -> reqwest::Result<Fetcher> {
        // An error only says that there is one already.
        let _ = rustls::crypto::ring::default_provider().install_default();
        let client = Client::builder()
            .user_agent(concat!("resonate/", env!("CARGO_PKG_VERSION")))
            .connect_timeout(CONNECT_TIME_MAX)
            .timeout(FETCH_TIME_MAX)
            .redirect(redirect::Policy::none())
            // Whom to believe is this server's own setting, not an HTTP_PROXY meant for something else.
            .no_proxy()
            .referer(false)
            .build()?;
        Ok(Fetcher(client))
    }

    /// The keys behind a URL.
    ///
    /// # Errors
    /// When it cannot be reached, does not answer 200, or with something else than usable keys.
    pub async fn fetch(&self, url: &Url) -> Result<Vec<Key>, Error> {
        let keys = match self.answer(url).await {
            Ok(body) => jwks::keys(&body).map_err(str::to_owned),
            Err(reason) => Err(reason),
        };
        keys.map_err(|reason| Error::Url {
            origin: url.origin().ascii_serialization(),
            reason,
        })
    }

    async fn answer(&self, url: &Url) -> Result<Vec<u8>, String> {
        let response = self.0.get(url.clone()).send().await;
        let mut response = response.map_err(reason)?;
        if response.status().as_u16() != 200 {
            return Err(format!("status {}", response.status().as_u16()));
        }
        let mut body = Vec::new();
        while let Some(chunk) = response.chunk().await.map_err(reason)? {
            if chunk.len() > BYTES_MAX - body.len() {
                return Err(format!("more than {BYTES_MAX} bytes"));
            }
            body.extend_from_slice(&chunk);
        }
        Ok(body)
    }
}

/// The innermost cause says most, and none of them the whole URL.
fn reason(error: reqwest::Error) -> String {
    if error.is_timeout() {
        return "timeout".to_owned();
    }
    let error = error.without_url();
    let mut reason: &dyn std::error::Error = &error;
    while let Some(cause) = reason.source() {
        reason = cause;
    }
    reason.to_string()
}
