//! Authentication of a request: from its bearer token to the [`Authorizer`] of its action.

use super::Problem;
use super::rate_limits::count_caller;
use super::request_info::{RequestInfo, client_address, request_origin};
use super::state::WorkerState;
use crate::application::authorizer::{EVALUATE_ACTION, RequestSource};
use crate::application::{Authorizer, Caller, Error, SharedState};
use crate::authn::BearerToken;
use crate::store::StoreError;
use actix_web::http::{StatusCode, header};
use actix_web::{HttpMessage, HttpRequest};
use std::sync::Arc;

/// Authenticates the caller of a request and returns the authorizer of `action`.
///
/// # Errors
/// 401 without a valid credential, 429 if the caller exceeds a limit, 503 if the database or the decision log is unavailable.
pub async fn authenticate(request: &HttpRequest, action: &'static str) -> Result<Authorizer, Problem> {
    if let Some(request_info) = request.extensions().get::<RequestInfo>() {
        request_info.set_action(action);
    }
    let state = &WorkerState::from_request(request)?.app;
    let token = bearer_token(request)?.ok_or_else(Problem::missing_bearer)?;
    let engine = state.policies.current_guard();
    let caller = Caller::from_token(state, &engine, token).await?;
    if let Some(request_info) = request.extensions().get::<RequestInfo>() {
        request_info.set_caller(caller.id);
    }
    if action != EVALUATE_ACTION && state.store.is_stale() {
        return Err(
            StoreError::Unavailable("only decision endpoints continue from the cache".to_owned()).into()
        );
    }
    count_caller(state, request, caller.id)?;
    caller.record_use(state, || request_origin(request)).await;
    if state.decision_log.is_full() && !Box::pin(state.decision_log.wait_for_room()).await {
        return Err(Error::decision_log_full().into());
    }
    let request_id =
        request.extensions().get::<RequestInfo>().map(|request_info| Arc::clone(request_info.id()));
    let source = RequestSource { ip: client_address(request), request_id };
    Ok(Authorizer::for_request(SharedState::clone(state), engine, caller, source, action))
}

/// Returns the bearer token of a request; none without an Authorization header (RFC 6750, section 2.1).
///
/// # Errors
/// 401 if the header has no bearer token; 400 if there are several headers, because a proxy may have checked another one.
pub fn bearer_token(request: &HttpRequest) -> Result<Option<&str>, Problem> {
    let mut values = request.headers().get_all(header::AUTHORIZATION);
    let Some(value) = values.next() else { return Ok(None) };
    if values.next().is_some() {
        let detail = "The request has several Authorization headers. Send one.";
        return Err(Problem::new(StatusCode::BAD_REQUEST, "duplicate_authorization", detail));
    }
    let text = std::str::from_utf8(value.as_bytes()).map_err(|_| Error::invalid_token())?;
    Ok(Some(BearerToken::token_from_header(text).map_err(|_| Error::invalid_token())?))
}
