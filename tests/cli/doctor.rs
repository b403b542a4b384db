//! `doctor`: what is wrong is found, what is right is not called wrong, and nothing is changed.

use std::fs;
use std::net::TcpListener;
use std::path::Path;

use serde_json::Value;
use sqlx::sqlite::SqliteConnectOptions;
use sqlx::{ConnectOptions, Connection};

use crate::harness::command::{self, Done, run};
use crate::harness::database::Database;
use crate::harness::server::{Server, Storage, free_port};

struct Home(tempfile::TempDir);

impl Home {
    fn new() -> Home {
        Home(tempfile::tempdir().expect("a temporary directory can be made"))
    }

    fn run(&self, args: &[&str], env: &[(&str, &str)]) -> Done {
        let mut command = command::command("", &[&["doctor"], args].concat());
        run(command.current_dir(self.0.path()).envs(env.iter().copied()))
    }

    /// Runs it on ports that are free, unless others are given.
    fn report(&self, args: &[&str], env: &[(&str, &str)]) -> Report {
        let ports = [free_port(), free_port()].map(|port| port.to_string());
        let defaults = [
            ("--server-port", &ports[0]),
            ("--observability-metrics-port", &ports[1]),
        ];
        let mut all = args.to_vec();
        for (flag, port) in &defaults {
            if !args.contains(flag) {
                all.extend([*flag, port.as_str()]);
            }
        }
        let done = self.run(&all, env);
        let report = serde_json::from_str(&done.stdout);
        Report {
            report: report.unwrap_or_else(|error| panic!("{error}: {done:?}")),
            done,
        }
    }
}

struct Report {
    report: Value,
    done: Done,
}

impl Report {
    /// Asserts what a check says.
    #[track_caller]
    fn expect(&self, name: &str, verdict: &str, found: &str) {
        let checks = self.report["checks"].as_array().expect("a list");
        let is_it = |check: &&Value| {
            let text = check["found"].as_str().expect("a text");
            check["name"] == name && check["verdict"] == verdict && text.contains(found)
        };
        assert!(
            checks.iter().any(|check| is_it(&check)),
            "{name} {verdict} {found}: {checks:#?}"
        );
        let hints = checks
            .iter()
            .all(|check| check["verdict"] == "ok" || check["hint"].is_string());
        assert!(hints, "{checks:#?}");
        let has_failed = checks.iter().any(|check| check["verdict"] == "fail");
        assert_eq!(self.done.code, Some(i32::from(has_failed)), "{checks:#?}");
    }

    fn setting(&self, key: &str) -> (&str, Option<&str>) {
        let settings = self.report["settings"].as_array().expect("a list");
        let setting = settings.iter().find(|setting| setting["key"] == key);
        let setting = setting.unwrap_or_else(|| panic!("no {key}"));
        let value = setting["value"].as_str().expect("a text");
        (value, setting["source"].as_str())
    }
}

#[test]
fn nothing_is_made_where_nothing_is() {
    let home = Home::new();
    let report = home.report(&[], &[]);
    report.expect(
        "configuration",
        "ok",
        "2 settings are not at their defaults",
    );
    report.expect("auth", "warn", "0.0.0.0 is listened on");
    report.expect("metrics", "warn", "served on 0.0.0.0:");
    report.expect("retry", "ok", "after 30000 ms");
    report.expect("storage", "ok", "resonate.db is made when a server starts");
    report.expect("disk", "ok", "MiB free");
    report.expect("port", "ok", " is free");
    report.expect("metrics port", "ok", " is free");
    report.expect("clock", "ok", "plausible");
    assert_eq!(fs::read_dir(home.0.path()).unwrap().count(), 0);
}

#[test]
fn every_setting_is_shown_with_its_source_and_no_secret_is() {
    let home = Home::new();
    let file = "unknown = 1\nlevel = \"debug\"\n[storage]\ntype = \"postgres\"\n";
    fs::write(home.0.path().join("resonate.toml"), file).unwrap();
    let env = [
        (
            "RESONATE_STORAGE__POSTGRES__URL",
            "postgres://me:hunter2@127.0.0.1:1/r",
        ),
        ("RESONATE_TRANSPORTS__HTTP_PUSH__AUTH__TOKEN", "hunter2"),
        ("RESONATE_TRANSPORTS__HTTP_PUSH__AUTH__MODE", "bearer"),
    ];
    let report = home.report(&["--server-bind", "127.0.0.1"], &env);
    assert_eq!(
        report.setting("level"),
        ("\"debug\"", Some("resonate.toml"))
    );
    assert_eq!(
        report.setting("server.bind"),
        ("\"127.0.0.1\"", Some("--server-bind"))
    );
    assert_eq!(report.setting("tasks.lease_timeout"), ("15000", None));
    let (url, source) = report.setting("storage.postgres.url");
    assert_eq!(url, "\"postgres://me:***@127.0.0.1:1/r\"");
    assert_eq!(
        source,
        Some("environment variable RESONATE_STORAGE__POSTGRES__URL")
    );
    assert_eq!(
        report.setting("transports.http_push.auth.token").0,
        "\"***\""
    );
    report.expect(
        "configuration",
        "warn",
        "unknown key unknown in resonate.toml is ignored",
    );
    report.expect(
        "storage",
        "fail",
        "cannot use the database \"r\" at 127.0.0.1:1",
    );
    assert!(!format!("{:?}", report.done).contains("hunter2"));

    // For people: a line for each, and where it comes from.
    let text = home.run(&["-o", "text", "--debug"], &env);
    assert!(
        text.stdout.contains("level = \"debug\"  (resonate.toml)"),
        "{text:?}"
    );
    assert!(text.stdout.contains("\nwarn  debug "), "{text:?}");
    assert!(text.stdout.contains("\nfail  storage "), "{text:?}");
    assert!(!format!("{text:?}").contains("hunter2"));
    assert_eq!(text.code, Some(1));
}

