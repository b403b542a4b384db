//! Tables: what `search` prints on a terminal.

use comfy_table::ColumnConstraint::{ContentWidth, LowerBoundary};
use comfy_table::presets::NOTHING;
use comfy_table::{Attribute, Cell, Color, ContentArrangement, Table, Width};
use console::Term;
use serde::Deserialize;

use super::{clean_line, dim, payload, time};
use crate::protocol::record::{Millis, Promise, PromiseState, Schedule, TaskRecord, TaskState};

/// Ids and addresses are broken into lines where they must be, but not into single letters.
const BREAKABLE_WIDTH_MIN: u16 = 6;

pub(super) fn promises(promises: &[Promise], now: Millis) -> String {
    let rows = promises.iter().map(|promise| {
        let (took, timeout) = match promise.settled_at {
            Some(at) => (
                time::span(at.saturating_sub(promise.created_at)),
                String::new(),
            ),
            None => (String::new(), due(promise.timeout_at, now)),
        };
        vec![
            text(&promise.id),
            text(promise.state.as_str()).fg(promise_color(promise.state)),
            text(&until(now, promise.created_at)),
            text(&took),
            text(&timeout),
            text(&payload::function(&promise.param).unwrap_or_default()),
            text(promise.tags.target().unwrap_or_default()),
        ]
    });
    let header = [
        "ID", "STATE", "AGE", "TOOK", "TIMEOUT", "FUNCTION", "TARGET",
    ];
    table("promises", &header, rows.collect())
}

pub(super) fn tasks(tasks: &[TaskRecord]) -> String {
    let rows = tasks.iter().map(|task| {
        vec![
            text(&task.id),
            text(task.state.as_str()).fg(task_color(task.state)),
            text(&task.version.to_string()),
            text(&task.resumes.to_string()),
            text(task.pid.as_deref().unwrap_or_default()),
            text(&task.ttl.map(time::span).unwrap_or_default()),
        ]
    });
    let header = ["ID", "STATE", "VERSION", "RESUMES", "PID", "TTL"];
    table("tasks", &header, rows.collect())
}

pub(super) fn schedules(schedules: &[Schedule], now: Millis) -> String {
    let rows = schedules.iter().map(|schedule| {
        let last = schedule.last_run_at.map(|at| until(now, at));
        vec![
            text(&schedule.id),
            text(&schedule.cron).fg(Color::DarkCyan),
            text(&due(schedule.next_run_at, now)),
            text(&last.unwrap_or_default()),
            text(&schedule.promise_id),
            text(schedule.promise_tags.target().unwrap_or_default()),
        ]
    });
    let header = ["ID", "CRON", "NEXT", "LAST", "PROMISES", "TARGET"];
    table("schedules", &header, rows.collect())
}

/// Who is waited for, as `GET /targets` tells it.
#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct Target {
    target: String,
    tasks: u64,
    unblocks: u64,
    waiting_since: Millis,
    reason: Option<String>,
    detail: Option<String>,
}

pub(super) fn targets(targets: &[Target], now: Millis) -> String {
    let rows = targets.iter().map(|target| {
        let (why, color) = match target.reason.as_deref() {
            None => ("being received", Color::DarkGreen),
            Some("no_receiver") => ("nobody is connected", Color::DarkYellow),
            Some("transport_disabled") => ("transport disabled", Color::DarkRed),
            Some(reason) => (reason, Color::DarkRed),
        };
        let why = match &target.detail {
            Some(detail) => format!("{why}: {detail}"),
            None => why.to_owned(),
        };
        vec![
            text(&target.target),
            text(&target.tasks.to_string()),
            text(&target.unblocks.to_string()),
            text(&until(now, target.waiting_since)),
            text(&why).fg(color),
        ]
    });
    let header = ["TARGET", "TASKS", "MESSAGES", "WAITING", "WHY"];
    table("messages wait", &header, rows.collect())
}

/// In how long.
fn due(at: Millis, now: Millis) -> String {
    match time::date(at) {
        Some(_) => until(at, now),
        None => "never".to_owned(),
    }
}

fn until(later: Millis, now: Millis) -> String {
    time::brief(later.saturating_sub(now))
}

fn text(text: &str) -> Cell {
    Cell::new(clean_line(text))
}

/// Aligned, without lines, as wide as the terminal at most; columns that hold nothing are left out.
fn table(what: &str, header: &[&str], rows: Vec<Vec<Cell>>) -> String {
    if rows.is_empty() {
        return dim(format!("No {what}.")).to_string();
    }
    let is_used = |column: usize| rows.iter().any(|row| !row[column].content().is_empty());
    let used: Vec<bool> = (0..header.len()).map(is_used).collect();
    let mut table = Table::new();
    table
        .load_style(NOTHING)
        .set_content_arrangement(ContentArrangement::Dynamic);
    // It would look at standard output by itself, but knows of neither NO_COLOR nor TERM.
    table.force_no_tty();
    if console::colors_enabled() {
        table.enforce_styling();
    }
    if let Some((_, width)) = Term::stdout().size_checked() {
        table.set_width(width);
    }
    let names = header.iter();
    let names = names.map(|name| Cell::new(name).add_attribute(Attribute::Dim));
    table.set_header(keep(names, &used));
    for row in rows {
        table.add_row(keep(row.into_iter(), &used));
    }
    table.style_text_only();
    let names = header.iter().zip(&used).filter(|(_, is_used)| **is_used);
    for (column, (name, _)) in table.column_iter_mut().zip(names) {
        column.set_padding((0, 2));
        column.set_constraint(match *name {
            "ID" | "PROMISES" | "TARGET" | "WHY" => {
                LowerBoundary(Width::Fixed(BREAKABLE_WIDTH_MIN))
            }
            _ => ContentWidth,
        });
    }
    table.trim_fmt()
}

fn keep(cells: impl Iterator<Item = Cell>, used: &[bool]) -> Vec<Cell> {
    let cells = cells.zip(used);
    cells.filter_map(|(cell, is)| is.then_some(cell)).collect()
}

fn promise_color(state: PromiseState) -> Color {
    match state {
        PromiseState::Pending => Color::DarkYellow,
        PromiseState::Resolved => Color::DarkGreen,
        PromiseState::Rejected
        | PromiseState::RejectedCanceled
        | PromiseState::RejectedTimedout => Color::DarkRed,
    }
}

fn task_color(state: TaskState) -> Color {
    match state {
        TaskState::Pending => Color::DarkYellow,
        TaskState::Acquired => Color::DarkCyan,
        TaskState::Suspended => Color::DarkBlue,
        TaskState::Halted => Color::DarkRed,
        TaskState::Fulfilled => Color::DarkGreen,
    }
}
