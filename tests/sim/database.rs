//! The storage: what `MemoryStore` keeps, behind a network, with the faults of the weather. Several nodes may
//! share it, and then commits are refused that rest on what another has changed, as on PostgreSQL.
//!
//! Each node has a handle of its own, which dies with it: a call that is under way then never returns, and a
//! commit has reached the storage or has not.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use async_trait::async_trait;
use resonate::machine::Input;
use resonate::machine::object::Object;
use resonate::protocol::record::{Id, Millis, Promise, Schedule};
use resonate::protocol::reply::Reply;
use resonate::store::bus::Bus;
use resonate::store::memory::MemoryStore;
use resonate::store::{
    Changes, Deadline, Dump, Error, Kind, Loaded, MessageKind, Need, Outline, OutlinePage,
    PromisePage, QueueCursor, Queues, Result, SchedulePage, StateCounts, Store, TaskPage,
    Transaction, Waiting, WaitingCount, WaitingKind,
};
use tokio::sync::{Notify, Semaphore, SemaphorePermit};
use tokio::task::coop::unconstrained;
use tokio::time::{Instant, sleep, sleep_until, timeout};

use super::audit::{Decision, check_commit};
use super::bus::SimBus;
use super::history::Seq;
use super::sim::Sim;
use crate::harness::server::lock;

/// How long a connection is waited on.
const PATIENCE: Duration = Duration::from_secs(11);
/// Calls of the storage within one millisecond: somebody does not wait for anything.
const CALLS_PER_MS_MAX: u32 = 5000;

/// Whether a process lives.
#[derive(Default)]
pub struct Life {
    is_over: AtomicBool,
    over: Notify,
}

impl Life {
    pub fn end(&self) {
        self.is_over.store(true, Ordering::Relaxed);
        self.over.notify_waiters();
    }

    pub fn is_over(&self) -> bool {
        self.is_over.load(Ordering::Relaxed)
    }

    pub async fn until_over(&self) {
        let over = self.over.notified();
        if !self.is_over() {
            over.await;
        }
    }
}

/// The data, which outlive all nodes.
pub struct Database {
    pub sim: Arc<Sim>,
    pub inner: MemoryStore,
    /// Calls in this millisecond.
    calls: Mutex<(Millis, u32)>,
}

impl Database {
    pub fn new(sim: &Arc<Sim>) -> Arc<Database> {
        Arc::new(Database {
            sim: sim.clone(),
            inner: MemoryStore::new(),
            calls: Mutex::default(),
        })
    }

    pub fn now(&self) -> Millis {
        self.sim.now() + *lock(&self.sim.database_ahead_ms)
    }
}

/// A node's way to the storage.
pub struct Handle {
    database: Arc<Database>,
    /// Of the node.
    place: usize,
    /// Of the process.
    incarnation: u64,
    name: String,
    life: Arc<Life>,
    writers: Semaphore,
    /// Instants of the batches under way.
    pub in_flight: Mutex<Vec<Millis>>,
    bus: Option<Arc<SimBus>>,
    clock: Arc<resonate::engine::clock::Clock>,
}

impl Handle {
    pub fn new(
        database: &Arc<Database>,
        place: usize,
        incarnation: u64,
        name: &str,
        life: &Arc<Life>,
        clock: &Arc<resonate::engine::clock::Clock>,
    ) -> Arc<Handle> {
        let sim = &database.sim;
        let bus = sim.plan.is_shared.then(|| SimBus::new(sim, place, life));
        Arc::new(Handle {
            database: database.clone(),
            place,
            incarnation,
            name: name.to_owned(),
            life: life.clone(),
            writers: Semaphore::new(sim.plan.lanes),
            in_flight: Mutex::default(),
            bus,
            clock: clock.clone(),
        })
    }

    fn sim(&self) -> &Sim {
        &self.database.sim
    }

