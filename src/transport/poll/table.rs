//! The table of open connections: who listens where, and what is queued for each.
//!
//! Owns the routing rules (`transports.md` §3) and the buffers. Synchronous and pure but for the random
//! choice; it sits behind the hub's lock, so it must never run foreign code: receipts and wakers are
//! handed out for the caller to report, wake or drop once the lock is released.
//!
//! ```text
//!   register -> linked --unlink--> leaving --remove--> gone        remove works from either state
//!               routed to          only drained
//! ```
//!
//! A group keeps its members with room in front of those without, so that one random index chooses
//! uniformly among the former, however many there are of either.

use std::collections::{BTreeMap, HashMap, HashSet, VecDeque};
use std::sync::Arc;
use std::task::Waker;

use super::Queues;
use crate::protocol::address::{Address, Cast, Poll, anycast_queue, spellings, unicast_queue};
use crate::protocol::record::Id;
use crate::transport::{Outgoing, StreamId as Key};

#[cfg(test)]
mod tests;

/// All connections of a hub.
pub(super) struct Table {
    buffer_size: usize,
    last_key: Key,
    /// The oldest first: so they are woken when the hub closes.
    seats: BTreeMap<Key, Seat>,
    groups: HashMap<Arc<str>, Group>,
    /// How many linked connections serve each queue. In order: so are the queues in messages to others.
    queues: BTreeMap<Id, usize>,
    /// Queues that found everybody full, until one of those who serve them has drained.
    full: HashSet<Id>,
    linked: usize,
}

struct Seat {
    group: Arc<str>,
    id: Arc<str>,
    queues: Queues,
    buffer: VecDeque<Outgoing>,
    waker: Option<Waker>,
    /// Index among the members of its group; none once unlinked.
    place: Option<usize>,
}

#[derive(Default)]
struct Group {
    /// `members[..roomy]` have room, the others are full.
    members: Vec<Key>,
    roomy: usize,
    /// Never an empty list; the newest last.
    by_id: HashMap<Arc<str>, Vec<Key>>,
}

/// What became of a message that was offered.
pub(super) enum Routed {
    /// In a connection's buffer; wake its stream.
    Queued(Option<Waker>),
    /// Nobody suitable, or nobody with room.
    Nobody(Outgoing),
}

/// The answer to a stream that asks for its next message.
pub(super) struct Taken {
    pub message: Option<Outgoing>,
    /// No message will be queued any more.
    pub is_leaving: bool,
    /// Messages were refused, and now there is room.
    pub room: Option<Queues>,
    /// The waker that was replaced, to be dropped.
    _stale: Option<Waker>,
}

/// What a connection leaves behind.
#[derive(Default)]
pub(super) struct Left {
    pub buffer: VecDeque<Outgoing>,
    /// The queues it served.
    pub queues: Option<Queues>,
    /// Messages were refused by it that another may take.
    pub room: Option<Queues>,
    _waker: Option<Waker>,
}

impl Table {
    pub fn new(buffer_size: usize) -> Table {
        Table {
            buffer_size,
            last_key: 0,
            seats: BTreeMap::new(),
            groups: HashMap::new(),
            queues: BTreeMap::new(),
            full: HashSet::new(),
            linked: 0,
        }
    }

    /// Connections that messages are routed to.
    pub fn linked(&self) -> usize {
        self.linked
    }

    /// How many there are of each group.
    pub fn groups(&self) -> Vec<(String, usize)> {
        let groups = self.groups.iter();
        groups
            .map(|(group, of_it)| (group.to_string(), of_it.members.len()))
            .collect()
    }

    /// Whether a linked connection serves the queue.
    pub fn is_listened(&self, queue: &str) -> bool {
        self.queues.contains_key(queue)
    }

    /// How many queues linked connections serve.
    pub fn listened_len(&self) -> usize {
        self.queues.len()
    }

    /// Whether the queue has found everybody full, and nobody has drained since.
    pub fn is_full(&self, queue: &str) -> bool {
        self.full.contains(queue)
    }

    /// Every queue that a linked connection serves.
    pub fn listened(&self) -> Vec<Id> {
        self.queues.keys().cloned().collect()
    }

