//! Bodies of the AuthZEN endpoints.

use crate::http::{Problem, body};
use actix_web::dev::Payload;
use actix_web::http::StatusCode;
use actix_web::web::BytesMut;
use actix_web::{FromRequest, HttpRequest};
use futures_util::future::LocalBoxFuture;
use serde::de::DeserializeOwned;

/// The maximum size of a body: 4 MiB, for batches.
const MAX_BODY: usize = 4 * 1024 * 1024;

/// A JSON body. As AuthZEN requires, every error is a 400.
pub(super) struct AuthzenJson<T>(pub(super) T);

impl<T: DeserializeOwned + 'static> FromRequest for AuthzenJson<T> {
    type Error = Problem;
    type Future = LocalBoxFuture<'static, Result<Self, Problem>>;

    fn from_request(request: &HttpRequest, payload: &mut Payload) -> Self::Future {
        let bytes = read_body(request, payload);
        Box::pin(async move { body::parse(&bytes.await?).map(Self) })
    }
}

/// A JSON body that is not parsed yet.
pub(super) struct RawBody(pub(super) BytesMut);

impl FromRequest for RawBody {
    type Error = Problem;
    type Future = LocalBoxFuture<'static, Result<Self, Problem>>;

    fn from_request(request: &HttpRequest, payload: &mut Payload) -> Self::Future {
        let bytes = read_body(request, payload);
        Box::pin(async move { bytes.await.map(Self) })
    }
}

/// Reads a JSON body. Another content type is 400, as AuthZEN requires; a compressed body is 415.
fn read_body(
    request: &HttpRequest,
    payload: &mut Payload,
) -> impl Future<Output = Result<BytesMut, Problem>> + use<> {
    let bytes = body::read_json(request, payload, MAX_BODY);
    async move {
        bytes.await.map_err(|problem| match problem.code {
            "unsupported_media_type" => Problem { status: StatusCode::BAD_REQUEST, ..problem },
            _ => problem,
        })
    }
}
