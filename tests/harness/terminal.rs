//! A pseudo-terminal: what a command shows to somebody who sits in front of it.

use std::fs::{File, OpenOptions};
use std::io::Read;
use std::num::NonZero;
use std::os::unix::ffi::OsStrExt;
use std::process::{Command, Stdio};
use std::sync::{Arc, Condvar, Mutex};
use std::thread;
use std::time::Instant;

use rustix::pty::{OpenptFlags, grantpt, openpt, ptsname, unlockpt};
use rustix::termios::{Winsize, tcsetwinsize};
use vt100::{Cell, Parser, Screen};

use super::group::Group;
use super::http::DEADLINE;
use super::process::{Signal, send};
use super::server::lock;

/// A command on a terminal of its own. Dropping it ends the command.
pub struct Terminal {
    group: Group,
    shown: Arc<Shown>,
}

/// What the command has written.
struct Shown {
    state: Mutex<State>,
    changed: Condvar,
}

struct State {
    screen: Parser,
    bytes: Vec<u8>,
    is_over: bool,
}

impl Terminal {
    /// Starts a command on a terminal of so many columns.
    pub fn start(command: &mut Command, columns: u16) -> Terminal {
        const ROWS: NonZero<u16> = NonZero::new(40).expect("not zero");
        let columns = NonZero::new(columns).expect("a terminal has columns");
        let master = openpt(OpenptFlags::RDWR | OpenptFlags::NOCTTY).expect("a terminal is free");
        grantpt(&master).expect("it can be used");
        unlockpt(&master).expect("it can be opened");
        let size = Winsize {
            ws_row: ROWS.get(),
            ws_col: columns.get(),
            ws_xpixel: 0,
            ws_ypixel: 0,
        };
        tcsetwinsize(&master, size).expect("it has a size");
        let name = ptsname(&master, Vec::new()).expect("it has a name");
        let path = std::path::Path::new(std::ffi::OsStr::from_bytes(name.as_bytes()));
        let slave = OpenOptions::new().read(true).write(true).open(path);
        let slave = slave.expect("it can be opened");
        let end = || Stdio::from(slave.try_clone().expect("a file can be shared"));
        let group = Group::start(
            command
                .env("TERM", "xterm-256color")
                .stdin(end())
                .stdout(end())
                .stderr(end()),
        );
        // The command keeps files of this terminal, and its end is ours only once they are closed.
        command
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(Stdio::null());
        let shown = Arc::new(Shown {
            state: Mutex::new(State {
                screen: Parser::new(ROWS, columns, 0),
                bytes: Vec::new(),
                is_over: false,
            }),
            changed: Condvar::new(),
        });
        let told = Arc::clone(&shown);
        thread::spawn(move || read(File::from(master), &told));
        Terminal { group, shown }
    }

    /// Waits until the screen is as wanted.
    #[track_caller]
    pub fn until(&self, what: &str, is_so: impl Fn(&Screen) -> bool) {
        self.wait(what, |state| is_so(state.screen.screen()));
    }

    /// Waits until the screen shows a text.
    #[track_caller]
    pub fn shows(&self, text: &str) {
        self.until(text, |screen| screen.contents().contains(text));
    }

    /// Waits for the end of the command: its exit code, and what is left on the screen.
    #[track_caller]
    pub fn end(&mut self) -> (Option<i32>, String) {
        self.wait("the end", |state| state.is_over);
        (self.group.wait().code(), self.contents())
    }

    /// What the screen shows, without blanks at the ends of lines.
    pub fn contents(&self) -> String {
        lock(&self.shown.state).screen.screen().contents()
    }

    /// Every byte that was written.
    pub fn bytes(&self) -> String {
        String::from_utf8_lossy(&lock(&self.shown.state).bytes).into_owned()
    }

    /// The colour of the first letter of a text that the screen shows.
    #[track_caller]
    pub fn color_of(&self, text: &str) -> vt100::Color {
        let state = lock(&self.shown.state);
        let screen = state.screen.screen();
        let (rows, columns) = screen.size();
        for row in 0..rows.get() {
            let cells = (0..columns.get()).filter_map(|column| screen.cell(row, column));
            let cells: Vec<&Cell> = cells.filter(|cell| cell.has_contents()).collect();
            let mut line = String::new();
            // Where in the line each cell begins: some hold more than a letter, or take two places.
            let mut starts = Vec::new();
            for cell in &cells {
                starts.push(line.len());
                line += cell.contents();
            }
            let Some(at) = line.find(text) else {
                continue;
            };
            if let Some(n) = starts.iter().position(|start| *start == at) {
                return cells[n].fgcolor();
            }
        }
        panic!("{text:?} is not on the screen:\n{}", screen.contents());
    }

    /// Sends a signal without waiting for its effect.
    pub fn signal(&self, signal: Signal) {
        send(signal, self.group.id());
    }

    #[track_caller]
    fn wait(&self, what: &str, is_so: impl Fn(&State) -> bool) {
        let deadline = Instant::now() + DEADLINE;
        let mut state = lock(&self.shown.state);
        while !is_so(&state) {
            let left = deadline.saturating_duration_since(Instant::now());
            assert!(
                !left.is_zero() && !state.is_over,
                "no {what:?} on the screen:\n{}",
                state.screen.screen().contents()
            );
            let waited = self.shown.changed.wait_timeout(state, left);
            state = waited.expect("no reader panics").0;
        }
    }
}

/// Reads until nobody has the terminal open any more, which is an error on Linux.
fn read(mut master: File, shown: &Shown) {
    let mut buffer = [0; 4096];
    while let Ok(n @ 1..) = master.read(&mut buffer) {
        let mut state = lock(&shown.state);
        state.screen.process(&buffer[..n]);
        state.bytes.extend(&buffer[..n]);
        drop(state);
        shown.changed.notify_all();
    }
    lock(&shown.state).is_over = true;
    shown.changed.notify_all();
}
