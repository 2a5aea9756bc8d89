//! The middleware of every request: request id, rendering of problems, audit entries of failures, metrics, security headers;
//! and the address of the client.

use super::connection::ConnectionState;
use super::paced_body::PacedBody;
use super::state::WorkerState;
use super::{Problem, forward_auth, rate_limits, request_span};
use crate::application::Error as ApplicationError;
use crate::application::audit::{self, PendingAuditEntry};
use crate::application::authorizer::EVALUATE_ACTION;
use crate::application::refusals::Target;
use crate::store::Origin;
use crate::telemetry;
use crate::types::{Id, random_u128};
use actix_web::body::{BodySize, BoxBody, EitherBody, MessageBody};
use actix_web::dev::{ServiceRequest, ServiceResponse};
use actix_web::http::ConnectionType;
use actix_web::http::StatusCode;
use actix_web::http::header::{self, HeaderName, HeaderValue};
use actix_web::middleware::Next;
use actix_web::{Error, HttpMessage, HttpRequest};
use ipnet::IpNet;
use std::cell::Cell;
use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;
use std::sync::atomic::Ordering;

/// The header with the request id, in requests and responses.
pub const REQUEST_ID: HeaderName = HeaderName::from_static("x-request-id");

/// The header of decisions made while the database is unavailable: the seconds since its last response.
pub const DECISION_STALE: HeaderName = HeaderName::from_static("x-decision-stale");

/// The id, action and caller of a request. The id is that of its `X-Request-ID` header if that is short and printable, else a
/// new one.
#[derive(Debug, Clone)]
pub struct RequestInfo {
    header: HeaderValue,
    /// The same as text.
    id: Arc<str>,
    /// The action that the route has.
    action: Cell<Option<&'static str>>,
    /// The authenticated user.
    caller: Cell<Option<Id>>,
}

impl RequestInfo {
    fn from_request(request: &ServiceRequest) -> Self {
        let sent = request.headers().get(REQUEST_ID).filter(|value| {
            (1..=128).contains(&value.len()) && value.as_bytes().iter().all(u8::is_ascii_graphic)
        });
        let header = sent.cloned().unwrap_or_else(new_id);
        let id = header_text(&header).unwrap_or_default().into();
        Self { header, id, action: Cell::new(None), caller: Cell::new(None) }
    }

    /// Returns the id.
    pub fn id(&self) -> &Arc<str> {
        &self.id
    }

    /// Sets the authenticated user.
    pub fn set_caller(&self, caller: Id) {
        self.caller.set(Some(caller));
    }

    /// Sets the action.
    pub fn set_action(&self, action: &'static str) {
        self.action.set(Some(action));
    }
}

/// Returns the text of a header value. This is faster than `HeaderValue::to_str`, which checks each byte separately.
pub(super) fn header_text(value: &HeaderValue) -> Option<&str> {
    std::str::from_utf8(value.as_bytes()).ok()
}

/// Returns a new request id: a counter of this thread that starts at a random number.
fn new_id() -> HeaderValue {
    thread_local! {
        static NEXT: Cell<u128> = Cell::new(random_u128());
    }
    let number = NEXT.get();
    NEXT.set(number.wrapping_add(1));
    let mut digits = [0; 32];
    // Cannot fail: the digits have twice the length of the number.
    let _ = hex::encode_to_slice(number.to_be_bytes(), &mut digits);
    HeaderValue::from_bytes(&digits).unwrap_or(HeaderValue::from_static("none"))
}

/// Returns the origin of a request as a session stores it: the address, and at most 256 characters of the `User-Agent`.
pub fn request_origin(request: &HttpRequest) -> Origin {
    let agent = request.headers().get(header::USER_AGENT).map(|value| {
        let text = String::from_utf8_lossy(value.as_bytes());
        text.chars().filter(|letter| !letter.is_control()).take(256).collect()
    });
    let address = client_address(request);
    let id = request.extensions().get::<RequestInfo>().map(|request_info| request_info.id().to_string());
    Origin { address, agent, request: id }
}

/// Handles a request within its span, so that log lines and spans have its id.
///
/// # Errors
/// The error of an inner middleware. The errors of handlers are responses already.
pub async fn request_middleware<B: MessageBody + 'static>(
    request: ServiceRequest,
    next: Next<B>,
) -> Result<ServiceResponse<EitherBody<B, BoxBody>>, Error> {
    let request_info = RequestInfo::from_request(&request);

    let span = telemetry::RequestTrace::begin(Arc::clone(&request_info.id), |name| {
        request.headers().get(name)?.to_str().ok()
    });
    span.scope(process(request, next, request_info)).await
}

