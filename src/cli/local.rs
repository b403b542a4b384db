//! The commands that work without a server, on what its settings name.

use std::fmt;
use std::io::{self, IsTerminal};
use std::path::Path;
use std::process::ExitCode;

use clap::{Args, Subcommand};
use serde::Serialize;

use super::session::{Failure, Format};
use super::{backup, doctor, export, import, job, output, serve};
use crate::config::{self, Config, Environment, Flag, Layers, Loaded};

#[derive(Subcommand)]
pub(super) enum Command {
    /// Copies the SQLite database into a file, also while a server uses it
    ///
    /// The copy is the database as it is at one instant, checked from end to end before it gets its name.
    /// Put in the place of the database it came from, without the -wal and -shm files that stood beside
    /// that, it is what a server starts from. docs/backup.md has the steps.
    Backup(Box<backup::Command>),
    /// Writes everything that the storage holds as lines of JSON, also while servers use it
    ///
    /// The same bytes whatever database it is: SQLite or PostgreSQL. `resonate import` reads them.
    Export(Box<export::Command>),
    /// Fills an empty storage with what `resonate export` has written
    ///
    /// No server may use it meanwhile. If it fails or is ended, the storage stays empty.
    Import(Box<import::Command>),
    /// Checks configuration, storage, keys, clock and ports, and changes nothing
    ///
    /// One line for each: ok, warn (a server starts, but somebody should know) or fail, and then what to
    /// do about it. The exit code is 1 if anything failed. Takes the flags of `serve`.
    Doctor(Box<doctor::Command>),
}

/// How the outcome is told.
#[derive(Args, Clone, Copy, Debug, Default)]
pub(super) struct Output {
    /// How to print the outcome [default: text on a terminal, else json]
    #[arg(short, long, value_name = "FORMAT")]
    pub output: Option<Format>,
}

/// Where the storage is.
#[derive(Args)]
pub(super) struct Storage {
    #[command(flatten)]
    pub flags: serve::StorageFlags,
}

/// A command that is ready to run.
pub struct LocalJob {
    command: Command,
    layers: OwnLayers,
}

/// See [`Layers`].
struct OwnLayers {
    file: Box<Path>,
    environment: Environment,
    flags: Vec<Flag>,
}

impl LocalJob {
    pub(super) fn new(mut command: Command, file: &Path, environment: &Environment) -> LocalJob {
        let flags = match &mut command {
            Command::Backup(backup) => backup.storage.take(),
            Command::Export(export) => export.storage.take(),
            Command::Import(import) => import.storage.take(),
            Command::Doctor(doctor) => doctor.take(),
        };
        LocalJob {
            command,
            layers: OwnLayers {
                file: file.into(),
                environment: environment.clone(),
                flags,
            },
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
        done.unwrap_or_else(|failure| job::exit_code(Err(failure)))
    }

    async fn perform(self) -> Result<ExitCode, Failure> {
        let layers = Layers {
            file: &self.layers.file,
            environment: &self.layers.environment,
            flags: &self.layers.flags,
            is_dev: false,
        };
        match self.command {
            Command::Backup(command) => command.run(&config(&layers)?).await,
            Command::Export(command) => command.run(&config(&layers)?).await,
            Command::Import(command) => command.run(&config(&layers)?).await,
            Command::Doctor(command) => command.run(config::effective(&layers)).await,
        }
    }
}

impl fmt::Debug for LocalJob {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("LocalJob").finish_non_exhaustive()
    }
}

impl Output {
    /// Tells the outcome, to people or programs.
    pub(super) fn tell(self, text: &str, outcome: &impl Serialize) -> Result<ExitCode, Failure> {
        let is_text = match self.output {
            Some(format) => format == Format::Text,
            None => io::stdout().is_terminal(),
        };
        output::print(&match is_text {
            true => text.to_owned(),
            false => output::json(outcome)?,
        })?;
        Ok(ExitCode::SUCCESS)
    }
}

impl Storage {
    /// The flags that were given.
    fn take(&mut self) -> Vec<Flag> {
        std::mem::take(&mut self.flags).into_flags()
    }
}

/// The settings that `serve` would run with. What is not understood in them is told.
fn config(layers: &Layers<'_>) -> Result<Config, Failure> {
    let loaded = config::load(layers).map_err(|error| Failure::Input(error.to_string()))?;
    let Loaded { config, warnings } = loaded;
    for warning in warnings {
        output::tell(&format!("Warning: {warning}"));
    }
    Ok(config)
}
