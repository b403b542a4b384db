//! Settings that exist but that this version does not serve.
//!
//! Whoever configures something must not get a server without it: anything but the default refuses to
//! start. A setting that becomes a field of [`Config`](super::Config) leaves the table.

use figment::Figment;
use figment::value::Value;

use super::Error;
use super::load::source_of;

/// What may be written without a difference: the default of the setting.
#[derive(Clone, Copy, Debug)]
enum Harmless {
    Bool(bool),
    Str(&'static str),
}

const TABLE: &[(&str, Harmless)] = {
    use Harmless::{Bool, Str};
    &[
        ("observability.otlp_endpoint", Str("localhost:4317")),
        ("legacy.rest", Bool(false)),
    ]
};

/// The keys of the table that are not settings of this version, with their defaults.
pub(super) fn keys() -> impl Iterator<Item = (&'static str, Value)> {
    TABLE
        .iter()
        .map(|(key, harmless)| (*key, harmless.default()))
}

/// Refuses whatever of the table has been set to a value that would make a difference. The value of
/// a setting is not shown: it may be a secret.
pub(super) fn refuse(merged: &Figment) -> Result<(), Error> {
    for (key, harmless) in TABLE {
        let Ok(value) = merged.find_value(key) else {
            continue;
        };
        if harmless.admits(&value) {
            continue;
        }
        let source = source_of(merged, key);
        return Err(Error::new(format!(
            "{key} is not supported by this version (from {source})"
        )));
    }
    Ok(())
}

impl Harmless {
    fn default(self) -> Value {
        match self {
            Harmless::Bool(is_on) => is_on.into(),
            Harmless::Str(text) => text.into(),
        }
    }

    fn admits(self, value: &Value) -> bool {
        match self {
            Harmless::Bool(is_on) => value.to_bool() == Some(is_on),
            Harmless::Str(text) => value.as_str() == Some(text),
        }
    }
}
