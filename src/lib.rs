//! `resonate`: a durable-promise server.
//!
//! Imports point one way: `protocol ← machine ← store ← engine ← {driver, http}`; only `driver` (and
//! the poll endpoint) uses `transport`; [`serve`] wires everything together.
//!
//! | module | owns |
//! |---|---|
//! | [`protocol`] | the wire: records, envelope, operations, validation, statuses, addresses, messages |
//! | [`machine`] | every decision: pure, total, no I/O, no clock |
//! | [`store`] | objects on disk or in memory; no protocol knowledge |
//! | [`engine`] | batches, the clock, reads, the debug switch |
//! | [`driver`] | timers, the outbox and retention |
//! | [`transport`] | ways out: poll streams, HTTP push |
//! | [`auth`] | who sends a request, by its token, and what they may do |
//! | [`http`] | the HTTP surface |
//! | [`net`] | connections: how many, how long, encrypted or not |
//! | [`client`] | the public API, from the other side: what `cli` speaks to a server with |
//! | [`doctor`] | looks at what a server needs, and changes nothing |
//! | [`config`], [`cli`], [`telemetry`] | settings, command line, logs |

pub mod auth;
pub mod cli;
pub mod client;
pub mod cluster;
pub mod config;
pub mod doctor;
pub mod driver;
pub mod engine;
pub mod http;
pub mod machine;
pub mod net;
pub mod protocol;
pub mod serve;
pub mod store;
pub mod telemetry;
pub mod transport;
