//! Retention: deletes trees that were over for as long as they are kept (`docs/retention.md`).
//!
//! ```text
//!   walk (read only, paced) ──> trees that are over ──> batches of steps ──> engine: decides, deletes
//! ```
//!
//! Nothing is stored about it: a walk that a crash cut short begins anew at the first id. Where several servers
//! share the database each walks all of it, and deletes its share of the trees.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use serde::Serialize;
use tokio::sync::Mutex;
use tokio::time::sleep;

use crate::engine::{Engine, Error, STEPS_MAX};
use crate::machine::object::Object;
use crate::machine::{Retirement, Step};
use crate::protocol::record::{Id, Millis};
use crate::protocol::retention::Rules;
use crate::store::{Changes, DeadlineKey};
use crate::telemetry::metrics::METRICS;

use super::outbox::Outbox;
use walk::{Candidate, Look, PAGE, Pace, Walk, earliest};

mod held;
mod walk;

/// Promises that a walk looks at for each that may be deleted in the same time.
const LOOKS_PER_DELETION: u32 = 20;
/// After a storage that did not answer.
const RETRY_PAUSE: Duration = Duration::from_secs(1);

/// How retention is set up.
#[derive(Clone, Debug, Default)]
pub struct Settings {
    /// What is kept for how long.
    pub rules: Rules,
    /// `retention.batch_size`: promises deleted in one transaction; a tree of no more goes at once.
    pub batch_size: usize,
    /// `retention.rate`: promises deleted in a second, at most.
    pub rate: u32,
    /// `retention.interval`: from the end of a walk to the next.
    pub interval: Duration,
}

/// What would be deleted.
#[derive(Debug, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Preview {
    /// Promises that were looked at.
    pub promises: usize,
    /// What would be deleted, by why: a rule, or `retention.after`.
    pub due: Vec<Due>,
    /// When the oldest promise settled that would stay.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub oldest_kept: Option<Millis>,
}

/// Trees that would be deleted for one reason.
#[derive(Debug, Default, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Due {
    /// The rule, as it is written, or `retention.after`.
    pub rule: String,
    /// Trees.
    pub trees: usize,
    /// Promises in them.
    pub promises: usize,
    /// When the first of them settled.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub oldest: Option<Millis>,
}

/// See the module documentation. By default it deletes nothing.
#[derive(Default)]
pub struct Retention {
    settings: Settings,
    walks: AtomicU64,
    previewing: Mutex<()>,
}

impl Retention {
    /// Retention that is not running yet.
    pub fn new(settings: Settings) -> Self {
        Retention {
            settings,
            ..Retention::default()
        }
    }

    /// Whether there is anything to delete, ever.
    pub fn is_on(&self) -> bool {
        self.settings.rules.is_on()
    }

    /// What is kept for how long.
    pub fn rules(&self) -> &Rules {
        &self.settings.rules
    }

    /// Takes note of what was deleted.
    pub fn committed(&self, changes: &Changes) {
        METRICS.retention_deleted(changes.deleted.len());
    }

    /// Runs until the task is dropped.
    pub async fn run(&self, engine: &Engine, outbox: &Outbox) {
        loop {
            engine.until_resumed().await;
            match self.walk(engine, outbox).await {
                Ok(oldest_kept) => {
                    let age = oldest_kept.map_or(0, |at| engine.clock().now().saturating_sub(at));
                    METRICS.retention_walk(age);
                }
                Err(error) => tracing::warn!(%error, "a retention walk was cut short"),
            }
            sleep(self.settings.interval).await;
        }
    }

    async fn walk(&self, engine: &Engine, outbox: &Outbox) -> Result<Option<Millis>, Error> {
        let page = u32::try_from(PAGE).unwrap_or(u32::MAX);
        let pause = self.time_for(page) / LOOKS_PER_DELETION;
        let mut walk = self.new_walk(engine, &self.settings.rules, Pace::Steady(pause));
        walk.survey().await?;
        let mut oldest_kept = None;
        let mut batch = Batch::default();
        while let Some(page) = walk.page().await? {
            oldest_kept = earliest(oldest_kept, page.oldest_kept);
            for candidate in &page.candidates {
                let key = DeadlineKey::Promise(candidate.root.clone());
                let look = match outbox.is_mine(&key) {
                    true => walk.look(candidate).await?,
                    false => None,
                };
                let Some(look) = look else {
                    oldest_kept = earliest(oldest_kept, candidate.settled_at);
                    continue;
                };
                settle(engine, &look).await?;
                if batch.promises + look.promises > self.settings.batch_size {
                    let kept = self.flush(engine, &mut batch).await?;
                    oldest_kept = earliest(oldest_kept, kept);
                }
                if look.promises > self.settings.batch_size {
                    let kept = self.delete_large(engine, &walk, candidate, look).await?;
                    oldest_kept = earliest(oldest_kept, kept);
                } else {
                    batch.add_tree(candidate, look.promises);
                }
            }
        }
        let kept = self.flush(engine, &mut batch).await?;
        Ok(earliest(oldest_kept, kept))
    }