    /// Links a new connection, the newest of its id.
    pub fn register(&mut self, group: &str, id: &str) -> (Key, Queues) {
        self.last_key += 1;
        let key = self.last_key;
        let group_name = match self.groups.get_key_value(group) {
            Some((name, _)) => Arc::clone(name),
            None => Arc::from(group),
        };
        let members = self.groups.entry(Arc::clone(&group_name)).or_default();
        let id = match members.by_id.get_key_value(id) {
            Some((id, _)) => Arc::clone(id),
            None => Arc::from(id),
        };
        members.by_id.entry(Arc::clone(&id)).or_default().push(key);

        let queues = [anycast_queue(group), unicast_queue(group, &id)];
        for queue in &queues {
            // The new one has room.
            self.full.remove(queue);
            if let Some(count) = self.queues.get_mut(queue) {
                *count += 1;
            } else {
                self.queues.insert(Arc::clone(queue), 1);
            }
        }
        let place = members.members.len();
        members.members.push(key);
        self.seats.insert(
            key,
            Seat {
                group: group_name,
                id,
                queues: queues.clone(),
                buffer: VecDeque::new(),
                waker: None,
                place: Some(place),
            },
        );
        swap(&mut members.members, &mut self.seats, place, members.roomy);
        members.roomy += 1;
        self.linked += 1;
        (key, queues)
    }

    /// Queues a message for the connection that its address chooses.
    pub fn route(&mut self, message: Outgoing) -> Routed {
        let chosen = match &message.address {
            Address::Poll(poll) => self.choose(poll),
            _ => None,
        };
        match chosen {
            Some(key) => self.push(key, message),
            None => Routed::Nobody(message),
        }
    }

    /// Takes the next message of a connection; leaves the waker if there is none.
    pub fn take(&mut self, key: Key, waker: &Waker) -> Taken {
        let mut taken = Taken {
            message: None,
            is_leaving: true,
            room: None,
            _stale: None,
        };
        let Some(seat) = self.seats.get_mut(&key) else {
            return taken;
        };
        taken.is_leaving = seat.place.is_none();
        taken.message = seat.buffer.pop_front();
        if taken.message.is_none() {
            // A burst must not leave its allocation behind in an idle connection.
            seat.buffer = VecDeque::new();
            if !seat
                .waker
                .as_ref()
                .is_some_and(|known| known.will_wake(waker))
            {
                taken._stale = seat.waker.replace(waker.clone());
            }
            return taken;
        }
        let Some(place) = seat.place else {
            return taken;
        };
        let Some(group) = self.groups.get_mut(&seat.group) else {
            return taken;
        };
        let length = seat.buffer.len();
        if length <= self.buffer_size / 2 && !self.full.is_empty() {
            let [any, uni] = &seat.queues;
            let (any, uni) = (self.full.remove(any), self.full.remove(uni));
            taken.room = (any || uni).then(|| seat.queues.clone());
        }
        if length + 1 == self.buffer_size {
            swap(&mut group.members, &mut self.seats, place, group.roomy);
            group.roomy += 1;
        }
        taken
    }

    /// Stops routing to a connection; what is queued stays. Answers queues that may be offered again.
    pub fn unlink(&mut self, key: Key) -> Option<Queues> {
        let seat = self.seats.get_mut(&key)?;
        let mut place = seat.place.take()?;
        let (group_name, id) = (Arc::clone(&seat.group), Arc::clone(&seat.id));
        let queues = seat.queues.clone();
        // What it refused as the newest of its id, the next newest may have room for.
        let has_refused = self.full.remove(&queues[1]);
        self.linked -= 1;
        for queue in &queues {
            if let Some(count) = self.queues.get_mut(queue) {
                *count -= 1;
                if *count == 0 {
                    self.queues.remove(queue);
                    self.full.remove(queue);
                }
            }
        }

        let group = self.groups.get_mut(&group_name)?;
        if place < group.roomy {
            group.roomy -= 1;
            swap(&mut group.members, &mut self.seats, place, group.roomy);
            place = group.roomy;
        }
        let last = group.members.len() - 1;
        swap(&mut group.members, &mut self.seats, place, last);
        group.members.pop();
        if let Some(seat) = self.seats.get_mut(&key) {
            seat.place = None;
        }
        if let Some(keys) = group.by_id.get_mut(&id) {
            keys.retain(|other| *other != key);
            if keys.is_empty() {
                group.by_id.remove(&id);
            }
        }
        if group.members.is_empty() {
            self.groups.remove(&group_name);
            // Those of another spelling may not be full.
            self.full.remove(&queues[0]);
        }
        (has_refused && self.is_listened(&queues[1])).then_some(queues)
    }

