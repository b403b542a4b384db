//! Many streams, nearly all of them idle: what they cost, and whether one of them still hears at once.

use std::time::{Duration, Instant};

use anyhow::{Context, bail, ensure};
use futures_util::stream::{self, StreamExt, TryStreamExt};
use tokio::sync::mpsc;
use tokio::task::JoinSet;

use crate::client::{Client, Session, Stream, about};
use crate::figures::Figures;
use crate::process::{self, Usage};
use crate::requests;

/// Whom messages are addressed to.
#[derive(Clone, Copy, Default, clap::ValueEnum)]
pub enum Cast {
    /// The streams in turn, by group and id.
    #[default]
    Uni,
    /// The groups in turn.
    Any,
}

/// How many streams, and how they are opened.
pub struct Crowd {
    /// In all.
    pub count: usize,
    /// Groups they are spread over.
    pub groups: usize,
    /// Opened at a time.
    pub opening: usize,
}

/// A message that arrived.
struct Heard {
    stream: usize,
    task: String,
    at: Instant,
}

/// Opens the streams, leaves them alone for a while, and then measures one message after the other.
pub async fn run(
    client: &Client,
    crowd: &Crowd,
    cast: Cast,
    hold: Duration,
    messages: usize,
    pid: Option<u32>,
) -> anyhow::Result<Figures> {
    // A connection is a file. Those of the requests come on top.
    let files = u64::try_from(crowd.count)? + 64;
    let allowed = rlimit::increase_nofile_limit(files)?;
    ensure!(
        allowed >= files,
        "{files} open files are needed, {allowed} are allowed"
    );
    let name = match cast {
        Cast::Uni => "create -> execute on one of many streams",
        Cast::Any => "create -> execute on any of many streams",
    };
    let mut figures = Figures::new(name)?;
    // What the first request makes the server allocate is no stream's.
    let mut session = client.session(0).await?;
    session.call(&requests::create(&client.run, "")).await?;

    let before = usage(pid)?;
    let started_at = Instant::now();
    let streams = open(client, crowd).await?;
    figures.note("streams", crowd.count as f64);
    figures.note("opened_s", started_at.elapsed().as_secs_f64());
    let opened = usage(pid)?;
    let (mut heard, listeners) = listen(streams);
    let idle_since = Instant::now();
    tokio::time::sleep(hold).await;
    let idle = usage(pid)?;
    if let (Some(before), Some(opened), Some(idle)) = (before, opened, idle) {
        let streams = crowd.count.max(1) as f64;
        let opening = opened.cpu.saturating_sub(before.cpu).as_secs_f64();
        let idling = idle.cpu.saturating_sub(opened.cpu).as_secs_f64();
        let idle_s = idle_since.elapsed().as_secs_f64().max(1e-9);
        figures.note("rss_before_mib", before.rss_kib / 1024.0);
        figures.note(
            "rss_per_stream_kib",
            (idle.rss_kib - before.rss_kib) / streams,
        );
        figures.note("opening_cpu_us_per_stream", opening * 1e6 / streams);
        figures.note("idle_cpu_percent", idling / idle_s * 100.0);
    }

    let measured_since = Instant::now();
    for n in 0..messages {
        let latency = measure(client, &mut session, crowd, cast, n, &mut heard).await?;
        figures.record(latency);
    }
    let elapsed = measured_since.elapsed();
    close(client, &mut session, listeners, pid, &mut figures).await?;
    Ok(figures.finish(elapsed))
}

fn usage(pid: Option<u32>) -> anyhow::Result<Option<Usage>> {
    pid.map(process::usage).transpose()
}

fn group(client: &Client, crowd: &Crowd, n: usize) -> String {
    format!("{}s{}", client.run, n % crowd.groups)
}

async fn open(client: &Client, crowd: &Crowd) -> anyhow::Result<Vec<Stream>> {
    let opening = (0..crowd.count).map(|n| {
        let group = group(client, crowd, n);
        async move { client.stream(n, &group, &format!("w{n}")).await }
    });
    stream::iter(opening)
        .buffered(crowd.opening)
        .try_collect()
        .await
}

/// Reads all streams at once.
fn listen(streams: Vec<Stream>) -> (mpsc::UnboundedReceiver<anyhow::Result<Heard>>, JoinSet<()>) {
    let (tell, heard) = mpsc::unbounded_channel();
    let mut listeners = JoinSet::new();
    for (index, mut stream) in streams.into_iter().enumerate() {
        let tell = tell.clone();
        listeners.spawn(async move {
            loop {
                let message = stream.next_ever().await;
                let is_over = message.is_err();
                let message = message.map(|message| Heard {
                    stream: index,
                    task: about(&message).to_owned(),
                    at: Instant::now(),
                });
                if tell.send(message).is_err() || is_over {
                    return;
                }
            }
        });
    }
    (heard, listeners)
}

/// From the `promise.create` of a task until its `execute` arrives where it should.
async fn measure(
    client: &Client,
    session: &mut Session,
    crowd: &Crowd,
    cast: Cast,
    n: usize,
    heard: &mut mpsc::UnboundedReceiver<anyhow::Result<Heard>>,
) -> anyhow::Result<Duration> {
    // Far apart, so that neighbours in no table are measured.
    let index = n.wrapping_mul(7919) % crowd.count.max(1);
    let group = group(client, crowd, index);
    let target = match cast {
        Cast::Uni => format!("poll://uni@{group}/w{index}"),
        Cast::Any => format!("poll://any@{group}"),
    };
    let id = format!("{}-{n}", client.run);
    let request = requests::create(&id, &format!(r#""resonate:target":"{target}""#));
    let sent_at = Instant::now();
    session.call(&request).await?;
    loop {
        let message = tokio::time::timeout(crate::client::PATIENCE, heard.recv()).await;
        let message = message
            .context("no message in time")?
            .context("all streams have ended")?
            .context("a stream ended before it was to")?;
        if message.task != id {
            continue;
        }
        match cast {
            Cast::Uni if message.stream != index => bail!("the message came to another stream"),
            Cast::Uni | Cast::Any => return Ok(message.at.duration_since(sent_at)),
        }
    }
}

/// Closes all streams at once, and measures how long a request takes right after.
async fn close(
    client: &Client,
    session: &mut Session,
    mut listeners: JoinSet<()>,
    pid: Option<u32>,
    figures: &mut Figures,
) -> anyhow::Result<()> {
    let before = usage(pid)?;
    listeners.shutdown().await;
    let sent_at = Instant::now();
    let id = format!("{}-last", client.run);
    session.call(&requests::create(&id, "")).await?;
    figures.note(
        "create_while_closing_ms",
        sent_at.elapsed().as_secs_f64() * 1000.0,
    );
    if let Some(before) = before {
        // Long enough for what closing leaves to do.
        tokio::time::sleep(Duration::from_secs(2)).await;
        if let Some(after) = usage(pid)? {
            let closing = after.cpu.saturating_sub(before.cpu).as_secs_f64();
            figures.note("closing_cpu_s", closing);
            figures.note("rss_after_mib", after.rss_kib / 1024.0);
        }
    }
    Ok(())
}
