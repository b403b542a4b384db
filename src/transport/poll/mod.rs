//! Poll: workers hold a stream open, and messages go out on it (`transports.md` §3).
//!
//! Owns the open connections: who may register, which one a message goes to, how much may be queued
//! for it. The HTTP layer registers a connection and sends its stream as a response body; the outbox
//! sends messages and is told through an [`Observer`] when it is worth offering some again.
//!
//! Never waits for a slow worker: a message that finds no room is handed back at once. No foreign code
//! (a receipt, a waker, the observer) runs while the lock is held.

use std::fmt;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::Waker;
use std::time::Duration;

use self::table::{Routed, Table};
use super::{Outcome, Outgoing, StreamId, Transport};
use crate::protocol::address::Address;
use crate::protocol::record::Id;

mod stream;
mod table;
#[cfg(test)]
mod tests;

pub use self::stream::{Connection, Events};

/// The queues that a connection serves: anycast of its group, unicast of its id.
pub type Queues = [Id; 2];

/// How many streams, and what each may hold.
#[derive(Clone, Copy, Debug)]
pub struct Settings {
    /// Whether anybody may connect.
    pub enabled: bool,
    /// Over all groups.
    pub max_connections: usize,
    /// Messages queued per connection, at least 1.
    pub buffer_size: usize,
    /// When a stream ends by itself, less up to a tenth. Below the 300 s after which the Python SDK
    /// stops listening for good.
    pub stream_lifetime: Duration,
    /// How long a stream may stay silent.
    pub keep_alive: Duration,
}

impl Default for Settings {
    fn default() -> Self {
        Settings {
            enabled: true,
            max_connections: 1000,
            buffer_size: 100,
            stream_lifetime: Duration::from_secs(240),
            keep_alive: Duration::from_secs(15),
        }
    }
}

/// Whom a hub tells that messages which met nobody are worth offering again.
///
/// Called without a lock held, from request handlers and from streams being polled or dropped: it must
/// not block.
pub trait Observer: Send + Sync {
    /// A connection registered.
    fn opened(&self, queues: Queues);
    /// A connection is gone, and with it what it was told and may not have acted upon.
    fn closed(&self, queues: Queues, stream: StreamId);
    /// A connection that had refused messages has drained to half of its buffer.
    fn room(&self, queues: Queues);
}

/// Why a connection was not registered. The display is the client's message.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Refused {
    /// By configuration.
    #[error("Poll transport disabled")]
    Disabled,
    /// As many streams are open as may be.
    #[error("Poll registration at capacity")]
    AtCapacity,
    /// The hub was closed.
    #[error("Server is shutting down")]
    ShuttingDown,
}

/// All open streams of this process. Cheap to clone.
#[derive(Clone)]
pub struct Hub {
    shared: Arc<Shared>,
}

struct Shared {
    settings: Settings,
    observer: Arc<dyn Observer>,
    state: Mutex<State>,
}

struct State {
    table: Table,
    is_closed: bool,
}

impl Hub {
    /// A hub without connections.
    pub fn new(settings: Settings, observer: Arc<dyn Observer>) -> Hub {
        let settings = Settings {
            buffer_size: settings.buffer_size.max(1),
            ..settings
        };
        let table = Table::new(settings.buffer_size);
        let state = Mutex::new(State {
            table,
            is_closed: false,
        });
        Hub {
            shared: Arc::new(Shared {
                settings,
                observer,
                state,
            }),
        }
    }

    /// Registers a connection under its decoded path segments and tells the observer.
    pub fn register(&self, group: &str, id: &str) -> Result<Connection, Refused> {
        let settings = &self.shared.settings;
        if !settings.enabled {
            return Err(Refused::Disabled);
        }
        let (key, queues) = {
            let mut state = self.lock();
            if state.is_closed {
                return Err(Refused::ShuttingDown);
            }
            if state.table.linked() >= settings.max_connections {
                return Err(Refused::AtCapacity);
            }
            state.table.register(group, id)
        };
        // Before the observer, whose panic must not leave a connection that nobody reads.
        let connection = Connection::new(self.clone(), key);
        self.shared.observer.opened(queues);
        Ok(connection)
    }

    /// Connections that messages are routed to.
    pub fn connections(&self) -> usize {
        self.lock().table.linked()
    }

    /// How many of each group.
    pub fn groups(&self) -> Vec<(String, usize)> {
        self.lock().table.groups()
    }

    /// Every queue that somebody is connected for.
    pub fn listened_queues(&self) -> Vec<Id> {
        self.lock().table.listened()
    }

    /// Whether somebody is connected for a queue.
    pub fn is_listened(&self, queue: &str) -> bool {
        self.lock().table.is_listened(queue)
    }

    /// How many queues somebody is connected for.
    pub fn listened(&self) -> usize {
        self.lock().table.listened_len()
    }

    /// Whether a message to a queue was refused for want of room, and there was none since: once there is,
    /// the observer is told.
    pub fn is_full(&self, queue: &str) -> bool {
        self.lock().table.is_full(queue)
    }

    /// Refuses new connections and messages, and lets every stream end once what is queued was written.
    pub fn close(&self) {
        let wakers = {
            let mut state = self.lock();
            state.is_closed = true;
            state.table.unlink_all()
        };
        wakers.into_iter().for_each(Waker::wake);
    }

    fn offer(&self, message: Outgoing) {
        let routed = self.lock().table.route(message);
        match routed {
            Routed::Queued(Some(waker)) => waker.wake(),
            Routed::Queued(None) => {}
            Routed::Nobody(message) => message.receipt.report(Outcome::Nobody),
        }
    }

    /// The next message of a connection, and whether none will be queued any more.
    fn take(&self, key: StreamId, waker: &Waker) -> (Option<Outgoing>, bool) {
        let taken = self.lock().table.take(key, waker);
        if let Some(queues) = &taken.room {
            self.shared.observer.room(queues.clone());
        }
        (taken.message, taken.is_leaving)
    }

    fn unlink(&self, key: StreamId) {
        let room = self.lock().table.unlink(key);
        if let Some(queues) = room {
            self.shared.observer.room(queues);
        }
    }

    /// Forgets a connection and hands on what it did not deliver.
    fn remove(&self, key: StreamId, taken: Option<Outgoing>) {
        let left = self.lock().table.remove(key);
        for message in taken.into_iter().chain(left.buffer) {
            self.offer(message);
        }
        if let Some(queues) = left.room {
            self.shared.observer.room(queues);
        }
        if let Some(queues) = left.queues {
            self.shared.observer.closed(queues, key);
        }
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        // Nothing panics half-way through a change of the table; serving on beats going deaf.
        self.shared
            .state
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
    }
}

impl Transport for Hub {
    fn send(&self, message: Outgoing) {
        debug_assert!(
            message
                .body
                .iter()
                .all(|byte| byte.is_ascii() && *byte >= b' '),
            "messages are ASCII on one line"
        );
        if !matches!(message.address, Address::Poll(_)) {
            debug_assert!(false, "not a poll address: {:?}", message.address);
            message.receipt.report(Outcome::Failed);
        } else if self.shared.settings.enabled {
            self.offer(message);
        } else {
            message.receipt.report(Outcome::Disabled);
        }
    }
}

impl fmt::Debug for Hub {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Hub")
            .field("settings", &self.shared.settings)
            .finish_non_exhaustive()
    }
}
