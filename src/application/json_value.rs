//! Deserializes parsed JSON with errors that have a code and name the member they are about.
//!
//! The errors of `serde_json` are text only. This deserializer has an error type of its own, which keeps what serde reports.

use crate::types::{FieldErrorCode, quoted, split_code};
use serde::de::value::{MapAccessDeserializer, MapDeserializer, SeqDeserializer, StrDeserializer};
use serde::de::{self, Deserializer, Expected, IntoDeserializer, Unexpected, Visitor};
use serde_json::Value;
use std::fmt::Display;

/// Why a JSON value does not match the expected type.
#[derive(Debug, thiserror::Error)]
#[error("{message}")]
pub(super) struct JsonValueError {
    /// The kind of the error.
    pub(super) code: FieldErrorCode,
    /// What is wrong, and what would be right.
    pub(super) message: String,
    /// The member that is missing or unknown, where the error is about a member of the value.
    pub(super) member: Option<String>,
}

impl JsonValueError {
    fn new(code: FieldErrorCode, message: String) -> Self {
        Self { code, message, member: None }
    }

    fn of_member(code: FieldErrorCode, member: &str, message: String) -> Self {
        Self { code, message, member: Some(member.to_owned()) }
    }
}

/// What serde expected, in the terms of JSON instead of Rust.
fn json_expectation(expected: &dyn Expected) -> String {
    let expected = expected.to_string();
    match expected.as_str() {
        "a sequence" => "an array".to_owned(),
        "a map" => "an object".to_owned(),
        "i8" | "i16" | "i32" | "i64" | "u8" | "u16" | "u32" | "u64" | "usize" => "an integer".to_owned(),
        "f32" | "f64" => "a number".to_owned(),
        name if name.starts_with("struct ") => "an object".to_owned(),
        _ => expected,
    }
}

/// The JSON type of a value that serde did not expect. The value itself may be a secret, and is not repeated.
fn json_type(unexpected: Unexpected<'_>) -> &'static str {
    match unexpected {
        Unexpected::Bool(_) => "a boolean",
        Unexpected::Unsigned(_) | Unexpected::Signed(_) | Unexpected::Float(_) => "a number",
        Unexpected::Char(_) | Unexpected::Str(_) => "a string",
        Unexpected::Unit | Unexpected::Option => "null",
        Unexpected::Seq => "an array",
        Unexpected::Map => "an object",
        _ => "another value",
    }
}

/// The value as serde names it in an error.
fn unexpected(value: &Value) -> Unexpected<'_> {
    match value {
        Value::Null => Unexpected::Unit,
        Value::Bool(value) => Unexpected::Bool(*value),
        Value::Number(number) => Unexpected::Float(number.as_f64().unwrap_or_default()),
        Value::String(text) => Unexpected::Str(text),
        Value::Array(_) => Unexpected::Seq,
        Value::Object(_) => Unexpected::Map,
    }
}

impl de::Error for JsonValueError {
    fn custom<T: Display>(message: T) -> Self {
        let (code, message) = split_code(message);
        Self::new(code.unwrap_or(FieldErrorCode::InvalidFormat), message)
    }

    fn invalid_type(unexpected: Unexpected<'_>, expected: &dyn Expected) -> Self {
        let message = format!("expected {}, got {}", json_expectation(expected), json_type(unexpected));
        Self::new(FieldErrorCode::InvalidType, message)
    }

    fn invalid_value(unexpected: Unexpected<'_>, expected: &dyn Expected) -> Self {
        let number = match unexpected {
            Unexpected::Unsigned(number) => number.to_string(),
            Unexpected::Signed(number) => number.to_string(),
            Unexpected::Float(number) => number.to_string(),
            _ => return Self::new(FieldErrorCode::InvalidFormat, format!("expected {expected}")),
        };
        Self::new(FieldErrorCode::OutOfRange, format!("{number} is outside the range of {expected}"))
    }

    fn invalid_length(length: usize, expected: &dyn Expected) -> Self {
        let message = format!("expected {}, got {length} items", json_expectation(expected));
        Self::new(FieldErrorCode::InvalidFormat, message)
    }

    fn unknown_variant(variant: &str, expected: &'static [&'static str]) -> Self {
        let message = format!("expected one of {}; got {}", expected.join(", "), quoted(variant));
        Self::new(FieldErrorCode::UnknownValue, message)
    }

    fn unknown_field(field: &str, expected: &'static [&'static str]) -> Self {
        let message = match expected {
            [] => "unknown field".to_owned(),
            _ => format!("unknown field; expected one of {}", expected.join(", ")),
        };
        Self::of_member(FieldErrorCode::UnknownField, field, message)
    }

    fn missing_field(field: &'static str) -> Self {
        Self::of_member(FieldErrorCode::Required, field, "this field is required".to_owned())
    }

    fn duplicate_field(field: &'static str) -> Self {
        Self::of_member(FieldErrorCode::Duplicate, field, "this field is given more than once".to_owned())
    }
}

