//! A client of the public API: requests on `POST /`, messages on a poll stream, and waiting for a
//! promise with both.
//!
//! Owns how the server is spoken to and what a failed exchange is called. Knows no command, prints
//! nothing, and takes no other way into the server than SDKs have.

use std::error::Error as _;
use std::fmt;
use std::time::Duration;

use reqwest::header::{AUTHORIZATION, CONTENT_TYPE, HeaderMap, HeaderValue};
use reqwest::{ClientBuilder, redirect};
use serde::Deserialize;
use serde::de::DeserializeOwned;
use serde_json::value::RawValue;
use serde_json::{Value, json};
use url::Url;

use crate::protocol::record::Promise;
use crate::protocol::reply::VERSION;
use crate::protocol::trace::Trace;

pub mod clock;
mod poll;
mod wait;

pub use self::poll::{Message, PollStream};
pub use self::wait::{Notice, settled};

const CONNECT_TIME_MAX: Duration = Duration::from_secs(10);
/// Silence on a connection. A server holds a request for seconds at most, and says something on a
/// stream every 15 s.
const SILENCE_MAX: Duration = Duration::from_secs(60);

/// Why there is no answer to go on with.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// No server was reached, or it went away half-way: whether it acted is unknown.
    #[error("Connection error: {0}")]
    Connection(String),
    /// What answered does not speak this protocol.
    #[error("Failed to parse response: {0}")]
    NotJson(String),
    /// The server refused.
    #[error("{message}")]
    Refused {
        /// `head.status`.
        status: u16,
        /// `data`.
        message: String,
    },
}

impl Error {
    /// Whether the same request may succeed later without anybody doing anything about it.
    pub fn is_transient(&self) -> bool {
        match self {
            Error::Connection(_) => true,
            // A proxy may answer for a server that is being restarted.
            Error::NotJson(_) => true,
            Error::Refused { status, .. } => *status == 429 || *status >= 500,
        }
    }
}

/// A bearer token; `Debug` hides it.
#[derive(Clone, PartialEq, Eq)]
pub struct Token(String);

impl Token {
    /// None when it is empty, which is no token.
    pub fn new(token: String) -> Option<Token> {
        (!token.is_empty()).then_some(Token(token))
    }
}

impl fmt::Debug for Token {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Token(***)")
    }
}

/// Speaks to one server. Cheap to clone.
#[derive(Clone)]
pub struct Client {
    http: reqwest::Client,
    /// Ends with a slash.
    root: Url,
    token: Option<Token>,
}

#[derive(Deserialize)]
struct Answer {
    head: Head,
    data: Box<RawValue>,
}

#[derive(Deserialize)]
struct Head {
    status: u16,
}

/// The `data` of most operations on a promise.
#[derive(Deserialize)]
struct PromiseAnswer {
    promise: Promise,
}

impl Client {
    /// Makes a client of the server at `url`, whose requests belong to `trace`; connects when it is first asked to.
    ///
    /// # Errors
    /// When `url` is not an http or https URL, or the token cannot stand in a header.
    pub fn new(url: &str, token: Option<Token>, trace: Option<&Trace>) -> Result<Client, Error> {
        // What stands before an `@` may be a password.
        let shown = url.rsplit('@').next().unwrap_or(url);
        let invalid =
            |reason: String| Error::Connection(format!("invalid server URL '{shown}': {reason}"));
        let root = format!("{}/", url.trim_end_matches('/'));
        let root = Url::parse(&root).map_err(|error| invalid(error.to_string()))?;
        if !matches!(root.scheme(), "http" | "https") {
            return Err(invalid("it must begin with http:// or https://".to_owned()));
        }
        let mut headers = HeaderMap::new();
        for (name, value) in trace.into_iter().flat_map(Trace::headers) {
            // They are printable.
            if let Ok(value) = HeaderValue::try_from(value) {
                headers.insert(name, value);
            }
        }
        if let Some(Token(token)) = &token {
            let mut value = HeaderValue::try_from(format!("Bearer {token}")).map_err(|_| {
                Error::Connection("the token has characters that no header may have".to_owned())
            })?;
            value.set_sensitive(true);
            headers.insert(AUTHORIZATION, value);
        }
        let builder = || {
            // TLS clients take the process-wide provider. An error only says that there is one.
            let _ = rustls::crypto::ring::default_provider().install_default();
            reqwest::Client::builder()
                .user_agent(concat!("resonate-cli/", env!("CARGO_PKG_VERSION")))
                .default_headers(headers.clone())
                .connect_timeout(CONNECT_TIME_MAX)
                .read_timeout(SILENCE_MAX)
                // The token is for this server, and 300 is an answer.
                .redirect(redirect::Policy::none())
                .tcp_nodelay(true)
        };
        let built = match root.scheme() {
            // Certificates are read from the disk: only where they are needed.
            "http" => without_roots(builder()).build(),
            _ => builder().build(),
        };
        let http = built.map_err(|error| Error::Connection(reason(&error)))?;
        Ok(Client { http, root, token })
    }

    /// The server's URL, without what may be secret.
    pub fn shown_url(&self) -> String {
        let mut url = self.root.clone();
        // Both fail only for URLs that cannot have them.
        let _ = url.set_username("");
        let _ = url.set_password(None);
        url.set_query(None);
        url.as_str().trim_end_matches('/').to_owned()
    }

