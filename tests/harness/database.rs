//! PostgreSQL databases, one per test: clones of a template that was migrated once. Making and
//! dropping one costs hundreds of files, so one that a test has done with is emptied for the next.

use std::collections::hash_map::DefaultHasher;
use std::hash::{Hash, Hasher};
use std::path::Path;
use std::sync::Mutex;
use std::thread;

use resonate::store::Store;
use resonate::store::postgres::PostgresStore;
use sqlx::postgres::PgConnection;
use sqlx::{AssertSqlSafe, Connection, Executor};

use super::server::{lock, unique};

/// Held while a template is looked for and made: tests of several processes start at once.
const TEMPLATE_LOCK: i64 = 0x7265_736f_6e61_7465;

/// What migrations fill; the other tables hold what servers were told.
const KEPT_TABLES: &str = "'_sqlx_migrations', 'compatibility'";

/// Emptied databases of the cluster that the whole run uses.
static SPARE: Mutex<Vec<String>> = Mutex::new(Vec::new());

/// An empty, migrated database, whose schema is not the test's to change unless it says so. Dropping it
/// ends all connections to it.
pub struct Database {
    maintenance_url: String,
    name: String,
    is_recycled: bool,
}

impl Database {
    /// Makes one on the cluster that the whole run uses.
    pub fn fresh() -> Database {
        let maintenance_url = maintenance_url();
        let spare = lock(&SPARE).pop();
        let name = spare.unwrap_or_else(|| clone_template(&maintenance_url));
        Database {
            maintenance_url,
            name,
            is_recycled: true,
        }
    }

    /// Makes one on the cluster that the whole run uses, whose schema is the test's to change.
    pub fn own() -> Database {
        Database::fresh_on(&maintenance_url())
    }

    /// Makes one on the cluster with this maintenance database; in the end it is gone.
    pub fn fresh_on(maintenance_url: &str) -> Database {
        Database {
            maintenance_url: maintenance_url.to_owned(),
            name: clone_template(maintenance_url),
            is_recycled: false,
        }
    }

    pub fn url(&self) -> String {
        url_of(&self.maintenance_url, &self.name)
    }

    async fn empty(&self) -> sqlx::Result<()> {
        let mut connection = PgConnection::connect(&self.url()).await?;
        // Servers that were killed may still have statements under way; each is waited for.
        execute(
            &mut connection,
            "SELECT pg_terminate_backend(pid, 10000) FROM pg_stat_activity
             WHERE datname = current_database() AND pid <> pg_backend_pid()"
                .to_owned(),
        )
        .await?;
        execute(
            &mut connection,
            format!(
                "DO $$ BEGIN EXECUTE (
                     SELECT 'TRUNCATE ' || string_agg(quote_ident(tablename), ', ') FROM pg_tables
                     WHERE schemaname = 'public' AND tablename NOT IN ({KEPT_TABLES})
                 ); END $$"
            ),
        )
        .await?;
        connection.close().await
    }

    async fn remove(&self) -> sqlx::Result<()> {
        let mut connection = PgConnection::connect(&self.maintenance_url).await?;
        execute(
            &mut connection,
            format!("DROP DATABASE \"{}\" WITH (FORCE)", self.name),
        )
        .await?;
        connection.close().await
    }
}

impl Drop for Database {
    fn drop(&mut self) {
        if self.is_recycled && block_on(self.empty()).is_ok() {
            lock(&SPARE).push(std::mem::take(&mut self.name));
            return;
        }
        // The cluster goes with all of its databases, perhaps it has already.
        if let Err(error) = block_on(self.remove()) {
            eprintln!("{} is left behind: {error}", self.name);
        }
    }
}

/// Where databases are made.
fn maintenance_url() -> String {
    std::env::var("RESONATE_TEST_POSTGRES").expect(
        "this test needs PostgreSQL: run `make test`, or \
         `python3 tests/postgres.py run -- cargo test …`",
    )
}

fn url_of(maintenance_url: &str, name: &str) -> String {
    let mut url = url::Url::parse(maintenance_url).expect("RESONATE_TEST_POSTGRES is a URL");
    url.set_path(name);
    url.into()
}

/// Makes a database; answers its name.
fn clone_template(maintenance_url: &str) -> String {
    // Several processes may run tests on one cluster.
    let name = unique(&format!("test-{}", std::process::id()));
    block_on(create(maintenance_url, &name))
        .unwrap_or_else(|error| panic!("no database on {maintenance_url}: {error}"));
    name
}

async fn create(maintenance_url: &str, name: &str) -> sqlx::Result<()> {
    let mut connection = PgConnection::connect(maintenance_url).await?;
    let template = template(&mut connection, maintenance_url).await?;
    execute(
        &mut connection,
        format!("CREATE DATABASE \"{name}\" TEMPLATE \"{template}\""),
    )
    .await?;
    connection.close().await
}

/// The name of the template, which is made if it is not there.
async fn template(connection: &mut PgConnection, maintenance_url: &str) -> sqlx::Result<String> {
    let name = format!("template-{:016x}", fingerprint());
    sqlx::query("SELECT pg_advisory_lock($1)")
        .bind(TEMPLATE_LOCK)
        .execute(&mut *connection)
        .await?;
    let is_there: bool =
        sqlx::query_scalar("SELECT EXISTS (SELECT FROM pg_database WHERE datname = $1)")
            .bind(&name)
            .fetch_one(&mut *connection)
            .await?;
    if !is_there {
        let unfinished = format!("{name}-unfinished");
        for statement in [
            format!("DROP DATABASE IF EXISTS \"{unfinished}\" WITH (FORCE)"),
            format!("CREATE DATABASE \"{unfinished}\""),
        ] {
            execute(connection, statement).await?;
        }
        let store = PostgresStore::open(&url_of(maintenance_url, &unfinished), 1)
            .await
            .expect("an empty database is migrated");
        store.close().await;
        // Nobody may connect: whoever is connected to a template is in the way of its copies.
        for statement in [
            format!("ALTER DATABASE \"{unfinished}\" WITH ALLOW_CONNECTIONS false"),
            format!("ALTER DATABASE \"{unfinished}\" RENAME TO \"{name}\""),
        ] {
            execute(connection, statement).await?;
        }
    }
    sqlx::query("SELECT pg_advisory_unlock($1)")
        .bind(TEMPLATE_LOCK)
        .execute(connection)
        .await?;
    Ok(name)
}

/// Changes with the migrations: a cluster may outlive a change of them.
fn fingerprint() -> u64 {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("migrations/postgres");
    let mut files: Vec<_> = std::fs::read_dir(folder)
        .expect("the migrations are there")
        .map(|entry| entry.expect("the entry is readable").path())
        .collect();
    files.sort();
    let mut hasher = DefaultHasher::new();
    for file in files {
        std::fs::read(file)
            .expect("a migration is readable")
            .hash(&mut hasher);
    }
    hasher.finish()
}

async fn execute(connection: &mut PgConnection, statement: String) -> sqlx::Result<()> {
    connection.execute(AssertSqlSafe(statement)).await?;
    Ok(())
}

/// On a thread of its own, because a test may have a runtime already.
fn block_on<T: Send>(future: impl Future<Output = T> + Send) -> T {
    thread::scope(|scope| {
        scope
            .spawn(|| {
                tokio::runtime::Builder::new_current_thread()
                    .enable_all()
                    .build()
                    .expect("a runtime starts")
                    .block_on(future)
            })
            .join()
            .unwrap_or_else(|panic| std::panic::resume_unwind(panic))
    })
}
