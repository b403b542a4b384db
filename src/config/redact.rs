//! Hides secrets in what is shown or logged.

use std::borrow::Cow;
use std::fmt;

use serde::Serialize;
use serde::de::{Deserialize, Deserializer, Error};

const HIDDEN: &str = "***";
// A key may stand in the URL itself instead of the path of its file.
const SECRET_WORDS: [&str; 6] = ["password", "passwd", "secret", "token", "sslkey", "ssl-key"];

/// An absolute `http` or `https` URL; `Debug` hides a password in it.
#[derive(Clone, PartialEq, Eq, Serialize)]
pub struct HttpUrl(String);

impl HttpUrl {
    /// The URL as it was given, secrets included.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl fmt::Debug for HttpUrl {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Debug::fmt(&url(&self.0), f)
    }
}

impl<'de> Deserialize<'de> for HttpUrl {
    fn deserialize<D: Deserializer<'de>>(from: D) -> Result<Self, D::Error> {
        let text = String::deserialize(from)?;
        let is_http = url::Url::parse(&text)
            .is_ok_and(|url| matches!(url.scheme(), "http" | "https") && url.has_host());
        if !is_http {
            let shown = url(&text);
            return Err(D::Error::custom(format!(
                "must be an http or https URL (got {shown:?})"
            )));
        }
        Ok(HttpUrl(text))
    }
}

/// The URL without its password, and without parameters whose names speak of secrets.
pub fn url(text: &str) -> String {
    let Ok(mut url) = url::Url::parse(text) else {
        // Not a URL, but somebody may have meant it as one.
        return if text.contains('@') {
            HIDDEN.to_owned()
        } else {
            text.to_owned()
        };
    };
    if url.password().is_none() && url.query().is_none() {
        // A URL without authority keeps what looks like credentials in its path.
        return if !url.has_authority() && text.contains('@') {
            HIDDEN.to_owned()
        } else {
            text.to_owned()
        };
    }
    if url.password().is_some() {
        // Only a URL that cannot have a password refuses, and this one has one.
        let _ = url.set_password(Some(HIDDEN));
    }
    if let Some(query) = url.query() {
        let pairs: Vec<String> = query.split('&').map(parameter).collect();
        url.set_query(Some(&pairs.join("&")));
    }
    url.into()
}

fn parameter(pair: &str) -> String {
    match pair.split_once('=') {
        Some((name, _)) if speaks_of_secrets(&decoded(name)) => format!("{name}={HIDDEN}"),
        _ => pair.to_owned(),
    }
}

fn decoded(name: &str) -> Cow<'_, str> {
    percent_encoding::percent_decode_str(name).decode_utf8_lossy()
}

/// The text of a setting, without what may be a secret.
pub(super) fn setting(key: &str, text: &str) -> String {
    let name = key.rsplit('.').next().unwrap_or(key);
    if speaks_of_secrets(name) && !text.is_empty() {
        return HIDDEN.to_owned();
    }
    url(text)
}

/// A line of a configuration file, without the value if that may be a secret.
pub(super) fn line(text: &str) -> String {
    if !speaks_of_secrets(text) && !text.contains('@') {
        return text.to_owned();
    }
    match text.split_once('=') {
        Some((key, _)) => format!("{key}= {HIDDEN}"),
        None => HIDDEN.to_owned(),
    }
}

fn speaks_of_secrets(text: &str) -> bool {
    let text = text.to_ascii_lowercase();
    SECRET_WORDS.iter().any(|word| text.contains(word))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn passwords_in_urls_are_hidden() {
        for (given, shown) in [
            ("http://localhost:8001", "http://localhost:8001"),
            ("https://a.example/base/", "https://a.example/base/"),
            ("http://user@host/", "http://user@host/"),
            ("http://user:hunter2@host:80/x", "http://user:***@host/x"),
            (
                "postgres://me:p%40ss@db:5432/r",
                "postgres://me:***@db:5432/r",
            ),
            (
                "postgres://db/r?user=me&password=x",
                "postgres://db/r?user=me&password=***",
            ),
            (
                "postgres://db/r?p%61ssword=x&sslkey=-----BEGIN&sslcert=a.pem",
                "postgres://db/r?p%61ssword=***&sslkey=***&sslcert=a.pem",
            ),
            (
                "http://h/?access_token=x&b=1",
                "http://h/?access_token=***&b=1",
            ),
            ("user:hunter2@host", "***"),
            ("//user:hunter2@host", "***"),
            ("localhost", "localhost"),
        ] {
            assert_eq!(url(given), shown, "{given}");
        }
    }

    #[test]
    fn lines_that_may_hold_a_secret_show_their_key_only() {
        assert_eq!(line("port = = 1"), "port = = 1");
        assert_eq!(line("token = \"abc"), "token = ***");
        assert_eq!(line("url = \"postgres://a:b@c"), "url = ***");
        assert_eq!(line("PassWord hunter2"), "***");
    }
}
