//! Reads: what to fetch, and how it is answered at `now` (`semantics.md` §3: projected, always).

use crate::protocol::operation::{PromiseSearch, ScheduleSearch, TaskSearch};
use crate::protocol::record::{Id, Millis, Promise, PromiseState, Schedule, TaskRecord, TaskState};
use crate::protocol::reply::{Refusal, Reply};
use crate::store::{PromisePage, SchedulePage, TaskPage};

use super::object::{Object, project};

/// Rows fetched at a time while a search looks for matches: the largest page and one more.
const SCAN_ROWS_MAX: usize = 1001;

/// `promise.get`.
pub fn promise(object: Option<&Object>, now: Millis) -> Reply {
    match object {
        Some(object) => Reply::Promise(object.view(now)),
        None => Refusal::PromiseNotFound.into(),
    }
}

/// `task.get`.
pub fn task(object: Option<&Object>, now: Millis) -> Reply {
    match object.and_then(|object| object.task_view(now)) {
        Some(task) => Reply::Task(task),
        None => Refusal::TaskNotFound.into(),
    }
}

/// `schedule.get`.
pub fn schedule(schedule: Option<Schedule>) -> Reply {
    match schedule {
        Some(schedule) => Reply::Schedule(schedule),
        None => Refusal::ScheduleNotFound.into(),
    }
}

/// A search in progress: it asks for pages of candidates and keeps the matches until it has one more
/// than the limit or there are no more rows.
struct Search<T> {
    limit: usize,
    after: Option<Id>,
    found: Vec<T>,
    is_exhausted: bool,
}

impl<T> Search<T> {
    fn new(limit: usize, cursor: &Option<Id>) -> Self {
        Search {
            limit,
            after: cursor.clone(),
            found: Vec::new(),
            is_exhausted: false,
        }
    }

    /// Whether no further page is needed.
    fn is_done(&self) -> bool {
        self.is_exhausted || self.found.len() > self.limit
    }

    fn page_limit(&self) -> usize {
        // One more than the page tells whether there is a next one.
        (self.limit + 1).clamp(100, SCAN_ROWS_MAX)
    }

    fn take<R>(
        &mut self,
        rows: Vec<R>,
        id_of: impl Fn(&R) -> &Id,
        accept: impl Fn(R) -> Option<T>,
    ) {
        self.is_exhausted = rows.len() < self.page_limit();
        self.after = rows
            .last()
            .map(|row| id_of(row).clone())
            .or(self.after.take());
        self.found.extend(rows.into_iter().filter_map(accept));
    }

    /// The page, and the cursor if more matches follow.
    fn finish(mut self, id_of: impl Fn(&T) -> &Id) -> (Vec<T>, Option<Id>) {
        let has_more = self.found.len() > self.limit;
        self.found.truncate(self.limit);
        let cursor = self
            .found
            .last()
            .filter(|_| has_more)
            .map(|last| id_of(last).clone());
        (self.found, cursor)
    }
}

/// `promise.search`: by logical state. A row stored pending may read as settled, so it is a
/// candidate for its deadline's verdict too.
pub struct Promises<'a> {
    op: &'a PromiseSearch,
    now: Millis,
    search: Search<Promise>,
}

impl<'a> Promises<'a> {
    /// Starts a search.
    pub fn new(op: &'a PromiseSearch, now: Millis) -> Self {
        Promises {
            op,
            now,
            search: Search::new(op.limit, &op.cursor),
        }
    }

    /// The next page wanted, if any.
    pub fn page(&self) -> Option<PromisePage> {
        let by_deadline = matches!(
            self.op.state,
            Some(PromiseState::Resolved | PromiseState::RejectedTimedout)
        );
        (!self.search.is_done()).then(|| PromisePage {
            state: self.op.state,
            or_due: by_deadline.then_some(self.now),
            tags: self.op.tags.clone(),
            after: self.search.after.clone(),
            limit: self.search.page_limit(),
        })
    }

    /// Takes in the page.
    pub fn take(&mut self, rows: Vec<Promise>) {
        let (op, now) = (self.op, self.now);
        self.search.take(
            rows,
            |row| &row.id,
            |row| {
                let view = project(&row, now);
                let matches =
                    op.state.is_none_or(|state| state == view.state) && view.tags.contain(&op.tags);
                matches.then_some(view)
            },
        );
    }

    /// The answer.
    pub fn finish(self) -> Reply {
        let (promises, cursor) = self.search.finish(|promise| &promise.id);
        Reply::Promises { promises, cursor }
    }
}

/// `task.search`: by viewed state. Any task of a promise past its deadline reads fulfilled.
pub struct Tasks<'a> {
    op: &'a TaskSearch,
    now: Millis,
    search: Search<TaskRecord>,
}

impl<'a> Tasks<'a> {
    /// Starts a search.
    pub fn new(op: &'a TaskSearch, now: Millis) -> Self {
        Tasks {
            op,
            now,
            search: Search::new(op.limit, &op.cursor),
        }
    }

    /// The next page wanted, if any.
    pub fn page(&self) -> Option<TaskPage> {
        let by_deadline = self.op.state == Some(TaskState::Fulfilled);
        (!self.search.is_done()).then(|| TaskPage {
            state: self.op.state,
            or_due: by_deadline.then_some(self.now),
            after: self.search.after.clone(),
            limit: self.search.page_limit(),
        })
    }

    /// Takes in the page.
    pub fn take(&mut self, rows: Vec<Object>) {
        let (op, now) = (self.op, self.now);
        self.search.take(
            rows,
            |row| &row.promise.id,
            |row| {
                row.task_view(now)
                    .filter(|task| op.state.is_none_or(|state| state == task.state))
            },
        );
    }

    /// The answer.
    pub fn finish(self) -> Reply {
        let (tasks, cursor) = self.search.finish(|task| &task.id);
        Reply::Tasks { tasks, cursor }
    }
}

/// `schedule.search`.
pub struct Schedules<'a> {
    op: &'a ScheduleSearch,
    search: Search<Schedule>,
}

impl<'a> Schedules<'a> {
    /// Starts a search.
    pub fn new(op: &'a ScheduleSearch) -> Self {
        Schedules {
            op,
            search: Search::new(op.limit, &op.cursor),
        }
    }

    /// The next page wanted, if any.
    pub fn page(&self) -> Option<SchedulePage> {
        (!self.search.is_done()).then(|| SchedulePage {
            tags: self.op.tags.clone(),
            after: self.search.after.clone(),
            limit: self.search.page_limit(),
        })
    }

    /// Takes in the page.
    pub fn take(&mut self, rows: Vec<Schedule>) {
        let op = self.op;
        self.search.take(
            rows,
            |row| &row.id,
            |row| row.promise_tags.contain(&op.tags).then_some(row),
        );
    }

    /// The answer.
    pub fn finish(self) -> Reply {
        let (schedules, cursor) = self.search.finish(|schedule| &schedule.id);
        Reply::Schedules { schedules, cursor }
    }
}
