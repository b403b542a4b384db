//! What there is to know of a database file without changing anything.

use std::path::{Path, PathBuf};

use sqlx::{ConnectOptions, Connection};

use super::error::explain_open;
use super::file::{self, LockFile};
use crate::protocol::record::Millis;
use crate::store::Result;

/// What was found.
#[derive(Clone, Debug)]
pub struct Inspection {
    /// The one name of the file.
    pub path: PathBuf,
    /// Whether it is there.
    pub is_there: bool,
    /// Whether a server, or an import, uses it.
    pub is_used: bool,
    /// Its schema version; none if it has no tables yet.
    pub schema: Option<i64>,
    /// When the youngest promise was created.
    pub youngest_at: Option<Millis>,
}

/// Looks at a file. Makes none, not even those that SQLite keeps beside one.
///
/// # Errors
/// [`crate::store::Error::Unusable`] when it cannot be read, or is not ours.
pub async fn inspect(path: &Path) -> Result<Inspection> {
    let path = file::canonical(path)?;
    let mut found = Inspection {
        is_there: path.exists(),
        is_used: LockFile::is_taken(&path),
        schema: None,
        youngest_at: None,
        path,
    };
    if !found.is_there {
        return Ok(found);
    }
    let path = &found.path;
    let reading = file::reading(path).read_only(true);
    // What nobody uses is read as it stands.
    let connecting = reading.immutable(file::is_at_rest(path)).connect().await;
    let mut connection = connecting.map_err(|error| explain_open(&error, path))?;
    found.schema = file::schema_of(&mut connection, path).await?;
    if found.schema.is_some() {
        let youngest =
            sqlx::query_scalar("SELECT created_at FROM promises ORDER BY rowid DESC LIMIT 1")
                .fetch_optional(&mut connection)
                .await;
        found.youngest_at = youngest.map_err(|error| explain_open(&error, path))?;
    }
    // What it is closed for was only looked at.
    connection.close().await.ok();
    Ok(found)
}
