//! The workloads. Each sets up what it needs, measures, and leaves its promises behind.

use std::collections::HashSet;
use std::time::{Duration, Instant};

use futures_util::future::try_join_all;
use serde_json::{Value, json};

use crate::client::{Client, now_ms, now_us};
use crate::figures::Figures;
use crate::process;

/// Deadline of promises that are not to time out during a run.
const HOUR_MS: u64 = 3_600_000;

/// A promise that no deadline settles during a run.
pub fn promise(id: &str, tags: &Value) -> Value {
    json!({"id": id, "timeoutAt": now_ms() + HOUR_MS, "param": {"data": "e30="}, "tags": tags})
}

/// Closed loop of `promise.create`.
pub async fn create(
    client: &Client,
    count: usize,
    connections: usize,
    duration: Duration,
) -> anyhow::Result<Figures> {
    let started_at = Instant::now();
    let workers = (0..connections).map(|worker| {
        let client = client.nth(worker);
        tokio::spawn(async move {
            let mut figures = Figures::new("create")?;
            for n in 0..count / connections {
                let id = format!("{}-{worker}-{n}", client.run);
                let sent_at = Instant::now();
                if sent_at.duration_since(started_at) > duration {
                    break;
                }
                client
                    .call("promise.create", promise(&id, &json!({})))
                    .await?;
                figures.record(sent_at.elapsed());
            }
            anyhow::Ok(figures)
        })
    });
    let mut figures = Figures::new("create")?;
    for worker in try_join_all(workers).await? {
        figures.add(&worker?)?;
    }
    Ok(figures.finish(started_at.elapsed()))
}

/// Tasks that wait for a worker; then one that reads them all and acquires none.
pub async fn drain(
    client: &Client,
    count: usize,
    connections: usize,
    pid: Option<u32>,
) -> anyhow::Result<Figures> {
    let group = format!("{}d", client.run);
    let target = json!({"resonate:target": format!("poll://any@{group}")});
    let workers = (0..connections).map(|worker| {
        let (client, target) = (client.nth(worker), target.clone());
        tokio::spawn(async move {
            for n in (worker..count).step_by(connections) {
                let id = format!("{}-{n}", client.run);
                client.call("promise.create", promise(&id, &target)).await?;
            }
            anyhow::Ok(())
        })
    });
    for worker in try_join_all(workers).await? {
        worker?;
    }
    let mut figures = Figures::new("drain a backlog, between messages")?;
    let before = pid.map(process::usage).transpose()?;
    let started_at = Instant::now();
    let mut stream = client.stream(&group, "w").await?;
    let mut told = HashSet::new();
    let mut last_at = started_at;
    let mut messages = 0;
    while told.len() < count {
        let message = stream.next().await?;
        figures.record(last_at.elapsed());
        last_at = Instant::now();
        messages += 1;
        told.insert(message["data"]["task"]["id"].to_string());
    }
    let elapsed = started_at.elapsed();
    figures.note("repeated_messages", f64::from(messages) - count as f64);
    let after = pid.map(process::usage).transpose()?;
    if let (Some(before), Some(after)) = (before, after) {
        let cpu = after.cpu.saturating_sub(before.cpu).as_secs_f64();
        figures.note("cpu_us_per_message", cpu * 1e6 / count.max(1) as f64);
    }
    Ok(figures.finish(elapsed))
}

/// `promise.create` with a target until its `execute`.
pub async fn execute(client: &Client, count: usize) -> anyhow::Result<Figures> {
    let group = format!("{}x", client.run);
    let mut stream = client.stream(&group, "w").await?;
    let mut figures = Figures::new("create -> execute")?;
    let started_at = Instant::now();
    for n in 0..count {
        let id = format!("{}-{n}", client.run);
        let tags = json!({"resonate:target": format!("poll://any@{group}")});
        let client = client.nth(n);
        let sent_at = Instant::now();
        let (answer, message) = tokio::join!(
            client.call("promise.create", promise(&id, &tags)),
            stream.until("execute", &id)
        );
        figures.record(sent_at.elapsed());
        answer?;
        message?;
    }
    Ok(figures.finish(started_at.elapsed()))
}

/// `promise.settle` of an awaited promise until `execute` of its suspended awaiter.
pub async fn resume(client: &Client, count: usize) -> anyhow::Result<Figures> {
    let group = format!("{}r", client.run);
    let mut stream = client.stream(&group, "w").await?;
    let mut figures = Figures::new("settle -> execute")?;
    let started_at = Instant::now();
    for n in 0..count {
        let client = client.nth(n);
        let (awaiter, awaited) = (
            format!("{}-{n}", client.run),
            format!("{}-{n}.0", client.run),
        );
        let tags = json!({"resonate:target": format!("poll://any@{group}")});
        let action = json!({"kind": "promise.create", "data": promise(&awaiter, &tags)});
        client
            .call(
                "task.create",
                json!({"pid": "bench", "ttl": 60_000, "action": action}),
            )
            .await?;
        client
            .call("promise.create", promise(&awaited, &json!({})))
            .await?;
        let callback = json!({"awaited": awaited, "awaiter": awaiter});
        let actions = json!([{"kind": "promise.register_callback", "data": callback}]);
        client
            .call(
                "task.suspend",
                json!({"id": awaiter, "version": 1, "actions": actions}),
            )
            .await?;
        let settle = json!({"id": awaited, "state": "resolved", "value": {"data": "MQ=="}});
        let sent_at = Instant::now();
        let (answer, message) = tokio::join!(
            client.call("promise.settle", settle),
            stream.until("execute", &awaiter)
        );
        figures.record(sent_at.elapsed());
        answer?;
        message?;
    }
    Ok(figures.finish(started_at.elapsed()))
}

/// How late the `unblock` of a timer's listener arrives after the timer's deadline.
pub async fn timers(client: &Client, count: usize, spread_ms: u64) -> anyhow::Result<Figures> {
    let group = format!("{}t", client.run);
    let mut stream = client.stream(&group, "w").await?;
    let mut figures = Figures::new("timer lateness")?;
    // Far enough ahead that all are set before the first is due.
    let first_at = now_ms() + 2000 + u64::try_from(count)? * 2;
    let started_at = Instant::now();
    for n in 0..count {
        let id = format!("{}-{n}", client.run);
        let at = first_at + spread_ms * u64::try_from(n)? / u64::try_from(count)?;
        let tags = json!({"resonate:timer": "true"});
        let client = client.nth(n);
        client
            .call(
                "promise.create",
                json!({"id": id, "timeoutAt": at, "tags": tags}),
            )
            .await?;
        let address = format!("poll://uni@{group}/w");
        client
            .call(
                "promise.register_listener",
                json!({"awaited": id, "address": address}),
            )
            .await?;
    }
    for _ in 0..count {
        let message = stream.next().await?;
        let timeout_at = message["data"]["promise"]["timeoutAt"]
            .as_u64()
            .unwrap_or(0);
        let late_us = now_us().saturating_sub(timeout_at * 1000);
        figures.record(Duration::from_micros(late_us));
    }
    Ok(figures.finish(started_at.elapsed()))
}
