//! Errors about single fields of a request.

use crate::types::{FieldErrorCode, Id, truncate_chars};
use serde::Serialize;
use utoipa::ToSchema;

/// An invalid field of a request.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, ToSchema)]
pub struct FieldError {
    /// The path of the field in the body, or the name of the parameter.
    #[schema(examples("participants.0.user"))]
    pub field: String,
    /// What is wrong, for programs. The codes are stable.
    pub code: FieldErrorCode,
    /// What is wrong, and what would be right, for people. The text may change.
    pub message: String,
}

/// The maximum length of a field name, which may come from the client.
const MAX_FIELD: usize = 200;
/// The maximum length of a message.
const MAX_MESSAGE: usize = 1500;

impl FieldError {
    /// Creates an error. Names and messages that repeat what a client sent are truncated.
    pub fn new(field: impl Into<String>, code: FieldErrorCode, message: impl ToString) -> Self {
        Self {
            field: truncate_chars(field.into(), MAX_FIELD),
            code,
            message: truncate_chars(message.to_string(), MAX_MESSAGE),
        }
    }

    /// Creates the error of a reference to a resource that does not exist or that the caller cannot access.
    pub fn missing_reference(field: impl Into<String>, kind: &str, id: Id) -> Self {
        let message = format!("{kind} {id} does not exist or is not accessible");
        Self::new(field, FieldErrorCode::NotFound, message)
    }
}
