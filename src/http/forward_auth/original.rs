//! The proxied request, from the headers of the proxy. A path that another server might interpret differently is rejected.

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

impl OriginalRequest {
    /// Returns the proxied request from the headers, or from the path after `prefix`. If several sources are present, they must
    /// agree, because a proxy sets one of them and may pass on what the client sent as the others.
    ///
    /// # Errors
    /// A message about what is missing, contradictory or ambiguous.
    pub fn from_request(request: &HttpRequest, prefix: &str) -> Result<Self, String> {
        let headers = request.headers();
        let mut candidates: Vec<(String, String)> = Vec::new();
        let (mut methods, mut addresses) = (Vec::new(), Vec::new());
        for (method_name, address_name) in HEADER_PAIRS {
            let (method, address) =
                (single_header(headers, method_name)?, single_header(headers, address_name)?);
            methods.extend(method.is_some().then_some((method_name, address_name)));
            addresses.extend(address.is_some().then_some((method_name, address_name)));
            if let (Some(method), Some(address)) = (method, address) {
                let is_url = address_name == ORIGINAL_URL;
                candidates
                    .push((method, if is_url { path_and_query(&address)?.to_owned() } else { address }));
            }
        }
        for (method_name, address_name) in addresses.iter().copied() {
            if !methods.contains(&(method_name, address_name)) {
                return Err(format!("the header {method_name} is missing"));
            }
        }
        for (method_name, address_name) in methods {
            if !addresses.iter().any(|(method, _)| *method == method_name) {
                return Err(format!("the header {address_name} is missing"));
            }
        }
        let request_target =
            request.uri().path_and_query().map_or("", |request_target| request_target.as_str());
        let rest = request_target.strip_prefix(prefix).ok_or("the path is not written plainly")?;
        if rest.starts_with('/') {
            candidates.push((request.method().to_string(), rest.to_owned()));
        }
        let mut candidates = candidates.into_iter();
        let first = candidates.next().ok_or_else(|| {
            let pairs = HEADER_PAIRS.map(|(method, address)| format!("{method} and {address}"));
            format!("no headers name the original request: {}", pairs.join(", or "))
        })?;
        if candidates.any(|other| other != first) {
            return Err("the original request is named twice, and not the same".to_owned());
        }
        Self::new(&first.0, &first.1)
    }

    /// Parses a request from its method and its address: a path with an optional query.
    pub(super) fn new(method: &str, address: &str) -> Result<Self, String> {
        let method = Method::from_str(method).map_err(|_| "the original method is none".to_owned())?;
        if address.len() > MAX_ADDRESS {
            return Err(format!("the original path is longer than {MAX_ADDRESS} bytes"));
        }
        if address.contains([' ', '\t', '#']) {
            return Err("the original path has a space or a `#` that is not encoded".into());
        }
        let (path, query) = address.split_once('?').unwrap_or((address, ""));
        let rest = path.strip_prefix('/').ok_or("the original path does not begin with `/`")?;
        let segments: Vec<String> = rest.split('/').map(percent_decode).collect::<Result<_, _>>()?;
        check_segments(&segments)?;
        Ok(Self { method, segments, query: query.to_owned() })
    }

    /// Returns the values of a parameter of the query string.
    pub fn parameters(&self, name: &str) -> Vec<String> {
        let pairs = url::form_urlencoded::parse(self.query.as_bytes());
        pairs.filter(|(known, _)| known == name).map(|(_, value)| value.into_owned()).collect()
    }
}

/// Returns the path and the query of an `X-Original-URL`: an absolute http or https URL, or the path alone.
///
/// Nothing is normalized, because the service behind the proxy receives the path as it is. The host comes from the client, so a
/// host that another parser could delimit differently is an error.
fn path_and_query(address: &str) -> Result<&str, String> {
    if address.starts_with('/') {
        return Ok(address);
    }
    let rest = ["http://", "https://"].iter().find_map(|scheme| address.strip_prefix(scheme));
    let rest = rest.ok_or("X-Original-URL is neither an http or https URL nor a path")?;
    let end = rest.find('/').ok_or("X-Original-URL has no path")?;
    let (host, path) = rest.split_at(end);
    let is_plain = |byte: u8| byte.is_ascii_alphanumeric() || b"-._:[]".contains(&byte);
    if host.is_empty() || !host.bytes().all(is_plain) {
        return Err("X-Original-URL has a host that is not one".to_owned());
    }
    Ok(path)
}

/// Returns the value of a header that may occur once only.
fn single_header(headers: &HeaderMap, name: &str) -> Result<Option<String>, String> {
    let mut values = headers.get_all(name);
    match (values.next(), values.next()) {
        (None, _) => Ok(None),
        (Some(value), None) => {
            let text = value.to_str().map_err(|_| format!("the header {name} is not plain ASCII"))?;
            Ok(Some(text.to_owned()))
        }
        (Some(_), Some(_)) => Err(format!("the header {name} stands twice")),
    }
}

/// Decodes the percent-encoding of a path segment (RFC 3986, section 2.1).
fn percent_decode(segment: &str) -> Result<String, String> {
    let mut bytes = Vec::with_capacity(segment.len());
    let mut rest = segment.bytes();
    while let Some(byte) = rest.next() {
        if byte != b'%' {
            bytes.push(byte);
            continue;
        }
        let mut digit = || rest.next().and_then(|digit| char::from(digit).to_digit(16));
        let value = digit().zip(digit()).and_then(|(high, low)| u8::try_from(high << 4 | low).ok());
        bytes.push(value.ok_or("the original path has a `%` that encodes nothing")?);
    }
    String::from_utf8(bytes).map_err(|_| "the original path is not UTF-8".to_owned())
}

/// Rejects segments that another server might interpret as another path.
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
            "something that is encoded twice"
        } else if matches!(bare, "." | "..") {
            "a segment `.` or `..`"
        } else if bare.is_empty() && !(is_last && segment.is_empty()) {
            "an empty segment"
        } else {
            continue;
        };
        return Err(format!("the original path has {ambiguity}"));
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
