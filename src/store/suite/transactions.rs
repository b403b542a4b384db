//! All or nothing, one after the other.

use std::future::poll_fn;
use std::pin::{Pin, pin};
use std::task::Poll;
use std::time::Duration;

use super::*;
use crate::store::guesses::LOOKS;
use crate::store::{Error, Queues};

/// Polls a future once: whether it is ready.
async fn polled<F: Future>(mut future: Pin<&mut F>) -> bool {
    poll_fn(|context| Poll::Ready(future.as_mut().poll(context).is_ready())).await
}

pub(crate) async fn nothing_is_visible_before_the_commit(store: &dyn Store) {
    let mut transaction = store.begin().await.unwrap();
    transaction.load(&need(&["a"])).await.unwrap();
    assert_eq!(read(store, &[id("a")]).await, []);
    transaction.commit(&inserted([plain("a")])).await.unwrap();
    assert_eq!(read(store, &[id("a")]).await, [plain("a")]);
}

/// Where one batch runs at a time the second waits; where several run at once, what was decided on
/// something that has changed is refused.
pub(crate) async fn batches_do_not_interleave(store: &dyn Store) {
    if store.lanes() > 1 {
        return what_another_batch_overtook_is_refused(store).await;
    }
    let transaction = store.begin().await.unwrap();
    let mut other = pin!(load(store, &["a"]));
    let early = tokio::time::timeout(Duration::from_millis(20), &mut other).await;
    assert!(early.is_err(), "two batches at once");
    transaction.commit(&inserted([plain("a")])).await.unwrap();
    assert_eq!(other.await, [plain("a")]);
}

async fn what_another_batch_overtook_is_refused(store: &dyn Store) {
    let mut read = pending("read", "http://w/", 5);
    read.listeners = [(id("http://l/"), Listener::default())].into();
    insert(store, [read, plain("other")]).await;
    put_schedules(store, [schedule("s", 5)]).await;
    let everything = Need {
        schedules: [id("s")].into(),
        ..need(&["read", "other", "absent"])
    };
    // Whatever changes of what was read, even if nothing of it was to be written.
    let overtakers: [fn(&mut Object); 5] = [
        |object| object.promise.state = PromiseState::Resolved,
        |object| object.armed = false,
        |object| object.callbacks = [id("awaiter")].into(),
        |object| object.listeners.clear(),
        |object| object.task.as_mut().unwrap().version += 1,
    ];
    for (round, overtaker) in overtakers.into_iter().enumerate() {
        let mut overtaken = store.begin().await.unwrap();
        overtaken.load(&everything).await.unwrap();
        change(store, "read", overtaker).await;
        let refused = overtaken.commit(&inserted([plain("late")])).await;
        let is_conflict = matches!(refused, Err(Error::Conflict(_)));
        assert!(is_conflict, "{round}: {refused:?}");
    }
    let mut overtaken = store.begin().await.unwrap();
    overtaken.load(&everything).await.unwrap();
    put_schedules(store, [schedule("s", 6)]).await;
    let refused = overtaken.commit(&inserted([plain("late")])).await;
    assert!(matches!(refused, Err(Error::Conflict(_))), "{refused:?}");
    // What was not there and has come to be.
    let mut overtaken = store.begin().await.unwrap();
    overtaken.load(&everything).await.unwrap();
    insert(store, [plain("absent")]).await;
    let refused = overtaken
        .commit(&inserted([plain("late"), plain("absent")]))
        .await;
    assert!(matches!(refused, Err(Error::Conflict(_))), "{refused:?}");
    assert_eq!(load(store, &["late"]).await, []);
    // And with nothing in between it is fine.
    let mut transaction = store.begin().await.unwrap();
    transaction.load(&everything).await.unwrap();
    transaction
        .commit(&inserted([plain("late")]))
        .await
        .unwrap();
    assert_eq!(load(store, &["late"]).await, [plain("late")]);
}

pub(crate) async fn a_refused_commit_leaves_nothing(store: &dyn Store) {
    let mut first = pending("first", "http://w/", 5);
    first.callbacks = [id("x")].into();
    insert(store, [first.clone()]).await;
    let mut changes = inserted([
        plain("new"),
        plain("first"),
        pending("newer", "http://w/", 5),
    ]);
    changes.schedules.push(ScheduleChange {
        id: id("s"),
        after: Some(Arc::new(schedule("s", 5))),
    });
    for _ in 0..3 {
        let refused = commit(store, &changes).await;
        let is_refused = matches!(refused, Err(Error::Refused(_) | Error::Conflict(_)));
        assert!(is_refused, "{refused:?}");
        let dump = store.dump().await.unwrap();
        assert_eq!(dump.objects, [first.clone()]);
        assert_eq!(dump.schedules, []);
    }
    insert(store, [plain("next")]).await;
    assert_eq!(names(&load(store, &["next", "new"]).await), ["next"]);
}

pub(crate) async fn a_dropped_transaction_leaves_nothing(store: &dyn Store) {
    for _ in 0..3 {
        let mut transaction = store.begin().await.unwrap();
        transaction.load(&need(&["a"])).await.unwrap();
    }
    let mut transaction = store.begin().await.unwrap();
    {
        let need = need(&["a", "b"]);
        polled(pin!(transaction.load(&need))).await;
    }
    transaction.commit(&inserted([plain("a")])).await.unwrap();
    assert_eq!(names(&load(store, &["a", "b"]).await), ["a"]);
}

