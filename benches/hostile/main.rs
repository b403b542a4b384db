//! Attacks a server of its own on this machine, and measures what honest clients notice of it.
//!
//! ```text
//! cargo bench --bench hostile -- --server target/release/resonate slowloris flood
//! ```
//!
//! For every attack a server is started on a fresh SQLite database, with the limits that are the default. Honest
//! clients send requests at a steady rate, whatever becomes of the ones before: some seconds before the attack,
//! while it lasts, and some seconds after it. Latencies count from the instant at which a request was due. One line
//! is printed per attack, with the largest memory that the server has used. All of it is loopback, bounded in
//! connections and in time; the attacker runs at the lowest priority, so that it costs the server what it sends it
//! rather than the processor of the machine.
#![allow(clippy::print_stdout, reason = "printing figures is what it is for")]

use std::net::SocketAddr;
use std::path::PathBuf;
use std::process::Stdio;
use std::time::Duration;

use anyhow::{Context, ensure};
use clap::{Args, Parser, Subcommand};

mod attacks;
mod honest;
mod http2;
mod server;

use attacks::Attack;
use honest::Honest;
use server::Server;

/// Measures what honest clients notice of an attack.
#[derive(Parser)]
struct Arguments {
    #[command(flatten)]
    measure: Measure,
    /// Passed by `cargo bench`; without meaning here.
    #[arg(long, hide = true, global = true)]
    bench: bool,
    #[command(subcommand)]
    part: Option<Part>,
}

#[derive(Args)]
struct Measure {
    /// The server's program.
    #[arg(long, default_value = "target/release/resonate")]
    server: PathBuf,
    /// Seconds that each attack lasts.
    #[arg(long, default_value_t = 15)]
    seconds: u64,
    /// Seconds of peace before it, and after it.
    #[arg(long, default_value_t = 5)]
    peace_seconds: u64,
    /// Honest requests a second.
    #[arg(long, default_value_t = 200)]
    rate: u64,
    /// Attacks; all by default.
    #[arg(long, value_enum)]
    only: Vec<Attack>,
    /// Most memory that the server may use, in MiB: more is a failure.
    #[arg(long, default_value_t = 1024)]
    rss_max_mib: u64,
}

#[derive(Subcommand)]
enum Part {
    /// Attacks a server: what this program starts of itself.
    #[command(hide = true)]
    Attack {
        #[arg(long)]
        target: SocketAddr,
        #[arg(long)]
        seconds: u64,
        #[arg(value_enum)]
        attack: Attack,
    },
}

#[tokio::main]
async fn main() -> anyhow::Result<()> {
    let arguments = Arguments::parse();
    rlimit::increase_nofile_limit(u64::MAX)?;
    let _ = rustls::crypto::ring::default_provider().install_default();
    if let Some(Part::Attack {
        target,
        seconds,
        attack,
    }) = arguments.part
    {
        ensure!(
            target.ip().is_loopback(),
            "only loopback addresses are attacked"
        );
        let tally = attacks::run(attack, target, Duration::from_secs(seconds)).await;
        println!("{tally}");
        return Ok(());
    }
    let measure = arguments.measure;
    let attacks = if measure.only.is_empty() {
        Attack::all()
    } else {
        measure.only.clone()
    };
    println!(
        "{:<12} {:>22} {:>22} {:>22} {:>9}  attacker",
        "attack", "p50/p99/max ms before", "during", "after", "RSS MiB"
    );
    let mut failures = Vec::new();
    for attack in attacks {
        failures.extend(under(attack, &measure).await?);
    }
    ensure!(failures.is_empty(), "{}", failures.join("; "));
    Ok(())
}

/// Measures one attack, prints its line, and answers what was wrong.
async fn under(attack: Attack, measure: &Measure) -> anyhow::Result<Vec<String>> {
    let server = Server::start(&measure.server).await?;
    let mut honest = Honest::new(server.address(), measure.rate)?;
    let peace = Duration::from_secs(measure.peace_seconds);
    honest.prepare().await?;
    let before = honest.run(peace).await;

    let program = std::env::current_exe()?;
    let attacker = tokio::process::Command::new("nice")
        .args(["-n", "19"])
        .arg(program)
        .args(["attack", "--target", &server.address().to_string()])
        .args(["--seconds", &measure.seconds.to_string(), attack.name()])
        .stdout(Stdio::piped())
        .kill_on_drop(true)
        .spawn()
        .context("the attacker does not start")?;
    let during = honest.run(Duration::from_secs(measure.seconds)).await;
    let attacker = attacker.wait_with_output().await?;
    let tally = String::from_utf8_lossy(&attacker.stdout).trim().to_owned();

    let after = honest.run(peace).await;
    let rss_mib = server.rss_max_mib()?;
    server.stop().await?;
    println!(
        "{:<12} {:>22} {:>22} {:>22} {:>9}  {tally}",
        attack.name(),
        before.to_string(),
        during.to_string(),
        after.to_string(),
        rss_mib
    );
    let mut failures = Vec::new();
    for (phase, figures) in [("before", before), ("during", during), ("after", after)] {
        if figures.failed > 0 {
            let (failed, why) = (figures.failed, figures.why.unwrap_or_default());
            failures.push(format!(
                "{}: {failed} honest requests failed {phase} the attack ({why})",
                attack.name()
            ));
        }
    }
    if rss_mib > measure.rss_max_mib {
        failures.push(format!("{}: the server used {rss_mib} MiB", attack.name()));
    }
    Ok(failures)
}
