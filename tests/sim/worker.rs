//! A worker: listens, executes tasks, heartbeats, suspends, and goes wrong in all the ways that workers do.

use std::sync::Arc;
use std::time::Duration;

use resonate::protocol::operation::{
    Command, FenceAction, Query, TaskAcquire, TaskFence, TaskFulfill, TaskHeartbeat, TaskRef,
    TaskSuspend,
};
use resonate::protocol::record::{Id, TaskState};
use resonate::protocol::reply::Reply;
use tokio::sync::mpsc;
use tokio::task::JoinSet;
use tokio::time::sleep;

use super::client;
use super::network::{self, Answer, Message, call};
use super::node::Request;
use super::sim::Sim;
use crate::harness::server::lock;

/// How often a request without an answer is repeated.
const ATTEMPTS: usize = 4;

/// A worker and where it can be reached.
#[derive(Clone)]
pub struct Worker {
    pub name: Id,
    /// None: messages are pushed to it.
    pub group: Option<Id>,
}

/// One process after the other.
pub async fn run(sim: Arc<Sim>, worker: Worker) {
    for incarnation in 0.. {
        let pid: Id = format!("{}#{incarnation}", worker.name).into();
        let (mailbox, mut inbox) = mpsc::unbounded_channel();
        lock(&sim.mailboxes).insert(worker.name.clone(), mailbox);
        let mut tasks = JoinSet::new();
        if let Some(group) = &worker.group {
            tasks.spawn(network::listen(
                sim.clone(),
                group.clone(),
                worker.name.clone(),
            ));
        }
        let is_calm = sim.is_calm();
        let lifetime = match is_calm {
            true => Duration::from_secs(100_000),
            false => Duration::from_millis(sim.between(500..30_000)),
        };
        let end = sleep(lifetime);
        tokio::pin!(end);
        loop {
            let mail = tokio::select! {
                biased;
                () = &mut end => break,
                () = sim.until_calm(), if !is_calm => break,
                mail = inbox.recv() => mail,
            };
            let Some(body) = mail else { break };
            sim.step();
            sim.log.line(&worker.name, || format!("gets {body}"));
            if let Some(Message::Execute { id, version }) = network::read(&sim, &body) {
                let is_careless = sim.chance(sim.weather().is_careless / 2.0);
                if !is_careless {
                    let run = Run::new(&sim, &worker.name, &pid);
                    tasks.spawn(async move { run.execute(id, version).await });
                }
            }
        }
        sim.log.line(&worker.name, || "dies".to_owned());
        lock(&sim.mailboxes).remove(&worker.name);
        drop(tasks);
        if !sim.is_calm() {
            sim.pause(1..3000).await;
        }
    }
}

/// Whoever holds a task.
pub struct Run {
    sim: Arc<Sim>,
    name: Id,
    pid: Id,
}

/// What came of a request under a lease.
enum Step {
    Goes,
    /// It is parked, fulfilled, or somebody else's.
    Ends,
}

impl Run {
    pub fn new(sim: &Arc<Sim>, name: &Id, pid: &Id) -> Run {
        Run {
            sim: sim.clone(),
            name: name.clone(),
            pid: pid.clone(),
        }
    }

    async fn ask(&self, command: Command) -> Option<Reply> {
        for _ in 0..ATTEMPTS {
            match call(&self.sim, &self.name, Request::Command(command.clone())).await {
                Answer::Reply(reply) => return Some(reply),
                Answer::Unavailable | Answer::Lost => self.sim.pause(1..200).await,
            }
        }
        None
    }

    async fn execute(&self, id: Id, version: i64) {
        let acquire = Command::TaskAcquire(TaskAcquire {
            id: id.clone(),
            version,
            pid: self.pid.clone(),
            ttl: self.sim.plan.lease_ms,
        });
        if let Some(Reply::Acquired { task, .. }) = self.ask(acquire).await {
            let version = task.version;
            self.hold(TaskRef { id, version }).await;
        }
    }

    /// Does what workers do, at an acquired task.
    pub async fn hold(&self, task: TaskRef) {
        let sim = &self.sim;
        let is_careless = sim.chance(sim.weather().is_careless);
        let mut children = Vec::new();
        let working = async {
            if !sim.is_calm() {
                for _ in 0..sim.below(6) {
                    sim.pause(0..150).await;
                    if let Step::Ends = self.work(&task, &mut children).await {
                        return;
                    }
                }
            }
            self.fulfil(&task).await;
        };
        tokio::select! {
            biased;
            () = working => {}
            () = self.heartbeat(&task), if !is_careless => {}
        }
    }

