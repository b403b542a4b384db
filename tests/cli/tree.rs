//! The call graph (cli §6).

use serde_json::{Value, json};

use super::worker::encoded;
use crate::harness::command::start;
use crate::harness::process::Signal;
use crate::harness::record;
use crate::harness::server::{Server, shared_single, unique};

/// Creates a promise of a graph; `call` is the function that its param names.
#[track_caller]
pub fn node(server: &Server, root: &str, (id, parent): (&str, &str), scope: &str, call: &str) {
    let mut tags = json!({"resonate:origin": root, "resonate:parent": parent});
    match scope {
        "timer" => tags["resonate:timer"] = json!("true"),
        scope => tags["resonate:scope"] = json!(scope),
    }
    let mut data = record::create(id, i64::MAX, tags);
    if !call.is_empty() {
        data["param"] = json!({"data": encoded(&json!({"func": call}))});
    }
    server.ok("promise.create", data);
}

/// The graph of the reference: an order that is being shipped.
#[track_caller]
pub fn order(server: &Server, root: &str) {
    node(server, root, (root, root), "global", "order");
    for (n, scope, call) in [
        (0, "local", "charge"),
        (1, "timer", ""),
        (2, "global", "ship"),
    ] {
        node(server, root, (&format!("{root}:{n}"), root), scope, call);
    }
    for id in [root, &format!("{root}:0"), &format!("{root}:1")] {
        server.client().settle(id, "resolved");
    }
}

#[test]
fn the_example_of_the_reference_is_drawn() {
    let server = Server::single();
    order(&server, "order-1");
    server.cli(&["tree", "order-1"]).expect(
        0,
        "order-1 🟢 (rpc order)\n\
         ├── order-1:0 🟢 (run charge)\n\
         ├── order-1:1 🟢 (sleep)\n\
         └── order-1:2 🟡 (rpc ship)\n",
        "",
    );
}

#[test]
fn every_state_and_scope_has_its_sign() {
    let server = shared_single();
    let root = unique("signs");
    let id = |n: usize| format!("{root}.{n}");
    node(&server, &root, (&root, &root), "", "");
    node(&server, &root, (&id(0), &root), "global", "");
    node(&server, &root, (&id(1), &id(0)), "local", "");
    node(&server, &root, (&id(2), &id(0)), "elsewhere", "f");
    // A promise of this graph whose parent is not.
    node(&server, &root, (&id(3), "nobody"), "local", "f");
    // Past its deadline when it is born.
    let tags = json!({"resonate:origin": root, "resonate:parent": root});
    server.client().create(&id(4), 1, tags);
    server.client().settle(&id(0), "rejected");
    server.client().settle(&id(1), "rejected_canceled");
    // By birth; the one that timed out was born when it did.
    server.cli(&["tree", &root]).expect(
        0,
        &format!(
            "{root} 🟡\n\
             ├── {root}.4 🔴\n\
             ├── {root}.0 🔴 (rpc)\n\
             │   ├── {root}.1 🔴 (run)\n\
             │   └── {root}.2 🟡\n\
             └── {root}.3 🟡 (run f)\n"
        ),
        "",
    );
}

#[test]
fn a_root_need_not_have_tags_nor_exist() {
    let server = shared_single();
    let root = unique("bare");
    server.client().create(&root, i64::MAX, json!({}));
    server
        .cli(&["tree", &root])
        .expect(0, &format!("{root} 🟡\n"), "");
    let gone = unique("gone");
    node(&server, &gone, (&format!("{gone}.0"), &gone), "local", "f");
    let expected = format!("{gone}\n└── {gone}.0 🟡 (run f)\n");
    server.cli(&["tree", &gone]).expect(0, &expected, "");
}

#[test]
fn graphs_of_several_pages_are_whole() {
    let server = shared_single();
    let root = unique("pages");
    node(&server, &root, (&root, &root), "global", "");
    for n in 0..205 {
        node(
            &server,
            &root,
            (&format!("{root}.{n:03}"), &root),
            "local",
            "",
        );
    }
    let done = server.cli(&["tree", &root]);
    let lines: Vec<&str> = done.stdout.lines().collect();
    assert_eq!((done.code, lines.len()), (Some(0), 206));
    assert_eq!(lines[205], format!("└── {root}.204 🟡 (run)"));
}

#[test]
fn with_output_json_the_records_are_printed_in_the_order_of_the_tree() {
    let server = shared_single();
    let root = unique("json");
    order(&server, &root);
    let printed = server.cli(&["tree", &root, "--output", "json"]).json();
    let ids = [
        root.clone(),
        format!("{root}:0"),
        format!("{root}:1"),
        format!("{root}:2"),
    ];
    let records: Vec<Value> = ids.iter().map(|id| server.client().get(id)).collect();
    assert_eq!(printed, json!({"promises": records}));
}

#[test]
fn a_watched_tree_is_printed_whenever_it_changes_until_its_root_is_settled() {
    let server = shared_single();
    let root = unique("watch");
    node(&server, &root, (&root, &root), "global", "order");
    let mut watching = start(&mut server.command(&["tree", &root, "--watch"]));
    let pending = format!("{root} 🟡 (rpc order)\n");
    watching.prints(&pending);
    node(
        &server,
        &root,
        (&format!("{root}:0"), &root),
        "local",
        "charge",
    );
    let grown = format!("\n{pending}└── {root}:0 🟡 (run charge)\n");
    watching.prints(&grown);
    server.client().settle(&root, "rejected");
    let done = grown.replacen("🟡", "🔴", 1);
    watching
        .end()
        .expect(0, &format!("{pending}{grown}{done}"), "");
    // Nothing to wait for.
    let once = server.cli(&["tree", &root, "-w"]);
    once.expect(0, done.trim_start(), "");
}

#[test]
fn ctrl_c_ends_watching() {
    let server = shared_single();
    let root = unique("interrupted");
    node(&server, &root, (&root, &root), "global", "order");
    let mut watching = start(&mut server.command(&["tree", &root, "--watch"]));
    let pending = format!("{root} 🟡 (rpc order)\n");
    watching.prints(&pending);
    watching.signal(Signal::Interrupt);
    watching.end().expect(130, &pending, "");
}
