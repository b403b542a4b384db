//! What must be over some time after the last fault (`semantics.md` §13, L1–L4): every task that a worker can
//! do is done, every deadline is stored, every listener that is there is told, every schedule is up to date.

use std::sync::Arc;
use std::time::Duration;

use resonate::machine::object::Object;
use resonate::protocol::address::{Address, Rules};
use resonate::protocol::record::{Id, Millis, PromiseState, TaskState};
use resonate::store::Store;
use tokio::time::{Instant, sleep};

use super::client::GROUPS;
use super::database::Database;
use super::sim::{Checked, Sim, broken};
use crate::harness::server::lock;

/// How long everything may take: an `unblock` backs off up to a minute, and a call of the storage may hang for
/// some time before.
const PATIENCE: Duration = Duration::from_secs(90);
/// What is younger than this may still be on its way.
const ON_ITS_WAY_MS: Millis = 1500;

/// Waits until nothing is left to do.
pub async fn everything_ends(sim: &Arc<Sim>) -> Checked {
    let deadline = Instant::now() + PATIENCE;
    loop {
        sleep(Duration::from_millis(250)).await;
        match unfinished(sim) {
            None => return Ok(()),
            Some((check, detail)) if Instant::now() > deadline => return broken(check, detail),
            Some(_) => {}
        }
    }
}

/// What is stored is what was committed, and all of it is as it should be.
pub async fn check_storage(database: &Database) -> Checked {
    let sim = &database.sim;
    let dump = database.inner.dump().await;
    let history = sim.history();
    history.check_everything()?;
    let Ok(dump) = dump else {
        return broken("the storage is what was committed", "it cannot be read");
    };
    let objects: Vec<&Object> = history.objects().map(|(_, object)| &**object).collect();
    if objects != dump.objects.iter().collect::<Vec<_>>() {
        return broken("the storage is what was committed", "the objects differ");
    }
    Ok(())
}

fn unfinished(sim: &Sim) -> Option<(&'static str, String)> {
    let now = sim.now() + *lock(&sim.database_ahead_ms);
    let late = now - ON_ITS_WAY_MS;
    let history = sim.history();
    for (id, object) in history.objects() {
        let promise = &object.promise;
        let is_pending = promise.state == PromiseState::Pending;
        if is_pending && object.armed && promise.timeout_at < late {
            return Some(("L1: armed deadlines are stored", format!("{object:?}")));
        }
        if is_pending && let Some(task) = &object.task {
            if task.state == TaskState::Acquired && task.expires_at.is_some_and(|at| at < late) {
                return Some(("L2: leases run out", format!("{object:?}")));
            }
            let is_offered = task.offer_at.is_some_and(|at| at < late);
            let is_waiting = task.state == TaskState::Pending && is_offered;
            if is_waiting
                && promise
                    .tags
                    .target()
                    .is_some_and(|target| is_there(sim, target))
            {
                return Some((
                    "L2: a task is done if a worker is there",
                    format!("{object:?}"),
                ));
            }
        }
        for awaiter in &object.callbacks {
            if !is_pending {
                return Some(("L3: awaiters are resumed", format!("{awaiter} by {id}")));
            }
        }
        for (address, listener) in &object.listeners {
            if listener.enqueued_at.is_some_and(|at| at < late) && is_there(sim, address) {
                let detail = format!("{address} of {id}: {listener:?}");
                return Some(("L4: listeners are told if they are there", detail));
            }
        }
    }
    let behind = history
        .schedules()
        .find(|schedule| schedule.next_run_at < late);
    behind.map(|schedule| ("schedules catch up", format!("{schedule:?}")))
}

/// Whether a worker lives at an address, now that all do.
fn is_there(sim: &Sim, address: &str) -> bool {
    match Address::parse(address, &Rules::default()) {
        Some(Address::Poll(poll)) => {
            let is_group = GROUPS.contains(&&*poll.group);
            let lives = |id: &String| lock(&sim.mailboxes).contains_key(&Id::from(&**id));
            is_group
                && (poll.cast == resonate::protocol::address::Cast::Any
                    || poll.id.as_ref().is_some_and(lives))
        }
        Some(Address::Http { url }) => url.contains("push-"),
        _ => false,
    }
}
