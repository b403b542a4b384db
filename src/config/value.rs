//! The kinds of value a setting has, and how each is checked while it is read.
//!
//! The checks run during the extraction of the merged layers, so figment knows the key and the
//! source of the offending value. Messages are predicates: "must be at least 1 (got 0)".

use std::fmt;
use std::path::Path;
use std::time::Duration;

use axum::http::HeaderValue;
use serde::de::{Deserialize, Deserializer, Error, Visitor};
use serde::{Serialize, Serializer};

use super::PushTarget;
use crate::protocol::retention::Rule;
use crate::telemetry::logging;
use crate::telemetry::otlp::Endpoint;

/// The largest integer a setting may have: exact in every JSON reader, and far from overflowing
/// when it is added to a time.
pub(super) const MAX: u64 = (1 << 53) - 1;

/// A number of milliseconds, at most 2⁵³ − 1.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize)]
pub struct Millis(u64);

impl Millis {
    /// `ms` milliseconds, capped at the maximum.
    pub const fn new(ms: u64) -> Self {
        Millis(if ms > MAX { MAX } else { ms })
    }

    /// As the standard library has it.
    pub const fn as_duration(self) -> Duration {
        Duration::from_millis(self.0)
    }

    /// As the state machine has it: a difference between two times in milliseconds.
    pub const fn as_i64(self) -> i64 {
        self.0.cast_signed()
    }
}

impl fmt::Display for Millis {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

/// What a non-negative integer is read into.
pub(super) trait Whole: Sized {
    /// The largest there may be.
    const MAX: u64 = MAX;

    /// Makes one of `n`, which is at most [`Whole::MAX`].
    fn of(n: u64) -> Option<Self>;
}

impl Whole for Millis {
    fn of(n: u64) -> Option<Self> {
        Some(Millis::new(n))
    }
}

impl Whole for usize {
    fn of(n: u64) -> Option<Self> {
        usize::try_from(n).ok()
    }
}

impl Whole for u32 {
    const MAX: u64 = u32::MAX as u64;

    fn of(n: u64) -> Option<Self> {
        u32::try_from(n).ok()
    }
}

/// Reads an integer of at least 1.
pub(super) fn at_least_one<'de, D: Deserializer<'de>, T: Whole>(from: D) -> Result<T, D::Error> {
    whole(from, 1)
}

/// Reads an integer of at least 0.
pub(super) fn at_least_zero<'de, D: Deserializer<'de>, T: Whole>(from: D) -> Result<T, D::Error> {
    whole(from, 0)
}

fn whole<'de, D: Deserializer<'de>, T: Whole>(from: D, min: i128) -> Result<T, D::Error> {
    let n = from.deserialize_i64(Integer("an integer"))?;
    if n < min {
        return Err(D::Error::custom(format!(
            "must be at least {min} (got {n})"
        )));
    }
    u64::try_from(n)
        .ok()
        .filter(|n| *n <= T::MAX)
        .and_then(T::of)
        .ok_or_else(|| D::Error::custom(format!("must be at most {} (got {n})", T::MAX)))
}

/// Reads a TCP port; 0 lets the system choose or, for metrics, means off.
pub(super) fn port<'de, D: Deserializer<'de>>(from: D) -> Result<u16, D::Error> {
    let n = from.deserialize_i64(Integer("a port from 0 to 65535"))?;
    u16::try_from(n)
        .map_err(|_| D::Error::custom(format!("must be a port from 0 to 65535 (got {n})")))
}

/// Reads an integer of any size; the text says what is expected.
struct Integer(&'static str);

impl Visitor<'_> for Integer {
    type Value = i128;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.0)
    }

    fn visit_i64<E: Error>(self, n: i64) -> Result<i128, E> {
        Ok(n.into())
    }

    fn visit_u64<E: Error>(self, n: u64) -> Result<i128, E> {
        Ok(n.into())
    }

    fn visit_i128<E: Error>(self, n: i128) -> Result<i128, E> {
        Ok(n)
    }

    fn visit_u128<E: Error>(self, n: u128) -> Result<i128, E> {
        Ok(i128::try_from(n).unwrap_or(i128::MAX))
    }
}

/// Reads a string that is not blank.
pub(super) fn not_empty<'de, D: Deserializer<'de>>(from: D) -> Result<String, D::Error> {
    let text = String::deserialize(from)?;
    if text.trim().is_empty() {
        return Err(D::Error::custom("must not be empty"));
    }
    Ok(text)
}

/// Reads a string that is not blank, or nothing.
pub(super) fn not_empty_if_set<'de, D: Deserializer<'de>>(
    from: D,
) -> Result<Option<String>, D::Error> {
    let text = Option::<String>::deserialize(from)?;
    if text.as_ref().is_some_and(|text| text.trim().is_empty()) {
        return Err(D::Error::custom("must not be empty"));
    }
    Ok(text)
}

/// Reads the path of a directory, which must be there.
pub(super) fn directory<'de, D: Deserializer<'de>>(from: D) -> Result<Option<String>, D::Error> {
    let path = Option::<String>::deserialize(from)?;
    if let Some(path) = path.as_ref().filter(|path| !Path::new(path).is_dir()) {
        return Err(D::Error::custom(format!(
            "must be an existing directory (got {path:?})"
        )));
    }
    Ok(path)
}

/// Reads the address of a collector, or nothing.
pub(super) fn endpoint<'de, D: Deserializer<'de>>(from: D) -> Result<Option<Endpoint>, D::Error> {
    let text = Option::<String>::deserialize(from)?;
    let endpoint = text.map(|text| text.parse());
    endpoint.transpose().map_err(D::Error::custom)
}

/// Reads a log level or filter.
pub(super) fn log_level<'de, D: Deserializer<'de>>(from: D) -> Result<String, D::Error> {
    let text = String::deserialize(from)?;
    logging::parse_level(&text).map_err(D::Error::custom)?;
    Ok(text)
}

/// Reads a list of CORS origins: header values, or `*`.
pub(super) fn origins<'de, D: Deserializer<'de>>(from: D) -> Result<Vec<String>, D::Error> {
    let origins = Vec::<String>::deserialize(from)?;
    for origin in &origins {
        if origin.is_empty() || HeaderValue::from_str(origin).is_err() {
            return Err(D::Error::custom(format!(
                "must be a list of valid header values (got {origin:?})"
            )));
        }
    }
    Ok(origins)
}

/// Reads a list of targets of pushes.
pub(super) fn push_targets<'de, D: Deserializer<'de>>(
    from: D,
) -> Result<Vec<PushTarget>, D::Error> {
    let texts = Vec::<String>::deserialize(from)?;
    let targets = texts.iter().map(|text| {
        let target = text.trim().parse::<PushTarget>();
        target.map_err(|bad| D::Error::custom(format!("must be a list of {bad} (got {text:?})")))
    });
    targets.collect()
}

/// Reads a list of rules of retention.
pub(super) fn retention_rules<'de, D: Deserializer<'de>>(from: D) -> Result<Vec<Rule>, D::Error> {
    let texts = Vec::<String>::deserialize(from)?;
    let rules = texts.iter().map(|text| {
        let rule = text.parse::<Rule>();
        rule.map_err(|bad| D::Error::custom(format!("must be a list of {bad} (got {text:?})")))
    });
    rules.collect()
}

/// Writes a list as it was given.
pub(super) fn texts<S: Serializer, T: fmt::Display>(list: &[T], to: S) -> Result<S::Ok, S::Error> {
    to.collect_seq(list.iter().map(T::to_string))
}