async fn process<B: MessageBody + 'static>(
    request: ServiceRequest,
    next: Next<B>,
    request_info: RequestInfo,
) -> Result<ServiceResponse<EitherBody<B, BoxBody>>, Error> {
    let id = request_info.header.clone();
    let connection = ConnectionState::from_request(request.request()).cloned();
    if let Some(connection) = &connection {
        connection.begin_request();
    }
    let stale_changes_before =
        WorkerState::get(request.request()).map(|state| state.app.store.stale_transitions());
    request.extensions_mut().insert(request_info);
    let response = match rate_limits::count_address(request.request()) {
        Ok(()) => next.call(request).await?.map_into_left_body(),
        Err(problem) => request.error_response(problem).map_into_right_body(),
    };
    let unrecorded = telemetry::is_unrecorded().then(|| Problem::from(ApplicationError::decision_log_full()));
    let problem = response.response().error().and_then(|error| error.as_error::<Problem>());
    let problem = unrecorded.as_ref().or(problem);
    let pending_audit = problem.and_then(|problem| problem.pending_audit.clone());
    let problem_response = problem.map(|problem| {
        let counted = count_refusal(response.request(), problem);
        counted.as_ref().err().unwrap_or(problem).to_response(header_text(&id).unwrap_or_default())
    });
    if let (Some(pending_audit), Some(state)) = (pending_audit, WorkerState::get(response.request())) {
        // Boxed because it is rare and large: every request would otherwise reserve the memory for it.
        Box::pin(audit::record(&state.app, *pending_audit, refusal_target(response.request()))).await;
    }
    let mut response = match problem_response {
        Some(problem_response) => response.into_response(problem_response).map_into_right_body(),
        None if is_large(response.response().body().size()) => into_paced(response, &id),
        None => response,
    };
    if let Some(connection) = connection {
        connection.end_request();
    }
    // The path only: a query string may contain a refresh token.
    tracing::debug!(
        method = %response.request().method(),
        path = response.request().path(),
        status = response.status().as_u16(),
        "answered"
    );
    count_request(response.request(), response.status().as_u16());
    response.headers_mut().insert(REQUEST_ID, id);
    for (name, value) in rate_limits::rate_limit_headers(response.request()).into_iter().flatten() {
        response.headers_mut().insert(name, value);
    }
    if forward_auth::is_forward_path(response.request().match_info().as_str()) {
        forward_auth::complete_identity_headers(response.headers_mut());
    }
    mark_stale_decision(&mut response, stale_changes_before.unwrap_or_default());
    set_security_headers(&mut response);
    close_while_draining(&mut response);
    request_span::end_request_span(&response);
    Ok(response)
}

/// Returns the resource that the path of a refused request names, whether it exists or not. The audit log must not disclose
/// that.
fn refusal_target(request: &HttpRequest) -> Option<Target> {
    let id = request.match_info().get("id").and_then(|id| id.parse().ok())?;
    let kind = if request.path().starts_with("/v2/organizations") { "Organization" } else { "User" };
    Some((kind, id))
}

/// Counts a refused request.
///
/// # Errors
/// 429 if a limit is exceeded.
fn count_refusal(request: &HttpRequest, problem: &Problem) -> Result<(), Problem> {
    let is_hidden = matches!(problem.pending_audit.as_deref(), Some(PendingAuditEntry::Refusal(_)));
    if !is_hidden && !matches!(problem.status, StatusCode::UNAUTHORIZED | StatusCode::FORBIDDEN) {
        return Ok(());
    }
    let caller = request.extensions().get::<RequestInfo>().and_then(|request_info| request_info.caller.get());
    rate_limits::count_refusal(request, caller)
}

/// The size above which a response body is sent in pieces and counted in the budget: 64 KiB.
pub(super) const LARGE_BODY: usize = 64 * 1024;

fn is_large(size: BodySize) -> bool {
    matches!(size, BodySize::Sized(bytes) if usize::try_from(bytes).is_ok_and(|bytes| bytes > LARGE_BODY))
}

