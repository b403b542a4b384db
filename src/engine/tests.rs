//! The lane against a store that stalls, fails and panics on command.

use std::sync::Mutex;
use std::sync::atomic::AtomicUsize;

use async_trait::async_trait;
use tokio::sync::Semaphore;

use super::*;
use crate::protocol::operation::{PromiseCreate, PromiseSearch, PromiseSettle};
use crate::protocol::record::{Promise, PromiseState, Schedule, Tags, Value, Verdict};
use crate::protocol::reply::Refusal;
use crate::store::bus::{Bus, Subscription};
use crate::store::memory::MemoryStore;
use crate::store::{
    Deadline, Dump, Loaded, MessageKind, Need, PromisePage, QueueCursor, SchedulePage, TaskPage,
    Transaction, Waiting, WaitingCount, WaitingKind,
};

/// A memory store whose commits wait for permission and fail on command.
struct Faulty {
    inner: MemoryStore,
    /// One permit lets one commit through.
    gate: Semaphore,
    /// Commits that have reached the gate.
    arrived: AtomicUsize,
    /// Sizes of the batches committed, in objects.
    sizes: Mutex<Vec<usize>>,
    is_out: AtomicBool,
    /// So many commits are overtaken by another batch.
    overtaken: AtomicUsize,
    /// Whether there may be other servers.
    is_shared: AtomicBool,
}

/// Says nothing to nobody.
struct Silence;

#[async_trait]
impl Bus for Silence {
    async fn publish(&self, _: &[String]) -> store::Result<()> {
        Ok(())
    }
    async fn subscribe(&self) -> store::Result<Box<dyn Subscription>> {
        Err(store::Error::Unavailable("nobody".to_owned()))
    }
}

impl Faulty {
    fn new(permits: usize) -> Arc<Self> {
        Arc::new(Faulty {
            inner: MemoryStore::new(),
            gate: Semaphore::new(permits),
            arrived: AtomicUsize::new(0),
            sizes: Mutex::default(),
            is_out: AtomicBool::new(false),
            overtaken: AtomicUsize::new(0),
            is_shared: AtomicBool::new(false),
        })
    }

    async fn until_arrived(&self, commits: usize) {
        while self.arrived.load(Ordering::SeqCst) < commits {
            tokio::task::yield_now().await;
        }
    }
}

struct FaultyTransaction<'a> {
    store: &'a Faulty,
    inner: Box<dyn Transaction + 'a>,
}

#[async_trait]
impl Transaction for FaultyTransaction<'_> {
    async fn load(&mut self, need: &Need) -> store::Result<Loaded> {
        assert!(!need.objects.contains("panic"), "the test asked for it");
        self.inner.load(need).await
    }

    async fn commit(self: Box<Self>, changes: &Changes) -> store::Result<()> {
        if self.store.is_out.load(Ordering::SeqCst) {
            return Err(store::Error::Unavailable("out".to_owned()));
        }
        let one_less = |left: usize| left.checked_sub(1);
        let (always, then) = (Ordering::SeqCst, Ordering::SeqCst);
        if self
            .store
            .overtaken
            .fetch_update(always, then, one_less)
            .is_ok()
        {
            return Err(store::Error::Conflict("overtaken".to_owned()));
        }
        let is_refused = |change: &store::Change| &*change.after.promise.id == "refused";
        if changes.objects.iter().any(is_refused) {
            return Err(store::Error::Refused("as told".to_owned()));
        }
        self.store.arrived.fetch_add(1, Ordering::SeqCst);
        self.store
            .gate
            .acquire()
            .await
            .expect("never closed")
            .forget();
        self.inner.commit(changes).await?;
        let mut sizes = self.store.sizes.lock().unwrap();
        sizes.push(changes.objects.len());
        Ok(())
    }
}

