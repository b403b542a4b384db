//! Looks at everything that a server needs, and says what it found. Changes nothing: it makes no file and
//! no table, and holds a port only for the moment in which it sees whether it is free.
//!
//! ```text
//!   settings ─> is it what was meant? ─> storage, clock, files, ports: each a Check
//! ```

use serde::Serialize;

use crate::config::{Config, Effective, Loaded, Setting};

mod clock;
mod files;
mod ports;
mod settings;
mod storage;

/// How it stands.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Verdict {
    /// As it should be.
    Ok,
    /// A server starts; somebody should know.
    Warn,
    /// A server does not start, or not as it should.
    Fail,
}

/// One thing that was looked at.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Check {
    /// What.
    pub name: &'static str,
    /// How it stands.
    pub verdict: Verdict,
    /// What was found.
    pub found: String,
    /// What to do about it.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub hint: Option<String>,
}

impl Check {
    fn ok(name: &'static str, found: impl Into<String>) -> Check {
        Check {
            name,
            verdict: Verdict::Ok,
            found: found.into(),
            hint: None,
        }
    }

    fn warn(name: &'static str, found: impl Into<String>, hint: impl Into<String>) -> Check {
        Check {
            name,
            verdict: Verdict::Warn,
            found: found.into(),
            hint: Some(hint.into()),
        }
    }

    fn fail(name: &'static str, found: impl Into<String>, hint: impl Into<String>) -> Check {
        Check {
            verdict: Verdict::Fail,
            ..Check::warn(name, found, hint)
        }
    }
}

/// What was found.
#[derive(Debug, Serialize)]
pub struct Report {
    /// All settings.
    pub settings: Vec<Setting>,
    /// In the order in which a server would come across them.
    pub checks: Vec<Check>,
}

impl Report {
    /// The worst of the verdicts.
    pub fn verdict(&self) -> Verdict {
        let verdicts = self.checks.iter().map(|check| check.verdict);
        verdicts.max().unwrap_or(Verdict::Ok)
    }
}

/// Looks at everything.
pub async fn examine(effective: Effective) -> Report {
    let Effective { settings, outcome } = effective;
    let mut checks = Vec::new();
    match outcome {
        Err(error) => checks.push(Check::fail(
            "configuration",
            error.to_string(),
            "nothing else was looked at",
        )),
        Ok(Loaded { config, warnings }) => {
            let changed = settings.iter().filter(|one| one.source.is_some()).count();
            let found = format!("valid; {changed} settings are not at their defaults");
            checks.push(Check::ok("configuration", found));
            checks.extend(warnings.into_iter().map(|warning| {
                Check::warn(
                    "configuration",
                    warning,
                    "resonate.toml of the release has all keys",
                )
            }));
            examine_config(&config, &mut checks).await;
        }
    }
    Report { settings, checks }
}

async fn examine_config(config: &Config, checks: &mut Vec<Check>) {
    let watch = clock::Watch::start();
    checks.extend(settings::checks(config));
    checks.extend(files::checks(config).await);
    let (found, database_clock) = storage::checks(config).await;
    checks.extend(found);
    checks.extend(ports::checks(config).await);
    checks.extend(clock::checks(&watch, database_clock));
}
