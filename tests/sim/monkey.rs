//! Makes the weather, and ends processes: as long as it rages.

use std::sync::Arc;
use std::time::Duration;

use resonate::protocol::record::Millis;
use tokio::task::JoinSet;
use tokio::time::{Instant, sleep};

use super::database::Database;
use super::node::Node;
use super::sim::Sim;
use super::weather::Weather;
use crate::harness::server::lock;

/// Rages until enough has happened; then everything that was to come back is back.
pub async fn run(database: &Arc<Database>) {
    let sim = &database.sim;
    let mut returns = JoinSet::new();
    while sim.steps() < sim.plan.steps {
        sim.pause(50..1500).await;
        while returns.try_join_next().is_some() {}
        sim.step();
        match sim.below(100) {
            0..50 => change_weather(sim),
            50..65 => {
                let victims = [1, 1, 1, 2, 4][sim.below(5)];
                for _ in 0..victims {
                    if let Some(node) = sim.any_node() {
                        sim.count("a node is killed");
                        returns.spawn(end(database.clone(), node, true));
                        // It dies before the next one is chosen.
                        tokio::task::yield_now().await;
                    }
                }
            }
            65..72 => {
                if let Some(node) = sim.any_node() {
                    sim.count("a node is stopped");
                    returns.spawn(end(database.clone(), node, false));
                }
            }
            72..78 => outage(sim),
            78..84 => {
                let until = soon(sim, 100..8000);
                let place = sim.below(sim.plan.nodes);
                sim.log
                    .line("monkey", || format!("cuts node {place} off the storage"));
                sim.count("a node is cut off");
                sim.weather().cut_off_until.insert(place, until);
            }
            84..89 => {
                let until = soon(sim, 100..8000);
                let place = sim.below(sim.plan.nodes);
                sim.log
                    .line("monkey", || format!("makes node {place} deaf"));
                sim.count("a node is deaf");
                sim.weather().deaf_until.insert(place, until);
            }
            89..94 => {
                sim.log
                    .line("monkey", || "breaks the connections that listen".to_owned());
                lock(&sim.listeners).clear();
            }
            _ => jump(sim),
        }
    }
    while returns.join_next().await.is_some() {}
    for place in 0..sim.plan.nodes {
        if lock(&sim.nodes)[place].is_none() {
            Node::start(database, place);
        }
    }
}

fn soon(sim: &Sim, ms: std::ops::Range<u64>) -> Instant {
    Instant::now() + Duration::from_millis(sim.between(ms))
}

/// Outages go on; everything else is new.
fn change_weather(sim: &Sim) {
    let next = Weather::random(&mut sim.rng(), sim.plan.badness);
    let mut weather = sim.weather();
    let next = Weather {
        out_until: weather.out_until,
        cut_off_until: weather.cut_off_until.clone(),
        deaf_until: weather.deaf_until.clone(),
        ..next
    };
    sim.log.line("weather", || next.to_string());
    *weather = next;
}

fn outage(sim: &Sim) {
    let most = [300, 3000, 3000, 15_000][sim.below(4)];
    let until = soon(sim, 50..most);
    sim.log
        .line("monkey", || "takes the storage away".to_owned());
    sim.count("the storage is out");
    sim.weather().out_until = Some(until);
}

/// A clock is set: that of the storage which all nodes go by, or that of the machine.
fn jump(sim: &Sim) {
    if sim.plan.skew_ms_max == 0 {
        return;
    }
    let most = 10 * sim.plan.skew_ms_max;
    let by = sim.rng().i64(-most..=most);
    sim.log
        .line("monkey", || format!("sets the clock by {by} ms"));
    sim.count("a clock is set");
    if sim.plan.is_shared {
        let mut ahead = lock(&sim.database_ahead_ms);
        *ahead = (*ahead + by).clamp(-most, most);
    } else if let Some(node) = sim.any_node() {
        let set: Millis = node.clock.now() + by;
        node.clock.follow(set, Duration::ZERO);
    }
}

/// Ends a process in one way or the other, and starts another in its place.
async fn end(database: Arc<Database>, node: Arc<Node>, is_killed: bool) {
    if is_killed {
        node.crash();
    } else {
        node.stop().await;
    }
    let place = node.place;
    drop(node);
    sleep(Duration::from_millis(database.sim.between(1..3000))).await;
    Node::start(&database, place);
}
