//! Blanks in JSON, put in and taken out. Nothing else is touched: to read the text into values and write
//! them again would reorder members and round numbers.

use serde_json::value::RawValue;

/// What a text consists of, as far as blanks are concerned.
struct Scanner<'a> {
    rest: &'a str,
}

impl<'a> Iterator for Scanner<'a> {
    /// A string, a sign (`{`, `}`, `[`, `]`, `,`, `:`), or a number or word.
    type Item = &'a str;

    fn next(&mut self) -> Option<&'a str> {
        self.rest = self.rest.trim_start();
        let first = self.rest.chars().next()?;
        let end = match first {
            '"' => end_of_string(self.rest),
            '{' | '}' | '[' | ']' | ',' | ':' => 1,
            _ => {
                let is_end = |c: char| matches!(c, '}' | ']' | ',' | ':') || c.is_whitespace();
                self.rest.find(is_end).unwrap_or(self.rest.len())
            }
        };
        let (token, rest) = self.rest.split_at(end);
        self.rest = rest;
        Some(token)
    }
}

fn end_of_string(text: &str) -> usize {
    let mut is_escaped = false;
    for (at, byte) in text.bytes().enumerate().skip(1) {
        match byte {
            _ if is_escaped => is_escaped = false,
            b'\\' => is_escaped = true,
            b'"' => return at + 1,
            _ => {}
        }
    }
    text.len()
}

fn tokens(json: &RawValue) -> Scanner<'_> {
    Scanner { rest: json.get() }
}

/// Without blanks.
pub(in crate::cli) fn compact(json: &RawValue) -> String {
    tokens(json).collect()
}

/// A member or element to a line, indented by two blanks.
pub(in crate::cli) fn pretty(json: &RawValue) -> String {
    let mut text = String::with_capacity(json.get().len() * 2);
    let mut depth = 0;
    let mut tokens = tokens(json).peekable();
    while let Some(token) = tokens.next() {
        let closes = tokens.peek().is_some_and(|next| matches!(*next, "}" | "]"));
        text.push_str(token);
        match token {
            "{" | "[" if closes => text.push_str(tokens.next().unwrap_or_default()),
            "{" | "[" => {
                depth += 1;
                break_line(&mut text, depth);
                continue;
            }
            "," => break_line(&mut text, depth),
            ":" => text.push(' '),
            _ => {}
        }
        // Everything that may stand before a closing sign has been written.
        if tokens.peek().is_some_and(|next| matches!(*next, "}" | "]")) {
            depth = depth.saturating_sub(1);
            break_line(&mut text, depth);
        }
    }
    text
}

fn break_line(text: &mut String, depth: usize) {
    text.push('\n');
    text.extend(std::iter::repeat_n("  ", depth));
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use serde_json::{Value, json};

    use super::*;

    fn raw(text: &str) -> Box<RawValue> {
        RawValue::from_string(text.to_owned()).unwrap()
    }

    fn values() -> impl Strategy<Value = Value> {
        let leaf = prop_oneof![
            Just(Value::Null),
            any::<bool>().prop_map(Value::from),
            any::<i64>().prop_map(Value::from),
            any::<f64>().prop_map(Value::from),
            any::<String>().prop_map(Value::from),
            Just(json!("a \" , : { } [ ] \\")),
        ];
        leaf.prop_recursive(4, 40, 5, |inner| {
            prop_oneof![
                prop::collection::vec(inner.clone(), 0..5).prop_map(Value::from),
                prop::collection::btree_map(any::<String>(), inner, 0..5)
                    .prop_map(Value::from_iter),
            ]
        })
    }

    proptest! {
        #[test]
        fn the_layout_is_that_of_serde_json(value in values()) {
            let (short, long) = (value.to_string(), format!("{value:#}"));
            prop_assert_eq!(&pretty(&raw(&short)), &long);
            prop_assert_eq!(&pretty(&raw(&long)), &long);
            prop_assert_eq!(&compact(&raw(&long)), &short);
            prop_assert_eq!(&compact(&raw(&short)), &short);
        }
    }

    #[test]
    fn nothing_but_blanks_changes() {
        let text = r#"{"b":1.50,"a":[123456789012345678901234567890,1e400,"\u00e9"],"a":{}}"#;
        let long = "{\n  \"b\": 1.50,\n  \"a\": [\n    123456789012345678901234567890,\n    1e400,\n    \
                    \"\\u00e9\"\n  ],\n  \"a\": {}\n}";
        assert_eq!(pretty(&raw(text)), long);
        assert_eq!(compact(&raw(long)), text);
        // Deeper than what is read recursively.
        let deep = format!("{}{}", "[".repeat(5_000), "]".repeat(5_000));
        assert_eq!(compact(&raw(&pretty(&raw(&deep)))), deep);
    }
}
