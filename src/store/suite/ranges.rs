//! What is stored is found: pages, deadlines, queues, groups.

use super::*;
use crate::store::{
    Deadline, DeadlineKey, Kind, MessageKind, PromisePage, QueueCursor, Queues, SchedulePage,
    TaskPage, Waiting, WaitingCount, WaitingKind,
};

pub(super) fn first(limit: usize) -> PromisePage {
    PromisePage {
        state: None,
        or_due: None,
        tags: Tags::default(),
        after: None,
        limit,
    }
}

async fn found(store: &dyn Store, page: PromisePage) -> Vec<String> {
    let promises = store.promises(&page).await.unwrap();
    promises.iter().map(|p| p.id.to_string()).collect()
}

pub(crate) async fn promise_pages_are_bytewise_and_exclusive(store: &dyn Store) {
    let mut all = [
        "Z", "a", "a.1", "a.10", "a.2", "a:1", "b", "é", "\u{e000}", "😀",
    ];
    insert(store, all.map(plain)).await;
    all.sort_unstable_by_key(|name| name.as_bytes());
    assert_eq!(found(store, first(100)).await, all);
    let mut seen = Vec::new();
    let mut page = first(3);
    loop {
        let more = found(store, page.clone()).await;
        let Some(last) = more.last() else { break };
        page.after = Some(id(last));
        seen.extend(more);
    }
    assert_eq!(seen, all);
    page.after = Some(id("a.15"));
    assert_eq!(found(store, page.clone()).await, ["a.2", "a:1", "b"]);
    page.limit = 0;
    assert!(found(store, page).await.is_empty());
}

pub(crate) async fn promise_pages_filter_by_state_and_deadline(store: &dyn Store) {
    let mut late = plain("late");
    late.promise.timeout_at = 50;
    let mut done = plain("done");
    settle(&mut done, 5);
    insert(store, [late, done, plain("open")]).await;
    let mut page = first(10);
    page.state = Some(PromiseState::Pending);
    assert_eq!(found(store, page.clone()).await, ["late", "open"]);
    page.state = Some(PromiseState::Resolved);
    assert_eq!(found(store, page.clone()).await, ["done"]);
    page.or_due = Some(49);
    assert_eq!(found(store, page.clone()).await, ["done"]);
    page.or_due = Some(50);
    assert_eq!(found(store, page.clone()).await, ["done", "late"]);
    page.state = Some(PromiseState::RejectedTimedout);
    assert_eq!(found(store, page.clone()).await, ["late"]);
    page.state = None;
    assert_eq!(found(store, page).await, ["done", "late", "open"]);
}

pub(crate) async fn promise_pages_filter_by_tags(store: &dyn Store) {
    let odd = r#"q"\'é"#;
    insert(
        store,
        [
            plain("a"),
            tagged("b", &[("k", "v")]),
            tagged("c", &[("k", "v"), ("l", odd)]),
            tagged("d", &[("k", "V"), ("l", "")]),
            tagged("e", &[(odd, "a\0b"), ("n", "1")]),
        ],
    )
    .await;
    let with = async |pairs: &[(&str, &str)]| {
        let mut page = first(10);
        page.tags = tags(pairs);
        found(store, page).await
    };
    assert_eq!(with(&[("k", "v")]).await, ["b", "c"]);
    assert_eq!(with(&[("k", "v"), ("l", odd)]).await, ["c"]);
    assert_eq!(with(&[("l", "")]).await, ["d"]);
    assert_eq!(with(&[(odd, "a\0b")]).await, ["e"]);
    assert!(with(&[(odd, "a")]).await.is_empty());
    assert!(with(&[("k", "v"), ("x", "")]).await.is_empty());
    let mut page = first(1);
    page.tags = tags(&[("k", "v")]);
    page.after = Some(id("b"));
    page.state = Some(PromiseState::Pending);
    assert_eq!(found(store, page).await, ["c"]);
}

