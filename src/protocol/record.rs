//! The records that cross the wire (`protocol.md` §4): promise, task, schedule and the opaque value.
//!
//! Everything in a record is immutable or cheap to clone: ids and strings are shared, payloads are
//! carried as the JSON text they are stored and answered as.

use std::collections::BTreeMap;
use std::sync::{Arc, LazyLock};

use serde::{Deserialize, Serialize};
use serde_json::value::RawValue;

/// An instant (Unix epoch) or a duration, in milliseconds: 0 … 2^63−1.
pub type Millis = i64;

/// An id, a process id, a branch name: any shared, immutable string.
pub type Id = Arc<str>;

/// The origin of an id (`protocol.md` §6): what stands before its first `.` or `:`. A root and its
/// descendants share it; it is an affinity, not a rule.
pub fn origin(id: &str) -> &str {
    id.split(['.', ':']).next().unwrap_or(id)
}

/// `nextRunAt` of a schedule whose expression has run out of occurrences (`semantics.md` §8).
pub const NEVER: Millis = 9_007_199_254_740_991;

/// An opaque payload, `{"headers"?: …, "data"?: …}`, kept as its JSON text.
#[derive(Clone, Debug)]
pub struct Value(Arc<RawValue>);

/// The members of a [`Value`].
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct ValueParts {
    /// Client-defined headers; an empty map stays distinguishable from none.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub headers: Option<BTreeMap<String, String>>,
    /// The payload, by convention base64 text; never decoded here.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub data: Option<String>,
}

impl Value {
    /// The value with neither headers nor data: `{}`.
    pub fn empty() -> Self {
        static EMPTY: LazyLock<Value> = LazyLock::new(|| Value::new(&ValueParts::default()));
        EMPTY.clone()
    }

    /// Makes a value of its members.
    pub fn new(parts: &ValueParts) -> Self {
        let raw = serde_json::value::to_raw_value(parts)
            .expect("string maps and strings always serialise");
        Value(Arc::from(raw))
    }

    /// Reads back the text that [`Value::as_json`] gave.
    ///
    /// # Errors
    /// When the text is not JSON: the row it came from is corrupt.
    pub fn from_json(text: String) -> Result<Self, serde_json::Error> {
        Ok(Value(Arc::from(RawValue::from_string(text)?)))
    }

    /// The JSON text.
    pub fn as_json(&self) -> &str {
        self.0.get()
    }

    /// Whether it has neither headers nor data.
    pub fn is_empty(&self) -> bool {
        self.as_json() == "{}"
    }

    /// Its members, or none where the text is not a value object.
    pub fn parts(&self) -> Option<ValueParts> {
        serde_json::from_str(self.as_json()).ok()
    }
}

impl PartialEq for Value {
    fn eq(&self, other: &Self) -> bool {
        self.as_json() == other.as_json()
    }
}

impl Eq for Value {}

impl Default for Value {
    fn default() -> Self {
        Value::empty()
    }
}

impl Serialize for Value {
    fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        self.0.serialize(serializer)
    }
}

impl<'de> Deserialize<'de> for Value {
    fn deserialize<D: serde::Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        Ok(Value(Arc::from(Box::<RawValue>::deserialize(
            deserializer,
        )?)))
    }
}

/// Names of the tags the server gives a meaning to (`protocol.md` §5).
pub mod tag {
    #![allow(missing_docs, reason = "the table in protocol.md §5 documents each")]
    pub const TARGET: &str = "resonate:target";
    pub const TIMER: &str = "resonate:timer";
    pub const EXTERNAL: &str = "resonate:external";
    pub const DELAY: &str = "resonate:delay";
    pub const ORIGIN: &str = "resonate:origin";
    pub const PARENT: &str = "resonate:parent";
    pub const BRANCH: &str = "resonate:branch";
    pub const SCOPE: &str = "resonate:scope";
    pub const PREFIX: &str = "resonate:prefix";
    pub const SCHEDULE: &str = "resonate:schedule";
}

/// The tags of a promise, immutable from birth.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(transparent)]
pub struct Tags(Arc<BTreeMap<String, String>>);

impl Tags {
    /// Makes tags of a map.
    pub fn new(map: BTreeMap<String, String>) -> Self {
        Tags(Arc::new(map))
    }

    /// The value of one tag.
    pub fn get(&self, name: &str) -> Option<&str> {
        self.0.get(name).map(String::as_str)
    }

    /// All pairs, by name.
    pub fn iter(&self) -> impl Iterator<Item = (&str, &str)> {
        self.0.iter().map(|(k, v)| (k.as_str(), v.as_str()))
    }

    /// The map itself, to build other tags from.
    pub fn to_map(&self) -> BTreeMap<String, String> {
        (*self.0).clone()
    }

    /// The address of the promise's task, present or not.
    pub fn target(&self) -> Option<&str> {
        self.get(tag::TARGET)
    }

    /// Whether the deadline resolves the promise (and no task exists, D-03).
    pub fn is_timer(&self) -> bool {
        self.get(tag::TIMER) == Some("true")
    }

    /// Whether the promise is settled from outside, its timeout armed from birth.
    pub fn is_external(&self) -> bool {
        self.get(tag::EXTERNAL) == Some("true")
    }

    /// Whether a task exists: a target, and no timer (D-03).
    pub fn is_targeted(&self) -> bool {
        self.target().is_some() && !self.is_timer()
    }

