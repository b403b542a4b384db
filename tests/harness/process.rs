//! A process that a test started: what it says is kept, and it does not outlive the test.

use std::io::{BufRead, BufReader};
use std::process::{ChildStdin, ChildStdout, Command, Stdio};
use std::sync::{Arc, Mutex};
use std::thread;
use std::time::{Duration, Instant};

use super::group::Group;
use super::http::DEADLINE;
use super::server::lock;

/// How a process is told to go.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Signal {
    Hup,
    Interrupt,
    Term,
    Kill,
}

/// A running process. Dropping it kills it.
pub struct Process {
    group: Group,
    log: Arc<Mutex<Vec<String>>>,
}

impl Process {
    /// Starts it. `heard` is told every line of its stderr, on a thread of its own.
    pub fn start(command: &mut Command, heard: impl Fn(&str) + Send + 'static) -> Process {
        let mut group = Group::start(command.stderr(Stdio::piped()));
        let stderr = group.child.stderr.take().expect("stderr is piped");
        let log = Arc::new(Mutex::new(Vec::new()));
        let lines = Arc::clone(&log);
        thread::spawn(move || {
            for line in BufReader::new(stderr).lines().map_while(Result::ok) {
                heard(&line);
                lock(&lines).push(line);
            }
        });
        Process { group, log }
    }

    /// Its standard input and output, which the command pipes.
    pub fn pipes(&mut self) -> (ChildStdin, ChildStdout) {
        let stdin = self.group.child.stdin.take().expect("stdin is piped");
        let stdout = self.group.child.stdout.take().expect("stdout is piped");
        (stdin, stdout)
    }

    /// Everything it has logged so far.
    pub fn log(&self) -> String {
        lock(&self.log).join("\n")
    }

    /// Sends a signal without waiting for its effect.
    pub fn signal(&self, signal: Signal) {
        send(signal, self.group.id());
    }

    /// Waits for it to end by itself; its exit code, none when a signal ended it.
    pub fn wait(&mut self) -> Option<i32> {
        let deadline = Instant::now() + DEADLINE;
        loop {
            if let Some(status) = self.group.ended() {
                return status.code();
            }
            assert!(Instant::now() < deadline, "the process does not stop");
            thread::sleep(Duration::from_millis(2));
        }
    }

    pub fn kill(&mut self) {
        self.group.kill();
    }
}

/// Sends a signal to a process that a test started.
pub fn send(signal: Signal, process: u32) {
    let name = match signal {
        Signal::Hup => "HUP",
        Signal::Interrupt => "INT",
        Signal::Term => "TERM",
        Signal::Kill => "KILL",
    };
    let status = Command::new("sh")
        .args(["-c", &format!("kill -{name} {process}")])
        .status()
        .expect("a shell runs");
    assert!(status.success(), "no process to signal");
}
