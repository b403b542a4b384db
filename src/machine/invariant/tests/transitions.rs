//! Violators of the properties of §12.

use std::collections::BTreeSet;

use crate::machine::invariant::transition::Transition;
use crate::machine::invariant::{Key, PROPERTIES, State, check_state, check_transition};
use crate::protocol::record::{PromiseState, TaskState};

use super::{
    LISTENER, NOW, RETRY, WORKER, clean, execute, lease, numbers, promise, retry, settled, tags,
    task, unblock, value,
};

/// Two states and what lies between them.
struct Step {
    before: State,
    after: State,
    is_internal: bool,
    delivered: BTreeSet<Key>,
}

impl Step {
    /// Nothing happens.
    fn still() -> Step {
        Step {
            before: clean(),
            after: clean(),
            is_internal: false,
            delivered: BTreeSet::new(),
        }
    }

    fn transition(&self) -> Transition<'_> {
        Transition::of(&self.before, &self.after, self.is_internal, &self.delivered)
    }
}

/// What is done to the clean example, and the name under which that must be reported.
type Violator = (&'static str, &'static str, fn(&mut Step));

const VIOLATORS: &[Violator] = &[
    ("A1", "preserved_promise_birth_fields_immutable", |s| {
        s.after.promise("plain").record.tags = tags(&[("new", "tag")]);
    }),
    ("A2", "preserved_settled_promise_record", |s| {
        s.after.promise("fulfilled").record.value = value("other");
    }),
    ("A3", "preserved_promise_state_frozen_once_settled", |s| {
        s.after.promise("fulfilled").record.state = PromiseState::Rejected;
    }),
    ("A4", "monotone_promise_set_grows", |s| {
        s.after.drop_promise("plain");
    }),
    ("A5", "monotone_task_set_grows", |s| {
        s.after.drop_task("halted");
    }),
    ("A6", "preserved_promise_settlement_is_one_way", |s| {
        s.after.promise("fulfilled").record.state = PromiseState::Pending;
    }),
    (
        "A7",
        "consistent_promise_settled_at_moves_with_state",
        |s| {
            s.after.promise("plain").record.settled_at = Some(NOW);
        },
    ),
    ("A8", "preserved_promise_value_until_settlement", |s| {
        s.after.promise("plain").record.value = value("early");
    }),
    ("A9", "preserved_promise_no_duplicate_ids", |s| {
        s.after.promises.push(promise("plain", &[]));
    }),
    (
        "A10",
        "monotone_promise_callbacks_grow_while_pending",
        |s| {
            s.after.promise("acquired").callbacks.clear();
        },
    ),
    (
        "A11",
        "monotone_promise_listeners_grow_while_pending",
        |s| {
            s.after.promise("acquired").listeners.clear();
        },
    ),
    (
        "A12",
        "monotone_promise_callbacks_shrink_once_settled",
        |s| {
            s.after
                .promise("fulfilled")
                .callbacks
                .push("suspended".into());
        },
    ),
    (
        "A13",
        "monotone_promise_listeners_shrink_once_settled",
        |s| {
            s.after.promise("fulfilled").listeners.push(LISTENER.into());
        },
    ),
    ("A14", "consistent_promise_state_edge_admissible", |s| {
        s.after.promise("timer").record.state = PromiseState::RejectedCanceled;
    }),
    ("A15", "consistent_promise_settlement_stamp", |s| {
        s.after.settle("plain", PromiseState::Resolved, NOW - 1);
    }),
    ("A16", "preserved_timedout_is_server_owned", |s| {
        s.after.settle("plain", PromiseState::RejectedTimedout, NOW);
    }),
    ("A17", "consistent_new_promise_born_clean", |s| {
        let born = settled(promise("new", &[]), PromiseState::Resolved, NOW);
        s.after.promises.push(born);
    }),
    (
        "B1",
        "monotone_task_version_increases_only_on_acquisition",
        |s| {
            s.after.task("halted").version += 1;
        },
    ),
    ("B2", "preserved_fulfilled_task", |s| {
        s.after.task("fulfilled").pid = Some("pid".into());
    }),
    ("B3", "consistent_task_state_edge_admissible", |s| {
        s.after.task("pending").state = TaskState::Suspended;
    }),
    ("B4", "preserved_task_acquisition_only_from_pending", |s| {
        s.after.task("suspended").state = TaskState::Acquired;
    }),
    ("B5", "preserved_task_suspension_only_from_acquired", |s| {
        s.after.task("halted").state = TaskState::Suspended;
    }),
    (
        "B6",
        "preserved_task_halted_only_reenters_via_pending",
        |s| {
            s.after.task("halted").state = TaskState::Acquired;
        },
    ),
    ("B7", "consistent_task_birth_state", |s| {
        let target = [("resonate:target", WORKER)];
        s.after.promises.push(promise("new", &target));
        s.after.tasks.push(task("new", TaskState::Halted, 0));
    }),
    ("B8", "consistent_task_lease_released_atomically", |s| {
        s.after.task("acquired").state = TaskState::Halted;
    }),
    ("B9", "preserved_task_lease_holder_stable", |s| {
        s.after.task("acquired").pid = Some("thief".into());
    }),
    ("B10", "consistent_task_lease_fields_move_together", |s| {
        s.after.task("acquired").pid = None;
    }),
    ("B11", "monotone_task_resumes_grow_or_clear", |s| {
        s.after.task("halted").resumes = vec!["timedout".into()];
    }),
    (
        "B12",
        "consistent_task_resumes_cleared_only_on_dispatch_or_park",
        |s| {
            s.after.task("halted").resumes.clear();
        },
    ),
    ("B13", "preserved_no_dead_dispatch", |s| {
        s.after.promise("halted").record.timeout_at = NOW;
        *s.after.task("halted") = retry(task("halted", TaskState::Pending, 2), NOW);
    }),
    ("B14", "consistent_task_acquisition_is_atomic", |s| {
        let row = s.after.task("pending");
        *row = lease(task("pending", TaskState::Acquired, 1), NOW + 50);
        row.retry_at = Some(1050);
    }),
    (
        "B15",
        "consistent_task_lease_deadline_is_now_plus_ttl",
        |s| {
            s.after.task("acquired").expires_at = Some(NOW + 51);
        },
    ),
    ("B16", "consistent_task_pending_entry_arms_retry", |s| {
        // Armed, but no message and not due.
        let resumed = retry(task("acquired", TaskState::Pending, 1), NOW + RETRY);
        *s.after.task("acquired") = resumed;
    }),
    ("B17", "consistent_task_retry_rearm_only_when_due", |s| {
        s.after.task("pending").retry_at = Some(NOW + RETRY);
    }),
    ("B18", "monotone_task_retry_rearm_advances", |s| {
        s.before.task("pending").retry_at = Some(NOW - 1);
        s.after.task("pending").retry_at = Some(NOW);
    }),
    ("B19", "consistent_task_wake_records_resume", |s| {
        // Woken and dispatched, but nobody knows why.
        *s.after.task("suspended") = retry(task("suspended", TaskState::Pending, 1), NOW + RETRY);
        s.after.outbox.push(execute("suspended", 1, 9));
    }),
    ("K1", "consistent_settlement_fulfils_task", |s| {
        s.after.settle("halted", PromiseState::Resolved, NOW);
    }),
    ("K2", "consistent_task_fulfilment_needs_settlement", |s| {
        *s.after.task("halted") = task("halted", TaskState::Fulfilled, 2);
    }),
    (
        "K3",
        "consistent_obligation_discharge_requires_settled",
        |s| {
            s.after.promise("acquired").callbacks.clear();
        },
    ),
    (
        "K4",
        "consistent_callback_consumption_resumes_awaiter",
        |s| {
            s.after.settle("acquired", PromiseState::Resolved, NOW);
            s.after.promise("acquired").callbacks.clear();
        },
    ),
    (
        "K5",
        "consistent_listener_consumption_enqueues_unblock",
        |s| {
            s.after.settle("acquired", PromiseState::Resolved, NOW);
            s.after.promise("acquired").listeners.clear();
        },
    ),
    ("K6", "consistent_wake_follows_callback_consumption", |s| {
        let row = s.after.task("suspended");
        *row = retry(task("suspended", TaskState::Pending, 1), NOW + RETRY);
        row.resumes.push("acquired".into());
    }),
    ("K7", "consistent_suspension_registers_callback", |s| {
        *s.after.task("acquired") = task("acquired", TaskState::Suspended, 1);
    }),
    ("K8", "consistent_task_birth_couples_promise_birth", |s| {
        s.after
            .promises
            .push(promise("new", &[("resonate:target", WORKER)]));
    }),
    ("O1", "monotone_outbox_keys_never_disappear", |s| {
        s.after.outbox.clear();
    }),
    (
        "O2",
        "consistent_new_execute_matches_task_and_target",
        |s| {
            s.after.outbox.push(execute("acquired", 0, 9));
        },
    ),
    ("O3", "consistent_new_unblock_carries_stored_record", |s| {
        settle_acquired(s);
        s.after.promise("acquired").record.value = value("else");
    }),
    (
        "O4",
        "consistent_new_unblock_discharges_its_listener",
        |s| {
            let row = s.after.promise("timer").clone();
            s.after.outbox.push(unblock(&row, LISTENER, 9));
        },
    ),
    ("O5", "preserved_execute_only_for_live_task", |s| {
        s.after.promise("pending").record.timeout_at = NOW;
        s.after.outbox[0] = execute("pending", 0, 9);
    }),
    ("Z1", "preserved_schedule_birth_fields_immutable", |s| {
        s.after.schedules[0].promise_timeout += 1;
    }),
    (
        "I1",
        "consistent_task_state_edge_internal_admissible",
        |s| {
            *s.after.task("pending") = task("pending", TaskState::Halted, 0);
            s.is_internal = true;
        },
    ),
    (
        "I2",
        "consistent_promise_state_edge_internal_admissible",
        |s| {
            s.after.settle("plain", PromiseState::Resolved, NOW);
            s.is_internal = true;
        },
    ),
];

