//! Domain values that every layer uses: ids, timestamps, texts with limits.
//!
//! A string is parsed into one of these types at the edge and needs no check after that. The module knows JSON and
//! OpenAPI; it knows neither requests nor policies, nor how a value is stored.

mod bom;
mod cache;
mod email;
mod evaluation_id;
mod field_error_code;
mod fingerprint;
mod id;
pub(crate) mod json;
mod nearest;
mod org_path;
mod schema;
mod status;
pub(crate) mod strict_json;
mod text;
mod thread;
mod time;
mod unicode;

pub(crate) use bom::{read_text, strip_bom, strip_bom_bytes};
pub use cache::{Cache, Lifetime, RowVersion, RowVersions, Validity, Versions};
pub use email::Email;
pub use evaluation_id::EvaluationId;
pub use field_error_code::FieldErrorCode;
pub(crate) use field_error_code::split_code;
pub use fingerprint::{Fingerprint, random_u128};
pub use id::Id;
pub use json::JsonObject;
pub(crate) use json::{
    JsonInteger, JsonSize, ObjectOnly, json_list, non_null, null_as_default, object_only, to_raw_json,
};
pub(crate) use nearest::nearest_name;
pub use org_path::OrgPath;
pub(crate) use schema::string_schema;
pub use status::{OrganizationStatus, UserStatus};
pub(crate) use text::{FromStrVisitor, NO_NUL_PATTERN, string_enum, text_serde};
pub use text::{Label, LongText, MessageText, Name, ShortText, Term, Url};
pub use thread::thread_index;
pub use time::{Clock, Millis, Timestamp};
pub(crate) use unicode::is_invisible;
pub use unicode::nfc;

/// An invalid value. The message names the fault, the value and what would be valid.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct InvalidValue {
    /// The kind of the error, for programs.
    pub code: FieldErrorCode,
    /// What is wrong, with which value, and what would be right.
    pub message: String,
}

impl InvalidValue {
    /// Creates the error with this code and message.
    pub fn new(code: FieldErrorCode, message: impl Into<String>) -> Self {
        Self { code, message: message.into() }
    }
}

/// Writes the message. The alternate form (`{:#}`) carries the code, too: see `split_code`.
impl std::fmt::Display for InvalidValue {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        if f.alternate() {
            return field_error_code::write_with_code(f, self.code, &self.message);
        }
        f.write_str(&self.message)
    }
}

impl std::error::Error for InvalidValue {}

/// Truncates a text to `max` characters.
pub(crate) fn truncate_chars(mut text: String, max: usize) -> String {
    // A character has at least one byte, so most texts need no count.
    if text.len() > max
        && let Some((end, _)) = text.char_indices().nth(max)
    {
        text.truncate(end);
        text.push('…');
    }
    text
}

/// Quotes at most the first 40 characters of a text from a client, for an error message.
pub(crate) fn quoted(text: &str) -> String {
    let mut start: String = text.chars().take(40).collect();
    if start.len() < text.len() {
        start.push('…');
    }
    format!("{start:?}")
}
