//! What the schema declares of the attributes of an entity type or of the context of an action, so that what a caller
//! sends can be projected onto it: fields that are not declared are left out.

use serde_json::{Map, Value};
use std::collections::{BTreeMap, BTreeSet};

/// A type of the schema, as far as fields are concerned.
#[derive(Debug, Clone, Default)]
pub(super) enum SchemaType {
    /// A record with these fields, and whether each is required.
    Record(BTreeMap<String, (SchemaType, bool)>),
    /// A set of such.
    Set(Box<SchemaType>),
    /// A whole number.
    Long,
    /// True or false.
    Boolean,
    /// A string.
    String,
    /// An entity of this type.
    Entity(String),
    /// A value of this extension type.
    Extension(String),
    /// A value of a type that is not understood.
    #[default]
    Other,
}

impl SchemaType {
    /// From the JSON form of a schema with resolved types; `namespace` is where `form` stands. None where it is not
    /// understood.
    pub(super) fn parse(schema: &Value, namespace: &str, definition: &Value) -> Option<Self> {
        if let Some(fields) = definition.get("attributes").and_then(Value::as_object) {
            let fields = fields.iter().map(|(name, definition)| {
                let required = definition.get("required").and_then(Value::as_bool).unwrap_or(true);
                Some((name.clone(), (Self::parse(schema, namespace, definition)?, required)))
            });
            return Some(Self::Record(fields.collect::<Option<_>>()?));
        }
        if let Some(element) = definition.get("element") {
            return Some(Self::Set(Box::new(Self::parse(schema, namespace, element)?)));
        }
        let kind = definition.get("type").and_then(Value::as_str)?;
        let name = definition.get("name").and_then(Value::as_str).unwrap_or(kind);
        // A common type may stand for another one, but not for itself: the schema has been checked.
        let (type_namespace, base) = name.rsplit_once("::").unwrap_or((namespace, name));
        let common = [type_namespace, namespace, ""].into_iter().find_map(|type_namespace| {
            schema
                .get(type_namespace)?
                .get("commonTypes")?
                .get(base)
                .map(|definition| (type_namespace, definition))
        });
        match (kind, common) {
            ("Record", _) => Some(Self::Record(BTreeMap::new())),
            ("Entity", _) => Some(Self::Entity(name.to_owned())),
            (_, Some((type_namespace, definition))) => Self::parse(schema, type_namespace, definition),
            (_, None) => Some(Self::primitive(base)),
        }
    }

    /// A type that Cedar has of itself.
    fn primitive(name: &str) -> Self {
        match name {
            "String" => Self::String,
            "Long" => Self::Long,
            "Bool" | "Boolean" => Self::Boolean,
            "datetime" | "duration" | "decimal" | "ipaddr" => Self::Extension(name.to_owned()),
            _ => Self::Other,
        }
    }

    /// The names of the fields.
    pub(super) fn field_names(&self) -> BTreeSet<String> {
        match self {
            Self::Record(fields) => fields.keys().cloned().collect(),
            _ => BTreeSet::new(),
        }
    }

    /// Whether a record without fields would lack one.
    pub(super) fn has_required(&self) -> bool {
        matches!(self, Self::Record(fields) if fields.values().any(|(_, required)| *required))
    }

    /// What of these fields is declared.
    pub(super) fn project(&self, fields: &Map<String, Value>) -> Map<String, Value> {
        let Self::Record(declared) = self else { return Map::new() };
        fields
            .iter()
            .filter_map(|(name, value)| Some((name.clone(), declared.get(name)?.0.project_value(value))))
            .collect()
    }

    fn project_value(&self, value: &Value) -> Value {
        match (self, value) {
            (Self::Record(_), Value::Object(fields)) => Value::Object(self.project(fields)),
            (Self::Set(element), Value::Array(items)) => {
                Value::Array(items.iter().map(|item| element.project_value(item)).collect())
            }
            (_, value) => value.clone(),
        }
    }
}
