//! The tools: one table, from which their schemas are made and against which calls are read.

use rmcp::model::{JsonObject, Tool as Listed, ToolAnnotations};
use serde::{Deserialize, Serialize};
use serde_json::value::{RawValue, to_raw_value};
use serde_json::{Value, json};

use super::super::input;
use super::super::output;
use super::super::session::{Failure, Request};
use super::arguments::Arguments;
use super::channel::Channel;
use crate::client::{self, clock};
use crate::protocol::record::{Millis, PromiseState, tag};

const BASH_TIMEOUT_MS: Millis = 300_000;
const BASH_TARGET: &str = "bash://";

/// One tool.
pub(super) struct Tool {
    name: &'static str,
    description: &'static str,
    action: Action,
    pub arguments: &'static [Argument],
}

/// One argument of a tool.
pub(super) struct Argument {
    pub name: &'static str,
    pub is_required: bool,
    kind: Kind,
    description: &'static str,
}

#[derive(Clone, Copy)]
enum Action {
    Create,
    Get,
    Settle,
    Search,
    Listen,
    Bash,
}

/// What an argument may be.
enum Kind {
    Text,
    Integer,
    OneOf(&'static [&'static str]),
    /// An object of strings.
    Tags,
    /// A Value of the protocol: any JSON, and an object of strings.
    Value,
}

const STATES: &[&str] = &[
    PromiseState::Pending.as_str(),
    PromiseState::Resolved.as_str(),
    PromiseState::Rejected.as_str(),
    PromiseState::RejectedCanceled.as_str(),
    PromiseState::RejectedTimedout.as_str(),
];

/// The words of `promise-settle`, with the states they stand for.
const RESOLUTIONS: [(&str, PromiseState); 3] = [
    ("resolve", PromiseState::Resolved),
    ("reject", PromiseState::Rejected),
    ("cancel", PromiseState::RejectedCanceled),
];

const ID: Argument = required("id", Kind::Text, "Unique name of the promise");

const TOOLS: [Tool; 6] = [
    Tool {
        name: "promise-create",
        description: "Creates a durable promise: a value that somebody will settle, now or in months. \
            A promise that has this id already is returned as it is. Settle it with promise-settle, hear \
            of its settlement with promise-listen.",
        action: Action::Create,
        arguments: &[
            ID,
            required(
                "timeout_at",
                Kind::Integer,
                "When it is rejected unless it has been settled: milliseconds since the Unix epoch",
            ),
            optional("param", Kind::Value, "What it is about"),
            optional("tags", Kind::Tags, "Labels to find it by"),
        ],
    },
    Tool {
        name: "promise-get",
        description: "Shows a promise as it is now. What was given as `data` is in base64.",
        action: Action::Get,
        arguments: &[ID],
    },
    Tool {
        name: "promise-settle",
        description: "Settles a promise, for good: one that is settled already is returned as it is.",
        action: Action::Settle,
        arguments: &[
            ID,
            required(
                "resolution",
                Kind::OneOf(&[RESOLUTIONS[0].0, RESOLUTIONS[1].0, RESOLUTIONS[2].0]),
                "How",
            ),
            optional("value", Kind::Value, "What it is settled with"),
        ],
    },
    Tool {
        name: "promise-search",
        description: "Lists promises by id, a page at a time.",
        action: Action::Search,
        arguments: &[
            optional("state", Kind::OneOf(STATES), "Only those in this state"),
            optional("tags", Kind::Tags, "Only those with all of these tags"),
            optional(
                "limit",
                Kind::Integer,
                "How many, 1 to 1000; 100 unless given",
            ),
            optional(
                "cursor",
                Kind::Text,
                "Where the page before this one ended: its `cursor`",
            ),
        ],
    },
    Tool {
        name: "promise-listen",
        description: "Has this client told when a promise is settled, with a \
            notifications/claude/channel notification. Returns the promise as it is now, without \
            waiting; if it is settled already, no notification follows.",
        action: Action::Listen,
        arguments: &[ID],
    },
    Tool {
        name: "resonate-bash",
        description: "Has a bash script run by the Resonate server, and this client told of its \
            outcome with a notifications/claude/channel notification. Returns at once. The promise of the \
            script is resolved with what it prints to standard output, as plain text, if it exits with 0, \
            and rejected with the reason otherwise. A script that is interrupted runs again from its \
            beginning. The server must have bash enabled.",
        action: Action::Bash,
        arguments: &[
            required("script", Kind::Text, "The script"),
            optional(
                "id",
                Kind::Text,
                "Unique name of the promise; made up unless given",
            ),
            optional(
                "timeoutMs",
                Kind::Integer,
                "How many milliseconds it may take, from now on; 300000 unless given",
            ),
            optional(
                "target",
                Kind::Text,
                "Where it runs: `bash://`, the default, or `bash://docker/<image>`",
            ),
            optional("tags", Kind::Tags, "Labels to find the promise by"),
        ],
    },
];

