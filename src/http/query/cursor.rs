//! Cursors: the position in a list after which the next page begins.
//!
//! A cursor has the values of the last row in the columns of the order, and a digest of the list that it belongs to. It grants
//! nothing: a client could write the same conditions as filters, so it is validated and not signed.

use super::field::{QueryField, ValueKind};
use crate::store::FilterValue;
use crate::types::{FieldErrorCode, InvalidValue};
use aws_lc_rs::digest::{Context, SHA256};
use serde_json::Value;

/// The maximum length of a cursor.
const MAX_CURSOR: usize = 32 * 1024;
/// The number of hex digits of the digest.
const DIGEST_LENGTH: usize = 16;

/// Returns the digest of a list: of its path, its filters and its order. The order of the parameters does not matter.
pub fn list_digest(path: &str, parameters: &[(String, String)]) -> String {
    let mut sorted: Vec<&(String, String)> = parameters.iter().collect();
    sorted.sort_unstable();
    let mut hash = Context::new(&SHA256);
    for text in std::iter::once(path).chain(sorted.iter().flat_map(|pair| [pair.0.as_str(), &pair.1])) {
        hash.update(&text.len().to_be_bytes());
        hash.update(text.as_bytes());
    }
    hex::encode(hash.finish()).chars().take(DIGEST_LENGTH).collect()
}

/// Returns the cursor of a position.
pub fn encode(digest: &str, position: &[Value]) -> String {
    let text = serde_json::to_string(position).unwrap_or_default();
    format!("{digest}{}", hex::encode(text))
}

/// Parses a cursor into the values of these fields.
///
/// # Errors
/// It is malformed, or belongs to another list.
pub fn decode(
    digest: &str,
    fields: &[QueryField],
    cursor: &str,
) -> Result<Vec<Option<FilterValue>>, InvalidValue> {
    let invalid = || {
        let message = "not a cursor; follow the `next` link of a page, or leave it out for the first page";
        InvalidValue::new(FieldErrorCode::Mismatch, message)
    };
    let (of_list, position) = cursor.split_at_checked(DIGEST_LENGTH).ok_or_else(invalid)?;
    if cursor.len() > MAX_CURSOR {
        return Err(invalid());
    }
    let position = hex::decode(position).map_err(|_| invalid())?;
    let values: Vec<Value> = serde_json::from_slice(&position).map_err(|_| invalid())?;
    if of_list != digest {
        let message = "the cursor belongs to a list with other filters or another order";
        return Err(InvalidValue::new(FieldErrorCode::Mismatch, message));
    }
    if values.len() != fields.len() {
        return Err(invalid());
    }
    let decoded = fields.iter().zip(&values).map(|(field, value)| decode_value(field, value));
    decoded.collect::<Option<_>>().ok_or_else(invalid)
}

/// Returns the value of a field from its JSON; none if it has another type.
#[expect(clippy::option_option, reason = "the inner one is null")]
pub(super) fn decode_value(field: &QueryField, value: &Value) -> Option<Option<FilterValue>> {
    if value.is_null() {
        return Some(None);
    }
    Some(Some(match &field.kind {
        ValueKind::Time => FilterValue::Time(value.as_str()?.parse().ok()?),
        ValueKind::Integer { .. } => FilterValue::Integer(value.as_i64()?),
        ValueKind::Boolean => FilterValue::Boolean(value.as_bool()?),
        _ => FilterValue::Text(value.as_str().filter(|text| !text.contains('\0'))?.to_owned()),
    }))
}
