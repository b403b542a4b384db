//! The command line, the connection, and the wait until messages arrive.

use std::collections::HashMap;
use std::path::PathBuf;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use resonate_sdk::prelude::*;
use resonate_sdk::types::Value;
use tokio::time::Instant;

use crate::functions;

const PROBE_TIMEOUT: Duration = Duration::from_secs(60);

pub struct Arguments {
    url: String,
    group: String,
    pid: Option<String>,
    ttl_ms: Option<u64>,
    log: Option<PathBuf>,
    /// What is left: the client's command.
    pub rest: Vec<String>,
}

impl Arguments {
    /// Reads the command line of this process.
    pub fn parse() -> std::result::Result<Self, String> {
        let mut options = HashMap::new();
        let mut rest = Vec::new();
        let mut words = std::env::args().skip(1);
        while let Some(word) = words.next() {
            match word.strip_prefix("--") {
                Some(name) => {
                    let value = words.next().ok_or(format!("--{name} needs a value"))?;
                    options.insert(name.to_owned(), value);
                }
                None => rest.push(word),
            }
        }
        let arguments = Self {
            url: options.remove("url").ok_or("--url is required")?,
            group: options.remove("group").ok_or("--group is required")?,
            pid: options.remove("pid"),
            ttl_ms: match options.remove("ttl") {
                Some(ttl) => Some(ttl.parse().map_err(|e| format!("--ttl {ttl}: {e}"))?),
                None => None,
            },
            log: options.remove("log").map(PathBuf::from),
            rest,
        };
        match options.keys().next() {
            Some(unknown) => Err(format!("unknown option --{unknown}")),
            None => Ok(arguments),
        }
    }

    /// Starts the SDK with every function registered. Needs a running runtime.
    pub fn connect(&self) -> Result<Resonate> {
        if let Some(log) = &self.log {
            functions::log_to(log.clone());
        }
        let resonate = Resonate::new(ResonateConfig {
            url: Some(self.url.clone()),
            group: Some(self.group.clone()),
            pid: self.pid.clone(),
            ttl: self.ttl_ms,
            ..Default::default()
        });
        functions::register_all(&resonate)?;
        Ok(resonate)
    }
}

/// Returns once this process provably receives messages.
///
/// The SDK does not say when its stream is open. So settle a promise that this process listens to: the answer can
/// only come through the stream. The promise has no target, hence no task and no worker is involved.
pub async fn listening(resonate: &Resonate) -> Result<()> {
    let deadline = Instant::now() + PROBE_TIMEOUT;
    loop {
        match tokio::time::timeout_at(deadline, probe(resonate)).await {
            Ok(Ok(())) => return Ok(()),
            Err(_elapsed) => return Err(Error::Timeout),
            Ok(Err(error)) if Instant::now() > deadline => return Err(error),
            // The server may still be starting.
            Ok(Err(_)) => tokio::time::sleep(Duration::from_millis(200)).await,
        }
    }
}

async fn probe(resonate: &Resonate) -> Result<()> {
    let now = SystemTime::now()
        .duration_since(UNIX_EPOCH)
        .expect("the clock is past 1970");
    let id = format!("sdk-ready-{}-{}", std::process::id(), now.as_nanos());
    let timeout_at = (now + PROBE_TIMEOUT).as_millis() as i64;
    resonate
        .promises
        .create(&id, timeout_at, Value::default(), HashMap::new())
        .await?;
    let handle = resonate.get::<bool>(&id).await?;
    resonate
        .promises
        .resolve(&id, Value::from_serializable(true)?)
        .await?;
    handle.result().await.map(|_| ())
}
