//! Who waits for whom: why a task is not running.
//!
//! A look at the queues now and then finds tasks that nobody receives, and says so when that begins and
//! when it ends. [`Outbox::targets`] is the same for whoever asks.

use std::collections::{BTreeMap, HashMap};
use std::time::Duration;

use serde::Serialize;
use tokio::time::Instant;

use crate::engine::Engine;
use crate::protocol::address::{Address, Rules};
use crate::protocol::record::{Id, Millis};
use crate::store::{DeadlineKey, Result, WaitingCount, WaitingKind};
use crate::telemetry::metrics::{self, METRICS};

use super::Outbox;

/// Messages of a queue that are counted, per kind.
const COUNTED_MAX: usize = 1000;
/// Queues that one look takes in.
const QUEUES_MAX: usize = 1000;
/// A look is followed by a pause of as many times what it took.
const PAUSE_PER_LOOK: u32 = 50;

/// Messages that wait for a target, and why.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Target {
    /// The address, as far as it holds no secrets: of a URL scheme, host and port.
    pub target: String,
    /// Pending tasks that have been due for dispatch, of those that are counted.
    pub tasks: usize,
    /// `unblock` messages not delivered yet, of those that are counted.
    pub unblocks: usize,
    /// Since when the longest of them waits.
    pub waiting_since: Millis,
    /// Why nobody receives them; none if somebody does, and may be busy.
    pub reason: Option<Reason>,
    /// What went wrong last.
    pub detail: Option<String>,
}

/// Why messages are not received.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Reason {
    /// No worker's stream is open on any server.
    NoReceiver,
    /// By configuration.
    TransportDisabled,
    /// The last message was refused, or did not arrive.
    Failing,
}

impl Reason {
    fn as_str(self) -> &'static str {
        match self {
            Reason::NoReceiver => "no worker is connected",
            Reason::TransportDisabled => "transport disabled",
            Reason::Failing => "failing",
        }
    }
}

/// A page of targets.
#[derive(Clone, Debug, Serialize)]
pub struct Targets {
    /// By queue, and by target within one.
    pub targets: Vec<Target>,
    /// Where the next page starts.
    pub cursor: Option<Id>,
}

impl Outbox {
    /// The targets that messages wait for, in at most `limit` queues after `cursor`.
    ///
    /// # Errors
    /// When the storage cannot be read.
    pub async fn targets(
        &self,
        engine: &Engine,
        cursor: Option<&str>,
        limit: usize,
    ) -> Result<Targets> {
        let limit = limit.clamp(1, QUEUES_MAX);
        let store = engine.store();
        let queues = store.queues(WaitingKind::Any, cursor, limit).await?;
        let mut targets = Vec::new();
        for queue in &queues {
            targets.extend(self.targets_of(engine, queue).await?);
        }
        let cursor = queues.last().filter(|_| queues.len() == limit).cloned();
        Ok(Targets { targets, cursor })
    }

    async fn targets_of(&self, engine: &Engine, queue: &Id) -> Result<Vec<Target>> {
        let now = engine.clock().now();
        let counted = engine.store().waiting_by_address(queue, now, COUNTED_MAX);
        Ok(self.by_target(queue, counted.await?))
    }

    fn by_target(&self, queue: &str, counted: Vec<WaitingCount>) -> Vec<Target> {
        let mut targets: BTreeMap<String, Target> = BTreeMap::new();
        for waiting in counted {
            let Some(address) = Address::parse(&waiting.address, &self.settings.address_rules)
            else {
                continue;
            };
            let label = address.label();
            let target = targets.entry(label.clone()).or_insert_with(|| {
                let (reason, detail) = self.reason(queue, &address).unzip();
                Target {
                    target: label,
                    tasks: 0,
                    unblocks: 0,
                    waiting_since: waiting.since,
                    reason,
                    detail: detail.flatten(),
                }
            });
            target.tasks += waiting.executes;
            target.unblocks += waiting.unblocks;
            target.waiting_since = target.waiting_since.min(waiting.since);
        }
        targets.into_values().collect()
    }

    fn reason(&self, queue: &str, address: &Address) -> Option<(Reason, Option<String>)> {
        let transport = self.transports()?.table.of(address);
        let is_served = self.is_listened(queue)
            || self
                .cluster()
                .is_some_and(|cluster| cluster.listener(queue).is_some());
        match (is_served, transport) {
            (true, transport) => {
                let trouble = transport.and_then(|transport| transport.trouble(address));
                trouble.map(|trouble| (Reason::Failing, Some(trouble)))
            }
            (false, None) => Some((Reason::TransportDisabled, None)),
            (false, Some(_)) => Some((Reason::NoReceiver, None)),
        }
    }

