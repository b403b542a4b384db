//! A walk over all promises, in the order of their ids, in pages: it finds the trees that may be over.
//!
//! ```text
//!   survey: callbacks, then all promises  ──> held: trees that others still need
//!   pages:  all promises again, tree by tree ──> candidates ──look──> all of it is over, so many promises
//! ```
//!
//! It reads committed state, outside any batch, and decides nothing: whoever deletes a tree has the machine
//! look at it again.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::time::Duration;

use tokio::task::yield_now;
use tokio::time::sleep;

use crate::engine::{Engine, Error};
use crate::machine::object::settled_at;
use crate::protocol::lineage::{Chain, is_within, named, ranges};
use crate::protocol::record::{Id, Millis, Promise, PromiseState};
use crate::protocol::retention::Rules;
use crate::store::{self, Outline, OutlinePage};

use super::held::Held;
use super::patiently;

/// Promises of a page: few, so that nobody waits for a processor for long meanwhile.
pub(super) const PAGE: usize = 128;
/// The last ids of a tree that a look remembers.
const TAIL_MAX: usize = 4096;
/// Promises past their deadline that a look names, and other trees that a tree may hang on; with more it stays.
const EXPIRED_MAX: usize = 1000;
const NAMED_MAX: usize = 1000;

/// See the module documentation.
pub(super) struct Walk<'a> {
    engine: &'a Engine,
    rules: &'a Rules,
    pace: Pace,
    held: Held,
    chain: Chain,
    after: Option<Id>,
    is_at_end: bool,
    /// The tree of the last promise whose root is not there.
    orphaned: Option<Id>,
}

/// How a walk goes.
#[derive(Clone, Copy)]
pub(super) enum Pace {
    /// With a pause between two pages, and on when a storage that is out answers again.
    Steady(Duration),
    /// As fast as it can, for somebody who waits.
    Fast,
}

/// A tree of which nothing that was seen speaks against its being over.
pub(super) struct Candidate {
    pub root: Id,
    /// For how long it is kept.
    pub after_ms: Millis,
    /// Why: the rule that names it, if one does.
    pub rule: Option<String>,
    /// The earliest settlement that was seen in it.
    pub settled_at: Option<Millis>,
}

/// What a page holds.
#[derive(Default)]
pub(super) struct Page {
    pub candidates: Vec<Candidate>,
    /// The earliest settlement of what is no candidate.
    pub oldest_kept: Option<Millis>,
    pub promises: usize,
}

/// A tree that is over.
#[derive(Default)]
pub(super) struct Look {
    pub promises: usize,
    /// Its last ids, ascending.
    pub tail: VecDeque<Id>,
    /// What is over by its deadline, and not stored so yet.
    pub expired: Vec<Id>,
}

impl<'a> Walk<'a> {
    /// A walk that is about to begin.
    pub fn new(engine: &'a Engine, rules: &'a Rules, pace: Pace, seed: u64) -> Self {
        Walk {
            engine,
            rules,
            pace,
            held: Held::new(seed),
            chain: Chain::default(),
            after: None,
            is_at_end: false,
            orphaned: None,
        }
    }

    fn now(&self) -> Millis {
        self.engine.clock().now()
    }

    /// Whether a promise has been settled for `after_ms`.
    fn is_over(promise: &Promise, after_ms: Millis, now: Millis) -> bool {
        settled_at(promise, now).is_some_and(|at| at.saturating_add(after_ms) <= now)
    }

    /// Finds out what other trees still need: whose awaiters wait elsewhere, and what is named by promises that are
    /// not over. What begins to need a tree that is over after this has never met it.
    pub async fn survey(&mut self) -> Result<(), Error> {
        let store = self.engine.store();
        let mut after = None;
        loop {
            let page = self.read(|| store.callbacks(after.as_ref(), PAGE)).await?;
            for (awaited, awaiter) in &page {
                // What waits for what is below it is in the same tree.
                if !is_within(awaited, awaiter) {
                    self.held.hold(awaiter);
                }
            }
            after = page.last().cloned();
            if page.len() < PAGE {
                break;
            }
            self.rest().await;
        }
        while let Some(rows) = self.next_rows().await? {
            let now = self.now();
            for Outline { promise, resumes } in &rows {
                let root = self.chain.root_of(&promise.id, &promise.tags);
                let after = self.rules.of(&promise.tags).0;
                if after.is_some_and(|after| Self::is_over(promise, after, now)) {
                    continue;
                }
                let needed = named(&promise.tags).chain(resumes.iter().map(|id| &**id));
                for id in needed.filter(|id| !is_within(id, root)) {
                    self.held.hold(id);
                }
            }
        }
        (self.chain, self.after, self.is_at_end) = (Chain::default(), None, false);
        Ok(())
    }

