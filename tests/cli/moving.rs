//! `backup`, `export` and `import`: whole databases, while servers use them and from one kind to another.

use std::fs;
use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::thread;

use serde_json::json;

use crate::harness::command::{self, Done, run};
use crate::harness::database::Database;
use crate::harness::group::Group;
use crate::harness::process::Signal;
use crate::harness::record;
use crate::harness::server::{Server, unique};
use crate::storage::content::{content, drive, fill};

/// The messages of `fill` are old: they are not to be given up.
const FLAGS: [&str; 3] = ["--debug", "--messages-unblock-ttl", "9000000000000"];

/// A folder with databases and archives.
struct Folder(tempfile::TempDir);

/// What a storage is given to a command as.
enum At<'a> {
    File(&'a Path),
    Postgres(&'a Database),
}

impl At<'_> {
    fn flags(&self) -> Vec<String> {
        match self {
            At::File(path) => vec!["--storage-sqlite-path".to_owned(), shown(path)],
            At::Postgres(database) => ["--storage-type", "postgres", "--storage-postgres-url"]
                .map(str::to_owned)
                .into_iter()
                .chain([database.url()])
                .collect(),
        }
    }

    fn server(&self) -> Server {
        let server = match self {
            At::File(path) => Server::on_file(path, &FLAGS),
            At::Postgres(database) => Server::on(&database.url(), &FLAGS),
        };
        server.ok("debug.start", json!({}));
        server
    }
}

fn shown(path: &Path) -> String {
    path.display().to_string()
}

impl Folder {
    fn new() -> Folder {
        Folder(tempfile::tempdir().expect("a temporary directory can be made"))
    }

    fn path(&self, name: &str) -> PathBuf {
        self.0.path().join(name)
    }

    fn command(&self, args: &[&str], at: &At) -> Command {
        let flags = at.flags();
        let flags: Vec<&str> = flags.iter().map(String::as_str).collect();
        let mut command = command::command("", &[args, &flags].concat());
        command.current_dir(self.0.path());
        command
    }

    fn run(&self, args: &[&str], at: &At) -> Done {
        run(&mut self.command(args, at))
    }

    /// Exports to standard output.
    #[track_caller]
    fn export(&self, at: &At) -> String {
        let done = self.run(&["export"], at);
        assert!(done.code == Some(0), "{}", done.stderr);
        assert!(done.stderr.starts_with("exported "), "{}", done.stderr);
        done.stdout
    }

    /// Imports a text from a file.
    fn import(&self, archive: &str, at: &At) -> Done {
        let path = self.path(&unique("archive"));
        fs::write(&path, archive).expect("the archive can be written");
        self.run(&["import", &shown(&path)], at)
    }

    #[track_caller]
    fn expect_refused(&self, args: &[&str], at: &At, told: &str) {
        let done = self.run(args, at);
        assert!(done.code == Some(1) && done.stdout.is_empty(), "{done:?}");
        assert!(
            done.stderr.starts_with("Error: ") && done.stderr.contains(told),
            "{:?} instead of {told:?}",
            done.stderr
        );
    }

    fn names(&self) -> Vec<String> {
        let entries = fs::read_dir(self.0.path()).expect("the folder is readable");
        let name = |entry: std::io::Result<fs::DirEntry>| {
            let entry = entry.expect("the entry is readable");
            entry.file_name().to_string_lossy().into_owned()
        };
        let mut names: Vec<String> = entries.map(name).collect();
        names.sort();
        names
    }
}

/// A server on a SQLite file, filled, its time the test's.
fn filled(path: &Path) -> Server {
    let server = At::File(path).server();
    fill(&server);
    let large =
        json!({"id": "large", "timeoutAt": i64::MAX, "param": {"data": "é".repeat(300_000)}});
    server.ok("promise.create", large);
    server
}