pub(crate) async fn task_pages_show_tasks_only(store: &dyn Store) {
    let mut late = acquired("c", "p", 9);
    late.promise.timeout_at = 50;
    late.callbacks = [id("x")].into();
    insert(
        store,
        [
            plain("a"),
            pending("b", "bash:///w", 5),
            late,
            acquired("d", "p", 9),
        ],
    )
    .await;
    let page = async |state, or_due, after: Option<&str>, limit| {
        let page = TaskPage {
            state,
            or_due,
            after: after.map(id),
            limit,
        };
        let tasks = store.tasks(&page).await.unwrap();
        assert!(tasks.iter().all(|o| o.task.is_some() && !o.is_obligated()));
        names(&tasks).join(" ")
    };
    assert_eq!(page(None, None, None, 10).await, "b c d");
    assert_eq!(page(None, None, Some("b"), 1).await, "c");
    assert_eq!(page(Some(TaskState::Acquired), None, None, 10).await, "c d");
    let fulfilled = Some(TaskState::Fulfilled);
    assert_eq!(page(fulfilled, Some(49), None, 10).await, "");
    assert_eq!(page(fulfilled, Some(50), None, 10).await, "c");
}

pub(crate) async fn schedule_pages_filter_by_tags(store: &dyn Store) {
    let with = |name, pairs: &[(&str, &str)]| Schedule {
        promise_tags: tags(pairs),
        ..schedule(name, 5)
    };
    let all = [
        with("a", &[]),
        with("b", &[("k", "v")]),
        with("c", &[("k", "v"), ("l", "")]),
    ];
    put_schedules(store, all.clone()).await;
    let page = async |pairs: &[(&str, &str)], after: Option<&str>, limit| {
        let page = SchedulePage {
            tags: tags(pairs),
            after: after.map(id),
            limit,
        };
        store.schedules(&page).await.unwrap()
    };
    assert_eq!(page(&[], None, 10).await, all);
    assert_eq!(page(&[], Some("a"), 1).await, all[1..2]);
    assert_eq!(page(&[("k", "v")], None, 10).await, all[1..]);
    assert_eq!(page(&[("l", "")], Some("a"), 10).await, all[2..]);
}

fn deadline(at: Millis, key: DeadlineKey) -> Deadline {
    Deadline { at, key }
}

/// One object or schedule per reason to be woken, at 10, 20, … 80; `nowhere:…` has no queue.
async fn one_deadline_each(store: &dyn Store) -> Vec<Deadline> {
    let mut timer = plain("timer");
    timer.armed = true;
    timer.promise.timeout_at = 10;
    let mut unarmed = plain("unarmed");
    unarmed.promise.timeout_at = 15;
    let mut listened = plain("listened");
    listened.listeners = [(id("nowhere:l"), Listener::default())].into();
    insert(
        store,
        [
            timer,
            unarmed,
            listened,
            acquired("leased", "p", 20),
            pending("retried", "nowhere:w", 30),
            pending("queued", "poll://any@g", 40),
            pending("named", "poll://uni@g/1", 50),
            unblocking("told", "nowhere:l", 3, 60),
            unblocking("heard", "poll://any@h/x", 3, 70),
        ],
    )
    .await;
    put_schedules(store, [schedule("cron", 80), schedule("never", FAR)]).await;
    let promise = |at, name| deadline(at, DeadlineKey::Promise(id(name)));
    let unblock = |at, name, address| deadline(at, DeadlineKey::Unblock(id(name), id(address)));
    vec![
        promise(10, "timer"),
        promise(20, "leased"),
        promise(30, "retried"),
        promise(40, "queued"),
        promise(50, "named"),
        unblock(60, "told", "nowhere:l"),
        unblock(70, "heard", "poll://any@h/x"),
        deadline(80, DeadlineKey::Schedule(id("cron"))),
    ]
}

pub(crate) async fn deadlines_come_in_order(store: &dyn Store) {
    let all = one_deadline_each(store).await;
    let due = async |until, limit| store.due(until, Queues::All, limit).await.unwrap();
    assert_eq!(due(100, 100).await, all);
    assert_eq!(due(80, 100).await, all);
    assert_eq!(due(79, 100).await, all[..7]);
    assert_eq!(due(100, 5).await, all[..5]);
    assert!(due(100, 0).await.is_empty() && due(9, 100).await.is_empty());
    // The promises of the four tasks have timeouts too, and a schedule that never runs still sorts.
    let late = due(Millis::MAX, 100).await;
    assert_eq!(late.len(), all.len() + 5);
    assert!(late.is_sorted());
}

