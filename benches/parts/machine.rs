//! Requests read and decided, nothing stored.

use std::hint::black_box;

use criterion::{Criterion, Throughput};
use futures_util::FutureExt;
use resonate::machine::Input;
use resonate::machine::workspace::Workspace;
use resonate::store::{Change, Loaded};

use crate::requests::{self, decided};

/// Requests in a batch.
const BATCH: usize = 64;

/// Decides on what is there.
fn decided_on(there: &Loaded, inputs: &[Input]) -> Workspace {
    let decided = decided(inputs, async |_| there.clone());
    decided.now_or_never().expect("nothing is waited for")
}

/// What they leave.
fn stored(inputs: &[Input]) -> Loaded {
    let (changes, _) = decided_on(&Loaded::default(), inputs).finish();
    let after = |change: Change| change.after;
    Loaded {
        objects: changes.objects.into_iter().map(after).collect(),
        ..Loaded::default()
    }
}

/// Names of a batch.
fn names() -> Vec<String> {
    (0..BATCH).map(|n| format!("bench.{n}")).collect()
}

pub fn all(criterion: &mut Criterion) {
    let mut group = criterion.benchmark_group("machine");
    let body = requests::create("bench.1");
    group.bench_function("read promise.create", |bencher| {
        bencher.iter(|| requests::input(black_box(&body)));
    });
    group.throughput(Throughput::Elements(BATCH as u64));
    let inputs = |request: fn(&str) -> String| -> Vec<Input> {
        names()
            .iter()
            .map(|name| requests::input(&request(name)))
            .collect()
    };
    let creates = inputs(requests::create);
    let settles = inputs(requests::settle);
    let tasks = inputs(requests::task);
    let nothing = Loaded::default();
    let created = stored(&creates);
    for (name, inputs, there) in [
        ("decide promise.create", creates, &nothing),
        ("decide promise.settle", settles, &created),
        ("decide task.create", tasks, &nothing),
    ] {
        group.bench_function(name, |bencher| {
            bencher.iter(|| decided_on(there, &inputs).finish());
        });
    }
    group.finish();
}
