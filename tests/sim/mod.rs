//! A simulation of the server as it ships: real engine, drivers, streams and nodes, on simulated time, storage
//! and network, with workers and clients that go wrong in every way they know. One number decides all of it.
//!
//! ```text
//!   client, worker ──> network ──> node: engine, drivers, cluster, poll ──> database: history, audit
//!          ^              ^            ^  bus, push, streams                     ^
//!          └──────────────┴────────────┴── weather, monkey ─────────────────────┘
//! ```
//!
//! - `audit`: every decision in every commit against the machine and the specification's oracle
//! - `witness`: every answer against every other answer
//! - `ending`: when the weather has cleared, everything comes to its end, in bounded time
//! - `probes`: and from then on nothing waits for a sweep
//!
//! `RESONATE_SIM_SEEDS` says which seeds: `7`, or `0..10000`. A single one prints its log.

use std::cell::RefCell;
use std::collections::BTreeMap;
use std::ops::Range;
use std::panic;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Mutex, Once};
use std::time::Instant;

use tokio::runtime::Builder;

mod audit;
mod bus;
mod client;
mod coverage;
mod database;
mod ending;
mod history;
mod log;
mod monkey;
mod network;
mod node;
mod plan;
mod probes;
#[allow(
    clippy::module_inception,
    reason = "it is what a simulation is made of"
)]
mod sim;
mod weather;
mod witness;
mod worker;

use crate::harness::server::lock;
use client::GROUPS;
use database::Database;
use node::Node;
use plan::Plan;
use sim::{Checked, Failure, Sim};
use worker::Worker;

/// Seeds of the short form.
const SEEDS: Range<u64> = 0..200;
/// More of them, that found something wrong once, with the server or with the simulation.
const REGRESSIONS: [u64; 8] = [302, 658, 817, 1536, 1677, 2552, 6408, 9079];
/// Seeds whose logs are compared in the short form.
const TWICE: Range<u64> = 1000..1004;
/// Requests, messages and faults of a seed, at least.
const STEPS: u64 = 1000;
/// Seeds in which everything that can happen does.
const ENOUGH: usize = 200;
/// Failed seeds after which no more are tried.
const FAILURES: usize = 3;
/// Lines of a log that are printed when a seed fails.
const LINES: usize = 60;

/// What a seed came to.
struct Outcome {
    failure: Option<Failure>,
    steps: u64,
    commits: u64,
    /// What was seen to happen, and how often.
    counts: BTreeMap<&'static str, u64>,
    log: String,
}

/// Runs a seed from beginning to end.
fn simulate(seed: u64, is_logged: bool) -> Outcome {
    catch_panics();
    fastrand::seed(seed);
    PANIC.set(Some(String::new()));
    let runtime = Builder::new_current_thread()
        .enable_time()
        .start_paused(true)
        .build()
        .expect("a runtime of one thread");
    let sim = runtime.block_on(async {
        let sim = Sim::new(Plan::of(seed, STEPS), is_logged);
        sim.log.line("plan", || format!("{:?}", sim.plan));
        let outcome = tokio::select! {
            biased;
            () = sim.until_failed() => Ok(()),
            outcome = play(&sim) => outcome,
        };
        sim.check(outcome);
        sim
    });
    // All tasks end here, and what they hold.
    drop(runtime);
    sim.nodes.lock().expect("nobody panicked with it").clear();
    let panicked = PANIC.take().filter(|panic| !panic.is_empty());
    let panicked = panicked.map(|detail| Failure {
        check: "nothing panics".to_owned(),
        detail,
    });
    Outcome {
        failure: panicked.or(sim.failure()),
        steps: sim.steps(),
        commits: sim.history().seq(),
        counts: sim.counts(),
        log: sim.log.take(),
    }
}

async fn play(sim: &std::sync::Arc<Sim>) -> Checked {
    let database = Database::new(sim);
    for place in 0..sim.plan.nodes {
        Node::start(&database, place);
    }
    for worker in workers(sim) {
        tokio::spawn(worker::run(sim.clone(), worker));
    }
    for number in 0..sim.plan.clients {
        let name = format!("client-{number}");
        tokio::spawn(client::run(sim.clone(), name.as_str().into()));
    }
    monkey::run(&database).await;
    sim.calm();
    ending::everything_ends(sim).await?;
    probes::run(&database).await?;
    ending::check_storage(&database).await
}

fn workers(sim: &Sim) -> Vec<Worker> {
    let polled = GROUPS.iter().flat_map(|group| {
        (0..sim.plan.pollers).map(move |number| Worker {
            name: format!("{group}-{number}").into(),
            group: Some((*group).into()),
        })
    });
    let pushed = (0..sim.plan.pushed).map(|number| Worker {
        name: format!("push-{number}").into(),
        group: None,
    });
    polled.chain(pushed).collect()
}

thread_local! {
    /// What panicked in the simulation of this thread; none outside of one.
    static PANIC: RefCell<Option<String>> = const { RefCell::new(None) };
}

