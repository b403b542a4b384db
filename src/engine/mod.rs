//! The imperative shell around the machine: queues, batches, the clock, reads, and the debug switch.
//!
//! ```text
//!   execute(command) ─> dispatch ─> lane ─> machine ─> store ─> reply
//!                                                           └──> hooks: messages to the outbox, deadlines to the timers
//!   execute(query)   ─────────> store (committed state) ─> machine::query ─> reply
//! ```

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use tokio::sync::{Notify, mpsc, oneshot};
use tokio::task::JoinHandle;
use tokio::time::Instant;

use crate::machine::object::{Object, is_expired};
use crate::machine::workspace::Message;
use crate::machine::{self, Input, Step, query};
use crate::protocol::operation::{Command, Debug, Operation, Query};
use crate::protocol::record::{Id, Millis, NEVER, Promise};
use crate::protocol::reply::Reply;
use crate::protocol::trace::Trace;
use crate::store::{self, Changes, DeadlineKey, Queues, Store};
use crate::telemetry::metrics::METRICS;

pub mod clock;
mod dispatch;
mod lane;
mod snap;
#[cfg(test)]
mod tests;

use clock::Clock;
use lane::{Job, Lane};

/// Jobs waiting to be put into a batch. Callers beyond it wait for room.
const QUEUE_JOBS_MAX: usize = 4096;
/// Steps taken in one transaction.
pub const STEPS_MAX: usize = 256;
/// How long internal steps are held through a storage that is out; the sweep repeats them anyway.
const STEPS_PATIENCE: Duration = Duration::from_secs(2);

/// Pause before a read that the storage did not answer is tried again.
const READ_RETRY_PAUSE: Duration = Duration::from_millis(50);

/// How often steps that always fail are mentioned.
const CULPRIT_LOG_INTERVAL: Duration = Duration::from_secs(60);

/// Why the server failed to decide. Nothing is known to have been changed, and every operation is safe
/// to repeat.
#[derive(Clone, Debug, thiserror::Error)]
pub enum Error {
    /// Out of capacity or storage for longer than a request may be held: 503.
    #[error("Service unavailable: {0}")]
    Unavailable(String),
    /// The storage refused, or a defect: 500.
    #[error("Internal error: {0}")]
    Internal(String),
}

impl From<store::Error> for Error {
    fn from(error: store::Error) -> Self {
        match error {
            store::Error::Unavailable(reason) | store::Error::Conflict(reason) => {
                Error::Unavailable(reason)
            }
            error => Error::Internal(error.to_string()),
        }
    }
}

/// Who wants to know what was committed. Called by the lane, after the replies; must not block.
pub trait Hooks: Send + Sync + 'static {
    /// Objects and schedules changed.
    fn committed(&self, changes: &Changes);

    /// Messages are due.
    fn emit(&self, messages: Vec<Message>);

    /// Everything was deleted (`debug.reset`).
    fn reset(&self);

    /// Background work was paused or resumed (`debug.start`, `debug.stop`).
    fn paused(&self, is_paused: bool);

    /// Messages not yet handed to a transport because background work is paused.
    fn held(&self) -> Vec<Message>;
}

/// How an engine is set up.
pub struct Options {
    /// The storage back end.
    pub store: Arc<dyn Store>,
    /// The source of `now`.
    pub clock: Arc<Clock>,
    /// What the machine reads.
    pub config: machine::Config,
    /// Who is told of commits.
    pub hooks: Arc<dyn Hooks>,
    /// How long a request may be held through a stall.
    pub request_deadline: Duration,
}

/// What comes along with an operation.
#[derive(Clone, Debug, Default)]
pub struct Context {
    /// The `now` that a debug request brought along.
    pub debug_time: Option<Millis>,
    /// How much came in, for the bounds of a batch.
    pub bytes: usize,
    /// The request's place in a trace: the messages that it causes belong there too.
    pub trace: Option<Arc<Trace>>,
}

/// Where the time of a command went. All but the wait it shares with the others of its batch.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Parts {
    /// Until its batch began, or its last attempt.
    pub queue: Duration,
    /// Loading what could be told in advance to be needed.
    pub load: Duration,
    /// Deciding, and loading the rest.
    pub decide: Duration,
    /// Until it was durable.
    pub commit: Duration,
}

