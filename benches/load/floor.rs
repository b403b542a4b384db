//! Servers to compare with: what the libraries cost on this machine, and so the most that can be asked of any server that is
//! made with them.
//!
//! - `GET /` says hello, `POST /` sends back what it is sent: HTTP.
//! - With a file, `POST /` stores a promise first, which it takes every request to create: HTTP, JSON and SQLite. Nothing is decided, checked,
//!   limited, counted or fired, and a second promise of an id is an error.

use std::path::Path;

use anyhow::Context;
use axum::Router;
use axum::body::Bytes;
use axum::extract::State;
use axum::http::StatusCode;
use axum::routing::get;
use axum::serve::ListenerExt;
use serde::{Deserialize, Serialize};
use serde_json::value::RawValue;
use sqlx::sqlite::{SqliteConnectOptions, SqliteJournalMode, SqliteSynchronous};
use sqlx::{ConnectOptions, QueryBuilder, SqliteConnection};
use tokio::net::TcpListener;
use tokio::sync::{mpsc, oneshot};

use crate::client::now_ms;

/// Rows of one statement; SQLite has room for 32,766 values.
const ROWS_MAX: usize = 512;

/// Serves until it is ended; prints where.
#[allow(clippy::print_stdout, reason = "whoever starts it looks for the port")]
pub async fn serve(store: Option<&Path>) -> anyhow::Result<()> {
    let listener = TcpListener::bind("127.0.0.1:0").await?;
    let router = Router::new();
    let router = match store {
        Some(path) => {
            let create = axum::routing::post(create).with_state(open(path).await?);
            router.route("/", create)
        }
        None => router.route("/", get(|| async { "hello" }).post(echo)),
    };
    println!("listening addr={}", listener.local_addr()?);
    let listener = listener.tap_io(|socket| {
        // A connection that is gone already answers nothing anyway.
        let _ = socket.set_nodelay(true);
    });
    axum::serve(listener, router).await?;
    Ok(())
}

async fn echo(body: Bytes) -> Bytes {
    body
}

/// A request or a reply: of either, what the other has not is left out.
#[derive(Serialize, Deserialize)]
struct Envelope<'a, D> {
    kind: &'a str,
    #[serde(borrow)]
    head: Head<'a>,
    data: D,
}

#[derive(Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
struct Head<'a> {
    corr_id: &'a str,
    #[serde(default)]
    status: u16,
    version: &'a str,
}

#[derive(Serialize)]
struct Created<'a> {
    promise: Promise<'a>,
}

#[derive(Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
struct Promise<'a> {
    id: &'a str,
    #[serde(default)]
    state: &'a str,
    #[serde(borrow)]
    param: &'a RawValue,
    #[serde(borrow)]
    tags: &'a RawValue,
    timeout_at: i64,
    #[serde(default)]
    created_at: i64,
}

/// A promise to be stored.
struct Row {
    id: String,
    timeout_at: i64,
    created_at: i64,
    tags: String,
    param: String,
    stored: oneshot::Sender<()>,
}

async fn create(
    State(queue): State<mpsc::Sender<Row>>,
    body: Bytes,
) -> Result<Vec<u8>, StatusCode> {
    let request: Envelope<'_, Promise<'_>> =
        serde_json::from_slice(&body).map_err(|_| StatusCode::BAD_REQUEST)?;
    let promise = Promise {
        state: "pending",
        created_at: i64::try_from(now_ms()).unwrap_or(i64::MAX),
        ..request.data
    };
    let (stored, is_stored) = oneshot::channel();
    let row = Row {
        id: promise.id.to_owned(),
        timeout_at: promise.timeout_at,
        created_at: promise.created_at,
        tags: promise.tags.get().to_owned(),
        param: promise.param.get().to_owned(),
        stored,
    };
    let failed = StatusCode::INTERNAL_SERVER_ERROR;
    queue.send(row).await.map_err(|_| failed)?;
    is_stored.await.map_err(|_| failed)?;
    let reply = Envelope {
        kind: request.kind,
        head: Head {
            status: 200,
            ..request.head
        },
        data: Created { promise },
    };
    serde_json::to_vec(&reply).map_err(|_| failed)
}

/// Stores all that has queued up in one transaction, durably.
async fn open(path: &Path) -> anyhow::Result<mpsc::Sender<Row>> {
    let mut connection = SqliteConnectOptions::new()
        .filename(path)
        .create_if_missing(true)
        .journal_mode(SqliteJournalMode::Wal)
        .synchronous(SqliteSynchronous::Full)
        .pragma("wal_autocheckpoint", "4000")
        .disable_statement_logging()
        .connect()
        .await
        .with_context(|| format!("cannot open {}", path.display()))?;
    let table = "CREATE TABLE promises (id TEXT NOT NULL PRIMARY KEY, state TEXT NOT NULL, timeout_at INTEGER NOT NULL,
        created_at INTEGER NOT NULL, settled_at INTEGER, tags TEXT NOT NULL, value TEXT, param TEXT NOT NULL) STRICT";
    sqlx::query(table).execute(&mut connection).await?;
    let (queue, mut waiting) = mpsc::channel(1024);
    tokio::spawn(async move {
        let mut rows = Vec::new();
        loop {
            // Whoever is ready to queue up does so first.
            tokio::task::yield_now().await;
            if waiting.recv_many(&mut rows, ROWS_MAX).await == 0 {
                return;
            }
            if insert(&mut connection, &rows).await.is_err() {
                // They see that nobody answers.
                rows.clear();
            }
            for row in rows.drain(..) {
                // Who has gone needs no answer.
                let _ = row.stored.send(());
            }
        }
    });
    Ok(queue)
}

async fn insert(connection: &mut SqliteConnection, rows: &[Row]) -> sqlx::Result<()> {
    let mut query =
        QueryBuilder::new("INSERT INTO promises (id, state, timeout_at, created_at, tags, param) ");
    query.push_values(rows, |mut values, row| {
        values.push_bind(&row.id).push("'pending'");
        values
            .push_bind(row.timeout_at)
            .push_bind(row.created_at)
            .push_bind(&row.tags)
            .push_bind(&row.param);
    });
    query.build().execute(connection).await.map(drop)
}
