//! Violators of the invariants of §11.

use std::collections::{BTreeMap, BTreeSet};

use crate::machine::invariant::{Facts, INVARIANTS, State, check_object, check_state};
use crate::machine::object::{Object, Task};
use crate::protocol::record::{PromiseState, TaskState};

use super::{NOW, WORKER, clean, execute, numbers, promise, tags, unblock, value};

/// What is done to the clean example, and the name under which that must be reported.
type Violator = (&'static str, &'static str, fn(&mut State));

const VIOLATORS: &[Violator] = &[
    ("P1", "well_formed_promise_created_at_lte_timeout_at", |s| {
        s.promise("timedout").record.created_at = 961;
    }),
    (
        "P2",
        "well_formed_promise_pending_created_before_deadline",
        |s| {
            s.promise("plain").record.created_at = 2000;
        },
    ),
    ("P3", "well_formed_promise_settled_at_lte_timeout_at", |s| {
        s.promise("fulfilled").record.settled_at = Some(2001);
    }),
    ("P4", "well_formed_promise_created_at_lte_settled_at", |s| {
        s.promise("fulfilled").record.settled_at = Some(499);
    }),
    (
        "P5",
        "well_formed_promise_settled_at_iff_not_pending",
        |s| {
            s.promise("plain").record.settled_at = Some(600);
        },
    ),
    ("P6", "well_formed_promise_pending_has_no_value", |s| {
        s.promise("plain").record.value = value("early");
    }),
    (
        "P7",
        "well_formed_promise_deadline_verdict_matches_timer_tag",
        |s| {
            s.promise("timer").record.state = PromiseState::RejectedTimedout;
        },
    ),
    (
        "P8",
        "well_formed_promise_deadline_settlement_has_no_value",
        |s| {
            s.promise("timedout").record.value = value("late");
        },
    ),
    ("P9", "well_formed_promise_timer_not_targeted", |s| {
        let mut task = s.task("fulfilled").clone();
        task.id = "timer".into();
        s.tasks.push(task);
    }),
    ("P10", "well_formed_promise_timedout_is_server_owned", |s| {
        s.promise("fulfilled").record.state = PromiseState::RejectedTimedout;
    }),
    ("P11", "well_formed_promise_callbacks_unique", |s| {
        s.promise("acquired").callbacks.push("suspended".into());
    }),
    ("P12", "well_formed_promise_listeners_unique", |s| {
        let row = s.promise("acquired");
        row.listeners.push(row.listeners[0].clone());
    }),
    (
        "P13",
        "well_formed_promise_obligations_require_external",
        |s| {
            s.promise("acquired").armed = false;
        },
    ),
    ("P14", "well_formed_promise_awaiter_is_not_self", |s| {
        s.promise("acquired").callbacks.push("acquired".into());
    }),
    ("P15", "well_formed_promise_created_at_lte_now", |s| {
        s.promise("plain").record.created_at = 1001;
    }),
    ("P16", "well_formed_promise_settled_at_lte_now", |s| {
        s.promise("fulfilled").record.settled_at = Some(1001);
    }),
    ("T1", "well_formed_task_acquired_iff_has_pid", |s| {
        s.task("acquired").pid = None;
    }),
    ("T2", "well_formed_task_acquired_iff_has_ttl", |s| {
        s.task("pending").ttl = Some(1);
    }),
    ("T3", "well_formed_task_acquired_iff_has_expires_at", |s| {
        s.task("acquired").expires_at = None;
    }),
    ("T4", "well_formed_task_pending_iff_has_retry_at", |s| {
        s.task("pending").retry_at = None;
    }),
    ("T5", "well_formed_task_fulfilled_is_cleared", |s| {
        s.task("fulfilled").resumes.push("timer".into());
    }),
    ("T6", "well_formed_task_suspended_is_cleared", |s| {
        s.task("suspended").pid = Some("pid".into());
    }),
    ("T7", "well_formed_task_halted_is_cleared", |s| {
        s.task("halted").retry_at = Some(1100);
    }),
    ("T8", "well_formed_task_suspended_has_no_resumes", |s| {
        s.task("suspended").resumes.push("timer".into());
    }),
    ("T9", "well_formed_task_resumes_unique", |s| {
        s.task("halted").resumes.push("timer".into());
    }),
    ("T10", "well_formed_task_acquired_version_positive", |s| {
        s.task("acquired").version = 0;
    }),
    (
        "S1",
        "well_formed_schedule_promise_tags_not_timer_targeted",
        |s| {
            s.schedules[0].promise_tags = tags(&[("resonate:timer", "true")]);
        },
    ),
    (
        "S2",
        "well_formed_schedule_created_at_lte_next_run_at",
        |s| {
            s.schedules[0].next_run_at = 499;
        },
    ),
    (
        "S3",
        "well_formed_schedule_created_at_lte_last_run_at",
        |s| {
            s.schedules[0].last_run_at = Some(499);
        },
    ),
    (
        "S4",
        "well_formed_schedule_last_run_at_lt_next_run_at",
        |s| {
            s.schedules[0].last_run_at = Some(2000);
        },
    ),
    ("U1", "well_formed_store_promise_ids_unique", |s| {
        s.promises.push(s.promises[0].clone());
    }),
    ("U2", "well_formed_store_task_ids_unique", |s| {
        s.tasks.push(s.tasks[0].clone());
    }),
    ("U3", "well_formed_store_schedule_ids_unique", |s| {
        s.schedules.push(s.schedules[0].clone());
    }),
    ("U4", "well_formed_store_outbox_keys_unique", |s| {
        s.outbox.push(execute("pending", 0, 9));
    }),
    ("X1", "consistent_task_iff_targeted_promise", |s| {
        s.drop_task("halted");
    }),
    ("X2", "consistent_settled_promise_has_fulfilled_task", |s| {
        s.task("fulfilled").state = TaskState::Suspended;
    }),
    ("X3", "consistent_callback_awaiter_is_targeted", |s| {
        s.promise("acquired").callbacks.push("plain".into());
    }),
    ("X4", "consistent_listener_addresses_deliverable", |s| {
        s.promise("acquired").listeners.push("bash:///".into());
    }),
    ("X5", "consistent_outbox_execute_names_existing_task", |s| {
        s.drop_task("pending");
    }),
    ("X6", "consistent_outbox_never_ahead", |s| {
        s.outbox[0] = execute("pending", 1, 1);
    }),
    (
        "X7",
        "consistent_outbox_execute_address_is_target_tag",
        |s| {
            s.promise("pending").record.tags = tags(&[("resonate:target", "http://other")]);
        },
    ),
    (
        "X8",
        "consistent_outbox_unblock_names_settled_promise",
        |s| {
            s.promise("fulfilled").record.state = PromiseState::Pending;
        },
    ),
    ("X9", "consistent_outbox_unblock_address_deliverable", |s| {
        let row = s.promise("fulfilled").clone();
        s.outbox[1] = unblock(&row, "nowhere", 2);
    }),
    ("X10", "consistent_settled_task_promise_settled", |s| {
        s.task("suspended").state = TaskState::Fulfilled;
    }),
    ("X11", "consistent_suspended_task_holds_rung", |s| {
        s.promise("acquired").callbacks.clear();
    }),
    ("G1", "well_formed_task_ttl_positive", |s| {
        s.task("acquired").ttl = Some(0);
    }),
    ("G2", "well_formed_promise_target_is_nonempty", |s| {
        s.promise("pending").record.tags = tags(&[("resonate:target", "")]);
    }),
    ("G3", "well_formed_promise_delay_before_deadline", |s| {
        s.promise("delayed").record.timeout_at = 1500;
    }),
    ("G4", "well_formed_config_retry_positive", |s| {
        s.retry_timeout_ms = 0;
    }),
];

