//! The table of `semantics.md` §12.

use std::collections::BTreeSet;

use crate::machine::workspace::Message;
use crate::protocol::record::{PromiseState, TaskState};

use super::transition::{
    Property, Rule, is_edge, is_entry, is_lease_from, is_rearmed, is_subset, is_wake, row,
};
use super::{Entry, Facts, Key, PromiseRow, delay, is_targeted, is_unique};

/// Every property of §12.
pub static PROPERTIES: &[Property] = &[
    row(
        "A1",
        "preserved_promise_birth_fields_immutable",
        Rule::Promise(|a, b, _| {
            let (a, b) = (&a.record, &b.record);
            a.param == b.param
                && a.tags == b.tags
                && a.timeout_at == b.timeout_at
                && a.created_at == b.created_at
        }),
    ),
    row(
        "A2",
        "preserved_settled_promise_record",
        Rule::Promise(|a, b, _| a.is_pending() || a.record == b.record),
    ),
    row(
        "A3",
        "preserved_promise_state_frozen_once_settled",
        Rule::Promise(|a, b, _| a.is_pending() || a.record.state == b.record.state),
    ),
    row(
        "A4",
        "monotone_promise_set_grows",
        Rule::Step(|step| {
            let mut was = step.before.state.promises.iter();
            was.all(|p| step.after.promise(p.id()).is_some())
        }),
    ),
    row(
        "A5",
        "monotone_task_set_grows",
        Rule::Step(|step| {
            let mut was = step.before.state.tasks.iter();
            was.all(|t| step.after.task(&t.id).is_some())
        }),
    ),
    row(
        "A6",
        "preserved_promise_settlement_is_one_way",
        Rule::Promise(|a, b, _| a.is_pending() || b.is_settled()),
    ),
    row(
        "A7",
        "consistent_promise_settled_at_moves_with_state",
        Rule::Promise(|a, b, _| {
            (a.record.settled_at != b.record.settled_at) == (a.record.state != b.record.state)
        }),
    ),
    row(
        "A8",
        "preserved_promise_value_until_settlement",
        Rule::Promise(|a, b, _| {
            a.record.value == b.record.value || (a.is_pending() && b.is_settled())
        }),
    ),
    row(
        "A9",
        "preserved_promise_no_duplicate_ids",
        Rule::Step(|step| {
            let ids =
                |facts: &Facts<'_>| is_unique(facts.state.promises.iter().map(|p| &p.record.id));
            !ids(&step.before) || ids(&step.after)
        }),
    ),
    row(
        "A10",
        "monotone_promise_callbacks_grow_while_pending",
        Rule::Promise(|a, b, _| b.is_settled() || is_subset(&a.callbacks, &b.callbacks)),
    ),
    row(
        "A11",
        "monotone_promise_listeners_grow_while_pending",
        Rule::Promise(|a, b, _| b.is_settled() || is_subset(&a.listeners, &b.listeners)),
    ),
    row(
        "A12",
        "monotone_promise_callbacks_shrink_once_settled",
        Rule::Promise(|a, b, _| b.is_pending() || is_subset(&b.callbacks, &a.callbacks)),
    ),
    row(
        "A13",
        "monotone_promise_listeners_shrink_once_settled",
        Rule::Promise(|a, b, _| b.is_pending() || is_subset(&b.listeners, &a.listeners)),
    ),
    row(
        "A14",
        "consistent_promise_state_edge_admissible",
        Rule::Promise(|a, b, _| a.is_pending() || a.record.state == b.record.state),
    ),
    row(
        "A15",
        "consistent_promise_settlement_stamp",
        Rule::Promise(|a, b, step| {
            if !(a.is_pending() && b.is_settled()) {
                return true;
            }
            let record = &b.record;
            if b.is_by_deadline() {
                return record.timeout_at <= step.now
                    && record.state == b.deadline_verdict()
                    && record.value == a.record.value;
            }
            // Born by the clock of another node, which may be a little ahead.
            record.settled_at == Some(step.now.max(record.created_at))
                && step.now < record.timeout_at
                && record.state != PromiseState::RejectedTimedout
        }),
    ),
    row(
        "A16",
        "preserved_timedout_is_server_owned",
        Rule::Promise(|a, b, step| {
            b.record.state != PromiseState::RejectedTimedout
                || a.record.state == b.record.state
                || (b.record.timeout_at <= step.now && b.is_by_deadline())
        }),
    ),
    row(
        "A17",
        "consistent_new_promise_born_clean",
        Rule::NewPromise(|b, step| {
            let record = &b.record;
            let is_bare =
                b.callbacks.is_empty() && b.listeners.is_empty() && record.value.is_empty();
            let is_timely = match b.is_pending() {
                true => record.created_at < record.timeout_at,
                false => {
                    record.created_at == record.timeout_at
                        && b.is_by_deadline()
                        && record.timeout_at <= step.now
                }
            };
            is_bare && is_timely
        }),
    ),
    row(
        "B1",
        "monotone_task_version_increases_only_on_acquisition",
        Rule::Task(|a, b, _| {
            let is_acquisition = a.state == TaskState::Pending && b.state == TaskState::Acquired;
            b.version == a.version + i64::from(is_acquisition)
        }),
    ),
    row(
        "B2",
        "preserved_fulfilled_task",
        // A task that is still fulfilled and changed has something set that was cleared.
        Rule::Task(|a, _, _| a.state != TaskState::Fulfilled),
    ),
    row(
        "B3",
        "consistent_task_state_edge_admissible",
        Rule::Task(|a, b, _| is_edge(a.state, b.state)),
    ),
    row(
        "B4",
        "preserved_task_acquisition_only_from_pending",
        Rule::Task(|a, b, _| {
            b.state != TaskState::Acquired
                || a.state == TaskState::Pending
                || (a.state == TaskState::Acquired && a.version == b.version)
        }),
    ),
    row(
        "B5",
        "preserved_task_suspension_only_from_acquired",
        Rule::Task(|a, b, _| {
            b.state != TaskState::Suspended
                || matches!(a.state, TaskState::Acquired | TaskState::Suspended)
        }),
    ),
    row(
        "B6",
        "preserved_task_halted_only_reenters_via_pending",
        Rule::Task(|a, b, _| {
            a.state != TaskState::Halted
                || !matches!(b.state, TaskState::Acquired | TaskState::Suspended)
        }),
    ),
    row(
        "B7",
        "consistent_task_birth_state",
        Rule::AnyTask(|a, b, _| {
            let has_lease = b.pid.is_some() && b.ttl.is_some() && b.expires_at.is_some();
            let has_none = b.pid.is_none() && b.ttl.is_none() && b.expires_at.is_none();
            let is_regular = match b.state {
                TaskState::Pending => b.retry_at.is_some() && has_none,
                TaskState::Acquired => b.version >= 1 && has_lease && b.retry_at.is_none(),
                TaskState::Fulfilled => has_none && b.retry_at.is_none(),
                TaskState::Suspended | TaskState::Halted => false,
            };
            a.is_some() || (is_regular && b.resumes.is_empty())
        }),
    ),
    row(
        "B8",
        "consistent_task_lease_released_atomically",
        Rule::Task(|a, b, _| {
            let is_left = a.state == TaskState::Acquired && b.state != TaskState::Acquired;
            !is_left || (b.pid.is_none() && b.ttl.is_none() && b.expires_at.is_none())
        }),
    ),
    row(
        "B9",
        "preserved_task_lease_holder_stable",
        Rule::Task(|a, b, _| {
            let is_same_lease = a.state == TaskState::Acquired
                && b.state == TaskState::Acquired
                && a.version == b.version;
            !is_same_lease || (a.pid == b.pid && a.ttl == b.ttl)
        }),
    ),
    row(
        "B10",
        "consistent_task_lease_fields_move_together",
        Rule::Task(|a, b, _| {
            let pid = (a.pid.is_some(), b.pid.is_some());
            pid == (a.ttl.is_some(), b.ttl.is_some())
                && pid == (a.expires_at.is_some(), b.expires_at.is_some())
        }),
    ),
    row(
        "B11",
        "monotone_task_resumes_grow_or_clear",
        Rule::Task(|a, b, _| b.resumes.is_empty() || is_subset(&a.resumes, &b.resumes)),
    ),
    row(
        "B12",
        "consistent_task_resumes_cleared_only_on_dispatch_or_park",
        Rule::Task(|a, b, _| {
            let is_cleared = !a.resumes.is_empty() && b.resumes.is_empty();
            !is_cleared
                || matches!(
                    b.state,
                    TaskState::Acquired | TaskState::Suspended | TaskState::Fulfilled
                )
        }),
    ),
    row(
        "B13",
        "preserved_no_dead_dispatch",
        Rule::Task(|a, b, step| !is_entry(a, b) || step.after.is_alive(&b.id, step.now)),
    ),
    row(
        "B14",
        "consistent_task_acquisition_is_atomic",
        Rule::Task(|a, b, step| {
            let is_acquired = a.state != TaskState::Acquired && b.state == TaskState::Acquired;
            !is_acquired
                || (a.state == TaskState::Pending
                    && b.version == a.version + 1
                    && b.pid.is_some()
                    && b.ttl.is_some()
                    && is_lease_from(b, step.now)
                    && b.retry_at.is_none()
                    && b.resumes.is_empty())
        }),
    ),
    row(
        "B15",
        "consistent_task_lease_deadline_is_now_plus_ttl",
        Rule::AnyTask(|a, b, step| {
            b.expires_at.is_none()
                || a.is_some_and(|a| a.expires_at == b.expires_at)
                || is_lease_from(b, step.now)
        }),
    ),
    // Restated (D-14): entry and first dispatch may be one step. At birth a delay postpones both.
    row(
        "B16",
        "consistent_task_pending_entry_arms_retry",
        Rule::AnyTask(|a, b, step| match a {
            Some(a) => !is_entry(a, b) || step.is_pending_armed(b),
            None if b.state == TaskState::Pending => {
                let promise = step.after.promise(&b.id);
                let delay = promise.and_then(|p| delay(&p.record.tags));
                match delay.filter(|delay| *delay > step.now) {
                    Some(delay) => b.retry_at == Some(delay) && !step.dispatched(b),
                    None => step.is_pending_armed(b),
                }
            }
            None => true,
        }),
    ),
    row(
        "B17",
        "consistent_task_retry_rearm_only_when_due",
        Rule::Task(|a, b, step| !is_rearmed(a, b) || a.retry_at.is_some_and(|at| at <= step.now)),
    ),
    row(
        "B18",
        "monotone_task_retry_rearm_advances",
        Rule::Task(|a, b, step| {
            !is_rearmed(a, b) || (b.retry_at > a.retry_at && b.retry_at > Some(step.now))
        }),
    ),
    row(
        "B19",
        "consistent_task_wake_records_resume",
        Rule::Task(|a, b, step| {
            !is_wake(a, b)
                || (!b.resumes.is_empty() && a.version == b.version && step.is_pending_armed(b))
        }),
    ),
    row(
        "K1",
        "consistent_settlement_fulfils_task",
        Rule::Promise(|a, b, step| {
            !(a.is_pending() && b.is_settled())
                || step
                    .after
                    .task(b.id())
                    .is_none_or(|t| t.state == TaskState::Fulfilled)
        }),
    ),
    row(
        "K2",
        "consistent_task_fulfilment_needs_settlement",
        Rule::AnyTask(|a, b, step| {
            let is_fulfilled = b.state == TaskState::Fulfilled
                && a.is_none_or(|a| a.state != TaskState::Fulfilled);
            let was_settled = step
                .before
                .promise(&b.id)
                .is_some_and(PromiseRow::is_settled);
            let is_settled = step
                .after
                .promise(&b.id)
                .is_some_and(PromiseRow::is_settled);
            !is_fulfilled || (is_settled && !was_settled)
        }),
    ),
    row(
        "K3",
        "consistent_obligation_discharge_requires_settled",
        Rule::Promise(|a, b, _| {
            b.is_settled()
                || (is_subset(&a.callbacks, &b.callbacks) && is_subset(&a.listeners, &b.listeners))
        }),
    ),
    row(
        "K4",
        "consistent_callback_consumption_resumes_awaiter",
        Rule::Step(|step| {
            step.consumed.iter().all(|(awaited, awaiter)| {
                step.after.task(awaiter).is_none_or(|task| {
                    task.state == TaskState::Fulfilled || task.resumes.contains(awaited)
                })
            })
        }),
    ),
    row(
        "K5",
        "consistent_listener_consumption_enqueues_unblock",
        Rule::Promise(|a, b, step| {
            let mut consumed = a.listeners.iter().filter(|l| !b.listeners.contains(l));
            consumed.all(|address| {
                let key = Key::Unblock(b.record.id.clone(), address.clone());
                step.entries
                    .iter()
                    .filter(|entry| entry.key() == key)
                    .count()
                    == 1
            })
        }),
    ),
    row(
        "K6",
        "consistent_wake_follows_callback_consumption",
        Rule::Task(|a, b, step| {
            !is_wake(a, b)
                || b.resumes
                    .iter()
                    .all(|awaited| step.consumed.contains(&(awaited, &b.id)))
        }),
    ),
    // Restated: the callback may be there already, from `promise.register_callback` or from an earlier
    // suspension on the same promise. What matters is that something will wake the task.
    row(
        "K7",
        "consistent_suspension_registers_callback",
        Rule::Task(|a, b, step| {
            let is_parked = a.state != TaskState::Suspended && b.state == TaskState::Suspended;
            let mut promises = step.after.state.promises.iter();
            !is_parked
                || promises
                    .any(|p| p.callbacks.contains(&b.id) && step.after.is_alive(p.id(), step.now))
        }),
    ),
    row(
        "K8",
        "consistent_task_birth_couples_promise_birth",
        Rule::Step(|step| {
            let is_old = |id: &str| step.before.promise(id).is_some();
            let tasks = step.tasks.iter().filter(|(old, _)| old.is_none());
            let promises = step.promises.iter().filter(|(old, _)| old.is_none());
            let has_task = |p: &PromiseRow| step.after.task(p.id()).is_some();
            tasks
                .map(|(_, t)| t)
                .all(|t| !is_old(&t.id) && step.after.promise(&t.id).is_some())
                && promises
                    .map(|(_, p)| p)
                    .all(|p| is_targeted(&p.record.tags) == has_task(p))
        }),
    ),
    // Restated: the reader of the outbox is a transport, or the giving up of an unblock.
    row(
        "O1",
        "monotone_outbox_keys_never_disappear",
        Rule::Step(|step| {
            let kept: BTreeSet<Key> = step.after.state.outbox.iter().map(Entry::key).collect();
            let mut was = step.before.state.outbox.iter().map(Entry::key);
            was.all(|key| kept.contains(&key) || step.delivered.contains(&key))
        }),
    ),
    row(
        "O2",
        "consistent_new_execute_matches_task_and_target",
        Rule::Entry(|entry, step| match &entry.message {
            Message::Execute {
                id,
                version,
                address,
                ..
            } => {
                step.after.task(id).is_some_and(|t| t.version == *version)
                    && step
                        .after
                        .promise(id)
                        .is_some_and(|p| p.record.tags.get("resonate:target") == Some(&**address))
            }
            Message::Unblock { .. } => true,
        }),
    ),
    row(
        "O3",
        "consistent_new_unblock_carries_stored_record",
        Rule::Entry(|entry, step| match &entry.message {
            Message::Execute { .. } => true,
            Message::Unblock { promise, .. } => step
                .after
                .promise(&promise.id)
                .is_some_and(|p| p.record == *promise),
        }),
    ),
    row(
        "O4",
        "consistent_new_unblock_discharges_its_listener",
        Rule::Entry(|entry, step| match &entry.message {
            Message::Execute { .. } => true,
            Message::Unblock {
                promise, address, ..
            } => {
                let listens = |p: &PromiseRow| p.listeners.contains(address);
                step.before.promise(&promise.id).is_some_and(listens)
                    && !step.after.promise(&promise.id).is_some_and(listens)
            }
        }),
    ),
    row(
        "O5",
        "preserved_execute_only_for_live_task",
        Rule::Entry(|entry, step| match &entry.message {
            Message::Execute { id, .. } => step.after.is_alive(id, step.now),
            Message::Unblock { .. } => true,
        }),
    ),
    row(
        "Z1",
        "preserved_schedule_birth_fields_immutable",
        Rule::Step(|step| {
            step.after.state.schedules.iter().all(|b| {
                let mut was = step.before.state.schedules.iter().filter(|a| a.id == b.id);
                was.all(|a| {
                    a.cron == b.cron
                        && a.promise_id == b.promise_id
                        && a.promise_timeout == b.promise_timeout
                        && a.promise_param == b.promise_param
                        && a.promise_tags == b.promise_tags
                        && a.created_at == b.created_at
                })
            })
        }),
    ),
    row(
        "I1",
        "consistent_task_state_edge_internal_admissible",
        Rule::Task(|a, b, step| {
            let is_clients = a.state != b.state
                && (matches!(
                    b.state,
                    TaskState::Acquired | TaskState::Suspended | TaskState::Halted
                ) || (a.state == TaskState::Halted && b.state == TaskState::Pending));
            !step.is_internal || !is_clients
        }),
    ),
    row(
        "I2",
        "consistent_promise_state_edge_internal_admissible",
        Rule::Promise(|a, b, step| {
            let is_settlement = a.is_pending() && b.is_settled();
            !(step.is_internal && is_settlement) || b.record.state == b.deadline_verdict()
        }),
    ),
];
