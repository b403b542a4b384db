//! The load generator: measures any server of this protocol from outside, over HTTP and SSE.
//!
//! ```text
//! cargo bench --bench load -- --url http://127.0.0.1:8001 create --connections 64
//! ```
//!
//! With several `--url` connections are spread over the servers; with `--poll-url` the worker's stream hangs on
//! another server than the one that takes the requests.
//!
//! Every workload is bounded in count or time, prints one line of figures, and with `--json` one JSON object.
#![allow(clippy::print_stdout, reason = "printing figures is what it is for")]

use std::path::PathBuf;
use std::time::Duration;

use clap::{Parser, Subcommand};

mod client;
mod drain;
mod figures;
mod floor;
mod idle;
mod invoke;
mod pace;
mod process;
mod requests;
mod streams;
mod timers;
mod wire;
mod workloads;

use client::Client;
use figures::Figures;
use pace::Pace;
use streams::{Cast, Crowd};
use workloads::{Create, Cycle, Hello, Kind, Mixed};

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
    /// Serves hello over HTTP until it is ended, and sends back what it is sent: what to compare with.
    Floor {
        /// Take every request for a promise.create, and store the promise in this new SQLite file, synced
        #[arg(long, value_name = "FILE")]
        store: Option<PathBuf>,
    },
    /// `GET /`, for that.
    Hello {
        #[command(flatten)]
        pace: Pace,
    },
    /// promise.create.
    Create {
        #[command(flatten)]
        pace: Pace,
    },
    /// promise.get of promises that are there.
    Get {
        #[command(flatten)]
        pace: Pace,
    },
    /// promise.settle of promises that are pending.
    Settle {
        /// How many are created before.
        #[arg(long, default_value_t = 200_000)]
        there: usize,
        #[command(flatten)]
        pace: Pace,
    },
    /// task.create, task.fence that creates a child, task.fulfill: three requests, one after the other.
    Cycle {
        #[command(flatten)]
        pace: Pace,
    },
    /// Whole workflows: create, execute, acquire, fulfill, unblock.
    Invoke {
        #[command(flatten)]
        pace: Pace,
    },
    /// Of twenty requests nine creates, seven gets, three settles and a search.
    Mixed {
        #[command(flatten)]
        pace: Pace,
    },
    /// Stores promises, and leaves them.
    Fill {
        /// How many.
        #[arg(long, default_value_t = 1_000_000)]
        count: usize,
        /// Pending or settled ones.
        #[arg(long, value_enum, default_value_t = Kind::Pending)]
        kind: Kind,
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
        #[arg(long, default_value_t = 10_000)]
        count: usize,
        /// Over how many milliseconds their deadlines are spread.
        #[arg(long, default_value_t = 10_000)]
        spread_ms: u64,
    },
    /// Promises that expire within one second: how late are they, and what do other requests notice?
    Avalanche {
        /// How many.
        #[arg(long, default_value_t = 100_000)]
        count: usize,
    },
    /// One worker reads all of many tasks that wait for it, and acquires none. With `--pid` also what that costs.
    Drain {
        /// How many.
        #[arg(long, default_value_t = 50_000)]
        count: usize,
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
    if let Workload::Floor { store } = &args.workload {
        return floor::serve(store.as_deref()).await;
    }
    let client = Client::new(&args.urls, args.poll_url.as_deref()).await?;
    let figures = measure(&client, args.workload).await?;
    if args.json {
        println!("{}", figures.to_json());
    } else {
        println!("{figures}");
    }
    Ok(())
}

async fn measure(client: &Client, workload: Workload) -> anyhow::Result<Figures> {
    let prefix = format!("{}-", client.run);
    match workload {
        Workload::Floor { .. } => Figures::new("floor"),
        Workload::Hello { pace } => pace.drive(client, "hello", Hello).await,
        Workload::Create { pace } => {
            let tags = String::new();
            pace.drive(client, "create", Create { prefix, tags }).await
        }
        Workload::Get { pace } => workloads::get(client, &pace).await,
        Workload::Settle { there, pace } => workloads::settle(client, &pace, there).await,
        Workload::Cycle { pace } => pace.drive(client, "cycle", Cycle(prefix)).await,
        Workload::Invoke { pace } => invoke::run(client, &pace).await,
        Workload::Mixed { pace } => pace.drive(client, "mixed", Mixed(prefix)).await,
        Workload::Fill { count, kind } => workloads::fill(client, count, kind).await,
        Workload::Execute { count } => idle::execute(client, count).await,
        Workload::Resume { count } => idle::resume(client, count).await,
        Workload::Timers { count, spread_ms } => timers::spread(client, count, spread_ms).await,
        Workload::Avalanche { count } => timers::avalanche(client, count).await,
        Workload::Drain { count, pid } => drain::drain(client, count, pid).await,
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
            streams::run(client, &crowd, cast, hold, messages, pid).await
        }
    }
}
