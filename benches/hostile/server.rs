//! The server under attack: a process of its own, on a database of its own.

use std::net::SocketAddr;
use std::path::Path;
use std::process::Stdio;
use std::time::Duration;

use anyhow::{Context, bail};
use tokio::io::{AsyncBufReadExt, BufReader};
use tokio::process::{Child, Command};

const START_MAX: Duration = Duration::from_secs(20);

/// A running server; killed when dropped.
pub struct Server {
    process: Child,
    address: SocketAddr,
    _folder: tempfile::TempDir,
}

impl Server {
    /// Starts one with the limits that are the default.
    pub async fn start(program: &Path) -> anyhow::Result<Server> {
        let folder = tempfile::tempdir()?;
        let program = program
            .canonicalize()
            .with_context(|| format!("no server at {}", program.display()))?;
        let mut process = Command::new(program)
            .args(["serve", "--server-bind", "127.0.0.1", "--server-port", "0"])
            .args(["--observability-metrics-port", "0"])
            .current_dir(folder.path())
            .env("NO_COLOR", "1")
            .stderr(Stdio::piped())
            .stdout(Stdio::null())
            .kill_on_drop(true)
            .spawn()?;
        let stderr = process.stderr.take().context("stderr is piped")?;
        let mut lines = BufReader::new(stderr).lines();
        let listening = async {
            while let Some(line) = lines.next_line().await? {
                let address = line.split_once("addr=").map(|(_, rest)| rest);
                let address = address.and_then(|rest| rest.split(' ').next()?.parse().ok());
                if let Some(address) = address.filter(|_| line.contains("listening")) {
                    return Ok(address);
                }
            }
            bail!("the server did not start")
        };
        let address = tokio::time::timeout(START_MAX, listening).await??;
        // What it says of the attack is read, and of no interest.
        tokio::spawn(async move { while let Ok(Some(_)) = lines.next_line().await {} });
        Ok(Server {
            process,
            address,
            _folder: folder,
        })
    }

    /// Where it listens.
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// The most memory that it has used so far.
    pub fn rss_max_mib(&self) -> anyhow::Result<u64> {
        let pid = self.process.id().context("the server has ended")?;
        let status = std::fs::read_to_string(format!("/proc/{pid}/status"))?;
        let line = status.lines().find_map(|line| line.strip_prefix("VmHWM:"));
        let kib = line.and_then(|line| line.trim().split(' ').next()?.parse::<u64>().ok());
        Ok(kib.context("no VmHWM")? / 1024)
    }

    /// Ends it.
    pub async fn stop(mut self) -> anyhow::Result<()> {
        self.process.kill().await?;
        Ok(())
    }
}