/// Returns the response with its body sent in pieces and counted in the budget; 503 if the budget is exhausted.
fn into_paced<B: MessageBody + 'static>(
    response: ServiceResponse<EitherBody<B, BoxBody>>,
    id: &HeaderValue,
) -> ServiceResponse<EitherBody<B, BoxBody>> {
    let (request, response) = response.into_parts();
    let (response, body) = response.into_parts();
    let bytes = match body.try_into_bytes() {
        Ok(bytes) => bytes,
        // The body is a stream already.
        Err(body) => return ServiceResponse::new(request, response.set_body(body)),
    };
    let reserved =
        WorkerState::from_request(&request).and_then(|state| state.http.body_budget.reserve(bytes.len()));
    let response = match reserved {
        Ok(reservation) => {
            let connection = ConnectionState::from_request(&request).cloned();
            response.set_body(BoxBody::new(PacedBody::new([bytes], reservation, connection)))
        }
        Err(problem) => problem.to_response(header_text(id).unwrap_or_default()),
    };
    ServiceResponse::new(request, response.map_body(|_, body| EitherBody::right(body)))
}

/// Counts a request by its action and status.
fn count_request(request: &HttpRequest, status: u16) {
    let action = request.extensions().get::<RequestInfo>().and_then(|request_info| request_info.action.get());
    if let Some(state) = WorkerState::get(request) {
        state.http.metrics.count(action, status);
    }
}

/// Marks a decision that was made while the database was unavailable. `stale_changes_before` is the count of changes of that
/// state when the request began.
fn mark_stale_decision<B>(response: &mut ServiceResponse<B>, stale_changes_before: u64) {
    let request = response.request();
    let Some(WorkerState { app, http }) = WorkerState::get(request) else { return };
    if stale_changes_before.is_multiple_of(2) && stale_changes_before == app.store.stale_transitions() {
        return;
    }
    let action = request.extensions().get::<RequestInfo>().and_then(|request_info| request_info.action.get());
    if action == Some(EVALUATE_ACTION) && !response.status().is_server_error() {
        http.metrics.stale_decisions.fetch_add(1, Ordering::Relaxed);
        let seconds = HeaderValue::from(app.store.time_since_contact().as_secs());
        response.headers_mut().insert(DECISION_STALE, seconds);
    }
}

/// Closes the connection after the response while the service drains, so that a proxy sends no further request on it.
fn close_while_draining<B>(response: &mut ServiceResponse<B>) {
    let state = WorkerState::get(response.request());
    if state.is_some_and(|state| state.http.is_shutting_down.load(Ordering::Relaxed)) {
        response.response_mut().head_mut().set_connection_type(ConnectionType::Close);
    }
}

/// Sets the security headers (OWASP, REST Security Cheat Sheet): no sniffing, no frames, no caching unless the response allows
/// it. Only the documentation may load scripts and styles.
fn set_security_headers<B>(response: &mut ServiceResponse<B>) {
    let is_page = response.request().path().starts_with("/docs");
    let is_secure = WorkerState::get(response.request()).is_some_and(|state| state.http.config.is_secure);
    let headers = response.headers_mut();
    let fixed = HeaderValue::from_static;
    headers.insert(header::X_CONTENT_TYPE_OPTIONS, fixed("nosniff"));
    headers.insert(header::REFERRER_POLICY, fixed("no-referrer"));
    let policy = if is_page {
        "default-src 'self'; style-src 'self' 'unsafe-inline'; img-src 'self' data:; frame-ancestors 'none'"
    } else {
        "default-src 'none'; frame-ancestors 'none'"
    };
    headers.insert(header::CONTENT_SECURITY_POLICY, fixed(policy));
    if !headers.contains_key(header::CACHE_CONTROL) {
        headers.insert(header::CACHE_CONTROL, fixed("no-store"));
    }
    if is_secure {
        headers.insert(header::STRICT_TRANSPORT_SECURITY, fixed("max-age=31536000"));
    }
}

/// The header with the client address of a request that a proxy forwards.
const FORWARDED_FOR: HeaderName = HeaderName::from_static("x-forwarded-for");

/// The client address of a request, computed once.
#[derive(Debug, Clone, Copy)]
struct CachedClientAddress(IpAddr);

/// Returns whether a request comes from a trusted proxy (`trusted_proxies`).
pub fn is_from_trusted_proxy(request: &HttpRequest) -> bool {
    let Some((peer, state)) = request.peer_addr().zip(WorkerState::get(request)) else { return false };
    let peer = peer.ip().to_canonical();
    state.http.config.trusted_proxies.iter().any(|network| network.contains(&peer))
}

