//! The suite, and what only a shared database can go through.

use sqlx::{ConnectOptions, Connection, PgConnection};

use crate::protocol::record::PromiseState;

use super::*;
use crate::store::suite::{insert, pending, plain, schedule, unblocking};
use crate::store::transfer::{Counts, Fill, Snapshot};

/// A database of a test's own, dropped at its end.
struct Database {
    name: String,
}

fn maintenance_url() -> url::Url {
    let url = std::env::var("RESONATE_TEST_POSTGRES").expect(
        "RESONATE_TEST_POSTGRES names no PostgreSQL server: run the tests with `make test`, or one of \
         them with `python3 tests/postgres.py run -- cargo test …`",
    );
    url.parse().expect("RESONATE_TEST_POSTGRES is a URL")
}

async fn maintenance() -> PgConnection {
    let options: sqlx::postgres::PgConnectOptions = maintenance_url().as_str().parse().unwrap();
    options.disable_statement_logging().connect().await.unwrap()
}

impl Database {
    async fn fresh() -> Self {
        let name = format!("unit_{:016x}", fastrand::u64(..));
        let mut connection = maintenance().await;
        let create = sqlx::AssertSqlSafe(format!("CREATE DATABASE {name}"));
        sqlx::raw_sql(create)
            .execute(&mut connection)
            .await
            .unwrap();
        connection.close().await.unwrap();
        Database { name }
    }

    fn url(&self) -> String {
        let mut url = maintenance_url();
        url.set_path(&self.name);
        url.into()
    }
}

impl Drop for Database {
    fn drop(&mut self) {
        let name = std::mem::take(&mut self.name);
        // A thread of its own: this one drives the test's runtime.
        let dropped = std::thread::spawn(move || {
            let runtime = tokio::runtime::Builder::new_current_thread();
            let runtime = { runtime }.enable_all().build().unwrap();
            runtime.block_on(async {
                let mut connection = maintenance().await;
                let drop = sqlx::AssertSqlSafe(format!("DROP DATABASE {name} WITH (FORCE)"));
                sqlx::raw_sql(drop).execute(&mut connection).await.unwrap();
            });
        });
        if dropped.join().is_err() && !std::thread::panicking() {
            panic!("a database was not dropped");
        }
    }
}

async fn open() -> (PostgresStore, Database) {
    let database = Database::fresh().await;
    let store = PostgresStore::open(&database.url(), 4).await.unwrap();
    (store, database)
}

crate::store::suite::behaviours!(open);

#[async_trait]
impl crate::store::suite::Place for Database {
    async fn store(&self) -> Arc<dyn Store> {
        Arc::new(PostgresStore::open(&self.url(), 4).await.unwrap())
    }

    async fn snapshot(&self) -> Result<Box<dyn Snapshot>> {
        Ok(Box::new(PostgresSnapshot::open(&self.url()).await?))
    }

    async fn fill(&self) -> Result<Box<dyn Fill + '_>> {
        Ok(Box::new(PostgresFill::open(&self.url()).await?))
    }
}

async fn place() -> Database {
    Database::fresh().await
}

crate::store::suite::moves!(place);

#[tokio::test]
async fn what_a_server_uses_is_not_filled_and_what_is_filled_not_served() {
    let (store, database) = open().await;
    insert(&store, [plain("p")]).await;
    let refused = PostgresFill::open(&database.url()).await.err().unwrap();
    assert!(
        refused.to_string().contains("resonate servers have"),
        "{refused}"
    );
    store.reset().await.unwrap();
    store.close().await;
    let fill = PostgresFill::open(&database.url()).await.unwrap();
    let url = database.url();
    let mut starting = tokio::spawn(async move { PostgresStore::open(&url, 1).await });
    // It has connected, and waits.
    let is_waiting = async {
        let mut connection = another(&database).await;
        loop {
            let waiting: i64 = sqlx::query_scalar(
                "SELECT count(*) FROM pg_stat_activity WHERE datname = current_database()
                    AND application_name = 'resonate' AND wait_event = 'advisory'",
            )
            .fetch_one(&mut connection)
            .await
            .unwrap();
            if waiting > 0 {
                break;
            }
        }
    };
    tokio::select! {
        _ = &mut starting => panic!("a server starts in the middle of an import"),
        () = is_waiting => {}
    }
    Box::new(fill).finish(&Counts::default()).await.unwrap();
    starting.await.unwrap().unwrap().close().await;
}

