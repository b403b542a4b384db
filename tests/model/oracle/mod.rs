//! What the specification says each input does, transcribed from the tables of `protocol.md` §8–10
//! and the prose of `semantics.md` §3–8 onto the abstract state.
//!
//! It knows nothing of the machine: no projection, no dispatch and no cascade is shared. Every row of
//! a table that is taken is noted by its label, for the coverage tally.

use resonate::machine::invariant::{Entry, Key, PromiseRow, State, TaskRow};
use resonate::machine::workspace::Message;
use resonate::machine::{Input, Step};
use resonate::protocol::operation::Command;
use resonate::protocol::record::{
    Id, Millis, Promise, PromiseState, Tags, TaskRecord, TaskState, Value,
};
use resonate::protocol::reply::{Refusal, Reply};

mod promise;
mod query;
mod schedule;
mod step;
mod task;

/// A state on its way from before to after, and the rows of the tables that led there.
pub struct Oracle {
    /// As the specification has it so far.
    pub state: State,
    /// Labels of the rows taken.
    pub rows: Vec<&'static str>,
}

impl Oracle {
    pub fn new(state: State) -> Self {
        Oracle {
            state,
            rows: Vec::new(),
        }
    }

    /// Predicts the answer, and leaves the state as it must be afterwards.
    pub fn predict(&mut self, input: &Input) -> Reply {
        match input {
            Input::Request(command) => self.request(command),
            Input::Step(step) => {
                self.step(step);
                Reply::Done
            }
        }
    }

    fn request(&mut self, command: &Command) -> Reply {
        match command {
            Command::PromiseCreate(op) => self.promise_create(op),
            Command::PromiseSettle(op) => self.promise_settle(op),
            Command::PromiseRegisterCallback { awaited, awaiter } => {
                self.register_callback(awaited, awaiter)
            }
            Command::PromiseRegisterListener { awaited, address } => {
                self.register_listener(awaited, address)
            }
            Command::TaskCreate(op) => self.task_create(op),
            Command::TaskAcquire(op) => self.task_acquire(op),
            Command::TaskFence(op) => self.task_fence(op),
            Command::TaskHeartbeat(op) => self.task_heartbeat(op),
            Command::TaskSuspend(op) => self.task_suspend(op),
            Command::TaskFulfill(op) => self.task_fulfill(op),
            Command::TaskRelease(op) => self.task_release(op),
            Command::TaskHalt { id } => self.task_halt(id),
            Command::TaskContinue { id } => self.task_continue(id),
            Command::ScheduleCreate(op) => self.schedule_create(op),
            Command::ScheduleDelete { id } => self.schedule_delete(id),
        }
    }

    fn step(&mut self, step: &Step) {
        match step {
            Step::Promise(id) => self.step_promise(id),
            Step::Schedule(id) => self.step_schedule(id),
            Step::Retire(_) => unreachable!("nothing is deleted in these histories"),
            Step::UnblockDue { promise, address } => self.step_unblock_due(promise, address),
            Step::UnblockDone { promise, address } => self.step_unblock_done(promise, address),
            Step::UnblockFailed { promise, address } => self.step_unblock_failed(promise, address),
        }
    }

    fn row(&mut self, label: &'static str) {
        self.rows.push(label);
    }

    fn refuse(&mut self, label: &'static str, refusal: Refusal) -> Reply {
        self.row(label);
        Reply::Refused(refusal)
    }

    fn now(&self) -> Millis {
        self.state.now
    }

    fn promise(&self, id: &str) -> Option<&PromiseRow> {
        self.state.promises.iter().find(|p| &*p.record.id == id)
    }

    fn promise_mut(&mut self, id: &str) -> &mut PromiseRow {
        let mut rows = self.state.promises.iter_mut();
        rows.find(|p| &*p.record.id == id)
            .expect("looked up before")
    }

    fn task(&self, id: &str) -> Option<&TaskRow> {
        self.state.tasks.iter().find(|t| &*t.id == id)
    }

    fn task_mut(&mut self, id: &str) -> &mut TaskRow {
        let mut rows = self.state.tasks.iter_mut();
        rows.find(|t| &*t.id == id).expect("looked up before")
    }

    /// `semantics.md` §3: stored so, or past the deadline, inclusive.
    fn is_settled(&self, id: &str) -> bool {
        self.promise(id).is_some_and(|p| {
            p.record.state != PromiseState::Pending || self.now() >= p.record.timeout_at
        })
    }

    /// The state of a task as every endpoint sees it.
    fn viewed(&self, id: &str) -> Option<TaskState> {
        let task = self.task(id)?;
        match self.is_settled(id) {
            true => Some(TaskState::Fulfilled),
            false => Some(task.state),
        }
    }

    fn record(&self, id: &str) -> Promise {
        let row = self.promise(id).expect("looked up before");
        view(&row.record, self.now())
    }

    fn task_record(&self, id: &str) -> TaskRecord {
        let task = self.task(id).expect("looked up before");
        let is_settled = self.is_settled(id);
        TaskRecord {
            id: task.id.clone(),
            state: self.viewed(id).expect("looked up before"),
            version: task.version,
            resumes: if is_settled { 0 } else { task.resumes.len() },
            ttl: if is_settled { None } else { task.ttl },
            pid: if is_settled { None } else { task.pid.clone() },
        }
    }

