//! The suite, and what only a file can go through.

use std::sync::Arc;

use sqlx::{ConnectOptions, Connection};
use tempfile::TempDir;

use super::*;
use crate::store::transfer::{Counts, Fill, Snapshot};
use crate::store::{Change, Error};

async fn open() -> (SqliteStore, TempDir) {
    let directory = TempDir::new().unwrap();
    let store = open_in(&directory).await.unwrap();
    (store, directory)
}

async fn open_in(directory: &TempDir) -> Result<SqliteStore> {
    // No cache: what is asked is read from the file.
    SqliteStore::open(&directory.path().join("test.db"), Durability::default(), 0).await
}

crate::store::suite::behaviours!(open);

#[async_trait]
impl crate::store::suite::Place for TempDir {
    async fn store(&self) -> Arc<dyn Store> {
        Arc::new(open_in(self).await.unwrap())
    }

    async fn snapshot(&self) -> Result<Box<dyn Snapshot>> {
        let path = self.path().join("test.db");
        Ok(Box::new(SqliteSnapshot::open(&path).await?))
    }

    async fn fill(&self) -> Result<Box<dyn Fill + '_>> {
        let path = self.path().join("test.db");
        Ok(Box::new(SqliteFill::open(&path).await?))
    }
}

async fn place() -> TempDir {
    TempDir::new().unwrap()
}

crate::store::suite::moves!(place);

#[tokio::test]
async fn what_a_server_uses_is_not_filled_and_what_is_filled_not_served() {
    let (store, directory) = open().await;
    let path = directory.path().join("test.db");
    let refused = SqliteFill::open(&path).await.err().unwrap().to_string();
    assert!(
        refused.ends_with("is in use by another resonate server"),
        "{refused}"
    );
    store.close().await;
    let fill = SqliteFill::open(&path).await.unwrap();
    let refused = open_in(&directory).await.err().unwrap().to_string();
    assert!(
        refused.ends_with("is in use by another resonate server"),
        "{refused}"
    );
    Box::new(fill).finish(&Counts::default()).await.unwrap();
    open_in(&directory).await.unwrap();
}

/// The same with the objects of the suite in memory.
mod cached {
    use super::*;

    async fn open() -> (SqliteStore, TempDir) {
        let directory = TempDir::new().unwrap();
        let path = directory.path().join("test.db");
        let store = SqliteStore::open(&path, Durability::default(), 64 << 20).await;
        (store.unwrap(), directory)
    }

    crate::store::suite::behaviours!(open);
}

/// A plain object, for tests that look past the suite.
fn object(name: &str) -> Object {
    use crate::protocol::record::{PromiseState, Value};
    Object {
        promise: Promise {
            id: name.into(),
            state: PromiseState::Pending,
            param: Value::empty(),
            value: Value::empty(),
            tags: Tags::default(),
            timeout_at: 2,
            created_at: 1,
            settled_at: None,
        },
        armed: false,
        callbacks: [].into(),
        listeners: [].into(),
        task: None,
        trace: None,
    }
}

fn inserted(names: &[&str]) -> Changes {
    let change = |name: &&str| Change {
        before: None,
        after: Arc::new(object(name)),
    };
    Changes {
        objects: names.iter().map(change).collect(),
        schedules: Vec::new(),
        deleted: Vec::new(),
    }
}

async fn insert(store: &SqliteStore, names: &[&str]) -> Result<()> {
    store.begin().await?.commit(&inserted(names)).await
}

#[tokio::test]
async fn searches_do_not_keep_other_reads_waiting() {
    let (store, _directory) = open().await;
    insert(&store, &["a"]).await.unwrap();
    let mut busy = Vec::new();
    for _ in 0..SEARCHERS_MAX {
        busy.push(store.searchers.pool.acquire().await.unwrap());
    }
    assert_eq!(store.read(&["a".into()]).await.unwrap().len(), 1);
    store.ping().await.unwrap();
    drop(busy);
}

async fn stored(store: &SqliteStore) -> Vec<String> {
    let objects = store.dump().await.unwrap().objects;
    objects.iter().map(|o| o.promise.id.to_string()).collect()
}

/// The sentence with which a file is refused.
async fn refusal(path: &Path) -> String {
    match SqliteStore::open(path, Durability::default(), 0).await {
        Err(Error::Unusable(sentence)) => sentence,
        Err(other) => panic!("{other:?}"),
        Ok(_) => panic!("opened"),
    }
}

/// Runs statements on the file by hand, as another program would.
async fn meddle(store: &SqliteStore, sql: &'static str) {
    let writer = store.writer.lock().await;
    let mut connection = writer.another_connection().await;
    sqlx::raw_sql(sql).execute(&mut connection).await.unwrap();
    connection.close().await.unwrap();
}

