//! The request that a proxy asks about, as its headers name it: refused where another server might read it otherwise.

use actix_web::HttpRequest;
use actix_web::http::Method;
use actix_web::http::header::HeaderMap;
use std::str::FromStr;

/// The pairs of headers by which proxies name a request: nginx's, and those of Traefik and Caddy.
pub const PAIRS: [(&str, &str); 2] =
    [("X-Original-Method", "X-Original-URI"), ("X-Forwarded-Method", "X-Forwarded-Uri")];

/// The longest address that is looked at.
const MAX_ADDRESS: usize = 8192;

/// The request that a proxy asks about.
#[derive(Debug)]
pub struct Original {
    pub(super) method: Method,
    /// The segments of its path, decoded.
    pub(super) segments: Vec<String>,
    query: String,
}

impl Original {
    /// The request that this one is about: what the headers say, and what follows `prefix` in its own path. Where it is
    /// named more than once, all have to say the same: a proxy sets one of them, and passes on what a client sends as
    /// the others. Says what is missing or wrong.
    pub fn of(request: &HttpRequest, prefix: &str) -> Result<Self, String> {
        let mut found: Option<(String, String)> = None;
        let mut note = |method: String, address: String| match &found {
            Some(first) if *first != (method.clone(), address.clone()) => {
                Err("the original request is named twice, and not the same".to_owned())
            }
            _ => {
                found = Some((method, address));
                Ok(())
            }
        };
        for (method_name, address_name) in PAIRS {
            let headers = request.headers();
            match (header(headers, method_name)?, header(headers, address_name)?) {
                (Some(method), Some(address)) => note(method, address)?,
                (None, None) => {}
                (Some(_), None) => return Err(format!("the header {address_name} is missing")),
                (None, Some(_)) => return Err(format!("the header {method_name} is missing")),
            }
        }
        let own = request.uri().path_and_query().map_or("", |own| own.as_str());
        let rest = own.strip_prefix(prefix).ok_or("the path is not written plainly")?;
        if rest.starts_with('/') {
            note(request.method().to_string(), rest.to_owned())?;
        }
        let (method, address) = found.ok_or_else(|| {
            let [(method, address), (other, another)] = PAIRS;
            format!("the headers {method} and {address} are missing, and so are {other} and {another}")
        })?;
        Self::new(&method, &address)
    }

    /// A request with this method and this address: a path, and what may follow it.
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
        let segments: Vec<String> = rest.split('/').map(decoded).collect::<Result<_, _>>()?;
        check(&segments)?;
        Ok(Self { method, segments, query: query.to_owned() })
    }

    /// The values of a parameter of its query string.
    pub fn parameters(&self, name: &str) -> Vec<String> {
        let pairs = url::form_urlencoded::parse(self.query.as_bytes());
        pairs.filter(|(known, _)| known == name).map(|(_, value)| value.into_owned()).collect()
    }
}

/// The value of a header that stands once.
fn header(headers: &HeaderMap, name: &str) -> Result<Option<String>, String> {
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

/// A segment of a path without its percent-encoding (RFC 3986, 2.1).
fn decoded(segment: &str) -> Result<String, String> {
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

/// Refuses what another server might read as another path.
pub(super) fn check(segments: &[String]) -> Result<(), String> {
    for (at, segment) in segments.iter().enumerate() {
        // `;` begins parameters that some servers cut off: `..;x` is `..` to them.
        let bare = segment.split(';').next().unwrap_or_default().trim();
        let is_last = at + 1 == segments.len();
        let wrong = if segment.chars().any(char::is_control) {
            "a control character"
        } else if segment.contains(['/', '\\']) {
            "an encoded slash or a backslash"
        } else if segment.contains(['#', '?']) {
            "an encoded `#` or `?`"
        } else if is_encoded(segment) {
            "something that is encoded twice"
        } else if matches!(bare, "." | "..") {
            "a segment `.` or `..`"
        } else if bare.is_empty() && !(is_last && segment.is_empty()) {
            "an empty segment"
        } else {
            continue;
        };
        return Err(format!("the original path has {wrong}"));
    }
    Ok(())
}

/// Whether it would be something else if it were decoded.
fn is_encoded(text: &str) -> bool {
    text.split('%').skip(1).any(|rest| {
        let mut letters = rest.chars();
        let mut is_digit = || letters.next().is_some_and(|letter| letter.is_ascii_hexdigit());
        is_digit() && is_digit()
    })
}
