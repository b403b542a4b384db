//! Small scopes, exhaustively: *all* sequences of a few operations over two ids, two workers and three
//! instants, through the machine and the oracle, and everything that they commit through the stores.
//!
//! Sequences that have led to the same state go on as one, and count as many. Of those that differ only by
//! names, one is taken: the first id named is `a`, the first worker `p`.
//!
//! `RESONATE_SCOPES_DEPTH` sets how many operations; the short form takes [`DEPTH`].

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::sync::Arc;

use resonate::machine::invariant::{Entry, Key};
use resonate::machine::object::Object;
use resonate::machine::workspace::Message;
use resonate::machine::{Input, Step};
use resonate::protocol::operation::{
    Command, FenceAction, PromiseCreate, PromiseSettle, TaskAcquire, TaskCreate, TaskFence,
    TaskFulfill, TaskHeartbeat, TaskRef, TaskSuspend,
};
use resonate::protocol::record::{Id, Millis, Tags, Value, Verdict};
use resonate::store::memory::MemoryStore;
use resonate::store::sqlite::{Durability, SqliteStore};
use resonate::store::{Changes, Dump, Need, Store};

use super::action::START;
use super::number;
use super::world::{Event, World};

/// Operations in a row, in the short form.
const DEPTH: u64 = 3;
const IDS: [&str; 2] = ["a", "b"];
const PIDS: [&str; 2] = ["p", "q"];
/// Deadlines, leases and retries of the first instant are due at the second, those of the second at the third.
const STEP_MS: Millis = 10;
const INSTANTS: [Millis; 3] = [START, START + STEP_MS, START + 2 * STEP_MS];
const FAR: Millis = START + 1000 * STEP_MS;
const TARGET: &str = "http://worker/";
const LISTENER: &str = "poll://uni@g/1";

/// An operation, and the names in it, in order: those that came before tell which are symmetrical.
struct Operation {
    input: Input,
    ids: Vec<usize>,
    pid: Option<usize>,
}

/// A state, and how it was reached.
#[derive(Clone)]
struct Reached {
    objects: BTreeMap<Id, Arc<Object>>,
    /// The instant it was reached at.
    instant: usize,
    /// Whether an id, a worker has been named.
    has_id: bool,
    has_pid: bool,
    /// How many sequences lead here.
    sequences: u64,
}

fn id(index: usize) -> Id {
    IDS[index].into()
}

fn birth(index: usize, timeout_at: Millis, tags: &[(&str, String)]) -> PromiseCreate {
    let pairs = tags
        .iter()
        .map(|(name, value)| ((*name).to_owned(), value.clone()));
    PromiseCreate {
        id: id(index),
        timeout_at,
        param: Value::empty(),
        tags: Tags::new(pairs.collect()),
    }
}

fn settlement(index: usize) -> PromiseSettle {
    PromiseSettle {
        id: id(index),
        state: Verdict::Resolved,
        value: Value::empty(),
    }
}

/// Every operation there is.
fn operations() -> Vec<Operation> {
    let mut all = Vec::new();
    for index in 0..IDS.len() {
        of_promise(index, &mut all);
        of_task(index, &mut all);
        of_holder(index, &mut all);
    }
    for (pid, name) in PIDS.iter().enumerate() {
        let beat = Command::TaskHeartbeat(TaskHeartbeat {
            pid: (*name).into(),
            tasks: Vec::new(),
            within: None,
        });
        all.push(operation(Input::Request(beat), &[], Some(pid)));
    }
    all
}

fn operation(input: Input, ids: &[usize], pid: Option<usize>) -> Operation {
    Operation {
        input,
        ids: ids.to_vec(),
        pid,
    }
}

fn of_promise(index: usize, all: &mut Vec<Operation>) {
    let other = 1 - index;
    let mut request = |command, ids: &[usize]| {
        all.push(operation(Input::Request(command), ids, None));
    };
    let target = || ("resonate:target", TARGET.to_owned());
    let delay = ("resonate:delay", INSTANTS[1].to_string());
    for timeout_at in [INSTANTS[1], FAR] {
        let timer = ("resonate:timer", "true".to_owned());
        for tags in [vec![], vec![target()], vec![timer]] {
            let birth = birth(index, timeout_at, &tags);
            request(Command::PromiseCreate(birth), &[index]);
        }
    }
    let delayed = birth(index, FAR, &[target(), delay]);
    request(Command::PromiseCreate(delayed), &[index]);
    request(Command::PromiseSettle(settlement(index)), &[index]);
    let callback = Command::PromiseRegisterCallback {
        awaited: id(index),
        awaiter: id(other),
    };
    request(callback, &[index, other]);
    let listener = Command::PromiseRegisterListener {
        awaited: id(index),
        address: LISTENER.into(),
    };
    request(listener, &[index]);
    let (promise, address) = (id(index), Id::from(LISTENER));
    for step in [
        Step::Promise(id(index)),
        Step::UnblockDue {
            promise: promise.clone(),
            address: address.clone(),
        },
        Step::UnblockDone {
            promise: promise.clone(),
            address: address.clone(),
        },
        Step::UnblockFailed { promise, address },
    ] {
        all.push(operation(Input::Step(step), &[index], None));
    }
}

