//! A client of `resonate mcp`: its process, and the lines that go in and out.

use std::collections::VecDeque;
use std::io::{BufRead, BufReader, Write};
use std::process::{ChildStdin, Stdio};
use std::sync::mpsc::{self, Receiver, RecvTimeoutError};
use std::thread;

use serde_json::{Value, json};

use super::command::command;
use super::http::DEADLINE;
use super::process::Process;
use super::server::Server;

/// A running `resonate mcp`. Dropping it kills it.
pub struct Mcp {
    process: Process,
    stdin: ChildStdin,
    /// What stands on standard output, line by line.
    lines: Receiver<String>,
    /// Notifications that came before the answer that was waited for.
    notifications: VecDeque<Value>,
    requests: i64,
}

impl Mcp {
    /// Starts it as a client of `server`.
    pub fn start(server: &Server) -> Mcp {
        Mcp::with(&server.url(), &[], &[])
    }

    /// Starts it as a client of the server at `url`, with more flags and variables.
    pub fn with(url: &str, flags: &[&str], env: &[(&str, &str)]) -> Mcp {
        let mut command = command(url, &["mcp"]);
        command
            .args(flags)
            .envs(env.iter().copied())
            .stdin(Stdio::piped())
            .stdout(Stdio::piped());
        let mut process = Process::start(&mut command, |_| {});
        let (stdin, stdout) = process.pipes();
        let (sender, lines) = mpsc::channel();
        thread::spawn(move || {
            for line in BufReader::new(stdout).lines().map_while(Result::ok) {
                if sender.send(line).is_err() {
                    return;
                }
            }
        });
        Mcp {
            process,
            stdin,
            lines,
            notifications: VecDeque::new(),
            requests: 0,
        }
    }

    /// Writes bytes as they are.
    #[track_caller]
    pub fn write(&mut self, bytes: &[u8]) {
        let written = self
            .stdin
            .write_all(bytes)
            .and_then(|()| self.stdin.flush());
        written.unwrap_or_else(|error| panic!("it does not read: {error}\n{}", self.log()));
    }

    #[track_caller]
    pub fn send(&mut self, message: &Value) {
        self.write(format!("{message}\n").as_bytes());
    }

    /// The next line, whatever it is.
    #[track_caller]
    pub fn read(&self) -> Value {
        let line = self.lines.recv_timeout(DEADLINE);
        let line = line.unwrap_or_else(|error| panic!("no line: {error}\n{}", self.log()));
        serde_json::from_str(&line).unwrap_or_else(|error| panic!("{error}: {line}"))
    }

    /// Sends a request; the whole answer to it.
    #[track_caller]
    pub fn answer(&mut self, method: &str, params: Value) -> Value {
        self.requests += 1;
        let id = self.requests;
        let mut request = json!({"jsonrpc": "2.0", "id": id, "method": method});
        if !params.is_null() {
            request["params"] = params;
        }
        self.send(&request);
        loop {
            let line = self.read();
            assert_eq!(line["jsonrpc"], "2.0", "{line}");
            if line.get("id").is_some() {
                assert_eq!(line["id"], id, "{line}");
                return line;
            }
            self.notifications.push_back(line);
        }
    }

    /// Sends a request that must succeed; its result.
    #[track_caller]
    pub fn request(&mut self, method: &str, params: Value) -> Value {
        let mut answer = self.answer(method, params);
        assert!(answer.get("error").is_none(), "{answer}");
        answer["result"].take()
    }

    /// Calls a tool: what it says, and whether that is an error.
    #[track_caller]
    #[allow(
        clippy::needless_pass_by_value,
        reason = "`json!` at every call reads better without a borrow"
    )]
    pub fn call(&mut self, tool: &str, arguments: Value) -> (String, bool) {
        let params = json!({"name": tool, "arguments": arguments});
        let result = self.request("tools/call", params);
        let text = result["content"][0]["text"].as_str().expect("a text");
        let is_error = result["isError"].as_bool().expect("a verdict");
        let content = json!([{"type": "text", "text": text}]);
        assert_eq!(result, json!({"content": content, "isError": is_error}));
        (text.to_owned(), is_error)
    }

    /// Calls a tool that must succeed; the JSON that it returns, which is pretty.
    #[track_caller]
    pub fn ok(&mut self, tool: &str, arguments: Value) -> Value {
        let (text, is_error) = self.call(tool, arguments);
        assert!(!is_error, "{text}");
        assert!(
            text.starts_with("{\n  \"") && text.ends_with("\n}"),
            "{text}"
        );
        serde_json::from_str(&text).expect("a tool returns JSON")
    }

    /// Calls a tool that must fail.
    #[track_caller]
    pub fn refused(&mut self, tool: &str, arguments: Value, message: &str) {
        let called = self.call(tool, arguments);
        assert_eq!(called, (message.to_owned(), true));
    }

    /// The next notification.
    #[track_caller]
    pub fn notification(&mut self) -> Value {
        let notification = self.notifications.pop_front();
        notification.unwrap_or_else(|| self.read())
    }

    /// Everything it has logged so far.
    pub fn log(&self) -> String {
        self.process.log()
    }

    /// Closes its standard input and waits for it to end: its exit code, and what it wrote that nobody
    /// has asked for yet.
    #[track_caller]
    pub fn close(self) -> (Option<i32>, Vec<Value>) {
        let Mcp {
            mut process,
            stdin,
            lines,
            notifications,
            ..
        } = self;
        drop(stdin);
        let mut rest = Vec::from(notifications);
        loop {
            match lines.recv_timeout(DEADLINE) {
                Ok(line) => rest.push(serde_json::from_str(&line).expect("a line is JSON")),
                Err(RecvTimeoutError::Disconnected) => return (process.wait(), rest),
                Err(RecvTimeoutError::Timeout) => panic!("it does not end\n{}", process.log()),
            }
        }
    }
}
