//! `resonate schedules`.

use std::process::ExitCode;

use clap::{Args, Subcommand};
use serde_json::json;

use super::page::Page;
use super::session::{Failure, Flags, Request, Session};
use super::{duration, examples, input};
use crate::protocol::record::Millis;

#[derive(Args)]
pub(super) struct Group {
    #[command(flatten)]
    pub flags: Flags,
    #[command(subcommand)]
    pub command: Command,
}

#[derive(Subcommand)]
pub(super) enum Command {
    /// Creates a schedule, or answers the one that has this id already
    #[command(after_long_help = examples::SCHEDULES_CREATE)]
    Create {
        /// Unique name
        id: String,
        /// When: 5 to 7 fields, in UTC, such as `0 2 * * *`
        #[arg(long)]
        cron: String,
        /// Id of the promises; {{.id}} and {{.timestamp}} stand for the schedule's id and the instant
        #[arg(long, value_name = "TEMPLATE")]
        promise_id: String,
        /// How long each promise may stay pending
        #[arg(long, value_name = "DURATION", value_parser = duration::parse)]
        promise_timeout: Millis,
        /// What each promise is about: a JSON object with `data` and `headers`. `data` is stored in
        /// base64, a string as its text, anything else as its JSON
        #[arg(long, value_name = "JSON")]
        promise_param: Option<String>,
        /// Tags of each promise: a JSON object of strings, among them `resonate:target`
        #[arg(long, value_name = "JSON")]
        promise_tags: Option<String>,
    },
    /// Shows a schedule
    #[command(after_long_help = examples::SCHEDULES_GET)]
    Get {
        /// Id of the schedule
        id: String,
    },
    /// Lists schedules by id, a page at a time
    #[command(after_long_help = examples::SCHEDULES_SEARCH)]
    #[command(mut_arg("limit", |limit| limit.default_value("10")))]
    Search {
        /// Only those whose promises have all of these tags: a JSON object of strings
        #[arg(long, value_name = "JSON")]
        tags: Option<String>,
        #[command(flatten)]
        page: Page,
    },
    /// Deletes a schedule; the promises that it created stay
    #[command(after_long_help = examples::SCHEDULES_DELETE)]
    Delete {
        /// Id of the schedule
        id: String,
    },
}

impl Command {
    pub(super) async fn run(self, session: &Session) -> Result<ExitCode, Failure> {
        session.show(&self.request()?).await
    }

    fn request(&self) -> Result<Request, Failure> {
        let (kind, data) = match self {
            Command::Create {
                id,
                cron,
                promise_id,
                promise_timeout,
                promise_param,
                promise_tags,
            } => (
                "schedule.create",
                json!({
                    "id": id,
                    "cron": cron,
                    "promiseId": promise_id,
                    "promiseTimeout": promise_timeout,
                    "promiseParam": input::value("--promise-param", promise_param.as_deref())?,
                    "promiseTags": input::optional_json("--promise-tags", promise_tags.as_deref())?,
                }),
            ),
            Command::Get { id } => ("schedule.get", json!({"id": id})),
            Command::Delete { id } => ("schedule.delete", json!({"id": id})),
            Command::Search {
                tags,
                page: Page { limit, cursor },
            } => (
                "schedule.search",
                json!({
                    "tags": input::optional_json("--tags", tags.as_deref())?,
                    "limit": limit,
                    "cursor": cursor,
                }),
            ),
        };
        Ok(Request::new(kind, data))
    }
}
