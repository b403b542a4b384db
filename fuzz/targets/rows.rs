//! Rows as they are read from a database: what is damaged is an error that says where, what is not is
//! read, and written, as what it is, and every request about it is answered.

use std::collections::BTreeMap;
use std::sync::Arc;

use resonate::machine::object::{Listener, Object};
use resonate::machine::workspace::Workspace;
use resonate::machine::{Config, Input, Step, decide, missing};
use resonate::protocol::message;
use resonate::protocol::operation::{
    Command, PromiseSettle, TaskAcquire, TaskFulfill, TaskHeartbeat, TaskRef,
};
use resonate::protocol::record::{Id, Millis, Value, Verdict};
use resonate::store::rows::{
    ObjectColumns, PromiseColumns, RowChanges, ScheduleColumns, TaskColumns, json,
};
use resonate::store::{Change, Changes, Error, Loaded, Need};
use serde_json::value::RawValue;

const CONFIG: Config = Config {
    retry_timeout_ms: 30_000,
};
/// How often deciding may ask for more.
const ROUNDS_MAX: usize = 100;

/// Lines: `o` and the columns of an object, or anything else and those of a schedule.
pub fn run(data: &[u8]) {
    let Ok(text) = std::str::from_utf8(data) else {
        return;
    };
    let mut cells = Cells(text.split('\n'));
    if cells.text() == "o" {
        object(&mut cells);
    } else {
        schedule(&mut cells);
    }
}

fn members(object: &str) -> BTreeMap<String, Box<RawValue>> {
    serde_json::from_str(object).expect("a message is JSON")
}

/// The cells of a row, from the left. One that is not there is empty; one that is not what it should be
/// is null, or something.
struct Cells<'d>(std::str::Split<'d, char>);

impl<'d> Cells<'d> {
    fn text(&mut self) -> &'d str {
        self.0.next().unwrap_or_default()
    }

    fn text_or_null(&mut self) -> Option<&'d str> {
        Some(self.text()).filter(|text| !text.is_empty())
    }

    fn number(&mut self) -> i64 {
        self.number_or_null().unwrap_or_default()
    }

    fn number_or_null(&mut self) -> Option<i64> {
        self.text().parse().ok()
    }

    fn promise(&mut self) -> PromiseColumns<'d> {
        PromiseColumns {
            id: self.text(),
            state: self.text(),
            timeout_at: self.number(),
            created_at: self.number(),
            settled_at: self.number_or_null(),
            tags: self.text(),
            value: self.text(),
            param: self.text(),
        }
    }

    fn task(&mut self) -> Option<TaskColumns<'d>> {
        let state = self.text_or_null()?;
        Some(TaskColumns {
            state,
            version: self.number(),
            pid: self.text_or_null(),
            ttl: self.number_or_null(),
            expires_at: self.number_or_null(),
            retry_at: self.number_or_null(),
            offer_at: self.number_or_null(),
            claimed_at: self.number_or_null(),
            releases: self.number(),
            resumes: self.text(),
            traceparent: self.text_or_null(),
        })
    }
}

fn object(cells: &mut Cells<'_>) {
    let columns = ObjectColumns {
        armed: cells.text() == "1",
        callbacks: cells.text(),
        listeners: cells.text(),
        promise: cells.promise(),
        task: cells.task(),
    };
    let now = cells.number();
    let object = match columns.decode() {
        Ok(object) => object,
        Err(error) => return is_corrupt(&error),
    };
    reads_back(&object);
    let text = message::unblock(&object.promise, object.trace.as_deref());
    // Not as values: a number in a row may be larger than any that a program has.
    let promise = ["data", "promise"]
        .iter()
        .fold(members(&text), |outer, name| members(outer[*name].get()));
    let id: String = serde_json::from_str(promise["id"].get()).expect("an id is a string");
    assert_eq!(id, *object.promise.id);
    is_decided(&object, now);
}

fn schedule(cells: &mut Cells<'_>) {
    let columns = ScheduleColumns {
        id: cells.text(),
        cron: cells.text(),
        promise_id: cells.text(),
        promise_timeout: cells.number(),
        promise_param: cells.text(),
        promise_tags: cells.text(),
        created_at: cells.number(),
        next_run_at: cells.number(),
        last_run_at: cells.number_or_null(),
    };
    let now = cells.number();
    let schedule = match columns.decode() {
        Ok(schedule) => schedule,
        Err(error) => return is_corrupt(&error),
    };
    let tags = json(&schedule.promise_tags);
    let again = ScheduleColumns {
        promise_param: schedule.promise_param.as_json(),
        promise_tags: &tags,
        ..columns
    };
    assert_eq!(again.decode().expect("what was read"), schedule);
    let step = Input::Step(Step::Schedule(schedule.id.clone()));
    let loaded = Loaded {
        schedules: vec![schedule],
        ..Loaded::default()
    };
    decide_on(loaded, &step, now);
}

fn is_corrupt(error: &Error) {
    assert!(matches!(error, Error::Corrupt(_)), "{error}");
}

