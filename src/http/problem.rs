//! Problem details (RFC 9457): the form of every error response, with the `error` member that existing clients read.

use crate::application::audit::PendingAuditEntry;
use crate::application::signing_keys::SigningKeysError;
use crate::application::{Error, ErrorKind, FieldError};
use crate::authn::PasswordError;
use crate::authz::Explanation;
use crate::store::StoreError;
use crate::telemetry;
use crate::types::{EvaluationId, FieldErrorCode, InvalidValue, truncate_chars};
use actix_web::http::{StatusCode, header};
use actix_web::{HttpResponse, ResponseError};
use serde::Serialize;
use serde_json::json;
use std::fmt;
use utoipa::ToSchema;

/// The maximum length of the detail of a problem.
const MAX_DETAIL: usize = 4000;

/// The error of a request.
#[derive(Debug)]
pub struct Problem {
    /// The status.
    pub status: StatusCode,
    /// The stable, machine-readable code.
    pub code: &'static str,
    /// The message for people.
    pub detail: String,
    /// The invalid fields.
    pub errors: Vec<FieldError>,
    /// Why the policies deny the caller's own request.
    pub reasons: Option<Box<Explanation>>,
    /// Further response headers.
    pub headers: Vec<(header::HeaderName, String)>,
    /// The code of an OAuth error (RFC 6749, section 5.2), if the client expects the error in that form.
    pub oauth_error: Option<OAuthErrorCode>,
    /// The audit entry to write when the request has failed with this problem.
    pub pending_audit: Option<Box<PendingAuditEntry>>,
}

/// An error response (RFC 9457).
#[derive(Debug, Serialize, ToSchema)]
#[serde(rename_all = "camelCase")]
#[schema(as = Problem)]
pub struct ProblemBody<'a> {
    /// `about:blank`: the status says what kind of problem it is (RFC 9457, 4.2.1).
    #[schema(value_type = String, examples("about:blank"))]
    r#type: &'a str,
    /// The name of the status.
    #[schema(value_type = String, examples("Forbidden"))]
    title: &'a str,
    /// The HTTP status.
    #[schema(examples(403))]
    status: u16,
    /// A description of the problem, for people. The text may change.
    #[schema(value_type = String)]
    detail: &'a str,
    /// A stable machine-readable code.
    #[schema(value_type = String, examples("forbidden"))]
    code: &'a str,
    /// The id of the request, as in the `X-Request-ID` header.
    #[schema(value_type = String)]
    request_id: &'a str,
    /// Of a 403, the id of the evaluation that denied the request, as in the decision log.
    #[serde(rename = "evaluation_id", skip_serializing_if = "Option::is_none")]
    #[schema(value_type = String, required = false)]
    evaluation_id: Option<EvaluationId>,
    /// The invalid fields; absent if the problem is not about fields.
    #[serde(skip_serializing_if = "<[_]>::is_empty")]
    #[schema(value_type = Vec<FieldError>, required = false)]
    errors: &'a [FieldError],
    /// Of a 403: why the policies deny the request. Existing and missing resources have the same reasons: they are those of a
    /// resource of the type in the caller's own organization, except for the caller's own user, for a resource that the request
    /// creates, and for a change that a permitted update must not make.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(value_type = Option<Explanation>, nullable = false)]
    reasons: Option<&'a Explanation>,
    /// The description in the format that existing clients of this API read.
    #[schema(value_type = ErrorMessage)]
    error: serde_json::Value,
}

/// The error in the format that existing clients of this API read.
#[derive(Debug, Serialize, ToSchema)]
pub struct ErrorMessage {
    /// A description of the problem.
    #[schema(examples("jwt expired"))]
    pub message: String,
}

/// The code of an OAuth error (RFC 6749, sections 4.1.2.1 and 5.2).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum OAuthErrorCode {
    /// The credentials of the client are not valid.
    InvalidClient,
    /// The refresh token is not valid.
    InvalidGrant,
    /// A parameter is missing, repeated or malformed.
    InvalidRequest,
    /// The scope is unknown, or exceeds what can be granted.
    InvalidScope,
    /// The service failed.
    ServerError,
    /// The service is overloaded, or a limit was reached.
    TemporarilyUnavailable,
    /// The grant type is not supported.
    UnsupportedGrantType,
}

