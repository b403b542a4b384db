//! From `kind` and `data` to a typed operation: steps 9–12 of how bad input is answered
//! (`protocol.md` §2.1). Every message about a field is written in `rules` or here.

use std::collections::BTreeMap;
use std::fmt;
use std::marker::PhantomData;

use serde::de::{Deserialize, DeserializeOwned, Deserializer, MapAccess, Visitor};
use serde_json::value::RawValue;

use super::address::Rules;
use super::envelope::{Envelope, Rejection};
use super::operation::{
    Command, Debug, FenceAction, Operation, PromiseCreate, PromiseSearch, PromiseSettle, Query,
    ScheduleCreate, ScheduleSearch, TaskAcquire, TaskCreate, TaskFence, TaskFulfill, TaskRef,
    TaskSearch, TaskSuspend,
};
use super::record::{Millis, PromiseState, Tags, TaskState, Value, ValueParts, Verdict};
use super::rules::Violations;

/// What parsing needs to know of the configuration.
#[derive(Clone, Debug, Default)]
pub struct Context {
    /// Whether `debug.*` is enabled.
    pub is_debug: bool,
    /// The address grammar.
    pub address_rules: Rules,
}

/// Why `data` is not an operation.
enum Problem {
    /// Step 9.
    UnknownKind,
    /// Step 10.
    DebugDisabled,
    /// Steps 11 and 12: the whole sentence.
    Invalid(String),
}

type Parsed<T> = Result<T, Problem>;

/// Reads the operation of an envelope.
///
/// # Errors
/// The rejection of the first of steps 9–12 that the request fails.
pub fn operation(envelope: &Envelope<'_>, context: &Context) -> Result<Operation, Rejection> {
    parse(envelope, context).map_err(|problem| match problem {
        Problem::UnknownKind => {
            envelope.reject(400, format!("Unknown operation: {}", envelope.kind))
        }
        Problem::DebugDisabled => envelope.reject(403, "Debug operations are disabled"),
        Problem::Invalid(message) => envelope.reject(400, message),
    })
}

fn parse(envelope: &Envelope<'_>, context: &Context) -> Parsed<Operation> {
    let data = envelope.data;
    let rules = &context.address_rules;
    let command = match &*envelope.kind {
        "promise.create" => Command::PromiseCreate(promise_create(data, rules)?),
        "promise.settle" => Command::PromiseSettle(promise_settle(data)?),
        "promise.register_callback" => register_callback(data)?,
        "promise.register_listener" => register_listener(data, rules)?,
        "task.create" => task_create(data, rules)?,
        "task.acquire" => task_acquire(data)?,
        "task.fence" => task_fence(data, rules)?,
        "task.heartbeat" => task_heartbeat(data)?,
        "task.suspend" => task_suspend(data)?,
        "task.fulfill" => task_fulfill(data)?,
        "task.release" => task_release(data)?,
        "task.halt" => Command::TaskHalt {
            id: id(data, Violations::task_id)?,
        },
        "task.continue" => Command::TaskContinue {
            id: id(data, Violations::task_id)?,
        },
        "schedule.create" => schedule_create(data, rules)?,
        "schedule.delete" => Command::ScheduleDelete {
            id: id(data, Violations::schedule_id)?,
        },
        kind => return parse_other(kind, envelope, context),
    };
    Ok(Operation::Command(command))
}

fn parse_other(kind: &str, envelope: &Envelope<'_>, context: &Context) -> Parsed<Operation> {
    let data = envelope.data;
    let query = match kind {
        "promise.get" => Query::PromiseGet {
            id: id(data, Violations::promise_id)?,
        },
        "promise.search" => promise_search(data)?,
        "task.get" => Query::TaskGet {
            id: id(data, Violations::task_id)?,
        },
        "task.search" => task_search(data)?,
        "schedule.get" => Query::ScheduleGet {
            id: id(data, Violations::schedule_id)?,
        },
        "schedule.search" => schedule_search(data)?,
        kind => return debug(kind, envelope, context).map(Operation::Debug),
    };
    Ok(Operation::Query(query))
}

