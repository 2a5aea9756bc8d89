//! The middleware of every request: request id, rendering of problems, audit entries of failures, metrics, security headers;
//! and the address of the client.

use super::body_budget::BUDGET_EXEMPT_BYTES;
use super::connection::ConnectionState;
use super::paced_body::PacedBody;
use super::request_info::{REQUEST_ID, RequestInfo, header_text};
use super::state::WorkerState;
use super::{Problem, forward_auth, rate_limits, request_span};
use crate::application::Error as ApplicationError;
use crate::application::audit::{self, PendingAuditEntry};
use crate::application::authorizer::EVALUATE_ACTION;
use crate::application::refusals::Target;
use crate::telemetry;
use actix_web::body::{BodySize, BoxBody, EitherBody, MessageBody};
use actix_web::dev::{ServiceRequest, ServiceResponse};
use actix_web::http::ConnectionType;
use actix_web::http::StatusCode;
use actix_web::http::header::{self, HeaderName, HeaderValue};
use actix_web::middleware::Next;
use actix_web::{Error, HttpMessage, HttpRequest};
use std::sync::Arc;
use std::sync::atomic::Ordering;

/// The header of decisions made while the database is unavailable: the seconds since its last response.
pub const DECISION_STALE: HeaderName = HeaderName::from_static("x-decision-stale");

/// Handles a request within its span, so that log lines and spans have its id.
///
/// # Errors
/// The error of an inner middleware. The errors of handlers are responses already.
pub async fn request_middleware<B: MessageBody + 'static>(
    request: ServiceRequest,
    next: Next<B>,
) -> Result<ServiceResponse<EitherBody<B, BoxBody>>, Error> {
    let request_info = RequestInfo::from_request(&request);

    let span = telemetry::RequestTrace::begin(Arc::clone(request_info.id()), |name| {
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

fn is_large(size: BodySize) -> bool {
    matches!(size, BodySize::Sized(bytes) if usize::try_from(bytes).is_ok_and(|bytes| bytes > BUDGET_EXEMPT_BYTES))
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