    /// Waits, unless the process dies meanwhile; what is bad weather ends with it. Answers whether it lives.
    async fn wait(&self, until: Instant) -> bool {
        let is_calm = self.sim().is_calm();
        tokio::select! {
            biased;
            () = self.life.until_over() => false,
            () = self.sim().until_calm(), if !is_calm => true,
            () = sleep_until(until) => true,
        }
    }

    /// A way to the storage, or back.
    async fn travel(&self) -> std::result::Result<(), Trouble> {
        if self.life.is_over() {
            return Err(Trouble::Dead);
        }
        self.count_call();
        let (ms, is_lost) = {
            let weather = self.sim().weather().clone();
            let stall_max = u64::try_from(weather.stall_max.as_millis()).unwrap_or(0);
            let ms = match self.sim().chance(weather.stalls) {
                true => self.sim().between(0..=stall_max),
                false => self.sim().between(0..8).saturating_sub(5),
            };
            (ms, self.sim().chance(weather.fails / 2.0))
        };
        if ms > 0 && !self.wait(Instant::now() + Duration::from_millis(ms)).await {
            return Err(Trouble::Dead);
        }
        self.endure_outage().await?;
        match is_lost {
            true => Err(Trouble::Unavailable),
            false => Ok(()),
        }
    }

    /// Some outages are noticed at once, of others nobody hears anything.
    async fn endure_outage(&self) -> std::result::Result<(), Trouble> {
        let outage = self.sim().weather().outage(self.place);
        let Some(until) = outage else {
            return Ok(());
        };
        if self.sim().chance(0.5) {
            // Nobody asks again at once.
            let soon = Instant::now() + Duration::from_millis(self.sim().between(0..3));
            return Err(match self.wait(soon).await {
                true => Trouble::Unavailable,
                false => Trouble::Dead,
            });
        }
        let patience = Instant::now() + PATIENCE;
        match self.wait(until.min(patience)).await {
            false => Err(Trouble::Dead),
            true if until > patience => Err(Trouble::Unavailable),
            true => Ok(()),
        }
    }

    fn count_call(&self) {
        let now = self.sim().now();
        let mut calls = lock(&self.database.calls);
        if calls.0 != now {
            *calls = (now, 0);
        }
        calls.1 += 1;
        if calls.1 == CALLS_PER_MS_MAX {
            let detail = format!("{} asks the storage over and over", self.name);
            self.sim().fail("nobody works without end", detail);
        }
    }

    /// A call that changes nothing, both ways.
    async fn ask<T>(&self, read: impl Future<Output = Result<T>>) -> Result<T> {
        if let Err(trouble) = self.travel().await {
            return Err(trouble.into_error().await);
        }
        let answer = read.await;
        match self.travel().await {
            Ok(()) => answer,
            Err(trouble) => Err(trouble.into_error().await),
        }
    }

    fn line(&self, what: impl FnOnce() -> String) {
        self.sim().log.line(&self.name, what);
    }
}

enum Trouble {
    /// Nobody is there any more to be told of anything.
    Dead,
    Unavailable,
}

impl Trouble {
    async fn into_error(self) -> Error {
        match self {
            Trouble::Dead => std::future::pending().await,
            Trouble::Unavailable => Error::Unavailable("the weather".to_owned()),
        }
    }
}

/// What a batch was decided on.
#[derive(Clone, Default)]
struct Seen {
    objects: BTreeMap<Id, Option<Seq>>,
    schedules: BTreeMap<Id, Option<Seq>>,
    /// Of the objects, those that were taken to be absent without a look.
    guessed: BTreeSet<Id>,
    /// The state at the first look.
    since: Option<Seq>,
    decisions: Vec<Decision>,
}

struct SimTransaction<'a> {
    handle: &'a Handle,
    _permit: SemaphorePermit<'a>,
    _under_way: UnderWay<'a>,
    seen: Seen,
}

