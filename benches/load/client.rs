//! A client of the wire: requests, and one event stream.

use std::sync::Arc;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use anyhow::{Context, bail, ensure};
use serde_json::{Value, json};

/// How long a workload waits for one message before it gives up.
pub const PATIENCE: Duration = Duration::from_secs(60);

/// Cheap to clone; clones share connections.
#[derive(Clone)]
pub struct Client {
    http: reqwest::Client,
    urls: Arc<[String]>,
    /// Which of them takes the requests.
    turn: usize,
    /// Where streams are opened, if not where requests go.
    poll_url: Option<String>,
    /// Makes the ids of this run differ from those of any other.
    pub run: String,
}

impl Client {
    /// A client of the servers at `urls`, of which there is one at least.
    pub fn new(urls: &[String], poll_url: Option<&str>) -> anyhow::Result<Self> {
        let base = |url: &str| url.trim_end_matches('/').to_owned();
        let urls: Arc<[String]> = urls.iter().map(|url| base(url)).collect();
        ensure!(!urls.is_empty(), "no URL");
        let _ = rustls::crypto::ring::default_provider().install_default();
        let http = reqwest::Client::builder()
            .no_proxy()
            .tcp_nodelay(true)
            .pool_max_idle_per_host(usize::MAX)
            .build()?;
        let run = format!("bench{}", now_ms());
        Ok(Client {
            http,
            urls,
            turn: 0,
            poll_url: poll_url.map(base),
            run,
        })
    }

    /// The same client with another connection: servers take turns.
    pub fn nth(&self, connection: usize) -> Self {
        Client {
            turn: connection % self.urls.len(),
            ..self.clone()
        }
    }

    fn url(&self) -> &str {
        &self.urls[self.turn]
    }

    /// Sends one request; answers `data` of a 2xx or 300.
    pub async fn call(&self, kind: &str, data: Value) -> anyhow::Result<Value> {
        let head = json!({"corrId": "bench", "version": "2026-04-01"});
        let body = serde_json::to_vec(&json!({"kind": kind, "head": head, "data": data}))?;
        let answer = self
            .http
            .post(format!("{}/", self.url()))
            .body(body)
            .send()
            .await?;
        let mut answer: Value = serde_json::from_slice(&answer.bytes().await?)?;
        let status = answer["head"]["status"].as_u64().unwrap_or(0);
        ensure!(
            status == 200 || status == 300,
            "{kind} answered {status}: {}",
            answer["data"]
        );
        Ok(answer["data"].take())
    }

    /// Opens the poll stream of a worker.
    pub async fn stream(&self, group: &str, id: &str) -> anyhow::Result<Stream> {
        let base = self.poll_url.as_deref().unwrap_or(self.url());
        let url = format!("{base}/poll/{group}/{id}");
        let answer = self.http.get(url).send().await?;
        ensure!(answer.status() == 200, "poll answered {}", answer.status());
        let mut stream = Stream {
            answer,
            buffer: Vec::new(),
        };
        // The greeting: from here on messages are routed to this stream.
        let greeting = tokio::time::timeout(PATIENCE, stream.chunk()).await;
        greeting.context("no greeting in time")??;
        Ok(stream)
    }
}

/// An open event stream.
pub struct Stream {
    answer: reqwest::Response,
    buffer: Vec<u8>,
}

impl Stream {
    async fn chunk(&mut self) -> anyhow::Result<()> {
        match self.answer.chunk().await? {
            Some(chunk) => self.buffer.extend_from_slice(&chunk),
            None => bail!("the stream ended"),
        }
        Ok(())
    }

    /// The next message, if it comes in time.
    pub async fn next(&mut self) -> anyhow::Result<Value> {
        let next = tokio::time::timeout(PATIENCE, self.next_ever()).await;
        next.context("no message in time")?
    }

    /// The next message, whenever it comes.
    pub async fn next_ever(&mut self) -> anyhow::Result<Value> {
        loop {
            if let Some(end) = self.buffer.windows(2).position(|pair| pair == b"\n\n") {
                let event: Vec<u8> = self.buffer.drain(..end + 2).collect();
                if let Some(data) = event.strip_prefix(b"data: ") {
                    return Ok(serde_json::from_slice(data)?);
                }
                continue;
            }
            self.chunk().await?;
        }
    }

    /// The next message of a kind about an id.
    pub async fn until(&mut self, kind: &str, id: &str) -> anyhow::Result<Value> {
        loop {
            let message = self.next().await?;
            let about = match kind {
                "execute" => &message["data"]["task"]["id"],
                _ => &message["data"]["promise"]["id"],
            };
            if message["kind"] == kind && about == id {
                return Ok(message);
            }
        }
    }
}

/// The wall clock, in milliseconds.
#[allow(
    clippy::disallowed_methods,
    reason = "the generator compares with the server's instants"
)]
pub fn now_ms() -> u64 {
    let since = SystemTime::now()
        .duration_since(UNIX_EPOCH)
        .unwrap_or_default();
    u64::try_from(since.as_millis()).unwrap_or(u64::MAX)
}

/// The wall clock, in microseconds.
#[allow(
    clippy::disallowed_methods,
    reason = "the generator compares with the server's instants"
)]
pub fn now_us() -> u64 {
    let since = SystemTime::now()
        .duration_since(UNIX_EPOCH)
        .unwrap_or_default();
    u64::try_from(since.as_micros()).unwrap_or(u64::MAX)
}
