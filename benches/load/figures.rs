//! What a workload measured.

use std::fmt;
use std::time::Duration;

use hdrhistogram::Histogram;

/// Seconds that latencies are kept of by themselves.
const SECONDS_MAX: usize = 3600;

/// Latencies of one workload, in microseconds.
pub struct Figures {
    workload: &'static str,
    elapsed: Duration,
    latencies_us: Histogram<u64>,
    /// Those of every second.
    seconds: Vec<Histogram<u64>>,
    /// What else was measured; names end in the unit.
    others: Vec<(&'static str, f64)>,
}

impl Figures {
    /// Nothing measured yet.
    pub fn new(workload: &'static str) -> anyhow::Result<Self> {
        Ok(Figures {
            workload,
            elapsed: Duration::ZERO,
            latencies_us: histogram()?,
            seconds: Vec::new(),
            others: Vec::new(),
        })
    }

    /// Adds one latency.
    pub fn record(&mut self, latency: Duration) {
        self.latencies_us.saturating_record(micros(latency));
    }

    /// Same, of what began so long after the beginning.
    pub fn record_at(&mut self, at: Duration, latency: Duration) {
        self.record(latency);
        let second = usize::try_from(at.as_secs()).unwrap_or(usize::MAX);
        while self.seconds.len() <= second.min(SECONDS_MAX) {
            let Ok(histogram) = histogram() else { return };
            self.seconds.push(histogram);
        }
        if let Some(histogram) = self.seconds.get_mut(second) {
            histogram.saturating_record(micros(latency));
        }
    }

    /// Adds another figure. Its name ends in its unit: `rss_per_stream_kib`.
    pub fn note(&mut self, name: &'static str, value: f64) {
        self.others.push((name, value));
    }

    /// Adds those of another part of the same workload.
    pub fn add(&mut self, other: &Figures) -> anyhow::Result<()> {
        self.latencies_us.add(&other.latencies_us)?;
        for (second, latencies_us) in other.seconds.iter().enumerate() {
            match self.seconds.get_mut(second) {
                Some(own) => own.add(latencies_us)?,
                None => self.seconds.push(latencies_us.clone()),
            }
        }
        Ok(())
    }

    /// Sets how long the whole workload took.
    pub fn finish(mut self, elapsed: Duration) -> Self {
        self.elapsed = elapsed;
        self
    }

    /// A quantile of the latencies, in milliseconds.
    pub fn quantile_ms(&self, quantile: f64) -> f64 {
        self.latencies_us.value_at_quantile(quantile) as f64 / 1000.0
    }

    fn rate(&self) -> f64 {
        self.latencies_us.len() as f64 / self.elapsed.as_secs_f64().max(1e-9)
    }

    /// One JSON object.
    pub fn to_json(&self) -> serde_json::Value {
        let mut figures = serde_json::json!({
            "workload": self.workload,
            "count": self.latencies_us.len(),
            "elapsed_ms": self.elapsed.as_secs_f64() * 1000.0,
            "per_second": self.rate(),
            "p50_ms": self.quantile_ms(0.5),
            "p99_ms": self.quantile_ms(0.99),
            "p999_ms": self.quantile_ms(0.999),
            "max_ms": self.latencies_us.max() as f64 / 1000.0,
        });
        let seconds = self.seconds.iter();
        figures["p999_ms_by_second"] = seconds
            .map(|second| second.value_at_quantile(0.999) as f64 / 1000.0)
            .collect();
        for (name, value) in &self.others {
            figures[*name] = (*value).into();
        }
        figures
    }
}

impl fmt::Display for Figures {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "{}: {} in {:.1} s, {:.0}/s, p50 {:.3} ms, p99 {:.3} ms, p99.9 {:.3} ms, max {:.3} ms",
            self.workload,
            self.latencies_us.len(),
            self.elapsed.as_secs_f64(),
            self.rate(),
            self.quantile_ms(0.5),
            self.quantile_ms(0.99),
            self.quantile_ms(0.999),
            self.latencies_us.max() as f64 / 1000.0,
        )?;
        for (name, value) in &self.others {
            write!(f, ", {name} {value:.2}")?;
        }
        Ok(())
    }
}

fn histogram() -> anyhow::Result<Histogram<u64>> {
    Ok(Histogram::new_with_bounds(1, 600_000_000, 3)?)
}

fn micros(duration: Duration) -> u64 {
    u64::try_from(duration.as_micros()).unwrap_or(u64::MAX)
}
