//! Authentication of a request: from its bearer token to the [`Authorizer`] of its action.

use super::problem::{OAuthErrorCode, Problem};
use super::rate_limits::count_caller;
use super::request_info::{RequestInfo, client_address, request_origin};
use super::state::WorkerState;
use crate::application::authorizer::{EVALUATE_ACTION, RequestSource};
use crate::application::{AppState, Authorizer, Caller, Error, SharedState};
use crate::authn::BearerToken;
use crate::authz::Engine;
use crate::store::StoreError;
use actix_web::http::{StatusCode, header};
use actix_web::{HttpMessage, HttpRequest};
use arc_swap::Guard;
use base64::prelude::{BASE64_STANDARD, Engine as _};
use secrecy::{ExposeSecret, SecretString};
use std::sync::Arc;

/// Authenticates the caller of a request and returns the authorizer of `action`.
///
/// # Errors
/// 401 without a valid credential, 429 if the caller exceeds a limit, 503 if the database or the decision log is unavailable.
pub async fn authenticate(request: &HttpRequest, action: &'static str) -> Result<Authorizer, Problem> {
    authenticate_token(request, action, bearer_token).await
}

/// The challenge of a route that accepts an API key as the password of HTTP Basic.
const BASIC_CHALLENGE: &str = "Basic realm=\"cedargate\", charset=\"UTF-8\"";

/// As [`authenticate`], for a client of OAuth: also accepts the API key of an `Authorization: Basic` header.
///
/// # Errors
/// As [`authenticate`]; an invalid key is an OAuth error. A 401 offers both schemes.
pub async fn authenticate_client(request: &HttpRequest, action: &'static str) -> Result<Authorizer, Problem> {
    match basic_credentials(request)? {
        Some(secret) => {
            let authorizer = authenticate_token(request, action, |_| Ok(Some(secret.expose_secret()))).await;
            authorizer.map_err(rejected_client)
        }
        None => authenticate(request, action).await.map_err(|problem| match problem.status {
            StatusCode::UNAUTHORIZED => problem.with_header(header::WWW_AUTHENTICATE, BASIC_CHALLENGE),
            _ => problem,
        }),
    }
}

/// Authenticates the caller of a request once more while its response is being sent, and returns an authorizer with the policies
/// that are active now. The decision log records the denials only.
///
/// # Errors
/// 401 if the credential is no longer valid, 503 if the database is unavailable.
pub async fn authenticate_again(request: &HttpRequest, action: &'static str) -> Result<Authorizer, Problem> {
    let state = &WorkerState::from_request(request)?.app;
    let token = bearer_token(request)?.ok_or_else(Problem::missing_bearer)?;
    let engine = state.policies.current_guard();
    let caller = Caller::from_token(state, &engine, token).await?;
    ensure_current(state)?;
    Ok(new_authorizer(state, engine, caller, request, action).for_prerequisite(action))
}

/// Checks that the database is available: without it, only decision endpoints continue.
fn ensure_current(state: &AppState) -> Result<(), Problem> {
    if state.store.is_stale() {
        let cause = "only decision endpoints continue from the cache".to_owned();
        return Err(StoreError::Unavailable(cause).into());
    }
    Ok(())
}

fn new_authorizer(
    state: &SharedState,
    engine: Guard<Arc<Engine>>,
    caller: Arc<Caller>,
    request: &HttpRequest,
    action: &'static str,
) -> Authorizer {
    let request_id =
        request.extensions().get::<RequestInfo>().map(|request_info| Arc::clone(request_info.id()));
    let source = RequestSource { ip: client_address(request), request_id };
    Authorizer::for_request(SharedState::clone(state), engine, caller, source, action)
}

async fn authenticate_token<'a>(
    request: &'a HttpRequest,
    action: &'static str,
    token: impl FnOnce(&'a HttpRequest) -> Result<Option<&'a str>, Problem>,
) -> Result<Authorizer, Problem> {
    set_action(request, action);
    let state = &WorkerState::from_request(request)?.app;
    let token = token(request)?.ok_or_else(Problem::missing_bearer)?;
    let engine = state.policies.current_guard();
    let caller = Caller::from_token(state, &engine, token).await?;
    authorizer(request, engine, caller, action).await
}

/// As [`authenticate`], for a logout: an access token may have expired. None if its session has ended already.
///
/// # Errors
/// As [`authenticate`].
pub async fn authenticate_session(
    request: &HttpRequest,
    action: &'static str,
) -> Result<Option<Authorizer>, Problem> {
    set_action(request, action);
    let state = &WorkerState::from_request(request)?.app;
    let token = bearer_token(request)?.ok_or_else(Problem::missing_bearer)?;
    let engine = state.policies.current_guard();
    match Caller::from_token_of_session(state, &engine, token).await? {
        Some(caller) => authorizer(request, engine, caller, action).await.map(Some),
        None => Ok(None),
    }
}

