//! From `kind` and `data` to a typed operation: steps 9–12 of how bad input is answered
//! (`protocol.md` §2.1). Every message about a field is written in `rules` or here.

use super::address::Rules;
use super::envelope::{Envelope, Rejection};
use super::operation::{Command, Debug, Operation, Query};
use super::record::Millis;
pub use super::rules::Limits;
use super::rules::Violations;
use data::id;
use promise::{
    promise_create, promise_search, promise_settle, register_callback, register_listener,
};
use schedule::{schedule_create, schedule_search};
use task::{
    task_acquire, task_create, task_fence, task_fulfill, task_heartbeat, task_release, task_search,
    task_suspend,
};

mod data;
mod promise;
mod schedule;
mod task;

/// What parsing needs to know of the configuration.
#[derive(Clone, Debug, Default)]
pub struct Context {
    /// Whether `debug.*` is enabled.
    pub is_debug: bool,
    /// The address grammar.
    pub address_rules: Rules,
    /// What one request may hold.
    pub limits: Limits,
}

impl Context {
    fn violations(&self) -> Violations<'_> {
        Violations::new(&self.address_rules, &self.limits)
    }
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
    let command = match &*envelope.kind {
        "promise.create" => Command::PromiseCreate(promise_create(data, context)?),
        "promise.settle" => Command::PromiseSettle(promise_settle(data, context)?),
        "promise.register_callback" => register_callback(data, context)?,
        "promise.register_listener" => register_listener(data, context)?,
        "task.create" => task_create(data, context)?,
        "task.acquire" => task_acquire(data, context)?,
        "task.fence" => task_fence(data, context)?,
        "task.heartbeat" => task_heartbeat(data, context)?,
        "task.suspend" => task_suspend(data, context)?,
        "task.fulfill" => task_fulfill(data, context)?,
        "task.release" => task_release(data, context)?,
        "task.halt" => Command::TaskHalt {
            id: id(data, context, Violations::task_id)?,
        },
        "task.continue" => Command::TaskContinue {
            id: id(data, context, Violations::task_id)?,
        },
        "schedule.create" => schedule_create(data, context)?,
        "schedule.delete" => Command::ScheduleDelete {
            id: id(data, context, Violations::schedule_id)?,
        },
        kind => return parse_other(kind, envelope, context),
    };
    Ok(Operation::Command(command))
}

