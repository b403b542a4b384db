//! Reads (`protocol.md` §8–10): always the projected view.

use resonate::protocol::operation::Query;
use resonate::protocol::record::{Id, PromiseState, Tags};
use resonate::protocol::reply::{Refusal, Reply};

use super::{Oracle, view};

impl Oracle {
    /// Predicts the answer of a read.
    pub fn query(&mut self, query: &Query) -> Reply {
        match query {
            Query::PromiseGet { id } => self.promise_get(id),
            Query::TaskGet { id } => self.task_get(id),
            Query::ScheduleGet { id } => {
                let found = self.state.schedules.iter().find(|s| s.id == *id).cloned();
                match found {
                    Some(schedule) => {
                        self.row("schedule.get: found");
                        Reply::Schedule(schedule)
                    }
                    None => self.refuse("schedule.get: unknown", Refusal::ScheduleNotFound),
                }
            }
            Query::PromiseSearch(op) => {
                let now = self.now();
                let records = self.state.promises.iter().map(|p| view(&p.record, now));
                let found = records
                    .filter(|p| op.state.is_none_or(|state| state == p.state))
                    .filter(|p| has_tags(&p.tags, &op.tags))
                    .collect();
                let (promises, cursor) = page(found, |p| p.id.clone(), &op.cursor, op.limit);
                self.row(paged(
                    ["promise.search: more", "promise.search: end"],
                    &cursor,
                ));
                Reply::Promises { promises, cursor }
            }
            Query::TaskSearch(op) => {
                let ids = self.state.tasks.iter().map(|t| &t.id);
                let found = ids
                    .map(|id| self.task_record(id))
                    .filter(|t| op.state.is_none_or(|state| state == t.state))
                    .collect();
                let (tasks, cursor) = page(found, |t| t.id.clone(), &op.cursor, op.limit);
                self.row(paged(["task.search: more", "task.search: end"], &cursor));
                Reply::Tasks { tasks, cursor }
            }
            Query::ScheduleSearch(op) => {
                let rows = self.state.schedules.iter();
                let found = rows
                    .filter(|s| has_tags(&s.promise_tags, &op.tags))
                    .cloned()
                    .collect();
                let (schedules, cursor) = page(found, |s| s.id.clone(), &op.cursor, op.limit);
                self.row(paged(
                    ["schedule.search: more", "schedule.search: end"],
                    &cursor,
                ));
                Reply::Schedules { schedules, cursor }
            }
        }
    }

    fn promise_get(&mut self, id: &Id) -> Reply {
        let Some(row) = self.promise(id) else {
            return self.refuse("promise.get: unknown", Refusal::PromiseNotFound);
        };
        let stored = row.record.state;
        let record = self.record(id);
        self.row(match (stored, record.state) {
            (PromiseState::Pending, PromiseState::Pending) => "promise.get: pending",
            (PromiseState::Pending, _) => "promise.get: past its deadline",
            _ => "promise.get: settled",
        });
        Reply::Promise(record)
    }

    fn task_get(&mut self, id: &Id) -> Reply {
        let Some(task) = self.task(id) else {
            return self.refuse("task.get: unknown", Refusal::TaskNotFound);
        };
        let stored = task.state;
        let record = self.task_record(id);
        self.row(match stored == record.state {
            true => "task.get: as stored",
            false => "task.get: past its deadline",
        });
        Reply::Task(record)
    }
}

fn has_tags(tags: &Tags, wanted: &Tags) -> bool {
    let mut pairs = wanted.iter();
    pairs.all(|(name, value)| tags.get(name) == Some(value))
}

fn paged([more, end]: [&'static str; 2], cursor: &Option<Id>) -> &'static str {
    match cursor {
        Some(_) => more,
        None => end,
    }
}

/// One page in id order, and the last id on it if more follow.
fn page<T>(
    mut found: Vec<T>,
    id: impl Fn(&T) -> Id,
    cursor: &Option<Id>,
    limit: usize,
) -> (Vec<T>, Option<Id>) {
    found.sort_by(|a, b| id(a).as_bytes().cmp(id(b).as_bytes()));
    if let Some(cursor) = cursor {
        found.retain(|row| id(row).as_bytes() > cursor.as_bytes());
    }
    let has_more = found.len() > limit;
    found.truncate(limit);
    let last = found.last().map(id).filter(|_| has_more);
    (found, last)
}
