//! How many requests somebody may make of this process: by its address before it is known who it is, and then by its
//! user. Off unless the settings say otherwise. Each process counts for itself, in memory of a bounded size: whoever has
//! not been there for long is dropped. The answers say where one stands in the fields of the IETF draft
//! draft-ietf-httpapi-ratelimit-headers-10.

use super::edge::{client_address, network_of};
use super::{Parts, Problem};
use crate::config::Config;
use crate::values::{Id, Timestamp};
use actix_web::http::header::{HeaderName, HeaderValue};
use actix_web::{HttpMessage, HttpRequest};
use quick_cache::UnitWeighter;
use quick_cache::sync::Cache;
use std::convert::Infallible;
use std::hash::Hash;
use std::net::IpAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicI64, Ordering};

const POLICY: HeaderName = HeaderName::from_static("ratelimit-policy");
const STANDING: HeaderName = HeaderName::from_static("ratelimit");

/// The limits in force.
#[derive(Debug)]
pub struct Limits {
    caller: Option<Limit<Id>>,
    address: Option<Limit<IpAddr>>,
}

/// A limit for each key: a bucket of tokens that fills evenly. Of a bucket only the moment is kept at which it is full
/// again (the generic cell rate algorithm).
#[derive(Debug)]
struct Limit<K> {
    name: &'static str,
    /// How many requests may come at once.
    quota: i64,
    /// In how many microseconds an empty bucket is full.
    window: i64,
    full_at: Cache<K, Arc<AtomicI64>>,
}

/// Where somebody stands with a limit.
#[derive(Debug, Clone, Copy)]
struct Standing {
    name: &'static str,
    quota: i64,
    window: i64,
    /// How many requests are left.
    left: i64,
    /// In how many microseconds the bucket is full.
    full_in: i64,
    /// In how many microseconds the request would do that does not do now.
    wait: Option<i64>,
}

/// Where the client stands that made a request.
#[derive(Debug, Clone, Default)]
struct Standings(Vec<Standing>);

/// Microseconds as seconds, rounded up.
fn seconds(micros: i64) -> u64 {
    u64::try_from(micros).unwrap_or_default().div_ceil(1_000_000)
}

impl<K: Hash + Eq + Clone> Limit<K> {
    /// So many requests a second, counted over so many seconds; none for 0.
    fn new(name: &'static str, rate: u32, window: u32) -> Option<Self> {
        let (rate, window) = (i64::from(rate), i64::from(window));
        (rate > 0).then(|| Self {
            name,
            quota: rate * window,
            window: window * 1_000_000,
            full_at: Cache::with_weighter(1_000, 100_000, UnitWeighter),
        })
    }

    /// Takes a token out of a bucket, if there is one.
    fn take(&self, key: &K, now: Timestamp) -> Standing {
        let new = || Ok::<_, Infallible>(Arc::default());
        let Ok(bucket) = self.full_at.get_or_insert_with(key, new);
        let now = now.millis().saturating_mul(1_000);
        let token = self.window / self.quota;
        let after = |full_at: i64| full_at.max(now).saturating_add(token);
        let taken = bucket.fetch_update(Ordering::Relaxed, Ordering::Relaxed, |full_at| {
            Some(after(full_at)).filter(|after| after - now <= self.window)
        });
        let (full_at, wait) = match taken {
            Ok(before) => (after(before), None),
            Err(before) => (before, Some(after(before) - self.window - now)),
        };
        let full_in = full_at - now;
        let left = ((self.window - full_in) / token).max(0);
        Standing { name: self.name, quota: self.quota, window: self.window, left, full_in, wait }
    }
}

impl Limits {
    /// Those of the settings.
    pub fn new(config: &Config) -> Self {
        let window = config.rate_limit_window;
        Self {
            caller: Limit::new("caller", config.rate_limit_per_caller, window),
            address: Limit::new("address", config.rate_limit_per_address, window),
        }
    }

    /// Whether there is any.
    fn are_on(&self) -> bool {
        self.caller.is_some() || self.address.is_some()
    }
}

/// Counts a request of which it is not known yet who makes it; 429 where there were too many from its address.
pub(super) fn count_address(request: &HttpRequest) -> Result<(), Problem> {
    let Some(parts) = Parts::held(request) else { return Ok(()) };
    let Some(limit) = &parts.limits.address else { return Ok(()) };
    // Who looks after the service is not to be kept from it by who overruns it.
    if request.path().starts_with("/health/") || request.path() == "/metrics" {
        return Ok(());
    }
    let Some(address) = client_address(request) else { return Ok(()) };
    note(request, limit.take(&network_of(address), parts.clock.now()))
}

/// Counts a request of this user; 429 where there were too many.
pub fn count_caller(parts: &Parts, request: &HttpRequest, user: Id) -> Result<(), Problem> {
    match &parts.limits.caller {
        Some(limit) => note(request, limit.take(&user, parts.clock.now())),
        None => Ok(()),
    }
}

/// Keeps where the client stands for the answer.
fn note(request: &HttpRequest, standing: Standing) -> Result<(), Problem> {
    request.extensions_mut().get_or_insert(Standings::default()).0.push(standing);
    let Some(wait) = standing.wait else { return Ok(()) };
    let wait = seconds(wait).max(1);
    let whose = standing.name;
    let detail = format!("Too many requests of this {whose}. Try again in {wait} seconds.");
    Err(Problem::too_many("rate_limited", detail, wait))
}

/// Says in an answer where the client stands: how many requests there may be in how many seconds (`q`, `w`), how many
/// are left (`r`), and in how many seconds it is all of them (`t`).
pub(super) fn tell(request: &HttpRequest) -> Option<[(HeaderName, HeaderValue); 2]> {
    let parts = Parts::held(request)?;
    if !parts.limits.are_on() {
        return None;
    }
    let extensions = request.extensions();
    let Standings(standings) = extensions.get()?;
    let list = |item: fn(&Standing) -> String| {
        HeaderValue::from_str(&standings.iter().map(item).collect::<Vec<_>>().join(", ")).ok()
    };
    let policy = list(|one| format!("\"{}\";q={};w={}", one.name, one.quota, seconds(one.window)))?;
    let standing = list(|one| format!("\"{}\";r={};t={}", one.name, one.left, seconds(one.full_in)))?;
    Some([(POLICY, policy), (STANDING, standing)])
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn in_no_span_of_time_more_pass_than_the_quota_and_what_has_filled_since(
            (rate, window) in (1u32..2_000, 1u32..20),
            pauses in proptest::collection::vec(0i64..3_000, 1..400),
        ) {
            let limit = Limit::new("test", rate, window).unwrap();
            let (mut now, mut passed) = (1_000_000, Vec::new());
            for pause in pauses {
                now += pause;
                // Some come alone, and some many at once.
                for _ in 0..=pause % 7 {
                    let standing = limit.take(&1, Timestamp::from_millis(now));
                    if let Some(wait) = standing.wait {
                        prop_assert!(standing.left == 0 && wait > 0);
                        // What it says is true: then one passes, if nobody else came.
                        let then = Timestamp::from_millis(now + (wait + 999) / 1_000);
                        let other = Limit::new("test", rate, window).unwrap();
                        other.full_at.insert(1, Arc::new(AtomicI64::new(now * 1_000 + standing.full_in)));
                        prop_assert!(other.take(&1, then).wait.is_none());
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
                prop_assert!(count <= quota + ((end - start) * 1_000 / token) + 1, "{count} of {quota}");
            }
        }
    }
}
