//! What is stored comes back, whatever is in it.

use super::*;

/// Objects that between them use every column in every way.
pub(crate) fn specimens() -> Vec<Object> {
    let mut settled = tagged("settled", &[(tag::TARGET, "poll://any@g"), ("k", "")]);
    settled.promise.state = PromiseState::RejectedTimedout;
    settled.promise.timeout_at = Millis::MAX;
    settled.promise.created_at = 0;
    settled.promise.settled_at = Some(Millis::MAX);
    settled.promise.param = data("in");
    settled.armed = true;
    settled.task = Some(Task::cleared(TaskState::Fulfilled, i64::MAX));
    settled.listeners = [
        (id("http://a/"), enqueued(0, Millis::MAX)),
        (
            id("poll://uni@g/1"),
            Listener {
                enqueued_at: Some(Millis::MAX - 1),
                retry_at: Some(9_007_199_254_740_993),
                attempts: u32::MAX,
            },
        ),
    ]
    .into();
    let mut held = acquired("held", "pid", Millis::MAX);
    held.callbacks = ["a", "b", "held.1"].map(id).into();
    held.listeners = [(id("poll://any@g"), Listener::default())].into();
    let task = held.task.as_mut().unwrap();
    task.ttl = Some(Millis::MAX);
    task.version = 9_007_199_254_740_993;
    task.resumes = ["x", "y"].map(id).into();
    task.releases = u32::MAX;
    let mut waiting = pending("waiting", "poll://any@g/x", Millis::MAX);
    waiting.task.as_mut().unwrap().offer_at = Some(Millis::MAX);
    let mut suspended = tagged("suspended", &[(tag::TARGET, "bash://")]);
    suspended.task = Some(Task::cleared(TaskState::Suspended, 7));
    let mut halted = tagged("halted", &[(tag::TARGET, "gcps://p/t")]);
    halted.task = Some(Task::cleared(TaskState::Halted, 0));
    let mut objects = vec![settled, held, waiting, suspended, halted, plain("plain")];
    for state in [
        PromiseState::Resolved,
        PromiseState::Rejected,
        PromiseState::RejectedCanceled,
    ] {
        let mut object = plain(state.as_str());
        settle(&mut object, 5);
        object.promise.state = state;
        objects.push(object);
    }
    by_id(objects)
}

pub(crate) async fn every_field_survives(store: &dyn Store) {
    let objects = specimens();
    insert(store, objects.clone()).await;
    assert_eq!(load(store, &names(&objects)).await, objects);
    assert_eq!(store.dump().await.unwrap().objects, objects);
}

pub(crate) async fn strange_texts_survive(store: &dyn Store) {
    let texts = [
        " ",
        "0",
        "007",
        "1e5",
        "9223372036854775808",
        "null",
        "true",
        "[1]",
        r#"{"a":1}"#,
        r#"""#,
        r"\",
        r"\u0041",
        "a'b--;",
        "line\nfeed\r\t",
        "\u{1}\u{8}\u{c}\u{1f}\u{7f}",
        "é",
        "e\u{301}",
        "\u{d7ff}\u{e000}\u{ffff}",
        "😀🧑‍🚀",
        "\u{feff}bom",
        "%_*?",
    ];
    let long = "x".repeat(20_000);
    let texts: Vec<&str> = texts.into_iter().chain([&*long]).collect();
    let everything: std::collections::BTreeSet<Id> = texts.iter().map(id).collect();
    let object = |text: &&str| {
        let mut object = acquired(text, text, 5);
        let mut pairs: Vec<(&str, &str)> = texts.iter().map(|t| (*t, *t)).collect();
        pairs.extend([(tag::TARGET, *text), (tag::BRANCH, *text), ("nul", "a\0b")]);
        object.promise.tags = tags(&pairs);
        object.promise.param = data(text);
        object.callbacks = everything.clone();
        object.listeners = everything
            .iter()
            .map(|address| (address.clone(), enqueued(3, 4)))
            .collect();
        object.task.as_mut().unwrap().resumes = everything.clone();
        object
    };
    let objects = by_id(texts.iter().map(object).collect());
    insert(store, objects.clone()).await;
    assert_eq!(load(store, &texts).await, objects);
    assert_eq!(store.dump().await.unwrap().objects, objects);
    for text in texts {
        let mut transaction = store.begin().await.unwrap();
        let need = Need {
            branches: [id(text)].into(),
            pids: [id(text)].into(),
            ..Need::default()
        };
        let loaded = transaction.load(&need).await.unwrap();
        assert_eq!(names(&sorted(loaded.objects)), [text]);
        assert_eq!(&*loaded.branch_members[0].id, text);
        drop(transaction);
        change(store, text, |object| {
            object.callbacks.remove(text);
            object.listeners.remove(text);
            settle(object, 9);
        })
        .await;
    }
}

pub(crate) async fn values_survive_byte_for_byte(store: &dyn Store) {
    let texts = [
        "{}",
        r#"{"headers":{}}"#,
        r#"{"data":""}"#,
        r#"{"headers":{"":""},"data":"null"}"#,
        r#"{"data":"\u00e9\/\ud83d\ude00"}"#,
        r#"{"data":"a\u0000b\"\\"}"#,
        "{ \"data\" :\n\t\"é\" }",
        r#"{"data":"x","data":"y","number":1.0e+2}"#,
    ];
    for (index, text) in texts.into_iter().enumerate() {
        let name = index.to_string();
        let value = Value::from_json(text.to_owned()).unwrap();
        let mut object = plain(&name);
        object.promise.param = value.clone();
        insert(store, [object]).await;
        change(store, &name, |object| {
            settle(object, 2);
            object.promise.value = value;
        })
        .await;
        let stored = store.read(&[id(&name)]).await.unwrap();
        assert_eq!(stored[0].promise.param.as_json(), text);
        assert_eq!(stored[0].promise.value.as_json(), text);
    }
}

