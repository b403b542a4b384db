//! What there is to know of a database without changing anything.

use std::time::Duration;

use sqlx::{Connection, PgConnection, Row};
use tokio::time::timeout;

use super::connect::{self, Use};
use super::error::classify;
use super::sql;
use crate::protocol::record::Millis;
use crate::store::{Error, Result};

/// By this name the database shows the connection.
const NAME: &str = "resonate doctor";

const SETTINGS: &str = "
    SET statement_timeout = '10s'; SET client_min_messages = warning;
    SET default_transaction_read_only = on";

/// Longer is not waited for.
const PATIENCE: Duration = Duration::from_secs(10);

/// A database that is being looked at.
pub struct Inspection {
    connection: PgConnection,
    /// Host, port and database.
    pub place: String,
    /// Of PostgreSQL.
    pub version: String,
    /// Its schema version; none if it has no tables yet.
    pub schema: Option<i64>,
    /// How many connections servers have to it.
    pub servers: i64,
    /// How many connections it takes at most.
    pub connections_max: i64,
    /// Whether an acknowledged commit is on the disk: `fsync` and `synchronous_commit`.
    pub is_synced: bool,
}

impl Inspection {
    /// Connects and looks.
    ///
    /// # Errors
    /// [`Error::Unusable`] when it cannot be reached, or a server could not use it.
    pub async fn open(url: &str) -> Result<Inspection> {
        let options = connect::options(url, NAME)?;
        let place = connect::place(&options);
        let looking = async {
            let mut connection = connect::connect(&options, &place, SETTINGS).await?;
            connect::check_server(&mut connection, &place, Use::Writes).await?;
            let schema = connect::schema_of(&mut connection, &place).await?;
            let newest = connect::newest_schema();
            connect::check_compatibility(&mut connection, &place, newest).await?;
            let servers = connect::servers(&mut connection, &place).await?;
            let row = sqlx::query(
                "SELECT current_setting('server_version'), current_setting('max_connections')::bigint,
                    current_setting('fsync')::bool AND current_setting('synchronous_commit') <> 'off'",
            )
            .fetch_one(&mut connection)
            .await
            .map_err(|error| classify(&error))?;
            Ok(Inspection {
                connection,
                version: row.try_get(0).map_err(|error| classify(&error))?,
                connections_max: row.try_get(1).map_err(|error| classify(&error))?,
                is_synced: row.try_get(2).map_err(|error| classify(&error))?,
                schema,
                servers,
                place: place.clone(),
            })
        };
        match timeout(PATIENCE, looking).await {
            Ok(found) => found,
            Err(_) => Err(Error::Unusable(format!(
                "the database {place} does not answer"
            ))),
        }
    }

    /// What its clock says.
    ///
    /// # Errors
    /// When it does not answer.
    pub async fn now(&mut self) -> Result<Millis> {
        let now = sqlx::query_scalar(sql::CLOCK).fetch_one(&mut self.connection);
        now.await.map_err(|error| classify(&error))
    }

    /// Lets go of it.
    pub async fn close(self) {
        // It was only looked at.
        self.connection.close().await.ok();
    }
}