pub(crate) async fn a_dropped_commit_is_whole_or_nothing(store: &dyn Store) {
    for round in 0..24_u64 {
        let name = |part: &str| format!("{round:02}{part}");
        let mut one = pending(name("a"), "poll://any@g", 5);
        one.callbacks = [id("x")].into();
        let changes = inserted([one, plain(name("b"))]);
        let transaction = store.begin().await.unwrap();
        {
            let mut abandoned = pin!(transaction.commit(&changes));
            for _ in 0..round {
                if polled(abandoned.as_mut()).await {
                    break;
                }
                tokio::time::sleep(Duration::from_micros(10 * round)).await;
            }
        }
        insert(store, [plain(name("c"))]).await;
        let (one, two, after) = (name("a"), name("b"), name("c"));
        let stored = load(store, &[&one, &two, &after]).await;
        match stored.len() {
            3 => assert_eq!(stored[0].callbacks, [id("x")].into()),
            1 => assert_eq!(names(&stored), [&*after]),
            other => panic!("{other} of three objects after round {round}"),
        }
    }
}

pub(crate) async fn an_empty_commit_is_fine(store: &dyn Store) {
    commit(store, &Changes::default()).await.unwrap();
    insert(store, [plain("a")]).await;
    change(store, "a", |_| {}).await;
}

pub(crate) async fn large_batches_commit_at_once(store: &dyn Store) {
    let name = |index| format!("{index:05}");
    let object = |index: i64| {
        let mut object = pending(name(index), "poll://any@g", index);
        object.promise.param = data(&"x".repeat(1000));
        object.callbacks = [id("x")].into();
        object
    };
    let objects: Vec<Object> = (0..5000).map(object).collect();
    insert(store, objects.clone()).await;
    let all: Vec<String> = (0..5000).map(name).collect();
    let all: Vec<&str> = all.iter().map(|name| &**name).collect();
    let loaded = load(store, &all).await;
    assert!(loaded == objects);
    let changes = Changes {
        objects: objects
            .into_iter()
            .map(|before| {
                let mut after = before.clone();
                settle(&mut after, 3);
                after.callbacks.clear();
                Change {
                    before: Some(Arc::new(before)),
                    after: Arc::new(after),
                }
            })
            .collect(),
        schedules: Vec::new(),
        deleted: Vec::new(),
    };
    commit(store, &changes).await.unwrap();
    let due = store.due(Millis::MAX, Queues::All, 10).await.unwrap();
    assert_eq!(due, []);
    let loaded = load(store, &["00000", "04999"]).await;
    assert!(
        loaded == [&*changes.objects[0].after, &*changes.objects[4999].after].map(Object::clone)
    );
}

pub(crate) async fn dump_is_ordered_and_whole(store: &dyn Store) {
    let mut listened = plain("b");
    listened.listeners = [(id("http://a/"), Listener::default())].into();
    insert(store, [plain("c"), listened.clone(), plain("a")]).await;
    put_schedules(store, [schedule("t", 5), schedule("s", 5)]).await;
    let dump = store.dump().await.unwrap();
    assert_eq!(dump.objects, [plain("a"), listened, plain("c")]);
    assert_eq!(dump.schedules, [schedule("s", 5), schedule("t", 5)]);
}

pub(crate) async fn reset_deletes_everything(store: &dyn Store) {
    let mut object = acquired("a", "p", 5);
    object.callbacks = [id("x")].into();
    let objects = [object, unblocking("b", "poll://any@g", 3, 5)];
    insert(store, objects.clone()).await;
    put_schedules(store, [schedule("s", 5)]).await;
    store.reset().await.unwrap();
    assert_eq!(store.dump().await.unwrap(), crate::store::Dump::default());
    let due = store.due(Millis::MAX, Queues::All, 10).await.unwrap();
    assert_eq!(due, []);
    insert(store, objects.clone()).await;
    assert_eq!(load(store, &["a", "b"]).await, objects);
}

pub(crate) async fn the_store_answers(store: &dyn Store) {
    store.ping().await.unwrap();
    insert(store, [plain("a")]).await;
    store.ping().await.unwrap();
    store.close().await;
}

/// What is about to be created need not be looked for. If it is there, the commit says so, and then it is looked for.
pub(crate) async fn what_is_created_twice_is_a_conflict_once(store: &dyn Store) {
    let births = Need {
        births: [id("a"), id("b")].into(),
        ..need(&["a", "b"])
    };
    insert(store, [plain("a")]).await;
    for round in 0..2 {
        let mut transaction = store.begin().await.unwrap();
        let loaded = transaction.load(&births).await.unwrap();
        if loaded.guessed.contains("b") {
            let created = [plain(format!("c{round}")), plain("a")];
            let refused = transaction.commit(&inserted(created)).await;
            assert!(matches!(refused, Err(Error::Conflict(_))), "{refused:?}");
            transaction = store.begin().await.unwrap();
            let loaded = transaction.load(&births).await.unwrap();
            assert_eq!(loaded.guessed, [].into());
            assert_eq!(sorted(loaded.objects), [plain("a")]);
        } else {
            assert_eq!(sorted(loaded.objects), [plain("a")]);
        }
        drop(transaction);
        for n in 0..LOOKS {
            insert(store, [plain(format!("other{round}.{n}"))]).await;
        }
    }
    let there = store.dump().await.unwrap().objects;
    assert!(names(&there).iter().all(|name| !name.starts_with('c')));
}
