//! `protocol.md` §9.

use resonate::machine::invariant::TaskRow;
use resonate::protocol::operation::{
    FenceAction, TaskAcquire, TaskCreate, TaskFence, TaskFulfill, TaskHeartbeat, TaskRef,
    TaskSuspend,
};
use resonate::protocol::record::{Id, Millis, PromiseState, TaskState};
use resonate::protocol::reply::{Refusal, Reply};

use super::{Oracle, bare_task};

impl Oracle {
    pub(super) fn task_create(&mut self, op: &TaskCreate) -> Reply {
        let id = &op.action.id;
        let now = self.now();
        if self.promise(id).is_none() {
            self.insert(&op.action, now);
            if op.action.timeout_at <= now {
                self.row("task.create 2: past its deadline");
                let task = bare_task(id, TaskState::Fulfilled, 0);
                self.state.tasks.push(task);
                return self.answer_fulfilled(id);
            }
            self.row("task.create 1: created");
            let task = bare_task(id, TaskState::Pending, 0);
            self.state.tasks.push(task);
            return self.grant(id, &op.pid, op.ttl);
        }
        match self.viewed(id) {
            None => self.refuse("task.create 3: not targeted", Refusal::PromiseNotTargeted),
            Some(TaskState::Fulfilled) => {
                self.row("task.create 4: fulfilled");
                self.answer_fulfilled(id)
            }
            Some(TaskState::Pending) => {
                let is_delayed = !self.is_dispatched(id);
                self.row(match is_delayed {
                    true => "task.create 5: delayed",
                    false => "task.create 5: pending",
                });
                self.grant(id, &op.pid, op.ttl)
            }
            Some(TaskState::Acquired) => {
                self.refuse("task.create 6: acquired", Refusal::TaskExists)
            }
            Some(TaskState::Suspended) => {
                self.refuse("task.create 6: suspended", Refusal::TaskExists)
            }
            Some(TaskState::Halted) => self.refuse("task.create 6: halted", Refusal::TaskExists),
        }
    }

    /// Whether the first message may be out: the delay tag, if any, has passed.
    fn is_dispatched(&self, id: &str) -> bool {
        let tags = &self.promise(id).expect("looked up before").record.tags;
        let delay = tags
            .get("resonate:delay")
            .and_then(|text| text.parse::<Millis>().ok());
        delay.is_none_or(|at| at <= self.now())
    }

    fn answer_fulfilled(&self, id: &str) -> Reply {
        Reply::Acquired {
            task: self.task_record(id),
            promise: self.record(id),
            preload: Vec::new(),
        }
    }

    /// pending → acquired.
    fn grant(&mut self, id: &Id, pid: &Id, ttl: Millis) -> Reply {
        let now = self.now();
        let expires_at = now.saturating_add(ttl);
        let task = self.task_mut(id);
        *task = TaskRow {
            pid: Some(pid.clone()),
            ttl: Some(ttl),
            expires_at: Some(expires_at),
            claimed_at: Some(now),
            ..bare_task(id, TaskState::Acquired, task.version + 1)
        };
        Reply::Acquired {
            task: self.task_record(id),
            promise: self.record(id),
            preload: self.preload(id),
        }
    }

    pub(super) fn task_acquire(&mut self, op: &TaskAcquire) -> Reply {
        let refused = match self.viewed(&op.id) {
            None => {
                return self.refuse("task.acquire 1: unknown", Refusal::TaskNotFound);
            }
            Some(TaskState::Acquired) => "task.acquire 2: acquired",
            Some(TaskState::Suspended) => "task.acquire 2: suspended",
            Some(TaskState::Halted) => "task.acquire 2: halted",
            Some(TaskState::Fulfilled) => match self.is_stored_settled(&op.id) {
                true => "task.acquire 2: fulfilled",
                false => "task.acquire 2: past its deadline",
            },
            Some(TaskState::Pending) => {
                let version = self.task(&op.id).map(|t| t.version);
                if version != Some(op.version) {
                    let row = "task.acquire 3: version";
                    return self.refuse(row, Refusal::TaskVersionMismatch);
                }
                self.row("task.acquire 4: acquired");
                return self.grant(&op.id, &op.pid, op.ttl);
            }
        };
        self.refuse(refused, Refusal::TaskNotPending)
    }

    fn is_stored_settled(&self, id: &str) -> bool {
        self.promise(id)
            .is_some_and(|p| p.record.state != PromiseState::Pending)
    }

