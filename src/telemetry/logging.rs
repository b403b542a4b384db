//! The log: one line per event on standard error, for people or as a JSON object.
//!
//! `RUST_LOG` overrides the configured level. Colours appear on a terminal only.

use std::io::IsTerminal;

use serde::de::{Deserializer, Error};
use serde::{Deserialize, Serialize};
use tracing_subscriber::layer::SubscriberExt;
use tracing_subscriber::util::SubscriberInitExt;
use tracing_subscriber::{EnvFilter, Layer, Registry, fmt, reload};

/// The levels that may stand alone.
const LEVELS: [&str; 6] = ["trace", "debug", "info", "warn", "error", "off"];

/// Neither a level nor a filter.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("Unknown log level: '{0}'")]
pub struct UnknownLevel(String);

/// How events are written.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Format {
    /// A compact line.
    #[default]
    Text,
    /// A JSON object on a line: `timestamp`, `level`, `target`, `fields` and in them `message`.
    Json,
}

impl<'de> Deserialize<'de> for Format {
    fn deserialize<D: Deserializer<'de>>(from: D) -> Result<Self, D::Error> {
        match String::deserialize(from)?.as_str() {
            "text" => Ok(Format::Text),
            "json" => Ok(Format::Json),
            other => Err(D::Error::custom(format!(
                "must be 'text' or 'json' (got '{other}')"
            ))),
        }
    }
}

/// The log of the process. Its level may change.
pub struct Log {
    filter: reload::Handle<EnvFilter, Registry>,
    level: String,
    is_overridden: bool,
}

impl Log {
    /// Starts the log, and has panics logged. `level` is the configured level or filter; `rust_log`, if
    /// not empty, overrides it.
    ///
    /// # Errors
    /// When either is not a filter, or the process has a log already.
    pub fn start(level: &str, rust_log: Option<&str>, format: Format) -> anyhow::Result<Log> {
        let overriding = rust_log.map(parse_rust_log).transpose()?.flatten();
        let is_overridden = overriding.is_some();
        let filter = match overriding {
            Some(filter) => filter,
            None => parse_level(level)?,
        };
        let (filter, handle) = reload::Layer::new(filter);
        let lines = fmt::layer().with_writer(std::io::stderr);
        let lines = match format {
            Format::Text => lines
                .compact()
                .with_ansi(std::io::stderr().is_terminal())
                .boxed(),
            Format::Json => lines
                .json()
                .with_current_span(false)
                .with_span_list(false)
                .boxed(),
        };
        tracing_subscriber::registry()
            .with(filter)
            .with(lines)
            .try_init()
            .map_err(|error| anyhow::anyhow!("the log cannot be started: {error}"))?;
        std::panic::set_hook(Box::new(|panic| {
            let backtrace = std::backtrace::Backtrace::capture();
            tracing::error!(%panic, %backtrace, "panic");
        }));
        Ok(Log {
            filter: handle,
            level: level.to_owned(),
            is_overridden,
        })
    }

    /// Changes the level to what is configured now, and says so; what cannot be used changes nothing.
    pub fn change(&mut self, configured: Result<String, impl std::fmt::Display>) {
        let level = match configured {
            Ok(level) => level,
            Err(error) => {
                let level = &self.level;
                return tracing::error!(%error, level, "the log level stays as it is");
            }
        };
        if self.is_overridden {
            return tracing::warn!(level, "the log level stays as RUST_LOG has it");
        }
        let changed = parse_level(&level).map_err(anyhow::Error::from);
        match changed.and_then(|filter| Ok(self.filter.reload(filter)?)) {
            Ok(()) => {
                let from = std::mem::replace(&mut self.level, level);
                tracing::warn!(from, to = self.level, "the log level was changed");
            }
            Err(error) => {
                let level = &self.level;
                tracing::error!(%error, level, "the log level stays as it is");
            }
        }
    }
}

/// Reads a level, or a filter such as `info,resonate=debug`.
///
/// A bare word must be a level: the filter syntax would take `verbos` for the name of a module and
/// log nothing else.
pub fn parse_level(text: &str) -> Result<EnvFilter, UnknownLevel> {
    let is_clear = |directive: &str| {
        LEVELS
            .iter()
            .any(|level| directive.eq_ignore_ascii_case(level))
            || directive.contains(['=', '['])
    };
    if !text.split(',').map(str::trim).all(is_clear) {
        return Err(UnknownLevel(text.to_owned()));
    }
    parse_filter(text)
}

/// Reads the value of `RUST_LOG`, in the syntax that every user of `tracing` knows; empty means not
/// set.
pub fn parse_rust_log(text: &str) -> Result<Option<EnvFilter>, UnknownLevel> {
    if text.trim().is_empty() {
        return Ok(None);
    }
    parse_filter(text).map(Some)
}

fn parse_filter(text: &str) -> Result<EnvFilter, UnknownLevel> {
    // Values of fields are compared as they are: a short regular expression can take minutes to compile.
    let builder = EnvFilter::builder().with_regex(false);
    let filter = builder.parse(text.trim());
    filter.map_err(|_| UnknownLevel(text.to_owned()))
}

#[cfg(test)]
mod tests {
    use tracing_subscriber::filter::LevelFilter;

    use super::*;

    #[test]
    fn levels_and_filters_are_read() {
        for text in [
            "trace",
            "debug",
            "info",
            "warn",
            "error",
            "off",
            "INFO",
            " info ",
            "info,resonate=debug",
            "resonate::engine=trace,warn",
            "[request{kind=a}]=debug,off",
        ] {
            assert!(parse_level(text).is_ok(), "{text}");
        }
    }

    #[test]
    fn anything_else_is_named_in_the_error() {
        for text in [
            "",
            "loud",
            "3",
            "info,loud",
            "resonate=loud",
            "info debug",
            "info,,warn",
        ] {
            let error = parse_level(text).err().unwrap();
            assert_eq!(error.to_string(), format!("Unknown log level: '{text}'"));
        }
    }

    #[test]
    fn rust_log_may_name_modules_and_may_be_empty() {
        assert!(parse_rust_log("").unwrap().is_none());
        assert!(parse_rust_log("resonate,hyper=off").unwrap().is_some());
        assert!(parse_rust_log("resonate=loud").is_err());
    }

    #[test]
    fn a_level_lets_through_what_it_says() {
        assert_eq!(
            parse_level("warn").unwrap().max_level_hint(),
            Some(LevelFilter::WARN)
        );
        assert_eq!(
            parse_level("off").unwrap().max_level_hint(),
            Some(LevelFilter::OFF)
        );
        let mixed = parse_level("warn,resonate=debug").unwrap();
        assert_eq!(mixed.max_level_hint(), Some(LevelFilter::DEBUG));
    }
}