/// Written as a database has it, and read again.
fn reads_back(object: &Object) {
    let changes = Changes {
        objects: vec![Change {
            before: None,
            after: Arc::new(object.clone()),
        }],
        ..Changes::default()
    };
    let rows = RowChanges::of(&changes);
    let [row] = &rows.promises_inserted[..] else {
        panic!("one promise, one row");
    };
    let promise = row.promise;
    let tags = json(&promise.tags);
    let resumes: Vec<String> = rows
        .tasks_upserted
        .iter()
        .map(|row| row.resumes())
        .collect();
    let awaiters: Vec<&str> = rows
        .callbacks_inserted
        .iter()
        .map(|row| row.awaiter)
        .collect();
    let listeners: Vec<_> = rows
        .listeners_upserted
        .iter()
        .map(|row| {
            let listener = row.listener;
            let Listener {
                enqueued_at,
                retry_at,
                attempts,
            } = *listener;
            (row.address, enqueued_at, retry_at, attempts)
        })
        .collect();
    let (callbacks, listeners) = (json(&awaiters), json(&listeners));
    let task = object.task.as_ref().zip(resumes.first());
    let traceparent = object.trace.as_ref().map(ToString::to_string);
    let columns = ObjectColumns {
        promise: PromiseColumns {
            id: &promise.id,
            state: promise.state.as_str(),
            timeout_at: promise.timeout_at,
            created_at: promise.created_at,
            settled_at: promise.settled_at,
            tags: &tags,
            value: promise.value.as_json(),
            param: promise.param.as_json(),
        },
        armed: row.armed,
        task: task.map(|(task, resumes)| TaskColumns {
            state: task.state.as_str(),
            version: task.version,
            pid: task.pid.as_deref(),
            ttl: task.ttl,
            expires_at: task.expires_at,
            retry_at: task.retry_at,
            offer_at: task.offer_at,
            claimed_at: task.claimed_at,
            releases: task.releases.into(),
            resumes,
            traceparent: traceparent.as_deref(),
        }),
        callbacks: &callbacks,
        listeners: &listeners,
    };
    assert_eq!(&columns.decode().expect("what was read"), object);
}

/// Nothing that is stored makes a decision fail, and no decision takes for ever.
fn is_decided(object: &Object, now: Millis) {
    let id = &object.promise.id;
    let other: Id = "other".into();
    let version = object.task.as_ref().map_or(0, |task| task.version);
    let task = TaskRef {
        id: id.clone(),
        version,
    };
    let settle = PromiseSettle {
        id: id.clone(),
        state: Verdict::Resolved,
        value: Value::empty(),
    };
    let acquire = TaskAcquire {
        id: id.clone(),
        version,
        pid: "pid".into(),
        ttl: Millis::MAX,
    };
    let heartbeat = |pid: &Id, tasks| {
        Command::TaskHeartbeat(TaskHeartbeat {
            pid: pid.clone(),
            tasks,
            within: None,
        })
    };
    let pid = object.task.as_ref().and_then(|task| task.pid.clone());
    let pid = pid.unwrap_or_else(|| "pid".into());
    let mut inputs: Vec<Input> = [
        Command::PromiseSettle(settle.clone()),
        Command::PromiseRegisterCallback {
            awaited: id.clone(),
            awaiter: other.clone(),
        },
        Command::PromiseRegisterListener {
            awaited: id.clone(),
            address: "http://h".into(),
        },
        Command::TaskAcquire(acquire),
        heartbeat(&pid, vec![task.clone()]),
        heartbeat(&pid, Vec::new()),
        Command::TaskFulfill(TaskFulfill {
            task: task.clone(),
            action: settle,
        }),
        Command::TaskRelease(task),
        Command::TaskHalt { id: id.clone() },
        Command::TaskContinue { id: id.clone() },
    ]
    .map(Input::Request)
    .into();
    let address = object.listeners.keys().next().unwrap_or(&other);
    let (promise, address) = (id.clone(), address.clone());
    inputs.push(Input::Step(Step::Promise(id.clone())));
    inputs.push(Input::Step(Step::UnblockDue {
        promise: promise.clone(),
        address: address.clone(),
    }));
    inputs.push(Input::Step(Step::UnblockFailed { promise, address }));
    for input in inputs {
        let loaded = Loaded {
            objects: vec![Arc::new(object.clone())],
            ..Loaded::default()
        };
        decide_on(loaded, &input, now);
    }
}

/// Decides with nothing stored but what is given.
fn decide_on(loaded: Loaded, input: &Input, now: Millis) {
    let mut workspace = Workspace::default();
    workspace.absorb(&Need::default(), loaded);
    for _ in 0..ROUNDS_MAX {
        let need = missing(input, now, &workspace);
        if need.is_empty() {
            decide(input, now, &mut workspace, &CONFIG);
            let (changes, messages) = workspace.finish();
            RowChanges::of(&changes);
            drop(messages);
            return;
        }
        workspace.absorb(&need, Loaded::default());
    }
    panic!("asked for more and more");
}
