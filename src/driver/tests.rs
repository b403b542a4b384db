//! Timers and outbox with a real engine, a memory store and real transports.
//!
//! Time is paused where no socket takes part: then the clock follows tokio's.

use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use futures_util::StreamExt;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpListener;
use tokio::task::JoinSet;

use super::outbox::Transports;
use super::*;
use crate::engine::Options;
use crate::machine;
use crate::protocol::address::{Rules, push_queue};
use crate::protocol::operation::{Command, Debug, Operation, PromiseCreate, TaskAcquire, TaskRef};
use crate::protocol::record::{Millis, PromiseState, Value};
use crate::store::Store;
use crate::store::memory::MemoryStore;
use crate::store::suite::{insert, pending, tagged, unblocking};
use crate::telemetry::tracer::Tracer;
use crate::transport::Table;
use crate::transport::http_push::{self, HttpPush};
use crate::transport::poll::{self, Events, Hub};

mod crowds;

const START: Millis = 1_000_000;

struct Rig {
    store: Arc<MemoryStore>,
    engine: Arc<Engine>,
    drivers: Arc<Drivers>,
    hub: Hub,
    tasks: JoinSet<()>,
}

struct Setup {
    clock: Clock,
    buffer_size: usize,
    concurrency: usize,
    unblock_ttl_ms: Millis,
    sweep_interval: Duration,
    max_connections: usize,
    retry_timeout_ms: Millis,
}

impl Setup {
    fn paused() -> Setup {
        Setup {
            clock: Clock::of_database(START),
            buffer_size: 100,
            concurrency: 2,
            unblock_ttl_ms: 3_600_000,
            sweep_interval: Duration::from_secs(1),
            max_connections: 1000,
            retry_timeout_ms: 30_000,
        }
    }

    fn real() -> Setup {
        Setup {
            clock: Clock::system(),
            ..Setup::paused()
        }
    }

    fn on(self, store: &Arc<MemoryStore>) -> Rig {
        let store = store.clone();
        let clock = Arc::new(self.clock);
        let outbox = Outbox::new(outbox::Settings {
            server_url: "http://server".to_owned(),
            address_rules: Rules::default(),
            cluster: None,
            sweep_interval: self.sweep_interval,
            sweep_max: 100,
            unblock_ttl_ms: self.unblock_ttl_ms,
            tracer: Tracer::default(),
        });
        let observer = outbox::Observer(Arc::downgrade(&outbox));
        let room = observer.room(push_queue());
        let poll = poll::Settings {
            buffer_size: self.buffer_size,
            max_connections: self.max_connections,
            ..poll::Settings::default()
        };
        let hub = Hub::new(poll, Arc::new(observer));
        let push = http_push::Settings {
            concurrency: self.concurrency,
            ..http_push::Settings::default()
        };
        let table = Table::default()
            .with("poll", hub.clone())
            .with("http", HttpPush::new(push, room).unwrap());
        outbox.connect(Transports::new(table, hub.clone()));
        let timers = Timers::new(timers::Settings {
            sweep_interval: self.sweep_interval,
        });
        let drivers = Drivers::new(timers, outbox, None, Arc::default(), clock.clone());
        let engine = Engine::start(Options {
            store: store.clone(),
            clock,
            config: machine::Config {
                retry_timeout_ms: self.retry_timeout_ms,
            },
            hooks: drivers.clone(),
            request_deadline: Duration::from_secs(8),
        });
        let tasks = drivers.start(&engine);
        Rig {
            store,
            engine,
            drivers,
            hub,
            tasks,
        }
    }
}

impl Rig {
    async fn state(&self, id: &str) -> PromiseState {
        self.store.read(&[id.into()]).await.unwrap()[0]
            .promise
            .state
    }

    fn stream(&self, group: &str, id: &str) -> Events {
        self.hub.register(group, id).unwrap().into_body_stream()
    }

    async fn settles_within(&self, id: &str, patience: Duration) -> bool {
        let settled = async {
            while self.state(id).await == PromiseState::Pending {
                tokio::time::sleep(Duration::from_millis(1)).await;
            }
        };
        tokio::time::timeout(patience, settled).await.is_ok()
    }

    async fn execute(&self, command: Command) {
        let operation = Operation::Command(command);
        let reply = self.engine.execute(operation, None, 0).await;
        assert_eq!(reply.unwrap().status(), 200);
    }