const fn required(name: &'static str, kind: Kind, description: &'static str) -> Argument {
    Argument {
        name,
        is_required: true,
        kind,
        description,
    }
}

const fn optional(name: &'static str, kind: Kind, description: &'static str) -> Argument {
    Argument {
        name,
        is_required: false,
        kind,
        description,
    }
}

/// The answer to `tools/list`.
pub(super) fn list() -> Vec<Listed> {
    TOOLS.iter().map(Tool::listed).collect()
}

impl Tool {
    fn listed(&self) -> Listed {
        let hints =
            ToolAnnotations::new().read_only(matches!(self.action, Action::Get | Action::Search));
        Listed::new(self.name, self.description, self.schema()).annotate(hints)
    }

    fn schema(&self) -> JsonObject {
        let properties = self
            .arguments
            .iter()
            .map(|argument| (argument.name, argument.schema()));
        let properties: JsonObject = properties
            .map(|(name, schema)| (name.to_owned(), schema))
            .collect();
        let required = self
            .arguments
            .iter()
            .filter(|argument| argument.is_required);
        let required: Vec<&str> = required.map(|argument| argument.name).collect();
        let mut schema = JsonObject::new();
        schema.insert("type".to_owned(), json!("object"));
        schema.insert("properties".to_owned(), Value::Object(properties));
        schema.insert("required".to_owned(), json!(required));
        schema.insert("additionalProperties".to_owned(), json!(false));
        schema
    }
}

impl Argument {
    fn schema(&self) -> Value {
        let mut schema = self.kind.schema();
        schema["description"] = json!(self.description);
        schema
    }
}

impl Kind {
    fn schema(&self) -> Value {
        match self {
            Kind::Text => json!({"type": "string"}),
            Kind::Integer => json!({"type": "integer"}),
            Kind::OneOf(words) => json!({"type": "string", "enum": words}),
            Kind::Tags => strings(),
            Kind::Value => json!({
                "type": "object",
                "properties": {
                    "data": {"description": "Text, or any other JSON; stored in base64"},
                    "headers": strings(),
                },
                "additionalProperties": false,
            }),
        }
    }
}

fn strings() -> Value {
    json!({"type": "object", "additionalProperties": {"type": "string"}})
}

/// Calls a tool; what it returns, as pretty JSON.
pub(super) async fn call(
    channel: &Channel,
    name: &str,
    arguments: Option<&RawValue>,
) -> Result<String, Failure> {
    let tool = TOOLS.iter().find(|tool| tool.name == name);
    let tool = tool.ok_or_else(|| Failure::Input(format!("unknown tool '{name}'")))?;
    let arguments = Arguments::read(tool, arguments)?;
    let data = match tool.action {
        Action::Create => ask(channel, &create(&arguments)?).await?,
        Action::Get => ask(channel, &get(&arguments)?).await?,
        Action::Settle => ask(channel, &settle(&arguments)?).await?,
        Action::Search => ask(channel, &search(&arguments)?).await?,
        Action::Listen => listen(channel, &arguments).await?,
        Action::Bash => bash(channel, &arguments).await?,
    };
    Ok(output::pretty(&data))
}

