//! `data` of `task.*`, and of the requests nested in it.

use serde::de::IgnoredAny;
use serde_json::value::RawValue;

use super::data::{IdData, MapOnly, Name, SearchData, finish, invalid, read, read_as};
use super::promise::{CallbackData, build_create, build_settle};
use super::{Context, Parsed};
use crate::protocol::operation::{
    Command, FenceAction, Query, TaskAcquire, TaskCreate, TaskFence, TaskFulfill, TaskHeartbeat,
    TaskRef, TaskSearch, TaskSuspend,
};
use crate::protocol::record::{Millis, TaskState};
use crate::protocol::rules::Violations;

/// A nested request; of its head only `corrId` is ever used (D-13).
#[derive(serde::Deserialize)]
struct Action {
    kind: String,
    #[serde(default)]
    head: Option<MapOnly<ActionHead>>,
    data: Box<RawValue>,
}

#[derive(serde::Deserialize)]
#[serde(rename_all = "camelCase")]
struct ActionHead {
    #[serde(default)]
    corr_id: Option<String>,
}

const INVALID_ACTION_KIND: &str = "Invalid action kind";

pub(super) fn task_create(data: &RawValue, context: &Context) -> Parsed<Command> {
    #[derive(serde::Deserialize)]
    struct Data {
        pid: String,
        ttl: Millis,
        action: MapOnly<Action>,
    }
    let Data {
        pid,
        ttl,
        action: MapOnly(action),
    } = read(data)?;
    let mut violations = context.violations();
    violations.id("Process ID", &pid);
    violations.ttl(ttl);
    if action.kind != "promise.create" {
        violations.push(INVALID_ACTION_KIND);
        return Err(invalid(violations));
    }
    let create = build_create(read(&action.data)?, &mut violations);
    violations.task_create_tags(&create.tags);
    finish(violations)?;
    Ok(Command::TaskCreate(TaskCreate {
        pid: pid.into(),
        ttl,
        action: create,
    }))
}

pub(super) fn task_acquire(data: &RawValue, context: &Context) -> Parsed<Command> {
    #[derive(serde::Deserialize)]
    struct Data {
        id: String,
        version: i64,
        pid: String,
        ttl: Millis,
    }
    let Data {
        id,
        version,
        pid,
        ttl,
    } = read(data)?;
    let mut violations = context.violations();
    violations.task_id(&id);
    violations.not_negative("Version", version);
    violations.id("Process ID", &pid);
    violations.ttl(ttl);
    finish(violations)?;
    Ok(Command::TaskAcquire(TaskAcquire {
        id: id.into(),
        version,
        pid: pid.into(),
        ttl,
    }))
}

#[derive(serde::Deserialize)]
struct TaskRefData {
    id: String,
    version: i64,
}

fn build_task_ref(data: TaskRefData, violations: &mut Violations<'_>) -> TaskRef {
    violations.task_id(&data.id);
    violations.not_negative("Version", data.version);
    TaskRef {
        id: data.id.into(),
        version: data.version,
    }
}

pub(super) fn task_release(data: &RawValue, context: &Context) -> Parsed<Command> {
    let mut violations = context.violations();
    let task = build_task_ref(read(data)?, &mut violations);
    finish(violations)?;
    Ok(Command::TaskRelease(task))
}

/// A task at a version, and what to do under it.
#[derive(serde::Deserialize)]
struct ActedData {
    id: String,
    version: i64,
    action: MapOnly<Action>,
}

impl ActedData {
    fn split(self, violations: &mut Violations<'_>) -> (TaskRef, Action) {
        let task = TaskRefData {
            id: self.id,
            version: self.version,
        };
        (build_task_ref(task, violations), self.action.0)
    }
}

