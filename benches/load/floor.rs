//! A server that only says hello, and sends back what it is sent: what the HTTP library costs on this machine, and so the
//! most that can be asked of any server that is made with it. With a file it stores what it is sent before that: the most that
//! can be asked of any that is made with sqlx and SQLite besides, and reads, checks and decides nothing.

use std::path::Path;

use anyhow::Context;
use axum::Router;
use axum::body::Bytes;
use axum::extract::State;
use axum::http::StatusCode;
use axum::routing::get;
use axum::serve::ListenerExt;
use sqlx::sqlite::{SqliteConnectOptions, SqliteJournalMode, SqliteSynchronous};
use sqlx::{ConnectOptions, SqliteConnection};
use tokio::net::TcpListener;
use tokio::sync::{mpsc, oneshot};

/// Serves until it is ended; prints where.
#[allow(clippy::print_stdout, reason = "whoever starts it looks for the port")]
pub async fn serve(store: Option<&Path>) -> anyhow::Result<()> {
    let queue = match store {
        Some(path) => Some(open(path).await?),
        None => None,
    };
    let listener = TcpListener::bind("127.0.0.1:0").await?;
    println!("listening addr={}", listener.local_addr()?);
    let router = Router::new()
        .route("/", get(|| async { "hello" }).post(echo))
        .with_state(queue);
    let listener = listener.tap_io(|socket| {
        // A connection that is gone already answers nothing anyway.
        let _ = socket.set_nodelay(true);
    });
    axum::serve(listener, router).await?;
    Ok(())
}

type Waiting = (Bytes, oneshot::Sender<()>);

async fn echo(
    State(queue): State<Option<mpsc::Sender<Waiting>>>,
    body: Bytes,
) -> Result<Bytes, StatusCode> {
    if let Some(queue) = queue {
        let (stored, is_stored) = oneshot::channel();
        let sent = queue.send((body.clone(), stored)).await;
        sent.map_err(|_| StatusCode::INTERNAL_SERVER_ERROR)?;
        is_stored
            .await
            .map_err(|_| StatusCode::INTERNAL_SERVER_ERROR)?;
    }
    Ok(body)
}

/// Stores all that has queued up in one transaction, durably.
async fn open(path: &Path) -> anyhow::Result<mpsc::Sender<Waiting>> {
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
    sqlx::query("CREATE TABLE stored (id TEXT NOT NULL PRIMARY KEY, body BLOB NOT NULL) STRICT")
        .execute(&mut connection)
        .await?;
    let (queue, mut waiting) = mpsc::channel(1024);
    tokio::spawn(async move {
        let mut ids = 0..u64::MAX;
        let mut batch = Vec::new();
        loop {
            // Whoever is ready to queue up does so first.
            tokio::task::yield_now().await;
            if waiting.recv_many(&mut batch, 512).await == 0 {
                return;
            }
            if insert(&mut connection, &mut ids, &batch).await.is_err() {
                return;
            }
            for (_, stored) in batch.drain(..) {
                // Who has gone needs no answer.
                let _ = stored.send(());
            }
        }
    });
    Ok(queue)
}

async fn insert(
    connection: &mut SqliteConnection,
    ids: &mut impl Iterator<Item = u64>,
    batch: &[Waiting],
) -> sqlx::Result<()> {
    let mut rows = sqlx::QueryBuilder::new("INSERT INTO stored (id, body) ");
    rows.push_values(batch.iter().zip(ids), |mut row, ((body, _), id)| {
        row.push_bind(format!("request-{id:012}"));
        row.push_bind(&body[..]);
    });
    rows.build().execute(connection).await.map(drop)
}
