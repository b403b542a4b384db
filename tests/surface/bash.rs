//! Bash exec (transports §6): the life of the tasks whose scripts the server runs.
//!
//! Inline scripts run in the server's working directory: that is where these leave their marks.

use std::fs;
use std::process::Command;

use serde_json::json;

use crate::harness::process::Signal;
use crate::harness::scripts::{
    ENABLED, SHORT_LEASE, base64, create, is_running, lines, outcome, resolved, run, server,
    settled, until, write,
};
use crate::harness::server::{Server, unique, wall_clock_ms};
use crate::harness::sse::Stream;
use crate::harness::store::forgets_on_restart;

/// Leaves its process id and waits to be let go, at most until the test is over.
const WAITS: &str =
    "echo $$ >> pids; while [ -e pids ] && [ ! -e go ]; do sleep 0.02; done; echo done";
/// Leaves the ids of itself and of a child, and says when it is told to end. Ends with the test, too.
const TRAPS: &str = "trap 'echo stopped >> stopped; exit 0' TERM; sleep 1000 & \
                     printf '%s\\n' $! $$ > pids; while [ -e pids ]; do sleep 0.02; done; kill $!";

#[test]
fn disabled_it_runs_nothing_and_says_so_once() {
    let server = Server::single();
    for _ in 0..3 {
        create(
            &server,
            &unique("s"),
            "bash:///",
            Some(&base64("touch ran")),
            i64::MAX,
        );
    }
    // Whatever came before has been dispatched.
    let stream = Stream::open(&server, "g", "w");
    server
        .client()
        .create("y", i64::MAX, json!({"resonate:target": "poll://any@g"}));
    assert_eq!(stream.next_execute().0, "y");
    until("it is logged", || {
        server.log().contains("transport disabled")
    });
    assert_eq!(server.log().matches("transport disabled").count(), 1);
    assert!(!server.home().join("ran").exists());
}

#[test]
fn what_waited_for_scripts_to_be_enabled_runs_at_once() {
    if forgets_on_restart() {
        return;
    }
    let flag = |value| ["--transports-bash-exec-enabled", value].map(str::to_owned);
    let server = Server::with(&["--transports-bash-exec-enabled", "false"]);
    create(
        &server,
        "s",
        "bash:///",
        Some(&base64("echo late")),
        i64::MAX,
    );
    let server = server.restart_with(Signal::Term, &flag("true"));
    assert_eq!(outcome(&settled(&server, "s")), resolved("late"));
}

#[test]
fn a_task_that_somebody_else_acquires_meanwhile_is_left_to_them() {
    let server =
        Server::single_with(&[&ENABLED[..], &["--transports-bash-exec-concurrency", "1"]].concat());
    let run = |id: &str, script: &str| {
        create(&server, id, "bash:///", Some(&base64(script)), i64::MAX);
    };
    run("first", WAITS);
    lines(&server.home().join("pids"), 1);
    // It waits for the only place.
    run("second", "echo second >> ran");
    server.client().acquire("second", 0, i64::MAX);
    run("third", "echo third >> ran");
    write(&server.home().join("go"), "");
    settled(&server, "third");
    assert_eq!(lines(&server.home().join("ran"), 1), ["third"]);
    assert_eq!(server.client().task("second")["pid"], "p");
}

#[test]
fn a_script_that_is_killed_runs_again_at_a_higher_version() {
    let server = server(&SHORT_LEASE);
    create(&server, "s", "bash:///", Some(&base64(WAITS)), i64::MAX);
    let pids = server.home().join("pids");
    let first = lines(&pids, 1);
    assert_eq!(server.client().task("s")["version"], 1);
    let killed = Command::new("kill").args(["-9", &first[0]]).status();
    assert!(killed.unwrap().success());
    lines(&pids, 2);
    assert_eq!(server.client().task("s")["version"], 2);
    write(&server.home().join("go"), "");
    assert_eq!(outcome(&settled(&server, "s")), resolved("done"));
}

