//! The payload of a promise, decoded for people. SDKs store JSON in base64; scripts store plain text.

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use serde::Deserialize;

use super::pretty;
use crate::protocol::record::Value;

const LINE_MAX: usize = 60;

/// What `data` says: its text if it is base64 of text, else itself. JSON is pretty-printed.
pub(in crate::cli) fn decoded(data: &str) -> String {
    let text = text_of(data);
    match serde_json::from_str(&text) {
        Ok(json) => pretty(json),
        Err(_) => text,
    }
}

/// The same, but JSON that is short is left on one line.
pub(super) fn brief(data: &str) -> String {
    let text = text_of(data);
    match text.chars().count() {
        ..=LINE_MAX if !text.contains('\n') => text,
        _ => decoded(data),
    }
}

fn text_of(data: &str) -> String {
    let text = STANDARD.decode(data).ok();
    let text = text.and_then(|bytes| String::from_utf8(bytes).ok());
    let text = text.filter(|text| text.chars().all(is_text));
    text.unwrap_or_else(|| data.to_owned())
}

/// Bytes that only look like base64 hardly ever decode to nothing but these.
fn is_text(c: char) -> bool {
    !c.is_control() || matches!(c, '\n' | '\r' | '\t')
}

/// The function that the param of a call names.
pub(in crate::cli) fn function(param: &Value) -> Option<String> {
    #[derive(Deserialize)]
    struct Call {
        func: String,
    }
    let bytes = STANDARD.decode(param.parts()?.data?).ok()?;
    let call: Call = serde_json::from_slice(&bytes).ok()?;
    Some(call.func)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn encoded(text: &str) -> String {
        STANDARD.encode(text)
    }

    #[test]
    fn base64_of_text_is_decoded() {
        assert_eq!(decoded(&encoded("plain")), "plain");
        assert_eq!(decoded(&encoded("42")), "42");
        assert_eq!(decoded(&encoded(r#""Done!""#)), r#""Done!""#);
        assert_eq!(
            decoded(&encoded(r#"{"b":1,"a":[2]}"#)),
            "{\n  \"b\": 1,\n  \"a\": [\n    2\n  ]\n}"
        );
        assert_eq!(decoded(""), "");
    }

    #[test]
    fn anything_else_is_shown_as_it_is() {
        for data in [
            "plain text",
            "Done",
            "8001",
            &STANDARD.encode([0xff, 0xfe, 0x00]),
            &encoded("a\x1b[2J"),
            "MQ=",
        ] {
            assert_eq!(decoded(data), data);
        }
    }

    #[test]
    fn short_json_stays_on_its_line() {
        let call = r#"{"func":"order","args":[1]}"#;
        assert_eq!(brief(&encoded(call)), call);
        let long = format!("[\"{}\"]", "x".repeat(60));
        assert_eq!(brief(&encoded(&long)), decoded(&encoded(&long)));
        assert_eq!(brief("plain"), "plain");
    }

    #[test]
    fn a_call_names_its_function() {
        let value =
            |data: &str| Value::from_json(serde_json::json!({"data": data}).to_string()).unwrap();
        let call = encoded(r#"{"func":"order","args":[],"version":1}"#);
        assert_eq!(function(&value(&call)).as_deref(), Some("order"));
        for data in ["", "order", &encoded("order"), &encoded(r#"{"func":1}"#)] {
            assert_eq!(function(&value(data)), None, "{data}");
        }
        assert_eq!(function(&Value::empty()), None);
    }
}
