//! The file layer: `resonate.toml`.

use std::io::ErrorKind;
use std::path::Path;

use figment::providers::{Format, Toml};
use figment::value::{Dict, Value};

use super::load::{Assignment, Known};
use super::{Error, FILE, keys, redact};

/// What the file sets, and the keys in it that are not understood. No file sets nothing.
pub(super) fn read(
    path: &Path,
    known: &Known,
    warnings: &mut Vec<String>,
) -> Result<Vec<Assignment>, Error> {
    let text = match std::fs::read_to_string(path) {
        Ok(text) => text,
        Err(error) if error.kind() == ErrorKind::NotFound => return Ok(Vec::new()),
        Err(error) => return Err(Error::new(format!("{FILE} cannot be read: {error}"))),
    };
    parse(&text, known, warnings)
}

/// As [`read`], of the file's text.
pub(super) fn parse(
    text: &str,
    known: &Known,
    warnings: &mut Vec<String>,
) -> Result<Vec<Assignment>, Error> {
    let dict = Toml::from_str::<Dict>(text).map_err(|error| {
        let at = error.span().map_or(0, |span| span.start);
        malformed(text, at, error.message())
    })?;
    let mut assignments = Vec::new();
    collect("", dict, known, &mut assignments, warnings)?;
    Ok(assignments)
}

fn malformed(text: &str, at: usize, reason: &str) -> Error {
    let before = text.get(..at).unwrap_or(text);
    let number = before.matches('\n').count() + 1;
    let line = text.lines().nth(number - 1).unwrap_or_default().trim();
    let reason = reason.replace('\n', ", ");
    Error::new(format!(
        "{FILE} line {number}: {reason}: `{}`",
        redact::line(line)
    ))
}

fn collect(
    path: &str,
    dict: Dict,
    known: &Known,
    assignments: &mut Vec<Assignment>,
    warnings: &mut Vec<String>,
) -> Result<(), Error> {
    for (name, value) in dict {
        let key = keys::join(path, &name);
        // A quoted name with a dot in it is not the path that it looks like.
        let is_name = !name.contains('.');
        match value {
            value if is_name && known.has(&key) => {
                assignments.push(Assignment {
                    key,
                    value,
                    source: FILE.to_owned(),
                });
            }
            Value::Dict(_, dict) if is_name && known.has_section(&key) => {
                collect(&key, dict, known, assignments, warnings)?;
            }
            _ if is_name && known.has_section(&key) => {
                return Err(Error::of(&key, FILE, "must be a table"));
            }
            Value::Dict(_, dict) if !dict.is_empty() => {
                let mut leaves = Vec::new();
                keys::flatten(&key, dict, &mut leaves);
                warnings.extend(leaves.into_iter().map(|(key, _)| unknown(&key)));
            }
            _ => warnings.push(unknown(&key)),
        }
    }
    Ok(())
}

fn unknown(key: &str) -> String {
    format!("unknown key {key} in {FILE} is ignored")
}
