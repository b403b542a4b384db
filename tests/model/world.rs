//! The model: the machine over a plain map, a clock that is moved by hand, and an outbox.
//!
//! [`World::perform`] takes one step and checks everything that can be checked of it.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use resonate::machine::invariant::transition::Transition;
use resonate::machine::invariant::{Entry, Key, State, check_state, check_transition};
use resonate::machine::object::Object;
use resonate::machine::workspace::{Message, Workspace};
use resonate::machine::{Config, Input, Step, decide, missing};
use resonate::protocol::operation::Query;
use resonate::protocol::record::{Id, Millis, NEVER, Promise, PromiseState, Schedule, TaskState};
use resonate::protocol::reply::Reply;
use resonate::store::{Changes, Loaded, Need};

use super::action::{Order, START};
use super::oracle::Oracle;
use super::responses::Witness;
use super::{reads, rules};

/// What went wrong, in words.
pub type Outcome<T> = Result<T, String>;

/// One thing that happens.
#[derive(Clone, Debug)]
pub enum Event {
    /// A request, or an internal step.
    Input(Input),
    /// A read.
    Query(Query),
    /// The `execute` of a task is claimed for delivery: at most once, whatever comes of it.
    Take(Id),
    /// Time passes.
    Clock(Millis),
}

/// An event, when it happened, and what came of it.
#[derive(Debug)]
pub struct Record {
    pub now: Millis,
    pub event: Event,
    pub reply: Option<Reply>,
    pub messages: Vec<Message>,
}

/// What one input did.
pub struct Decision {
    pub reply: Reply,
    pub changes: Changes,
    pub messages: Vec<Message>,
}

pub struct World {
    pub objects: BTreeMap<Id, Arc<Object>>,
    pub schedules: BTreeMap<Id, Schedule>,
    pub outbox: BTreeMap<Key, Entry>,
    pub now: Millis,
    pub config: Config,
    /// Everything that has happened.
    pub log: Vec<Record>,
    /// The rows of the decision tables that were taken.
    pub rows: Vec<&'static str>,
    serial: u64,
    witness: Witness,
}

impl World {
    pub fn new(retry_timeout_ms: Millis) -> Self {
        World {
            objects: BTreeMap::new(),
            schedules: BTreeMap::new(),
            outbox: BTreeMap::new(),
            now: START,
            config: Config { retry_timeout_ms },
            log: Vec::new(),
            rows: Vec::new(),
            serial: 0,
            witness: Witness::default(),
        }
    }

    /// The state as the properties see it.
    pub fn state(&self) -> State {
        State::of(
            self.objects.values().map(|object| &**object),
            self.schedules.values().cloned().collect(),
            self.outbox.values().cloned().collect(),
            self.now,
            self.config.retry_timeout_ms,
        )
    }

    /// Takes one step and checks it.
    pub fn perform(&mut self, event: Event) -> Outcome<()> {
        let (reply, messages) = match &event {
            Event::Input(input) => {
                let decision = self.perform_input(input)?;
                (Some(decision.reply), decision.messages)
            }
            Event::Query(query) => (Some(self.perform_query(query)?), Vec::new()),
            Event::Take(id) => {
                let before = self.state();
                let key = Key::Execute(id.clone());
                self.outbox.remove(&key);
                self.check(&before, true, &BTreeSet::from([key]))?;
                (None, Vec::new())
            }
            Event::Clock(now) => {
                self.now = *now;
                check_state(&self.state()).map_err(|violation| violation.to_string())?;
                (None, Vec::new())
            }
        };
        self.log.push(Record {
            now: self.now,
            event,
            reply,
            messages,
        });
        Ok(())
    }

    fn perform_query(&mut self, query: &Query) -> Outcome<Reply> {
        let mut oracle = Oracle::new(self.state());
        let expected = oracle.query(query);
        let reply = reads::answer(self, query);
        equal("the answer", &reply, &expected)?;
        self.witness.see_reply(&reply, self.now)?;
        self.rows.extend(oracle.rows);
        Ok(reply)
    }