    /// The next page, or none at the end.
    pub async fn page(&mut self) -> Result<Option<Page>, Error> {
        let Some(rows) = self.next_rows().await? else {
            return Ok(None);
        };
        let now = self.now();
        let mut candidates: BTreeMap<Id, Option<Candidate>> = BTreeMap::new();
        let mut page = Page {
            promises: rows.len(),
            ..Page::default()
        };
        for Outline { promise, .. } in &rows {
            let root: Id = self.chain.root_of(&promise.id, &promise.tags).into();
            // Once for each tree: at its root, or where its promises begin if there is none.
            let is_first = match self.chain.has(&root) {
                true => root == promise.id,
                false => self.orphaned.as_ref() != Some(&root),
            };
            if is_first {
                let is_orphaned = root != promise.id;
                let (after, rule) = match is_orphaned {
                    true => self.rules.of(&Default::default()),
                    false => self.rules.of(&promise.tags),
                };
                let candidate = after.map(|after_ms| Candidate {
                    root: root.clone(),
                    after_ms,
                    rule: rule.map(ToString::to_string),
                    settled_at: None,
                });
                candidates.insert(root.clone(), candidate);
                self.orphaned = is_orphaned.then(|| root.clone());
            }
            let slot = candidates.get_mut(&root);
            match slot {
                Some(Some(candidate)) if Self::is_over(promise, candidate.after_ms, now) => {
                    candidate.settled_at = earliest(candidate.settled_at, promise.settled_at);
                }
                other => {
                    let settled_at = match other {
                        Some(slot) => slot.take().and_then(|candidate| candidate.settled_at),
                        None => None,
                    };
                    page.oldest_kept = earliest(page.oldest_kept, settled_at);
                    page.oldest_kept = earliest(page.oldest_kept, promise.settled_at);
                }
            }
        }
        page.candidates = candidates.into_values().flatten().collect();
        Ok(Some(page))
    }

    /// Looks at all of a tree, and at those that it hangs on: none if not all of it is over, or others need it.
    pub async fn look(&self, candidate: &Candidate) -> Result<Option<Look>, Error> {
        let Candidate { root, after_ms, .. } = candidate;
        if self.held.has(root) {
            return Ok(None);
        }
        let mut look = Look::default();
        let mut elsewhere: BTreeSet<Id> = BTreeSet::new();
        let is_over = self.all_over(root, *after_ms, |promise| {
            look.promises += 1;
            if look.tail.len() == TAIL_MAX {
                look.tail.pop_front();
            }
            look.tail.push_back(promise.id.clone());
            if promise.state == PromiseState::Pending {
                look.expired.push(promise.id.clone());
            }
            let others = named(&promise.tags).filter(|id| !is_within(id, root));
            elsewhere.extend(others.map(Id::from));
            look.expired.len() <= EXPIRED_MAX && elsewhere.len() <= NAMED_MAX
        });
        if !is_over.await? || look.promises == 0 {
            return Ok(None);
        }
        for id in &elsewhere {
            if !self.all_over(id, *after_ms, |_| true).await? {
                return Ok(None);
            }
        }
        Ok(Some(look))
    }

    /// Whether an id and all below it are over, and `visit` says so of each.
    async fn all_over(
        &self,
        root: &str,
        after_ms: Millis,
        mut visit: impl FnMut(&Promise) -> bool,
    ) -> Result<bool, Error> {
        for (from, until) in ranges(root) {
            let mut page = OutlinePage {
                from,
                until: Some(until),
                after: None,
                limit: PAGE,
            };
            loop {
                let rows = self.read(|| self.engine.store().outlines(&page)).await?;
                let now = self.now();
                let mut members = rows
                    .iter()
                    .map(|row| &row.promise)
                    .filter(|promise| is_within(&promise.id, root));
                if !members.all(|promise| Self::is_over(promise, after_ms, now) && visit(promise)) {
                    return Ok(false);
                }
                let Some(last) = rows.last().filter(|_| rows.len() == PAGE) else {
                    break;
                };
                page.after = Some(last.promise.id.clone());
                self.rest().await;
            }
        }
        Ok(true)
    }

    async fn next_rows(&mut self) -> Result<Option<Vec<Outline>>, Error> {
        if self.is_at_end {
            return Ok(None);
        }
        if self.after.is_some() {
            self.rest().await;
        }
        let page = OutlinePage {
            after: self.after.take(),
            limit: PAGE,
            ..OutlinePage::default()
        };
        let rows = self.read(|| self.engine.store().outlines(&page)).await?;
        self.is_at_end = rows.len() < PAGE;
        self.after = rows.last().map(|row| row.promise.id.clone());
        Ok(Some(rows))
    }

    async fn read<T, F>(&self, page: impl Fn() -> F) -> Result<T, Error>
    where
        F: Future<Output = store::Result<T>>,
    {
        match self.pace {
            Pace::Steady(_) => patiently(page).await,
            Pace::Fast => Ok(page().await?),
        }
    }

    async fn rest(&self) {
        self.engine.until_resumed().await;
        match self.pace {
            Pace::Steady(pause) => sleep(pause).await,
            Pace::Fast => yield_now().await,
        }
    }
}

/// The earlier of two instants that may not be there.
pub(super) fn earliest(one: Option<Millis>, other: Option<Millis>) -> Option<Millis> {
    one.into_iter().chain(other).min()
}
