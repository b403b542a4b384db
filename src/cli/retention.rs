//! `resonate retention`: `GET /retention` of the server.

use std::process::ExitCode;

use clap::Args;

use super::duration;
use super::session::{Failure, Flags, Session};
use crate::client::Error;
use crate::protocol::record::Millis;
use crate::protocol::retention::Rule;

const PATH: &str = "retention";

#[derive(Args)]
pub(super) struct Command {
    /// For how long trees would be kept, such as 30d; 0 is for ever
    #[arg(long, value_name = "DURATION", value_parser = duration::parse)]
    after: Option<Millis>,
    /// For how long those would be kept whose root has a tag: milliseconds, a space, tag=value;
    /// repeatable
    #[arg(long, value_name = "RULE", value_parser = rule)]
    rule: Vec<Rule>,
    #[command(flatten)]
    pub flags: Flags,
}

fn rule(text: &str) -> Result<Rule, String> {
    text.parse().map_err(|bad| format!("expected {bad}"))
}

impl Command {
    pub(super) async fn run(self, session: &Session) -> Result<ExitCode, Failure> {
        let mut query: Vec<(&str, String)> = Vec::new();
        query.extend(self.after.map(|after| ("after", after.to_string())));
        query.extend(self.rule.iter().map(|rule| ("rule", rule.to_string())));
        match session.client.get(PATH, &query).await {
            Ok(preview) => session.print(&preview),
            Err(Error::Refused { status: 404, .. }) => Err(Failure::Input(format!(
                "{} has no /{PATH}",
                session.client.shown_url()
            ))),
            Err(error) => Err(error.into()),
        }
    }
}