/// Runs statements on the database by hand, as another program would.
async fn meddle(database: &Database, sql: &str) {
    let mut connection = another(database).await;
    let sql = sqlx::AssertSqlSafe(sql.to_owned());
    sqlx::raw_sql(sql).execute(&mut connection).await.unwrap();
}

async fn another(database: &Database) -> PgConnection {
    let options: sqlx::postgres::PgConnectOptions = database.url().parse().unwrap();
    options.disable_statement_logging().connect().await.unwrap()
}

/// The sentence with which a database is refused.
async fn refusal(url: &str) -> String {
    match PostgresStore::open(url, 4).await {
        Err(Error::Unusable(sentence)) => sentence,
        Err(other) => panic!("{other:?}"),
        Ok(_) => panic!("opened"),
    }
}

#[tokio::test]
async fn no_statement_reads_a_whole_table() {
    let (store, database) = open().await;
    let objects = (0..2000).flat_map(|n| {
        [
            plain(format!("p{n}")),
            pending(format!("t{n}"), "poll://any@g", n),
            unblocking(&format!("u{n}"), "poll://uni@g/1", n, n),
        ]
    });
    insert(&store, objects).await;
    let mut connection = another(&database).await;
    sqlx::raw_sql(connect::SETTINGS)
        .execute(&mut connection)
        .await
        .unwrap();
    let everything_read = Revisions::default();
    let changes = Changes::default();
    assert!(
        encode::commit(&changes, &everything_read, 1)
            .unwrap()
            .is_none()
    );
    let numbered = |part: &str| {
        let mut next = 1;
        part.split('?')
            .enumerate()
            .map(|(index, piece)| match index {
                0 => piece.to_owned(),
                _ => {
                    next += 1;
                    format!("${next}{piece}")
                }
            })
            .collect::<String>()
    };
    let write = |part: &str| {
        // `held` is numbered from 2 to 7 and each part goes on.
        let held = match part.contains("DELETE FROM promises") {
            true => format!("{}, {}", sql::held::ALL_BUT_TREES, sql::held::TREES),
            false => sql::held::ALL.to_owned(),
        };
        let text = format!("{held}, {part}");
        format!("WITH {} SELECT is_current FROM verdict", numbered(&text))
    };
    let reads = [
        sql::LOAD_OBJECTS,
        sql::HELD_BY,
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
        sql::TREE_IDS,
        sql::OUTLINES,
        sql::OUTLINES_UNTIL,
        sql::CALLBACKS,
        sql::AWAIT_INSERTS,
        sql::HAS_COMMITTED,
    ];
    let writes = [
        sql::write::INSERT_PROMISES,
        sql::write::UPDATE_PROMISES,
        sql::write::TOUCH_PROMISES,
        sql::write::UPSERT_TASKS,
        sql::write::INSERT_CALLBACKS,
        sql::write::DELETE_CALLBACKS,
        sql::write::UPSERT_LISTENERS,
        sql::write::DELETE_LISTENERS,
        sql::write::INSERT_SCHEDULES,
        sql::write::UPDATE_SCHEDULES,
        sql::write::DELETE_SCHEDULES,
        sql::write::DELETE_TASKS,
        sql::write::DELETE_PROMISES,
    ];
    let statements = reads.iter().map(|&sql| sql.to_owned());
    for statement in statements.chain(writes.iter().map(|part| write(part))) {
        let arguments = (1..).take_while(|n| statement.contains(&format!("${n}")));
        let nulls = vec!["NULL"; arguments.count()].join(", ");
        let script = format!("DEALLOCATE ALL; PREPARE s AS {statement}");
        let script = sqlx::AssertSqlSafe(script);
        sqlx::raw_sql(script)
            .execute(&mut connection)
            .await
            .unwrap();
        let explain = sqlx::AssertSqlSafe(format!("EXPLAIN EXECUTE s ({nulls})"));
        let plan: Vec<String> = sqlx::raw_sql(explain)
            .fetch_all(&mut connection)
            .await
            .unwrap()
            .iter()
            .map(|row| sqlx::Row::get(row, 0))
            .collect();
        let plan = plan.join("\n");
        assert!(!plan.contains("Seq Scan on"), "{statement}\n{plan}");
    }
}

