//! `[retention]`: what is deleted, and how fast.

use serde::{Deserialize, Serialize};

use super::value::{self, Millis};
use crate::protocol::retention::Rule;

/// What is deleted once it is over, and how fast.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Retention {
    /// For how long a tree of promises is kept after the last of them has settled; 0 is for ever.
    #[serde(deserialize_with = "value::at_least_zero")]
    pub after: Millis,
    /// For how long those are kept whose root has a tag.
    #[serde(
        deserialize_with = "value::retention_rules",
        serialize_with = "value::texts"
    )]
    pub rules: Vec<Rule>,
    /// Promises deleted in one transaction.
    #[serde(deserialize_with = "value::at_least_one")]
    pub batch_size: usize,
    /// Promises deleted in a second.
    #[serde(deserialize_with = "value::at_least_one")]
    pub rate: u32,
    /// From the end of a walk over all promises to the next.
    #[serde(deserialize_with = "value::at_least_one")]
    pub interval: Millis,
}

impl Default for Retention {
    fn default() -> Self {
        Retention {
            after: Millis::new(0),
            rules: Vec::new(),
            batch_size: 20,
            rate: 500,
            interval: Millis::new(10 * 60 * 1_000),
        }
    }
}
