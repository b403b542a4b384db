//! Settings that exist but that this version does not serve.
//!
//! Whoever configures something must not get a server without it: anything but the default refuses to
//! start. A setting that becomes a field of [`Config`](super::Config) leaves the table.

use figment::Figment;
use figment::value::Value;

use super::Error;
use super::load::source_of;

/// The settings, and what may be written without a difference: their defaults.
const TABLE: &[(&str, bool)] = &[("legacy.rest", false)];

/// The keys of the table that are not settings of this version, with their defaults.
pub(super) fn keys() -> impl Iterator<Item = (&'static str, Value)> {
    TABLE
        .iter()
        .map(|(key, harmless)| (*key, Value::from(*harmless)))
}

/// Refuses whatever of the table has been set to a value that would make a difference. The value of
/// a setting is not shown: it may be a secret.
pub(super) fn refuse(merged: &Figment) -> Result<(), Error> {
    for (key, harmless) in TABLE {
        let Ok(value) = merged.find_value(key) else {
            continue;
        };
        if value.to_bool() == Some(*harmless) {
            continue;
        }
        let source = source_of(merged, key);
        return Err(Error::new(format!(
            "{key} is not supported by this version (from {source})"
        )));
    }
    Ok(())
}
