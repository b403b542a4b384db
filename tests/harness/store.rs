//! What the tests run on, and what that means for what they may expect.

/// What the tests run on.
#[derive(Clone, Copy, PartialEq, Eq)]
pub enum Store {
    Sqlite,
    Memory,
    Postgres,
    Cluster,
}

/// The store that `RESONATE_TEST_STORE` names.
pub fn store() -> Store {
    let named = std::env::var("RESONATE_TEST_STORE").unwrap_or_default();
    match named.as_str() {
        "" | "sqlite" => Store::Sqlite,
        "memory" => Store::Memory,
        "postgres" => Store::Postgres,
        "cluster" => Store::Cluster,
        other => panic!("RESONATE_TEST_STORE is {other:?}: sqlite, memory, postgres or cluster"),
    }
}

/// Whether the tests run on a store that a restart empties. Says so, because a test is then skipped.
pub fn forgets_on_restart() -> bool {
    let forgets = store() == Store::Memory;
    if forgets {
        eprintln!("SKIPPED: needs a store that outlives the process");
    }
    forgets
}

/// Whether a test of SQLite files is to run: once, with the tests on those. Says so if not.
pub fn is_on_files() -> bool {
    let is_on_files = store() == Store::Sqlite;
    if !is_on_files {
        eprintln!("SKIPPED: runs with the tests on SQLite files");
    }
    is_on_files
}

/// How long an id or an address may be: by `limits.max_id_length`, or as the store has it.
pub fn key_bytes_max() -> usize {
    match store() {
        Store::Sqlite | Store::Memory => 4096,
        Store::Postgres | Store::Cluster => 1000,
    }
}

/// How far the server's clock may be behind the wall clock. Nodes go by the database's, and know it
/// no better than its answers were fast when the machine was busy.
pub fn clock_lag_ms_max() -> i64 {
    match store() {
        Store::Sqlite | Store::Memory => 0,
        Store::Postgres | Store::Cluster => 1000,
    }
}
