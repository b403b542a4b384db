//! What is over is deleted, and found before.

use super::*;
use crate::store::{Outline, OutlinePage, PromisePage, Queues};

fn deleted(objects: Vec<Arc<Object>>) -> Changes {
    Changes {
        deleted: objects,
        ..Changes::default()
    }
}

fn trees(roots: &[&str]) -> Need {
    Need {
        trees: roots.iter().map(id).collect(),
        ..Need::default()
    }
}

fn ended(name: &str) -> Object {
    let pairs = [(tag::TARGET, "poll://any@g"), (tag::BRANCH, "root")];
    let mut object = tagged(name, &pairs);
    object.task = Some(Task::cleared(TaskState::Fulfilled, 1));
    settle(&mut object, 5);
    object
}

pub(crate) async fn what_is_deleted_is_gone(store: &dyn Store) {
    let mut owing = ended("root.1");
    owing.callbacks = [id("x"), id("y")].into();
    owing.listeners = [(id("http://a/"), enqueued(1, 2))].into();
    insert(
        store,
        [ended("root"), owing, ended("root.2"), plain("other")],
    )
    .await;
    // So that what a back end remembers is gone as well.
    load(store, &["root", "root.1"]).await;
    let mut transaction = store.begin().await.unwrap();
    let loaded = transaction.load(&trees(&["root"])).await.unwrap();
    let kept: Vec<Arc<Object>> = sorted(loaded.objects)
        .into_iter()
        .filter(|object| &*object.promise.id != "root.2")
        .map(Arc::new)
        .collect();
    transaction.commit(&deleted(kept)).await.unwrap();

    assert_eq!(load(store, &["root", "root.1"]).await, []);
    assert_eq!(read(store, &[id("root"), id("root.1")]).await, []);
    let dump = store.dump().await.unwrap();
    assert_eq!(names(&dump.objects), ["other", "root.2"]);
    let page = PromisePage {
        state: None,
        or_due: None,
        tags: Tags::default(),
        after: None,
        limit: 10,
    };
    assert_eq!(store.promises(&page).await.unwrap().len(), 2);
    assert_eq!(store.callbacks(None, 10).await.unwrap(), []);
    let due = store.due(Millis::MAX, Queues::All, 10).await.unwrap();
    assert_eq!(due, []);
    let mut transaction = store.begin().await.unwrap();
    let need = Need {
        branches: [id("root")].into(),
        ..Need::default()
    };
    let members = transaction.load(&need).await.unwrap().branch_members;
    assert_eq!(members.len(), 1);
    drop(transaction);

    // The id is free again.
    insert(store, [pending("root", "poll://any@g", 7)]).await;
    let anew = load(store, &["root"]).await;
    assert_eq!(anew, [pending("root", "poll://any@g", 7)]);
}

pub(crate) async fn trees_load_what_is_below_their_roots(store: &dyn Store) {
    let members = ["t", "t.", "t.0", "t.0:1.2", "t:", "t:z"];
    let others = ["s", "t!", "t-1", "t/", "t0", "t;", "tt", "tt.0", "u.t"];
    insert(store, members.iter().chain(&others).map(plain)).await;
    let mut transaction = store.begin().await.unwrap();
    let loaded = transaction.load(&trees(&["t", "absent"])).await.unwrap();
    assert!(!loaded.are_trees_cut);
    assert_eq!(names(&sorted(loaded.objects)), members);
    // One tree may be in another, and an id be wanted for itself as well.
    let need = Need {
        objects: [id("t.0"), id("s")].into(),
        ..trees(&["t.0", "t:", "t.0:1"])
    };
    let loaded = transaction.load(&need).await.unwrap();
    let found = sorted(loaded.objects);
    assert_eq!(names(&found), ["s", "t.0", "t.0:1.2", "t:"]);
}

pub(crate) async fn trees_too_large_to_load_say_so(store: &dyn Store) {
    let many = crate::store::TREES_MAX + 1;
    insert(store, (0..many).map(|n| plain(format!("large.{n}")))).await;
    insert(store, [plain("small")]).await;
    let mut transaction = store.begin().await.unwrap();
    let loaded = transaction.load(&trees(&["large"])).await.unwrap();
    assert!(loaded.are_trees_cut && loaded.objects.is_empty());
    let loaded = transaction.load(&trees(&["small"])).await.unwrap();
    assert!(!loaded.are_trees_cut && loaded.objects.len() == 1);
}

pub(crate) async fn outlines_come_in_pages(store: &dyn Store) {
    let mut told = acquired("b", "pid", FAR);
    told.task.as_mut().unwrap().resumes = [id("x"), id("y")].into();
    let mut large = ended("c");
    large.promise.param = data("large");
    insert(store, [plain("a"), told.clone(), large.clone(), plain("d")]).await;
    let outline = |object: &Object| Outline {
        promise: Promise {
            param: Value::empty(),
            value: Value::empty(),
            ..object.promise.clone()
        },
        resumes: object
            .task
            .iter()
            .flat_map(|task| task.resumes.clone())
            .collect(),
    };
    let all = [plain("a"), told, large, plain("d")];
    let all: Vec<Outline> = all.iter().map(outline).collect();
    let page = |from: &str, after: Option<&str>, until: Option<&str>, limit| OutlinePage {
        from: from.to_owned(),
        after: after.map(id),
        until: until.map(str::to_owned),
        limit,
    };
    for (page, expected) in [
        (page("", None, None, 9), &all[..]),
        (page("", None, None, 2), &all[..2]),
        (page("", Some("b"), None, 9), &all[2..]),
        (page("b", None, Some("d"), 9), &all[1..3]),
        (page("b", Some("b"), Some("d"), 9), &all[2..3]),
        (page("b", Some("a"), Some("c"), 9), &all[1..2]),
        (page("x", None, Some("y"), 9), &[]),
    ] {
        assert_eq!(store.outlines(&page).await.unwrap(), expected, "{page:?}");
    }
}

pub(crate) async fn callbacks_come_in_pages(store: &dyn Store) {
    let mut objects = [plain("a"), plain("b"), plain("c")];
    objects[0].callbacks = ["y", "x"].map(id).into();
    objects[2].callbacks = ["w", "z"].map(id).into();
    insert(store, objects).await;
    let pair = |awaited, awaiter| (id(awaited), id(awaiter));
    let all = [
        pair("a", "x"),
        pair("a", "y"),
        pair("c", "w"),
        pair("c", "z"),
    ];
    assert_eq!(store.callbacks(None, 9).await.unwrap(), all);
    assert_eq!(store.callbacks(None, 3).await.unwrap(), all[..3]);
    let after = store.callbacks(Some(&all[1]), 9).await.unwrap();
    assert_eq!(after, all[2..]);
    assert_eq!(store.callbacks(Some(&all[3]), 9).await.unwrap(), []);
}
