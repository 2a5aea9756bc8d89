//! Values that are JSON objects or arrays.

use super::{FieldErrorCode, InvalidValue};
use serde::Deserializer;
use serde::de::{MapAccess, Visitor};
use serde_json::value::RawValue;

/// Returns a value as JSON text to embed in a line of JSON; `null` if it cannot be serialized.
pub(crate) fn to_raw_json(value: &impl serde::Serialize) -> Box<RawValue> {
    serde_json::value::to_raw_value(value).unwrap_or_else(|_| RawValue::NULL.to_owned())
}

/// The size of a value: its length as JSON, and an estimate of its memory when parsed.
#[derive(Debug, Clone, Copy, Default)]
pub(crate) struct JsonSize {
    /// The length as JSON, in bytes.
    pub(crate) bytes: usize,
    /// An upper bound of the number of values that it contains.
    values: usize,
}

impl JsonSize {
    /// The memory of one parsed value: `serde_json::Value` has 72 bytes, and its collections have spare capacity.
    const MEMORY_PER_VALUE: usize = 96;

    /// Measures a value by serializing it, without storing the text.
    pub(crate) fn of(value: &impl serde::Serialize) -> Self {
        let mut size = Self::default();
        // Writing cannot fail. If serializing the value fails, what was counted until then is the size.
        let _ = serde_json::to_writer(&mut size, value);
        size
    }

    /// Measures a JSON text.
    pub(crate) fn of_text(text: &[u8]) -> Self {
        // Each value except the first of an array or object follows a comma. Commas in strings count, too: an upper bound.
        Self { bytes: text.len(), values: memchr::memchr3_iter(b',', b'[', b'{', text).count() }
    }

    /// An estimate of the memory of the parsed value, in bytes.
    pub(crate) fn memory_estimate(self) -> usize {
        self.bytes.saturating_add(self.values.saturating_mul(Self::MEMORY_PER_VALUE))
    }
}

impl std::io::Write for JsonSize {
    fn write(&mut self, text: &[u8]) -> std::io::Result<usize> {
        let Self { bytes, values } = Self::of_text(text);
        self.bytes += bytes;
        self.values += values;
        Ok(text.len())
    }

    fn flush(&mut self) -> std::io::Result<()> {
        Ok(())
    }
}

/// Declares a list type with a maximum number of items.
macro_rules! json_list {
    ($(#[doc = $doc:literal])* $name:ident, $item:ty, $max:literal) => {
        $(#[doc = $doc])*
        #[derive(Debug, Clone, Default, PartialEq, serde::Serialize, serde::Deserialize)]
        #[serde(try_from = "Vec<_>")]
        pub struct $name(Vec<$item>);

        impl TryFrom<Vec<$item>> for $name {
            type Error = $crate::types::InvalidValue;

            fn try_from(items: Vec<$item>) -> Result<Self, Self::Error> {
                if items.len() > $max {
                    let (have, max) = (items.len(), $max);
                    return Err($crate::types::InvalidValue::new(
                        $crate::types::FieldErrorCode::TooManyItems,
                        format!("the list has {have} items; at most {max} are allowed"),
                    ));
                }
                Ok(Self(items))
            }
        }

        impl std::ops::Deref for $name {
            type Target = [$item];

            fn deref(&self) -> &[$item] {
                &self.0
            }
        }

        impl utoipa::PartialSchema for $name {
            fn schema() -> utoipa::openapi::RefOr<utoipa::openapi::schema::Schema> {
                utoipa::openapi::schema::ArrayBuilder::new()
                    .description(Some(concat!($($doc),*).trim()))
                    .items(utoipa::openapi::Ref::from_schema_name(<$item as utoipa::ToSchema>::name()))
                    .max_items(Some($max))
                    .into()
            }
        }

        impl utoipa::ToSchema for $name {
            fn schemas(
                schemas: &mut Vec<(String, utoipa::openapi::RefOr<utoipa::openapi::schema::Schema>)>,
            ) {
                schemas.push((
                    <$item as utoipa::ToSchema>::name().into_owned(),
                    <$item as utoipa::PartialSchema>::schema(),
                ));
                <$item as utoipa::ToSchema>::schemas(schemas);
            }
        }
    };
}
pub(crate) use json_list;

/// Implements `Deserialize` (and `Serialize`) for a type with `#[serde(remote = "Self")]`, so that it is read from a JSON
/// object only. The derived implementation would also accept an array of the field values.
macro_rules! object_only {
    ($name:ident) => {
        object_only!($name, read);

        impl serde::Serialize for $name {
            fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
                Self::serialize(self, serializer)
            }
        }
    };
    ($name:ident, read) => {
        impl<'de> serde::Deserialize<'de> for $name {
            fn deserialize<D: serde::Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
                Self::deserialize($crate::types::ObjectOnly(deserializer))
            }
        }
    };
}
pub(crate) use object_only;

/// A deserializer that reads structs from objects only, not from arrays.
pub(crate) struct ObjectOnly<D>(pub(crate) D);

impl<'de, D: Deserializer<'de>> Deserializer<'de> for ObjectOnly<D> {
    type Error = D::Error;

    fn deserialize_any<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, D::Error> {
        self.0.deserialize_map(FieldsOnly(visitor))
    }

    serde::forward_to_deserialize_any! {
        bool i8 i16 i32 i64 i128 u8 u16 u32 u64 u128 f32 f64 char str string bytes byte_buf option unit unit_struct
        newtype_struct seq tuple tuple_struct map struct enum identifier ignored_any
    }
}

