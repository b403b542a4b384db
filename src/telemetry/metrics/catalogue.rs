//! Every series: its name, its help, its labels (`protocol.md` §2.1, `transports.md` §7). docs/metrics.md says what each is
//! good for.

use std::sync::Mutex;

use prometheus::{
    Gauge, GaugeVec, Histogram, HistogramOpts, HistogramVec, IntCounter, IntCounterVec, IntGauge,
    IntGaugeVec, Opts, Registry,
};

use super::Metrics;

impl Metrics {
    pub(super) fn new() -> Self {
        let catalogue = Catalogue(Registry::new());
        let millis_to_seconds = |first_ms: f64, count| {
            prometheus::exponential_buckets(first_ms / 1000.0, 2.0, count).expect("constants")
        };
        let metrics = Metrics {
            sources: Mutex::default(),
            requests: catalogue.counters(
                "resonate_request_total",
                "Protocol requests answered, by kind and status.",
                &["kind", "status"],
            ),
            request_seconds: catalogue.histograms(
                "resonate_request_duration_seconds",
                "Time from reading a protocol request to answering it, by kind.",
                &["kind"],
                millis_to_seconds(0.1, 18),
            ),
            messages: catalogue.counters(
                "resonate_messages_total",
                "Messages handed to a transport, by kind.",
                &["kind"],
            ),
            deliveries: catalogue.counters(
                "resonate_deliveries_total",
                "Deliveries finished: success, error (tried and failed), dropped (nobody, disabled or given up).",
                &["status"],
            ),
            delivery_failures: catalogue.counters(
                "resonate_delivery_failures_total",
                "Deliveries that were tried and failed, by transport; they are repeated.",
                &["transport"],
            ),
            delivery_retries: catalogue.counters(
                "resonate_delivery_retries_total",
                "Messages sent again: after a failure, or because a task was not acquired in time. By transport.",
                &["transport"],
            ),
            schedule_promises: catalogue.counter(
                "resonate_schedule_promises_total",
                "Promises created by schedules.",
            ),
            unserved_targets: catalogue.gauge(
                "resonate_unserved_targets",
                "Targets that tasks wait for and nobody receives: no stream open, or transport disabled.",
            ),
            unserved_tasks: catalogue.gauge(
                "resonate_unserved_tasks",
                "Tasks that wait for unserved targets, at most 1000 counted of each.",
            ),
            connections_closed: catalogue.counters(
                "resonate_connections_closed_total",
                "Connections the server closed: full (no place), room (made for another), head (no request in time), idle, handshake (TLS failed), unread (answers not taken while others waited).",
                &["reason"],
            ),
            rate_limited: catalogue.counters(
                "resonate_rate_limited_total",
                "Requests answered 429, by what was over its rate: address, token.",
                &["by"],
            ),
            retention_deleted: catalogue.counter(
                "resonate_retention_deleted_total",
                "Promises deleted by retention, with their tasks.",
            ),
            retention_walks: catalogue.counter(
                "resonate_retention_walks_total",
                "Walks over all promises that retention has finished.",
            ),
            retention_oldest_seconds: catalogue.gauge(
                "resonate_retention_oldest_seconds",
                "Since when the oldest promise that the last retention walk left has been settled; 0 if there is none.",
            ),
            otlp_spans_dropped: catalogue.counters(
                "resonate_otlp_spans_dropped_total",
                "Spans that no OTLP collector got: full (more than it took in time), refused (or not reached).",
                &["reason"],
            ),
            queue_jobs: catalogue.gauge(
                "resonate_queue_jobs",
                "Requests and internal steps that wait to be put into a batch.",
            ),
            queue_wait_seconds: catalogue.histogram(
                "resonate_queue_wait_seconds",
                "How long a request or internal step waited to be put into a batch.",
                millis_to_seconds(0.1, 18),
            ),
            batch_jobs: catalogue.histogram(
                "resonate_batch_jobs",
                "Requests and internal steps decided and committed together.",
                prometheus::exponential_buckets(1.0, 2.0, 10).expect("constants"),
            ),
            load_seconds: catalogue.histogram(
                "resonate_load_duration_seconds",
                "Time a batch took to read what it decides on.",
                millis_to_seconds(0.05, 18),
            ),
            commit_seconds: catalogue.histogram(
                "resonate_commit_duration_seconds",
                "Time a batch took to be written and synced.",
                millis_to_seconds(0.05, 18),
            ),
            commit_failures: catalogue.counters(
                "resonate_commit_failures_total",
                "Attempts at a batch that came to nothing: unavailable (tried again), conflict (another server was first; decided anew), refused, corrupt, unusable, panic.",
                &["reason"],
            ),
            storage_up: catalogue.gauge(
                "resonate_storage_up",
                "1 if the storage took the last write, 0 while it takes none.",
            ),
            storage_wait_seconds: catalogue.histograms(
                "resonate_storage_wait_seconds",
                "How long a batch or a read waited for a connection to the storage, by pool.",
                &["pool"],
                millis_to_seconds(0.01, 20),
            ),
            storage_connections: catalogue.gauges(
                "resonate_storage_connections",
                "Connections to the storage: used, and max, by pool.",
                &["pool", "state"],
            ),
            objects: catalogue.gauges(
                "resonate_objects",
                "Stored promises and tasks by state, and schedules, when they were last counted.",
                &["kind", "state"],
            ),
            tasks_pending: catalogue.gauges(
                "resonate_tasks_pending",
                "Tasks due for dispatch that nobody has acquired, by transport and group; at most 1000 counted of each queue.",
                &["transport", "group"],
            ),
            tasks_pending_oldest_seconds: catalogue.float_gauges(
                "resonate_tasks_pending_oldest_seconds",
                "For how long the first of them has been due.",
                &["transport", "group"],
            ),
            outbox_unblocks: catalogue.gauges(
                "resonate_outbox_unblocks",
                "Unblock messages not delivered yet, by transport; at most 1000 counted of each queue.",
                &["transport"],
            ),
            outbox_oldest_seconds: catalogue.float_gauges(
                "resonate_outbox_oldest_seconds",
                "For how long the first of them has waited.",
                &["transport"],
            ),
            streams: catalogue.gauges(
                "resonate_streams",
                "Open poll streams, by group.",
                &["group"],
            ),
            timers: catalogue.gauge(
                "resonate_timers",
                "Deadlines of the near future that are held in memory.",
            ),
            timers_overdue_seconds: catalogue.float_gauge(
                "resonate_timers_overdue_seconds",
                "For how long the first deadline has been due without having been fired.",
            ),
            timer_lag_seconds: catalogue.histogram(
                "resonate_timer_lag_seconds",
                "How late deadlines (promise timeouts, leases, retries) were fired.",
                millis_to_seconds(1.0, 20),
            ),
            schedule_lag_seconds: catalogue.histogram(
                "resonate_schedule_lag_seconds",
                "How late occurrences of schedules were fired.",
                millis_to_seconds(1.0, 20),
            ),
            sweep_found: catalogue.counters(
                "resonate_sweep_found_total",
                "What a sweep found due that no timer of this server was set for: promise (timeout, lease or retry), schedule, unblock (retry), stale (unblock given up).",
                &["kind"],
            ),
            registry: catalogue.0,
        };
        let build = Opts::new("resonate_build_info", "1, with the version of the server.");
        let build = IntGauge::with_opts(build.const_label("version", env!("CARGO_PKG_VERSION")));
        let build = build.expect("names are constants");
        build.set(1);
        metrics.register(build);
        #[cfg(target_os = "linux")]
        metrics.register(prometheus::process_collector::ProcessCollector::for_self());
        metrics
    }

