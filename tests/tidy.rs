//! House rules that no compiler checks.

use std::fs;
use std::path::Path;

/// Lines a file of `src` may have.
const LINES_MAX: usize = 600;

/// Which modules a module may import; `serve`, which wires everything together, may import all.
/// `machine` and `store` share types: what a batch needs and changes, and the objects.
const IMPORTS: [(&str, &[&str]); 15] = [
    ("protocol", &[]),
    ("machine", &["protocol", "store"]),
    ("store", &["protocol", "machine", "telemetry"]),
    ("engine", &["protocol", "machine", "store", "telemetry"]),
    ("cluster", &["protocol", "machine", "store", "engine"]),
    ("transport", &["protocol"]),
    (
        "driver",
        &[
            "protocol",
            "machine",
            "store",
            "engine",
            "cluster",
            "transport",
            "telemetry",
        ],
    ),
    (
        "http",
        &[
            "protocol",
            "auth",
            "engine",
            "driver",
            "transport",
            "net",
            "telemetry",
        ],
    ),
    ("auth", &["protocol"]),
    ("net", &["telemetry"]),
    ("telemetry", &["protocol"]),
    ("config", &["protocol", "telemetry", "transport"]),
    ("client", &["protocol"]),
    (
        "doctor",
        &["protocol", "store", "auth", "net", "config", "client"],
    ),
    (
        "cli",
        &[
            "protocol",
            "store",
            "config",
            "telemetry",
            "client",
            "doctor",
        ],
    ),
];

/// What would bring I/O, a clock or chance into the core.
const IMPURE: [&str; 9] = [
    "tokio",
    "sqlx",
    "axum",
    "reqwest",
    "SystemTime",
    "Instant",
    "rand",
    "fastrand",
    "env",
];

const SQL: [&str; 6] = [
    "SELECT ",
    "INSERT INTO ",
    "UPDATE ",
    "DELETE FROM ",
    "CREATE TABLE ",
    "sqlx",
];

/// Put together here, so that this file does not break its own rule.
const LEFTOVERS: [&str; 4] = [
    concat!("TO", "DO"),
    concat!("FIX", "ME"),
    concat!("to", "do!"),
    concat!("unimplement", "ed!"),
];

struct Source {
    /// Relative to the repository.
    path: String,
    text: String,
}

impl Source {
    /// The module of `src` that it belongs to.
    fn module(&self) -> &str {
        let path = self.path.trim_start_matches("src/");
        path.split('/')
            .next()
            .unwrap_or(path)
            .trim_end_matches(".rs")
    }

    /// Its lines without comments, numbered from 1.
    fn code(&self) -> impl Iterator<Item = (usize, &str)> {
        let lines = self.text.lines().enumerate();
        lines
            .filter(|(_, line)| !line.trim_start().starts_with("//"))
            .map(|(n, line)| (n + 1, line.split(" // ").next().unwrap_or(line)))
    }
}

fn repository() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR"))
}

/// The Rust files below `folder`, but for what is built or installed there.
fn sources(folder: &str) -> Vec<Source> {
    let mut found = Vec::new();
    let mut open = vec![repository().join(folder)];
    while let Some(path) = open.pop() {
        for entry in fs::read_dir(&path).expect("the folder is readable") {
            let path = entry.expect("the entry is readable").path();
            let name = path.file_name().and_then(|name| name.to_str());
            if path.is_dir() && !name.is_some_and(|name| name.starts_with('.') || name == "target")
            {
                open.push(path);
            } else if path.extension().is_some_and(|extension| extension == "rs") {
                found.push(source(&path));
            }
        }
    }
    assert!(!found.is_empty(), "no Rust file in {folder}");
    found
}

fn source(path: &Path) -> Source {
    let relative = path.strip_prefix(repository()).unwrap_or(path);
    Source {
        path: relative.to_string_lossy().into_owned(),
        text: fs::read_to_string(path).expect("sources are UTF-8"),
    }
}

fn words(line: &str) -> impl Iterator<Item = &str> {
    line.split(|c: char| !c.is_alphanumeric() && c != '_')
}

#[track_caller]
fn expect_none(rule: &str, broken: &[String]) {
    assert!(broken.is_empty(), "{rule}:\n{}", broken.join("\n"));
}

#[test]
fn the_core_is_pure() {
    let mut broken = Vec::new();
    for source in ["src/protocol", "src/machine"]
        .into_iter()
        .flat_map(sources)
    {
        for (n, line) in source.code() {
            if words(line).any(|word| IMPURE.contains(&word)) {
                broken.push(format!("{}:{n}: {line}", source.path));
            }
        }
    }
    expect_none(
        "protocol and machine know no I/O, no clock and no chance",
        &broken,
    );
}

