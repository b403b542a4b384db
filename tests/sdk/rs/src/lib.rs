//! The Rust adapter of the SDK conformance suite: what the `worker` and `client` programs share.

pub mod functions;
pub mod session;
