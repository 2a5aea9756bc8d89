//! The header `Idempotency-Key`: executes a request with a key once, and repeats its answer.
//!
//! Only the answers of requests that have stored something are kept. A request that failed has changed nothing, and is executed
//! again when it is repeated.

use super::body::{MAX_BODY, is_object, read_json};
use super::route_group::KeyUse;
use super::state::WorkerState;
use super::{FieldError, Problem};
use crate::application::Authorizer;
use crate::application::idempotency::{IdempotencyKey, IdempotentRequest};
use crate::store::{AnswerScope, StoredAnswer};
use crate::types::FieldErrorCode;
use actix_http::BoxedPayloadStream;
use actix_web::body::{self, BoxBody, to_bytes_limited};
use actix_web::dev::Payload;
use actix_web::http::header::{self, HeaderName, HeaderValue};
use actix_web::http::{Method, StatusCode};
use actix_web::web::Bytes;
use actix_web::{Error, HttpRequest, HttpResponse};
use futures_util::stream;
use serde_json::Value;
use std::future::ready;
use std::sync::Arc;
use std::sync::atomic::Ordering;

/// The request header with the key.
pub const IDEMPOTENCY_KEY: HeaderName = HeaderName::from_static("idempotency-key");

/// The name of that header in errors and in the documentation.
pub(super) const FIELD: &str = "Idempotency-Key";

/// The response header that marks the repetition of an answer.
pub const IDEMPOTENCY_REPLAYED: HeaderName = HeaderName::from_static("idempotency-replayed");

/// The maximum size of an answer that is stored: 4 MiB.
const MAX_ANSWER: usize = 4 * MAX_BODY;

/// The headers that are stored with an answer.
const STORED_HEADERS: [HeaderName; 3] = [header::CONTENT_TYPE, header::ETAG, header::LOCATION];

/// Returns the key of a request; none if it has none.
///
/// # Errors
/// 400 if the header is malformed, there are several, or the route rejects it.
pub(super) fn key_of(request: &HttpRequest, key_use: KeyUse) -> Result<Option<IdempotencyKey>, Problem> {
    if key_use == KeyUse::Ignored {
        return Ok(None);
    }
    let mut values = request.headers().get_all(IDEMPOTENCY_KEY);
    let Some(value) = values.next() else { return Ok(None) };
    if values.next().is_some() {
        return Err(invalid(FieldErrorCode::Duplicate, "duplicate header"));
    }
    if key_use == KeyUse::Refused {
        return Err(invalid(
            FieldErrorCode::NotAllowed,
            "not supported here: the answer contains a secret, which is not stored; send the request without the header",
        ));
    }
    let value = value.to_str().unwrap_or("\u{fffd}");
    IdempotencyKey::parse(value).map(Some).map_err(|error| Problem::invalid_field_value(FIELD, &error))
}

fn invalid(code: FieldErrorCode, message: &str) -> Problem {
    Problem::invalid_fields(vec![FieldError::new(FIELD, code, message)])
}

/// Executes a request with a key, or repeats the answer to an earlier one. `execute` calls the handler.
///
/// # Errors
/// 409 if the key was used for another request, or one with it is in progress; 400 if the body has a secret; those of the request.
pub(super) async fn execute<F: Future<Output = Result<HttpResponse, Error>>>(
    (request, mut payload): (&HttpRequest, Payload),
    authorizer: Authorizer,
    (key, secrets): (IdempotencyKey, &'static [&'static str]),
    execute: impl FnOnce(Authorizer, Payload) -> F,
) -> Result<HttpResponse, Error> {
    let bytes = read_json(request, &mut payload, MAX_BODY).await?.freeze();
    check_secrets(&bytes, secrets)?;
    let method: &Method = request.method();
    let address = request.uri().path_and_query().map_or("", |address| address.as_str());
    // An empty `If-Match` differs from an absent one, as two values differ from one.
    let if_match = request.headers().get_all(header::IF_MATCH).map(HeaderValue::as_bytes);
    let parts: Vec<&[u8]> = [method.as_str().as_bytes(), address.as_bytes(), bytes.as_ref()]
        .into_iter()
        .chain(if_match)
        .collect();
    let idempotent = IdempotentRequest::of(&authorizer, &key, &parts).map_err(Problem::from)?;
    if let Some(answer) = idempotent.earlier_answer(&authorizer).await.map_err(Problem::from)? {
        return Ok(repeat(request, answer)?);
    }
    let stream: BoxedPayloadStream = Box::pin(stream::once(ready(Ok(bytes))));
    let payload = Payload::Stream { payload: stream };
    let executed = execute(authorizer.with_idempotency(Arc::clone(&idempotent)), payload).await;
    match executed {
        Ok(response) => Ok(store(&authorizer, &idempotent, response).await?),
        Err(error) => match idempotent.concurrent_answer(&authorizer).await.map_err(Problem::from)? {
            Some(answer) => Ok(repeat(request, answer)?),
            None => Err(error),
        },
    }
}