/// Panics are caught by tokio, and by the product: nobody would hear of them.
fn catch_panics() {
    static ONCE: Once = Once::new();
    ONCE.call_once(|| {
        let previous = panic::take_hook();
        panic::set_hook(Box::new(move |info| {
            let is_ours = PANIC.with_borrow_mut(|panic| {
                let Some(first) = panic.as_mut() else {
                    return false;
                };
                if first.is_empty() {
                    *first = info.to_string();
                }
                true
            });
            if !is_ours {
                previous(info);
            }
        }));
    });
}

/// How to run a seed again.
fn replay(seed: u64) -> String {
    format!("make sim SEEDS={seed}")
}

/// Explains a failed seed, by its log.
fn explain(seed: u64, failure: &Failure) -> String {
    let again = simulate(seed, true);
    let lines: Vec<&str> = again.log.lines().collect();
    let path = std::env::temp_dir().join(format!("resonate-sim-{seed}.log"));
    let kept = match std::fs::write(&path, &again.log) {
        Ok(()) => format!("all {} lines: {}", lines.len(), path.display()),
        Err(error) => format!("the log cannot be kept: {error}"),
    };
    let last = lines[lines.len().saturating_sub(LINES)..].join("\n");
    format!(
        "{last}\n\n{kept}\nseed {seed}: {failure}\nonce more: {}",
        replay(seed)
    )
}

/// The seeds to run.
fn asked() -> Option<Range<u64>> {
    let text = std::env::var("RESONATE_SIM_SEEDS").ok()?;
    let number = |text: &str| {
        let number = text.trim().parse::<u64>();
        number.unwrap_or_else(|_| panic!("RESONATE_SIM_SEEDS is `7` or `0..10000`, not {text:?}"))
    };
    Some(match text.split_once("..") {
        Some((from, until)) => number(from)..number(until),
        None => number(&text)..number(&text) + 1,
    })
}

#[test]
fn no_seed_breaks_anything() {
    let seeds: Vec<u64> = match asked() {
        Some(seeds) => seeds.collect(),
        None => SEEDS.chain(REGRESSIONS).collect(),
    };
    let [next, ran, steps, commits] = [(); 4].map(|()| AtomicU64::new(0));
    let failures: Mutex<Vec<(u64, Failure)>> = Mutex::default();
    let counts: Mutex<BTreeMap<&'static str, u64>> = Mutex::default();
    let started_at = Instant::now();
    let threads = std::thread::available_parallelism().map_or(1, usize::from);
    std::thread::scope(|scope| {
        for _ in 0..threads {
            scope.spawn(|| {
                while lock(&failures).len() < FAILURES {
                    let index = next.fetch_add(1, Ordering::Relaxed);
                    let index = usize::try_from(index).expect("there are not so many");
                    let Some(&seed) = seeds.get(index) else {
                        return;
                    };
                    let outcome = simulate(seed, false);
                    ran.fetch_add(1, Ordering::Relaxed);
                    steps.fetch_add(outcome.steps, Ordering::Relaxed);
                    commits.fetch_add(outcome.commits, Ordering::Relaxed);
                    for (what, times) in outcome.counts {
                        *lock(&counts).entry(what).or_default() += times;
                    }
                    if let Some(failure) = outcome.failure {
                        lock(&failures).push((seed, failure));
                    }
                }
            });
        }
    });
    let elapsed = started_at.elapsed().as_secs_f64();
    let ran = ran.into_inner();
    eprintln!(
        "{ran} of {} seeds: {} steps, {} commits, {elapsed:.1} s, {:.1} seeds/s",
        seeds.len(),
        steps.into_inner(),
        commits.into_inner(),
        ran as f64 / elapsed,
    );
    let mut failures = failures.into_inner().expect("nobody panicked with it");
    failures.sort_by_key(|(seed, _)| *seed);
    if let Some((seed, failure)) = failures.first() {
        let all: Vec<String> = failures
            .iter()
            .map(|(seed, failure)| format!("seed {seed}: {}", failure.check))
            .collect();
        panic!("{}\n\n{}", explain(*seed, failure), all.join("\n"));
    }
    if seeds.len() >= ENOUGH {
        coverage::check(&counts.into_inner().expect("nobody panicked with it"));
    }
    if let [seed] = *seeds {
        eprint!("{}", simulate(seed, true).log);
    }
}

#[test]
fn the_same_seed_makes_the_same_log() {
    for seed in asked().unwrap_or(TWICE) {
        let (first, second) = (simulate(seed, true), simulate(seed, true));
        let differs = first
            .log
            .lines()
            .zip(second.log.lines())
            .position(|(a, b)| a != b);
        if let Some(line) = differs {
            let at = |log: &str| {
                log.lines()
                    .skip(line.saturating_sub(5))
                    .take(8)
                    .collect::<Vec<_>>()
                    .join("\n")
            };
            panic!(
                "seed {seed} differs at line {line}:\n{}\n\nand\n{}",
                at(&first.log),
                at(&second.log)
            );
        }
        assert_eq!(first.log.len(), second.log.len(), "seed {seed}");
        assert!(first.log.lines().count() > 1000);
    }
}
