//! From a URL to a database with the current schema.

use std::str::FromStr;
use std::time::Duration;

use sqlx::migrate::Migrator;
use sqlx::postgres::PgConnectOptions;
use sqlx::{ConnectOptions, Connection, PgConnection, Row};

use crate::store::{Error, Result};

use super::error::{explain_migration, explain_open};

/// By this name the database shows the connections of servers (`application_name`).
const SERVER_NAME: &str = "resonate";

/// The oldest server version that is supported, as `server_version_num` has it.
const SERVER_VERSION_MIN: i32 = 150_000;

/// How long another server that is bringing the schema up to date is waited for, and the update itself
/// may take, is not bounded; a database that does not answer is given up after this.
const CONNECT_MAX: Duration = Duration::from_secs(30);

/// What every connection for batches and reads is told. Everything is found by keys and indexes: a plan
/// that was made while the tables were small must not read all of one that has grown since, and to plan
/// each statement anew costs as much as to run it. What is abandoned ends by itself.
pub const SETTINGS: &str = "
    SET enable_seqscan = off; SET enable_hashjoin = off; SET enable_mergejoin = off;
    SET enable_bitmapscan = off; SET plan_cache_mode = force_generic_plan; SET jit = off;
    SET default_transaction_isolation = 'read committed'; SET statement_timeout = '10s';
    SET idle_in_transaction_session_timeout = '10s'; SET client_min_messages = warning";

/// What the connection that tells other servers is told. What it says need not survive a crash.
pub const BUS_SETTINGS: &str = "
    SET jit = off; SET synchronous_commit = off; SET statement_timeout = '10s';
    SET client_min_messages = warning";

/// What a connection is told that reads or fills a whole database: it takes as long as it takes, and goes
/// from row to row in the order of the ids.
pub const MOVE_SETTINGS: &str = "
    SET enable_seqscan = off; SET enable_hashjoin = off; SET enable_sort = off;
    SET enable_bitmapscan = off; SET jit = off; SET statement_timeout = 0;
    SET idle_in_transaction_session_timeout = 0; SET lock_timeout = '10s';
    SET client_min_messages = warning";

/// A database that is ready to be used.
pub struct Opened {
    /// To make connections with.
    pub options: PgConnectOptions,
}

/// Connects, checks what is there, and migrates.
pub async fn open(url: &str) -> Result<Opened> {
    let options = options(url, SERVER_NAME)?;
    let place = &place(&options);
    let quietly = "SET client_min_messages = warning";
    let mut connection = connect(&options, place, quietly).await?;
    check_server(&mut connection, place, Use::Writes).await?;
    migrate(&mut connection, place, &migrations()).await?;
    // It is of no further use either way.
    connection.close().await.ok();
    Ok(Opened { options })
}

/// How to connect, and by which name the database shows it.
pub fn options(url: &str, name: &str) -> Result<PgConnectOptions> {
    // The text of a URL that does not parse may hold a password: say nothing of it.
    let options = PgConnectOptions::from_str(url)
        .map_err(|error| Error::Unusable(format!("storage.postgres.url: {error}")))?;
    Ok(options.application_name(name).disable_statement_logging())
}

/// Connects, and tells the connection what it is for.
pub async fn connect(
    options: &PgConnectOptions,
    place: &str,
    settings: &'static str,
) -> Result<PgConnection> {
    let connecting = tokio::time::timeout(CONNECT_MAX, options.connect()).await;
    let mut connection = connecting
        .map_err(|_| Error::Unusable(format!("the database {place} does not answer")))?
        .map_err(|error| explain_open(&error, place))?;
    let told = sqlx::raw_sql(settings).execute(&mut connection).await;
    told.map_err(|error| explain_open(&error, place))?;
    Ok(connection)
}

/// The newest schema version that this release knows.
pub fn newest_schema() -> i64 {
    let migrations = migrations();
    let versions = migrations.iter().map(|migration| migration.version);
    versions.max().unwrap_or_default()
}

/// The schema version of a database; none if it has no tables yet.
pub async fn schema_of(connection: &mut PgConnection, place: &str) -> Result<Option<i64>> {
    let found = async {
        let is_new: bool = sqlx::query_scalar("SELECT to_regclass('_sqlx_migrations') IS NULL")
            .fetch_one(&mut *connection)
            .await?;
        if is_new {
            return Ok(None);
        }
        sqlx::query_scalar("SELECT max(version) FROM _sqlx_migrations WHERE success")
            .fetch_one(connection)
            .await
    };
    let found: sqlx::Result<Option<i64>> = found.await;
    found.map_err(|error| explain_open(&error, place))
}