#[test]
fn what_a_server_would_not_start_with_fails() {
    let home = Home::new();
    home.report(&["--tasks-retry-timeout", "0"], &[]).expect(
        "configuration",
        "fail",
        "tasks.retry_timeout must be at least 1",
    );
    fs::write(home.0.path().join("resonate.toml"), "= 1").unwrap();
    let report = home.report(&[], &[]);
    report.expect("configuration", "fail", "resonate.toml line 1");
    fs::remove_file(home.0.path().join("resonate.toml")).unwrap();

    let report = home.report(&["--auth-publickey", "none.pem"], &[]);
    report.expect(
        "auth keys",
        "fail",
        "Failed to read public key file 'none.pem'",
    );
    let report = home.report(
        &["--server-tls-cert", "c.pem", "--server-tls-key", "k.pem"],
        &[],
    );
    report.expect("tls", "fail", "server.tls.cert: ");
    fs::write(
        home.0.path().join("text"),
        "no database, whatever it is called",
    )
    .unwrap();
    let report = home.report(&["--storage-sqlite-path", "text"], &[]);
    report.expect("storage", "fail", "text is not an SQLite database");
    let report = home.report(&["--storage-sqlite-path", "no/such.db"], &[]);
    report.expect("storage", "fail", "does not exist");

    let taken = TcpListener::bind("127.0.0.1:0").unwrap();
    let port = taken.local_addr().unwrap().port().to_string();
    let flags = ["--server-bind", "127.0.0.1", "--server-port", &port];
    let report = home.report(&flags, &[]);
    report.expect("port", "fail", "another program listens on 127.0.0.1:");
}

/// Pretends that a newer release has used the file.
fn make_newer(path: &Path) {
    let runtime = tokio::runtime::Runtime::new().expect("a runtime starts");
    let changed = runtime.block_on(async {
        let options = SqliteConnectOptions::new().filename(path);
        let mut connection = options.connect().await?;
        sqlx::query("INSERT INTO _sqlx_migrations VALUES (9999, 'newer', 0, true, x'00', 0)")
            .execute(&mut connection)
            .await?;
        connection.close().await
    });
    changed.expect("the file is a database of ours");
}

#[test]
fn a_server_that_runs_is_recognised() {
    let folder = Home::new();
    let path = folder.0.path().join("live.db");
    let metrics = free_port().to_string();
    let server = Server::on_file(&path, &["--observability-metrics-port", &metrics]);
    server.client().create("p", i64::MAX, serde_json::json!({}));
    let home = Home::new();
    let port = server.addr().port().to_string();
    let database = path.display().to_string();
    let flags = [
        "--server-bind",
        "127.0.0.1",
        "--server-port",
        &port,
        "--observability-metrics-port",
        &metrics,
        "--storage-sqlite-path",
        &database,
    ];
    let report = home.report(&flags, &[]);
    report.expect("port", "ok", "a resonate server answers at 127.0.0.1:");
    report.expect(
        "metrics port",
        "ok",
        "a resonate server answers at 127.0.0.1:",
    );
    report.expect("storage", "ok", "in use by a resonate server");
    report.expect("schema", "ok", "as this resonate needs");
    // It was not disturbed.
    server.client().create("q", i64::MAX, serde_json::json!({}));
    assert!(matches!(server.storage(), Storage::File(_)));
    drop(server);

    make_newer(&path);
    let names = || fs::read_dir(folder.0.path()).unwrap().count();
    let before = names();
    let report = home.report(&["--storage-sqlite-path", &database], &[]);
    report.expect("schema", "fail", "version 9999, of a newer resonate");
    report.expect("storage", "ok", "in use by no server");
    assert_eq!(names(), before);
}

#[test]
fn a_postgres_database_is_looked_at() {
    let home = Home::new();
    let database = Database::fresh();
    let flags = [
        "--storage-type",
        "postgres",
        "--storage-postgres-url",
        &database.url(),
    ];
    let report = home.report(&flags, &[]);
    report.expect("storage", "ok", " 0 connections of resonate servers");
    report.expect("schema", "ok", "as this resonate needs");
    report.expect("clock", "ok", "from the database's");
    let server = Server::on(&database.url(), &[]);
    server.client().create("p", i64::MAX, serde_json::json!({}));
    let report = home.report(&flags, &[]);
    let found = report.report["checks"].to_string();
    assert!(
        !found.contains(" 0 connections of resonate servers"),
        "{found}"
    );
    report.expect("storage", "ok", "connections of resonate servers");
}
