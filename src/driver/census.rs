//! Counts what is stored, by state, for the metrics.
//!
//! A walk through everything, page by page, with pauses: nobody waits for it, and a count of millions must not keep a
//! connection, or half of a processor, from those who do. Where several servers share the database, one of them counts.

use std::collections::BTreeMap;
use std::time::Duration;

use tokio::time::{Instant, sleep};

use crate::engine::Engine;
use crate::store::{DeadlineKey, Kind, Result};
use crate::telemetry::metrics::METRICS;

use super::outbox::Outbox;

/// Objects counted at a time: few, so that nobody waits for a processor for long meanwhile.
const PAGE: usize = 500;
/// A page is followed by a pause of as many times what it took, and so is a walk.
const PAUSE_PER_PAGE: u32 = 20;
/// Pauses between two walks: as many sweep intervals, at least, and so long, at most.
const INTERVALS: u32 = 10;
const PAUSE_MAX: Duration = Duration::from_secs(600);

/// Counts over and over, until the task is dropped.
pub async fn run(engine: &Engine, outbox: &Outbox, sweep_interval: Duration) {
    let whose = DeadlineKey::Schedule("census".into());
    let pause_min = sweep_interval.saturating_mul(INTERVALS);
    loop {
        engine.until_resumed().await;
        let began = Instant::now();
        if outbox.is_mine(&whose) {
            match count(engine).await {
                Ok(counts) => METRICS.objects(&counts),
                // The timers log a storage that is out.
                Err(error) => tracing::debug!(%error, "what is stored could not be counted"),
            }
        } else {
            METRICS.objects(&[]);
        }
        sleep(began.elapsed().clamp(pause_min, PAUSE_MAX.max(pause_min))).await;
    }
}

async fn count(engine: &Engine) -> Result<Vec<(&'static str, &'static str, usize)>> {
    let mut counts = Vec::new();
    for kind in Kind::ALL {
        let mut by_state: BTreeMap<&'static str, usize> =
            kind.states().iter().map(|state| (*state, 0)).collect();
        let mut after = None;
        loop {
            let began = Instant::now();
            let store = engine.store();
            let page = store.count_by_state(kind, after.as_deref(), PAGE).await?;
            let mut counted = 0;
            for (state, count) in page.by_state {
                counted += count;
                *by_state.entry(state).or_default() += count;
            }
            after = page.last;
            if counted < PAGE {
                break;
            }
            sleep(began.elapsed().saturating_mul(PAUSE_PER_PAGE)).await;
        }
        counts.extend(
            by_state
                .into_iter()
                .map(|(state, n)| (kind.as_str(), state, n)),
        );
    }
    Ok(counts)
}
