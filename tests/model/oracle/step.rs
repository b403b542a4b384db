//! Internal steps (`semantics.md` §7).

use resonate::machine::invariant::Key;
use resonate::protocol::record::{Id, PromiseState, TaskState};

use super::Oracle;

impl Oracle {
    /// Promise timeout, else lease timeout, else task retry.
    pub(super) fn step_promise(&mut self, id: &Id) {
        let Some(row) = self.promise(id) else {
            return self.row("step promise: unknown");
        };
        let (armed, state) = (row.armed, row.record.state);
        let now = self.now();
        if self.is_settled(id) {
            if state != PromiseState::Pending {
                return self.row("step promise: settled");
            }
            // Nobody takes this step on an unarmed promise; storing what it reads as is free (§3).
            self.row(match armed {
                true => "step promise: timed out",
                false => "step promise: timed out, unarmed",
            });
            return self.expire(id);
        }
        let Some(task) = self.task(id) else {
            return self.row("step promise: not due");
        };
        match task.state {
            TaskState::Acquired if task.expires_at.is_some_and(|at| at <= now) => {
                self.row("step promise: lease expired");
                self.dispatch(id);
            }
            TaskState::Pending if task.retry_at.is_some_and(|at| at <= now) => {
                self.row("step promise: retried");
                self.dispatch(id);
            }
            TaskState::Acquired => self.row("step promise: lease not due"),
            TaskState::Pending => self.row("step promise: retry not due"),
            _ => self.row("step promise: task at rest"),
        }
    }

    /// Asks a transport once more: nothing changes.
    pub(super) fn step_unblock_due(&mut self, promise: &Id, address: &Id) {
        let is_there = self.is_in_outbox(&Key::Unblock(promise.clone(), address.clone()));
        self.row(match is_there {
            true => "step unblock: offered",
            false => "step unblock: nothing to offer",
        });
    }

    pub(super) fn step_unblock_done(&mut self, promise: &Id, address: &Id) {
        let key = Key::Unblock(promise.clone(), address.clone());
        self.row(match self.is_in_outbox(&key) {
            true => "step unblock: delivered",
            false => "step unblock: delivered twice",
        });
        self.state.outbox.retain(|entry| entry.key() != key);
    }

    /// It stays, and is tried again later.
    pub(super) fn step_unblock_failed(&mut self, promise: &Id, address: &Id) {
        let is_there = self.is_in_outbox(&Key::Unblock(promise.clone(), address.clone()));
        self.row(match is_there {
            true => "step unblock: failed",
            false => "step unblock: failed after delivery",
        });
    }
}
