//! Records survive the way through an archive, and nothing else passes for one.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use proptest::collection::{btree_map, btree_set};
use proptest::option;
use proptest::prelude::*;

use super::*;
use crate::machine::object::{Listener, Task};
use crate::protocol::record::{
    Id, Millis, Promise, PromiseState, Schedule, Tags, TaskState, Value, ValueParts,
};
use crate::protocol::trace::Trace;

fn id() -> impl Strategy<Value = Id> {
    any::<String>().prop_map(Id::from)
}

fn ids() -> impl Strategy<Value = BTreeSet<Id>> {
    btree_set(id(), 0..4)
}

fn value() -> impl Strategy<Value = Value> {
    let headers = option::of(btree_map(any::<String>(), any::<String>(), 0..3));
    (headers, option::of(any::<String>()))
        .prop_map(|(headers, data)| Value::new(&ValueParts { headers, data }))
}

fn tags() -> impl Strategy<Value = Tags> {
    btree_map(any::<String>(), any::<String>(), 0..4).prop_map(Tags::new)
}

fn instant() -> impl Strategy<Value = Millis> {
    prop_oneof![0..4_000_000_000_000_i64, Just(0), Just(Millis::MAX)]
}

fn state() -> impl Strategy<Value = PromiseState> {
    prop::sample::select(vec![
        PromiseState::Pending,
        PromiseState::Resolved,
        PromiseState::Rejected,
        PromiseState::RejectedCanceled,
        PromiseState::RejectedTimedout,
    ])
}

fn task() -> impl Strategy<Value = Task> {
    let states = prop::sample::select(vec![
        TaskState::Pending,
        TaskState::Acquired,
        TaskState::Suspended,
        TaskState::Halted,
        TaskState::Fulfilled,
    ]);
    let instants = [(); 5].map(|()| option::of(instant()));
    (
        states,
        0..=i64::MAX,
        ids(),
        option::of(id()),
        instants,
        any::<u32>(),
    )
        .prop_map(|(state, version, resumes, pid, instants, releases)| {
            let [ttl, expires_at, claimed_at, retry_at, offer_at] = instants;
            Task {
                state,
                version,
                resumes,
                pid,
                ttl,
                expires_at,
                claimed_at,
                retry_at,
                offer_at,
                releases,
            }
        })
}

fn listener() -> impl Strategy<Value = Listener> {
    (option::of(instant()), option::of(instant()), any::<u32>()).prop_map(
        |(enqueued_at, retry_at, attempts)| Listener {
            enqueued_at,
            retry_at,
            attempts,
        },
    )
}

prop_compose! {
    fn object()(
        (id, state, param, value, tags) in (id(), state(), value(), value(), tags()),
        (timeout_at, created_at, settled_at) in (instant(), instant(), option::of(instant())),
        (armed, callbacks) in (any::<bool>(), ids()),
        listeners in btree_map(id(), listener(), 0..3),
        task in option::of(task()),
        trace in option::of((1_u128.., 1_u64.., any::<bool>())),
    ) -> Object {
        Object {
            promise: Promise { id, state, param, value, tags, timeout_at, created_at, settled_at },
            armed,
            callbacks,
            listeners,
            task,
            trace: trace.map(|(id, span, is_sampled)| Arc::new(Trace::new(id, span, is_sampled))),
        }
    }
}

prop_compose! {
    fn schedule()(
        (id, cron, promise_id) in (id(), id(), id()),
        (promise_timeout, created_at, next_run_at) in (instant(), instant(), instant()),
        last_run_at in option::of(instant()),
        (promise_param, promise_tags) in (value(), tags()),
    ) -> Schedule {
        Schedule {
            id, cron, promise_id, promise_timeout, promise_param, promise_tags, created_at,
            next_run_at, last_run_at,
        }
    }
}

fn written(objects: &[Object], schedules: &[Schedule]) -> Vec<u8> {
    let mut counts = Counts {
        schedules: schedules.len() as u64,
        ..Counts::default()
    };
    objects.iter().for_each(|object| counts.add(object));
    let mut bytes = Vec::new();
    let mut writer = Writer::begin(&mut bytes, 1, &counts).unwrap();
    objects
        .iter()
        .for_each(|object| writer.object(object).unwrap());
    schedules
        .iter()
        .for_each(|one| writer.schedule(one).unwrap());
    assert_eq!(writer.end().unwrap(), counts);
    bytes
}

fn read(bytes: &[u8]) -> Result<Vec<Record>, Error> {
    let mut reader = Reader::begin(bytes)?;
    let mut records = Vec::new();
    while let Some(record) = reader.next()? {
        records.push(record);
    }
    Ok(records)
}

/// In the order of an archive, each id once.
fn by_id<T>(all: Vec<T>, id: impl Fn(&T) -> Id) -> Vec<T> {
    let sorted: BTreeMap<Id, T> = all.into_iter().map(|one| (id(&one), one)).collect();
    sorted.into_values().collect()
}

