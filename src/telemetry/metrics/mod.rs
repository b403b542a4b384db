//! What the server counts and measures.
//!
//! ```text
//!   counters, histograms: written where it happens ──┐
//!   gauges that somebody sets now and then ──────────┼─> gather ─> text (scrape), OTLP
//!   gauges that are asked for: Sources ──────────────┘
//! ```
//!
//! Labels are bounded: a kind the protocol does not know is `unknown`, and of the groups that clients choose the
//! [`GROUPS_MAX`] largest have a series each.

use std::collections::HashMap;
use std::sync::{LazyLock, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use prometheus::proto::MetricFamily;
use prometheus::{
    Encoder, Gauge, GaugeVec, Histogram, HistogramVec, IntCounter, IntCounterVec, IntGauge,
    IntGaugeVec, Registry, TextEncoder,
};

use crate::protocol::kinds;

mod catalogue;

/// The metrics of this process.
pub static METRICS: LazyLock<Metrics> = LazyLock::new(Metrics::new);

/// Groups of workers that have a series each; the others are summed up as [`OTHER_GROUPS`].
pub const GROUPS_MAX: usize = 50;
/// See [`GROUPS_MAX`]. Not the name of any group: those are path segments.
pub const OTHER_GROUPS: &str = "/other";

/// See the module documentation.
pub struct Metrics {
    registry: Registry,
    sources: Mutex<Vec<Source>>,
    requests: IntCounterVec,
    request_seconds: HistogramVec,
    messages: IntCounterVec,
    deliveries: IntCounterVec,
    schedule_promises: IntCounter,
    unserved_targets: IntGauge,
    unserved_tasks: IntGauge,
    connections_closed: IntCounterVec,
    rate_limited: IntCounterVec,
    otlp_spans_dropped: IntCounterVec,
    queue_jobs: IntGauge,
    queue_wait_seconds: Histogram,
    batch_jobs: Histogram,
    load_seconds: Histogram,
    commit_seconds: Histogram,
    commit_failures: IntCounterVec,
    storage_up: IntGauge,
    storage_wait_seconds: HistogramVec,
    storage_connections: IntGaugeVec,
    objects: IntGaugeVec,
    tasks_pending: IntGaugeVec,
    tasks_pending_oldest_seconds: GaugeVec,
    outbox_unblocks: IntGaugeVec,
    outbox_oldest_seconds: GaugeVec,
    delivery_failures: IntCounterVec,
    delivery_retries: IntCounterVec,
    streams: IntGaugeVec,
    timer_lag_seconds: Histogram,
    schedule_lag_seconds: Histogram,
    timers: IntGauge,
    timers_overdue_seconds: Gauge,
    sweep_found: IntCounterVec,
    retention_deleted: IntCounter,
    retention_walks: IntCounter,
    retention_oldest_seconds: IntGauge,
}

/// Sets gauges that nobody keeps up to date.
pub type Source = Box<dyn Fn(&Metrics) + Send + Sync>;

/// What waits for a group of workers, or for a transport that has no groups.
#[derive(Clone, Debug, PartialEq)]
pub struct Backlog {
    /// How it is reached: the scheme of its addresses.
    pub transport: &'static str,
    /// Of a stream, whose; otherwise empty.
    pub group: String,
    /// Tasks that are due for dispatch, as far as they were counted.
    pub tasks: usize,
    /// For how long the first of them has been.
    pub task_age: Duration,
    /// `unblock` messages not delivered yet, as far as they were counted.
    pub unblocks: usize,
    /// For how long the first of them has waited.
    pub unblock_age: Duration,
}

/// Waits in the queue, until it is dropped.
#[derive(Debug)]
pub struct Queued {
    since: Instant,
}

impl Drop for Queued {
    fn drop(&mut self) {
        METRICS.queue_jobs.dec();
    }
}

/// Connections to the storage.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Pool {
    /// What for.
    pub name: &'static str,
    /// How many are used.
    pub used: usize,
    /// How many there may be.
    pub max: usize,
}

impl Metrics {
    /// Has gauges set whenever somebody looks. A source must not block, and sets nothing that is set as a whole.
    pub fn ask(&self, source: Source) {
        self.looking().push(source);
    }

    /// A request was answered.
    pub fn request(&self, kind: &str, status: u16, elapsed: Duration) {
        let kind = kinds::known(kind).unwrap_or("unknown");
        self.requests
            .with_label_values(&[kind, &status.to_string()])
            .inc();
        self.request_seconds
            .with_label_values(&[kind])
            .observe(elapsed.as_secs_f64());
    }

    /// A message (`execute`, `unblock`) was handed to a transport.
    pub fn message(&self, kind: &'static str) {
        self.messages.with_label_values(&[kind]).inc();
    }

    /// A delivery has finished (`success`, `error`, `dropped`).
    pub fn deliveries(&self, status: &'static str, count: u64) {
        self.deliveries.with_label_values(&[status]).inc_by(count);
    }

