//! Schedules: create, delete, and firing their occurrences (`protocol.md` §10, `semantics.md` §8).

use crate::protocol::cron::Cron;
use crate::protocol::operation::{PromiseCreate, ScheduleCreate};
use crate::protocol::record::{Id, Millis, NEVER, Schedule, Tags, tag};
use crate::protocol::reply::{Refusal, Reply};
use crate::protocol::template;
use crate::store::Need;

use super::Config;
use super::promise::bear;
use super::workspace::Workspace;

/// Occurrences fired in one step; the rest follows at once.
const OCCURRENCES_MAX: usize = 16;

/// Bytes that their promises may take up, unless it is only one.
const OCCURRENCES_BYTES_MAX: usize = 1024 * 1024;

/// `schedule.create`.
pub(super) fn create(ws: &mut Workspace, op: &ScheduleCreate, now: Millis) -> Reply {
    if let Some(existing) = ws.schedule(&op.id) {
        return Reply::Schedule((**existing).clone());
    }
    let Some(cron) = Cron::parse(&op.cron) else {
        return Refusal::Invalid("Invalid cron expression".to_owned()).into();
    };
    let Some(next_run_at) = cron.next_after(now) else {
        return Refusal::Invalid("Cron expression has no future occurrence".to_owned()).into();
    };
    let schedule = Schedule {
        id: op.id.clone(),
        cron: op.cron.clone(),
        promise_id: op.promise_id.clone(),
        promise_timeout: op.promise_timeout,
        promise_param: op.promise_param.clone(),
        promise_tags: op.promise_tags.clone(),
        created_at: now,
        next_run_at,
        last_run_at: None,
    };
    ws.put_schedule(&op.id, Some(schedule.clone()));
    Reply::Schedule(schedule)
}

/// `schedule.delete`. Promises already fired stay.
pub(super) fn delete(ws: &mut Workspace, id: &Id) -> Reply {
    if ws.schedule(id).is_none() {
        return Refusal::ScheduleNotFound.into();
    }
    ws.put_schedule(id, None);
    Reply::Done
}

/// Adds to `need` the promises that firing touches.
pub(super) fn missing(ws: &Workspace, id: &Id, now: Millis, need: &mut Need) {
    if !ws.has_schedule(id) {
        need.schedules.insert(id.clone());
        return;
    }
    let Some(schedule) = ws.schedule(id) else {
        return;
    };
    for at in occurrences(schedule, now).0 {
        let promise_id = promise_id(schedule, at);
        if !ws.has(&promise_id) {
            need.objects.insert(promise_id);
        }
    }
}

/// Fires every due occurrence, in order, up to a bound. Each creates its promise if it is absent.
pub(super) fn fire(ws: &mut Workspace, id: &Id, now: Millis, config: &Config) {
    let Some(schedule) = ws.schedule(id).cloned() else {
        return;
    };
    let (due, next_run_at) = occurrences(&schedule, now);
    let Some(last) = due.last().copied() else {
        return;
    };
    for at in due {
        let op = promise_of(&schedule, at);
        if ws.get(&op.id).is_none() {
            bear(ws, &op, at, now, config);
        }
    }
    let mut fired = (*schedule).clone();
    fired.last_run_at = Some(last);
    fired.next_run_at = next_run_at;
    ws.put_schedule(id, Some(fired));
}

/// The due occurrences, bounded, and the one after them.
fn occurrences(schedule: &Schedule, now: Millis) -> (Vec<Millis>, Millis) {
    let mut due = Vec::new();
    let mut next = schedule.next_run_at;
    // `NEVER` is no occurrence, whatever the clock says.
    if next > now || next == NEVER {
        return (due, next);
    }
    let cron = Cron::parse(&schedule.cron);
    let due_max = occurrences_max(schedule, next);
    while next <= now && due.len() < due_max {
        due.push(next);
        next = cron
            .as_ref()
            .and_then(|cron| cron.next_after(next))
            .unwrap_or(NEVER);
        if next == NEVER {
            break;
        }
    }
    (due, next)
}

/// How many occurrences one step may fire.
fn occurrences_max(schedule: &Schedule, at: Millis) -> usize {
    let tags = schedule.promise_tags.iter();
    let tags: usize = tags.map(|(name, value)| name.len() + value.len()).sum();
    // The id, and the injected tags that repeat it.
    let ids = 5 * promise_id(schedule, at).len();
    let bytes = schedule.promise_param.as_json().len() + tags + ids;
    (OCCURRENCES_BYTES_MAX / bytes.max(1)).clamp(1, OCCURRENCES_MAX)
}

fn promise_id(schedule: &Schedule, at: Millis) -> Id {
    template::promise_id(&schedule.promise_id, &schedule.id, at).into()
}

/// The promise of one occurrence, injected tags included.
fn promise_of(schedule: &Schedule, at: Millis) -> PromiseCreate {
    let id = promise_id(schedule, at);
    let mut tags = schedule.promise_tags.to_map();
    tags.insert(tag::SCHEDULE.to_owned(), schedule.id.to_string());
    for name in [tag::ORIGIN, tag::BRANCH, tag::PARENT, tag::PREFIX] {
        tags.insert(name.to_owned(), id.to_string());
    }
    PromiseCreate {
        id,
        timeout_at: at.saturating_add(schedule.promise_timeout),
        param: schedule.promise_param.clone(),
        tags: Tags::new(tags),
    }
}
