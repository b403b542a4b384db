//! `protocol.md` §10, and how occurrences are counted (`semantics.md` §8).
//!
//! Expressions are those the generator writes, and their occurrences are counted by arithmetic: the
//! parser is not asked.

use std::collections::BTreeMap;

use resonate::protocol::operation::{PromiseCreate, ScheduleCreate};
use resonate::protocol::record::{Id, Millis, NEVER, Schedule, Tags};
use resonate::protocol::reply::{Refusal, Reply};

use super::Oracle;
use crate::model::action::{EVERY_FIVE, EVERY_SECOND, IMPOSSIBLE, NEW_YEAR_1971, UNTIL_1971};

/// Occurrences fired in one step; a bound is allowed as long as the rest follows (D-09).
const BOUND: usize = 16;

/// The last instant that a calendar of this size knows; none of the generated expressions has an
/// occurrence after it.
const CALENDAR_END: Millis = 4_000_000_000_000;

/// The occurrence after an instant; none when there is no further one.
fn next_after(cron: &str, after: Millis) -> Option<Millis> {
    let every = |seconds: Millis| (after / (seconds * 1000) + 1) * seconds * 1000;
    if after > CALENDAR_END {
        return None;
    }
    match cron {
        EVERY_SECOND => Some(every(1)),
        EVERY_FIVE => Some(every(5)),
        UNTIL_1971 => Some(every(1)).filter(|at| *at < NEW_YEAR_1971),
        IMPOSSIBLE => None,
        _ => panic!("not an expression of the generator: {cron}"),
    }
}

/// The occurrences one step fires, and what comes after them.
fn due_occurrences(schedule: &Schedule, now: Millis) -> (Vec<Millis>, Millis) {
    let mut due = Vec::new();
    let mut next = schedule.next_run_at;
    while next <= now && next != NEVER && due.len() < BOUND {
        due.push(next);
        next = next_after(&schedule.cron, next).unwrap_or(NEVER);
    }
    (due, next)
}

impl Oracle {
    fn schedule(&self, id: &str) -> Option<&Schedule> {
        self.state.schedules.iter().find(|s| &*s.id == id)
    }

    pub(super) fn schedule_create(&mut self, op: &ScheduleCreate) -> Reply {
        if let Some(existing) = self.schedule(&op.id) {
            let existing = existing.clone();
            self.row("schedule.create: exists");
            return Reply::Schedule(existing);
        }
        let Some(next_run_at) = next_after(&op.cron, self.now()) else {
            let sentence = "Cron expression has no future occurrence".to_owned();
            return self.refuse("schedule.create: no future", Refusal::Invalid(sentence));
        };
        self.row("schedule.create: created");
        let schedule = Schedule {
            id: op.id.clone(),
            cron: op.cron.clone(),
            promise_id: op.promise_id.clone(),
            promise_timeout: op.promise_timeout,
            promise_param: op.promise_param.clone(),
            promise_tags: op.promise_tags.clone(),
            created_at: self.now(),
            next_run_at,
            last_run_at: None,
        };
        self.state.schedules.push(schedule.clone());
        Reply::Schedule(schedule)
    }

    pub(super) fn schedule_delete(&mut self, id: &Id) -> Reply {
        if self.schedule(id).is_none() {
            return self.refuse("schedule.delete: unknown", Refusal::ScheduleNotFound);
        }
        self.row("schedule.delete: deleted");
        self.state.schedules.retain(|s| s.id != *id);
        Reply::Done
    }

    pub(super) fn step_schedule(&mut self, id: &Id) {
        let Some(schedule) = self.schedule(id).cloned() else {
            return self.row("step schedule: unknown");
        };
        let (due, next_run_at) = due_occurrences(&schedule, self.now());
        let Some(last) = due.last().copied() else {
            return self.row(match schedule.next_run_at {
                NEVER => "step schedule: ran out",
                _ => "step schedule: not due",
            });
        };
        if due.len() > 1 {
            self.row("step schedule: caught up");
        }
        if due.len() == BOUND {
            self.row("step schedule: bounded");
        }
        if next_run_at == NEVER {
            self.row("step schedule: last occurrence");
        }
        for at in due {
            self.fire(&schedule, at);
        }
        let mut rows = self.state.schedules.iter_mut();
        let row = rows.find(|s| s.id == *id).expect("found above");
        (row.last_run_at, row.next_run_at) = (Some(last), next_run_at);
    }

    fn fire(&mut self, schedule: &Schedule, at: Millis) {
        let id = schedule.promise_id.replace("{{.id}}", &schedule.id);
        let id: Id = id.replace("{{.timestamp}}", &at.to_string()).into();
        if self.promise(&id).is_some() {
            return self.row("occurrence: adopted");
        }
        let mut tags: BTreeMap<String, String> = BTreeMap::new();
        for (name, value) in schedule.promise_tags.iter() {
            tags.insert(name.to_owned(), value.to_owned());
        }
        tags.insert("resonate:schedule".to_owned(), schedule.id.to_string());
        for name in ["origin", "branch", "parent", "prefix"] {
            tags.insert(format!("resonate:{name}"), id.to_string());
        }
        let timeout_at = at.saturating_add(schedule.promise_timeout);
        self.row(match timeout_at {
            _ if timeout_at == at => "occurrence: born settled",
            _ if timeout_at <= self.now() => "occurrence: past its deadline",
            _ if tags.contains_key("resonate:delay") => "occurrence: with a delay",
            _ if at < self.now() => "occurrence: late",
            _ => "occurrence: on time",
        });
        let op = PromiseCreate {
            id,
            timeout_at,
            param: schedule.promise_param.clone(),
            tags: Tags::new(tags),
        };
        self.bear(&op, at);
    }
}