#[tokio::test]
async fn everything_is_there_after_a_restart() {
    let directory = TempDir::new().unwrap();
    for round in ["a", "b", "c"] {
        let store = open_in(&directory).await.unwrap();
        insert(&store, &[round]).await.unwrap();
        store.close().await;
    }
    let store = open_in(&directory).await.unwrap();
    assert_eq!(stored(&store).await, ["a", "b", "c"]);
    // Without a close.
    insert(&store, &["d"]).await.unwrap();
    drop(store);
    let store = open_in(&directory).await.unwrap();
    assert_eq!(stored(&store).await, ["a", "b", "c", "d"]);
}

#[tokio::test]
async fn a_closed_store_leaves_one_file_and_no_log() {
    let (store, directory) = open().await;
    insert(&store, &["a"]).await.unwrap();
    store.ping().await.unwrap();
    store.close().await;
    assert!(!directory.path().join("test.db-wal").exists());
    let late = insert(&store, &["b"]).await;
    assert!(matches!(late, Err(Error::Unavailable(_))), "{late:?}");
    assert!(matches!(store.ping().await, Err(Error::Unavailable(_))));
    store.close().await;
}

#[tokio::test]
async fn a_second_server_is_refused_by_any_name_of_the_file() {
    let (store, directory) = open().await;
    let path = directory.path().join("test.db");
    let link = directory.path().join("link.db");
    std::os::unix::fs::symlink(&path, &link).unwrap();
    let dotted = directory.path().join(".").join("test.db");
    for name in [path, link, dotted] {
        let sentence = refusal(&name).await;
        assert!(
            sentence.ends_with("is in use by another resonate server"),
            "{sentence}"
        );
    }
    insert(&store, &["a"]).await.unwrap();
    store.close().await;
    let again = open_in(&directory).await.unwrap();
    assert_eq!(stored(&again).await, ["a"]);
}

#[tokio::test]
async fn what_is_not_our_database_is_refused_untouched() {
    let directory = TempDir::new().unwrap();
    let path = |name: &str| directory.path().join(name);
    let garbage = "these are not the bytes of a database ".repeat(200);
    std::fs::write(path("garbage"), &garbage).unwrap();
    let sentence = refusal(&path("garbage")).await;
    assert!(
        sentence.ends_with("garbage is not an SQLite database"),
        "{sentence}"
    );
    assert_eq!(std::fs::read_to_string(path("garbage")).unwrap(), garbage);

    let options = SqliteConnectOptions::new();
    let options = options.filename(path("other")).create_if_missing(true);
    let mut connection = options.connect().await.unwrap();
    let create = sqlx::raw_sql("CREATE TABLE music (title TEXT)");
    create.execute(&mut connection).await.unwrap();
    connection.close().await.unwrap();
    let before = std::fs::read(path("other")).unwrap();
    let sentence = refusal(&path("other")).await;
    assert!(
        sentence.ends_with("other is a database of another application"),
        "{sentence}"
    );
    assert_eq!(std::fs::read(path("other")).unwrap(), before);

    std::fs::write(path("empty"), "").unwrap();
    let store = SqliteStore::open(&path("empty"), Durability::ProcessCrash, 0).await;
    insert(&store.unwrap(), &["a"]).await.unwrap();
}

#[tokio::test]
async fn paths_that_lead_nowhere_are_named() {
    let directory = TempDir::new().unwrap();
    let sentence = refusal(&directory.path().join("no/such/test.db")).await;
    assert!(
        sentence.contains("the directory") && sentence.contains("no/such"),
        "{sentence}"
    );
    assert!(sentence.ends_with("does not exist"), "{sentence}");
    let sentence = refusal(directory.path()).await;
    assert!(sentence.ends_with("a directory"), "{sentence}");
    std::fs::write(directory.path().join("file"), "").unwrap();
    let sentence = refusal(&directory.path().join("file/test.db")).await;
    assert!(
        sentence.starts_with("cannot open the database"),
        "{sentence}"
    );
}

#[tokio::test]
async fn a_newer_schema_is_refused() {
    let (store, directory) = open().await;
    meddle(
        &store,
        "INSERT INTO _sqlx_migrations (version, description, success, checksum, execution_time)
        VALUES (999, 'from the future', TRUE, x'00', 0)",
    )
    .await;
    store.close().await;
    let sentence = refusal(&directory.path().join("test.db")).await;
    assert!(sentence.contains("has schema version 999"), "{sentence}");
    assert!(sentence.contains("test.db"), "{sentence}");
}