fn of_task(index: usize, all: &mut Vec<Operation>) {
    for command in [
        Command::TaskHalt { id: id(index) },
        Command::TaskContinue { id: id(index) },
    ] {
        all.push(operation(Input::Request(command), &[index], None));
    }
    for (pid, name) in PIDS.iter().enumerate() {
        let target = ("resonate:target", TARGET.to_owned());
        let mut request = |command| {
            all.push(operation(Input::Request(command), &[index], Some(pid)));
        };
        request(Command::TaskCreate(TaskCreate {
            pid: (*name).into(),
            ttl: STEP_MS,
            action: birth(index, FAR, &[target]),
        }));
        for version in [0, 1] {
            request(Command::TaskAcquire(TaskAcquire {
                id: id(index),
                version,
                pid: (*name).into(),
                ttl: STEP_MS,
            }));
        }
        request(Command::TaskHeartbeat(TaskHeartbeat {
            pid: (*name).into(),
            tasks: vec![TaskRef {
                id: id(index),
                version: 1,
            }],
            within: None,
        }));
    }
}

/// What takes a lease.
fn of_holder(index: usize, all: &mut Vec<Operation>) {
    let other = 1 - index;
    let mut request = |command, ids: &[usize]| {
        all.push(operation(Input::Request(command), ids, None));
    };
    let task = |version| TaskRef {
        id: id(index),
        version,
    };
    for action in [
        FenceAction::Create(birth(other, FAR, &[])),
        FenceAction::Settle(settlement(other)),
    ] {
        let fence = TaskFence {
            task: task(1),
            corr_id: None,
            action,
        };
        request(Command::TaskFence(fence), &[index, other]);
    }
    let suspend = TaskSuspend {
        task: task(1),
        awaited: vec![id(other)],
    };
    request(Command::TaskSuspend(suspend), &[index, other]);
    for version in [1, 2] {
        let action = settlement(index);
        let task = task(version);
        request(Command::TaskFulfill(TaskFulfill { task, action }), &[index]);
    }
    request(Command::TaskRelease(task(1)), &[index]);
}

/// What was found on the way.
#[derive(Default)]
struct Tally {
    sequences: u64,
    transitions: u64,
    /// What is committed, by what is there before: each goes through the stores once.
    commits: HashMap<String, (Vec<Arc<Object>>, Changes)>,
    rows: BTreeSet<&'static str>,
}

impl Reached {
    /// Whether another sequence, with other names, is the same.
    fn is_symmetrical(&self, operation: &Operation) -> bool {
        let names_b_first = !self.has_id && operation.ids.first() == Some(&1);
        let names_q_first = !self.has_pid && operation.pid == Some(1);
        names_b_first || names_q_first
    }

    /// Takes an operation at an instant, with every check there is.
    fn after(&self, operation: &Operation, instant: usize, tally: &mut Tally) -> Reached {
        let mut world = World::new(STEP_MS);
        world.now = INSTANTS[instant];
        world.objects = self.objects.clone();
        world.outbox = unblocks(&self.objects);
        let performed = world.perform(Event::Input(operation.input.clone()));
        if let Err(error) = performed {
            panic!(
                "{error}\n\nby {:?} at {} on {:#?}",
                operation.input, world.now, self.objects
            );
        }
        tally.sequences += self.sequences;
        tally.transitions += 1;
        tally.rows.extend(&world.rows);
        let changes = changes(&self.objects, &world.objects);
        if !changes.is_empty() {
            let before: Vec<_> = self.objects.values().cloned().collect();
            let key = format!("{before:?} {changes:?}");
            tally.commits.entry(key).or_insert((before, changes));
        }
        Reached {
            objects: world.objects,
            instant,
            has_id: self.has_id || !operation.ids.is_empty(),
            has_pid: self.has_pid || operation.pid.is_some(),
            sequences: self.sequences,
        }
    }

    fn key(&self) -> String {
        format!(
            "{} {} {} {:?}",
            self.instant, self.has_id, self.has_pid, self.objects
        )
    }
}

