//! Waiting for a promise, as `invoke --wait` and `promises await` do.
//!
//! The value goes to standard output, all else to standard error: what is waited for, how it goes, how to
//! come back after Ctrl-C.

use std::process::ExitCode;

use console::style;
use serde::Serialize;

use super::output::{self, payload};
use super::progress::Progress;
use super::session::{Failure, Format, Session};
use crate::client::{self, Notice};
use crate::protocol::record::{Promise, PromiseState};

/// By a signal: 128 and the number of SIGINT.
pub(super) const INTERRUPTED: u8 = 130;
const REJECTED: u8 = 1;
const TIMED_OUT: u8 = 2;

/// What is answered to `promise.get`.
#[derive(Serialize)]
struct Answer<'a> {
    promise: &'a Promise,
}

/// Waits unless it is settled already, prints the outcome, and says it by the exit code.
pub(super) async fn show(session: &Session, promise: Promise) -> Result<ExitCode, Failure> {
    let settled = if promise.state == PromiseState::Pending {
        let progress = Progress::start(&promise);
        let tell = |notice| progress.tell(&sentence(&notice));
        let waiting = client::settled(&session.client, &promise.id, tell);
        let outcome = tokio::select! {
            outcome = waiting => Some(outcome),
            _ = tokio::signal::ctrl_c() => None,
            never = progress.follow(&session.client, &promise) => match never {},
        };
        progress.end();
        match outcome {
            Some(outcome) => outcome?,
            None => return Ok(interrupted(session, &promise.id)),
        }
    } else {
        promise
    };
    print(session, &settled)?;
    Ok(verdict(&settled))
}

fn print(session: &Session, promise: &Promise) -> Result<(), Failure> {
    if session.format == Some(Format::Json) {
        return output::print(&output::json(&Answer { promise })?);
    }
    let data = promise.value.parts().and_then(|parts| parts.data);
    match data {
        Some(data) if session.is_text() => output::print(&output::clean(&payload::decoded(&data))),
        Some(data) => output::print(&payload::decoded(&data)),
        None => Ok(()),
    }
}

fn verdict(promise: &Promise) -> ExitCode {
    let (verdict, code) = match promise.state {
        PromiseState::Pending | PromiseState::Resolved => return ExitCode::SUCCESS,
        PromiseState::Rejected => ("was rejected", REJECTED),
        PromiseState::RejectedCanceled => ("was canceled", REJECTED),
        PromiseState::RejectedTimedout => ("timed out", TIMED_OUT),
    };
    let sentence = format!("{} {verdict}", output::clean_line(&promise.id));
    output::tell(&format!(
        "{} {sentence}",
        style("Error:").red().for_stderr()
    ));
    ExitCode::from(code)
}

fn interrupted(session: &Session, id: &str) -> ExitCode {
    let attach = session.command_line(&["promises", "await", id]);
    output::tell(&format!(
        "{} goes on without this command. To wait for it again:\n\n  {}\n",
        output::clean_line(id),
        output::clean_line(&attach),
    ));
    ExitCode::from(INTERRUPTED)
}

fn sentence(notice: &Notice) -> String {
    match notice {
        Notice::Lost(error) => format!("{error}; trying again until the server is back"),
        Notice::Back => "the server is back".to_owned(),
        Notice::NoStream(error) => {
            format!("No poll stream: {error}; asking every 2 s instead of being told")
        }
    }
}