    /// `protocol.md` §7.
    fn preload(&self, id: &str) -> Vec<Promise> {
        let branch = |tags: &Tags| tags.get("resonate:branch").unwrap_or("").to_owned();
        let own = branch(&self.promise(id).expect("looked up before").record.tags);
        let others = self.state.promises.iter().filter(|p| &*p.record.id != id);
        let mut group: Vec<_> = others
            .filter(|p| !own.is_empty() && branch(&p.record.tags) == own)
            .map(|p| view(&p.record, self.now()))
            .collect();
        group.sort_by(|a, b| a.id.as_bytes().cmp(b.id.as_bytes()));
        group
    }

    fn put(&mut self, message: Message) {
        let entry = Entry { serial: 0, message };
        self.state.outbox.retain(|old| old.key() != entry.key());
        self.state.outbox.push(entry);
    }

    fn is_in_outbox(&self, key: &Key) -> bool {
        self.state.outbox.iter().any(|entry| entry.key() == *key)
    }

    /// `semantics.md` §6: pending, no lease, on its way, and again after the retry timeout.
    fn dispatch(&mut self, id: &str) {
        let (now, retry) = (self.now(), self.state.retry_timeout_ms);
        let tags = &self.promise(id).expect("looked up before").record.tags;
        let address = tags.get("resonate:target").expect("it has a task").into();
        let task = self.task_mut(id);
        task.state = TaskState::Pending;
        (task.pid, task.ttl) = (None, None);
        (task.expires_at, task.claimed_at) = (None, None);
        let retry_at = now.saturating_add(retry);
        task.retry_at = Some(retry_at);
        let (id, version) = (task.id.clone(), task.version);
        self.put(Message::Execute {
            id,
            version,
            address,
            offer_at: now,
            retry_at,
            trace: None,
            cause: None,
        });
    }

    /// `semantics.md` §4.
    fn settle(&mut self, id: &Id, state: PromiseState, value: Value, at: Millis) {
        let row = self.promise_mut(id);
        row.record.state = state;
        row.record.value = value;
        row.record.settled_at = Some(at);
        let record = row.record.clone();
        let callbacks = std::mem::take(&mut row.callbacks);
        let listeners = std::mem::take(&mut row.listeners);
        if let Some(task) = self.task(id) {
            let version = task.version;
            *self.task_mut(id) = bare_task(id, TaskState::Fulfilled, version);
        }
        for address in listeners {
            self.row("settle: unblock");
            let promise = record.clone();
            let trace = None;
            self.put(Message::Unblock {
                promise,
                address,
                trace,
            });
        }
        for awaiter in callbacks {
            self.resume(&awaiter, id);
        }
    }

    /// Past its deadline, so settled by it.
    fn expire(&mut self, id: &Id) {
        let record = &self.promise(id).expect("looked up before").record;
        let (state, at) = (verdict(&record.tags), record.timeout_at);
        self.settle(id, state, Value::empty(), at);
    }

    /// `semantics.md` §5. A duplicate cannot be reached: a promise settles once, and holds one
    /// callback per awaiter. Nor can an absent awaiter: nothing is deleted.
    fn resume(&mut self, awaiter: &Id, awaited: &Id) {
        let stored = self.promise(awaiter).map(|p| p.record.state);
        let is_settled = self.is_settled(awaiter);
        let Some(task) = self.task(awaiter) else {
            return self.row("resume: absent");
        };
        match task.state {
            _ if stored != Some(PromiseState::Pending) => self.row("resume: fulfilled"),
            _ if is_settled => {
                self.row("resume: expired");
                self.expire(awaiter);
            }
            TaskState::Suspended => {
                self.row("resume: resumed");
                self.task_mut(awaiter).resumes = vec![awaited.clone()];
                self.dispatch(awaiter);
            }
            state => {
                self.row(match state {
                    TaskState::Pending => "resume: buffered pending",
                    TaskState::Acquired => "resume: buffered acquired",
                    _ => "resume: buffered halted",
                });
                self.task_mut(awaiter).resumes.push(awaited.clone());
            }
        }
    }
}

/// A record as it reads at `now`.
pub fn view(record: &Promise, now: Millis) -> Promise {
    let mut view = record.clone();
    if view.state == PromiseState::Pending && now >= view.timeout_at {
        view.state = verdict(&view.tags);
        view.settled_at = Some(view.timeout_at);
        view.value = Value::empty();
    }
    view
}

fn is_timer(tags: &Tags) -> bool {
    tags.get("resonate:timer") == Some("true")
}

fn is_targeted(tags: &Tags) -> bool {
    tags.get("resonate:target").is_some() && !is_timer(tags)
}

/// What a deadline makes of a promise.
fn verdict(tags: &Tags) -> PromiseState {
    match is_timer(tags) {
        true => PromiseState::Resolved,
        false => PromiseState::RejectedTimedout,
    }
}

fn bare_task(id: &Id, state: TaskState, version: i64) -> TaskRow {
    TaskRow {
        id: id.clone(),
        state,
        version,
        resumes: Vec::new(),
        pid: None,
        ttl: None,
        expires_at: None,
        claimed_at: None,
        retry_at: None,
    }
}
