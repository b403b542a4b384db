//! The load generator: measures any server of this protocol from outside, over HTTP and SSE.
//!
//! ```text
//! cargo bench --bench load -- --url http://127.0.0.1:8001 execute --count 500
//! ```
//!
//! With several `--url` connections are spread over the servers; with `--poll-url` the worker's stream hangs on
//! another server than the one that takes the requests.
//!
//! Every workload is bounded in count, prints one line of figures, and with `--json` one JSON object.
#![allow(clippy::print_stdout, reason = "printing figures is what it is for")]

use std::time::Duration;

use anyhow::ensure;
use clap::{Parser, Subcommand};

mod client;
mod figures;
mod process;
mod streams;
mod workloads;

use client::Client;
use streams::{Cast, Crowd};

/// Measures a server of the durable-promise protocol.
#[derive(Parser)]
struct Args {
    /// Base URL of a server; may be repeated. Only loopback addresses are accepted.
    #[arg(long = "url", default_value = "http://127.0.0.1:8001", global = true)]
    urls: Vec<String>,
    /// Base URL of the server where streams are opened, unless it is the one that takes the requests.
    #[arg(long, global = true)]
    poll_url: Option<String>,
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
        /// Ends earlier, after so many milliseconds.
        #[arg(long, default_value_t = 600_000)]
        duration_ms: u64,
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
    /// One worker reads all of many tasks that wait for it, and acquires none. With `--pid` also what that costs.
    Drain {
        /// How many.
        #[arg(long, default_value_t = 50_000)]
        count: usize,
        /// Connections that create them.
        #[arg(long, default_value_t = 64)]
        connections: usize,
        /// See `streams`.
        #[arg(long)]
        pid: Option<u32>,
    },
    /// Holds many streams open, and then sends messages to one of them at a time: `promise.create` until `execute`
    /// arrives. With `--pid` also what the streams cost the server.
    Streams {
        /// How many.
        #[arg(long, default_value_t = 10_000)]
        count: usize,
        /// Over how many groups they are spread, and what messages are addressed to: with 1 group and `any`
        /// all of them compete.
        #[arg(long, default_value_t = 50)]
        groups: usize,
        /// To one of the ids, or to any stream of one of the groups.
        #[arg(long, value_enum, default_value_t)]
        cast: Cast,
        /// How many are opened at a time.
        #[arg(long, default_value_t = 32)]
        opening: usize,
        /// For how many milliseconds they are idle first.
        #[arg(long, default_value_t = 30_000)]
        hold_ms: u64,
        /// Messages sent, one after the other.
        #[arg(long, default_value_t = 1000)]
        messages: usize,
        /// The server's process, on this machine: its memory and CPU time are read from `/proc`.
        #[arg(long)]
        pid: Option<u32>,
    },
}

#[tokio::main]
async fn main() -> anyhow::Result<()> {
    let args = Args::parse();
    for url in args.urls.iter().chain(&args.poll_url) {
        let is_loopback = ["http://127.", "http://localhost", "http://[::1]"]
            .iter()
            .any(|prefix| url.starts_with(prefix));
        ensure!(is_loopback, "only loopback addresses are loaded, not {url}");
    }
    let client = Client::new(&args.urls, args.poll_url.as_deref())?;
    let figures = match args.workload {
        Workload::Create {
            count,
            connections,
            duration_ms,
        } => {
            let duration = Duration::from_millis(duration_ms);
            workloads::create(&client, count, connections, duration).await?
        }
        Workload::Execute { count } => workloads::execute(&client, count).await?,
        Workload::Resume { count } => workloads::resume(&client, count).await?,
        Workload::Timers { count, spread_ms } => {
            workloads::timers(&client, count, spread_ms).await?
        }
        Workload::Drain {
            count,
            connections,
            pid,
        } => workloads::drain(&client, count, connections.max(1), pid).await?,
        Workload::Streams {
            count,
            groups,
            cast,
            opening,
            hold_ms,
            messages,
            pid,
        } => {
            let crowd = Crowd {
                count,
                groups: groups.max(1),
                opening: opening.max(1),
            };
            let hold = Duration::from_millis(hold_ms);
            streams::run(&client, &crowd, cast, hold, messages, pid).await?
        }
    };
    if args.json {
        println!("{}", figures.to_json());
    } else {
        println!("{figures}");
    }
    Ok(())
}
