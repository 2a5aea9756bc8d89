//! Errors as clients see them: RFC 9457 problem details, with the `error` member that existing clients read.

use super::audit::PendingAuditEntry;
use crate::authn::{PasswordError, TokenError};
use crate::authz::Denied;
use crate::store::StoreError;
use crate::types::{FieldErrorCode, InvalidValue};
use actix_web::http::{StatusCode, header};
use actix_web::{HttpResponse, ResponseError};
use serde::Serialize;
use serde_json::json;
use std::fmt;
use utoipa::ToSchema;

/// A field of a request that is not what it should be.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, ToSchema)]
pub struct FieldError {
    /// Where: the path of the field in the body, or the name of a parameter.
    #[schema(examples("participants.0.user"))]
    pub field: String,
    /// What is wrong, for programs. The codes are stable.
    pub code: FieldErrorCode,
    /// What is wrong, and what would be right, for people. The text may change.
    pub message: String,
}

/// The most field errors that one problem lists.
pub(super) const MAX_ERRORS: usize = 20;
/// The most characters of the name of a field, which may come from the client.
const MAX_FIELD: usize = 200;
/// The most characters of the message of a field error.
const MAX_MESSAGE: usize = 500;
/// The most characters of the sentence of a problem.
const MAX_DETAIL: usize = 4000;

impl FieldError {
    /// A field error. Names and messages that repeat what a client sent are shortened.
    pub fn new(field: impl Into<String>, code: FieldErrorCode, message: impl ToString) -> Self {
        Self {
            field: truncate_chars(field.into(), MAX_FIELD),
            code,
            message: truncate_chars(message.to_string(), MAX_MESSAGE),
        }
    }
}

/// The text, cut after `max` characters.
pub(super) fn truncate_chars(mut text: String, max: usize) -> String {
    // A character has at least one byte, so most texts need no count.
    if text.len() > max
        && let Some((end, _)) = text.char_indices().nth(max)
    {
        text.truncate(end);
        text.push('…');
    }
    text
}

/// Why a request was not answered as it was meant.
#[derive(Debug)]
pub struct Problem {
    /// The status.
    pub status: StatusCode,
    /// A word for programs to go by.
    pub code: &'static str,
    /// A sentence for people.
    pub detail: String,
    /// The fields that are wrong.
    pub errors: Vec<FieldError>,
    /// Further headers of the answer.
    pub headers: Vec<(header::HeaderName, String)>,
    /// What the audit trail is to be told of it.
    pub pending_audit: Option<Box<PendingAuditEntry>>,
}

/// The body of a problem, as it is documented.
#[derive(Debug, Serialize, ToSchema)]
#[serde(rename_all = "camelCase")]
#[schema(as = Problem)]
pub struct ProblemBody<'a> {
    /// `about:blank`: the status says what kind of problem it is (RFC 9457, 4.2.1).
    #[schema(value_type = String, examples("about:blank"))]
    r#type: &'a str,
    /// The status in words.
    #[schema(value_type = String, examples("Forbidden"))]
    title: &'a str,
    /// The HTTP status.
    #[schema(examples(403))]
    status: u16,
    /// What went wrong, and what would be right.
    #[schema(value_type = String)]
    detail: &'a str,
    /// A word for programs to go by.
    #[schema(value_type = String, examples("forbidden"))]
    code: &'a str,
    /// The id of the request, as in the `X-Request-ID` header.
    #[schema(value_type = String)]
    request_id: &'a str,
    /// The fields that are wrong, where the problem is with fields.
    #[serde(skip_serializing_if = "<[_]>::is_empty")]
    #[schema(value_type = Vec<FieldError>, required = false)]
    errors: &'a [FieldError],
    /// The same in the form that existing clients of this API read.
    #[schema(value_type = ErrorMessage)]
    error: serde_json::Value,
}

/// What went wrong, in the form that existing clients of this API read.
#[derive(Debug, Serialize, ToSchema)]
pub struct ErrorMessage {
    /// What went wrong.
    #[schema(examples("jwt expired"))]
    pub message: String,
}

