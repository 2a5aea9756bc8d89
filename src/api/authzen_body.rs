//! What the AuthZEN endpoints are sent.

use crate::http::{Problem, body};
use actix_web::dev::Payload;
use actix_web::http::StatusCode;
use actix_web::web::BytesMut;
use actix_web::{FromRequest, HttpRequest};
use futures_util::future::LocalBoxFuture;
use serde::de::DeserializeOwned;

/// The largest body that is taken here: 4 MiB, for batches.
const MAX_BODY: usize = 4 * 1024 * 1024;

/// A JSON body as AuthZEN wants it: whatever is wrong with it is a 400.
pub(super) struct AuthzenJson<T>(pub(super) T);

impl<T: DeserializeOwned + 'static> FromRequest for AuthzenJson<T> {
    type Error = Problem;
    type Future = LocalBoxFuture<'static, Result<Self, Problem>>;

    fn from_request(request: &HttpRequest, payload: &mut Payload) -> Self::Future {
        let bytes = read_body(request, payload);
        Box::pin(async move { body::parse(&bytes.await?).map(Self) })
    }
}

/// A JSON body that is not read yet.
pub(super) struct RawBody(pub(super) BytesMut);

impl FromRequest for RawBody {
    type Error = Problem;
    type Future = LocalBoxFuture<'static, Result<Self, Problem>>;

    fn from_request(request: &HttpRequest, payload: &mut Payload) -> Self::Future {
        let bytes = read_body(request, payload);
        Box::pin(async move { bytes.await.map(Self) })
    }
}

/// What was sent as JSON. AuthZEN answers another type of content with 400, too; a compressed body stays a 415.
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
