//! Runs of `semantics.md` §13 (L1–L4): with a clock that advances and a server that runs, everything
//! comes to an end.

use resonate::machine::invariant::Key;
use resonate::machine::{Input, Step};
use resonate::protocol::operation::Command;
use resonate::protocol::record::{Id, Millis, NEVER, PromiseState, TaskState};

use super::action::Order;
use super::world::{Event, Outcome, World};

/// How many deadlines are waited for one by one.
const DEADLINES: usize = 5;

/// Lets time run out, and checks what must have happened by then.
pub fn runs_out(world: &mut World) -> Outcome<()> {
    // Those that have run out stay: they must not fire at the end of time.
    let mut endless = world.schedules.clone();
    endless.retain(|_, schedule| schedule.next_run_at != NEVER);
    for id in endless.into_keys() {
        let delete = Command::ScheduleDelete { id };
        world.perform(Event::Input(Input::Request(delete)))?;
    }
    for _ in 0..DEADLINES {
        let Some(next) = world.next_deadlines().first().copied() else {
            break;
        };
        world.perform(Event::Clock(next))?;
        world.tick(Order::Instant)?;
    }
    let finite = world
        .objects
        .values()
        .map(|object| object.promise.timeout_at);
    if let Some(last) = finite.filter(|at| *at < Millis::MAX).max() {
        world.perform(Event::Clock(last.max(world.now)))?;
        world.tick(Order::Table)?;
        settled(world, last)?;
    }
    world.perform(Event::Clock(Millis::MAX))?;
    world.tick(Order::Reverse)?;
    settled(world, Millis::MAX)?;
    let spent: Vec<Id> = world.schedules.keys().cloned().collect();
    for id in spent {
        world.perform(Event::Input(Input::Step(Step::Schedule(id))))?;
    }
    told(world)
}

/// L1–L3 for all promises with a deadline at or before `until`.
fn settled(world: &World, until: Millis) -> Outcome<()> {
    for (id, object) in &world.objects {
        if object.promise.timeout_at > until {
            continue;
        }
        let is_stored_settled = object.promise.state != PromiseState::Pending;
        if object.armed && !is_stored_settled {
            return Err(format!("L1: {id} is armed and still pending"));
        }
        if object.view(world.now).state == PromiseState::Pending {
            return Err(format!("L1: {id} still reads pending"));
        }
        let task = object.task.as_ref();
        if task.is_some_and(|task| task.state != TaskState::Fulfilled) {
            return Err(format!("L2: the task of {id} is not fulfilled: {task:?}"));
        }
        if !object.callbacks.is_empty() {
            return Err(format!(
                "L3: {id} holds callbacks of {:?}",
                object.callbacks
            ));
        }
        if object.is_obligated() {
            return Err(format!("L4: {id} has listeners that were not told"));
        }
    }
    Ok(())
}

/// L4: every unblock can be delivered, and then is forgotten.
fn told(world: &mut World) -> Outcome<()> {
    let keys: Vec<Key> = world.outbox.keys().cloned().collect();
    for key in keys {
        world.perform(match key {
            Key::Execute(id) => Event::Take(id),
            Key::Unblock(promise, address) => {
                Event::Input(Input::Step(Step::UnblockDone { promise, address }))
            }
        })?;
    }
    let left = world
        .objects
        .values()
        .find(|object| !object.listeners.is_empty());
    match (left, world.outbox.is_empty()) {
        (None, true) => Ok(()),
        _ => Err(format!("L4: not everything was delivered: {left:?}")),
    }
}
