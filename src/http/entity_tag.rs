//! Entity tags: `ETag`, `If-None-Match` and `If-Match` (RFC 9110, sections 8.8.3 and 13.1).
//!
//! The tag of a resource is its version. If other resources are in the response, too, a digest of the response follows after a
//! dot, and the version before it remains valid for `If-Match`.

use super::compression::TAG_SUFFIX;
use super::{FieldError, Problem};
use crate::application::precondition::Precondition;
use crate::types::FieldErrorCode;
use actix_web::dev::Payload;
use actix_web::http::header::{HeaderName, IF_MATCH, IF_NONE_MATCH};
use actix_web::{FromRequest, HttpRequest};
use std::future::{Ready, ready};

/// The precondition of a change, from `If-Match`.
#[derive(Debug, Default)]
pub struct IfMatch(pub Precondition);

impl FromRequest for IfMatch {
    type Error = Problem;
    type Future = Ready<Result<Self, Problem>>;

    fn from_request(request: &HttpRequest, _: &mut Payload) -> Self::Future {
        let precondition = reject(request, &IF_NONE_MATCH, "expected `If-Match` in a change");
        ready(precondition.and_then(|()| parse_if_match(request)).map(Self))
    }
}

fn parse_if_match(request: &HttpRequest) -> Result<Precondition, Problem> {
    match tags(request, &IF_MATCH)? {
        None => Ok(Precondition::None),
        // The resource exists, or the request fails anyway.
        Some(Tags::Any) => Ok(Precondition::None),
        // Weak tags never match here (RFC 9110, section 13.1.1).
        Some(Tags::List(tags)) => Ok(Precondition::OneOf(
            tags.into_iter()
                .filter(|tag| !tag.is_weak)
                .map(|tag| tag.value.split('.').next().unwrap_or_default().to_owned())
                .collect(),
        )),
    }
}

/// Checks that a request that creates resources has no precondition, which would have no effect.
///
/// # Errors
/// 400 if it has one.
pub fn reject_preconditions(request: &HttpRequest) -> Result<(), Problem> {
    let message = "is about an existing resource, and this request creates one";
    [IF_MATCH, IF_NONE_MATCH].iter().try_for_each(|name| reject(request, name, message))
}

/// Checks that a request does not have this header.
///
/// # Errors
/// 400 with this message if it has.
pub fn reject(request: &HttpRequest, name: &HeaderName, message: &str) -> Result<(), Problem> {
    match request.headers().contains_key(name) {
        true => Err(Problem::invalid_fields(vec![FieldError::new(
            field_name(name),
            FieldErrorCode::NotAllowed,
            message,
        )])),
        false => Ok(()),
    }
}

/// Returns whether the client already has the response with this tag, by `If-None-Match`.
///
/// # Errors
/// 400 if the header is malformed.
pub fn is_unmodified(request: &HttpRequest, value: &str) -> Result<bool, Problem> {
    Ok(match tags(request, &IF_NONE_MATCH)? {
        None => false,
        Some(Tags::Any) => true,
        Some(Tags::List(tags)) => tags.iter().any(|tag| {
            // The compressed response is as current as the other one.
            tag.value.strip_suffix(TAG_SUFFIX).unwrap_or(&tag.value) == value
        }),
    })
}

/// The value of `If-Match` or `If-None-Match`.
enum Tags {
    Any,
    List(Vec<Tag>),
}

struct Tag {
    is_weak: bool,
    value: String,
}

/// Parses a header with entity tags; none if it is absent.
fn tags(request: &HttpRequest, name: &HeaderName) -> Result<Option<Tags>, Problem> {
    let mut list = Vec::new();
    let mut is_present = false;
    for value in request.headers().get_all(name) {
        is_present = true;
        let value = value.to_str().map_err(|_| malformed(name))?.trim();
        if value == "*" {
            return Ok(Some(Tags::Any));
        }
        for item in value.split(',') {
            let (is_weak, item) = match item.trim().strip_prefix("W/") {
                Some(item) => (true, item),
                None => (false, item.trim()),
            };
            let value = item.strip_prefix('"').and_then(|item| item.strip_suffix('"'));
            let value = value.filter(|value| !value.contains('"')).ok_or_else(|| malformed(name))?;
            list.push(Tag { is_weak, value: value.to_owned() });
        }
    }
    Ok(is_present.then_some(Tags::List(list)))
}

fn field_name(name: &HeaderName) -> &'static str {
    if *name == IF_MATCH { "If-Match" } else { "If-None-Match" }
}

fn malformed(name: &HeaderName) -> Problem {
    let message = "expected entity tags in quotation marks, such as \"…\", or *";
    Problem::invalid_fields(vec![FieldError::new(field_name(name), FieldErrorCode::InvalidFormat, message)])
}
