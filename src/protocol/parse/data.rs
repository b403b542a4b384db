//! How `data` is read: objects only, with the offending field named.

use std::borrow::Cow;
use std::fmt;
use std::marker::PhantomData;

use serde::de::{
    Deserialize, DeserializeOwned, Deserializer, IntoDeserializer, MapAccess, Visitor,
};
use serde_json::value::RawValue;

use super::{Context, Parsed, Problem};
use crate::protocol::record::{Id, Value, ValueParts};
use crate::protocol::rules::Violations;

#[derive(serde::Deserialize)]
pub(super) struct IdData {
    pub id: String,
}

pub(super) fn id<'c, I: From<String>>(
    data: &RawValue,
    context: &'c Context,
    check: impl FnOnce(&mut Violations<'c>, &str),
) -> Parsed<I> {
    let IdData { id } = read(data)?;
    let mut violations = context.violations();
    check(&mut violations, &id);
    finish(violations)?;
    Ok(id.into())
}

/// What all searches take. What one of them does not, it ignores whatever it holds.
#[derive(serde::Deserialize)]
pub(super) struct SearchData<S, T> {
    #[serde(default = "none")]
    pub state: Option<S>,
    #[serde(default = "none")]
    pub tags: Option<T>,
    #[serde(default)]
    limit: Option<i64>,
    #[serde(default)]
    cursor: Option<String>,
}

fn none<T>() -> Option<T> {
    None
}

impl<S, T> SearchData<S, T> {
    /// The page wanted: how many, after what.
    pub fn page(&self, default: usize, violations: &mut Violations<'_>) -> (usize, Option<Id>) {
        let cursor = self.cursor.as_deref();
        violations.cursor(cursor.unwrap_or_default());
        (
            violations.limit(self.limit, default),
            cursor.map(Into::into),
        )
    }
}

pub(super) fn value(parts: Option<MapOnly<ValueParts>>, violations: &mut Violations<'_>) -> Value {
    match parts {
        Some(MapOnly(parts)) => {
            violations.value(&parts);
            Value::new(&parts)
        }
        None => Value::empty(),
    }
}

pub(super) fn invalid(violations: Violations<'_>) -> Problem {
    Problem::Invalid(violations.into_message())
}

pub(super) fn finish(violations: Violations<'_>) -> Parsed<()> {
    if violations.is_empty() {
        Ok(())
    } else {
        Err(invalid(violations))
    }
}

pub(super) fn read<T: DeserializeOwned>(data: &RawValue) -> Parsed<T> {
    read_as(data, "Invalid request")
}

pub(super) fn read_as<T: DeserializeOwned>(data: &RawValue, what: &str) -> Parsed<T> {
    let mut json = serde_json::Deserializer::from_str(data.get());
    let result: Result<MapOnly<T>, _> = serde_path_to_error::deserialize(&mut json);
    result.map(|data| data.0).map_err(|error| {
        let path = error.path().to_string();
        let reason = error.into_inner().to_string();
        // Line and column count within `data`, which would mislead.
        let reason = reason
            .rsplit_once(" at line ")
            .map_or(reason.as_str(), |(text, _)| text);
        let field = if path == "." {
            String::new()
        } else {
            format!(" (field `{path}`)")
        };
        Problem::Invalid(format!("{what}: {reason}{field}"))
    })
}

/// Reads a struct from an object only; serde's own would take an array of its fields too.
pub(super) struct MapOnly<T>(pub T);

impl<'de, T: Deserialize<'de>> Deserialize<'de> for MapOnly<T> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct OnlyMap<T>(PhantomData<T>);

        impl<'de, T: Deserialize<'de>> Visitor<'de> for OnlyMap<T> {
            type Value = MapOnly<T>;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("an object")
            }

            fn visit_map<A: MapAccess<'de>>(self, map: A) -> Result<MapOnly<T>, A::Error> {
                T::deserialize(serde::de::value::MapAccessDeserializer::new(map)).map(MapOnly)
            }
        }

        deserializer.deserialize_map(OnlyMap(PhantomData))
    }
}

/// Reads a variant from its name only; serde's own would take an object `{name: null}` too.
pub(super) struct Name<T>(pub T);

impl<'de, T: Deserialize<'de>> Deserialize<'de> for Name<T> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let name = Cow::<str>::deserialize(deserializer)?;
        T::deserialize(name.into_deserializer()).map(Name)
    }
}
