//! The lane against a store that stalls, fails and panics on command.

use std::sync::Mutex;
use std::sync::atomic::AtomicUsize;

use async_trait::async_trait;
use serde_json::json;
use tokio::sync::Semaphore;

use super::*;
use crate::protocol::operation::{PromiseCreate, PromiseSearch, PromiseSettle, TaskCreate};
use crate::protocol::record::{PromiseState, Tags, Value, Verdict};
use crate::protocol::reply::Refusal;
use crate::store::Need;
use crate::store::bus::{Bus, Subscription};
use crate::store::hooked::{Before, Hooked};

/// What happens to commits: they wait for permission, and fail on command.
struct Faulty {
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

type FaultyStore = Hooked<Faulty>;

impl Faulty {
    fn store(permits: usize) -> Arc<FaultyStore> {
        Hooked::new(Faulty {
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

#[async_trait]
impl Before for Faulty {
    fn bus(&self) -> Option<Arc<dyn Bus>> {
        let is_shared = self.is_shared.load(Ordering::SeqCst);
        is_shared.then(|| Arc::new(Silence) as Arc<dyn Bus>)
    }

    fn load(&self, need: &Need) {
        assert!(!need.objects.contains("panic"), "the test asked for it");
    }

    async fn commit(&self, changes: &Changes) -> store::Result<()> {
        if self.is_out.load(Ordering::SeqCst) {
            return Err(store::Error::Unavailable("out".to_owned()));
        }
        let one_less = |left: usize| left.checked_sub(1);
        let (always, then) = (Ordering::SeqCst, Ordering::SeqCst);
        if self.overtaken.fetch_update(always, then, one_less).is_ok() {
            return Err(store::Error::Conflict("overtaken".to_owned()));
        }
        let is_refused = |change: &store::Change| &*change.after.promise.id == "refused";
        if changes.objects.iter().any(is_refused) {
            return Err(store::Error::Refused("as told".to_owned()));
        }
        self.arrived.fetch_add(1, Ordering::SeqCst);
        self.gate.acquire().await.expect("never closed").forget();
        Ok(())
    }

    fn committed(&self, changes: &Changes) {
        self.sizes.lock().unwrap().push(changes.objects.len());
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

fn engine(store: &Arc<FaultyStore>) -> Arc<Engine> {
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
    let store = Faulty::store(0);
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
    let store = Faulty::store(1);
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
        let store = Faulty::store(0);
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
        let store = Faulty::store(1000);
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
    let store = Faulty::store(1000);
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
    let store = Faulty::store(0);
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
    let store = Faulty::store(0);
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
    let store = Faulty::store(1000);
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
    let store = Faulty::store(1000);
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
        let store = Faulty::store(1000);
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

/// Has messages of two tasks, of which one has been acquired since.
struct Holding;

impl Hooks for Holding {
    fn committed(&self, _: &Changes) {}
    fn emit(&self, _: Vec<Message>) {}
    fn reset(&self) {}
    fn paused(&self, _: bool) {}
    fn held(&self) -> Vec<Message> {
        let execute = |id: &str| Message::Execute {
            id: id.into(),
            version: 0,
            address: "poll://any@g".into(),
            offer_at: 1000,
            retry_at: Millis::MAX,
            trace: None,
            cause: None,
        };
        vec![execute("waits"), execute("taken")]
    }
}

/// `protocol.md` §11.
#[tokio::test]
async fn debug_shows_what_is_stored_and_moves_the_time() {
    let engine = Engine::start(Options {
        store: Arc::new(store::memory::MemoryStore::new()),
        clock: Arc::new(Clock::manual(1000)),
        config: machine::Config {
            retry_timeout_ms: 30_000,
        },
        hooks: Arc::new(Holding),
        request_deadline: Duration::from_secs(8),
    });
    let execute = async |operation| engine.execute(operation, None, 0).await.unwrap();
    let birth = |id: &str| {
        let tags = [("resonate:target".to_owned(), "poll://any@g".to_owned())];
        PromiseCreate {
            id: id.into(),
            timeout_at: 100_000,
            param: Value::empty(),
            tags: Tags::new(tags.into()),
        }
    };
    let listen = |awaited: &str| Command::PromiseRegisterListener {
        awaited: awaited.into(),
        address: "poll://uni@g/w".into(),
    };
    for command in [
        Command::PromiseCreate(birth("waits")),
        Command::TaskCreate(TaskCreate {
            pid: "p".into(),
            ttl: 500,
            action: birth("taken"),
        }),
        Command::PromiseRegisterCallback {
            awaited: "taken".into(),
            awaiter: "waits".into(),
        },
        listen("waits"),
    ] {
        execute(Operation::Command(command)).await;
    }
    execute(create("over")).await;
    execute(Operation::Command(listen("over"))).await;
    execute(Operation::Command(Command::PromiseSettle(PromiseSettle {
        id: "over".into(),
        state: Verdict::Resolved,
        value: Value::empty(),
    })))
    .await;
    let snap = async || match execute(Operation::Debug(Debug::Snap)).await {
        Reply::Snap(snap) => serde_json::to_value(&snap).unwrap(),
        other => panic!("{other:?}"),
    };

    let shown = snap().await;
    let ids = |list: &serde_json::Value| {
        let list = list.as_array().unwrap().iter();
        list.map(|one| one["id"].as_str().unwrap().to_owned())
            .collect::<Vec<_>>()
    };
    assert_eq!(ids(&shown["promises"]), ["over", "taken", "waits"]);
    assert_eq!(
        shown["promiseTimeouts"],
        json!([{"id": "taken", "timeout": 100_000}, {"id": "waits", "timeout": 100_000}])
    );
    assert_eq!(
        shown["callbacks"],
        json!([{"awaiter": "waits", "awaited": "taken"}])
    );
    assert_eq!(
        shown["listeners"],
        json!([{"id": "waits", "address": "poll://uni@g/w"}])
    );
    let states = shown["tasks"].as_array().unwrap();
    let states: Vec<_> = states.iter().map(|task| &task["state"]).collect();
    assert_eq!(states, ["acquired", "pending"]);
    assert_eq!(
        shown["taskTimeouts"],
        json!([
            {"id": "taken", "type": 1, "timeout": 1500},
            {"id": "waits", "type": 0, "timeout": 31_000},
        ])
    );
    let subjects: Vec<_> = shown["messages"].as_array().unwrap().iter().collect();
    assert_eq!(subjects.len(), 2, "{subjects:?}");
    assert_eq!(
        subjects[0]["message"]["data"]["promise"]["state"],
        "resolved"
    );
    assert_eq!(
        subjects[1]["message"]["data"]["task"],
        json!({"id": "waits", "version": 0})
    );

    // The lease has run out, then the deadlines.
    execute(Operation::Debug(Debug::Tick { time: 1500 })).await;
    let shown = snap().await;
    assert_eq!(shown["tasks"][0]["state"], "pending");
    execute(Operation::Debug(Debug::Tick { time: 100_000 })).await;
    let shown = snap().await;
    let settled = shown["promises"].as_array().unwrap().iter();
    let settled: Vec<_> = settled.map(|promise| &promise["state"]).collect();
    assert_eq!(
        settled,
        ["resolved", "rejected_timedout", "rejected_timedout"]
    );
    assert_eq!(shown["promiseTimeouts"], json!([]));

    execute(Operation::Debug(Debug::Start)).await;
    assert!(engine.is_paused());
    execute(Operation::Debug(Debug::Stop)).await;
    assert!(!engine.is_paused());
    execute(Operation::Debug(Debug::Reset)).await;
    assert_eq!(snap().await["promises"], json!([]));
}