#[tokio::test]
async fn a_commit_whose_connection_breaks_is_told_apart_from_one_that_did_not_happen() {
    let (store, database) = open().await;
    insert(&store, [plain("a")]).await;
    let change = |state: PromiseState| {
        let before = plain("a");
        let mut after = before.clone();
        after.promise.state = state;
        Changes {
            objects: vec![super::super::Change {
                before: Some(before.into()),
                after: after.into(),
            }],
            schedules: Vec::new(),
            deleted: Vec::new(),
        }
    };
    let changes = change(PromiseState::Resolved);
    let reason = || "the connection broke".to_owned();
    // Another has written since, or nobody has.
    let undone = store.resolve_doubt(&changes, 7, reason()).await;
    assert!(matches!(undone, Err(Error::Unavailable(_))), "{undone:?}");
    meddle(&database, "UPDATE promises SET rev = 7").await;
    store.resolve_doubt(&changes, 7, reason()).await.unwrap();
}

/// What another server creates while a tree is looked at is not left behind in it.
#[tokio::test]
async fn a_tree_that_has_grown_meanwhile_is_not_deleted() {
    let (store, _database) = open().await;
    let need = Need {
        trees: ["t.1".into()].into(),
        objects: ["t".into()].into(),
        ..Need::default()
    };
    for meanwhile in ["t.1.9", "t.1:9", "t"] {
        insert(&store, ["t.1", "t.1.0"].map(plain)).await;
        let mut transaction = store.begin().await.unwrap();
        let loaded = transaction.load(&need).await.unwrap();
        insert(&store, ["other", "t.2", meanwhile].map(plain)).await;
        let deletion = Changes {
            deleted: loaded.objects,
            ..Changes::default()
        };
        let outcome = transaction.commit(&deletion).await;
        assert!(
            matches!(outcome, Err(Error::Conflict(_))),
            "{meanwhile}: {outcome:?}"
        );
        assert_eq!(store.dump().await.unwrap().objects.len(), 5);
        store.reset().await.unwrap();
    }
    // Without anything of that, it is.
    insert(&store, ["t.1", "t.1.0"].map(plain)).await;
    let mut transaction = store.begin().await.unwrap();
    let loaded = transaction.load(&need).await.unwrap();
    insert(&store, ["other", "t.2"].map(plain)).await;
    let deletion = Changes {
        deleted: loaded.objects,
        ..Changes::default()
    };
    transaction.commit(&deletion).await.unwrap();
    assert_eq!(store.dump().await.unwrap().objects.len(), 2);
    // A commit that only deletes leaves no revision to tell it by; that nothing is left does.
    let gone = store.resolve_doubt(&deletion, 7, "the connection broke".to_owned());
    gone.await.unwrap();
}

#[tokio::test]
async fn connections_that_were_cut_are_replaced() {
    let (store, database) = open().await;
    insert(&store, [plain("a")]).await;
    store.ping().await.unwrap();
    let cut = "SELECT pg_terminate_backend(pid) FROM pg_stat_activity
        WHERE datname = current_database() AND pid <> pg_backend_pid()";
    meddle(&database, cut).await;
    // What tells whether the database is there is not misled by an old connection.
    store.ping().await.unwrap();
    assert_eq!(
        store.read(&["a".into()]).await.unwrap(),
        [Arc::new(plain("a"))]
    );
    meddle(&database, cut).await;
    let need = Need {
        objects: ["a".into()].into(),
        ..Need::default()
    };
    let mut failures = 0;
    loop {
        let mut transaction = store.begin().await.unwrap();
        match transaction.load(&need).await {
            Ok(loaded) => break assert_eq!(loaded.objects, [Arc::new(plain("a"))]),
            Err(Error::Unavailable(_)) => failures += 1,
            Err(other) => panic!("{other:?}"),
        }
        // The first failure has done away with all old connections.
        assert_eq!(failures, 1);
    }
    insert(&store, [plain("b")]).await;
}

