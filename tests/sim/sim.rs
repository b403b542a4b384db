//! What all parts of a simulation share: chance, time, weather, the log, and the first thing that was wrong.

use std::collections::BTreeMap;
use std::fmt;
use std::ops::RangeBounds;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard};
use std::time::Duration;

use fastrand::Rng;
use resonate::protocol::record::{Id, Millis};
use tokio::sync::{Notify, mpsc};
use tokio::time::{Instant, sleep};

use super::bus::Listener;
use super::history::History;
use super::log::Log;
use super::node::Node;
use super::plan::Plan;
use super::weather::Weather;
use super::witness::Witness;
use crate::harness::server::lock;
use crate::model::action::START;

/// What was wrong: the name of the check, and what it saw.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Failure {
    pub check: String,
    pub detail: String,
}

impl fmt::Display for Failure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {}", self.check, self.detail)
    }
}

/// See the module documentation.
pub struct Sim {
    pub plan: Plan,
    pub log: Log,
    pub history: Mutex<History>,
    pub witness: Mutex<Witness>,
    pub weather: Mutex<Weather>,
    /// By place; none while it is down.
    pub nodes: Mutex<Vec<Option<Arc<Node>>>>,
    pub listeners: Mutex<Vec<Listener>>,
    /// Where messages for a worker go, by its name.
    pub mailboxes: Mutex<BTreeMap<Id, mpsc::UnboundedSender<String>>>,
    is_calm: AtomicBool,
    /// How far the clock of the database is ahead of the simulation's.
    pub database_ahead_ms: Mutex<Millis>,
    rng: Mutex<Rng>,
    started_at: Instant,
    steps: AtomicU64,
    events: AtomicU64,
    counts: Mutex<BTreeMap<&'static str, u64>>,
    failure: Mutex<Option<Failure>>,
    failed: Notify,
    calmed: Notify,
}

impl Sim {
    pub fn new(plan: Plan, is_logged: bool) -> Arc<Sim> {
        Arc::new(Sim {
            history: Mutex::new(History::new(plan.retry_timeout_ms)),
            witness: Mutex::default(),
            weather: Mutex::new(Weather::fine()),
            nodes: Mutex::new(vec![None; plan.nodes]),
            listeners: Mutex::default(),
            mailboxes: Mutex::default(),
            is_calm: AtomicBool::new(false),
            database_ahead_ms: Mutex::default(),
            rng: Mutex::new(Rng::with_seed(plan.seed)),
            started_at: Instant::now(),
            steps: AtomicU64::new(0),
            events: AtomicU64::new(0),
            counts: Mutex::default(),
            failure: Mutex::default(),
            failed: Notify::new(),
            calmed: Notify::new(),
            log: Log::new(is_logged),
            plan,
        })
    }

    pub fn rng(&self) -> MutexGuard<'_, Rng> {
        lock(&self.rng)
    }

    pub fn chance(&self, probability: f64) -> bool {
        probability > 0.0 && self.rng().f64() < probability
    }

    pub fn below(&self, bound: usize) -> usize {
        self.rng().usize(..bound)
    }

    pub fn between(&self, range: impl RangeBounds<u64>) -> u64 {
        self.rng().u64(range)
    }

    pub fn one_of<'a, T>(&self, choices: &'a [T]) -> &'a T {
        &choices[self.below(choices.len())]
    }

    pub async fn pause(&self, ms: impl RangeBounds<u64>) {
        let ms = self.between(ms);
        if ms > 0 {
            sleep(Duration::from_millis(ms)).await;
        }
    }

    /// The time that nobody's clock is wrong about.
    pub fn now(&self) -> Millis {
        let elapsed = self.started_at.elapsed().as_millis();
        START + Millis::try_from(elapsed).expect("simulations are short")
    }

    pub fn weather(&self) -> MutexGuard<'_, Weather> {
        lock(&self.weather)
    }

    pub fn history(&self) -> MutexGuard<'_, History> {
        lock(&self.history)
    }

    pub fn witness(&self) -> MutexGuard<'_, Witness> {
        lock(&self.witness)
    }

    pub fn is_calm(&self) -> bool {
        self.is_calm.load(Ordering::Relaxed)
    }

    /// From now on nothing goes wrong any more.
    pub fn calm(&self) {
        self.log.line("weather", || "clears".to_owned());
        *self.weather() = Weather::fine();
        self.is_calm.store(true, Ordering::Relaxed);
        self.calmed.notify_waiters();
    }

    pub async fn until_calm(&self) {
        let calmed = self.calmed.notified();
        if !self.is_calm() {
            calmed.await;
        }
    }

    /// Something happened that counts.
    pub fn step(&self) {
        self.steps.fetch_add(1, Ordering::Relaxed);
    }

    pub fn steps(&self) -> u64 {
        self.steps.load(Ordering::Relaxed)
    }

    /// Notes that something has been seen to happen.
    pub fn count(&self, what: &'static str) {
        *lock(&self.counts).entry(what).or_default() += 1;
    }

    pub fn counts(&self) -> BTreeMap<&'static str, u64> {
        lock(&self.counts).clone()
    }

    /// Numbers what happens, so that *before* can be told where the clock stands still.
    pub fn event(&self) -> u64 {
        self.events.fetch_add(1, Ordering::Relaxed) + 1
    }

    /// A node that is up, at random.
    pub fn any_node(&self) -> Option<Arc<Node>> {
        let up: Vec<Arc<Node>> = lock(&self.nodes).iter().flatten().cloned().collect();
        (!up.is_empty()).then(|| self.one_of(&up).clone())
    }

    pub fn fail(&self, check: impl Into<String>, detail: impl Into<String>) {
        let failure = Failure {
            check: check.into(),
            detail: detail.into(),
        };
        self.log.line("FAILED", || failure.to_string());
        lock(&self.failure).get_or_insert(failure);
        self.failed.notify_one();
    }

    pub fn check(&self, outcome: Result<(), Failure>) {
        if let Err(failure) = outcome {
            self.fail(failure.check, failure.detail);
        }
    }

    pub fn failure(&self) -> Option<Failure> {
        lock(&self.failure).clone()
    }

    pub async fn until_failed(&self) {
        while self.failure().is_none() {
            self.failed.notified().await;
        }
    }
}

/// Shorthand for what checks answer.
pub type Checked = Result<(), Failure>;

/// A check that does not hold.
pub fn broken(check: impl Into<String>, detail: impl Into<String>) -> Checked {
    Err(Failure {
        check: check.into(),
        detail: detail.into(),
    })
}
