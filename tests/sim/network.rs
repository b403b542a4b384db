//! The ways between nodes, workers and clients: requests, pushes, and streams. All of them lose, repeat and
//! delay, as the weather has it.

use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use futures_util::StreamExt;
use resonate::protocol::address::{Address, Cast, Rules};
use resonate::protocol::record::{Id, PromiseState};
use resonate::protocol::reply::Reply;
use resonate::transport::slots::{Deliver, Slots};
use resonate::transport::{Outcome, Outgoing, Room, Transport};
use serde_json::Value as Json;
use tokio::task::JoinHandle;
use tokio::time::{sleep, timeout};

use super::database::Life;
use super::node::{Node, Request};
use super::sim::Sim;
use crate::harness::server::lock;

/// When a push that nobody answers has failed.
const PUSH_PATIENCE: Duration = Duration::from_secs(3);
/// When a client gives up.
const CLIENT_PATIENCE: Duration = Duration::from_secs(10);

/// What a client gets.
#[derive(Debug)]
pub enum Answer {
    Reply(Reply),
    /// 503.
    Unavailable,
    /// Nothing at all.
    Lost,
}

/// A request to any node.
pub async fn call(sim: &Arc<Sim>, who: &str, request: Request) -> Answer {
    sim.step();
    sim.log.line(who, || format!("asks {request:?}"));
    let weather = sim.weather().clone();
    sim.pause(0..=weather.delay_ms_max).await;
    if sim.chance(weather.repeats) {
        let (sim, request) = (sim.clone(), request.clone());
        tokio::spawn(async move {
            sim.pause(0..3000).await;
            if let Some(node) = sim.any_node() {
                node.execute(&request).await;
            }
        });
    }
    let node = sim.any_node();
    let (Some(node), false) = (node, sim.chance(weather.loses)) else {
        sim.pause(1..500).await;
        return Answer::Lost;
    };
    let serving = tokio::spawn(async move { node.execute(&request).await });
    // A server does not always notice that a client has gone.
    let serving = Serving {
        is_noticed: sim.chance(0.5),
        serving,
    };
    let answer = serving.answer().await;
    sim.pause(0..=weather.delay_ms_max).await;
    let answer = match answer {
        _ if sim.chance(weather.loses) => Answer::Lost,
        Some(Ok(reply)) => Answer::Reply(reply),
        Some(Err(_)) => Answer::Unavailable,
        None => Answer::Lost,
    };
    sim.log.line(who, || format!("hears {answer:?}"));
    answer
}

struct Serving<T> {
    is_noticed: bool,
    serving: JoinHandle<Option<T>>,
}

impl<T> Serving<T> {
    async fn answer(mut self) -> Option<T> {
        timeout(CLIENT_PATIENCE, &mut self.serving)
            .await
            .ok()?
            .ok()?
    }
}

impl<T> Drop for Serving<T> {
    fn drop(&mut self) {
        if self.is_noticed {
            self.serving.abort();
        }
    }
}

/// What a message says.
pub enum Message {
    Execute { id: Id, version: i64 },
    Unblock { id: Id },
}

/// Reads a message as a worker does, and checks it against what is stored.
pub fn read(sim: &Sim, body: &str) -> Option<Message> {
    let json: Json = serde_json::from_str(body).ok()?;
    let history = sim.history();
    let message = match json["kind"].as_str()? {
        "execute" => {
            let task = &json["data"]["task"];
            let (id, version) = (task["id"].as_str()?, task["version"].as_i64()?);
            let task = history.object(id)?.task.as_ref()?;
            let is_ahead = version > task.version;
            (!is_ahead).then(|| Message::Execute {
                id: id.into(),
                version,
            })
        }
        "unblock" => {
            let record = &json["data"]["promise"];
            let stored = history.object(record["id"].as_str()?)?;
            let is_stored = stored.promise.state != PromiseState::Pending
                && serde_json::to_value(&stored.promise).ok()? == *record;
            is_stored.then(|| Message::Unblock {
                id: stored.promise.id.clone(),
            })
        }
        _ => None,
    };
    drop(history);
    if message.is_none() {
        sim.fail("a message tells what is stored", body);
    }
    message
}

/// Puts a message into the box of a worker, if there is one.
fn post(sim: &Sim, name: &str, body: &str) -> bool {
    let mailboxes = lock(&sim.mailboxes);
    mailboxes
        .get(name)
        .is_some_and(|mailbox| mailbox.send(body.to_owned()).is_ok())
}

/// The transport of `http://`: real slots, a simulated wire.
pub struct Push(Slots<Wire>);

struct Wire {
    sim: Arc<Sim>,
    life: Arc<Life>,
}

