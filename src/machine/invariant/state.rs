//! What holds in every state (`semantics.md` §11).

use std::fmt::Debug;

use crate::machine::workspace::Message;
use crate::protocol::address::{Address, Rules};
use crate::protocol::record::{PromiseState, Schedule, TaskState};

use super::{
    Entry, Facts, PromiseRow, TaskRow, Violation, delay, is_targeted, is_timer, is_unique, target,
};

/// One row of §11.
pub struct Invariant {
    /// Its number.
    pub number: &'static str,
    /// Its portable name.
    pub name: &'static str,
    /// Whether one object with its task can answer for it.
    pub is_local: bool,
    rule: Rule,
}

/// The predicate, by what it ranges over.
enum Rule {
    Promise(fn(&PromiseRow, &Facts<'_>) -> bool),
    Task(fn(&TaskRow, &Facts<'_>) -> bool),
    Schedule(fn(&Schedule) -> bool),
    Entry(fn(&Entry, &Facts<'_>) -> bool),
    State(fn(&Facts<'_>) -> bool),
}

impl Invariant {
    /// Looks at every row it ranges over.
    ///
    /// # Errors
    /// The first row that breaks it.
    pub fn check(&self, facts: &Facts<'_>) -> Result<(), Violation> {
        let state = facts.state;
        match self.rule {
            Rule::Promise(holds) => self.all(&state.promises, |row| holds(row, facts)),
            Rule::Task(holds) => self.all(&state.tasks, |row| holds(row, facts)),
            Rule::Schedule(holds) => self.all(&state.schedules, holds),
            Rule::Entry(holds) => self.all(&state.outbox, |row| holds(row, facts)),
            Rule::State(holds) => self.all(&[state], |_| holds(facts)),
        }
    }

    fn all<T: Debug>(&self, rows: &[T], holds: impl Fn(&T) -> bool) -> Result<(), Violation> {
        match rows.iter().find(|row| !holds(row)) {
            None => Ok(()),
            Some(row) => Err(Violation {
                number: self.number,
                name: self.name,
                detail: format!("{row:?}"),
            }),
        }
    }
}

/// One object can answer for it.
const fn local(number: &'static str, name: &'static str, rule: Rule) -> Invariant {
    Invariant {
        number,
        name,
        is_local: true,
        rule,
    }
}

/// It takes the whole state.
const fn global(number: &'static str, name: &'static str, rule: Rule) -> Invariant {
    Invariant {
        number,
        name,
        is_local: false,
        rule,
    }
}

/// Every invariant of §11.
pub static INVARIANTS: &[Invariant] = &[
    local(
        "P1",
        "well_formed_promise_created_at_lte_timeout_at",
        Rule::Promise(|p, _| p.record.created_at <= p.record.timeout_at),
    ),
    local(
        "P2",
        "well_formed_promise_pending_created_before_deadline",
        Rule::Promise(|p, _| p.is_settled() || p.record.created_at < p.record.timeout_at),
    ),
    local(
        "P3",
        "well_formed_promise_settled_at_lte_timeout_at",
        Rule::Promise(|p, _| {
            p.record
                .settled_at
                .is_none_or(|at| at <= p.record.timeout_at)
        }),
    ),
    local(
        "P4",
        "well_formed_promise_created_at_lte_settled_at",
        Rule::Promise(|p, _| {
            p.record
                .settled_at
                .is_none_or(|at| p.record.created_at <= at)
        }),
    ),
    local(
        "P5",
        "well_formed_promise_settled_at_iff_not_pending",
        Rule::Promise(|p, _| p.record.settled_at.is_some() == p.is_settled()),
    ),
    local(
        "P6",
        "well_formed_promise_pending_has_no_value",
        Rule::Promise(|p, _| p.is_settled() || p.record.value.is_empty()),
    ),
    local(
        "P7",
        "well_formed_promise_deadline_verdict_matches_timer_tag",
        Rule::Promise(|p, _| !p.is_by_deadline() || p.record.state == p.deadline_verdict()),
    ),
    local(
        "P8",
        "well_formed_promise_deadline_settlement_has_no_value",
        Rule::Promise(|p, _| !p.is_by_deadline() || p.record.value.is_empty()),
    ),
    // Restated (D-03): a timer may carry a target, but has no task.
    local(
        "P9",
        "well_formed_promise_timer_not_targeted",
        Rule::Promise(|p, facts| !is_timer(&p.record.tags) || facts.task(p.id()).is_none()),
    ),
    local(
        "P10",
        "well_formed_promise_timedout_is_server_owned",
        Rule::Promise(|p, _| {
            p.record.state != PromiseState::RejectedTimedout || p.is_by_deadline()
        }),
    ),
    local(
        "P11",
        "well_formed_promise_callbacks_unique",
        Rule::Promise(|p, _| is_unique(&p.callbacks)),
    ),
    local(
        "P12",
        "well_formed_promise_listeners_unique",
        Rule::Promise(|p, _| is_unique(&p.listeners)),
    ),
    // Restated (D-02): any promise may be waited on; being waited on arms its timeout.
    local(
        "P13",
        "well_formed_promise_obligations_require_external",
        Rule::Promise(|p, _| {
            let is_obligated = !p.callbacks.is_empty() || !p.listeners.is_empty();
            !(p.is_pending() && is_obligated) || p.armed
        }),
    ),
    local(
        "P14",
        "well_formed_promise_awaiter_is_not_self",
        Rule::Promise(|p, _| !p.callbacks.contains(&p.record.id)),
    ),
    local(
        "P15",
        "well_formed_promise_created_at_lte_now",
        Rule::Promise(|p, facts| p.record.created_at <= facts.state.now),
    ),
    local(
        "P16",
        "well_formed_promise_settled_at_lte_now",
        Rule::Promise(|p, facts| p.record.settled_at.is_none_or(|at| at <= facts.state.now)),
    ),
    local(
        "T1",
        "well_formed_task_acquired_iff_has_pid",
        Rule::Task(|t, _| (t.state == TaskState::Acquired) == t.pid.is_some()),
    ),
    local(
        "T2",
        "well_formed_task_acquired_iff_has_ttl",
        Rule::Task(|t, _| (t.state == TaskState::Acquired) == t.ttl.is_some()),
    ),
    local(
        "T3",
        "well_formed_task_acquired_iff_has_expires_at",
        Rule::Task(|t, _| (t.state == TaskState::Acquired) == t.expires_at.is_some()),
    ),
    local(
        "T4",
        "well_formed_task_pending_iff_has_retry_at",
        Rule::Task(|t, _| (t.state == TaskState::Pending) == t.retry_at.is_some()),
    ),
    local(
        "T5",
        "well_formed_task_fulfilled_is_cleared",
        Rule::Task(|t, _| {
            t.state != TaskState::Fulfilled || (is_cleared(t) && t.resumes.is_empty())
        }),
    ),
    local(
        "T6",
        "well_formed_task_suspended_is_cleared",
        Rule::Task(|t, _| t.state != TaskState::Suspended || is_cleared(t)),
    ),
    local(
        "T7",
        "well_formed_task_halted_is_cleared",
        Rule::Task(|t, _| t.state != TaskState::Halted || is_cleared(t)),
    ),
    local(
        "T8",
        "well_formed_task_suspended_has_no_resumes",
        Rule::Task(|t, _| t.state != TaskState::Suspended || t.resumes.is_empty()),
    ),
    local(
        "T9",
        "well_formed_task_resumes_unique",
        Rule::Task(|t, _| is_unique(&t.resumes)),
    ),
    local(
        "T10",
        "well_formed_task_acquired_version_positive",
        Rule::Task(|t, _| t.state != TaskState::Acquired || t.version >= 1),
    ),
    global(
        "S1",
        "well_formed_schedule_promise_tags_not_timer_targeted",
        Rule::Schedule(|s| !is_timer(&s.promise_tags)),
    ),
    global(
        "S2",
        "well_formed_schedule_created_at_lte_next_run_at",
        Rule::Schedule(|s| s.created_at <= s.next_run_at),
    ),
    global(
        "S3",
        "well_formed_schedule_created_at_lte_last_run_at",
        Rule::Schedule(|s| s.last_run_at.is_none_or(|last| s.created_at <= last)),
    ),
    global(
        "S4",
        "well_formed_schedule_last_run_at_lt_next_run_at",
        Rule::Schedule(|s| s.last_run_at.is_none_or(|last| last < s.next_run_at)),
    ),
    local(
        "U1",
        "well_formed_store_promise_ids_unique",
        Rule::State(|f| is_unique(f.state.promises.iter().map(|p| &p.record.id))),
    ),
    local(
        "U2",
        "well_formed_store_task_ids_unique",
        Rule::State(|f| is_unique(f.state.tasks.iter().map(|t| &t.id))),
    ),
    global(
        "U3",
        "well_formed_store_schedule_ids_unique",
        Rule::State(|f| is_unique(f.state.schedules.iter().map(|s| &s.id))),
    ),
    global(
        "U4",
        "well_formed_store_outbox_keys_unique",
        Rule::State(|f| is_unique(f.state.outbox.iter().map(Entry::key))),
    ),
    // Restated (D-03): timers are the exception.
    local(
        "X1",
        "consistent_task_iff_targeted_promise",
        Rule::State(|f| {
            let is_coupled =
                |p: &PromiseRow| is_targeted(&p.record.tags) == f.task(p.id()).is_some();
            f.state.promises.iter().all(is_coupled)
                && f.state.tasks.iter().all(|t| f.promise(&t.id).is_some())
        }),
    ),
    local(
        "X2",
        "consistent_settled_promise_has_fulfilled_task",
        Rule::Promise(|p, facts| {
            let is_fulfilled = |t: &TaskRow| t.state == TaskState::Fulfilled;
            p.is_pending() || facts.task(p.id()).is_none_or(is_fulfilled)
        }),
    ),
    global(
        "X3",
        "consistent_callback_awaiter_is_targeted",
        Rule::Promise(|p, facts| {
            p.callbacks.iter().all(|awaiter| {
                facts
                    .promise(awaiter)
                    .is_some_and(|a| is_targeted(&a.record.tags))
            })
        }),
    ),
    local(
        "X4",
        "consistent_listener_addresses_deliverable",
        Rule::Promise(|p, _| p.listeners.iter().all(|address| is_deliverable(address))),
    ),
    global(
        "X5",
        "consistent_outbox_execute_names_existing_task",
        Rule::Entry(|entry, facts| match &entry.message {
            Message::Execute { id, .. } => facts.task(id).is_some(),
            Message::Unblock { .. } => true,
        }),
    ),
    global(
        "X6",
        "consistent_outbox_never_ahead",
        Rule::Entry(|entry, facts| match &entry.message {
            Message::Execute { id, version, .. } => {
                facts.task(id).is_none_or(|task| *version <= task.version)
            }
            Message::Unblock { .. } => true,
        }),
    ),
    global(
        "X7",
        "consistent_outbox_execute_address_is_target_tag",
        Rule::Entry(|entry, facts| match &entry.message {
            Message::Execute { id, address, .. } => facts
                .promise(id)
                .is_some_and(|p| target(&p.record.tags) == Some(&**address)),
            Message::Unblock { .. } => true,
        }),
    ),
    global(
        "X8",
        "consistent_outbox_unblock_names_settled_promise",
        Rule::Entry(|entry, facts| match &entry.message {
            Message::Execute { .. } => true,
            Message::Unblock { promise, .. } => facts
                .promise(&promise.id)
                .is_some_and(PromiseRow::is_settled),
        }),
    ),
    global(
        "X9",
        "consistent_outbox_unblock_address_deliverable",
        Rule::Entry(|entry, _| match &entry.message {
            Message::Execute { .. } => true,
            Message::Unblock { address, .. } => is_deliverable(address),
        }),
    ),
    local(
        "X10",
        "consistent_settled_task_promise_settled",
        Rule::Task(|t, facts| {
            t.state != TaskState::Fulfilled
                || facts.promise(&t.id).is_some_and(PromiseRow::is_settled)
        }),
    ),
    global(
        "X11",
        "consistent_suspended_task_holds_rung",
        Rule::Task(|t, facts| {
            let is_asleep =
                t.state == TaskState::Suspended && facts.is_alive(&t.id, facts.state.now);
            !is_asleep || facts.is_awaiter(&t.id)
        }),
    ),
    local(
        "G1",
        "well_formed_task_ttl_positive",
        Rule::Task(|t, _| t.state != TaskState::Acquired || t.ttl.is_some_and(|ttl| ttl > 0)),
    ),
    local(
        "G2",
        "well_formed_promise_target_is_nonempty",
        Rule::Promise(|p, _| target(&p.record.tags) != Some("")),
    ),
    // An occurrence of a schedule is left out: `schedule.create` takes any fixed delay in its
    // template (`protocol.md` §10), and every occurrence has another deadline.
    local(
        "G3",
        "well_formed_promise_delay_before_deadline",
        Rule::Promise(|p, _| {
            let tags = &p.record.tags;
            tags.get("resonate:schedule").is_some()
                || delay(tags).is_none_or(|delay| delay < p.record.timeout_at)
        }),
    ),
    global(
        "G4",
        "well_formed_config_retry_positive",
        Rule::State(|f| f.state.retry_timeout_ms > 0),
    ),
];

/// None of the fields that belong to a lease or to a dispatch is set.
fn is_cleared(task: &TaskRow) -> bool {
    task.pid.is_none() && task.ttl.is_none() && task.expires_at.is_none() && task.retry_at.is_none()
}

fn is_deliverable(address: &str) -> bool {
    // Whether a default project is configured is not the state's to know: it may have been.
    let rules = Rules {
        default_project: Some("any".to_owned()),
    };
    Address::parse(address, &rules).is_some_and(|address| address.can_listen())
}
