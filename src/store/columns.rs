//! Result rows as objects, for every SQL back end: which columns are selected, and how they are read, in
//! that order. A back end says how one cell of its rows is read ([`Cells`]).

use std::sync::Arc;

use crate::machine::object::Object;
use crate::protocol::record::{Id, Millis, Promise, Schedule};

use super::rows::{ObjectColumns, PromiseColumns, ScheduleColumns, TaskColumns, resumes_of, trace};
use super::{Deadline, DeadlineKey, Error, Kind, Outline, Result, Waiting};

/// The columns of a promise `p`, as [`promise`] reads them.
macro_rules! promise_columns {
    () => {
        "p.id, p.state, p.timeout_at, p.created_at, p.settled_at, p.tags, p.value, p.param"
    };
}
pub(super) use promise_columns;

/// The columns of a promise `p` and its task `t`, as [`object`] reads them before the callbacks and
/// listeners.
macro_rules! object_columns {
    () => {
        concat!(
            $crate::store::columns::promise_columns!(),
            ", p.armed, t.state, t.version, t.pid, t.ttl, t.expires_at, t.retry_at, t.offer_at, \
             t.claimed_at, t.releases, t.resumes, t.traceparent"
        )
    };
}
pub(super) use object_columns;

/// The columns of a schedule `s`, as [`schedule`] reads them.
macro_rules! schedule_columns {
    () => {
        "s.id, s.cron, s.promise_id, s.promise_timeout, s.promise_param, s.promise_tags, \
         s.created_at, s.next_run_at, s.last_run_at"
    };
}
pub(super) use schedule_columns;

/// A result row whose cells are read by their place.
pub trait Cells {
    /// A text, or NULL.
    fn text(&self, index: usize) -> sqlx::Result<Option<&str>>;

    /// A number, or NULL.
    fn number(&self, index: usize) -> sqlx::Result<Option<i64>>;

    /// Yes or no.
    fn flag(&self, index: usize) -> sqlx::Result<bool>;

    /// What the column is called.
    fn name(&self, index: usize) -> Option<&str>;
}

/// The columns of a row, from the left.
pub struct Columns<'r, R> {
    row: &'r R,
    next: usize,
}

impl<'r, R: Cells> Columns<'r, R> {
    /// Starts at the left.
    pub fn of(row: &'r R) -> Self {
        Columns { row, next: 0 }
    }

    fn take<T>(&mut self, read: impl FnOnce(&'r R, usize) -> sqlx::Result<T>) -> Result<T> {
        let index = self.next;
        self.next += 1;
        read(self.row, index).map_err(|error| self.corrupt(index, &error))
    }

    fn corrupt(&self, index: usize, detail: &dyn std::fmt::Display) -> Error {
        let id = self.row.text(0).ok().flatten().unwrap_or("unreadable");
        let column = self.row.name(index).unwrap_or("unknown column");
        Error::Corrupt(format!("{column} of {id:?}: {detail}"))
    }

    fn filled<T>(&self, cell: Option<T>) -> Result<T> {
        cell.ok_or_else(|| self.corrupt(self.next - 1, &"NULL"))
    }

    fn text(&mut self) -> Result<&'r str> {
        let cell = self.text_or_null()?;
        self.filled(cell)
    }

    fn text_or_null(&mut self) -> Result<Option<&'r str>> {
        self.take(|row, index| row.text(index))
    }

    /// The next number.
    ///
    /// # Errors
    /// [`Error::Corrupt`], naming the column and the id.
    pub fn number(&mut self) -> Result<i64> {
        let cell = self.number_or_null()?;
        self.filled(cell)
    }

    /// The next number, or NULL.
    ///
    /// # Errors
    /// [`Error::Corrupt`], naming the column and the id.
    pub fn number_or_null(&mut self) -> Result<Option<i64>> {
        self.take(|row, index| row.number(index))
    }

    fn id(&mut self) -> Result<Id> {
        Ok(self.text()?.into())
    }

    fn promise(&mut self) -> Result<PromiseColumns<'r>> {
        Ok(PromiseColumns {
            id: self.text()?,
            state: self.text()?,
            timeout_at: self.number()?,
            created_at: self.number()?,
            settled_at: self.number_or_null()?,
            tags: self.text()?,
            value: self.text()?,
            param: self.text()?,
        })
    }

    fn task(&mut self) -> Result<Option<TaskColumns<'r>>> {
        let Some(state) = self.text_or_null()? else {
            self.next += 10;
            return Ok(None);
        };
        Ok(Some(TaskColumns {
            state,
            version: self.number()?,
            pid: self.text_or_null()?,
            ttl: self.number_or_null()?,
            expires_at: self.number_or_null()?,
            retry_at: self.number_or_null()?,
            offer_at: self.number_or_null()?,
            claimed_at: self.number_or_null()?,
            releases: self.number()?,
            resumes: self.text()?,
            traceparent: self.text_or_null()?,
        }))
    }

    /// The next columns as an object.
    ///
    /// # Errors
    /// [`Error::Corrupt`], naming the column and the id.
    pub fn object(&mut self) -> Result<Object> {
        ObjectColumns {
            promise: self.promise()?,
            armed: self.take(|row, index| row.flag(index))?,
            task: self.task()?,
            callbacks: self.text_or_null()?.unwrap_or("[]"),
            listeners: self.text_or_null()?.unwrap_or("[]"),
        }
        .decode()
    }

    /// The next columns as a schedule.
    ///
    /// # Errors
    /// [`Error::Corrupt`], naming the column and the id.
    pub fn schedule(&mut self) -> Result<Schedule> {
        ScheduleColumns {
            id: self.text()?,
            cron: self.text()?,
            promise_id: self.text()?,
            promise_timeout: self.number()?,
            promise_param: self.text()?,
            promise_tags: self.text()?,
            created_at: self.number()?,
            next_run_at: self.number()?,
            last_run_at: self.number_or_null()?,
        }
        .decode()
    }
}

