//! The template by which a schedule makes the ids of its promises (`semantics.md` §8).
//!
//! `{{.id}}` stands for the schedule's own id, `{{.timestamp}}` for the instant of the occurrence.
//! What the schedule's id itself holds is not substituted.

use super::record::Millis;

const ID: &str = "{{.id}}";
const TIMESTAMP: &str = "{{.timestamp}}";
/// Digits of the latest instant.
const INSTANT_DIGITS_MAX: usize = 19;

/// The id of the promise of one occurrence.
pub fn promise_id(template: &str, schedule_id: &str, at: Millis) -> String {
    let at = at.to_string();
    let parts: Vec<String> = template
        .split(ID)
        .map(|part| part.replace(TIMESTAMP, &at))
        .collect();
    parts.join(schedule_id)
}

/// What all these ids begin with: everything up to the first instant.
pub fn head(template: &str, schedule_id: &str) -> String {
    let mut head = String::new();
    for (index, part) in template.split(ID).enumerate() {
        if index > 0 {
            head.push_str(schedule_id);
        }
        match part.split_once(TIMESTAMP) {
            Some((before, _)) => {
                head.push_str(before);
                break;
            }
            None => head.push_str(part),
        }
    }
    head
}

/// The bytes that such an id has at most.
pub(super) fn bytes_max(template: &str, schedule_id: &str) -> usize {
    let ids = template.matches(ID).count();
    let instants = template.matches(TIMESTAMP).count();
    let literal = template.len() - ids * ID.len() - instants * TIMESTAMP.len();
    literal
        .saturating_add(ids.saturating_mul(schedule_id.len()))
        .saturating_add(instants.saturating_mul(INSTANT_DIGITS_MAX))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_head_is_what_every_id_begins_with() {
        for (template, schedule, expected) in [
            ("{{.id}}.{{.timestamp}}", "a", "a."),
            ("{{.id}}", "a", "a"),
            ("x{{.id}}y{{.id}}z", "a", "xayaz"),
            ("{{.timestamp}}{{.id}}", "a", ""),
            ("a{{.timestamp}}b{{.timestamp}}", "s", "a"),
            ("plain", "s", "plain"),
            // Not substituted: it comes from the schedule's id.
            (
                "{{.id}}-{{.timestamp}}",
                "{{.timestamp}}",
                "{{.timestamp}}-",
            ),
            ("{{{.id}}{.timestamp}}", "{", "{{{.timestamp}}"),
        ] {
            let head = head(template, schedule);
            assert_eq!(head, expected, "{template}");
            for at in [0, 7, Millis::MAX] {
                let id = promise_id(template, schedule, at);
                assert!(id.starts_with(&head), "{template}: {id}");
                assert!(
                    id.len() <= bytes_max(template, schedule),
                    "{template}: {id}"
                );
            }
        }
    }
}
