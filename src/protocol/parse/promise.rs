//! `data` of `promise.*`.

use std::collections::BTreeMap;

use serde_json::value::RawValue;

use super::data::{MapOnly, Name, SearchData, finish, read, value};
use super::{Context, Parsed};
use crate::protocol::operation::{Command, PromiseCreate, PromiseSearch, PromiseSettle, Query};
use crate::protocol::record::{Millis, PromiseState, Tags, ValueParts, Verdict};
use crate::protocol::rules::Violations;

#[derive(serde::Deserialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct CreateData {
    id: String,
    timeout_at: Millis,
    #[serde(default)]
    param: Option<MapOnly<ValueParts>>,
    #[serde(default)]
    tags: Option<BTreeMap<String, String>>,
}

pub(super) fn promise_create(data: &RawValue, context: &Context) -> Parsed<PromiseCreate> {
    let mut violations = context.violations();
    let op = build_create(read(data)?, &mut violations);
    finish(violations)?;
    Ok(op)
}

pub(super) fn build_create(data: CreateData, violations: &mut Violations<'_>) -> PromiseCreate {
    violations.promise_id(&data.id);
    violations.not_negative("TimeoutAt", data.timeout_at);
    let param = value(data.param, violations);
    let tags = Tags::new(data.tags.unwrap_or_default());
    violations.tags(&tags, data.timeout_at);
    PromiseCreate {
        id: data.id.into(),
        timeout_at: data.timeout_at,
        param,
        tags,
    }
}

#[derive(serde::Deserialize)]
pub(super) struct SettleData {
    id: String,
    state: Name<Verdict>,
    #[serde(default)]
    value: Option<MapOnly<ValueParts>>,
}

pub(super) fn promise_settle(data: &RawValue, context: &Context) -> Parsed<PromiseSettle> {
    let mut violations = context.violations();
    let op = build_settle(read(data)?, &mut violations);
    finish(violations)?;
    Ok(op)
}

pub(super) fn build_settle(data: SettleData, violations: &mut Violations<'_>) -> PromiseSettle {
    violations.promise_id(&data.id);
    let value = value(data.value, violations);
    PromiseSettle {
        id: data.id.into(),
        state: data.state.0,
        value,
    }
}

#[derive(serde::Deserialize)]
pub(super) struct CallbackData {
    pub awaited: String,
    pub awaiter: String,
}

pub(super) fn register_callback(data: &RawValue, context: &Context) -> Parsed<Command> {
    let CallbackData { awaited, awaiter } = read(data)?;
    let mut violations = context.violations();
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

pub(super) fn register_listener(data: &RawValue, context: &Context) -> Parsed<Command> {
    #[derive(serde::Deserialize)]
    struct Data {
        awaited: String,
        address: String,
    }
    let Data { awaited, address } = read(data)?;
    let mut violations = context.violations();
    violations.id("Awaited promise ID", &awaited);
    violations.listener_address(&address);
    finish(violations)?;
    Ok(Command::PromiseRegisterListener {
        awaited: awaited.into(),
        address: address.into(),
    })
}

pub(super) fn promise_search(data: &RawValue, context: &Context) -> Parsed<Query> {
    let data: SearchData<Name<PromiseState>, BTreeMap<String, String>> = read(data)?;
    let mut violations = context.violations();
    let (limit, cursor) = data.page(100, &mut violations);
    let tags = Tags::new(data.tags.unwrap_or_default());
    violations.any_tags(&tags);
    finish(violations)?;
    Ok(Query::PromiseSearch(PromiseSearch {
        state: data.state.map(|Name(state)| state),
        tags,
        limit,
        cursor,
    }))
}
