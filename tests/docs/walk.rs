//! Every block of every page is carried out, or read by what reads it in earnest.
//!
//! | block | what becomes of it |
//! |---|---|
//! | `console` | each `$ command` is run on a server of the page, beside a worker, and prints what follows it |
//! | `sh` | run in an empty folder that has `examples`; a server that it starts in the end gets as far as listening, and stops |
//! | `toml` | read as `resonate.toml`, by the server's own code, with nothing unknown in it |
//! | `json`, `yaml`, `ini` | parsed |
//! | `ts`, `rust` | is word for word in the sources |
//! | `text` | drawings, and what programs print: not looked at |
//!
//! `make` lines name targets that there are. Whatever is done otherwise is in [`ELSEWHERE`]; a block of another kind, or one that
//! says no language, fails.

use std::collections::BTreeSet;
use std::fs;
use std::process::Command;

use figment::providers::{Format, Toml};
use resonate::config::{self, Environment, Layers};
use serde_json::Value;

use super::blocks::{Block, blocks, files, pages, read, repository};
use crate::cli::docs::{console, on_a_server_with, path_with_program};
use crate::harness::command::{run, start};
use crate::harness::process::Signal;

/// Blocks that are not carried out here: the page, the first line, and what is done instead.
const ELSEWHERE: &[(&str, &str, Instead)] = &[
    (
        "docs/backup.md",
        "resonate backup backup.db",
        Instead::Test("tests/cli/moving.rs"),
    ),
    (
        "docs/backup.md",
        "rm -f resonate.db-wal resonate.db-shm",
        Instead::Test("tests/cli/moving.rs"),
    ),
    (
        "docs/backup.md",
        "resonate export everything.ndjson",
        Instead::Test("tests/cli/moving.rs"),
    ),
    (
        "docs/backup.md",
        "export RESONATE_STORAGE__TYPE=postgres",
        Instead::Test("tests/cli/moving.rs"),
    ),
    (
        "docs/backup.md",
        "resonate export - | gzip > everything.ndjson.gz",
        Instead::Test("tests/cli/moving.rs"),
    ),
    (
        "README.md",
        "cargo run --release -- serve",
        Instead::Test("tests/sdk/quickstart.py"),
    ),
    (
        "README.md",
        "cd examples/countdown && npm install && npm start",
        Instead::Test("tests/sdk/quickstart.py"),
    ),
    (
        "README.md",
        "npm start countdown.1",
        Instead::Test("tests/sdk/quickstart.py"),
    ),
    (
        "README.md",
        "python3 tests/postgres.py run -- cargo test",
        Instead::Test("tests/run.py"),
    ),
    (
        "docs/deploy-postgres.md",
        "createdb resonate",
        Instead::Read(
            "a database with TLS at another host; tests/storage/connection.rs connects to one",
        ),
    ),
    (
        "docs/deployment.md",
        "docker build --tag resonate .",
        Instead::Read("no container engine here; tests/deploy/image.py carries out the Dockerfile"),
    ),
    (
        "docs/deployment.md",
        "docker compose --file deploy/compose.yaml up --build",
        Instead::Read("no container engine here; tests/deploy/check.py reads deploy/compose.yaml"),
    ),
    (
        "docs/deployment.md",
        "kubectl create namespace resonate",
        Instead::Read("no cluster here; tests/deploy/check.py reads deploy/kubernetes"),
    ),
    (
        "docs/deployment.md",
        "install -D target/release/resonate /usr/local/bin/resonate",
        Instead::Read("changes the machine; tests/deploy/check.py has systemd read the unit"),
    ),
];

