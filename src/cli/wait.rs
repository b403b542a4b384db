//! Waiting for a promise, as `invoke --wait` and `promises await` do.
//!
//! The value goes to standard output, all else to standard error: what is waited for, how it goes, how to
//! come back after Ctrl-C.

use std::process::ExitCode;

use console::style;
use serde::Serialize;

use super::interrupt::Interrupt;
use super::output::{self, payload};
use super::progress::Progress;
use super::session::{Failure, Format, Session};
use crate::client::{self, Notice};
use crate::protocol::record::{Promise, PromiseState};

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
        let mut interrupt = Interrupt::listen()?;
        let progress = Progress::start(&promise);
        let tell = |notice| progress.tell(&sentence(&notice));
        let waiting = client::settled(&session.client, &promise.id, tell);
        let outcome = tokio::select! {
            outcome = waiting => Some(outcome),
            () = interrupt.comes() => None,
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
    let await_it = ["promises", "await", "--", id];
    // Two dashes only where the id would be taken for a flag.
    let attach = match id.starts_with('-') {
        true => session.command_line(&await_it),
        false => session.command_line(&[&await_it[..2], &[id]].concat()),
    };
    output::tell(&format!(
        "{} goes on without this command. To wait for it again:\n\n  {}\n",
        output::clean_line(id),
        output::clean_line(&attach),
    ));
    Interrupt::exit_code()
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
