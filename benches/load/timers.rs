//! Deadlines: how late is whoever waits for them told?

use std::time::{Duration, Instant};

use futures_util::future::try_join_all;

use crate::client::{Client, Stream, now_ms, now_us};
use crate::figures::Figures;
use crate::pace::Pace;
use crate::requests::{listen, request};
use crate::workloads::{Create, SETTERS};

/// Requests a second beside the deadlines, whose latency is measured.
const BESIDE_PER_S: f64 = 200.0;
/// Every how many promises of an avalanche somebody listens to.
const LISTENED_TO: usize = 100;

/// Timers with listeners, spread evenly: lateness of the `unblock`s.
pub async fn spread(client: &Client, count: usize, spread_ms: u64) -> anyhow::Result<Figures> {
    let group = format!("{}t", client.run);
    let stream = client.stream(0, &group, "w").await?;
    // Far enough ahead that all are set before the first is due.
    let first_at = now_ms() + 3000 + u64::try_from(count)? / 4;
    let started_at = Instant::now();
    set(client, count, 1, &group, |n| {
        first_at + spread_ms * n / u64::try_from(count).unwrap_or(1).max(1)
    })
    .await?;
    let mut figures = Figures::new("timer lateness")?;
    figures.note("set_before_due", f64::from(u8::from(now_ms() <= first_at)));
    hear(stream, count, &mut figures).await?;
    Ok(figures.finish(started_at.elapsed()))
}

/// Many promises whose deadlines are within one second: lateness of some, and what other requests notice.
pub async fn avalanche(client: &Client, count: usize) -> anyhow::Result<Figures> {
    let group = format!("{}e", client.run);
    let stream = client.stream(0, &group, "w").await?;
    let first_at = now_ms() + 5000 + u64::try_from(count)? / 4;
    let started_at = Instant::now();
    let total = u64::try_from(count)?.max(1);
    set(client, count, LISTENED_TO, &group, |n| {
        first_at + 1000 * n / total
    })
    .await?;
    let mut figures = Figures::new("avalanche lateness")?;
    figures.note("set_before_due", f64::from(u8::from(now_ms() <= first_at)));
    tokio::time::sleep(Duration::from_millis(first_at.saturating_sub(now_ms()))).await;
    let beside = Pace {
        connections: SETTERS,
        count: usize::MAX,
        duration_ms: 5000,
        warm_up_ms: 0,
        rate: Some(BESIDE_PER_S),
    };
    let prefix = format!("{}-beside-", client.run);
    let tags = String::new();
    let (beside, heard) = tokio::join!(
        beside.drive(client, "beside", Create { prefix, tags }),
        hear(stream, count.div_ceil(LISTENED_TO), &mut figures)
    );
    heard?;
    figures.note("others_p99_ms", beside?.quantile_ms(0.99));
    Ok(figures.finish(started_at.elapsed()))
}

/// Sets timers, and listens to every `listened_to`th of them.
async fn set(
    client: &Client,
    count: usize,
    listened_to: usize,
    group: &str,
    due_at: impl Fn(u64) -> u64,
) -> anyhow::Result<()> {
    let due_at = &due_at;
    let setting = (0..SETTERS).map(|setter| async move {
        let mut session = client.session(setter).await?;
        for n in (setter..count).step_by(SETTERS) {
            let id = format!("{}-{n}", client.run);
            let at = due_at(u64::try_from(n)?);
            let data =
                format!(r#"{{"id":"{id}","timeoutAt":{at},"tags":{{"resonate:timer":"true"}}}}"#);
            session.call(&request("promise.create", &data)).await?;
            if n % listened_to == 0 {
                let address = format!("poll://uni@{group}/w");
                session.call(&listen(&id, &address)).await?;
            }
        }
        anyhow::Ok(())
    });
    try_join_all(setting).await?;
    Ok(())
}

async fn hear(mut stream: Stream, count: usize, figures: &mut Figures) -> anyhow::Result<()> {
    for _ in 0..count {
        let message = stream.next().await?;
        let timeout_at = message["data"]["promise"]["timeoutAt"]
            .as_u64()
            .unwrap_or(0);
        let late_us = now_us().saturating_sub(timeout_at * 1000);
        figures.record(Duration::from_micros(late_us));
    }
    Ok(())
}
