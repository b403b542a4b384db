//! Databases that an earlier release has left, and databases that a later one shares.
//!
//! `fixtures/` has a database of every schema that was ever released, as SQL: `sqlite_0001.sql` is one of migration
//! 0001, `0001.json` is what a server answered that it holds. A fixture is never changed. A release with a new migration
//! adds its own and keeps all before it:
//!
//! ```text
//! python3 tests/postgres.py run -- cargo test --test main storage::schema::make_fixtures -- --ignored
//! ```

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use serde_json::{Value, json};
use sqlx::postgres::PgConnection;
use sqlx::sqlite::SqliteConnectOptions;
use sqlx::{AssertSqlSafe, ConnectOptions, Connection, raw_sql};

use super::content::{content, drive, fill};
use crate::harness::database::Database;
use crate::harness::process::Signal;
use crate::harness::server::{Server, run_to_exit};
use crate::harness::sse::Stream;

/// The messages of the fixtures are old: they are not to be given up.
const FLAGS: [&str; 3] = ["--debug", "--messages-unblock-ttl", "9000000000000"];

fn folder() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/storage/fixtures")
}

fn runtime() -> tokio::runtime::Runtime {
    tokio::runtime::Runtime::new().expect("a runtime starts")
}

/// Schema, SQL, and content of all fixtures of a kind of database.
fn fixtures(kind: &str) -> Vec<(String, String, Value)> {
    let mut fixtures = Vec::new();
    for entry in fs::read_dir(folder()).expect("there are fixtures") {
        let path = entry.expect("the entry is readable").path();
        let name = path.file_name().and_then(|name| name.to_str());
        let name = name.expect("file names are UTF-8");
        let schema = name
            .strip_prefix(kind)
            .and_then(|name| name.strip_suffix(".sql"));
        let Some(schema) = schema.and_then(|schema| schema.strip_prefix('_')) else {
            continue;
        };
        let read = |path: &Path| fs::read_to_string(path).expect("a fixture is readable");
        let content = read(&folder().join(format!("{schema}.json")));
        let content = serde_json::from_str(&content).expect("a content is JSON");
        fixtures.push((schema.to_owned(), read(&path), content));
    }
    assert!(!fixtures.is_empty(), "no fixture of {kind}");
    fixtures.sort_by(|one, other| one.0.cmp(&other.0));
    fixtures
}

/// Loads a script into a SQLite file.
fn load_file(path: &Path, sql: &str) {
    let options = SqliteConnectOptions::new().filename(path);
    let options = options.create_if_missing(true).foreign_keys(false);
    let loaded = runtime().block_on(async {
        let mut connection = options.connect().await?;
        let script = raw_sql(AssertSqlSafe(sql.to_owned()));
        script.execute(&mut connection).await?;
        connection.close().await
    });
    loaded.expect("the fixture loads");
}

/// Runs a script on a PostgreSQL database.
fn run(database: &Database, sql: &str) {
    let ran = runtime().block_on(async {
        let mut connection = PgConnection::connect(&database.url()).await?;
        let script = raw_sql(AssertSqlSafe(sql.to_owned()));
        script.execute(&mut connection).await?;
        connection.close().await
    });
    ran.expect("the script runs");
}

/// A database without tables.
fn bare() -> Database {
    let database = Database::own();
    run(
        &database,
        "DROP SCHEMA public CASCADE; CREATE SCHEMA public",
    );
    database
}

fn paused(server: Server) -> Server {
    server.ok("debug.start", json!({}));
    server
}

/// What an earlier release has left is there, and goes on, after another restart too.
fn goes_on(schema: &str, server: Server, left: &Value) {
    let server = paused(server);
    let found = content(&server);
    for (key, left) in left.as_object().expect("an object") {
        assert_eq!(found[key], *left, "{key} of schema {schema}");
    }
    let server = paused(server.restart(Signal::Term));
    assert_eq!(content(&server), found);
    drive(&server);
}

#[test]
fn sqlite_databases_of_every_schema_are_opened_and_go_on() {
    for (schema, sql, left) in fixtures("sqlite") {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("resonate.db");
        load_file(&path, &sql);
        goes_on(&schema, Server::on_file(&path, &FLAGS), &left);
    }
}

#[test]
fn postgres_databases_of_every_schema_are_opened_and_go_on() {
    for (schema, sql, left) in fixtures("postgres") {
        let database = bare();
        run(&database, &sql);
        goes_on(&schema, Server::on(&database.url(), &FLAGS), &left);
    }
}

/// Two servers of different releases on different schemas leave the same thing.
#[test]
fn a_new_database_holds_what_the_fixtures_hold() {
    let folder = tempfile::tempdir().unwrap();
    let server = paused(Server::on_file(&folder.path().join("resonate.db"), &FLAGS));
    fill(&server);
    let (_, _, newest) = fixtures("sqlite").pop().expect("there are some");
    assert_eq!(content(&server), newest);
}

