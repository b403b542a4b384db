//! The same histories through every back end: each step must be answered as the model answered it,
//! with the same messages, whatever shares its commit, and the same objects must be left.

use resonate::machine::query;
use resonate::machine::workspace::{Message, Workspace};
use resonate::machine::{Config, Input, decide, missing};
use resonate::protocol::operation::Query;
use resonate::protocol::record::{Id, Millis, NEVER, PromiseState};
use resonate::protocol::reply::Reply;
use resonate::store::memory::MemoryStore;
use resonate::store::postgres::PostgresStore;
use resonate::store::sqlite::{Durability, SqliteStore};
use resonate::store::{Deadline, DeadlineKey, Dump, Need, Queues, Store, Transaction};

use super::world::{Event, Outcome, Record, World, equal};
use super::{Effort, History, STEPS, explained, explore, play};
use crate::harness::database::Database;

/// A batch that conflicts is decided anew: what it has guessed is then known.
const CONFLICTS_MAX: usize = 2;

/// How the steps of a history are put into batches.
#[derive(Clone, Copy, Debug)]
enum Batching {
    /// One commit each.
    Single,
    /// Of changing sizes; each step loads what it is missing when its turn comes.
    Mixed,
    /// Of changing sizes; what the steps are seen to need is loaded up front.
    Prefetched,
}

const BATCHINGS: [Batching; 3] = [Batching::Single, Batching::Mixed, Batching::Prefetched];

impl Batching {
    fn size(self, batches: usize) -> usize {
        match self {
            Batching::Single => 1,
            Batching::Mixed | Batching::Prefetched => [2, 5, 1, 20, 3, 60][batches % 6],
        }
    }
}

/// Replays what the model recorded.
struct Replay<'a> {
    store: &'a dyn Store,
    config: Config,
    batching: Batching,
    batches: usize,
    waiting: Vec<(&'a Record, &'a Input)>,
}

impl<'a> Replay<'a> {
    async fn run(&mut self, log: &'a [Record]) -> Outcome<()> {
        for record in log {
            match &record.event {
                Event::Input(input) => {
                    self.waiting.push((record, input));
                    if self.waiting.len() >= self.batching.size(self.batches) {
                        self.commit().await?;
                    }
                }
                Event::Query(asked) => {
                    self.commit().await?;
                    let reply = answer(self.store, asked, record.now).await?;
                    equal("the answer", &Some(reply), &record.reply)?;
                }
                Event::Take(_) | Event::Clock(_) => {}
            }
        }
        self.commit().await
    }

    async fn commit(&mut self) -> Outcome<()> {
        let batch = std::mem::take(&mut self.waiting);
        self.batches += 1;
        // Created twice: it is looked for the next time.
        for _ in 0..CONFLICTS_MAX {
            if self.attempt(&batch).await? {
                return Ok(());
            }
        }
        Err("a batch conflicts again and again, though nobody else writes".to_owned())
    }

    /// Answers whether it is committed.
    async fn attempt(&mut self, batch: &[(&Record, &Input)]) -> Outcome<bool> {
        let mut transaction = self.store.begin().await.map_err(words)?;
        let mut ws = Workspace::default();
        if matches!(self.batching, Batching::Prefetched) {
            let mut need = Need::default();
            for (record, input) in batch {
                need.extend(missing(input, record.now, &ws));
            }
            load(&mut *transaction, &mut ws, &need).await?;
        }
        let mut expected: Vec<Message> = Vec::new();
        let mut replies = Vec::new();
        for (record, input) in batch {
            loop {
                let need = missing(input, record.now, &ws);
                if need.is_empty() {
                    break;
                }
                load(&mut *transaction, &mut ws, &need).await?;
            }
            replies.push(decide(input, record.now, &mut ws, &self.config));
            expected.extend(record.messages.iter().cloned());
        }
        let (changes, messages) = ws.finish();
        match transaction.commit(&changes).await {
            Err(resonate::store::Error::Conflict(_)) => return Ok(false),
            outcome => outcome.map_err(words)?,
        }
        for ((record, input), reply) in batch.iter().zip(replies) {
            equal("the answer", &Some(reply), &record.reply)
                .map_err(|error| format!("{error}\n  to {input:?}"))?;
        }
        equal("the messages", &messages, &expected)?;
        Ok(true)
    }
}

async fn load(transaction: &mut dyn Transaction, ws: &mut Workspace, need: &Need) -> Outcome<()> {
    let loaded = transaction.load(need).await.map_err(words)?;
    ws.absorb(need, loaded);
    Ok(())
}

#[allow(
    clippy::needless_pass_by_value,
    reason = "it is what `map_err` hands over"
)]
fn words(error: resonate::store::Error) -> String {
    error.to_string()
}

