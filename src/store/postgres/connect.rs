//! From a URL to a database with the current schema.

use std::str::FromStr;
use std::time::Duration;

use sqlx::migrate::Migrator;
use sqlx::postgres::PgConnectOptions;
use sqlx::{ConnectOptions, Connection, PgConnection, Row};

use crate::store::{Error, Result};

use super::error::{explain_migration, explain_open};

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

/// A database that is ready to be used.
pub struct Opened {
    /// To make connections with.
    pub options: PgConnectOptions,
}

/// Connects, checks what is there, and migrates.
pub async fn open(url: &str) -> Result<Opened> {
    // The text of a URL that does not parse may hold a password: say nothing of it.
    let options = PgConnectOptions::from_str(url)
        .map_err(|error| Error::Unusable(format!("storage.postgres.url: {error}")))?
        .application_name("resonate")
        .disable_statement_logging();
    let place = &place(&options);
    let connecting = tokio::time::timeout(CONNECT_MAX, options.connect()).await;
    let mut connection = connecting
        .map_err(|_| Error::Unusable(format!("the database {place} does not answer")))?
        .map_err(|error| explain_open(&error, place))?;
    let quietly = sqlx::raw_sql("SET client_min_messages = warning");
    let told = quietly.execute(&mut connection).await;
    told.map_err(|error| explain_open(&error, place))?;
    check_server(&mut connection, place).await?;
    migrate(&mut connection, place, &migrations()).await?;
    // It is of no further use either way.
    connection.close().await.ok();
    Ok(Opened { options })
}

/// Host, port and database, as errors name them.
fn place(options: &PgConnectOptions) -> String {
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

async fn check_server(connection: &mut PgConnection, place: &str) -> Result<()> {
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
    } else if is_standby {
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
fn migrations() -> Migrator {
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

async fn check_compatibility(
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