async fn ask(channel: &Channel, request: &Request) -> Result<Box<RawValue>, Failure> {
    Ok(channel.client.call(request.kind, &request.data).await?)
}

fn get(arguments: &Arguments) -> Result<Request, Failure> {
    let data = json!({"id": arguments.json("id")?});
    Ok(Request::new("promise.get", data))
}

fn create(arguments: &Arguments) -> Result<Request, Failure> {
    let data = json!({
        "id": arguments.json("id")?,
        "timeoutAt": arguments.json("timeout_at")?,
        "param": arguments.value("param")?,
        "tags": arguments.json("tags")?,
    });
    Ok(Request::new("promise.create", data))
}

fn settle(arguments: &Arguments) -> Result<Request, Failure> {
    let resolution = arguments.json("resolution")?;
    let known = RESOLUTIONS.iter().find(|(word, _)| resolution == *word);
    let Some((_, state)) = known else {
        let given = resolution
            .as_str()
            .map_or_else(|| resolution.to_string(), str::to_owned);
        return Err(Failure::Input(format!(
            "invalid resolution '{given}'; must be resolve, reject, or cancel"
        )));
    };
    let data = json!({
        "id": arguments.json("id")?,
        "state": state.as_str(),
        "value": arguments.value("value")?,
    });
    Ok(Request::new("promise.settle", data))
}

fn search(arguments: &Arguments) -> Result<Request, Failure> {
    let data = json!({
        "state": arguments.json("state")?,
        "tags": arguments.json("tags")?,
        "limit": arguments.json("limit")?,
        "cursor": arguments.json("cursor")?,
    });
    Ok(Request::new("promise.search", data))
}

async fn listen(channel: &Channel, arguments: &Arguments) -> Result<Box<RawValue>, Failure> {
    let id: String = arguments.typed("id", "a string")?.unwrap_or_default();
    let (data, _) = channel.listen(&id).await?;
    Ok(data)
}

/// What `resonate-bash` returns.
#[derive(Serialize)]
struct Started<'a> {
    promise: Box<RawValue>,
    listener_registered: bool,
    target: &'a str,
}

/// The `data` of an answer, its promise as it came.
#[derive(Deserialize)]
struct Answer {
    promise: Box<RawValue>,
}

async fn bash(channel: &Channel, arguments: &Arguments) -> Result<Box<RawValue>, Failure> {
    let script: String = arguments.typed("script", "a string")?.unwrap_or_default();
    if script.trim().is_empty() {
        return Err(Failure::Input("`script` must not be empty".to_owned()));
    }
    let id = arguments.typed("id", "a string")?;
    let id: String = id.unwrap_or_else(|| clock::unique("bash"));
    let target = arguments.typed("target", "a string")?;
    let target: String = target.unwrap_or_else(|| BASH_TARGET.to_owned());
    let timeout = arguments.typed("timeoutMs", "an integer of milliseconds")?;
    let timeout: Millis = timeout.unwrap_or(BASH_TIMEOUT_MS);
    let tags = arguments.typed("tags", "an object of strings")?;
    let mut tags: JsonObject = tags.unwrap_or_default();
    tags.insert(tag::TARGET.to_owned(), json!(target));
    let data = json!({
        "id": id,
        "timeoutAt": clock::now_ms().saturating_add(timeout),
        "param": {"data": input::base64(&script)},
        "tags": tags,
    });
    let mut data = channel.client.call("promise.create", &data).await?;
    let mut listener_registered = false;
    if client::promise_of(&data)?.state == PromiseState::Pending {
        (data, listener_registered) = channel.listen(&id).await?;
    }
    let started = Started {
        promise: client::read::<Answer>(&data)?.promise,
        listener_registered,
        target: &target,
    };
    Ok(to_raw_value(&started).map_err(anyhow::Error::from)?)
}