#[test]
fn a_backup_under_load_has_everything_acknowledged_before_it() {
    let folder = Folder::new();
    let database = folder.path("live.db");
    let server = Server::on_file(&database, &[]);
    let is_over = AtomicBool::new(false);
    // How many promises each writer knows to be acknowledged.
    let acknowledged: [AtomicUsize; 4] = Default::default();
    let read = || -> Vec<usize> {
        let counts = acknowledged.iter();
        counts.map(|count| count.load(Ordering::Acquire)).collect()
    };
    let mut copies = Vec::new();
    thread::scope(|scope| {
        for (writer, count) in acknowledged.iter().enumerate() {
            let (server, is_over) = (&server, &is_over);
            scope.spawn(move || {
                while !is_over.load(Ordering::Relaxed) {
                    let id = format!("w{writer}.{}", count.load(Ordering::Relaxed));
                    server.client().create(&id, i64::MAX, json!({}));
                    count.fetch_add(1, Ordering::Release);
                }
            });
        }
        for round in 0..3 {
            let begun: usize = read().iter().sum();
            while read().iter().sum::<usize>() < begun + 50 {
                thread::yield_now();
            }
            let before = read();
            let copy = format!("copy-{round}.db");
            let done = folder.run(&["backup", &copy, "-o", "text"], &At::File(&database));
            assert!(done.code == Some(0), "{done:?}");
            assert!(done.stdout.starts_with(&format!("{copy}: ")), "{done:?}");
            copies.push((before, copy));
        }
        is_over.store(true, Ordering::Relaxed);
    });
    for (before, copy) in copies {
        let path = folder.path(&copy);
        let restored = Server::on_file(&path, &[]);
        for (writer, count) in before.into_iter().enumerate() {
            for n in count.saturating_sub(50)..count {
                let id = format!("w{writer}.{n}");
                assert_eq!(restored.client().get(&id)["state"], "pending", "{copy}");
            }
        }
        restored.client().create("after", i64::MAX, json!({}));
    }
    assert!(!folder.names().iter().any(|name| name.contains("partial")));
}

#[test]
fn a_backup_replaces_nothing_by_accident_and_leaves_nothing_half_done() {
    let folder = Folder::new();
    let database = folder.path("live.db");
    let at = At::File(&database);
    folder.expect_refused(&["backup", "copy.db"], &at, "there is no database ");
    let server = filled(&database);
    let written = folder.run(&["backup", "copy.db"], &at).json();
    assert_eq!(written["file"], "copy.db");
    assert_eq!(
        written["bytes"],
        folder
            .path("copy.db")
            .metadata()
            .expect("it is there")
            .len()
    );
    assert_eq!(
        written["counts"]["promises"],
        content(&server)["promises"]
            .as_array()
            .expect("a list")
            .len()
    );
    folder.expect_refused(
        &["backup", "copy.db"],
        &at,
        "copy.db is there already; --force replaces it",
    );
    server.client().create("later", i64::MAX, json!({}));
    folder.run(&["backup", "copy.db", "--force"], &at).json();
    fs::create_dir(folder.path("directory")).expect("it can be made");
    folder.expect_refused(&["backup", "directory", "--force"], &at, "is a directory");
    folder.expect_refused(&["backup", "no/such.db"], &at, "cannot write no/such.db: ");
    folder.expect_refused(
        &["backup", "live.db", "--force"],
        &at,
        "is the database itself",
    );
    fs::write(folder.path("old.db-wal"), "log").expect("it can be written");
    folder.expect_refused(
        &["backup", "old.db"],
        &at,
        "old.db-wal belongs to another database",
    );
    let other = folder.path("other.db");
    let running = Server::on_file(&other, &[]);
    folder.expect_refused(
        &["backup", "other.db", "--force"],
        &at,
        "is in use by a resonate server",
    );
    drop(running);
    fs::write(
        folder.path("foreign.db"),
        "not a database, and long enough to be none",
    )
    .unwrap();
    let foreign = folder.path("foreign.db");
    folder.expect_refused(
        &["backup", "f.db"],
        &At::File(&foreign),
        "is not an SQLite database",
    );
    let memory = At::File(Path::new(":memory:"));
    folder.expect_refused(&["backup", "m.db"], &memory, "the storage is in memory");
    let postgres = Database::fresh();
    folder.expect_refused(&["backup", "p.db"], &At::Postgres(&postgres), "pg_dump");

    let restored = At::File(&folder.path("copy.db")).server();
    assert_eq!(restored.client().get("later")["state"], "pending");
    assert_eq!(content(&restored)["tasks"], content(&server)["tasks"]);
    drive(&restored);
    assert!(!folder.names().iter().any(|name| name.contains("partial")));
}

