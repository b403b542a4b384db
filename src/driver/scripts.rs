//! The worker inside the server: runs the scripts of tasks whose target is `bash://…`
//! (`transports.md` §6).
//!
//! ```text
//!   order ─> acquire ─> run, heartbeat ─> fulfil
//!               │            │               └ refused: nothing more to do
//!               │            └ the lease is gone, the promise settled, the server stops: the script ends
//!               └ refused: somebody else has it
//! ```
//!
//! It asks the engine for what any worker asks for, and owes what any worker owes: it holds a lease, by
//! version. What it leaves undone, because the script was killed or the server died, is done again when
//! the lease runs out, here or on another server.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use serde::Deserialize;
use tokio::sync::mpsc::UnboundedReceiver;
use tokio::sync::{Notify, watch};
use tokio::time::Instant;

use crate::engine::{Context, Engine, Error};
use crate::protocol::address::Bash;
use crate::protocol::operation::{
    Command, Operation, PromiseSettle, Query, TaskAcquire, TaskFulfill, TaskHeartbeat, TaskRef,
};
use crate::protocol::record::{Id, Millis, Promise, TaskState, Value, ValueParts, Verdict};
use crate::protocol::reply::Reply;
use crate::protocol::trace::Trace;
use crate::store::Changes;
use crate::transport::Outcome;
use crate::transport::bash_exec::process::{self, Ended, OUTPUT_BYTES_MAX, Output};
use crate::transport::bash_exec::script::{self, Request, Script};
use crate::transport::bash_exec::{BashExec, Order};

/// How long a script has between SIGTERM and SIGKILL.
const STOP_GRACE: Duration = Duration::from_secs(5);
/// How long the removal of a container may take.
const REMOVAL_TIME_MAX: Duration = Duration::from_secs(10);
/// Pause after the storage failed us.
const FAILURE_PAUSE: Duration = Duration::from_millis(250);
/// Heartbeats are not closer together than this, if the lease allows it.
const HEARTBEAT_INTERVAL_MIN: Duration = Duration::from_secs(1);

/// How scripts are run.
#[derive(Clone, Debug)]
pub struct Settings {
    /// `tasks.lease_timeout`.
    pub lease_ms: Millis,
    /// Where they are, and what they know.
    pub script: script::Settings,
}

/// See the module documentation.
pub struct Scripts {
    settings: Settings,
    transport: BashExec,
    orders: tokio::sync::Mutex<UnboundedReceiver<Order>>,
    /// What the scripts of this server hold, or are about to, by task.
    claims: Mutex<HashMap<Id, Vec<Arc<Claim>>>>,
    /// Every running script holds a receiver; a value is how long it has to end.
    stopping: watch::Sender<Option<Duration>>,
}

/// A task at the version at which a script holds it.
#[derive(Debug)]
struct Claim {
    id: Id,
    version: i64,
    pid: Id,
    trace: Option<Arc<Trace>>,
    lost: Notify,
}

impl Scripts {
    /// A worker that is not running yet, for the orders of a transport.
    pub fn new(
        settings: Settings,
        transport: BashExec,
        orders: UnboundedReceiver<Order>,
    ) -> Arc<Scripts> {
        Arc::new(Scripts {
            settings,
            transport,
            orders: tokio::sync::Mutex::new(orders),
            claims: Mutex::default(),
            stopping: watch::Sender::new(None),
        })
    }

    /// Takes orders until the task is dropped. Scripts that run then go on.
    pub async fn run(self: &Arc<Self>, engine: &Arc<Engine>) {
        let mut orders = self.orders.lock().await;
        while let Some(order) = orders.recv().await {
            // Subscribed here, so that a close that follows waits for it.
            let (worker, stopping) = (Arc::clone(self), self.stopping.subscribe());
            let engine = Arc::clone(engine);
            tokio::spawn(async move { worker.work(&engine, order, stopping).await });
        }
    }

    /// Ends all scripts: they have the time given between SIGTERM and SIGKILL. Their tasks are done again
    /// when their leases run out.
    pub async fn close(&self, within: Duration) {
        self.transport.close().await;
        self.stopping.send_replace(Some(within.min(STOP_GRACE)));
        let patience = within.min(STOP_GRACE) + REMOVAL_TIME_MAX;
        if tokio::time::timeout(patience, self.stopping.closed())
            .await
            .is_err()
        {
            tracing::warn!("scripts are still running");
        }
    }