    /// Sends one request; the `data` of a response with status 2xx or 300.
    pub async fn call(&self, kind: &str, data: &Value) -> Result<Box<RawValue>, Error> {
        let mut head = json!({"corrId": clock::unique("cli"), "version": VERSION});
        if let Some(Token(token)) = &self.token {
            head["auth"] = json!(token);
        }
        let body = json!({"kind": kind, "head": head, "data": data}).to_string();
        let request = self
            .http
            .post(self.root.clone())
            .header(CONTENT_TYPE, "application/json")
            .body(body);
        let response = request.send().await.map_err(|error| self.lost(&error))?;
        let http_status = response.status();
        let bytes = response.bytes().await.map_err(|error| self.lost(&error))?;
        let answer: Answer = serde_json::from_slice(&bytes)
            .map_err(|error| Error::NotJson(format!("{error} (HTTP {http_status})")))?;
        match answer.head.status {
            200..=300 => Ok(answer.data),
            status => Err(Error::Refused {
                status,
                message: text_of(&answer.data),
            }),
        }
    }

    /// The same, with `data` read as what it should be.
    pub async fn ask<T: DeserializeOwned>(&self, kind: &str, data: &Value) -> Result<T, Error> {
        read(&self.call(kind, data).await?)
    }

    /// Reads what is below the server's URL at `path`, with a query.
    pub async fn get(&self, path: &str, query: &[(&str, String)]) -> Result<Box<RawValue>, Error> {
        let mut url = self.below(&[path]);
        if !query.is_empty() {
            url.query_pairs_mut().extend_pairs(query);
        }
        let sent = self.http.get(url).send().await;
        let response = sent.map_err(|error| self.lost(&error))?;
        let http_status = response.status();
        if !http_status.is_success() {
            return Err(refusal(response).await);
        }
        let bytes = response.bytes().await.map_err(|error| self.lost(&error))?;
        serde_json::from_slice(&bytes)
            .map_err(|error| Error::NotJson(format!("{error} (HTTP {http_status})")))
    }

    /// Asks for what is below the server's URL at `path`, where only the status says something.
    pub async fn probe(&self, path: &str) -> Result<(), Error> {
        let sent = self.http.get(self.below(&[path])).send().await;
        let response = sent.map_err(|error| self.lost(&error))?;
        if response.status().is_success() {
            return Ok(());
        }
        Err(refusal(response).await)
    }

    /// A URL below the server's.
    fn below(&self, segments: &[&str]) -> Url {
        let mut url = self.root.clone();
        // Every http URL has a path.
        if let Ok(mut path) = url.path_segments_mut() {
            path.pop_if_empty().extend(segments);
        }
        url
    }

    /// Asks for one promise.
    pub async fn promise(&self, id: &str) -> Result<Promise, Error> {
        let answer: PromiseAnswer = self.ask("promise.get", &json!({"id": id})).await?;
        Ok(answer.promise)
    }

    fn lost(&self, error: &reqwest::Error) -> Error {
        Error::Connection(format!("{}: {}", self.shown_url(), reason(error)))
    }
}

impl fmt::Debug for Client {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Client")
            .field("url", &self.shown_url())
            .field("token", &self.token)
            .finish_non_exhaustive()
    }
}

/// Reads the `data` of a response.
pub fn read<T: DeserializeOwned>(data: &RawValue) -> Result<T, Error> {
    serde_json::from_str(data.get()).map_err(|error| Error::NotJson(error.to_string()))
}

/// The promise that most operations answer.
pub fn promise_of(data: &RawValue) -> Result<Promise, Error> {
    let answer: PromiseAnswer = read(data)?;
    Ok(answer.promise)
}

/// Why a request that is no envelope was refused: what the envelope of the answer says, or its first line.
async fn refusal(response: reqwest::Response) -> Error {
    let status = response.status();
    let text = response.text().await.unwrap_or_default();
    let told = match serde_json::from_str::<Answer>(&text) {
        Ok(answer) => text_of(&answer.data),
        Err(_) => text.lines().next().unwrap_or_default().trim().to_owned(),
    };
    let message = match &*told {
        "" => format!("HTTP {status}"),
        told => format!("{told} (HTTP {status})"),
    };
    Error::Refused {
        status: status.as_u16(),
        message,
    }
}

/// An error's `data` is a sentence; anything else is shown as it came.
fn text_of(data: &RawValue) -> String {
    serde_json::from_str(data.get()).unwrap_or_else(|_| data.get().to_owned())
}

fn without_roots(builder: ClientBuilder) -> ClientBuilder {
    builder.tls_certs_only([])
}

/// The innermost cause: the outer ones repeat the URL, which may hold a password.
fn reason(error: &reqwest::Error) -> String {
    if error.is_timeout() {
        return "no answer in time".to_owned();
    }
    let mut cause = error.source();
    while let Some(inner) = cause.and_then(std::error::Error::source) {
        cause = Some(inner);
    }
    cause.map_or_else(
        || "the request cannot be sent".to_owned(),
        ToString::to_string,
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn secrets_are_not_shown() {
        let token = Token::new("secret".to_owned());
        let client =
            Client::new("https://ada:secret@a.example/base/?key=secret", token, None).unwrap();
        assert_eq!(client.shown_url(), "https://a.example/base");
        let shown = format!("{client:?}");
        assert!(!shown.contains("secret"), "{shown}");
        let refused = Client::new("https://ada:secret@", None, None).unwrap_err();
        assert!(!refused.to_string().contains("secret"), "{refused}");
        let token = Token::new("secret\n".to_owned());
        let refused = Client::new("https://a.example", token, None).unwrap_err();
        assert_eq!(
            refused.to_string(),
            "Connection error: the token has characters that no header may have"
        );
    }
}
