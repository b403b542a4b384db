//! From a path to an open, locked database with the current schema.

use std::fs::{self, File, TryLockError};
use std::io;
use std::path::{Path, PathBuf};
use std::sync::Mutex;
use std::time::Duration;

use sqlx::migrate::Migrator;
use sqlx::sqlite::{SqliteConnectOptions, SqliteJournalMode, SqliteSynchronous};
use sqlx::{ConnectOptions, Connection, SqliteConnection};

use crate::store::{Error, Result};

use super::error::{explain_migration, explain_open};

static MIGRATIONS: Migrator = sqlx::migrate!("migrations/sqlite");

/// Marks a file as ours in its header (`PRAGMA application_id`): "Rsnt".
const APPLICATION_ID: i32 = 0x5273_6e74;

/// How long a statement waits for a lock that another program holds.
const BUSY_WAIT_MAX: Duration = Duration::from_secs(5);

/// What a commit survives once it was acknowledged.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Durability {
    /// Power loss and kernel crashes: every commit is fsynced.
    #[default]
    PowerLoss,
    /// Only the end of the process: power loss may take back the latest commits, whole.
    ProcessCrash,
}

/// An open database.
pub struct Opened {
    pub lock: LockFile,
    /// To open the writer again.
    pub options: SqliteConnectOptions,
    /// The writer.
    pub connection: SqliteConnection,
}

/// Opens, locks and migrates.
pub async fn open(path: &Path, durability: Durability) -> Result<Opened> {
    let path = &canonical(path)?;
    let lock = LockFile::take(path)?;
    let plain = SqliteConnectOptions::new()
        .filename(path)
        .create_if_missing(true)
        .busy_timeout(BUSY_WAIT_MAX)
        .disable_statement_logging();
    adopt(&plain, path).await?;
    let options = plain
        .create_if_missing(false)
        .foreign_keys(true)
        .journal_mode(SqliteJournalMode::Wal)
        .synchronous(match durability {
            Durability::PowerLoss => SqliteSynchronous::Full,
            Durability::ProcessCrash => SqliteSynchronous::Normal,
        })
        // On Apple systems fsync alone does not reach the disk; elsewhere these change nothing.
        .pragma("fullfsync", "1")
        .pragma("checkpoint_fullfsync", "1")
        // After a burst, give the disk back.
        .pragma("journal_size_limit", "67108864")
        // In pages: a page that changes often is moved into the database file less often.
        .pragma("wal_autocheckpoint", "4000")
        // The journal that undoes a half-done statement need not reach a disk.
        .pragma("temp_store", "MEMORY")
        // In KiB.
        .pragma("cache_size", "-8192");
    let connect = options.connect().await;
    let mut connection = connect.map_err(|e| explain_open(&e, path))?;
    check_journal_mode(&mut connection, path).await?;
    let migrated = MIGRATIONS.run_direct(None, &mut connection, false).await;
    migrated.map_err(|e| explain_migration(e, path))?;
    Ok(Opened {
        lock,
        options,
        connection,
    })
}

/// The options of a connection that only reads, from those of the writer.
pub fn reader_options(writer: &SqliteConnectOptions) -> SqliteConnectOptions {
    SqliteConnectOptions::new()
        .filename(writer.get_filename())
        .read_only(true)
        .busy_timeout(BUSY_WAIT_MAX)
        .pragma("cache_size", "-8192")
        .disable_statement_logging()
}

/// The options of a connection that reads a file which a server may be using. It leaves nothing behind:
/// where nobody else would, it takes away the log that SQLite makes to read.
pub fn reading(path: &Path) -> SqliteConnectOptions {
    reader_options(&SqliteConnectOptions::new().filename(path)).read_only(!is_at_rest(path))
}

/// Whether nobody uses a file, and there is no log to be read beside it.
pub fn is_at_rest(path: &Path) -> bool {
    let mut log = path.as_os_str().to_owned();
    log.push("-wal");
    !LockFile::is_taken(path) && !Path::new(&log).exists()
}

/// The newest schema version that this release knows.
pub fn newest_schema() -> i64 {
    let versions = MIGRATIONS.iter().map(|migration| migration.version);
    versions.max().unwrap_or_default()
}

/// The schema version of a database of ours; none if it has no tables yet.
///
/// # Errors
/// [`Error::Unusable`] when it is not ours.
pub async fn schema_of(connection: &mut SqliteConnection, path: &Path) -> Result<Option<i64>> {
    let found = async {
        let owner: i32 = sqlx::query_scalar("PRAGMA application_id")
            .fetch_one(&mut *connection)
            .await?;
        let is_migrated: bool = sqlx::query_scalar(
            "SELECT EXISTS (SELECT 1 FROM sqlite_schema WHERE name = '_sqlx_migrations')",
        )
        .fetch_one(&mut *connection)
        .await?;
        let version: Option<i64> = match is_migrated {
            false => None,
            true => {
                sqlx::query_scalar("SELECT max(version) FROM _sqlx_migrations WHERE success")
                    .fetch_one(connection)
                    .await?
            }
        };
        sqlx::Result::Ok((owner, version))
    };
    match found.await.map_err(|e| explain_open(&e, path))? {
        (APPLICATION_ID, version) => Ok(version),
        (0, None) => Ok(None),
        _ => Err(Error::Unusable(format!(
            "{} is a database of another application",
            path.display()
        ))),
    }
}

