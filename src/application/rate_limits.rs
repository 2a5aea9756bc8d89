//! Rate limits: how many requests this process accepts from one user or one address.
//!
//! Each process counts by itself, by the monotonic clock, in memory of a bounded size. `http::rate_limits` decides which
//! requests count against which limit.

use super::Error;
use crate::config::Config;
use crate::types::Id;
use quick_cache::UnitWeighter;
use quick_cache::sync::Cache;
use std::convert::Infallible;
use std::hash::Hash;
use std::net::{IpAddr, Ipv6Addr};
use std::sync::Arc;
use std::sync::atomic::{AtomicI64, Ordering};
use std::time::Duration;

/// The active limits; none of those that are off.
#[derive(Debug)]
pub struct RateLimits {
    /// All requests of a user.
    caller: Option<RateLimit<Id>>,
    /// All requests from an address.
    address: Option<RateLimit<IpAddr>>,
    /// Requests without a valid credential.
    anonymous: Option<RateLimit<IpAddr>>,
    /// Requests that the policies deny.
    refusals: Option<RateLimit<Id>>,
    /// Requests with unsafe methods.
    writes: Option<RateLimit<Id>>,
}

/// A limit for each key: a token bucket that fills evenly. Only the time at which a bucket is full again is stored (the
/// generic cell rate algorithm).
#[derive(Debug)]
struct RateLimit<K> {
    name: &'static str,
    /// The capacity of a bucket, in requests.
    quota: i64,
    /// The time in which an empty bucket fills, in microseconds.
    window: i64,
    full_at: Cache<K, Arc<AtomicI64>>,
}

/// The state of a bucket after a request was counted.
#[derive(Debug, Clone, Copy)]
pub struct LimitStatus {
    /// The name of the limit.
    pub name: &'static str,
    /// The capacity of the bucket, in requests.
    pub quota: i64,
    window: i64,
    /// The remaining requests.
    pub remaining: i64,
    full_in: i64,
    /// After how many microseconds the refused request would be accepted; none if it was accepted.
    wait: Option<i64>,
}

impl LimitStatus {
    /// Returns the time in which an empty bucket fills, in seconds.
    pub fn window_seconds(&self) -> u64 {
        seconds(self.window)
    }

    /// Returns after how many seconds the bucket is full.
    pub fn full_in_seconds(&self) -> u64 {
        seconds(self.full_in)
    }

    /// Checks that the request is within the limit.
    ///
    /// # Errors
    /// `rate_limited` with the seconds after which a retry succeeds.
    pub fn check(&self) -> Result<(), Error> {
        let Some(wait) = self.wait else { return Ok(()) };
        let wait = seconds(wait).max(1);
        let what = match self.name {
            "anonymous" => "requests without a valid credential from this address".to_owned(),
            "refusals" => "refused requests of this user".to_owned(),
            "writes" => "writes of this user".to_owned(),
            "caller" => "requests of this user".to_owned(),
            name => format!("requests from this {name}"),
        };
        let message = format!("Too many {what}. Try again in {wait} seconds.");
        Err(Error::too_many_requests("rate_limited", message, wait))
    }
}

/// Returns microseconds as seconds, rounded up.
fn seconds(micros: i64) -> u64 {
    u64::try_from(micros).unwrap_or_default().div_ceil(1_000_000)
}

fn micros(time: Duration) -> i64 {
    i64::try_from(time.as_micros()).unwrap_or(i64::MAX)
}

/// Returns the key by which an address is counted: an IPv6 address by its first 64 bits, the smallest network of a subscriber
/// (RFC 6177).
pub fn network_prefix(address: IpAddr) -> IpAddr {
    match address {
        IpAddr::V4(_) => address,
        IpAddr::V6(address) => Ipv6Addr::from_bits(address.to_bits() >> 64 << 64).into(),
    }
}

impl<K: Hash + Eq + Clone> RateLimit<K> {
    /// Creates a limit of `rate` requests a second, counted over `window` seconds; none if `rate` is 0.
    fn new(name: &'static str, rate: u32, window: u32) -> Option<Self> {
        let (rate, window) = (i64::from(rate), i64::from(window));
        (rate > 0).then(|| Self {
            name,
            quota: rate * window,
            window: window * 1_000_000,
            full_at: Cache::with_weighter(1_000, 100_000, UnitWeighter),
        })
    }

    /// Takes a token out of a bucket, if it has one.
    fn take_token(&self, key: &K, now: Duration) -> LimitStatus {
        let new = || Ok::<_, Infallible>(Arc::default());
        let Ok(bucket) = self.full_at.get_or_insert_with(key, new);
        let now = micros(now);
        let token_interval = self.token_interval();
        let after = |full_at: i64| full_at.max(now).saturating_add(token_interval);
        let taken = bucket.fetch_update(Ordering::Relaxed, Ordering::Relaxed, |full_at| {
            Some(after(full_at)).filter(|after| after - now <= self.window)
        });
        match taken {
            Ok(before) => self.status(after(before) - now, None),
            Err(before) => self.status(before - now, Some(after(before) - self.window - now)),
        }
    }

