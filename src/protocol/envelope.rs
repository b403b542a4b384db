//! The request envelope, and steps 1–6 of how bad input is answered (`protocol.md` §2, §2.1).

use std::borrow::Cow;

use serde::{Deserialize, Deserializer};
use serde_json::value::RawValue;

use super::record::Millis;
use super::reply::VERSION;

/// What is echoed when the request's own could not be read.
pub const UNKNOWN_KIND: &str = "unknown";
/// See [`UNKNOWN_KIND`].
pub const UNKNOWN_CORR_ID: &str = "0";

/// A well-formed envelope; `data` is an object, not yet looked into.
#[derive(Debug)]
pub struct Envelope<'a> {
    /// Non-empty.
    pub kind: Cow<'a, str>,
    /// Echoed, never used as a key.
    pub corr_id: Cow<'a, str>,
    /// `head.auth`, if a non-empty string.
    pub auth: Option<Cow<'a, str>>,
    /// `head["resonate:debug_time"]` as given.
    pub debug_time: Option<&'a RawValue>,
    /// A JSON object.
    pub data: &'a RawValue,
}

/// A request refused before it became an operation.
#[derive(Debug, PartialEq, Eq)]
pub struct Rejection {
    /// Echoed, or [`UNKNOWN_KIND`].
    pub kind: String,
    /// Echoed, or [`UNKNOWN_CORR_ID`].
    pub corr_id: String,
    /// 400, 401, 403 or 503.
    pub status: u16,
    /// The sentence in `data`.
    pub message: String,
}

#[derive(Deserialize)]
struct RawEnvelope<'a> {
    #[serde(borrow, default, deserialize_with = "present")]
    kind: Option<&'a RawValue>,
    #[serde(borrow, default, deserialize_with = "present")]
    head: Option<&'a RawValue>,
    #[serde(borrow, default, deserialize_with = "present")]
    data: Option<&'a RawValue>,
}

/// A member that is there, `null` included, which an option alone would take for absent.
fn present<'de: 'a, 'a, D: Deserializer<'de>>(
    deserializer: D,
) -> Result<Option<&'a RawValue>, D::Error> {
    <&RawValue>::deserialize(deserializer).map(Some)
}

#[derive(Default, Deserialize)]
struct RawHead<'a> {
    #[serde(borrow, rename = "corrId")]
    corr_id: Option<&'a RawValue>,
    #[serde(borrow)]
    version: Option<&'a RawValue>,
    #[serde(borrow)]
    auth: Option<&'a RawValue>,
    #[serde(borrow, rename = "resonate:debug_time")]
    debug_time: Option<&'a RawValue>,
}

/// Reads the envelope of a request body.
///
/// # Errors
/// The rejection of the first step of `protocol.md` §2.1 (2–6) that the body fails.
pub fn parse(body: &[u8]) -> Result<Envelope<'_>, Rejection> {
    let envelope = parse_object(body).map_err(|reason| Rejection {
        kind: UNKNOWN_KIND.to_owned(),
        corr_id: UNKNOWN_CORR_ID.to_owned(),
        status: 400,
        message: format!("Invalid request envelope: {reason}"),
    })?;
    let kind = envelope.kind.and_then(string);
    let (head, head_problem) = parse_head(envelope.head);
    let corr_id = head.corr_id.and_then(string);
    let version = head.version.and_then(string);
    let reject = |message: String| Rejection {
        kind: kind.as_deref().unwrap_or(UNKNOWN_KIND).to_owned(),
        corr_id: corr_id.as_deref().unwrap_or(UNKNOWN_CORR_ID).to_owned(),
        status: 400,
        message,
    };

    let problem = member_problem("kind", envelope.kind, kind.is_some())
        .or(head_problem)
        .or_else(|| member_problem("head.corrId", head.corr_id, corr_id.is_some()))
        .or_else(|| member_problem("head.version", head.version, version.is_some()))
        .or_else(|| {
            envelope
                .data
                .is_none()
                .then(|| "missing field `data`".to_owned())
        });
    if let Some(problem) = problem {
        return Err(reject(format!("Invalid request envelope: {problem}")));
    }
    let (Some(data), Some(version)) = (envelope.data, version.as_deref()) else {
        return Err(reject("Invalid request envelope: missing field".to_owned()));
    };
    if kind.as_deref() == Some("") {
        let message = "Missing or invalid 'kind' field — must be a non-empty string";
        return Err(reject(message.to_owned()));
    }
    if !is_object(data) {
        return Err(reject(
            "Invalid 'data' field — must be an object".to_owned(),
        ));
    }
    if version != VERSION {
        let message = format!(
            "Unsupported protocol version '{version}', supported versions: [\"{VERSION}\"]"
        );
        return Err(reject(message));
    }
    Ok(Envelope {
        auth: head.auth.and_then(string).filter(|auth| !auth.is_empty()),
        debug_time: head.debug_time,
        data,
        kind: kind.unwrap_or_default(),
        corr_id: corr_id.unwrap_or_default(),
    })
}

