//! Values that are JSON objects or arrays. In a column they are JSON text with sorted keys, the same in every database,
//! so that two of them are equal exactly when their texts are.

use super::InvalidValue;
use serde::Deserializer;
use serde::de::{MapAccess, Visitor};
use serde_json::value::RawValue;

/// The text of a value in a column.
pub(crate) fn to_column<T: serde::Serialize>(value: &T) -> String {
    serde_json::to_value(value).map_or_else(
        |_| "null".to_owned(),
        |mut value| {
            value.sort_all_objects();
            value.to_string()
        },
    )
}

/// A value as the text that it is in a line of JSON; `null` where it has none.
pub(crate) fn to_raw_json(value: &impl serde::Serialize) -> Box<RawValue> {
    serde_json::value::to_raw_value(value).unwrap_or_else(|_| RawValue::NULL.to_owned())
}

/// A value from the text of its column.
pub(crate) fn from_column<T: serde::de::DeserializeOwned>(text: &str) -> Result<T, InvalidValue> {
    serde_json::from_str(text)
        .map_err(|error| InvalidValue(format!("the column holds no such value: {error}")))
}

/// The size of a value: in bytes as JSON, and an estimate of the memory that it takes when it is parsed.
#[derive(Debug, Clone, Copy, Default)]
pub(crate) struct JsonSize {
    /// The length of its JSON.
    pub(crate) bytes: usize,
    /// An upper bound of the number of values in it.
    values: usize,
}

impl JsonSize {
    /// The memory of one parsed value: `serde_json::Value` has 72 bytes, and its collections have spare capacity.
    const MEMORY_PER_VALUE: usize = 96;

    /// The size of a value that serde serializes.
    pub(crate) fn of(value: &impl serde::Serialize) -> Self {
        let mut size = Self::default();
        // Nothing is written, so nothing fails but the value's own serialization; what it wrote until then counts.
        let _ = serde_json::to_writer(&mut size, value);
        size
    }

    /// The size of a JSON text.
    pub(crate) fn of_text(text: &[u8]) -> Self {
        // Each value but the first of an array or object follows a comma. Those in strings are counted, too.
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

/// Makes a type that serde knows a value of a text column.
macro_rules! json_value {
    ($name:ident) => {
        impl From<$name> for sea_orm::Value {
            fn from(value: $name) -> Self {
                $crate::types::json::to_column(&value).into()
            }
        }

        impl sea_orm::TryGetable for $name {
            fn try_get_by<I: sea_orm::ColIdx>(
                row: &sea_orm::QueryResult,
                index: I,
            ) -> Result<Self, sea_orm::TryGetError> {
                let text = String::try_get_by(row, index)?;
                $crate::types::json::from_column(&text).map_err(|error| {
                    sea_orm::TryGetError::DbErr(sea_orm::DbErr::TryIntoErr {
                        from: "String",
                        into: stringify!($name),
                        source: std::sync::Arc::new(error),
                    })
                })
            }
        }

        impl sea_orm::sea_query::ValueType for $name {
            fn try_from(value: sea_orm::Value) -> Result<Self, sea_orm::sea_query::ValueTypeErr> {
                let text = <String as sea_orm::sea_query::ValueType>::try_from(value)?;
                $crate::types::json::from_column(&text).map_err(|_| sea_orm::sea_query::ValueTypeErr)
            }

            fn type_name() -> String {
                stringify!($name).to_owned()
            }

            fn array_type() -> sea_orm::sea_query::ArrayType {
                sea_orm::sea_query::ArrayType::String
            }

            fn column_type() -> sea_orm::sea_query::ColumnType {
                sea_orm::sea_query::ColumnType::Text
            }
        }

        impl sea_orm::sea_query::Nullable for $name {
            fn null() -> sea_orm::Value {
                sea_orm::Value::String(None)
            }
        }

        impl sea_orm::IntoActiveValue<$name> for $name {
            fn into_active_value(self) -> sea_orm::ActiveValue<$name> {
                sea_orm::ActiveValue::Set(self)
            }
        }
    };
}
pub(crate) use json_value;

/// A list of at most so many items, as a type of its own and a value of a text column.
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
                    return Err($crate::types::InvalidValue(format!("the list has {have} items; it may have {max}")));
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

        $crate::types::json_value!($name);

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

/// Makes a type, of which `#[serde(remote = "Self")]` keeps serde's own reading aside, one that is read from JSON objects
/// only: serde would also take a list of the values in the order of the fields.
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

/// Reads the fields of an object, and no list.
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

/// What is there, and not null: for a field that may be left out.
pub(crate) fn non_null<'de, D: Deserializer<'de>, T: serde::Deserialize<'de>>(
    deserializer: D,
) -> Result<Option<T>, D::Error> {
    T::deserialize(deserializer).map(Some)
}

/// A member that may be left out, for which `null` means the same: the default of its type.
pub(crate) fn null_as_default<'de, D: Deserializer<'de>, T: Default + serde::Deserialize<'de>>(
    deserializer: D,
) -> Result<T, D::Error> {
    let value: Option<T> = serde::Deserialize::deserialize(deserializer)?;
    Ok(value.unwrap_or_default())
}