pub(super) fn task_fence(data: &RawValue, context: &Context) -> Parsed<Command> {
    let mut violations = context.violations();
    let (task, action) = read::<ActedData>(data)?.split(&mut violations);
    let inner_id = read::<IdData>(&action.data).ok();
    if inner_id.is_some_and(|inner| inner.id == *task.id) {
        violations.push("Action ID must not equal the task ID");
        return Err(invalid(violations));
    }
    let inner = match action.kind.as_str() {
        "promise.create" => {
            let data = read_as(&action.data, "Invalid action data")?;
            FenceAction::Create(build_create(data, &mut violations))
        }
        "promise.settle" => {
            let data = read_as(&action.data, "Invalid action data")?;
            FenceAction::Settle(build_settle(data, &mut violations))
        }
        _ => {
            violations.push("Invalid fence action kind");
            return Err(invalid(violations));
        }
    };
    finish(violations)?;
    let corr_id = action.head.and_then(|head| head.0.corr_id).map(Into::into);
    Ok(Command::TaskFence(TaskFence {
        task,
        corr_id,
        action: inner,
    }))
}

pub(super) fn task_heartbeat(data: &RawValue, context: &Context) -> Parsed<Command> {
    #[derive(serde::Deserialize)]
    struct Data {
        pid: String,
        tasks: Vec<MapOnly<TaskRefData>>,
    }
    let Data { pid, tasks } = read(data)?;
    let mut violations = context.violations();
    violations.id("Process ID", &pid);
    let tasks = tasks
        .into_iter()
        .map(|MapOnly(task)| build_task_ref(task, &mut violations))
        .collect();
    finish(violations)?;
    Ok(Command::TaskHeartbeat(TaskHeartbeat {
        pid: pid.into(),
        tasks,
        within: None,
    }))
}

pub(super) fn task_suspend(data: &RawValue, context: &Context) -> Parsed<Command> {
    #[derive(serde::Deserialize)]
    struct Data {
        id: String,
        version: i64,
        actions: Vec<MapOnly<Action>>,
    }
    let Data {
        id,
        version,
        actions,
    } = read(data)?;
    let mut violations = context.violations();
    let task = build_task_ref(TaskRefData { id, version }, &mut violations);
    if actions.is_empty() {
        violations.push("Actions array cannot be empty");
    }
    let mut awaited = Vec::with_capacity(actions.len());
    for MapOnly(action) in actions {
        if action.kind != "promise.register_callback" {
            violations.push(INVALID_ACTION_KIND);
            return Err(invalid(violations));
        }
        let callback: CallbackData = read(&action.data)?;
        violations.id("Awaited promise ID", &callback.awaited);
        if *callback.awaiter != *task.id {
            violations.push("All action awaiter IDs must match the task ID");
        }
        if *callback.awaited == *task.id {
            violations.push("Action awaited promise must not equal the task ID");
        }
        awaited.push(callback.awaited.into());
    }
    finish(violations)?;
    Ok(Command::TaskSuspend(TaskSuspend { task, awaited }))
}

pub(super) fn task_fulfill(data: &RawValue, context: &Context) -> Parsed<Command> {
    let mut violations = context.violations();
    let (task, action) = read::<ActedData>(data)?.split(&mut violations);
    if action.kind != "promise.settle" {
        violations.push(INVALID_ACTION_KIND);
        return Err(invalid(violations));
    }
    let settle = build_settle(read(&action.data)?, &mut violations);
    if settle.id != task.id {
        violations.push("Action ID must match the task ID");
    }
    finish(violations)?;
    Ok(Command::TaskFulfill(TaskFulfill {
        task,
        action: settle,
    }))
}

pub(super) fn task_search(data: &RawValue, context: &Context) -> Parsed<Query> {
    let data: SearchData<Name<TaskState>, IgnoredAny> = read(data)?;
    let mut violations = context.violations();
    let (limit, cursor) = data.page(100, &mut violations);
    finish(violations)?;
    Ok(Query::TaskSearch(TaskSearch {
        state: data.state.map(|Name(state)| state),
        limit,
        cursor,
    }))
}
