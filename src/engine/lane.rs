//! A batch: decided against one workspace, committed once, then answered.
//!
//! ```text
//!   jobs ─> load what is missing ─> decide in order ─> commit
//!                                          │ failed      │ ok
//!      by halves, so that a culprit fails <─┘             ├─> replies
//!      alone; overtaken: from the start                   └─> hooks: messages, deadlines
//! ```
//!
//! Every reply waits for the commit, rejections included: they may rest on what it holds. Where several
//! batches are under way, here or on other servers, an attempt may find at its commit that another has
//! changed what it was decided on. Then all of it is loaded and decided anew.

use std::collections::VecDeque;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use futures_util::FutureExt;
use tokio::sync::oneshot;
use tokio::time::Instant;

use crate::machine::workspace::{Message, Workspace};
use crate::machine::{self, Input, Step};
use crate::protocol::record::Millis;
use crate::protocol::reply::Reply;
use crate::protocol::trace::Trace;
use crate::store::{self, Changes, Need, Store, Transaction};
use crate::telemetry::metrics::{METRICS, Queued};

use super::clock::Clock;
use super::dispatch::Origin;
use super::{Error, Hooks, Parts};

/// Pauses between attempts at a batch that the storage could not take.
const RETRY_PAUSE_MIN: Duration = Duration::from_millis(20);
const RETRY_PAUSE_MAX: Duration = Duration::from_millis(500);

/// Longest pause after a batch was overtaken by others more than once; the pauses are random.
const CONFLICT_PAUSE_MAX_MS: u64 = 64;

/// Work for a lane: inputs that belong together, and where to send their replies.
pub(super) struct Job {
    /// Decided in order, in one transaction.
    pub inputs: Vec<Input>,
    /// The origins of what the inputs are about: of two jobs that share one, the second waits for the
    /// first.
    pub origins: Vec<Origin>,
    /// `now` given by the caller (debug); otherwise the batch's.
    pub now: Option<Millis>,
    /// Size of what came in, for the bounds.
    pub bytes: usize,
    /// See [`super::Context::trace`].
    pub trace: Option<Arc<Trace>>,
    /// When it was sent.
    pub queued_at: Instant,
    /// While it waits to be put into a batch.
    pub queued: Option<Queued>,
    /// Until when a storage that is out may keep the caller waiting.
    pub deadline: Instant,
    /// One reply per input, and where the time went.
    pub reply: oneshot::Sender<Result<(Vec<Reply>, Parts), Error>>,
}

impl Job {
    /// Whether objects may be gone after it.
    pub fn deletes(&self) -> bool {
        let is_deletion = |input: &Input| matches!(input, Input::Step(Step::Retire(_)));
        self.inputs.iter().any(is_deletion)
    }
}

pub(super) struct Lane {
    pub store: Arc<dyn Store>,
    pub clock: Arc<Clock>,
    pub config: machine::Config,
    pub hooks: Arc<dyn Hooks>,
    /// Whether other servers decide about the same objects.
    pub is_shared: bool,
    /// Whether the last write failed because the storage is out.
    pub is_out: AtomicBool,
}

/// What a committed batch leaves to do.
struct Committed {
    replies: Vec<Vec<Reply>>,
    began_at: Instant,
    /// But for the wait, which each has its own of.
    parts: Parts,
    leaving: Leaving,
}

/// A committed batch, to be answered.
pub(super) struct Done {
    batch: Vec<Job>,
    committed: Committed,
}

/// What the hooks are to be told of a batch, once its answers have left.
pub(super) struct Leaving {
    changes: Changes,
    messages: Vec<Message>,
}

enum Failure {
    Store(store::Error),
    Panic,
}

impl Failure {
    /// As metrics name it.
    fn reason(&self) -> &'static str {
        match self {
            Failure::Store(store::Error::Unavailable(_)) => "unavailable",
            Failure::Store(store::Error::Conflict(_)) => "conflict",
            Failure::Store(store::Error::Refused(_)) => "refused",
            Failure::Store(store::Error::Corrupt(_)) => "corrupt",
            Failure::Store(store::Error::Unusable(_)) => "unusable",
            Failure::Panic => "panic",
        }
    }
}

impl From<store::Error> for Failure {
    fn from(error: store::Error) -> Self {
        Failure::Store(error)
    }
}

