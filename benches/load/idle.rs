//! One client that does one thing after the other: how long until somebody else hears of it?

use std::time::Instant;

use crate::client::{Client, Session};
use crate::figures::Figures;
use crate::requests;

/// `promise.create` with a target until its `execute`.
pub async fn execute(client: &Client, count: usize) -> anyhow::Result<Figures> {
    let group = format!("{}x", client.run);
    let mut stream = client.stream(0, &group, "w").await?;
    let mut sessions = sessions(client).await?;
    let mut figures = Figures::new("create -> execute")?;
    let started_at = Instant::now();
    for n in 0..count {
        let id = format!("{}-{n}", client.run);
        let request = requests::create(&id, &requests::target(&group));
        let turn = n % sessions.len();
        let sent_at = Instant::now();
        let (answer, message) =
            tokio::join!(sessions[turn].call(&request), stream.until("execute", &id));
        figures.record(sent_at.elapsed());
        answer?;
        message?;
    }
    Ok(figures.finish(started_at.elapsed()))
}

/// `promise.settle` of an awaited promise until `execute` of its suspended awaiter.
pub async fn resume(client: &Client, count: usize) -> anyhow::Result<Figures> {
    let group = format!("{}r", client.run);
    let mut stream = client.stream(0, &group, "w").await?;
    let mut sessions = sessions(client).await?;
    let mut figures = Figures::new("settle -> execute")?;
    let started_at = Instant::now();
    for n in 0..count {
        let turn = n % sessions.len();
        let session = &mut sessions[turn];
        let (awaiter, awaited) = (
            format!("{}-{n}", client.run),
            format!("{}-{n}.0", client.run),
        );
        session.call(&requests::task(&awaiter, &group)).await?;
        session.call(&requests::create(&awaited, "")).await?;
        session.call(&requests::suspend(&awaiter, &awaited)).await?;
        let request = requests::settle(&awaited);
        let sent_at = Instant::now();
        let (answer, message) =
            tokio::join!(session.call(&request), stream.until("execute", &awaiter));
        figures.record(sent_at.elapsed());
        answer?;
        message?;
    }
    Ok(figures.finish(started_at.elapsed()))
}

/// One to each server.
async fn sessions(client: &Client) -> anyhow::Result<Vec<Session>> {
    let mut sessions = Vec::new();
    for n in 0..client.servers() {
        sessions.push(client.session(n).await?);
    }
    Ok(sessions)
}
