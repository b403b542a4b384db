//! What a process of this machine uses, from `/proc`.

use std::fs;
use std::time::Duration;

use anyhow::Context;

/// Clock ticks per second in `/proc`, on every Linux.
const TICKS_PER_S: f64 = 100.0;

/// Memory and CPU time at one instant.
#[derive(Clone, Copy)]
pub struct Usage {
    /// Resident memory.
    pub rss_kib: f64,
    /// CPU time of all threads since the start.
    pub cpu: Duration,
}

/// What a process uses now.
pub fn usage(pid: u32) -> anyhow::Result<Usage> {
    let read = |name: &str| {
        let path = format!("/proc/{pid}/{name}");
        fs::read_to_string(&path).with_context(|| format!("cannot read {path}"))
    };
    let status = read("status")?;
    let rss = status
        .lines()
        .find_map(|line| line.strip_prefix("VmRSS:"))
        .and_then(|rest| rest.split_whitespace().next());
    let stat = read("stat")?;
    // The name in parentheses may hold anything; user and system time are fields 14 and 15.
    let (_, rest) = stat.rsplit_once(')').context("no process status")?;
    let fields: Vec<&str> = rest.split_whitespace().collect();
    let ticks = |field: usize| -> anyhow::Result<f64> {
        let text = fields.get(field - 3).context("a short process status")?;
        Ok(text.parse()?)
    };
    Ok(Usage {
        rss_kib: rss.context("no resident memory")?.parse()?,
        cpu: Duration::from_secs_f64((ticks(14)? + ticks(15)?) / TICKS_PER_S),
    })
}
