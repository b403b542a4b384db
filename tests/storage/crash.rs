//! `kill -9` under concurrent writers: what was acknowledged is there, what was not is there whole or
//! not at all.

use resonate::store::postgres::PostgresStore;
use resonate::store::sqlite::{Durability, SqliteStore};
use resonate::store::{self, Dump, Store};

use super::writers::Ledger;
use crate::harness::process::Signal;
use crate::harness::server::{Server, Storage};
use crate::harness::store::forgets_on_restart;

/// What is stored, read past a server that has ended.
pub async fn dump(server: &Server) -> Dump {
    match server.storage() {
        Storage::Memory | Storage::Shared(_) => unreachable!("the test is skipped"),
        Storage::File(path) => read(SqliteStore::open(path, Durability::PowerLoss, 0).await).await,
        Storage::Postgres(database) => read(PostgresStore::open(&database.url(), 1).await).await,
    }
}

async fn read<S: Store>(opened: store::Result<S>) -> Dump {
    let store = opened.expect("the database opens after a crash");
    let dump = store.dump().await.expect("the database reads");
    store.close().await;
    dump
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
    let mut ledger = Ledger::default();
    for round in 0..rounds {
        let until = fastrand::usize(1..600);
        ledger.write(&server, &format!("r{round}"), |count| {
            if count == until {
                server.signal(Signal::Kill);
            }
        });
        server.wait();
        let dump = runtime.block_on(dump(&server));
        ledger.check(dump, &format!("round {round}"));
        server = server.restart_stopped();
    }
    eprintln!(
        "{rounds} crashes, {} steps of {} workflows acknowledged, none lost",
        ledger.steps(),
        ledger.workflows()
    );
    assert!(ledger.steps() >= rounds, "the writers got nothing done");
}
