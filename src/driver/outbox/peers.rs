//! Messages between the servers of one database: which node a message goes to, and what to do with those
//! that come from another.
//!
//! A stream of this node comes first, but for the one that an `any@group/id` prefers. Where nobody is
//! known to listen, all nodes are told that something waits: a stream may have opened just now.

use std::collections::HashMap;
use std::sync::Arc;

use async_trait::async_trait;

use crate::cluster::{Cluster, Inbox, NodeId, Parcel};
use crate::engine::Engine;
use crate::machine::workspace::Message;
use crate::protocol::address::{self, Address, Cast, Poll, anycast_queue, unicast_queue};
use crate::protocol::record::{Id, Promise};
use crate::store::DeadlineKey;
use crate::transport::StreamId;

use super::backlog::Start;
use super::offers::{Lost, Source};
use super::{Bodies, Outbox};

/// Where a message goes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Route {
    Here,
    To(NodeId),
    /// Nobody is known to listen.
    Nobody,
}

impl Outbox {
    /// The other servers, if there can be any.
    pub(in crate::driver) fn cluster(&self) -> Option<&Arc<Cluster>> {
        self.settings.cluster.as_ref()
    }

    /// Whether a deadline or a message found in the store is this node's to see to.
    pub fn is_mine(&self, key: &DeadlineKey) -> bool {
        self.cluster().is_none_or(|cluster| cluster.is_mine(key))
    }

    /// Sends a message to whoever can receive it, on this node or another.
    pub(super) fn dispatch(self: &Arc<Self>, message: &Message, bodies: &mut Bodies) {
        let Some(cluster) = self.cluster() else {
            self.send(message, Source::Dispatch, bodies);
            return;
        };
        let address = Address::parse(message.address(), &self.settings.address_rules);
        let route = match &address {
            Some(Address::Poll(poll)) => self.route(cluster, poll),
            Some(Address::Bash(_)) if !self.is_listened(address::BASH_QUEUE) => {
                match cluster.listener(address::BASH_QUEUE) {
                    Some(node) => Route::To(node),
                    None => {
                        // One may have started just now. Where none runs scripts, this one says so.
                        cluster.wake([address::bash_queue()]);
                        Route::Here
                    }
                }
            }
            _ => Route::Here,
        };
        match route {
            Route::To(node) => cluster.offer(node, Parcel::of(message)),
            Route::Nobody => cluster.wake(address.map(|address| address.queue())),
            Route::Here => {
                if self.send(message, Source::Dispatch, bodies) {
                    return;
                }
                // Everybody here is busy.
                let Some(queue) = address.map(|address| address.queue()) else {
                    return;
                };
                match cluster.listener(&queue) {
                    Some(node) => cluster.offer(node, Parcel::of(message)),
                    None if address::is_served_anywhere(&queue) => cluster.wake([queue]),
                    None => {}
                }
            }
        }
    }

    fn route(&self, cluster: &Cluster, poll: &Poll) -> Route {
        let find = |queue: &str| {
            if self.is_listened(queue) {
                return Route::Here;
            }
            cluster.listener(queue).map_or(Route::Nobody, Route::To)
        };
        let named = match &poll.id {
            Some(id) => find(&unicast_queue(&poll.group, id)),
            None => Route::Nobody,
        };
        match (named, poll.cast) {
            (Route::Nobody, Cast::Any) => find(&anycast_queue(&poll.group)),
            (named, _) => named,
        }
    }

    /// A stream of these queues has opened or closed.
    pub(super) fn announce(&self, queues: &[Id]) {
        if let Some(cluster) = self.cluster() {
            cluster.announce(queues);
        }
    }

