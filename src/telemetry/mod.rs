//! What the server tells about itself: the log, the metrics and the spans.
//!
//! Neither shows payloads, tokens or headers, and no label of a metric is a client's to choose.

pub mod logging;
pub mod metrics;
pub mod otlp;
pub mod tracer;
