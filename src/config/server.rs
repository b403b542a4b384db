//! `[server]`: the API, its limits and its address.

use std::net::Ipv6Addr;

use serde::{Deserialize, Serialize};

use super::redact::HttpUrl;
use super::value::{self, Millis};

/// The API.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Server {
    /// Host of the default [`Server::url`].
    #[serde(deserialize_with = "value::not_empty")]
    pub host: String,
    /// API port; 0 lets the system choose.
    #[serde(deserialize_with = "value::port")]
    pub port: u16,
    /// Address to bind.
    #[serde(deserialize_with = "value::not_empty")]
    pub bind: String,
    /// Where workers reach this server, if not at `host` and `port`; see [`Server::public_url`].
    pub url: Option<HttpUrl>,
    /// How long requests in flight, and after them the storage, get to finish at the end.
    #[serde(deserialize_with = "value::at_least_zero")]
    pub shutdown_timeout: Millis,
    /// Largest request body, in bytes.
    #[serde(deserialize_with = "value::at_least_one")]
    pub max_body_size: usize,
    /// How long a request may be held through a stall before it is answered 503.
    #[serde(deserialize_with = "value::at_least_one")]
    pub request_deadline: Millis,
    /// Requests read and not yet answered, before the server stops reading.
    #[serde(deserialize_with = "value::at_least_one")]
    pub max_in_flight: usize,
    /// Bytes of their bodies, before the server stops reading. At least `max_body_size`.
    #[serde(deserialize_with = "value::at_least_one")]
    pub max_in_flight_bytes: usize,
    /// Connections open at once, besides those of streams.
    #[serde(deserialize_with = "value::at_least_one")]
    pub max_connections: usize,
    /// How long the head of a request, or a TLS handshake and the first one, may take to arrive.
    #[serde(deserialize_with = "value::at_least_one")]
    pub header_read_timeout: Millis,
    /// How long each 64 KiB of a body, or what there is of them, may take to arrive.
    #[serde(deserialize_with = "value::at_least_one")]
    pub body_read_timeout: Millis,
    /// How long a connection is kept open between two requests.
    #[serde(deserialize_with = "value::at_least_one")]
    pub idle_timeout: Millis,
    /// Encryption.
    pub tls: Tls,
    /// Cross-origin requests.
    pub cors: Cors,
}

/// Encryption of the API; both files or none.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Tls {
    /// PEM file of the certificate and the intermediate ones after it.
    #[serde(deserialize_with = "value::not_empty_if_set")]
    pub cert: Option<String>,
    /// PEM file of its private key.
    #[serde(deserialize_with = "value::not_empty_if_set")]
    pub key: Option<String>,
}

/// Cross-origin requests.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Cors {
    /// Origins that may call the API from a browser, `*` for any; each a valid header value.
    #[serde(deserialize_with = "value::origins")]
    pub allow_origins: Vec<String>,
}

impl Server {
    /// The `serverUrl` of execute messages: `server.url`, else `http://{host}:{port}` (`https` with a
    /// certificate) with the port that was bound.
    pub fn public_url(&self, bound_port: u16) -> String {
        let host = &self.host;
        let scheme = if self.tls.cert.is_some() {
            "https"
        } else {
            "http"
        };
        match &self.url {
            Some(url) => url.as_str().to_owned(),
            None if host.parse::<Ipv6Addr>().is_ok() => format!("{scheme}://[{host}]:{bound_port}"),
            None => format!("{scheme}://{host}:{bound_port}"),
        }
    }
}

impl Default for Server {
    fn default() -> Self {
        Server {
            host: "localhost".to_owned(),
            port: 8001,
            bind: "0.0.0.0".to_owned(),
            url: None,
            shutdown_timeout: Millis::new(10_000),
            max_body_size: 16 * 1024 * 1024,
            // Below the 10 s that clients wait for an answer.
            request_deadline: Millis::new(8_000),
            max_in_flight: 4096,
            max_in_flight_bytes: 256 * 1024 * 1024,
            max_connections: 10_000,
            header_read_timeout: Millis::new(10_000),
            body_read_timeout: Millis::new(10_000),
            // Above the 90 s for which clients keep theirs: some lose a request that meets the end.
            idle_timeout: Millis::new(180_000),
            tls: Tls::default(),
            cors: Cors::default(),
        }
    }
}
