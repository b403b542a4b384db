//! One server process: the engine, the drivers, the streams and the transports that `serve` puts together,
//! on a simulated storage and network.

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use resonate::cluster::Cluster;
use resonate::driver::Drivers;
use resonate::driver::outbox::{self, Observer, Outbox, Transports};
use resonate::driver::timers::{self, Timers};
use resonate::engine::clock::Clock;
use resonate::engine::{Engine, Error, Hooks, Options};
use resonate::machine;
use resonate::machine::workspace::Message;
use resonate::protocol::address::{Rules, push_queue};
use resonate::protocol::operation::{Command, Operation, Query};
use resonate::protocol::record::PromiseState;
use resonate::protocol::reply::Reply;
use resonate::store::{Change, Changes, Store};
use resonate::telemetry::tracer::Tracer;
use resonate::transport::Table;
use resonate::transport::poll::{self, Hub};
use tokio::task::JoinSet;
use tokio::time::Instant;

use super::database::{Database, Handle, Life};
use super::network::Push;
use super::sim::Sim;
use super::witness;
use crate::harness::server::lock;

/// How much later than `server.request_deadline` a request may be answered.
const LATE_MAX: Duration = Duration::from_millis(100);
const GRACE: Duration = Duration::from_secs(5);

/// A request, as it came.
#[derive(Clone, Debug)]
pub enum Request {
    Command(Command),
    Query(Query),
}

/// See the module documentation.
pub struct Node {
    pub name: String,
    pub place: usize,
    pub hub: Hub,
    pub clock: Arc<Clock>,
    incarnation: u64,
    sim: Arc<Sim>,
    life: Arc<Life>,
    engine: Arc<Engine>,
    drivers: Arc<Drivers>,
    cluster: Option<Arc<Cluster>>,
    handle: Arc<Handle>,
    tasks: Mutex<Option<JoinSet<()>>>,
    is_stopping: AtomicBool,
}

impl Node {
    /// Starts a process, in a place that none is in.
    pub fn start(database: &Arc<Database>, place: usize) -> Arc<Node> {
        let sim = &database.sim;
        let plan = &sim.plan;
        let incarnation = sim.event();
        let name = format!("node {place}");
        let life = Arc::new(Life::default());
        let skew = sim.rng().i64(-plan.skew_ms_max..=plan.skew_ms_max);
        let clock = Arc::new(Clock::of_database(database.now() + skew));
        let handle = Handle::new(database, place, incarnation, &name, &life, &clock);
        let bus = handle.bus();
        let cluster = bus.map(|bus| Cluster::new(bus, plan.repair_interval));
        let outbox = Outbox::new(outbox::Settings {
            server_url: "http://server".to_owned(),
            address_rules: Rules::default(),
            cluster: cluster.clone(),
            sweep_interval: plan.repair_interval,
            sweep_max: 100,
            unblock_ttl_ms: plan.unblock_ttl_ms,
            tracer: Tracer::default(),
        });
        let observer = Observer(Arc::downgrade(&outbox));
        let room = observer.room(push_queue());
        let hub = Hub::new(
            poll::Settings {
                enabled: true,
                max_connections: 100,
                buffer_size: plan.buffer_size,
                stream_lifetime: plan.stream_lifetime,
                keep_alive: plan.keep_alive,
            },
            Arc::new(observer),
        );
        let push = Push::new(sim, &life, plan.push_concurrency, room);
        let table = Table::default()
            .with("poll", hub.clone())
            .with("http", push);
        outbox.connect(Transports::new(table, hub.clone()));
        let timers = Timers::new(timers::Settings {
            sweep_interval: plan.sweep_interval,
        });
        let drivers = Drivers::new(timers, outbox, None, Arc::default(), clock.clone());
        let engine = Engine::start(Options {
            store: handle.clone(),
            clock: clock.clone(),
            config: machine::Config {
                retry_timeout_ms: plan.retry_timeout_ms,
            },
            hooks: Arc::new(Told {
                drivers: drivers.clone(),
                sim: sim.clone(),
                name: name.clone(),
            }),
            request_deadline: plan.request_deadline,
        });
        let tasks = Mutex::new(Some(drivers.start(&engine)));
        sim.log.line(&name, || "starts".to_owned());
        let node = Arc::new(Node {
            name,
            place,
            hub,
            clock,
            incarnation,
            sim: sim.clone(),
            life,
            engine,
            drivers,
            cluster,
            handle,
            tasks,
            is_stopping: AtomicBool::new(false),
        });
        lock(&sim.nodes)[place] = Some(node.clone());
        node
    }

    /// `kill -9`.
    pub fn crash(&self) {
        self.sim.log.line(&self.name, || "dies".to_owned());
        self.life.end();
        lock(&self.sim.nodes)[self.place] = None;
        drop(lock(&self.tasks).take());
        self.sim.history().forget_node(self.incarnation);
    }

