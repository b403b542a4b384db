//! Batches decided, and stored as durably as by default. PostgreSQL if there is one: `make bench-parts` starts one.

use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, Instant};

use criterion::{Criterion, Throughput};
use resonate::machine::Input;
use resonate::store::Store;
use resonate::store::memory::MemoryStore;
use resonate::store::postgres::PostgresStore;
use resonate::store::sqlite::{Durability, SqliteStore};
use tokio::runtime::Runtime;

use crate::requests::{self, decided};

/// Requests in a batch: of a lone client, and of many.
const BATCHES: [usize; 2] = [1, 64];
const POOL_SIZE: u32 = 10;
const CACHE_BYTES: usize = 128 << 20;

/// A batch, as a lane commits it.
async fn commit(store: &dyn Store, inputs: &[Input]) {
    let mut transaction = store.begin().await.expect("the store takes batches");
    let load = async |need| transaction.load(&need).await.expect("the store answers");
    let ws = decided(inputs, load).await;
    let (changes, _) = ws.finish();
    transaction
        .commit(&changes)
        .await
        .expect("nobody else writes");
}

/// Batches of requests about promises that no other batch is about.
struct Batches {
    size: usize,
    next: u64,
}

impl Batches {
    fn names(&mut self, count: u64) -> Vec<Vec<String>> {
        let mut batch = || {
            self.next += 1;
            (0..self.size)
                .map(|n| format!("b{}.{}.{n}", self.size, self.next))
                .collect()
        };
        (0..count).map(|_| batch()).collect()
    }
}

fn inputs(names: &[Vec<String>], request: fn(&str) -> String) -> Vec<Vec<Input>> {
    let input = |name: &String| requests::input(&request(name));
    names
        .iter()
        .map(|names| names.iter().map(input).collect())
        .collect()
}

#[allow(clippy::disallowed_methods, reason = "a stopwatch")]
async fn timed(store: &dyn Store, batches: &[Vec<Input>]) -> Duration {
    let started = Instant::now();
    for batch in batches {
        commit(store, batch).await;
    }
    started.elapsed()
}

fn measure(criterion: &mut Criterion, runtime: &Runtime, name: &str, store: &dyn Store) {
    let mut group = criterion.benchmark_group(name);
    for size in BATCHES {
        let mut batches = Batches { size, next: 0 };
        group.throughput(Throughput::Elements(size as u64));
        for (what, request) in [
            ("create", requests::create as fn(&str) -> String),
            ("task.create", requests::task),
        ] {
            group.bench_function(format!("{what}/{size}"), |bencher| {
                bencher.iter_custom(|count| {
                    let names = batches.names(count);
                    runtime.block_on(timed(store, &inputs(&names, request)))
                });
            });
        }
        group.bench_function(format!("settle/{size}"), |bencher| {
            bencher.iter_custom(|count| {
                let names = batches.names(count);
                runtime.block_on(async {
                    timed(store, &inputs(&names, requests::create)).await;
                    timed(store, &inputs(&names, requests::settle)).await
                })
            });
        });
    }
    group.finish();
    runtime
        .block_on(store.reset())
        .expect("the store forgets everything");
}

pub fn all(criterion: &mut Criterion) {
    let runtime = Runtime::new().expect("a runtime");
    measure(criterion, &runtime, "memory", &MemoryStore::new());
    // On the disk that this is, not in memory.
    let target = Path::new(env!("CARGO_MANIFEST_DIR")).join("target");
    let folder = tempfile::tempdir_in(target).expect("a folder in target/");
    let path = folder.path().join("bench.db");
    for (name, cache_bytes) in [("sqlite", CACHE_BYTES), ("sqlite without cache", 0)] {
        let opened = runtime.block_on(SqliteStore::open(&path, Durability::default(), cache_bytes));
        let store = opened.expect("a database");
        measure(criterion, &runtime, name, &store);
        runtime.block_on(store.close());
    }
    if let Ok(url) = std::env::var("RESONATE_TEST_POSTGRES") {
        let opened = runtime.block_on(PostgresStore::open(&url, POOL_SIZE));
        let store: Arc<dyn Store> = Arc::new(opened.expect("a database of its own"));
        measure(criterion, &runtime, "postgres", &*store);
        runtime.block_on(store.close());
    }
}
