//! Scripts where not every node runs them, and while the database is away (transports §6).
//!
//! `tasks.retry_timeout` is left at its 30 s, longer than anything here is waited for.

use std::fs;
use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;

use super::entry::Over;
use super::relay::Relay;
use crate::harness::database::Database;
use crate::harness::process::Signal;
use crate::harness::scripts::{
    ENABLED, SHORT_LEASE, base64, create, is_running, lines, outcome, resolved, settled, until,
    write,
};
use crate::harness::server::{Server, lock, unique};

/// Leaves a line and its process id and waits to be let go, at most until the test is over.
const WAITS: &str =
    "echo $$ >> pids; while [ -e pids ] && [ ! -e go ]; do sleep 0.02; done; echo done";
/// Does not end by itself as long as the test lasts; says when it is told to.
const TRAPS: &str = "trap 'echo stopped >> stopped; exit 0' TERM; echo $$ >> pids; \
                     while [ -e pids ]; do sleep 0.02; done";

fn run(node: &Server, id: &str, script: &str) {
    create(node, id, "bash:///", Some(&base64(script)), i64::MAX);
}

#[test]
fn scripts_run_on_the_node_that_may_run_them_whoever_is_asked() {
    let database = Database::fresh();
    // With a place for each: what found none would be looked for again.
    let flags = [
        &ENABLED[..],
        &["--transports-bash-exec-concurrency", "1000"],
    ]
    .concat();
    let a = Server::on(&database.url(), &[]);
    run(&a, "before", "pwd -P");
    let is_over = AtomicBool::new(false);
    let ids = Mutex::new(vec!["before".to_owned()]);
    let b = thread::scope(|scope| {
        let _over = Over(&is_over);
        // While the nodes get to know each other, too.
        scope.spawn(|| {
            while !is_over.load(Ordering::SeqCst) {
                let id = unique("s");
                run(&a, &id, "pwd -P");
                lock(&ids).push(id);
            }
        });
        let b = Server::on(&database.url(), &flags);
        let first = outcome(&settled(&b, "before"));
        let home = b.home().canonicalize().unwrap();
        assert_eq!(first, resolved(home.to_str().unwrap()));
        b
    });
    for _ in 0..5 {
        for node in [&a, &b] {
            let id = unique("s");
            run(node, &id, "pwd -P");
            lock(&ids).push(id);
        }
    }
    let home = b.home().canonicalize().unwrap();
    for id in lock(&ids).iter() {
        let outcome = outcome(&settled(&a, id));
        assert_eq!(outcome, resolved(home.to_str().unwrap()), "{id}");
    }
}

#[test]
fn a_script_whose_node_is_killed_runs_again_on_another() {
    let database = Database::fresh();
    let flags = [&ENABLED[..], &SHORT_LEASE].concat();
    let [a, mut b] = [&SHORT_LEASE[..], &flags].map(|flags| Server::on(&database.url(), flags));
    run(&a, "s", WAITS);
    lines(&b.home().join("pids"), 1);
    let c = Server::on(&database.url(), &flags);
    b.signal(Signal::Kill);
    b.wait();
    lines(&c.home().join("pids"), 1);
    assert_eq!(a.client().task("s")["version"], 2);
    write(&c.home().join("go"), "");
    assert_eq!(outcome(&settled(&a, "s")), resolved("done"));
}

#[test]
fn a_script_is_stopped_when_no_heartbeat_gets_through_and_runs_again() {
    let database = Database::fresh();
    let relay = Relay::to(&database);
    let flags = [&ENABLED[..], &SHORT_LEASE].concat();
    let server = Server::on(&relay.url(&database.url()), &flags);
    let pids = server.home().join("pids");
    run(&server, "s", TRAPS);
    let first = lines(&pids, 1);
    relay.block();
    lines(&server.home().join("stopped"), 1);
    until("it has ended", || !is_running(&first[0]));
    fs::remove_file(&pids).unwrap();
    relay.unblock();
    lines(&pids, 1);
    assert_eq!(server.client().task("s")["version"], 2);
}

#[test]
fn the_outcome_of_a_script_is_kept_while_the_database_is_away() {
    let database = Database::fresh();
    let relay = Relay::to(&database);
    // So short that the first attempts to store it are given up.
    let deadline = ["--server-request-deadline", "300"];
    let flags = [&ENABLED[..], &deadline].concat();
    let server = Server::on(&relay.url(&database.url()), &flags);
    let home = server.home();
    run(
        &server,
        "s",
        &format!("{WAITS}; echo over >> over; echo twice"),
    );
    lines(&home.join("pids"), 1);
    relay.block();
    write(&home.join("go"), "");
    lines(&home.join("over"), 1);
    let before = relay.refused();
    until("it is tried again and again", || {
        relay.refused() >= before + 20
    });
    relay.unblock();
    assert_eq!(outcome(&settled(&server, "s")), resolved("done\ntwice"));
    assert_eq!(lines(&home.join("pids"), 1).len(), 1);
    assert_eq!(server.client().task("s")["version"], 1);
}
