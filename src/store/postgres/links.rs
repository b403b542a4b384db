//! Connections in reserve.
//!
//! sqlx's pool asks a connection whether it lives each time it is given back: a round trip for every
//! statement. Here a connection is given back only after a statement that went well, and closed
//! otherwise: by an error, a timeout, or a caller that stopped waiting half-way.

use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use sqlx::postgres::PgConnectOptions;
use sqlx::{ConnectOptions, Connection, PgConnection};
use tokio::sync::{Semaphore, SemaphorePermit};
use tokio::time::{Instant, timeout};

use crate::store::{Error, Pool, Result};
use crate::telemetry::metrics::METRICS;

use super::error::{classify, is_connection_suspect};

/// How long a caller waits for a connection to be free, and then for one to be made.
pub const LINK_WAIT_MAX: Duration = Duration::from_secs(5);

/// A bounded number of connections, made when they are needed.
pub struct Links {
    /// As metrics name them.
    name: &'static str,
    links_max: usize,
    options: PgConnectOptions,
    /// What every connection is told when it is made.
    settings: &'static str,
    /// How long a statement may take before its connection is given up.
    patience: Duration,
    idle: Mutex<Vec<PgConnection>>,
    permits: Semaphore,
}

impl Links {
    /// No connection yet, and at most `links_max` at a time.
    pub fn new(
        name: &'static str,
        options: PgConnectOptions,
        settings: &'static str,
        patience: Duration,
        links_max: usize,
    ) -> Self {
        Links {
            name,
            links_max,
            options,
            settings,
            patience,
            idle: Mutex::default(),
            permits: Semaphore::new(links_max),
        }
    }

    /// Takes a connection, or makes one.
    ///
    /// # Errors
    /// [`Error::Unavailable`] when all are taken or none can be made for [`LINK_WAIT_MAX`].
    pub async fn take(&self) -> Result<Link<'_>> {
        let began = Instant::now();
        let permit = timeout(LINK_WAIT_MAX, self.permits.acquire()).await;
        METRICS.storage_wait(self.name, began.elapsed());
        let permit = permit
            .map_err(|_| Error::Unavailable("all database connections are busy".to_owned()))?
            .map_err(|_| Error::Unavailable("the database is closed".to_owned()))?;
        let idle = self.lock().pop();
        let connection = match idle {
            Some(connection) => connection,
            None => self.connect().await?,
        };
        Ok(Link {
            links: self,
            connection: Some(connection),
            is_clean: true,
            _permit: permit,
        })
    }

    /// How many are taken.
    pub fn in_use(&self) -> Pool {
        let free = self.permits.available_permits();
        Pool {
            name: self.name,
            used: self.links_max.saturating_sub(free),
            max: self.links_max,
        }
    }

    async fn connect(&self) -> Result<PgConnection> {
        let connecting = timeout(LINK_WAIT_MAX, async {
            let mut connection = self.options.connect().await?;
            let settings = sqlx::raw_sql(self.settings);
            settings.execute(&mut connection).await?;
            Ok(connection)
        });
        match connecting.await {
            Ok(made) => made.map_err(|error| classify(&error)),
            Err(_) => Err(Error::Unavailable(
                "the database takes no connection".to_owned(),
            )),
        }
    }

    /// Closes what is idle, and lets nobody in any more.
    pub async fn close(&self) {
        self.permits.close();
        let idle = std::mem::take(&mut *self.lock());
        for connection in idle {
            // It is given up either way.
            let _ = timeout(Duration::from_secs(1), connection.close()).await;
        }
    }

    fn lock(&self) -> MutexGuard<'_, Vec<PgConnection>> {
        self.idle.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// A connection in use.
pub struct Link<'a> {
    links: &'a Links,
    connection: Option<PgConnection>,
    is_clean: bool,
    _permit: SemaphorePermit<'a>,
}

impl Link<'_> {
    /// Waits for a statement on this connection. If it fails by more than the statement's own fault, or
    /// nobody waits for it any more, the connection is closed.
    ///
    /// # Errors
    /// See [`classify`].
    pub async fn run<T>(
        &mut self,
        statement: impl AsyncFnOnce(&mut PgConnection) -> sqlx::Result<T>,
    ) -> Result<T> {
        let Some(connection) = self.connection.as_mut() else {
            return Err(Error::Unavailable("the connection is closed".to_owned()));
        };
        self.is_clean = false;
        let outcome = timeout(self.links.patience, statement(connection)).await;
        let error = match outcome {
            Ok(Ok(value)) => {
                self.is_clean = true;
                return Ok(value);
            }
            Ok(Err(error)) => error,
            Err(_) => {
                self.connection = None;
                return Err(Error::Unavailable(
                    "the database did not answer in time".to_owned(),
                ));
            }
        };
        if is_connection_suspect(&error) {
            self.connection = None;
            // What broke this one has likely broken those in reserve.
            self.links.lock().clear();
        } else {
            self.is_clean = true;
        }
        Err(classify(&error))
    }
}

impl Link<'_> {
    /// Whether the connection was closed, so that nobody knows what became of its last statement.
    pub fn is_lost(&self) -> bool {
        self.connection.is_none()
    }
}

impl Drop for Link<'_> {
    fn drop(&mut self) {
        if let Some(connection) = self.connection.take().filter(|_| self.is_clean) {
            self.links.lock().push(connection);
        }
    }
}
