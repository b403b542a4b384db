//! All integration tests, in one binary: that keeps link time flat.
//!
//! - `cli`: the command line, against the real server, in pipes and on terminals.
//! - `protocol`, `surface`, `storage`: the real server, spoken to over HTTP as workers and clients do.
//! - `cluster`: several real servers on one database, which die, and whose database dies.
//! - `docs`: every block of the documentation, carried out or read.
//! - `fuzz`: whatever bytes there may be, to everything that reads bytes from outside.
//! - `model`: random histories through the state machine and the stores, against an oracle.
//! - `sim`: the whole server in simulated time, by seed: faults of storage, network, workers and processes.
//! - `linear`: what many clients of real servers see at once, in the order of the machine.
//! - `tidy`: house rules about the sources.
//!
//! Every file is listed here; one that is not is found by [`no_file_is_forgotten`]. Sections, rows and
//! decisions cited (`protocol §8`, `row 3`, `C11`, `D-02`) are those of the documents that
//! `docs/architecture.md` names.

mod harness {
    pub mod client;
    pub mod collector;
    pub mod command;
    pub mod database;
    #[cfg(target_os = "linux")]
    pub mod disk;
    pub mod google;
    pub mod group;
    pub mod http;
    pub mod issuer;
    pub mod jwks;
    pub mod loopback;
    pub mod mcp;
    pub mod openapi;
    pub mod postgres;
    pub mod process;
    pub mod proxy;
    pub mod record;
    pub mod scripts;
    pub mod server;
    pub mod sink;
    pub mod snap;
    pub mod sse;
    pub mod store;
    pub mod terminal;
    pub mod tls;
}

mod cli {
    mod connection;
    pub mod docs;
    mod doctor;
    mod failures;
    mod fake;
    mod mcp;
    mod mcp_listen;
    mod moving;
    mod requests;
    mod targets;
    mod terminal;
    pub mod tree;
    mod wait;
    pub mod worker;
}

mod cluster {
    mod chaos;
    mod client;
    mod database;
    pub mod entry;
    mod ledger;
    mod messages;
    mod relay;
    mod scripts;
    mod stored;
    mod worker;
}

mod docs {
    mod blocks;
    mod configuration;
    mod links;
    mod walk;
}

mod fuzz;

mod model;

mod protocol {
    mod addresses;
    mod deadlines;
    mod debug;
    mod dispatch;
    mod envelope;
    mod field_limits;
    mod preload;
    mod projection;
    mod promise_create;
    mod promise_get;
    mod promise_register_callback;
    mod promise_register_listener;
    mod promise_search;
    mod promise_settle;
    mod resume;
    mod schedule_fires;
    mod schedules;
    mod tag_rules;
    mod task_acquire;
    mod task_create;
    mod task_fence;
    mod task_fulfill;
    mod task_get;
    mod task_heartbeat;
    mod task_release_halt_continue;
    mod task_search;
    mod task_suspend;
    mod validation;
}

mod linear;

mod sim;

mod storage {
    mod connection;
    pub mod content;
    mod crash;
    mod database;
    mod deliveries;
    #[cfg(target_os = "linux")]
    mod faults;
    #[cfg(target_os = "linux")]
    mod power;
    mod retention;
    mod schema;
    pub mod workflow;
    mod writers;
}

mod surface {
    mod alerts;
    mod auth_keys;
    mod auth_leaks;
    mod auth_poll;
    mod auth_table;
    mod bash;
    mod bash_scripts;
    mod connections;
    mod cors;
    mod delivery;
    mod gcps;
    mod hostile;
    mod http;
    mod lifecycle;
    mod logs;
    mod malformed;
    pub mod metrics;
    mod openapi;
    mod push;
    mod push_auth;
    mod push_targets;
    mod rates;
    mod retention;
    mod secrets;
    mod sse;
    mod stalled;
    mod targets;
    mod tls;
    mod traces;
}

mod tidy;

#[test]
fn no_file_is_forgotten() {
    let block = |folder: &str| {
        include_str!("main.rs")
            .split_once(&format!("\nmod {folder} {{"))
            .and_then(|(_, rest)| rest.split_once('}'))
            .map(|(block, _)| block)
            .unwrap_or_else(|| panic!("main.rs has no module {folder}"))
    };
    for (folder, listed) in [
        ("harness", block("harness")),
        ("cli", block("cli")),
        ("cluster", block("cluster")),
        ("docs", block("docs")),
        ("protocol", block("protocol")),
        ("storage", block("storage")),
        ("surface", block("surface")),
        ("model", include_str!("model/mod.rs")),
        ("model/oracle", include_str!("model/oracle/mod.rs")),
        ("linear", include_str!("linear/mod.rs")),
        ("sim", include_str!("sim/mod.rs")),
    ] {
        let path = std::path::Path::new(env!("CARGO_MANIFEST_DIR"))
            .join("tests")
            .join(folder);
        for entry in std::fs::read_dir(&path).expect("the folder is readable") {
            let file = entry.expect("the entry is readable").path();
            if file.extension().is_none_or(|extension| extension != "rs") {
                continue;
            }
            let stem = file.file_stem().expect("a file has a name");
            let stem = stem.to_str().expect("file names are UTF-8");
            assert!(
                stem == "mod" || listed.contains(&format!("mod {stem};")),
                "tests/{folder}/{stem}.rs is not listed as a module"
            );
        }
    }
}
