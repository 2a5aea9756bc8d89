//! Finds the attribute that violates its declaration, after Cedar has rejected the properties or context of a question.
//!
//! Cedar's own error often does not name the attribute. The search only explains the error; it decides nothing.

use super::schema_type::SchemaType;
use cedar_policy::{Context, RestrictedExpression};
use serde_json::{Map, Value};
use std::fmt;

/// An attribute, or a field of the context, that violates its declaration.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct InvalidAttribute {
    /// `invalid_attribute`, or `missing_attribute` if a required one is absent.
    pub code: &'static str,
    /// The path of the attribute, such as `address.city`.
    pub path: String,
    /// The expected type and the type that was found. Contains no value, since logs may mask it.
    pub message: String,
}

impl fmt::Display for InvalidAttribute {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {}", self.path, self.message)
    }
}

/// Why a request cannot be evaluated.
#[derive(Debug, Clone)]
pub(super) struct EvaluationError {
    pub(super) message: String,
    /// The invalid attribute, if that is the reason.
    pub(super) attribute: Option<InvalidAttribute>,
}

impl From<String> for EvaluationError {
    fn from(message: String) -> Self {
        Self { message, attribute: None }
    }
}

impl From<&str> for EvaluationError {
    fn from(message: &str) -> Self {
        message.to_owned().into()
    }
}

impl From<InvalidAttribute> for EvaluationError {
    fn from(attribute: InvalidAttribute) -> Self {
        Self { message: attribute.to_string(), attribute: Some(attribute) }
    }
}

impl SchemaType {
    /// The first of these fields that violates its declaration.
    pub(super) fn first_invalid(&self, fields: &Map<String, Value>) -> Option<InvalidAttribute> {
        let Self::Record(declared) = self else { return None };
        fields.iter().find_map(|(name, value)| declared.get(name)?.0.find_invalid(name, value))
    }

    /// The first required field that is missing in `fields`.
    pub(super) fn first_missing(&self, fields: &Map<String, Value>) -> Option<InvalidAttribute> {
        let Self::Record(declared) = self else { return None };
        let required = declared.iter().filter(|(_, (_, required))| *required).map(|(name, _)| name);
        let mut absent = required.filter(|name| !fields.contains_key(name.as_str()));
        absent.next().map(|name| missing_attribute(name.clone()))
    }

    /// The first violation in a value; `path` is its path.
    fn find_invalid(&self, path: &str, value: &Value) -> Option<InvalidAttribute> {
        match (self, value) {
            (Self::Record(_), Value::Object(fields)) => {
                let invalid = self.first_invalid(fields).or_else(|| self.first_missing(fields))?;
                Some(InvalidAttribute { path: format!("{path}.{}", invalid.path), ..invalid })
            }
            (Self::Set(element), Value::Array(items)) => {
                let mut items = items.iter().enumerate();
                items.find_map(|(index, item)| element.find_invalid(&format!("{path}.{index}"), item))
            }
            _ if self.accepts(value) => None,
            _ => Some(invalid_attribute(path, &self.expected(), json_type(value))),
        }
    }

    /// Whether a value conforms to this type. False for records and sets, whose elements are checked one by one.
    fn accepts(&self, value: &Value) -> bool {
        match self {
            Self::Record(_) | Self::Set(_) => false,
            Self::Long => value.is_i64(),
            Self::Boolean => value.is_boolean(),
            Self::String => value.is_string(),
            Self::Entity(kind) => {
                let entity = value.get("__entity").unwrap_or(value);
                let text = |name: &str| entity.get(name).and_then(Value::as_str);
                text("id").is_some() && text("type") == Some(kind)
            }
            Self::Enum(kind, ids) => {
                let entity = value.get("__entity").unwrap_or(value);
                let text = |name: &str| entity.get(name).and_then(Value::as_str);
                text("type") == Some(kind) && text("id").is_some_and(|id| ids.contains(id))
            }
            Self::Extension(kind) => {
                let call = value.get("__extn").unwrap_or(value);
                if call.get("args").is_some() {
                    return true;
                }
                let argument = if call.is_string() { Some(call) } else { call.get("arg") };
                argument.and_then(Value::as_str).is_some_and(|text| is_extension_value(kind, text))
            }
            Self::Other => !value.is_null(),
        }
    }

    /// A description of the valid values.
    fn expected(&self) -> String {
        match self {
            Self::Record(_) => "an object".to_owned(),
            Self::Set(_) => "an array".to_owned(),
            Self::Long => format!("an integer from {} to {}", i64::MIN, i64::MAX),
            Self::Boolean => "a boolean".to_owned(),
            Self::String => "a string".to_owned(),
            Self::Entity(kind) => format!("an entity reference such as {{\"type\": {kind:?}, \"id\": …}}"),
            Self::Enum(_, ids) => {
                format!("one of {}", ids.iter().map(|id| format!("{id:?}")).collect::<Vec<_>>().join(", "))
            }
            Self::Extension(kind) => match kind.as_str() {
                "datetime" => "a datetime such as \"2026-01-31T12:00:00Z\"".to_owned(),
                "duration" => "a duration such as \"1d12h\"".to_owned(),
                "decimal" => {
                    "a decimal string such as \"12.5\", with 1 to 4 digits after the point".to_owned()
                }
                "ipaddr" => "an IP address or range such as \"192.0.2.0/24\"".to_owned(),
                other => format!("a value of the type {other}"),
            },
            Self::Other => "a value of the declared type".to_owned(),
        }
    }
}

