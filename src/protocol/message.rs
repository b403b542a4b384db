//! Messages to workers and listeners (`transports.md` §2): JSON on one line, ASCII only.

use serde::Serialize;

use super::record::Promise;
use super::trace::Trace;

#[derive(Serialize)]
struct Message<H, D> {
    kind: &'static str,
    head: H,
    data: D,
}

#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct ExecuteHead<'a> {
    server_url: &'a str,
    #[serde(flatten)]
    trace: TraceHead<'a>,
}

/// What names the span that the message comes of, if there is one.
#[derive(Default, Serialize)]
struct TraceHead<'a> {
    #[serde(skip_serializing_if = "Option::is_none")]
    traceparent: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    tracestate: Option<&'a str>,
}

impl<'a> TraceHead<'a> {
    fn of(trace: Option<&'a Trace>) -> Self {
        TraceHead {
            traceparent: trace.map(Trace::parent),
            tracestate: trace.and_then(Trace::state),
        }
    }
}

#[derive(Serialize)]
struct TaskData<'a> {
    task: TaskRef<'a>,
}

#[derive(Serialize)]
struct TaskRef<'a> {
    id: &'a str,
    version: i64,
}

#[derive(Serialize)]
struct PromiseData<'a> {
    promise: &'a Promise,
}

/// `execute`: the task waits to be acquired at this version.
pub fn execute(server_url: &str, id: &str, version: i64, trace: Option<&Trace>) -> String {
    let task = TaskRef { id, version };
    to_ascii(&Message {
        kind: "execute",
        head: ExecuteHead {
            server_url,
            trace: TraceHead::of(trace),
        },
        data: TaskData { task },
    })
}

/// `unblock`: the promise has settled.
pub fn unblock(promise: &Promise, trace: Option<&Trace>) -> String {
    to_ascii(&Message {
        kind: "unblock",
        head: TraceHead::of(trace),
        data: PromiseData { promise },
    })
}

/// Serialises with everything outside printable ASCII escaped: clients cut streams between bytes, and
/// at more line ends than `\n` (`clients.md`, SSE).
fn to_ascii(message: &impl Serialize) -> String {
    let text = serde_json::to_string(message).expect("records and strings always serialise");
    let is_plain = |character: char| matches!(character, ' '..='~');
    if text.chars().all(is_plain) {
        return text;
    }
    let mut escaped = String::with_capacity(text.len() + text.len() / 2);
    let mut units = [0; 2];
    for character in text.chars() {
        if is_plain(character) {
            escaped.push(character);
        } else if matches!(character, '\t' | '\n' | '\r') {
            // Between two tokens, of a value that was not written by this server.
            escaped.push(' ');
        } else {
            // Anything else stands inside a string only.
            for unit in character.encode_utf16(&mut units) {
                escaped.push_str(&format!("\\u{unit:04x}"));
            }
        }
    }
    escaped
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::protocol::record::{PromiseState, Tags, Value};

    #[test]
    fn a_value_that_was_stored_over_several_lines_is_one_in_a_message() {
        let value = Value::from_json("{\r\n\t\"data\": \"a\\n\u{7f}\"\n}".to_owned()).unwrap();
        let promise = Promise {
            id: "p".into(),
            state: PromiseState::Resolved,
            param: Value::empty(),
            value,
            tags: Tags::default(),
            timeout_at: 2,
            created_at: 1,
            settled_at: Some(1),
        };
        let text = unblock(&promise, None);
        assert!(text.bytes().all(|byte| (b' '..=b'~').contains(&byte)));
        let read: serde_json::Value = serde_json::from_str(&text).unwrap();
        assert_eq!(read["data"]["promise"]["value"]["data"], "a\n\u{7f}");
    }

    #[test]
    fn everything_outside_ascii_is_escaped_and_reads_back() {
        let text = execute("http://h", "zoë-😀-\u{2028}-\u{85}", 3, None);
        assert!(text.is_ascii() && !text.contains('\n'));
        let value: serde_json::Value = serde_json::from_str(&text).unwrap();
        assert_eq!(value["data"]["task"]["id"], "zoë-😀-\u{2028}-\u{85}");
        assert_eq!(value["head"]["serverUrl"], "http://h");
    }
}