struct FieldsOnly<V>(V);

impl<'de, V: Visitor<'de>> Visitor<'de> for FieldsOnly<V> {
    type Value = V::Value;

    fn expecting(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("an object")
    }

    fn visit_map<A: MapAccess<'de>>(self, map: A) -> Result<V::Value, A::Error> {
        self.0.visit_map(map)
    }
}

/// Deserializes a field that may be missing but not null.
///
/// # Errors
/// The value is null, or not one of the type.
pub(crate) fn non_null<'de, D: Deserializer<'de>, T: serde::Deserialize<'de>>(
    deserializer: D,
) -> Result<Option<T>, D::Error> {
    T::deserialize(deserializer).map(Some)
}

/// Deserializes a field that may be missing or null; both mean the default of its type.
///
/// # Errors
/// The value is neither null nor one of the type.
pub(crate) fn null_as_default<'de, D: Deserializer<'de>, T: Default + serde::Deserialize<'de>>(
    deserializer: D,
) -> Result<T, D::Error> {
    let value: Option<T> = serde::Deserialize::deserialize(deserializer)?;
    Ok(value.unwrap_or_default())
}

/// An integer in any JSON notation: for JSON Schema, `2.0` is an integer, too.
#[derive(Debug, Clone, Copy)]
pub(crate) struct JsonInteger(pub(crate) i64);

impl<'de> serde::Deserialize<'de> for JsonInteger {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let number = serde_json::Number::deserialize(deserializer)?;
        let exact_integer = |number: f64| {
            // Below 2^53 a float represents every integer exactly.
            let fits = number.fract() == 0.0 && number.abs() < 9_007_199_254_740_992.0;
            #[expect(clippy::cast_possible_truncation, reason = "it fits")]
            fits.then_some(number as i64)
        };
        let integer = number.as_i64().or_else(|| number.as_f64().and_then(exact_integer));
        integer.map(Self).ok_or_else(|| {
            let message = format!("{number} is not a whole number");
            serde::de::Error::custom(InvalidValue::new(FieldErrorCode::InvalidType, message))
        })
    }
}

/// A free-form JSON object of at most 64 KiB as text and 32 levels.
#[derive(Debug, Clone, Default, PartialEq, serde::Serialize)]
#[serde(transparent)]
pub struct JsonObject(serde_json::Map<String, serde_json::Value>);

impl JsonObject {
    const MAX_BYTES: usize = 64 * 1024;
    const MAX_DEPTH: usize = 32;

    /// Returns the value of a key; none if there is none.
    pub fn get(&self, key: &str) -> Option<&serde_json::Value> {
        self.0.get(key)
    }
}

fn depth(value: &serde_json::Value) -> usize {
    match value {
        serde_json::Value::Array(items) => 1 + items.iter().map(depth).max().unwrap_or(0),
        serde_json::Value::Object(fields) => 1 + fields.values().map(depth).max().unwrap_or(0),
        _ => 0,
    }
}

impl<'de> serde::Deserialize<'de> for JsonObject {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let object = Self(serde_json::Map::deserialize(deserializer)?);
        let bytes = JsonSize::of(&object).bytes;
        if bytes > Self::MAX_BYTES {
            let message =
                format!("the object has {bytes} bytes as JSON; at most {} are allowed", Self::MAX_BYTES);
            return Err(serde::de::Error::custom(InvalidValue::new(FieldErrorCode::TooLarge, message)));
        }
        if object.0.values().map(depth).max().unwrap_or(0) >= Self::MAX_DEPTH {
            let message = format!("the object has more than {} levels", Self::MAX_DEPTH);
            return Err(serde::de::Error::custom(InvalidValue::new(FieldErrorCode::TooDeep, message)));
        }
        Ok(object)
    }
}

impl utoipa::PartialSchema for JsonObject {
    fn schema() -> utoipa::openapi::RefOr<utoipa::openapi::schema::Schema> {
        utoipa::openapi::ObjectBuilder::new()
            .description(Some("A free-form JSON object of at most 64 KiB as text and 32 levels."))
            .additional_properties(Some(utoipa::openapi::schema::AdditionalProperties::FreeForm(true)))
            .into()
    }
}

impl utoipa::ToSchema for JsonObject {}

#[cfg(test)]
#[expect(unreachable_pub, reason = "the macro declares a public type")]
mod tests {
    use super::*;

    json_list!(
        /// Up to three numbers.
        Numbers, i64, 3
    );

    #[test]
    fn a_list_has_a_limit() {
        assert_eq!(serde_json::from_str::<Numbers>("[1, 2, 3]").unwrap().len(), 3);
        let error = serde_json::from_str::<Numbers>("[1, 2, 3, 4]").unwrap_err().to_string();
        assert!(error.contains("has 4 items; at most 3 are allowed"), "{error}");
    }

    #[test]
    fn an_object_has_a_size_limit_and_a_depth_limit() {
        let large = format!(r#"{{"a": "{}"}}"#, "x".repeat(JsonObject::MAX_BYTES));
        assert!(serde_json::from_str::<JsonObject>(&large).unwrap_err().to_string().contains("bytes"));
        let deep = format!(r#"{{"a": {}1{}}}"#, "[".repeat(40), "]".repeat(40));
        assert!(serde_json::from_str::<JsonObject>(&deep).unwrap_err().to_string().contains("levels"));
    }
}
