//! What is told of a request, in one place: a count and a time (metrics), a line (log), a span (trace).

use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use tokio::time::Instant;

use crate::engine::Parts;
use crate::protocol::kinds;
use crate::protocol::record::Id;
use crate::protocol::trace::Trace;
use crate::telemetry::metrics::METRICS;
use crate::telemetry::tracer::{Ended, Span, SpanKind, Tracer, millis, number, text};

use super::head::Head;

/// Slow requests are logged at most this often.
const SLOW_LINE_INTERVAL: Duration = Duration::from_secs(1);

/// Whom requests are told to.
#[derive(Default)]
pub struct Accounts {
    /// Begins their spans.
    pub tracer: Tracer,
    /// How long they may take without a line in the log; none: as long as they want.
    pub slow: Option<Duration>,
    slow_lines: Mutex<SlowLines>,
}

#[derive(Default)]
struct SlowLines {
    last_at: Option<Instant>,
    /// Slow requests since, which have no line.
    skipped: u64,
}

impl Accounts {
    /// Accounts for a tracer and the slow.
    pub fn new(tracer: Tracer, slow: Option<Duration>) -> Self {
        Accounts {
            tracer,
            slow,
            slow_lines: Mutex::default(),
        }
    }

    /// Opens the account of a request whose head arrived at `since` and whose body is here now.
    pub(super) fn open(&self, head: &Head, since: Instant) -> Account<'_> {
        Account {
            accounts: self,
            span: self.tracer.begin(head.trace.as_ref()),
            since,
            read_at: Instant::now(),
            id: None,
            parts: None,
        }
    }

    /// How many slow requests have had no line, if this one is to have one.
    fn slow_line(&self) -> Option<u64> {
        let lines = self.slow_lines.lock();
        let mut lines = lines.unwrap_or_else(PoisonError::into_inner);
        let is_early = |at: Instant| at.elapsed() < SLOW_LINE_INTERVAL;
        if lines.last_at.is_some_and(is_early) {
            lines.skipped += 1;
            return None;
        }
        lines.last_at = Some(Instant::now());
        Some(std::mem::take(&mut lines.skipped))
    }
}

/// A request that is being answered.
pub(super) struct Account<'a> {
    accounts: &'a Accounts,
    pub span: Span,
    since: Instant,
    read_at: Instant,
    /// What it is most about.
    pub id: Option<Id>,
    /// Where its time went, if it was decided in a batch.
    pub parts: Option<Parts>,
}

impl Account<'_> {
    /// Tells of the answer.
    pub fn close(self, kind: &str, corr_id: &str, status: u16) {
        let trace = self.span.trace().cloned();
        told(kind, corr_id, status, self.since, trace.as_deref());
        let took = self.read_at.elapsed();
        if self.accounts.slow.is_some_and(|slow| took > slow)
            && let Some(others) = self.accounts.slow_line()
        {
            let ms = |duration: Duration| u64::try_from(duration.as_millis()).unwrap_or(u64::MAX);
            let part = |of: fn(&Parts) -> Duration| self.parts.as_ref().map(|parts| ms(of(parts)));
            tracing::warn!(
                kind,
                corr_id,
                id = self.id.as_deref(),
                status,
                took_ms = ms(took),
                queue_ms = part(|parts| parts.queue),
                load_ms = part(|parts| parts.load),
                decide_ms = part(|parts| parts.decide),
                commit_ms = part(|parts| parts.commit),
                trace_id = trace_id(trace.as_deref()),
                others,
                "slow request"
            );
        }
        let Account {
            span, id, parts, ..
        } = self;
        span.end(|| {
            let name = kinds::known(kind).unwrap_or("unknown");
            let mut attributes = vec![
                text("resonate.kind", name),
                number("resonate.status", status.into()),
            ];
            attributes.extend(id.map(|id| text("resonate.id", &*id)));
            if let Some(parts) = parts {
                attributes.extend([
                    millis("resonate.queue_ms", parts.queue),
                    millis("resonate.load_ms", parts.load),
                    millis("resonate.decide_ms", parts.decide),
                    millis("resonate.commit_ms", parts.commit),
                ]);
            }
            Ended {
                name,
                kind: SpanKind::Server,
                attributes,
                link: None,
                is_error: status >= 500,
            }
        });
    }
}

/// Counts a request and logs it. To be called by whoever opens no account.
pub(super) fn told(kind: &str, corr_id: &str, status: u16, since: Instant, trace: Option<&Trace>) {
    let elapsed = since.elapsed();
    METRICS.request(kind, status, elapsed);
    // JSON has no number for what is wider.
    let elapsed_us = u64::try_from(elapsed.as_micros()).unwrap_or(u64::MAX);
    let trace_id = trace_id(trace);
    tracing::debug!(kind, corr_id, status, elapsed_us, trace_id, "request");
}

fn trace_id(trace: Option<&Trace>) -> Option<tracing::field::DebugValue<TraceId>> {
    trace.map(|trace| tracing::field::debug(TraceId(trace.trace_id())))
}

/// As the header has it.
struct TraceId(u128);

impl std::fmt::Debug for TraceId {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{:032x}", self.0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test(start_paused = true)]
    async fn a_flood_of_slow_requests_is_a_line_a_second() {
        let accounts = Accounts::default();
        assert_eq!(accounts.slow_line(), Some(0));
        assert_eq!(accounts.slow_line(), None);
        assert_eq!(accounts.slow_line(), None);
        tokio::time::advance(SLOW_LINE_INTERVAL).await;
        assert_eq!(accounts.slow_line(), Some(2));
        tokio::time::advance(SLOW_LINE_INTERVAL).await;
        assert_eq!(accounts.slow_line(), Some(0));
    }
}