    async fn create(&self, id: &str, timeout_at: Millis, tags: &[(&str, &str)]) {
        self.execute(Command::PromiseCreate(PromiseCreate {
            id: id.into(),
            timeout_at,
            param: Value::empty(),
            tags: tagged(id, tags).promise.tags,
        }))
        .await;
    }

    async fn acquire(&self, id: &str, version: i64) {
        self.execute(Command::TaskAcquire(TaskAcquire {
            id: id.into(),
            version,
            pid: "p".into(),
            ttl: 60_000,
        }))
        .await;
    }

    /// Listeners that wait for their `unblock`.
    async fn undelivered(&self) -> usize {
        let objects = self.store.dump().await.unwrap().objects;
        objects.iter().map(|object| object.listeners.len()).sum()
    }
}

/// What a stream carries within a time, comments left out.
async fn read(stream: &mut Events, within: Duration) -> Vec<String> {
    let mut events = Vec::new();
    let reading = async {
        while let Some(Ok(chunk)) = stream.next().await {
            if chunk.starts_with(b"data: ") {
                events.push(String::from_utf8_lossy(&chunk).into_owned());
            }
        }
    };
    let _ = tokio::time::timeout(within, reading).await;
    events
}

/// A push target that answers 500 and counts.
async fn failing_target() -> (String, Arc<AtomicUsize>) {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let url = format!("http://{}/", listener.local_addr().unwrap());
    let count = Arc::new(AtomicUsize::new(0));
    let counting = count.clone();
    tokio::spawn(async move {
        while let Ok((mut socket, _)) = listener.accept().await {
            counting.fetch_add(1, Ordering::SeqCst);
            tokio::spawn(async move {
                let mut request = [0; 4096];
                let _ = socket.read(&mut request).await;
                let answer = b"HTTP/1.1 500 No\r\ncontent-length: 0\r\nconnection: close\r\n\r\n";
                let _ = socket.write_all(answer).await;
            });
        }
    });
    (url, count)
}

/// A push target that never answers.
async fn silent_target() -> String {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let url = format!("http://{}/", listener.local_addr().unwrap());
    tokio::spawn(async move {
        let mut open = Vec::new();
        while let Ok((socket, _)) = listener.accept().await {
            open.push(socket);
        }
    });
    url
}

fn timer(name: &str, timeout_at: Millis) -> machine::object::Object {
    let mut object = tagged(name, &[(tag::TIMER, "true")]);
    object.promise.timeout_at = timeout_at;
    object.armed = true;
    object
}

#[tokio::test]
async fn a_failing_push_target_is_spared_however_much_waits_for_it() {
    let store = Arc::new(MemoryStore::new());
    let (url, attempts) = failing_target().await;
    let now = Clock::system().now();
    insert(
        &*store,
        (0..50).map(|n| pending(format!("t{n}"), &url, now + 20_000)),
    )
    .await;
    insert(
        &*store,
        (0..50).map(|n| unblocking(&format!("u{n}"), &url, now, now)),
    )
    .await;
    let rig = Setup::real().on(&store);
    rig.drivers.outbox.pump_soon(["push".into()]);
    tokio::time::sleep(Duration::from_millis(2800)).await;
    // Each task once, each `unblock` at once, after one second, perhaps after two more.
    let attempts = attempts.load(Ordering::SeqCst);
    assert!((100..=200).contains(&attempts), "{attempts} attempts");
    assert_eq!(rig.undelivered().await, 50);
}

#[tokio::test]
async fn a_retry_that_met_a_full_transport_goes_when_there_is_room() {
    let store = Arc::new(MemoryStore::new());
    let (url, attempts) = failing_target().await;
    let now = Clock::system().now();
    // All of them failed before and are due at the same instant, many more than the transport takes.
    let failed = (0..100).map(|n| {
        let mut object = unblocking(&format!("u{n}"), &url, now, now + 1500);
        for listener in object.listeners.values_mut() {
            listener.attempts = 6;
        }
        object
    });
    let rig = Setup::real().on(&store);
    tokio::time::sleep(Duration::from_millis(100)).await;
    insert(&*store, failed).await;
    tokio::time::sleep(Duration::from_millis(3400)).await;
    assert_eq!(attempts.load(Ordering::SeqCst), 100);
    assert_eq!(rig.undelivered().await, 100);
}

