//! A backlog of tasks, and one worker that reads all of it and acquires none.

use std::collections::HashSet;
use std::time::Instant;

use crate::client::{Client, about};
use crate::figures::Figures;
use crate::process;
use crate::requests::target;
use crate::workloads::set_up;

/// Tasks that wait for a worker; then the worker comes.
pub async fn drain(client: &Client, count: usize, pid: Option<u32>) -> anyhow::Result<Figures> {
    let group = format!("{}d", client.run);
    set_up(client, &format!("{}-", client.run), count, &target(&group)).await?;
    let mut figures = Figures::new("drain a backlog, between messages")?;
    let before = pid.map(process::usage).transpose()?;
    let started_at = Instant::now();
    let mut stream = client.stream(0, &group, "w").await?;
    let mut told = HashSet::new();
    let mut last_at = started_at;
    let mut messages = 0;
    while told.len() < count {
        let message = stream.next().await?;
        figures.record(last_at.elapsed());
        last_at = Instant::now();
        messages += 1;
        told.insert(about(&message).to_owned());
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
