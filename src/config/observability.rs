//! `[observability]`: what the server tells about itself.

use serde::{Deserialize, Serialize};

use super::value;

/// What the server tells about itself.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Observability {
    /// Port of the metrics endpoint; 0 is off.
    #[serde(deserialize_with = "value::port")]
    pub metrics_port: u16,
    /// Address that the metrics endpoint binds, if not that of the API.
    #[serde(deserialize_with = "value::not_empty_if_set")]
    pub metrics_bind: Option<String>,
}

impl Default for Observability {
    fn default() -> Self {
        Observability {
            metrics_port: 9090,
            metrics_bind: None,
        }
    }
}
