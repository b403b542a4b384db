//! From a symbolic action to what is really asked, given the world as it is.

use std::collections::BTreeMap;

use resonate::machine::invariant::Key;
use resonate::machine::object::{Object, Task};
use resonate::machine::{Input, Step};
use resonate::protocol::operation::{
    Command, FenceAction, PromiseCreate, PromiseSearch, PromiseSettle, Query, ScheduleCreate,
    ScheduleSearch, TaskAcquire, TaskCreate, TaskFence, TaskFulfill, TaskHeartbeat, TaskRef,
    TaskSearch, TaskSuspend,
};
use resonate::protocol::record::{
    Id, Millis, PromiseState, Tags, TaskState, Value, ValueParts, Verdict,
};

use super::action::{
    Action, BRANCHES, Birth, CRONS, Claim, DUES, Delay, Fate, IDS, LISTENERS, Move,
    OCCURRENCE_TIMEOUTS, PIDS, Pick, SCHEDULES, TARGETS, TEMPLATES, TTLS,
};
use super::world::{Event, World};

impl World {
    /// What the action comes to; none where it would break a rule that requests are checked for
    /// before they get to the machine, or where there is nothing to act on. Ticks are not events.
    pub fn resolve(&self, action: &Action) -> Option<Event> {
        Some(match action {
            Action::Clock(by) => Event::Clock(self.moved(*by)),
            Action::Tick(_) => return None,
            Action::Message(fate, n) => self.message(*fate, *n)?,
            Action::Stray(fate, id, n) => {
                step(unblock(*fate, self.pick(*id), LISTENERS[*n].into()))
            }
            Action::StepPromise(id) => step(Step::Promise(self.pick(*id))),
            Action::StepSchedule(n) => step(Step::Schedule(SCHEDULES[*n].into())),
            Action::PromiseGet(_)
            | Action::TaskGet(_)
            | Action::ScheduleGet(_)
            | Action::PromiseSearch { .. }
            | Action::TaskSearch { .. }
            | Action::ScheduleSearch { .. } => Event::Query(self.query(action)?),
            _ => Event::Input(Input::Request(self.command(action)?)),
        })
    }

    fn command(&self, action: &Action) -> Option<Command> {
        Some(match action {
            Action::Create(birth) => Command::PromiseCreate(self.birth(birth)),
            Action::Settle(id, verdict, has_value) => {
                Command::PromiseSettle(settle(self.pick(*id), *verdict, *has_value))
            }
            Action::RegisterCallback(awaited, awaiter) => {
                let (awaited, awaiter) = (self.pick(*awaited), self.pick(*awaiter));
                if awaited == awaiter {
                    return None;
                }
                Command::PromiseRegisterCallback { awaited, awaiter }
            }
            Action::RegisterListener(id, n) => Command::PromiseRegisterListener {
                awaited: self.pick(*id),
                address: LISTENERS[*n].into(),
            },
            Action::ScheduleCreate {
                id,
                cron,
                template,
                timeout,
                delay,
            } => {
                let target = TARGETS[id % TARGETS.len()];
                let mut tags = BTreeMap::from([("resonate:target".to_owned(), target.to_owned())]);
                if let Some(delay) = delay {
                    tags.insert("resonate:delay".to_owned(), delay.to_string());
                }
                Command::ScheduleCreate(ScheduleCreate {
                    id: SCHEDULES[*id].into(),
                    cron: CRONS[*cron].into(),
                    promise_id: TEMPLATES[*template].into(),
                    promise_timeout: OCCURRENCE_TIMEOUTS[*timeout],
                    promise_param: payload("scheduled"),
                    promise_tags: Tags::new(tags),
                })
            }
            Action::ScheduleDelete(n) => Command::ScheduleDelete {
                id: SCHEDULES[*n].into(),
            },
            _ => return self.task_command(action),
        })
    }

