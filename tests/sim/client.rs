//! Clients: ask for anything at any time, most of it sensible.

use std::collections::BTreeMap;
use std::sync::Arc;

use resonate::machine::object::Object;
use resonate::protocol::operation::{
    Command, PromiseCreate, PromiseSearch, PromiseSettle, Query, ScheduleCreate, TaskAcquire,
    TaskCreate, TaskHeartbeat, TaskRef, TaskSearch,
};
use resonate::protocol::record::{
    Id, Millis, PromiseState, Tags, TaskState, Value, ValueParts, Verdict, tag,
};

use super::network::{Answer, call};
use super::node::Request;
use super::sim::Sim;
use super::worker::{Run, granted};
use crate::model::action::{EVERY_FIVE, EVERY_SECOND};

/// Of how many of the youngest trees clients speak.
const YOUNGEST: usize = 30;
const SCHEDULES: &[&str] = &["cron0", "cron1", "cron2"];
/// Deadlines of new promises, from now.
const TIMEOUTS: &[Millis] = &[
    -5,
    0,
    1,
    40,
    300,
    1000,
    3000,
    8000,
    30_000,
    120_000,
    Millis::MAX,
];
pub const GROUPS: &[&str] = &["g0", "g1"];

/// Asks one thing after the other until the weather clears.
pub async fn run(sim: Arc<Sim>, name: Id) {
    while !sim.is_calm() {
        sim.pause(0..120).await;
        let request = match sim.below(100) {
            0..70 => some_command(&sim, &name),
            _ => some_query(&sim),
        };
        let Some(request) = request else { continue };
        if sim.chance(0.05) {
            burst(&sim, &name);
        }
        // As clients do: once more, if there is no answer.
        for _ in 0..2 {
            match call(&sim, &name, request.clone()).await {
                Answer::Reply(reply) => {
                    if let Some(task) = granted(&reply) {
                        let run = Run::new(&sim, &name, &name);
                        tokio::spawn(async move { run.hold(task).await });
                    }
                    break;
                }
                Answer::Unavailable | Answer::Lost => sim.pause(1..500).await,
            }
        }
    }
}

/// Much at once: it shares commits.
fn burst(sim: &Arc<Sim>, name: &Id) {
    for _ in 0..sim.below(20) {
        if let Some(request) = some_command(sim, name) {
            let (sim, name) = (sim.clone(), name.clone());
            tokio::spawn(async move { call(&sim, &name, request).await });
        }
    }
}

fn some_command(sim: &Arc<Sim>, name: &Id) -> Option<Request> {
    let command = match sim.below(100) {
        0..34 => Command::PromiseCreate(birth(sim, new_id(sim))),
        34..42 => Command::TaskCreate(TaskCreate {
            pid: name.clone(),
            ttl: sim.plan.lease_ms,
            action: targeted_birth(sim, new_id(sim)),
        }),
        42..56 => Command::PromiseSettle(settlement(sim, some_promise(sim)?)),
        56..62 => {
            let (awaited, awaiter) = (some_promise(sim)?, some_promise(sim)?);
            if awaited == awaiter {
                return None;
            }
            Command::PromiseRegisterCallback { awaited, awaiter }
        }
        62..80 => Command::PromiseRegisterListener {
            awaited: some_promise(sim)?,
            address: listener(sim),
        },
        80..83 => Command::TaskHalt {
            id: task_in(sim, None)?.id,
        },
        83..89 => Command::TaskContinue {
            id: task_in(sim, Some(TaskState::Halted))?.id,
        },
        89..93 => {
            let TaskRef { id, version } = task_in(sim, Some(TaskState::Pending))?;
            Command::TaskAcquire(TaskAcquire {
                id,
                version,
                pid: name.clone(),
                ttl: sim.plan.lease_ms,
            })
        }
        93..95 => Command::TaskHeartbeat(TaskHeartbeat {
            pid: name.clone(),
            tasks: vec![task_in(sim, Some(TaskState::Acquired))?],
            within: None,
        }),
        95..99 => schedule(sim),
        _ => Command::ScheduleDelete {
            id: (*sim.one_of(SCHEDULES)).into(),
        },
    };
    Some(Request::Command(command))
}

fn some_query(sim: &Sim) -> Option<Request> {
    let limit = *sim.one_of(&[1, 3, 100]);
    Some(Request::Query(match sim.below(100) {
        0..45 => Query::PromiseGet {
            id: some_promise(sim)?,
        },
        45..75 => Query::TaskGet {
            id: some_promise(sim)?,
        },
        75..85 => Query::PromiseSearch(PromiseSearch {
            state: *sim.one_of(&[
                None,
                Some(PromiseState::Pending),
                Some(PromiseState::Resolved),
            ]),
            tags: Tags::default(),
            limit,
            cursor: some_promise(sim),
        }),
        85..95 => Query::TaskSearch(TaskSearch {
            state: *sim.one_of(&[None, Some(TaskState::Pending), Some(TaskState::Suspended)]),
            limit,
            cursor: some_promise(sim),
        }),
        _ => Query::ScheduleGet {
            id: (*sim.one_of(SCHEDULES)).into(),
        },
    }))
}