/// 400 if an object of the body has one of these fields.
fn check_secrets(bytes: &Bytes, secrets: &[&str]) -> Result<(), Problem> {
    if secrets.is_empty() {
        return Ok(());
    }
    // A malformed body is rejected by the handler.
    let body: Value = serde_json::from_slice(bytes).unwrap_or_default();
    let objects = match &body {
        Value::Array(items) if !is_object(bytes) => items.as_slice(),
        one => std::slice::from_ref(one),
    };
    let has =
        |secret: &&&str| objects.iter().any(|object| object.get(**secret).is_some_and(|v| !v.is_null()));
    match secrets.iter().find(has) {
        Some(secret) => Err(invalid(
            FieldErrorCode::NotAllowed,
            &format!(
                "not supported with `{secret}`, of which a digest would be stored; send the request without the header"
            ),
        )),
        None => Ok(()),
    }
}

/// Commits what a request has written together with its answer, and returns that.
async fn store(
    authorizer: &Authorizer,
    idempotent: &IdempotentRequest,
    response: HttpResponse,
) -> Result<HttpResponse, Problem> {
    if !response.status().is_success() {
        return Ok(response);
    }
    let (response, body) = response.into_parts();
    let too_large = || {
        let detail = format!(
            "The answer has more than {MAX_ANSWER} bytes, the most that is stored for an Idempotency-Key."
        );
        Problem::new(StatusCode::PAYLOAD_TOO_LARGE, "too_large", detail)
    };
    let bytes = to_bytes_limited(body, MAX_ANSWER).await.map_err(|_| too_large())?;
    let bytes = bytes.map_err(Problem::internal)?;
    let text = String::from_utf8(bytes.to_vec()).map_err(Problem::internal)?;
    let headers = STORED_HEADERS.iter().filter_map(|name| {
        let value = response.headers().get(name)?.to_str().ok()?;
        Some((name.to_string(), value.to_owned()))
    });
    let answer = StoredAnswer {
        fingerprint: String::new(),
        status: response.status().as_u16(),
        headers: headers.collect(),
        body: (!text.is_empty()).then_some(text),
        scope: AnswerScope::Home,
    };
    // The answer to a bulk change has ids only.
    let has_resources = answer.status == 201 || response.headers().contains_key(header::ETAG);
    idempotent.commit(authorizer, answer, has_resources).await?;
    Ok(match bytes.is_empty() {
        true => response.set_body(BoxBody::new(body::None::new())),
        false => response.set_body(BoxBody::new(bytes)),
    })
}

/// Returns the answer to an earlier request again.
fn repeat(request: &HttpRequest, answer: StoredAnswer) -> Result<HttpResponse, Problem> {
    let status = StatusCode::from_u16(answer.status).map_err(Problem::internal)?;
    let mut response = HttpResponse::build(status);
    for (name, value) in &answer.headers {
        response.insert_header((name.as_str(), value.as_str()));
    }
    response.insert_header((IDEMPOTENCY_REPLAYED, "true"));
    let metrics = &WorkerState::from_request(request)?.http.metrics;
    metrics.idempotent_repetitions.fetch_add(1, Ordering::Relaxed);
    Ok(match answer.body {
        Some(body) => response.body(body),
        None => response.finish(),
    })
}