    fn register(&self, collector: impl prometheus::core::Collector + 'static) {
        let registered = self.registry.register(Box::new(collector));
        registered.expect("names are unique");
    }
}

/// Makes series and registers them.
struct Catalogue(Registry);

impl Catalogue {
    fn add<C: prometheus::core::Collector + Clone + 'static>(
        &self,
        made: prometheus::Result<C>,
    ) -> C {
        let made = made.expect("names are constants");
        let registered = self.0.register(Box::new(made.clone()));
        registered.expect("names are unique");
        made
    }

    fn counter(&self, name: &str, help: &str) -> IntCounter {
        self.add(IntCounter::new(name, help))
    }

    fn counters(&self, name: &str, help: &str, labels: &[&str]) -> IntCounterVec {
        self.add(IntCounterVec::new(Opts::new(name, help), labels))
    }

    fn gauge(&self, name: &str, help: &str) -> IntGauge {
        self.add(IntGauge::new(name, help))
    }

    fn gauges(&self, name: &str, help: &str, labels: &[&str]) -> IntGaugeVec {
        self.add(IntGaugeVec::new(Opts::new(name, help), labels))
    }

    fn float_gauge(&self, name: &str, help: &str) -> Gauge {
        self.add(Gauge::new(name, help))
    }

    fn float_gauges(&self, name: &str, help: &str, labels: &[&str]) -> GaugeVec {
        self.add(GaugeVec::new(Opts::new(name, help), labels))
    }

    fn histogram(&self, name: &str, help: &str, buckets: Vec<f64>) -> Histogram {
        self.add(Histogram::with_opts(
            HistogramOpts::new(name, help).buckets(buckets),
        ))
    }

    fn histograms(
        &self,
        name: &str,
        help: &str,
        labels: &[&str],
        buckets: Vec<f64>,
    ) -> HistogramVec {
        let opts = HistogramOpts::new(name, help).buckets(buckets);
        self.add(HistogramVec::new(opts, labels))
    }
}