#[test]
fn a_script_keeps_its_lease_as_long_as_it_runs() {
    let server = server(&SHORT_LEASE);
    let script = base64("echo run >> runs; sleep 5; cat runs");
    assert_eq!(run(&server, "bash:///", Some(&script)), resolved("run"));
}

#[test]
fn a_script_whose_server_is_killed_runs_again() {
    if forgets_on_restart() {
        return;
    }
    let server = server(&SHORT_LEASE);
    create(&server, "s", "bash:///", Some(&base64(WAITS)), i64::MAX);
    let pids = server.home().join("pids");
    lines(&pids, 1);
    let server = server.restart(Signal::Kill);
    lines(&pids, 2);
    assert_eq!(server.client().task("s")["version"], 2);
    write(&server.home().join("go"), "");
    assert_eq!(outcome(&settled(&server, "s")), resolved("done"));
}

#[test]
fn a_server_that_stops_ends_its_scripts_and_the_next_runs_them_again() {
    let mut server = server(&SHORT_LEASE);
    create(&server, "s", "bash:///", Some(&base64(TRAPS)), i64::MAX);
    let home = server.home().to_owned();
    let first = lines(&home.join("pids"), 2);
    server.signal(Signal::Term);
    assert_eq!(server.wait(), Some(0));
    assert_eq!(lines(&home.join("stopped"), 1), ["stopped"]);
    for pid in first {
        until("it has ended", || !is_running(&pid));
    }
    if forgets_on_restart() {
        return;
    }
    fs::remove_file(home.join("pids")).unwrap();
    let server = server.restart_stopped();
    lines(&home.join("pids"), 2);
    assert_eq!(server.client().task("s")["version"], 2);
}

#[test]
fn a_script_that_nobody_waits_for_any_more_is_stopped() {
    type Act = fn(&Server);
    let acts: [(i64, Act); 4] = [
        (i64::MAX, |server| {
            server.client().settle("s", "rejected_canceled");
        }),
        (i64::MAX, |server| server.client().halt("s")),
        (i64::MAX, |server| server.client().release("s", 1)),
        // The deadline.
        (3_000, |_| {}),
    ];
    // Released, it is offered again.
    for (n, (timeout, act)) in acts.into_iter().enumerate() {
        let server = server(&SHORT_LEASE);
        let timeout_at = wall_clock_ms().saturating_add(timeout);
        let script = format!("[ -e pids ] && exit; {TRAPS}");
        create(&server, "s", "bash:///", Some(&base64(script)), timeout_at);
        let pids = lines(&server.home().join("pids"), 2);
        act(&server);
        lines(&server.home().join("stopped"), 1);
        for pid in pids {
            until("it has ended", || !is_running(&pid));
        }
        let state = server.client().get("s")["state"].clone();
        match n {
            0 => assert_eq!(state, "rejected_canceled"),
            1 => assert_eq!(state, "pending"),
            2 => assert_eq!(outcome(&settled(&server, "s")), resolved("")),
            _ => assert_eq!(state, "rejected_timedout"),
        }
    }
}

#[test]
fn what_finds_no_place_waits_in_the_store() {
    const COUNT: usize = 12;
    let server =
        Server::single_with(&[&ENABLED[..], &["--transports-bash-exec-concurrency", "2"]].concat());
    let script = "mkdir running.$$; ls -d running.* | wc -l; sleep 0.05; rmdir running.$$";
    let ids: Vec<String> = (0..COUNT).map(|_| unique("s")).collect();
    for id in &ids {
        create(&server, id, "bash:///", Some(&base64(script)), i64::MAX);
    }
    // Without waiting for a retry, which would take longer than the deadline.
    for id in &ids {
        let (state, running) = outcome(&settled(&server, id));
        assert_eq!(state, "resolved");
        assert!(["1", "2"].contains(&running.trim()), "{running} at once");
    }
}