    /// A stream has closed: what it was told, and may not have acted upon, others are to be told.
    pub(super) fn hand_over(&self, queues: &[Id], stream: StreamId) {
        let (here, deserted): (Vec<Id>, Vec<Id>) = queues
            .iter()
            .cloned()
            .partition(|queue| self.is_listened(queue));
        let lost = {
            let mut state = self.lock();
            let lost = state.offers.forget_stream(stream);
            if let Lost::Tasks(tasks) = &lost {
                for (queue, id, retry_at) in tasks {
                    state.backlog.missed(queue, id, *retry_at);
                }
            }
            for queue in &deserted {
                state.backlog.forget(queue);
            }
            lost
        };
        match lost {
            Lost::Tasks(tasks) if tasks.is_empty() => {}
            Lost::Tasks(_) => self.pump(here, Start::Reached),
            Lost::Unknown => self.pump(here, Start::First),
        }
        if let Some(cluster) = self.cluster() {
            cluster.wake(deserted);
        }
    }

    /// Whether a message to an address of this queue is this node's to deliver, should a stream have room.
    pub(super) fn is_for_here(&self, address: &str) -> bool {
        let Some(cluster) = self.cluster() else {
            return true;
        };
        match Address::parse(address, &self.settings.address_rules) {
            Some(Address::Poll(poll)) => self.route(cluster, &poll) == Route::Here,
            _ => true,
        }
    }
}

/// The ear of a node.
pub struct Ear {
    /// Sends what is heard of.
    pub outbox: Arc<Outbox>,
    /// Reads what was named only.
    pub engine: Arc<Engine>,
}

#[async_trait]
impl Inbox for Ear {
    fn listened(&self) -> Vec<Id> {
        self.outbox.local_queues()
    }

    fn is_listened(&self, queue: &str) -> bool {
        self.outbox.is_listened(queue)
    }

    fn woken(&self, queues: &[Id]) {
        let heard = queues.iter().filter(|queue| self.outbox.is_listened(queue));
        let mut heard = heard.cloned().peekable();
        if heard.peek().is_some() {
            self.outbox.pump_soon(heard);
        }
    }

    async fn delivered(&self, parcels: Vec<Parcel>) {
        let settled = self.settled(&parcels).await;
        let mut bodies = Bodies::default();
        for parcel in parcels {
            let queue = parcel.queue();
            let message = match parcel {
                Parcel::Execute {
                    id,
                    version,
                    address,
                    retry_at,
                    trace,
                    cause,
                } => Message::Execute {
                    id,
                    version,
                    address,
                    offer_at: 0,
                    retry_at,
                    trace,
                    cause,
                },
                Parcel::Unblock {
                    promise,
                    address,
                    trace,
                } => match settled.get(&promise) {
                    Some(promise) => Message::Unblock {
                        promise: promise.clone(),
                        address,
                        trace,
                    },
                    // It is offered again when it is due.
                    None => continue,
                },
            };
            if self.outbox.hold_while_paused(&message) {
                continue;
            }
            let is_taken = self.outbox.send(&message, Source::Dispatch, &mut bodies);
            // The stream has gone meanwhile, perhaps to another node.
            let deserted = queue.filter(|queue| !is_taken && !self.outbox.is_listened(queue));
            if let (Some(queue), Some(cluster)) = (deserted, self.outbox.cluster()) {
                cluster.wake([queue]);
            }
        }
    }
}

impl Ear {
    /// The promises that parcels name.
    async fn settled(&self, parcels: &[Parcel]) -> HashMap<Id, Promise> {
        let named = parcels.iter().filter_map(|parcel| match parcel {
            Parcel::Unblock { promise, .. } => Some(promise.clone()),
            Parcel::Execute { .. } => None,
        });
        let named: Vec<Id> = named.collect();
        if named.is_empty() {
            return HashMap::new();
        }
        match self.engine.store().read(&named).await {
            Ok(objects) => {
                let promises = objects.iter().map(|object| object.promise.clone());
                promises
                    .map(|promise| (promise.id.clone(), promise))
                    .collect()
            }
            Err(error) => {
                tracing::debug!(%error, "promises to be told of could not be read");
                HashMap::new()
            }
        }
    }
}
