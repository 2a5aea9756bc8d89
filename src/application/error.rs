//! Errors of the application layer, without HTTP. `http::problem` maps them to problem details.

use super::FieldError;
use super::audit::PendingAuditEntry;
use super::refusals::Refusal;
use super::signing_keys::SigningKeysError;
use crate::authn::{PasswordError, TokenError};
use crate::authz::Explanation;
use crate::store::{AuditActor, AuditEntry, StoreError};
use crate::types::{FieldErrorCode, Id, InvalidValue};
use std::fmt;

/// The maximum number of fields in an error.
pub const MAX_FIELD_ERRORS: usize = 20;

/// The kind of a failure, from which `http` derives the status.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ErrorKind {
    /// The input is invalid.
    InvalidInput,
    /// The request has no credential, or the one in its body is not valid.
    Unauthenticated,
    /// The bearer token is malformed, unknown, revoked or wrongly signed.
    InvalidToken,
    /// The bearer token has expired.
    TokenExpired {
        /// Whether the settings map this to 403 instead of 401.
        is_forbidden: bool,
    },
    /// The policies do not permit it.
    Forbidden,
    /// The resource does not exist, or the caller cannot access it.
    NotFound,
    /// It conflicts with the stored state.
    Conflict,
    /// It conflicts with another request that is executed at the same time.
    InProgress {
        /// After how many seconds a retry may succeed.
        retry_after: u64,
    },
    /// What the request refers to existed, and was deleted.
    Gone,
    /// The resource does not have the version that the request names.
    PreconditionFailed,
    /// A rate limit or the login throttle refuses the request.
    TooManyRequests {
        /// After how many seconds a retry may succeed.
        retry_after: u64,
    },
    /// A dependency is unavailable or a queue is full.
    Unavailable {
        /// After how many seconds a retry may succeed.
        retry_after: u64,
    },
    /// The resource is too large.
    TooLarge,
    /// A defect, or a failure that the client cannot influence.
    Internal,
}

impl ErrorKind {
    /// Returns whether the service failed, and not the request.
    pub const fn is_server_error(self) -> bool {
        matches!(self, Self::Unavailable { .. } | Self::Internal)
    }
}

/// A failed operation of the application layer.
#[derive(Debug, thiserror::Error)]
#[error("{message}")]
pub struct Error {
    /// The kind of the failure.
    pub kind: ErrorKind,
    /// The stable, machine-readable code.
    pub code: &'static str,
    /// The message for people.
    pub message: String,
    /// The invalid fields, if the failure is about fields.
    pub fields: Vec<FieldError>,
    /// Why the policies deny the caller's own request.
    pub reasons: Option<Box<Explanation>>,
    /// The audit entry to write when the request has failed with this error.
    pub pending_audit: Option<Box<PendingAuditEntry>>,
}

impl Error {
    /// Creates an error.
    pub fn new(kind: ErrorKind, code: &'static str, message: impl Into<String>) -> Self {
        Self { kind, code, message: message.into(), fields: Vec::new(), reasons: None, pending_audit: None }
    }

    /// The input is invalid.
    pub fn bad_request(message: impl Into<String>) -> Self {
        Self::new(ErrorKind::InvalidInput, "bad_request", message)
    }

    /// These fields are invalid. The first [`MAX_FIELD_ERRORS`] of them are listed.
    pub fn invalid_fields(mut fields: Vec<FieldError>) -> Self {
        fields.truncate(MAX_FIELD_ERRORS);
        let message = Self::list_fields(&fields);
        Self { fields, ..Self::new(ErrorKind::InvalidInput, "invalid_fields", message) }
    }

    /// Returns the message that lists invalid fields.
    pub(super) fn list_fields(fields: &[FieldError]) -> String {
        let text = fields.iter().map(|error| match error.field.as_str() {
            "" => error.message.clone(),
            field => format!("{field}: {}", error.message),
        });
        text.collect::<Vec<_>>().join("; ")
    }

    /// Returns the error with further names of accepted fields: those that are read apart from the others.
    #[must_use]
    pub fn also_accepting(self, names: &[&str]) -> Self {
        let is_unknown =
            |error: &FieldError| error.code == FieldErrorCode::UnknownField && !error.field.contains('.');
        if !self.fields.iter().any(is_unknown) {
            return self;
        }
        let also = |error: FieldError| match is_unknown(&error) {
            true => FieldError { message: format!("{}, {}", error.message, names.join(", ")), ..error },
            false => error,
        };
        Self::invalid_fields(self.fields.into_iter().map(also).collect())
    }

    /// This field is invalid.
    pub fn invalid_field(field: impl Into<String>, code: FieldErrorCode, message: impl ToString) -> Self {
        Self::invalid_fields(vec![FieldError::new(field, code, message)])
    }

    /// The value of this field is invalid.
    pub fn invalid_field_value(field: impl Into<String>, error: &InvalidValue) -> Self {
        Self::invalid_field(field, error.code, error)
    }

    /// A field refers to a resource that does not exist or that the caller cannot access.
    pub fn missing_reference(field: impl Into<String>, kind: &str, id: Id) -> Self {
        Self::invalid_fields(vec![FieldError::missing_reference(field, kind, id)])
    }

    /// The credentials in the body or the query string are not valid.
    pub fn unauthenticated(code: &'static str, message: impl Into<String>) -> Self {
        Self::new(ErrorKind::Unauthenticated, code, message)
    }

    /// The bearer token is malformed, or its user, session or key no longer exists.
    pub fn invalid_token() -> Self {
        Self::new(ErrorKind::InvalidToken, "invalid_token", "invalid token")
    }

