//! A lane: takes what has queued up, decides it against one workspace, commits once, then answers.
//!
//! ```text
//!   queue ─> collect (count, bytes) ─> load what is missing ─> decide in order ─> commit
//!                                                                    │ failed      │ ok
//!                        one by one, so that a culprit fails alone <─┘             ├─> replies
//!                                                                                  └─> hooks: messages, deadlines
//! ```
//!
//! An idle lane commits a lone job at once; batching comes from jobs piling up behind a commit in
//! flight. Every reply waits for the commit, rejections included: they may rest on what it holds.

use std::collections::VecDeque;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;
use std::time::Duration;

use tokio::sync::{mpsc, oneshot};
use tokio::time::Instant;

use crate::machine::workspace::{Message, Workspace};
use crate::machine::{self, Input};
use crate::protocol::record::Millis;
use crate::protocol::reply::Reply;
use crate::store::{self, Changes, Need, Store, Transaction};

use super::clock::Clock;
use super::{Error, Hooks};

/// Jobs in one batch.
const BATCH_JOBS_MAX: usize = 512;
/// Payload bytes in one batch; a single larger job is a batch of its own.
const BATCH_BYTES_MAX: usize = 16 * 1024 * 1024;
/// Pauses between attempts at a batch that the storage could not take.
const RETRY_PAUSE_MIN: Duration = Duration::from_millis(20);
const RETRY_PAUSE_MAX: Duration = Duration::from_millis(500);

/// Work for a lane: inputs that belong together, and where to send their replies.
pub(super) struct Job {
    /// Decided in order, in one transaction.
    pub inputs: Vec<Input>,
    /// `now` given by the caller (debug); otherwise the batch's.
    pub now: Option<Millis>,
    /// Size of what came in, for the bounds.
    pub bytes: usize,
    /// Until when a storage that is out may keep the caller waiting.
    pub deadline: Instant,
    /// One reply per input.
    pub reply: oneshot::Sender<Result<Vec<Reply>, Error>>,
}

pub(super) struct Lane {
    pub store: Arc<dyn Store>,
    pub clock: Arc<Clock>,
    pub config: machine::Config,
    pub hooks: Arc<dyn Hooks>,
}

/// What a committed batch leaves to do.
struct Committed {
    replies: Vec<Vec<Reply>>,
    changes: Changes,
    messages: Vec<Message>,
}

enum Failure {
    Store(store::Error),
    Panic,
}

impl From<store::Error> for Failure {
    fn from(error: store::Error) -> Self {
        Failure::Store(error)
    }
}

impl Lane {
    /// Serves the queue until all senders are gone, then returns with everything answered.
    pub async fn run(self, mut queue: mpsc::Receiver<Job>) {
        let mut held_over = None;
        loop {
            let first = match held_over.take() {
                Some(job) => job,
                None => match queue.recv().await {
                    Some(job) => job,
                    None => return,
                },
            };
            let (batch, rest) = collect(first, &mut queue);
            held_over = rest;
            self.serve(batch).await;
        }
    }

    async fn serve(&self, batch: Vec<Job>) {
        // A caller that has gone away was never acknowledged: nothing needs to happen.
        let batch: Vec<Job> = batch
            .into_iter()
            .filter(|job| !job.reply.is_closed())
            .collect();
        let mut open = VecDeque::from([batch]);
        while let Some(mut batch) = open.pop_front() {
            if batch.is_empty() {
                continue;
            }
            match self.commit(&batch).await {
                Ok(committed) => self.release(batch, committed).await,
                Err(_) if batch.len() > 1 => {
                    let second = batch.split_off(batch.len() / 2);
                    open.push_front(second);
                    open.push_front(batch);
                }
                Err(failure) => {
                    for job in batch {
                        let _ = job.reply.send(Err(error_of(&failure)));
                    }
                }
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
        loop {
            match self.attempt(batch).await {
                Err(Failure::Store(store::Error::Unavailable(reason)))
                    if Instant::now() + pause < deadline =>
                {
                    tracing::debug!(reason, "storage unavailable, trying again");
                    tokio::time::sleep(pause).await;
                    pause = (pause * 2).min(RETRY_PAUSE_MAX);
                }
                result => return result,
            }
        }
    }

    async fn attempt(&self, batch: &[Job]) -> Result<Committed, Failure> {
        let time = self.clock.start_batch();
        let mut tx = self.store.begin().await?;
        let mut ws = Workspace::default();
        self.load_all(&mut *tx, &mut ws, batch, time.now).await?;
        let mut replies = Vec::with_capacity(batch.len());
        for job in batch {
            let now = job.now.unwrap_or(time.now);
            let mut answers = Vec::with_capacity(job.inputs.len());
            for input in &job.inputs {
                // What came before in this batch may have uncovered more to look at.
                load(&mut *tx, &mut ws, |ws| machine::missing(input, now, ws)).await?;
                answers.push(self.decide(input, now, &mut ws)?);
            }
            replies.push(answers);
        }
        let (changes, messages) = ws.finish();
        tx.commit(&changes).await?;
        Ok(Committed {
            replies,
            changes,
            messages,
        })
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

    fn decide(&self, input: &Input, now: Millis, ws: &mut Workspace) -> Result<Reply, Failure> {
        // The workspace is dropped with the attempt: a half-made decision is never committed.
        let decided = catch_unwind(AssertUnwindSafe(|| {
            machine::decide(input, now, ws, &self.config)
        }));
        decided.map_err(|_| Failure::Panic)
    }

    async fn release(&self, batch: Vec<Job>, committed: Committed) {
        for (job, replies) in batch.into_iter().zip(committed.replies) {
            let _ = job.reply.send(Ok(replies));
        }
        self.hooks.committed(&committed.changes);
        if !committed.messages.is_empty() {
            // The answer of a request leaves before the messages that it caused (clients.md).
            tokio::task::yield_now().await;
            self.hooks.emit(committed.messages);
        }
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

/// Takes what has queued up, within the bounds; the job that would break them is held over.
fn collect(first: Job, queue: &mut mpsc::Receiver<Job>) -> (Vec<Job>, Option<Job>) {
    let mut bytes = first.bytes;
    let mut batch = vec![first];
    while batch.len() < BATCH_JOBS_MAX {
        let Ok(job) = queue.try_recv() else { break };
        bytes = bytes.saturating_add(job.bytes);
        if bytes > BATCH_BYTES_MAX {
            return (batch, Some(job));
        }
        batch.push(job);
    }
    (batch, None)
}

fn error_of(failure: &Failure) -> Error {
    match failure {
        Failure::Store(store::Error::Unavailable(reason)) => Error::Unavailable(reason.clone()),
        Failure::Store(error) => Error::Internal(error.to_string()),
        Failure::Panic => Error::Internal("the operation failed unexpectedly".to_owned()),
    }
}
