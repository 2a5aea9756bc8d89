//! The values that every layer speaks: ids, times, texts with limits. A string becomes one of these at the edge and is
//! never checked again. Knows JSON, OpenAPI and how a value lies in a column; knows nothing of requests or policies.

mod bom;
mod email;
mod fingerprint;
mod id;
pub(crate) mod json;
mod near;
mod path;
pub(crate) mod strict_json;
mod text;
mod thread;
mod time;
mod unicode;

pub(crate) use bom::{read_text, without_bom, without_bom_bytes};
pub use email::Email;
pub use fingerprint::{Fingerprint, random_number};
pub use id::Id;
pub(crate) use id::write_hex;
pub use json::JsonObject;
pub(crate) use json::{
    JsonSize, ObjectOnly, Whole, given, json_list, json_value, null_is_absent, object_only, raw,
};
pub use near::Near;
pub use path::OrgPath;
pub(crate) use text::{FromText, NO_NUL, string_schema, text_serde, word};
pub use text::{Label, LongText, Name, ShortText, Term, Url};
pub use thread::thread_number;
pub use time::{Clock, Millis, Timestamp};
pub use unicode::nfc;

/// A value that is not what it should be. The message says what is wrong, with which value, and what would be right.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{0}")]
pub struct Invalid(pub String);

impl Invalid {
    /// Says what is wrong.
    pub fn new(message: impl Into<String>) -> Self {
        Self(message.into())
    }
}

/// At most the first 40 characters of what a caller sent, quoted, for an error message.
pub(crate) fn quoted(text: &str) -> String {
    let mut start: String = text.chars().take(40).collect();
    if start.len() < text.len() {
        start.push('…');
    }
    format!("{start:?}")
}
