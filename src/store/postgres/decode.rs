//! How a cell of a PostgreSQL row is read, and rows that remember at which revision they were.

use sqlx::postgres::PgRow;
use sqlx::{Column, Row};

use crate::machine::object::Object;
use crate::protocol::record::Schedule;
use crate::store::Result;
use crate::store::columns::{Cells, Columns};

impl Cells for PgRow {
    fn text(&self, index: usize) -> sqlx::Result<Option<&str>> {
        self.try_get(index)
    }

    fn number(&self, index: usize) -> sqlx::Result<Option<i64>> {
        self.try_get(index)
    }

    fn flag(&self, index: usize) -> sqlx::Result<bool> {
        self.try_get(index)
    }

    fn name(&self, index: usize) -> Option<&str> {
        self.columns().get(index).map(Column::name)
    }
}

/// A row that remembers at which revision it was read: of an object its promise's and its task's.
pub struct Revised<T> {
    pub row: T,
    pub rev: i64,
    pub task_rev: Option<i64>,
}

/// An object of a batch.
pub fn revised_object(row: &PgRow) -> Result<Revised<Object>> {
    let mut columns = Columns::of(row);
    Ok(Revised {
        row: columns.object()?,
        rev: columns.number()?,
        task_rev: columns.number_or_null()?,
    })
}

/// A schedule of a batch.
pub fn revised_schedule(row: &PgRow) -> Result<Revised<Schedule>> {
    let mut columns = Columns::of(row);
    Ok(Revised {
        row: columns.schedule()?,
        rev: columns.number()?,
        task_rev: None,
    })
}