    fn task_command(&self, action: &Action) -> Option<Command> {
        Some(match action {
            Action::TaskCreate(birth, pid, ttl) => {
                let birth = Birth {
                    target: birth.target.or(Some(0)),
                    is_timer: false,
                    delay: None,
                    ..birth.clone()
                };
                Command::TaskCreate(TaskCreate {
                    pid: PIDS[*pid].into(),
                    ttl: TTLS[*ttl],
                    action: self.birth(&birth),
                })
            }
            Action::Acquire(claim, pid, ttl) => {
                let TaskRef { id, version } = self.claim(*claim);
                Command::TaskAcquire(TaskAcquire {
                    id,
                    version,
                    pid: PIDS[*pid].into(),
                    ttl: TTLS[*ttl],
                })
            }
            Action::FenceCreate(claim, birth) => {
                let (task, create) = (self.claim(*claim), self.birth(birth));
                if task.id == create.id {
                    return None;
                }
                Command::TaskFence(TaskFence {
                    task,
                    corr_id: None,
                    action: FenceAction::Create(create),
                })
            }
            Action::FenceSettle(claim, id, verdict, has_value) => {
                let (task, id) = (self.claim(*claim), self.pick(*id));
                // R7: refused before it gets to the machine.
                if task.id == id {
                    return None;
                }
                Command::TaskFence(TaskFence {
                    task,
                    corr_id: Some("inner".into()),
                    action: FenceAction::Settle(settle(id, *verdict, *has_value)),
                })
            }
            Action::Heartbeat(pid, claims) => Command::TaskHeartbeat(TaskHeartbeat {
                pid: PIDS[*pid].into(),
                tasks: claims.iter().map(|claim| self.claim(*claim)).collect(),
                within: None,
            }),
            Action::HeartbeatWithin(pid, prefix) => Command::TaskHeartbeat(TaskHeartbeat {
                pid: PIDS[*pid].into(),
                tasks: Vec::new(),
                within: Some(IDS[*prefix].into()),
            }),
            Action::HeartbeatOfHolder(claim) => {
                let task = self.claim(*claim);
                let held = self.objects.get(&task.id).and_then(|o| o.task.as_ref());
                Command::TaskHeartbeat(TaskHeartbeat {
                    pid: held?.pid.clone()?,
                    tasks: vec![task],
                    within: None,
                })
            }
            Action::Suspend(claim, awaited) => {
                let task = self.claim(*claim);
                let awaited: Vec<Id> = awaited.iter().map(|id| self.pick(*id)).collect();
                if awaited.contains(&task.id) {
                    return None;
                }
                Command::TaskSuspend(TaskSuspend { task, awaited })
            }
            Action::Fulfill(claim, verdict, has_value) => {
                let task = self.claim(*claim);
                let action = settle(task.id.clone(), *verdict, *has_value);
                Command::TaskFulfill(TaskFulfill { task, action })
            }
            Action::Release(claim) => Command::TaskRelease(self.claim(*claim)),
            Action::Halt(id) => Command::TaskHalt { id: self.pick(*id) },
            Action::Continue(id) => Command::TaskContinue { id: self.pick(*id) },
            _ => return None,
        })
    }

    fn query(&self, action: &Action) -> Option<Query> {
        let cursor = |pick: &Option<Pick>| pick.map(|pick| self.pick(pick));
        Some(match action {
            Action::PromiseGet(id) => Query::PromiseGet { id: self.pick(*id) },
            Action::TaskGet(id) => Query::TaskGet { id: self.pick(*id) },
            Action::ScheduleGet(n) => Query::ScheduleGet {
                id: SCHEDULES[*n].into(),
            },
            Action::PromiseSearch {
                state,
                branch,
                limit,
                cursor: after,
            } => Query::PromiseSearch(PromiseSearch {
                state: *state,
                tags: one_tag("resonate:branch", branch.map(|n| BRANCHES[n])),
                limit: *limit,
                cursor: cursor(after),
            }),
            Action::TaskSearch {
                state,
                limit,
                cursor: after,
            } => Query::TaskSearch(TaskSearch {
                state: *state,
                limit: *limit,
                cursor: cursor(after),
            }),
            Action::ScheduleSearch {
                target,
                limit,
                cursor,
            } => Query::ScheduleSearch(ScheduleSearch {
                tags: one_tag("resonate:target", target.map(|n| TARGETS[n])),
                limit: *limit,
                cursor: cursor.then(|| SCHEDULES[0].into()),
            }),
            _ => return None,
        })
    }

