//! `kill -9` under concurrent writers: what was acknowledged is there, what was not is there whole or
//! not at all.
//!
//! Every writer takes one workflow after the other through the same eight steps. The stored state
//! after the crash must be exactly that of the last acknowledged step, or of the one after it.

use std::collections::BTreeMap;
use std::sync::mpsc;
use std::thread;

use resonate::engine::clock::Clock;
use resonate::machine::invariant::{State, check_state};
use resonate::machine::object::Object;
use resonate::store::postgres::PostgresStore;
use resonate::store::sqlite::{Durability, SqliteStore};
use resonate::store::{self, Dump, Store};
use serde_json::{Value, json};

use super::workflow::{STORED, steps, stored};
use crate::harness::http::Connection;
use crate::harness::process::Signal;
use crate::harness::server::{Server, Storage};
use crate::harness::store::forgets_on_restart;

const WRITERS: usize = 8;
/// An acknowledged step: of which workflow, the how manieth, and the records answered.
struct Acknowledged {
    root: String,
    step: usize,
    data: Value,
}

fn write(server: &Server, prefix: &str, acknowledged: &mpsc::Sender<Acknowledged>) {
    let Ok(mut connection) = Connection::open(server.addr()) else {
        return;
    };
    for n in 0.. {
        let root = format!("{prefix}-{n}");
        for (index, (kind, data)) in steps(&root).into_iter().enumerate() {
            let head = json!({"corrId": "c", "version": "2026-04-01"});
            let body = json!({"kind": kind, "head": head, "data": data}).to_string();
            // The server was killed: what was sent last was not acknowledged.
            let Ok(reply) = connection.exchange("POST", "/", &[], body.as_bytes()) else {
                return;
            };
            let status = reply.status();
            let Ok(reply) = serde_json::from_slice::<Value>(&reply.body) else {
                // A proxy answers for nodes that were killed, with a page of its own.
                assert!((502..=504).contains(&status), "{status}");
                return;
            };
            assert_eq!(reply["head"]["status"], 200, "{body} -> {reply}");
            let acknowledgement = Acknowledged {
                root: root.clone(),
                step: index + 1,
                data: reply["data"].clone(),
            };
            if acknowledged.send(acknowledgement).is_err() {
                return;
            }
        }
    }
}

pub async fn dump(server: &Server) -> Dump {
    match server.storage() {
        Storage::Memory | Storage::Shared(_) => unreachable!("the test is skipped"),
        Storage::File(path) => read(SqliteStore::open(path, Durability::PowerLoss).await).await,
        Storage::Postgres(database) => read(PostgresStore::open(&database.url(), 1).await).await,
    }
}

async fn read<S: Store>(opened: store::Result<S>) -> Dump {
    let store = opened.expect("the database opens after a crash");
    let dump = store.dump().await.expect("the database reads");
    store.close().await;
    dump
}

/// Settled and created records that were answered must be stored as they were answered.
fn check_records(objects: &BTreeMap<String, Object>, acknowledged: &Acknowledged) {
    let data = &acknowledged.data;
    for record in [&data["promise"], &data["action"]["data"]["promise"]] {
        let Some(id) = record["id"].as_str() else {
            continue;
        };
        let object = objects
            .get(id)
            .unwrap_or_else(|| panic!("{id} was acknowledged and is lost"));
        let kept = serde_json::to_value(&object.promise).expect("a record serialises");
        let mut names = vec!["id", "param", "tags", "timeoutAt", "createdAt"];
        if record["state"] != "pending" {
            names.extend(["state", "value", "settledAt"]);
        }
        for name in names {
            assert_eq!(kept[name], record[name], "{name} of {id}");
        }
    }
}

#[test]
fn kill_9_loses_nothing_acknowledged_and_leaves_nothing_half_done() {
    if forgets_on_restart() {
        return;
    }
    let rounds: usize = std::env::var("RESONATE_CRASH_ROUNDS")
        .map(|rounds| rounds.parse().expect("RESONATE_CRASH_ROUNDS is a number"))
        .unwrap_or(5);
    let runtime = tokio::runtime::Runtime::new().expect("a runtime starts");
    let mut server = Server::start();
    // Last acknowledged step of every workflow of every round.
    let mut progress: BTreeMap<String, usize> = BTreeMap::new();
    let mut kept = Vec::new();
    for round in 0..rounds {
        let until = fastrand::usize(1..600);
        let (sender, receiver) = mpsc::channel();
        thread::scope(|scope| {
            for writer in 0..WRITERS {
                let (server, sender) = (&server, sender.clone());
                scope.spawn(move || write(server, &format!("r{round}w{writer}"), &sender));
            }
            drop(sender);
            let mut count = 0;
            for acknowledged in receiver {
                count += 1;
                if count == until {
                    server.signal(Signal::Kill);
                }
                progress.insert(acknowledged.root.clone(), acknowledged.step);
                kept.push(acknowledged);
            }
        });
        server.wait();

        let dump = runtime.block_on(dump(&server));
        let now = Clock::system().now();
        let state = State::of(&dump.objects, dump.schedules, Vec::new(), now, 30_000);
        if let Err(violation) = check_state(&state) {
            panic!("round {round}: {violation}");
        }
        let objects: BTreeMap<String, Object> = dump
            .objects
            .into_iter()
            .map(|object| (object.promise.id.to_string(), object))
            .collect();
        for (root, step) in &progress {
            let found = stored(&objects, root);
            let next = STORED.get(step + 1).copied().unwrap_or(STORED[*step]);
            assert!(
                found == STORED[*step] || found == next,
                "round {round}, {root}: step {step} was acknowledged, stored is {found:?}"
            );
        }
        kept.iter().for_each(|kept| check_records(&objects, kept));
        server = server.restart_stopped();
    }
    eprintln!(
        "{rounds} crashes, {} steps of {} workflows acknowledged, none lost",
        kept.len(),
        progress.len()
    );
    assert!(kept.len() >= rounds, "the writers got nothing done");
}