    /// What `serve` does after SIGTERM.
    pub async fn stop(&self) {
        self.sim.log.line(&self.name, || "stops".to_owned());
        lock(&self.sim.nodes)[self.place] = None;
        self.is_stopping.store(true, Ordering::Relaxed);
        self.hub.close();
        // Requests in flight, and streams that end.
        self.sim.pause(0..50).await;
        let tasks = lock(&self.tasks).take();
        if let Some(mut tasks) = tasks {
            tasks.shutdown().await;
        }
        if let Some(cluster) = &self.cluster {
            cluster.leave().await;
        }
        if let Some(transports) = self.drivers.outbox.transports() {
            transports.close(Duration::from_secs(1)).await;
        }
        self.drivers.outbox.book_rest(&self.engine).await;
        let _ = tokio::time::timeout(GRACE, self.engine.stop()).await;
        self.sim.log.line(&self.name, || "has stopped".to_owned());
        self.life.end();
    }

    pub async fn until_over(&self) {
        self.life.until_over().await;
    }

    /// Executes a request and checks the answer; none if the process died first.
    pub async fn execute(&self, request: &Request) -> Option<Result<Reply, Error>> {
        let sim = &self.sim;
        let since = sim.event();
        let seq = sim.history().seq();
        let in_flight = lock(&self.handle.in_flight).iter().min().copied();
        let now = self.clock.now();
        let earliest = in_flight.map_or(now, |at| at.min(now));
        let started_at = Instant::now();
        sim.log.line(&self.name, || format!("is asked {request:?}"));
        let operation = match request.clone() {
            Request::Command(command) => Operation::Command(command),
            Request::Query(query) => Operation::Query(query),
        };
        let answer = tokio::select! {
            biased;
            () = self.life.until_over() => return None,
            answer = self.engine.execute(operation, None, 0) => answer,
        };
        let late_after = sim.plan.request_deadline + LATE_MAX;
        if started_at.elapsed() > late_after {
            let detail = format!("{request:?} took {:?}", started_at.elapsed());
            sim.fail("every request is answered in time", detail);
        }
        match &answer {
            Ok(reply) => {
                if let Request::Command(command) = request {
                    let claimed = sim.history().claim(self.incarnation, since, command, reply);
                    sim.check(claimed);
                }
                let asked = witness::Asked {
                    request,
                    since,
                    seq,
                    earliest,
                    now: self.clock.now(),
                };
                let event = sim.event();
                let history = sim.history();
                sim.check(sim.witness().see(&history, &asked, reply, event));
            }
            Err(Error::Internal(error)) => {
                sim.fail(
                    "no request fails by a defect",
                    format!("{request:?}: {error}"),
                );
            }
            Err(Error::Unavailable(reason)) => {
                sim.count("a request is answered 503");
                let is_stopping = self.is_stopping.load(Ordering::Relaxed);
                if reason.contains("the server is stopping") && !is_stopping {
                    sim.fail("no request is forgotten", format!("{request:?}"));
                }
            }
        }
        Some(answer)
    }
}

/// Hears what the engine tells the drivers, and checks it.
struct Told {
    drivers: Arc<Drivers>,
    sim: Arc<Sim>,
    name: String,
}

impl Told {
    /// X6, X8, O2, O3: of what is stored, and of nothing else.
    fn check(&self, message: &Message) {
        let history = self.sim.history();
        let is_true = match message {
            Message::Execute {
                id,
                version,
                address,
                ..
            } => history.object(id).is_some_and(|object| {
                object
                    .task
                    .as_ref()
                    .is_some_and(|task| task.version >= *version)
                    && object.promise.tags.target() == Some(&**address)
            }),
            Message::Unblock { promise, .. } => {
                promise.state != PromiseState::Pending
                    && history
                        .object(&promise.id)
                        .is_some_and(|o| o.promise == *promise)
            }
        };
        drop(history);
        if !is_true {
            self.sim
                .fail("a message tells what is stored", format!("{message:?}"));
        }
    }
}

impl Hooks for Told {
    fn committed(&self, changes: &Changes) {
        let history = self.sim.history();
        let is_stored = |change: &&Change| {
            let versions = history.versions(&change.after.promise.id, 0, history.seq());
            versions.contains(&Some(change.after.clone()))
        };
        let other = changes.objects.iter().find(|change| !is_stored(change));
        drop(history);
        if let Some(change) = other {
            self.sim
                .fail("drivers hear of what is stored", format!("{change:?}"));
        }
        self.drivers.committed(changes);
    }

    fn emit(&self, messages: Vec<Message>) {
        for message in &messages {
            self.check(message);
            self.sim.log.line(&self.name, || match message {
                Message::Execute {
                    id,
                    version,
                    address,
                    offer_at,
                    ..
                } => {
                    format!("emits execute {id} {version} to {address} at {offer_at}")
                }
                Message::Unblock {
                    promise, address, ..
                } => {
                    format!("emits unblock {} to {address}", promise.id)
                }
            });
        }
        self.drivers.emit(messages);
    }

    fn reset(&self) {
        self.drivers.reset();
    }

    fn paused(&self, is_paused: bool) {
        self.drivers.paused(is_paused);
    }

    fn held(&self) -> Vec<Message> {
        self.drivers.held()
    }
}
