//! The command line: `serve` and `dev` start a server, `backup`, `export`, `import` and `doctor` look at
//! what one would use, everything else is a client of one.
//!
//! Usage errors are clap's: usage text on standard error, exit code 2. A bad configuration is one
//! line, `Fatal: Configuration error: …`, exit code 1; so is what a client command failed at, `Error: …`.

use std::ffi::OsString;
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use clap::error::ErrorKind;
use clap::{CommandFactory, FromArgMatches, Parser, Subcommand};
use clap_complete::Shell;

use crate::config::{self, Config, Environment, Flag, Layers, Loaded, keys};
use crate::telemetry::logging;

mod backup;
mod banner;
mod bar;
mod doctor;
mod duration;
mod examples;
mod export;
mod graph;
mod health;
mod import;
mod input;
mod interrupt;
mod invoke;
mod job;
mod local;
mod mcp;
mod outfile;
mod output;
mod page;
mod progress;
mod promises;
mod retention;
mod schedules;
pub mod serve;
mod session;
mod targets;
mod tasks;
mod tree;
mod wait;

pub use self::banner::show as show_banner;
pub use self::job::Job;
pub use self::local::LocalJob;

#[cfg(test)]
mod tests;

const RUST_LOG: &str = "RUST_LOG";

/// Durable promises, tasks and schedules over HTTP
///
/// `resonate dev` starts a server to try things out on, `resonate serve` one that keeps what it is told.
/// `backup`, `export`, `import` and `doctor` work on what a server would use, without one. All other
/// commands are clients of a server.
#[derive(Parser)]
#[command(
    name = "resonate",
    version,
    propagate_version = true,
    subcommand_required = true,
    arg_required_else_help = true,
    after_long_help = examples::RESONATE
)]
struct Cli {
    #[command(flatten)]
    flags: session::Flags,
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand)]
enum Command {
    /// Runs the server
    ///
    /// Settings come from built-in defaults, resonate.toml in the working directory, RESONATE_*
    /// environment variables and the flags below; later ones win.
    Serve(Box<serve::Flags>),
    /// Runs the server for development: as `serve`, but with SQLite in memory
    ///
    /// The SQLite database is in memory unless --storage-sqlite-path names a file. Every other
    /// setting comes from where `serve` takes it, --storage-type too: a PostgreSQL database is used
    /// as configured.
    Dev(Box<serve::Flags>),
    #[command(flatten)]
    Client(job::Command),
    #[command(flatten)]
    Local(local::Command),
    /// Prints a script that completes commands and flags in a shell
    #[command(after_long_help = examples::COMPLETIONS)]
    Completions {
        /// The shell
        shell: Shell,
    },
}

/// What the command line asks for.
#[derive(Debug)]
pub enum Action {
    /// To be a server.
    Serve(Box<Invocation>),
    /// To speak to one.
    Run(Box<Job>),
    /// To do something without one.
    RunLocally(Box<LocalJob>),
    /// To print completions.
    Complete(Shell),
}

/// A server with this configuration.
#[derive(Debug)]
pub struct Invocation {
    /// The validated configuration.
    pub config: Config,
    /// `RUST_LOG`, which overrides `config.level`; see [`logging::Log::start`].
    pub rust_log: Option<String>,
    /// Whether it is for trying things out.
    pub is_dev: bool,
    warnings: Vec<String>,
    sources: Sources,
}

impl Invocation {
    /// Logs what in the configuration was not understood. To be called once logging is up.
    pub fn log_warnings(&self) {
        for warning in &self.warnings {
            tracing::warn!(reason = %warning, "configuration warning");
        }
    }

    /// Where the configuration came from.
    pub fn sources(&self) -> Sources {
        self.sources.clone()
    }
}

/// Where a configuration came from: to be read again.
#[derive(Clone)]
pub struct Sources {
    file: PathBuf,
    environment: Environment,
    flags: Vec<Flag>,
    is_dev: bool,
}

impl Sources {
    fn load(&self) -> Result<Loaded, config::Error> {
        config::load(&Layers {
            file: &self.file,
            environment: &self.environment,
            flags: &self.flags,
            is_dev: self.is_dev,
        })
    }

    /// The log level that is configured by now.
    ///
    /// # Errors
    /// When what is configured by now could not be started with.
    pub fn level(&self) -> Result<String, config::Error> {
        Ok(self.load()?.config.level)
    }
}

/// Without the environment, which holds secrets.
impl std::fmt::Debug for Sources {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Sources")
            .field("file", &self.file)
            .field("flags", &self.flags)
            .finish_non_exhaustive()
    }
}

