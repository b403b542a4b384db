//! `docs/openapi.yaml`, and whether what is said on the wire is what it describes.

use std::collections::HashMap;
use std::fs;
use std::path::Path;
use std::sync::{Mutex, OnceLock};

use jsonschema::Validator;
use serde_json::{Value, json};

use super::server::lock;

/// The whole description.
pub fn description() -> &'static Value {
    static DESCRIPTION: OnceLock<Value> = OnceLock::new();
    DESCRIPTION.get_or_init(|| {
        let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("docs/openapi.yaml");
        let text = fs::read_to_string(path).expect("there is a description");
        serde_saphyr::from_str(&text).expect("the description is YAML")
    })
}

/// What in `value` is not as the schema of that name says.
pub fn differs(schema: &str, value: &Value) -> Option<String> {
    static VALIDATORS: Mutex<Option<HashMap<String, &'static Validator>>> = Mutex::new(None);
    let validator = *lock(&VALIDATORS)
        .get_or_insert_default()
        .entry(schema.to_owned())
        .or_insert_with(|| Box::leak(Box::new(validator(schema))));
    let error = validator.iter_errors(value).next()?;
    Some(format!("{schema}{}: {error}", error.instance_path()))
}

fn validator(schema: &str) -> Validator {
    let mut root = description().clone();
    root["$ref"] = json!(format!("#/components/schemas/{schema}"));
    jsonschema::draft202012::new(&root)
        .unwrap_or_else(|error| panic!("the schema {schema} cannot be used: {error}"))
}

/// Asserts that an exchange on `POST /` is one that the description has: every answer, and the requests that
/// were not refused.
#[track_caller]
pub fn check_exchange(request: &str, status: u16, answer: &Value) {
    let kind = answer["kind"].as_str().unwrap_or_default();
    let differing = match status {
        200 | 300 => {
            let request = serde_json::from_str(request).ok();
            let in_request = request.and_then(|request| differs(kind, &request));
            in_request.or_else(|| differs(&format!("{kind}.answer"), answer))
        }
        _ => differs("Refusal", answer),
    };
    if let Some(differing) = differing {
        panic!(
            "not as docs/openapi.yaml says: {differing}\n  request:  {request}\n  response: {answer}"
        );
    }
}