    /// Returns the status of a bucket without a token; none if it has one. Takes no token.
    fn exhausted(&self, key: &K, now: Duration) -> Option<LimitStatus> {
        let full_in = self.full_at.get(key)?.load(Ordering::Relaxed) - micros(now);
        let wait = full_in + self.token_interval() - self.window;
        (wait > 0).then(|| self.status(full_in, Some(wait)))
    }

    fn token_interval(&self) -> i64 {
        self.window / self.quota
    }

    fn status(&self, full_in: i64, wait: Option<i64>) -> LimitStatus {
        let remaining = ((self.window - full_in) / self.token_interval()).max(0);
        LimitStatus { name: self.name, quota: self.quota, window: self.window, remaining, full_in, wait }
    }
}

impl RateLimits {
    /// Creates the limits of the settings.
    pub fn new(config: &Config) -> Self {
        let window = config.rate_limit_window;
        Self {
            caller: RateLimit::new("caller", config.rate_limit_per_caller, window),
            address: RateLimit::new("address", config.rate_limit_per_address, window),
            anonymous: RateLimit::new("anonymous", config.rate_limit_anonymous, window),
            refusals: RateLimit::new("refusals", config.rate_limit_refusals, window),
            writes: RateLimit::new("writes", config.rate_limit_writes, window),
        }
    }

    /// Returns whether requests are counted by address.
    pub fn counts_addresses(&self) -> bool {
        self.address.is_some()
    }

    /// Returns whether requests without a valid credential are counted.
    pub fn counts_anonymous(&self) -> bool {
        self.anonymous.is_some()
    }

    /// Counts a request from an address. `now` is a time of the monotonic clock, as in all of these.
    pub fn count_address(&self, address: IpAddr, now: Duration) -> Option<LimitStatus> {
        Some(self.address.as_ref()?.take_token(&network_prefix(address), now))
    }

    /// Counts a request without a valid credential.
    pub fn count_anonymous(&self, address: IpAddr, now: Duration) -> Option<LimitStatus> {
        Some(self.anonymous.as_ref()?.take_token(&network_prefix(address), now))
    }

    /// Counts a request of a user.
    pub fn count_caller(&self, user: Id, now: Duration) -> Option<LimitStatus> {
        Some(self.caller.as_ref()?.take_token(&user, now))
    }

    /// Counts a write of a user.
    pub fn count_write(&self, user: Id, now: Duration) -> Option<LimitStatus> {
        Some(self.writes.as_ref()?.take_token(&user, now))
    }

    /// Counts a refused request of a user.
    pub fn count_refusal(&self, user: Id, now: Duration) {
        if let Some(limit) = &self.refusals {
            limit.take_token(&user, now);
        }
    }

    /// Returns the status of a user with too many refusals; none for all others.
    pub fn exhausted_refusals(&self, user: Id, now: Duration) -> Option<LimitStatus> {
        self.refusals.as_ref()?.exhausted(&user, now)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn ipv6_addresses_count_by_their_64_bit_network() {
        let of = |text: &str| network_prefix(text.parse().unwrap());
        assert_eq!(of("2001:db8:1:2::1"), of("2001:db8:1:2:ffff::9"));
        assert_ne!(of("2001:db8:1:2::1"), of("2001:db8:1:3::1"));
        assert_ne!(of("192.0.2.1"), of("192.0.2.2"));
    }

    proptest! {
        #[test]
        fn no_period_admits_more_than_the_quota_and_the_refill(
            (rate, window) in (1u32..2_000, 1u32..20),
            pauses in proptest::collection::vec(0u64..3_000, 1..400),
        ) {
            let limit = RateLimit::new("test", rate, window).unwrap();
            let (mut now, mut passed) = (1_000_000, Vec::new());
            for pause in pauses {
                now += pause;
                // Single requests and bursts.
                for _ in 0..=pause % 7 {
                    let status = limit.take_token(&1, Duration::from_millis(now));
                    if let Some(wait) = status.wait {
                        prop_assert!(status.remaining == 0 && wait > 0);
                        // After the stated wait a request passes.
                        let then = Duration::from_millis(now + u64::try_from((wait + 999) / 1_000).unwrap());
                        let other = RateLimit::new("test", rate, window).unwrap();
                        let full_at = i64::try_from(now * 1_000).unwrap() + status.full_in;
                        other.full_at.insert(1, Arc::new(AtomicI64::new(full_at)));
                        prop_assert!(other.take_token(&1, then).wait.is_none());
                    } else {
                        passed.push(now);
                    }
                }
            }
            let quota = i64::from(rate * window);
            for (at, start) in passed.iter().enumerate() {
                let end = *passed.last().unwrap();
                let count = i64::try_from(passed.len() - at).unwrap();
                // Tokens are whole microseconds apart.
                let token = i64::from(window) * 1_000_000 / quota;
                let passed = i64::try_from((end - start) * 1_000).unwrap();
                prop_assert!(count <= quota + (passed / token) + 1, "{count} of {quota}");
            }
        }
    }
}