    /// Takes note of tasks that a script of this server no longer holds.
    pub fn committed(&self, changes: &Changes) {
        let claims = self.lock();
        if claims.is_empty() {
            return;
        }
        for change in &changes.objects {
            let Some(claims) = claims.get(&change.after.promise.id) else {
                continue;
            };
            let task = change.after.task.as_ref();
            let is_held = |claim: &Claim| {
                task.is_some_and(|task| {
                    // An earlier version: it is about to be acquired.
                    task.version < claim.version
                        || claim.is_held(task.state, task.version, task.pid.as_ref())
                })
            };
            for claim in claims.iter().filter(|claim| !is_held(claim)) {
                claim.lost.notify_one();
            }
        }
    }

    /// Everything was deleted (`debug.reset`).
    pub fn reset(&self) {
        for claim in self.lock().values().flatten() {
            claim.lost.notify_one();
        }
    }

    async fn work(
        &self,
        engine: &Arc<Engine>,
        order: Order,
        mut stopping: watch::Receiver<Option<Duration>>,
    ) {
        let Order {
            bash,
            body,
            trace,
            receipt,
            slot: _slot,
        } = order;
        let Some((id, version)) = execute(&body) else {
            return receipt.report(Outcome::Failed);
        };
        receipt.report(Outcome::Delivered);
        let claim = self.claim(id, version.saturating_add(1), trace);
        let Some((promise, mut lease)) = self.acquire(engine, &claim).await else {
            return;
        };
        let stop = async {
            tokio::select! {
                biased;
                () = lease.lost() => STOP_GRACE,
                grace = told_to_stop(&mut stopping) => grace,
            }
        };
        let Some(action) = self.outcome(&bash, &claim, &promise, stop).await else {
            return;
        };
        tokio::select! {
            biased;
            () = fulfil(engine, &claim, action, &stopping) => {}
            () = lease.lost() => {}
        }
    }

    /// Makes known what a script is about to hold, until the claim is dropped.
    fn claim(&self, id: Id, version: i64, trace: Option<Arc<Trace>>) -> Registered<'_> {
        let claim = Arc::new(Claim {
            id: id.clone(),
            version,
            pid: format!("bash-{:032x}", fastrand::u128(..)).into(),
            trace,
            lost: Notify::new(),
        });
        let mut claims = self.lock();
        claims.entry(id).or_default().push(Arc::clone(&claim));
        drop(claims);
        Registered {
            scripts: self,
            claim,
        }
    }

    /// The promise, and the lease of its task; none if the task is not to be had.
    async fn acquire(&self, engine: &Arc<Engine>, claim: &Arc<Claim>) -> Option<(Promise, Lease)> {
        let length_ms = self.settings.lease_ms;
        let acquire = Command::TaskAcquire(TaskAcquire {
            id: claim.id.clone(),
            version: claim.version - 1,
            pid: claim.pid.clone(),
            ttl: length_ms,
        });
        let length = Duration::from_millis(u64::try_from(length_ms).unwrap_or(1));
        let lease = Lease::starting_now(engine, claim, length);
        match command(engine, claim, acquire, 0).await {
            Ok(Reply::Acquired { promise, .. }) => Some((promise, lease)),
            // It is offered again: at its retry, or, if it was acquired all the same, when the lease ends.
            Err(error) => {
                tracing::debug!(promise.id = %claim.id, %error, "a script was not started");
                None
            }
            Ok(_) => None,
        }
    }

    /// Runs the script, and says how its promise is to be settled; none if it is to be run again.
    async fn outcome(
        &self,
        bash: &Bash,
        claim: &Claim,
        promise: &Promise,
        stop: impl Future<Output = Duration>,
    ) -> Option<PromiseSettle> {
        let settle = |state, text| {
            Some(PromiseSettle {
                id: promise.id.clone(),
                state,
                value: Value::new(&ValueParts {
                    headers: None,
                    data: Some(text),
                }),
            })
        };
        let script = match self.prepare(bash, claim, promise).await? {
            Ok(script) => script,
            Err(reason) => return settle(Verdict::Rejected, reason),
        };
        let id = &promise.id;
        let ended = match process::run(script.command(), stop).await {
            Ok(ended) => ended,
            Err(error) => return settle(Verdict::Rejected, script.not_started(&error)),
        };
        match ended {
            Ended::Exited { code, .. } if script.is_killed(code) => {
                tracing::warn!(promise.id = %id, "a script was killed; it runs again after its lease");
                remove(&script).await;
                None
            }
            Ended::Exited {
                code,
                stdout,
                stderr,
            } => {
                note_cut(id, "stdout", &stdout);
                note_cut(id, "stderr", &stderr);
                let code = code.unwrap_or_default();
                match (code, stderr.text()) {
                    (0, _) => settle(Verdict::Resolved, stdout.text()),
                    (code, text) if text.is_empty() => {
                        settle(Verdict::Rejected, format!("exit code {code}"))
                    }
                    (_, text) => settle(Verdict::Rejected, text),
                }
            }
            Ended::Stopped => {
                tracing::info!(promise.id = %id, "a script was stopped");
                remove(&script).await;
                None
            }
        }
    }

    /// None when the server comes to its end in between.
    async fn prepare(
        &self,
        bash: &Bash,
        claim: &Claim,
        promise: &Promise,
    ) -> Option<Result<Script, String>> {
        let (settings, bash, promise) =
            (self.settings.script.clone(), bash.clone(), promise.clone());
        let trace = claim.trace.clone();
        let preparing = tokio::task::spawn_blocking(move || {
            let parts = promise.param.parts().unwrap_or_default();
            let mut variables = vec![
                ("RESONATE_PROMISE_ID", promise.id.to_string()),
                (
                    "RESONATE_PROMISE_CREATED_AT",
                    promise.created_at.to_string(),
                ),
                (
                    "RESONATE_PROMISE_TIMEOUT_AT",
                    promise.timeout_at.to_string(),
                ),
            ];
            if let Some(trace) = &trace {
                variables.push(("TRACEPARENT", trace.parent()));
                let state = trace.state().map(str::to_owned);
                variables.extend(state.map(|state| ("TRACESTATE", state)));
            }
            let request = Request {
                bash: &bash,
                data: parts.data.as_deref(),
                variables: &variables,
            };
            Script::prepare(&settings, &request)
        });
        preparing.await.ok()
    }

    fn lock(&self) -> MutexGuard<'_, HashMap<Id, Vec<Arc<Claim>>>> {
        self.claims.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Claim {
    fn is_held(&self, state: TaskState, version: i64, pid: Option<&Id>) -> bool {
        state == TaskState::Acquired && version == self.version && pid == Some(&self.pid)
    }

    fn task(&self) -> TaskRef {
        TaskRef {
            id: self.id.clone(),
            version: self.version,
        }
    }
}

