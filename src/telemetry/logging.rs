//! The log: one compact line per event on standard error.
//!
//! `RUST_LOG` overrides the configured level. Colours appear on a terminal only.

use std::io::IsTerminal;

use tracing_subscriber::EnvFilter;

/// The levels that may stand alone.
const LEVELS: [&str; 6] = ["trace", "debug", "info", "warn", "error", "off"];

/// Neither a level nor a filter.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("Unknown log level: '{0}'")]
pub struct UnknownLevel(String);

/// Starts the log, and has panics logged. `level` is the configured level or filter; `rust_log`, if
/// not empty, overrides it.
///
/// # Errors
/// When either is not a filter, or the process has a log already.
pub fn init(level: &str, rust_log: Option<&str>) -> anyhow::Result<()> {
    let filter = match rust_log.map(parse_rust_log).transpose()?.flatten() {
        Some(filter) => filter,
        None => parse_level(level)?,
    };
    let subscriber = tracing_subscriber::fmt()
        .compact()
        .with_writer(std::io::stderr)
        .with_env_filter(filter);
    let started = if std::io::stderr().is_terminal() {
        subscriber.try_init()
    } else {
        subscriber.with_ansi(false).try_init()
    };
    started.map_err(|error| anyhow::anyhow!("the log cannot be started: {error}"))?;
    std::panic::set_hook(Box::new(|panic| {
        let backtrace = std::backtrace::Backtrace::capture();
        tracing::error!(%panic, %backtrace, "panic");
    }));
    Ok(())
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