proptest! {
    #[test]
    fn what_is_written_is_read_and_written_again_the_same(
        objects in prop::collection::vec(object(), 0..6),
        schedules in prop::collection::vec(schedule(), 0..3),
    ) {
        let objects = by_id(objects, |object| object.promise.id.clone());
        let schedules = by_id(schedules, |schedule| schedule.id.clone());
        let bytes = written(&objects, &schedules);
        let expected: Vec<Record> = objects
            .iter()
            .map(|object| Record::Object(Box::new(object.clone())))
            .chain(schedules.iter().map(|one| Record::Schedule(Box::new(one.clone()))))
            .collect();
        prop_assert_eq!(read(&bytes).unwrap(), expected);
        prop_assert_eq!(written(&objects, &schedules), bytes);
    }

    #[test]
    fn whatever_is_altered_is_noticed(
        objects in prop::collection::vec(object(), 1..4),
        at in any::<prop::sample::Index>(),
        other in any::<u8>(),
    ) {
        let objects = by_id(objects, |object| object.promise.id.clone());
        let mut bytes = written(&objects, &[]);
        let at = at.index(bytes.len());
        prop_assume!(bytes[at] != other);
        bytes[at] = other;
        prop_assert!(read(&bytes).is_err());
    }

    #[test]
    fn whatever_is_missing_at_the_end_is_noticed(
        objects in prop::collection::vec(object(), 0..4),
        at in any::<prop::sample::Index>(),
    ) {
        let objects = by_id(objects, |object| object.promise.id.clone());
        let bytes = written(&objects, &[]);
        prop_assert!(read(&bytes[..at.index(bytes.len())]).is_err());
    }
}

/// An archive of three promises, line by line.
fn lines() -> Vec<String> {
    let object = |name: &str| crate::store::suite::plain(name);
    let bytes = written(&["a", "b", "c"].map(object), &[]);
    let text = String::from_utf8(bytes).unwrap();
    text.lines().map(|line| format!("{line}\n")).collect()
}

#[track_caller]
fn expect_refused(lines: &[String], told: &str) {
    let refused = read(lines.concat().as_bytes()).unwrap_err().to_string();
    assert!(refused.contains(told), "{refused:?} instead of {told:?}");
}

#[test]
fn the_line_that_is_wrong_is_named() {
    let whole = lines();
    let with = |n: usize, from: &str, to: &str| {
        let mut lines = whole.clone();
        assert!(lines[n - 1].contains(from), "{}", lines[n - 1]);
        lines[n - 1] = lines[n - 1].replace(from, to);
        lines
    };
    expect_refused(&[], "line 1 of the archive: this is not a resonate archive");
    expect_refused(
        &with(1, "resonate-archive", "other"),
        "line 1 of the archive: this is not a resonate archive",
    );
    expect_refused(
        &with(1, "\"version\":1", "\"version\":2,\"more\":true"),
        "line 1 of the archive: the archive has version 2; this resonate reads versions up to 1",
    );
    expect_refused(
        &with(3, "\"armed\"", "\"traceparent\":\"00\",\"armed\""),
        "line 3 of the archive: unknown field `traceparent`",
    );
    expect_refused(
        &with(3, "\"armed\"", "\"traceparent\":\"00\",\"armed\""),
        "a newer resonate",
    );
    expect_refused(&with(4, "{", "["), "line 4 of the archive: ");
    expect_refused(
        &whole[..4],
        "line 5 of the archive: it ends without its last line",
    );
    let mut cut = whole.clone();
    cut[4].pop();
    expect_refused(&cut, "line 5 of the archive: it has no end");
    expect_refused(
        &with(3, "\"createdAt\":1", "\"createdAt\":2"),
        "line 5 of the archive: its checksum is not that of the lines before it: one of lines 1 to 4",
    );
    let mut swapped = whole.clone();
    swapped.swap(1, 2);
    expect_refused(
        &swapped,
        "line 3 of the archive: \"a\" is twice there, or not in its place",
    );
    let more = [&whole[..], &[String::from("\n")]].concat();
    expect_refused(
        &more,
        "line 6 of the archive: something follows the last line",
    );
}

/// What a release has written, later ones read: this is version 1, and it is never changed.
#[test]
fn version_1_is_read() {
    let text = include_str!("version_1.ndjson");
    let records = read(text.as_bytes()).unwrap();
    let (mut objects, mut schedules) = (Vec::new(), Vec::new());
    for record in records {
        match record {
            Record::Object(object) => objects.push(*object),
            Record::Schedule(schedule) => schedules.push(*schedule),
        }
    }
    assert_eq!((objects.len(), schedules.len()), (9, 1));
    assert_eq!(
        String::from_utf8(written(&objects, &schedules)).unwrap(),
        text
    );
}
