//! The client's own clock: what durations on the command line count from.

use std::time::{Duration, UNIX_EPOCH};

use crate::protocol::record::Millis;

#[allow(
    clippy::disallowed_methods,
    reason = "a client has a clock of its own; the engine's is the server's"
)]
fn since_epoch() -> Duration {
    let now = std::time::SystemTime::now();
    now.duration_since(UNIX_EPOCH).unwrap_or_default()
}

/// The wall clock, in milliseconds since the Unix epoch.
pub fn now_ms() -> Millis {
    Millis::try_from(since_epoch().as_millis()).unwrap_or(Millis::MAX)
}

/// A name that nobody else on this machine takes: `<prefix>-<ms>-<nanos>`.
pub fn unique(prefix: &str) -> String {
    let now = since_epoch();
    format!("{prefix}-{}-{}", now.as_millis(), now.subsec_nanos())
}
