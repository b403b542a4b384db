//! The rules that fields must keep, and the sentence for each violation (`protocol.md` §5.1, §8–10).

use super::address::{Address, Rules};
use super::cron::Cron;
use super::record::{Millis, Tags, ValueParts, parse_delay, tag};

/// Longest id that a schedule may make.
const PROMISE_ID_BYTES_MAX: usize = 64 * 1024;
/// Digits of the latest instant.
const INSTANT_DIGITS_MAX: usize = 19;

/// An upper bound of what a schedule's template becomes.
fn substituted_bytes_max(template: &str, schedule_id: &str) -> usize {
    let ids = template.matches("{{.id}}").count();
    let instants = template.matches("{{.timestamp}}").count();
    template
        .len()
        .saturating_add(ids.saturating_mul(schedule_id.len()))
        .saturating_add(instants.saturating_mul(INSTANT_DIGITS_MAX))
}

/// The violations found in one request, in the order of its fields.
#[derive(Debug, Default)]
pub(super) struct Violations(Vec<String>);

impl Violations {
    pub fn push(&mut self, message: impl Into<String>) {
        let message = message.into();
        // A list of thousands of entries breaks a rule once.
        if !self.0.contains(&message) {
            self.0.push(message);
        }
    }

    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    pub fn into_message(self) -> String {
        self.0.join("; ")
    }

    /// A string that must not be empty and must not hold a NUL.
    pub fn id(&mut self, field: &str, text: &str) {
        if text.is_empty() {
            self.push(format!("{field} is required"));
        }
        self.no_nul(field, text);
    }

    fn no_nul(&mut self, field: &str, text: &str) {
        if text.contains('\0') {
            self.push(format!("{field} must not contain null bytes"));
        }
    }

    pub fn promise_id(&mut self, id: &str) {
        self.id("Promise ID", id);
    }

    pub fn task_id(&mut self, id: &str) {
        self.id("Task ID", id);
    }

    pub fn schedule_id(&mut self, id: &str) {
        self.id("Schedule ID", id);
    }

    pub fn not_negative(&mut self, field: &str, number: i64) {
        if number < 0 {
            self.push(format!("{field} must be a non-negative integer"));
        }
    }

    pub fn ttl(&mut self, ttl: Millis) {
        if ttl < 1 {
            self.push("TTL must be a positive integer");
        }
    }

    pub fn cursor(&mut self, cursor: &str) {
        self.no_nul("Cursor", cursor);
    }

    /// The page size, checked.
    pub fn limit(&mut self, limit: Option<i64>, default: usize) -> usize {
        match limit {
            None => default,
            Some(limit) if limit < 1 => {
                self.push("Limit must be a positive integer");
                default
            }
            Some(limit) => match usize::try_from(limit) {
                Ok(limit) if limit <= 1000 => limit,
                _ => {
                    self.push("Invalid 'limit' — must be between 1 and 1000");
                    default
                }
            },
        }
    }

    pub fn value(&mut self, parts: &ValueParts) {
        for (name, value) in parts.headers.iter().flatten() {
            self.no_nul("Headers", name);
            self.no_nul("Headers", value);
        }
        if let Some(data) = &parts.data {
            self.no_nul("Data", data);
        }
    }

    pub fn listener_address(&mut self, address: &str, rules: &Rules) {
        if address.is_empty() {
            self.push("Address is required");
            return;
        }
        self.no_nul("Address", address);
        if !Address::parse(address, rules).is_some_and(|address| address.can_listen()) {
            self.push("Invalid listener address");
        }
    }

    /// Whether it has a further occurrence is looked at when the schedule is created.
    pub fn cron(&mut self, cron: &str) {
        self.id("Cron expression", cron);
        if !cron.is_empty() && Cron::parse(cron).is_none() {
            self.push("Invalid cron expression");
        }
    }

    pub fn no_nul_tags(&mut self, tags: &Tags) {
        for (name, value) in tags.iter() {
            self.no_nul("Tags", name);
            self.no_nul("Tags", value);
        }
    }

    fn target(&mut self, tags: &Tags, rules: &Rules) {
        if tags
            .target()
            .is_some_and(|target| Address::parse(target, rules).is_none())
        {
            self.push("Invalid resonate:target address");
        }
    }

    /// `protocol.md` §5.1, at every door.
    pub fn tags(&mut self, tags: &Tags, timeout_at: Millis, rules: &Rules) {
        self.no_nul_tags(tags);
        self.target(tags, rules);
        if let Some(delay) = tags.get(tag::DELAY) {
            match parse_delay(delay) {
                None => self.push("resonate:delay must be a non-negative integer"),
                Some(delay) if delay >= timeout_at => {
                    self.push("resonate:delay must be less than timeoutAt");
                }
                Some(_) => {}
            }
            if tags.target().is_none() {
                self.push("resonate:delay requires a resonate:target tag");
            }
        }
    }

    /// What `task.create` asks beyond [`Violations::tags`].
    pub fn task_create_tags(&mut self, tags: &Tags) {
        if tags.target().is_none() {
            self.push("Action must have a resonate:target tag");
        }
        if tags.get(tag::DELAY).is_some() {
            self.push("Action must not have a resonate:delay tag");
        }
        if tags.is_timer() {
            self.push("Action must not have a resonate:timer tag");
        }
    }

    /// Every occurrence writes the id, and its tags, anew: a few bytes must not become gigabytes.
    pub fn template(&mut self, template: &str, schedule_id: &str) {
        self.id("Promise ID template", template);
        if substituted_bytes_max(template, schedule_id) > PROMISE_ID_BYTES_MAX {
            self.push(format!(
                "Promise ID template must make ids of at most {PROMISE_ID_BYTES_MAX} bytes"
            ));
        }
    }

    /// `protocol.md` §10: every occurrence must be able to have a task.
    pub fn schedule_tags(&mut self, tags: &Tags, rules: &Rules) {
        self.no_nul_tags(tags);
        if tags.target().is_none() {
            self.push("promiseTags must include a resonate:target tag");
        }
        self.target(tags, rules);
        if tags.is_timer() {
            self.push("promiseTags must not include a resonate:timer tag");
        }
    }
}
