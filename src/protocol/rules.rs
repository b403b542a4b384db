//! The rules that fields must keep, and the sentence for each violation (`protocol.md` §5.1, §8–10).

use super::address::{Address, Rules};
use super::cron::Cron;
use super::record::{Millis, Tags, ValueParts, parse_delay, tag};
use super::template;

/// What one request may hold.
#[derive(Clone, Debug)]
pub struct Limits {
    /// Longest id, in bytes.
    pub id_bytes_max: usize,
    /// Longest address, in bytes.
    pub address_bytes_max: usize,
    /// Tags of a promise.
    pub tags_max: usize,
    /// Longest tag, name and value together, in bytes.
    pub tag_bytes_max: usize,
    /// Promises that a `task.suspend` awaits.
    pub suspend_actions_max: usize,
    /// Tasks that a `task.heartbeat` names.
    pub heartbeat_tasks_max: usize,
}

impl Default for Limits {
    /// None.
    fn default() -> Self {
        Limits {
            id_bytes_max: usize::MAX,
            address_bytes_max: usize::MAX,
            tags_max: usize::MAX,
            tag_bytes_max: usize::MAX,
            suspend_actions_max: usize::MAX,
            heartbeat_tasks_max: usize::MAX,
        }
    }
}

/// The violations found in one request, in the order of its fields.
#[derive(Debug)]
pub(super) struct Violations<'c> {
    messages: Vec<String>,
    rules: &'c Rules,
    limits: &'c Limits,
}

impl<'c> Violations<'c> {
    /// None found yet.
    pub fn new(rules: &'c Rules, limits: &'c Limits) -> Self {
        Violations {
            messages: Vec::new(),
            rules,
            limits,
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
        self.no_longer(field, text.len(), self.limits.id_bytes_max);
    }

    fn no_longer(&mut self, field: &str, bytes: usize, bytes_max: usize) {
        if bytes > bytes_max {
            self.push(format!("{field} must not be longer than {bytes_max} bytes"));
        }
    }

    fn no_more(&mut self, field: &str, count: usize, count_max: usize) {
        if count > count_max {
            self.push(format!("{field} must not be more than {count_max}"));
        }
    }

    pub fn suspend_actions(&mut self, count: usize) {
        if count == 0 {
            self.push("Actions array cannot be empty");
        }
        self.no_more("Actions", count, self.limits.suspend_actions_max);
    }

    pub fn heartbeat_tasks(&mut self, count: usize) {
        self.no_more("Tasks", count, self.limits.heartbeat_tasks_max);
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
        self.no_longer("Address", address.len(), self.limits.address_bytes_max);
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

    /// What holds for the tags of a search too.
    pub fn any_tags(&mut self, tags: &Tags) {
        self.no_more("Tags", tags.iter().count(), self.limits.tags_max);
        for (name, value) in tags.iter() {
            self.no_nul("Tags", name);
            self.no_nul("Tags", value);
            let bytes = name.len() + value.len();
            self.no_longer("Tags", bytes, self.limits.tag_bytes_max);
        }
    }

    /// Tags that something is found by.
    fn key_tags(&mut self, tags: &Tags) {
        let Limits {
            id_bytes_max,
            address_bytes_max,
            ..
        } = *self.limits;
        for (name, bytes_max) in [
            (tag::TARGET, address_bytes_max),
            (tag::BRANCH, id_bytes_max),
        ] {
            let bytes = tags.get(name).unwrap_or_default().len();
            self.no_longer(name, bytes, bytes_max);
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
        self.any_tags(tags);
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
        let bytes_max = self.limits.id_bytes_max;
        if template::bytes_max(template, schedule_id) > bytes_max {
            self.push(format!(
                "Promise ID template must make ids of at most {bytes_max} bytes"
            ));
        }
    }

    /// `protocol.md` §10: every occurrence must be able to have a task.
    pub fn schedule_tags(&mut self, tags: &Tags) {
        self.any_tags(tags);
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
