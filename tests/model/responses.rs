//! A client that remembers everything it was ever told, and never wants to hear the opposite
//! (`semantics.md` C8, C10, R2–R4).

use std::collections::{BTreeMap, BTreeSet};

use resonate::protocol::record::{Id, Millis, Promise, PromiseState, TaskRecord, TaskState};
use resonate::protocol::reply::Reply;

use super::world::{Outcome, equal};

/// What was told so far.
#[derive(Default)]
pub struct Witness {
    /// The first record seen of each promise.
    first: BTreeMap<Id, Promise>,
    /// The settled record of each promise seen settled.
    settled: BTreeMap<Id, Promise>,
    fulfilled: BTreeSet<Id>,
    /// The highest version seen of each task.
    versions: BTreeMap<Id, i64>,
    /// Who was given which version of which task.
    grants: BTreeMap<(Id, i64), Option<Id>>,
}

impl Witness {
    /// Every record in an answer, wherever it is.
    pub fn see_reply(&mut self, reply: &Reply, now: Millis) -> Outcome<()> {
        match reply {
            Reply::Promise(promise) => self.see_promise(promise, now),
            Reply::Task(task) => self.see_task(task),
            Reply::Acquired {
                task,
                promise,
                preload,
            } => {
                self.see_task(task)?;
                self.see_promise(promise, now)?;
                self.see_promises(preload, now)
            }
            Reply::Fenced { inner, preload, .. } => {
                self.see_reply(inner, now)?;
                self.see_promises(preload, now)
            }
            Reply::Redirect { preload } => self.see_promises(preload, now),
            Reply::Promises { promises, .. } => self.see_promises(promises, now),
            Reply::Tasks { tasks, .. } => tasks.iter().try_for_each(|task| self.see_task(task)),
            _ => Ok(()),
        }
    }

    fn see_promises(&mut self, promises: &[Promise], now: Millis) -> Outcome<()> {
        promises
            .iter()
            .try_for_each(|promise| self.see_promise(promise, now))
    }

    pub fn see_promise(&mut self, promise: &Promise, now: Millis) -> Outcome<()> {
        let id = &promise.id;
        if promise.state == PromiseState::Pending && promise.timeout_at <= now {
            return Err(format!("ResponsesAreProjected: {promise:?}"));
        }
        let first = self
            .first
            .entry(id.clone())
            .or_insert_with(|| promise.clone());
        let birth = |p: &Promise| (p.param.clone(), p.tags.clone(), p.timeout_at, p.created_at);
        equal("R3: the first record", &birth(promise), &birth(first))?;
        if let Some(settled) = self.settled.get(id) {
            return equal("ResponsesNeverRegress", promise, settled);
        }
        if promise.state != PromiseState::Pending {
            self.settled.insert(id.clone(), promise.clone());
        }
        Ok(())
    }

    fn see_task(&mut self, task: &TaskRecord) -> Outcome<()> {
        let is_fulfilled = task.state == TaskState::Fulfilled;
        if !is_fulfilled && self.fulfilled.contains(&task.id) {
            return Err(format!("ResponsesNeverRegress: {task:?}"));
        }
        if !is_fulfilled && self.settled.contains_key(&task.id) {
            return Err(format!(
                "ResponsesNeverRegress: its promise is settled: {task:?}"
            ));
        }
        if is_fulfilled {
            self.fulfilled.insert(task.id.clone());
        }
        let version = self.versions.entry(task.id.clone()).or_default();
        if task.version < *version {
            return Err(format!("the version went back from {version}: {task:?}"));
        }
        *version = task.version;
        Ok(())
    }

    /// C10: a version is given to one process, once.
    pub fn see_grant(&mut self, reply: &Reply) -> Outcome<()> {
        let Reply::Acquired { task, .. } = reply else {
            return Ok(());
        };
        if task.state != TaskState::Acquired {
            return Ok(());
        }
        let key = (task.id.clone(), task.version);
        match self.grants.insert(key, task.pid.clone()) {
            None => Ok(()),
            Some(holder) => Err(format!("C10: {holder:?} holds it already: {task:?}")),
        }
    }
}
