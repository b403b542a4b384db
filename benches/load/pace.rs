//! How a workload is driven: by connections that each wait for their answer, or at a fixed rate.

use std::future::Future;
use std::sync::Arc;
use std::time::Duration;

use futures_util::future::try_join_all;
use tokio::time::{Instant, sleep_until};

use crate::client::{Client, Session};
use crate::figures::Figures;

/// What is done again and again.
pub trait Work: Send + Sync + 'static {
    /// Does it for the `n`th time, on one of the connections.
    fn step(
        &self,
        session: &mut Session,
        n: usize,
    ) -> impl Future<Output = anyhow::Result<()>> + Send;
}

/// How much of it.
#[derive(Clone, Debug, clap::Args)]
pub struct Pace {
    /// Connections, each with one request in flight.
    #[arg(long, default_value_t = 64)]
    pub connections: usize,
    /// Steps in all, unless the time is over before.
    #[arg(long, default_value_t = usize::MAX)]
    pub count: usize,
    /// Milliseconds that are measured.
    #[arg(long, default_value_t = 5000)]
    pub duration_ms: u64,
    /// Milliseconds before that, which are not.
    #[arg(long, default_value_t = 1000)]
    pub warm_up_ms: u64,
    /// Steps a second, however long each of them takes: latencies count from the instant at which a step was
    /// due. Without, every connection takes its next step when it has done the last one.
    #[arg(long)]
    pub rate: Option<f64>,
}

impl Pace {
    /// Same, of so many steps, however long they take.
    pub fn exactly(connections: usize, count: usize) -> Pace {
        Pace {
            connections,
            count,
            duration_ms: u64::MAX / 4000,
            warm_up_ms: 0,
            rate: None,
        }
    }

    /// Drives it.
    pub async fn drive(
        &self,
        client: &Client,
        name: &'static str,
        work: impl Work,
    ) -> anyhow::Result<Figures> {
        let work = Arc::new(work);
        let connections = self.connections.max(1);
        let mut sessions = Vec::new();
        for n in 0..connections {
            sessions.push(client.session(n).await?);
        }
        let begun_at = Instant::now();
        let measured_at = begun_at + Duration::from_millis(self.warm_up_ms);
        let over_at = measured_at + Duration::from_millis(self.duration_ms);
        let running = sessions
            .into_iter()
            .enumerate()
            .map(|(first, mut session)| {
                let (work, pace) = (work.clone(), self.clone());
                tokio::spawn(async move {
                    let mut figures = Figures::new(name)?;
                    for n in (first..pace.count).step_by(connections) {
                        let due_at = pace.due_at(begun_at, n, Instant::now());
                        if due_at >= over_at {
                            break;
                        }
                        let begun_at = pace.begin(due_at).await;
                        work.step(&mut session, n).await?;
                        if due_at >= measured_at {
                            figures.record_at(due_at - measured_at, begun_at.elapsed());
                        }
                    }
                    anyhow::Ok(figures)
                })
            });
        let mut figures = Figures::new(name)?;
        for worker in try_join_all(running).await? {
            figures.add(&worker?)?;
        }
        let elapsed = Instant::now().min(over_at) - measured_at;
        Ok(figures.finish(elapsed))
    }

    /// When the `n`th step is due; without a rate that is now.
    fn due_at(&self, begun_at: Instant, n: usize, now: Instant) -> Instant {
        let after = |rate| begun_at + Duration::from_secs_f64(n as f64 / rate);
        self.rate.map_or(now, after)
    }

    /// Waits until a step is due; from when its latency counts. That is when it was due, if its connection was
    /// still busy then, and otherwise when the timer, which counts in milliseconds, has let it go.
    async fn begin(&self, due_at: Instant) -> Instant {
        if due_at <= Instant::now() {
            return due_at;
        }
        sleep_until(due_at).await;
        Instant::now()
    }
}