fn debug(kind: &str, envelope: &Envelope<'_>, context: &Context) -> Parsed<Debug> {
    if !matches!(
        kind,
        "debug.start" | "debug.stop" | "debug.reset" | "debug.tick" | "debug.snap"
    ) {
        return Err(Problem::UnknownKind);
    }
    if !context.is_debug {
        return Err(Problem::DebugDisabled);
    }
    Ok(match kind {
        "debug.start" => Debug::Start,
        "debug.stop" => Debug::Stop,
        "debug.reset" => Debug::Reset,
        "debug.snap" => Debug::Snap,
        _ => debug_tick(envelope)?,
    })
}

fn debug_tick(envelope: &Envelope<'_>) -> Parsed<Debug> {
    #[derive(serde::Deserialize)]
    struct Data {
        time: Millis,
    }
    let time = match serde_json::from_str::<Data>(envelope.data.get()) {
        Ok(Data { time }) if time >= 0 => time,
        _ => {
            return Err(Problem::Invalid(
                "Missing or invalid 'time' field".to_owned(),
            ));
        }
    };
    let head_time = envelope
        .debug_time()
        .map_err(|r| Problem::Invalid(r.message))?;
    if head_time.is_some_and(|head_time| head_time != time) {
        return Err(Problem::Invalid(
            "resonate:debug_time must equal data.time".to_owned(),
        ));
    }
    Ok(Debug::Tick { time })
}

// ---- data of each kind ---------------------------------------------------------------------------

#[derive(serde::Deserialize)]
struct IdData {
    id: String,
}

fn id<I: From<String>>(data: &RawValue, check: impl FnOnce(&mut Violations, &str)) -> Parsed<I> {
    let IdData { id } = read(data)?;
    let mut violations = Violations::default();
    check(&mut violations, &id);
    finish(violations)?;
    Ok(id.into())
}

#[derive(serde::Deserialize)]
#[serde(rename_all = "camelCase")]
struct CreateData {
    id: String,
    timeout_at: Millis,
    #[serde(default)]
    param: Option<MapOnly<ValueParts>>,
    #[serde(default)]
    tags: Option<BTreeMap<String, String>>,
}

fn promise_create(data: &RawValue, rules: &Rules) -> Parsed<PromiseCreate> {
    let mut violations = Violations::default();
    let op = build_create(read(data)?, rules, &mut violations);
    finish(violations)?;
    Ok(op)
}

fn build_create(data: CreateData, rules: &Rules, violations: &mut Violations) -> PromiseCreate {
    violations.promise_id(&data.id);
    violations.not_negative("TimeoutAt", data.timeout_at);
    let param = value(data.param, violations);
    let tags = Tags::new(data.tags.unwrap_or_default());
    violations.tags(&tags, data.timeout_at, rules);
    PromiseCreate {
        id: data.id.into(),
        timeout_at: data.timeout_at,
        param,
        tags,
    }
}

#[derive(serde::Deserialize)]
struct SettleData {
    id: String,
    state: Verdict,
    #[serde(default)]
    value: Option<MapOnly<ValueParts>>,
}

fn promise_settle(data: &RawValue) -> Parsed<PromiseSettle> {
    let mut violations = Violations::default();
    let op = build_settle(read(data)?, &mut violations);
    finish(violations)?;
    Ok(op)
}

fn build_settle(data: SettleData, violations: &mut Violations) -> PromiseSettle {
    violations.promise_id(&data.id);
    let value = value(data.value, violations);
    PromiseSettle {
        id: data.id.into(),
        state: data.state,
        value,
    }
}

#[derive(serde::Deserialize)]
struct CallbackData {
    awaited: String,
    awaiter: String,
}

