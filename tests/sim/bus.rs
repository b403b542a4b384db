//! What the nodes of a shared storage tell each other: in order, after a while, and not always.

use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use resonate::store::bus::{Bus, Subscription};
use resonate::store::{Error, Result};
use tokio::sync::mpsc;
use tokio::time::{Instant, sleep_until};

use super::database::Life;
use super::sim::Sim;
use crate::harness::server::lock;

/// An open ear, as the storage knows it.
pub struct Listener {
    pub place: usize,
    sender: mpsc::UnboundedSender<(Instant, String)>,
    /// When the latest text arrives: none overtakes another.
    last_at: Instant,
}

/// A node's mouth and ears.
pub struct SimBus {
    sim: Arc<Sim>,
    place: usize,
    life: Arc<Life>,
}

fn unavailable() -> Error {
    Error::Unavailable("the weather".to_owned())
}

impl SimBus {
    pub fn new(sim: &Arc<Sim>, place: usize, life: &Arc<Life>) -> Arc<SimBus> {
        Arc::new(SimBus {
            sim: sim.clone(),
            place,
            life: life.clone(),
        })
    }

    fn send(&self, text: &str) {
        let mut listeners = lock(&self.sim.listeners);
        listeners.retain(|listener| !listener.sender.is_closed());
        let weather = self.sim.weather().clone();
        for listener in listeners.iter_mut() {
            if weather.is_deaf(listener.place) || weather.is_deaf(self.place) {
                continue;
            }
            let ms = self.sim.between(0..=weather.delay_ms_max);
            let at = Instant::now() + Duration::from_millis(ms);
            listener.last_at = listener.last_at.max(at);
            // Whoever has gone does not listen.
            let _ = listener.sender.send((listener.last_at, text.to_owned()));
        }
    }
}

#[async_trait]
impl Bus for SimBus {
    async fn publish(&self, texts: &[String]) -> Result<()> {
        if self.life.is_over() {
            std::future::pending::<()>().await;
        }
        if self.sim.weather().outage(self.place).is_some() {
            return Err(unavailable());
        }
        let fails = self.sim.weather().fails;
        for text in texts {
            if self.sim.chance(fails / 2.0) {
                return Err(unavailable());
            }
            self.send(text);
        }
        match self.sim.chance(fails / 2.0) {
            true => Err(unavailable()),
            false => Ok(()),
        }
    }

    async fn subscribe(&self) -> Result<Box<dyn Subscription>> {
        let fails = self.sim.weather().fails;
        if self.sim.weather().outage(self.place).is_some() || self.sim.chance(fails) {
            return Err(unavailable());
        }
        let (sender, receiver) = mpsc::unbounded_channel();
        lock(&self.sim.listeners).push(Listener {
            place: self.place,
            sender,
            last_at: Instant::now(),
        });
        Ok(Box::new(Ear(receiver)))
    }
}

struct Ear(mpsc::UnboundedReceiver<(Instant, String)>);

#[async_trait]
impl Subscription for Ear {
    async fn next(&mut self) -> Result<String> {
        match self.0.recv().await {
            Some((at, text)) => {
                sleep_until(at).await;
                Ok(text)
            }
            None => Err(unavailable()),
        }
    }
}
