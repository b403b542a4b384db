//! The trees that something elsewhere still needs, as far as a walk has seen: a set that takes no more memory
//! however many there are, and may take others for members. Those stay until a later walk, which errs elsewhere.

use std::hash::{DefaultHasher, Hash, Hasher};

use crate::protocol::lineage::above;

/// 1 MiB: of 300,000 members one other tree in 1000 is taken for one.
const WORDS: usize = 1 << 17;
const PROBES: u64 = 4;

/// See the module documentation.
pub(super) struct Held {
    words: Vec<u64>,
    seed: u64,
}

impl Held {
    /// An empty one; each seed errs about other trees.
    pub fn new(seed: u64) -> Self {
        Held {
            words: vec![0; WORDS],
            seed,
        }
    }

    /// Adds the tree that an id is in, whichever of the ids above it is its root.
    pub fn hold(&mut self, id: &str) {
        for root in above(id).chain([id]) {
            for (word, bit) in self.places(root) {
                self.words[word] |= bit;
            }
        }
    }

    /// Whether the tree of this root was added; or it may be that it was not.
    pub fn has(&self, root: &str) -> bool {
        self.places(root)
            .all(|(word, bit)| self.words[word] & bit != 0)
    }

    fn places(&self, id: &str) -> impl Iterator<Item = (usize, u64)> + use<> {
        let mut hasher = DefaultHasher::new();
        (self.seed, id).hash(&mut hasher);
        let hash = hasher.finish();
        // Odd: it comes by all places.
        let step = (hash >> 32) | 1;
        (0..PROBES).map(move |probe| {
            let place = hash.wrapping_add(step.wrapping_mul(probe));
            let word = usize::try_from(place >> 6 & 0xffff_ffff).unwrap_or_default();
            (word % WORDS, 1 << (place & 63))
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn it_never_forgets_a_member_and_rarely_takes_another_for_one() {
        let mut held = Held::new(1);
        for n in 0..100_000 {
            held.hold(&format!("held-{n}:0.1"));
        }
        for n in 0..100_000 {
            assert!(held.has(&format!("held-{n}")) && held.has(&format!("held-{n}:0.1")));
        }
        let others = (0..100_000).filter(|n| held.has(&format!("other-{n}")));
        assert!(others.count() < 1000);
    }

    #[test]
    fn each_seed_errs_about_others() {
        let errs = |seed| {
            let mut held = Held::new(seed);
            for n in 0..2_000_000 {
                held.hold(&n.to_string());
            }
            let others = (0..1000).filter(move |n| held.has(&format!("other-{n}")));
            others.collect::<Vec<i32>>()
        };
        let (some, others) = (errs(1), errs(2));
        assert!(!some.is_empty() && some != others);
    }
}