pub(crate) async fn deadlines_of_unheard_queues_stay_out(store: &dyn Store) {
    let all = one_deadline_each(store).await;
    let heard = async |queues: &[&str]| {
        let queues: Vec<Id> = queues.iter().map(id).collect();
        store.due(100, Queues::Only(&queues), 100).await.unwrap()
    };
    let without = |missing: &[usize]| {
        let kept = all.iter().enumerate();
        kept.filter(|(index, _)| !missing.contains(index))
            .map(|(_, deadline)| deadline.clone())
            .collect::<Vec<_>>()
    };
    assert_eq!(heard(&[]).await, without(&[3, 4, 6]));
    assert_eq!(heard(&["any@g"]).await, without(&[4, 6]));
    assert_eq!(heard(&["uni@g/1", "uni@g/1", "x"]).await, without(&[3, 6]));
    assert_eq!(heard(&["any@h", "any@g", "uni@g/1"]).await, all);
}

/// Ends every object that wants a step; back ends with indexes of their own look at them afterwards.
pub(crate) async fn ended_objects_have_no_deadlines(store: &dyn Store) {
    one_deadline_each(store).await;
    for name in [
        "timer", "unarmed", "listened", "leased", "retried", "queued", "named",
    ] {
        change(store, name, |object| {
            settle(object, 9);
            object.listeners.clear();
        })
        .await;
    }
    for name in ["told", "heard"] {
        change(store, name, |object| object.listeners.clear()).await;
    }
    let deleted = |name| ScheduleChange {
        id: id(name),
        after: None,
    };
    let changes = Changes {
        objects: Vec::new(),
        schedules: vec![deleted("cron"), deleted("never")],
        deleted: Vec::new(),
    };
    commit(store, &changes).await.unwrap();
    let due = store.due(Millis::MAX, Queues::All, 100).await.unwrap();
    assert_eq!(due, []);
    let stale = store.stale_unblocks(Millis::MAX, 100).await.unwrap();
    assert_eq!(stale, []);
}

/// Tasks and unblocks in several queues.
async fn insert_waiting(store: &dyn Store) {
    let mut twice = unblocking("d", "poll://any@g", 3, 20);
    let other = id("poll://any@g/b");
    twice.listeners.insert(other, enqueued(2, 20));
    insert(
        store,
        [
            pending("a", "poll://any@g", 30),
            pending("b", "poll://any@g/x", 10),
            pending("c", "poll://any@g", 20),
            twice,
            unblocking("e", "poll://uni@g/1", 3, 10),
            pending("elsewhere", "poll://any@h", 10),
            pending("script", "bash:///w", 10),
            acquired("held", "p", 10),
        ],
    )
    .await;
}

pub(crate) async fn queues_that_messages_wait_in_are_found(store: &dyn Store) {
    insert_waiting(store).await;
    let found = async |kind, after, limit| {
        let queues = store.queues(kind, after, limit).await.unwrap();
        queues.join(" ")
    };
    let all = "any@g any@h bash uni@g/1";
    assert_eq!(found(WaitingKind::Any, None, 10).await, all);
    assert_eq!(found(WaitingKind::Any, None, 2).await, "any@g any@h");
    let behind = Some("any@h");
    assert_eq!(found(WaitingKind::Any, behind, 10).await, "bash uni@g/1");
    let of_tasks = "any@g any@h bash";
    assert_eq!(found(WaitingKind::Execute, None, 10).await, of_tasks);
    assert_eq!(found(WaitingKind::Execute, behind, 10).await, "bash");
    assert_eq!(found(WaitingKind::Any, Some("uni@g/1"), 10).await, "");
}

