//! What is stored in the end, held against the specification and against what was told.

use std::collections::BTreeMap;

use resonate::engine::clock::Clock;
use resonate::machine::invariant::{State, check_state};
use resonate::machine::object::Object;
use resonate::protocol::record::{PromiseState, TaskState};
use resonate::store::Store;
use resonate::store::postgres::PostgresStore;

use super::ledger::Ledger;
use crate::harness::database::Database;
use crate::harness::server::wall_clock_ms;

/// See the module documentation.
pub struct Stored {
    state: State,
    pub objects: BTreeMap<String, Object>,
}

impl Stored {
    /// Reads everything.
    pub fn read(database: &Database) -> Stored {
        let runtime = tokio::runtime::Runtime::new().expect("a runtime starts");
        let dump = runtime.block_on(async {
            let store = PostgresStore::open(&database.url(), 1).await;
            let store = store.expect("the database opens");
            let dump = store.dump().await.expect("the database reads");
            store.close().await;
            dump
        });
        let now = Clock::system().now();
        let state = State::of(&dump.objects, dump.schedules, Vec::new(), now, 30_000);
        let objects = dump.objects.into_iter();
        let objects = objects.map(|object| (object.promise.id.to_string(), object));
        Stored {
            state,
            objects: objects.collect(),
        }
    }

    /// Every invariant holds, and everything that was told is stored as it was told.
    pub fn check(&self, ledger: &Ledger) {
        if let Err(violation) = check_state(&self.state) {
            ledger.faults.add(violation.to_string());
        }
        ledger.compare(&self.objects);
    }

    /// No task is open, nobody waits to be resumed or told, and what was armed has fired.
    pub fn all_is_over(&self, ledger: &Ledger) {
        let now = wall_clock_ms();
        for (id, object) in &self.objects {
            let task = object.task.as_ref();
            let is_open = task.is_some_and(|task| task.state != TaskState::Fulfilled);
            let is_pending = object.promise.state == PromiseState::Pending;
            let is_late = is_pending && object.armed && object.promise.timeout_at <= now;
            let is_owed =
                !is_pending && (!object.callbacks.is_empty() || !object.listeners.is_empty());
            if is_open || is_late || is_owed {
                ledger.faults.add(format!("{id} is not over: {object:?}"));
            }
        }
    }

    /// Each occurrence of each schedule of every second is there, from the first to the last without a gap
    /// (`semantics.md` §8). Answers how many. `lasting` are those that must have fired, and when they were created.
    pub fn occurrences(&self, ledger: &Ledger, lasting: &BTreeMap<String, i64>) -> usize {
        let mut fired: BTreeMap<&str, Vec<i64>> = BTreeMap::new();
        for object in self.objects.values() {
            let promise = &object.promise;
            if let Some(schedule) = promise.tags.get("resonate:schedule") {
                let at = promise.created_at;
                assert_eq!(*promise.id, *format!("{schedule}-{at}"));
                fired.entry(schedule).or_default().push(at);
            }
        }
        for (schedule, created_at) in lasting {
            let all = fired.get(schedule.as_str());
            let first = all.and_then(|all| all.iter().min());
            if first != Some(&((created_at / 1000 + 1) * 1000)) {
                let fault = format!("{schedule} of {created_at} fired at {first:?} first");
                ledger.faults.add(fault);
            }
        }
        for (schedule, all) in &mut fired {
            all.sort_unstable();
            if let Some(gap) = all.windows(2).find(|pair| pair[1] != pair[0] + 1000) {
                ledger.faults.add(format!("{schedule} fired at {gap:?}"));
            }
        }
        fired.values().map(Vec::len).sum()
    }
}
