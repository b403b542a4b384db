//! What is given in flags, made into what is sent (`cli.md` §1).

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use serde::Deserialize;
use serde_json::Value;
use serde_json::value::RawValue;

use super::output;
use super::session::Failure;

/// Reads the JSON of a flag.
pub(super) fn json(flag: &str, text: &str) -> Result<Value, Failure> {
    serde_json::from_str(text).map_err(|error| invalid(flag, &error))
}

/// The same, null where the flag was not given.
pub(super) fn optional_json(flag: &str, text: Option<&str>) -> Result<Value, Failure> {
    text.map_or(Ok(Value::Null), |text| json(flag, text))
}

/// Reads the Value of a flag, and replaces its `data` by the base64 of its text; null where the flag was
/// not given.
pub(super) fn value(flag: &str, text: Option<&str>) -> Result<Value, Failure> {
    #[derive(Deserialize)]
    struct Data<'a> {
        // Held as it was written: a map would put its members in another order.
        #[serde(borrow)]
        data: &'a RawValue,
    }
    let Some(text) = text else {
        return Ok(Value::Null);
    };
    let mut value = json(flag, text)?;
    if value.get("data").is_some() {
        let parts: Data = serde_json::from_str(text).map_err(|error| invalid(flag, &error))?;
        value["data"] = base64(&text_of(parts.data)).into();
    }
    Ok(value)
}

/// A string stands for itself, anything else for its JSON.
fn text_of(data: &RawValue) -> String {
    serde_json::from_str(data.get()).unwrap_or_else(|_| output::compact(data))
}

/// The alphabet of all SDKs.
pub(super) fn base64(text: &str) -> String {
    STANDARD.encode(text)
}

fn invalid(flag: &str, error: &serde_json::Error) -> Failure {
    Failure::Input(format!("Invalid {flag} JSON: {error}"))
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn data_is_replaced_by_the_base64_of_its_text() {
        for (given, data) in [
            (r#"{"data": "hello"}"#, "hello"),
            (r#"{"data": ""}"#, ""),
            (r#"{"data": "é\n"}"#, "é\n"),
            (r#"{"data": 42}"#, "42"),
            (r#"{"data": null}"#, "null"),
            (
                r#"{"data": {"b": [1, 2.5], "a": " "}}"#,
                r#"{"b":[1,2.5],"a":" "}"#,
            ),
        ] {
            let sent = value("--param", Some(given)).unwrap();
            assert_eq!(sent, json!({"data": STANDARD.encode(data)}), "{given}");
        }
    }

    #[test]
    fn everything_else_is_left_alone() {
        for (given, sent) in [
            (r#"{"headers": {"a": "b"}}"#, json!({"headers": {"a": "b"}})),
            (
                r#"{"headers": {"data": "b"}, "data": "1"}"#,
                json!({"headers": {"data": "b"}, "data": "MQ=="}),
            ),
            ("{}", json!({})),
            // The server says what is wrong with these.
            ("42", json!(42)),
            (r#"["data"]"#, json!(["data"])),
        ] {
            assert_eq!(value("--param", Some(given)).unwrap(), sent, "{given}");
        }
        assert_eq!(value("--param", None).unwrap(), Value::Null);
    }

    #[test]
    fn what_is_not_json_is_told_by_its_flag() {
        let told = value("--param", Some("{data}")).unwrap_err().to_string();
        assert!(
            told.starts_with("Invalid --param JSON: key must be a string"),
            "{told}"
        );
        let twice = r#"{"data": 1, "data": 2}"#;
        let told = value("--value", Some(twice)).unwrap_err().to_string();
        assert!(
            told.starts_with("Invalid --value JSON: duplicate field `data`"),
            "{told}"
        );
    }
}
