//! What every back end must do. A back end inherits the whole suite with one line:
//!
//! ```text
//!   behaviours!(open);      // async fn open() -> (impl Store, whatever must outlive it)
//!   moves!(place);          // async fn place() -> impl Place
//! ```

use std::sync::Arc;

use super::{Change, Changes, Need, Result, ScheduleChange, Store};
use crate::machine::object::{Listener, Object, Task};
use crate::protocol::record::{
    Id, Millis, Promise, PromiseState, Schedule, Tags, TaskState, Value, ValueParts, tag,
};
use crate::protocol::trace::Trace;

mod deletion;
mod ranges;
mod records;
mod transactions;
mod transfer;

pub(crate) use deletion::*;
pub(crate) use ranges::*;
pub(crate) use records::*;
pub(crate) use transactions::*;
pub(crate) use transfer::*;

/// Declares one test per behaviour.
macro_rules! behaviours {
    ($open:ident) => {
        $crate::store::suite::behaviours!(@each $open:
            every_field_survives,
            strange_texts_survive,
            values_survive_byte_for_byte,
            big_values_survive,
            promises_change,
            tasks_change,
            obligations_come_and_go,
            schedules_come_change_and_go,
            reads_find_what_is_stored,
            missing_objects_are_not_there,
            promise_pages_are_bytewise_and_exclusive,
            promise_pages_filter_by_state_and_deadline,
            promise_pages_filter_by_tags,
            task_pages_show_tasks_only,
            schedule_pages_filter_by_tags,
            deadlines_come_in_order,
            deadlines_of_unheard_queues_stay_out,
            ended_objects_have_no_deadlines,
            waiting_messages_come_in_pages,
            messages_not_yet_offered_do_not_wait,
            queues_that_messages_wait_in_are_found,
            waiting_messages_are_counted_by_address,
            states_are_counted_in_pages,
            stale_unblocks_are_found_by_age,
            branches_load_their_members,
            processes_load_what_they_hold,
            nothing_is_visible_before_the_commit,
            batches_do_not_interleave,
            a_refused_commit_leaves_nothing,
            a_dropped_transaction_leaves_nothing,
            a_dropped_commit_is_whole_or_nothing,
            an_empty_commit_is_fine,
            large_batches_commit_at_once,
            what_is_created_twice_is_a_conflict_once,
            what_is_deleted_is_gone,
            trees_load_what_is_below_their_roots,
            trees_too_large_to_load_say_so,
            outlines_come_in_pages,
            callbacks_come_in_pages,
            dump_is_ordered_and_whole,
            reset_deletes_everything,
            the_store_answers
        );
    };
    (@each $open:ident: $($name:ident),*) => {
        $(
            #[tokio::test]
            async fn $name() {
                let (store, _guard) = $open().await;
                $crate::store::suite::$name(&store).await;
            }
        )*
    };
}
pub(crate) use behaviours;

/// Milliseconds nobody confuses with anything else.
const FAR: Millis = 4_000_000_000_000;

fn id(text: impl AsRef<str>) -> Id {
    text.as_ref().into()
}

fn tags(pairs: &[(&str, &str)]) -> Tags {
    let own = |(name, value): &(&str, &str)| ((*name).to_owned(), (*value).to_owned());
    Tags::new(pairs.iter().map(own).collect())
}

fn data(text: &str) -> Value {
    Value::new(&ValueParts {
        headers: None,
        data: Some(text.to_owned()),
    })
}

/// The trace of every task that is pending at first, with all that may belong to one.
pub(crate) fn trace() -> Arc<Trace> {
    let parent = "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01";
    let trace = Trace::read(parent, Some("a=1, b@c=\"\\ '"));
    Arc::new(trace.expect("it is well formed"))
}

/// A plain pending promise.
pub(crate) fn plain(name: impl AsRef<str>) -> Object {
    Object {
        promise: Promise {
            id: id(name),
            state: PromiseState::Pending,
            param: Value::empty(),
            value: Value::empty(),
            tags: Tags::default(),
            timeout_at: FAR,
            created_at: 1,
            settled_at: None,
        },
        armed: false,
        callbacks: [].into(),
        listeners: [].into(),
        task: None,
        trace: None,
    }
}

pub(crate) fn tagged(name: impl AsRef<str>, pairs: &[(&str, &str)]) -> Object {
    let mut object = plain(name);
    object.promise.tags = tags(pairs);
    object
}

/// A pending task that is offered at 0.
pub(crate) fn pending(name: impl AsRef<str>, target: &str, retry_at: Millis) -> Object {
    let mut object = tagged(name, &[(tag::TARGET, target)]);
    object.armed = true;
    object.trace = Some(trace());
    object.task = Some(Task {
        retry_at: Some(retry_at),
        offer_at: Some(0),
        ..Task::cleared(TaskState::Pending, 0)
    });
    object
}

