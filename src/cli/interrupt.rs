//! Ctrl-C, for commands that wait: what it ends is the waiting.

use std::process::ExitCode;

use anyhow::Context;
use tokio::signal::unix::{Signal, SignalKind, signal};

use super::session::Failure;

/// Listens from when it is made, which is to be before anything is shown: who sees it may press the key.
pub(super) struct Interrupt(Signal);

impl Interrupt {
    pub(super) fn listen() -> Result<Interrupt, Failure> {
        let signal = signal(SignalKind::interrupt()).context("signals cannot be handled")?;
        Ok(Interrupt(signal))
    }

    /// Returns when it has come.
    pub(super) async fn comes(&mut self) {
        self.0.recv().await;
    }

    /// By a signal: 128 and the number of SIGINT.
    pub(super) fn exit_code() -> ExitCode {
        ExitCode::from(130)
    }
}
