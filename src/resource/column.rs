//! How the values of rows are stored in columns: the traits of sea-orm for the types of the layers below and of rows.

use crate::authz::{Scope, ScopeSet};
use crate::types::{
    Email, FieldErrorCode, Id, InvalidValue, JsonInteger, JsonObject, Label, LongText, Millis, Name, OrgPath,
    OrganizationStatus, ShortText, Timestamp, Url, UserStatus,
};

/// Returns the column text of a value: JSON with sorted keys, so that equal values have equal texts on every database.
pub(crate) fn to_json_text<T: serde::Serialize>(value: &T) -> String {
    serde_json::to_value(value).map_or_else(
        |_| "null".to_owned(),
        |mut value| {
            value.sort_all_objects();
            value.to_string()
        },
    )
}

/// Parses the column text of a value.
///
/// # Errors
/// The text is not JSON of this type.
pub(crate) fn from_json_text<T: serde::de::DeserializeOwned>(text: &str) -> Result<T, InvalidValue> {
    serde_json::from_str(text).map_err(|error| {
        InvalidValue::new(FieldErrorCode::InvalidFormat, format!("invalid JSON in a column: {error}"))
    })
}

/// Implements the traits of sea-orm for a type that a column stores as another one.
macro_rules! stored_as {
    ($type:ty, $stored:ty, $array:ident, $column:expr, $to_stored:expr, $from_stored:expr) => {
        impl From<$type> for sea_orm::Value {
            fn from(value: $type) -> Self {
                let to_stored: fn(&$type) -> $stored = $to_stored;
                to_stored(&value).into()
            }
        }

        impl sea_orm::TryGetable for $type {
            fn try_get_by<I: sea_orm::ColIdx>(
                row: &sea_orm::QueryResult,
                index: I,
            ) -> Result<Self, sea_orm::TryGetError> {
                let from_stored: fn($stored) -> Result<$type, $crate::types::InvalidValue> = $from_stored;
                from_stored(<$stored as sea_orm::TryGetable>::try_get_by(row, index)?).map_err(|error| {
                    sea_orm::TryGetError::DbErr(sea_orm::DbErr::TryIntoErr {
                        from: stringify!($stored),
                        into: stringify!($type),
                        source: std::sync::Arc::new(error),
                    })
                })
            }
        }

        impl sea_orm::sea_query::ValueType for $type {
            fn try_from(value: sea_orm::Value) -> Result<Self, sea_orm::sea_query::ValueTypeErr> {
                let from_stored: fn($stored) -> Result<$type, $crate::types::InvalidValue> = $from_stored;
                from_stored(<$stored as sea_orm::sea_query::ValueType>::try_from(value)?)
                    .map_err(|_| sea_orm::sea_query::ValueTypeErr)
            }

            fn type_name() -> String {
                stringify!($type).to_owned()
            }

            fn array_type() -> sea_orm::sea_query::ArrayType {
                sea_orm::sea_query::ArrayType::$array
            }

            fn column_type() -> sea_orm::sea_query::ColumnType {
                $column
            }
        }

        impl sea_orm::sea_query::Nullable for $type {
            fn null() -> sea_orm::Value {
                <$stored as sea_orm::sea_query::Nullable>::null()
            }
        }

        impl sea_orm::IntoActiveValue<$type> for $type {
            fn into_active_value(self) -> sea_orm::ActiveValue<$type> {
                sea_orm::ActiveValue::Set(self)
            }
        }
    };
}
pub(crate) use stored_as;

/// Stores types in text columns, in the form of their `Display` and `FromStr`.
macro_rules! text_column {
    ($($type:ty),+) => {
        $($crate::resource::column::stored_as!(
            $type,
            String,
            String,
            sea_orm::sea_query::ColumnType::Text,
            |value| value.to_string(),
            |text| text.parse()
        );)+
    };
}
pub(crate) use text_column;

/// Stores types in text columns, as JSON with sorted keys.
macro_rules! json_column {
    ($($type:ty),+) => {
        $($crate::resource::column::stored_as!(
            $type,
            String,
            String,
            sea_orm::sea_query::ColumnType::Text,
            $crate::resource::column::to_json_text,
            |text| $crate::resource::column::from_json_text(&text)
        );)+
    };
}
pub(crate) use json_column;

/// The length of an id in a column.
const ID_COLUMN: sea_orm::sea_query::ColumnType =
    sea_orm::sea_query::ColumnType::String(sea_orm::sea_query::StringLen::N(24));

stored_as!(Id, String, String, ID_COLUMN, |id| id.to_string(), |text| text.parse());
stored_as!(
    Timestamp,
    i64,
    BigInt,
    sea_orm::sea_query::ColumnType::BigInteger,
    |time| time.millis(),
    |millis| Ok(Timestamp::from_millis(millis))
);
stored_as!(
    Millis,
    i64,
    BigInt,
    sea_orm::sea_query::ColumnType::BigInteger,
    |duration| duration.get(),
    |millis| JsonInteger(millis).try_into()
);
text_column!(
    Email,
    Label,
    LongText,
    Name,
    OrgPath,
    OrganizationStatus,
    Scope,
    ScopeSet,
    ShortText,
    Url,
    UserStatus
);
json_column!(JsonObject);

impl sea_orm::TryFromU64 for Id {
    fn try_from_u64(_: u64) -> Result<Self, sea_orm::DbErr> {
        Err(sea_orm::DbErr::ConvertFromU64("Id"))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn equal_objects_have_equal_columns() {
        let one: JsonObject = serde_json::from_str(r#"{"b": 1, "a": {"d": 2, "c": 3}}"#).unwrap();
        let two: JsonObject = serde_json::from_str(r#"{"a": {"c": 3, "d": 2}, "b": 1}"#).unwrap();
        assert_eq!(to_json_text(&one), to_json_text(&two));
        assert_eq!(to_json_text(&one), r#"{"a":{"c":3,"d":2},"b":1}"#);
    }
}