pub(crate) async fn waiting_messages_are_counted_by_address(store: &dyn Store) {
    insert_waiting(store).await;
    let counted = async |now, limit| {
        let counts = store.waiting_by_address("any@g", now, limit);
        let mut counts = counts.await.unwrap();
        counts.sort_by(|one, other| one.address.cmp(&other.address));
        let text = |count: &WaitingCount| {
            let address = count.address.trim_start_matches("poll://any@");
            format!(
                "{address} {}+{} {}",
                count.executes, count.unblocks, count.since
            )
        };
        counts.iter().map(text).collect::<Vec<_>>().join(", ")
    };
    let offered = offer_at_of(store, "a").await;
    assert_eq!(
        counted(100, 10).await,
        format!("g 2+1 {}, g/b 0+1 2, g/x 1+0 {offered}", offered.min(3))
    );
    assert_eq!(counted(offered.min(2) - 1, 10).await, "");
    // The first by retry instant: b, and one of d's.
    let first = counted(100, 1).await;
    assert!(
        first.contains("g/x 1+0") && !first.contains("2+"),
        "{first}"
    );
    assert!(
        store
            .waiting_by_address("none", 100, 10)
            .await
            .unwrap()
            .is_empty()
    );
}

pub(crate) async fn states_are_counted_in_pages(store: &dyn Store) {
    let mut settled = plain("b");
    settled.promise.state = PromiseState::Resolved;
    settled.promise.settled_at = Some(3);
    let objects = [
        plain("a"),
        settled,
        pending("c", "bash:///w", 5),
        acquired("d", "p", 9),
        plain("e"),
    ];
    insert(store, objects).await;
    put_schedules(store, [schedule("s", 5), schedule("t", 5)]).await;
    let page = async |kind, after, limit| {
        let page = store.count_by_state(kind, after, limit).await.unwrap();
        let count = |(state, count)| format!("{state} {count}");
        let counts: Vec<String> = page.by_state.into_iter().map(count).collect();
        (
            counts.join(", "),
            page.last.map_or(String::new(), |last| last.to_string()),
        )
    };
    let expect = |counts: &str, last: &str| (counts.to_owned(), last.to_owned());
    let all = page(Kind::Promise, None, 10).await;
    assert_eq!(all, expect("pending 4, resolved 1", "e"));
    let first = page(Kind::Promise, None, 2).await;
    assert_eq!(first, expect("pending 1, resolved 1", "b"));
    let rest = page(Kind::Promise, Some("b"), 10).await;
    assert_eq!(rest, expect("pending 3", "e"));
    let tasks = page(Kind::Task, None, 10).await;
    assert_eq!(tasks, expect("acquired 1, pending 1", "d"));
    let schedules = page(Kind::Schedule, Some("s"), 10).await;
    assert_eq!(schedules, expect("active 1", "t"));
    for kind in Kind::ALL {
        assert_eq!(page(kind, Some("x"), 10).await, expect("", ""));
    }
}

async fn offer_at_of(store: &dyn Store, name: &str) -> Millis {
    let objects = store.read(&[id(name)]).await.unwrap();
    let task = objects[0].task.as_ref().unwrap();
    task.offer_at.unwrap()
}

pub(crate) async fn waiting_messages_come_in_pages(store: &dyn Store) {
    let address = "poll://any@g";
    let mut twice = unblocking("d", address, 3, 20);
    twice
        .listeners
        .insert(id("poll://any@g/b"), enqueued(3, 20));
    insert(
        store,
        [
            pending("a", address, 30),
            pending("b", "poll://any@g/x", 10),
            pending("c", address, 20),
            twice,
            unblocking("e", address, 3, 10),
            pending("elsewhere", "poll://any@h", 10),
            pending("named", "poll://uni@g/1", 10),
            pending("script", "bash:///w", 10),
            acquired("held", "p", 10),
        ],
    )
    .await;
    for (kind, expected) in [
        (MessageKind::Execute, &["b 10", "c 20", "a 30"][..]),
        (MessageKind::Unblock, &["e 10", "d 20", "d 20"]),
    ] {
        for limit in [1, 2, 3, 100] {
            let mut seen = Vec::new();
            let mut after: Option<QueueCursor> = None;
            loop {
                let page = store.waiting("any@g", kind, 100, after.as_ref(), limit);
                let page = page.await.unwrap();
                assert!(page.len() <= limit);
                let Some(last) = page.last() else { break };
                after = Some(last.position());
                for message in &page {
                    let (at, name, _) = message.position();
                    seen.push(format!("{name} {at}"));
                }
            }
            assert_eq!(seen, expected, "in pages of {limit}");
        }
    }
    let all = async |queue, kind| store.waiting(queue, kind, 100, None, 100).await.unwrap();
    let execute = Waiting::Execute {
        id: id("b"),
        version: 0,
        address: id("poll://any@g/x"),
        retry_at: 10,
        trace: Some(trace()),
    };
    assert_eq!(all("any@g", MessageKind::Execute).await[0], execute);
    let unblock = Waiting::Unblock {
        promise: unblocking("e", address, 3, 10).promise,
        address: id(address),
        retry_at: 10,
        is_backing_off: false,
    };
    assert_eq!(all("any@g", MessageKind::Unblock).await[0], unblock);
    assert_eq!(all("any@x", MessageKind::Execute).await, []);
}