/// Why there is nothing to run.
#[derive(Debug, thiserror::Error)]
enum Failure {
    /// Help, version, or a usage error.
    #[error(transparent)]
    Usage(#[from] clap::Error),
    #[error("Fatal: {0}")]
    Configuration(#[from] config::Error),
}

/// Reads the process's arguments and environment and `resonate.toml` in the working directory. What
/// cannot be run has been explained to the user: exit with the code.
pub fn parse_and_load() -> Result<Action, ExitCode> {
    let action = environment(std::env::vars_os())
        .map_err(Failure::from)
        .and_then(|environment| load(std::env::args_os(), Path::new(config::FILE), &environment));
    action.map_err(|failure| match failure {
        Failure::Usage(error) => {
            // Nobody is left to tell if the terminal is gone.
            let _ = error.print();
            u8::try_from(error.exit_code()).map_or(ExitCode::FAILURE, ExitCode::from)
        }
        failure => {
            eprintln!("{failure}");
            ExitCode::FAILURE
        }
    })
}

fn load<A: Into<OsString> + Clone>(
    arguments: impl IntoIterator<Item = A>,
    file: &Path,
    environment: &Environment,
) -> Result<Action, Failure> {
    let matches = command().try_get_matches_from(arguments)?;
    let cli = Cli::from_arg_matches(&matches)?;
    let (flags, is_dev) = match cli.command {
        Command::Serve(flags) => (flags, false),
        Command::Dev(flags) => (flags, true),
        Command::Client(command) => {
            let job = Job::new(command, cli.flags, environment);
            return Ok(Action::Run(Box::new(job)));
        }
        Command::Local(command) => {
            refuse(&cli.flags)?;
            let job = LocalJob::new(command, file, environment);
            return Ok(Action::RunLocally(Box::new(job)));
        }
        Command::Completions { shell } => {
            refuse(&cli.flags)?;
            return Ok(Action::Complete(shell));
        }
    };
    refuse(&cli.flags)?;
    let sources = Sources {
        file: file.to_owned(),
        environment: environment.clone(),
        flags: flags.given(),
        is_dev,
    };
    let Loaded { config, warnings } = sources.load()?;
    let rust_log = environment.get(RUST_LOG).cloned();
    if let Some(Err(error)) = rust_log.as_deref().map(logging::parse_rust_log) {
        let reason = format!("{error} (from environment variable {RUST_LOG})");
        return Err(config::Error::new(reason).into());
    }
    Ok(Action::Serve(Box::new(Invocation {
        config,
        rust_log,
        is_dev,
        warnings,
        sources,
    })))
}

/// The variables that can be read. A setting that is not Unicode is refused: to drop it or to
/// replace characters would run the server with another value than was given.
fn environment(
    variables: impl Iterator<Item = (OsString, OsString)>,
) -> Result<Environment, config::Error> {
    let mut environment = Environment::new();
    for (name, value) in variables {
        let Ok(name) = name.into_string() else {
            continue;
        };
        match value.into_string() {
            Ok(value) => {
                environment.insert(name, value);
            }
            Err(_) if name.starts_with(keys::ENVIRONMENT_PREFIX) || name == RUST_LOG => {
                return Err(config::Error::new(format!(
                    "environment variable {name} is not valid Unicode"
                )));
            }
            Err(_) => {}
        }
    }
    Ok(environment)
}

/// Refuses flags of clients before a command that is none.
fn refuse(flags: &session::Flags) -> Result<(), clap::Error> {
    let Some(flag) = flags.given() else {
        return Ok(());
    };
    let sentence = format!("{flag} is for commands that speak to a server");
    Err(command().error(ErrorKind::ArgumentConflict, sentence))
}

/// Prints the script that completes commands and flags in `shell`.
pub fn complete(shell: Shell) -> ExitCode {
    let mut script = Vec::new();
    clap_complete::generate(shell, &mut command(), "resonate", &mut script);
    job::exit_code(output::print(&String::from_utf8_lossy(&script)))
}

/// The command line, with the default and the environment variable of every flag in its help.
fn command() -> clap::Command {
    // Clients take these flags wherever they stand; `serve` has others.
    let flags = ["server", "token", "output"];
    let command = flags.into_iter().fold(Cli::command(), |command, flag| {
        command.mut_arg(flag, |argument| argument.global(false))
    });
    // It answers in its own protocol.
    let command = command.mut_subcommand("mcp", |command| {
        command.mut_arg("output", |argument| argument.hide(true))
    });
    let with_settings = ["serve", "dev", "backup", "export", "import", "doctor"];
    with_settings.into_iter().fold(command, |command, name| {
        command.mut_subcommand(name, |command| serve::with_defaults(command, name == "dev"))
    })
}
