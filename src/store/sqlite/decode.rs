//! Result rows as objects: reads columns in the order in which [`super::sql`] selects them.

use sqlx::sqlite::{Sqlite, SqliteRow};
use sqlx::{Decode, Row, Type};

use crate::machine::object::Object;
use crate::protocol::record::{Id, Promise, Schedule};
use crate::store::rows::{ObjectColumns, PromiseColumns, ScheduleColumns, TaskColumns};
use crate::store::{Deadline, DeadlineKey, Error, Result, Waiting};

/// The columns of a row, from the left.
struct Columns<'r> {
    row: &'r SqliteRow,
    next: usize,
}

impl<'r> Columns<'r> {
    fn of(row: &'r SqliteRow) -> Self {
        Columns { row, next: 0 }
    }

    fn take<T: Decode<'r, Sqlite> + Type<Sqlite>>(&mut self) -> Result<T> {
        let index = self.next;
        self.next += 1;
        self.row.try_get(index).map_err(|error| {
            let name = self.row.columns().get(index).map(sqlx::Column::name);
            let id: &str = self.row.try_get(0).unwrap_or("unreadable");
            let column = name.unwrap_or("unknown column");
            Error::Corrupt(format!("{column} of {id:?}: {error}"))
        })
    }

    fn id(&mut self) -> Result<Id> {
        Ok(self.take::<&str>()?.into())
    }

    fn promise(&mut self) -> Result<PromiseColumns<'r>> {
        Ok(PromiseColumns {
            id: self.take()?,
            state: self.take()?,
            timeout_at: self.take()?,
            created_at: self.take()?,
            settled_at: self.take()?,
            tags: self.take()?,
            value: self.take()?,
            param: self.take()?,
        })
    }

    fn task(&mut self) -> Result<Option<TaskColumns<'r>>> {
        let Some(state) = self.take()? else {
            self.next += 9;
            return Ok(None);
        };
        Ok(Some(TaskColumns {
            state,
            version: self.take()?,
            pid: self.take()?,
            ttl: self.take()?,
            expires_at: self.take()?,
            retry_at: self.take()?,
            offer_at: self.take()?,
            claimed_at: self.take()?,
            releases: self.take()?,
            resumes: self.take()?,
        }))
    }
}

/// A promise alone.
pub fn promise(row: &SqliteRow) -> Result<Promise> {
    Columns::of(row).promise()?.decode()
}

/// An object.
pub fn object(row: &SqliteRow) -> Result<Object> {
    let mut columns = Columns::of(row);
    ObjectColumns {
        promise: columns.promise()?,
        armed: columns.take::<i64>()? != 0,
        task: columns.task()?,
        callbacks: columns.take()?,
        listeners: columns.take()?,
    }
    .decode()
}

/// A schedule.
pub fn schedule(row: &SqliteRow) -> Result<Schedule> {
    let mut columns = Columns::of(row);
    ScheduleColumns {
        id: columns.take()?,
        cron: columns.take()?,
        promise_id: columns.take()?,
        promise_timeout: columns.take()?,
        promise_param: columns.take()?,
        promise_tags: columns.take()?,
        created_at: columns.take()?,
        next_run_at: columns.take()?,
        last_run_at: columns.take()?,
    }
    .decode()
}

/// A deadline: (instant, kind, id, address).
pub fn deadline(row: &SqliteRow) -> Result<Deadline> {
    let mut columns = Columns::of(row);
    let at = columns.take()?;
    let kind: i64 = columns.take()?;
    let id = columns.id()?;
    let key = match kind {
        0 => DeadlineKey::Promise(id),
        1 => DeadlineKey::Schedule(id),
        _ => DeadlineKey::Unblock(id, columns.id()?),
    };
    Ok(Deadline { at, key })
}

/// A waiting execute: (retry, id, address, version).
pub fn waiting_execute(row: &SqliteRow) -> Result<Waiting> {
    let mut columns = Columns::of(row);
    Ok(Waiting::Execute {
        retry_at: columns.take()?,
        id: columns.id()?,
        address: columns.id()?,
        version: columns.take()?,
    })
}

/// A waiting unblock: (promise …, retry, address).
pub fn waiting_unblock(row: &SqliteRow) -> Result<Waiting> {
    let mut columns = Columns::of(row);
    Ok(Waiting::Unblock {
        promise: columns.promise()?.decode()?,
        retry_at: columns.take()?,
        address: columns.id()?,
    })
}

/// A key of a listener: (promise id, address).
pub fn listener_key(row: &SqliteRow) -> Result<(Id, Id)> {
    let mut columns = Columns::of(row);
    Ok((columns.id()?, columns.id()?))
}