pub(crate) async fn messages_not_yet_offered_do_not_wait(store: &dyn Store) {
    let mut delayed = pending("delayed", "poll://any@g", 90);
    delayed.task.as_mut().unwrap().offer_at = Some(50);
    insert(store, [delayed, unblocking("e", "poll://any@g", 50, 80)]).await;
    for kind in [MessageKind::Execute, MessageKind::Unblock] {
        let waiting = async |now| store.waiting("any@g", kind, now, None, 9).await.unwrap();
        assert_eq!(waiting(49).await, []);
        assert_eq!(waiting(50).await.len(), 1);
    }
}

pub(crate) async fn stale_unblocks_are_found_by_age(store: &dyn Store) {
    let mut open = plain("open");
    open.listeners = [(id("http://a/"), Listener::default())].into();
    insert(
        store,
        [
            open,
            unblocking("new", "http://a/", 30, 31),
            unblocking("b", "http://a/", 20, FAR),
            unblocking("a", "poll://any@g", 20, 20),
            unblocking("old", "http://a/", 10, 40),
        ],
    )
    .await;
    let stale = async |before, limit| {
        let stale = store.stale_unblocks(before, limit).await.unwrap();
        let name = |(name, address): &(Id, Id)| format!("{name} {address}");
        stale.iter().map(name).collect::<Vec<_>>()
    };
    let all = ["old http://a/", "a poll://any@g", "b http://a/"];
    assert_eq!(stale(20, 10).await, all);
    assert_eq!(stale(20, 2).await, all[..2]);
    assert!(stale(9, 10).await.is_empty());
}

pub(crate) async fn branches_load_their_members(store: &dyn Store) {
    let member = |name, branch| tagged(name, &[(tag::BRANCH, branch)]);
    insert(
        store,
        [
            member("a", "x"),
            member("b", "x"),
            member("c", "y"),
            member("d", ""),
            plain("x"),
        ],
    )
    .await;
    let mut transaction = store.begin().await.unwrap();
    let mut members = async |branches: &[&str]| {
        let need = Need {
            branches: branches.iter().map(id).collect(),
            ..Need::default()
        };
        let loaded = transaction.load(&need).await.unwrap();
        assert!(loaded.objects.is_empty());
        let mut names: Vec<String> = loaded
            .branch_members
            .iter()
            .map(|promise| promise.id.to_string())
            .collect();
        names.sort_unstable();
        names.join(" ")
    };
    assert_eq!(members(&["x"]).await, "a b");
    assert_eq!(members(&["x", "y", "z"]).await, "a b c");
    assert_eq!(members(&[""]).await, "");
}

pub(crate) async fn processes_load_what_they_hold(store: &dyn Store) {
    let mut held = acquired("held", "p", 5);
    held.callbacks = [id("x")].into();
    insert(
        store,
        [
            held.clone(),
            acquired("b", "p", 6),
            acquired("c", "q", 5),
            plain("p"),
        ],
    )
    .await;
    let all = async |objects: &[&str], pids: &[&str]| {
        let mut transaction = store.begin().await.unwrap();
        let need = Need {
            objects: objects.iter().map(id).collect(),
            pids: pids.iter().map(id).collect(),
            ..Need::default()
        };
        sorted(transaction.load(&need).await.unwrap().objects)
    };
    let of_p = all(&[], &["p", "x"]).await;
    assert_eq!(of_p, [acquired("b", "p", 6), held]);
    assert_eq!(
        names(&all(&["b", "p"], &["p", "q"]).await),
        ["b", "c", "held", "p"]
    );
    change(store, "held", |object| settle(object, 5)).await;
    assert_eq!(names(&all(&[], &["p"]).await), ["b"]);
}
