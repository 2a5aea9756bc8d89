//! Which of two media types a client prefers.

use actix_web::HttpRequest;
use actix_web::http::header;

/// The media type of NDJSON.
pub const NDJSON: &str = "application/x-ndjson";

/// Returns whether a request asks for this media type rather than JSON.
pub fn is_preferred(request: &HttpRequest, media_type: &str) -> bool {
    let accepted = |wanted: &str| {
        let values = request.headers().get_all(header::ACCEPT).filter_map(|value| value.to_str().ok());
        let ranges = values.flat_map(|value| value.split(','));
        ranges.filter_map(|range| quality_of(range, wanted)).fold(0.0, f32::max)
    };
    let quality = accepted(media_type);
    quality > 0.0 && quality >= accepted("application/json")
}

/// Returns the quality of a media range (RFC 9110, section 12.4.2); none if it is not exactly this media type.
fn quality_of(range: &str, wanted: &str) -> Option<f32> {
    let mut parts = range.split(';').map(str::trim);
    if !parts.next()?.eq_ignore_ascii_case(wanted) {
        return None;
    }
    let quality = parts.find_map(|part| part.strip_prefix("q=").or_else(|| part.strip_prefix("Q=")));
    Some(quality.map_or(1.0, |quality| quality.parse().unwrap_or(0.0)))
}
