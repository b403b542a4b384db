//! `data` of `schedule.*`.

use std::collections::BTreeMap;

use serde::de::IgnoredAny;
use serde_json::value::RawValue;

use super::data::{MapOnly, SearchData, finish, read, value};
use super::{Context, Parsed};
use crate::protocol::operation::{Command, Query, ScheduleCreate, ScheduleSearch};
use crate::protocol::record::{Millis, Tags, ValueParts};

pub(super) fn schedule_create(data: &RawValue, context: &Context) -> Parsed<Command> {
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
    let mut violations = context.violations();
    violations.schedule_id(&data.id);
    violations.cron(&data.cron);
    violations.template(&data.promise_id, &data.id);
    violations.not_negative("Promise timeout", data.promise_timeout);
    let promise_param = value(data.promise_param, &mut violations);
    let promise_tags = Tags::new(data.promise_tags.unwrap_or_default());
    violations.schedule_tags(&promise_tags);
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

pub(super) fn schedule_search(data: &RawValue, context: &Context) -> Parsed<Query> {
    let data: SearchData<IgnoredAny, BTreeMap<String, String>> = read(data)?;
    let mut violations = context.violations();
    let (limit, cursor) = data.page(10, &mut violations);
    let tags = Tags::new(data.tags.unwrap_or_default());
    violations.any_tags(&tags);
    finish(violations)?;
    Ok(Query::ScheduleSearch(ScheduleSearch {
        tags,
        limit,
        cursor,
    }))
}
