//! Rate limits: how many requests this process answers for one user or one address.
//!
//! By default there are limits for requests without a valid credential (by address), and for refusals and writes (by user).
//! Limits for all requests of a user or an address are off unless they are set. Decision endpoints have only the latter. Each
//! process counts for itself, by the monotonic clock, in memory of a bounded size. Answers carry the fields of the IETF draft
//! draft-ietf-httpapi-ratelimit-headers-10.

use super::request_middleware::{client_address, network_prefix};
use super::{AppState, Problem};
use crate::config::Config;
use crate::types::Id;
use actix_web::http::Method;
use actix_web::http::header::{self, HeaderName, HeaderValue};
use actix_web::{HttpMessage, HttpRequest};
use quick_cache::UnitWeighter;
use quick_cache::sync::Cache;
use std::convert::Infallible;
use std::hash::Hash;
use std::net::IpAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicI64, Ordering};
use std::time::Duration;

const RATE_LIMIT_POLICY: HeaderName = HeaderName::from_static("ratelimit-policy");
const RATE_LIMIT: HeaderName = HeaderName::from_static("ratelimit");

/// The limits in force.
#[derive(Debug)]
pub struct RateLimits {
    caller: Option<RateLimit<Id>>,
    address: Option<RateLimit<IpAddr>>,
    /// Requests without a valid credential.
    anonymous: Option<RateLimit<IpAddr>>,
    /// Requests that the policies refuse.
    refusals: Option<RateLimit<Id>>,
    /// Requests that change something.
    writes: Option<RateLimit<Id>>,
}

/// A limit for each key: a bucket of tokens that fills evenly. Of a bucket only the moment is kept at which it is full
/// again (the generic cell rate algorithm).
#[derive(Debug)]
struct RateLimit<K> {
    name: &'static str,
    /// How many requests may come at once.
    quota: i64,
    /// In how many microseconds an empty bucket is full.
    window: i64,
    full_at: Cache<K, Arc<AtomicI64>>,
}

/// Where somebody stands with a limit.
#[derive(Debug, Clone, Copy)]
struct LimitStatus {
    name: &'static str,
    quota: i64,
    window: i64,
    /// How many requests are left.
    remaining: i64,
    /// In how many microseconds the bucket is full.
    full_in: i64,
    /// In how many microseconds the request would do that does not do now.
    wait: Option<i64>,
}

/// Where the client stands that made a request.
#[derive(Debug, Clone, Default)]
struct LimitStatuses(Vec<LimitStatus>);

/// Microseconds as seconds, rounded up.
fn seconds(micros: i64) -> u64 {
    u64::try_from(micros).unwrap_or_default().div_ceil(1_000_000)
}

impl<K: Hash + Eq + Clone> RateLimit<K> {
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

