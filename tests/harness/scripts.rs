//! Scripts that the server under test runs, and how their promises settle.

use std::fs;
use std::path::Path;
use std::thread;
use std::time::{Duration, Instant};

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use serde_json::{Value, json};

use super::http::DEADLINE;
use super::record::member;
use super::server::{Server, unique};
use super::sse::Stream;

pub const ENABLED: [&str; 2] = ["--transports-bash-exec-enabled", "true"];
/// Leases that a test waits for, and that a busy machine keeps all the same.
pub const SHORT_LEASE: [&str; 2] = ["--tasks-lease-timeout", "2000"];

pub fn server(extra: &[&str]) -> Server {
    Server::with(&[&ENABLED, extra].concat())
}

pub fn with_root(root: &Path, extra: &[&str]) -> Server {
    let root = root.to_str().expect("the path is UTF-8");
    server(&[&["--transports-bash-exec-root-dir", root], extra].concat())
}

pub fn base64(text: impl AsRef<[u8]>) -> String {
    STANDARD.encode(text)
}

/// Creates a promise for a script.
#[track_caller]
pub fn create(
    server: &Server,
    id: &str,
    target: &str,
    data: Option<&str>,
    timeout_at: i64,
) -> Value {
    let param = data.map_or(json!({}), |data| json!({"data": data}));
    let data = json!({
        "id": id, "timeoutAt": timeout_at, "param": param,
        "tags": {"resonate:target": target},
    });
    member(server.ok("promise.create", data), "promise")
}

/// Waits for a promise to settle.
#[track_caller]
pub fn settled(server: &Server, id: &str) -> Value {
    let stream = Stream::open(server, "tests", id);
    let promise = server
        .client()
        .listen(id, &format!("poll://uni@tests/{id}"));
    match promise["state"].as_str() {
        Some("pending") => stream.next_unblock(),
        _ => promise,
    }
}

/// Runs a script to its end: state and data of its promise.
#[track_caller]
pub fn run(server: &Server, target: &str, data: Option<&str>) -> (String, String) {
    let id = unique("s");
    create(server, &id, target, data, i64::MAX);
    outcome(&settled(server, &id))
}

#[track_caller]
pub fn outcome(promise: &Value) -> (String, String) {
    let text = |value: &Value| value.as_str().expect("a string").to_owned();
    assert!(promise["value"].get("headers").is_none(), "{promise}");
    (text(&promise["state"]), text(&promise["value"]["data"]))
}

#[track_caller]
pub fn run_inline(server: &Server, script: &str) -> (String, String) {
    run(server, "bash:///", Some(&base64(script)))
}

pub fn resolved(data: &str) -> (String, String) {
    ("resolved".to_owned(), data.to_owned())
}

pub fn rejected(reason: &str) -> (String, String) {
    ("rejected".to_owned(), reason.to_owned())
}

/// Waits for what other processes do.
#[track_caller]
pub fn until(what: &str, is_so: impl Fn() -> bool) {
    let deadline = Instant::now() + DEADLINE;
    while !is_so() {
        assert!(Instant::now() < deadline, "{what}: not within the deadline");
        thread::sleep(Duration::from_millis(2));
    }
}

/// Waits for a file to have so many lines.
#[track_caller]
pub fn lines(path: &Path, count: usize) -> Vec<String> {
    let read = || fs::read_to_string(path).unwrap_or_default();
    let is_there = || read().matches('\n').count() >= count;
    until(&format!("{count} lines in {}", path.display()), is_there);
    read().lines().map(str::to_owned).collect()
}

pub fn is_running(pid: &str) -> bool {
    // A zombie is not.
    let stat = fs::read_to_string(format!("/proc/{}/stat", pid.trim()));
    stat.is_ok_and(|stat| !stat.contains(") Z "))
}

pub fn write(path: &Path, text: &str) {
    fs::create_dir_all(path.parent().expect("a file has a folder")).expect("a folder is made");
    fs::write(path, text).expect("a file is written");
}
