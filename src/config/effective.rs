//! Every setting with where it comes from, for people who ask; secrets hidden.

use figment::Figment;
use figment::value::Value;
use serde::Serialize;

use super::load::{self, DEFAULT, source_of};
use super::{Error, Layers, Loaded, keys, redact};

/// What a server would run with.
#[derive(Debug)]
pub struct Effective {
    /// All settings, by key; none if a layer cannot be read.
    pub settings: Vec<Setting>,
    /// What [`load::load`] answers.
    pub outcome: Result<Loaded, Error>,
}

/// One setting.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Setting {
    /// Its key.
    pub key: String,
    /// Its value as it would stand in the file, without what may be secret.
    pub value: String,
    /// Where it comes from: a file, a variable, a flag; none for the built-in default.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub source: Option<String>,
}

/// Merges the layers, and goes on to show them where a server would refuse to start.
pub fn effective(layers: &Layers<'_>) -> Effective {
    let mut warnings = Vec::new();
    match load::merge(layers, &mut warnings) {
        Err(error) => Effective {
            settings: Vec::new(),
            outcome: Err(error),
        },
        Ok(merged) => Effective {
            settings: settings(&merged),
            outcome: load::validate(&merged, warnings),
        },
    }
}

fn settings(merged: &Figment) -> Vec<Setting> {
    let keys = keys::defaults().into_iter().map(|(key, _)| key);
    keys.map(|key| {
        let value = merged.find_value(&key).ok();
        let source = Some(source_of(merged, &key)).filter(|source| source != DEFAULT);
        Setting {
            value: value.map_or_else(|| "none".to_owned(), |value| shown(&key, &value)),
            source,
            key,
        }
    })
    .collect()
}

fn shown(key: &str, value: &Value) -> String {
    match value {
        Value::String(_, text) => format!("{:?}", redact::setting(key, text)),
        Value::Bool(_, is_on) => is_on.to_string(),
        Value::Num(_, n) => match (n.to_u128(), n.to_i128(), n.to_f64()) {
            (Some(n), _, _) => n.to_string(),
            (_, Some(n), _) => n.to_string(),
            (_, _, n) => n.unwrap_or_default().to_string(),
        },
        Value::Array(_, items) => {
            let items: Vec<String> = items.iter().map(|item| shown(key, item)).collect();
            format!("[{}]", items.join(", "))
        }
        _ => "none".to_owned(),
    }
}