    /// Where the client stands, if the bucket has no token left; takes none.
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

fn micros(time: Duration) -> i64 {
    i64::try_from(time.as_micros()).unwrap_or(i64::MAX)
}

impl RateLimits {
    /// Those of the settings.
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
}

/// Whether a path is a decision endpoint, or asks what a token is: a `POST` there changes nothing.
fn is_evaluation(path: &str) -> bool {
    ["/access/v1/", "/v2/authorize", "/v2/auth/introspect"].iter().any(|start| path.starts_with(start))
}

/// Whether a request tells who makes it only in its body, whatever header it has.
fn ignores_authorization(request: &HttpRequest) -> bool {
    request.method() == Method::POST && matches!(request.path(), "/v2/auth/token" | "/v2/auth/revoke")
}

/// Whether requests without a credential are not counted: those of monitoring, preflights, and those of a proxy, which must be
/// answered with a decision.
fn is_exempt(request: &HttpRequest) -> bool {
    let path = request.path();
    path.starts_with("/health/")
        || path == "/metrics"
        || path.starts_with("/v2/authorize/forward")
        || request.method() == Method::OPTIONS
}

/// Counts a request before it is known who makes it; 429 where there were too many from its address.
pub(super) fn count_address(request: &HttpRequest) -> Result<(), Problem> {
    let Some(state) = AppState::get(request) else { return Ok(()) };
    if let Some(limit) = &state.rate_limits.address {
        // Monitoring must work while a client is over the limit.
        let is_monitoring = request.path().starts_with("/health/") || request.path() == "/metrics";
        if let Some(address) = client_address(request).filter(|_| !is_monitoring) {
            enforce(request, limit.take_token(&network_prefix(address), state.clock.monotonic()))?;
        }
    }
    if !request.headers().contains_key(header::AUTHORIZATION) || ignores_authorization(request) {
        return count_anonymous(state, request);
    }
    Ok(())
}

/// Counts a request without a valid credential; 429 where there were too many from its address.
fn count_anonymous(state: &AppState, request: &HttpRequest) -> Result<(), Problem> {
    let Some(limit) = state.rate_limits.anonymous.as_ref().filter(|_| !is_exempt(request)) else {
        return Ok(());
    };
    let Some(address) = client_address(request) else { return Ok(()) };
    enforce(request, limit.take_token(&network_prefix(address), state.clock.monotonic()))
}

/// Counts a request of this user; 429 where there were too many, or too many refusals or writes before.
pub fn count_caller(state: &AppState, request: &HttpRequest, user: Id) -> Result<(), Problem> {
    let RateLimits { caller, refusals, writes, .. } = &state.rate_limits;
    if let Some(limit) = caller {
        enforce(request, limit.take_token(&user, state.clock.monotonic()))?;
    }
    if is_evaluation(request.path()) {
        return Ok(());
    }
    if let Some(status) = refusals.as_ref().and_then(|limit| limit.exhausted(&user, state.clock.monotonic()))
    {
        enforce(request, status)?;
    }
    match writes {
        Some(limit) if !request.method().is_safe() => {
            enforce(request, limit.take_token(&user, state.clock.monotonic()))
        }
        _ => Ok(()),
    }
}

/// Counts the answer to a request that was refused: for its user, whose next requests are stopped where there were too many;
/// or where it has no valid credential for its address, with 429 in place of the answer.
pub(super) fn count_refusal(request: &HttpRequest, caller: Option<Id>) -> Result<(), Problem> {
    let Some(state) = AppState::get(request) else { return Ok(()) };
    match caller {
        Some(user) => {
            if let Some(limit) =
                state.rate_limits.refusals.as_ref().filter(|_| !is_evaluation(request.path()))
            {
                limit.take_token(&user, state.clock.monotonic());
            }
            Ok(())
        }
        // The others were counted when they came.
        None if request.headers().contains_key(header::AUTHORIZATION) && !ignores_authorization(request) => {
            count_anonymous(state, request)
        }
        None => Ok(()),
    }
}

/// Keeps where the client stands for the answer.
fn enforce(request: &HttpRequest, status: LimitStatus) -> Result<(), Problem> {
    request.extensions_mut().get_or_insert(LimitStatuses::default()).0.push(status);
    let Some(wait) = status.wait else { return Ok(()) };
    let wait = seconds(wait).max(1);
    let whose = status.name;
    let what = match whose {
        "anonymous" => "requests without a valid credential from this address".to_owned(),
        "refusals" => "requests of this caller that were refused".to_owned(),
        "writes" => "writes of this caller".to_owned(),
        whose => format!("requests of this {whose}"),
    };
    let detail = format!("Too many {what}. Try again in {wait} seconds.");
    Err(Problem::too_many_requests("rate_limited", detail, wait))
}

/// Says in an answer where the client stands: how many requests there may be in how many seconds (`q`, `w`), how many
/// are left (`r`), and in how many seconds it is all of them (`t`).
pub(super) fn rate_limit_headers(request: &HttpRequest) -> Option<[(HeaderName, HeaderValue); 2]> {
    let extensions = request.extensions();
    let LimitStatuses(statuses) = extensions.get()?;
    let list = |item: fn(&LimitStatus) -> String| {
        HeaderValue::from_str(&statuses.iter().map(item).collect::<Vec<_>>().join(", ")).ok()
    };
    let policy = list(|one| format!("\"{}\";q={};w={}", one.name, one.quota, seconds(one.window)))?;
    let status = list(|one| format!("\"{}\";r={};t={}", one.name, one.remaining, seconds(one.full_in)))?;
    Some([(RATE_LIMIT_POLICY, policy), (RATE_LIMIT, status)])
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn in_no_span_of_time_more_pass_than_the_quota_and_what_has_filled_since(
            (rate, window) in (1u32..2_000, 1u32..20),
            pauses in proptest::collection::vec(0u64..3_000, 1..400),
        ) {
            let limit = RateLimit::new("test", rate, window).unwrap();
            let (mut now, mut passed) = (1_000_000, Vec::new());
            for pause in pauses {
                now += pause;
                // Some come alone, and some many at once.
                for _ in 0..=pause % 7 {
                    let status = limit.take_token(&1, Duration::from_millis(now));
                    if let Some(wait) = status.wait {
                        prop_assert!(status.remaining == 0 && wait > 0);
                        // What it says is true: then one passes, if nobody else came.
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
