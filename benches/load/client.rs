//! A client of the wire: requests, and event streams.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use anyhow::{Context, bail, ensure};
use serde_json::Value;

use crate::wire::Connection;

/// How long a workload waits for one message before it gives up.
pub const PATIENCE: Duration = Duration::from_secs(60);

/// Where the servers are. Cheap to clone.
#[derive(Clone)]
pub struct Client {
    servers: Arc<[SocketAddr]>,
    /// Where streams are opened, if not where requests go.
    poll: Option<SocketAddr>,
    /// Makes the ids of this run differ from those of any other.
    pub run: String,
}

/// What one of many connections does with a server.
pub struct Session(Connection);

impl Client {
    /// A client of the servers at `urls`, of which there is one at least.
    pub async fn new(urls: &[String], poll_url: Option<&str>) -> anyhow::Result<Self> {
        let mut servers = Vec::new();
        for url in urls {
            servers.push(address(url).await?);
        }
        ensure!(!servers.is_empty(), "no URL");
        let poll = match poll_url {
            Some(url) => Some(address(url).await?),
            None => None,
        };
        Ok(Client {
            servers: servers.into(),
            poll,
            run: format!("bench{}", now_us()),
        })
    }

    /// How many servers there are.
    pub fn servers(&self) -> usize {
        self.servers.len()
    }

    /// One of many connections: servers take turns.
    pub async fn session(&self, n: usize) -> anyhow::Result<Session> {
        let server = self.servers[n % self.servers.len()];
        Ok(Session(Connection::open(server).await?))
    }

    /// Opens the poll stream of a worker, one of many: servers take turns.
    pub async fn stream(&self, n: usize, group: &str, id: &str) -> anyhow::Result<Stream> {
        let server = self.servers[n % self.servers.len()];
        let mut connection = Connection::open(self.poll.unwrap_or(server)).await?;
        connection.stream(&format!("/poll/{group}/{id}")).await?;
        let mut stream = Stream {
            connection,
            buffer: Vec::new(),
        };
        // The greeting: from here on messages are routed to this stream.
        let greeting = tokio::time::timeout(PATIENCE, stream.chunk()).await;
        greeting.context("no greeting in time")??;
        Ok(stream)
    }
}

async fn address(url: &str) -> anyhow::Result<SocketAddr> {
    let host = url.strip_prefix("http://").context("only http is spoken")?;
    let host = host.trim_end_matches('/');
    let mut found = tokio::net::lookup_host(host).await?;
    let address = found
        .next()
        .with_context(|| format!("no address of {host}"))?;
    let is_loopback = address.ip().is_loopback();
    ensure!(is_loopback, "only loopback addresses are loaded, not {url}");
    Ok(address)
}

impl Session {
    /// Sends a request, which must be answered 200 or 300; the answer.
    pub async fn call(&mut self, body: &str) -> anyhow::Result<&[u8]> {
        match self.0.post(body).await? {
            (200 | 300, answer) => Ok(answer),
            (status, answer) => Err(unexpected(body, status, answer)),
        }
    }

    /// Sends a request that may have been made before, for messages arrive at least once: whether it is answered 200,
    /// and not 409.
    pub async fn is_first(&mut self, body: &str) -> anyhow::Result<bool> {
        match self.0.post(body).await? {
            (200, _) => Ok(true),
            (409, _) => Ok(false),
            (status, answer) => Err(unexpected(body, status, answer)),
        }
    }

    /// Gets what is there, whatever it is: to measure what a server of HTTP costs.
    pub async fn get(&mut self, path: &str) -> anyhow::Result<()> {
        let (status, _) = self.0.get(path).await?;
        ensure!(status == 200, "{path} is answered {status}");
        Ok(())
    }
}

fn unexpected(body: &str, status: u16, answer: &[u8]) -> anyhow::Error {
    let answer = String::from_utf8_lossy(answer);
    anyhow::anyhow!("{body} is answered {status}: {answer}")
}

/// An open event stream.
pub struct Stream {
    connection: Connection,
    buffer: Vec<u8>,
}

impl Stream {
    async fn chunk(&mut self) -> anyhow::Result<()> {
        match self.connection.chunk().await? {
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
            if message["kind"] == kind && about(&message) == id {
                return Ok(message);
            }
        }
    }
}

/// The id of the task or promise that a message is about.
pub fn about(message: &Value) -> &str {
    let record = match message["kind"].as_str() {
        Some("execute") => &message["data"]["task"],
        _ => &message["data"]["promise"],
    };
    record["id"].as_str().unwrap_or_default()
}

/// The wall clock, in milliseconds.
pub fn now_ms() -> u64 {
    now_us() / 1000
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