/// A claim that commits are held against, until this is dropped.
struct Registered<'a> {
    scripts: &'a Scripts,
    claim: Arc<Claim>,
}

impl std::ops::Deref for Registered<'_> {
    type Target = Arc<Claim>;

    fn deref(&self) -> &Arc<Claim> {
        &self.claim
    }
}

impl Drop for Registered<'_> {
    fn drop(&mut self) {
        let mut claims = self.scripts.lock();
        if let Some(of_task) = claims.get_mut(&self.claim.id) {
            of_task.retain(|claim| !Arc::ptr_eq(claim, &self.claim));
            if of_task.is_empty() {
                claims.remove(&self.claim.id);
            }
        }
    }
}

/// Keeps a lease from running out.
struct Lease {
    engine: Arc<Engine>,
    claim: Arc<Claim>,
    length: Duration,
    /// When the lease was known to be ours: it lasts from then on.
    held_at: Instant,
    renew_at: Instant,
}

impl Lease {
    fn starting_now(engine: &Arc<Engine>, claim: &Arc<Claim>, length: Duration) -> Lease {
        let now = Instant::now();
        Lease {
            engine: Arc::clone(engine),
            claim: Arc::clone(claim),
            length,
            held_at: now,
            renew_at: now + heartbeat_interval(length),
        }
    }

    /// Heartbeats; returns once the lease is lost. May be dropped and called again.
    async fn lost(&mut self) {
        let claim = Arc::clone(&self.claim);
        tokio::select! {
            biased;
            () = claim.lost.notified() => {}
            () = self.keep() => {}
        }
    }

    async fn keep(&mut self) {
        loop {
            tokio::time::sleep_until(self.renew_at).await;
            let now = Instant::now();
            let ends_at = self.held_at + self.length;
            // Without an answer for so long, somebody else may have it.
            match tokio::time::timeout_at(ends_at, self.renew()).await {
                Ok(Ok(true)) => {
                    self.held_at = now;
                    self.renew_at = now + heartbeat_interval(self.length);
                }
                Ok(Ok(false)) | Err(_) => return,
                Ok(Err(error)) => {
                    tracing::debug!(%error, "the lease of a script was not renewed");
                    self.renew_at = (Instant::now() + FAILURE_PAUSE).min(ends_at);
                }
            }
        }
    }