#[test]
fn everything_moves_from_sqlite_to_postgres_and_back_and_goes_on() {
    let folder = Folder::new();
    let (from, back) = (folder.path("from.db"), folder.path("back.db"));
    let mut server = filled(&from);
    let left = content(&server);
    // Beside the server, and after it.
    let archive = folder.export(&At::File(&from));
    server.signal(Signal::Term);
    assert_eq!(server.wait(), Some(0));
    let file = folder
        .run(&["export", "archive.ndjson"], &At::File(&from))
        .json();
    let text = fs::read_to_string(folder.path("archive.ndjson")).expect("it is there");
    assert!(text == archive, "two exports of one database differ");
    assert_eq!(file["bytes"], archive.len());

    let database = Database::fresh();
    let there = At::Postgres(&database);
    let imported = folder.run(&["import", "archive.ndjson"], &there).json();
    assert_eq!(imported["counts"], file["counts"]);
    for kind in ["promises", "tasks", "callbacks", "listeners", "schedules"] {
        assert!(imported["counts"][kind].as_u64() > Some(0), "{imported}");
    }
    assert!(
        folder.export(&there) == archive,
        "PostgreSQL holds something else"
    );

    // What was in flight goes on there.
    let server = there.server();
    let found = content(&server);
    for (key, left) in left.as_object().expect("an object") {
        assert_eq!(found[key], *left, "{key}");
    }
    let again = folder.export(&there);
    drive(&server);

    let imported = folder.import(&again, &At::File(&back));
    assert_eq!(imported.json()["counts"], file["counts"]);
    assert!(
        folder.export(&At::File(&back)) == again,
        "SQLite holds something else"
    );
    assert!(
        again == archive,
        "a server that only looked has changed something"
    );
    drive(&At::File(&back).server());
}

#[test]
fn only_a_whole_archive_of_a_known_release_is_imported_and_only_where_there_is_nothing() {
    let folder = Folder::new();
    let from = folder.path("from.db");
    let server = filled(&from);
    let archive = folder.export(&At::File(&from));
    let lines: Vec<&str> = archive.lines().collect();
    let last = lines.len();
    let altered = archive.replacen("\"armed\":false", "\"armed\":true", 1);
    let newer = archive.replacen("\"version\":1", "\"version\":2", 1);
    let schema = archive.replacen("\"schema\":", "\"schema\":9", 1);
    let field = archive.replacen("\"armed\":", "\"novel\":1,\"armed\":", 1);
    let half = &archive[..archive.floor_char_boundary(archive.len() / 2)];
    let bad = [
        (
            lines[..last - 1].join("\n") + "\n",
            last,
            "it ends without its last line",
        ),
        (half.to_owned(), 0, "the archive is not all there"),
        (
            altered,
            last,
            "its checksum is not that of the lines before it",
        ),
        (
            newer,
            1,
            "the archive has version 2; this resonate reads versions up to 1",
        ),
        (
            schema,
            1,
            "it was taken from a database of schema version 9",
        ),
        (field, 2, "unknown field `novel`"),
        (
            "SELECT 1;\n".to_owned(),
            1,
            "this is not a resonate archive",
        ),
    ];
    let to = folder.path("to.db");
    let database = Database::fresh();
    for at in [At::File(&to), At::Postgres(&database)] {
        for (text, line, told) in &bad {
            let done = folder.import(text, &at);
            assert_eq!(done.code, Some(1), "{done:?}");
            let named = format!("Error: nothing was imported: line {line} of the archive: ");
            assert!(*line == 0 || done.stderr.starts_with(&named), "{done:?}");
            assert!(done.stderr.contains(told), "{told}: {done:?}");
        }
        folder.import(&archive, &at).json();
        let done = folder.import(&archive, &at);
        let told = " is not empty: it holds ";
        assert!(
            done.code == Some(1) && done.stderr.contains(told),
            "{done:?}"
        );
    }
    folder.expect_refused(&["import", "none"], &At::File(&to), "cannot read none: ");
    folder.expect_refused(
        &["import"],
        &At::File(Path::new(":memory:")),
        "is in memory",
    );
    folder.expect_refused(
        &["export"],
        &At::File(Path::new(":memory:")),
        "is in memory",
    );
    let nowhere = folder.path("nowhere.db");
    folder.expect_refused(&["export"], &At::File(&nowhere), "there is no database ");
    assert!(!nowhere.exists());

    // Where a server is, nothing is imported.
    let done = folder.import(&archive, &At::File(&from));
    assert!(
        done.stderr.contains("is in use by another resonate server"),
        "{done:?}"
    );
    let empty = Database::fresh();
    let running = Server::on(&empty.url(), &[]);
    running.client().create("p", i64::MAX, json!({}));
    let done = folder.import(&archive, &At::Postgres(&empty));
    assert!(
        done.stderr.contains("is in use: resonate servers have "),
        "{done:?}"
    );
    drop(server);
}

