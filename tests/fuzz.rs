//! The fuzz targets without libFuzzer: on the inputs kept in `fuzz/corpus`, and for a moment on variations of
//! them. `make fuzz` does it for long, and knows which inputs reach something new.
//!
//! A failure tells the file that its input was left in, and the seed that leads to it again, if it is set as
//! `RESONATE_FUZZ_SEED`. `RESONATE_FUZZ_MS` is for how long each target is tried.

use std::fs;
use std::panic::{AssertUnwindSafe, catch_unwind, resume_unwind};
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

#[path = "../fuzz/targets/mod.rs"]
mod targets;

const MS_DEFAULT: u64 = 2000;
const INPUT_BYTES_MAX: usize = 4096;
const CHANGES_MAX: usize = 4;

fn folder() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("fuzz")
}

fn setting(name: &str) -> Option<u64> {
    let text = std::env::var(name).ok()?;
    Some(
        text.parse()
            .unwrap_or_else(|_| panic!("{name} is no number")),
    )
}

/// The files of a folder, in an order that is always the same.
fn files(folder: &Path) -> Vec<PathBuf> {
    let entries = fs::read_dir(folder);
    let entries = entries.unwrap_or_else(|error| panic!("{}: {error}", folder.display()));
    let mut files: Vec<PathBuf> = entries
        .map(|entry| entry.expect("the folder is readable").path())
        .collect();
    files.sort();
    files
}

/// Runs a target. An input that it fails on is said to be `what`.
fn attempt(name: &str, input: &[u8], what: impl FnOnce() -> String) {
    let outcome = catch_unwind(AssertUnwindSafe(|| targets::run(name, input)));
    if let Err(panic) = outcome {
        eprintln!("{name} fails on {}", what());
        resume_unwind(panic);
    }
}

/// The inputs that are kept of a target, all of which pass.
fn kept(name: &str) -> Vec<Vec<u8>> {
    let files = files(&folder().join("corpus").join(name));
    assert!(!files.is_empty(), "nothing is kept of {name}");
    let passed = files.iter().map(|file| {
        let input = fs::read(file).expect("the file is readable");
        attempt(name, &input, || file.display().to_string());
        input
    });
    passed.collect()
}

/// Words that mean something to a target: a line of a dictionary is `"word"`, with `\xNN` for bytes.
fn words(name: &str) -> Vec<Vec<u8>> {
    let file = folder().join("dictionaries").join(format!("{name}.dict"));
    let text = fs::read_to_string(file).expect("every target has a dictionary");
    let lines = text.lines().map(|line| line.trim_matches('"'));
    lines.map(unescaped).collect()
}

fn unescaped(word: &str) -> Vec<u8> {
    let mut parts = word.split("\\x");
    let mut bytes = parts.next().unwrap_or_default().as_bytes().to_vec();
    for part in parts {
        let (digits, rest) = part.split_at(2);
        bytes.push(u8::from_str_radix(digits, 16).expect("two digits"));
        bytes.extend(rest.as_bytes());
    }
    bytes
}

/// Changes what is kept, at random.
struct Variations {
    kept: Vec<Vec<u8>>,
    words: Vec<Vec<u8>>,
    random: fastrand::Rng,
}

impl Variations {
    fn next(&mut self) -> Vec<u8> {
        let mut input = self.any(|this| &this.kept);
        for _ in 0..self.random.usize(1..=CHANGES_MAX) {
            self.change(&mut input);
        }
        input.truncate(INPUT_BYTES_MAX);
        input
    }

    fn any(&mut self, of: impl Fn(&Self) -> &Vec<Vec<u8>>) -> Vec<u8> {
        let index = self.random.usize(..of(self).len());
        of(self)[index].clone()
    }

    fn change(&mut self, input: &mut Vec<u8>) {
        let from = self.random.usize(..=input.len());
        let to = (from + self.random.usize(..16)).min(input.len());
        let part = match self.random.u8(..6) {
            0 => Vec::new(),
            1 => vec![self.random.u8(..); to - from],
            2 => input[from..to].repeat(2),
            3 => {
                let other = self.any(|this| &this.kept);
                let start = self.random.usize(..=other.len());
                other[start..].to_vec()
            }
            _ => self.any(|this| &this.words),
        };
        // What is put in takes the place of something, or does not.
        let to = if self.random.bool() { to } else { from };
        input.splice(from..to, part);
    }
}

/// The test of a target.
fn fuzz(name: &str) {
    let seed = setting("RESONATE_FUZZ_SEED").unwrap_or_else(|| fastrand::u64(..));
    let mut variations = Variations {
        kept: kept(name),
        words: words(name),
        random: fastrand::Rng::with_seed(seed),
    };
    let milliseconds = setting("RESONATE_FUZZ_MS").unwrap_or(MS_DEFAULT);
    let deadline = Instant::now() + Duration::from_millis(milliseconds);
    let mut count = 0;
    while Instant::now() < deadline {
        let input = variations.next();
        attempt(name, &input, || leave(name, seed, &input));
        count += 1;
    }
    eprintln!("{name}: {count} variations, seed {seed}");
}

/// Writes down what a target has failed on; says where.
fn leave(name: &str, seed: u64, input: &[u8]) -> String {
    let file = Path::new(env!("CARGO_TARGET_TMPDIR")).join(format!("{name}-{seed}"));
    match fs::write(&file, input) {
        Ok(()) => format!("{} (seed {seed})", file.display()),
        Err(_) => format!("{:?} (seed {seed})", String::from_utf8_lossy(input)),
    }
}

macro_rules! targets {
    ($($name:ident)*) => {
        $(
            #[test]
            fn $name() {
                fuzz(stringify!($name));
            }
        )*

        /// libFuzzer, `cargo test` and the corpora know the same targets.
        #[test]
        fn no_target_is_forgotten() {
            let tested = [$(stringify!($name)),*];
            let known = targets::TARGETS.map(|(name, _)| name);
            assert_eq!(tested, known);
            for (place, suffix) in [("fuzz_targets", ".rs"), ("dictionaries", ".dict"), ("corpus", "")] {
                let found = files(&folder().join(place));
                let expected = known.map(|name| folder().join(place).join(format!("{name}{suffix}")));
                assert_eq!(found, expected);
            }
            let manifest = fs::read_to_string(folder().join("Cargo.toml"));
            let manifest = manifest.expect("the manifest is readable");
            for name in known {
                assert!(manifest.contains(&format!("name = \"{name}\"")), "{name}");
            }
        }
    };
}

targets! { address config cron envelope jwt poll push_target requests rows script trace }
