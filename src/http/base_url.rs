//! The service's own address, as clients reach it: in `Link` and `Location`, in the metadata, and in the OpenAPI document.

use super::request_middleware::is_from_trusted_proxy;
use super::state::{HttpConfig, WorkerState};
use actix_web::HttpRequest;
use actix_web::http::header;

/// The header by which a proxy says whether its client came by http or https.
const FORWARDED_PROTO: &str = "x-forwarded-proto";

/// Returns the address of the service, without a slash at the end: `CEDARGATE_PUBLIC_URL`, else the scheme and the host of
/// the request.
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

/// Returns the address of a path of the service.
pub fn absolute_url(request: &HttpRequest, path: &str) -> String {
    base_url(request) + path
}

/// Whether the client came by https: to the service itself, or to a trusted proxy that says so. A proxy replaces
/// `X-Forwarded-Proto`; of several values, one may be the client's, so they are ignored.
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

/// Whether a `Host` is a host and perhaps a port, and nothing that would end the address or a header's value.
fn is_authority(host: &str) -> bool {
    let is_plain = |byte: u8| byte.is_ascii_alphanumeric() || b"-._:[]".contains(&byte);
    !host.is_empty() && host.bytes().all(is_plain)
}
