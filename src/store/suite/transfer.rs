//! Whole databases come out as they went in, and into another.

use async_trait::async_trait;
use futures_util::TryStreamExt;

use super::*;
use crate::store::archive::{self, export, import};
use crate::store::memory::MemoryStore;
use crate::store::transfer::{Counts, Fill, Snapshot};
use crate::store::{Dump, Queues, WaitingKind};

/// Where a database can be, in the three ways in which one is opened.
#[async_trait]
pub(crate) trait Place: Send + Sync {
    /// As a server does.
    async fn store(&self) -> Arc<dyn Store>;
    /// As an export does.
    async fn snapshot(&self) -> Result<Box<dyn Snapshot>>;
    /// As an import does.
    async fn fill(&self) -> Result<Box<dyn Fill + '_>>;
}

#[async_trait]
impl Place for Arc<MemoryStore> {
    async fn store(&self) -> Arc<dyn Store> {
        self.clone()
    }

    async fn snapshot(&self) -> Result<Box<dyn Snapshot>> {
        Ok(MemoryStore::snapshot(self))
    }

    async fn fill(&self) -> Result<Box<dyn Fill + '_>> {
        MemoryStore::fill(self).await
    }
}

/// Declares one test per behaviour of a [`Place`].
macro_rules! moves {
    ($place:ident) => {
        $crate::store::suite::moves!(@each $place:
            a_snapshot_holds_everything_in_order,
            a_snapshot_stays_as_it_was,
            what_is_filled_is_found_like_what_was_written,
            nothing_is_filled_before_the_end,
            only_what_is_empty_is_filled,
            a_fill_with_less_than_expected_is_undone,
            an_archive_is_the_same_bytes_wherever_it_has_been
        );
    };
    (@each $place:ident: $($name:ident),*) => {
        $(
            #[tokio::test]
            async fn $name() {
                let place = $place().await;
                $crate::store::suite::$name(&place).await;
            }
        )*
    };
}
pub(crate) use moves;

/// Everything there may be: more than one batch of it.
fn everything() -> Changes {
    let mut objects = specimens();
    for n in 0..600 {
        objects.push(tagged(
            format!("many.{n}"),
            &[(tag::BRANCH, "b"), ("é\u{1}", "\"\n")],
        ));
    }
    objects.push(unblocking("é", "poll://any@g", 5, 7));
    objects.push(pending("Z", "poll://any@g", 9));
    let mut ended = schedule("s", crate::protocol::record::NEVER);
    ended.last_run_at = Some(4);
    ended.promise_tags = tags(&[("t", "")]);
    Changes {
        schedules: [ended, schedule("S", 3)]
            .map(|schedule| ScheduleChange {
                id: schedule.id.clone(),
                after: Some(Arc::new(schedule)),
            })
            .into(),
        ..inserted(objects)
    }
}

/// A memory store with everything.
async fn full() -> Arc<MemoryStore> {
    let store = Arc::new(MemoryStore::new());
    commit(&*store, &everything()).await.unwrap();
    store
}

async fn read_out(snapshot: &mut dyn Snapshot) -> Dump {
    Dump {
        objects: snapshot.objects().try_collect().await.unwrap(),
        schedules: snapshot.schedules().try_collect().await.unwrap(),
    }
}

async fn archived(place: &dyn Place) -> Vec<u8> {
    let mut snapshot = place.snapshot().await.unwrap();
    let mut bytes = Vec::new();
    let mut steps = (0, 0);
    let mut note = |done, total| steps = (done, total);
    let counts = export(&mut *snapshot, 1, &mut bytes, &mut note).await;
    let counts = counts.unwrap();
    let lines = counts.promises + counts.schedules;
    assert_eq!(steps, (lines, lines));
    assert_eq!(bytes.split(|byte| *byte == b'\n').count() as u64, lines + 3);
    bytes
}

pub(crate) async fn a_snapshot_holds_everything_in_order(place: &dyn Place) {
    let store = place.store().await;
    commit(&*store, &everything()).await.unwrap();
    let mut snapshot = place.snapshot().await.unwrap();
    let dump = full().await.dump().await.unwrap();
    assert_eq!(read_out(&mut *snapshot).await, dump);
    let mut counts = Counts {
        schedules: 2,
        ..Counts::default()
    };
    dump.objects.iter().for_each(|object| counts.add(object));
    assert_eq!(snapshot.counts().await.unwrap(), counts);
    assert!(counts.tasks > 5 && counts.callbacks == 3 && counts.listeners == 4);
    drop(snapshot);
    store.close().await;
}

