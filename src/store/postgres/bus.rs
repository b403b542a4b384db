//! `LISTEN` and `NOTIFY`. A notification is sent by a statement of its own, outside of any batch: in the
//! transaction of a batch it would make all commits of the database wait for each other.

use async_trait::async_trait;
use sqlx::postgres::{PgConnectOptions, PgListener, PgPoolOptions};

use crate::store::bus::{Bus, Subscription};
use crate::store::{Error, Result};

use super::connect::BUS_SETTINGS;
use super::error::classify;
use super::links::Links;
use super::{STATEMENT_MAX, sql};

/// Where the servers of a database meet.
const CHANNEL: &str = "resonate";

/// One connection to speak, and one per subscription to listen.
pub struct PostgresBus {
    options: PgConnectOptions,
    speaker: Links,
}

impl PostgresBus {
    pub fn new(options: PgConnectOptions) -> Self {
        PostgresBus {
            speaker: Links::new("bus", options.clone(), BUS_SETTINGS, STATEMENT_MAX, 1),
            options: options.application_name("resonate-listen"),
        }
    }

    pub async fn close(&self) {
        self.speaker.close().await;
    }
}

#[async_trait]
impl Bus for PostgresBus {
    async fn publish(&self, texts: &[String]) -> Result<()> {
        let mut link = self.speaker.take().await?;
        let sent = link.run(async |connection| {
            sqlx::query(sql::NOTIFY)
                .bind(CHANNEL)
                .bind(texts)
                .execute(connection)
                .await
        });
        sent.await.map(drop)
    }

    async fn subscribe(&self) -> Result<Box<dyn Subscription>> {
        let pool = PgPoolOptions::new()
            .max_connections(1)
            .acquire_timeout(super::links::LINK_WAIT_MAX)
            .connect_lazy_with(self.options.clone());
        let listening = async {
            let mut listener = PgListener::connect_with(&pool).await?;
            // Whoever has lost it begins anew, and looks for what it missed in between.
            listener.eager_reconnect(false);
            listener.listen(CHANNEL).await?;
            Ok(listener)
        };
        match tokio::time::timeout(STATEMENT_MAX, listening).await {
            Ok(Ok(listener)) => Ok(Box::new(Ear(listener))),
            Ok(Err(error)) => Err(classify(&error)),
            Err(_) => Err(Error::Unavailable(
                "the database did not answer in time".to_owned(),
            )),
        }
    }
}

struct Ear(PgListener);

#[async_trait]
impl Subscription for Ear {
    async fn next(&mut self) -> Result<String> {
        match self.0.try_recv().await {
            Ok(Some(notification)) => Ok(notification.payload().to_owned()),
            Ok(None) => Err(Error::Unavailable(
                "the connection that listens was lost".to_owned(),
            )),
            Err(error) => Err(classify(&error)),
        }
    }
}