fn schedule(sim: &Sim) -> Command {
    let mut tags = BTreeMap::new();
    if sim.chance(0.5) {
        tags.insert(tag::TARGET.to_owned(), target(sim).to_string());
    }
    Command::ScheduleCreate(ScheduleCreate {
        id: (*sim.one_of(SCHEDULES)).into(),
        cron: (*sim.one_of(&[EVERY_SECOND, EVERY_FIVE, EVERY_FIVE])).into(),
        promise_id: (*sim.one_of(&["{{.id}}.{{.timestamp}}", "{{.id}}.fixed"])).into(),
        promise_timeout: *sim.one_of(&[0, 500, 5000, 60_000]),
        promise_param: Value::empty(),
        promise_tags: Tags::new(tags),
    })
}

fn new_id(sim: &Sim) -> Id {
    match some_promise(sim).filter(|_| sim.chance(0.1)) {
        Some(id) => id,
        None => format!("p{:04}", sim.event()).into(),
    }
}

/// A promise of the youngest ones, or one that was never there.
pub fn some_promise(sim: &Sim) -> Option<Id> {
    if sim.chance(0.02) {
        return Some("nobody".into());
    }
    let history = sim.history();
    let is_open_only = sim.chance(0.7);
    let is_open = |id: &&Id| {
        let object = history.object(id);
        object.is_some_and(|object| object.promise.state == PromiseState::Pending)
    };
    let youngest = history.youngest().filter(|id| !is_open_only || is_open(id));
    let youngest: Vec<&Id> = youngest.take(YOUNGEST).collect();
    (!youngest.is_empty()).then(|| (*sim.one_of(&youngest)).clone())
}

/// A young task, in a state.
fn task_in(sim: &Sim, state: Option<TaskState>) -> Option<TaskRef> {
    let history = sim.history();
    let objects = history
        .youngest()
        .take(2 * YOUNGEST)
        .filter_map(|id| history.object(id));
    let of = |object: &Arc<Object>| {
        let task = object.task.as_ref()?;
        let is_wanted = state.is_none_or(|state| state == task.state);
        is_wanted.then(|| TaskRef {
            id: object.promise.id.clone(),
            version: task.version,
        })
    };
    let found: Vec<TaskRef> = objects.filter_map(of).collect();
    let mut task = (!found.is_empty()).then(|| sim.one_of(&found).clone())?;
    if sim.chance(0.05) {
        task.version += *sim.one_of(&[-1, 1]);
    }
    Some(task)
}

/// A promise of any kind.
pub fn birth(sim: &Sim, id: Id) -> PromiseCreate {
    match sim.chance(0.6) {
        true => targeted_birth(sim, id),
        false => born(sim, id, None),
    }
}

fn targeted_birth(sim: &Sim, id: Id) -> PromiseCreate {
    let target = target(sim);
    born(sim, id, Some(&target))
}

fn born(sim: &Sim, id: Id, target: Option<&Id>) -> PromiseCreate {
    let now = sim.now();
    let timeout_at = now.saturating_add(*sim.one_of(TIMEOUTS));
    let mut tags = BTreeMap::new();
    let mut add = |name: &str, value: &str| {
        tags.insert(name.to_owned(), value.to_owned());
    };
    match target {
        Some(target) => {
            add(tag::TARGET, target);
            let delay = now + *sim.one_of(&[-10, 50, 400, 2000]);
            if sim.chance(0.15) && delay < timeout_at {
                add(tag::DELAY, &delay.to_string());
            }
        }
        None if sim.chance(0.3) => add(tag::TIMER, "true"),
        None if sim.chance(0.3) => add(tag::EXTERNAL, "true"),
        None => {}
    }
    if sim.chance(0.4) {
        let root = id.split('.').next().unwrap_or(&id);
        add(tag::BRANCH, root);
    }
    PromiseCreate {
        param: payload(sim),
        id,
        timeout_at,
        tags: Tags::new(tags),
    }
}

pub fn settlement(sim: &Sim, id: Id) -> PromiseSettle {
    PromiseSettle {
        id,
        state: *sim.one_of(&[
            Verdict::Resolved,
            Verdict::Resolved,
            Verdict::Rejected,
            Verdict::RejectedCanceled,
        ]),
        value: payload(sim),
    }
}

/// Tells one write from another.
fn payload(sim: &Sim) -> Value {
    Value::new(&ValueParts {
        headers: None,
        data: Some(sim.event().to_string()),
    })
}

fn target(sim: &Sim) -> Id {
    match sim.below(20) {
        // Nobody runs scripts here.
        0 => "bash:///x".into(),
        _ => listener(sim),
    }
}

/// An address that can listen.
fn listener(sim: &Sim) -> Id {
    let group = *sim.one_of(GROUPS);
    let poller = sim.below(sim.plan.pollers);
    match sim.below(40) {
        0..18 => format!("poll://any@{group}"),
        18..23 => format!("poll://any@{group}/{group}-{poller}"),
        23..28 => format!("poll://uni@{group}/{group}-{poller}"),
        28..36 => format!("http://push-{}/", sim.below(sim.plan.pushed)),
        36 => "poll://any@nobody".to_owned(),
        37 => "http://gone/".to_owned(),
        38 => "gcps://project/topic".to_owned(),
        _ => format!("poll://uni@{group}/nobody"),
    }
    .into()
}