#[async_trait]
impl Store for Faulty {
    fn bus(&self) -> Option<Arc<dyn Bus>> {
        let is_shared = self.is_shared.load(Ordering::SeqCst);
        is_shared.then(|| Arc::new(Silence) as Arc<dyn Bus>)
    }
    async fn begin(&self) -> store::Result<Box<dyn Transaction + '_>> {
        let inner = self.inner.begin().await?;
        Ok(Box::new(FaultyTransaction { store: self, inner }))
    }
    async fn read(&self, ids: &[Id]) -> store::Result<Vec<Object>> {
        self.inner.read(ids).await
    }
    async fn read_schedule(&self, id: &str) -> store::Result<Option<Schedule>> {
        self.inner.read_schedule(id).await
    }
    async fn promises(&self, page: &PromisePage) -> store::Result<Vec<Promise>> {
        self.inner.promises(page).await
    }
    async fn tasks(&self, page: &TaskPage) -> store::Result<Vec<Object>> {
        self.inner.tasks(page).await
    }
    async fn schedules(&self, page: &SchedulePage) -> store::Result<Vec<Schedule>> {
        self.inner.schedules(page).await
    }
    async fn due(
        &self,
        until: Millis,
        queues: Queues<'_>,
        limit: usize,
    ) -> store::Result<Vec<Deadline>> {
        self.inner.due(until, queues, limit).await
    }
    async fn waiting(
        &self,
        queue: &str,
        kind: MessageKind,
        now: Millis,
        after: Option<&QueueCursor>,
        limit: usize,
    ) -> store::Result<Vec<Waiting>> {
        self.inner.waiting(queue, kind, now, after, limit).await
    }
    async fn queues(
        &self,
        kind: WaitingKind,
        after: Option<&str>,
        limit: usize,
    ) -> store::Result<Vec<Id>> {
        self.inner.queues(kind, after, limit).await
    }
    async fn waiting_by_address(
        &self,
        queue: &str,
        now: Millis,
        limit: usize,
    ) -> store::Result<Vec<WaitingCount>> {
        self.inner.waiting_by_address(queue, now, limit).await
    }
    async fn stale_unblocks(&self, before: Millis, limit: usize) -> store::Result<Vec<(Id, Id)>> {
        self.inner.stale_unblocks(before, limit).await
    }
    async fn dump(&self) -> store::Result<Dump> {
        self.inner.dump().await
    }
    async fn reset(&self) -> store::Result<()> {
        self.inner.reset().await
    }
    async fn ping(&self) -> store::Result<()> {
        self.inner.ping().await
    }
    async fn close(&self) {
        self.inner.close().await;
    }
}

struct NoHooks;

impl Hooks for NoHooks {
    fn committed(&self, _: &Changes) {}
    fn emit(&self, _: Vec<Message>) {}
    fn reset(&self) {}
    fn paused(&self, _: bool) {}
    fn held(&self) -> Vec<Message> {
        Vec::new()
    }
}

fn engine(store: &Arc<Faulty>) -> Arc<Engine> {
    Engine::start(Options {
        store: store.clone(),
        clock: Arc::new(Clock::manual(1000)),
        config: machine::Config {
            retry_timeout_ms: 30_000,
        },
        hooks: Arc::new(NoHooks),
        request_deadline: Duration::from_secs(8),
    })
}

fn create(id: &str) -> Operation {
    Operation::Command(Command::PromiseCreate(PromiseCreate {
        id: id.into(),
        timeout_at: Millis::MAX,
        param: Value::empty(),
        tags: Tags::default(),
    }))
}

fn settle(id: &str) -> Operation {
    Operation::Command(Command::PromiseSettle(PromiseSettle {
        id: id.into(),
        state: Verdict::Resolved,
        value: Value::empty(),
    }))
}

type Answer = JoinHandle<Result<Reply, Error>>;

fn send(engine: &Arc<Engine>, operation: Operation) -> Answer {
    let engine = engine.clone();
    tokio::spawn(async move { engine.execute(operation, None, 0).await })
}

async fn settled(answer: Answer) -> Result<u16, Error> {
    let reply = answer.await.expect("a request does not panic");
    reply.map(|reply| reply.status())
}

