//! Slots and orders, and real processes.

use std::future::pending;
use std::path::Path;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use bytes::Bytes;
use tokio::process::Command;
use tokio::sync::mpsc::UnboundedReceiver;

use super::process::{Ended, OUTPUT_BYTES_MAX, run};
use super::{BashExec, Order};
use crate::protocol::address::{Address, Rules};
use crate::transport::{Outcome, Outgoing, Receipt, Room, Transport};

#[derive(Default)]
struct Heard(AtomicUsize);

impl Heard {
    fn room(self: &Arc<Self>) -> Room {
        let heard = Arc::clone(self);
        Box::new(move || {
            heard.0.fetch_add(1, Ordering::SeqCst);
        })
    }
}

struct Rig {
    transport: BashExec,
    orders: UnboundedReceiver<Order>,
    heard: Arc<Heard>,
    outcomes: Arc<Mutex<Vec<(usize, Outcome)>>>,
}

impl Rig {
    fn new() -> Rig {
        let heard = Arc::new(Heard::default());
        let (transport, orders) = BashExec::new(2, heard.room());
        Rig {
            transport,
            orders,
            heard,
            outcomes: Arc::default(),
        }
    }

    fn send(&self, n: usize) {
        let outcomes = Arc::clone(&self.outcomes);
        self.transport.send(Outgoing {
            address: Address::parse("bash:///", &Rules::default()).unwrap(),
            body: Bytes::from(n.to_string()),
            trace: None,
            receipt: Receipt::new(move |outcome| {
                let mut outcomes = outcomes.lock().unwrap_or_else(PoisonError::into_inner);
                outcomes.push((n, outcome));
            }),
        });
    }

    /// The next order, by the number in its message.
    async fn next(&mut self) -> Option<(Bytes, Order)> {
        settled().await;
        let order = self.orders.try_recv().ok()?;
        Some((order.body.clone(), order))
    }

    fn outcomes(&self) -> Vec<(usize, Outcome)> {
        std::mem::take(&mut *self.outcomes.lock().unwrap())
    }
}

/// Has everything happen that is not waiting for somebody else.
async fn settled() {
    for _ in 0..20 {
        tokio::task::yield_now().await;
    }
}

#[tokio::test]
async fn messages_beyond_the_slots_wait_and_beyond_those_are_handed_back() {
    let mut rig = Rig::new();
    for n in 0..5 {
        rig.send(n);
    }
    assert_eq!(rig.outcomes(), [(4, Outcome::Nobody)]);
    let (first, first_order) = rig.next().await.unwrap();
    let (second, _second_order) = rig.next().await.unwrap();
    assert_eq!((&first[..], &second[..]), (&b"0"[..], &b"1"[..]));
    assert!(rig.next().await.is_none());
    assert_eq!(rig.heard.0.load(Ordering::SeqCst), 0);
    first_order.receipt.report(Outcome::Delivered);
    drop(first_order.slot);
    assert_eq!(rig.outcomes(), [(0, Outcome::Delivered)]);
    assert_eq!(&rig.next().await.unwrap().0[..], b"2");
    // Half of those waiting are gone.
    assert_eq!(rig.heard.0.load(Ordering::SeqCst), 1);
}

#[tokio::test]
async fn an_order_that_nobody_carries_out_gives_its_slot_back() {
    let mut rig = Rig::new();
    for n in 0..4 {
        rig.send(n);
        drop(rig.next().await);
    }
    let expected: Vec<_> = (0..4).map(|n| (n, Outcome::Nobody)).collect();
    assert_eq!(rig.outcomes(), expected);
    rig.send(4);
    assert!(rig.next().await.is_some());
}

#[tokio::test]
async fn a_closed_transport_hands_back_what_waits_and_takes_no_more() {
    let mut rig = Rig::new();
    for n in 0..3 {
        rig.send(n);
    }
    settled().await;
    rig.transport.close().await;
    rig.send(3);
    let nobody = |n| (n, Outcome::Nobody);
    assert_eq!(rig.outcomes(), [nobody(2), nobody(3)]);
    drop((rig.next().await, rig.next().await));
    assert!(rig.next().await.is_none());
}

#[tokio::test]
async fn orders_that_nobody_takes_any_more_are_handed_back() {
    let rig = Rig::new();
    for n in 0..4 {
        rig.send(n);
    }
    let Rig {
        transport,
        orders,
        outcomes,
        ..
    } = rig;
    drop(orders);
    settled().await;
    drop(transport);
    assert_eq!(outcomes.lock().unwrap().len(), 4);
}

