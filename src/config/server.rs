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
    /// Cross-origin requests.
    pub cors: Cors,
}

/// Cross-origin requests.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Cors {
    /// Origins that may call the API from a browser, `*` for any; each a valid header value.
    #[serde(deserialize_with = "value::origins")]
    pub allow_origins: Vec<String>,
}

impl Server {
    /// The `serverUrl` of execute messages: `server.url`, else `http://{host}:{port}` with the port
    /// that was bound.
    pub fn public_url(&self, bound_port: u16) -> String {
        match &self.url {
            Some(url) => url.as_str().to_owned(),
            None if self.host.parse::<Ipv6Addr>().is_ok() => {
                format!("http://[{}]:{bound_port}", self.host)
            }
            None => format!("http://{}:{bound_port}", self.host),
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
            cors: Cors::default(),
        }
    }
}
