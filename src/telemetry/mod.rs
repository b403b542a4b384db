//! What the server tells about itself: the log and the metrics.
//!
//! Neither shows payloads, tokens or headers, and no label of a metric is a client's to choose.

pub mod logging;
pub mod metrics;