    /// Promises were created by schedules.
    pub fn schedule_promises(&self, count: u64) {
        self.schedule_promises.inc_by(count);
    }

    /// The server closed a connection (`full`, `room`, `head`, `idle`, `handshake`, `unread`).
    pub fn connection_closed(&self, reason: &'static str) {
        self.connections_closed.with_label_values(&[reason]).inc();
    }

    /// Retention has deleted so many promises.
    pub fn retention_deleted(&self, promises: usize) {
        self.retention_deleted
            .inc_by(u64::try_from(promises).unwrap_or(u64::MAX));
    }

    /// A walk of retention has come to its end, and left promises that settled up to so long ago.
    pub fn retention_walk(&self, oldest_ms: i64) {
        self.retention_walks.inc();
        self.retention_oldest_seconds.set(oldest_ms / 1000);
    }

    /// A request was one too many for its `address` or its `token`.
    pub fn rate_limited(&self, by: &'static str) {
        self.rate_limited.with_label_values(&[by]).inc();
    }

    /// Spans were not exported (`full`, `refused`).
    pub fn spans_dropped(&self, reason: &'static str, count: u64) {
        let dropped = self.otlp_spans_dropped.with_label_values(&[reason]);
        dropped.inc_by(count);
    }

    /// Tasks wait for targets that nobody serves.
    pub fn unserved(&self, targets: usize, tasks: usize) {
        self.unserved_targets.set(number(targets));
        self.unserved_tasks.set(number(tasks));
    }

    /// A request or internal step begins to wait to be put into a batch.
    pub fn queued(&self) -> Queued {
        self.queue_jobs.inc();
        Queued {
            since: Instant::now(),
        }
    }

    /// A batch was put together, of what had waited until now.
    pub fn batch(&self, waited: impl Iterator<Item = Queued>) {
        let now = Instant::now();
        let wait_seconds = self.queue_wait_seconds.local();
        let mut jobs = 0_u32;
        for queued in waited {
            let waited = now.saturating_duration_since(queued.since);
            wait_seconds.observe(waited.as_secs_f64());
            jobs += 1;
        }
        wait_seconds.flush();
        self.batch_jobs.observe(jobs.into());
    }

    /// A batch has read what it decides on.
    pub fn loaded(&self, elapsed: Duration) {
        self.load_seconds.observe(elapsed.as_secs_f64());
    }

    /// What a batch decided was made durable.
    pub fn committed(&self, elapsed: Duration) {
        self.commit_seconds.observe(elapsed.as_secs_f64());
    }

    /// An attempt at a batch came to nothing.
    pub fn commit_failed(&self, reason: &'static str) {
        self.commit_failures.with_label_values(&[reason]).inc();
    }

    /// Whether the storage took the last write.
    pub fn storage_up(&self, is_up: bool) {
        self.storage_up.set(is_up.into());
    }

    /// Somebody waited for a connection of a pool.
    pub fn storage_wait(&self, pool: &'static str, waited: Duration) {
        self.storage_wait_seconds
            .with_label_values(&[pool])
            .observe(waited.as_secs_f64());
    }

    /// Connections to the storage, as they are.
    pub fn storage_connections(&self, pools: &[Pool]) {
        let gauge = |pool: &Pool, state| {
            self.storage_connections
                .with_label_values(&[pool.name, state])
        };
        for pool in pools {
            gauge(pool, "used").set(number(pool.used));
            gauge(pool, "max").set(number(pool.max));
        }
    }

    /// Everything stored was counted: (kind, state, how many).
    pub fn objects(&self, counts: &[(&'static str, &'static str, usize)]) {
        let _whole = self.looking();
        self.objects.reset();
        for (kind, state, count) in counts {
            let gauge = self.objects.with_label_values(&[kind, state]);
            gauge.set(number(*count));
        }
    }

    /// A delivery failed, and will be repeated.
    pub fn delivery_failed(&self, transport: &'static str) {
        self.delivery_failures.with_label_values(&[transport]).inc();
    }

    /// A message is sent once more.
    pub fn delivery_retried(&self, transport: &'static str) {
        self.delivery_retries.with_label_values(&[transport]).inc();
    }

    /// A deadline of a promise, its task or a message was fired, so long after its instant.
    pub fn timer_fired(&self, lag: Duration) {
        self.timer_lag_seconds.observe(lag.as_secs_f64());
    }

    /// A schedule was fired, so long after its instant.
    pub fn schedule_fired(&self, lag: Duration) {
        self.schedule_lag_seconds.observe(lag.as_secs_f64());
    }

    /// So many deadlines are in memory, and the first has been due for so long; by a source.
    pub fn timers(&self, count: usize, overdue: Duration) {
        self.timers.set(number(count));
        self.timers_overdue_seconds.set(overdue.as_secs_f64());
    }

    /// A sweep found what no timer was set for (`promise`, `schedule`, `unblock`, `stale`).
    pub fn swept(&self, kind: &'static str, count: usize) {
        let count = u64::try_from(count).unwrap_or(u64::MAX);
        self.sweep_found.with_label_values(&[kind]).inc_by(count);
    }

