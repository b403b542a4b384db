//! Whole workflows: a client creates a promise and listens, a worker hears of its task, acquires and fulfills it, and
//! the client hears of that.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError};

use anyhow::{Context, ensure};
use tokio::sync::{mpsc, oneshot};
use tokio::task::JoinSet;

use crate::client::{Client, PATIENCE, Session, about};
use crate::figures::Figures;
use crate::pace::{Pace, Work};
use crate::requests;

/// Those who wait for a promise, by its id.
type Waiting = Arc<Mutex<HashMap<String, oneshot::Sender<()>>>>;

struct Invoke {
    prefix: String,
    target: String,
    /// Where the client listens.
    address: String,
    waiting: Waiting,
}

impl Work for Invoke {
    async fn step(&self, session: &mut Session, n: usize) -> anyhow::Result<()> {
        let id = format!("{}{n}", self.prefix);
        let (done, is_done) = oneshot::channel();
        session.call(&requests::create(&id, &self.target)).await?;
        self.waiting
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .insert(id.clone(), done);
        let answer = session.call(&requests::listen(&id, &self.address)).await?;
        let is_pending = contains(answer, br#""state":"pending""#);
        if is_pending {
            let is_done = tokio::time::timeout(PATIENCE, is_done).await;
            is_done.context("no message in time")??;
        }
        Ok(())
    }
}

fn contains(text: &[u8], part: &[u8]) -> bool {
    text.windows(part.len()).any(|window| window == part)
}

/// Runs workflows.
pub async fn run(client: &Client, pace: &Pace) -> anyhow::Result<Figures> {
    let (group, listeners) = (format!("{}i", client.run), format!("{}l", client.run));
    let waiting = Waiting::default();
    let mut others = JoinSet::new();
    listen(client, &listeners, waiting.clone(), &mut others).await?;
    work(client, &group, pace.connections, &mut others).await?;
    let workflows = pace.drive(
        client,
        "invoke",
        Invoke {
            prefix: format!("{}-", client.run),
            target: requests::target(&group),
            address: format!("poll://uni@{listeners}/c"),
            waiting,
        },
    );
    tokio::select! {
        figures = workflows => figures,
        Some(ended) = others.join_next() => {
            ended??;
            anyhow::bail!("a stream ended")
        }
    }
}

async fn listen(
    client: &Client,
    group: &str,
    waiting: Waiting,
    others: &mut JoinSet<anyhow::Result<()>>,
) -> anyhow::Result<()> {
    let mut stream = client.stream(0, group, "c").await?;
    others.spawn(async move {
        loop {
            let message = stream.next_ever().await?;
            let mut waiting = waiting.lock().unwrap_or_else(PoisonError::into_inner);
            if let Some(done) = waiting.remove(about(&message)) {
                // The workload may be over.
                let _ = done.send(());
            }
        }
    });
    Ok(())
}

/// A worker with one stream and several connections.
async fn work(
    client: &Client,
    group: &str,
    connections: usize,
    others: &mut JoinSet<anyhow::Result<()>>,
) -> anyhow::Result<()> {
    let mut stream = client.stream(0, group, "w").await?;
    let mut hands = Vec::new();
    for n in 0..connections.max(1) {
        let mut session = client.session(n).await?;
        let (hand, mut tasks) = mpsc::unbounded_channel::<String>();
        hands.push(hand);
        others.spawn(async move {
            while let Some(id) = tasks.recv().await {
                if session.is_first(&requests::acquire(&id, 0)).await? {
                    session.call(&requests::fulfill(&id, 1)).await?;
                }
            }
            Ok(())
        });
    }
    others.spawn(async move {
        for hand in hands.iter().cycle() {
            let message = stream.next_ever().await?;
            ensure!(message["kind"] == "execute", "not for a worker: {message}");
            hand.send(about(&message).to_owned())?;
        }
        Ok(())
    });
    Ok(())
}
