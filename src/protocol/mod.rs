//! The wire: records, operations, addresses, the envelope, validation and statuses.
//!
//! Owns every name, status and sentence that a client can see (`protocol.md`). Knows no clock,
//! no storage and no transport; everything above imports it, it imports nothing above.

pub mod address;
pub mod cron;
pub mod envelope;
pub mod kinds;
pub mod lineage;
pub mod message;
pub mod operation;
pub mod parse;
pub mod record;
pub mod reply;
pub mod retention;
mod rules;
pub mod scope;
pub mod template;
pub mod trace;