pub(crate) async fn a_snapshot_stays_as_it_was(place: &dyn Place) {
    let store = place.store().await;
    insert(&*store, [plain("a"), plain("b")]).await;
    let mut snapshot = place.snapshot().await.unwrap();
    insert(&*store, [plain("c")]).await;
    change(&*store, "a", |object| settle(object, 7)).await;
    put_schedules(&*store, [schedule("s", 1)]).await;
    let was = Dump {
        objects: vec![plain("a"), plain("b")],
        schedules: Vec::new(),
    };
    assert_eq!(read_out(&mut *snapshot).await, was);
    assert_eq!(snapshot.counts().await.unwrap().promises, 2);
    drop(snapshot);
    store.close().await;
}

pub(crate) async fn what_is_filled_is_found_like_what_was_written(place: &dyn Place) {
    let written = full().await;
    let mut fill = place.fill().await.unwrap();
    let all = everything();
    for objects in all.objects.chunks(100) {
        fill.add(&Changes {
            objects: objects.to_vec(),
            ..Changes::default()
        })
        .await
        .unwrap();
    }
    let rest = Changes {
        schedules: all.schedules,
        ..Changes::default()
    };
    fill.add(&rest).await.unwrap();
    let counts = MemoryStore::snapshot(&written).counts().await.unwrap();
    fill.finish(&counts).await.unwrap();

    let store = place.store().await;
    assert_eq!(store.dump().await.unwrap(), written.dump().await.unwrap());
    let due = |store: Arc<dyn Store>| async move {
        let mut due = store.due(Millis::MAX, Queues::All, 10_000).await.unwrap();
        due.sort();
        due
    };
    assert_eq!(due(store.clone()).await, due(written.clone()).await);
    let queues = written.queues(WaitingKind::Any, None, 100).await.unwrap();
    assert!(!queues.is_empty());
    assert_eq!(
        store.queues(WaitingKind::Any, None, 100).await.unwrap(),
        queues
    );
    let branches = Need {
        branches: [id("b")].into(),
        ..Need::default()
    };
    let loaded = store.begin().await.unwrap().load(&branches).await.unwrap();
    assert_eq!(loaded.branch_members.len(), 600);
    // What was filled changes as everything else does.
    change(&*store, "held", |object| settle(object, 7)).await;
    put_schedules(&*store, [schedule("S", 8)]).await;
    store.close().await;
}

pub(crate) async fn nothing_is_filled_before_the_end(place: &dyn Place) {
    let mut fill = place.fill().await.unwrap();
    fill.add(&everything()).await.unwrap();
    drop(fill);
    let store = place.store().await;
    assert_eq!(store.dump().await.unwrap(), Dump::default());
    store.close().await;
    let fill = place.fill().await.unwrap();
    fill.finish(&Counts::default()).await.unwrap();
}

pub(crate) async fn only_what_is_empty_is_filled(place: &dyn Place) {
    for is_schedule in [false, true] {
        let store = place.store().await;
        store.reset().await.unwrap();
        match is_schedule {
            false => insert(&*store, [plain("p")]).await,
            true => put_schedules(&*store, [schedule("s", 1)]).await,
        }
        store.close().await;
        let refused = place.fill().await.err().expect("it is refused").to_string();
        assert!(refused.contains(" is not empty: it holds "), "{refused}");
    }
}

pub(crate) async fn a_fill_with_less_than_expected_is_undone(place: &dyn Place) {
    let mut fill = place.fill().await.unwrap();
    let batch = inserted([plain("a"), plain("b")]);
    fill.add(&batch).await.unwrap();
    let expected = Counts {
        promises: 3,
        ..Counts::default()
    };
    let refused = fill.finish(&expected).await.unwrap_err().to_string();
    assert!(refused.contains("promises: 2"), "{refused}");
    let store = place.store().await;
    assert_eq!(store.dump().await.unwrap(), Dump::default());
    store.close().await;
}

pub(crate) async fn an_archive_is_the_same_bytes_wherever_it_has_been(place: &dyn Place) {
    let written = archived(&full().await).await;
    let fill = place.fill().await.unwrap();
    let counts = import(fill, 1, &*written, &mut |_, _| {}).await.unwrap();
    assert_eq!((counts.promises, counts.schedules), (611, 2));
    assert_eq!(archived(place).await, written);

    // One that is cut off leaves nothing.
    let other = Arc::new(MemoryStore::new());
    let cut = &written[..written.len() / 2];
    let failed = import(other.fill().await.unwrap(), 1, cut, &mut |_, _| {}).await;
    assert!(matches!(failed, Err(archive::Error::Broken { .. })));
    assert_eq!(other.dump().await.unwrap(), Dump::default());
}