/// An acquired task.
fn acquired(name: impl AsRef<str>, pid: &str, expires_at: Millis) -> Object {
    let mut object = tagged(name, &[(tag::TARGET, "http://w/")]);
    object.armed = true;
    object.task = Some(Task {
        pid: Some(id(pid)),
        ttl: Some(1000),
        expires_at: Some(expires_at),
        ..Task::cleared(TaskState::Acquired, 1)
    });
    object
}

/// A settled promise with an `unblock` to deliver.
pub(crate) fn unblocking(
    name: &str,
    address: &str,
    enqueued_at: Millis,
    retry_at: Millis,
) -> Object {
    let mut object = plain(name);
    settle(&mut object, enqueued_at);
    object.armed = true;
    object.listeners = [(id(address), enqueued(enqueued_at, retry_at))].into();
    object
}

fn enqueued(enqueued_at: Millis, retry_at: Millis) -> Listener {
    Listener {
        enqueued_at: Some(enqueued_at),
        retry_at: Some(retry_at),
        attempts: 0,
    }
}

fn settle(object: &mut Object, now: Millis) {
    object.promise.state = PromiseState::Resolved;
    object.promise.settled_at = Some(now);
    object.promise.value = data("done");
    if let Some(task) = &mut object.task {
        *task = Task::cleared(TaskState::Fulfilled, task.version);
    }
}

pub(crate) fn schedule(name: &str, next_run_at: Millis) -> Schedule {
    Schedule {
        id: id(name),
        cron: id("* * * * *"),
        promise_id: id("{{.id}}.{{.timestamp}}"),
        promise_timeout: 1000,
        promise_param: data("p"),
        promise_tags: Tags::default(),
        created_at: 1,
        next_run_at,
        last_run_at: None,
    }
}

fn inserted(objects: impl IntoIterator<Item = Object>) -> Changes {
    let change = |object| Change {
        before: None,
        after: Arc::new(object),
    };
    Changes {
        objects: objects.into_iter().map(change).collect(),
        schedules: Vec::new(),
        deleted: Vec::new(),
    }
}

async fn commit(store: &dyn Store, changes: &Changes) -> Result<()> {
    store.begin().await?.commit(changes).await
}

pub(crate) async fn insert(store: &dyn Store, objects: impl IntoIterator<Item = Object>) {
    commit(store, &inserted(objects)).await.unwrap();
}

pub(crate) async fn put_schedules(
    store: &dyn Store,
    schedules: impl IntoIterator<Item = Schedule>,
) {
    let change = |schedule: Schedule| ScheduleChange {
        id: schedule.id.clone(),
        after: Some(Arc::new(schedule)),
    };
    let changes = Changes {
        objects: Vec::new(),
        schedules: schedules.into_iter().map(change).collect(),
        deleted: Vec::new(),
    };
    let need = Need {
        schedules: changes.schedules.iter().map(|c| c.id.clone()).collect(),
        ..Need::default()
    };
    let mut transaction = store.begin().await.unwrap();
    transaction.load(&need).await.unwrap();
    transaction.commit(&changes).await.unwrap();
}

/// Loads, changes and stores one object, and checks that it then reads as changed.
async fn change(store: &dyn Store, name: &str, change: impl FnOnce(&mut Object)) -> Object {
    let mut transaction = store.begin().await.unwrap();
    let loaded = transaction.load(&need(&[name])).await.unwrap();
    let before = loaded.objects.into_iter().next().unwrap();
    let mut after = (*before).clone();
    change(&mut after);
    let changes = Changes {
        objects: vec![Change {
            before: Some(before),
            after: Arc::new(after.clone()),
        }],
        schedules: Vec::new(),
        deleted: Vec::new(),
    };
    transaction.commit(&changes).await.unwrap();
    assert_eq!(load(store, &[name]).await, [after.clone()]);
    after
}

fn need(names: &[&str]) -> Need {
    Need {
        objects: names.iter().map(id).collect(),
        ..Need::default()
    }
}

/// Whole objects, by id.
async fn load(store: &dyn Store, names: &[&str]) -> Vec<Object> {
    let mut transaction = store.begin().await.unwrap();
    sorted(transaction.load(&need(names)).await.unwrap().objects)
}

/// Objects outside any transaction.
async fn read(store: &dyn Store, names: &[Id]) -> Vec<Object> {
    sorted(store.read(names).await.unwrap())
}

fn sorted(objects: Vec<Arc<Object>>) -> Vec<Object> {
    by_id(objects.into_iter().map(Arc::unwrap_or_clone).collect())
}

fn by_id(mut objects: Vec<Object>) -> Vec<Object> {
    objects.sort_by(|one, other| one.promise.id.cmp(&other.promise.id));
    objects
}

fn names(objects: &[Object]) -> Vec<&str> {
    objects.iter().map(|object| &*object.promise.id).collect()
}
