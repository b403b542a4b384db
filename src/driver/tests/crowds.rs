//! Many messages, many streams, and little room: everybody is told, and nothing is looked at over and over.

use std::collections::{BTreeMap, BTreeSet};

use crate::protocol::address::{Address, Cast};
use crate::protocol::operation::{TaskAcquire, TaskRef};
use crate::protocol::record::TaskState;

use super::*;

/// Messages read from the store while something waits in a queue.
fn looked_at(rig: &Rig) -> usize {
    rig.store.work.waiting.load(Ordering::SeqCst)
}

fn written(rig: &Rig) -> usize {
    rig.store.work.written.load(Ordering::SeqCst)
}

/// The next messages of a stream, at most so many, as (task or promise, version).
async fn next(stream: &mut Events, count: usize) -> Vec<(String, i64)> {
    let mut messages = Vec::new();
    while messages.len() < count {
        let chunk = tokio::time::timeout(Duration::from_millis(5), stream.next()).await;
        let Ok(Some(Ok(chunk))) = chunk else { break };
        let Some(json) = chunk.strip_prefix(b"data: ") else {
            continue;
        };
        let message: serde_json::Value = serde_json::from_slice(json).unwrap();
        let data = &message["data"];
        let id = &data["task"]["id"]
            .as_str()
            .or(data["promise"]["id"].as_str());
        messages.push((
            id.unwrap().to_owned(),
            data["task"]["version"].as_i64().unwrap_or(0),
        ));
    }
    messages
}

/// So many tasks that became due, or will, at an instant.
async fn wait_for(store: &MemoryStore, count: usize, retry_at: Millis) {
    let task = |n| pending(format!("t{n}"), "poll://any@g", retry_at);
    insert(store, (0..count).map(task)).await;
}

#[tokio::test(start_paused = true)]
async fn a_slow_worker_gets_everything_once_at_a_cost_that_grows_with_the_work() {
    const TASKS: usize = 20_000;
    // All overdue, or all offered a short while ago.
    for retry_at in [START - 1000, START + 3_600_000] {
        let store = Arc::new(MemoryStore::new());
        wait_for(&store, TASKS, retry_at).await;
        let setup = Setup {
            retry_timeout_ms: 3_600_000,
            ..Setup::paused()
        };
        let rig = setup.on(&store);
        let mut stream = rig.stream("g", "w");
        let mut received = BTreeSet::new();
        let mut messages = 0;
        // It never acquires anything, so that all stays where it waits.
        loop {
            let some = next(&mut stream, 30).await;
            if some.is_empty() {
                break;
            }
            messages += some.len();
            received.extend(some);
        }
        assert_eq!((received.len(), messages), (TASKS, TASKS));
        // A pump that begins with the first each time looks at 2 million.
        assert!(looked_at(&rig) < 20 * TASKS, "{}", looked_at(&rig));
        assert!(written(&rig) <= 2 * TASKS, "{}", written(&rig));
    }
}

#[tokio::test(start_paused = true)]
async fn what_a_full_stream_cannot_take_costs_nothing() {
    let store = Arc::new(MemoryStore::new());
    wait_for(&store, 1000, START - 1000).await;
    insert(
        &*store,
        (0..1000).map(|n| unblocking(&format!("u{n}"), "poll://any@g", START, START)),
    )
    .await;
    let setup = Setup {
        buffer_size: 4,
        ..Setup::paused()
    };
    let rig = setup.on(&store);
    let mut stalled = rig.stream("g", "w");
    tokio::time::sleep(Duration::from_secs(5)).await;
    let before = (written(&rig), looked_at(&rig));
    // Longer than the retry timeout, shorter than the life of a stream.
    tokio::time::sleep(Duration::from_secs(200)).await;
    assert_eq!((written(&rig), looked_at(&rig)), before);
    let received: BTreeSet<_> = next(&mut stalled, usize::MAX).await.into_iter().collect();
    assert_eq!(received.len(), 2000);
}

#[tokio::test(start_paused = true)]
async fn a_stream_that_goes_hands_on_what_it_was_told_and_nothing_else() {
    let rig = Setup::paused().on(&Arc::default());
    let mut streams = ["a", "b", "c"].map(|id| rig.stream("g", id));
    let mut told: Vec<BTreeSet<_>> = Vec::new();
    for n in 0..90 {
        let tags = [(tag::TARGET, "poll://any@g")];
        rig.create(&format!("t{n}"), START + 3_600_000, &tags).await;
    }
    for stream in &mut streams {
        told.push(next(stream, 100).await.into_iter().collect());
    }
    assert_eq!(told.iter().map(BTreeSet::len).sum::<usize>(), 90);
    let [gone, mut b, mut c] = streams;
    drop(gone);
    let mut again = next(&mut b, 100).await;
    again.extend(next(&mut c, 100).await);
    assert_eq!(again.len(), told[0].len());
    assert_eq!(again.into_iter().collect::<BTreeSet<_>>(), told[0]);
}

#[tokio::test(start_paused = true)]
async fn idle_streams_close_at_no_cost() {
    let setup = Setup {
        max_connections: 10_000,
        ..Setup::paused()
    };
    let rig = setup.on(&Arc::default());
    let open = |n| rig.stream(&format!("g{}", n % 50), &format!("w{n}"));
    let streams: Vec<Events> = (0..2000).map(open).collect();
    tokio::time::sleep(Duration::from_secs(5)).await;
    let pages = rig.store.work.pages.load(Ordering::SeqCst);
    drop(streams);
    tokio::time::sleep(Duration::from_secs(5)).await;
    assert_eq!(rig.store.work.pages.load(Ordering::SeqCst), pages);
    assert_eq!(rig.hub.connections(), 0);
}

