//! Everybody who was ever told anything, put together: nobody wants to hear the opposite later
//! (`semantics.md` C8, C10, R2–R4), and everything read was so at some moment of the reading.

use std::collections::{BTreeMap, BTreeSet};

use resonate::machine::object::Object;
use resonate::protocol::operation::Query;
use resonate::protocol::record::{Id, Millis, Promise, PromiseState, TaskRecord, TaskState};
use resonate::protocol::reply::Reply;

use super::history::{History, Seq};
use super::node::Request;
use super::sim::{Checked, broken};
use crate::model::oracle;

/// A request that is answered.
pub struct Asked<'a> {
    pub request: &'a Request,
    /// The event at which it came.
    pub since: u64,
    /// The state of the storage when it came.
    pub seq: Seq,
    /// The earliest instant that it may be answered as of.
    pub earliest: Millis,
    /// The latest.
    pub now: Millis,
}

/// What was told, and when.
#[derive(Default)]
pub struct Witness {
    born: BTreeMap<Id, Promise>,
    settled: BTreeMap<Id, (u64, Promise)>,
    fulfilled: BTreeMap<Id, u64>,
    versions: BTreeMap<Id, Vec<(u64, i64)>>,
    grants: BTreeSet<(Id, i64)>,
}

impl Witness {
    /// Checks an answer that is given at an event.
    pub fn see(
        &mut self,
        history: &History,
        asked: &Asked<'_>,
        reply: &Reply,
        event: u64,
    ) -> Checked {
        self.see_reply(asked, reply, event)?;
        if let Reply::Acquired { task, .. } = reply
            && task.state == TaskState::Acquired
            && !self.grants.insert((task.id.clone(), task.version))
        {
            return broken("C10: a version has one holder", format!("{task:?}"));
        }
        match asked.request {
            Request::Query(query) => read(history, asked, query, reply),
            Request::Command(_) => Ok(()),
        }
    }

    fn see_reply(&mut self, asked: &Asked<'_>, reply: &Reply, event: u64) -> Checked {
        match reply {
            Reply::Promise(promise) => self.see_promise(asked, promise, event),
            Reply::Task(task) => self.see_task(asked, task, event),
            Reply::Acquired {
                task,
                promise,
                preload,
            } => {
                self.see_task(asked, task, event)?;
                self.see_promise(asked, promise, event)?;
                self.see_promises(asked, preload, event)
            }
            Reply::Fenced { inner, preload, .. } => {
                self.see_reply(asked, inner, event)?;
                self.see_promises(asked, preload, event)
            }
            Reply::Redirect { preload } => self.see_promises(asked, preload, event),
            Reply::Promises { promises, .. } => self.see_promises(asked, promises, event),
            Reply::Tasks { tasks, .. } => tasks
                .iter()
                .try_for_each(|task| self.see_task(asked, task, event)),
            _ => Ok(()),
        }
    }

    fn see_promises(&mut self, asked: &Asked<'_>, promises: &[Promise], event: u64) -> Checked {
        promises
            .iter()
            .try_for_each(|promise| self.see_promise(asked, promise, event))
    }

    fn see_promise(&mut self, asked: &Asked<'_>, promise: &Promise, event: u64) -> Checked {
        let is_pending = promise.state == PromiseState::Pending;
        if is_pending && promise.timeout_at <= asked.earliest {
            let detail = format!("{promise:?} at {}", asked.earliest);
            return broken("ResponsesAreProjected", detail);
        }
        let born = self
            .born
            .entry(promise.id.clone())
            .or_insert_with(|| promise.clone());
        let birth = |p: &Promise| (p.param.clone(), p.tags.clone(), p.timeout_at, p.created_at);
        if birth(promise) != birth(born) {
            let detail = format!("{promise:?} was {born:?}");
            return broken("R3: the first record is the record", detail);
        }
        match self.settled.get(&promise.id) {
            Some((_, settled)) if !is_pending && promise != settled => broken(
                "R4: the first verdict is the verdict",
                format!("{promise:?} was {settled:?}"),
            ),
            Some((told_at, settled)) if is_pending && *told_at < asked.since => broken(
                "ResponsesNeverRegress",
                format!("{promise:?} was told to be {settled:?}"),
            ),
            None if !is_pending => {
                self.settled
                    .insert(promise.id.clone(), (event, promise.clone()));
                Ok(())
            }
            _ => Ok(()),
        }
    }

