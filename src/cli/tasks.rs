//! `resonate tasks`.

use std::process::ExitCode;

use clap::{ArgAction, Args, Subcommand};
use serde_json::json;

use super::page::Page;
use super::session::{Failure, Flags, Request, Session};
use super::{duration, examples, input};
use crate::client::clock;
use crate::protocol::record::{Millis, TaskState};

#[derive(Args)]
pub(super) struct Group {
    #[command(flatten)]
    pub flags: Flags,
    #[command(subcommand)]
    pub command: Command,
}

#[derive(Subcommand)]
pub(super) enum Command {
    /// Creates a promise and acquires its task, in one step
    #[command(after_long_help = examples::TASKS_CREATE)]
    Create {
        /// Id of the promise and its task
        id: String,
        /// Who acquires it
        #[arg(long)]
        pid: String,
        /// How long it is held without a heartbeat
        #[arg(long, value_name = "DURATION", value_parser = duration::parse)]
        ttl: Millis,
        /// How long the promise may stay pending; then it is rejected
        #[arg(long, value_name = "DURATION", value_parser = duration::parse)]
        timeout: Millis,
        /// What it is about: a JSON object with `data` and `headers`. `data` is stored in base64, a
        /// string as its text, anything else as its JSON
        #[arg(long, value_name = "JSON")]
        param: Option<String>,
        /// A JSON object of strings; `resonate:target` says who may execute it
        #[arg(long, value_name = "JSON")]
        tags: Option<String>,
    },
    /// Shows a task
    #[command(after_long_help = examples::TASKS_GET)]
    Get {
        /// Id of the task
        id: String,
    },
    /// Creates or settles another promise, if the task is still held
    #[command(disable_version_flag = true, after_long_help = examples::TASKS_FENCE)]
    Fence {
        /// Id of the task
        id: String,
        #[command(flatten)]
        version: Version,
        /// What to do: {"kind": "promise.create" or "promise.settle", "data": {…}}
        #[arg(long, value_name = "JSON")]
        action: String,
    },
    /// Renews the leases of tasks that are held
    #[command(after_long_help = examples::TASKS_HEARTBEAT)]
    Heartbeat {
        /// Who holds them
        #[arg(long)]
        pid: String,
        /// Which: [{"id": …, "version": …}, …]
        #[arg(long, value_name = "JSON")]
        tasks: String,
    },
    /// Gives a task up until one of the promises that it awaits is settled
    #[command(disable_version_flag = true, after_long_help = examples::TASKS_SUSPEND)]
    Suspend {
        /// Id of the task
        id: String,
        #[command(flatten)]
        version: Version,
        /// What it awaits: [{"kind": "promise.register_callback", "data": {"awaited": …, "awaiter":
        /// …}}, …]
        #[arg(long, value_name = "JSON")]
        actions: String,
    },
    /// Acquires a task that is pending
    #[command(disable_version_flag = true, after_long_help = examples::TASKS_CLAIM)]
    Claim {
        /// Id of the task
        id: String,
        /// Who acquires it
        #[arg(long)]
        pid: String,
        #[command(flatten)]
        version: Version,
        /// How long it is held without a heartbeat
        #[arg(long, value_name = "DURATION", value_parser = duration::parse)]
        ttl: Millis,
    },
    /// Gives a task back, for others to execute
    #[command(disable_version_flag = true, after_long_help = examples::TASKS_RELEASE)]
    Release {
        /// Id of the task
        id: String,
        #[command(flatten)]
        version: Version,
    },
    /// Keeps a task from being executed until it is continued
    #[command(after_long_help = examples::TASKS_HALT)]
    Halt {
        /// Id of the task
        id: String,
    },
    /// Lets a halted task be executed again
    #[command(after_long_help = examples::TASKS_CONTINUE)]
    Continue {
        /// Id of the task
        id: String,
    },
    /// Settles the promise of a task that is held
    #[command(disable_version_flag = true, after_long_help = examples::TASKS_COMPLETE)]
    Complete {
        /// Id of the task
        id: String,
        #[command(flatten)]
        version: Version,
        /// How: {"kind": "promise.settle", "data": {…}}
        #[arg(long, value_name = "JSON")]
        action: String,
    },
    /// Lists tasks by id, a page at a time
    #[command(after_long_help = examples::TASKS_SEARCH)]
    Search {
        /// Only those in this state
        #[arg(long, value_parser = STATES)]
        state: Option<String>,
        #[command(flatten)]
        page: Page,
    },
}

/// `--version` of a task, and what is left of clap's flag of that name.
#[derive(Args)]
pub(super) struct Version {
    /// Version of the task at which it is held, or offered
    #[arg(long = "version", value_name = "N", allow_negative_numbers = true)]
    number: i64,
    /// Print version
    #[arg(short = 'V', action = ArgAction::Version, display_order = 999)]
    print: (),
}

/// The names of all states, which completions offer.
const STATES: [&str; 5] = [
    TaskState::Pending.as_str(),
    TaskState::Acquired.as_str(),
    TaskState::Suspended.as_str(),
    TaskState::Halted.as_str(),
    TaskState::Fulfilled.as_str(),
];

impl Command {
    pub(super) async fn run(self, session: &Session) -> Result<ExitCode, Failure> {
        session.show(&self.request()?).await
    }

    fn request(&self) -> Result<Request, Failure> {
        let (kind, data) = match self {
            Command::Create {
                id,
                pid,
                ttl,
                timeout,
                param,
                tags,
            } => {
                let promise = Request::new(
                    "promise.create",
                    json!({
                        "id": id,
                        "timeoutAt": clock::now_ms().saturating_add(*timeout),
                        "param": input::value("--param", param.as_deref())?,
                        "tags": input::optional_json("--tags", tags.as_deref())?,
                    }),
                );
                let action = json!({"kind": promise.kind, "data": promise.data});
                let data = json!({"pid": pid, "ttl": ttl, "action": action});
                ("task.create", data)
            }
            Command::Get { id } => ("task.get", json!({"id": id})),
            Command::Claim {
                id,
                pid,
                version,
                ttl,
            } => (
                "task.acquire",
                json!({"id": id, "version": version.number, "pid": pid, "ttl": ttl}),
            ),
            Command::Fence {
                id,
                version,
                action,
            } => (
                "task.fence",
                json!({
                    "id": id,
                    "version": version.number,
                    "action": input::json("--action", action)?,
                }),
            ),
            Command::Heartbeat { pid, tasks } => (
                "task.heartbeat",
                json!({"pid": pid, "tasks": input::json("--tasks", tasks)?}),
            ),
            Command::Suspend {
                id,
                version,
                actions,
            } => (
                "task.suspend",
                json!({
                    "id": id,
                    "version": version.number,
                    "actions": input::json("--actions", actions)?,
                }),
            ),
            Command::Complete {
                id,
                version,
                action,
            } => (
                "task.fulfill",
                json!({
                    "id": id,
                    "version": version.number,
                    "action": input::json("--action", action)?,
                }),
            ),
            Command::Release { id, version } => {
                ("task.release", json!({"id": id, "version": version.number}))
            }
            Command::Halt { id } => ("task.halt", json!({"id": id})),
            Command::Continue { id } => ("task.continue", json!({"id": id})),
            Command::Search {
                state,
                page: Page { limit, cursor },
            } => (
                "task.search",
                json!({"state": state, "limit": limit, "cursor": cursor}),
            ),
        };
        Ok(Request::new(kind, data))
    }
}
