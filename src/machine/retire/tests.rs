//! What goes, and what stays.

use super::*;
use crate::machine::object::{Listener, Task};
use crate::machine::{Config, Input, Step, decide, missing as missing_of};
use crate::protocol::record::{PromiseState, tag};
use crate::store::Loaded;
use crate::store::suite::{plain, tagged};

const AFTER: Millis = 100;
const NOW: Millis = 1000;
/// The last instant of which everything may go.
const OVER: Millis = NOW - AFTER;

fn settled(mut object: Object, at: Millis) -> Object {
    object.promise.state = PromiseState::Resolved;
    object.promise.settled_at = Some(at);
    if object.promise.tags.is_targeted() {
        object.task = Some(Task::cleared(TaskState::Fulfilled, 1));
    }
    object
}

fn over(id: &str) -> Object {
    settled(plain(id), OVER)
}

fn over_with(id: &str, tags: &[(&str, &str)]) -> Object {
    settled(tagged(id, tags), OVER)
}

/// What a step deletes of what is stored.
fn deleted_by(step: Retirement, stored: &[Object]) -> Vec<String> {
    let input = Input::Step(Step::Retire(step));
    let mut ws = Workspace::default();
    loop {
        let need = missing_of(&input, NOW, &ws);
        if need.is_empty() {
            break;
        }
        let is_wanted = |object: &&Object| {
            let id = &object.promise.id;
            need.objects.contains(id) || need.trees.iter().any(|root| is_within(id, root))
        };
        let objects = stored.iter().filter(is_wanted).cloned().map(Arc::new);
        let loaded = Loaded {
            objects: objects.collect(),
            ..Loaded::default()
        };
        ws.absorb(&need, loaded);
    }
    let config = Config {
        retry_timeout_ms: 1,
    };
    decide(&input, NOW, &mut ws, &config);
    let (changes, messages) = ws.finish();
    assert!(messages.is_empty() && changes.objects.is_empty() && changes.schedules.is_empty());
    let ids = changes.deleted.iter().map(|o| o.promise.id.to_string());
    ids.collect()
}

fn retired(root: &str, stored: &[Object]) -> Vec<String> {
    deleted_by(step(root, false), stored)
}

fn step(root: &str, is_part: bool) -> Retirement {
    Retirement {
        root: root.into(),
        after_ms: AFTER,
        is_part,
    }
}

#[test]
fn a_tree_that_is_over_goes_as_a_whole_and_nothing_beside_it() {
    let stored = ["t", "t.0", "t.0:1", "t:2", "t-3", "tt.4", "u"].map(over);
    assert_eq!(retired("t", &stored), ["t", "t.0", "t.0:1", "t:2"]);
    assert_eq!(retired("absent", &stored), [""; 0]);
    let target = [(tag::TARGET, "poll://any@g")];
    let stored = [over_with("t", &target), over_with("t.0", &target)];
    assert_eq!(retired("t", &stored), ["t", "t.0"]);
}

#[test]
fn a_tree_stays_as_long_as_anything_in_it_has_to() {
    let mut owing = over("t.0");
    owing
        .listeners
        .insert("http://a/".into(), Listener::default());
    let mut awaited = over("t.0");
    awaited.callbacks.insert("x".into());
    // Past its deadline, and not stored so yet.
    let mut expired = plain("t.0");
    expired.promise.timeout_at = 1;
    let mut halted = tagged("t.0", &[(tag::TARGET, "poll://any@g")]);
    halted.task = Some(Task::cleared(TaskState::Halted, 1));
    let too_early = settled(plain("t.0"), OVER + 1);
    for (why, member) in [
        ("pending", plain("t.0")),
        ("settled lately", too_early),
        ("an unblock is undelivered", owing),
        ("a callback is left", awaited),
        ("expired", expired),
        ("halted", halted),
    ] {
        assert_eq!(retired("t", &[over("t"), member]), [""; 0], "{why}");
    }
}

#[test]
fn a_tree_stays_as_long_as_what_it_hangs_on() {
    for name in [tag::ORIGIN, tag::PARENT, tag::BRANCH] {
        let stored = |other| [over("t"), over_with("t.0", &[(name, "wf:1")]), other];
        assert_eq!(retired("t", &stored(plain("wf:1"))), [""; 0], "{name}");
        let lately = settled(plain("wf:1"), OVER + 1);
        assert_eq!(retired("t", &stored(lately)), [""; 0], "{name}");
        assert_eq!(retired("t", &stored(over("wf:1"))), ["t", "t.0"]);
        // It was deleted before, or never was.
        assert_eq!(retired("t", &stored(plain("wf"))), ["t", "t.0"]);
    }
}

#[test]
fn below_a_separator_only_what_says_that_it_is_a_root_is_a_tree() {
    let root = |id: &str| over_with(id, &[(tag::ORIGIN, id)]);
    let stored = [root("job.1"), over("job.1.0"), plain("job.2")];
    assert_eq!(retired("job.1", &stored), ["job.1", "job.1.0"]);
    assert_eq!(retired("job", &stored), [""; 0]);
    assert_eq!(retired("x.1", &[over("x.1")]), [""; 0]);
    assert_eq!(retired("x", &[over("x.1")]), ["x.1"]);
    // It is part of another.
    let stored = [over("job"), root("job.1")];
    assert_eq!(retired("job.1", &stored), [""; 0]);
    assert_eq!(retired("job", &stored), ["job", "job.1"]);
}

#[test]
fn a_part_goes_with_all_below_it_if_what_it_is_below_is_over() {
    let stored = ["t", "t.0", "t.0.1", "t.2"].map(over);
    assert_eq!(deleted_by(step("t.0", true), &stored), ["t.0", "t.0.1"]);
    let stored = [plain("t"), over("t.0")];
    assert_eq!(deleted_by(step("t.0", true), &stored), [""; 0]);
    let stored = [over("t"), over("t.0"), plain("t.0.1")];
    assert_eq!(deleted_by(step("t.0", true), &stored), [""; 0]);
}

#[test]
fn nothing_goes_without_a_time() {
    let at_once = Retirement {
        after_ms: 0,
        ..step("t", false)
    };
    assert_eq!(deleted_by(at_once, &[over("t")]), [""; 0]);
}

#[test]
fn what_an_earlier_input_of_the_batch_has_created_counts() {
    let mut ws = Workspace::default();
    let need = Need {
        trees: ["t".into()].into(),
        objects: ["t.9".into()].into(),
        ..Need::default()
    };
    let loaded = Loaded {
        objects: vec![Arc::new(over("t"))],
        ..Loaded::default()
    };
    ws.absorb(&need, loaded);
    ws.insert(plain("t.9"));
    retire(&mut ws, &step("t", false), NOW);
    assert!(ws.finish().0.deleted.is_empty());
}

#[test]
fn a_tree_that_could_not_be_loaded_whole_stays() {
    let mut ws = Workspace::default();
    let need = Need {
        trees: ["t".into()].into(),
        objects: ["t".into()].into(),
        ..Need::default()
    };
    let loaded = Loaded {
        objects: vec![Arc::new(over("t"))],
        are_trees_cut: true,
        ..Loaded::default()
    };
    ws.absorb(&need, loaded);
    retire(&mut ws, &step("t", false), NOW);
    assert!(ws.finish().0.deleted.is_empty());
}
