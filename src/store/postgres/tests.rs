//! The suite, and what only a shared database can go through.

use sqlx::{ConnectOptions, Connection, PgConnection};

use super::*;

/// A database of a test's own, dropped at its end.
struct Database {
    name: String,
}

fn maintenance_url() -> url::Url {
    let url = std::env::var("RESONATE_TEST_POSTGRES").expect(
        "RESONATE_TEST_POSTGRES names no PostgreSQL server: run the tests with `make test`, or one of \
         them with `python3 tests/postgres.py run -- cargo test …`",
    );
    url.parse().expect("RESONATE_TEST_POSTGRES is a URL")
}

async fn maintenance() -> PgConnection {
    let options: sqlx::postgres::PgConnectOptions = maintenance_url().as_str().parse().unwrap();
    options.disable_statement_logging().connect().await.unwrap()
}

impl Database {
    async fn fresh() -> Self {
        let name = format!("unit_{:016x}", fastrand::u64(..));
        let mut connection = maintenance().await;
        let create = sqlx::AssertSqlSafe(format!("CREATE DATABASE {name}"));
        sqlx::raw_sql(create)
            .execute(&mut connection)
            .await
            .unwrap();
        connection.close().await.unwrap();
        Database { name }
    }

    fn url(&self) -> String {
        let mut url = maintenance_url();
        url.set_path(&self.name);
        url.into()
    }
}

impl Drop for Database {
    fn drop(&mut self) {
        let name = std::mem::take(&mut self.name);
        // A thread of its own: this one drives the test's runtime.
        let dropped = std::thread::spawn(move || {
            let runtime = tokio::runtime::Builder::new_current_thread();
            let runtime = { runtime }.enable_all().build().unwrap();
            runtime.block_on(async {
                let mut connection = maintenance().await;
                let drop = sqlx::AssertSqlSafe(format!("DROP DATABASE {name} WITH (FORCE)"));
                sqlx::raw_sql(drop).execute(&mut connection).await.unwrap();
            });
        });
        if dropped.join().is_err() && !std::thread::panicking() {
            panic!("a database was not dropped");
        }
    }
}

async fn open() -> (PostgresStore, Database) {
    let database = Database::fresh().await;
    let store = PostgresStore::open(&database.url(), 4).await.unwrap();
    (store, database)
}

crate::store::suite::behaviours!(open);