impl Envelope<'_> {
    /// Refuses this request.
    pub fn reject(&self, status: u16, message: impl Into<String>) -> Rejection {
        Rejection {
            kind: self.kind.to_string(),
            corr_id: self.corr_id.to_string(),
            status,
            message: message.into(),
        }
    }

    /// The `now` that the request brings along; only to be asked when debug is enabled.
    ///
    /// # Errors
    /// When it is not a non-negative integer.
    pub fn debug_time(&self) -> Result<Option<Millis>, Rejection> {
        let Some(raw) = self.debug_time.filter(|raw| raw.get() != "null") else {
            return Ok(None);
        };
        match raw.get().parse::<Millis>() {
            Ok(time) if time >= 0 => Ok(Some(time)),
            _ => {
                let message =
                    "Invalid request envelope: head.resonate:debug_time must be an integer";
                Err(self.reject(400, message))
            }
        }
    }
}

fn parse_object(body: &[u8]) -> Result<RawEnvelope<'_>, String> {
    let text = std::str::from_utf8(body).map_err(|error| format!("not UTF-8: {error}"))?;
    if text.trim_start().starts_with('[') {
        // A struct would be read from an array too.
        serde_json::from_str::<&RawValue>(text).map_err(|error| error.to_string())?;
        return Err("invalid type: sequence, expected an object".to_owned());
    }
    serde_json::from_str(text).map_err(|error| error.to_string())
}

fn parse_head(raw: Option<&RawValue>) -> (RawHead<'_>, Option<String>) {
    match raw {
        None => (RawHead::default(), Some("missing field `head`".to_owned())),
        Some(raw) if is_object(raw) => match serde_json::from_str(raw.get()) {
            Ok(head) => (head, None),
            Err(error) => (RawHead::default(), Some(format!("head: {error}"))),
        },
        Some(_) => (
            RawHead::default(),
            Some("`head` must be an object".to_owned()),
        ),
    }
}

fn member_problem(name: &str, raw: Option<&RawValue>, is_string: bool) -> Option<String> {
    match raw {
        None => Some(format!("missing field `{name}`")),
        Some(_) if !is_string => Some(format!("`{name}` must be a string")),
        Some(_) => None,
    }
}

/// Whether the JSON text is an object.
pub(super) fn is_object(raw: &RawValue) -> bool {
    raw.get().starts_with('{')
}

fn string(raw: &RawValue) -> Option<Cow<'_, str>> {
    // Borrowed where the text has no escapes.
    #[derive(Deserialize)]
    struct Text<'a>(#[serde(borrow)] Cow<'a, str>);
    serde_json::from_str::<Text<'_>>(raw.get())
        .ok()
        .map(|text| text.0)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn rejection(body: &str) -> (String, String, String) {
        let rejection = parse(body.as_bytes()).unwrap_err();
        (rejection.kind, rejection.corr_id, rejection.message)
    }

    #[test]
    fn what_could_be_read_is_echoed() {
        let (kind, corr_id, message) = rejection(r#"{"kind":"k","head":{"corrId":"c"},"data":{}}"#);
        assert_eq!((kind.as_str(), corr_id.as_str()), ("k", "c"));
        assert_eq!(
            message,
            "Invalid request envelope: missing field `head.version`"
        );
        let (kind, corr_id, _) = rejection(r#"{"kind":7,"head":{"corrId":[]},"data":{}}"#);
        assert_eq!((kind.as_str(), corr_id.as_str()), ("unknown", "0"));
        let (kind, corr_id, _) = rejection("{");
        assert_eq!((kind.as_str(), corr_id.as_str()), ("unknown", "0"));
    }

    #[test]
    fn only_an_object_is_an_envelope() {
        let array = r#"["promise.get",{"corrId":"c","version":"2026-04-01"},{"id":"a"}]"#;
        for body in [array, "null", "\"x\"", "", " ", "7", "[[[["] {
            assert!(
                rejection(body).2.starts_with("Invalid request envelope: "),
                "{body}"
            );
        }
    }

    #[test]
    fn escapes_in_kind_and_corr_id_are_decoded() {
        let body = r#"{"kind":"a\u0062","head":{"corrId":"\ud83d\ude00","version":"2026-04-01"},"data":{}}"#;
        let envelope = parse(body.as_bytes()).unwrap();
        assert_eq!((&*envelope.kind, &*envelope.corr_id), ("ab", "😀"));
    }
}
