//! How often each row of the decision tables was taken. A run that never took one of them has proved
//! nothing about it, and fails.

use std::collections::BTreeMap;

/// Rows taken so far, and steps made.
#[derive(Default)]
pub struct Tally {
    pub steps: u64,
    pub histories: u64,
    taken: BTreeMap<&'static str, u64>,
}

impl Tally {
    pub fn add(&mut self, steps: usize, rows: &[&'static str]) {
        self.steps += steps as u64;
        self.histories += 1;
        for row in rows {
            *self.taken.entry(row).or_default() += 1;
        }
    }

    /// Prints the tally, and fails on rows that nothing reached or that are not listed.
    pub fn report(&self) {
        let lines = self
            .taken
            .iter()
            .map(|(row, times)| format!("{times:>9}  {row}\n"));
        let lines: String = lines.collect();
        eprintln!("{lines}{} histories, {} steps", self.histories, self.steps);
        let missed: Vec<_> = ROWS
            .iter()
            .filter(|row| !self.taken.contains_key(*row))
            .collect();
        assert!(missed.is_empty(), "rows never taken: {missed:#?}");
        let unknown: Vec<_> = self
            .taken
            .keys()
            .filter(|row| !ROWS.contains(row))
            .collect();
        assert!(unknown.is_empty(), "rows not listed: {unknown:#?}");
    }
}

/// Every row that can be reached through the machine. Those that refuse malformed requests (400) come
/// before it.
const ROWS: &[&str] = &[
    "promise.create 1: exists",
    "promise.create 2: pending",
    "promise.create 2: dispatched",
    "promise.create 2: delay passed",
    "promise.create 2: delayed",
    "promise.create 3: timer",
    "promise.create 3: timed out, targeted",
    "promise.create 3: timed out",
    "promise.settle 1: unknown",
    "promise.settle 3: settled",
    "promise.settle 3: past its deadline",
    "promise.settle 2: settles",
    "promise.register_callback 3: awaited unknown",
    "promise.register_callback 4: awaiter unknown",
    "promise.register_callback 5: awaiter not targeted",
    "promise.register_callback 7: awaited settled",
    "promise.register_callback 7: awaiter settled",
    "promise.register_callback 6: recorded",
    "promise.register_callback 6: repeated",
    "promise.register_listener 3: unknown",
    "promise.register_listener 5: settled",
    "promise.register_listener 4: repeated",
    "promise.register_listener 4: recorded",
    "task.create 2: past its deadline",
    "task.create 1: created",
    "task.create 3: not targeted",
    "task.create 4: fulfilled",
    "task.create 5: delayed",
    "task.create 5: pending",
    "task.create 6: acquired",
    "task.create 6: suspended",
    "task.create 6: halted",
    "task.acquire 1: unknown",
    "task.acquire 2: acquired",
    "task.acquire 2: suspended",
    "task.acquire 2: halted",
    "task.acquire 2: fulfilled",
    "task.acquire 2: past its deadline",
    "task.acquire 3: version",
    "task.acquire 4: acquired",
    "task.fence 4: unknown",
    "task.fence 5: past its deadline",
    "task.fence 5: state",
    "task.fence 5: version",
    "task.fence 6: create, exists",
    "task.fence 6: create",
    "task.fence 6: settle, unknown",
    "task.fence 6: settle, settled",
    "task.fence 6: settle",
    "task.heartbeat: all of none",
    "task.heartbeat: all but the dead",
    "task.heartbeat: all but those outside",
    "task.heartbeat: all",
    "task.heartbeat: not named for ten leases",
    "task.heartbeat: version",
    "task.heartbeat: pid",
    "task.heartbeat: renewed",
    "task.heartbeat: unknown",
    "task.heartbeat: past its deadline",
    "task.heartbeat: state",
    "task.suspend 4: unknown",
    "task.suspend 5: past its deadline",
    "task.suspend 5: state",
    "task.suspend 5: version",
    "task.suspend 6: awaited unknown",
    "task.suspend 7: redirected, resumes cleared",
    "task.suspend 7: redirected",
    "task.suspend 8: on callbacks it has",
    "task.suspend 8: on some twice",
    "task.suspend 8: suspended",
    "task.fulfill 1: unknown",
    "task.fulfill 2: past its deadline",
    "task.fulfill 2: state",
    "task.fulfill 2: version",
    "task.fulfill 3: fulfilled",
    "task.release: unknown",
    "task.release: past its deadline",
    "task.release: state",
    "task.release: version",
    "task.release: released",
    "task.release: released, resumes kept",
    "task.halt: unknown",
    "task.halt: fulfilled",
    "task.halt: past its deadline",
    "task.halt: halted",
    "task.halt: from pending",
    "task.halt: from acquired",
    "task.halt: from suspended",
    "task.continue: unknown",
    "task.continue: continued",
    "task.continue: past its deadline",
    "task.continue: fulfilled",
    "task.continue: not halted",
    "schedule.create: exists",
    "schedule.create: no future",
    "schedule.create: created",
    "schedule.delete: unknown",
    "schedule.delete: deleted",
    "step schedule: unknown",
    "step schedule: ran out",
    "step schedule: not due",
    "step schedule: caught up",
    "step schedule: bounded",
    "step schedule: last occurrence",
    "occurrence: adopted",
    "occurrence: born settled",
    "occurrence: past its deadline",
    "occurrence: with a delay",
    "occurrence: late",
    "occurrence: on time",
    "step promise: unknown",
    "step promise: settled",
    "step promise: timed out",
    "step promise: timed out, unarmed",
    "step promise: not due",
    "step promise: lease expired",
    "step promise: retried",
    "step promise: lease not due",
    "step promise: retry not due",
    "step promise: task at rest",
    "step unblock: offered",
    "step unblock: nothing to offer",
    "step unblock: delivered",
    "step unblock: delivered twice",
    "step unblock: failed",
    "step unblock: failed after delivery",
    "schedule.get: found",
    "schedule.get: unknown",
    "promise.search: more",
    "promise.search: end",
    "task.search: more",
    "task.search: end",
    "schedule.search: more",
    "schedule.search: end",
    "promise.get: unknown",
    "promise.get: pending",
    "promise.get: past its deadline",
    "promise.get: settled",
    "task.get: unknown",
    "task.get: as stored",
    "task.get: past its deadline",
    "settle: unblock",
    "resume: fulfilled",
    "resume: expired",
    "resume: resumed",
    "resume: buffered pending",
    "resume: buffered acquired",
    "resume: buffered halted",
];
