//! The span of a request, by the semantic conventions of OpenTelemetry for HTTP servers. From the client it has the method, the
//! path of a matched route and the request id only: queries, other headers and bodies may contain secrets.

use super::connection::ConnectionState;
use super::request_info::{RequestInfo, client_address};
use crate::telemetry::{self, SpanData};
use actix_web::HttpMessage;
use actix_web::dev::ServiceResponse;
use actix_web::http::Method;

/// Ends the span of a request with its attributes.
pub(super) fn end_request_span<B>(response: &ServiceResponse<B>) {
    telemetry::finish_request_span(|| {
        let (request, status) = (response.request(), response.status());
        let method = known_method(request.method());
        let route = request.match_pattern();
        // Span names have a low cardinality, so an unknown method is not part of one.
        let verb = if method == OTHER_METHOD { "HTTP" } else { method };
        let name = route.as_ref().map_or_else(|| verb.to_owned(), |route| format!("{verb} {route}"));
        let is_failure = status.is_server_error();
        let is_secure =
            ConnectionState::from_request(request).is_some_and(|connection| connection.is_secure());
        let mut span = SpanData { is_failure, ..SpanData::new(name) }
            .with("http.request.method", method)
            .with("http.response.status_code", i64::from(status.as_u16()))
            .with("url.scheme", if is_secure { "https" } else { "http" });
        let address = client_address(request).map(|address| address.to_string());
        let id = request.extensions().get::<RequestInfo>().map(|request_info| request_info.id().to_string());
        // An unmatched or proxied path is not recorded: it may contain secrets.
        let path = route.as_ref().filter(|route| !route.contains(":.*")).map(|_| request.path().to_owned());
        let error = is_failure.then(|| status.as_str().to_owned());
        for (name, value) in [
            ("http.route", route),
            ("url.path", path),
            ("client.address", address),
            ("cedargate.request_id", id),
            ("error.type", error),
        ] {
            if let Some(value) = value {
                span = span.with(name, value);
            }
        }
        span
    });
}

/// The attribute value of an unknown method.
const OTHER_METHOD: &str = "_OTHER";

fn known_method(method: &Method) -> &'static str {
    const KNOWN: [&str; 9] = ["GET", "HEAD", "POST", "PUT", "DELETE", "CONNECT", "OPTIONS", "TRACE", "PATCH"];
    KNOWN.into_iter().find(|known| *known == method.as_str()).unwrap_or(OTHER_METHOD)
}
