//! `[tasks]`, `[timeouts]` and `[messages]`: when the server acts by itself.

use serde::{Deserialize, Serialize};

use super::value::{self, Millis};

/// Leases and redispatch.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Tasks {
    /// Lease of tasks that the server itself runs; workers bring their own.
    #[serde(deserialize_with = "value::at_least_one")]
    pub lease_timeout: Millis,
    /// After how long a pending task is offered again.
    #[serde(deserialize_with = "value::at_least_one")]
    pub retry_timeout: Millis,
}

impl Default for Tasks {
    fn default() -> Self {
        Tasks {
            lease_timeout: Millis::new(15_000),
            retry_timeout: Millis::new(30_000),
        }
    }
}

/// The repair sweep for whatever is due and that no timer of this process covers.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Timeouts {
    /// How often it runs.
    #[serde(deserialize_with = "value::at_least_one")]
    pub poll_interval: Millis,
}

impl Default for Timeouts {
    fn default() -> Self {
        Timeouts {
            poll_interval: Millis::new(1_000),
        }
    }
}

/// The repair sweep for undelivered messages.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Messages {
    /// How often it runs.
    #[serde(deserialize_with = "value::at_least_one")]
    pub poll_interval: Millis,
    /// How many entries of a kind one sweep takes.
    #[serde(deserialize_with = "value::at_least_one")]
    pub batch_size: usize,
    /// After how long an undelivered unblock is given up.
    #[serde(deserialize_with = "value::at_least_one")]
    pub unblock_ttl: Millis,
}

impl Default for Messages {
    fn default() -> Self {
        Messages {
            poll_interval: Millis::new(1_000),
            batch_size: 100,
            unblock_ttl: Millis::new(24 * 60 * 60 * 1_000),
        }
    }
}