impl Lane {
    /// Takes a batch to its end. What is committed as a whole is to be answered by [`Lane::answer`]; otherwise everybody
    /// is answered.
    pub async fn serve(&self, batch: Vec<Job>) -> Option<Done> {
        // A caller that has gone away was never acknowledged: nothing needs to happen.
        let batch: Vec<Job> = batch
            .into_iter()
            .filter(|job| !job.reply.is_closed())
            .collect();
        if batch.is_empty() {
            return None;
        }
        match self.commit(&batch).await {
            Ok(committed) => Some(Done { batch, committed }),
            Err(failure) => {
                self.serve_failed(batch, failure).await;
                None
            }
        }
    }

    /// The same, part by part, of a batch that could not be committed.
    async fn serve_failed(&self, batch: Vec<Job>, failure: Failure) {
        let mut open = VecDeque::new();
        set_apart(batch, failure, &mut open);
        while let Some(batch) = open.pop_front() {
            if batch.is_empty() {
                continue;
            }
            match self.commit(&batch).await {
                Ok(committed) => {
                    let leaving = self.answer(Done { batch, committed });
                    // As the batch would have.
                    tokio::task::yield_now().await;
                    self.tell(leaving);
                }
                Err(failure) => set_apart(batch, failure, &mut open),
            }
        }
    }

    /// Commits a batch, holding on through a storage that is out for a short while.
    async fn commit(&self, batch: &[Job]) -> Result<Committed, Failure> {
        let deadline = batch
            .iter()
            .map(|job| job.deadline)
            .min()
            .unwrap_or_else(Instant::now);
        let mut pause = RETRY_PAUSE_MIN;
        let mut conflicts = 0;
        loop {
            // What a panic leaves half-made is dropped with the attempt, never committed.
            let attempt = AssertUnwindSafe(self.attempt(batch)).catch_unwind();
            let result = attempt.await.unwrap_or(Err(Failure::Panic));
            self.note_health(&result);
            match result {
                Err(Failure::Store(store::Error::Unavailable(_)))
                    if Instant::now() + pause < deadline =>
                {
                    tokio::time::sleep(pause).await;
                    pause = (pause * 2).min(RETRY_PAUSE_MAX);
                }
                Err(Failure::Store(store::Error::Conflict(reason))) => {
                    let pause = conflict_pause(conflicts);
                    conflicts += 1;
                    if Instant::now() + pause >= deadline {
                        return Err(Failure::Store(store::Error::Unavailable(reason)));
                    }
                    tokio::time::sleep(pause).await;
                }
                result => return result,
            }
        }
    }

    /// Counts failures; logs a storage that is out once, and once when it is back.
    fn note_health(&self, result: &Result<Committed, Failure>) {
        if let Err(failure) = result {
            METRICS.commit_failed(failure.reason());
        }
        match result {
            Err(Failure::Store(error @ store::Error::Unavailable(_))) => {
                METRICS.storage_up(false);
                if !self.is_out.swap(true, Ordering::Relaxed) {
                    tracing::error!(%error, "the storage takes no writes; requests are held");
                }
            }
            Ok(_) => {
                METRICS.storage_up(true);
                if self.is_out.swap(false, Ordering::Relaxed) {
                    tracing::warn!("the storage takes writes again");
                }
            }
            Err(_) => {}
        }
    }

    async fn attempt(&self, batch: &[Job]) -> Result<Committed, Failure> {
        let time = self.clock.start_batch();
        let mut tx = self.store.begin().await?;
        let mut ws = Workspace::default();
        let began_at = Instant::now();
        self.load_all(&mut *tx, &mut ws, batch, time.now).await?;
        let loaded_at = Instant::now();
        METRICS.loaded(loaded_at - began_at);
        let has_own_time = batch.iter().any(|job| job.now.is_some());
        let stores_deadlines = self.is_shared && !has_own_time;
        let mut settled = 0;
        let mut replies = Vec::with_capacity(batch.len());
        for job in batch {
            let now = job.now.unwrap_or(time.now);
            let mut answers = Vec::with_capacity(job.inputs.len());
            for input in &job.inputs {
                // What came before in this batch may have uncovered more to look at.
                load(&mut *tx, &mut ws, |ws| machine::missing(input, now, ws)).await?;
                if stores_deadlines && ws.loaded() != settled {
                    self.settle_expired(&mut *tx, &mut ws, now).await?;
                    settled = ws.loaded();
                }
                ws.set_trace(job.trace.clone());
                let reply = machine::decide(input, now, &mut ws, &self.config);
                ws.set_trace(None);
                tx.decided(now, input, &reply);
                answers.push(reply);
            }
            replies.push(answers);
        }
        let (changes, messages) = ws.finish();
        let decided_at = Instant::now();
        tx.commit(&changes).await?;
        let commit = decided_at.elapsed();
        if !changes.is_empty() {
            METRICS.committed(commit);
        }
        Ok(Committed {
            replies,
            began_at,
            parts: Parts {
                queue: Duration::ZERO,
                load: loaded_at - began_at,
                decide: decided_at - loaded_at,
                commit,
            },
            leaving: Leaving { changes, messages },
        })
    }

