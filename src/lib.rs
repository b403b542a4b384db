//! `resonate`: a durable-promise server.
pub mod cli;
pub mod config;
pub mod machine;
pub mod protocol;
pub mod store;
pub mod telemetry;
pub mod transport;
