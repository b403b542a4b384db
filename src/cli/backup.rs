//! `resonate backup`: a copy of the SQLite database.

use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::time::Duration;

use clap::Args;
use serde_json::json;

use super::bar::{Bar, Unit};
use super::export::refuse_memory;
use super::interrupt::Interrupt;
use super::local::{Output, Storage};
use super::outfile::{OutFile, bytes_text};
use super::session::Failure;
use crate::config::{Backend, Config};
use crate::store::sqlite;

/// How often the growing copy is looked at.
const LOOK_INTERVAL: Duration = Duration::from_millis(100);

#[derive(Args)]
pub(super) struct Command {
    /// Where the copy is to be
    #[arg(value_name = "FILE")]
    file: PathBuf,
    /// Replace a file that is there
    #[arg(long)]
    force: bool,
    #[command(flatten)]
    output: Output,
    #[command(flatten)]
    pub storage: Storage,
}

impl Command {
    pub(super) async fn run(self, config: &Config) -> Result<ExitCode, Failure> {
        let database = database(config)?;
        let mut interrupt = Interrupt::listen()?;
        if is_same(database, &self.file) {
            let message = format!("{} is the database itself", self.file.display());
            return Err(Failure::Input(message));
        }
        sqlite::expect_unused(&self.file).map_err(anyhow::Error::from)?;
        let copy = OutFile::begin(&self.file, self.force)?;
        let copying = async {
            let copied = sqlite::copy(database, copy.path()).await;
            copied.map_err(anyhow::Error::from)?;
            let counts = sqlite::verify(copy.path()).await;
            counts.map_err(anyhow::Error::from)
        };
        let counts = tokio::select! {
            counts = copying => counts?,
            () = watch(copy.path(), database) => unreachable!("it watches for ever"),
            () = interrupt.comes() => return Ok(Interrupt::exit_code()),
        };
        let bytes = copy.keep()?;
        let file = self.file.display().to_string();
        let text = format!(
            "{file}: {} promises, {} schedules, {}; checked",
            counts.promises,
            counts.schedules,
            bytes_text(bytes)
        );
        self.output.tell(
            &text,
            &json!({"file": file, "bytes": bytes, "counts": counts}),
        )
    }
}

/// The file that the settings name.
fn database(config: &Config) -> Result<&Path, Failure> {
    refuse_memory(config)?;
    let storage = &config.storage;
    if storage.backend == Backend::Postgres {
        let reason = "the storage is PostgreSQL: back it up with pg_dump, or as the rest of its \
                      cluster is; resonate export works too";
        return Err(Failure::Input(reason.to_owned()));
    }
    Ok(Path::new(&storage.sqlite.path))
}

fn is_same(one: &Path, other: &Path) -> bool {
    match (one.canonicalize(), other.canonicalize()) {
        (Ok(one), Ok(other)) => one == other,
        _ => false,
    }
}

/// Shows how the copy grows. It may stay smaller than the database: it has no holes.
async fn watch(copy: &Path, database: &Path) {
    let bytes = |path: &Path| path.metadata().map_or(0, |found| found.len());
    let bar = Bar::start("copying", Unit::Bytes);
    loop {
        bar.set(bytes(copy), bytes(database));
        tokio::time::sleep(LOOK_INTERVAL).await;
    }
}