fn unblocks(objects: &BTreeMap<Id, Arc<Object>>) -> BTreeMap<Key, Entry> {
    let mut outbox = BTreeMap::new();
    for object in objects.values() {
        for (address, listener) in &object.listeners {
            if listener.enqueued_at.is_some() {
                let message = Message::Unblock {
                    trace: None,
                    promise: object.promise.clone(),
                    address: address.clone(),
                };
                let entry = Entry { serial: 0, message };
                outbox.insert(entry.key(), entry);
            }
        }
    }
    outbox
}

fn changes(before: &BTreeMap<Id, Arc<Object>>, after: &BTreeMap<Id, Arc<Object>>) -> Changes {
    let changed = after
        .iter()
        .filter(|(id, object)| before.get(*id) != Some(object));
    Changes {
        objects: changed
            .map(|(id, object)| resonate::store::Change {
                before: before.get(id).cloned(),
                after: object.clone(),
            })
            .collect(),
        schedules: Vec::new(),
        deleted: Vec::new(),
    }
}

/// Takes every sequence of up to so many operations.
fn explore(depth: u64) -> Tally {
    let operations = operations();
    let mut tally = Tally::default();
    let nothing = Reached {
        objects: BTreeMap::new(),
        instant: 0,
        has_id: false,
        has_pid: false,
        sequences: 1,
    };
    let mut layer = vec![nothing];
    for length in 1..=depth {
        let mut next: BTreeMap<String, Reached> = BTreeMap::new();
        for reached in &layer {
            for instant in reached.instant..INSTANTS.len() {
                for operation in operations.iter().filter(|o| !reached.is_symmetrical(o)) {
                    let after = reached.after(operation, instant, &mut tally);
                    if length == depth {
                        continue;
                    }
                    match next.get_mut(&after.key()) {
                        Some(known) => known.sequences += after.sequences,
                        None => {
                            next.insert(after.key(), after);
                        }
                    }
                }
            }
        }
        layer = next.into_values().collect();
    }
    tally
}

/// Commits what was found to a store, each time on what is there before, and reads it back.
async fn compare(store: &dyn Store, tally: &Tally) -> resonate::store::Result<()> {
    for (before, changes) in tally.commits.values() {
        store.reset().await?;
        let there = Changes {
            objects: before
                .iter()
                .map(|object| resonate::store::Change {
                    before: None,
                    after: object.clone(),
                })
                .collect(),
            schedules: Vec::new(),
            deleted: Vec::new(),
        };
        store.begin().await?.commit(&there).await?;
        let need = Need {
            objects: IDS.map(Id::from).into(),
            ..Need::default()
        };
        let mut transaction = store.begin().await?;
        let loaded = transaction.load(&need).await?.objects;
        let mut loaded: Vec<Object> = loaded.iter().map(|object| (**object).clone()).collect();
        loaded.sort_by(|a, b| a.promise.id.cmp(&b.promise.id));
        let stored: Vec<Object> = before.iter().map(|object| (**object).clone()).collect();
        assert_eq!(loaded, stored);
        transaction.commit(changes).await?;
        let mut expected: BTreeMap<Id, Object> = stored
            .into_iter()
            .map(|object| (object.promise.id.clone(), object))
            .collect();
        for change in &changes.objects {
            expected.insert(change.after.promise.id.clone(), (*change.after).clone());
        }
        let expected = Dump {
            objects: expected.into_values().collect(),
            schedules: Vec::new(),
        };
        assert_eq!(store.dump().await?, expected);
    }
    Ok(())
}

#[test]
fn every_short_sequence_is_decided_and_stored_as_specified() {
    let depth = number("RESONATE_SCOPES_DEPTH").unwrap_or(DEPTH);
    let tally = explore(depth);
    eprintln!(
        "{} operations at 3 instants, up to {depth} in a row: {} sequences, {} transitions, {} commits, {} rows of \
         the tables",
        operations().len(),
        tally.sequences,
        tally.transitions,
        tally.commits.len(),
        tally.rows.len(),
    );
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .expect("a runtime of one thread");
    let folder = tempfile::tempdir().unwrap();
    runtime.block_on(async {
        compare(&MemoryStore::new(), &tally).await.unwrap();
        let path = folder.path().join("scopes.db");
        let sqlite = SqliteStore::open(&path, Durability::ProcessCrash, 0)
            .await
            .unwrap();
        compare(&sqlite, &tally).await.unwrap();
        sqlite.close().await;
    });
    assert!(depth < DEPTH || tally.sequences > 500_000);
}
