//! Retention and sudden death: what is over goes in the end, what lives is there at any moment, and no promise is
//! gone before those below it.

use std::collections::BTreeSet;

use resonate::machine::invariant::{State, check_state};
use resonate::protocol::lineage::above;
use resonate::store::Dump;
use serde_json::json;

use super::crash::dump;
use crate::harness::database::Database;
use crate::harness::disk::{Disk, Fault};
use crate::harness::process::Signal;
use crate::harness::scripts::until;
use crate::harness::server::{Server, free_port, wall_clock_ms};
use crate::harness::store::{forgets_on_restart, is_on_files};
use crate::surface::metrics::{reaches, scrape, value};

/// Trees that are over, of five promises each but one that is larger than a batch.
const SMALL: usize = 60;
const LARGE: usize = 150;
/// Trees that live, of three.
const LIVE: usize = 10;
const RUN: [&str; 8] = [
    "--retention-after",
    "1",
    "--retention-interval",
    "1",
    "--retention-batch-size",
    "10",
    "--retention-rate",
    "1000",
];

fn fill(server: &Server) -> BTreeSet<String> {
    let client = server.client();
    let settled = |id: &str| {
        client.create(id, i64::MAX, json!({}));
        client.settle(id, "resolved");
    };
    for n in 0..SMALL {
        for child in ["", ".0", ".0:1", ":1", ":2"] {
            settled(&format!("over-{n}{child}"));
        }
    }
    settled("large");
    for n in 0..LARGE {
        settled(&format!("large:{}.{n}", n % 10));
        settled(&format!("large:{}", n % 10));
    }
    let mut live = BTreeSet::new();
    for n in 0..LIVE {
        let ids = [
            format!("live-{n}"),
            format!("live-{n}.0"),
            format!("live-{n}:1"),
        ];
        client.own(&ids[0], i64::MAX, 3_600_000);
        settled(&ids[1]);
        settled(&ids[2]);
        live.extend(ids);
    }
    live
}

/// What is over and still there.
#[track_caller]
fn check(dump: Dump, live: &BTreeSet<String>) -> usize {
    let now = wall_clock_ms();
    let state = State::of(&dump.objects, dump.schedules, Vec::new(), now, 30_000);
    check_state(&state).unwrap_or_else(|violation| panic!("{violation}"));
    let ids: BTreeSet<String> = dump
        .objects
        .iter()
        .map(|object| object.promise.id.to_string())
        .collect();
    let lost: Vec<&String> = live.difference(&ids).collect();
    assert!(lost.is_empty(), "{lost:?}");
    for id in &ids {
        for root in above(id) {
            assert!(ids.contains(root), "{root} is gone, and {id} is there");
        }
    }
    ids.len() - live.len()
}

#[test]
fn kill_9_leaves_what_the_next_walk_finishes() {
    if forgets_on_restart() {
        return;
    }
    let rounds: usize = std::env::var("RESONATE_RETENTION_ROUNDS")
        .map(|rounds| {
            rounds
                .parse()
                .expect("RESONATE_RETENTION_ROUNDS is a number")
        })
        .unwrap_or(1);
    let runtime = tokio::runtime::Runtime::new().expect("a runtime starts");
    for round in 0..rounds {
        let mut server = Server::single_with(&[]);
        let live = fill(&server);
        let run: Vec<String> = RUN.map(str::to_owned).to_vec();
        server.signal(Signal::Term);
        let (mut kills, mut halfway) = (0, 0);
        loop {
            server.wait();
            let left = runtime.block_on(async { check(dump(&server).await, &live) });
            if left == 0 {
                break;
            }
            halfway += usize::from(kills > 0 && left < 5 * SMALL);
            server = server.restart_stopped_with(&run);
            // It begins as soon as the server listens.
            for _ in 0..fastrand::usize(0..200) {
                server.client().get("live-0");
            }
            server.signal(Signal::Kill);
            kills += 1;
            assert!(kills < 500, "nothing is deleted any more");
        }
        eprintln!("round {round}: {kills} kills, {halfway} of them halfway");
        assert!(kills > 0);
    }
}

/// The walk that the disk interrupts is the one that ends: the next would not begin in the time of a test.
#[test]
fn a_disk_that_fails_is_waited_for() {
    if !is_on_files() {
        return;
    }
    let disk = Disk::new();
    let mut server = Server::on_disk(&disk, &[]);
    fill(&server);
    server.signal(Signal::Term);
    server.wait();
    let port = free_port();
    let metrics = port.to_string();
    let run = [
        ["--retention-after", "1"],
        ["--retention-interval", "600000"],
        ["--retention-rate", "200"],
        ["--observability-metrics-port", &metrics],
    ];
    let run = run.concat().into_iter().map(str::to_owned);
    let server = server.restart_stopped_with(&run.collect::<Vec<_>>());
    reaches(port, "resonate_retention_deleted_total", 1.0);
    disk.fails_with(Fault::Full);
    server.logs("a retention walk waits for the storage");
    disk.fails_with(Fault::Nothing);
    reaches(port, "resonate_retention_walks_total", 1.0);
    let over = 5 * SMALL + LARGE + 11;
    let deleted = value(&scrape(port), "resonate_retention_deleted_total");
    assert_eq!(deleted, over as f64);
}

/// Both walk; both delete; and what a client creates meanwhile lives on.
#[test]
fn two_nodes_delete_each_tree_once_and_nothing_that_is_created_meanwhile() {
    let database = Database::fresh();
    let server = Server::on(&database.url(), &[]);
    let live = fill(&server);
    drop(server);
    let nodes = [(); 2].map(|()| Server::on(&database.url(), &RUN));
    let mut created = Vec::new();
    let deadline = i64::MAX;
    for n in (0..SMALL).rev() {
        for (node, child) in [(&nodes[0], ".9"), (&nodes[1], ":1"), (&nodes[0], "")] {
            let id = format!("over-{n}{child}");
            let promise = node.client().create(&id, deadline, json!({}));
            if promise["state"] == "pending" {
                created.push(id);
            }
        }
    }
    until("what is over is gone", || {
        let is_gone = |id: &str| nodes[0].call("promise.get", json!({"id": id})).status == 404;
        is_gone("large")
    });
    assert!(created.len() >= SMALL);
    for id in created.iter().chain(&live) {
        let state = nodes[1].client().get(id)["state"].clone();
        assert!(state == "pending" || live.contains(id), "{id} is {state}");
    }
    for id in &created {
        nodes[0].client().settle(id, "resolved");
    }
    until("the rest is gone", || {
        let is_there = |id: &String| nodes[1].call("promise.get", json!({"id": id})).status == 200;
        !created.iter().any(is_there)
    });
    for id in &live {
        nodes[0].client().get(id);
    }
}