    /// The instant before which the first `execute` is not sent; none when absent or not a number.
    pub fn delay(&self) -> Option<Millis> {
        parse_delay(self.get(tag::DELAY)?)
    }

    /// The preload group, if the promise names a non-empty one (`protocol.md` §7).
    pub fn branch(&self) -> Option<&str> {
        self.get(tag::BRANCH).filter(|branch| !branch.is_empty())
    }

    /// Whether every pair of `wanted` is present with an equal value.
    pub fn contain(&self, wanted: &Tags) -> bool {
        wanted
            .iter()
            .all(|(name, value)| self.get(name) == Some(value))
    }
}

/// Reads a `resonate:delay`: a decimal non-negative integer.
pub fn parse_delay(text: &str) -> Option<Millis> {
    let digits = !text.is_empty() && text.bytes().all(|b| b.is_ascii_digit());
    digits.then(|| text.parse().ok()).flatten()
}

/// The five states of a promise. All but `Pending` are final.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
#[allow(missing_docs, reason = "protocol.md §4 names them")]
pub enum PromiseState {
    Pending,
    Resolved,
    Rejected,
    RejectedCanceled,
    RejectedTimedout,
}

impl PromiseState {
    /// The wire name, which is also the stored one.
    pub const fn as_str(self) -> &'static str {
        match self {
            PromiseState::Pending => "pending",
            PromiseState::Resolved => "resolved",
            PromiseState::Rejected => "rejected",
            PromiseState::RejectedCanceled => "rejected_canceled",
            PromiseState::RejectedTimedout => "rejected_timedout",
        }
    }

    /// Reads a stored name.
    pub fn parse(name: &str) -> Option<Self> {
        Some(match name {
            "pending" => PromiseState::Pending,
            "resolved" => PromiseState::Resolved,
            "rejected" => PromiseState::Rejected,
            "rejected_canceled" => PromiseState::RejectedCanceled,
            "rejected_timedout" => PromiseState::RejectedTimedout,
            _ => return None,
        })
    }
}

/// The verdicts a client may choose; `rejected_timedout` is the server's alone.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "snake_case")]
#[allow(missing_docs, reason = "protocol.md §8 names them")]
pub enum Verdict {
    Resolved,
    Rejected,
    RejectedCanceled,
}

impl From<Verdict> for PromiseState {
    fn from(verdict: Verdict) -> Self {
        match verdict {
            Verdict::Resolved => PromiseState::Resolved,
            Verdict::Rejected => PromiseState::Rejected,
            Verdict::RejectedCanceled => PromiseState::RejectedCanceled,
        }
    }
}

/// The five states of a task.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
#[allow(missing_docs, reason = "protocol.md §4 names them")]
pub enum TaskState {
    Pending,
    Acquired,
    Suspended,
    Halted,
    Fulfilled,
}

impl TaskState {
    /// The wire name, which is also the stored one.
    pub const fn as_str(self) -> &'static str {
        match self {
            TaskState::Pending => "pending",
            TaskState::Acquired => "acquired",
            TaskState::Suspended => "suspended",
            TaskState::Halted => "halted",
            TaskState::Fulfilled => "fulfilled",
        }
    }

    /// Reads a stored name.
    pub fn parse(name: &str) -> Option<Self> {
        Some(match name {
            "pending" => TaskState::Pending,
            "acquired" => TaskState::Acquired,
            "suspended" => TaskState::Suspended,
            "halted" => TaskState::Halted,
            "fulfilled" => TaskState::Fulfilled,
            _ => return None,
        })
    }
}

/// A promise as it is answered, and as it is stored.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Promise {
    /// Unique name.
    pub id: Id,
    /// See [`PromiseState`].
    pub state: PromiseState,
    /// What the creator gave.
    pub param: Value,
    /// What the settlement gave; empty while pending and after a timeout.
    pub value: Value,
    /// Immutable.
    pub tags: Tags,
    /// The deadline, inclusive: at `now = timeout_at` the promise is settled.
    pub timeout_at: Millis,
    /// Birth instant; never after `timeout_at`.
    pub created_at: Millis,
    /// Absent exactly while pending.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub settled_at: Option<Millis>,
}

/// A task as it is answered; it shares its id with its promise.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct TaskRecord {
    /// The promise's id.
    pub id: Id,
    /// See [`TaskState`].
    pub state: TaskState,
    /// The fencing token: rises by one on every acquisition.
    pub version: i64,
    /// How many distinct awaited promises have settled since the last acquisition.
    pub resumes: usize,
    /// Lease length, only while acquired.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub ttl: Option<Millis>,
    /// Lease holder, only while acquired.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub pid: Option<Id>,
}

/// A schedule as it is answered, and as it is stored.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Schedule {
    /// Unique name.
    pub id: Id,
    /// 5, 6 or 7 fields, UTC (`semantics.md` §8).
    pub cron: Id,
    /// Template of the ids of the promises it creates.
    pub promise_id: Id,
    /// Deadline of a created promise, counted from its occurrence.
    pub promise_timeout: Millis,
    /// Param of every created promise.
    pub promise_param: Value,
    /// Tags of every created promise, before the injected ones.
    pub promise_tags: Tags,
    /// Birth instant.
    pub created_at: Millis,
    /// The next occurrence, or [`NEVER`].
    pub next_run_at: Millis,
    /// The last occurrence fired.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub last_run_at: Option<Millis>,
}
