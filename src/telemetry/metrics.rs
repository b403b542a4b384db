//! The metric catalogue: every series, its help and its labels, in one table (`protocol.md` §2.1,
//! `transports.md` §7). Labels are bounded: a kind the protocol does not know is `unknown`.

use std::sync::LazyLock;
use std::time::Duration;

use prometheus::{
    Encoder, HistogramOpts, HistogramVec, IntCounter, IntCounterVec, IntGauge, Opts, Registry,
    TextEncoder,
};

use crate::protocol::kinds;

/// The metrics of this process.
pub static METRICS: LazyLock<Metrics> = LazyLock::new(Metrics::new);

/// See the module documentation.
pub struct Metrics {
    registry: Registry,
    requests: IntCounterVec,
    request_seconds: HistogramVec,
    messages: IntCounterVec,
    deliveries: IntCounterVec,
    schedule_promises: IntCounter,
    unserved_targets: IntGauge,
    unserved_tasks: IntGauge,
    connections_closed: IntCounterVec,
    rate_limited: IntCounterVec,
    retention_deleted: IntCounter,
    retention_walks: IntCounter,
    retention_oldest_seconds: IntGauge,
}

impl Metrics {
    fn new() -> Self {
        let registry = Registry::new();
        let counters = |name: &str, help: &str, labels: &[&str]| {
            let counters =
                IntCounterVec::new(Opts::new(name, help), labels).expect("names are constants");
            registry
                .register(Box::new(counters.clone()))
                .expect("names are unique");
            counters
        };
        let requests = counters(
            "resonate_request_total",
            "Protocol requests answered, by kind and status.",
            &["kind", "status"],
        );
        let messages = counters(
            "resonate_messages_total",
            "Messages handed to a transport, by kind.",
            &["kind"],
        );
        let deliveries = counters(
            "resonate_deliveries_total",
            "Deliveries finished: success, error (tried and failed), dropped (nobody, disabled or given up).",
            &["status"],
        );
        let connections_closed = counters(
            "resonate_connections_closed_total",
            "Connections the server closed: full (no place), room (made for another), head (no request in time), idle, handshake (TLS failed), unread (answers not taken while others waited).",
            &["reason"],
        );
        let rate_limited = counters(
            "resonate_rate_limited_total",
            "Requests answered 429, by what was over its rate: address, token.",
            &["by"],
        );
        let opts = HistogramOpts::new(
            "resonate_request_duration_seconds",
            "Time from reading a protocol request to answering it, by kind.",
        )
        .buckets(prometheus::exponential_buckets(0.000_1, 2.0, 18).expect("constants"));
        let request_seconds = HistogramVec::new(opts, &["kind"]).expect("names are constants");
        registry
            .register(Box::new(request_seconds.clone()))
            .expect("names are unique");
        let schedule_promises = IntCounter::new(
            "resonate_schedule_promises_total",
            "Promises created by schedules.",
        )
        .expect("names are constants");
        registry
            .register(Box::new(schedule_promises.clone()))
            .expect("names are unique");
        let gauge = |name: &str, help: &str| {
            let gauge = IntGauge::new(name, help).expect("names are constants");
            registry
                .register(Box::new(gauge.clone()))
                .expect("names are unique");
            gauge
        };
        let unserved_targets = gauge(
            "resonate_unserved_targets",
            "Targets that tasks wait for and nobody receives: no stream open, or transport disabled.",
        );
        let unserved_tasks = gauge(
            "resonate_unserved_tasks",
            "Tasks that wait for unserved targets, at most 1000 counted of each.",
        );
        let retention_oldest_seconds = gauge(
            "resonate_retention_oldest_seconds",
            "Since when the oldest promise that the last retention walk left has been settled; 0 if there is none.",
        );
        let counter = |name: &str, help: &str| {
            let counter = IntCounter::new(name, help).expect("names are constants");
            registry
                .register(Box::new(counter.clone()))
                .expect("names are unique");
            counter
        };
        let retention_deleted = counter(
            "resonate_retention_deleted_total",
            "Promises deleted by retention, with their tasks.",
        );
        let retention_walks = counter(
            "resonate_retention_walks_total",
            "Walks over all promises that retention has finished.",
        );
        Metrics {
            registry,
            requests,
            request_seconds,
            messages,
            deliveries,
            schedule_promises,
            unserved_targets,
            unserved_tasks,
            connections_closed,
            rate_limited,
            retention_deleted,
            retention_walks,
            retention_oldest_seconds,
        }
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

    /// A request was one too many for its `address` or its `token`.
    pub fn rate_limited(&self, by: &'static str) {
        self.rate_limited.with_label_values(&[by]).inc();
    }

    /// Tasks wait for targets that nobody serves.
    pub fn unserved(&self, targets: usize, tasks: usize) {
        let number = |count| i64::try_from(count).unwrap_or(i64::MAX);
        self.unserved_targets.set(number(targets));
        self.unserved_tasks.set(number(tasks));
    }

    /// The Prometheus text format.
    pub fn render(&self) -> String {
        let mut text = Vec::new();
        if let Err(error) = TextEncoder::new().encode(&self.registry.gather(), &mut text) {
            tracing::error!(%error, "metrics cannot be rendered");
        }
        String::from_utf8(text).unwrap_or_default()
    }
}