    fn perform_input(&mut self, input: &Input) -> Outcome<Decision> {
        let before = self.state();
        let objects_before = self.objects.clone();
        let mut oracle = Oracle::new(before.clone());
        let expected_reply = oracle.predict(input);
        let decision = self.decide_on(&self.objects, input)?;
        rules::refusals_change_nothing(&decision)?;
        equal("the answer", &decision.reply, &expected_reply)?;
        self.apply(&decision.changes)?;
        let delivered = self.deliver(input);
        self.send(input, &decision.messages)?;
        let is_internal = matches!(input, Input::Step(_));
        let after = self.check(&before, is_internal, &delivered)?;
        rules::same_state(oracle.state, after)?;
        rules::design(self, input, &decision.messages, &objects_before)?;
        rules::repeats(self, input, &decision.reply)?;
        rules::release_is_halt_then_continue(self, input, &decision.reply, &objects_before)?;
        self.witness.see_reply(&decision.reply, self.now)?;
        self.witness.see_grant(&decision.reply)?;
        self.rows.extend(oracle.rows);
        Ok(decision)
    }

    fn check(
        &self,
        before: &State,
        is_internal: bool,
        delivered: &BTreeSet<Key>,
    ) -> Outcome<State> {
        let after = self.state();
        check_state(&after).map_err(|violation| violation.to_string())?;
        let transition = Transition::of(before, &after, is_internal, delivered);
        check_transition(&transition).map_err(|violation| violation.to_string())?;
        Ok(after)
    }

    /// Decides one input over the given objects, in a workspace of its own.
    pub fn decide_on(
        &self,
        objects: &BTreeMap<Id, Arc<Object>>,
        input: &Input,
    ) -> Outcome<Decision> {
        let mut ws = Workspace::default();
        // Every round uncovers at least one id, so there is an end.
        for _ in 0..objects.len() + 10 {
            let need = missing(input, self.now, &ws);
            if need.is_empty() {
                let reply = decide(input, self.now, &mut ws, &self.config);
                let (changes, messages) = ws.finish();
                return Ok(Decision {
                    reply,
                    changes,
                    messages,
                });
            }
            ws.absorb(&need, self.load(objects, &need));
        }
        Err("the machine keeps asking for more".to_owned())
    }

    fn load(&self, objects: &BTreeMap<Id, Arc<Object>>, need: &Need) -> Loaded {
        let is_held = |object: &Object| {
            let task = object.task.as_ref();
            task.is_some_and(|task| {
                task.state == TaskState::Acquired
                    && task.pid.as_ref().is_some_and(|pid| need.pids.contains(pid))
            })
        };
        let is_member = |promise: &Promise| {
            let branch = promise.tags.get("resonate:branch");
            branch.is_some_and(|branch| need.branches.contains(branch))
        };
        let found = objects
            .iter()
            .filter(|(id, object)| need.objects.contains(*id) || is_held(object));
        let promises = objects.values().map(|object| &object.promise);
        let schedules = self.schedules.iter();
        Loaded {
            objects: found.map(|(_, object)| object.clone()).collect(),
            branch_members: promises.filter(|p| is_member(p)).cloned().collect(),
            schedules: schedules
                .filter(|(id, _)| need.schedules.contains(*id))
                .map(|(_, schedule)| schedule.clone())
                .collect(),
            ..Loaded::default()
        }
    }

    fn apply(&mut self, changes: &Changes) -> Outcome<()> {
        for change in &changes.objects {
            let id = change.after.promise.id.clone();
            equal(
                "what was loaded",
                &change.before,
                &self.objects.get(&id).cloned(),
            )?;
            if change.before.as_ref() == Some(&change.after) {
                return Err(format!("a change that changes nothing: {change:?}"));
            }
            self.objects.insert(id, change.after.clone());
        }
        for change in &changes.schedules {
            match &change.after {
                Some(after) => self.schedules.insert(change.id.clone(), (**after).clone()),
                None => self.schedules.remove(&change.id),
            };
        }
        Ok(())
    }

