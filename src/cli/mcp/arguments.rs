//! The arguments of a call, against the table of tools.

use std::collections::BTreeMap;

use serde::de::DeserializeOwned;
use serde_json::Value;
use serde_json::value::RawValue;

use super::super::input;
use super::super::session::Failure;
use super::tools::Tool;

/// What was given, each as it was written. Null is absent.
pub(super) struct Arguments(BTreeMap<String, Box<RawValue>>);

impl Arguments {
    /// Refuses what the tool does not take, and what lacks something that it needs. Whether the rest is
    /// what it should be, the server says.
    pub(super) fn read(tool: &Tool, given: Option<&RawValue>) -> Result<Arguments, Failure> {
        let given = given.map_or("{}", RawValue::get);
        let given: BTreeMap<String, Option<Box<RawValue>>> =
            serde_json::from_str(given).map_err(anyhow::Error::from)?;
        let given = given
            .into_iter()
            .filter_map(|(name, value)| Some((name, value?)));
        let arguments = Arguments(given.collect());
        let takes = |name: &String| tool.arguments.iter().any(|taken| taken.name == name);
        if let Some(name) = arguments.0.keys().find(|name| !takes(name)) {
            return Err(Failure::Input(format!("unknown argument '{name}'")));
        }
        let mut required = tool
            .arguments
            .iter()
            .filter(|argument| argument.is_required);
        match required.find(|argument| !arguments.0.contains_key(argument.name)) {
            Some(missing) => Err(Failure::Input(format!("missing {}", missing.name))),
            None => Ok(arguments),
        }
    }

    /// For the server to judge; null if it was not given.
    pub(super) fn json(&self, name: &str) -> Result<Value, Failure> {
        let json = self.0.get(name).map(|raw| serde_json::from_str(raw.get()));
        Ok(json
            .unwrap_or(Ok(Value::Null))
            .map_err(anyhow::Error::from)?)
    }

    /// A Value, its `data` in base64; null if it was not given.
    pub(super) fn value(&self, name: &str) -> Result<Value, Failure> {
        input::value(name, self.0.get(name).map(|raw| raw.get()))
    }

    /// One that is needed here. `kind` says what it must be.
    pub(super) fn typed<T: DeserializeOwned>(
        &self,
        name: &str,
        kind: &str,
    ) -> Result<Option<T>, Failure> {
        let Some(raw) = self.0.get(name) else {
            return Ok(None);
        };
        let value = serde_json::from_str(raw.get());
        value
            .map_err(|_| Failure::Input(format!("`{name}` must be {kind}")))
            .map(Some)
    }
}