/// The engine. All its methods may be called at once from any number of tasks.
pub struct Engine {
    store: Arc<dyn Store>,
    clock: Arc<Clock>,
    hooks: Arc<dyn Hooks>,
    request_deadline: Duration,
    /// Whether other servers decide about the same objects.
    is_shared: bool,
    /// How many batches may be under way at once.
    lanes: usize,
    /// None once the engine stops.
    queue: std::sync::Mutex<Option<mpsc::Sender<Job>>>,
    dispatching: std::sync::Mutex<Option<JoinHandle<()>>>,
    is_paused: AtomicBool,
    resumed: Notify,
    culprit_noted_at: std::sync::Mutex<Option<Instant>>,
}

impl Engine {
    /// Starts deciding.
    pub fn start(options: Options) -> Arc<Engine> {
        let is_shared = options.store.bus().is_some();
        METRICS.storage_up(true);
        let (sender, receiver) = mpsc::channel(QUEUE_JOBS_MAX);
        let lanes = options.store.lanes().max(1);
        let lane = Lane {
            store: options.store.clone(),
            clock: options.clock.clone(),
            config: options.config,
            hooks: options.hooks.clone(),
            is_shared,
            is_out: AtomicBool::new(false),
        };
        Arc::new(Engine {
            store: options.store,
            clock: options.clock,
            hooks: options.hooks,
            request_deadline: options.request_deadline,
            is_shared,
            lanes,
            queue: std::sync::Mutex::new(Some(sender)),
            dispatching: std::sync::Mutex::new(Some(tokio::spawn(dispatch::run(
                lane, lanes, receiver,
            )))),
            is_paused: AtomicBool::new(false),
            resumed: Notify::new(),
            culprit_noted_at: std::sync::Mutex::default(),
        })
    }

    /// Executes one operation of `bytes` payload; `debug_time` is the `now` that a debug request
    /// brought along. The reply is given once everything it rests on is durable.
    ///
    /// # Errors
    /// See [`Error`].
    pub async fn execute(
        &self,
        operation: Operation,
        debug_time: Option<Millis>,
        bytes: usize,
    ) -> Result<Reply, Error> {
        let context = Context {
            debug_time,
            bytes,
            trace: None,
        };
        Ok(self.execute_in(context, operation).await?.0)
    }

    /// The same, and of a command also where its time went.
    ///
    /// # Errors
    /// See [`Error`].
    pub async fn execute_in(
        &self,
        context: Context,
        operation: Operation,
    ) -> Result<(Reply, Option<Parts>), Error> {
        let reply = match operation {
            Operation::Command(command) => {
                let (reply, parts) = self.command(command, context).await?;
                return Ok((reply, Some(parts)));
            }
            Operation::Query(query) => {
                let now = context.debug_time.unwrap_or_else(|| self.clock.read_now());
                let is_now = context.debug_time.is_none();
                let answer = self.query_patiently(&query, now, is_now);
                let answer = tokio::time::timeout(self.request_deadline, answer);
                answer.await.unwrap_or_else(|_| Err(too_slow()))
            }
            Operation::Debug(debug) => self.debug(debug).await,
        };
        Ok((reply?, None))
    }

    async fn command(&self, command: Command, context: Context) -> Result<(Reply, Parts), Error> {
        let deadline = Instant::now() + self.request_deadline;
        let inputs = vec![Input::Request(command)];
        let (replies, parts) = self.submit(inputs, context, deadline).await?;
        let reply = replies.into_iter().next();
        let reply = reply.ok_or_else(|| Error::Internal("no reply".to_owned()))?;
        Ok((reply, parts))
    }

    /// Takes internal steps, in one transaction, at the current instant. One that cannot be taken, for a
    /// damaged row or a defect, is left out, so that it does not keep the others from happening.
    ///
    /// # Errors
    /// [`Error::Unavailable`]; the steps may still be due then, and a sweep finds them again.
    pub async fn step(&self, steps: Vec<Step>) -> Result<(), Error> {
        let mut open = vec![steps];
        while let Some(mut steps) = open.pop() {
            match self.step_at(steps.clone(), None).await {
                Ok(()) => {}
                Err(Error::Internal(_)) if steps.len() > 1 => {
                    let second = steps.split_off(steps.len() / 2);
                    open.push(second);
                    open.push(steps);
                }
                Err(Error::Internal(error)) => self.note_culprit(&steps, &error),
                Err(error) => return Err(error),
            }
        }
        Ok(())
    }