/// A batch, as long as it is under way.
struct UnderWay<'a> {
    handle: &'a Handle,
    started_at: Millis,
}

impl Drop for UnderWay<'_> {
    fn drop(&mut self) {
        let mut in_flight = lock(&self.handle.in_flight);
        if let Some(index) = in_flight.iter().position(|at| *at == self.started_at) {
            in_flight.swap_remove(index);
        }
    }
}

#[async_trait]
impl Transaction for SimTransaction<'_> {
    async fn load(&mut self, need: &Need) -> Result<Loaded> {
        let handle = self.handle;
        if let Err(trouble) = handle.travel().await {
            return Err(trouble.into_error().await);
        }
        let (need, guessed) = handle.guess(need);
        let mut loaded = handle.database.inner.begin().await?.load(&need).await?;
        {
            let history = handle.sim().history();
            self.seen.since.get_or_insert(history.seq());
            let found = loaded.objects.iter().map(|object| &object.promise.id);
            for id in need.objects.iter().chain(found) {
                let seq = history.changed_at(id);
                if self.seen.guessed.remove(id) {
                    self.seen.objects.remove(id);
                }
                self.seen.objects.entry(id.clone()).or_insert(seq);
            }
            for id in &guessed {
                self.seen.guessed.insert(id.clone());
                self.seen.objects.insert(id.clone(), None);
            }
            for id in &need.schedules {
                let seq = history.schedule_changed_at(id);
                self.seen.schedules.entry(id.clone()).or_insert(seq);
            }
        }
        if let Err(trouble) = handle.travel().await {
            return Err(trouble.into_error().await);
        }
        loaded.guessed = guessed;
        Ok(loaded)
    }

    fn decided(&mut self, now: Millis, input: &Input, reply: &Reply) {
        self.seen.decisions.push(Decision {
            now,
            input: input.clone(),
            reply: reply.clone(),
        });
    }

    async fn commit(mut self: Box<Self>, changes: &Changes) -> Result<()> {
        let handle = self.handle;
        let seen = std::mem::take(&mut self.seen);
        if changes.is_empty() {
            // Its decisions are answered, too.
            if !handle.life.is_over() && !seen.decisions.is_empty() {
                handle.audit(&seen, changes);
            }
            return Ok(());
        }
        if let Err(trouble) = handle.travel().await {
            if matches!(trouble, Trouble::Dead) && handle.sim().chance(0.5) {
                handle.line(|| "died, and its commit is there".to_owned());
                handle.sim().count("a commit outlives its node");
                let _ = handle.apply(&seen, changes).await;
            }
            return Err(trouble.into_error().await);
        }
        let weather = handle.sim().weather().clone();
        if handle.sim().plan.is_shared && handle.sim().chance(weather.is_late) {
            handle.apply_later(&seen, changes);
            return Err(Trouble::Unavailable.into_error().await);
        }
        handle.apply(&seen, changes).await?;
        let is_unknown = handle.sim().chance(weather.fails_after);
        if let Err(trouble) = handle.travel().await {
            return Err(trouble.into_error().await);
        }
        match is_unknown {
            true => handle.sim().count("the outcome of a commit is unknown"),
            false => return Ok(()),
        }
        Err(Trouble::Unavailable.into_error().await)
    }
}

impl Handle {
    /// Checks a commit and makes it, unless something has changed that it was decided on.
    async fn apply(&self, seen: &Seen, changes: &Changes) -> Result<()> {
        let sim = self.sim();
        let may_differ = sim.plan.is_shared || !seen.guessed.is_empty();
        if may_differ && !self.is_current(seen, changes) {
            self.line(|| "overtaken".to_owned());
            sim.count("a commit is overtaken");
            return Err(Error::Conflict("overtaken".to_owned()));
        }
        self.audit(seen, changes);
        // At once: what is checked here and what is stored there must not drift apart.
        let inner = &self.database.inner;
        let committed = unconstrained(async { inner.begin().await?.commit(changes).await }).await;
        if let Err(error) = &committed {
            sim.fail("the storage takes what was decided", error.to_string());
        }
        committed
    }

