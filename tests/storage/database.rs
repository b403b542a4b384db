//! The databases that the other tests stand on.

use sqlx::Connection;
use sqlx::postgres::PgConnection;

use crate::harness::database::Database;
use crate::harness::postgres::{Postgres, Stop};

#[tokio::test]
async fn a_cluster_of_a_tests_own_is_stopped_and_crashed_without_loss() {
    let mut cluster = Postgres::start();
    let database = Database::fresh_on(cluster.url());
    let mut connection = PgConnection::connect(&database.url()).await.unwrap();
    sqlx::query("CREATE TABLE t (n int)")
        .execute(&mut connection)
        .await
        .unwrap();
    for (n, how) in (1..).zip([Stop::Immediate, Stop::Fast]) {
        let mut connection = PgConnection::connect(&database.url()).await.unwrap();
        sqlx::query("INSERT INTO t VALUES ($1)")
            .bind(n)
            .execute(&mut connection)
            .await
            .unwrap();
        cluster.stop(how);
        assert!(PgConnection::connect(&database.url()).await.is_err());
        cluster.start_again();
        let mut connection = PgConnection::connect(&database.url()).await.unwrap();
        let count: i64 = sqlx::query_scalar("SELECT count(*) FROM t")
            .fetch_one(&mut connection)
            .await
            .unwrap();
        assert_eq!(count, i64::from(n));
    }
}