    /// Forgets a connection.
    pub fn remove(&mut self, key: Key) -> Left {
        let room = self.unlink(key);
        match self.seats.remove(&key) {
            Some(seat) => Left {
                buffer: seat.buffer,
                queues: Some(seat.queues),
                room,
                _waker: seat.waker,
            },
            None => Left::default(),
        }
    }

    /// Stops routing to everybody; what is queued stays. Answers whom to wake.
    pub fn unlink_all(&mut self) -> Vec<Waker> {
        self.groups.clear();
        self.queues.clear();
        self.full.clear();
        self.linked = 0;
        let seats = self.seats.values_mut();
        seats
            .filter_map(|seat| {
                seat.place = None;
                seat.waker.take()
            })
            .collect()
    }

    fn choose(&mut self, poll: &Poll) -> Option<Key> {
        match (poll.cast, &poll.id) {
            (Cast::Uni, Some(id)) => {
                let key = self.newest(&poll.group, id)?;
                let has_room = self.has_room(key);
                if !has_room && let Some(seat) = self.seats.get(&key) {
                    self.full.insert(seat.queues[1].clone());
                }
                has_room.then_some(key)
            }
            (Cast::Uni, None) => None,
            (Cast::Any, Some(id)) => {
                let preferred = self
                    .newest(&poll.group, id)
                    .filter(|key| self.has_room(*key));
                preferred.or_else(|| self.any(&poll.group))
            }
            (Cast::Any, None) => self.any(&poll.group),
        }
    }

    fn newest(&self, group: &str, id: &str) -> Option<Key> {
        spellings(group)
            .filter_map(|group| self.groups.get(&*group))
            .flat_map(|group| spellings(id).filter_map(|id| group.by_id.get(&*id)?.last()))
            .max()
            .copied()
    }

    fn any(&mut self, group: &str) -> Option<Key> {
        let roomy = |table: &Table, name: &str| table.groups.get(name).map_or(0, |g| g.roomy);
        let total: usize = spellings(group).map(|name| roomy(self, &name)).sum();
        if total == 0 {
            let member = spellings(group).find_map(|name| self.groups.get(&*name)?.members.first());
            if let Some(seat) = member.and_then(|key| self.seats.get(key)) {
                self.full.insert(seat.queues[0].clone());
            }
            return None;
        }
        let mut index = fastrand::usize(..total);
        for name in spellings(group) {
            let here = roomy(self, &name);
            if index < here {
                return self.groups.get(&*name)?.members.get(index).copied();
            }
            index -= here;
        }
        None
    }

    fn has_room(&self, key: Key) -> bool {
        self.seats
            .get(&key)
            .is_some_and(|seat| seat.buffer.len() < self.buffer_size)
    }

    fn push(&mut self, key: Key, message: Outgoing) -> Routed {
        let Some(seat) = self.seats.get_mut(&key) else {
            return Routed::Nobody(message);
        };
        seat.buffer.push_back(message);
        let waker = seat.waker.take();
        if seat.buffer.len() == self.buffer_size
            && let Some(place) = seat.place
            && let Some(group) = self.groups.get_mut(&seat.group)
        {
            group.roomy -= 1;
            swap(&mut group.members, &mut self.seats, place, group.roomy);
        }
        Routed::Queued(waker)
    }
}

/// Exchanges two members of a group.
fn swap(members: &mut [Key], seats: &mut BTreeMap<Key, Seat>, a: usize, b: usize) {
    if a == b {
        return;
    }
    members.swap(a, b);
    for place in [a, b] {
        if let Some(seat) = seats.get_mut(&members[place]) {
            seat.place = Some(place);
        }
    }
}
