//! The command line as its users run it: the real binary, its output in pipes.

use std::io::Read;
use std::process::{Command, Stdio};
use std::sync::mpsc;
use std::thread;

use serde_json::Value;

use super::group::Group;
use super::http::DEADLINE;
use super::process::{Signal, send};
use super::server::Server;

/// What became of a command.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Done {
    /// None when a signal ended it.
    pub code: Option<i32>,
    pub stdout: String,
    pub stderr: String,
}

impl Done {
    /// Asserts all that there is to see.
    #[track_caller]
    pub fn expect(&self, code: i32, stdout: &str, stderr: &str) {
        let expected = Done {
            code: Some(code),
            stdout: stdout.to_owned(),
            stderr: stderr.to_owned(),
        };
        assert_eq!(*self, expected);
    }

    /// Asserts success; what was printed, as JSON.
    #[track_caller]
    pub fn json(&self) -> Value {
        assert!(self.code == Some(0) && self.stderr.is_empty(), "{self:?}");
        let json = serde_json::from_str(&self.stdout);
        json.unwrap_or_else(|error| panic!("not JSON ({error}): {self:?}"))
    }
}

/// A command that was started. Dropping it kills it.
pub struct Running {
    group: Group,
    stdout: Reading,
    stderr: Reading,
}

/// A pipe that is read to its end.
struct Reading {
    parts: mpsc::Receiver<Vec<u8>>,
    text: Vec<u8>,
}

/// `resonate` with an environment of its own, pointed at `url`.
pub fn command(url: &str, args: &[&str]) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_resonate"));
    command
        .env_clear()
        .env("PATH", std::env::var_os("PATH").unwrap_or_default())
        .env("RESONATE_URL", url)
        .args(args);
    command
}

/// Starts any command with its output in pipes.
pub fn start(command: &mut Command) -> Running {
    let piped = command
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped());
    let mut group = Group::start(piped);
    let stdout = Reading::of(group.child.stdout.take().expect("stdout is piped"));
    let stderr = Reading::of(group.child.stderr.take().expect("stderr is piped"));
    Running {
        group,
        stdout,
        stderr,
    }
}

/// Runs any command to its end.
pub fn run(command: &mut Command) -> Done {
    start(command).end()
}

impl Server {
    /// Where clients find it.
    pub fn url(&self) -> String {
        format!("http://{}", self.addr())
    }

    /// `resonate` as a client of this server.
    pub fn command(&self, args: &[&str]) -> Command {
        command(&self.url(), args)
    }

    /// Runs `resonate` as a client of this server.
    pub fn cli(&self, args: &[&str]) -> Done {
        run(&mut self.command(args))
    }
}

impl Running {
    /// Sends a signal without waiting for its effect.
    pub fn signal(&self, signal: Signal) {
        send(signal, self.group.id());
    }

    /// Waits until it has said something on its stderr.
    #[track_caller]
    pub fn tells(&mut self, text: &str) {
        self.stderr.until(text);
    }

    /// Waits until it has printed something.
    #[track_caller]
    pub fn prints(&mut self, text: &str) {
        self.stdout.until(text);
    }

    /// Whether it has not ended by itself.
    pub fn is_running(&mut self) -> bool {
        self.group.ended().is_none()
    }

    /// Waits for its end.
    #[track_caller]
    pub fn end(mut self) -> Done {
        let (stdout, stderr) = (self.stdout.rest(), self.stderr.rest());
        let (Some(stdout), Some(stderr)) = (stdout, stderr) else {
            panic!(
                "the command does not end; it printed {:?} and told {:?}",
                self.stdout.text(),
                self.stderr.text()
            );
        };
        Done {
            code: self.group.wait().code(),
            stdout,
            stderr,
        }
    }
}

impl Reading {
    fn of(mut pipe: impl Read + Send + 'static) -> Reading {
        let (sender, parts) = mpsc::channel();
        thread::spawn(move || {
            let mut buffer = [0; 4096];
            while let Ok(n @ 1..) = pipe.read(&mut buffer) {
                if sender.send(buffer[..n].to_vec()).is_err() {
                    return;
                }
            }
        });
        Reading {
            parts,
            text: Vec::new(),
        }
    }

    fn text(&self) -> String {
        String::from_utf8_lossy(&self.text).into_owned()
    }

    #[track_caller]
    fn until(&mut self, text: &str) {
        while !self.text().contains(text) {
            match self.parts.recv_timeout(DEADLINE) {
                Ok(part) => self.text.extend(part),
                Err(error) => panic!("no {text:?} ({error}) in {:?}", self.text()),
            }
        }
    }

    /// Everything, if it ends in time.
    fn rest(&mut self) -> Option<String> {
        loop {
            match self.parts.recv_timeout(DEADLINE) {
                Ok(part) => self.text.extend(part),
                Err(mpsc::RecvTimeoutError::Disconnected) => return Some(self.text()),
                Err(mpsc::RecvTimeoutError::Timeout) => return None,
            }
        }
    }
}
