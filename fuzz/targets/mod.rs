//! What is fuzzed: one function for every place where bytes from outside are read. Each takes any bytes
//! and panics if the server would do something that it must not.
//!
//! `fuzz_targets/` hands them to libFuzzer, `tests/fuzz.rs` to `cargo test`, with the inputs kept in
//! `corpus/`.

mod address;
mod config;
mod cron;
mod envelope;
mod jwt;
mod poll;
mod push_target;
mod requests;
mod rows;
mod script;
mod trace;

/// A target: its name, which is that of its corpus, and its body.
pub type Target = (&'static str, fn(&[u8]));

/// All of them.
pub const TARGETS: [Target; 11] = [
    ("address", address::run),
    ("config", config::run),
    ("cron", cron::run),
    ("envelope", envelope::run),
    ("jwt", jwt::run),
    ("poll", poll::run),
    ("push_target", push_target::run),
    ("requests", requests::run),
    ("rows", rows::run),
    ("script", script::run),
    ("trace", trace::run),
];

/// Runs a target on an input.
pub fn run(name: &str, data: &[u8]) {
    let (_, target) = TARGETS
        .iter()
        .find(|(known, _)| *known == name)
        .unwrap_or_else(|| panic!("no target is called {name}"));
    target(data);
}