impl OAuthErrorCode {
    const fn as_str(self) -> &'static str {
        match self {
            Self::InvalidClient => "invalid_client",
            Self::InvalidGrant => "invalid_grant",
            Self::InvalidRequest => "invalid_request",
            Self::InvalidScope => "invalid_scope",
            Self::ServerError => "server_error",
            Self::TemporarilyUnavailable => "temporarily_unavailable",
            Self::UnsupportedGrantType => "unsupported_grant_type",
        }
    }
}

/// An OAuth error response (RFC 6749, section 5.2).
#[derive(Debug, Serialize, ToSchema)]
#[schema(as = OAuthError)]
pub struct OAuthErrorBody<'a> {
    /// The code, such as `invalid_grant`.
    #[schema(value_type = String, examples("invalid_grant"))]
    error: &'a str,
    /// A description of the problem, for people. The text may change.
    #[schema(value_type = String, examples("Invalid refresh token"))]
    error_description: &'a str,
}

impl Problem {
    /// Creates a problem. A long detail is truncated.
    pub fn new(status: StatusCode, code: &'static str, detail: impl Into<String>) -> Self {
        let detail = truncate_chars(detail.into(), MAX_DETAIL);
        Self {
            status,
            code,
            detail,
            errors: Vec::new(),
            reasons: None,
            headers: Vec::new(),
            oauth_error: None,
            pending_audit: None,
        }
    }

    /// 400: the request is invalid.
    pub fn bad_request(detail: impl Into<String>) -> Self {
        Error::bad_request(detail).into()
    }

    /// 400: these fields are invalid.
    pub fn invalid_fields(errors: Vec<FieldError>) -> Self {
        Error::invalid_fields(errors).into()
    }

    /// 400: this field is invalid.
    pub fn invalid_field(field: impl Into<String>, code: FieldErrorCode, message: impl ToString) -> Self {
        Error::invalid_field(field, code, message).into()
    }

    /// 400: the value of this field is invalid.
    pub fn invalid_field_value(field: impl Into<String>, error: &InvalidValue) -> Self {
        Error::invalid_field_value(field, error).into()
    }

    /// 401: the request has no credential (RFC 6750, section 3: a challenge without an error).
    pub fn missing_bearer() -> Self {
        Self::unauthenticated(
            "missing_token",
            "Send an access token or an API key: `Authorization: Bearer <token>`",
        )
    }

    /// 401: the credentials in the body or the query string are not valid.
    fn unauthenticated(code: &'static str, message: impl Into<String>) -> Self {
        Self::new(StatusCode::UNAUTHORIZED, code, message).with_header(header::WWW_AUTHENTICATE, "Bearer")
    }

    /// 401, or 403 if the settings say so: the bearer token is not valid (RFC 6750, section 3.1).
    fn rejected_bearer(status: StatusCode, code: &'static str, message: String) -> Self {
        let challenge = format!("Bearer error=\"invalid_token\", error_description=\"{message}\"");
        Self::new(status, code, message).with_header(header::WWW_AUTHENTICATE, challenge)
    }

    /// 403: the action is denied.
    pub fn forbidden(action: &str) -> Self {
        Error::forbidden(action).into()
    }

    /// 404: the resource does not exist, or the caller cannot access it.
    pub fn not_found(what: &str) -> Self {
        Error::not_found(what).into()
    }

    /// 409: conflict with the stored state.
    pub fn conflict(detail: impl Into<String>) -> Self {
        Error::conflict(detail).into()
    }

    /// Returns the problem with one more header.
    #[must_use]
    pub fn with_header(mut self, name: header::HeaderName, value: impl Into<String>) -> Self {
        self.headers.push((name, value.into()));
        self
    }

    fn with_retry_after(self, seconds: u64) -> Self {
        self.with_header(header::RETRY_AFTER, seconds.to_string())
    }

    /// The detail in the characters that an OAuth error may contain.
    fn oauth_description(&self) -> String {
        let is_allowed = |letter: char| matches!(letter, ' '..='~') && !matches!(letter, '"' | '\\');
        self.detail.chars().map(|letter| if is_allowed(letter) { letter } else { '\'' }).collect()
    }

