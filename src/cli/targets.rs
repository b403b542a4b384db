//! `resonate targets`: `GET /targets` of the server.

use std::process::ExitCode;

use clap::Args;

use super::session::{Failure, Flags, Session};
use crate::client::Error;

const PATH: &str = "targets";

#[derive(Args)]
pub(super) struct Command {
    /// How many queues to look at, 1 to 1000
    #[arg(
        long,
        value_name = "N",
        default_value_t = 100,
        allow_negative_numbers = true
    )]
    limit: i64,
    /// Where the page before this one ended: its `cursor`
    #[arg(long)]
    cursor: Option<String>,
    #[command(flatten)]
    pub flags: Flags,
}

impl Command {
    pub(super) async fn run(self, session: &Session) -> Result<ExitCode, Failure> {
        let mut query = vec![("limit", self.limit.to_string())];
        query.extend(self.cursor.map(|cursor| ("cursor", cursor)));
        match session.client.get(PATH, &query).await {
            Ok(page) => session.print(&page),
            Err(Error::Refused { status: 404, .. }) => Err(Failure::Input(format!(
                "{} has no /{PATH}",
                session.client.shown_url()
            ))),
            Err(error) => Err(error.into()),
        }
    }
}