/// A parsed JSON value, as a deserializer with [`JsonValueError`].
#[derive(Clone, Copy)]
pub(super) struct JsonValueDeserializer<'a>(pub(super) &'a Value);

impl<'de> IntoDeserializer<'de, JsonValueError> for JsonValueDeserializer<'_> {
    type Deserializer = Self;

    fn into_deserializer(self) -> Self {
        self
    }
}

impl<'de> Deserializer<'de> for JsonValueDeserializer<'_> {
    type Error = JsonValueError;

    fn deserialize_any<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, JsonValueError> {
        match self.0 {
            Value::Null => visitor.visit_unit(),
            Value::Bool(value) => visitor.visit_bool(*value),
            Value::Number(number) => match (number.as_u64(), number.as_i64(), number.as_f64()) {
                (Some(number), ..) => visitor.visit_u64(number),
                (_, Some(number), _) => visitor.visit_i64(number),
                (.., Some(number)) => visitor.visit_f64(number),
                _ => Err(JsonValueError::new(
                    FieldErrorCode::OutOfRange,
                    format!("{number} is not a 64-bit number"),
                )),
            },
            Value::String(text) => visitor.visit_str(text),
            Value::Array(items) => {
                let mut items = SeqDeserializer::new(items.iter().map(JsonValueDeserializer));
                let value = visitor.visit_seq(&mut items)?;
                items.end()?;
                Ok(value)
            }
            Value::Object(members) => {
                let members = members.iter().map(|(name, value)| (name.as_str(), Self(value)));
                let mut members = MapDeserializer::new(members);
                let value = visitor.visit_map(&mut members)?;
                members.end()?;
                Ok(value)
            }
        }
    }

    fn deserialize_option<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, JsonValueError> {
        match self.0 {
            Value::Null => visitor.visit_none(),
            _ => visitor.visit_some(self),
        }
    }

    fn deserialize_newtype_struct<V: Visitor<'de>>(
        self,
        _: &'static str,
        visitor: V,
    ) -> Result<V::Value, JsonValueError> {
        visitor.visit_newtype_struct(self)
    }

    fn deserialize_enum<V: Visitor<'de>>(
        self,
        _: &'static str,
        _: &'static [&'static str],
        visitor: V,
    ) -> Result<V::Value, JsonValueError> {
        match self.0 {
            Value::String(variant) => visitor.visit_enum(StrDeserializer::new(variant)),
            Value::Object(members) if members.len() == 1 => {
                let members = members.iter().map(|(name, value)| (name.as_str(), Self(value)));
                visitor.visit_enum(MapAccessDeserializer::new(MapDeserializer::new(members)))
            }
            _ => Err(JsonValueError::new(FieldErrorCode::InvalidType, "expected a string".to_owned())),
        }
    }

    /// Accepts objects only: the visitor of a JSON map would take null for an empty one.
    fn deserialize_map<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, JsonValueError> {
        match self.0 {
            Value::Object(_) => self.deserialize_any(visitor),
            other => Err(de::Error::invalid_type(unexpected(other), &visitor)),
        }
    }

    /// Accepts objects only: the visitor of a struct would take an array for its fields in their order.
    fn deserialize_struct<V: Visitor<'de>>(
        self,
        _: &'static str,
        _: &'static [&'static str],
        visitor: V,
    ) -> Result<V::Value, JsonValueError> {
        self.deserialize_map(visitor)
    }

    serde::forward_to_deserialize_any! {
        bool i8 i16 i32 i64 i128 u8 u16 u32 u64 u128 f32 f64 char str string bytes byte_buf unit unit_struct seq tuple
        tuple_struct identifier ignored_any
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::types::JsonObject;
    use serde::Deserialize;
    use serde_json::json;

    #[derive(Debug, Deserialize)]
    struct Pair {
        #[expect(dead_code, reason = "only its parsing matters")]
        first: u8,
    }

    #[test]
    fn only_an_object_is_an_object() {
        for value in
            [json!(null), json!([]), json!([1]), json!(1), json!(-1), json!(0.5), json!("a"), json!(true)]
        {
            let map = JsonObject::deserialize(JsonValueDeserializer(&value)).unwrap_err();
            let record = Pair::deserialize(JsonValueDeserializer(&value)).unwrap_err();
            assert_eq!(map.code, FieldErrorCode::InvalidType, "{value}: {map}");
            assert_eq!(record.code, FieldErrorCode::InvalidType, "{value}: {record}");
        }
        assert!(JsonObject::deserialize(JsonValueDeserializer(&json!({}))).is_ok());
        assert!(Pair::deserialize(JsonValueDeserializer(&json!({ "first": 1 }))).is_ok());
    }
}
