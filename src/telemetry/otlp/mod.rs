//! Export over OTLP: spans as they end, metrics every few seconds.
//!
//! ```text
//!   spans that end ──> queue (full: dropped) ──┐
//!                                              ├─> one task ──> collector
//!   METRICS, now and then ─────────────────────┘      └ no answer, or a bad one: dropped
//! ```
//!
//! Nobody waits for a collector that is slow or not there. What is dropped is counted, and logged when that
//! begins and when it is over. Metrics are totals: those sent next hold what was missed.

use std::time::Duration;

use opentelemetry_proto::tonic::collector::metrics::v1::ExportMetricsServiceRequest;
use opentelemetry_proto::tonic::collector::trace::v1::ExportTraceServiceRequest;
use opentelemetry_proto::tonic::common::v1::InstrumentationScope;
use opentelemetry_proto::tonic::metrics::v1::{ResourceMetrics, ScopeMetrics};
use opentelemetry_proto::tonic::resource::v1::Resource;
use opentelemetry_proto::tonic::trace::v1::{ResourceSpans, ScopeSpans, Span};
use tokio::sync::{mpsc, watch};
use tokio::task::JoinHandle;
use tokio::time::{Instant, MissedTickBehavior};

use super::metrics::METRICS;
use super::tracer::{Tracer, text, unix_nanos};

mod metrics;
mod settings;
mod wire;

pub use settings::{Endpoint, NotAnEndpoint, Settings};
use wire::Collector;

/// Spans that wait to be sent; beyond it they are dropped.
const QUEUE_SPANS_MAX: usize = 8192;
/// Spans sent at once.
const BATCH_SPANS_MAX: usize = 1024;
/// How long the first span of a batch waits for others.
const BATCH_WAIT: Duration = Duration::from_millis(500);

/// Sends what is recorded, until it is closed.
pub struct Exporter {
    stop: watch::Sender<bool>,
    task: JoinHandle<()>,
}

/// Starts exporting, on the tokio runtime of the caller.
///
/// # Errors
/// When there can be no connection: a header that is none, no certificate roots.
pub fn start(settings: &Settings) -> anyhow::Result<(Tracer, Exporter)> {
    let collector = Collector::new(settings)?;
    let (queue, spans) = mpsc::channel(QUEUE_SPANS_MAX);
    let tracer = match settings.has_spans {
        true => Tracer::new(settings.sampler, queue),
        false => Tracer::default(),
    };
    let (stop, stopping) = watch::channel(false);
    let resource = settings.resource.iter();
    let export = Export {
        collector,
        timeout: settings.timeout,
        resource: Resource {
            attributes: resource.map(|(name, value)| text(name, value)).collect(),
            ..Resource::default()
        },
        since: unix_nanos(),
        trouble: None,
        lost: 0,
    };
    let metrics_interval = settings.has_metrics.then_some(settings.metrics_interval);
    let task = tokio::spawn(export.run(spans, metrics_interval, stopping));
    tracing::info!(endpoint = %settings.endpoint, "exporting over OTLP");
    Ok((tracer, Exporter { stop, task }))
}

impl Exporter {
    /// Sends what is left, within the time given.
    pub async fn close(mut self, within: Duration) {
        self.stop.send_replace(true);
        if tokio::time::timeout(within, &mut self.task).await.is_err() {
            self.task.abort();
            tracing::warn!("the OTLP collector did not take the last spans and metrics in time");
        }
    }
}

struct Export {
    collector: Collector,
    timeout: Duration,
    resource: Resource,
    /// Since when metrics have counted, in nanoseconds since the Unix epoch.
    since: u64,
    /// Why the last attempt failed.
    trouble: Option<String>,
    /// Spans dropped since the trouble began.
    lost: u64,
}