enum Instead {
    /// This test does it.
    Test(&'static str),
    /// Only a shell reads it, for this reason.
    Read(&'static str),
}

/// What `page`'s console runs on: the flags that the page itself gives a server.
fn flags_of(page: &str) -> Vec<String> {
    let all = blocks(page);
    let mut lines = all.iter().filter(|block| block.language == "sh");
    let flags = lines.find_map(|block| block.text.split_once(" serve --"));
    let flags = flags.map(|(_, flags)| format!("--{}", flags.trim_end()));
    let examples = repository().join("examples").display().to_string();
    let flags = flags.map(|flags| flags.replace(" examples", &format!(" {examples}")));
    flags.map_or_else(Vec::new, |flags| {
        flags.split(' ').map(str::to_owned).collect()
    })
}

fn run_console(page: &str, all: &[&Block]) {
    let flags = flags_of(page);
    let flags: Vec<&str> = flags.iter().map(String::as_str).collect();
    on_a_server_with(&flags, |shell| {
        for block in all {
            for (command, output) in console(&block.text) {
                assert_eq!(shell.run(&command), output, "{page}: {command}");
            }
        }
    });
}

/// Commands, with the lines that they go on in.
fn commands(script: &str) -> Vec<String> {
    let mut commands: Vec<String> = Vec::new();
    for line in script.lines() {
        match commands.last_mut() {
            Some(command) if command.ends_with('\\') => *command += &format!("\n{line}"),
            _ => commands.push(line.to_owned()),
        }
    }
    commands
}

fn run_script(block: &Block) {
    let folder = tempfile::tempdir().expect("a temporary directory can be made");
    let examples = repository().join("examples");
    std::os::unix::fs::symlink(examples, folder.path().join("examples")).expect("it is empty");
    let script = block.text.replace("cargo run --release -- ", "resonate ");
    let mut commands = commands(&script);
    let is_server =
        |command: &String| command.contains("resonate serve") || command.contains("resonate dev");
    let server = commands.pop_if(|last| is_server(last));
    let shell = |script: &str| {
        let mut shell = Command::new("sh");
        shell
            .args(["-ec", script])
            .current_dir(&folder)
            .env_clear()
            .env("PATH", path_with_program())
            .env("HOME", folder.path());
        shell
    };
    let done = run(&mut shell(&commands.join("\n")));
    assert_eq!(done.code, Some(0), "{block}{done:?}");
    let Some(server) = server else { return };
    // Variables may stand in front.
    let mut server = shell(&format!("exec env {server}"));
    server
        .env("RESONATE_SERVER__PORT", "0")
        .env("RESONATE_OBSERVABILITY__METRICS_PORT", "0");
    let mut server = start(&mut server);
    server.tells("listening");
    server.signal(Signal::Term);
    let done = server.end();
    assert_eq!(done.code, Some(0), "{block}{done:?}");
}

/// What the server makes of a configuration file and an environment.
fn load(toml: &str, environment: &Environment) -> Result<Vec<String>, config::Error> {
    let folder = tempfile::tempdir().expect("a temporary directory can be made");
    let file = folder.path().join(config::FILE);
    fs::write(&file, toml).expect("the folder can be written to");
    let layers = Layers {
        file: &file,
        environment,
        flags: &[],
        is_dev: false,
    };
    config::load(&layers).map(|loaded| loaded.warnings)
}

/// A unit of systemd: sections of assignments.
fn parse_ini(text: &str) -> Result<(), String> {
    let is_known = |line: &str| {
        line.is_empty()
            || line.starts_with(['#', ';'])
            || (line.starts_with('[') && line.ends_with(']'))
            || line
                .split_once('=')
                .is_some_and(|(name, _)| !name.trim().is_empty())
    };
    let broken = text.lines().find(|line| !is_known(line.trim()));
    broken.map_or(Ok(()), |line| Err(line.to_owned()))
}

fn is_in_sources(text: &str) -> bool {
    let mut sources = files("src", &[".rs"]);
    sources.extend(files("examples", &[".ts", ".py", ".rs"]));
    sources.iter().any(|source| read(source).contains(text))
}

/// Whether all lines are `make` with a target that there is.
fn is_make(text: &str) -> bool {
    let makefile = read("Makefile");
    let has = |target: &str| {
        makefile.contains(&format!("\n{target}:")) || makefile.contains(&format!(" {target}:"))
    };
    text.lines().all(|line| {
        let line = line.trim_start_matches("$ ");
        line.strip_prefix("make ").is_some_and(|target| {
            let target = target.split(' ').next().unwrap_or_default();
            assert!(has(target), "the Makefile has no target {target}");
            true
        })
    })
}

/// What is wrong with a block that is not a command.
fn fault(block: &Block) -> Option<String> {
    let text = &block.text;
    match block.language.as_str() {
        "text" => None,
        "toml" => match load(text, &Environment::new()) {
            Ok(warnings) if warnings.is_empty() => None,
            Ok(warnings) => Some(warnings.join("; ")),
            Err(error) => Some(error.to_string()),
        },
        "json" => serde_json::from_str::<Value>(text)
            .err()
            .map(|error| error.to_string()),
        "yaml" => serde_saphyr::from_multiple::<Value>(text)
            .err()
            .map(|error| error.to_string()),
        "ini" => parse_ini(text).err(),
        "ts" | "rust" => (!is_in_sources(text)).then(|| "not in the sources".to_owned()),
        other => Some(format!("nobody knows what to do with {other:?}")),
    }
}

fn instead(block: &Block) -> Option<&'static Instead> {
    let is_this = |(page, line, _): &&(&str, &str, Instead)| {
        *page == block.file && *line == block.first_line()
    };
    ELSEWHERE
        .iter()
        .find(is_this)
        .map(|(_, _, instead)| instead)
}

/// Whether it is taken care of without being run here.
fn is_done_elsewhere(block: &Block) -> bool {
    match instead(block) {
        Some(Instead::Test(test)) => assert!(!read(test).is_empty(), "{test}"),
        Some(Instead::Read(reason)) => {
            assert!(!reason.is_empty());
            let read = run(Command::new("sh").args(["-nc", &block.text]));
            assert_eq!(read.code, Some(0), "{block}{read:?}");
        }
        None => return is_make(&block.text),
    }
    true
}

#[test]
fn every_block_is_carried_out_or_read() {
    for page in pages() {
        let all = blocks(&page);
        // The reference of the command line is written from what its commands print (cli::docs).
        let is_written = page == "docs/cli.md";
        let mut consoles = Vec::new();
        for block in &all {
            match block.language.as_str() {
                "console" | "sh" if is_written || is_done_elsewhere(block) => {}
                "console" => consoles.push(block),
                "sh" => run_script(block),
                _ => {
                    if let Some(fault) = fault(block) {
                        panic!("{fault}\n{block}");
                    }
                }
            }
        }
        if !consoles.is_empty() {
            run_console(&page, &consoles);
        }
    }
}

#[test]
fn what_is_done_elsewhere_is_there() {
    let all: Vec<Block> = pages().iter().flat_map(|page| blocks(page)).collect();
    let there: BTreeSet<(&str, &str)> = all
        .iter()
        .map(|block| (block.file.as_str(), block.first_line()))
        .collect();
    for (page, line, _) in ELSEWHERE {
        assert!(
            there.contains(&(*page, *line)),
            "{page} has no block that begins with {line}"
        );
    }
}

#[test]
fn a_block_that_is_wrong_is_found() {
    let block = |language: &str, text: &str| Block {
        file: "x.md".to_owned(),
        line: 1,
        language: language.to_owned(),
        text: text.to_owned(),
    };
    for (language, text) in [
        ("", "x\n"),
        ("cobol", "x\n"),
        ("toml", "[server]\nport = \"x\"\n"),
        ("toml", "[server]\nprot = 1\n"),
        ("json", "{\n"),
        ("yaml", "a: [\n"),
        ("ini", "[Unit]\nx\n"),
        ("ts", "const nowhere = 1;\n"),
    ] {
        assert!(
            fault(&block(language, text)).is_some(),
            "{language}: {text}"
        );
    }
    assert_eq!(fault(&block("toml", "[server]\nport = 1\n")), None);
    assert_eq!(fault(&block("yaml", "a: 1\n---\nb: 1\n")), None);
}

/// The values of `RESONATE_*` variables in a manifest, wherever they stand.
fn variables(value: &Value, found: &mut Environment) {
    let mut add = |name: &str, value: &Value| {
        if name.starts_with("RESONATE_") {
            // One that is taken from a secret or the environment is a URL here.
            let text = value.as_str().unwrap_or("postgres://resonate@db/resonate");
            let text = if text.starts_with("${") {
                "http://localhost"
            } else {
                text
            };
            found.insert(name.to_owned(), text.to_owned());
        }
    };
    match value {
        Value::Object(members) => {
            if let Some(name) = members.get("name").and_then(Value::as_str) {
                add(name, members.get("value").unwrap_or(&Value::Null));
            }
            members.iter().for_each(|(name, value)| add(name, value));
            members.values().for_each(|value| variables(value, found));
        }
        Value::Array(items) => items.iter().for_each(|item| variables(item, found)),
        _ => {}
    }
}

#[test]
fn the_files_of_deploy_can_be_read_and_their_settings_are_settings() {
    let mut settings = 0;
    for file in files("deploy", &[".yaml", ".yml", ".json"]) {
        let text = read(&file);
        let parsed = serde_saphyr::from_multiple::<Value>(&text);
        let parsed = parsed.unwrap_or_else(|error| panic!("{file}: {error}"));
        let mut found = Environment::new();
        parsed.iter().for_each(|value| variables(value, &mut found));
        settings += found.len();
        let warnings = load("", &found).unwrap_or_else(|error| panic!("{file}: {error}"));
        assert!(warnings.is_empty(), "{file}: {warnings:?}");
    }
    assert!(settings >= 4, "{settings} settings");
    for file in files("deploy", &[".service"]) {
        assert_eq!(parse_ini(&read(&file)), Ok(()), "{file}");
    }
    for file in files("deploy", &[".toml"]) {
        assert!(Toml::from_str::<Value>(&read(&file)).is_ok(), "{file}");
    }
}
