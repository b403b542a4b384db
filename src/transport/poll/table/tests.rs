//! Random histories of a table: every message is in one place, and the indexes agree.

use bytes::Bytes;
use proptest::prelude::*;

use super::*;
use crate::protocol::address::Rules;
use crate::transport::Receipt;

impl Table {
    fn check(&self) {
        let mut linked = 0;
        for (name, group) in &self.groups {
            assert!(!group.members.is_empty());
            for (place, key) in group.members.iter().enumerate() {
                let seat = &self.seats[key];
                assert_eq!((seat.place, &seat.group), (Some(place), name));
                assert_eq!(place < group.roomy, self.has_room(*key));
                assert!(group.by_id[&seat.id].contains(key));
                assert!(seat.queues.iter().all(|queue| self.is_listened(queue)));
            }
            let by_id: usize = group.by_id.values().map(Vec::len).sum();
            assert_eq!(by_id, group.members.len());
            assert!(
                group
                    .by_id
                    .values()
                    .all(|keys| keys.is_sorted() && !keys.is_empty())
            );
            linked += group.members.len();
        }
        assert_eq!(linked, self.linked);
        assert_eq!(self.queues.values().sum::<usize>(), 2 * linked);
        for queue in &self.full {
            // Somebody is going to drain, which is when it is said that there is room.
            let mut serving = self.seats.values().filter(|seat| seat.place.is_some());
            assert!(serving.any(|seat| {
                seat.queues.contains(queue) && seat.buffer.len() > self.buffer_size / 2
            }));
        }
        let places = self.seats.values().filter(|seat| seat.place.is_some());
        assert_eq!(places.count(), linked);
    }

    fn queued(&self) -> usize {
        self.seats.values().map(|seat| seat.buffer.len()).sum()
    }
}

fn message(address: &str) -> Outgoing {
    Outgoing {
        address: Address::parse(address, &Rules::default()).unwrap(),
        body: Bytes::new(),
        trace: None,
        receipt: Receipt::new(|_| ()),
    }
}

#[derive(Clone, Debug)]
enum Step {
    Register(&'static str, &'static str),
    Route(&'static str),
    Take(usize),
    Unlink(usize),
    Remove(usize),
    UnlinkAll,
}

fn step() -> impl Strategy<Value = Step> {
    let groups = || prop::sample::select(vec!["g", "h x", "h%20x"]);
    let addresses = vec![
        "poll://any@g",
        "poll://any@g/a",
        "poll://uni@g/a",
        "poll://any@h%20x",
        "poll://uni@h%20x/b",
        "poll://uni@nobody/a",
    ];
    prop_oneof![
        4 => (groups(), prop::sample::select(vec!["a", "b"]))
            .prop_map(|(group, id)| Step::Register(group, id)),
        12 => prop::sample::select(addresses).prop_map(Step::Route),
        10 => (0..16_usize).prop_map(Step::Take),
        1 => (0..16_usize).prop_map(Step::Unlink),
        2 => (0..16_usize).prop_map(Step::Remove),
        1 => prop::bool::weighted(0.05)
            .prop_map(|all| if all { Step::UnlinkAll } else { Step::Take(0) }),
    ]
}

proptest! {
    #[test]
    fn every_message_is_in_one_place_and_the_indexes_agree(
        buffer_size in 1..4_usize,
        steps in prop::collection::vec(step(), 1..120),
    ) {
        let mut table = Table::new(buffer_size);
        let mut keys = Vec::new();
        let mut queued = 0;
        for step in steps {
            let pick = |index: usize| keys.get(index % keys.len().max(1)).copied().unwrap_or(0);
            match step {
                Step::Register(group, id) => keys.push(table.register(group, id).0),
                Step::Route(address) => match table.route(message(address)) {
                    Routed::Queued(_) => queued += 1,
                    Routed::Nobody(_) => {}
                },
                Step::Take(index) => {
                    let taken = table.take(pick(index), Waker::noop());
                    queued -= usize::from(taken.message.is_some());
                }
                Step::Unlink(index) => drop(table.unlink(pick(index))),
                Step::Remove(index) => queued -= table.remove(pick(index)).buffer.len(),
                Step::UnlinkAll => drop(table.unlink_all()),
            }
            table.check();
            prop_assert_eq!(table.queued(), queued);
        }
    }
}