    /// All that waits was looked at.
    pub fn backlogs(&self, backlogs: Vec<Backlog>) {
        let mut by_transport: HashMap<&'static str, (usize, Duration)> = HashMap::new();
        for backlog in backlogs.iter().filter(|backlog| backlog.unblocks > 0) {
            let (unblocks, age) = by_transport.entry(backlog.transport).or_default();
            *unblocks += backlog.unblocks;
            *age = backlog.unblock_age.max(*age);
        }
        let _whole = self.looking();
        self.outbox_unblocks.reset();
        self.outbox_oldest_seconds.reset();
        for (transport, (unblocks, age)) in by_transport {
            let labels = [transport];
            let count = self.outbox_unblocks.with_label_values(&labels);
            count.set(number(unblocks));
            let oldest = self.outbox_oldest_seconds.with_label_values(&labels);
            oldest.set(age.as_secs_f64());
        }
        self.tasks_pending.reset();
        self.tasks_pending_oldest_seconds.reset();
        let waiting = backlogs.into_iter().filter(|backlog| backlog.tasks > 0);
        let waiting = waiting.map(|b| (b.tasks, (b.transport, b.group, b.task_age)));
        for (index, (tasks, (transport, group, age))) in largest_first(waiting).enumerate() {
            let group = if index < GROUPS_MAX {
                &group
            } else {
                OTHER_GROUPS
            };
            let labels = [transport, group];
            let count = self.tasks_pending.with_label_values(&labels);
            count.add(number(tasks));
            let oldest = self.tasks_pending_oldest_seconds.with_label_values(&labels);
            oldest.set(age.as_secs_f64().max(oldest.get()));
        }
    }

    /// The open streams of each group; by a source.
    pub fn streams(&self, groups: impl Iterator<Item = (String, usize)>) {
        self.streams.reset();
        let groups = groups.map(|(group, streams)| (streams, group));
        for (index, (streams, group)) in largest_first(groups).enumerate() {
            let group = if index < GROUPS_MAX {
                &group
            } else {
                OTHER_GROUPS
            };
            self.streams
                .with_label_values(&[group])
                .add(number(streams));
        }
    }

    /// All series, as they are now.
    pub fn gather(&self) -> Vec<MetricFamily> {
        let sources = self.looking();
        sources.iter().for_each(|source| source(self));
        self.registry.gather()
    }

    /// While it is held, nobody gathers what is half set.
    fn looking(&self) -> MutexGuard<'_, Vec<Source>> {
        self.sources.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The Prometheus text format.
    pub fn render(&self) -> String {
        let mut text = Vec::new();
        if let Err(error) = TextEncoder::new().encode(&self.gather(), &mut text) {
            tracing::error!(%error, "metrics cannot be rendered");
        }
        String::from_utf8(text).unwrap_or_default()
    }
}

fn number(count: usize) -> i64 {
    i64::try_from(count).unwrap_or(i64::MAX)
}

fn largest_first<T>(counted: impl Iterator<Item = (usize, T)>) -> impl Iterator<Item = (usize, T)> {
    let mut counted: Vec<(usize, T)> = counted.collect();
    counted.sort_by_key(|(count, _)| std::cmp::Reverse(*count));
    counted.into_iter()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn backlog(group: usize, tasks: usize) -> Backlog {
        Backlog {
            transport: "poll",
            group: group.to_string(),
            tasks,
            task_age: Duration::from_secs(1),
            unblocks: 1,
            unblock_age: Duration::from_secs(2),
        }
    }

    #[test]
    fn the_largest_groups_have_a_series_each_and_the_others_one() {
        let metrics = Metrics::new();
        let groups = GROUPS_MAX + 10;
        metrics.backlogs((0..groups).map(|n| backlog(n, n + 1)).collect());
        let text = metrics.render();
        let series = |name: &str| text.lines().filter(|line| line.starts_with(name)).count();
        assert_eq!(series("resonate_tasks_pending{"), GROUPS_MAX + 1);
        // 1 + 2 + … + 10.
        assert!(text.contains("resonate_tasks_pending{group=\"/other\",transport=\"poll\"} 55\n"));
        assert!(text.contains("resonate_outbox_unblocks{transport=\"poll\"} 60\n"));
        assert!(text.contains("resonate_outbox_oldest_seconds{transport=\"poll\"} 2\n"));
        // What no longer waits is gone.
        metrics.backlogs(Vec::new());
        assert!(!metrics.render().contains("resonate_tasks_pending{"));
    }

    #[test]
    fn what_is_asked_for_is_set_when_somebody_looks() {
        let metrics = Metrics::new();
        metrics.ask(Box::new(|metrics| {
            metrics.streams([("g".to_owned(), 3)].into_iter());
        }));
        assert!(
            metrics
                .render()
                .contains("resonate_streams{group=\"g\"} 3\n")
        );
    }
}
