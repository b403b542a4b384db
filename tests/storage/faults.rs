//! Disks that fail under a SQLite database: nobody is told that something is stored which is not, nothing that
//! was acknowledged is lost, and once the disk is mended the server goes on without a restart.

use std::fs;
use std::path::Path;
use std::sync::mpsc;
use std::thread;

use serde_json::json;
use sqlx::ConnectOptions;
use sqlx::sqlite::SqliteConnectOptions;

use super::power::dump;
use super::writers::Ledger;
use crate::harness::disk::{Disk, Fault, Unsynced};
use crate::harness::process::Signal;
use crate::harness::record::{create, target};
use crate::harness::server::{Server, run_to_exit, serve_args, wall_clock_ms};
use crate::harness::sse::Stream;
use crate::harness::store::is_on_files;

const FAULTS: [Fault; 4] = [Fault::Full, Fault::Write, Fault::Sync, Fault::ReadOnly];
/// Short, so that those who wait for the disk are told soon.
const SOON: [&str; 2] = ["--server-request-deadline", "300"];

#[test]
fn a_disk_that_fails_is_waited_for_and_loses_nothing() {
    if !is_on_files() {
        return;
    }
    for fault in FAULTS {
        let mut disk = Disk::new();
        let mut server = Server::on_disk(&disk, &SOON);
        let mut ledger = Ledger::default();
        let (mended, is_mended) = mpsc::channel();
        thread::scope(|scope| {
            let (server, disk) = (&server, &disk);
            let honest = scope.spawn(move || {
                is_mended.recv().expect("the writers write");
                server.logs("the storage takes no writes; requests are held");
                let refused = server.call("promise.create", create("refused", i64::MAX, json!({})));
                refused.expect_status(503);
                // What is stored can be read.
                let kept = server.call("promise.get", json!({"id": "ww0-0"}));
                kept.expect_status(200);
                assert_eq!(server.get("/health").status(), 200);
                disk.fails_with(Fault::Nothing);
                server.logs("the storage takes writes again");
                // An attempt that was under way may have succeeded after all.
                for id in ["refused", "after"] {
                    let created = server.call("promise.create", create(id, i64::MAX, json!({})));
                    created.expect_status(200);
                }
            });
            let mut after = None;
            ledger.write(server, "w", |count| {
                if count == 200 {
                    disk.fails_with(fault);
                    mended.send(()).expect("somebody waits for it");
                }
                if honest.is_finished() && *after.get_or_insert(count + 100) == count {
                    server.signal(Signal::Kill);
                }
            });
            honest.join().expect("the disk is mended");
        });
        server.wait();
        assert!(disk.failures() > 0, "{fault:?} never happened");
        let log = server.log();
        let out = log.matches("takes no writes").count();
        assert_eq!(out, 1, "{fault:?}: {log}");
        // After a sync that failed, what had been written before it is gone, whatever was synced since.
        disk.loses_power(Unsynced::Lost);
        ledger.check(dump(&disk), &format!("{fault:?}"));
    }
}

#[test]
fn a_disk_that_fails_at_start_is_one_clear_line() {
    if !is_on_files() {
        return;
    }
    let disk = Disk::new();
    drop(Server::on_disk(&disk, &[]));
    // Nothing is synced at start.
    for (fault, reason) in [
        (Fault::Full, "No space left on device"),
        (Fault::Write, "Input/output error"),
        (Fault::ReadOnly, "Read-only file system"),
    ] {
        disk.fails_with(fault);
        let before = disk.failures();
        let path = disk.database().display().to_string();
        let args = serve_args(&path);
        let args: Vec<&str> = args.iter().map(String::as_str).collect();
        let env = disk.env();
        let env: Vec<(&str, &str)> = env
            .iter()
            .map(|(name, value)| (&**name, &**value))
            .collect();
        let exit = run_to_exit(&args, &env, &std::env::temp_dir());
        assert!(disk.failures() > before, "{fault:?} never happened");
        assert_eq!(exit.code, Some(1), "{fault:?}: {}", exit.stderr);
        let lines: Vec<&str> = exit.stderr.lines().collect();
        assert_eq!(lines.len(), 1, "{fault:?}: {}", exit.stderr);
        let says = |text: &str| assert!(lines[0].contains(text), "{fault:?}: {}", exit.stderr);
        says(&path);
        says(reason);
    }
    disk.fails_with(Fault::Nothing);
    Server::on_disk(&disk, &[]).ok("promise.create", create("after", i64::MAX, json!({})));
}