#[tokio::test(start_paused = true)]
async fn a_lost_dispatch_is_repaired_however_many_listen_and_wait() {
    for (listening, waiting) in [(200, 10), (200, 500)] {
        let store = Arc::new(MemoryStore::new());
        let rig = Setup::paused().on(&store);
        let open = |n: usize| rig.stream("g", &format!("w{n}"));
        let mut streams: Vec<Events> = (0..listening).map(open).collect();
        tokio::time::sleep(Duration::from_secs(1)).await;
        // Written behind the drivers' back, most of it for streams that are not open.
        let now = rig.engine.clock().now();
        let task = |n: usize| {
            let address = format!("poll://uni@g/w{}", 150 + n);
            pending(format!("t{n}"), &address, now + 500)
        };
        insert(&*store, (0..waiting).map(task)).await;
        tokio::time::sleep(Duration::from_secs(4)).await;
        let received = next(&mut streams[150], 10).await;
        assert_eq!(received, [("t0".to_owned(), 0)], "{waiting}");
        let received = next(&mut streams[159], 10).await;
        assert_eq!(received, [("t9".to_owned(), 0)], "{waiting}");
    }
}

/// Tasks at versions.
type Told = BTreeSet<(String, i64)>;

/// Streams that come, read a little and go, and what each was told.
struct Crowd {
    rig: Rig,
    random: fastrand::Rng,
    open: BTreeMap<usize, (String, Events, Told)>,
    opened: usize,
    created: usize,
}

impl Crowd {
    const IDS: [&str; 3] = ["x", "y", "z"];

    async fn step(&mut self) {
        let some = self.random.usize(..1000);
        let stream = self.open.keys().nth(some % self.open.len().max(1)).copied();
        match self.random.u32(..20) {
            0 | 1 if self.open.len() < 5 => {
                let id = Self::IDS[some % 3].to_owned();
                let events = self.rig.stream("g", &id);
                self.opened += 1;
                self.open.insert(self.opened, (id, events, BTreeSet::new()));
            }
            2 => drop(stream.map(|stream| self.open.remove(&stream))),
            3..=8 => {
                if let Some((_, events, told)) = stream.and_then(|s| self.open.get_mut(&s)) {
                    told.extend(next(events, some % 8).await);
                }
            }
            9..=11 => {
                if let Some((_, _, told)) = stream.and_then(|s| self.open.get_mut(&s))
                    && let Some((id, version)) = told.pop_first()
                {
                    self.acquire(&id, version, some.is_multiple_of(2)).await;
                }
            }
            _ => {
                let address = match some % 4 {
                    0 => format!("poll://uni@g/{}", Self::IDS[some % 3]),
                    1 => format!("poll://any@g/{}", Self::IDS[some % 3]),
                    _ => "poll://any@g".to_owned(),
                };
                self.created += 1;
                let id = format!("t{}", self.created);
                let tags = [(tag::TARGET, &*address)];
                self.rig.create(&id, Millis::MAX, &tags).await;
            }
        }
    }

    async fn acquire(&self, id: &str, version: i64, is_released: bool) {
        let command = async |command| {
            let operation = Operation::Command(command);
            self.rig.engine.execute(operation, None, 0).await.unwrap()
        };
        let acquire = TaskAcquire {
            id: id.into(),
            version,
            pid: "p".into(),
            ttl: 3_600_000,
        };
        let reply = command(Command::TaskAcquire(acquire)).await;
        if reply.status() == 200 && is_released {
            let task = TaskRef {
                id: id.into(),
                version: version + 1,
            };
            command(Command::TaskRelease(task)).await;
        }
    }

    /// Everybody reads all there is.
    async fn settle(&mut self) {
        loop {
            // Longer than a task that was released a few times is held back.
            tokio::time::sleep(Duration::from_secs(5)).await;
            let mut is_over = true;
            for (_, events, told) in self.open.values_mut() {
                let some = next(events, usize::MAX).await;
                is_over &= some.is_empty();
                told.extend(some);
            }
            if is_over {
                return;
            }
        }
    }

    /// Every pending task that somebody can receive was told to somebody who is there.
    async fn check(&self, seed: u64) {
        for object in self.rig.store.dump().await.unwrap().objects {
            let Some(task) = object.task.filter(|task| task.state == TaskState::Pending) else {
                continue;
            };
            let message = (object.promise.id.to_string(), task.version);
            let target = object.promise.tags.target().unwrap();
            let Some(Address::Poll(address)) = Address::parse(target, &Rules::default()) else {
                panic!("{target}");
            };
            let mut able = self.open.values().filter(|(id, _, _)| {
                address.cast == Cast::Any || address.id.as_deref() == Some(id)
            });
            let mut streams = self.open.values();
            assert!(
                able.next().is_none() || streams.any(|(_, _, told)| told.contains(&message)),
                "seed {seed}: nobody was told of {message:?}"
            );
        }
    }
}

#[tokio::test(start_paused = true)]
async fn nobody_is_forgotten_whoever_comes_goes_or_is_slow() {
    for seed in 0..40 {
        // Its own retry, an hour later, would find what was forgotten.
        let setup = Setup {
            buffer_size: 3,
            retry_timeout_ms: 3_600_000,
            ..Setup::paused()
        };
        let mut crowd = Crowd {
            rig: setup.on(&Arc::default()),
            random: fastrand::Rng::with_seed(seed),
            open: BTreeMap::new(),
            opened: 0,
            created: 0,
        };
        for _ in 0..5 {
            for _ in 0..60 {
                crowd.step().await;
            }
            crowd.settle().await;
            crowd.check(seed).await;
        }
        assert!(crowd.created > 50);
    }
}