fn register_callback(data: &RawValue) -> Parsed<Command> {
    let CallbackData { awaited, awaiter } = read(data)?;
    let mut violations = Violations::default();
    violations.id("Awaited promise ID", &awaited);
    violations.id("Awaiter promise ID", &awaiter);
    if awaited == awaiter && !awaited.is_empty() {
        violations.push("Awaited and awaiter must be different promises");
    }
    finish(violations)?;
    Ok(Command::PromiseRegisterCallback {
        awaited: awaited.into(),
        awaiter: awaiter.into(),
    })
}

fn register_listener(data: &RawValue, rules: &Rules) -> Parsed<Command> {
    #[derive(serde::Deserialize)]
    struct Data {
        awaited: String,
        address: String,
    }
    let Data { awaited, address } = read(data)?;
    let mut violations = Violations::default();
    violations.id("Awaited promise ID", &awaited);
    violations.listener_address(&address, rules);
    finish(violations)?;
    Ok(Command::PromiseRegisterListener {
        awaited: awaited.into(),
        address: address.into(),
    })
}

#[derive(serde::Deserialize)]
struct SearchData<S> {
    #[serde(default = "none")]
    state: Option<S>,
    #[serde(default)]
    tags: Option<BTreeMap<String, String>>,
    #[serde(default)]
    limit: Option<i64>,
    #[serde(default)]
    cursor: Option<String>,
}

fn none<T>() -> Option<T> {
    None
}

fn limit(limit: Option<i64>, default: usize) -> Parsed<usize> {
    let mut violations = Violations::default();
    let limit = violations.limit(limit, default);
    finish(violations)?;
    Ok(limit)
}

fn promise_search(data: &RawValue) -> Parsed<Query> {
    let data: SearchData<PromiseState> = read(data)?;
    Ok(Query::PromiseSearch(PromiseSearch {
        state: data.state,
        tags: Tags::new(data.tags.unwrap_or_default()),
        limit: limit(data.limit, 100)?,
        cursor: data.cursor.map(Into::into),
    }))
}

fn task_search(data: &RawValue) -> Parsed<Query> {
    let data: SearchData<TaskState> = read(data)?;
    Ok(Query::TaskSearch(TaskSearch {
        state: data.state,
        limit: limit(data.limit, 100)?,
        cursor: data.cursor.map(Into::into),
    }))
}

fn schedule_search(data: &RawValue) -> Parsed<Query> {
    let data: SearchData<serde::de::IgnoredAny> = read(data)?;
    Ok(Query::ScheduleSearch(ScheduleSearch {
        tags: Tags::new(data.tags.unwrap_or_default()),
        limit: limit(data.limit, 10)?,
        cursor: data.cursor.map(Into::into),
    }))
}

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

fn task_create(data: &RawValue, rules: &Rules) -> Parsed<Command> {
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
    let mut violations = Violations::default();
    violations.id("Process ID", &pid);
    violations.ttl(ttl);
    if action.kind != "promise.create" {
        violations.push(INVALID_ACTION_KIND);
        return Err(invalid(violations));
    }
    let create = build_create(read(&action.data)?, rules, &mut violations);
    violations.task_create_tags(&create.tags);
    finish(violations)?;
    Ok(Command::TaskCreate(TaskCreate {
        pid: pid.into(),
        ttl,
        action: create,
    }))
}

