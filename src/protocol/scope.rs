//! What a request names: the one place that says which ids it must be allowed (`protocol.md` §3).
//!
//! [`Operation::scope`] is what authorization rests on. Its patterns spell out every field, so that an
//! operation, or a field, that is added does not compile until somebody has said what it names.
//! [`of_malformed`] only decides how a request is refused that is not an operation: 403 if what it names
//! is not allowed (step 8 of §2.1), else 400 (steps 9–12). What it cannot read it leaves to the 400.

use std::borrow::Cow;
use std::fmt;

use serde::Deserialize;
use serde::de::{Deserializer, SeqAccess, Visitor};
use serde_json::value::RawValue;

use super::envelope::Envelope;
use super::operation::{
    Command, FenceAction, Operation, PromiseCreate, PromiseSettle, Query, ScheduleCreate,
    TaskAcquire, TaskCreate, TaskFence, TaskFulfill, TaskHeartbeat, TaskRef, TaskSuspend,
};
use super::template;

/// What a request names.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Scope<'a> {
    /// These ids; one of a schedule's promises by what it begins with. None for a heartbeat without a
    /// list, which is [narrowed](Operation::narrow) instead.
    Ids(Vec<Cow<'a, str>>),
    /// More than ids can say.
    Everything,
}

fn ids<'a, const N: usize>(ids: [&'a str; N]) -> Scope<'a> {
    Scope::Ids(ids.map(Cow::Borrowed).into())
}

impl Operation {
    /// What it names.
    pub fn scope(&self) -> Scope<'_> {
        match self {
            Operation::Command(command) => of_command(command),
            Operation::Query(query) => match query {
                Query::PromiseGet { id } | Query::TaskGet { id } | Query::ScheduleGet { id } => {
                    ids([id])
                }
                Query::PromiseSearch(_) | Query::TaskSearch(_) | Query::ScheduleSearch(_) => {
                    Scope::Everything
                }
            },
            Operation::Debug(_) => Scope::Everything,
        }
    }

    /// Keeps it from what it does not name and what does not begin with `prefix`.
    pub fn narrow(&mut self, prefix: &str) {
        if let Operation::Command(Command::TaskHeartbeat(heartbeat)) = self {
            heartbeat.within = Some(prefix.into());
        }
    }
}

fn of_command(command: &Command) -> Scope<'_> {
    match command {
        Command::PromiseCreate(create) => ids([created(create)]),
        Command::PromiseSettle(settle) => ids([settled(settle)]),
        Command::PromiseRegisterCallback { awaited, awaiter } => ids([awaited, awaiter]),
        Command::PromiseRegisterListener {
            awaited,
            address: _,
        } => ids([awaited]),
        Command::TaskCreate(TaskCreate {
            pid: _,
            ttl: _,
            action,
        }) => ids([created(action)]),
        Command::TaskAcquire(TaskAcquire {
            id,
            version: _,
            pid: _,
            ttl: _,
        }) => ids([id]),
        Command::TaskFence(TaskFence {
            task,
            corr_id: _,
            action,
        }) => match action {
            FenceAction::Create(create) => ids([held(task), created(create)]),
            FenceAction::Settle(settle) => ids([held(task), settled(settle)]),
        },
        Command::TaskHeartbeat(TaskHeartbeat {
            pid: _,
            tasks,
            within: _,
        }) => Scope::Ids(tasks.iter().map(|task| held(task).into()).collect()),
        Command::TaskSuspend(TaskSuspend { task, awaited }) => {
            let awaited = awaited.iter().map(|id| &**id);
            let ids = std::iter::once(held(task)).chain(awaited);
            Scope::Ids(ids.map(Cow::Borrowed).collect())
        }
        Command::TaskFulfill(TaskFulfill { task, action }) => ids([held(task), settled(action)]),
        Command::TaskRelease(task) => ids([held(task)]),
        Command::TaskHalt { id } | Command::TaskContinue { id } => ids([id]),
        Command::ScheduleCreate(ScheduleCreate {
            id,
            cron: _,
            promise_id,
            promise_timeout: _,
            promise_param: _,
            promise_tags: _,
        }) => Scope::Ids(vec![
            Cow::Borrowed(id),
            Cow::Owned(template::head(promise_id, id)),
        ]),
        Command::ScheduleDelete { id } => ids([id]),
    }
}

fn created(create: &PromiseCreate) -> &str {
    let PromiseCreate {
        id,
        timeout_at: _,
        param: _,
        tags: _,
    } = create;
    id
}

fn settled(settle: &PromiseSettle) -> &str {
    let PromiseSettle {
        id,
        state: _,
        value: _,
    } = settle;
    id
}

fn held(task: &TaskRef) -> &str {
    let TaskRef { id, version: _ } = task;
    id
}

