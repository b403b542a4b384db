//! What is printed: the JSON of the server as it came, or text for people.
//!
//! Text goes to a terminal, so nothing in it that the server stores for others may steer the terminal:
//! [`clean`] everything.

use std::io::{self, ErrorKind, Write};

use console::{Style, StyledObject, style};
use serde::Serialize;
use serde_json::value::to_raw_value;

use super::session::Failure;
use crate::protocol::record::{PromiseState, TaskState};

mod layout;
pub(super) mod payload;
mod record;
mod table;
pub(super) mod time;

pub(super) use self::layout::{compact, pretty};
pub(super) use self::record::readable;

/// What is put together here, laid out as the server's answers are.
pub(super) fn json(answer: &impl Serialize) -> Result<String, Failure> {
    let answer = to_raw_value(answer).map_err(anyhow::Error::from)?;
    Ok(pretty(&answer))
}

/// Prints to standard output, and ends the line. A reader that has seen enough, as `head` does, is no
/// failure.
pub(super) fn print(text: &str) -> Result<(), Failure> {
    let mut stdout = io::stdout().lock();
    let line_end = if text.ends_with('\n') { "" } else { "\n" };
    let written = write!(stdout, "{text}{line_end}").and_then(|()| stdout.flush());
    match written {
        Err(error) if error.kind() != ErrorKind::BrokenPipe => Err(Failure::Output(error)),
        _ => Ok(()),
    }
}

/// Says something on standard error. Nobody is left to tell if that is gone.
pub(super) fn tell(text: &str) {
    let _ = writeln!(io::stderr(), "{text}");
}

/// Without characters that would steer a terminal or reorder what it shows; line ends and tabs are
/// kept.
pub(super) fn clean(text: &str) -> String {
    let mut clean = String::with_capacity(text.len());
    for c in text.chars() {
        let is_steering = c.is_control() && !matches!(c, '\n' | '\t');
        let is_reordering = matches!(c, '\u{202a}'..='\u{202e}' | '\u{2066}'..='\u{2069}');
        if is_steering || is_reordering {
            clean.extend(c.escape_unicode());
        } else {
            clean.push(c);
        }
    }
    clean
}

/// The same, on one line.
pub(super) fn clean_line(text: &str) -> String {
    clean(text).replace('\n', "\\n").replace('\t', " ")
}

pub(super) fn promise_state(state: PromiseState) -> Style {
    match state {
        PromiseState::Pending => Style::new().yellow(),
        PromiseState::Resolved => Style::new().green(),
        PromiseState::Rejected
        | PromiseState::RejectedCanceled
        | PromiseState::RejectedTimedout => Style::new().red(),
    }
}

pub(super) fn task_state(state: TaskState) -> Style {
    match state {
        TaskState::Pending => Style::new().yellow(),
        TaskState::Acquired => Style::new().cyan(),
        TaskState::Suspended => Style::new().blue(),
        TaskState::Halted => Style::new().red(),
        TaskState::Fulfilled => Style::new().green(),
    }
}

pub(super) fn dim<D>(text: D) -> StyledObject<D> {
    style(text).dim()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn nothing_stored_can_steer_a_terminal() {
        assert_eq!(
            clean("a\x1b[2Jb\r\u{9b}1m\u{202e}c"),
            "a\\u{1b}[2Jb\\u{d}\\u{9b}1m\\u{202e}c"
        );
        assert_eq!(clean("é\n\t日本"), "é\n\t日本");
        assert_eq!(clean_line("é\n\t日本"), "é\\n 日本");
    }
}