impl Push {
    pub fn new(sim: &Arc<Sim>, life: &Arc<Life>, concurrency: usize, room: Room) -> Push {
        let wire = Wire {
            sim: sim.clone(),
            life: life.clone(),
        };
        Push(Slots::new(wire, concurrency, room))
    }
}

#[async_trait]
impl Transport for Push {
    fn send(&self, message: Outgoing) {
        self.0.send(message);
    }

    async fn close(&self, within: Duration) {
        self.0.close(within).await;
    }
}

impl Deliver for Wire {
    async fn deliver(&self, message: Outgoing) {
        if self.life.is_over() {
            std::future::pending::<()>().await;
        }
        let Outgoing {
            address,
            body,
            receipt,
            ..
        } = message;
        let outcome = self.attempt(&address, &body).await;
        receipt.report(outcome);
    }
}

impl Wire {
    async fn attempt(&self, address: &Address, body: &[u8]) -> Outcome {
        let sim = &self.sim;
        let weather = sim.weather().clone();
        let Address::Http { url } = address else {
            return Outcome::Failed;
        };
        let name = url
            .trim_start_matches("http://")
            .trim_end_matches('/')
            .to_owned();
        let body = String::from_utf8_lossy(body).into_owned();
        sim.pause(0..=weather.delay_ms_max).await;
        if sim.chance(weather.loses) {
            sleep(PUSH_PATIENCE).await;
            return Outcome::Failed;
        }
        if sim.chance(weather.refuses) || !post(sim, &name, &body) {
            return Outcome::Failed;
        }
        if let Some(Message::Unblock { id }) = read(sim, &body) {
            sim.history().received.insert((id, url.as_str().into()));
        }
        if sim.chance(weather.repeats) {
            let sim = sim.clone();
            tokio::spawn(async move {
                sim.pause(0..2000).await;
                post(&sim, &name, &body);
            });
        }
        sim.pause(0..=weather.delay_ms_max).await;
        if sim.chance(weather.loses) {
            sleep(PUSH_PATIENCE).await;
            return Outcome::Failed;
        }
        Outcome::Delivered
    }
}

/// Holds streams of a worker open, one after the other, as long as it is polled.
pub async fn listen(sim: Arc<Sim>, group: Id, name: Id) {
    loop {
        if let Some(node) = sim.any_node() {
            stream(&sim, &node, &group, &name).await;
        }
        sim.pause(match sim.is_calm() {
            true => 1..20,
            false => 1..800,
        })
        .await;
    }
}

/// One stream, until it ends in one way or another.
async fn stream(sim: &Arc<Sim>, node: &Node, group: &str, name: &str) {
    let Ok(connection) = node.hub.register(group, name) else {
        return;
    };
    sim.log.line(name, || format!("listens at {}", node.name));
    let mut events = connection.into_body_stream();
    loop {
        let chunk = tokio::select! {
            biased;
            () = node.until_over() => break,
            chunk = events.next() => chunk,
        };
        let Some(Ok(chunk)) = chunk else { break };
        let text = String::from_utf8_lossy(&chunk).into_owned();
        let Some(body) = text.strip_prefix("data: ").map(str::trim_end) else {
            continue;
        };
        let weather = sim.weather().clone();
        if sim.chance(weather.is_careless / 2.0) {
            // A slow reader: the chunk is with the connection and not on its way yet.
            sim.pause(1..3000).await;
        }
        if node_is_gone(node).await || sim.chance(weather.loses) {
            sim.log.line(name, || {
                "loses its stream, and a message with it".to_owned()
            });
            sim.count("a stream breaks under a message");
            break;
        }
        sim.pause(0..=weather.delay_ms_max.min(5)).await;
        post(sim, name, body);
        note_received(sim, group, name, body);
    }
    sim.log.line(name, || "listens no more".to_owned());
}

async fn node_is_gone(node: &Node) -> bool {
    tokio::select! {
        biased;
        () = node.until_over() => true,
        () = std::future::ready(()) => false,
    }
}

/// A message for a stream has been written: whoever it may have been for has it.
pub fn note_received(sim: &Sim, group: &str, name: &str, body: &str) {
    let Some(Message::Unblock { id }) = read(sim, body) else {
        return;
    };
    let mut history = sim.history();
    let Some(object) = history.object(&id) else {
        return;
    };
    let addresses: Vec<Id> = object.listeners.keys().cloned().collect();
    let is_here = |address: &Id| match Address::parse(address, &Rules::default()) {
        Some(Address::Poll(poll)) => {
            poll.group == group && (poll.cast == Cast::Any || poll.id.as_deref() == Some(name))
        }
        _ => false,
    };
    let here = addresses
        .into_iter()
        .filter(is_here)
        .map(|address| (id.clone(), address));
    history.received.extend(here.collect::<Vec<_>>());
}
