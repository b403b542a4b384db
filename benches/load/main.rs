//! The load generator: measures any server of this protocol from outside, over HTTP and SSE.
//!
//! ```text
//! cargo bench --bench load -- --url http://127.0.0.1:8001 execute --count 500
//! ```
//!
//! Every workload is bounded in count, prints one line of figures, and with `--json` one JSON object.
#![allow(clippy::print_stdout, reason = "printing figures is what it is for")]

use std::time::Duration;

use anyhow::ensure;
use clap::{Parser, Subcommand};

mod client;
mod figures;
mod workloads;

use client::Client;

/// Measures a server of the durable-promise protocol.
#[derive(Parser)]
struct Args {
    /// Base URL of the server; only loopback addresses are accepted.
    #[arg(long, default_value = "http://127.0.0.1:8001", global = true)]
    url: String,
    /// Print one JSON object instead of a line of text.
    #[arg(long, global = true)]
    json: bool,
    /// Passed by `cargo bench`; without meaning here.
    #[arg(long, hide = true, global = true)]
    bench: bool,
    #[command(subcommand)]
    workload: Workload,
}

#[derive(Subcommand)]
enum Workload {
    /// Closed loop of promise.create from several connections.
    Create {
        /// Requests in all.
        #[arg(long, default_value_t = 10_000)]
        count: usize,
        /// Connections, each with one request in flight.
        #[arg(long, default_value_t = 64)]
        connections: usize,
    },
    /// One idle client: promise.create with a target until `execute` arrives on an open stream.
    Execute {
        /// How many, one after the other.
        #[arg(long, default_value_t = 500)]
        count: usize,
    },
    /// One idle client: settling an awaited promise until `execute` of its suspended awaiter arrives.
    Resume {
        /// How many, one after the other.
        #[arg(long, default_value_t = 300)]
        count: usize,
    },
    /// Timer promises with listeners, spread evenly: how late does each `unblock` arrive?
    Timers {
        /// How many.
        #[arg(long, default_value_t = 1000)]
        count: usize,
        /// Over how many milliseconds their deadlines are spread.
        #[arg(long, default_value_t = 5000)]
        spread_ms: u64,
    },
    /// Holds streams open and does nothing, so that the server can be watched being idle.
    Streams {
        /// How many.
        #[arg(long, default_value_t = 1000)]
        count: usize,
        /// For how many milliseconds.
        #[arg(long, default_value_t = 10_000)]
        hold_ms: u64,
    },
}

#[tokio::main]
async fn main() -> anyhow::Result<()> {
    let args = Args::parse();
    let is_loopback = ["http://127.", "http://localhost", "http://[::1]"]
        .iter()
        .any(|prefix| args.url.starts_with(prefix));
    ensure!(
        is_loopback,
        "only loopback addresses are loaded, not {}",
        args.url
    );
    let client = Client::new(&args.url)?;
    let figures = match args.workload {
        Workload::Create { count, connections } => {
            workloads::create(&client, count, connections).await?
        }
        Workload::Execute { count } => workloads::execute(&client, count).await?,
        Workload::Resume { count } => workloads::resume(&client, count).await?,
        Workload::Timers { count, spread_ms } => {
            workloads::timers(&client, count, spread_ms).await?
        }
        Workload::Streams { count, hold_ms } => {
            workloads::streams(&client, count, Duration::from_millis(hold_ms)).await?
        }
    };
    if args.json {
        println!("{}", figures.to_json());
    } else {
        println!("{figures}");
    }
    Ok(())
}