#[tokio::test]
async fn what_a_full_transport_refuses_hides_no_deadline() {
    let store = Arc::new(MemoryStore::new());
    let url = silent_target().await;
    let now = Clock::system().now();
    insert(
        &*store,
        (0..10_100).map(|n| unblocking(&format!("u{n}"), &url, now, now - 1000)),
    )
    .await;
    insert(&*store, [timer("timer", now + 500)]).await;
    let rig = Setup::real().on(&store);
    assert!(rig.settles_within("timer", Duration::from_secs(5)).await);
    assert_eq!(rig.undelivered().await, 10_100);
}

#[tokio::test(start_paused = true)]
async fn deadlines_are_met_whether_memory_or_only_the_store_knows_them() {
    let store = Arc::new(MemoryStore::new());
    let rig = Setup::paused().on(&store);
    tokio::time::sleep(Duration::from_millis(10)).await;
    let now = rig.engine.clock().now();
    for (id, ahead, late_at_most) in [("near", 77, 2), ("far", 60_000, 2)] {
        rig.create(id, now + ahead, &[(tag::TIMER, "true")]).await;
        assert!(rig.settles_within(id, Duration::from_secs(120)).await);
        let late = rig.engine.clock().now() - (now + ahead);
        assert!((0..=late_at_most).contains(&late), "{id} {late} ms late");
    }
    // Nobody tells the timers of this one: a sweep finds it.
    let at = rig.engine.clock().now() + 5;
    insert(&*store, [timer("unannounced", at)]).await;
    assert!(
        rig.settles_within("unannounced", Duration::from_secs(3))
            .await
    );
}

