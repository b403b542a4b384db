//! Clients that mean well: at a steady rate they create a promise, or read one.

use std::fmt;
use std::net::SocketAddr;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use anyhow::ensure;
use hdrhistogram::Histogram;
use serde_json::{Value, json};
use tokio::task::JoinSet;
use tokio::time::{Instant, sleep_until};

/// As long as SDKs wait.
const PATIENCE: Duration = Duration::from_secs(10);
/// One request in so many comes on a connection of its own.
const NEWCOMERS: u64 = 10;

/// See the module documentation.
pub struct Honest {
    url: String,
    kept_alive: reqwest::Client,
    newcomer: reqwest::Client,
    interval: Duration,
    next_id: u64,
}

/// What they noticed.
pub struct Figures {
    latencies_us: Histogram<u64>,
    /// Requests without a good answer.
    pub failed: u64,
    /// Of the first of these.
    pub why: Option<String>,
}

impl Honest {
    /// Clients of the server at `address`.
    pub fn new(address: SocketAddr, rate: u64) -> anyhow::Result<Honest> {
        Ok(Honest {
            url: format!("http://{address}/"),
            kept_alive: client(usize::MAX)?,
            newcomer: client(0)?,
            interval: Duration::from_secs(1) / u32::try_from(rate.max(1))?,
            next_id: 0,
        })
    }

    /// Creates what attackers ask for.
    pub async fn prepare(&self) -> anyhow::Result<()> {
        let data =
            json!({"id": "large", "timeoutAt": i64::MAX, "param": {"data": "x".repeat(1 << 20)}});
        exchange(&self.kept_alive, &self.url, "promise.create", data).await
    }

    /// Sends requests for so long, and waits for their answers.
    pub async fn run(&mut self, duration: Duration) -> Figures {
        let figures = Arc::new(Mutex::new(Figures::new()));
        let started_at = Instant::now();
        let mut due_at = started_at;
        let mut requests = JoinSet::new();
        while due_at - started_at < duration {
            sleep_until(due_at).await;
            let number = self.next_id;
            self.next_id += 1;
            let (figures, url) = (figures.clone(), self.url.clone());
            let client = if number.is_multiple_of(NEWCOMERS) {
                self.newcomer.clone()
            } else {
                self.kept_alive.clone()
            };
            requests.spawn(async move {
                let id = number / 2;
                let (kind, data) = if number.is_multiple_of(2) {
                    (
                        "promise.create",
                        json!({"id": format!("p{id}"), "timeoutAt": i64::MAX}),
                    )
                } else {
                    ("promise.get", json!({"id": "large.not"}))
                };
                let result = exchange(&client, &url, kind, data).await;
                let mut figures = figures.lock().unwrap_or_else(PoisonError::into_inner);
                figures.note(due_at.elapsed(), result.err());
            });
            due_at += self.interval;
        }
        requests.join_all().await;
        let mut figures = figures.lock().unwrap_or_else(PoisonError::into_inner);
        std::mem::replace(&mut *figures, Figures::new())
    }
}

impl Figures {
    fn new() -> Figures {
        Figures {
            latencies_us: Histogram::new_with_bounds(1, 60_000_000, 3)
                .expect("the bounds are good"),
            failed: 0,
            why: None,
        }
    }

    fn note(&mut self, latency: Duration, error: Option<anyhow::Error>) {
        let us = u64::try_from(latency.as_micros()).unwrap_or(u64::MAX);
        self.latencies_us.saturating_record(us);
        if let Some(error) = error {
            self.failed += 1;
            self.why.get_or_insert_with(|| format!("{error:#}"));
        }
    }
}

impl fmt::Display for Figures {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let ms = |us: u64| us as f64 / 1000.0;
        let [half, most] = [0.5, 0.99].map(|q| ms(self.latencies_us.value_at_quantile(q)));
        write!(f, "{half:.1}/{most:.1}/{:.0}", ms(self.latencies_us.max()))?;
        if self.failed > 0 {
            write!(f, " ({} failed)", self.failed)?;
        }
        Ok(())
    }
}

fn client(idle_max: usize) -> anyhow::Result<reqwest::Client> {
    Ok(reqwest::Client::builder()
        .no_proxy()
        .timeout(PATIENCE)
        .pool_max_idle_per_host(idle_max)
        .build()?)
}

async fn exchange(
    client: &reqwest::Client,
    url: &str,
    kind: &str,
    data: Value,
) -> anyhow::Result<()> {
    let head = json!({"corrId": "honest", "version": "2026-04-01"});
    let body = json!({"kind": kind, "head": head, "data": data}).to_string();
    let answer = client.post(url).body(body).send().await?;
    let answer: Value = serde_json::from_slice(&answer.bytes().await?)?;
    let status = answer["head"]["status"].as_u64().unwrap_or(0);
    ensure!(
        [200, 404].contains(&status),
        "{kind} answered {status}: {}",
        answer["data"]
    );
    Ok(())
}
