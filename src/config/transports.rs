//! `[transports.*]`: the ways out to workers.

use serde::{Deserialize, Serialize};

use super::value::{self, Millis};
use super::{PushAuth, PushTarget};

/// The ways out to workers.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Transports {
    /// POST to a worker's URL.
    pub http_push: HttpPush,
    /// Streams that workers hold open.
    pub http_poll: HttpPoll,
    /// GCP Pub/Sub.
    pub gcps: Gcps,
    /// Scripts that the server runs itself.
    pub bash_exec: BashExec,
}

/// POST to a worker's URL.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct HttpPush {
    /// Whether it is on.
    pub enabled: bool,
    /// Requests in flight at once.
    #[serde(deserialize_with = "value::at_least_one")]
    pub concurrency: usize,
    /// How long a connection may take to open.
    #[serde(deserialize_with = "value::at_least_one")]
    pub connect_timeout: Millis,
    /// How long a request may take altogether.
    #[serde(deserialize_with = "value::at_least_one")]
    pub request_timeout: Millis,
    /// Where pushes may go; anywhere if empty.
    #[serde(
        deserialize_with = "value::push_targets",
        serialize_with = "value::texts"
    )]
    pub allow: Vec<PushTarget>,
    /// Where they may not go, even if it is in [`HttpPush::allow`].
    #[serde(
        deserialize_with = "value::push_targets",
        serialize_with = "value::texts"
    )]
    pub deny: Vec<PushTarget>,
    /// By what workers know who pushes.
    pub auth: PushAuth,
}

impl Default for HttpPush {
    fn default() -> Self {
        HttpPush {
            enabled: true,
            concurrency: 256,
            connect_timeout: Millis::new(10_000),
            request_timeout: Millis::new(180_000),
            allow: Vec::new(),
            deny: Vec::new(),
            auth: PushAuth::default(),
        }
    }
}

/// Streams that workers hold open.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct HttpPoll {
    /// Whether it is on.
    pub enabled: bool,
    /// Streams open at once.
    #[serde(deserialize_with = "value::at_least_one")]
    pub max_connections: usize,
    /// Messages buffered per stream.
    #[serde(deserialize_with = "value::at_least_one")]
    pub buffer_size: usize,
    /// After how long the server ends a stream, for the worker to reconnect.
    #[serde(deserialize_with = "value::at_least_one")]
    pub stream_lifetime: Millis,
    /// How often a silent stream gets a comment.
    #[serde(deserialize_with = "value::at_least_one")]
    pub keep_alive: Millis,
}

impl Default for HttpPoll {
    fn default() -> Self {
        HttpPoll {
            enabled: true,
            max_connections: 1000,
            buffer_size: 100,
            stream_lifetime: Millis::new(240_000),
            keep_alive: Millis::new(15_000),
        }
    }
}

/// GCP Pub/Sub.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Gcps {
    /// Whether it is on.
    pub enabled: bool,
    /// The project of addresses that name none.
    #[serde(deserialize_with = "value::not_empty_if_set")]
    pub project: Option<String>,
    /// Messages in flight at once.
    #[serde(deserialize_with = "value::at_least_one")]
    pub concurrency: usize,
    /// How long a publish may take.
    #[serde(deserialize_with = "value::at_least_one")]
    pub timeout: Millis,
}

impl Default for Gcps {
    fn default() -> Self {
        Gcps {
            enabled: false,
            project: None,
            concurrency: 256,
            timeout: Millis::new(10_000),
        }
    }
}

/// Scripts that the server runs itself.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct BashExec {
    /// Whether it is on.
    pub enabled: bool,
    /// Scripts running at once.
    #[serde(deserialize_with = "value::at_least_one")]
    pub concurrency: usize,
    /// Where named scripts are; without it there are none.
    #[serde(deserialize_with = "value::directory")]
    pub root_dir: Option<String>,
    /// Where named scripts run: `<root>`, `<script>` or a path.
    #[serde(deserialize_with = "value::not_empty")]
    pub working_dir: String,
}

impl Default for BashExec {
    fn default() -> Self {
        BashExec {
            enabled: false,
            concurrency: 16,
            root_dir: None,
            working_dir: "<root>".to_owned(),
        }
    }
}