#[tokio::test]
async fn a_lone_request_commits_at_once_and_what_arrives_meanwhile_shares_the_next() {
    let store = Faulty::new(0);
    let engine = engine(&store);
    let first = send(&engine, create("first"));
    store.until_arrived(1).await;
    let others: Vec<Answer> = (0..20)
        .map(|n| send(&engine, create(&format!("p{n}"))))
        .collect();
    // All of them are queued behind the commit in flight.
    while lock(&engine.queue).as_ref().unwrap().capacity() > QUEUE_JOBS_MAX - 20 {
        tokio::task::yield_now().await;
    }
    store.gate.add_permits(2);
    assert_eq!(settled(first).await.unwrap(), 200);
    for other in others {
        assert_eq!(settled(other).await.unwrap(), 200);
    }
    assert_eq!(*store.sizes.lock().unwrap(), [1, 20]);
}

#[tokio::test]
async fn no_reply_leaves_before_the_commit_it_rests_on() {
    let store = Faulty::new(1);
    let engine = engine(&store);
    assert_eq!(settled(send(&engine, create("p"))).await.unwrap(), 200);
    let settlement = send(&engine, settle("p"));
    store.until_arrived(2).await;
    // These see nothing of the settlement until it is committed, and are not answered before.
    let repeated = send(&engine, settle("p"));
    let refused = send(&engine, settle("unknown"));
    for _ in 0..100 {
        tokio::task::yield_now().await;
    }
    assert!(!settlement.is_finished() && !repeated.is_finished() && !refused.is_finished());
    let id: Id = "p".into();
    let read = engine
        .execute(Operation::Query(Query::PromiseGet { id }), None, 0)
        .await;
    let Ok(Reply::Promise(promise)) = read else {
        panic!("{read:?}")
    };
    assert_eq!(promise.state.as_str(), "pending");
    store.gate.add_permits(2);
    assert_eq!(settled(settlement).await.unwrap(), 200);
    assert_eq!(settled(repeated).await.unwrap(), 200);
    let refused = refused.await.unwrap().unwrap();
    assert_eq!(refused, Reply::Refused(Refusal::PromiseNotFound));
}

#[tokio::test]
async fn a_culprit_fails_alone() {
    for culprit in ["refused", "panic"] {
        let store = Faulty::new(0);
        let engine = engine(&store);
        let first = send(&engine, create("first"));
        store.until_arrived(1).await;
        let good: Vec<Answer> = (0..7)
            .map(|n| send(&engine, create(&format!("p{n}"))))
            .collect();
        let bad = send(&engine, create(culprit));
        store.gate.add_permits(100);
        assert_eq!(settled(first).await.unwrap(), 200);
        for answer in good {
            assert_eq!(settled(answer).await.unwrap(), 200);
        }
        assert!(
            matches!(settled(bad).await, Err(Error::Internal(_))),
            "{culprit}"
        );
        // The lane goes on.
        assert_eq!(settled(send(&engine, create("later"))).await.unwrap(), 200);
    }
}

#[tokio::test]
async fn a_step_that_fails_keeps_no_other_from_happening() {
    for culprit in ["refused", "panic"] {
        let store = Faulty::new(1000);
        let engine = engine(&store);
        let ids = ["a", "b", culprit, "c", "d"];
        let timed = |id: &str| {
            let mut object = store::suite::plain(id);
            object.promise.timeout_at = 500;
            object.armed = true;
            object
        };
        store::suite::insert(&store.inner, ids.map(timed)).await;
        let steps = ids.map(|id| Step::Promise(id.into()));
        engine.step(steps.into()).await.unwrap();
        let due = store.inner.due(1000, Queues::All, 9).await.unwrap();
        let due: Vec<DeadlineKey> = due.into_iter().map(|deadline| deadline.key).collect();
        assert_eq!(due, [DeadlineKey::Promise(culprit.into())]);
    }
}

#[tokio::test(start_paused = true)]
async fn a_short_outage_is_waited_out_and_a_long_one_is_unavailable() {
    let store = Faulty::new(1000);
    let engine = engine(&store);
    store.is_out.store(true, Ordering::SeqCst);
    let held = send(&engine, create("held"));
    tokio::time::sleep(Duration::from_secs(5)).await;
    assert!(!held.is_finished());
    store.is_out.store(false, Ordering::SeqCst);
    assert_eq!(settled(held).await.unwrap(), 200);

    store.is_out.store(true, Ordering::SeqCst);
    let started_at = Instant::now();
    let refused = settled(send(&engine, create("refused later"))).await;
    assert!(matches!(refused, Err(Error::Unavailable(_))), "{refused:?}");
    assert!(started_at.elapsed() <= Duration::from_secs(8));
    store.is_out.store(false, Ordering::SeqCst);
    assert_eq!(settled(send(&engine, create("after"))).await.unwrap(), 200);
}