    /// Stores as settled whatever is past its deadline, before anything is answered about it. Another
    /// server may be deciding at an earlier instant: only what is stored holds for both.
    async fn settle_expired(
        &self,
        tx: &mut dyn Transaction,
        ws: &mut Workspace,
        now: Millis,
    ) -> Result<(), Failure> {
        loop {
            let expired = ws.expired(now);
            if expired.is_empty() {
                return Ok(());
            }
            for id in expired {
                let step = Input::Step(Step::Promise(id));
                load(tx, ws, |ws| machine::missing(&step, now, ws)).await?;
                let done = machine::decide(&step, now, ws, &self.config);
                tx.decided(now, &step, &done);
            }
        }
    }

    /// Loads what all inputs look at, as far as it can be told before any is decided: a constant
    /// number of statements for the whole batch.
    async fn load_all(
        &self,
        tx: &mut dyn Transaction,
        ws: &mut Workspace,
        batch: &[Job],
        now: Millis,
    ) -> Result<(), Failure> {
        load(tx, ws, |ws| {
            let mut need = Need::default();
            for job in batch {
                for input in &job.inputs {
                    need.extend(machine::missing(input, job.now.unwrap_or(now), ws));
                }
            }
            need
        })
        .await
    }

    /// Answers everybody. [`Lane::tell`] is to follow, in the order of the answers.
    pub fn answer(&self, done: Done) -> Leaving {
        let Committed {
            replies,
            began_at,
            parts,
            leaving,
        } = done.committed;
        for (job, replies) in done.batch.into_iter().zip(replies) {
            let queue = began_at.saturating_duration_since(job.queued_at);
            let _ = job.reply.send(Ok((replies, Parts { queue, ..parts })));
        }
        leaving
    }

    /// Tells the hooks.
    pub fn tell(&self, leaving: Leaving) {
        let Leaving { changes, messages } = leaving;
        if changes.is_empty() && messages.is_empty() {
            return;
        }
        let told = catch_unwind(AssertUnwindSafe(|| {
            self.hooks.committed(&changes);
            self.hooks.emit(messages);
        }));
        if told.is_err() {
            tracing::error!("a hook panicked; a sweep repeats what it has missed");
        }
    }
}

/// What becomes of a batch that failed: parts of it are tried again, or it is refused.
fn set_apart(mut batch: Vec<Job>, failure: Failure, open: &mut VecDeque<Vec<Job>>) {
    match failure {
        // Nobody's fault: those who cannot wait longer are told, the others go on waiting.
        Failure::Store(error @ store::Error::Unavailable(_)) => {
            let now = Instant::now() + RETRY_PAUSE_MAX;
            let (given_up, waiting) = batch.into_iter().partition(|job| job.deadline <= now);
            refuse(given_up, &Failure::Store(error));
            open.push_front(waiting);
        }
        // Somebody's fault: each half by itself, until the culprit is alone.
        _ if batch.len() > 1 => {
            let second = batch.split_off(batch.len() / 2);
            open.push_front(second);
            open.push_front(batch);
        }
        failure => refuse(batch, &failure),
    }
}

async fn load(
    tx: &mut dyn Transaction,
    ws: &mut Workspace,
    need_of: impl Fn(&Workspace) -> Need,
) -> Result<(), Failure> {
    loop {
        let need = need_of(ws);
        if need.is_empty() {
            return Ok(());
        }
        let loaded = tx.load(&need).await?;
        ws.absorb(&need, loaded);
    }
}

/// How long to wait before the next attempt. Being overtaken once is likely over.
fn conflict_pause(conflicts: u32) -> Duration {
    match conflicts {
        0 => Duration::ZERO,
        n => {
            let pause_max = (1_u64 << n.min(16)).min(CONFLICT_PAUSE_MAX_MS);
            Duration::from_micros(fastrand::u64(0..=pause_max * 1000))
        }
    }
}

fn refuse(jobs: Vec<Job>, failure: &Failure) {
    for job in jobs {
        let _ = job.reply.send(Err(error_of(failure)));
    }
}

fn error_of(failure: &Failure) -> Error {
    match failure {
        Failure::Store(store::Error::Unavailable(reason)) => Error::Unavailable(reason.clone()),
        Failure::Store(error) => Error::Internal(error.to_string()),
        Failure::Panic => Error::Internal("the operation failed unexpectedly".to_owned()),
    }
}