#[tokio::test(start_paused = true)]
async fn a_nearer_deadline_wakes_the_timers() {
    let rig = Setup::paused().on(&Arc::default());
    let now = rig.engine.clock().now();
    for ahead in [900, 500, 100] {
        rig.create(&format!("p{ahead}"), now + ahead, &[(tag::TIMER, "true")])
            .await;
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    for ahead in [100, 500, 900] {
        let id = format!("p{ahead}");
        assert!(rig.settles_within(&id, Duration::from_secs(2)).await);
        let late = rig.engine.clock().now() - (now + ahead);
        assert!((0..=2).contains(&late), "{id} {late} ms late");
    }
}

#[tokio::test(start_paused = true)]
async fn a_stream_gets_everything_that_waits_however_small_its_buffer() {
    let store = Arc::new(MemoryStore::new());
    let address = "poll://any@g";
    // Some were last offered long ago, some a moment ago.
    let retry_at = |n: i64| START + (n % 3 - 1) * 20_000;
    insert(
        &*store,
        (0..1000).map(|n| pending(format!("t{n}"), address, retry_at(n))),
    )
    .await;
    insert(
        &*store,
        (0..1000).map(|n| unblocking(&format!("u{n}"), address, 1, retry_at(n))),
    )
    .await;
    let rig = Setup {
        buffer_size: 4,
        ..Setup::paused()
    }
    .on(&store);
    tokio::time::sleep(Duration::from_secs(2)).await;
    let mut stream = rig.stream("g", "w");
    let events = read(&mut stream, Duration::from_secs(10)).await;
    let distinct: std::collections::BTreeSet<&String> = events.iter().collect();
    assert_eq!(distinct.len(), 2000);
    assert!(events.len() < 2100, "{} events", events.len());
    assert_eq!(rig.undelivered().await, 0);
}

#[tokio::test(start_paused = true)]
async fn a_lost_dispatch_is_repaired_while_its_stream_is_open() {
    let store = Arc::new(MemoryStore::new());
    let rig = Setup::paused().on(&store);
    let mut stream = rig.stream("g", "w");
    assert!(read(&mut stream, Duration::from_secs(1)).await.is_empty());
    let now = rig.engine.clock().now();
    // Written behind the drivers' back.
    insert(
        &*store,
        [
            pending("t", "poll://any@g", now + 500),
            unblocking("u", "poll://uni@g/w", now, now + 500),
        ],
    )
    .await;
    assert_eq!(read(&mut stream, Duration::from_secs(4)).await.len(), 2);
    assert_eq!(rig.undelivered().await, 0);
}

#[tokio::test(start_paused = true)]
async fn what_nobody_ever_receives_is_given_up_and_costs_nothing_before() {
    let store = Arc::new(MemoryStore::new());
    insert(
        &*store,
        (0..250).map(|n| unblocking(&format!("u{n}"), "poll://uni@g/gone", START, START)),
    )
    .await;
    let ttl = Setup {
        unblock_ttl_ms: 5000,
        ..Setup::paused()
    };
    let rig = ttl.on(&store);
    let before = store.dump().await.unwrap();
    tokio::time::sleep(Duration::from_millis(4500)).await;
    assert!(before == store.dump().await.unwrap());
    tokio::time::sleep(Duration::from_millis(4000)).await;
    assert_eq!(rig.undelivered().await, 0);
}

#[tokio::test(start_paused = true)]
async fn deliveries_are_booked_by_the_next_run_or_when_stopping() {
    let store = Arc::new(MemoryStore::new());
    insert(&*store, [unblocking("a", "poll://uni@g/w", START, START)]).await;
    let mut rig = Setup::paused().on(&store);
    let mut stream = rig.stream("g", "w");
    assert_eq!(read(&mut stream, Duration::from_millis(10)).await.len(), 1);
    rig.tasks.shutdown().await;
    assert_eq!(rig.undelivered().await, 1);
    let mut again = rig.drivers.start(&rig.engine);
    tokio::time::sleep(Duration::from_millis(100)).await;
    assert_eq!(rig.undelivered().await, 0);

    insert(&*store, [unblocking("b", "poll://uni@g/w", START, START)]).await;
    rig.drivers.outbox.pump_soon(["uni@g/w".into()]);
    assert_eq!(read(&mut stream, Duration::from_millis(10)).await.len(), 1);
    again.shutdown().await;
    assert_eq!(rig.undelivered().await, 1);
    rig.drivers.outbox.book_rest(&rig.engine).await;
    assert_eq!(rig.undelivered().await, 0);
}

#[tokio::test(start_paused = true)]
async fn a_stream_that_dies_takes_nothing_with_it() {
    let store = Arc::new(MemoryStore::new());
    let rig = Setup::paused().on(&store);
    let dying = rig.stream("g", "w");
    for n in 0..20 {
        rig.create(
            &format!("t{n}"),
            START + 3_600_000,
            &[(tag::TARGET, "poll://any@g")],
        )
        .await;
    }
    drop(dying);
    let mut stream = rig.stream("g", "w");
    assert_eq!(read(&mut stream, Duration::from_secs(1)).await.len(), 20);
}

#[tokio::test(start_paused = true)]
async fn pausing_holds_messages_and_resuming_sends_them() {
    let store = Arc::new(MemoryStore::new());
    let rig = Setup::paused().on(&store);
    let mut stream = rig.stream("g", "w");
    let debug = async |debug| {
        rig.engine
            .execute(Operation::Debug(debug), None, 0)
            .await
            .unwrap()
    };
    debug(Debug::Start).await;
    let now = rig.engine.clock().now();
    rig.create("t", now + 3_600_000, &[(tag::TARGET, "poll://any@g")])
        .await;
    insert(&*store, [unblocking("u", "poll://uni@g/w", now, now)]).await;
    rig.create("timer", now + 100, &[(tag::TIMER, "true")])
        .await;
    assert!(read(&mut stream, Duration::from_secs(5)).await.is_empty());
    assert_eq!(rig.state("timer").await, PromiseState::Pending);
    debug(Debug::Stop).await;
    assert!(rig.settles_within("timer", Duration::from_secs(2)).await);
    assert_eq!(read(&mut stream, Duration::from_secs(1)).await.len(), 2);
}

#[tokio::test(start_paused = true)]
async fn what_is_held_back_is_not_sent_once_it_is_stale() {
    let store = Arc::new(MemoryStore::new());
    let rig = Setup::paused().on(&store);
    let mut stream = rig.stream("g", "w");
    for id in ["stale", "waiting"] {
        rig.create(id, START + 3_600_000, &[(tag::TARGET, "poll://any@g")])
            .await;
        // The first is offered again at once, the second a little later.
        for version in [0, 1] {
            rig.acquire(id, version).await;
            rig.execute(Command::TaskRelease(TaskRef {
                id: id.into(),
                version: version + 1,
            }))
            .await;
        }
    }
    rig.execute(Command::TaskHalt { id: "stale".into() }).await;
    let offered = read(&mut stream, Duration::from_secs(1)).await;
    let count = |id: &str| {
        let id = format!("\"id\":\"{id}\"");
        offered.iter().filter(|offer| offer.contains(&id)).count()
    };
    assert_eq!((count("stale"), count("waiting")), (2, 3), "{offered:?}");
}