/// Refuses a file that another release has written: what is not known of it would be left behind.
pub async fn expect_current(connection: &mut SqliteConnection, path: &Path) -> Result<()> {
    let newest = newest_schema();
    let found = schema_of(connection, path).await?;
    if found == Some(newest) {
        return Ok(());
    }
    let found = found.map_or("no schema".to_owned(), |version| {
        format!("schema version {version}")
    });
    Err(Error::Unusable(format!(
        "the database {} has {found}, this resonate needs {newest}: use the release that its server \
         runs, or start a server of this one on it first",
        path.display()
    )))
}

/// The one name of a file that must be there.
pub fn existing(path: &Path) -> Result<PathBuf> {
    let path = canonical(path)?;
    if path.exists() {
        return Ok(path);
    }
    Err(Error::Unusable(format!(
        "there is no database {}",
        path.display()
    )))
}

/// The one name of the file, whatever way leads to it; the file need not exist.
pub fn canonical(path: &Path) -> Result<PathBuf> {
    match fs::canonicalize(path) {
        Ok(found) if found.is_dir() => {
            let message = format!("cannot open the database {}: a directory", path.display());
            return Err(Error::Unusable(message));
        }
        Ok(found) => return Ok(found),
        Err(error) if error.kind() == io::ErrorKind::NotFound => {}
        Err(error) => return Err(unreachable_path(path, &error)),
    }
    let Some(name) = path.file_name() else {
        let message = format!("{} does not name a database file", path.display());
        return Err(Error::Unusable(message));
    };
    let parent = match path.parent() {
        Some(parent) if parent != Path::new("") => parent,
        _ => Path::new("."),
    };
    match fs::canonicalize(parent) {
        Ok(parent) => Ok(parent.join(name)),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Err(Error::Unusable(format!(
            "the directory {} of the database {} does not exist",
            parent.display(),
            path.display()
        ))),
        Err(error) => Err(unreachable_path(path, &error)),
    }
}

fn unreachable_path(path: &Path, error: &io::Error) -> Error {
    Error::Unusable(format!(
        "cannot open the database {}: {error}",
        path.display()
    ))
}

/// Makes sure that the file is ours or new, before anything of it is changed.
async fn adopt(options: &SqliteConnectOptions, path: &Path) -> Result<()> {
    let outcome = async {
        let mut connection = options.connect().await?;
        let tables: i64 = sqlx::query_scalar("SELECT count(*) FROM sqlite_schema")
            .fetch_one(&mut connection)
            .await?;
        let owner: i32 = sqlx::query_scalar("PRAGMA application_id")
            .fetch_one(&mut connection)
            .await?;
        let is_new = tables == 0 && owner == 0;
        if is_new {
            let mark = sqlx::AssertSqlSafe(format!("PRAGMA application_id = {APPLICATION_ID}"));
            sqlx::query(mark).execute(&mut connection).await?;
        }
        connection.close().await?;
        sqlx::Result::Ok(is_new || owner == APPLICATION_ID)
    };
    if outcome.await.map_err(|e| explain_open(&e, path))? {
        return Ok(());
    }
    Err(Error::Unusable(format!(
        "{} is a database of another application",
        path.display()
    )))
}

/// Where the file system has no shared memory, SQLite silently stays with another mode.
async fn check_journal_mode(connection: &mut SqliteConnection, path: &Path) -> Result<()> {
    let mode = sqlx::query_scalar("PRAGMA journal_mode").fetch_one(connection);
    let mode: String = mode.await.map_err(|e| explain_open(&e, path))?;
    if mode == "wal" {
        return Ok(());
    }
    Err(Error::Unusable(format!(
        "the file system of the database {} cannot hold a write-ahead log (mode {mode:?})",
        path.display()
    )))
}

/// The advisory lock that keeps a second server away. The file stays behind, empty: to delete it
/// would let two servers lock two files of one name.
pub struct LockFile(Mutex<Option<File>>);

impl LockFile {
    /// Takes the lock of a database.
    fn take(database: &Path) -> Result<Self> {
        let mut path = database.as_os_str().to_owned();
        path.push(".lock");
        let path = Path::new(&path);
        let fail =
            |error: io::Error| Error::Unusable(format!("cannot lock {}: {error}", path.display()));
        let file = File::options()
            .create(true)
            .truncate(false)
            .write(true)
            .open(path)
            .map_err(fail)?;
        match file.try_lock() {
            Ok(()) => Ok(LockFile(Mutex::new(Some(file)))),
            Err(TryLockError::WouldBlock) => Err(Error::Unusable(format!(
                "the database {} is in use by another resonate server",
                database.display()
            ))),
            Err(TryLockError::Error(error)) => Err(fail(error)),
        }
    }

    /// Whether a server, or an import, has the lock of a database. Makes no file.
    pub fn is_taken(database: &Path) -> bool {
        let mut path = database.as_os_str().to_owned();
        path.push(".lock");
        // Shared, so that two who ask at the same time are not in each other's way.
        let lock = File::open(path).map(|file| file.try_lock_shared());
        matches!(lock, Ok(Err(TryLockError::WouldBlock)))
    }

    /// Lets another server in.
    pub fn release(&self) {
        let mut file = self.0.lock().unwrap_or_else(|poison| poison.into_inner());
        file.take();
    }
}