    /// What leaves the outbox because of the input: the machine is told of delivered unblocks.
    fn deliver(&mut self, input: &Input) -> BTreeSet<Key> {
        let Input::Step(Step::UnblockDone { promise, address }) = input else {
            return BTreeSet::new();
        };
        let key = Key::Unblock(promise.clone(), address.clone());
        self.outbox.remove(&key);
        BTreeSet::from([key])
    }

    fn send(&mut self, input: &Input, messages: &[Message]) -> Outcome<()> {
        for message in messages {
            self.serial += 1;
            let entry = Entry {
                serial: self.serial,
                message: message.clone(),
            };
            let key = entry.key();
            if let Message::Execute { offer_at, .. } = message {
                let latest = self.now.saturating_add(self.config.retry_timeout_ms);
                if *offer_at < self.now || *offer_at > latest {
                    return Err(format!(
                        "offered before now or after the retry: {message:?}"
                    ));
                }
            }
            if let Message::Unblock { promise, .. } = message {
                self.witness.see_promise(promise, self.now)?;
                if matches!(input, Input::Step(Step::UnblockDue { .. })) {
                    // One more attempt at the entry that is there.
                    let there = self.outbox.get(&key).map(|entry| &entry.message);
                    equal("the unblock offered again", &Some(message), &there)?;
                    continue;
                }
                if self.outbox.contains_key(&key) {
                    return Err(format!("a second unblock: {message:?}"));
                }
            }
            self.outbox.insert(key, entry);
        }
        Ok(())
    }

    /// What is due now, as (kind of step, instant, step).
    pub fn due(&self) -> Vec<(u8, Millis, Step)> {
        let mut due = Vec::new();
        for (id, object) in &self.objects {
            let step = Step::Promise(id.clone());
            let promise = &object.promise;
            if promise.state != PromiseState::Pending {
                continue;
            }
            if promise.timeout_at <= self.now {
                if object.armed {
                    due.push((0, promise.timeout_at, step));
                }
                continue;
            }
            let task = object.task.as_ref();
            if let Some(at) = task.and_then(|task| task.expires_at) {
                due.push((1, at, step.clone()));
            }
            if let Some(at) = task.and_then(|task| task.retry_at) {
                due.push((2, at, step));
            }
        }
        for (id, schedule) in &self.schedules {
            if schedule.next_run_at != NEVER {
                due.push((3, schedule.next_run_at, Step::Schedule(id.clone())));
            }
        }
        due.retain(|(_, at, _)| *at <= self.now);
        due
    }

    /// One complete pass: until nothing is due.
    pub fn tick(&mut self, order: Order) -> Outcome<()> {
        for _ in 0..1000 {
            let mut due = self.due();
            if due.is_empty() {
                return Ok(());
            }
            match order {
                Order::Table => due.sort_by_key(|(kind, at, _)| (*kind, *at)),
                Order::Instant => due.sort_by_key(|(_, at, _)| *at),
                Order::Reverse => due.reverse(),
            }
            for (_, _, step) in due {
                self.perform(Event::Input(Input::Step(step)))?;
            }
        }
        Err("the tick does not end".to_owned())
    }

    /// The instants ahead at which something becomes due.
    pub fn next_deadlines(&self) -> Vec<Millis> {
        let promises = self
            .objects
            .values()
            .filter(|o| o.promise.state == PromiseState::Pending);
        let of_object = |object: &Arc<Object>| {
            let task = object.task.as_ref();
            [
                Some(object.promise.timeout_at),
                task.and_then(|task| task.expires_at),
                task.and_then(|task| task.retry_at),
            ]
        };
        let mut all: BTreeSet<Millis> = promises.flat_map(of_object).flatten().collect();
        all.extend(self.schedules.values().map(|schedule| schedule.next_run_at));
        all.into_iter()
            .filter(|at| *at > self.now && *at < NEVER)
            .collect()
    }
}

/// Compares, and says what differs.
pub fn equal<T: PartialEq + std::fmt::Debug>(what: &str, actual: &T, expected: &T) -> Outcome<()> {
    match actual == expected {
        true => Ok(()),
        false => Err(format!(
            "{what}:\n  is       {actual:?}\n  expected {expected:?}"
        )),
    }
}