/// `acquired` settles: its task, its listener and its awaiter follow.
fn settle_acquired(s: &mut Step) {
    s.after.settle("acquired", PromiseState::Rejected, NOW);
    let row = s.after.promise("acquired");
    row.callbacks.clear();
    row.listeners.clear();
    let entry = unblock(row, LISTENER, 8);
    s.after.outbox.push(entry);
    s.after.outbox.push(execute("suspended", 1, 9));
    *s.after.task("acquired") = task("acquired", TaskState::Fulfilled, 1);
    let woken = s.after.task("suspended");
    *woken = retry(task("suspended", TaskState::Pending, 1), NOW + RETRY);
    woken.resumes.push("acquired".into());
}

/// What happens, and how.
type Example = (&'static str, fn(&mut Step));

/// Steps as they should be.
const CLEAN: &[Example] = &[
    ("nothing", |_| ()),
    ("settlement", settle_acquired),
    ("acquisition", |s| {
        *s.after.task("pending") = lease(task("pending", TaskState::Acquired, 1), NOW + 50);
    }),
    ("release", |s| {
        *s.after.task("acquired") = retry(task("acquired", TaskState::Pending, 1), NOW + RETRY);
        s.after.outbox.push(execute("acquired", 1, 9));
    }),
    (
        "suspension on a promise that holds the callback already",
        |s| {
            s.before.promise("halted").callbacks.push("acquired".into());
            s.after = s.before.clone();
            *s.after.task("acquired") = task("acquired", TaskState::Suspended, 1);
        },
    ),
    ("delayed birth", |s| {
        let tags = [("resonate:target", WORKER), ("resonate:delay", "1900")];
        s.after.promises.push(promise("new", &tags));
        s.after
            .tasks
            .push(retry(task("new", TaskState::Pending, 0), 1900));
    }),
    ("birth past the deadline", |s| {
        let mut row = promise("new", &[("resonate:target", WORKER)]);
        row.record.created_at = 700;
        row.record.timeout_at = 700;
        let row = settled(row, PromiseState::RejectedTimedout, 700);
        s.after.promises.push(row);
        s.after.tasks.push(task("new", TaskState::Fulfilled, 0));
    }),
    ("lease expiry", |s| {
        s.is_internal = true;
        *s.after.task("acquired") = retry(task("acquired", TaskState::Pending, 1), NOW + RETRY);
        s.after.outbox.push(execute("acquired", 1, 9));
    }),
    ("retry", |s| {
        s.is_internal = true;
        s.before.task("pending").retry_at = Some(NOW);
        s.after.task("pending").retry_at = Some(NOW + RETRY);
        s.after.outbox[0] = execute("pending", 0, 9);
    }),
    ("delivery", |s| {
        s.is_internal = true;
        s.delivered
            .extend(s.after.outbox.drain(..).map(|entry| entry.key()));
    }),
];

#[test]
fn every_number_is_in_the_table_and_has_a_violator() {
    let groups = [("A", 17), ("B", 19), ("K", 8), ("O", 5), ("Z", 1), ("I", 2)];
    let all = numbers(&groups);
    let table: Vec<_> = PROPERTIES.iter().map(|row| row.number).collect();
    assert_eq!(table, all);
    let violators: Vec<_> = VIOLATORS.iter().map(|(number, ..)| *number).collect();
    assert_eq!(violators, all);
}

#[test]
fn every_violator_is_reported_under_its_name() {
    for ((number, name, spoil), property) in VIOLATORS.iter().zip(PROPERTIES) {
        let mut step = Step::still();
        assert_eq!(
            property.check(&step.transition()),
            Ok(()),
            "{number} before"
        );
        spoil(&mut step);
        let violation = property
            .check(&step.transition())
            .expect_err("the violator passes");
        assert_eq!((violation.number, violation.name), (*number, *name));
        assert!(!violation.detail.is_empty());
        assert!(
            check_transition(&step.transition()).is_err(),
            "{number} in the whole table"
        );
    }
}

#[test]
fn clean_steps_pass() {
    for (what, act) in CLEAN {
        let mut step = Step::still();
        act(&mut step);
        assert_eq!(check_state(&step.after), Ok(()), "{what}");
        assert_eq!(check_transition(&step.transition()), Ok(()), "{what}");
    }
}