    fn see_task(&mut self, asked: &Asked<'_>, task: &TaskRecord, event: u64) -> Checked {
        if task.state == TaskState::Fulfilled {
            self.fulfilled.entry(task.id.clone()).or_insert(event);
        } else if self
            .fulfilled
            .get(&task.id)
            .is_some_and(|at| *at < asked.since)
        {
            return broken("ResponsesNeverRegress", format!("{task:?} was fulfilled"));
        }
        let told = self.versions.entry(task.id.clone()).or_default();
        let before = told.iter().rev().find(|(at, _)| *at < asked.since);
        if before.is_some_and(|(_, version)| *version > task.version) {
            return broken("versions only rise", format!("{task:?} was at {before:?}"));
        }
        if told
            .last()
            .is_none_or(|(_, version)| *version < task.version)
        {
            told.push((event, task.version));
        }
        Ok(())
    }
}

/// What was read was stored at some moment since it was asked for, as seen at some instant since then.
fn read(history: &History, asked: &Asked<'_>, query: &Query, reply: &Reply) -> Checked {
    let is_true = match (query, reply) {
        (Query::PromiseGet { id }, reply) => {
            let answer = |object: Option<&Object>| match (object, reply) {
                (Some(object), Reply::Promise(promise)) => is_view(asked, object, promise),
                (None, Reply::Refused(_)) => true,
                _ => false,
            };
            was(history, asked, id, &answer)
        }
        (Query::TaskGet { id }, reply) => {
            let answer = |object: Option<&Object>| {
                let task = object.filter(|object| object.task.is_some());
                match (task, reply) {
                    (Some(object), Reply::Task(task)) => is_task_view(asked, object, task),
                    (None, Reply::Refused(_)) => true,
                    _ => false,
                }
            };
            was(history, asked, id, &answer)
        }
        (Query::PromiseSearch(op), Reply::Promises { promises, .. }) => {
            let is_record = |promise: &Promise| {
                was(history, asked, &promise.id, &|object| {
                    object.is_some_and(|object| is_view(asked, object, promise))
                })
            };
            promises
                .iter()
                .all(|p| is_record(p) && op.state.is_none_or(|state| state == p.state))
                && promises.is_sorted_by(|a, b| a.id < b.id)
        }
        (Query::TaskSearch(op), Reply::Tasks { tasks, .. }) => {
            let is_record = |task: &TaskRecord| {
                was(history, asked, &task.id, &|object| {
                    object.is_some_and(|object| is_task_view(asked, object, task))
                })
            };
            tasks
                .iter()
                .all(|t| is_record(t) && op.state.is_none_or(|state| state == t.state))
                && tasks.is_sorted_by(|a, b| a.id < b.id)
        }
        (Query::ScheduleGet { id }, reply) => {
            let versions = history.schedule_versions(id, asked.seq, history.seq());
            versions.iter().any(|schedule| match (schedule, reply) {
                (Some(schedule), Reply::Schedule(answer)) => **schedule == *answer,
                (None, Reply::Refused(_)) => true,
                _ => false,
            })
        }
        _ => true,
    };
    match is_true {
        true => Ok(()),
        false => broken(
            "what is read is stored",
            format!("{query:?} was answered {reply:?}"),
        ),
    }
}

fn was(
    history: &History,
    asked: &Asked<'_>,
    id: &str,
    answers: &dyn Fn(Option<&Object>) -> bool,
) -> bool {
    let versions = history.versions(id, asked.seq, history.seq());
    versions.iter().any(|object| answers(object.as_deref()))
}

/// As it is stored, or as it reads at the latest instant.
fn is_view(asked: &Asked<'_>, object: &Object, promise: &Promise) -> bool {
    object.promise == *promise || oracle::view(&object.promise, asked.now) == *promise
}

fn is_task_view(asked: &Asked<'_>, object: &Object, record: &TaskRecord) -> bool {
    let Some(task) = &object.task else {
        return false;
    };
    let is_stored = TaskRecord {
        id: object.promise.id.clone(),
        state: task.state,
        version: task.version,
        resumes: task.resumes.len(),
        ttl: task.ttl,
        pid: task.pid.clone(),
    };
    let is_over =
        object.promise.state == PromiseState::Pending && object.promise.timeout_at <= asked.now;
    let fulfilled = TaskRecord {
        id: object.promise.id.clone(),
        state: TaskState::Fulfilled,
        version: task.version,
        resumes: 0,
        ttl: None,
        pid: None,
    };
    is_stored == *record || (is_over && fulfilled == *record)
}
