//! How often somebody may ask: a token bucket for every address, and for every bearer token.
//!
//! Memory is bounded: a bucket that is full again is forgotten, and when too many are not, those who
//! have none share one.

use std::collections::HashMap;
use std::hash::{BuildHasher, RandomState};
use std::net::IpAddr;
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use tokio::time::Instant;

use crate::telemetry::metrics::METRICS;

/// Buckets of a kind, about 24 bytes each.
const BUCKETS_MAX: usize = 100_000;
/// How often all of them are looked through for those that are full again.
const SWEEP_INTERVAL: Duration = Duration::from_secs(1);
/// What those share who find no room for a bucket of their own.
const SHARED: u64 = 0;

/// How many requests a second, and how many at once; none is unlimited.
#[derive(Clone, Copy, Debug, Default)]
pub struct Settings {
    /// From one address, or from one /64 of IPv6.
    pub per_address: Option<u32>,
    /// With one token.
    pub per_token: Option<u32>,
    /// Requests at once, at least 1.
    pub burst: u32,
}

/// See the module documentation.
pub struct Rates {
    hasher: RandomState,
    addresses: Option<Buckets>,
    tokens: Option<Buckets>,
}

/// A request that came too early. The display is the client's message.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("Too many requests; safe to repeat in {retry_after_s} s")]
pub struct TooMany {
    /// After how many seconds there is room for it, at least 1.
    pub retry_after_s: u64,
}

impl Rates {
    /// Nobody has asked for anything yet.
    pub fn new(settings: Settings) -> Self {
        let buckets = |rate: Option<u32>| rate.map(|rate| Buckets::new(rate, settings.burst));
        Rates {
            hasher: RandomState::new(),
            addresses: buckets(settings.per_address),
            tokens: buckets(settings.per_token),
        }
    }

    /// Counts a request of an address.
    ///
    /// # Errors
    /// When it is one too many.
    pub fn address(&self, address: IpAddr) -> Result<(), TooMany> {
        let Some(buckets) = &self.addresses else {
            return Ok(());
        };
        let taken = buckets.take(self.hasher.hash_one(site(address)));
        taken.inspect_err(|_| METRICS.rate_limited("address"))
    }

    /// Counts a request with a token. Whoever makes up tokens has as many buckets, so this bounds nothing
    /// but what [`Rates::address`] let through, or whose token was verified.
    ///
    /// # Errors
    /// When it is one too many.
    pub fn token(&self, token: &str) -> Result<(), TooMany> {
        let Some(buckets) = &self.tokens else {
            return Ok(());
        };
        let taken = buckets.take(self.hasher.hash_one(token));
        taken.inspect_err(|_| METRICS.rate_limited("token"))
    }
}

/// What belongs to one client: an address, or the /64 that it can choose addresses from.
fn site(address: IpAddr) -> IpAddr {
    match address.to_canonical() {
        IpAddr::V4(address) => address.into(),
        IpAddr::V6(address) => {
            let [a, b, c, d, ..] = address.segments();
            [a, b, c, d, 0, 0, 0, 0].into()
        }
    }
}

struct Buckets {
    /// What a request costs.
    interval: Duration,
    /// What a full bucket holds.
    capacity: Duration,
    state: Mutex<State>,
}

struct State {
    /// When each bucket is full again.
    full_at: HashMap<u64, Instant>,
    swept_at: Instant,
}

impl Buckets {
    fn new(rate: u32, burst: u32) -> Self {
        let interval = Duration::from_secs(1) / rate.max(1);
        Buckets {
            interval,
            capacity: interval.saturating_mul(burst.max(1)),
            state: Mutex::new(State {
                full_at: HashMap::new(),
                swept_at: Instant::now(),
            }),
        }
    }