fn bash(script: &str) -> Command {
    let mut command = Command::new("bash");
    command.args(["-c", script]);
    command
}

async fn exited(script: &str) -> (Option<i32>, String, String) {
    match run(bash(script), pending()).await.unwrap() {
        Ended::Exited {
            code,
            stdout,
            stderr,
        } => (code, stdout.text(), stderr.text()),
        Ended::Stopped => panic!("nobody stopped it"),
    }
}

#[tokio::test]
async fn a_program_is_read_to_its_end() {
    let (code, stdout, stderr) = exited("echo out; echo err >&2; printf ' \\n\\t'; exit 3").await;
    assert_eq!(
        (code, &*stdout, &*stderr),
        (Some(3), "out", "err"),
        "trailing whitespace is not kept"
    );
    assert_eq!(exited("kill -9 $$").await.0, None);
    // What is left of it belongs to it, as in `$(…)`.
    assert_eq!(
        exited("(sleep 0.2; echo late) & echo early").await.1,
        "early\nlate"
    );
    // Nothing is on its stdin, whatever is on ours.
    assert_eq!(exited("cat; echo over").await.1, "over");
}

#[tokio::test]
async fn output_is_bounded_and_does_not_hold_up_the_program() {
    // An é on the bound is left out rather than cut in two.
    let script = format!(
        "head -c {} /dev/zero | tr '\\0' x; for i in {{1..9}}; do printf é; done; \
         head -c 300000 /dev/zero",
        OUTPUT_BYTES_MAX - 1
    );
    let Ended::Exited { code, stdout, .. } = run(bash(&script), pending()).await.unwrap() else {
        panic!("nobody stopped it");
    };
    assert_eq!(code, Some(0));
    assert_eq!(stdout.bytes_cut, 300_000 + 17);
    assert_eq!(stdout.text(), "x".repeat(OUTPUT_BYTES_MAX - 1));
    assert_eq!(exited("printf 'a\\xffb'").await.1, "a\u{fffd}b");
}

/// Starts a script that prints `ready` into a file, and stops it then.
async fn stopped(script: &str, grace: Duration, home: &Path) -> Ended {
    let ready = home.join("ready");
    let stop = async {
        while !ready.exists() {
            tokio::time::sleep(Duration::from_millis(2)).await;
        }
        grace
    };
    let mut command = bash(script);
    command.current_dir(home);
    run(command, stop).await.unwrap()
}

fn is_running(pid: &str) -> bool {
    // A zombie is not.
    let stat = std::fs::read_to_string(format!("/proc/{}/stat", pid.trim()));
    stat.is_ok_and(|stat| !stat.contains(") Z "))
}

#[tokio::test]
async fn a_stopped_program_may_clean_up() {
    let home = tempfile::tempdir().unwrap();
    let script = "trap 'echo bye > cleaned; exit 0' TERM; : > ready; while :; do sleep 0.01; done";
    let ended = stopped(script, Duration::from_secs(10), home.path()).await;
    assert_eq!(ended, Ended::Stopped);
    assert!(home.path().join("cleaned").exists());
}

#[tokio::test]
async fn a_program_that_does_not_stop_is_killed_with_all_its_group() {
    let home = tempfile::tempdir().unwrap();
    // The child closes the pipes; only the group's id leads to it.
    let script = "trap '' TERM; (exec >&- 2>&-; sleep 1000) & echo $! > child; : > ready; wait";
    let ended = stopped(script, Duration::from_millis(50), home.path()).await;
    assert_eq!(ended, Ended::Stopped);
    let child = std::fs::read_to_string(home.path().join("child")).unwrap();
    while is_running(&child) {
        tokio::time::sleep(Duration::from_millis(2)).await;
    }
}

#[tokio::test]
async fn a_program_that_is_forgotten_is_killed() {
    let home = tempfile::tempdir().unwrap();
    let mut script = bash("echo $$ > pid; mv pid ready; sleep 1000");
    script.current_dir(home.path());
    let running = tokio::spawn(run(script, pending()));
    let ready = home.path().join("ready");
    while !ready.exists() {
        tokio::time::sleep(Duration::from_millis(2)).await;
    }
    running.abort();
    assert!(running.await.is_err());
    let pid = std::fs::read_to_string(ready).unwrap();
    while is_running(&pid) {
        tokio::time::sleep(Duration::from_millis(2)).await;
    }
}