    /// The guard that fence, suspend, fulfill and release share: rows for unknown, past the deadline,
    /// any other state, version.
    fn guard(
        &mut self,
        task: &TaskRef,
        rows: [&'static str; 4],
        refusal: Refusal,
    ) -> Option<Reply> {
        let [unknown, late, state, version] = rows;
        let Some(viewed) = self.viewed(&task.id) else {
            return Some(self.refuse(unknown, Refusal::TaskNotFound));
        };
        let row = self.task(&task.id).expect("it is viewed");
        if viewed == TaskState::Acquired && row.version == task.version {
            return None;
        }
        let label = match (row.state, viewed) {
            (_, TaskState::Acquired) => version,
            (TaskState::Acquired, TaskState::Fulfilled) => late,
            _ => state,
        };
        Some(self.refuse(label, refusal))
    }

    pub(super) fn task_fence(&mut self, op: &TaskFence) -> Reply {
        let rows = [
            "task.fence 4: unknown",
            "task.fence 5: past its deadline",
            "task.fence 5: state",
            "task.fence 5: version",
        ];
        if let Some(refused) = self.guard(&op.task, rows, Refusal::TaskVersionMismatch) {
            return refused;
        }
        let (kind, inner) = match &op.action {
            FenceAction::Create(create) => {
                self.row(match self.promise(&create.id).is_some() {
                    true => "task.fence 6: create, exists",
                    false => "task.fence 6: create",
                });
                ("promise.create", self.promise_create(create))
            }
            FenceAction::Settle(settle) => {
                self.row(match self.promise(&settle.id).is_some() {
                    false => "task.fence 6: settle, unknown",
                    true if self.is_settled(&settle.id) => "task.fence 6: settle, settled",
                    true => "task.fence 6: settle",
                });
                ("promise.settle", self.promise_settle(settle))
            }
        };
        Reply::Fenced {
            kind,
            corr_id: op.corr_id.clone(),
            inner: Box::new(inner),
            preload: self.preload(&op.task.id),
        }
    }

    pub(super) fn task_heartbeat(&mut self, op: &TaskHeartbeat) -> Reply {
        let TaskHeartbeat { pid, tasks, within } = op;
        let held = |task: &&TaskRow| task.pid.as_ref() == Some(pid);
        if tasks.is_empty() {
            let all: Vec<Id> = self
                .state
                .tasks
                .iter()
                .filter(held)
                .map(|t| t.id.clone())
                .collect();
            let held = all.len();
            let is_within = |id: &Id| within.as_ref().is_none_or(|head| id.starts_with(&**head));
            let all: Vec<Id> = all.into_iter().filter(is_within).collect();
            if all.len() < held {
                self.row("task.heartbeat: all but those outside");
            }
            let alive: Vec<Id> = all
                .iter()
                .filter(|id| !self.is_settled(id))
                .cloned()
                .collect();
            self.row(match (alive.len(), all.len()) {
                (0, 0) => "task.heartbeat: all of none",
                (n, m) if n < m => "task.heartbeat: all but the dead",
                _ => "task.heartbeat: all",
            });
            for id in &alive {
                if self.was_named_lately(id) {
                    self.renew(id);
                } else {
                    self.row("task.heartbeat: not named for ten leases");
                }
            }
        }
        for task in tasks {
            let found = self.task(&task.id);
            let label = match (self.viewed(&task.id), found) {
                (Some(TaskState::Acquired), Some(row)) if row.version != task.version => {
                    "task.heartbeat: version"
                }
                (Some(TaskState::Acquired), Some(row)) if row.pid.as_ref() != Some(pid) => {
                    "task.heartbeat: pid"
                }
                (Some(TaskState::Acquired), _) => "task.heartbeat: renewed",
                (None, _) => "task.heartbeat: unknown",
                (Some(TaskState::Fulfilled), Some(row)) if row.state == TaskState::Acquired => {
                    "task.heartbeat: past its deadline"
                }
                _ => "task.heartbeat: state",
            };
            self.row(label);
            if label == "task.heartbeat: renewed" {
                self.renew(&task.id);
                let now = self.now();
                self.task_mut(&task.id).claimed_at = Some(now);
            }
        }
        Reply::Done
    }

    /// Whether a heartbeat that lists nothing may still renew the lease.
    fn was_named_lately(&self, id: &Id) -> bool {
        let task = self.task(id).expect("looked up before");
        let (ttl, named_at) = (task.ttl.unwrap_or(0), task.claimed_at.unwrap_or(0));
        self.now() - named_at <= ttl.saturating_mul(10)
    }

    fn renew(&mut self, id: &Id) {
        let now = self.now();
        let task = self.task_mut(id);
        task.expires_at = task.ttl.map(|ttl| now.saturating_add(ttl));
    }

    pub(super) fn task_suspend(&mut self, op: &TaskSuspend) -> Reply {
        let id = &op.task.id;
        let rows = [
            "task.suspend 4: unknown",
            "task.suspend 5: past its deadline",
            "task.suspend 5: state",
            "task.suspend 5: version",
        ];
        if let Some(refused) = self.guard(&op.task, rows, Refusal::TaskNotHeldForSuspend) {
            return refused;
        }
        if op.awaited.iter().any(|a| self.promise(a).is_none()) {
            let row = "task.suspend 6: awaited unknown";
            return self.refuse(row, Refusal::SuspendAwaitedNotFound);
        }
        if op.awaited.iter().any(|a| self.is_settled(a)) {
            let had_resumes = !self.task_mut(id).resumes.is_empty();
            self.row(match had_resumes {
                true => "task.suspend 7: redirected, resumes cleared",
                false => "task.suspend 7: redirected",
            });
            self.task_mut(id).resumes.clear();
            return Reply::Redirect {
                preload: self.preload(id),
            };
        }
        let mut new = 0;
        for awaited in &op.awaited {
            new += usize::from(self.add_callback(awaited, id));
        }
        self.row(match new {
            0 => "task.suspend 8: on callbacks it has",
            n if n < op.awaited.len() => "task.suspend 8: on some twice",
            _ => "task.suspend 8: suspended",
        });
        let task = self.task_mut(id);
        *task = bare_task(id, TaskState::Suspended, task.version);
        Reply::Done
    }

    pub(super) fn task_fulfill(&mut self, op: &TaskFulfill) -> Reply {
        let rows = [
            "task.fulfill 1: unknown",
            "task.fulfill 2: past its deadline",
            "task.fulfill 2: state",
            "task.fulfill 2: version",
        ];
        if let Some(refused) = self.guard(&op.task, rows, Refusal::TaskNotHeld) {
            return refused;
        }
        self.row("task.fulfill 3: fulfilled");
        let id = &op.action.id;
        let born_at = self.promise(id).map(|p| p.record.created_at);
        let at = self.now().max(born_at.unwrap_or(0));
        self.settle(id, op.action.state.into(), op.action.value.clone(), at);
        Reply::Promise(self.record(id))
    }

    pub(super) fn task_release(&mut self, op: &TaskRef) -> Reply {
        let rows = [
            "task.release: unknown",
            "task.release: past its deadline",
            "task.release: state",
            "task.release: version",
        ];
        if let Some(refused) = self.guard(op, rows, Refusal::TaskNotHeld) {
            return refused;
        }
        let has_none = self.task_mut(&op.id).resumes.is_empty();
        self.row(match has_none {
            true => "task.release: released",
            false => "task.release: released, resumes kept",
        });
        self.dispatch(&op.id);
        Reply::Done
    }

    pub(super) fn task_halt(&mut self, id: &Id) -> Reply {
        let label = match self.viewed(id) {
            None => return self.refuse("task.halt: unknown", Refusal::TaskNotFound),
            Some(TaskState::Fulfilled) => {
                let label = match self.is_stored_settled(id) {
                    true => "task.halt: fulfilled",
                    false => "task.halt: past its deadline",
                };
                return self.refuse(label, Refusal::TaskIsFulfilled);
            }
            Some(TaskState::Halted) => {
                self.row("task.halt: halted");
                return Reply::Done;
            }
            Some(TaskState::Pending) => "task.halt: from pending",
            Some(TaskState::Acquired) => "task.halt: from acquired",
            Some(TaskState::Suspended) => "task.halt: from suspended",
        };
        self.row(label);
        let task = self.task_mut(id);
        *task = TaskRow {
            resumes: std::mem::take(&mut task.resumes),
            ..bare_task(id, TaskState::Halted, task.version)
        };
        Reply::Done
    }

    pub(super) fn task_continue(&mut self, id: &Id) -> Reply {
        let refused = match self.viewed(id) {
            None => return self.refuse("task.continue: unknown", Refusal::TaskNotFound),
            Some(TaskState::Halted) => {
                self.row("task.continue: continued");
                self.dispatch(id);
                return Reply::Done;
            }
            Some(TaskState::Fulfilled) if !self.is_stored_settled(id) => {
                "task.continue: past its deadline"
            }
            Some(TaskState::Fulfilled) => "task.continue: fulfilled",
            Some(_) => "task.continue: not halted",
        };
        self.refuse(refused, Refusal::TaskNotHalted)
    }
}
