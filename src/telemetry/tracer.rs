//! Spans: what the server did for a request, and when.
//!
//! Without an exporter nothing is recorded, and a trace that a client began is carried on as it came. With one
//! ([`super::otlp`]) a span is queued when it ends; a queue that is full drops it. Nobody waits.

use std::sync::Arc;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use opentelemetry_proto::tonic::common::v1::any_value::Value;
use opentelemetry_proto::tonic::common::v1::{AnyValue, KeyValue};
use opentelemetry_proto::tonic::trace::v1::span::Link;
use opentelemetry_proto::tonic::trace::v1::status::StatusCode;
use opentelemetry_proto::tonic::trace::v1::{Span as Record, Status};
use tokio::sync::mpsc;

use crate::protocol::trace::Trace;

use super::metrics::METRICS;

pub use opentelemetry_proto::tonic::trace::v1::span::SpanKind;

/// Begins spans. Cheap to clone; the default records none.
#[derive(Clone, Default)]
pub struct Tracer(Option<Arc<Recorder>>);

struct Recorder {
    sampler: Sampler,
    queue: mpsc::Sender<Record>,
}

/// Which spans are recorded.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Sampler {
    /// The part of the traces that is recorded, from 0 to 1.
    pub ratio: f64,
    /// Of a trace that was begun elsewhere: what was decided there.
    pub follows_parent: bool,
}

impl Sampler {
    fn takes(self, trace_id: u128, parent: Option<&Arc<Trace>>) -> bool {
        match parent {
            Some(parent) if self.follows_parent => parent.is_sampled(),
            // By bits of the id, as OpenTelemetry's SDKs have it: everybody takes the same traces.
            _ => {
                let low = u64::try_from(trace_id & u128::from(u64::MAX)).unwrap_or_default();
                self.ratio >= 1.0 || ((low >> 1) as f64) < self.ratio * (1_u64 << 63) as f64
            }
        }
    }
}

impl Tracer {
    /// Queues what is recorded.
    pub(super) fn new(sampler: Sampler, queue: mpsc::Sender<Record>) -> Self {
        Tracer(Some(Arc::new(Recorder { sampler, queue })))
    }

    /// Begins a span, in the trace of `parent` or in one of its own.
    pub fn begin(&self, parent: Option<&Arc<Trace>>) -> Span {
        let as_it_came = || Span {
            trace: parent.cloned(),
            recording: None,
        };
        let Some(recorder) = &self.0 else {
            return as_it_came();
        };
        let trace_id = match parent {
            Some(parent) => parent.trace_id(),
            None => fastrand::u128(1..),
        };
        if !recorder.sampler.takes(trace_id, parent) {
            return as_it_came();
        }
        let span_id = fastrand::u64(1..);
        let trace = match parent {
            Some(parent) => parent.with_span(span_id),
            None => Trace::new(trace_id, span_id, true),
        };
        Span {
            trace: Some(Arc::new(trace)),
            recording: Some(Recording {
                recorder: recorder.clone(),
                parent_id: parent.map(|parent| parent.span_id()),
                began_at: unix_nanos(),
            }),
        }
    }
}

/// A span that has begun. Nothing is told of one that does not end. The default is none.
#[derive(Default)]
pub struct Span {
    trace: Option<Arc<Trace>>,
    recording: Option<Recording>,
}

struct Recording {
    recorder: Arc<Recorder>,
    parent_id: Option<u64>,
    /// In nanoseconds since the Unix epoch, as all times of spans.
    began_at: u64,
}

/// What is told of a span.
pub struct Ended {
    /// What was done.
    pub name: &'static str,
    /// For whom.
    pub kind: SpanKind,
    /// Names and values; no payloads, tokens or headers.
    pub attributes: Vec<KeyValue>,
    /// A span of another trace that has to do with it.
    pub link: Option<Arc<Trace>>,
    /// Whether it failed, by the server's fault.
    pub is_error: bool,
}

impl Span {
    /// What is caused by it belongs here: to the span, or, where it is not recorded, to its parent.
    pub fn trace(&self) -> Option<&Arc<Trace>> {
        self.trace.as_ref()
    }

    /// Ends it now. What is to be told is only asked for if it is recorded.
    pub fn end(self, tell: impl FnOnce() -> Ended) {
        let (Some(trace), Some(recording)) = (self.trace, self.recording) else {
            return;
        };
        let told = tell();
        let link = told.link.filter(|link| **link != *trace);
        let code = match told.is_error {
            true => StatusCode::Error,
            false => StatusCode::Unset,
        };
        let record = Record {
            trace_id: trace.trace_id().to_be_bytes().into(),
            span_id: trace.span_id().to_be_bytes().into(),
            trace_state: trace.state().unwrap_or_default().to_owned(),
            parent_span_id: recording
                .parent_id
                .map(|id| id.to_be_bytes().into())
                .unwrap_or_default(),
            name: told.name.to_owned(),
            kind: told.kind.into(),
            start_time_unix_nano: recording.began_at,
            end_time_unix_nano: unix_nanos(),
            attributes: told.attributes,
            links: link.iter().map(link_to).collect(),
            status: Some(Status {
                code: code.into(),
                ..Status::default()
            }),
            ..Record::default()
        };
        if recording.recorder.queue.try_send(record).is_err() {
            METRICS.spans_dropped("full", 1);
        }
    }
}

