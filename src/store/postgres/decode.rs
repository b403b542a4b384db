//! Result rows as objects: reads columns in the order in which [`super::sql`] selects them.

use sqlx::postgres::{PgRow, Postgres};
use sqlx::{Column, Decode, Row, Type};

use crate::machine::object::Object;
use crate::protocol::record::{Id, Promise, Schedule};
use crate::store::rows::{ObjectColumns, PromiseColumns, ScheduleColumns, TaskColumns};
use crate::store::{Deadline, DeadlineKey, Error, Result, Waiting};

/// A row that remembers at which revision it was read: of an object its promise's and its task's.
pub struct Revised<T> {
    pub row: T,
    pub rev: i64,
    pub task_rev: Option<i64>,
}

/// The columns of a row, from the left.
struct Columns<'r> {
    row: &'r PgRow,
    next: usize,
}

impl<'r> Columns<'r> {
    fn of(row: &'r PgRow) -> Self {
        Columns { row, next: 0 }
    }

    fn take<T: Decode<'r, Postgres> + Type<Postgres>>(&mut self) -> Result<T> {
        let index = self.next;
        self.next += 1;
        self.row.try_get(index).map_err(|error| {
            let name = self.row.columns().get(index).map(Column::name);
            let id: &str = self.row.try_get(0).unwrap_or("unreadable");
            let column = name.unwrap_or("unknown column");
            Error::Corrupt(format!("{column} of {id:?}: {error}"))
        })
    }

    fn id(&mut self) -> Result<Id> {
        Ok(self.take::<&str>()?.into())
    }

    fn json_array(&mut self) -> Result<&'r str> {
        Ok(self.take::<Option<&str>>()?.unwrap_or("[]"))
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

    fn object(&mut self) -> Result<Object> {
        ObjectColumns {
            promise: self.promise()?,
            armed: self.take()?,
            task: self.task()?,
            callbacks: self.json_array()?,
            listeners: self.json_array()?,
        }
        .decode()
    }

    fn schedule(&mut self) -> Result<Schedule> {
        ScheduleColumns {
            id: self.take()?,
            cron: self.take()?,
            promise_id: self.take()?,
            promise_timeout: self.take()?,
            promise_param: self.take()?,
            promise_tags: self.take()?,
            created_at: self.take()?,
            next_run_at: self.take()?,
            last_run_at: self.take()?,
        }
        .decode()
    }
}

/// An id.
pub fn id(row: &PgRow) -> Result<Id> {
    Columns::of(row).id()
}

/// A promise alone.
pub fn promise(row: &PgRow) -> Result<Promise> {
    Columns::of(row).promise()?.decode()
}

/// An object.
pub fn object(row: &PgRow) -> Result<Object> {
    Columns::of(row).object()
}

/// An object of a batch.
pub fn revised_object(row: &PgRow) -> Result<Revised<Object>> {
    let mut columns = Columns::of(row);
    Ok(Revised {
        row: columns.object()?,
        rev: columns.take()?,
        task_rev: columns.take()?,
    })
}

/// A schedule.
pub fn schedule(row: &PgRow) -> Result<Schedule> {
    Columns::of(row).schedule()
}

/// A schedule of a batch.
pub fn revised_schedule(row: &PgRow) -> Result<Revised<Schedule>> {
    let mut columns = Columns::of(row);
    Ok(Revised {
        row: columns.schedule()?,
        rev: columns.take()?,
        task_rev: None,
    })
}

/// A deadline: (instant, kind, id, address).
pub fn deadline(row: &PgRow) -> Result<Deadline> {
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
pub fn waiting_execute(row: &PgRow) -> Result<Waiting> {
    let mut columns = Columns::of(row);
    Ok(Waiting::Execute {
        retry_at: columns.take()?,
        id: columns.id()?,
        address: columns.id()?,
        version: columns.take()?,
    })
}

/// A waiting unblock: (promise …, retry, address).
pub fn waiting_unblock(row: &PgRow) -> Result<Waiting> {
    let mut columns = Columns::of(row);
    Ok(Waiting::Unblock {
        promise: columns.promise()?.decode()?,
        retry_at: columns.take()?,
        address: columns.id()?,
    })
}

/// A key of a listener: (promise id, address).
pub fn listener_key(row: &PgRow) -> Result<(Id, Id)> {
    let mut columns = Columns::of(row);
    Ok((columns.id()?, columns.id()?))
}
