//! How things go wrong at the moment. The monkey makes it; storage and network live in it.

use std::collections::BTreeMap;
use std::fmt;
use std::time::Duration;

use tokio::time::Instant;

/// Probabilities of what may befall one call, and outages.
#[derive(Clone, Debug, Default)]
pub struct Weather {
    /// A call of the storage fails before it took effect.
    pub fails: f64,
    /// A commit takes effect and reports a failure.
    pub fails_after: f64,
    /// A commit reports a failure and takes effect later, if it still may.
    pub is_late: f64,
    /// A call of the storage takes up to `stall`.
    pub stalls: f64,
    pub stall_max: Duration,
    /// A request or a response is lost.
    pub loses: f64,
    /// A request arrives twice.
    pub repeats: f64,
    /// The network takes up to this long; what takes longer is overtaken.
    pub delay_ms_max: u64,
    /// A push meets an error.
    pub refuses: f64,
    /// A worker forgets what it was told, or does not heartbeat, or goes on after its lease.
    pub is_careless: f64,
    /// Until when the storage does not answer anybody.
    pub out_until: Option<Instant>,
    /// Until when it does not answer a node.
    pub cut_off_until: BTreeMap<usize, Instant>,
    /// Until when a node hears nothing on the bus, and is not told so.
    pub deaf_until: BTreeMap<usize, Instant>,
}

/// Without outages: who makes them says so.
impl fmt::Display for Weather {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "storage fails {:.3}, after its commit {:.3}, late {:.3}, stalls {:.3} for {:?} at most; network loses \
             {:.3}, repeats {:.3}, takes {} ms at most, refuses {:.3}; workers are careless {:.3}",
            self.fails,
            self.fails_after,
            self.is_late,
            self.stalls,
            self.stall_max,
            self.loses,
            self.repeats,
            self.delay_ms_max,
            self.refuses,
            self.is_careless,
        )
    }
}

impl Weather {
    pub fn fine() -> Weather {
        Weather {
            delay_ms_max: 3,
            ..Weather::default()
        }
    }

    /// Some weather, the worse the greater the badness.
    pub fn random(rng: &mut fastrand::Rng, badness: f64) -> Weather {
        let mut sometimes = |most: f64| match rng.u32(..3) {
            0 => 0.0,
            _ => most * badness * rng.f64(),
        };
        let (fails, fails_after, is_late) = (sometimes(0.04), sometimes(0.04), sometimes(0.02));
        let (stalls, loses, repeats) = (sometimes(0.02), sometimes(0.05), sometimes(0.08));
        let (refuses, is_careless) = (sometimes(0.2), sometimes(0.3));
        let stall_max = [50, 500, 3000, 12_000][rng.usize(..4)];
        Weather {
            fails,
            fails_after,
            is_late,
            stalls,
            stall_max: Duration::from_millis(stall_max),
            loses,
            repeats,
            delay_ms_max: [2, 5, 20, 150][rng.usize(..4)],
            refuses,
            is_careless,
            ..Weather::default()
        }
    }

    /// Until when the storage does not answer a node.
    pub fn outage(&self, node: usize) -> Option<Instant> {
        let now = Instant::now();
        let own = self.cut_off_until.get(&node).copied();
        self.out_until.max(own).filter(|until| *until > now)
    }

    pub fn is_deaf(&self, node: usize) -> bool {
        self.deaf_until
            .get(&node)
            .is_some_and(|until| *until > Instant::now())
    }
}
