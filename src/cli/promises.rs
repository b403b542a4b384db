//! `resonate promises`.

use std::process::ExitCode;

use clap::{Args, Subcommand};
use serde_json::json;

use super::page::Page;
use super::session::{Failure, Flags, Request, Session};
use super::{duration, examples, input, wait};
use crate::client::clock;
use crate::protocol::record::{Millis, PromiseState};

#[derive(Args)]
pub(super) struct Group {
    #[command(flatten)]
    pub flags: Flags,
    #[command(subcommand)]
    pub command: Command,
}

#[derive(Subcommand)]
pub(super) enum Command {
    /// Creates a promise, or answers the one that has this id already
    #[command(after_long_help = examples::PROMISES_CREATE)]
    Create {
        /// Unique name
        id: String,
        /// How long it may stay pending, such as 30s, 1h30m or 7d; then it is rejected
        #[arg(long, value_name = "DURATION", value_parser = duration::parse)]
        timeout: Millis,
        /// What it is about: a JSON object with `data` and `headers`. `data` is stored in base64, a
        /// string as its text, anything else as its JSON
        #[arg(long, value_name = "JSON")]
        param: Option<String>,
        /// A JSON object of strings
        #[arg(long, value_name = "JSON")]
        tags: Option<String>,
    },
    /// Shows a promise
    #[command(after_long_help = examples::PROMISES_GET)]
    Get {
        /// Id of the promise
        id: String,
    },
    /// Resolves a promise
    #[command(after_long_help = examples::PROMISES_RESOLVE)]
    Resolve(Settle),
    /// Rejects a promise
    #[command(after_long_help = examples::PROMISES_REJECT)]
    Reject(Settle),
    /// Cancels a promise; those that it waits for are left alone
    #[command(after_long_help = examples::PROMISES_CANCEL)]
    Cancel(Settle),
    /// Waits until a promise is settled, and prints its value
    ///
    /// Exits with 0 if it was resolved, with 1 if it was rejected or canceled, with 2 if it timed out.
    /// The value is printed decoded; with --output json the promise, as the server answers it.
    #[command(after_long_help = examples::PROMISES_AWAIT)]
    Await {
        /// Id of the promise
        id: String,
    },
    /// Lists promises by id, a page at a time
    #[command(after_long_help = examples::PROMISES_SEARCH)]
    Search {
        /// Only those in this state
        #[arg(long, value_parser = STATES)]
        state: Option<String>,
        /// Only those with all of these tags: a JSON object of strings
        #[arg(long, value_name = "JSON")]
        tags: Option<String>,
        #[command(flatten)]
        page: Page,
    },
    /// Has the task of one promise resumed when another promise is settled
    #[command(after_long_help = examples::PROMISES_REGISTER_CALLBACK)]
    RegisterCallback {
        /// Id of the promise that is waited for
        awaited: String,
        /// Id of the promise whose task waits
        awaiter: String,
    },
    /// Has a message sent to an address when a promise is settled
    #[command(after_long_help = examples::PROMISES_REGISTER_LISTENER)]
    RegisterListener {
        /// Id of the promise that is waited for
        awaited: String,
        /// Where to: https://…, poll://uni@<group>/<id>, gcps://<project>/<topic>
        address: String,
    },
}

/// The flags of a settlement.
#[derive(Args)]
pub(super) struct Settle {
    /// Id of the promise
    id: String,
    /// What it is settled with: a JSON object with `data` and `headers`. `data` is stored in base64, a
    /// string as its text, anything else as its JSON
    #[arg(long, value_name = "JSON")]
    value: Option<String>,
    /// Short for --value '{"data": <JSON>}'
    #[arg(
        long,
        value_name = "JSON",
        conflicts_with = "value",
        allow_negative_numbers = true
    )]
    data: Option<String>,
}

impl Settle {
    fn request(&self, state: &str) -> Result<Request, Failure> {
        let value = match &self.data {
            Some(data) => {
                input::json("--data", data)?;
                input::value("--data", Some(&format!(r#"{{"data":{data}}}"#)))?
            }
            None => input::value("--value", self.value.as_deref())?,
        };
        let data = json!({"id": self.id, "state": state, "value": value});
        Ok(Request::new("promise.settle", data))
    }
}

/// The names of all states, which completions offer.
const STATES: [&str; 5] = [
    PromiseState::Pending.as_str(),
    PromiseState::Resolved.as_str(),
    PromiseState::Rejected.as_str(),
    PromiseState::RejectedCanceled.as_str(),
    PromiseState::RejectedTimedout.as_str(),
];

impl Command {
    pub(super) async fn run(self, session: &Session) -> Result<ExitCode, Failure> {
        match self {
            Command::Await { id } => {
                // A first answer tells a server that is not there from one that goes away.
                let promise = session.client.promise(&id).await?;
                wait::show(session, promise).await
            }
            command => session.show(&command.request()?).await,
        }
    }

    fn request(&self) -> Result<Request, Failure> {
        Ok(match self {
            Command::Create {
                id,
                timeout,
                param,
                tags,
            } => Request::new(
                "promise.create",
                json!({
                    "id": id,
                    "timeoutAt": clock::now_ms().saturating_add(*timeout),
                    "param": input::value("--param", param.as_deref())?,
                    "tags": input::optional_json("--tags", tags.as_deref())?,
                }),
            ),
            Command::Get { id } | Command::Await { id } => {
                Request::new("promise.get", json!({"id": id}))
            }
            Command::Resolve(settle) => settle.request("resolved")?,
            Command::Reject(settle) => settle.request("rejected")?,
            Command::Cancel(settle) => settle.request("rejected_canceled")?,
            Command::Search {
                state,
                tags,
                page: Page { limit, cursor },
            } => Request::new(
                "promise.search",
                json!({
                    "state": state,
                    "tags": input::optional_json("--tags", tags.as_deref())?,
                    "limit": limit,
                    "cursor": cursor,
                }),
            ),
            Command::RegisterCallback { awaited, awaiter } => Request::new(
                "promise.register_callback",
                json!({"awaited": awaited, "awaiter": awaiter}),
            ),
            Command::RegisterListener { awaited, address } => Request::new(
                "promise.register_listener",
                json!({"awaited": awaited, "address": address}),
            ),
        })
    }
}
