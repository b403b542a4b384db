//! `resonate`: a durable-promise server.
pub mod driver;
pub mod engine;
pub mod machine;
pub mod protocol;
pub mod store;
pub mod transport;