/// What a request that is not an operation names, as far as it can be read.
pub fn of_malformed<'a>(envelope: &Envelope<'a>) -> Scope<'a> {
    let data = Loose::read(envelope.data);
    let names = match &*envelope.kind {
        "promise.get" | "promise.create" | "promise.settle" | "task.get" | "task.acquire"
        | "task.release" | "task.fulfill" | "task.halt" | "task.continue" | "schedule.get"
        | "schedule.delete" => vec![text(data.id)],
        "task.fence" => vec![text(data.id), data.inner().and_then(|inner| text(inner.id))],
        "task.suspend" => {
            let awaited = |action: Loose<'a>| text(action.data()?.awaited);
            [vec![text(data.id)], each(data.actions, awaited)].concat()
        }
        "task.create" => vec![data.inner().and_then(|inner| text(inner.id))],
        "promise.register_callback" => vec![text(data.awaited), text(data.awaiter)],
        "promise.register_listener" => vec![text(data.awaited)],
        "schedule.create" => {
            let id = text(data.id);
            let template = text(data.promise_id);
            let of_schedule = id.as_deref().unwrap_or_default();
            let head = template.map(|template| template::head(&template, of_schedule));
            vec![head.map(Cow::Owned), id]
        }
        "task.heartbeat" => each(data.tasks, |task| text(task.id)),
        _ => return Scope::Everything,
    };
    Scope::Ids(names.into_iter().flatten().collect())
}

/// The members of `data`, of a nested request or of a list that may name something, whatever they hold.
#[derive(Default, Deserialize)]
#[serde(rename_all = "camelCase")]
struct Loose<'a> {
    #[serde(borrow)]
    id: Option<&'a RawValue>,
    #[serde(borrow)]
    awaited: Option<&'a RawValue>,
    #[serde(borrow)]
    awaiter: Option<&'a RawValue>,
    #[serde(borrow)]
    promise_id: Option<&'a RawValue>,
    #[serde(borrow)]
    action: Option<&'a RawValue>,
    #[serde(borrow)]
    actions: Option<&'a RawValue>,
    #[serde(borrow)]
    tasks: Option<&'a RawValue>,
    #[serde(borrow)]
    data: Option<&'a RawValue>,
}

impl<'a> Loose<'a> {
    fn read(raw: &'a RawValue) -> Self {
        serde_json::from_str(raw.get()).unwrap_or_default()
    }

    /// The data of the request that it carries.
    fn inner(&self) -> Option<Loose<'a>> {
        Loose::read(self.action?).data()
    }

    /// The data of the request that it is.
    fn data(&self) -> Option<Loose<'a>> {
        self.data.map(Loose::read)
    }
}

fn text(raw: Option<&RawValue>) -> Option<Cow<'_, str>> {
    serde_json::from_str::<String>(raw?.get())
        .ok()
        .map(Cow::Owned)
}