impl Problem {
    /// A problem with this status, word and sentence.
    pub fn new(status: StatusCode, code: &'static str, detail: impl Into<String>) -> Self {
        let detail = truncate_chars(detail.into(), MAX_DETAIL);
        Self { status, code, detail, errors: Vec::new(), headers: Vec::new(), pending_audit: None }
    }

    /// 400: the request is not what it should be.
    pub fn bad_request(detail: impl Into<String>) -> Self {
        Self::new(StatusCode::BAD_REQUEST, "bad_request", detail)
    }

    /// 400: these fields are not what they should be. The first [`MAX_ERRORS`] of them are listed.
    pub fn invalid_fields(mut errors: Vec<FieldError>) -> Self {
        errors.truncate(MAX_ERRORS);
        let detail: Vec<String> =
            errors.iter().map(|error| format!("{}: {}", error.field, error.message)).collect();
        Self { errors, ..Self::new(StatusCode::BAD_REQUEST, "invalid_fields", detail.join("; ")) }
    }

    /// 400: this field is invalid.
    pub fn invalid_field(field: impl Into<String>, code: FieldErrorCode, message: impl ToString) -> Self {
        Self::invalid_fields(vec![FieldError::new(field, code, message)])
    }

    /// 400: the value of this field is invalid.
    pub fn invalid_field_value(field: impl Into<String>, error: &InvalidValue) -> Self {
        Self::invalid_field(field, error.code, error)
    }

    /// 401: nothing was presented that tells who is calling (RFC 6750, 3: a challenge without an error).
    pub fn missing_bearer() -> Self {
        Self::unauthenticated(
            "missing_token",
            "Send an access token or an API key: `Authorization: Bearer <token>`",
        )
    }

    /// 401: what was presented in the request's body or query string is no good.
    pub fn unauthenticated(code: &'static str, message: &str) -> Self {
        Self::new(StatusCode::UNAUTHORIZED, code, message).with_header(header::WWW_AUTHENTICATE, "Bearer")
    }

    /// 401: the bearer token is no good (RFC 6750, 3.1).
    pub fn unauthorized(code: &'static str, message: &str) -> Self {
        let challenge = format!("Bearer error=\"invalid_token\", error_description=\"{message}\"");
        Self::new(StatusCode::UNAUTHORIZED, code, message).with_header(header::WWW_AUTHENTICATE, challenge)
    }

    /// 403: the caller may not do this, to anything of this kind.
    pub fn forbidden(action: &str) -> Self {
        Self::new(StatusCode::FORBIDDEN, "forbidden", format!("Not authorized to perform {action}."))
    }

    /// 404: there is no such thing, or none within the caller's reach.
    pub fn not_found(what: &str) -> Self {
        Self::new(StatusCode::NOT_FOUND, "not_found", format!("{what} not found or not accessible."))
    }

    /// 409: it collides with what is there.
    pub fn conflict(detail: impl Into<String>) -> Self {
        Self::new(StatusCode::CONFLICT, "conflict", detail)
    }

    /// 429: it would do after so many seconds (RFC 6585, 4).
    pub fn too_many_requests(code: &'static str, detail: impl Into<String>, seconds: u64) -> Self {
        Self::new(StatusCode::TOO_MANY_REQUESTS, code, detail)
            .with_header(header::RETRY_AFTER, seconds.to_string())
    }

    /// The same with one header more.
    #[must_use]
    pub fn with_header(mut self, name: header::HeaderName, value: impl Into<String>) -> Self {
        self.headers.push((name, value.into()));
        self
    }

    /// 503: try again in a moment.
    pub(super) fn unavailable(code: &'static str, detail: impl Into<String>) -> Self {
        Self::new(StatusCode::SERVICE_UNAVAILABLE, code, detail).with_header(header::RETRY_AFTER, "1")
    }

    /// 503: the decision cannot be recorded, and so it is not made, or does not take effect.
    pub fn decision_log_full() -> Self {
        Self::unavailable(
            "decision_log_full",
            "The decision cannot be recorded, because too many records wait to be written. Try again in a moment.",
        )
    }

    /// 500: something that should not happen did. What it was goes into the log only.
    pub fn internal(cause: impl fmt::Display) -> Self {
        tracing::error!(%cause, "a request failed");
        Self::new(
            StatusCode::INTERNAL_SERVER_ERROR,
            "internal",
            "Something went wrong here. The log has more under this request's id.",
        )
    }