fn invalid_attribute(path: &str, expected: &str, found: &str) -> InvalidAttribute {
    let message = format!("expected {expected}, got {found}");
    InvalidAttribute { code: "invalid_attribute", path: path.to_owned(), message }
}

fn missing_attribute(path: String) -> InvalidAttribute {
    let message = "required attribute is neither in the stored data nor in the question".to_owned();
    InvalidAttribute { code: "missing_attribute", path, message }
}

/// A description of the JSON type of a value.
fn json_type(value: &Value) -> &'static str {
    match value {
        Value::Null => "null",
        Value::Bool(_) => "a boolean",
        Value::Number(number) if number.is_i64() => "an integer",
        Value::Number(number) if number.is_u64() => "an integer that is out of range",
        Value::Number(_) => "a number with a fraction or an exponent",
        Value::String(_) => "a string",
        Value::Array(_) => "an array",
        Value::Object(_) => "an object",
    }
}

/// Whether a string is a valid value of this extension type. Unknown types are accepted.
fn is_extension_value(kind: &str, text: &str) -> bool {
    let value = match kind {
        "datetime" => RestrictedExpression::new_datetime(text),
        "duration" => RestrictedExpression::new_duration(text),
        "decimal" => RestrictedExpression::new_decimal(text),
        "ipaddr" => RestrictedExpression::new_ip(text),
        _ => return true,
    };
    Context::from_pairs([("value".to_owned(), value)]).is_ok()
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn schema_type() -> SchemaType {
        let record = |fields: Vec<(&str, SchemaType, bool)>| {
            let field =
                |(name, kind, required): (&str, SchemaType, bool)| (name.to_owned(), (kind, required));
            SchemaType::Record(fields.into_iter().map(field).collect())
        };
        record(vec![
            ("amount", SchemaType::Long, true),
            ("name", SchemaType::String, false),
            ("open", SchemaType::Boolean, false),
            ("until", SchemaType::Extension("datetime".into()), false),
            ("price", SchemaType::Extension("decimal".into()), false),
            ("owner", SchemaType::Entity("Docs::Person".into()), false),
            ("tags", SchemaType::Set(Box::new(SchemaType::String)), false),
            ("address", record(vec![("city", SchemaType::String, true)]), false),
        ])
    }

    fn first_problem(value: &Value) -> Option<InvalidAttribute> {
        let fields = value.as_object().unwrap();
        schema_type().first_invalid(fields).or_else(|| schema_type().first_missing(fields))
    }

    #[test]
    fn the_invalid_attribute_is_named() {
        for (value, code, path) in [
            (json!({ "amount": 1.5 }), "invalid_attribute", "amount"),
            (json!({ "amount": 1e3 }), "invalid_attribute", "amount"),
            (json!({ "amount": u64::MAX }), "invalid_attribute", "amount"),
            (json!({ "amount": null }), "invalid_attribute", "amount"),
            (json!({ "amount": 1, "name": null }), "invalid_attribute", "name"),
            (json!({ "amount": 1, "open": "yes" }), "invalid_attribute", "open"),
            (json!({ "amount": 1, "until": "2026-02-30T00:00:00Z" }), "invalid_attribute", "until"),
            (json!({ "amount": 1, "until": 1_700_000_000 }), "invalid_attribute", "until"),
            (json!({ "amount": 1, "price": 12.5 }), "invalid_attribute", "price"),
            (json!({ "amount": 1, "owner": "ann" }), "invalid_attribute", "owner"),
            (json!({ "amount": 1, "owner": { "type": "User", "id": "ann" } }), "invalid_attribute", "owner"),
            (json!({ "amount": 1, "tags": ["a", 1] }), "invalid_attribute", "tags.1"),
            (json!({ "amount": 1, "tags": "a" }), "invalid_attribute", "tags"),
            (json!({ "amount": 1, "address": { "city": 5 } }), "invalid_attribute", "address.city"),
            (json!({ "amount": 1, "address": {} }), "missing_attribute", "address.city"),
            (json!({ "name": "x" }), "missing_attribute", "amount"),
        ] {
            let invalid = first_problem(&value).unwrap();
            assert_eq!((invalid.code, invalid.path.as_str()), (code, path), "{value}");
        }
    }

    #[test]
    fn valid_attributes_are_accepted() {
        let person = json!({ "type": "Docs::Person", "id": "ann" });
        for value in [
            json!({ "amount": i64::MIN, "name": "", "open": false, "tags": [], "address": { "city": "x" } }),
            json!({ "amount": 1, "until": "2026-01-31T12:00:00Z", "price": "12.5", "owner": person }),
            json!({ "amount": 1, "until": { "fn": "datetime", "arg": "2026-01-31" }, "owner": { "__entity": person } }),
            json!({ "amount": 1, "price": { "__extn": { "fn": "decimal", "arg": "1.0" } } }),
        ] {
            assert_eq!(first_problem(&value), None, "{value}");
        }
    }
}