    /// A sweep finds it again and again: not a line each time.
    fn note_culprit(&self, steps: &[Step], error: &str) {
        let mut noted_at = lock(&self.culprit_noted_at);
        if noted_at.is_none_or(|at| at.elapsed() >= CULPRIT_LOG_INTERVAL) {
            *noted_at = Some(Instant::now());
            // Not the whole step: an address may hold a password.
            let ids: Vec<&Id> = steps.iter().map(Step::subject).collect();
            tracing::error!(?ids, error, "an internal step fails");
        }
    }

    async fn step_at(&self, steps: Vec<Step>, now: Option<Millis>) -> Result<(), Error> {
        let inputs = steps.into_iter().map(Input::Step).collect();
        let context = Context {
            debug_time: now,
            ..Context::default()
        };
        let deadline = Instant::now() + STEPS_PATIENCE;
        self.submit(inputs, context, deadline).await?;
        Ok(())
    }

    async fn submit(
        &self,
        inputs: Vec<Input>,
        context: Context,
        deadline: Instant,
    ) -> Result<(Vec<Reply>, Parts), Error> {
        let queue = lock(&self.queue).clone();
        let queue = queue.ok_or_else(|| Error::Unavailable("the server is stopping".to_owned()))?;
        let (reply, answer) = oneshot::channel();
        let job = Job {
            origins: dispatch::origins(&inputs, self.lanes),
            inputs,
            now: context.debug_time,
            bytes: context.bytes,
            trace: context.trace,
            queued_at: Instant::now(),
            queued: Some(METRICS.queued()),
            deadline,
            reply,
        };
        let outcome = tokio::time::timeout_at(deadline, async {
            let is_sent = queue.send(job).await.is_ok();
            if is_sent { answer.await.ok() } else { None }
        });
        match outcome.await {
            Ok(Some(result)) => result,
            Ok(None) => Err(Error::Unavailable("the server is stopping".to_owned())),
            Err(_) => Err(too_slow()),
        }
    }

    /// A storage that is out for a short while is waited for, as it is by commands.
    async fn query_patiently(
        &self,
        query: &Query,
        now: Millis,
        is_now: bool,
    ) -> Result<Reply, Error> {
        loop {
            match self.query(query, now, is_now).await {
                Err(Error::Unavailable(_)) => tokio::time::sleep(READ_RETRY_PAUSE).await,
                answer => return answer,
            }
        }
    }

    async fn query(&self, query: &Query, now: Millis, is_now: bool) -> Result<Reply, Error> {
        let stores_deadlines = is_now && self.is_shared;
        Ok(match query {
            Query::PromiseGet { id } => {
                let object = self.read(id, now, stores_deadlines).await?;
                query::promise(object.as_deref(), now)
            }
            Query::TaskGet { id } => {
                let object = self.read(id, now, stores_deadlines).await?;
                query::task(object.as_deref(), now)
            }
            Query::ScheduleGet { id } => query::schedule(self.store.read_schedule(id).await?),
            Query::PromiseSearch(op) => {
                let mut search = query::Promises::new(op, now);
                while let Some(page) = search.page() {
                    let mut rows = self.store.promises(&page).await?;
                    if stores_deadlines && self.settle_expired(rows.iter(), now).await? {
                        rows = self.store.promises(&page).await?;
                    }
                    search.take(rows);
                }
                search.finish()
            }
            Query::TaskSearch(op) => {
                let mut search = query::Tasks::new(op, now);
                while let Some(page) = search.page() {
                    let mut rows = self.store.tasks(&page).await?;
                    let promises = rows.iter().map(|object| &object.promise);
                    if stores_deadlines && self.settle_expired(promises, now).await? {
                        rows = self.store.tasks(&page).await?;
                    }
                    search.take(rows);
                }
                search.finish()
            }
            Query::ScheduleSearch(op) => {
                let mut search = query::Schedules::new(op);
                while let Some(page) = search.page() {
                    search.take(self.store.schedules(&page).await?);
                }
                search.finish()
            }
        })
    }

