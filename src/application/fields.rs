//! Conversion of JSON values to typed fields, with errors that name every invalid field.

use super::error::MAX_FIELD_ERRORS;
use super::json_value::{JsonValueDeserializer, JsonValueError};
use super::{Error, FieldError};
use crate::types::truncate_chars;
use serde::de::DeserializeOwned;
use serde_json::Value;

/// The maximum length of a message of serde, which may repeat what the client sent.
pub const MAX_MESSAGE: usize = 300;

/// Converts a JSON value. `prefix` is its path in the body, for the names of invalid fields. Without a prefix, the value is the
/// body: the elements of an array are `[0]`, `[1]` and so on.
///
/// # Errors
/// The invalid fields, at most [`MAX_FIELD_ERRORS`].
pub fn from_value<T: DeserializeOwned>(mut value: Value, prefix: &str) -> Result<T, Error> {
    let mut errors: Vec<FieldError> = Vec::new();
    let mut removed: Vec<String> = Vec::new();
    loop {
        let error = match serde_path_to_error::deserialize::<_, T>(JsonValueDeserializer(&value)) {
            Ok(parsed) if errors.is_empty() => return Ok(parsed),
            Ok(_) => break,
            Err(error) => error,
        };
        let (field, top) = error_location(&error, prefix.is_empty());
        if removed.contains(&field) || errors.len() >= MAX_FIELD_ERRORS {
            break;
        }
        errors.push(FieldError::new(
            join_path(prefix, &field),
            error.inner().code,
            truncate_chars(error.inner().message.clone(), MAX_MESSAGE),
        ));
        // The invalid field is removed to check the others.
        if value.as_object_mut().and_then(|fields| fields.shift_remove(&top)).is_none() {
            break;
        }
        removed.push(top);
    }
    // The absence of a removed field is not a second error.
    Err(Error::invalid_fields(errors))
}

/// The path of the field that an error is about, and the first segment of that path. `is_body` says whether the value is the whole
/// body, so that an index at its top is an element of the body.
fn error_location(error: &serde_path_to_error::Error<JsonValueError>, is_body: bool) -> (String, String) {
    let path = error.path().to_string();
    let element = path.strip_prefix('[').filter(|_| is_body).and_then(|path| path.split_once(']'));
    let path = match element {
        Some((index, rest)) => format!("[{index}]{}", dotted(rest)),
        None => dotted(&path).trim_start_matches('.').to_owned(),
    };
    let field = match error.inner().member.as_deref() {
        Some(name) if path == name || path.ends_with(&format!(".{name}")) => path,
        Some(name) => join_path(&path, name),
        None => path,
    };
    let top = field.split('.').next().unwrap_or_default().to_owned();
    (field, top)
}

/// Returns a path in which indices are segments like names: `.messages[0]` becomes `.messages.0`.
fn dotted(path: &str) -> String {
    path.replace('[', ".").replace(']', "")
}

/// Returns the name of an element of an array that is the body.
pub fn element_label(index: usize) -> String {
    format!("[{index}]")
}

/// Joins the path of a value and that of a field in it.
pub fn join_path(prefix: &str, field: &str) -> String {
    match (prefix.is_empty(), field.is_empty()) {
        (true, _) => field.to_owned(),
        (_, true) => prefix.to_owned(),
        _ => format!("{prefix}.{field}"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde::Deserialize;

    #[derive(Debug, Deserialize)]
    #[expect(dead_code, reason = "only their parsing matters")]
    struct Friend {
        age: u8,
    }

    #[test]
    fn an_element_of_a_body_is_in_brackets_and_of_a_field_it_is_a_segment() {
        let sent = serde_json::json!([{ "age": 1 }, { "age": -1 }]);
        let error = from_value::<Vec<Friend>>(sent, "").unwrap_err();
        assert_eq!(error.fields[0].field, "[1].age");
        let sent = serde_json::json!([{ "age": 1 }, { "age": -1 }]);
        let error = from_value::<Vec<Friend>>(sent, "friends").unwrap_err();
        assert_eq!(error.fields[0].field, "friends.1.age");
    }
}
