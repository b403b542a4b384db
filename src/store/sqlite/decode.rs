//! How a cell of an SQLite row is read.

use sqlx::sqlite::SqliteRow;
use sqlx::{Column, Row};

use crate::store::columns::Cells;

impl Cells for SqliteRow {
    fn text(&self, index: usize) -> sqlx::Result<Option<&str>> {
        self.try_get(index)
    }

    fn number(&self, index: usize) -> sqlx::Result<Option<i64>> {
        self.try_get(index)
    }

    fn flag(&self, index: usize) -> sqlx::Result<bool> {
        let number: i64 = self.try_get(index)?;
        Ok(number != 0)
    }

    fn name(&self, index: usize) -> Option<&str> {
        self.columns().get(index).map(Column::name)
    }
}