impl Export {
    async fn run(
        mut self,
        mut spans: mpsc::Receiver<Span>,
        metrics_interval: Option<Duration>,
        mut stopping: watch::Receiver<bool>,
    ) {
        let interval = metrics_interval.unwrap_or(Duration::from_secs(3600));
        let mut ticks = tokio::time::interval(interval);
        ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
        let mut batch = Vec::new();
        while !*stopping.borrow_and_update() {
            tokio::select! {
                _ = stopping.changed() => break,
                _ = ticks.tick(), if metrics_interval.is_some() => self.send_metrics().await,
                _ = spans.recv_many(&mut batch, BATCH_SPANS_MAX), if !spans.is_closed() => {
                    fill(&mut batch, &mut spans, &mut stopping).await;
                    self.send_spans(std::mem::take(&mut batch)).await;
                }
            }
        }
        spans.close();
        while spans.recv_many(&mut batch, BATCH_SPANS_MAX).await > 0 {
            self.send_spans(std::mem::take(&mut batch)).await;
        }
        if metrics_interval.is_some() {
            self.send_metrics().await;
        }
    }

    async fn send_spans(&mut self, spans: Vec<Span>) {
        if spans.is_empty() {
            return;
        }
        let count = u64::try_from(spans.len()).unwrap_or(u64::MAX);
        let request = ExportTraceServiceRequest {
            resource_spans: vec![ResourceSpans {
                resource: Some(self.resource.clone()),
                scope_spans: vec![ScopeSpans {
                    scope: Some(scope()),
                    spans,
                    ..ScopeSpans::default()
                }],
                ..ResourceSpans::default()
            }],
        };
        let sending = tokio::time::timeout(self.timeout, self.collector.spans(request));
        let outcome = sending.await.unwrap_or_else(|_| Err(no_answer()));
        let (lost, outcome) = match outcome {
            Ok(None) => (0, Ok(())),
            Ok(Some(rejected)) => (rejected.count.min(count), Err(rejected.reason)),
            Err(reason) => (count, Err(reason)),
        };
        METRICS.spans_dropped("refused", lost);
        self.lost += lost;
        self.note(outcome);
    }

    async fn send_metrics(&mut self) {
        let metrics = metrics::of(&METRICS.gather(), self.since, unix_nanos());
        let request = ExportMetricsServiceRequest {
            resource_metrics: vec![ResourceMetrics {
                resource: Some(self.resource.clone()),
                scope_metrics: vec![ScopeMetrics {
                    scope: Some(scope()),
                    metrics,
                    ..ScopeMetrics::default()
                }],
                ..ResourceMetrics::default()
            }],
        };
        let sending = tokio::time::timeout(self.timeout, self.collector.metrics(request));
        let outcome = sending.await.unwrap_or_else(|_| Err(no_answer()));
        self.note(outcome);
    }

    /// Logs trouble when it begins or is another, and when it is over.
    fn note(&mut self, outcome: Result<(), String>) {
        let now = outcome.err();
        if self.trouble == now {
            return;
        }
        match &now {
            Some(reason) => {
                tracing::warn!(reason, "the OTLP collector does not take what it is sent");
            }
            None => {
                let spans_dropped = std::mem::take(&mut self.lost);
                tracing::warn!(
                    spans_dropped,
                    "the OTLP collector takes what it is sent again"
                );
            }
        }
        self.trouble = now;
    }
}

/// Waits a little for a batch to become larger.
async fn fill(
    batch: &mut Vec<Span>,
    spans: &mut mpsc::Receiver<Span>,
    stopping: &mut watch::Receiver<bool>,
) {
    let until = Instant::now() + BATCH_WAIT;
    while batch.len() < BATCH_SPANS_MAX && !*stopping.borrow() {
        tokio::select! {
            biased;
            _ = stopping.changed() => return,
            () = tokio::time::sleep_until(until) => return,
            count = spans.recv_many(batch, BATCH_SPANS_MAX) => {
                if count == 0 {
                    return;
                }
            }
        }
    }
}

fn scope() -> InstrumentationScope {
    InstrumentationScope {
        name: "resonate".to_owned(),
        version: env!("CARGO_PKG_VERSION").to_owned(),
        ..InstrumentationScope::default()
    }
}

fn no_answer() -> String {
    "no answer in time".to_owned()
}