/// The number of the newest migration.
fn newest() -> String {
    let migrations = Path::new(env!("CARGO_MANIFEST_DIR")).join("migrations/sqlite");
    let names = fs::read_dir(migrations).expect("the migrations are there");
    let names = names.map(|entry| entry.expect("the entry is readable").file_name());
    let newest = names.max().expect("there is one");
    let newest = newest.to_str().expect("file names are UTF-8");
    newest.split('_').next().expect("a number").to_owned()
}

fn output(command: &mut Command) -> String {
    let output = command.output().expect("the program runs");
    let told = String::from_utf8_lossy(&output.stderr).into_owned();
    assert!(output.status.success(), "{command:?}: {told}");
    String::from_utf8(output.stdout).expect("SQL is UTF-8")
}

#[test]
#[ignore = "makes the fixtures of a release, with python3 and pg_dump"]
fn make_fixtures() {
    let schema = newest();
    let write = |name: String, text: &str| fs::write(folder().join(name), text).unwrap();

    let temporary = tempfile::tempdir().unwrap();
    let path = temporary.path().join("resonate.db");
    let server = paused(Server::on_file(&path, &FLAGS));
    fill(&server);
    let server = paused(server.restart(Signal::Term));
    let left = serde_json::to_string_pretty(&content(&server)).unwrap();
    write(format!("{schema}.json"), &format!("{left}\n"));
    server.restart(Signal::Term);
    let dump = "import sqlite3, sys
c = sqlite3.connect(sys.argv[1])
print(f'PRAGMA application_id = {c.execute(\"PRAGMA application_id\").fetchone()[0]};')
print(*c.iterdump(), sep='\\n')";
    let sql = output(Command::new("python3").arg("-c").arg(dump).arg(&path));
    write(format!("sqlite_{schema}.sql"), &sql);

    let database = bare();
    let server = paused(Server::on(&database.url(), &FLAGS));
    fill(&server);
    server.restart(Signal::Term);
    let sql = output(
        Command::new("pg_dump")
            .args(["--inserts", "--no-owner", "--no-privileges", "--dbname"])
            .arg(database.url()),
    );
    // What only psql understands.
    let sql = sql.split('\n').filter(|line| !line.starts_with('\\'));
    write(
        format!("postgres_{schema}.sql"),
        &sql.collect::<Vec<_>>().join("\n"),
    );
}

/// What the migration of a next release may do while servers of this one run.
const EXPANSION: &str = "
    ALTER TABLE promises ADD COLUMN added TEXT;
    ALTER TABLE tasks ADD COLUMN added BIGINT DEFAULT 7;
    CREATE TABLE added (id TEXT PRIMARY KEY);
    CREATE INDEX promises_added ON promises (added);
    INSERT INTO _sqlx_migrations (version, description, success, checksum, execution_time)
        VALUES (9999, 'of the next release', true, '\\x00', 0)";

#[test]
fn a_rolling_restart_may_expand_the_schema_under_servers_that_run() {
    let database = Database::own();
    let [a, b] = [(); 2].map(|()| Server::on(&database.url(), &[]));
    let far = i64::MAX;
    a.client().create("before", far, json!({}));
    run(&database, EXPANSION);
    // They go on, with what they had prepared and with what they have not.
    let stream = Stream::open(&b, "g", "w");
    a.client().listen("before", "poll://uni@g/w");
    a.client().settle("before", "resolved");
    assert_eq!(stream.next_unblock()["id"], "before");
    a.client().own("task", far, 60_000);
    b.client().create("awaited", far, json!({}));
    b.client()
        .suspend("task", 1, &["awaited"])
        .expect(200, &json!({}));
    // They can be restarted, one after the other.
    let a = a.restart(Signal::Term);
    assert_eq!(
        b.client().settle("awaited", "resolved")["state"],
        "resolved"
    );
    drop(stream);
    let b = b.restart(Signal::Kill);
    let task = a.client().acquire("task", 1, 60_000)["task"].clone();
    assert_eq!(task["version"], 2);
    assert_eq!(b.client().task("task"), task);
    assert_eq!(b.client().get("before")["state"], "resolved");

    // The release after that may do without them: then they must not start.
    run(&database, "UPDATE compatibility SET oldest_schema = 9999");
    let home = tempfile::tempdir().unwrap();
    let exit = run_to_exit(
        &[
            "serve",
            "--server-bind",
            "127.0.0.1",
            "--server-port",
            "0",
            "--observability-metrics-port",
            "0",
            "--storage-type",
            "postgres",
            "--storage-postgres-url",
            &database.url(),
        ],
        &[],
        home.path(),
    );
    let is_told = exit.stderr.contains("is used by a newer resonate")
        && exit.stderr.contains("schema version 9999, this one knows");
    assert!(exit.code == Some(1) && is_told, "{exit:?}");
    // Those that run are not in the way: they stop as ever.
    let mut a = a;
    a.client().create("after", far, json!({}));
    a.signal(Signal::Term);
    assert_eq!(a.wait(), Some(0), "{}", a.log());
}
