//! What happens, line by line: time, who, what. Kept only when somebody will read it.

use std::fmt::Write;
use std::sync::Mutex;

use crate::harness::server::lock;
use tokio::time::Instant;

pub struct Log {
    started_at: Instant,
    lines: Option<Mutex<String>>,
}

impl Log {
    pub fn new(is_kept: bool) -> Log {
        Log {
            started_at: Instant::now(),
            lines: is_kept.then(Mutex::default),
        }
    }

    pub fn line(&self, who: impl std::fmt::Display, what: impl FnOnce() -> String) {
        if let Some(lines) = &self.lines {
            let ms = self.started_at.elapsed().as_millis();
            let mut lines = lock(lines);
            let what = shortened(&what());
            writeln!(lines, "{ms:>7}  {who:<8}  {what}").expect("memory");
        }
    }

    pub fn take(&self) -> String {
        let lines = self.lines.as_ref();
        lines.map_or_else(String::new, |lines| std::mem::take(&mut *lock(lines)))
    }
}

/// Without what `Debug` says twice.
fn shortened(text: &str) -> String {
    const LONG: &[(&str, &str)] = &[
        (", param: Value(RawValue({}))", ""),
        (", value: Value(RawValue({}))", ""),
        (", tags: Tags({})", ""),
        (", settled_at: None", ""),
        ("Value(RawValue({\"data\":", "(("),
        ("Command(", "("),
        ("Query(", "("),
        ("Request(", "("),
        ("PromiseCreate(PromiseCreate ", "(PromiseCreate "),
        ("PromiseSettle(PromiseSettle ", "(PromiseSettle "),
        ("TaskCreate(TaskCreate ", "(TaskCreate "),
        ("TaskAcquire(TaskAcquire ", "(TaskAcquire "),
        ("TaskFence(TaskFence ", "(TaskFence "),
        ("TaskSuspend(TaskSuspend ", "(TaskSuspend "),
        ("TaskFulfill(TaskFulfill ", "(TaskFulfill "),
        ("TaskRelease(TaskRef ", "(TaskRelease "),
        ("Promise(Promise ", "(Promise "),
        ("Task(TaskRecord ", "(TaskRecord "),
    ];
    LONG.iter().fold(text.to_owned(), |text, (long, short)| {
        text.replace(long, short)
    })
}