    fn take(&self, key: u64) -> Result<(), TooMany> {
        let now = Instant::now();
        let mut state = self.state.lock().unwrap_or_else(PoisonError::into_inner);
        let key = state.key(key, now);
        let full_at = state.full_at.get(&key).map_or(now, |at| (*at).max(now)) + self.interval;
        let missing = (full_at - now).saturating_sub(self.capacity);
        if missing.is_zero() {
            state.full_at.insert(key, full_at);
            return Ok(());
        }
        let retry_after_s = missing.as_secs() + u64::from(missing.subsec_nanos() > 0);
        Err(TooMany { retry_after_s })
    }
}

impl State {
    /// `key`, if it has a bucket or there is room for one.
    fn key(&mut self, key: u64, now: Instant) -> u64 {
        if self.full_at.len() < BUCKETS_MAX || self.full_at.contains_key(&key) {
            return key;
        }
        if now - self.swept_at >= SWEEP_INTERVAL {
            self.swept_at = now;
            self.full_at.retain(|_, full_at| *full_at > now);
        }
        if self.full_at.len() < BUCKETS_MAX {
            key
        } else {
            SHARED
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn rates(per_address: u32, per_token: u32, burst: u32) -> Rates {
        Rates::new(Settings {
            per_address: Some(per_address),
            per_token: Some(per_token),
            burst,
        })
    }

    fn address(text: &str) -> IpAddr {
        text.parse().unwrap()
    }

    #[tokio::test(start_paused = true)]
    async fn a_bucket_refills_at_its_rate() {
        let rates = rates(2, 2, 3);
        let a = address("10.0.0.1");
        let passed = |count: usize| (0..count).filter(|_| rates.address(a).is_ok()).count();
        assert_eq!(passed(5), 3);
        assert_eq!(rates.address(a), Err(TooMany { retry_after_s: 1 }));
        tokio::time::advance(Duration::from_millis(500)).await;
        assert_eq!(passed(5), 1);
        tokio::time::advance(Duration::from_secs(3600)).await;
        assert_eq!(passed(5), 3);
        assert!(rates.address(address("10.0.0.2")).is_ok());
        assert!(rates.token("a").is_ok());
    }

    #[tokio::test(start_paused = true)]
    async fn the_time_to_wait_is_told_in_whole_seconds() {
        let slow = Rates::new(Settings {
            per_token: Some(1),
            burst: 1,
            ..Settings::default()
        });
        assert!(slow.token("a").is_ok());
        assert_eq!(slow.token("a"), Err(TooMany { retry_after_s: 1 }));
        tokio::time::advance(Duration::from_millis(999)).await;
        assert_eq!(slow.token("a"), Err(TooMany { retry_after_s: 1 }));
        tokio::time::advance(Duration::from_millis(1)).await;
        assert!(slow.token("a").is_ok());
    }

    #[tokio::test(start_paused = true)]
    async fn addresses_that_one_client_can_choose_share_a_bucket() {
        let rates = rates(1, 1, 1);
        assert!(rates.address(address("2001:db8:1:2::1")).is_ok());
        assert!(rates.address(address("2001:db8:1:2:ffff::9")).is_err());
        assert!(rates.address(address("2001:db8:1:3::1")).is_ok());
        assert!(rates.address(address("10.0.0.1")).is_ok());
        assert!(rates.address(address("::ffff:10.0.0.1")).is_err());
    }

    #[tokio::test(start_paused = true)]
    async fn memory_is_bounded_whatever_is_made_up() {
        let rates = rates(1, 1, 1);
        let made_up = |n: usize| rates.token(&n.to_string());
        let passed = (0..3 * BUCKETS_MAX).filter(|n| made_up(*n).is_ok()).count();
        // All that find no room share one.
        assert_eq!(passed, BUCKETS_MAX + 1);
        let buckets = || rates.tokens.as_ref().unwrap().state.lock().unwrap();
        assert_eq!(buckets().full_at.len(), BUCKETS_MAX + 1);
        tokio::time::advance(SWEEP_INTERVAL).await;
        assert!(rates.token("somebody new").is_ok());
        assert_eq!(buckets().full_at.len(), 1);
    }
}