fn parse_other(kind: &str, envelope: &Envelope<'_>, context: &Context) -> Parsed<Operation> {
    let data = envelope.data;
    let query = match kind {
        "promise.get" => Query::PromiseGet {
            id: id(data, context, Violations::promise_id)?,
        },
        "promise.search" => promise_search(data, context)?,
        "task.get" => Query::TaskGet {
            id: id(data, context, Violations::task_id)?,
        },
        "task.search" => task_search(data, context)?,
        "schedule.get" => Query::ScheduleGet {
            id: id(data, context, Violations::schedule_id)?,
        },
        "schedule.search" => schedule_search(data, context)?,
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

#[cfg(test)]
mod tests {
    use super::*;
    use crate::protocol::envelope;

    fn parsed(kind: &str, data: &str) -> Result<Operation, String> {
        parsed_in(&Context::default(), kind, data)
    }

    fn parsed_in(context: &Context, kind: &str, data: &str) -> Result<Operation, String> {
        let body = format!(
            r#"{{"kind":"{kind}","head":{{"corrId":"c","version":"2026-04-01"}},"data":{data}}}"#
        );
        let envelope = envelope::parse(body.as_bytes()).map_err(|r| r.message)?;
        operation(&envelope, context).map_err(|r| r.message)
    }

    fn limited(key_bytes_max: usize) -> Context {
        Context {
            limits: Limits {
                id_bytes_max: key_bytes_max,
                address_bytes_max: key_bytes_max,
                ..Limits::default()
            },
            ..Context::default()
        }
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

    /// `protocol.md` §2.1, row 12. K stands for a key of ten bytes, which is one too long.
    #[test]
    fn keys_that_are_too_long_for_the_storage_are_named() {
        let cases = [
            ("promise.get", r#"{"id":"K"}"#, "Promise ID"),
            (
                "promise.create",
                r#"{"id":"K","timeoutAt":1,"tags":{"resonate:branch":"K"}}"#,
                "Promise ID, resonate:branch",
            ),
            (
                "promise.create",
                r#"{"id":"a","timeoutAt":1,"tags":{"resonate:target":"http://abc"}}"#,
                "resonate:target",
            ),
            (
                "promise.settle",
                r#"{"id":"K","state":"resolved"}"#,
                "Promise ID",
            ),
            (
                "promise.register_callback",
                r#"{"awaited":"K","awaiter":"aK"}"#,
                "Awaited promise ID, Awaiter promise ID",
            ),
            (
                "promise.register_listener",
                r#"{"awaited":"K","address":"http://abc"}"#,
                "Awaited promise ID, Address",
            ),
            (
                "task.create",
                r#"{"pid":"K","ttl":1,"action":{"kind":"promise.create","data":{"id":"K","timeoutAt":1,"tags":{"resonate:target":"http://a"}}}}"#,
                "Process ID, Promise ID",
            ),
            (
                "task.acquire",
                r#"{"id":"K","version":1,"pid":"K","ttl":1}"#,
                "Task ID, Process ID",
            ),
            (
                "task.heartbeat",
                r#"{"pid":"K","tasks":[{"id":"K","version":1},{"id":"K","version":2}]}"#,
                "Process ID, Task ID",
            ),
            (
                "task.suspend",
                r#"{"id":"a","version":1,"actions":[{"kind":"promise.register_callback","data":{"awaited":"K","awaiter":"a"}}]}"#,
                "Awaited promise ID",
            ),
            ("task.release", r#"{"id":"K","version":1}"#, "Task ID"),
            ("task.halt", r#"{"id":"K"}"#, "Task ID"),
            ("schedule.get", r#"{"id":"K"}"#, "Schedule ID"),
            ("schedule.delete", r#"{"id":"K"}"#, "Schedule ID"),
            (
                "schedule.create",
                r#"{"id":"K","cron":"* * * * * *","promiseId":"a","promiseTimeout":1,"promiseTags":{"resonate:target":"http://abc"}}"#,
                "Schedule ID, resonate:target",
            ),
        ];
        let context = limited(9);
        for (kind, data, fields) in cases {
            let sentences = fields
                .split(", ")
                .map(|field| format!("{field} must not be longer than 9 bytes"));
            let message = sentences.collect::<Vec<_>>().join("; ");
            let data = data.replace('K', "tenletters");
            assert_eq!(parsed_in(&context, kind, &data), Err(message), "{kind}");
            assert!(parsed(kind, &data).is_ok(), "{kind} {data}");
        }
    }

    #[test]
    fn what_nothing_is_found_by_may_be_long() {
        let context = limited(9);
        let long = r#"{"id":"ninechars","timeoutAt":1,"param":{"data":"tenletters"},"tags":{"tenletters":"tenletters"}}"#;
        assert!(parsed_in(&context, "promise.create", long).is_ok());
        let search = r#"{"cursor":"tenletters","tags":{"resonate:branch":"tenletters"}}"#;
        assert!(parsed_in(&context, "promise.search", search).is_ok());
    }

    /// `protocol.md` §10: the template may be long, what it makes must not.
    #[test]
    fn templates_make_ids_that_the_storage_takes() {
        let create = |template: &str, id_bytes_max| {
            let data = format!(
                r#"{{"id":"ninechars","cron":"* * * * * *","promiseId":"{template}","promiseTimeout":1,"promiseTags":{{"resonate:target":"http://a"}}}}"#
            );
            parsed_in(&limited(id_bytes_max), "schedule.create", &data).map(drop)
        };
        let refused = |bytes_max: usize| {
            let sentence = "Promise ID template must make ids of at most";
            Err(format!("{sentence} {bytes_max} bytes"))
        };
        assert_eq!(create("{{.id}}", 9), Ok(()));
        assert_eq!(create("a{{.id}}", 9), refused(9));
        assert_eq!(create("{{.timestamp}}", 18), refused(18));
        assert_eq!(create("{{.timestamp}}", 19), Ok(()));
        assert_eq!(create("a{{.id}}", usize::MAX), Ok(()));
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
