//! The proxied request, from the headers of the proxy.
//!
//! The service behind the proxy parses the path again. A path that it might parse differently is rejected, because the decision
//! could then be about another resource. Errors are field errors: `field` is the header, or `path` for the path of the request.

use crate::application::FieldError;
use crate::types::FieldErrorCode;
use actix_web::HttpRequest;
use actix_web::http::Method;
use actix_web::http::header::HeaderMap;
use std::str::FromStr;

/// The pairs of headers with method and address: of nginx, ingress-nginx, and of Traefik and Caddy.
pub const HEADER_PAIRS: [(&str, &str); 3] = [
    ("X-Original-Method", "X-Original-URI"),
    ("X-Original-Method", ORIGINAL_URL),
    ("X-Forwarded-Method", "X-Forwarded-Uri"),
];

/// The header of ingress-nginx, which has an absolute URL: `$scheme://$http_host$request_uri`.
const ORIGINAL_URL: &str = "X-Original-URL";

/// The name, in errors, of the method and the path of the request itself.
const OWN_FIELDS: (&str, &str) = ("method", "path");

/// The maximum length of an address.
const MAX_ADDRESS: usize = 8192;

/// A proxied request.
#[derive(Debug)]
pub struct OriginalRequest {
    pub(super) method: Method,
    /// The decoded segments of the path.
    pub(super) segments: Vec<String>,
    query: String,
}

/// The method and the address of a request, and the fields that they come from.
#[derive(Debug)]
struct Candidate {
    fields: (&'static str, &'static str),
    method: String,
    address: String,
}

/// What is wrong with a part of an address.
type AddressError = (FieldErrorCode, String);

impl OriginalRequest {
    /// Returns the proxied request from the headers, or from the path after `prefix`. If several sources are present, they must
    /// agree, because a proxy sets one of them and may pass on what the client sent as the others.
    ///
    /// # Errors
    /// `required` for a missing header, `duplicate` for a repeated one, `conflict` if two sources differ, `invalid_format` for a
    /// malformed method or path, `too_long`, and `ambiguous` for a path that another server might parse differently.
    pub fn from_request(request: &HttpRequest, prefix: &str) -> Result<Self, FieldError> {
        let mut candidates = candidates_from_headers(request.headers())?;
        let request_target = request.uri().path_and_query().map_or("", |target| target.as_str());
        let rest = request_target.strip_prefix(prefix).ok_or_else(|| {
            let message = format!("expected {prefix} without percent-encoding");
            FieldError::new(OWN_FIELDS.1, FieldErrorCode::InvalidFormat, message)
        })?;
        if rest.starts_with('/') {
            let (method, address) = (request.method().to_string(), rest.to_owned());
            candidates.push(Candidate { fields: OWN_FIELDS, method, address });
        }
        let mut candidates = candidates.into_iter();
        let first = candidates.next().ok_or_else(|| {
            let pairs = HEADER_PAIRS.map(|(method, address)| format!("{method} and {address}"));
            let message = format!("no header names the forwarded request; expected {}", pairs.join(", or "));
            FieldError::new(HEADER_PAIRS[0].1, FieldErrorCode::Required, message)
        })?;
        for other in candidates {
            if (&other.method, &other.address) != (&first.method, &first.address) {
                let message = format!("differs from {} and {}", first.fields.0, first.fields.1);
                return Err(FieldError::new(other.fields.1, FieldErrorCode::Conflict, message));
            }
        }
        Self::new(first.fields, &first.method, &first.address)
    }

    /// Parses a request from its method and its address: a path with an optional query. `fields` are the names of both in
    /// errors.
    ///
    /// # Errors
    /// `invalid_format` for a malformed method or path, `too_long`, and `ambiguous` for a path that another server might parse
    /// differently.
    pub(super) fn new(
        fields: (&'static str, &'static str),
        method: &str,
        address: &str,
    ) -> Result<Self, FieldError> {
        let method = Method::from_str(method).map_err(|_| {
            FieldError::new(fields.0, FieldErrorCode::InvalidFormat, "expected an HTTP method such as GET")
        })?;
        let (segments, query) =
            parse_address(address).map_err(|(code, message)| FieldError::new(fields.1, code, message))?;
        Ok(Self { method, segments, query })
    }

    /// Returns the values of a parameter of the query string.
    pub fn parameters(&self, name: &str) -> Vec<String> {
        let pairs = url::form_urlencoded::parse(self.query.as_bytes());
        pairs.filter(|(known, _)| known == name).map(|(_, value)| value.into_owned()).collect()
    }
}

/// Returns the requests that complete pairs of headers name.
fn candidates_from_headers(headers: &HeaderMap) -> Result<Vec<Candidate>, FieldError> {
    let mut candidates = Vec::new();
    let (mut methods, mut addresses) = (Vec::new(), Vec::new());
    for fields in HEADER_PAIRS {
        let (method, address) = (single_header(headers, fields.0)?, single_header(headers, fields.1)?);
        methods.extend(method.is_some().then_some(fields));
        addresses.extend(address.is_some().then_some(fields));
        if let (Some(method), Some(address)) = (method, address) {
            let address =
                if fields.1 == ORIGINAL_URL { path_and_query(&address)?.to_owned() } else { address };
            candidates.push(Candidate { fields, method, address });
        }
    }
    let missing = |name: &str| Err(FieldError::new(name, FieldErrorCode::Required, "the header is missing"));
    for fields in addresses.iter().copied() {
        if !methods.contains(&fields) {
            return missing(fields.0);
        }
    }
    for fields in methods {
        if !addresses.iter().any(|(method, _)| *method == fields.0) {
            return missing(fields.1);
        }
    }
    Ok(candidates)
}

