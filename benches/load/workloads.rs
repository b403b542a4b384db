//! What is measured request by request. Each workload sets up what it needs, and leaves its promises behind.

use crate::client::{Client, Session, now_ms};
use crate::figures::Figures;
use crate::pace::{Pace, Work};
use crate::requests::{self, request};

/// Promises that reads choose from.
const KNOWN: usize = 10_000;
/// Connections that set things up.
pub const SETTERS: usize = 64;

/// `GET` of a path: what HTTP alone costs.
pub struct Hello;

impl Work for Hello {
    async fn step(&self, session: &mut Session, _: usize) -> anyhow::Result<()> {
        session.get("/").await
    }
}

/// `promise.create`.
pub struct Create {
    /// What ids begin with.
    pub prefix: String,
    /// Tags, as members of a JSON object.
    pub tags: String,
}

impl Work for Create {
    async fn step(&self, session: &mut Session, n: usize) -> anyhow::Result<()> {
        let id = format!("{}{n}", self.prefix);
        session.call(&requests::create(&id, &self.tags)).await?;
        Ok(())
    }
}

/// Creates so many promises `<prefix>0`, `<prefix>1`, ….
pub async fn set_up(client: &Client, prefix: &str, count: usize, tags: &str) -> anyhow::Result<()> {
    let work = Create {
        prefix: prefix.to_owned(),
        tags: tags.to_owned(),
    };
    let pace = Pace::exactly(SETTERS, count);
    pace.drive(client, "set up", work).await?;
    Ok(())
}

struct Get(String);

impl Work for Get {
    async fn step(&self, session: &mut Session, n: usize) -> anyhow::Result<()> {
        // Far apart from each other.
        let n = n.wrapping_mul(7919) % KNOWN;
        session
            .call(&requests::get(&format!("{}{n}", self.0)))
            .await?;
        Ok(())
    }
}

/// `promise.get` of promises that are there.
pub async fn get(client: &Client, pace: &Pace) -> anyhow::Result<Figures> {
    let prefix = format!("{}-", client.run);
    set_up(client, &prefix, KNOWN, "").await?;
    pace.drive(client, "get", Get(prefix)).await
}

struct Settle(String);

impl Work for Settle {
    async fn step(&self, session: &mut Session, n: usize) -> anyhow::Result<()> {
        let id = format!("{}{n}", self.0);
        session.call(&requests::settle(&id)).await?;
        Ok(())
    }
}

/// `promise.settle` of `there` promises, at the most.
pub async fn settle(client: &Client, pace: &Pace, there: usize) -> anyhow::Result<Figures> {
    let prefix = format!("{}-", client.run);
    set_up(client, &prefix, there, "").await?;
    let pace = Pace {
        count: pace.count.min(there),
        ..pace.clone()
    };
    pace.drive(client, "settle", Settle(prefix)).await
}

/// `task.create`, `task.fence` that creates a child, `task.fulfill`.
pub struct Cycle(pub String);

impl Work for Cycle {
    async fn step(&self, session: &mut Session, n: usize) -> anyhow::Result<()> {
        let id = format!("{}{n}", self.0);
        session.call(&requests::task(&id, "bench")).await?;
        session
            .call(&requests::fence(&id, &format!("{id}.0")))
            .await?;
        session.call(&requests::fulfill(&id, 1)).await?;
        Ok(())
    }
}

/// Of twenty requests: nine creates, seven gets, three settles, a search.
pub struct Mixed(pub String);

impl Work for Mixed {
    async fn step(&self, session: &mut Session, n: usize) -> anyhow::Result<()> {
        let id = |n: usize| format!("{}{n}", self.0);
        // A connection's steps are as far apart as there are connections: each of them does some of all.
        let turn = n / SETTERS % 20;
        let own = |turn: usize| id(n - n / SETTERS % 20 * SETTERS + turn * SETTERS);
        let request = match turn {
            0..9 => requests::create(&id(n), ""),
            9..16 => requests::get(&own(turn - 9)),
            16..19 => requests::settle(&own(turn - 16)),
            _ => requests::search(),
        };
        session.call(&request).await?;
        Ok(())
    }
}

/// Promises that only lie there.
#[derive(Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
pub enum Kind {
    /// With a deadline in the next days.
    Pending,
    /// Settled as soon as they are there.
    Settled,
}

struct Fill(String, Kind);

impl Work for Fill {
    async fn step(&self, session: &mut Session, n: usize) -> anyhow::Result<()> {
        let Fill(prefix, kind) = self;
        let now = now_ms();
        let timeout_at = match kind {
            Kind::Pending => now + 86_400_000 + u64::try_from(n % 600_000_000)?,
            Kind::Settled => now - 1000,
        };
        let data = format!(
            r#"{{"id":"{prefix}{n}","timeoutAt":{timeout_at},"param":{{"data":"e30="}},"tags":{{"resonate:timer":"true"}}}}"#
        );
        session.call(&request("promise.create", &data)).await?;
        Ok(())
    }
}

/// Stores so many promises.
pub async fn fill(client: &Client, count: usize, kind: Kind) -> anyhow::Result<Figures> {
    let name = match kind {
        Kind::Pending => "fill with pending promises",
        Kind::Settled => "fill with settled promises",
    };
    let work = Fill(format!("{}-", client.run), kind);
    Pace::exactly(SETTERS, count)
        .drive(client, name, work)
        .await
}
