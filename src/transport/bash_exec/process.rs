//! Runs a program to its end, or to an end that somebody else puts to it.
//!
//! The program is the leader of a process group of its own. Stopping it stops the group: SIGTERM, and
//! SIGKILL for what is left after a while. The group's id is safe to signal as long as its leader has
//! not been waited for, so that comes last.

use std::future::Future;
use std::io;
use std::pin::pin;
use std::process::{ExitStatus, Stdio};
use std::time::Duration;

use rustix::process::{Pid, Signal, WaitId, WaitIdOptions, kill_process_group, waitid};
use tokio::io::{AsyncRead, AsyncReadExt};
use tokio::process::{Child, Command};

/// Bytes kept of stdout, and of stderr.
pub const OUTPUT_BYTES_MAX: usize = 1024 * 1024;
/// Bytes read at a time.
const READ_BYTES: usize = 16 * 1024;
/// How often a program that was told to end is looked at.
const ENDING_INTERVAL: Duration = Duration::from_millis(10);

/// What became of a program.
#[derive(Debug, PartialEq, Eq)]
pub enum Ended {
    /// It ended by itself.
    Exited {
        /// None when a signal ended it.
        code: Option<i32>,
        /// What it printed.
        stdout: Output,
        /// What it complained of.
        stderr: Output,
    },
    /// It was stopped.
    Stopped,
}

/// What a program wrote to one of its streams.
#[derive(Debug, Default, PartialEq, Eq)]
pub struct Output {
    bytes: Vec<u8>,
    /// Bytes beyond the bound, which are gone.
    pub bytes_cut: u64,
}

impl Output {
    /// As text without the whitespace at its end. What is not UTF-8 is replaced; a character that the
    /// bound has cut in two is left out.
    pub fn text(&self) -> String {
        let mut bytes = &self.bytes[..];
        let is_start = |byte: u8| byte & 0b1100_0000 != 0b1000_0000;
        let last = bytes.iter().rposition(|byte| is_start(*byte));
        if self.bytes_cut > 0
            && let Some(last) = last
            && std::str::from_utf8(&bytes[last..]).is_err_and(|error| error.error_len().is_none())
        {
            bytes = &bytes[..last];
        }
        let text = String::from_utf8_lossy(bytes);
        text.trim_end().to_owned()
    }
}

/// Runs `command` with nothing on its stdin until it has ended and nobody holds its stdout and stderr
/// any more, or until `stop` is ready: then it gets the time that `stop` answers to end. Dropped, it
/// kills the program's group.
///
/// # Errors
/// When the program cannot be started.
pub async fn run(mut command: Command, stop: impl Future<Output = Duration>) -> io::Result<Ended> {
    let mut child = command
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .process_group(0)
        .spawn()?;
    let mut group = Group::of(&child);
    let (stdout, stderr) = (child.stdout.take(), child.stderr.take());
    let mut reading = pin!(async { tokio::join!(read(stdout), read(stderr)) });
    let mut stop = pin!(stop);
    let read = tokio::select! {
        biased;
        read = &mut reading => Ok(read),
        grace = &mut stop => Err(grace),
    };
    let grace = match read {
        Ok((stdout, stderr)) => tokio::select! {
            biased;
            status = child.wait() => {
                group.disarm();
                let code = status?.code();
                return Ok(Ended::Exited { code, stdout, stderr });
            }
            grace = &mut stop => grace,
        },
        Err(grace) => {
            group.signal(Signal::TERM);
            let ending = async {
                reading.await;
                group.ended().await;
            };
            // Whatever is left of it is killed below.
            let _ = tokio::time::timeout(grace, ending).await;
            return end(child, group).await;
        }
    };
    group.signal(Signal::TERM);
    let _ = tokio::time::timeout(grace, group.ended()).await;
    end(child, group).await
}

async fn end(mut child: Child, mut group: Group) -> io::Result<Ended> {
    group.signal(Signal::KILL);
    let _: ExitStatus = child.wait().await?;
    group.disarm();
    Ok(Ended::Stopped)
}

/// Reads to the end, keeping what is within the bound: a program must not wait for a reader.
async fn read(stream: Option<impl AsyncRead + Unpin>) -> Output {
    let mut output = Output::default();
    let Some(mut stream) = stream else {
        return output;
    };
    let mut buffer = vec![0; READ_BYTES];
    // A stream that cannot be read has come to its end.
    while let Ok(len @ 1..) = stream.read(&mut buffer).await {
        let room = OUTPUT_BYTES_MAX - output.bytes.len();
        let kept = len.min(room);
        output.bytes.extend_from_slice(&buffer[..kept]);
        output.bytes_cut += u64::try_from(len - kept).unwrap_or(u64::MAX);
    }
    output
}

/// The group of a program that has not been waited for. Dropping it kills the group.
struct Group(Option<Pid>);

impl Group {
    fn of(leader: &Child) -> Group {
        let pid = leader.id().and_then(|id| i32::try_from(id).ok());
        Group(pid.and_then(Pid::from_raw))
    }

    fn signal(&self, signal: Signal) {
        if let Some(leader) = self.0 {
            // Fails only when nobody is left.
            let _ = kill_process_group(leader, signal);
        }
    }

    /// Returns once the leader has ended, without waiting for it in the sense of the kernel.
    async fn ended(&self) {
        let options = WaitIdOptions::EXITED | WaitIdOptions::NOWAIT | WaitIdOptions::NOHANG;
        while let Some(leader) = self.0
            && let Ok(None) = waitid(WaitId::Pid(leader), options)
        {
            tokio::time::sleep(ENDING_INTERVAL).await;
        }
    }

    /// The leader has been waited for; its id may be another's by now.
    fn disarm(&mut self) {
        self.0 = None;
    }
}

impl Drop for Group {
    fn drop(&mut self) {
        self.signal(Signal::KILL);
    }
}
