//! Whether what is about to be created is looked for ([`super::Need::births`]).

use std::sync::atomic::{AtomicU32, Ordering};

/// After a guess was wrong, so many commits look first: what was created twice may be so again.
pub(crate) const LOOKS: u32 = 64;

/// How the guesses of a store turn out.
#[derive(Default)]
pub(super) struct Guesses {
    /// Commits that are still to look.
    looks: AtomicU32,
}

impl Guesses {
    /// Whether births may be taken to be absent. The commit that creates them must notice if they are not.
    pub fn may_guess(&self) -> bool {
        self.looks.load(Ordering::Relaxed) == 0
    }

    /// Takes note of a commit, and whether something was there that it was to create.
    pub fn note(&self, was_wrong: bool) {
        if was_wrong {
            return self.looks.store(LOOKS, Ordering::Relaxed);
        }
        if !self.may_guess() {
            // Of several at once each counts, or not: it does not matter which.
            let looks = self.looks.load(Ordering::Relaxed);
            self.looks.store(looks.saturating_sub(1), Ordering::Relaxed);
        }
    }
}