    /// Checks a commit, and takes it into the history.
    fn audit(&self, seen: &Seen, changes: &Changes) {
        let sim = self.sim();
        self.line(|| told(seen, changes));
        let event = sim.event();
        let mut history = sim.history();
        let since = seen.since.unwrap_or(history.seq());
        let latest = seen.decisions.iter().map(|decision| decision.now).max();
        history.latest = history.latest.max(latest.unwrap_or(Millis::MIN));
        let ttl = sim.plan.unblock_ttl_ms;
        match check_commit(&history, since, &seen.decisions, changes, ttl) {
            Ok(rows) => rows.into_iter().for_each(|row| sim.count(row)),
            Err(failure) => sim.check(Err(failure)),
        }
        if !changes.is_empty() {
            sim.check(history.apply(changes));
        }
        for decision in &seen.decisions {
            if let Input::Request(command) = &decision.input {
                let reply = decision.reply.clone();
                history.record(self.incarnation, event, command.clone(), reply);
            }
        }
    }

    /// A commit that its sender has given up.
    fn apply_later(&self, seen: &Seen, changes: &Changes) {
        let (seen, changes) = (seen.clone(), changes.clone());
        let late = Handle {
            database: self.database.clone(),
            place: self.place,
            incarnation: self.incarnation,
            name: format!("{} late", self.name),
            life: self.life.clone(),
            writers: Semaphore::new(0),
            in_flight: Mutex::default(),
            bus: None,
            clock: self.clock.clone(),
        };
        let ms = self.sim().between(1..4000);
        tokio::spawn(async move {
            sleep(Duration::from_millis(ms)).await;
            if late.apply(&seen, &changes).await.is_ok() {
                late.sim().count("a commit comes late");
            }
        });
    }

    /// Whether everything that was there when it was loaded is still as it was, and what is new is new.
    /// What is looked for, and what is taken to be absent instead: some storages need not look for what is
    /// about to be created.
    fn guess(&self, need: &Need) -> (Need, BTreeSet<Id>) {
        let mut need = need.clone();
        let sim = self.sim();
        if need.births.is_empty() || !sim.plan.guesses || sim.chance(0.5) {
            return (need, BTreeSet::new());
        }
        let guessed = std::mem::take(&mut need.births);
        need.objects.retain(|id| !guessed.contains(id));
        (need, guessed)
    }

    fn is_current(&self, seen: &Seen, changes: &Changes) -> bool {
        let history = self.sim().history();
        let is_new = |id: &Id| {
            let mut changes = changes.objects.iter();
            changes.any(|c| c.before.is_none() && c.after.promise.id == *id)
        };
        let mut objects = seen.objects.iter();
        let mut schedules = seen.schedules.iter();
        let is_written = |id: &Id| changes.schedules.iter().any(|c| c.id == *id);
        objects.all(|(id, seq)| history.changed_at(id) == *seq || (seq.is_none() && !is_new(id)))
            && schedules.all(|(id, seq)| {
                history.schedule_changed_at(id) == *seq || (seq.is_none() && !is_written(id))
            })
    }
}

/// What a batch decided, for the log.
fn told(seen: &Seen, changes: &Changes) -> String {
    let mut text = format!(
        "commits {} changes",
        changes.objects.len() + changes.schedules.len()
    );
    for decision in &seen.decisions {
        text += &format!(
            "\n{:>21}at {} {:?}\n{:>21}  -> {:?}",
            "", decision.now, decision.input, "", decision.reply
        );
    }
    text
}

#[async_trait]
impl Store for Handle {
    fn lanes(&self) -> usize {
        self.sim().plan.lanes
    }

    fn bus(&self) -> Option<Arc<dyn Bus>> {
        let bus = self.bus.clone()?;
        Some(bus)
    }

