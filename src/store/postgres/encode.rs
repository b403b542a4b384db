//! The changes of a batch as one statement, which commits by itself: one round trip, and no transaction
//! that a server which dies could leave open.
//!
//! ```text
//!   WITH held_… AS (lock and compare what the batch was decided on),
//!        verdict AS (is all of it as it was?),
//!        … AS (INSERT | UPDATE | DELETE … WHERE verdict), one per table and kind of change
//!   SELECT is_current FROM verdict
//! ```

use std::collections::BTreeSet;

use sqlx::postgres::{PgArguments, Postgres};
use sqlx::{Arguments, Encode, Type};

use crate::protocol::record::Schedule;
use crate::store::rows::{CallbackRow, RowChanges, TaskRow, json, limit};
use crate::store::{Changes, Error, Result};

use super::revisions::Revisions;
use super::sql;

/// A statement and its arguments.
pub struct Commit {
    pub sql: String,
    pub arguments: PgArguments,
}

/// The statement of a batch that was decided on what `seen` remembers, or none if there is nothing to
/// write. Every row it changes gets `rev`.
///
/// # Errors
/// [`Error::Refused`] when something is longer than what PostgreSQL takes.
pub fn commit(changes: &Changes, seen: &Revisions, rev: i64) -> Result<Option<Commit>> {
    let rows = RowChanges::of(changes);
    let mut parts = Parts::default();
    parts.bind(rev)?;
    if seen.is_empty() {
        parts.part(sql::held::NOTHING)?;
    } else {
        let held = seen.held();
        parts.bind(held.promises.0)?;
        parts.bind(held.promises.1)?;
        parts.bind(held.tasks.0)?;
        parts.bind(held.tasks.1)?;
        parts.bind(held.schedules.0)?;
        parts.bind(held.schedules.1)?;
        if changes.deleted.is_empty() {
            parts.part(sql::held::ALL)?;
        } else {
            parts.part(sql::held::ALL_BUT_TREES)?;
            let (from, until): (Vec<String>, Vec<String>) = seen.ranges().unzip();
            parts.bind(from)?;
            parts.bind(until)?;
            parts.bind(limit(seen.in_trees()))?;
            parts.bind(seen.absent())?;
            parts.part(sql::held::TREES)?;
        }
    }
    let before = parts.texts.len();
    add_promises(&mut parts, changes, &rows)?;
    add_tasks(&mut parts, &rows)?;
    add_obligations(&mut parts, &rows)?;
    add_schedules(&mut parts, &rows, seen)?;
    if !rows.tasks_deleted.is_empty() {
        parts.bind(rows.tasks_deleted.clone())?;
        parts.part(sql::write::DELETE_TASKS)?;
    }
    if !rows.promises_deleted.is_empty() {
        parts.bind(rows.promises_deleted.clone())?;
        parts.part(sql::write::DELETE_PROMISES)?;
    }
    if parts.texts.len() == before {
        return Ok(None);
    }
    Ok(Some(Commit {
        sql: format!(
            "WITH {} SELECT is_current FROM verdict",
            parts.texts.join(",")
        ),
        arguments: parts.arguments,
    }))
}

fn add_promises(parts: &mut Parts, changes: &Changes, rows: &RowChanges<'_>) -> Result<()> {
    let new = &rows.promises_inserted;
    if !new.is_empty() {
        parts.bind(column(new, |row| &*row.promise.id))?;
        parts.bind(column(new, |row| row.promise.state.as_str()))?;
        parts.bind(column(new, |row| row.promise.timeout_at))?;
        parts.bind(column(new, |row| row.promise.created_at))?;
        parts.bind(column(new, |row| row.promise.settled_at))?;
        parts.bind(column(new, |row| row.armed))?;
        parts.bind(column(new, |row| row.promise.tags.branch().map(searchable)))?;
        parts.bind(column(new, |row| json(&row.promise.tags)))?;
        parts.bind(column(new, |row| row.promise.value.as_json()))?;
        parts.bind(column(new, |row| row.promise.param.as_json()))?;
        parts.part(sql::write::INSERT_PROMISES)?;
    }
    let old = &rows.promises_updated;
    if !old.is_empty() {
        parts.bind(column(old, |row| row.id))?;
        parts.bind(column(old, |row| row.state))?;
        parts.bind(column(old, |row| row.settled_at))?;
        parts.bind(column(old, |row| row.armed))?;
        parts.bind(column(old, |row| row.value))?;
        parts.part(sql::write::UPDATE_PROMISES)?;
    }
    // Who gains or loses a callback or a listener is another object, though its row is the same.
    let written: BTreeSet<&str> = old.iter().map(|row| row.id).collect();
    let touched: Vec<&str> = changes
        .objects
        .iter()
        .filter(|change| {
            change.before.as_ref().is_some_and(|before| {
                let after = &change.after;
                before.callbacks != after.callbacks || before.listeners != after.listeners
            })
        })
        .map(|change| &*change.after.promise.id)
        .filter(|id| !written.contains(id))
        .collect();
    if !touched.is_empty() {
        parts.bind(touched)?;
        parts.part(sql::write::TOUCH_PROMISES)?;
    }
    Ok(())
}

