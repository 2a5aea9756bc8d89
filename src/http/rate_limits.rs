//! Rate limits of requests: which requests count against which limit, and the response headers.
//!
//! By default there are limits for requests without a valid credential (by address), and for refusals and writes (by user).
//! Limits for all requests of a user or an address are off unless they are set; the decision endpoints have only these.
//! Responses carry the fields of the IETF draft draft-ietf-httpapi-ratelimit-headers-10.

use super::Problem;
use super::request_info::client_address;
use super::state::WorkerState;
use crate::application::AppState;
use crate::application::rate_limits::LimitStatus;
use crate::types::Id;
use actix_web::http::Method;
use actix_web::http::header::{self, HeaderName, HeaderValue};
use actix_web::{HttpMessage, HttpRequest};

const RATE_LIMIT_POLICY: HeaderName = HeaderName::from_static("ratelimit-policy");
const RATE_LIMIT: HeaderName = HeaderName::from_static("ratelimit");

/// The statuses of the limits that a request was counted against, kept for the response headers.
#[derive(Debug, Clone, Default)]
struct LimitStatuses(Vec<LimitStatus>);

/// Returns whether a path is a decision endpoint or token introspection: a `POST` there changes nothing.
fn is_evaluation(path: &str) -> bool {
    ["/access/v1/", "/v2/authorize", "/v2/auth/introspect"].iter().any(|start| path.starts_with(start))
}

/// Returns whether a request is authenticated by its body only, even if it has an Authorization header.
fn ignores_authorization(request: &HttpRequest) -> bool {
    request.method() == Method::POST && matches!(request.path(), "/v2/auth/token" | "/v2/auth/revoke")
}

/// Returns whether a request belongs to monitoring.
fn is_monitoring(path: &str) -> bool {
    path.starts_with("/health/") || path == "/metrics"
}

/// Returns whether requests without a credential are not counted: those of monitoring, preflights, and those of proxies, which
/// need a decision.
fn is_exempt(request: &HttpRequest) -> bool {
    let path = request.path();
    is_monitoring(path) || path.starts_with("/v2/authorize/forward") || request.method() == Method::OPTIONS
}

/// Counts a request before its caller is known.
///
/// # Errors
/// 429 if its address exceeds a limit.
pub(super) fn count_address(request: &HttpRequest) -> Result<(), Problem> {
    let Some(WorkerState { app: state, .. }) = WorkerState::get(request) else { return Ok(()) };
    // Monitoring must work while a client exceeds the limit.
    if state.rate_limits.counts_addresses()
        && !is_monitoring(request.path())
        && let Some(address) = client_address(request)
    {
        enforce(request, state.rate_limits.count_address(address, state.clock.monotonic()))?;
    }
    if !request.headers().contains_key(header::AUTHORIZATION) || ignores_authorization(request) {
        return count_anonymous(state, request);
    }
    Ok(())
}

/// Counts a request without a valid credential.
///
/// # Errors
/// 429 if its address exceeds the limit.
fn count_anonymous(state: &AppState, request: &HttpRequest) -> Result<(), Problem> {
    if !state.rate_limits.counts_anonymous() || is_exempt(request) {
        return Ok(());
    }
    let Some(address) = client_address(request) else { return Ok(()) };
    enforce(request, state.rate_limits.count_anonymous(address, state.clock.monotonic()))
}

/// Counts a request of a user.
///
/// # Errors
/// 429 if the user exceeds the limit on requests or writes, or had too many refusals.
pub fn count_caller(state: &AppState, request: &HttpRequest, user: Id) -> Result<(), Problem> {
    let limits = &state.rate_limits;
    enforce(request, limits.count_caller(user, state.clock.monotonic()))?;
    if is_evaluation(request.path()) {
        return Ok(());
    }
    enforce(request, limits.exhausted_refusals(user, state.clock.monotonic()))?;
    if request.method().is_safe() {
        return Ok(());
    }
    enforce(request, limits.count_write(user, state.clock.monotonic()))
}

/// Counts a refused request: against its user, or against its address if it has no valid credential.
///
/// # Errors
/// 429 if the address exceeds the limit. A user who exceeds the limit receives it for the next requests.
pub(super) fn count_refusal(request: &HttpRequest, caller: Option<Id>) -> Result<(), Problem> {
    let Some(WorkerState { app: state, .. }) = WorkerState::get(request) else { return Ok(()) };
    match caller {
        Some(user) => {
            if !is_evaluation(request.path()) {
                state.rate_limits.count_refusal(user, state.clock.monotonic());
            }
            Ok(())
        }
        // Requests without the header were counted on arrival.
        None if request.headers().contains_key(header::AUTHORIZATION) && !ignores_authorization(request) => {
            count_anonymous(state, request)
        }
        None => Ok(()),
    }
}

/// Keeps the status for the response headers, and checks that the request is within the limit.
fn enforce(request: &HttpRequest, status: Option<LimitStatus>) -> Result<(), Problem> {
    let Some(status) = status else { return Ok(()) };
    request.extensions_mut().get_or_insert(LimitStatuses::default()).0.push(status);
    Ok(status.check()?)
}

/// Returns the headers of the limits that a request was counted against: quota and window in seconds (`q`, `w`), remaining
/// requests (`r`), and the seconds until the quota is full (`t`).
pub(super) fn rate_limit_headers(request: &HttpRequest) -> Option<[(HeaderName, HeaderValue); 2]> {
    let extensions = request.extensions();
    let LimitStatuses(statuses) = extensions.get()?;
    let list = |item: fn(&LimitStatus) -> String| {
        HeaderValue::from_str(&statuses.iter().map(item).collect::<Vec<_>>().join(", ")).ok()
    };
    let policy = list(|one| format!("\"{}\";q={};w={}", one.name, one.quota, one.window_seconds()))?;
    let status = list(|one| format!("\"{}\";r={};t={}", one.name, one.remaining, one.full_in_seconds()))?;
    Some([(RATE_LIMIT_POLICY, policy), (RATE_LIMIT, status)])
}