    /// 500: an unexpected failure. The cause is written to the log only.
    pub fn internal(cause: impl fmt::Display) -> Self {
        Error::internal(cause).into()
    }

    /// Returns the problem as an OAuth error with this code.
    #[must_use]
    pub fn as_oauth_error(self, code: OAuthErrorCode) -> Self {
        Self { oauth_error: Some(code), ..self }
    }

    /// Returns the response, with the id of the request in its body.
    pub fn to_response(&self, request_id: &str) -> HttpResponse {
        let mut response = HttpResponse::build(self.status);
        for (name, value) in &self.headers {
            // A response may have several challenges.
            response.append_header((name.clone(), value.as_str()));
        }
        response.insert_header((header::CACHE_CONTROL, "no-store"));
        if let Some(code) = self.oauth_error {
            return response
                .json(OAuthErrorBody { error: code.as_str(), error_description: &self.oauth_description() });
        }
        let body = ProblemBody {
            r#type: "about:blank",
            title: self.status.canonical_reason().unwrap_or("Error"),
            status: self.status.as_u16(),
            detail: &self.detail,
            code: self.code,
            request_id,
            evaluation_id: match self.status {
                StatusCode::FORBIDDEN => telemetry::denied_evaluation(),
                _ => None,
            },
            errors: &self.errors,
            reasons: self.reasons.as_deref(),
            error: json!({ "message": self.detail }),
        };
        response
            .content_type("application/problem+json")
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
        // The middleware replaces this response by one with the id of the request.
        self.to_response("")
    }
}

impl From<Error> for Problem {
    /// Maps an error of the application layer. This is the only place that chooses statuses and headers for them.
    fn from(error: Error) -> Self {
        let Error { kind, code, message, fields, reasons, pending_audit } = error;
        let problem = match kind {
            ErrorKind::InvalidInput => Self::new(StatusCode::BAD_REQUEST, code, message),
            ErrorKind::Unauthenticated => Self::unauthenticated(code, message),
            ErrorKind::InvalidToken | ErrorKind::TokenExpired { is_forbidden: false } => {
                Self::rejected_bearer(StatusCode::UNAUTHORIZED, code, message)
            }
            ErrorKind::TokenExpired { is_forbidden: true } => {
                Self::rejected_bearer(StatusCode::FORBIDDEN, code, message)
            }
            ErrorKind::Forbidden => Self::new(StatusCode::FORBIDDEN, code, message),
            ErrorKind::NotFound => Self::new(StatusCode::NOT_FOUND, code, message),
            ErrorKind::Conflict => Self::new(StatusCode::CONFLICT, code, message),
            ErrorKind::InProgress { retry_after } => {
                Self::new(StatusCode::CONFLICT, code, message).with_retry_after(retry_after)
            }
            ErrorKind::Gone => Self::new(StatusCode::GONE, code, message),
            ErrorKind::PreconditionFailed => Self::new(StatusCode::PRECONDITION_FAILED, code, message),
            // RFC 6585, section 4.
            ErrorKind::TooManyRequests { retry_after } => {
                Self::new(StatusCode::TOO_MANY_REQUESTS, code, message).with_retry_after(retry_after)
            }
            ErrorKind::Unavailable { retry_after } => {
                Self::new(StatusCode::SERVICE_UNAVAILABLE, code, message).with_retry_after(retry_after)
            }
            ErrorKind::TooLarge => Self::new(StatusCode::PAYLOAD_TOO_LARGE, code, message),
            ErrorKind::Internal => Self::new(StatusCode::INTERNAL_SERVER_ERROR, code, message),
        };
        Self { errors: fields, reasons, pending_audit, ..problem }
    }
}

/// Errors of the lower layers are mapped by way of [`Error`].
macro_rules! from_lower_layer {
    ($($error:ty),*) => {
        $(impl From<$error> for Problem {
            fn from(error: $error) -> Self {
                Error::from(error).into()
            }
        })*
    };
}

from_lower_layer!(StoreError, InvalidValue, PasswordError, SigningKeysError);
