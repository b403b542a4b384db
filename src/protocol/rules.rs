//! The rules that fields must keep, and the sentence for each violation (`protocol.md` §5.1, §8–10).

use super::address::{Address, Rules};
use super::cron::Cron;
use super::record::{Millis, Tags, ValueParts, parse_delay, tag};
use super::template;

/// Longest id that a schedule may make.
const PROMISE_ID_BYTES_MAX: usize = 64 * 1024;

/// The violations found in one request, in the order of its fields.
#[derive(Debug)]
pub(super) struct Violations<'c> {
    messages: Vec<String>,
    rules: &'c Rules,
    key_bytes_max: Option<usize>,
}

impl<'c> Violations<'c> {
    /// None found yet. `key_bytes_max` is how long a text may be that the storage finds something by.
    pub fn new(rules: &'c Rules, key_bytes_max: Option<usize>) -> Self {
        Violations {
            messages: Vec::new(),
            rules,
            key_bytes_max,
        }
    }

    pub fn push(&mut self, message: impl Into<String>) {
        let message = message.into();
        // A list of thousands of entries breaks a rule once.
        if !self.messages.contains(&message) {
            self.messages.push(message);
        }
    }

    pub fn is_empty(&self) -> bool {
        self.messages.is_empty()
    }

    pub fn into_message(self) -> String {
        self.messages.join("; ")
    }

    /// A string that must not be empty and must not hold a NUL.
    fn text(&mut self, field: &str, text: &str) {
        if text.is_empty() {
            self.push(format!("{field} is required"));
        }
        self.no_nul(field, text);
    }

    /// A [`Violations::text`] that something is found by.
    pub fn id(&mut self, field: &str, text: &str) {
        self.text(field, text);
        self.key(field, text);
    }

    fn key(&mut self, field: &str, text: &str) {
        if let Some(bytes_max) = self.key_bytes_max.filter(|max| text.len() > *max) {
            self.push(format!("{field} must not be longer than {bytes_max} bytes"));
        }
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

    pub fn listener_address(&mut self, address: &str) {
        if address.is_empty() {
            self.push("Address is required");
            return;
        }
        self.no_nul("Address", address);
        self.key("Address", address);
        if !Address::parse(address, self.rules).is_some_and(|address| address.can_listen()) {
            self.push("Invalid listener address");
        }
    }

    /// Whether it has a further occurrence is looked at when the schedule is created.
    pub fn cron(&mut self, cron: &str) {
        self.text("Cron expression", cron);
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

    /// Tags that something is found by.
    fn key_tags(&mut self, tags: &Tags) {
        for name in [tag::TARGET, tag::BRANCH] {
            self.key(name, tags.get(name).unwrap_or_default());
        }
    }

    fn target(&mut self, tags: &Tags) {
        if tags
            .target()
            .is_some_and(|target| Address::parse(target, self.rules).is_none())
        {
            self.push("Invalid resonate:target address");
        }
    }

    /// `protocol.md` §5.1, at every door.
    pub fn tags(&mut self, tags: &Tags, timeout_at: Millis) {
        self.no_nul_tags(tags);
        self.key_tags(tags);
        self.target(tags);
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
        self.text("Promise ID template", template);
        let key_bytes_max = self.key_bytes_max.unwrap_or(usize::MAX);
        let bytes_max = PROMISE_ID_BYTES_MAX.min(key_bytes_max);
        if template::bytes_max(template, schedule_id) > bytes_max {
            self.push(format!(
                "Promise ID template must make ids of at most {bytes_max} bytes"
            ));
        }
    }

    /// `protocol.md` §10: every occurrence must be able to have a task.
    pub fn schedule_tags(&mut self, tags: &Tags) {
        self.no_nul_tags(tags);
        self.key_tags(tags);
        if tags.target().is_none() {
            self.push("promiseTags must include a resonate:target tag");
        }
        self.target(tags);
        if tags.is_timer() {
            self.push("promiseTags must not include a resonate:timer tag");
        }
    }
}
