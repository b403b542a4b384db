//! What the URL of a PostgreSQL database says of the connection: role, password, TLS.

use std::time::{Duration, Instant};

use serde_json::json;
use sqlx::Connection;
use sqlx::postgres::PgConnection;

use crate::harness::database::Database;
use crate::harness::http::DEADLINE;
use crate::harness::record;
use crate::harness::server::{Exit, Server, run_to_exit};

const PASSWORD: &str = "locked-password";

/// The URL of a database for the role that needs its password.
fn url(database: &Database, password: &str, tls: &str) -> String {
    let mut url = url::Url::parse(&database.url()).expect("a URL");
    url.set_username("locked").expect("it has a host");
    url.set_password(Some(password)).expect("it has a host");
    url.set_query(Some(tls));
    url.into()
}

fn certificate() -> String {
    std::env::var("RESONATE_TEST_POSTGRES_CERTIFICATE").expect("tests/postgres.py says where it is")
}

fn refused(url: &str) -> Exit {
    let home = tempfile::tempdir().expect("a temporary directory can be made");
    let args = ["serve", "--server-port", "0", "--storage-type", "postgres"];
    run_to_exit(
        &args,
        &[("RESONATE_STORAGE__POSTGRES__URL", url)],
        home.path(),
    )
}

#[tokio::test]
async fn a_role_with_a_password_is_served_over_tls_that_is_verified() {
    let database = Database::fresh();
    let verified = format!("sslmode=verify-full&sslrootcert={}", certificate());
    let server = Server::on(&url(&database, PASSWORD, &verified), &["--level", "trace"]);
    server.ok(
        "promise.create",
        record::create("p", i64::MAX, json!({"resonate:target": "poll://any@g"})),
    );
    let mut connection = PgConnection::connect(&database.url()).await.unwrap();
    let deadline = Instant::now() + DEADLINE;
    let connections = loop {
        let connections: Vec<(String, bool)> = sqlx::query_as(
            "SELECT a.application_name, s.ssl
             FROM pg_stat_activity AS a JOIN pg_stat_ssl AS s USING (pid)
             WHERE a.usename = 'locked' AND a.datname = current_database()",
        )
        .fetch_all(&mut connection)
        .await
        .unwrap();
        let has_all = ["resonate", "resonate-listen"]
            .iter()
            .all(|wanted| connections.iter().any(|(name, _)| name == wanted));
        if has_all {
            break connections;
        }
        assert!(Instant::now() < deadline, "{connections:?}");
        tokio::time::sleep(Duration::from_millis(10)).await;
    };
    assert!(connections.iter().all(|(_, is_encrypted)| *is_encrypted));
    assert!(!server.log().contains(PASSWORD), "{}", server.log());
}

#[test]
fn who_cannot_be_verified_or_does_not_let_us_in_is_refused_without_the_password() {
    let database = Database::fresh();
    let unverified = refused(&url(&database, PASSWORD, "sslmode=verify-full"));
    let wrong = refused(&url(&database, "wrong-password", "sslmode=require"));
    for (exit, password) in [(unverified, PASSWORD), (wrong, "wrong-password")] {
        assert_eq!(exit.code, Some(1), "{exit:?}");
        assert!(exit.stderr.contains("cannot use the database"), "{exit:?}");
        assert!(!exit.stderr.contains(password), "{exit:?}");
    }
}
