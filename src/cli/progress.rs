//! The spinner: what is waited for, since when, and how far its children are. Only on a terminal.

use std::convert::Infallible;
use std::fmt::Write;
use std::time::Duration;

use console::Term;
use indicatif::{ProgressBar, ProgressDrawTarget, ProgressState, ProgressStyle};
use tokio::time::{Instant, sleep};

use super::graph::{self, Page, detail};
use super::output::{self, clean_line, time};
use crate::client::{Client, clock};
use crate::protocol::record::{Millis, Promise, PromiseState};

const TICK: Duration = Duration::from_millis(80);
const LOOK_INTERVAL: Duration = Duration::from_secs(1);
/// More children than these are not counted.
const CHILDREN_MAX: usize = 1000;

/// A line on standard error that lives while something is waited for.
pub(super) struct Progress {
    /// None without a terminal.
    bar: Option<ProgressBar>,
}

impl Progress {
    pub(super) fn start(promise: &Promise) -> Progress {
        let is_terminal = Term::stderr().is_term() && !console::is_dumb();
        Progress {
            bar: is_terminal.then(|| bar(promise)),
        }
    }

    /// Says something above the spinner.
    pub(super) fn tell(&self, text: &str) {
        match &self.bar {
            Some(bar) => bar.suspend(|| output::tell(text)),
            None => output::tell(text),
        }
    }

    /// Looks after the children, for ever. What this shows nobody waits for: errors are not told.
    pub(super) async fn follow(&self, client: &Client, root: &Promise) -> Infallible {
        if let Some(bar) = &self.bar {
            loop {
                let asked = Instant::now();
                match graph::page(client, &root.id, CHILDREN_MAX, None).await {
                    Ok(page) => bar.set_message(summary(root, &page)),
                    Err(error) if error.is_transient() => {}
                    // A token for some ids only may not search.
                    Err(_) => break,
                }
                sleep(pause(LOOK_INTERVAL, asked)).await;
            }
        }
        std::future::pending().await
    }

    pub(super) fn end(&self) {
        if let Some(bar) = &self.bar {
            bar.finish_and_clear();
        }
    }
}

/// How long not to look again: a graph that takes long to tell is to cost its server little.
pub(super) fn pause(interval: Duration, asked: Instant) -> Duration {
    interval.max(asked.elapsed() * 10)
}

fn bar(promise: &Promise) -> ProgressBar {
    let template = if console::colors_enabled_stderr() {
        "{spinner:.cyan} {took} {wide_msg}"
    } else {
        "{spinner} {took} {wide_msg}"
    };
    let style = ProgressStyle::with_template(template);
    let style = style.unwrap_or_else(|_| ProgressStyle::default_spinner());
    let took = |state: &ProgressState, line: &mut dyn Write| {
        let ms = Millis::try_from(state.elapsed().as_millis()).unwrap_or(Millis::MAX);
        // A failure shows no time, and there is no other way to tell.
        let _ = line.write_str(&time::span(ms));
    };
    let waited = clock::now_ms().saturating_sub(promise.created_at);
    let waited = Duration::from_millis(u64::try_from(waited).unwrap_or(0));
    let bar = ProgressBar::with_draw_target(None, ProgressDrawTarget::stderr())
        .with_style(style.with_key("took", took))
        .with_elapsed(waited)
        .with_message(name(promise));
    bar.enable_steady_tick(TICK);
    bar
}

/// The root and its function; how many children are settled, and the youngest that is not.
fn summary(root: &Promise, page: &Page) -> String {
    let children = page.promises.iter().filter(|child| child.id != root.id);
    let (settled, pending): (Vec<&Promise>, Vec<&Promise>) =
        children.partition(|child| child.state != PromiseState::Pending);
    let total = settled.len() + pending.len();
    if total == 0 {
        return name(root);
    }
    let more = if page.cursor.is_some() { "+" } else { "" };
    let youngest = pending.into_iter().max_by_key(|child| child.created_at);
    let youngest = youngest.map_or_else(String::new, |child| format!(", {}", name(child)));
    format!(
        "{}: {} of {total}{more} done{youngest}",
        name(root),
        settled.len()
    )
}

fn name(promise: &Promise) -> String {
    let name = format!("{} {}", promise.id, detail(promise));
    clean_line(name.trim_end())
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn promise(id: &str, state: &str, created_at: i64) -> serde_json::Value {
        json!({
            "id": id, "state": state, "param": {}, "value": {}, "tags": {},
            "timeoutAt": i64::MAX, "createdAt": created_at,
        })
    }

    fn summary_of(page: &serde_json::Value) -> String {
        let root = promise("r", "pending", 1).to_string();
        let root = serde_json::from_str(&root).unwrap();
        summary(&root, &serde_json::from_str(&page.to_string()).unwrap())
    }

    #[test]
    fn children_are_counted_and_the_youngest_at_work_is_named() {
        let children = [
            promise("r", "pending", 1),
            promise("r.0", "resolved", 2),
            promise("r.1", "rejected", 3),
            promise("r.2", "pending", 5),
            promise("r.3", "pending", 4),
        ];
        let page = json!({"promises": children});
        assert_eq!(summary_of(&page), "r: 2 of 4 done, r.2");
        let page = json!({"promises": children, "cursor": "r.3"});
        assert_eq!(summary_of(&page), "r: 2 of 4+ done, r.2");
        let page = json!({"promises": children[..2]});
        assert_eq!(summary_of(&page), "r: 1 of 1 done");
        let page = json!({"promises": children[..1]});
        assert_eq!(summary_of(&page), "r");
    }
}
