//! Records, one below the other: what `get` and its like print on a terminal.

use std::fmt::Write;

use console::{Alignment, measure_text_width, pad_str, style};
use serde::Deserialize;
use serde_json::value::RawValue;

use super::{clean, clean_line, dim, payload, promise_state, table, task_state, time};
use crate::client::clock;
use crate::protocol::record::{Millis, Promise, Schedule, Tags, TaskRecord, Value};

/// The members that answers have. One that holds none of these is shown as JSON.
#[derive(Deserialize)]
struct Answer {
    task: Option<TaskRecord>,
    promise: Option<Promise>,
    schedule: Option<Schedule>,
    promises: Option<Vec<Promise>>,
    tasks: Option<Vec<TaskRecord>>,
    schedules: Option<Vec<Schedule>>,
    targets: Option<Vec<table::Target>>,
    cursor: Option<String>,
}

/// The answer for people, if it is of a kind that there is more to say of than JSON does.
pub(in crate::cli) fn readable(data: &RawValue) -> Option<String> {
    let answer: Answer = serde_json::from_str(data.get()).ok()?;
    let now = clock::now_ms();
    let lists = [
        answer.promises.map(|list| table::promises(&list, now)),
        answer.tasks.map(|list| table::tasks(&list)),
        answer.schedules.map(|list| table::schedules(&list, now)),
        answer.targets.map(|list| table::targets(&list, now)),
    ];
    if let Some(mut text) = lists.into_iter().flatten().next() {
        if let Some(cursor) = answer.cursor {
            let cursor = shlex::try_quote(&cursor).unwrap_or_default().into_owned();
            let more = format!("More: --cursor={}", clean_line(&cursor));
            let _ = write!(text, "\n{}", dim(more));
        }
        return Some(text);
    }
    let records: Vec<String> = [
        answer.task.map(|task| self::task(&task)),
        answer.promise.map(|promise| self::promise(&promise, now)),
        answer
            .schedule
            .map(|schedule| self::schedule(&schedule, now)),
    ]
    .into_iter()
    .flatten()
    .collect();
    (!records.is_empty()).then(|| records.join("\n\n"))
}

/// A heading, and labelled lines below it.
struct Record {
    text: String,
    label_width: usize,
}

impl Record {
    fn new(id: &str, state: impl std::fmt::Display, label_width: usize) -> Record {
        let text = format!("{}  {state}", style(clean_line(id)).bold());
        Record { text, label_width }
    }

    /// Adds what is known. Further lines of a value stand below its first.
    fn line(&mut self, label: &str, value: Option<String>) {
        let Some(value) = value else {
            return;
        };
        let width = self.label_width;
        let value = clean(&value);
        let mut lines = value.lines();
        let first = lines.next().unwrap_or_default();
        let label = dim(format!("{label:width$}"));
        let _ = write!(self.text, "\n  {label}  {first}");
        for line in lines {
            let _ = write!(self.text, "\n  {:width$}  {line}", "");
        }
    }
}

fn promise(promise: &Promise, now: Millis) -> String {
    let state = promise_state(promise.state).apply_to(promise.state.as_str());
    let mut record = Record::new(&promise.id, state, 7);
    record.line("created", Some(time::instant(promise.created_at, now)));
    match promise.settled_at {
        Some(at) => {
            let took = time::span(at.saturating_sub(promise.created_at));
            record.line("settled", Some(time::instant(at, now)));
            record.line("took", Some(took));
        }
        None => record.line("timeout", Some(time::instant(promise.timeout_at, now))),
    }
    record.line("tags", tags(&promise.tags));
    record.line("param", value(&promise.param));
    record.line("value", value(&promise.value));
    record.text
}

fn task(task: &TaskRecord) -> String {
    let state = task_state(task.state).apply_to(task.state.as_str());
    let mut record = Record::new(&task.id, format!("task {state}"), 7);
    record.line("version", Some(task.version.to_string()));
    record.line("resumes", Some(task.resumes.to_string()));
    record.line("pid", task.pid.as_deref().map(str::to_owned));
    record.line("ttl", task.ttl.map(time::span));
    record.text
}

fn schedule(schedule: &Schedule, now: Millis) -> String {
    let mut record = Record::new(&schedule.id, style(&schedule.cron).cyan(), 7);
    record.line("next", Some(time::instant(schedule.next_run_at, now)));
    record.line(
        "last",
        schedule.last_run_at.map(|at| time::instant(at, now)),
    );
    record.line("created", Some(time::instant(schedule.created_at, now)));
    record.line("promise", Some(schedule.promise_id.to_string()));
    record.line("timeout", Some(time::span(schedule.promise_timeout)));
    record.line("tags", tags(&schedule.promise_tags));
    record.line("param", value(&schedule.promise_param));
    record.text
}

fn tags(tags: &Tags) -> Option<String> {
    let tags: Vec<(String, String)> = tags
        .iter()
        .map(|(name, value)| (clean_line(name), clean_line(value)))
        .collect();
    let widths = tags.iter().map(|(name, _)| measure_text_width(name));
    let width = widths.max()?;
    let lines: Vec<String> = tags
        .iter()
        .map(|(name, value)| {
            let name = pad_str(name, width, Alignment::Left, None);
            format!("{name}  {value}")
        })
        .collect();
    Some(lines.join("\n"))
}

fn value(value: &Value) -> Option<String> {
    let parts = value.parts()?;
    let headers = parts.headers.into_iter().flatten();
    let headers = headers.map(|(name, value)| format!("{name}: {value}"));
    let data = parts.data.map(|data| payload::brief(&data));
    let lines: Vec<String> = headers.chain(data).collect();
    (!lines.is_empty()).then(|| lines.join("\n"))
}