fn task_acquire(data: &RawValue) -> Parsed<Command> {
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
    let mut violations = Violations::default();
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

fn build_task_ref(data: TaskRefData, violations: &mut Violations) -> TaskRef {
    violations.task_id(&data.id);
    violations.not_negative("Version", data.version);
    TaskRef {
        id: data.id.into(),
        version: data.version,
    }
}

fn task_release(data: &RawValue) -> Parsed<Command> {
    let mut violations = Violations::default();
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
    fn split(self, violations: &mut Violations) -> (TaskRef, Action) {
        let task = TaskRefData {
            id: self.id,
            version: self.version,
        };
        (build_task_ref(task, violations), self.action.0)
    }
}

fn task_fence(data: &RawValue, rules: &Rules) -> Parsed<Command> {
    let mut violations = Violations::default();
    let (task, action) = read::<ActedData>(data)?.split(&mut violations);
    let inner_id = serde_json::from_str::<IdData>(action.data.get()).ok();
    if inner_id.is_some_and(|inner| inner.id == *task.id) {
        violations.push("Action ID must not equal the task ID");
        return Err(invalid(violations));
    }
    let inner = match action.kind.as_str() {
        "promise.create" => {
            let data = read_as(&action.data, "Invalid action data")?;
            FenceAction::Create(build_create(data, rules, &mut violations))
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

fn task_heartbeat(data: &RawValue) -> Parsed<Command> {
    #[derive(serde::Deserialize)]
    struct Data {
        pid: String,
        tasks: Vec<MapOnly<TaskRefData>>,
    }
    let Data { pid, tasks } = read(data)?;
    let mut violations = Violations::default();
    violations.id("Process ID", &pid);
    let tasks = tasks
        .into_iter()
        .map(|MapOnly(task)| build_task_ref(task, &mut violations))
        .collect();
    finish(violations)?;
    Ok(Command::TaskHeartbeat {
        pid: pid.into(),
        tasks,
    })
}

fn task_suspend(data: &RawValue) -> Parsed<Command> {
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
    let mut violations = Violations::default();
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

fn task_fulfill(data: &RawValue) -> Parsed<Command> {
    let mut violations = Violations::default();
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

fn schedule_create(data: &RawValue, rules: &Rules) -> Parsed<Command> {
    #[derive(serde::Deserialize)]
    #[serde(rename_all = "camelCase")]
    struct Data {
        id: String,
        cron: String,
        promise_id: String,
        promise_timeout: Millis,
        #[serde(default)]
        promise_param: Option<MapOnly<ValueParts>>,
        #[serde(default)]
        promise_tags: Option<BTreeMap<String, String>>,
    }
    let data: Data = read(data)?;
    let mut violations = Violations::default();
    violations.schedule_id(&data.id);
    violations.cron(&data.cron);
    violations.id("Promise ID template", &data.promise_id);
    violations.not_negative("Promise timeout", data.promise_timeout);
    let promise_param = value(data.promise_param, &mut violations);
    let promise_tags = Tags::new(data.promise_tags.unwrap_or_default());
    violations.schedule_tags(&promise_tags, rules);
    finish(violations)?;
    Ok(Command::ScheduleCreate(ScheduleCreate {
        id: data.id.into(),
        cron: data.cron.into(),
        promise_id: data.promise_id.into(),
        promise_timeout: data.promise_timeout,
        promise_param,
        promise_tags,
    }))
}

// ---- helpers -------------------------------------------------------------------------------------

fn value(parts: Option<MapOnly<ValueParts>>, violations: &mut Violations) -> Value {
    match parts {
        Some(MapOnly(parts)) => {
            violations.value(&parts);
            Value::new(&parts)
        }
        None => Value::empty(),
    }
}

fn invalid(violations: Violations) -> Problem {
    Problem::Invalid(violations.into_message())
}

fn finish(violations: Violations) -> Parsed<()> {
    if violations.is_empty() {
        Ok(())
    } else {
        Err(invalid(violations))
    }
}

fn read<T: DeserializeOwned>(data: &RawValue) -> Parsed<T> {
    read_as(data, "Invalid request")
}

fn read_as<T: DeserializeOwned>(data: &RawValue, what: &str) -> Parsed<T> {
    let mut json = serde_json::Deserializer::from_str(data.get());
    let result: Result<MapOnly<T>, _> = serde_path_to_error::deserialize(&mut json);
    result.map(|data| data.0).map_err(|error| {
        let path = error.path().to_string();
        let reason = error.into_inner().to_string();
        // Line and column count within `data`, which would mislead.
        let reason = reason
            .rsplit_once(" at line ")
            .map_or(reason.as_str(), |(text, _)| text);
        let field = if path == "." {
            String::new()
        } else {
            format!(" (field `{path}`)")
        };
        Problem::Invalid(format!("{what}: {reason}{field}"))
    })
}

/// Reads a struct from an object only; serde's own would take an array of its fields too.
struct MapOnly<T>(T);

impl<'de, T: Deserialize<'de>> Deserialize<'de> for MapOnly<T> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct OnlyMap<T>(PhantomData<T>);

        impl<'de, T: Deserialize<'de>> Visitor<'de> for OnlyMap<T> {
            type Value = MapOnly<T>;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("an object")
            }

            fn visit_map<A: MapAccess<'de>>(self, map: A) -> Result<MapOnly<T>, A::Error> {
                T::deserialize(serde::de::value::MapAccessDeserializer::new(map)).map(MapOnly)
            }
        }

        deserializer.deserialize_map(OnlyMap(PhantomData))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::protocol::envelope;

    fn parsed(kind: &str, data: &str) -> Result<Operation, String> {
        let body = format!(
            r#"{{"kind":"{kind}","head":{{"corrId":"c","version":"2026-04-01"}},"data":{data}}}"#
        );
        let envelope = envelope::parse(body.as_bytes()).map_err(|r| r.message)?;
        operation(&envelope, &Context::default()).map_err(|r| r.message)
    }

    #[test]
    fn problems_name_the_field() {
        let cases = [
            ("promise.get", "{}", "Invalid request: missing field `id`"),
            (
                "promise.create",
                r#"{"id":"a","timeoutAt":5000.5}"#,
                "Invalid request: invalid type: floating point `5000.5`, expected i64 (field `timeoutAt`)",
            ),
            (
                "promise.create",
                r#"{"id":"a","timeoutAt":1,"tags":{"x":1}}"#,
                "Invalid request: invalid type: integer `1`, expected a string (field `tags.x`)",
            ),
            (
                "promise.create",
                r#"{"id":"","timeoutAt":-1}"#,
                "Promise ID is required; TimeoutAt must be a non-negative integer",
            ),
            (
                "task.fence",
                r#"{"id":"a","version":1,"action":{"kind":"promise.settle","data":{"id":"b"}}}"#,
                "Invalid action data: missing field `state`",
            ),
        ];
        for (kind, data, message) in cases {
            assert_eq!(parsed(kind, data), Err(message.to_owned()));
        }
    }

    #[test]
    fn unknown_variants_are_named_first() {
        let message = parsed("promise.settle", r#"{"id":"a","state":"pending"}"#).unwrap_err();
        assert!(
            message.starts_with("Invalid request: unknown variant `pending`"),
            "{message}"
        );
    }

    #[test]
    fn an_array_is_no_object_anywhere() {
        for data in [
            r#"{"id":"a","timeoutAt":1,"param":[{},"x"]}"#,
            r#"{"id":"a","timeoutAt":1,"tags":[]}"#,
        ] {
            assert!(
                parsed("promise.create", data)
                    .unwrap_err()
                    .starts_with("Invalid request: ")
            );
        }
        let fence = r#"{"id":"a","version":1,"action":["promise.settle",null,{}]}"#;
        assert!(parsed("task.fence", fence).is_err());
    }

    #[test]
    fn values_keep_what_was_given() {
        let data = r#"{"id":"a","timeoutAt":1,"param":{"headers":{},"data":"","x":1},"tags":null}"#;
        let Ok(Operation::Command(Command::PromiseCreate(op))) = parsed("promise.create", data)
        else {
            panic!("not a create")
        };
        assert_eq!(op.param.as_json(), r#"{"headers":{},"data":""}"#);
    }
}