/// An id.
pub fn id<R: Cells>(row: &R) -> Result<Id> {
    Columns::of(row).id()
}

/// A promise alone.
pub fn promise<R: Cells>(row: &R) -> Result<Promise> {
    Columns::of(row).promise()?.decode()
}

/// An object.
pub fn object<R: Cells>(row: &R) -> Result<Object> {
    Columns::of(row).object()
}

/// An object, to be shared.
pub fn shared_object<R: Cells>(row: &R) -> Result<Arc<Object>> {
    object(row).map(Arc::new)
}

/// A schedule.
pub fn schedule<R: Cells>(row: &R) -> Result<Schedule> {
    Columns::of(row).schedule()
}

/// A deadline: (instant, kind, id, address).
pub fn deadline<R: Cells>(row: &R) -> Result<Deadline> {
    let mut columns = Columns::of(row);
    let at = columns.number()?;
    let kind = columns.number()?;
    let id = columns.id()?;
    let key = match kind {
        0 => DeadlineKey::Promise(id),
        1 => DeadlineKey::Schedule(id),
        _ => DeadlineKey::Unblock(id, columns.id()?),
    };
    Ok(Deadline { at, key })
}

/// A waiting execute: (retry, id, address, version, traceparent).
pub fn waiting_execute<R: Cells>(row: &R) -> Result<Waiting> {
    let mut columns = Columns::of(row);
    Ok(Waiting::Execute {
        retry_at: columns.number()?,
        id: columns.id()?,
        address: columns.id()?,
        version: columns.number()?,
        trace: trace(columns.text_or_null()?),
    })
}

/// A waiting unblock: (promise …, retry, address).
pub fn waiting_unblock<R: Cells>(row: &R) -> Result<Waiting> {
    let mut columns = Columns::of(row);
    Ok(Waiting::Unblock {
        promise: columns.promise()?.decode()?,
        retry_at: columns.number()?,
        address: columns.id()?,
        is_backing_off: columns.number()? > 0,
    })
}

/// The columns of a promise, and what its task was told of.
pub fn outline<R: Cells>(row: &R) -> Result<Outline> {
    let mut columns = Columns::of(row);
    let promise = columns.promise()?;
    let resumes = columns.text()?;
    Ok(Outline {
        promise: promise.decode()?,
        resumes: resumes_of(promise.id, resumes)?,
    })
}

/// A key of a listener: (promise id, address).
pub fn listener_key<R: Cells>(row: &R) -> Result<(Id, Id)> {
    let mut columns = Columns::of(row);
    Ok((columns.id()?, columns.id()?))
}

/// How many there are of a kind in a state, and the last of them by id.
pub fn state_count<R: Cells>(row: &R, kind: Kind) -> Result<(&'static str, usize, Id)> {
    let mut columns = Columns::of(row);
    let name = columns.id()?;
    let state = kind.states().iter().find(|state| *name == ***state);
    let state = state.ok_or_else(|| Error::Corrupt(format!("state {name}")))?;
    let count = usize::try_from(columns.number()?).unwrap_or(0);
    Ok((*state, count, columns.id()?))
}

/// How many messages wait for an address, and since when.
pub fn count<R: Cells>(row: &R) -> Result<(Id, usize, Millis)> {
    let mut columns = Columns::of(row);
    let address = columns.id()?;
    let count = columns.number()?;
    Ok((
        address,
        usize::try_from(count).unwrap_or(0),
        columns.number()?,
    ))
}
