//! Every property fails on a violator made by hand, under its own name, and passes a clean example.

use std::collections::BTreeMap;

use crate::machine::workspace::Message;
use crate::protocol::record::{
    Millis, Promise, PromiseState, Schedule, Tags, TaskState, Value, ValueParts,
};

use super::{Entry, PromiseRow, State, TaskRow};

mod states;
mod transitions;

pub(super) const NOW: Millis = 1000;
pub(super) const RETRY: Millis = 100;
pub(super) const WORKER: &str = "http://worker";
pub(super) const LISTENER: &str = "poll://uni@g/1";

/// `A1`, `A2`, … as the specification numbers them.
pub(super) fn numbers(groups: &[(&str, usize)]) -> Vec<String> {
    let rows = |(letter, count): &(&str, usize)| {
        let letter = (*letter).to_owned();
        (1..=*count).map(move |n| format!("{letter}{n}"))
    };
    groups.iter().flat_map(rows).collect()
}

pub(super) fn tags(pairs: &[(&str, &str)]) -> Tags {
    let pairs = pairs
        .iter()
        .map(|(k, v)| ((*k).to_owned(), (*v).to_owned()));
    Tags::new(pairs.collect::<BTreeMap<_, _>>())
}

pub(super) fn value(data: &str) -> Value {
    Value::new(&ValueParts {
        headers: None,
        data: Some(data.to_owned()),
    })
}

/// A pending promise, born at 500, due at 2000.
pub(super) fn promise(id: &str, pairs: &[(&str, &str)]) -> PromiseRow {
    PromiseRow {
        record: Promise {
            id: id.into(),
            state: PromiseState::Pending,
            param: Value::empty(),
            value: Value::empty(),
            tags: tags(pairs),
            timeout_at: 2000,
            created_at: 500,
            settled_at: None,
        },
        armed: true,
        callbacks: Vec::new(),
        listeners: Vec::new(),
    }
}

pub(super) fn task(id: &str, state: TaskState, version: i64) -> TaskRow {
    TaskRow {
        id: id.into(),
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

pub(super) fn execute(id: &str, version: i64, serial: u64) -> Entry {
    Entry {
        serial,
        message: Message::Execute {
            id: id.into(),
            version,
            address: WORKER.into(),
            offer_at: NOW,
            retry_at: NOW + RETRY,
            trace: None,
            cause: None,
        },
    }
}

pub(super) fn unblock(promise: &PromiseRow, address: &str, serial: u64) -> Entry {
    Entry {
        serial,
        message: Message::Unblock {
            promise: promise.record.clone(),
            address: address.into(),
            trace: None,
        },
    }
}

pub(super) fn settled(mut row: PromiseRow, state: PromiseState, at: Millis) -> PromiseRow {
    row.record.state = state;
    row.record.settled_at = Some(at);
    row
}

pub(super) fn lease(mut row: TaskRow, expires_at: Millis) -> TaskRow {
    row.pid = Some("pid".into());
    row.ttl = Some(50);
    row.expires_at = Some(expires_at);
    row
}

pub(super) fn retry(mut row: TaskRow, at: Millis) -> TaskRow {
    row.retry_at = Some(at);
    row
}

/// A state with something of everything, in which every invariant holds.
///
/// Tasks by name: `pending`, `delayed`, `acquired`, `suspended` (on `acquired`), `halted`,
/// `fulfilled`. Promises without one: `timer`, `timedout`, `plain`.
pub(super) fn clean() -> State {
    let target: &[(&str, &str)] = &[("resonate:target", WORKER)];
    let mut acquired = promise("acquired", target);
    acquired.callbacks.push("suspended".into());
    acquired.listeners.push(LISTENER.into());
    let mut fulfilled = settled(promise("fulfilled", target), PromiseState::Resolved, 900);
    fulfilled.record.value = value("done");
    let mut timer = promise(
        "timer",
        &[("resonate:timer", "true"), ("resonate:target", WORKER)],
    );
    timer.record.timeout_at = 950;
    let mut timedout = promise("timedout", &[]);
    timedout.record.timeout_at = 960;
    let delayed = [("resonate:target", WORKER), ("resonate:delay", "1500")];
    let mut halted = task("halted", TaskState::Halted, 2);
    halted.resumes.push("timer".into());
    let outbox = vec![execute("pending", 0, 1), unblock(&fulfilled, LISTENER, 2)];
    State {
        now: NOW,
        retry_timeout_ms: RETRY,
        promises: vec![
            promise("pending", target),
            promise("delayed", &delayed),
            acquired,
            promise("suspended", target),
            promise("halted", target),
            fulfilled,
            settled(timer, PromiseState::Resolved, 950),
            settled(timedout, PromiseState::RejectedTimedout, 960),
            promise("plain", &[]),
        ],
        tasks: vec![
            retry(task("pending", TaskState::Pending, 0), 1050),
            retry(task("delayed", TaskState::Pending, 0), 1500),
            lease(task("acquired", TaskState::Acquired, 1), 1040),
            task("suspended", TaskState::Suspended, 1),
            halted,
            task("fulfilled", TaskState::Fulfilled, 1),
        ],
        schedules: vec![Schedule {
            id: "schedule".into(),
            cron: "* * * * * *".into(),
            promise_id: "{{.id}}-{{.timestamp}}".into(),
            promise_timeout: 1000,
            promise_param: Value::empty(),
            promise_tags: tags(target),
            created_at: 500,
            next_run_at: 2000,
            last_run_at: Some(1000),
        }],
        outbox,
    }
}

impl State {
    pub(super) fn promise(&mut self, id: &str) -> &mut PromiseRow {
        let found = self.promises.iter_mut().find(|p| &*p.record.id == id);
        found.expect("the example has it")
    }

    pub(super) fn task(&mut self, id: &str) -> &mut TaskRow {
        let found = self.tasks.iter_mut().find(|t| &*t.id == id);
        found.expect("the example has it")
    }

    pub(super) fn drop_task(&mut self, id: &str) {
        self.tasks.retain(|t| &*t.id != id);
    }

    pub(super) fn drop_promise(&mut self, id: &str) {
        self.promises.retain(|p| &*p.record.id != id);
    }

    pub(super) fn settle(&mut self, id: &str, state: PromiseState, at: Millis) {
        let row = self.promise(id);
        row.record.state = state;
        row.record.settled_at = Some(at);
    }
}
