//! Compression of responses with gzip, if the client accepts it (RFC 9110, section 12.5.3).
//!
//! Responses that contain a credential are not compressed ([`uncompressed`]), so that their length reveals nothing of it (BREACH).
//! Others depend on a bearer token, which no other site can make a browser send, so that nobody else can cause and measure them.
//! Small responses would not become smaller, and those of the forward endpoint belong to a proxy.

use super::forward_auth::is_forward_path;
use actix_http::encoding::Encoder;
use actix_web::body::{BodySize, EitherBody, MessageBody};
use actix_web::dev::{ServiceRequest, ServiceResponse};
use actix_web::http::StatusCode;
use actix_web::http::header::{
    self, AcceptEncoding, ContentEncoding, Encoding, Header, HeaderMap, HeaderValue,
};
use actix_web::middleware::Next;
use actix_web::{Error, HttpResponse};

/// The minimum size of a response that is compressed, in bytes.
const MIN_BYTES: u64 = 1024;

/// The suffix of the entity tag of a compressed response, which is another representation of the resource (RFC 9110, section
/// 8.8.3). `If-Match` ignores what follows a point.
pub(super) const TAG_SUFFIX: &str = ".gzip";

/// Marks a response that is not compressed.
#[derive(Debug, Clone, Copy)]
struct Uncompressed;

/// Returns the response as one that is not compressed, because it contains a credential.
pub fn uncompressed(mut response: HttpResponse) -> HttpResponse {
    response.extensions_mut().insert(Uncompressed);
    response
}

/// Compresses the response to a request.
///
/// # Errors
/// The error of an inner middleware.
pub async fn compress<B: MessageBody + 'static>(
    request: ServiceRequest,
    next: Next<B>,
) -> Result<ServiceResponse<EitherBody<B, Encoder<B>>>, Error> {
    let is_accepted = accepts_gzip(&request);
    let mut response = next.call(request).await?;
    if response.status() == StatusCode::NOT_MODIFIED && is_accepted {
        keep_compressed_tag(&mut response);
    }
    if !is_compressible(&response) {
        return Ok(response.map_into_left_body());
    }
    if !is_accepted {
        response.headers_mut().append(header::VARY, HeaderValue::from_static("accept-encoding"));
        return Ok(response.map_into_left_body());
    }
    if let Some(tag) = compressed_tag(response.headers()) {
        response.headers_mut().insert(header::ETAG, tag);
    }
    // Sets `Content-Encoding` and `Vary`.
    Ok(response
        .map_body(|head, body| EitherBody::right(Encoder::response(ContentEncoding::Gzip, head, body))))
}

fn accepts_gzip(request: &ServiceRequest) -> bool {
    let supported = [Encoding::gzip(), Encoding::identity()];
    let accepted = AcceptEncoding::parse(request).ok();
    request.headers().contains_key(header::ACCEPT_ENCODING)
        && accepted.and_then(|accepted| accepted.negotiate(supported.iter())) == Some(Encoding::gzip())
}

fn is_compressible<B: MessageBody>(response: &ServiceResponse<B>) -> bool {
    let is_large = match response.response().body().size() {
        BodySize::Sized(bytes) => bytes >= MIN_BYTES,
        BodySize::Stream => true,
        BodySize::None => false,
    };
    let kind = response.headers().get(header::CONTENT_TYPE).and_then(|kind| kind.to_str().ok());
    // Images and fonts are compressed already, and events must not wait for more of them.
    let is_text = kind.is_some_and(|kind| {
        let essence = kind.split(';').next().unwrap_or_default().trim();
        (essence.starts_with("text/") && essence != "text/event-stream")
            || essence.ends_with("json")
            || essence.ends_with("javascript")
            || essence.ends_with("xml")
    });
    is_large
        && is_text
        && !response.headers().contains_key(header::CONTENT_ENCODING)
        && response.response().extensions().get::<Uncompressed>().is_none()
        && !is_forward_path(response.request().match_info().as_str())
}

/// Returns the entity tag of the compressed response; none if the response has none.
fn compressed_tag(headers: &HeaderMap) -> Option<HeaderValue> {
    let tag = headers.get(header::ETAG)?.to_str().ok()?.strip_suffix('"')?;
    HeaderValue::from_str(&format!("{tag}{TAG_SUFFIX}\"")).ok()
}

/// Gives a 304 the tag of the compressed response, if the client has that.
fn keep_compressed_tag<B>(response: &mut ServiceResponse<B>) {
    let Some(tag) = compressed_tag(response.headers()) else { return };
    let sent = response.request().headers().get_all(header::IF_NONE_MATCH);
    let has_tag = |value: &HeaderValue| {
        value
            .to_str()
            .is_ok_and(|value| value.split(',').any(|item| item.trim().trim_start_matches("W/") == tag))
    };
    if sent.into_iter().any(has_tag) {
        response.headers_mut().insert(header::ETAG, tag);
    }
}