/// A log that was cut off anywhere, by a file system that lost its end: what is left is as it was at some time.
#[test]
fn a_truncated_log_is_a_state_of_the_past() {
    if !is_on_files() {
        return;
    }
    let mut disk = Disk::new();
    let mut server = Server::on_disk(&disk, &[]);
    let mut ledger = Ledger::default();
    ledger.write(&server, "w", |count| {
        if count == 300 {
            server.signal(Signal::Kill);
        }
    });
    server.wait();
    let log = disk.database().with_extension("db-wal");
    let whole = fs::read(&log).expect("there is a log");
    let mut least = None;
    for part in [1.0, 0.9, 0.5, 0.1, 0.0] {
        let copy = Disk::new();
        fs::copy(disk.database(), copy.database()).expect("the folder is writable");
        #[allow(
            clippy::cast_possible_truncation,
            clippy::cast_precision_loss,
            clippy::cast_sign_loss,
            reason = "any length will do"
        )]
        let bytes = (whole.len() as f64 * part) as usize;
        fs::write(copy.database().with_extension("db-wal"), &whole[..bytes])
            .expect("the folder is writable");
        let lost = ledger.check_sound(dump(&copy), &format!("{part} of the log"));
        assert!(least.is_none_or(|least| least <= lost), "{part}: {lost}");
        assert!(part < 1.0 || lost == 0, "{lost}");
        least = Some(lost);
        let served = Server::on_disk(&copy, &[]);
        served.ok("promise.create", create("after", i64::MAX, json!({})));
    }
    assert!(least > Some(0), "nothing was in the log");
    disk.loses_power(Unsynced::Lost);
}

/// Copies the database as README.md says, while a server has it open.
fn copy(database: &Path, to: &Path) {
    let runtime = tokio::runtime::Runtime::new().expect("a runtime starts");
    runtime.block_on(async {
        let options = SqliteConnectOptions::new().filename(database);
        let mut connection = options.connect().await.expect("the database opens");
        sqlx::query("VACUUM INTO ?")
            .bind(to.display().to_string())
            .execute(&mut connection)
            .await
            .expect("it is copied");
    });
}

/// What is stored goes on from where it was when it was copied; timers that came due meanwhile fire at once, and
/// leases that were given later are not known.
#[test]
fn an_older_copy_of_the_database_is_gone_on_from() {
    if !is_on_files() {
        return;
    }
    let disk = Disk::new();
    let server = Server::on_disk(&disk, &[]);
    let soon = wall_clock_ms() + 500;
    server.ok("promise.create", create("timer", soon, json!({})));
    server.ok("promise.create", create("task", i64::MAX, target()));
    let folder = tempfile::tempdir().expect("a temporary directory can be made");
    let older = folder.path().join("older.db");
    copy(&disk.database(), &older);
    let acquired = json!({"id": "task", "version": 0, "pid": "p", "ttl": i64::MAX});
    server.ok("task.acquire", acquired.clone());
    server.ok("promise.create", create("later", i64::MAX, json!({})));
    drop(server);

    let server = Server::on_file(&older, &[]);
    let unheard = json!({"awaited": "timer", "address": "poll://uni@listeners/one"});
    let listens = server.call("promise.register_listener", unheard);
    let stream = Stream::open(&server, "listeners", "one");
    if listens.expect_status(200)["promise"]["state"] == "pending" {
        assert_eq!(stream.next_unblock()["id"], "timer");
    }
    let timer = server.ok("promise.get", json!({"id": "timer"}));
    assert_eq!(timer["promise"]["state"], "rejected_timedout");
    let later = json!({"id": "later"});
    server.refused("promise.get", later, 404, "Promise not found");
    let lost = json!({"id": "task", "version": 1});
    server.call("task.release", lost).expect_status(409);
    server.ok("task.acquire", acquired);
}
