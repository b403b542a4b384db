//! Random histories through the machine: every numbered property after every step, every answer and
//! every state against an oracle, and the end of time after every history. `backends` replays them
//! through the stores.
//!
//! `RESONATE_MODEL_STEPS` sets how many steps to make (and then the seed is random, unless
//! `RESONATE_MODEL_SEED` gives it). A failure prints the seed, the shrunk history and what it came to.

use std::cell::RefCell;

use proptest::prelude::*;
use proptest::sample::select;
use proptest::test_runner::{
    Config as RunnerConfig, RngAlgorithm, TestCaseError, TestError, TestRng, TestRunner,
};

use resonate::protocol::record::Millis;

use self::action::{Action, action, opening};
use self::coverage::Tally;
use self::world::{Event, Outcome, World};

pub mod action;
mod backends;
mod coverage;
mod liveness;
pub mod oracle;
mod reads;
mod resolve;
mod responses;
pub mod rules;
mod scopes;
pub mod world;

/// Steps made by the short form.
const STEPS: u64 = 50_000;
/// Histories between two looks at the number of steps made.
const ROUND: u32 = 50;
const OPENINGS_MAX: usize = 10;
const LENGTH_MAX: usize = 160;

/// A history to be.
#[derive(Clone, Debug)]
struct History {
    retry_timeout_ms: Millis,
    actions: Vec<Action>,
}

fn history() -> impl Strategy<Value = History> {
    let openings = proptest::collection::vec(opening(), 0..OPENINGS_MAX);
    let actions = proptest::collection::vec(action(), 1..LENGTH_MAX);
    let retry_timeout_ms = select(vec![1, 5, 20, 1000, 10_000]);
    (retry_timeout_ms, openings, actions).prop_map(|(retry_timeout_ms, openings, actions)| {
        History {
            retry_timeout_ms,
            actions: openings.into_iter().chain(actions).collect(),
        }
    })
}

/// Plays a history, checking every step.
fn play(world: &mut World, history: &History) -> Outcome<()> {
    for action in &history.actions {
        match action {
            Action::Tick(order) => world.tick(*order)?,
            action => {
                if let Some(event) = world.resolve(action) {
                    world.perform(event)?;
                }
            }
        }
    }
    Ok(())
}

/// Steps that are more than the clock moving.
fn steps(world: &World) -> usize {
    let log = world.log.iter();
    log.filter(|record| !matches!(record.event, Event::Clock(_)))
        .count()
}

fn runner(seed: u64, round: u64) -> TestRunner {
    let mut bytes = [0; 16];
    bytes[..8].copy_from_slice(&seed.to_le_bytes());
    // Never all zeros: the generator would stay there.
    bytes[8..].copy_from_slice(&(round + 1).to_le_bytes());
    let config = RunnerConfig {
        cases: ROUND,
        max_shrink_iters: 20_000,
        max_shrink_time: 60_000,
        failure_persistence: None,
        ..RunnerConfig::default()
    };
    TestRunner::new_with_rng(config, TestRng::from_seed(RngAlgorithm::XorShift, &bytes))
}

/// How much to do, and from where.
struct Effort {
    seed: u64,
    steps: u64,
}

impl Effort {
    /// The short form, which is the same every time, unless the environment says otherwise.
    fn asked() -> Effort {
        let steps = number("RESONATE_MODEL_STEPS");
        let seed = number("RESONATE_MODEL_SEED");
        Effort {
            seed: seed.unwrap_or_else(|| {
                if steps.is_some() {
                    fastrand::u64(..)
                } else {
                    1
                }
            }),
            steps: steps.unwrap_or(STEPS),
        }
    }
}

fn number(name: &str) -> Option<u64> {
    let text = std::env::var(name).ok()?;
    Some(
        text.parse()
            .unwrap_or_else(|_| panic!("{name} must be a number, not {text:?}")),
    )
}

/// Runs rounds of histories until `enough`, and explains the first failure.
fn explore(
    seed: u64,
    mut is_enough: impl FnMut(u64) -> bool,
    check: impl Fn(&History) -> Outcome<()>,
) {
    let mut round = 0;
    while !is_enough(round) {
        let result = runner(seed, round).run(&history(), |history| {
            check(&history).map_err(TestCaseError::fail)
        });
        match result {
            Ok(()) => {}
            Err(TestError::Fail(reason, history)) => panic!(
                "{reason}\n\nshrunk history: {history:#?}\n\nRESONATE_MODEL_SEED={seed}, round {round}"
            ),
            Err(TestError::Abort(reason)) => panic!("aborted: {reason}"),
        }
        round += 1;
    }
}

/// A failure, after what led to it.
fn explained(world: &World, outcome: Outcome<()>) -> Outcome<()> {
    outcome.map_err(|error| {
        let log = world.log.iter().map(|record| match &record.reply {
            Some(reply) => format!("{}  {:?}\n    -> {reply:?}\n", record.now, record.event),
            None => format!("{}  {:?}\n", record.now, record.event),
        });
        format!("{error}\n\nafter:\n{}", log.collect::<String>())
    })
}

#[test]
fn random_histories_keep_every_property() {
    let Effort {
        seed,
        steps: wanted,
    } = Effort::asked();
    let tally = RefCell::new(Tally::default());
    explore(
        seed,
        |_| tally.borrow().steps >= wanted,
        |history| {
            let mut world = World::new(history.retry_timeout_ms);
            let played = play(&mut world, history);
            let outcome = played.and_then(|()| liveness::runs_out(&mut world));
            explained(&world, outcome)?;
            tally.borrow_mut().add(steps(&world), &world.rows);
            Ok(())
        },
    );
    eprintln!("seed {seed}");
    tally.borrow().report();
}