    async fn begin(&self) -> Result<Box<dyn Transaction + '_>> {
        let started_at = self.clock.now();
        lock(&self.in_flight).push(started_at);
        let under_way = UnderWay {
            handle: self,
            started_at,
        };
        let permit = timeout(PATIENCE, self.writers.acquire()).await;
        let Ok(Ok(permit)) = permit else {
            return Err(Error::Unavailable("all connections are busy".to_owned()));
        };
        if self.life.is_over() {
            std::future::pending::<()>().await;
        }
        Ok(Box::new(SimTransaction {
            handle: self,
            _permit: permit,
            _under_way: under_way,
            seen: Seen::default(),
        }))
    }

    async fn read(&self, ids: &[Id]) -> Result<Vec<Arc<Object>>> {
        self.ask(self.database.inner.read(ids)).await
    }

    async fn read_schedule(&self, id: &str) -> Result<Option<Schedule>> {
        self.ask(self.database.inner.read_schedule(id)).await
    }

    async fn promises(&self, page: &PromisePage) -> Result<Vec<Promise>> {
        self.ask(self.database.inner.promises(page)).await
    }

    async fn outlines(&self, page: &OutlinePage) -> Result<Vec<Outline>> {
        self.ask(self.database.inner.outlines(page)).await
    }

    async fn callbacks(&self, after: Option<&(Id, Id)>, limit: usize) -> Result<Vec<(Id, Id)>> {
        self.ask(self.database.inner.callbacks(after, limit)).await
    }

    async fn tasks(&self, page: &TaskPage) -> Result<Vec<Object>> {
        self.ask(self.database.inner.tasks(page)).await
    }

    async fn schedules(&self, page: &SchedulePage) -> Result<Vec<Schedule>> {
        self.ask(self.database.inner.schedules(page)).await
    }

    async fn due(&self, until: Millis, queues: Queues<'_>, limit: usize) -> Result<Vec<Deadline>> {
        self.ask(self.database.inner.due(until, queues, limit))
            .await
    }

    async fn waiting(
        &self,
        queue: &str,
        kind: MessageKind,
        now: Millis,
        after: Option<&QueueCursor>,
        limit: usize,
    ) -> Result<Vec<Waiting>> {
        self.ask(self.database.inner.waiting(queue, kind, now, after, limit))
            .await
    }

    async fn queues(
        &self,
        kind: WaitingKind,
        after: Option<&str>,
        limit: usize,
    ) -> Result<Vec<Id>> {
        self.ask(self.database.inner.queues(kind, after, limit))
            .await
    }

    async fn waiting_by_address(
        &self,
        queue: &str,
        now: Millis,
        limit: usize,
    ) -> Result<Vec<WaitingCount>> {
        let waiting = self.database.inner.waiting_by_address(queue, now, limit);
        self.ask(waiting).await
    }

    async fn count_by_state(
        &self,
        kind: Kind,
        after: Option<&str>,
        limit: usize,
    ) -> Result<StateCounts> {
        self.ask(self.database.inner.count_by_state(kind, after, limit))
            .await
    }

    async fn stale_unblocks(&self, before: Millis, limit: usize) -> Result<Vec<(Id, Id)>> {
        self.ask(self.database.inner.stale_unblocks(before, limit))
            .await
    }

    async fn dump(&self) -> Result<Dump> {
        self.ask(self.database.inner.dump()).await
    }

    async fn reset(&self) -> Result<()> {
        Err(Error::Unusable("nobody asks for it".to_owned()))
    }

    async fn ping(&self) -> Result<()> {
        self.ask(async { Ok(()) }).await
    }

    async fn now(&self) -> Result<Option<Millis>> {
        match self.bus {
            Some(_) => self.ask(async { Ok(Some(self.database.now())) }).await,
            None => Ok(None),
        }
    }

    async fn close(&self) {}
}
