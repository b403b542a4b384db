//! `docs/cli.md` says what the command line does, and what its examples print.
//!
//! The reference is written from every `--help`, down from `resonate --help`. All examples are run, one group of
//! commands after the other on a server of its own, beside a worker. `make docs` writes the reference anew.

use std::ffi::OsString;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use super::worker;
use crate::harness::command::run;
use crate::harness::server::{Server, wall_clock_ms};

pub const REWRITE: &str = "RESONATE_REWRITE_DOCS";
const REFERENCE: &str = "docs/cli.md";
/// Where the server of whoever reads an example is.
const DEFAULT_URL: &str = "http://localhost:8001";
/// The instant at which examples seem to be run: 2025-12-31 23:00 UTC.
const SHOWN_NOW: i64 = 1_767_222_000_000;
/// The next time that it is two o'clock.
const SHOWN_NEXT_RUN: i64 = 1_767_232_800_000;
/// What examples count from now is a multiple of this, and they take less than half of it.
const GRAIN_MS: i64 = 600_000;

/// The help of one command.
struct Help {
    /// `resonate promises create`.
    name: String,
    about: String,
    /// Usage, arguments and flags, without those of every command.
    usage: String,
    /// Flags for the connection, if it has them.
    connection: String,
    examples: String,
    subcommands: Vec<String>,
}

impl Help {
    fn of(name: &str) -> Help {
        let (long, short) = (help(name, "--help"), help(name, "-h"));
        let (about, _) = long.split_once("\n\nUsage: ").expect("a help has a usage");
        let (_, examples) = long.split_once("\nExamples:\n").unwrap_or_default();
        let (_, usage) = short.split_once("\n\n").expect("an about comes first");
        let heading = "\n\nServer and output:\n";
        let (usage, connection) = usage.split_once(heading).unwrap_or((usage, ""));
        let (_, commands) = usage.split_once("\nCommands:\n").unwrap_or_default();
        let commands = commands.split("\n\n").next().unwrap_or_default().lines();
        // What is indented further goes on with a description.
        let commands = commands.filter_map(|line| line.strip_prefix("  ")?.split(' ').next());
        let subcommands = commands
            .filter(|command| !matches!(*command, "" | "help"))
            .map(|command| format!("{name} {command}"));
        Help {
            name: name.to_owned(),
            about: about.trim_end().to_owned(),
            usage: without_everywhere(usage),
            connection: connection.trim_end().to_owned(),
            examples: examples.to_owned(),
            subcommands: subcommands.collect(),
        }
    }
}

fn help(name: &str, flag: &str) -> String {
    let words = name.split(' ').skip(1).chain([flag]);
    let mut command = Command::new(env!("CARGO_BIN_EXE_resonate"));
    let done = run(command.env_clear().args(words));
    assert_eq!(done.code, Some(0), "{done:?}");
    done.stdout
}

/// Without the flags that every command has.
fn without_everywhere(usage: &str) -> String {
    let is_own = |line: &&str| !line.contains(" Print help") && !line.contains(" Print version");
    let lines: Vec<&str> = usage.lines().filter(is_own).collect();
    let text = lines.join("\n");
    let text = text.trim_end();
    text.strip_suffix("\n\nOptions:").unwrap_or(text).to_owned()
}

/// What an example consists of.
enum Part {
    Remark(String),
    /// With the lines that it goes on in.
    Command(String),
}

/// Reads examples as they stand in a help: commands and remarks are indented by two blanks, lines that go on by more.
fn parts(examples: &str) -> Vec<Part> {
    let mut parts: Vec<Part> = Vec::new();
    for line in examples
        .lines()
        .map(|line| line.strip_prefix("  ").unwrap_or(line))
    {
        if let Some(command) = line.strip_prefix("$ ") {
            parts.push(Part::Command(command.to_owned()));
            continue;
        }
        match parts.last_mut() {
            Some(Part::Command(command)) if line.starts_with("  ") => {
                *command += &format!("\n{line}");
            }
            _ if line.is_empty() => {}
            _ => parts.push(Part::Remark(line.to_owned())),
        }
    }
    parts
}

/// A shell whose `resonate` is the one under test.
pub struct Shell<'a> {
    server: &'a Server,
    home: tempfile::TempDir,
    begun: i64,
}

