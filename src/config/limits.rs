//! `[limits]`: what one request may hold, and how often clients may ask.

use serde::{Deserialize, Serialize};

use super::value;

/// What one request may hold, and how often clients may ask.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Limits {
    /// Longest id, in bytes. The storage may take less.
    #[serde(deserialize_with = "value::at_least_one")]
    pub max_id_length: usize,
    /// Longest address of a worker or listener, in bytes. The storage may take less.
    #[serde(deserialize_with = "value::at_least_one")]
    pub max_address_length: usize,
    /// Tags of a promise.
    #[serde(deserialize_with = "value::at_least_one")]
    pub max_tags: usize,
    /// Longest tag, name and value together, in bytes.
    #[serde(deserialize_with = "value::at_least_one")]
    pub max_tag_length: usize,
    /// Promises awaited by one `task.suspend`.
    #[serde(deserialize_with = "value::at_least_one")]
    pub max_suspend_actions: usize,
    /// Tasks named by one `task.heartbeat`.
    #[serde(deserialize_with = "value::at_least_one")]
    pub max_heartbeat_tasks: usize,
    /// Requests a second from one address; 0 is unlimited.
    #[serde(deserialize_with = "value::at_least_zero")]
    pub rate_per_address: u32,
    /// Requests a second with one bearer token, on top of the former; 0 is unlimited.
    #[serde(deserialize_with = "value::at_least_zero")]
    pub rate_per_token: u32,
    /// Requests that may come at once, if there is a rate.
    #[serde(deserialize_with = "value::at_least_one")]
    pub rate_burst: u32,
}

impl Default for Limits {
    fn default() -> Self {
        Limits {
            max_id_length: 4096,
            max_address_length: 4096,
            max_tags: 1000,
            max_tag_length: 64 * 1024,
            max_suspend_actions: 10_000,
            // A worker whose heartbeat is refused loses all its tasks.
            max_heartbeat_tasks: 100_000,
            rate_per_address: 0,
            rate_per_token: 0,
            rate_burst: 100,
        }
    }
}