pub(crate) async fn big_values_survive(store: &dyn Store) {
    let text = "x".repeat(3 << 20) + &"\"\\é".repeat(1000);
    let mut object = plain("big");
    object.promise.param = data(&text);
    insert(store, [object, plain("small")]).await;
    change(store, "big", |object| object.armed = true).await;
    change(store, "big", |object| {
        settle(object, 2);
        object.promise.value = data(&text);
    })
    .await;
    let page = store.promises(&first(2)).await.unwrap();
    let parts = page[0].value.parts().unwrap();
    assert!(parts.data.is_some_and(|data| data == text));
}

pub(crate) async fn promises_change(store: &dyn Store) {
    insert(store, [plain("a"), plain("b")]).await;
    change(store, "a", |object| object.armed = true).await;
    change(store, "a", |object| settle(object, 7)).await;
    assert_eq!(load(store, &["b"]).await, [plain("b")]);
}

pub(crate) async fn tasks_change(store: &dyn Store) {
    insert(store, [pending("a", "poll://any@g", 5)]).await;
    let set = async |task: Task| {
        change(store, "a", |object| object.task = Some(task)).await;
    };
    let lease = acquired("a", "pid", 9).task.unwrap();
    set(lease.clone()).await;
    set(Task {
        expires_at: Some(10),
        claimed_at: Some(8),
        resumes: [id("x")].into(),
        ..lease
    })
    .await;
    set(Task::cleared(TaskState::Suspended, 1)).await;
    set(Task {
        retry_at: Some(11),
        offer_at: Some(11),
        releases: 3,
        ..Task::cleared(TaskState::Pending, 1)
    })
    .await;
    set(Task::cleared(TaskState::Halted, 1)).await;
    change(store, "a", |object| settle(object, 12)).await;
}

pub(crate) async fn obligations_come_and_go(store: &dyn Store) {
    insert(store, [plain("a"), plain("b")]).await;
    change(store, "a", |object| {
        object.callbacks = ["x", "y"].map(id).into();
        object.listeners = ["http://a/", "http://b/"]
            .map(|address| (id(address), Listener::default()))
            .into();
    })
    .await;
    change(store, "a", |object| {
        object.callbacks.remove("x");
        object.callbacks.insert(id("z"));
        object
            .listeners
            .insert(id("http://c/"), Listener::default());
    })
    .await;
    change(store, "a", |object| {
        settle(object, 4);
        object.callbacks.clear();
        for listener in object.listeners.values_mut() {
            *listener = enqueued(4, 4);
        }
    })
    .await;
    change(store, "a", |object| {
        object.listeners.remove("http://b/");
        let failed = object.listeners.get_mut("http://c/").unwrap();
        failed.attempts = 2;
        failed.retry_at = Some(99);
    })
    .await;
    change(store, "a", |object| object.listeners.clear()).await;
    assert_eq!(load(store, &["b"]).await, [plain("b")]);
}

pub(crate) async fn schedules_come_change_and_go(store: &dyn Store) {
    let mut daily = schedule("daily", Millis::MAX);
    daily.promise_tags = tags(&[("a", "é"), ("b", "")]);
    daily.promise_timeout = Millis::MAX;
    put_schedules(store, [daily.clone(), schedule("other", 5)]).await;
    assert_eq!(store.read_schedule("daily").await.unwrap().unwrap(), daily);
    daily.last_run_at = Some(daily.next_run_at - 1);
    put_schedules(store, [daily.clone()]).await;
    let mut transaction = store.begin().await.unwrap();
    let need = Need {
        schedules: ["daily", "missing"].map(id).into(),
        ..Need::default()
    };
    assert_eq!(transaction.load(&need).await.unwrap().schedules, [daily]);
    let deleted = |name| ScheduleChange {
        id: id(name),
        after: None,
    };
    let changes = Changes {
        objects: Vec::new(),
        schedules: vec![deleted("daily"), deleted("missing")],
        deleted: Vec::new(),
    };
    transaction.commit(&changes).await.unwrap();
    assert_eq!(store.read_schedule("daily").await.unwrap(), None);
    assert_eq!(
        store.dump().await.unwrap().schedules,
        [schedule("other", 5)]
    );
}

pub(crate) async fn reads_find_what_is_stored(store: &dyn Store) {
    let objects = specimens();
    insert(store, objects.clone()).await;
    let names: Vec<Id> = objects.iter().map(|o| o.promise.id.clone()).collect();
    let bare = |object: Object| Object {
        callbacks: [].into(),
        listeners: [].into(),
        ..object
    };
    let expected: Vec<Object> = objects.into_iter().map(bare).collect();
    let found = read(store, &names).await;
    assert_eq!(found.into_iter().map(bare).collect::<Vec<_>>(), expected);
    let twice = store.read(&[id("held"), id("held")]).await.unwrap();
    assert_eq!(twice.len(), 1);
    // One alone may come with them.
    for expected in expected {
        let found = read(store, std::slice::from_ref(&expected.promise.id)).await;
        assert_eq!(found.into_iter().map(bare).collect::<Vec<_>>(), [expected]);
    }
}

pub(crate) async fn missing_objects_are_not_there(store: &dyn Store) {
    insert(store, [plain("a")]).await;
    assert_eq!(names(&load(store, &["a", "A", "a "]).await), ["a"]);
    assert_eq!(load(store, &[]).await, []);
    assert_eq!(read(store, &[id("b")]).await, []);
    assert_eq!(read(store, &[]).await, []);
    assert_eq!(store.read_schedule("a").await.unwrap(), None);
}
