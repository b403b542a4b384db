//! A PostgreSQL cluster of a test's own, to be stopped and crashed, by way of `tests/postgres.py`.

use std::io::{BufRead, BufReader, Write};
use std::path::Path;
use std::process::{Child, ChildStdin, ChildStdout, Command, Stdio};

/// How a cluster is told to go.
#[derive(Clone, Copy, Debug)]
pub enum Stop {
    /// Everything is written first.
    Fast,
    /// As in a crash: connections break off, and the next start recovers.
    Immediate,
}

impl Stop {
    fn as_str(self) -> &'static str {
        match self {
            Stop::Fast => "fast",
            Stop::Immediate => "immediate",
        }
    }
}

/// A cluster. Dropping it ends it.
pub struct Postgres {
    child: Child,
    commands: Option<ChildStdin>,
    answers: BufReader<ChildStdout>,
    url: String,
}

impl Postgres {
    pub fn start() -> Postgres {
        let script = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/postgres.py");
        let mut child = Command::new("python3")
            .arg(script)
            .arg("serve")
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .expect("python3 is there");
        let commands = child.stdin.take();
        let answers = BufReader::new(child.stdout.take().expect("stdout is piped"));
        let mut cluster = Postgres {
            child,
            commands,
            answers,
            url: String::new(),
        };
        cluster.url = cluster.read();
        // The certificate, which the cluster of the whole run has as well.
        cluster.read();
        cluster
    }

    /// Of the maintenance database, as superuser.
    pub fn url(&self) -> &str {
        &self.url
    }

    /// Returns when it has ended.
    pub fn stop(&mut self, how: Stop) {
        self.command(&format!("stop {}", how.as_str()));
    }

    /// Starts it again on the same port; returns when it accepts connections.
    pub fn start_again(&mut self) {
        self.command("start");
    }

    fn command(&mut self, command: &str) {
        let commands = self.commands.as_mut().expect("open until the end");
        writeln!(commands, "{command}").expect("tests/postgres.py is there");
        let answer = self.read();
        assert_eq!(answer, "ok", "{command}");
    }

    fn read(&mut self) -> String {
        let mut line = String::new();
        self.answers
            .read_line(&mut line)
            .expect("tests/postgres.py writes text");
        assert!(
            line.ends_with('\n'),
            "tests/postgres.py has ended, see above"
        );
        line.trim_end().to_owned()
    }
}

impl Drop for Postgres {
    fn drop(&mut self) {
        // The end of its input is what it ends by.
        drop(self.commands.take());
        // Fails only when it is gone already.
        let _ = self.child.wait();
    }
}