/// How many connections servers have to this database.
pub async fn servers(connection: &mut PgConnection, place: &str) -> Result<i64> {
    let count = sqlx::query_scalar(
        "SELECT count(*) FROM pg_stat_activity WHERE datname = current_database()
            AND application_name = $1 AND pid <> pg_backend_pid()",
    );
    let count = count.bind(SERVER_NAME).fetch_one(connection).await;
    count.map_err(|error| explain_open(&error, place))
}

/// Host, port and database, as errors name them.
pub fn place(options: &PgConnectOptions) -> String {
    let database = options.get_database().unwrap_or(options.get_username());
    match options.get_socket() {
        Some(socket) => format!("{database:?} at {}", socket.display()),
        None => format!(
            "{database:?} at {}:{}",
            options.get_host(),
            options.get_port()
        ),
    }
}

/// What a database is to be used for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Use {
    /// A standby will do.
    Reads,
    Writes,
}

/// Refuses what cannot be used.
pub async fn check_server(connection: &mut PgConnection, place: &str, wanted: Use) -> Result<()> {
    let row = sqlx::query(
        "SELECT current_setting('server_version_num')::int, current_setting('server_version'),
            pg_is_in_recovery(), current_setting('server_encoding')",
    )
    .fetch_one(&mut *connection)
    .await
    .map_err(|error| explain_open(&error, place))?;
    let column = |error: sqlx::Error| explain_open(&error, place);
    let (number, version): (i32, String) = (
        row.try_get(0).map_err(column)?,
        row.try_get(1).map_err(column)?,
    );
    let (is_standby, encoding): (bool, String) = (
        row.try_get(2).map_err(column)?,
        row.try_get(3).map_err(column)?,
    );
    let objection = if number < SERVER_VERSION_MIN {
        format!("it is PostgreSQL {version}; resonate needs 15 or newer")
    } else if is_standby && wanted == Use::Writes {
        "it is a standby, which takes no writes; name the primary".to_owned()
    } else if encoding != "UTF8" {
        format!("its encoding is {encoding}; resonate needs UTF8")
    } else {
        return Ok(());
    };
    Err(Error::Unusable(format!(
        "cannot use the database {place}: {objection}"
    )))
}

/// Migrations that a newer server has applied are tolerated here; [`migrate`] asks whether they may be.
pub fn migrations() -> Migrator {
    let mut migrations = sqlx::migrate!("migrations/postgres");
    migrations.set_ignore_missing(true);
    migrations
}

/// Brings the schema up to date, under a lock that holds up other servers which start meanwhile. A
/// schema that is newer is fine as long as it says so: servers of two releases run side by side while
/// one replaces the other.
pub async fn migrate(
    connection: &mut PgConnection,
    place: &str,
    migrations: &Migrator,
) -> Result<()> {
    let newest = migrations.iter().map(|migration| migration.version).max();
    let newest = newest.unwrap_or_default();
    check_compatibility(connection, place, newest).await?;
    let migrated = migrations.run_direct(None, connection, false).await;
    migrated.map_err(|error| explain_migration(error, place))
}

/// Refuses a schema that only newer servers may use.
pub async fn check_compatibility(
    connection: &mut PgConnection,
    place: &str,
    newest: i64,
) -> Result<()> {
    let fail = |error: sqlx::Error| explain_open(&error, place);
    let is_new: bool = sqlx::query_scalar("SELECT to_regclass('compatibility') IS NULL")
        .fetch_one(&mut *connection)
        .await
        .map_err(fail)?;
    if is_new {
        return Ok(());
    }
    let oldest: i64 = sqlx::query_scalar("SELECT max(oldest_schema) FROM compatibility")
        .fetch_one(&mut *connection)
        .await
        .map_err(fail)?;
    if oldest <= newest {
        return Ok(());
    }
    Err(Error::Unusable(format!(
        "the database {place} is used by a newer resonate: it wants servers that know its schema \
         version {oldest}, this one knows {newest}"
    )))
}