async fn answer(store: &dyn Store, asked: &Query, now: Millis) -> Outcome<Reply> {
    let read = async |id: &Id| store.read(std::slice::from_ref(id)).await.map_err(words);
    Ok(match asked {
        Query::PromiseGet { id } => query::promise(read(id).await?.pop().as_deref(), now),
        Query::TaskGet { id } => query::task(read(id).await?.pop().as_deref(), now),
        Query::ScheduleGet { id } => query::schedule(store.read_schedule(id).await.map_err(words)?),
        Query::PromiseSearch(op) => {
            let mut search = query::Promises::new(op, now);
            while let Some(page) = search.page() {
                search.take(store.promises(&page).await.map_err(words)?);
            }
            search.finish()
        }
        Query::TaskSearch(op) => {
            let mut search = query::Tasks::new(op, now);
            while let Some(page) = search.page() {
                search.take(store.tasks(&page).await.map_err(words)?);
            }
            search.finish()
        }
        Query::ScheduleSearch(op) => {
            let mut search = query::Schedules::new(op);
            while let Some(page) = search.page() {
                search.take(store.schedules(&page).await.map_err(words)?);
            }
            search.finish()
        }
    })
}

/// What the model says the store must hold, and be reminded of.
fn left(world: &World) -> Dump {
    Dump {
        objects: world
            .objects
            .values()
            .map(|object| (**object).clone())
            .collect(),
        schedules: world.schedules.values().cloned().collect(),
    }
}

fn deadlines(world: &World, until: Millis) -> Vec<Deadline> {
    let mut all = Vec::new();
    let mut add = |at: Option<Millis>, key: DeadlineKey| {
        all.extend(at.filter(|at| *at <= until).map(|at| Deadline { at, key }));
    };
    for (id, object) in &world.objects {
        let key = DeadlineKey::Promise(id.clone());
        let promise = &object.promise;
        let has_timeout = object.armed && promise.state == PromiseState::Pending;
        add(has_timeout.then_some(promise.timeout_at), key.clone());
        if let Some(task) = &object.task {
            add(task.expires_at, key.clone());
            add(task.retry_at, key.clone());
        }
        for (address, listener) in &object.listeners {
            let key = DeadlineKey::Unblock(id.clone(), address.clone());
            add(listener.retry_at, key);
        }
    }
    for (id, schedule) in &world.schedules {
        add(
            Some(schedule.next_run_at),
            DeadlineKey::Schedule(id.clone()),
        );
    }
    all.sort();
    all
}

async fn agrees(store: &dyn Store, world: &World, batching: Batching) -> Outcome<()> {
    store.reset().await.map_err(words)?;
    let mut replay = Replay {
        store,
        config: world.config,
        batching,
        batches: 0,
        waiting: Vec::new(),
    };
    replay.run(&world.log).await?;
    equal(
        "what is left",
        &store.dump().await.map_err(words)?,
        &left(world),
    )?;
    for until in [world.now, world.now + 1000, NEVER - 1] {
        let mut due = store
            .due(until, Queues::All, usize::MAX)
            .await
            .map_err(words)?;
        due.sort();
        equal("what is due", &due, &deadlines(world, until))?;
    }
    Ok(())
}

/// Plays histories on the model and compares: `rounds` rounds in the short form.
fn compare(rounds: u64, store: &dyn Store, runtime: &tokio::runtime::Runtime) {
    let Effort { seed, steps } = Effort::asked();
    let rounds = rounds * steps.div_ceil(STEPS);
    let check = |history: &History| {
        let mut world = World::new(history.retry_timeout_ms);
        let played = play(&mut world, history);
        explained(&world, played)?;
        for batching in BATCHINGS {
            let outcome = runtime.block_on(agrees(store, &world, batching));
            explained(
                &world,
                outcome.map_err(|error| format!("{batching:?}: {error}")),
            )?;
        }
        Ok(())
    };
    explore(seed, |round| round >= rounds, check);
}

fn runtime() -> tokio::runtime::Runtime {
    let mut builder = tokio::runtime::Builder::new_current_thread();
    builder
        .enable_all()
        .build()
        .expect("a runtime of one thread")
}

#[test]
fn memory_answers_as_the_model_does() {
    compare(4, &MemoryStore::new(), &runtime());
}

#[test]
fn sqlite_answers_as_the_model_does() {
    // Each time from the file.
    sqlite_answers(0);
}

/// So small that it is full all the time.
#[test]
fn sqlite_with_a_cache_answers_as_the_model_does() {
    sqlite_answers(512 * 1024);
}

fn sqlite_answers(cache_bytes: usize) {
    let folder = tempfile::tempdir().expect("a store in a new folder");
    let runtime = runtime();
    let path = folder.path().join("model.db");
    let open = SqliteStore::open(&path, Durability::ProcessCrash, cache_bytes);
    let store = runtime.block_on(open).expect("a store in a new folder");
    compare(1, &store, &runtime);
    runtime.block_on(store.close());
}

#[test]
fn postgres_answers_as_the_model_does() {
    let database = Database::fresh();
    let runtime = runtime();
    // Power is not to be lost.
    let url = format!("{}&options[synchronous_commit]=off", database.url());
    let open = PostgresStore::open(&url, 2);
    let store = runtime.block_on(open).unwrap();
    compare(1, &store, &runtime);
    runtime.block_on(store.close());
}
