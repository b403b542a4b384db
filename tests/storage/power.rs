//! Power cuts under concurrent writers: what of the files was synced is there afterwards, and of the rest whatever
//! happens to be.

use resonate::store::Dump;
use resonate::store::Store;
use resonate::store::sqlite::{Durability, SqliteStore};

use super::writers::Ledger;
use crate::harness::disk::{Disk, Unsynced};
use crate::harness::process::Signal;
use crate::harness::server::Server;
use crate::harness::store::is_on_files;

pub fn dump(disk: &Disk) -> Dump {
    let runtime = tokio::runtime::Runtime::new().expect("a runtime starts");
    runtime.block_on(async {
        let opened = SqliteStore::open(&disk.database(), Durability::PowerLoss, 0).await;
        let store = opened.expect("the database opens after a power cut");
        let dump = store.dump().await.expect("the database reads");
        store.close().await;
        dump
    })
}

/// Writes until some time after `at_least` steps, then cuts the power.
fn cut(disk: &mut Disk, ledger: &mut Ledger, name: &str, at_least: usize, flags: &[&str]) {
    let mut server = Server::on_disk(disk, flags);
    let until = at_least + fastrand::usize(1..400);
    ledger.write(&server, name, |count| {
        if count == until {
            server.signal(Signal::Kill);
        }
    });
    server.wait();
}

#[test]
fn a_power_cut_takes_back_nothing_acknowledged_and_leaves_nothing_half_done() {
    if !is_on_files() {
        return;
    }
    let rounds: usize = std::env::var("RESONATE_POWER_ROUNDS")
        .map(|rounds| rounds.parse().expect("RESONATE_POWER_ROUNDS is a number"))
        .unwrap_or(6);
    let mut disk = Disk::new();
    let mut ledger = Ledger::default();
    for round in 0..rounds {
        let unsynced = [Unsynced::Lost, Unsynced::Torn, Unsynced::Kept][round % 3];
        // A log that is long enough is moved into the database meanwhile.
        cut(&mut disk, &mut ledger, &format!("r{round}"), 400, &[]);
        disk.loses_power(unsynced);
        ledger.check(dump(&disk), &format!("round {round}, {unsynced:?}"));
        // What that has written is not what the next server finds.
        disk.loses_power(Unsynced::Kept);
    }
    eprintln!(
        "{rounds} power cuts, {} steps of {} workflows acknowledged, none lost",
        ledger.steps(),
        ledger.workflows()
    );
}

/// `storage.sqlite.synchronous` (resonate.toml): whole commits may be missing, the latest ones. Also shows that
/// these disks do forget.
#[test]
fn without_syncs_a_power_cut_takes_back_whole_commits_only() {
    if !is_on_files() {
        return;
    }
    let mut disk = Disk::new();
    let mut ledger = Ledger::default();
    let flags = ["--storage-sqlite-synchronous", "normal"];
    cut(&mut disk, &mut ledger, "w", 200, &flags);
    disk.loses_power(Unsynced::Lost);
    let lost = ledger.check_sound(dump(&disk), "without syncs");
    assert!(lost > 0, "every step had been synced");
}