    /// Deletes a tree from its end: each promise goes after those below it, and the root last. Whenever those that
    /// one look remembers are gone, all that is left has to be over still. Returns as [`Retention::flush`] does.
    async fn delete_large(
        &self,
        engine: &Engine,
        walk: &Walk<'_>,
        candidate: &Candidate,
        mut look: Look,
    ) -> Result<Option<Millis>, Error> {
        let mut batch = Batch::default();
        while look.promises > self.settings.batch_size {
            let before = look.promises;
            // What remains in the end goes at once.
            let part = look.tail.len().min(before - self.settings.batch_size);
            for id in look.tail.iter().rev().take(part) {
                if batch.promises >= self.settings.batch_size {
                    self.flush(engine, &mut batch).await?;
                }
                batch.add_part(id, candidate.after_ms);
            }
            self.flush(engine, &mut batch).await?;
            match walk.look(candidate).await? {
                Some(left) if left.promises < before => look = left,
                // Somebody is at it again.
                _ => return Ok(candidate.settled_at),
            }
        }
        batch.add_tree(candidate, look.promises);
        self.flush(engine, &mut batch).await
    }

    /// Has a batch deleted, and then rests for as long as it may take. Returns the earliest settlement in those of its
    /// trees that the machine would not let go.
    async fn flush(&self, engine: &Engine, batch: &mut Batch) -> Result<Option<Millis>, Error> {
        let Batch {
            steps,
            promises,
            settled,
        } = std::mem::take(batch);
        if steps.is_empty() {
            return Ok(None);
        }
        engine.until_resumed().await;
        patiently(|| engine.step(steps.clone())).await?;
        let roots: Vec<Id> = settled.keys().cloned().collect();
        let kept = patiently(|| engine.store().read(&roots)).await?;
        sleep(self.time_for(u32::try_from(promises).unwrap_or(u32::MAX))).await;
        let settled_at = |object: &Arc<Object>| settled.get(&object.promise.id).copied();
        Ok(kept.iter().filter_map(settled_at).min())
    }

    /// How long it takes to delete so many promises.
    fn time_for(&self, promises: u32) -> Duration {
        Duration::from_secs(1).saturating_mul(promises) / self.settings.rate.max(1)
    }

    fn new_walk<'a>(&self, engine: &'a Engine, rules: &'a Rules, pace: Pace) -> Walk<'a> {
        Walk::new(
            engine,
            rules,
            pace,
            self.walks.fetch_add(1, Ordering::Relaxed),
        )
    }

    /// Finds out what `rules` would delete now, and deletes nothing. Takes as long as it takes to read all promises;
    /// none if somebody else is asking already.
    ///
    /// # Errors
    /// [`Error::Unavailable`] when the storage does not answer.
    pub async fn preview(&self, engine: &Engine, rules: &Rules) -> Result<Option<Preview>, Error> {
        let Ok(_turn) = self.previewing.try_lock() else {
            return Ok(None);
        };
        let mut walk = self.new_walk(engine, rules, Pace::Fast);
        walk.survey().await?;
        let mut due: BTreeMap<String, Due> = BTreeMap::new();
        let (mut promises, mut oldest_kept) = (0, None);
        while let Some(page) = walk.page().await? {
            promises += page.promises;
            oldest_kept = earliest(oldest_kept, page.oldest_kept);
            for candidate in &page.candidates {
                let Some(look) = walk.look(candidate).await? else {
                    oldest_kept = earliest(oldest_kept, candidate.settled_at);
                    continue;
                };
                let rule = candidate.rule.clone();
                let rule = rule.unwrap_or_else(|| "retention.after".to_owned());
                let due = due.entry(rule.clone()).or_insert_with(|| Due {
                    rule,
                    ..Due::default()
                });
                due.trees += 1;
                due.promises += look.promises;
                due.oldest = earliest(due.oldest, candidate.settled_at);
            }
        }
        Ok(Some(Preview {
            promises,
            due: due.into_values().collect(),
            oldest_kept,
        }))
    }
}

/// Stores as settled what is over by its deadline: only what is stored so is deleted.
async fn settle(engine: &Engine, look: &Look) -> Result<(), Error> {
    for ids in look.expired.chunks(STEPS_MAX) {
        let steps = || ids.iter().cloned().map(Step::Promise).collect();
        patiently(|| engine.step(steps())).await?;
    }
    Ok(())
}

/// Tries again while the storage is out: what a walk of hours has seen is as good afterwards.
async fn patiently<T, E, F>(what: impl Fn() -> F) -> Result<T, Error>
where
    E: Into<Error>,
    F: Future<Output = Result<T, E>>,
{
    let mut is_noted = false;
    loop {
        match what().await.map_err(Into::into) {
            Err(Error::Unavailable(reason)) => {
                if !is_noted {
                    tracing::warn!(reason, "a retention walk waits for the storage");
                }
                is_noted = true;
                sleep(RETRY_PAUSE).await;
            }
            answer => return answer,
        }
    }
}

/// Steps of one transaction, how many promises they may delete, and when the first of each tree settled.
#[derive(Default)]
struct Batch {
    steps: Vec<Step>,
    promises: usize,
    settled: BTreeMap<Id, Millis>,
}

impl Batch {
    fn add_tree(&mut self, candidate: &Candidate, promises: usize) {
        let root = &candidate.root;
        self.add(root, candidate.after_ms, false);
        self.promises += promises;
        self.settled
            .extend(candidate.settled_at.map(|at| (root.clone(), at)));
    }

    /// A promise of a larger tree, with what is left below it.
    fn add_part(&mut self, id: &Id, after_ms: Millis) {
        self.add(id, after_ms, true);
        self.promises += 1;
    }

    fn add(&mut self, root: &Id, after_ms: Millis, is_part: bool) {
        self.steps.push(Step::Retire(Retirement {
            root: root.clone(),
            after_ms,
            is_part,
        }));
    }
}
