//! `resonate export`: everything, as lines of JSON.

use std::fs::File;
use std::io::{self, BufWriter, Write};
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use anyhow::Context;
use clap::Args;
use serde_json::json;

use super::bar::{Bar, Unit};
use super::interrupt::Interrupt;
use super::local::{Output, Storage};
use super::outfile::{OutFile, bytes_text};
use super::output;
use super::session::Failure;
use crate::config::{Backend, Config, PostgresUrl};
use crate::store::archive;
use crate::store::postgres::{self, PostgresSnapshot};
use crate::store::sqlite::{self, SqliteSnapshot};
use crate::store::transfer::{Counts, Snapshot};

/// What is handed to the system at once.
const WRITE_BYTES: usize = 256 * 1024;

#[derive(Args)]
pub(super) struct Command {
    /// Where it is to be written; `-` is standard output
    #[arg(value_name = "FILE", default_value = "-")]
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
        let mut interrupt = Interrupt::listen()?;
        tokio::select! {
            done = self.export(config) => done,
            () = interrupt.comes() => Ok(Interrupt::exit_code()),
        }
    }

    async fn export(&self, config: &Config) -> Result<ExitCode, Failure> {
        refuse_memory(config)?;
        let (mut snapshot, schema) = snapshot(config).await.map_err(anyhow::Error::from)?;
        if self.file == Path::new("-") {
            let counts = write(&mut *snapshot, schema, io::stdout()).await?;
            snapshot.close().await;
            output::tell(&format!("exported {}", counts_text(&counts)));
            return Ok(ExitCode::SUCCESS);
        }
        let out = OutFile::begin(&self.file, self.force)?;
        let file = File::options().write(true).open(out.path());
        let file = file.context("the file cannot be written")?;
        let counts = write(&mut *snapshot, schema, file).await?;
        snapshot.close().await;
        let bytes = out.keep()?;
        let file = self.file.display().to_string();
        let text = format!("{file}: {}, {}", counts_text(&counts), bytes_text(bytes));
        self.output.tell(
            &text,
            &json!({"file": file, "bytes": bytes, "counts": counts}),
        )
    }
}

async fn snapshot(config: &Config) -> crate::store::Result<(Box<dyn Snapshot>, i64)> {
    let storage = &config.storage;
    Ok(match storage.backend {
        Backend::Sqlite => {
            let snapshot = SqliteSnapshot::open(Path::new(&storage.sqlite.path)).await?;
            (Box::new(snapshot), sqlite::newest_schema())
        }
        Backend::Postgres => {
            let url = storage.postgres.url.as_ref().map(PostgresUrl::as_str);
            let snapshot = PostgresSnapshot::open(url.unwrap_or_default()).await?;
            (Box::new(snapshot), postgres::newest_schema())
        }
    })
}

async fn write(
    snapshot: &mut dyn Snapshot,
    schema: i64,
    output: impl Write + Send,
) -> Result<Counts, Failure> {
    let bar = Bar::start("exporting", Unit::Lines);
    let output = BufWriter::with_capacity(WRITE_BYTES, output);
    let mut progress = |done, total| bar.set(done, total);
    let written = archive::export(snapshot, schema, output, &mut progress).await;
    Ok(written.map_err(anyhow::Error::from)?)
}

/// What is in the memory of a server can neither be read nor filled from elsewhere.
pub(super) fn refuse_memory(config: &Config) -> Result<(), Failure> {
    let storage = &config.storage;
    if storage.backend == Backend::Sqlite && storage.sqlite.is_memory() {
        let reason = "the storage is in memory (storage.sqlite.path = \":memory:\"): \
                      only the server that has it can reach it";
        return Err(Failure::Input(reason.to_owned()));
    }
    Ok(())
}

/// For people.
pub(super) fn counts_text(counts: &Counts) -> String {
    let Counts {
        promises,
        tasks,
        callbacks,
        listeners,
        schedules,
    } = counts;
    format!(
        "{promises} promises, {tasks} tasks, {callbacks} callbacks, {listeners} listeners, \
         {schedules} schedules"
    )
}