/// Returns the address of the client; none if the request did not come over a network.
///
/// That is the peer. If the peer is a trusted proxy (`trusted_proxies`), it is the right-most address of `X-Forwarded-For` that
/// is not a trusted proxy; the client may have written everything left of it. The header of RFC 7239 is not read, because a
/// proxy that sets one of the two headers passes on what the client sent as the other.
pub fn client_address(request: &HttpRequest) -> Option<IpAddr> {
    // An IPv4-mapped IPv6 address becomes IPv4: Cedar compares addresses of one family only.
    let peer = request.peer_addr()?.ip().to_canonical();
    let proxies = &WorkerState::get(request)?.http.config.trusted_proxies;
    if proxies.is_empty() {
        return Some(peer);
    }
    if let Some(cached) = request.extensions().get::<CachedClientAddress>() {
        return Some(cached.0);
    }
    let lines: Vec<&[u8]> = request.headers().get_all(FORWARDED_FOR).map(HeaderValue::as_bytes).collect();
    let client =
        resolve_client(peer, proxies, lines.iter().rev().flat_map(|line| line.rsplit(|byte| *byte == b',')));
    request.extensions_mut().insert(CachedClientAddress(client));
    Some(client)
}

/// Returns the first address from `peer` outwards that is not a trusted proxy; before a malformed hop, the last address. `hops`
/// are the addresses behind the peer, the nearest first.
fn resolve_client<'a>(peer: IpAddr, proxies: &[IpNet], hops: impl Iterator<Item = &'a [u8]>) -> IpAddr {
    let is_proxy = |address: &IpAddr| proxies.iter().any(|network| network.contains(address));
    let mut client = peer;
    for hop in hops {
        match parse_hop(hop).filter(|_| is_proxy(&client)) {
            Some(next) => client = next,
            None => break,
        }
    }
    client
}

/// Parses the address of a hop, with or without a port.
fn parse_hop(hop: &[u8]) -> Option<IpAddr> {
    let text = std::str::from_utf8(hop).ok()?.trim();
    let bare = text.strip_prefix('[').and_then(|rest| rest.strip_suffix(']')).unwrap_or(text);
    let address = bare.parse().or_else(|_| text.parse().map(|socket: SocketAddr| socket.ip()));
    address.ok().map(|address: IpAddr| address.to_canonical())
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn from(peer: &str, forwarded: &str) -> String {
        let proxies = ["10.0.0.0/8", "2001:db8:1::/48"].map(|text| text.parse().unwrap());
        resolve_client(peer.parse().unwrap(), &proxies, forwarded.as_bytes().rsplit(|byte| *byte == b','))
            .to_string()
    }

    #[test]
    fn the_client_address_is_the_last_one_that_is_not_a_trusted_proxy() {
        for (peer, forwarded, client) in [
            // The header of an untrusted peer is ignored.
            ("192.0.2.1", "198.51.100.1", "192.0.2.1"),
            ("10.0.0.1", "198.51.100.1", "198.51.100.1"),
            ("10.0.0.1", "198.51.100.1, 10.0.0.2", "198.51.100.1"),
            // The client's own header is left of the address that the proxy has added.
            ("10.0.0.1", "203.0.113.9, 198.51.100.1", "198.51.100.1"),
            ("10.0.0.1", "10.0.0.9, 198.51.100.1,10.0.0.2", "198.51.100.1"),
            // All hops are trusted proxies.
            ("10.0.0.1", "10.0.0.3, 10.0.0.2", "10.0.0.3"),
            // Ports, brackets, and IPv4-mapped addresses.
            ("10.0.0.1", "198.51.100.1:4711", "198.51.100.1"),
            ("2001:db8:1::1", "[2001:db8:2::7]:4711", "2001:db8:2::7"),
            ("2001:db8:1::1", "[2001:db8:2::7]", "2001:db8:2::7"),
            ("10.0.0.1", "2001:db8:2::7", "2001:db8:2::7"),
            ("10.0.0.1", "::ffff:198.51.100.1", "198.51.100.1"),
            // Hops behind a malformed one are ignored.
            ("10.0.0.1", "", "10.0.0.1"),
            ("10.0.0.1", "unknown", "10.0.0.1"),
            ("10.0.0.1", "198.51.100.1, unknown, 10.0.0.2", "10.0.0.2"),
            ("10.0.0.1", "198.51.100.1,", "10.0.0.1"),
            ("10.0.0.1", "198.51.100.256", "10.0.0.1"),
        ] {
            assert_eq!(from(peer, forwarded), client, "{peer} says {forwarded:?}");
        }
    }

    proptest! {
        #[test]
        fn addresses_that_a_client_adds_are_ignored(spoofed in "[0-9a-f:., \\[\\]]{0,60}") {
            prop_assert_eq!(from("10.0.0.1", &format!("{spoofed},198.51.100.1")), "198.51.100.1");
            prop_assert_eq!(from("192.0.2.1", &spoofed), "192.0.2.1");
        }
    }
}
