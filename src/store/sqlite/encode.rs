//! Changed rows as statements: one per table and kind of change, its rows in a JSON array.
//!
//! Values, parameters and tags are JSON texts themselves and travel as JSON *strings*: SQLite takes
//! them out byte for byte and never looks inside.

use serde::Serialize;

use crate::store::rows::{RowChanges, json};
use crate::store::{Changes, Error, Result};

use super::sql;

/// A statement and the JSON array of its rows.
#[derive(Debug)]
pub struct Statement {
    /// One of [`super::sql`].
    pub sql: &'static str,
    /// Its only argument.
    pub rows: String,
}

/// The longest text SQLite takes (its compiled-in limit).
const TEXT_BYTES_MAX: usize = 1_000_000_000;

/// An array is closed once it is longer: further rows go into a second statement of the same kind.
const ARRAY_BYTES_SOFT_MAX: usize = 32 << 20;

/// What a row takes, about, and the most that is made room for before there are any.
const ROW_BYTES: usize = 512;
const ROOM_BYTES_MAX: usize = 256 * 1024;

/// The statements of a batch, in an order in which no row refers to one that is not there yet.
///
/// # Errors
/// [`Error::Refused`] when a row is longer than what SQLite can store.
pub fn statements(changes: &Changes) -> Result<Vec<Statement>> {
    let rows = RowChanges::of(changes);
    let mut all = Statements::default();
    all.add(sql::INSERT_PROMISES, &rows.promises_inserted, |row| {
        let promise = row.promise;
        (
            &promise.id,
            promise.state.as_str(),
            promise.timeout_at,
            promise.created_at,
            promise.settled_at,
            i64::from(row.armed),
            promise.tags.branch(),
            json(&promise.tags),
            promise.value.as_json(),
            promise.param.as_json(),
        )
    })?;
    all.add(sql::UPDATE_PROMISES, &rows.promises_updated, |row| {
        let armed = i64::from(row.armed);
        (row.id, row.state, row.settled_at, armed, row.value)
    })?;
    all.add(sql::UPSERT_TASKS, &rows.tasks_upserted, |row| {
        let task = row.task;
        (
            row.id,
            task.state.as_str(),
            task.version,
            &task.pid,
            task.ttl,
            task.expires_at,
            task.retry_at,
            task.offer_at,
            task.claimed_at,
            task.releases,
            row.target,
            &row.queue,
            row.resumes(),
            row.traceparent(),
        )
    })?;
    all.add(sql::INSERT_CALLBACKS, &rows.callbacks_inserted, |row| {
        (row.awaited, row.awaiter)
    })?;
    all.add(sql::DELETE_CALLBACKS, &rows.callbacks_deleted, |row| {
        (row.awaited, row.awaiter)
    })?;
    all.add(sql::UPSERT_LISTENERS, &rows.listeners_upserted, |row| {
        let listener = row.listener;
        (
            row.promise_id,
            row.address,
            &row.queue,
            listener.enqueued_at,
            listener.retry_at,
            listener.attempts,
        )
    })?;
    all.add(sql::DELETE_LISTENERS, &rows.listeners_deleted, |row| *row)?;
    all.add(sql::UPSERT_SCHEDULES, &rows.schedules_upserted, |row| {
        (
            &row.id,
            &row.cron,
            &row.promise_id,
            row.promise_timeout,
            row.created_at,
            row.next_run_at,
            row.last_run_at,
            json(&row.promise_tags),
            row.promise_param.as_json(),
        )
    })?;
    all.add(sql::DELETE_SCHEDULES, &rows.schedules_deleted, |row| *row)?;
    all.add(sql::DELETE_TASKS, &rows.tasks_deleted, |row| *row)?;
    all.add(sql::DELETE_PROMISES, &rows.promises_deleted, |row| *row)?;
    Ok(all.0)
}

#[derive(Default)]
struct Statements(Vec<Statement>);

impl Statements {
    fn add<'r, T, R: Serialize>(
        &mut self,
        sql: &'static str,
        rows: &'r [T],
        encode: impl Fn(&'r T) -> R,
    ) -> Result<()> {
        let mut array = Vec::with_capacity((rows.len() * ROW_BYTES).min(ROOM_BYTES_MAX));
        for row in rows {
            let start = array.len();
            array.push(if start == 0 { b'[' } else { b',' });
            serde_json::to_writer(&mut array, &encode(row)).expect("rows always serialise");
            let bytes = array.len() - start;
            if bytes >= TEXT_BYTES_MAX {
                let message = format!("a row of {bytes} bytes is more than SQLite takes");
                return Err(Error::Refused(message));
            }
            if start > 0 && array.len() > ARRAY_BYTES_SOFT_MAX {
                let mut next = array.split_off(start);
                next[0] = b'[';
                self.close(sql, std::mem::replace(&mut array, next));
            }
        }
        if !array.is_empty() {
            self.close(sql, array);
        }
        Ok(())
    }

    fn close(&mut self, sql: &'static str, mut array: Vec<u8>) {
        array.push(b']');
        let rows = String::from_utf8(array).expect("JSON is text");
        self.0.push(Statement { sql, rows });
    }
}
