//! What a seed says of a simulation before it starts: how many of what, and which settings.

use std::time::Duration;

use fastrand::Rng;
use resonate::protocol::record::Millis;

/// See the module documentation.
#[derive(Clone, Debug)]
pub struct Plan {
    pub seed: u64,
    /// Requests, messages received and faults before the weather clears.
    pub steps: u64,
    /// Whether the storage is one that several nodes share, as PostgreSQL is; otherwise one node has it for
    /// itself, as it has an SQLite file.
    pub is_shared: bool,
    /// Whether the storage does not look for all that is about to be created.
    pub guesses: bool,
    pub nodes: usize,
    pub lanes: usize,
    pub retry_timeout_ms: Millis,
    pub lease_ms: Millis,
    /// `timeouts.poll_interval`.
    pub sweep_interval: Duration,
    /// `messages.poll_interval`.
    pub repair_interval: Duration,
    pub unblock_ttl_ms: Millis,
    /// `server.request_deadline`.
    pub request_deadline: Duration,
    pub buffer_size: usize,
    pub push_concurrency: usize,
    pub stream_lifetime: Duration,
    pub keep_alive: Duration,
    pub clients: usize,
    /// Workers per group that hold a stream open.
    pub pollers: usize,
    /// Workers that messages are pushed to.
    pub pushed: usize,
    /// How far the clocks of machines and databases may be apart.
    pub skew_ms_max: Millis,
    /// How bad the weather gets: 0 is none.
    pub badness: f64,
}

impl Plan {
    pub fn of(seed: u64, steps_min: u64) -> Plan {
        let mut rng = Rng::with_seed(seed ^ 0x9e37_79b9_7f4a_7c15);
        let is_shared = rng.u32(..3) > 0;
        let nodes = if is_shared { rng.usize(1..=4) } else { 1 };
        let mut one_of = |choices: &[u64]| choices[rng.usize(..choices.len())];
        let millis = |n: u64| Millis::try_from(n).expect("small");
        let size = |n: u64| usize::try_from(n).expect("small");
        let guesses = Rng::with_seed(!seed).bool();
        Plan {
            seed,
            steps: steps_min,
            is_shared,
            guesses,
            nodes,
            lanes: if is_shared {
                size(one_of(&[1, 2, 4, 4]))
            } else {
                1
            },
            retry_timeout_ms: millis(one_of(&[500, 2000, 5000, 10_000])),
            lease_ms: millis(one_of(&[300, 1000, 3000])),
            sweep_interval: Duration::from_millis(one_of(&[500, 1000, 1000, 3000])),
            repair_interval: Duration::from_millis(one_of(&[500, 1000, 3000])),
            unblock_ttl_ms: millis(one_of(&[20_000, 600_000, 600_000])),
            request_deadline: Duration::from_millis(one_of(&[1500, 8000, 8000])),
            buffer_size: size(one_of(&[1, 2, 4, 100, 100])),
            push_concurrency: size(one_of(&[1, 2, 4, 50])),
            stream_lifetime: Duration::from_millis(one_of(&[5000, 30_000, 240_000])),
            keep_alive: Duration::from_millis(one_of(&[1000, 15_000])),
            clients: size(one_of(&[2, 4, 8])),
            pollers: size(one_of(&[1, 2, 3])),
            pushed: size(one_of(&[1, 2])),
            skew_ms_max: millis(one_of(&[0, 0, 2, 40])),
            badness: match one_of(&[0, 1, 2, 3, 4]) {
                0 => 0.2,
                1 => 2.0,
                _ => 1.0,
            },
        }
    }
}