impl<'a> Shell<'a> {
    fn new(server: &'a Server) -> Shell<'a> {
        Shell {
            server,
            home: tempfile::tempdir().expect("a temporary directory can be made"),
            begun: wall_clock_ms(),
        }
    }

    /// Runs a command; all that it says, at the instant of the examples.
    pub fn run(&self, command: &str) -> String {
        let url = self.server.url();
        let script = command.replace(DEFAULT_URL, &url);
        let mut shell = Command::new("sh");
        shell
            .args(["-c", &format!("exec 2>&1\n{script}")])
            .current_dir(self.server.home())
            .env_clear()
            .env("PATH", path_with_program())
            .env("HOME", self.home.path())
            .env("RESONATE_URL", &url);
        let done = run(&mut shell);
        let mut said = still(&done.stdout, self.begun).replace(&url, DEFAULT_URL);
        if let Some(code @ 1..) = done.code {
            said += &format!("(exit code {code})\n");
        }
        assert!(done.code.is_some(), "{command}: {done:?}");
        said
    }
}

/// The `PATH` of this process, with the folder of `resonate` in front.
pub fn path_with_program() -> OsString {
    let program = Path::new(env!("CARGO_BIN_EXE_resonate"));
    let mut path = vec![program.parent().expect("it is in a folder").to_owned()];
    let inherited = std::env::var_os("PATH").unwrap_or_default();
    path.extend(std::env::split_paths(&inherited));
    std::env::join_paths(path).expect("folders have names")
}

/// Moves every instant to the time of the examples.
fn still(text: &str, begun: i64) -> String {
    let mut still = String::new();
    let mut rest = text;
    while let Some(start) = rest.find(|c: char| c.is_ascii_digit()) {
        let (before, number) = rest.split_at(start);
        let end = number
            .find(|c: char| !c.is_ascii_digit())
            .unwrap_or(number.len());
        let (number, after) = number.split_at(end);
        still += before;
        match number.parse::<i64>() {
            Ok(_) if number.len() == 13 && before.ends_with("\"nextRunAt\": ") => {
                still += &SHOWN_NEXT_RUN.to_string();
            }
            // What comes after the instant in a corrId.
            Ok(_) if before == "-" && still.ends_with(&format!("cli-{SHOWN_NOW}-")) => {
                still += "123456789";
            }
            Ok(instant) if number.len() == 13 => {
                let from_now = (instant - begun + GRAIN_MS / 2).div_euclid(GRAIN_MS) * GRAIN_MS;
                still += &(SHOWN_NOW + from_now).to_string();
            }
            _ => still += number,
        }
        rest = after;
    }
    still + rest
}

/// The section of a command, with what its examples print.
fn section(help: &Help, shell: &Shell) -> String {
    let level = "#".repeat(help.name.split(' ').count().max(2));
    let mut text = format!("{level} {}\n\n{}\n\n", help.name, help.about);
    if help.name == "resonate dev" {
        return text + "Its flags are those of `serve`.\n\n";
    }
    if help.name == "resonate doctor" {
        return text + "Its flags are those of `serve`, and `--output`.\n\n";
    }
    text += &format!("```text\n{}\n```\n\n", help.usage);
    if help.name == "resonate" {
        text += "Commands that speak to a server have these flags (`mcp` has no `--output`); they may \
                 stand before the command, after it, and after the subcommand:\n\n";
        text += &format!("```text\n{}\n```\n\n", help.connection);
    }
    let mut is_open = false;
    for part in parts(&help.examples) {
        let is_code = !matches!(part, Part::Remark(_));
        if is_open != is_code {
            text += if is_code { "```console\n" } else { "```\n\n" };
            is_open = is_code;
        }
        match part {
            Part::Remark(remark) => text += &format!("{remark}\n\n"),
            // It serves until it is told to stop.
            Part::Command(command) if command == "resonate dev" => text += "$ resonate dev\n",
            Part::Command(command) => text += &format!("$ {command}\n{}", shell.run(&command)),
        }
    }
    text + if is_open { "```\n\n" } else { "" }
}

/// The sections of a command and of all below it.
fn sections(help: &Help, shell: &Shell) -> String {
    let mut text = section(help, shell);
    for name in &help.subcommands {
        text += &sections(&Help::of(name), shell);
    }
    text
}

fn on_a_server<T>(body: impl FnOnce(&Shell) -> T) -> T {
    on_a_server_with(&[], body)
}

/// Does something with a server of these flags, and a worker beside it.
pub fn on_a_server_with<T>(flags: &[&str], body: impl FnOnce(&Shell) -> T) -> T {
    let server = Server::single_with(flags);
    worker::beside(&server, || body(&Shell::new(&server)))
}

fn reference() -> String {
    let root = Help::of("resonate");
    let mut text = format!(
        "# Command line\n\nWhat every `--help` says, and what its examples print. `make docs` writes this page; a test \
         compares it with the program.\n\n{}",
        on_a_server(|shell| section(&root, shell)).replacen("## resonate\n\n", "", 1)
    );
    for name in &root.subcommands {
        text += &on_a_server(|shell| sections(&Help::of(name), shell));
    }
    text.trim_end().to_owned() + "\n"
}

fn file(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join(name)
}

#[test]
fn the_reference_is_what_the_program_says() {
    let reference = reference();
    if std::env::var_os(REWRITE).is_some() {
        fs::write(file(REFERENCE), reference).expect("the reference can be written");
        return;
    }
    let written = fs::read_to_string(file(REFERENCE)).unwrap_or_default();
    let differs = written
        .lines()
        .zip(reference.lines())
        .position(|(a, b)| a != b);
    let line = differs.unwrap_or(written.lines().count().min(reference.lines().count()));
    assert!(
        written == reference,
        "{REFERENCE} is stale from line {} on; `make docs` writes it. Written:\n{}\nThe program:\n{}",
        line + 1,
        written.lines().nth(line).unwrap_or("nothing"),
        reference.lines().nth(line).unwrap_or("nothing")
    );
}

/// The commands of a `console` block, each with what it prints.
pub fn console(block: &str) -> Vec<(String, String)> {
    let mut examples: Vec<(String, String)> = Vec::new();
    for line in block.lines() {
        match (line.strip_prefix("$ "), examples.last_mut()) {
            (Some(command), _) => examples.push((command.to_owned(), String::new())),
            (None, Some((command, _))) if command.ends_with('\\') => {
                *command += &format!("\n{line}");
            }
            (None, Some((_, output))) => *output += &format!("{line}\n"),
            (None, None) => panic!("a block begins with a command: {line}"),
        }
    }
    examples
}

#[test]
fn the_completions_are_scripts() {
    on_a_server(|shell| {
        for name in ["bash", "zsh", "fish"] {
            let file = shell.home.path().join(name);
            let line = format!("resonate completions {name} > ~/{name}");
            assert_eq!(shell.run(&line), "");
            let script = fs::read_to_string(&file).expect("the script is there");
            assert!(script.contains("register-callback"), "{name}: {script}");
            if Command::new(name).arg("-c").arg("true").output().is_ok() {
                assert_eq!(shell.run(&format!("{name} -n ~/{name}")), "");
            }
        }
    });
}
