//! The base URL of the service as clients see it: in `Link` and `Location`, the metadata, and the OpenAPI document.

use super::request_info::is_from_trusted_proxy;
use super::state::{HttpConfig, WorkerState};
use actix_web::HttpRequest;
use actix_web::http::header;

/// The header with the scheme of the request that a proxy forwards.
const FORWARDED_PROTO: &str = "x-forwarded-proto";

/// Returns the base URL without a trailing slash: `CEDARGATE_PUBLIC_URL`, else the scheme and host of the request.
pub fn base_url(request: &HttpRequest) -> String {
    let config = WorkerState::get(request).map(|state| &state.http.config);
    if let Some(url) = config.and_then(|config| config.public_url.as_deref()) {
        return url.to_owned();
    }
    let is_secure = config.is_some_and(|config| is_https(request, config));
    let host = request.headers().get(header::HOST).and_then(|host| host.to_str().ok());
    let host = host.filter(|host| is_authority(host)).unwrap_or("localhost");
    format!("{}://{host}", if is_secure { "https" } else { "http" })
}

/// Returns the absolute URL of a path of the service.
pub fn absolute_url(request: &HttpRequest, path: &str) -> String {
    base_url(request) + path
}

/// Returns whether the client uses https: with the service itself, or with a trusted proxy that reports it. A proxy replaces
/// `X-Forwarded-Proto`. Several values are ignored, because one may be the client's.
fn is_https(request: &HttpRequest, config: &HttpConfig) -> bool {
    if config.has_tls {
        return true;
    }
    let mut values = request.headers().get_all(FORWARDED_PROTO);
    match (values.next(), values.next()) {
        (Some(value), None) => {
            value.as_bytes().eq_ignore_ascii_case(b"https") && is_from_trusted_proxy(request)
        }
        _ => false,
    }
}

/// Returns whether a `Host` value is a host with an optional port, without characters that end a URL or a header value.
fn is_authority(host: &str) -> bool {
    let is_plain = |byte: u8| byte.is_ascii_alphanumeric() || b"-._:[]".contains(&byte);
    !host.is_empty() && host.bytes().all(is_plain)
}