/// Splits an address into the decoded segments of its path, and its query.
fn parse_address(address: &str) -> Result<(Vec<String>, String), AddressError> {
    let malformed = |message: &str| (FieldErrorCode::InvalidFormat, message.to_owned());
    if address.len() > MAX_ADDRESS {
        return Err((FieldErrorCode::TooLong, format!("expected at most {MAX_ADDRESS} bytes")));
    }
    if address.contains([' ', '\t', '#']) {
        return Err(malformed("spaces, tabs and `#` must be percent-encoded"));
    }
    let (path, query) = address.split_once('?').unwrap_or((address, ""));
    let rest = path.strip_prefix('/').ok_or_else(|| malformed("expected a path that begins with `/`"))?;
    let segments: Result<Vec<String>, _> = rest.split('/').map(percent_decode).collect();
    let segments = segments.map_err(malformed)?;
    check_segments(&segments).map_err(|message| (FieldErrorCode::Ambiguous, message))?;
    Ok((segments, query.to_owned()))
}

/// Returns the path and the query of an `X-Original-URL`: an absolute http or https URL, or the path alone.
///
/// Nothing is normalized, because the service behind the proxy receives the path as it is. The host comes from the client, so a
/// host that another parser could delimit differently is an error.
fn path_and_query(address: &str) -> Result<&str, FieldError> {
    let malformed = |message: &str| FieldError::new(ORIGINAL_URL, FieldErrorCode::InvalidFormat, message);
    if address.starts_with('/') {
        return Ok(address);
    }
    let rest = ["http://", "https://"].iter().find_map(|scheme| address.strip_prefix(scheme));
    let rest = rest.ok_or_else(|| malformed("expected an http or https URL, or a path"))?;
    let end = rest.find('/').ok_or_else(|| malformed("the URL has no path"))?;
    let (host, path) = rest.split_at(end);
    let is_plain = |byte: u8| byte.is_ascii_alphanumeric() || b"-._:[]".contains(&byte);
    if host.is_empty() || !host.bytes().all(is_plain) {
        return Err(malformed("the URL has an invalid host"));
    }
    Ok(path)
}

/// Returns the value of a header that may occur once only.
fn single_header(headers: &HeaderMap, name: &str) -> Result<Option<String>, FieldError> {
    let error = |code, message| Err(FieldError::new(name, code, message));
    let mut values = headers.get_all(name);
    match (values.next(), values.next()) {
        (None, _) => Ok(None),
        (Some(value), None) => match value.to_str() {
            Ok(text) => Ok(Some(text.to_owned())),
            Err(_) => error(FieldErrorCode::InvalidFormat, "the header has characters that are not ASCII"),
        },
        (Some(_), Some(_)) => error(FieldErrorCode::Duplicate, "the header is sent more than once"),
    }
}

/// Decodes the percent-encoding of a path segment (RFC 3986, section 2.1).
fn percent_decode(segment: &str) -> Result<String, &'static str> {
    let mut bytes = Vec::with_capacity(segment.len());
    let mut rest = segment.bytes();
    while let Some(byte) = rest.next() {
        if byte != b'%' {
            bytes.push(byte);
            continue;
        }
        let mut digit = || rest.next().and_then(|digit| char::from(digit).to_digit(16));
        let value = digit().zip(digit()).and_then(|(high, low)| u8::try_from(high << 4 | low).ok());
        bytes.push(value.ok_or("expected two hex digits after `%`")?);
    }
    String::from_utf8(bytes).map_err(|_| "the decoded path is not UTF-8")
}

/// Rejects segments that another server might interpret as another path.
///
/// # Errors
/// A message that names the ambiguous part.
pub(super) fn check_segments(segments: &[String]) -> Result<(), String> {
    for (index, segment) in segments.iter().enumerate() {
        // `;` begins parameters that some servers remove: they read `..;x` as `..`.
        let bare = segment.split(';').next().unwrap_or_default().trim();
        let is_last = index + 1 == segments.len();
        let ambiguity = if segment.chars().any(char::is_control) {
            "a control character"
        } else if segment.contains(['/', '\\']) {
            "an encoded slash or a backslash"
        } else if segment.contains(['#', '?']) {
            "an encoded `#` or `?`"
        } else if has_percent_encoding(segment) {
            "characters that are encoded twice"
        } else if matches!(bare, "." | "..") {
            "a segment `.` or `..`"
        } else if bare.is_empty() && !(is_last && segment.is_empty()) {
            "an empty segment"
        } else {
            continue;
        };
        return Err(format!("the path has {ambiguity}"));
    }
    Ok(())
}

/// Returns whether decoding a text again would change it.
fn has_percent_encoding(text: &str) -> bool {
    text.split('%').skip(1).any(|rest| {
        let mut letters = rest.chars();
        let mut is_digit = || letters.next().is_some_and(|letter| letter.is_ascii_hexdigit());
        is_digit() && is_digit()
    })
}
