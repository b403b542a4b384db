//! The bar: how far a command is that takes a while. Only on a terminal.

use console::Term;
use indicatif::{ProgressBar, ProgressDrawTarget, ProgressStyle};

/// What is counted.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Unit {
    Bytes,
    Lines,
}

/// A line on standard error, gone when it is dropped.
pub(super) struct Bar(Option<ProgressBar>);

impl Bar {
    pub(super) fn start(doing: &'static str, unit: Unit) -> Bar {
        let is_terminal = Term::stderr().is_term() && !console::is_dumb();
        Bar(is_terminal.then(|| {
            let template = match unit {
                Unit::Bytes => "{msg} {wide_bar} {bytes} of {total_bytes}, {eta}",
                Unit::Lines => "{msg} {wide_bar} {human_pos} of {human_len}, {eta}",
            };
            let style = ProgressStyle::with_template(template);
            ProgressBar::with_draw_target(Some(0), ProgressDrawTarget::stderr())
                .with_style(style.unwrap_or_else(|_| ProgressStyle::default_bar()))
                .with_message(doing)
        }))
    }

    pub(super) fn set(&self, done: u64, total: u64) {
        if let Some(bar) = &self.0 {
            bar.set_length(total.max(done));
            bar.set_position(done);
        }
    }
}

impl Drop for Bar {
    fn drop(&mut self) {
        if let Some(bar) = &self.0 {
            bar.finish_and_clear();
        }
    }
}
