//! `resonate doctor`: what was found, one line each.

use std::process::ExitCode;

use clap::Args;
use console::{Style, style};

use super::local::Output;
use super::output::{self, clean_line};
use super::serve;
use super::session::Failure;
use crate::config::{Effective, Flag};
use crate::doctor::{Check, Report, Verdict, examine};

#[derive(Args)]
pub(super) struct Command {
    #[command(flatten)]
    output: Output,
    #[command(flatten)]
    flags: serve::Flags,
}

impl Command {
    /// The flags that were given.
    pub(super) fn take(&mut self) -> Vec<Flag> {
        std::mem::take(&mut self.flags).given()
    }

    pub(super) async fn run(self, effective: Effective) -> Result<ExitCode, Failure> {
        let report = examine(effective).await;
        self.output.tell(&text(&report), &report)?;
        Ok(match report.verdict() {
            Verdict::Ok | Verdict::Warn => ExitCode::SUCCESS,
            Verdict::Fail => ExitCode::FAILURE,
        })
    }
}

fn text(report: &Report) -> String {
    let mut lines = Vec::new();
    for setting in &report.settings {
        if let Some(source) = &setting.source {
            let (key, value) = (&setting.key, clean_line(&setting.value));
            lines.push(format!(
                "{key} = {value}  {}",
                output::dim(format!("({source})"))
            ));
        }
    }
    if !lines.is_empty() {
        lines.push(String::new());
    }
    let width = report.checks.iter().map(|check| check.name.len()).max();
    let width = width.unwrap_or_default();
    lines.extend(report.checks.iter().map(|check| line(check, width)));
    lines.join("\n")
}

fn line(check: &Check, width: usize) -> String {
    let (word, look) = match check.verdict {
        Verdict::Ok => ("ok", Style::new().green()),
        Verdict::Warn => ("warn", Style::new().yellow()),
        Verdict::Fail => ("fail", Style::new().red()),
    };
    let word = look.apply_to(format!("{word:<4}"));
    let found = clean_line(&check.found);
    let line = format!("{word}  {:<width$}  {found}", check.name);
    match &check.hint {
        Some(hint) => format!("{line} {}", style(format!("[{hint}]")).dim()),
        None => line,
    }
}