fn link_to(trace: &Arc<Trace>) -> Link {
    Link {
        trace_id: trace.trace_id().to_be_bytes().into(),
        span_id: trace.span_id().to_be_bytes().into(),
        trace_state: trace.state().unwrap_or_default().to_owned(),
        ..Link::default()
    }
}

/// Nanoseconds since the Unix epoch.
#[expect(
    clippy::disallowed_methods,
    reason = "spans of many processes meet by the wall clock; nothing is decided by it"
)]
pub(super) fn unix_nanos() -> u64 {
    let since = SystemTime::now().duration_since(UNIX_EPOCH);
    let since = since.unwrap_or_default();
    u64::try_from(since.as_nanos()).unwrap_or(u64::MAX)
}

/// An attribute that is a text.
pub fn text(name: &str, value: impl Into<String>) -> KeyValue {
    attribute(name, Value::StringValue(value.into()))
}

/// An attribute that is a number.
pub fn number(name: &str, value: i64) -> KeyValue {
    attribute(name, Value::IntValue(value))
}

/// An attribute that is a time, in milliseconds.
pub fn millis(name: &str, value: Duration) -> KeyValue {
    attribute(name, Value::DoubleValue(value.as_secs_f64() * 1000.0))
}

fn attribute(name: &str, value: Value) -> KeyValue {
    KeyValue {
        key: name.to_owned(),
        value: Some(AnyValue { value: Some(value) }),
        ..KeyValue::default()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn trace(flags: &str) -> Arc<Trace> {
        let parent = format!("00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-{flags}");
        Arc::new(Trace::read(&parent, Some("a=1")).unwrap())
    }

    fn ended() -> Ended {
        Ended {
            name: "promise.get",
            kind: SpanKind::Server,
            attributes: vec![number("resonate.status", 200)],
            link: None,
            is_error: false,
        }
    }

    fn recording(ratio: f64, follows_parent: bool) -> (Tracer, mpsc::Receiver<Record>) {
        let (sender, receiver) = mpsc::channel(1);
        let sampler = Sampler {
            ratio,
            follows_parent,
        };
        (Tracer::new(sampler, sender), receiver)
    }

    #[test]
    fn what_is_not_recorded_is_carried_on_as_it_came() {
        let (ratio, mut taken) = recording(1.0, true);
        let parent = trace("00");
        for tracer in [Tracer::default(), ratio] {
            let span = tracer.begin(Some(&parent));
            assert_eq!(span.trace(), Some(&parent));
            span.end(|| unreachable!("nobody asks"));
        }
        assert!(taken.try_recv().is_err());
        assert!(Tracer::default().begin(None).trace().is_none());
    }

    #[test]
    fn a_span_is_a_child_and_its_trace_names_it() {
        let (tracer, mut taken) = recording(0.0, true);
        let parent = trace("01");
        let span = tracer.begin(Some(&parent));
        let own = span.trace().unwrap().clone();
        assert_eq!(own.trace_id(), parent.trace_id());
        assert_eq!(own.state(), Some("a=1"));
        assert_ne!(own.span_id(), parent.span_id());
        span.end(ended);
        let record = taken.try_recv().unwrap();
        assert_eq!(record.span_id, own.span_id().to_be_bytes());
        assert_eq!(record.parent_span_id, parent.span_id().to_be_bytes());
        assert!(record.end_time_unix_nano >= record.start_time_unix_nano);
        // The ratio is for traces that begin here.
        assert!(tracer.begin(None).trace().is_none());
    }

    #[test]
    fn a_part_of_all_traces_is_the_same_part_everywhere() {
        let (tracer, _taken) = recording(0.5, false);
        let parents: Vec<Arc<Trace>> = (0..200)
            .map(|_| Arc::new(Trace::new(fastrand::u128(1..), 1, true)))
            .collect();
        let is_taken = |parent| tracer.begin(Some(parent)).recording.is_some();
        let taken: Vec<bool> = parents.iter().map(is_taken).collect();
        assert!(taken.contains(&true) && taken.contains(&false));
        assert_eq!(taken, parents.iter().map(is_taken).collect::<Vec<_>>());
    }

    #[test]
    fn a_queue_that_is_full_keeps_nobody_waiting() {
        let (tracer, mut taken) = recording(1.0, true);
        tracer.begin(None).end(ended);
        tracer.begin(None).end(ended);
        assert!(taken.try_recv().is_ok());
        assert!(taken.try_recv().is_err());
    }
}
