//! The machine as the specification of what is seen at the wire, one request after the other.
//!
//! Times are left out of answers, but for those that a deadline sets. In the specification time stands still, until a
//! deadline passes: that is an event of its own, some time around the instant that the deadline names. What it then
//! does by itself, without any request, is another.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use resonate::machine::object::Object;
use resonate::machine::{Input, Step, query};
use resonate::protocol::operation::{Command, FenceAction, Operation, Query};
use resonate::protocol::record::{Id, Millis};
use resonate::protocol::reply::{Data, Reply};
use serde_json::Value as Json;

use super::checker::Specification;
use crate::model::world::World;

/// Of all requests; fences echo it.
pub const CORR_ID: &str = "c";

/// A status and its data, as far as it is specified.
pub type Answer = (u16, Json);

/// What happens.
#[derive(Clone, Debug)]
pub enum Event {
    /// A request, and what it was answered, unless nobody was.
    Asked(Operation, Option<Answer>),
    /// The deadline of a promise.
    Passes(Id, Millis),
    /// What follows from it is stored.
    Stored(Id),
}

/// See the module documentation.
pub struct Machine {
    /// The instant before all deadlines.
    pub start: Millis,
    /// Whether several nodes share the storage: what is past its deadline is then stored before anybody is told so,
    /// and their clocks may differ. One node alone goes by one clock.
    pub is_shared: bool,
}

#[derive(Clone)]
pub struct State {
    objects: BTreeMap<Id, Arc<Object>>,
    now: Millis,
    /// Deadlines that have passed.
    passed: BTreeMap<Id, Millis>,
    stored: BTreeSet<Id>,
}

impl Specification for Machine {
    type Event = Event;
    type State = State;

    fn start(&self) -> State {
        State {
            objects: BTreeMap::new(),
            now: self.start,
            passed: BTreeMap::new(),
            stored: BTreeSet::new(),
        }
    }

    fn after(&self, state: &State, event: &Event) -> Option<State> {
        let mut state = state.clone();
        match event {
            Event::Asked(operation, answer) => {
                let reply = self.execute(&mut state, operation);
                let is_it = answer
                    .as_ref()
                    .is_none_or(|answer| *answer == answer_of(&reply));
                is_it.then_some(state)
            }
            Event::Passes(id, at) => {
                state.passed.insert(id.clone(), *at);
                if self.is_shared {
                    self.decide(&mut state, &Input::Step(Step::Promise(id.clone())), *at);
                } else {
                    state.now = state.now.max(*at);
                }
                Some(state)
            }
            Event::Stored(id) => {
                state.passed.get(id)?;
                if !state.stored.insert(id.clone()) {
                    return None;
                }
                let now = state.now;
                self.decide(&mut state, &Input::Step(Step::Promise(id.clone())), now);
                Some(state)
            }
        }
    }

    fn key(&self, state: &State) -> String {
        let State {
            objects,
            now,
            passed,
            ..
        } = state;
        format!("{now} {:?} {:?}", passed.keys(), objects.values())
    }
}

impl Machine {
    pub fn execute(&self, state: &mut State, operation: &Operation) -> Reply {
        let object = |id: &Id| state.objects.get(id).map(|object| &**object);
        match operation {
            Operation::Command(command) => {
                // Born past its deadline.
                let passed = created(command).and_then(|id| state.passed.get(id));
                let now = passed.map_or(state.now, |at| state.now.max(*at));
                self.decide(state, &Input::Request(command.clone()), now)
            }
            Operation::Query(Query::PromiseGet { id }) => query::promise(object(id), state.now),
            Operation::Query(Query::TaskGet { id }) => query::task(object(id), state.now),
            other => panic!("{other:?} is not asked here"),
        }
    }

    fn decide(&self, state: &mut State, input: &Input, now: Millis) -> Reply {
        let mut world = World::new(60_000);
        world.now = now;
        let decision = world
            .decide_on(&state.objects, input)
            .expect("the machine ends");
        for change in decision.changes.objects {
            let id = change.after.promise.id.clone();
            state.objects.insert(id, change.after);
        }
        decision.reply
    }
}

fn created(command: &Command) -> Option<&Id> {
    match command {
        Command::PromiseCreate(create) => Some(&create.id),
        Command::TaskCreate(op) => Some(&op.action.id),
        Command::TaskFence(op) => match &op.action {
            FenceAction::Create(create) => Some(&create.id),
            FenceAction::Settle(_) => None,
        },
        _ => None,
    }
}

fn answer_of(reply: &Reply) -> Answer {
    let data = Data {
        reply,
        corr_id: CORR_ID,
    };
    let data = serde_json::to_value(data).expect("replies are JSON");
    (reply.status(), specified(data))
}

/// Without preloads, which are read beside, and without the times that the server's clock makes.
pub fn specified(mut data: Json) -> Json {
    strip(&mut data);
    data
}

fn strip(json: &mut Json) {
    let Some(members) = json.as_object_mut() else {
        return;
    };
    members.remove("preload");
    if members.contains_key("createdAt") {
        members.remove("createdAt");
        if members.get("settledAt") != members.get("timeoutAt") {
            members.remove("settledAt");
        }
    }
    members
        .iter_mut()
        .filter(|(name, _)| !matches!(name.as_str(), "tags" | "param" | "value"))
        .for_each(|(_, member)| strip(member));
}
