//! The commands that speak to a server, from their arguments to their exit code.

use std::fmt;
use std::process::ExitCode;

use clap::Subcommand;
use console::style;

use super::session::{Failure, Flags, Session, Settings};
use super::{RUST_LOG, examples, health, invoke, mcp, output, promises, retention, schedules};
use super::{targets, tasks, tree};
use crate::config::Environment;

#[derive(Subcommand)]
pub(super) enum Command {
    /// Calls a function that a worker executes
    ///
    /// Creates the promise of the call. Whoever listens at its target executes it; what the function
    /// returns becomes the value of the promise.
    #[command(after_long_help = examples::INVOKE)]
    Invoke(Box<invoke::Command>),
    /// Creates, settles, finds and awaits promises
    #[command(visible_alias = "promise")]
    Promises(promises::Group),
    /// Claims and completes tasks, as workers do
    ///
    /// A task is the lease under which a worker executes a promise that has a target.
    #[command(visible_alias = "task")]
    Tasks(tasks::Group),
    /// Creates, shows and deletes schedules
    ///
    /// A schedule creates promises again and again, as its cron expression says.
    #[command(visible_alias = "schedule")]
    Schedules(schedules::Group),
    /// Shows the calls that a promise has led to
    ///
    /// One line for each: 🟡 pending, 🟢 resolved, 🔴 rejected, canceled or timed out.
    #[command(after_long_help = examples::TREE)]
    Tree(tree::Command),
    /// Shows who is waited for, and why tasks are not running
    ///
    /// One line for each target: how many tasks and messages it has not received yet, since when the
    /// oldest waits, and what keeps it from being received.
    #[command(after_long_help = examples::TARGETS)]
    Targets(targets::Command),
    /// Shows what retention would delete now; deletes nothing
    ///
    /// The server looks at all its promises, which takes a while if there are many. Without --after and
    /// --rule it goes by its own settings.
    #[command(after_long_help = examples::RETENTION)]
    Retention(retention::Command),
    /// Asks whether the server is up
    ///
    /// Prints `ok`, or says what is wrong and exits with 1: for health checks where there is no other
    /// HTTP client, as in the container image.
    #[command(after_long_help = examples::HEALTH)]
    Health(health::Command),
    /// Serves MCP clients on standard input and output
    ///
    /// A Model Context Protocol server, with tools that create, settle and find promises, listen to
    /// them, and run scripts. Its client starts it, and it ends when its standard input does. It logs
    /// to standard error; RUST_LOG says what.
    #[command(after_long_help = examples::MCP)]
    Mcp(mcp::Command),
}

/// A command that is ready to run.
pub struct Job {
    command: Command,
    settings: Settings,
    /// `RUST_LOG`.
    rust_log: Option<String>,
}

impl Job {
    /// `outer` are the flags before the command.
    pub(super) fn new(command: Command, outer: Flags, environment: &Environment) -> Job {
        let flags = match &command {
            Command::Invoke(invoke) => &invoke.flags,
            Command::Promises(group) => &group.flags,
            Command::Tasks(group) => &group.flags,
            Command::Schedules(group) => &group.flags,
            Command::Tree(tree) => &tree.flags,
            Command::Targets(targets) => &targets.flags,
            Command::Retention(retention) => &retention.flags,
            Command::Health(health) => &health.flags,
            Command::Mcp(mcp) => &mcp.flags,
        };
        let settings = Settings::new(flags.clone().or(outer), environment);
        let rust_log = environment.get(RUST_LOG).cloned();
        Job {
            command,
            settings,
            rust_log,
        }
    }

    /// Does it, and explains what fails.
    pub fn run(self) -> ExitCode {
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_all()
            .build();
        let done = runtime
            .map_err(|error| Failure::Internal(error.into()))
            .and_then(|runtime| runtime.block_on(self.perform()));
        match done {
            Ok(code) => code,
            Err(failure) => exit_code(Err(failure)),
        }
    }

    async fn perform(self) -> Result<ExitCode, Failure> {
        let session = Session::new(self.settings)?;
        match self.command {
            Command::Invoke(command) => command.run(&session).await,
            Command::Promises(group) => group.command.run(&session).await,
            Command::Tasks(group) => group.command.run(&session).await,
            Command::Schedules(group) => group.command.run(&session).await,
            Command::Tree(command) => command.run(&session).await,
            Command::Targets(command) => command.run(&session).await,
            Command::Retention(command) => command.run(&session).await,
            Command::Health(command) => command.run(&session).await,
            Command::Mcp(_) => mcp::run(session, self.rust_log.as_deref()).await,
        }
    }
}

impl fmt::Debug for Job {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let settings = &self.settings;
        f.debug_struct("Job")
            .field("settings", settings)
            .finish_non_exhaustive()
    }
}

/// Explains a failure.
pub(super) fn exit_code(done: Result<(), Failure>) -> ExitCode {
    match done {
        Ok(()) => ExitCode::SUCCESS,
        Err(failure) => {
            let label = style("Error:").red().for_stderr();
            output::tell(&format!("{label} {failure}"));
            ExitCode::FAILURE
        }
    }
}