    /// The bearer token was rejected. `is_expired_forbidden` is the setting for the status of an expired one.
    pub fn rejected_token(error: &TokenError, is_expired_forbidden: bool) -> Self {
        let message = error.to_string();
        match error {
            TokenError::Expired => {
                let kind = ErrorKind::TokenExpired { is_forbidden: is_expired_forbidden };
                Self::new(kind, "token_expired", message)
            }
            TokenError::InvalidSignature | TokenError::UnknownKey | TokenError::Invalid => {
                Self::new(ErrorKind::InvalidToken, "invalid_token", message)
            }
        }
    }

    /// The policies do not permit the action.
    pub fn forbidden(action: &str) -> Self {
        let message = format!("Not authorized to perform {action}.");
        Self::new(ErrorKind::Forbidden, "forbidden", message)
    }

    /// The resource does not exist, or the caller cannot access it. Existing clients compare this message.
    pub fn not_found(what: &str) -> Self {
        Self::new(ErrorKind::NotFound, "not_found", format!("{what} not found"))
    }

    /// It conflicts with the stored state.
    pub fn conflict(message: impl Into<String>) -> Self {
        Self::new(ErrorKind::Conflict, "conflict", message)
    }

    /// It conflicts with the stored state, in a way that this code names.
    pub fn conflict_with_code(code: &'static str, message: impl Into<String>) -> Self {
        Self::new(ErrorKind::Conflict, code, message)
    }

    /// A limit was exceeded. A retry may succeed after `retry_after` seconds.
    pub fn too_many_requests(code: &'static str, message: impl Into<String>, retry_after: u64) -> Self {
        Self::new(ErrorKind::TooManyRequests { retry_after }, code, message)
    }

    /// A dependency is unavailable. A retry may succeed a second later.
    pub fn unavailable(code: &'static str, message: impl Into<String>) -> Self {
        Self::new(ErrorKind::Unavailable { retry_after: 1 }, code, message)
    }

    /// The decision cannot be recorded, so it is not made or does not take effect.
    pub fn decision_log_full() -> Self {
        Self::unavailable(
            "decision_log_full",
            "The decision cannot be recorded, because the queue of the decision log is full. Try again later.",
        )
    }

    /// An unexpected failure. The cause is written to the log only.
    pub fn internal(cause: impl fmt::Display) -> Self {
        tracing::error!(%cause, "request failed");
        Self::new(
            ErrorKind::Internal,
            "internal",
            "Internal error. The log has the cause under the id of this request.",
        )
    }

    /// Returns the error with the reasons of a denial.
    #[must_use]
    pub fn with_reasons(self, reasons: Option<Explanation>) -> Self {
        Self { reasons: reasons.map(Box::new), ..self }
    }

    /// Returns the error with an event that the audit log records when the request has failed.
    #[must_use]
    pub fn with_audit(self, actor: AuditActor, entry: AuditEntry) -> Self {
        Self { pending_audit: Some(Box::new(PendingAuditEntry::Event(actor, entry))), ..self }
    }

    /// Returns the error with a refusal that the audit log counts when the request has failed.
    #[must_use]
    pub fn with_refusal(self, refusal: Refusal) -> Self {
        Self { pending_audit: Some(Box::new(PendingAuditEntry::Refusal(refusal))), ..self }
    }
}

impl From<StoreError> for Error {
    fn from(error: StoreError) -> Self {
        match error {
            StoreError::Unavailable(cause) => {
                tracing::warn!(%cause, "database unavailable");
                Self::unavailable("database_unavailable", "The database is unavailable. Try again later.")
            }
            StoreError::NotWritable(cause) => {
                tracing::warn!(%cause, "database not writable");
                Self::unavailable(
                    "database_not_writable",
                    "The database is not writable. Nothing was stored.",
                )
            }
            StoreError::RevocationNotStored(cause) => {
                tracing::error!(%cause, "revocation is in effect in this process, but not stored");
                Self::unavailable("revocation_not_stored", REVOCATION_NOT_STORED)
            }
            StoreError::Duplicate(column) => {
                let message = format!("{column} is already in use");
                let fields = vec![FieldError::new(column, FieldErrorCode::AlreadyInUse, &message)];
                Self { fields, ..Self::conflict(format!("Cannot store the resource: {message}.")) }
            }
            StoreError::Referenced => Self::conflict("Conflict with a referenced or referencing resource."),
            StoreError::TooLarge { bytes, max } => Self::new(
                ErrorKind::TooLarge,
                "resource_too_large",
                format!("The resource would have {bytes} bytes as JSON; at most {max} are allowed."),
            ),
            StoreError::Misconfigured(cause) | StoreError::Failed(cause) => Self::internal(cause),
        }
    }
}

const REVOCATION_NOT_STORED: &str = "The database is not writable: nothing was stored. This process rejects the revoked \
     credentials nevertheless, and stores the revocation of sessions and keys as soon as the database is writable. Until then, \
     other replicas accept them, and so does this one after a restart. Repeat the request later.";

impl From<InvalidValue> for Error {
    fn from(invalid: InvalidValue) -> Self {
        Self::bad_request(invalid.to_string())
    }
}

impl From<PasswordError> for Error {
    fn from(error: PasswordError) -> Self {
        match error {
            PasswordError::Refused(error) => Self::invalid_field_value("password", &error),
            PasswordError::Busy => Self::unavailable("busy", "Too many logins at once. Try again later."),
            other @ PasswordError::Failed(_) => Self::internal(other),
        }
    }
}

impl From<SigningKeysError> for Error {
    fn from(error: SigningKeysError) -> Self {
        match error {
            SigningKeysError::Store(error) => error.into(),
            other => Self::internal(other),
        }
    }
}