    /// The answer, with the id of the request in it.
    pub fn to_response(&self, request_id: &str) -> HttpResponse {
        let mut response = HttpResponse::build(self.status);
        for (name, value) in &self.headers {
            response.insert_header((name.clone(), value.as_str()));
        }
        let body = ProblemBody {
            r#type: "about:blank",
            title: self.status.canonical_reason().unwrap_or("Error"),
            status: self.status.as_u16(),
            detail: &self.detail,
            code: self.code,
            request_id,
            errors: &self.errors,
            error: json!({ "message": self.detail }),
        };
        response
            .content_type("application/problem+json")
            .insert_header((header::CACHE_CONTROL, "no-store"))
            .body(serde_json::to_string(&body).unwrap_or_default())
    }
}

impl fmt::Display for Problem {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.detail)
    }
}

impl std::error::Error for Problem {}

impl ResponseError for Problem {
    fn status_code(&self) -> StatusCode {
        self.status
    }

    fn error_response(&self) -> HttpResponse {
        // `edge` writes the answer again, with the id of the request.
        self.to_response("")
    }
}

impl From<StoreError> for Problem {
    fn from(error: StoreError) -> Self {
        match error {
            StoreError::Unavailable(cause) => {
                tracing::warn!(%cause, "the database cannot be reached");
                Self::unavailable(
                    "database_unavailable",
                    "The database cannot be reached. Try again in a moment.",
                )
            }
            StoreError::NotWritable(cause) => {
                tracing::warn!(%cause, "the database cannot be written");
                Self::unavailable(
                    "database_not_writable",
                    "The database cannot be written. Nothing was stored.",
                )
            }
            StoreError::RevocationNotStored(cause) => {
                tracing::error!(%cause, "a revocation is in effect in this process, but is not stored");
                Self::unavailable(
                    "revocation_not_stored",
                    "The database cannot be written: nothing was stored. This process refuses the revoked credentials all the \
                     same, and stores the revocation of sessions and keys as soon as it can. Other replicas do not know of it, \
                     nor does this one after a restart before that: repeat the request later.",
                )
            }
            StoreError::Duplicate(column) => {
                let message = format!("{column} is already in use");
                let errors = vec![FieldError::new(column, FieldErrorCode::AlreadyInUse, &message)];
                Self { errors, ..Self::conflict(format!("Cannot store the resource: {message}.")) }
            }
            StoreError::Referenced => Self::conflict("Conflict with a referenced or referencing resource."),
            StoreError::TooLarge { bytes, max } => Self::new(
                StatusCode::PAYLOAD_TOO_LARGE,
                "resource_too_large",
                format!("The resource would have {bytes} bytes as JSON; it may have {max}."),
            ),
            StoreError::Misconfigured(cause) | StoreError::Failed(cause) => Self::internal(cause),
        }
    }
}

impl From<InvalidValue> for Problem {
    fn from(invalid: InvalidValue) -> Self {
        Self::bad_request(invalid.to_string())
    }
}

impl From<PasswordError> for Problem {
    fn from(error: PasswordError) -> Self {
        match error {
            PasswordError::Refused(error) => Self::invalid_field_value("password", &error),
            PasswordError::Busy => {
                Self::unavailable("busy", "Too many logins at once. Try again in a moment.")
            }
            other => Self::internal(other),
        }
    }
}

impl Problem {
    /// A bearer that is no good. An expired one has the status that the settings say (the seed says 403).
    pub fn invalid_token(error: &TokenError, expired_status: StatusCode) -> Self {
        let message = error.to_string();
        match error {
            TokenError::Expired => {
                Self { status: expired_status, ..Self::unauthorized("token_expired", &message) }
            }
            TokenError::InvalidSignature | TokenError::UnknownKey | TokenError::Invalid => {
                Self::unauthorized("invalid_token", &message)
            }
        }
    }

    /// What was denied to one who could not do it to anything of this kind: 403.
    pub fn denied(denied: &Denied) -> Self {
        Self::forbidden(denied.action())
    }
}