    /// Measures what waits, and says when tasks begin to wait for somebody who is not there, and when that ends.
    pub(super) async fn watch_targets(&self, engine: &Engine) {
        let mut watch = Watch::default();
        loop {
            engine.until_resumed().await;
            let began = Instant::now();
            match self.unserved(engine).await {
                Ok(unserved) if !engine.is_paused() => self.compare(&mut watch, unserved),
                Ok(_) => {}
                // The timers log a storage that is out.
                Err(error) => tracing::debug!(%error, "waiting tasks could not be read"),
            }
            let pause = self
                .settings
                .sweep_interval
                .max(began.elapsed() * PAUSE_PER_LOOK);
            tokio::time::sleep(pause.min(Duration::from_secs(60))).await;
        }
    }

    /// Looks at what waits. Returns the tasks that nobody receives, by queue; of what several servers share, this one's
    /// part.
    async fn unserved(&self, engine: &Engine) -> Result<HashMap<Id, Target>> {
        let store = engine.store();
        let queues = store.queues(WaitingKind::Any, None, QUEUES_MAX).await?;
        let mut unserved = HashMap::new();
        let mut backlogs = Backlogs::default();
        for queue in queues {
            if !self.is_mine(&DeadlineKey::Promise(queue.clone())) {
                continue;
            }
            let now = engine.clock().now();
            let counts = store.waiting_by_address(&queue, now, COUNTED_MAX).await?;
            for count in &counts {
                backlogs.add(count, &self.settings.address_rules, now);
            }
            if self.is_listened(&queue) {
                continue;
            }
            let mut targets = self.by_target(&queue, counts);
            targets.retain(|target| target.tasks > 0 && target.reason.is_some());
            let tasks = targets.iter().map(|target| target.tasks).sum();
            if let Some(first) = targets.pop() {
                unserved.insert(queue, Target { tasks, ..first });
            }
        }
        METRICS.backlogs(backlogs.0.into_values().collect());
        Ok(unserved)
    }

    fn compare(&self, watch: &mut Watch, unserved: HashMap<Id, Target>) {
        let tasks = unserved.values().map(|target| target.tasks).sum();
        METRICS.unserved(unserved.len(), tasks);
        for (queue, target) in &unserved {
            let Some(reason) = target.reason.map(Reason::as_str) else {
                continue;
            };
            // Not at the first sight: a worker may just be connecting anew.
            if watch.0.contains_key(queue) && self.is_news(&target.target, reason) {
                let Target { target, tasks, .. } = target;
                tracing::warn!(target.address = target, tasks, reason, "tasks wait");
            }
        }
        for (_, target) in watch.0.drain().filter(|(q, _)| !unserved.contains_key(q)) {
            if self.lock().unserved.delivered(&target.target) {
                let target = target.target;
                tracing::info!(target.address = target, "tasks no longer wait");
            }
        }
        watch.0 = unserved;
    }

    /// Says once that messages to an address are dropped.
    pub(super) fn warn_disabled(&self, address: &Address) {
        let label = address.label();
        if self.is_news(&label, Reason::TransportDisabled.as_str()) {
            tracing::warn!(
                target.address = label,
                "messages to this target are dropped: transport disabled"
            );
        }
    }

    fn is_news(&self, label: &str, reason: &str) -> bool {
        let now = Instant::now();
        self.lock().unserved.failed(label, reason, now)
    }
}

/// What waits, by transport and group.
#[derive(Default)]
struct Backlogs(HashMap<(&'static str, String), metrics::Backlog>);

impl Backlogs {
    fn add(&mut self, count: &WaitingCount, rules: &Rules, now: Millis) {
        let Some(address) = Address::parse(&count.address, rules) else {
            return;
        };
        let transport = address.scheme();
        let group = match address {
            Address::Poll(poll) => poll.group,
            Address::Http { .. } | Address::Gcps { .. } | Address::Bash(_) => String::new(),
        };
        let backlog = self.0.entry((transport, group)).or_insert_with_key(|key| {
            let (transport, group) = key.clone();
            metrics::Backlog {
                transport,
                group,
                tasks: 0,
                task_age: Duration::ZERO,
                unblocks: 0,
                unblock_age: Duration::ZERO,
            }
        });
        let age = u64::try_from(now.saturating_sub(count.since)).unwrap_or(0);
        let age = Duration::from_millis(age);
        backlog.tasks += count.executes;
        backlog.unblocks += count.unblocks;
        if count.executes > 0 {
            backlog.task_age = backlog.task_age.max(age);
        }
        if count.unblocks > 0 {
            backlog.unblock_age = backlog.unblock_age.max(age);
        }
    }
}

/// What the last look found.
#[derive(Default)]
struct Watch(HashMap<Id, Target>);