/// What the elements of a list name. They are looked at one by one: a list may be long.
fn each<'a>(
    list: Option<&'a RawValue>,
    name: impl Fn(Loose<'a>) -> Option<Cow<'a, str>>,
) -> Vec<Option<Cow<'a, str>>> {
    struct Elements<F>(F);

    impl<'de, F: FnMut(&'de RawValue)> Visitor<'de> for Elements<F> {
        type Value = ();

        fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
            f.write_str("a list")
        }

        fn visit_seq<A: SeqAccess<'de>>(mut self, mut seq: A) -> Result<(), A::Error> {
            while let Some(element) = seq.next_element()? {
                (self.0)(element);
            }
            Ok(())
        }
    }

    let mut names = Vec::new();
    if let Some(list) = list {
        let mut json = serde_json::Deserializer::from_str(list.get());
        let visitor = Elements(|element: &'a RawValue| {
            names.extend(name(Loose::read(element)).map(Some));
        });
        // What is no list names nothing.
        let _ = json.deserialize_seq(visitor);
    }
    names
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::protocol::{envelope, kinds, parse};

    const PROMISE: &str = r#"{"id":"P","timeoutAt":1,"tags":{"resonate:target":"http://a"}}"#;

    /// Valid data of every kind, and the ids that they name, in any order.
    fn samples() -> Vec<(&'static str, String, &'static str)> {
        let settle = r#"{"id":"P","state":"resolved"}"#;
        vec![
            ("promise.get", r#"{"id":"P"}"#.into(), "P"),
            ("promise.create", PROMISE.into(), "P"),
            ("promise.settle", settle.into(), "P"),
            (
                "promise.register_callback",
                r#"{"awaited":"P","awaiter":"Q"}"#.into(),
                "P Q",
            ),
            (
                "promise.register_listener",
                r#"{"awaited":"P","address":"http://a"}"#.into(),
                "P",
            ),
            ("promise.search", "{}".into(), "*"),
            ("task.get", r#"{"id":"T"}"#.into(), "T"),
            (
                "task.create",
                format!(r#"{{"pid":"p","ttl":1,"action":{{"kind":"promise.create","data":{PROMISE}}}}}"#),
                "P",
            ),
            (
                "task.acquire",
                r#"{"id":"T","version":1,"pid":"p","ttl":1}"#.into(),
                "T",
            ),
            (
                "task.fence",
                format!(r#"{{"id":"T","version":1,"action":{{"kind":"promise.create","data":{PROMISE}}}}}"#),
                "P T",
            ),
            (
                "task.fence",
                format!(r#"{{"id":"T","version":1,"action":{{"kind":"promise.settle","data":{settle}}}}}"#),
                "P T",
            ),
            (
                "task.heartbeat",
                r#"{"pid":"p","tasks":[{"id":"T","version":1},{"id":"U","version":1}]}"#.into(),
                "T U",
            ),
            ("task.heartbeat", r#"{"pid":"p","tasks":[]}"#.into(), ""),
            (
                "task.suspend",
                r#"{"id":"T","version":1,"actions":[
                    {"kind":"promise.register_callback","data":{"awaited":"P","awaiter":"T"}},
                    {"kind":"promise.register_callback","data":{"awaited":"Q","awaiter":"T"}}]}"#
                    .into(),
                "P Q T",
            ),
            (
                "task.fulfill",
                format!(r#"{{"id":"P","version":1,"action":{{"kind":"promise.settle","data":{settle}}}}}"#),
                "P",
            ),
            ("task.release", r#"{"id":"T","version":1}"#.into(), "T"),
            ("task.halt", r#"{"id":"T"}"#.into(), "T"),
            ("task.continue", r#"{"id":"T"}"#.into(), "T"),
            ("task.search", "{}".into(), "*"),
            ("schedule.get", r#"{"id":"S"}"#.into(), "S"),
            (
                "schedule.create",
                r#"{"id":"S","cron":"* * * * * *","promiseId":"x{{.id}}.{{.timestamp}}","promiseTimeout":1,
                    "promiseTags":{"resonate:target":"http://a"}}"#
                    .into(),
                "S xS.",
            ),
            ("schedule.delete", r#"{"id":"S"}"#.into(), "S"),
            ("schedule.search", "{}".into(), "*"),
            ("debug.start", "{}".into(), "*"),
            ("debug.stop", "{}".into(), "*"),
            ("debug.reset", "{}".into(), "*"),
            ("debug.tick", r#"{"time":1}"#.into(), "*"),
            ("debug.snap", "{}".into(), "*"),
        ]
    }

    fn shown(scope: &Scope<'_>) -> String {
        match scope {
            Scope::Everything => "*".to_owned(),
            Scope::Ids(ids) => {
                let mut ids: Vec<&str> = ids.iter().map(|id| &**id).collect();
                ids.sort_unstable();
                ids.dedup();
                ids.join(" ")
            }
        }
    }

    fn body(kind: &str, data: &str) -> String {
        format!(
            r#"{{"kind":"{kind}","head":{{"corrId":"c","version":"2026-04-01"}},"data":{data}}}"#
        )
    }

    /// `protocol.md` §3, its table. What is read of a malformed request is what it would have named.
    #[test]
    fn every_kind_names_its_ids() {
        let context = parse::Context {
            is_debug: true,
            ..parse::Context::default()
        };
        let samples = samples();
        for kind in kinds::ALL {
            assert!(samples.iter().any(|(sample, ..)| *sample == kind), "{kind}");
        }
        for (kind, data, named) in samples {
            let body = body(kind, &data);
            let envelope = envelope::parse(body.as_bytes()).unwrap();
            let operation = parse::operation(&envelope, &context).unwrap();
            assert_eq!(shown(&operation.scope()), named, "{kind} {data}");
            assert_eq!(shown(&of_malformed(&envelope)), named, "{kind} {data}");
        }
    }

    #[test]
    fn what_cannot_be_read_names_nothing() {
        for (kind, data, named) in [
            ("promise.get", r#"{"id":7}"#, ""),
            ("promise.settle", r#"{"id":"P","state":"bogus"}"#, "P"),
            ("promise.get", r#"{"id":"P","id":"Q"}"#, ""),
            ("task.fence", r#"{"id":"T","action":[{"id":"P"}]}"#, "T"),
            ("task.fence", r#"{"action":{"data":{"id":"P"}}}"#, "P"),
            ("task.suspend", r#"{"actions":7}"#, ""),
            (
                "task.suspend",
                r#"{"actions":[7,null,{"data":{"awaited":"P"}},{"data":[]}]}"#,
                "P",
            ),
            ("task.heartbeat", r#"{"tasks":[1,{"id":"T"}]}"#, "T"),
            ("schedule.create", r#"{"promiseId":"{{.id}}x"}"#, "x"),
            ("no.such.kind", "{}", "*"),
        ] {
            let body = body(kind, data);
            let envelope = envelope::parse(body.as_bytes()).unwrap();
            assert_eq!(shown(&of_malformed(&envelope)), named, "{kind} {data}");
        }
    }
}
