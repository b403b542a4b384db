//! `protocol.md` §8.

use resonate::machine::invariant::PromiseRow;
use resonate::protocol::operation::{PromiseCreate, PromiseSettle};
use resonate::protocol::record::{Id, Millis, Promise, PromiseState, TaskState, Value};
use resonate::protocol::reply::{Refusal, Reply};

use super::{Oracle, bare_task, is_targeted, is_timer, verdict};

impl Oracle {
    pub(super) fn promise_create(&mut self, op: &PromiseCreate) -> Reply {
        if self.promise(&op.id).is_some() {
            self.row("promise.create 1: exists");
            return Reply::Promise(self.record(&op.id));
        }
        let now = self.now();
        self.row(match (op.timeout_at > now, is_timer(&op.tags)) {
            (true, _) if !is_targeted(&op.tags) => "promise.create 2: pending",
            (true, _) => match delay(op) {
                None => "promise.create 2: dispatched",
                Some(at) if at <= now => "promise.create 2: delay passed",
                Some(_) => "promise.create 2: delayed",
            },
            (false, true) => "promise.create 3: timer",
            (false, false) if is_targeted(&op.tags) => "promise.create 3: timed out, targeted",
            (false, false) => "promise.create 3: timed out",
        });
        self.bear(op, now);
        Reply::Promise(self.record(&op.id))
    }

    /// A new promise as of an instant, with its task.
    pub(super) fn bear(&mut self, op: &PromiseCreate, born_at: Millis) {
        self.insert(op, born_at);
        let now = self.now();
        let is_born_settled = op.timeout_at <= born_at;
        if !is_targeted(&op.tags) {
            return;
        }
        if is_born_settled {
            let task = bare_task(&op.id, TaskState::Fulfilled, 0);
            self.state.tasks.push(task);
            return;
        }
        let mut task = bare_task(&op.id, TaskState::Pending, 0);
        let delay = delay(op).filter(|at| *at > now);
        task.retry_at = delay.or(Some(now));
        self.state.tasks.push(task);
        // An occurrence that is past its own deadline already is never dispatched (§8).
        if delay.is_none() && op.timeout_at > now {
            self.dispatch(&op.id);
        }
    }

    /// A new promise without its task.
    pub(super) fn insert(&mut self, op: &PromiseCreate, born_at: Millis) {
        let is_born_settled = op.timeout_at <= born_at;
        let record = Promise {
            id: op.id.clone(),
            state: match is_born_settled {
                true => verdict(&op.tags),
                false => PromiseState::Pending,
            },
            param: op.param.clone(),
            value: Value::empty(),
            tags: op.tags.clone(),
            timeout_at: op.timeout_at,
            created_at: born_at.min(op.timeout_at),
            settled_at: is_born_settled.then_some(op.timeout_at),
        };
        let is_external = op.tags.get("resonate:external") == Some("true");
        self.state.promises.push(PromiseRow {
            record,
            armed: is_targeted(&op.tags) || is_timer(&op.tags) || is_external,
            callbacks: Vec::new(),
            listeners: Vec::new(),
        });
    }

    pub(super) fn promise_settle(&mut self, op: &PromiseSettle) -> Reply {
        let Some(row) = self.promise(&op.id) else {
            return self.refuse("promise.settle 1: unknown", Refusal::PromiseNotFound);
        };
        let (stored, born_at) = (row.record.state, row.record.created_at);
        if stored != PromiseState::Pending {
            self.row("promise.settle 3: settled");
        } else if self.is_settled(&op.id) {
            self.row("promise.settle 3: past its deadline");
        } else {
            self.row("promise.settle 2: settles");
            // Born by the clock of another node, which may be a little ahead.
            let at = self.now().max(born_at);
            self.settle(&op.id, op.state.into(), op.value.clone(), at);
        }
        Reply::Promise(self.record(&op.id))
    }

    pub(super) fn register_callback(&mut self, awaited: &Id, awaiter: &Id) -> Reply {
        if self.promise(awaited).is_none() {
            let row = "promise.register_callback 3: awaited unknown";
            return self.refuse(row, Refusal::AwaitedNotFound);
        }
        let Some(waiter) = self.promise(awaiter) else {
            let row = "promise.register_callback 4: awaiter unknown";
            return self.refuse(row, Refusal::AwaiterNotFound);
        };
        if !is_targeted(&waiter.record.tags) {
            let row = "promise.register_callback 5: awaiter not targeted";
            return self.refuse(row, Refusal::AwaiterNotTargeted);
        }
        if self.is_settled(awaited) {
            self.row("promise.register_callback 7: awaited settled");
        } else if self.is_settled(awaiter) {
            self.row("promise.register_callback 7: awaiter settled");
        } else if self.add_callback(awaited, awaiter) {
            self.row("promise.register_callback 6: recorded");
        } else {
            self.row("promise.register_callback 6: repeated");
        }
        Reply::Promise(self.record(awaited))
    }

    /// Returns whether it was not there yet.
    pub(super) fn add_callback(&mut self, awaited: &Id, awaiter: &Id) -> bool {
        let row = self.promise_mut(awaited);
        row.armed = true;
        let is_new = !row.callbacks.contains(awaiter);
        if is_new {
            row.callbacks.push(awaiter.clone());
        }
        is_new
    }

    pub(super) fn register_listener(&mut self, awaited: &Id, address: &Id) -> Reply {
        if self.promise(awaited).is_none() {
            let row = "promise.register_listener 3: unknown";
            return self.refuse(row, Refusal::AwaitedNotFound);
        }
        if self.is_settled(awaited) {
            self.row("promise.register_listener 5: settled");
            return Reply::Promise(self.record(awaited));
        }
        let row = self.promise_mut(awaited);
        row.armed = true;
        if row.listeners.contains(address) {
            self.row("promise.register_listener 4: repeated");
        } else {
            row.listeners.push(address.clone());
            self.row("promise.register_listener 4: recorded");
        }
        Reply::Promise(self.record(awaited))
    }
}

fn delay(op: &PromiseCreate) -> Option<Millis> {
    let text = op.tags.get("resonate:delay")?;
    Some(text.parse().expect("generated valid"))
}