#[tokio::test]
async fn a_damaged_row_is_named_and_the_rest_still_reads() {
    let (store, _directory) = open().await;
    insert(&store, &["a", "b"]).await.unwrap();
    meddle(&store, "UPDATE promises SET state = 'odd' WHERE id = 'b'").await;
    let damaged = store.read(&["b".into()]).await;
    let Err(Error::Corrupt(sentence)) = damaged else {
        panic!("{damaged:?}")
    };
    assert_eq!(sentence, "promises.state of \"b\": odd");
    assert_eq!(store.read(&["a".into()]).await.unwrap().len(), 1);
    meddle(
        &store,
        "UPDATE promises SET state = 'pending', tags = CAST(x'ff' AS TEXT)",
    )
    .await;
    let damaged = store.read(&["b".into()]).await;
    assert!(matches!(damaged, Err(Error::Corrupt(_))), "{damaged:?}");
}

#[tokio::test]
async fn a_failed_commit_heals() {
    let (store, _directory) = open().await;
    insert(&store, &["a"]).await.unwrap();
    // A table that is gone fails in the middle of the transaction.
    meddle(&store, "ALTER TABLE callbacks RENAME TO hidden").await;
    let mut changes = inserted(&["b"]);
    let mut waited = object("c");
    waited.callbacks = ["x".into()].into();
    changes.objects[0].after = Arc::new(waited);
    for _ in 0..3 {
        let failed = store.begin().await.unwrap().commit(&changes).await;
        assert!(failed.is_err());
    }
    meddle(&store, "ALTER TABLE hidden RENAME TO callbacks").await;
    store.begin().await.unwrap().commit(&changes).await.unwrap();
    assert_eq!(stored(&store).await, ["a", "c"]);
}

#[tokio::test]
async fn a_lock_held_by_another_program_is_waited_for_and_then_unavailable() {
    let (store, _directory) = open().await;
    let mut other = store.writer.lock().await.another_connection().await;
    sqlx::raw_sql("BEGIN IMMEDIATE")
        .execute(&mut other)
        .await
        .unwrap();
    store
        .writer
        .lock()
        .await
        .set("PRAGMA busy_timeout = 50")
        .await;
    let blocked = insert(&store, &["a"]).await;
    assert!(matches!(blocked, Err(Error::Unavailable(_))), "{blocked:?}");
    other.close().await.unwrap();
    insert(&store, &["a"]).await.unwrap();
    assert_eq!(stored(&store).await, ["a"]);
}

#[tokio::test]
async fn a_full_disk_is_unavailable_until_there_is_room() {
    let (store, _directory) = open().await;
    store
        .writer
        .lock()
        .await
        .set("PRAGMA max_page_count = 60")
        .await;
    let names: Vec<String> = (0..2000).map(|n| format!("{n:0200}")).collect();
    let names: Vec<&str> = names.iter().map(|name| &**name).collect();
    let full = insert(&store, &names).await;
    assert!(matches!(full, Err(Error::Unavailable(_))), "{full:?}");
    assert_eq!(stored(&store).await.len(), 0);
    insert(&store, &names).await.unwrap();
    assert_eq!(stored(&store).await.len(), 2000);
}

#[tokio::test]
async fn no_statement_walks_a_table_it_could_search() {
    let (store, _directory) = open().await;
    let writer = store.writer.lock().await;
    let mut connection = writer.another_connection().await;
    for statement in [
        sql::LOAD_OBJECTS,
        sql::LOAD_BRANCHES,
        sql::LOAD_SCHEDULES,
        sql::READ_OBJECTS,
        sql::PROMISES,
        sql::TASKS,
        sql::SCHEDULES,
        sql::DUE_ALL,
        sql::DUE_ONLY,
        sql::WAITING_EXECUTES,
        sql::WAITING_UNBLOCKS,
        sql::STALE_UNBLOCKS,
        sql::UPDATE_PROMISES,
        sql::UPSERT_TASKS,
        sql::DELETE_CALLBACKS,
        sql::UPSERT_LISTENERS,
        sql::DELETE_LISTENERS,
        sql::DELETE_SCHEDULES,
        sql::DELETE_TASKS,
        sql::DELETE_PROMISES,
        sql::TREE_IDS,
        sql::OUTLINES,
        sql::OUTLINES_UNTIL,
        sql::CALLBACKS,
    ] {
        let explain = sqlx::AssertSqlSafe(format!("EXPLAIN QUERY PLAN {statement}"));
        let rows = sqlx::query(explain).fetch_all(&mut connection).await;
        for row in rows.unwrap() {
            let step: String = sqlx::Row::get(&row, 3);
            let is_table = ["promises", "tasks", "callbacks", "listeners", "schedules"]
                .iter()
                .chain(&["p", "t", "c", "l", "s"])
                .any(|table| step == format!("SCAN {table}"));
            assert!(
                !is_table && !step.contains("AUTOMATIC"),
                "{step}\n{statement}"
            );
        }
    }
}