#[tokio::test]
async fn servers_that_start_together_make_the_schema_once() {
    let database = Database::fresh().await;
    let url = database.url();
    let opened = futures_util::future::join_all((0..4).map(|_| PostgresStore::open(&url, 2)));
    for store in opened.await {
        store.unwrap().ping().await.unwrap();
    }
}

/// The next release has added something, and this one starts on it as long as it may.
#[tokio::test]
async fn a_newer_schema_is_used_as_long_as_it_says_so() {
    let (store, database) = open().await;
    insert(&store, [plain("a"), pending("t", "poll://any@g", 5)]).await;
    crate::store::suite::put_schedules(&store, [schedule("s", 5)]).await;
    let before = store.dump().await.unwrap();
    meddle(
        &database,
        "ALTER TABLE promises ADD COLUMN added TEXT;
        CREATE INDEX added_index ON promises (added);
        INSERT INTO _sqlx_migrations (version, description, success, checksum, execution_time)
            VALUES (9999, 'of the next release', true, '\\x00', 0)",
    )
    .await;
    // A server that runs already, and one that starts.
    insert(&store, [plain("b")]).await;
    let restarted = PostgresStore::open(&database.url(), 2).await.unwrap();
    insert(&restarted, [plain("c")]).await;
    let after = restarted.dump().await.unwrap();
    assert_eq!(after.objects.len(), before.objects.len() + 2);
    assert_eq!(after.schedules, before.schedules);
    meddle(&database, "UPDATE compatibility SET oldest_schema = 9999").await;
    let refused = refusal(&database.url()).await;
    assert!(refused.contains("is used by a newer resonate"), "{refused}");
}

#[tokio::test]
async fn what_cannot_be_used_is_refused_with_its_reason_and_without_its_password() {
    let database = Database::fresh().await;
    let mut url: url::Url = database.url().parse().unwrap();
    url.set_password(Some("hunter2")).unwrap();
    let with = |change: &dyn Fn(&mut url::Url)| {
        let mut url = url.clone();
        change(&mut url);
        url.to_string()
    };
    let missing = refusal(&with(&|url| url.set_path("missing_database"))).await;
    assert!(
        missing.contains("it does not exist; create it"),
        "{missing}"
    );
    let nobody = refusal(&with(&|url| url.set_port(Some(1)).unwrap())).await;
    assert!(nobody.contains("127.0.0.1:1"), "{nobody}");
    meddle(&database, "CREATE TABLE promises (id int)").await;
    let taken = refusal(&with(&|_| {})).await;
    assert!(taken.contains("tables of another application"), "{taken}");
    for sentence in [missing, nobody, taken] {
        assert!(!sentence.contains("hunter2"), "{sentence}");
    }
}

/// NOTIFY reaches every subscriber, in order, this process included.
#[tokio::test]
async fn what_is_published_is_heard_by_all_who_listen() {
    let (store, database) = open().await;
    let other = PostgresStore::open(&database.url(), 2).await.unwrap();
    let mut ears = Vec::new();
    for bus in [store.bus().unwrap(), other.bus().unwrap()] {
        ears.push(bus.subscribe().await.unwrap());
    }
    let texts: Vec<String> = (0..50)
        .map(|n| format!("{n}{}", "é".repeat(3900)))
        .collect();
    store.bus().unwrap().publish(&texts).await.unwrap();
    for ear in &mut ears {
        for text in &texts {
            assert_eq!(ear.next().await.unwrap(), *text);
        }
    }
    let cut = "SELECT pg_terminate_backend(pid) FROM pg_stat_activity
        WHERE datname = current_database() AND application_name = 'resonate-listen'";
    meddle(&database, cut).await;
    for ear in &mut ears {
        assert!(matches!(ear.next().await, Err(Error::Unavailable(_))));
    }
}