/// So much that an import has written some of it when it has read two thirds.
fn voluminous(folder: &Folder) -> String {
    let path = folder.path(&unique("large.db"));
    let server = Server::on_file(&path, &[]);
    for n in 0..24 {
        let data = "x".repeat(500_000);
        let param = json!({"id": format!("p{n}"), "timeoutAt": i64::MAX, "param": {"data": data},
            "tags": record::target()});
        server.ok("promise.create", param);
    }
    folder.export(&At::File(&path))
}

#[test]
fn an_import_that_is_killed_leaves_nothing_and_can_be_repeated() {
    let folder = Folder::new();
    let archive = voluminous(&folder);
    let to = folder.path("to.db");
    let database = Database::fresh();
    for at in [At::File(&to), At::Postgres(&database)] {
        let mut command = folder.command(&["import", "-"], &at);
        let piped = command
            .stdin(Stdio::piped())
            .stdout(Stdio::null())
            .stderr(Stdio::null());
        let mut group = Group::start(piped);
        let mut input = group.child.stdin.take().expect("stdin is piped");
        // All but what fits into the pipe and one buffer has been read.
        let two_thirds = &archive.as_bytes()[..archive.len() * 2 / 3];
        input.write_all(two_thirds).expect("the import reads");
        group.child.kill().expect("it runs");
        group.wait();
        drop(input);

        // A server finds nothing, and nothing is in the way of the next attempt.
        let server = at.server();
        let found = server.ok("promise.search", json!({"limit": 1}));
        assert_eq!(found["promises"], json!([]));
        drop(server);
        let done = folder.import(&archive, &at);
        assert_eq!(done.json()["counts"]["promises"], 24);
        assert!(folder.export(&at) == archive, "it is not what was exported");
    }
}

/// The commands of `docs/backup.md`, one after the other.
#[test]
fn the_commands_of_the_page_on_backups_work() {
    let page = Path::new(env!("CARGO_MANIFEST_DIR")).join("docs/backup.md");
    let page = fs::read_to_string(page).expect("there is such a page");
    let blocks = page.split("\n```sh\n").skip(1);
    let blocks: Vec<&str> = blocks
        .map(|block| block.split("```").next().unwrap_or_default())
        .collect();
    assert!(blocks.len() >= 4, "{} blocks", blocks.len());
    let database = Database::fresh();
    let url = "postgres://resonate@db.example.com/resonate";
    let script = blocks.concat();
    assert!(script.contains(url), "no PostgreSQL");
    let script = script.replace(url, &database.url());

    let folder = Folder::new();
    let mut server = Server::on_file(&folder.path("resonate.db"), &[]);
    server.client().create("kept", i64::MAX, json!({}));
    server.signal(Signal::Term);
    assert_eq!(server.wait(), Some(0));
    let program = Path::new(env!("CARGO_BIN_EXE_resonate"));
    let mut path = vec![program.parent().expect("it is in a folder").to_owned()];
    path.extend(std::env::split_paths(
        &std::env::var_os("PATH").unwrap_or_default(),
    ));
    let mut shell = Command::new("sh");
    shell
        .args(["-ec", &script])
        .current_dir(folder.0.path())
        .env_clear()
        .env(
            "PATH",
            std::env::join_paths(path).expect("folders have names"),
        );
    let done = run(&mut shell);
    assert_eq!(done.code, Some(0), "{done:?}");
    let restored = Server::on_file(&folder.path("resonate.db"), &[]);
    assert_eq!(restored.client().get("kept")["state"], "pending");
    let moved = Server::on(&database.url(), &[]);
    assert_eq!(moved.client().get("kept")["state"], "pending");
}
