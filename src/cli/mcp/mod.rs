//! `resonate mcp`: a Model Context Protocol server on standard input and output, and a client of the
//! server of promises (`cli.md` §7).
//!
//! ```text
//!   stdin ─> lines ─> rmcp ─> desk ─> tools ─> POST /
//!   stdout <─ lines <─ rmcp <──┴────── channel <─ GET /poll/mcp/<session>
//! ```
//!
//! rmcp owns the types of the protocol, its dispatch, cancellation, and the answers on their way when
//! standard input ends. What is ours: lines that are no message, tools, and the channel that tells of
//! settled promises. Standard output is for the protocol, so everything else goes to the log.

use std::process::ExitCode;
use std::sync::Arc;

use anyhow::Context;
use clap::Args;
use rmcp::service::serve_directly;

use self::channel::Channel;
use self::desk::Desk;
use self::lines::Lines;
use super::session::{Failure, Flags, Session};
use crate::telemetry::logging::{Format, Log};

mod arguments;
mod channel;
mod desk;
mod lines;
mod tools;

#[derive(Args)]
pub(super) struct Command {
    #[command(flatten)]
    pub flags: Flags,
}

/// What is logged unless `RUST_LOG` says otherwise. rmcp warns of every method that it is asked for in
/// vain, and clients try what there is.
const LEVEL: &str = "info,rmcp=error";

/// Serves until standard input ends.
pub(super) async fn run(session: Session, rust_log: Option<&str>) -> Result<ExitCode, Failure> {
    if session.format.is_some() {
        let sentence = "--output is for commands that print an answer";
        return Err(Failure::Input(sentence.to_owned()));
    }
    Log::start(LEVEL, rust_log, Format::Text)?;
    let channel = Arc::new(Channel::new(session.client));
    // Not `serve`, which insists on `initialize` before anything else.
    let server = serve_directly(Desk::new(Arc::clone(&channel)), Lines::stdio(), None);
    let peer = server.peer().clone();
    tokio::select! {
        ended = server.waiting() => ended.context("the protocol stopped")?,
        never = channel.follow(&peer) => match never {},
    };
    Ok(ExitCode::SUCCESS)
}
