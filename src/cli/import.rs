//! `resonate import`: an empty storage, filled.

use std::fs::File;
use std::io::{self, BufRead, BufReader};
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use clap::Args;
use serde_json::json;

use super::bar::{Bar, Unit};
use super::export::{counts_text, refuse_memory};
use super::local::{Output, Storage};
use super::session::Failure;
use crate::config::{Backend, Config, PostgresUrl};
use crate::store::archive;
use crate::store::postgres::{self, PostgresFill};
use crate::store::sqlite::{self, SqliteFill};
use crate::store::transfer::Fill;

/// What is asked of the system at once.
const READ_BYTES: usize = 256 * 1024;

#[derive(Args)]
pub(super) struct Command {
    /// What to read; `-` is standard input
    #[arg(value_name = "FILE", default_value = "-")]
    file: PathBuf,
    #[command(flatten)]
    output: Output,
    #[command(flatten)]
    pub storage: Storage,
}

impl Command {
    pub(super) async fn run(self, config: &Config) -> Result<ExitCode, Failure> {
        refuse_memory(config)?;
        // First, so that no database is made for a file that is not there.
        let input: Box<dyn BufRead + Send> = match self.file == Path::new("-") {
            true => Box::new(BufReader::with_capacity(READ_BYTES, io::stdin())),
            false => match File::open(&self.file) {
                Ok(file) => Box::new(BufReader::with_capacity(READ_BYTES, file)),
                Err(error) => {
                    let reason = format!("cannot read {}: {error}", self.file.display());
                    return Err(Failure::Input(reason));
                }
            },
        };
        let (fill, schema) = fill(config).await.map_err(anyhow::Error::from)?;
        let bar = Bar::start("importing", Unit::Lines);
        let mut progress = |done, total| bar.set(done, total);
        let imported = archive::import(fill, schema, input, &mut progress).await;
        drop(bar);
        let counts = imported
            .map_err(anyhow::Error::from)
            .map_err(|error| error.context("nothing was imported"))?;
        let text = format!("imported {}", counts_text(&counts));
        self.output.tell(&text, &json!({"counts": counts}))
    }
}

async fn fill(config: &Config) -> crate::store::Result<(Box<dyn Fill>, i64)> {
    let storage = &config.storage;
    Ok(match storage.backend {
        Backend::Sqlite => {
            let fill = SqliteFill::open(Path::new(&storage.sqlite.path)).await?;
            (Box::new(fill), sqlite::newest_schema())
        }
        Backend::Postgres => {
            let url = storage.postgres.url.as_ref().map(PostgresUrl::as_str);
            let fill = PostgresFill::open(url.unwrap_or_default()).await?;
            (Box::new(fill), postgres::newest_schema())
        }
    })
}