fn add_tasks(parts: &mut Parts, rows: &RowChanges<'_>) -> Result<()> {
    let tasks = &rows.tasks_upserted;
    if tasks.is_empty() {
        return Ok(());
    }
    parts.bind(column(tasks, |row| row.id))?;
    parts.bind(column(tasks, |row| row.task.state.as_str()))?;
    parts.bind(column(tasks, |row| row.task.version))?;
    parts.bind(column(tasks, |row| row.task.pid.as_deref()))?;
    parts.bind(column(tasks, |row| row.task.ttl))?;
    parts.bind(column(tasks, |row| row.task.expires_at))?;
    parts.bind(column(tasks, |row| row.task.claimed_at))?;
    parts.bind(column(tasks, |row| row.task.retry_at))?;
    parts.bind(column(tasks, |row| row.task.offer_at))?;
    parts.bind(column(tasks, |row| i64::from(row.task.releases)))?;
    parts.bind(column(tasks, |row| row.target))?;
    parts.bind(column(tasks, |row| row.queue.as_deref()))?;
    parts.bind(column(tasks, |row| row.resumes()))?;
    parts.bind(column(tasks, TaskRow::traceparent))?;
    parts.part(sql::write::UPSERT_TASKS)
}

fn add_obligations(parts: &mut Parts, rows: &RowChanges<'_>) -> Result<()> {
    let mut pairs = |callbacks: &[CallbackRow<'_>], part: &'static str| {
        if callbacks.is_empty() {
            return Ok(());
        }
        parts.bind(column(callbacks, |row| row.awaited))?;
        parts.bind(column(callbacks, |row| row.awaiter))?;
        parts.part(part)
    };
    pairs(&rows.callbacks_inserted, sql::write::INSERT_CALLBACKS)?;
    pairs(&rows.callbacks_deleted, sql::write::DELETE_CALLBACKS)?;
    let listeners = &rows.listeners_upserted;
    if !listeners.is_empty() {
        parts.bind(column(listeners, |row| row.promise_id))?;
        parts.bind(column(listeners, |row| row.address))?;
        parts.bind(column(listeners, |row| row.queue.as_deref()))?;
        parts.bind(column(listeners, |row| row.listener.enqueued_at))?;
        parts.bind(column(listeners, |row| row.listener.retry_at))?;
        parts.bind(column(listeners, |row| i64::from(row.listener.attempts)))?;
        parts.part(sql::write::UPSERT_LISTENERS)?;
    }
    let told = &rows.listeners_deleted;
    if !told.is_empty() {
        parts.bind(column(told, |row| row.0))?;
        parts.bind(column(told, |row| row.1))?;
        parts.part(sql::write::DELETE_LISTENERS)?;
    }
    Ok(())
}

fn add_schedules(parts: &mut Parts, rows: &RowChanges<'_>, seen: &Revisions) -> Result<()> {
    let (old, new): (Vec<&Schedule>, Vec<&Schedule>) = rows
        .schedules_upserted
        .iter()
        .partition(|schedule| seen.has_schedule(&schedule.id));
    for (schedules, part) in [
        (new, sql::write::INSERT_SCHEDULES),
        (old, sql::write::UPDATE_SCHEDULES),
    ] {
        if schedules.is_empty() {
            continue;
        }
        parts.bind(column(&schedules, |row| &*row.id))?;
        parts.bind(column(&schedules, |row| &*row.cron))?;
        parts.bind(column(&schedules, |row| &*row.promise_id))?;
        parts.bind(column(&schedules, |row| row.promise_timeout))?;
        parts.bind(column(&schedules, |row| row.created_at))?;
        parts.bind(column(&schedules, |row| row.next_run_at))?;
        parts.bind(column(&schedules, |row| row.last_run_at))?;
        parts.bind(column(&schedules, |row| json(&row.promise_tags)))?;
        parts.bind(column(&schedules, |row| row.promise_param.as_json()))?;
        parts.part(part)?;
    }
    if !rows.schedules_deleted.is_empty() {
        parts.bind(rows.schedules_deleted.clone())?;
        parts.part(sql::write::DELETE_SCHEDULES)?;
    }
    Ok(())
}

fn column<'r, R, T>(rows: &'r [R], of: impl Fn(&'r R) -> T) -> Vec<T> {
    rows.iter().map(of).collect()
}

/// A text that is only compared for being the same, never read back. PostgreSQL's texts hold no NUL.
pub fn searchable(text: &str) -> String {
    if text.contains(['\0', '\u{1}']) {
        text.replace('\u{1}', "\u{1}\u{1}").replace('\0', "\u{1}0")
    } else {
        text.to_owned()
    }
}

/// What a statement is put together of. In a text each `?` stands for the next argument, in order; `$1`
/// is the batch's `rev`.
#[derive(Default)]
struct Parts {
    texts: Vec<String>,
    arguments: PgArguments,
    numbered: usize,
}

impl Parts {
    fn bind<'t, T: Encode<'t, Postgres> + Type<Postgres>>(&mut self, value: T) -> Result<()> {
        let added = self.arguments.add(value);
        added.map_err(|error| Error::Refused(error.to_string()))
    }

    fn part(&mut self, text: &'static str) -> Result<()> {
        self.numbered = self.numbered.max(1);
        let mut numbered = String::with_capacity(text.len() + 32);
        for (index, piece) in text.split('?').enumerate() {
            if index > 0 {
                self.numbered += 1;
                numbered.push('$');
                numbered.push_str(&self.numbered.to_string());
            }
            numbered.push_str(piece);
        }
        debug_assert_eq!(self.numbered, self.arguments.len(), "{text}");
        self.texts.push(numbered);
        Ok(())
    }
}
