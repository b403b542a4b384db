//! `[observability]`: what the server tells about itself.

use serde::{Deserialize, Serialize};

use super::{Millis, value};
use crate::telemetry::otlp::Endpoint;

pub use crate::telemetry::logging::Format as LogFormat;

/// What the server tells about itself.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Observability {
    /// Port of the metrics endpoint; 0 is off.
    #[serde(deserialize_with = "value::port")]
    pub metrics_port: u16,
    /// Address that the metrics endpoint binds, if not that of the API.
    #[serde(deserialize_with = "value::not_empty_if_set")]
    pub metrics_bind: Option<String>,
    /// The collector that spans and metrics are exported to over OTLP; nothing is if there is none.
    #[serde(deserialize_with = "value::endpoint")]
    pub otlp_endpoint: Option<Endpoint>,
    /// How the log is written.
    pub log_format: LogFormat,
    /// Requests that take longer than this are logged, with where their time went; 0 is off.
    #[serde(deserialize_with = "value::at_least_zero")]
    pub slow_request: Millis,
}

impl Default for Observability {
    fn default() -> Self {
        Observability {
            metrics_port: 9090,
            metrics_bind: None,
            otlp_endpoint: None,
            log_format: LogFormat::default(),
            slow_request: Millis::new(1000),
        }
    }
}
