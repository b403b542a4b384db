//! What nodes say to each other: JSON texts, each short enough for the bus. A text that a node does not
//! understand is ignored, so a newer one may say more.

use std::sync::Arc;

use serde::{Deserialize, Serialize};

use crate::machine::workspace::Message;
use crate::protocol::address::queue_of;
use crate::protocol::record::{Id, Millis};
use crate::protocol::trace::Trace;
use crate::store::bus::TEXT_BYTES_MAX;

/// Names a node for as long as its process lives.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct NodeId(u64);

impl NodeId {
    /// A name that no other node has.
    pub fn random() -> Self {
        NodeId(fastrand::u64(..))
    }
}

/// A message on its way to the node that holds the stream: in short, it has the database too.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub enum Parcel {
    /// An `execute`, whole.
    Execute {
        /// The task.
        id: Id,
        /// Its version.
        version: i64,
        /// Its target.
        address: Id,
        /// When it is sent again: its place in its queue.
        #[serde(default)]
        retry_at: Millis,
        /// The request that created the task.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        trace: Option<Arc<Trace>>,
        /// The request that had it sent, if that is another.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        cause: Option<Arc<Trace>>,
    },
    /// An `unblock` without its promise.
    Unblock {
        /// The settled promise.
        promise: Id,
        /// The listener.
        address: Id,
        /// The request that settled it.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        trace: Option<Arc<Trace>>,
    },
}

impl Parcel {
    /// Makes the parcel of a message.
    pub fn of(message: &Message) -> Self {
        match message {
            Message::Execute {
                id,
                version,
                address,
                retry_at,
                trace,
                cause,
                ..
            } => Parcel::Execute {
                id: id.clone(),
                version: *version,
                address: address.clone(),
                retry_at: *retry_at,
                trace: trace.clone(),
                cause: cause.clone(),
            },
            Message::Unblock {
                promise,
                address,
                trace,
            } => Parcel::Unblock {
                promise: promise.id.clone(),
                address: address.clone(),
                trace: trace.clone(),
            },
        }
    }

    /// The queue that the message waits in.
    pub fn queue(&self) -> Option<Id> {
        match self {
            Parcel::Execute { address, .. } | Parcel::Unblock { address, .. } => queue_of(address),
        }
    }
}

/// See [`super`].
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "kind", rename_all = "camelCase")]
pub(super) enum Note {
    /// A node is there, and has announced what it listens to so often.
    Here { node: NodeId, edition: u64 },
    /// What a node listens to, in parts.
    Listening {
        node: NodeId,
        edition: u64,
        part: u32,
        parts: u32,
        queues: Vec<Id>,
    },
    /// What a node listens to since its announcement before this one, and what no longer.
    Changed {
        node: NodeId,
        edition: u64,
        opened: Vec<Id>,
        closed: Vec<Id>,
    },
    /// A node is asked to announce all that it listens to.
    Again { node: NodeId },
    /// A node stops.
    Gone { node: NodeId },
    /// Something waits in these queues, and the node knows nobody who listens; none named means any.
    Wake {
        node: NodeId,
        queues: Vec<Id>,
        /// By this node's clock; what waits may have been stored at this very instant.
        at: Millis,
    },
    /// Messages for streams of a node.
    Offer { to: NodeId, parcels: Vec<Parcel> },
}

impl Note {
    /// Whether it says what a node listens to.
    pub fn is_announcement(&self) -> bool {
        matches!(self, Note::Listening { .. } | Note::Changed { .. })
    }
}

/// Room for the rest of a note beside what it lists.
const FRAME_BYTES: usize = 200;

/// The texts of notes. Lists that are too long become several notes.
pub(super) fn texts(notes: impl IntoIterator<Item = Note>) -> Vec<String> {
    let mut texts = Vec::new();
    for note in notes {
        match note {
            Note::Wake { node, queues, at } if !queues.is_empty() => {
                let parts = split(queues).into_iter();
                texts.extend(parts.map(|queues| text(&Note::Wake { node, queues, at })));
            }
            note => texts.push(text(&note)),
        }
    }
    // A single name may be longer than what the bus takes. It is found waiting in the end.
    texts.retain(|text| text.len() <= TEXT_BYTES_MAX);
    texts
}