/// A whole number, however it is written: to JSON Schema `2.0` is an integer, too.
#[derive(Debug, Clone, Copy)]
pub(crate) struct JsonInteger(pub(crate) i64);

impl<'de> serde::Deserialize<'de> for JsonInteger {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let number = serde_json::Number::deserialize(deserializer)?;
        let exact_integer = |number: f64| {
            // A float of this size is exact.
            let fits = number.fract() == 0.0 && number.abs() < 9_007_199_254_740_992.0;
            #[expect(clippy::cast_possible_truncation, reason = "it fits")]
            fits.then_some(number as i64)
        };
        let integer = number.as_i64().or_else(|| number.as_f64().and_then(exact_integer));
        integer
            .map(Self)
            .ok_or_else(|| serde::de::Error::custom(format!("{number} is not a whole number here")))
    }
}

/// A free JSON object, at most 64 KiB as text and 32 levels deep.
#[derive(Debug, Clone, Default, PartialEq, serde::Serialize)]
#[serde(transparent)]
pub struct JsonObject(serde_json::Map<String, serde_json::Value>);

impl JsonObject {
    const MAX_BYTES: usize = 64 * 1024;
    const MAX_DEPTH: usize = 32;
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
        let bytes = to_column(&object).len();
        if bytes > Self::MAX_BYTES {
            return Err(serde::de::Error::custom(format!(
                "the object has {bytes} bytes as JSON; it may have {}",
                Self::MAX_BYTES
            )));
        }
        if object.0.values().map(depth).max().unwrap_or(0) >= Self::MAX_DEPTH {
            return Err(serde::de::Error::custom(format!(
                "the object is deeper than {} levels",
                Self::MAX_DEPTH
            )));
        }
        Ok(object)
    }
}

json_value!(JsonObject);

impl utoipa::PartialSchema for JsonObject {
    fn schema() -> utoipa::openapi::RefOr<utoipa::openapi::schema::Schema> {
        utoipa::openapi::ObjectBuilder::new()
            .description(Some("A free JSON object, at most 64 KiB as text and 32 levels deep."))
            .additional_properties(Some(utoipa::openapi::schema::AdditionalProperties::FreeForm(true)))
            .into()
    }
}

impl utoipa::ToSchema for JsonObject {}

#[cfg(test)]
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
        assert!(error.contains("has 4 items; it may have 3"), "{error}");
    }

    #[test]
    fn equal_objects_have_equal_columns() {
        let one: JsonObject = serde_json::from_str(r#"{"b": 1, "a": {"d": 2, "c": 3}}"#).unwrap();
        let two: JsonObject = serde_json::from_str(r#"{"a": {"c": 3, "d": 2}, "b": 1}"#).unwrap();
        assert_eq!(to_column(&one), to_column(&two));
        assert_eq!(to_column(&one), r#"{"a":{"c":3,"d":2},"b":1}"#);
    }

    #[test]
    fn an_object_has_a_size_limit_and_a_depth_limit() {
        let large = format!(r#"{{"a": "{}"}}"#, "x".repeat(JsonObject::MAX_BYTES));
        assert!(serde_json::from_str::<JsonObject>(&large).unwrap_err().to_string().contains("bytes"));
        let deep = format!(r#"{{"a": {}1{}}}"#, "[".repeat(40), "]".repeat(40));
        assert!(serde_json::from_str::<JsonObject>(&deep).unwrap_err().to_string().contains("deeper"));
    }
}