#[test]
fn every_number_is_in_the_table_and_has_a_violator() {
    let all = numbers(&[
        ("P", 16),
        ("T", 10),
        ("S", 4),
        ("U", 4),
        ("X", 11),
        ("G", 4),
    ]);
    let table: Vec<_> = INVARIANTS.iter().map(|row| row.number).collect();
    assert_eq!(table, all);
    let violators: Vec<_> = VIOLATORS.iter().map(|(number, ..)| *number).collect();
    assert_eq!(violators, all);
}

#[test]
fn every_violator_is_reported_under_its_name() {
    for ((number, name, spoil), invariant) in VIOLATORS.iter().zip(INVARIANTS) {
        let mut state = clean();
        let before = invariant.check(&Facts::of(&state));
        assert_eq!(before, Ok(()), "{number} before");
        spoil(&mut state);
        let violation = invariant
            .check(&Facts::of(&state))
            .expect_err("the violator passes");
        assert_eq!((violation.number, violation.name), (*number, *name));
        assert!(!violation.detail.is_empty());
        assert!(check_state(&state).is_err(), "{number} in the whole table");
    }
}

#[test]
fn a_clean_state_passes() {
    assert_eq!(check_state(&clean()), Ok(()));
}

#[test]
fn rows_past_their_deadline_are_allowed_where_only_the_view_forbids_them() {
    // §14: a stored pending promise may be past its deadline, and then nobody need wake its task.
    let mut state = clean();
    state.now = 3000;
    state.promise("acquired").callbacks.clear();
    assert_eq!(check_state(&state), Ok(()));
}

#[test]
fn an_occurrence_of_a_schedule_may_be_due_before_its_delay() {
    let mut state = clean();
    let pairs = [
        ("resonate:target", WORKER),
        ("resonate:delay", "9000"),
        ("resonate:schedule", "schedule"),
    ];
    state.promise("delayed").record.tags = tags(&pairs);
    assert_eq!(check_state(&state), Ok(()));
}

#[test]
fn an_object_answers_for_itself() {
    let mut object = Object {
        promise: promise("p", &[("resonate:target", WORKER)]).record,
        armed: true,
        callbacks: BTreeSet::from(["elsewhere".into()]),
        listeners: BTreeMap::new(),
        task: Some(Task::cleared(TaskState::Halted, 0)),
        trace: None,
    };
    assert_eq!(check_object(&object, NOW), Ok(()));
    object.armed = false;
    let violation = check_object(&object, NOW).expect_err("a waiter on an unarmed promise");
    assert_eq!(violation.number, "P13");
    object.task = None;
    object.callbacks.clear();
    let violation = check_object(&object, NOW).expect_err("a target without a task");
    assert_eq!(violation.number, "X1");
}