/// The notes that carry parcels.
pub(super) fn offers(parcels: &[(NodeId, Parcel)]) -> Vec<Note> {
    let mut nodes: Vec<NodeId> = parcels.iter().map(|(node, _)| *node).collect();
    nodes.sort_unstable();
    nodes.dedup();
    let of = |to: NodeId| {
        let mine = parcels.iter().filter(move |(node, _)| *node == to);
        let parts = split(mine.map(|(_, parcel)| parcel.clone())).into_iter();
        parts.map(move |parcels| Note::Offer { to, parcels })
    };
    nodes.into_iter().flat_map(of).collect()
}

/// The notes that say what a node listens to; one at least.
pub(super) fn listening(node: NodeId, edition: u64, queues: &[Id]) -> Vec<Note> {
    let mut lists = split(queues.iter().cloned());
    if lists.is_empty() {
        lists.push(Vec::new());
    }
    let parts = u32::try_from(lists.len()).unwrap_or(u32::MAX);
    let note = |(part, queues)| Note::Listening {
        node,
        edition,
        part,
        parts,
        queues,
    };
    (0..parts).zip(lists).map(note).collect()
}

/// The notes that say what has changed since edition `since`; each is the next edition.
pub(super) fn changed(
    node: NodeId,
    since: u64,
    opened: impl IntoIterator<Item = Id>,
    closed: impl IntoIterator<Item = Id>,
) -> Vec<Note> {
    let opened = split(opened).into_iter().map(|part| (part, Vec::new()));
    let closed = split(closed).into_iter().map(|part| (Vec::new(), part));
    let note = |(edition, (opened, closed))| Note::Changed {
        node,
        edition,
        opened,
        closed,
    };
    let editions = since.saturating_add(1)..;
    editions.zip(opened.chain(closed)).map(note).collect()
}

/// Splits a list so that each part fits into a note, unless a single item does not.
fn split<T: Serialize>(items: impl IntoIterator<Item = T>) -> Vec<Vec<T>> {
    let mut parts: Vec<Vec<T>> = Vec::new();
    let mut bytes = usize::MAX;
    for item in items {
        let length = text(&item).len() + 1;
        if bytes.saturating_add(length) > TEXT_BYTES_MAX - FRAME_BYTES {
            parts.push(Vec::new());
            bytes = 0;
        }
        bytes += length;
        if let Some(part) = parts.last_mut() {
            part.push(item);
        }
    }
    parts
}

fn text<T: Serialize>(value: &T) -> String {
    serde_json::to_string(value).expect("strings and numbers always serialise")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn queues(count: usize) -> Vec<Id> {
        let name = |n| format!("uni@workers/{n:032x}\u{1f}\"").into();
        (0..count).map(name).collect()
    }

    #[test]
    fn long_lists_become_notes_that_fit() {
        let node = NodeId::random();
        let notes = listening(node, 7, &queues(2000));
        assert!(notes.len() > 10);
        let mut heard = Vec::new();
        for (index, text) in texts(notes.clone()).iter().enumerate() {
            assert!(text.len() <= TEXT_BYTES_MAX);
            match serde_json::from_str(text).unwrap() {
                Note::Listening {
                    part,
                    parts,
                    queues,
                    ..
                } => {
                    assert_eq!(usize::try_from(part).unwrap(), index);
                    assert_eq!(usize::try_from(parts).unwrap(), notes.len());
                    heard.extend(queues);
                }
                other => panic!("{other:?}"),
            }
        }
        assert_eq!(heard, queues(2000));
        let wake = Note::Wake {
            node,
            queues: queues(2000),
            at: i64::MAX,
        };
        assert!(
            texts([wake])
                .iter()
                .all(|text| text.len() <= TEXT_BYTES_MAX)
        );
        assert_eq!(listening(node, 1, &[]).len(), 1);
    }

    #[test]
    fn parcels_are_put_together_by_node() {
        let nodes = [NodeId(1), NodeId(2)];
        let parcel = |n: usize| Parcel::Unblock {
            promise: format!("{n:0100}").into(),
            address: "poll://uni@g/1".into(),
            trace: None,
        };
        let parcels: Vec<_> = (0..500).map(|n| (nodes[n % 2], parcel(n))).collect();
        let notes = offers(&parcels);
        let mut heard = Vec::new();
        for text in texts(notes) {
            match serde_json::from_str(&text).unwrap() {
                Note::Offer { to, parcels } => {
                    heard.extend(parcels.into_iter().map(|parcel| (to, parcel)));
                }
                other => panic!("{other:?}"),
            }
        }
        assert_eq!(heard.len(), 500);
        assert!(parcels.iter().all(|parcel| heard.contains(parcel)));
    }
}