    /// A heartbeat is answered the same whether it renews or not: so we look.
    async fn renew(&self) -> Result<bool, Error> {
        let heartbeat = Command::TaskHeartbeat(TaskHeartbeat {
            pid: self.claim.pid.clone(),
            tasks: vec![self.claim.task()],
            within: None,
        });
        command(&self.engine, &self.claim, heartbeat, 0).await?;
        let id = self.claim.id.clone();
        let get = Operation::Query(Query::TaskGet { id });
        Ok(match self.engine.execute(get, None, 0).await? {
            Reply::Task(task) => {
                let claim = &self.claim;
                claim.is_held(task.state, task.version, task.pid.as_ref())
            }
            _ => false,
        })
    }
}

/// A third of the lease; at least a second, but never more than half of it.
fn heartbeat_interval(lease: Duration) -> Duration {
    (lease / 3).max(HEARTBEAT_INTERVAL_MIN).min(lease / 2)
}

async fn command(
    engine: &Engine,
    claim: &Claim,
    command: Command,
    bytes: usize,
) -> Result<Reply, Error> {
    let context = Context {
        debug_time: None,
        bytes,
        trace: claim.trace.clone(),
    };
    let operation = Operation::Command(command);
    Ok(engine.execute_in(context, operation).await?.0)
}

/// Settles the promise under the lease, and does not mind if it is too late for that.
async fn fulfil(
    engine: &Engine,
    claim: &Claim,
    action: PromiseSettle,
    stopping: &watch::Receiver<Option<Duration>>,
) {
    let bytes = action.value.as_json().len();
    let operation = TaskFulfill {
        task: claim.task(),
        action,
    };
    loop {
        let fulfill = Command::TaskFulfill(operation.clone());
        match command(engine, claim, fulfill, bytes).await {
            Ok(_) => return,
            Err(Error::Unavailable(_)) if stopping.borrow().is_some() => return,
            // The work is done; better to wait with the result than to do it again.
            Err(Error::Unavailable(_)) => tokio::time::sleep(FAILURE_PAUSE).await,
            Err(error) => {
                tracing::error!(promise.id = %claim.id, %error, "the outcome of a script is not stored");
                return;
            }
        }
    }
}

async fn told_to_stop(stopping: &mut watch::Receiver<Option<Duration>>) -> Duration {
    let told = stopping.wait_for(Option::is_some).await;
    told.ok().and_then(|grace| *grace).unwrap_or_default()
}

/// Removes what ending the program left behind.
async fn remove(script: &Script) {
    let Some(remover) = script.remover() else {
        return;
    };
    let patience = async {
        tokio::time::sleep(REMOVAL_TIME_MAX).await;
        Duration::ZERO
    };
    if let Err(error) = process::run(remover, patience).await {
        tracing::warn!(%error, "a container may still be running");
    }
}

fn note_cut(id: &Id, stream: &str, output: &Output) {
    let bytes = output.bytes_cut;
    if bytes > 0 {
        let kept = OUTPUT_BYTES_MAX;
        tracing::warn!(promise.id = %id, stream, bytes, kept, "the output of a script was cut");
    }
}

/// The task that an `execute` is about, and its version.
fn execute(body: &[u8]) -> Option<(Id, i64)> {
    #[derive(Deserialize)]
    struct Message {
        data: Data,
    }
    #[derive(Deserialize)]
    struct Data {
        task: Task,
    }
    #[derive(Deserialize)]
    struct Task {
        id: String,
        version: i64,
    }
    let Task { id, version } = serde_json::from_slice::<Message>(body).ok()?.data.task;
    Some((id.into(), version))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn heartbeats_come_three_times_a_lease_but_not_more_often_than_needed() {
        let interval = |ms| heartbeat_interval(Duration::from_millis(ms)).as_millis();
        assert_eq!(interval(15_000), 5_000);
        assert_eq!(interval(2_500), 1_000);
        assert_eq!(interval(1_000), 500);
        assert_eq!(interval(60), 30);
    }

    #[test]
    fn a_message_is_read_as_a_worker_reads_it() {
        let body = crate::protocol::message::execute("http://h", "zoë", 3, None);
        assert_eq!(execute(body.as_bytes()), Some(("zoë".into(), 3)));
        assert_eq!(execute(br#"{"kind":"unblock","head":{},"data":{}}"#), None);
    }
}