#[tokio::test(start_paused = true)]
async fn a_commit_that_hangs_holds_nobody_beyond_the_deadline() {
    let store = Faulty::new(0);
    let engine = engine(&store);
    let hangs = send(&engine, create("a"));
    let behind = send(&engine, create("b"));
    assert!(matches!(settled(hangs).await, Err(Error::Unavailable(_))));
    assert!(matches!(settled(behind).await, Err(Error::Unavailable(_))));
    store.gate.add_permits(100);
    assert_eq!(settled(send(&engine, create("c"))).await.unwrap(), 200);
}

#[tokio::test]
async fn stopping_answers_what_is_queued_and_refuses_what_comes() {
    let store = Faulty::new(0);
    let engine = engine(&store);
    let queued = send(&engine, create("a"));
    store.until_arrived(1).await;
    let stopping = {
        let engine = engine.clone();
        tokio::spawn(async move { engine.stop().await })
    };
    store.gate.add_permits(1);
    assert_eq!(settled(queued).await.unwrap(), 200);
    stopping.await.unwrap();
    assert!(matches!(
        settled(send(&engine, create("b"))).await,
        Err(Error::Unavailable(_))
    ));
}

#[tokio::test(start_paused = true)]
async fn what_another_batch_overtook_is_decided_anew() {
    let store = Faulty::new(1000);
    let engine = engine(&store);
    store.overtaken.store(5, Ordering::SeqCst);
    let answers = ["a", "b", "c"].map(|id| send(&engine, create(id)));
    for answer in answers {
        assert_eq!(settled(answer).await.unwrap(), 200);
    }
    assert_eq!(store.overtaken.load(Ordering::SeqCst), 0);
}

#[tokio::test(start_paused = true)]
async fn who_is_overtaken_for_ever_is_told_in_time_that_it_may_try_again() {
    let store = Faulty::new(1000);
    let engine = engine(&store);
    store.overtaken.store(usize::MAX, Ordering::SeqCst);
    let started_at = Instant::now();
    let refused = settled(send(&engine, create("a"))).await;
    assert!(matches!(refused, Err(Error::Unavailable(_))), "{refused:?}");
    assert!(started_at.elapsed() <= Duration::from_secs(8));
    store.overtaken.store(0, Ordering::SeqCst);
    assert_eq!(settled(send(&engine, create("b"))).await.unwrap(), 200);
}

/// C8: where another server may yet settle a promise at an instant before its deadline, nothing is
/// answered that is not stored.
#[tokio::test]
async fn on_a_shared_store_a_deadline_is_stored_before_it_is_answered() {
    let expired = |id: &str| {
        let mut object = store::suite::plain(id);
        object.promise.timeout_at = 500;
        object
    };
    let get = Operation::Query(Query::PromiseGet { id: "p".into() });
    let search = Operation::Query(Query::PromiseSearch(PromiseSearch {
        state: None,
        tags: Tags::default(),
        limit: 10,
        cursor: None,
    }));
    for (operation, is_shared) in [
        (get.clone(), true),
        (search, true),
        (create("p"), true),
        (settle("p"), true),
        (get, false),
    ] {
        let store = Faulty::new(1000);
        store.is_shared.store(is_shared, Ordering::SeqCst);
        let engine = engine(&store);
        store::suite::insert(&store.inner, [expired("p")]).await;
        let reply = engine.execute(operation, None, 0).await.unwrap();
        let answered = match reply {
            Reply::Promise(promise) => promise,
            Reply::Promises { promises, .. } => promises[0].clone(),
            other => panic!("{other:?}"),
        };
        assert_eq!(answered.state, PromiseState::RejectedTimedout);
        let stored = store.inner.read(&["p".into()]).await.unwrap();
        let is_stored = stored[0].promise.state == PromiseState::RejectedTimedout;
        assert_eq!(is_stored, is_shared);
    }
}