    async fn read(
        &self,
        id: &Id,
        now: Millis,
        stores_deadlines: bool,
    ) -> Result<Option<Arc<Object>>, Error> {
        let ids = std::slice::from_ref(id);
        let object = self.store.read(ids).await?.pop();
        let promise = object.iter().map(|object| &object.promise);
        if stores_deadlines && self.settle_expired(promise, now).await? {
            return Ok(self.store.read(ids).await?.pop());
        }
        Ok(object)
    }

    /// Has what is past its deadline at `now` stored as settled, before it is answered so: another server
    /// may be about to settle it otherwise, at an instant before the deadline. Answers whether there was
    /// any.
    async fn settle_expired<'a>(
        &self,
        promises: impl Iterator<Item = &'a Promise>,
        now: Millis,
    ) -> Result<bool, Error> {
        let expired = promises.filter(|promise| is_expired(promise, now));
        let steps: Vec<Step> = expired.map(|p| Step::Promise(p.id.clone())).collect();
        for steps in steps.chunks(STEPS_MAX) {
            self.step(steps.to_vec()).await?;
        }
        Ok(!steps.is_empty())
    }

    async fn debug(&self, debug: Debug) -> Result<Reply, Error> {
        // Once this is taken, all that earlier requests caused has been handed to the hooks.
        self.step(Vec::new()).await?;
        match debug {
            Debug::Start => self.set_paused(true),
            Debug::Stop => self.set_paused(false),
            Debug::Reset => {
                self.store.reset().await?;
                self.hooks.reset();
            }
            Debug::Tick { time } => {
                self.tick(time).await?;
                return Ok(Reply::Ticked);
            }
            Debug::Snap => {
                let dump = self.store.dump().await?;
                return Ok(Reply::Snap(snap::snap(&dump, &self.hooks.held())));
            }
        }
        Ok(Reply::Done)
    }

    /// One complete pass (`semantics.md` §7): until nothing is due at `time`.
    async fn tick(&self, time: Millis) -> Result<(), Error> {
        let mut limit = STEPS_MAX;
        loop {
            let due = self.store.due(time, Queues::All, limit).await?;
            let is_all = due.len() < limit;
            let steps: Vec<Step> = due
                .into_iter()
                .filter_map(|deadline| match deadline.key {
                    DeadlineKey::Promise(id) => Some(Step::Promise(id)),
                    // One that has run out is never due, whatever the time given.
                    DeadlineKey::Schedule(id) => {
                        (deadline.at < NEVER).then_some(Step::Schedule(id))
                    }
                    // A tick delivers nothing.
                    DeadlineKey::Unblock(..) => None,
                })
                .collect();
            match (steps.is_empty(), is_all) {
                (true, true) => return Ok(()),
                (true, false) => limit = limit.saturating_mul(2),
                (false, _) => self.step_at(steps, Some(time)).await?,
            }
        }
    }

    fn set_paused(&self, is_paused: bool) {
        self.is_paused.store(is_paused, Ordering::SeqCst);
        self.hooks.paused(is_paused);
        if !is_paused {
            self.resumed.notify_waiters();
        }
    }

    /// Whether background work is paused (`debug.start`).
    pub fn is_paused(&self) -> bool {
        self.is_paused.load(Ordering::SeqCst)
    }

    /// Returns once background work is not paused.
    pub async fn until_resumed(&self) {
        loop {
            let resumed = self.resumed.notified();
            if !self.is_paused() {
                return;
            }
            resumed.await;
        }
    }

    /// The store, for the drivers' range reads.
    pub fn store(&self) -> &Arc<dyn Store> {
        &self.store
    }

    /// The clock.
    pub fn clock(&self) -> &Arc<Clock> {
        &self.clock
    }

    /// Stops once what is queued has been answered, and closes the store.
    pub async fn stop(&self) {
        drop(lock(&self.queue).take());
        let task = lock(&self.dispatching).take();
        if let Some(task) = task {
            let _ = task.await;
        }
        self.store.close().await;
    }
}

fn too_slow() -> Error {
    Error::Unavailable(
        "the storage did not answer in time; the request is safe to repeat".to_owned(),
    )
}

fn lock<T>(mutex: &std::sync::Mutex<T>) -> std::sync::MutexGuard<'_, T> {
    mutex
        .lock()
        .unwrap_or_else(std::sync::PoisonError::into_inner)
}