fn set_action(request: &HttpRequest, action: &'static str) {
    if let Some(request_info) = request.extensions().get::<RequestInfo>() {
        request_info.set_action(action);
    }
}

/// Counts a request of an authenticated caller, and returns its authorizer.
async fn authorizer(
    request: &HttpRequest,
    engine: Guard<Arc<Engine>>,
    caller: Arc<Caller>,
    action: &'static str,
) -> Result<Authorizer, Problem> {
    let state = &WorkerState::from_request(request)?.app;
    if let Some(request_info) = request.extensions().get::<RequestInfo>() {
        request_info.set_caller(caller.id);
    }
    if action != EVALUATE_ACTION {
        ensure_current(state)?;
    }
    count_caller(state, request, caller.id)?;
    caller.record_use(state, || request_origin(request)).await;
    if state.decision_log.is_full() && !Box::pin(state.decision_log.wait_for_room()).await {
        return Err(Error::decision_log_full().into());
    }
    Ok(new_authorizer(state, engine, caller, request, action))
}

/// Returns the bearer token of a request; none without an Authorization header (RFC 6750, section 2.1).
///
/// # Errors
/// 401 if the header has no bearer token; 400 if there are several headers, because a proxy may have checked another one.
pub fn bearer_token(request: &HttpRequest) -> Result<Option<&str>, Problem> {
    let Some(text) = authorization(request)? else { return Ok(None) };
    Ok(Some(BearerToken::token_from_header(text).map_err(|_| Error::invalid_token())?))
}

/// Returns the Authorization header.
fn authorization(request: &HttpRequest) -> Result<Option<&str>, Problem> {
    let mut values = request.headers().get_all(header::AUTHORIZATION);
    let Some(value) = values.next() else { return Ok(None) };
    if values.next().is_some() {
        let detail = "The request has several Authorization headers. Send one.";
        return Err(Problem::new(StatusCode::BAD_REQUEST, "duplicate_authorization", detail));
    }
    Ok(Some(std::str::from_utf8(value.as_bytes()).map_err(|_| Error::invalid_token())?))
}

/// Verifies the API key of an `Authorization: Basic` header, if the request has one. Other headers are ignored.
///
/// # Errors
/// An OAuth error if the key is not valid.
pub async fn verify_client(request: &HttpRequest) -> Result<(), Problem> {
    let Some(secret) = basic_credentials(request)? else { return Ok(()) };
    let state = &WorkerState::from_request(request)?.app;
    let caller = Caller::from_token(state, &state.policies.current(), secret.expose_secret()).await;
    let caller = caller.map_err(|error| rejected_client(error.into()))?;
    count_caller(state, request, caller.id)
}

/// Returns the API key of an `Authorization: Basic` header (RFC 6749, section 2.3.1): the client secret. The client id has no
/// effect, because the key identifies the client.
///
/// # Errors
/// An OAuth error if the header does not contain an API key.
fn basic_credentials(request: &HttpRequest) -> Result<Option<SecretString>, Problem> {
    let Some((scheme, encoded)) = authorization(request)?.and_then(|header| header.split_once(' ')) else {
        return Ok(None);
    };
    if !scheme.eq_ignore_ascii_case("basic") {
        return Ok(None);
    }
    let decoded = BASE64_STANDARD.decode(encoded.trim()).ok().and_then(|bytes| String::from_utf8(bytes).ok());
    let secret = decoded.as_deref().and_then(|pair| pair.split_once(':')).and_then(|(_, secret)| {
        // The secret is encoded as in a form.
        let pair = format!("secret={secret}");
        url::form_urlencoded::parse(pair.as_bytes()).next().map(|(_, secret)| secret.into_owned())
    });
    let secret = secret.filter(|secret| matches!(secret.parse(), Ok(BearerToken::ApiKey(_))));
    match secret {
        Some(secret) => Ok(Some(secret.into())),
        None => Err(rejected_client(Error::invalid_token().into())),
    }
}

/// Returns the problem of invalid client credentials as an OAuth error (RFC 6749, section 5.2). Others are returned as they are.
fn rejected_client(problem: Problem) -> Problem {
    if problem.status != StatusCode::UNAUTHORIZED {
        return problem;
    }
    let detail = "The client secret is not a valid API key.";
    Problem::new(StatusCode::UNAUTHORIZED, "invalid_client", detail)
        .with_header(header::WWW_AUTHENTICATE, BASIC_CHALLENGE)
        .as_oauth_error(OAuthErrorCode::InvalidClient)
}
