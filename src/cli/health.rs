//! `resonate health`: `GET /health` or `GET /ready` of the server.

use std::process::ExitCode;

use clap::Args;

use super::output;
use super::session::{Failure, Flags, Session};
use crate::client::Error;

#[derive(Args)]
pub(super) struct Command {
    /// Also ask whether its storage answers
    #[arg(long)]
    ready: bool,
    #[command(flatten)]
    pub flags: Flags,
}

impl Command {
    pub(super) async fn run(self, session: &Session) -> Result<ExitCode, Failure> {
        let path = if self.ready { "ready" } else { "health" };
        match session.client.probe(path).await {
            Ok(()) => output::print("ok")?,
            Err(Error::Refused { status: 503, .. }) if self.ready => {
                let url = session.client.shown_url();
                return Err(Failure::Input(format!(
                    "the storage of {url} does not answer"
                )));
            }
            Err(error) => return Err(error.into()),
        }
        Ok(ExitCode::SUCCESS)
    }
}