#[test]
fn imports_point_one_way() {
    let mut broken = Vec::new();
    for source in sources("src") {
        let Some((module, allowed)) = IMPORTS.iter().find(|(name, _)| *name == source.module())
        else {
            continue;
        };
        for (n, line) in source.code() {
            for (at, _) in line.match_indices("crate::") {
                let imported = words(&line[at + "crate::".len()..]).next().unwrap_or("");
                let is_module = IMPORTS.iter().any(|(name, _)| *name == imported);
                if is_module && imported != *module && !allowed.contains(&imported) {
                    broken.push(format!("{}:{n}: {line}", source.path));
                }
            }
        }
    }
    expect_none("imports point one way (IMPORTS in this file)", &broken);
}

#[test]
fn every_module_has_its_imports_listed() {
    let outside = ["lib", "main", "serve"];
    for source in sources("src") {
        let module = source.module();
        let is_listed = IMPORTS.iter().any(|(name, _)| *name == module);
        assert!(
            is_listed || outside.contains(&module),
            "tests/tidy.rs does not say what {module} may import"
        );
    }
}

/// What is ready at the same time is taken in a fixed order: else a seed would not repeat a simulation.
#[test]
fn waits_say_what_comes_first() {
    let mut broken = Vec::new();
    for folder in ["src/engine", "src/cluster", "src/driver", "src/transport"] {
        for source in sources(folder) {
            let code: Vec<(usize, &str)> = source.code().collect();
            for pair in code.windows(2) {
                let [(n, line), (_, next)] = pair else {
                    continue;
                };
                if line.contains("select!") && next.trim() != "biased;" {
                    broken.push(format!("{}:{n}: {line}", source.path));
                }
            }
        }
    }
    expect_none("select! says what comes first (biased)", &broken);
}

#[test]
fn sql_stays_in_the_store() {
    let mut broken = Vec::new();
    for source in sources("src").iter().filter(|s| s.module() != "store") {
        for (n, line) in source.code() {
            if SQL.iter().any(|word| line.contains(word)) {
                broken.push(format!("{}:{n}: {line}", source.path));
            }
        }
    }
    expect_none("SQL belongs in src/store", &broken);
}

#[test]
fn files_are_short() {
    let mut broken = Vec::new();
    for source in sources("src") {
        let lines = source.text.lines().count();
        if lines > LINES_MAX {
            broken.push(format!("{}: {lines} lines", source.path));
        }
    }
    expect_none(
        &format!("a file of src has at most {LINES_MAX} lines"),
        &broken,
    );
}

#[test]
fn nothing_is_left_for_later() {
    let mut broken = Vec::new();
    let folders = ["src", "tests", "benches", "fuzz"];
    for source in folders.into_iter().flat_map(sources) {
        for (n, line) in source.text.lines().enumerate() {
            if LEFTOVERS.iter().any(|word| line.contains(word)) {
                broken.push(format!("{}:{}: {line}", source.path, n + 1));
            }
        }
    }
    expect_none("nothing is left for later", &broken);
}

/// What `deny.toml` bans, and where it says that everything comes from; without the tool that reads it.
#[test]
fn the_dependencies_are_those_that_deny_toml_admits() {
    let read = |name| fs::read_to_string(repository().join(name)).expect("it is readable");
    let (rules, lock) = (read("deny.toml"), read("Cargo.lock"));
    let (_, after) = rules.split_once("\n[bans]\n").expect("there are bans");
    let (bans, _) = after.split_once("\n[").expect("there are sources");
    let banned: Vec<&str> = bans
        .lines()
        .filter_map(|line| line.split_once("{ crate = \"")?.1.split('"').next())
        .collect();
    assert!(banned.contains(&"aws-lc-sys"), "{banned:?}");
    let mut broken: Vec<String> = Vec::new();
    for line in lock.lines() {
        let name = line
            .strip_prefix("name = ")
            .map(|name| name.trim_matches('"'));
        let is_elsewhere = line.starts_with("source = ")
            && line != "source = \"registry+https://github.com/rust-lang/crates.io-index\"";
        if is_elsewhere || name.is_some_and(|name| banned.contains(&name)) {
            broken.push(line.to_owned());
        }
    }
    expect_none("deny.toml says what the server may be made of", &broken);
}