    fn pick(&self, pick: Pick) -> Id {
        let nth = |n: usize, ids: &[&Id]| (!ids.is_empty()).then(|| ids[n % ids.len()].clone());
        let those = |wanted: &dyn Fn(&Object) -> bool| -> Vec<&Id> {
            let objects = self.objects.iter().filter(|(_, object)| wanted(object));
            objects.map(|(id, _)| id).collect()
        };
        let listed = |n: usize| IDS[n % IDS.len()].into();
        match pick {
            Pick::Id(n) => listed(n),
            Pick::Fresh => {
                let lineage = ["a.", "a:", "b.1:", "d"][self.objects.len() % 4];
                format!("{lineage}{}", self.objects.len()).into()
            }
            Pick::Any(n) => nth(n, &those(&|_| true)).unwrap_or_else(|| listed(n)),
            Pick::Open(n) => {
                let open = those(&|object| object.promise.state == PromiseState::Pending);
                nth(n, &open).unwrap_or_else(|| listed(n))
            }
            Pick::Awaited(n) => {
                let awaited = those(&|object| !object.callbacks.is_empty());
                nth(n, &awaited).unwrap_or_else(|| self.pick(Pick::Open(n)))
            }
            Pick::Resumed(n) => {
                let is_resumed =
                    |task: &Task| task.state == TaskState::Acquired && !task.resumes.is_empty();
                let resumed = those(&|object| object.task.as_ref().is_some_and(is_resumed));
                nth(n, &resumed).unwrap_or_else(|| self.pick(Pick::In(TaskState::Acquired, n)))
            }
            Pick::In(state, n) => {
                let is_in =
                    |object: &Object| object.task.as_ref().is_some_and(|t| t.state == state);
                let tasks = those(&|object| object.task.is_some());
                nth(n, &those(&is_in))
                    .or_else(|| nth(n, &tasks))
                    .unwrap_or_else(|| listed(n))
            }
        }
    }

    fn claim(&self, claim: Claim) -> TaskRef {
        let id = self.pick(claim.id);
        let task = self.objects.get(&id).and_then(|o| o.task.as_ref());
        let version = task.map_or(0, |task| task.version) + claim.off;
        TaskRef {
            id,
            version: version.max(0),
        }
    }

    fn birth(&self, birth: &Birth) -> PromiseCreate {
        let timeout_at = self.now.saturating_add(DUES[birth.due]);
        let mut tags = BTreeMap::new();
        let mut tag = |name: &str, value: &str| {
            tags.insert(format!("resonate:{name}"), value.to_owned());
        };
        if birth.is_timer {
            tag("timer", "true");
        }
        if birth.is_external {
            tag("external", "true");
        }
        if let Some(branch) = birth.branch {
            tag("branch", BRANCHES[branch]);
        }
        if let Some(target) = birth.target {
            tag("target", TARGETS[target]);
            let delay = birth.delay.map(|delay| match delay {
                Delay::FromNow(wait) => self.now.saturating_add(wait),
                Delay::JustBeforeTimeout => timeout_at - 1,
            });
            if let Some(delay) = delay.filter(|delay| *delay < timeout_at) {
                tag("delay", &delay.to_string());
            }
        }
        PromiseCreate {
            id: self.pick(birth.id),
            timeout_at,
            param: payload("param"),
            tags: Tags::new(tags),
        }
    }

    fn message(&self, fate: Fate, n: usize) -> Option<Event> {
        let key = self.outbox.keys().nth(n % self.outbox.len().max(1))?;
        match (key, fate) {
            // Claimed for delivery: it is gone whatever comes of it.
            (Key::Execute(id), _) => Some(Event::Take(id.clone())),
            (Key::Unblock(promise, address), fate) => {
                Some(step(unblock(fate, promise.clone(), address.clone())))
            }
        }
    }

    fn moved(&self, by: Move) -> Millis {
        match by {
            Move::By(wait) => self.now.saturating_add(wait),
            Move::ToDeadline(n, off) => {
                let next = self.next_deadlines();
                match next.get(n % next.len().max(1)) {
                    Some(at) => at.saturating_add(off).max(self.now),
                    None => self.now,
                }
            }
        }
    }
}

fn step(step: Step) -> Event {
    Event::Input(Input::Step(step))
}

fn unblock(fate: Fate, promise: Id, address: Id) -> Step {
    match fate {
        Fate::Delivered => Step::UnblockDone { promise, address },
        Fate::Failed => Step::UnblockFailed { promise, address },
        Fate::Offered => Step::UnblockDue { promise, address },
    }
}

fn settle(id: Id, state: Verdict, has_value: bool) -> PromiseSettle {
    PromiseSettle {
        id,
        state,
        value: match has_value {
            true => payload("value"),
            false => Value::empty(),
        },
    }
}

fn payload(data: &str) -> Value {
    Value::new(&ValueParts {
        headers: Some(BTreeMap::new()),
        data: Some(data.to_owned()),
    })
}

fn one_tag(name: &str, value: Option<&str>) -> Tags {
    let pair = value.map(|value| (name.to_owned(), value.to_owned()));
    Tags::new(pair.into_iter().collect())
}