    async fn heartbeat(&self, task: &TaskRef) {
        loop {
            let ttl = u64::try_from(self.sim.plan.lease_ms).unwrap_or(1);
            sleep(Duration::from_millis(ttl / 3)).await;
            // Without a list it names all that the process holds; what that is may change meanwhile, where
            // several nodes decide.
            let is_anonymous = !self.sim.plan.is_shared && self.sim.chance(0.3);
            let tasks = match is_anonymous {
                true => Vec::new(),
                false => vec![task.clone()],
            };
            let pid = self.pid.clone();
            let beat = Request::Command(Command::TaskHeartbeat(TaskHeartbeat {
                pid,
                tasks,
                within: None,
            }));
            call(&self.sim, &self.name, beat).await;
        }
    }

    async fn work(&self, task: &TaskRef, children: &mut Vec<Id>) -> Step {
        let sim = &self.sim;
        let reply = match sim.below(100) {
            0..30 => {
                let child: Id = format!("{}.{}", task.id, sim.below(4)).into();
                children.push(child.clone());
                self.fence(task, FenceAction::Create(client::birth(sim, child)))
                    .await
            }
            30..40 => match children.last().cloned() {
                Some(child) => {
                    let settle = client::settlement(sim, child);
                    self.fence(task, FenceAction::Settle(settle)).await
                }
                None => return Step::Goes,
            },
            40..50 => {
                let awaited = self.awaited(task, children);
                let awaiter = task.id.clone();
                match awaited {
                    Some(awaited) => {
                        self.ask(Command::PromiseRegisterCallback { awaited, awaiter })
                            .await
                    }
                    None => return Step::Goes,
                }
            }
            50..75 => {
                let count = sim.below(3) + 1;
                let awaited = (0..count)
                    .filter_map(|_| self.awaited(task, children))
                    .collect();
                return self.suspend(task, awaited).await;
            }
            75..80 => {
                self.ask(Command::TaskRelease(task.clone())).await;
                return Step::Ends;
            }
            80..84 => {
                // Longer than the lease, and then on as if nothing had happened.
                let ttl = u64::try_from(sim.plan.lease_ms).unwrap_or(1);
                sim.pause(ttl / 2..ttl * 2).await;
                return Step::Goes;
            }
            84..88 => {
                let id = task.id.clone();
                call(sim, &self.name, Request::Query(Query::TaskGet { id })).await;
                return Step::Goes;
            }
            // Forgotten: the lease runs out.
            88..91 => return Step::Ends,
            _ => return Step::Goes,
        };
        match reply {
            Some(Reply::Refused(_)) | None => Step::Ends,
            Some(_) => Step::Goes,
        }
    }

    fn awaited(&self, task: &TaskRef, children: &[Id]) -> Option<Id> {
        let awaited = match children {
            [] => client::some_promise(&self.sim),
            children if self.sim.chance(0.8) => Some(self.sim.one_of(children).clone()),
            _ => client::some_promise(&self.sim),
        };
        awaited.filter(|awaited| *awaited != task.id)
    }

    async fn fence(&self, task: &TaskRef, action: FenceAction) -> Option<Reply> {
        let fence = TaskFence {
            task: task.clone(),
            corr_id: None,
            action,
        };
        self.ask(Command::TaskFence(fence)).await
    }

    async fn suspend(&self, task: &TaskRef, awaited: Vec<Id>) -> Step {
        if awaited.is_empty() {
            return Step::Goes;
        }
        let suspend = TaskSuspend {
            task: task.clone(),
            awaited,
        };
        match self.ask(Command::TaskSuspend(suspend)).await {
            Some(Reply::Redirect { .. }) => Step::Goes,
            _ => Step::Ends,
        }
    }

    async fn fulfil(&self, task: &TaskRef) {
        let action = client::settlement(&self.sim, task.id.clone());
        let fulfil = TaskFulfill {
            task: task.clone(),
            action,
        };
        self.ask(Command::TaskFulfill(fulfil)).await;
    }
}

/// Whether a reply gives a lease.
pub fn granted(reply: &Reply) -> Option<TaskRef> {
    match reply {
        Reply::Acquired { task, .. } if task.state == TaskState::Acquired => Some(TaskRef {
            id: task.id.clone(),
            version: task.version,
        }),
        _ => None,
    }
}
