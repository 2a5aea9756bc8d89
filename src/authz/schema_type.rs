//! The declared types of attributes and context fields, to remove undeclared fields from client input.

use serde_json::{Map, Value, json};
use std::collections::{BTreeMap, BTreeSet};

/// A type that the schema declares.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(super) enum SchemaType {
    /// A record: the type of each field, and whether it is required.
    Record(BTreeMap<String, (SchemaType, bool)>),
    /// A set with elements of this type.
    Set(Box<SchemaType>),
    /// An integer.
    Long,
    /// A boolean.
    Boolean,
    /// A string.
    String,
    /// An entity of this type.
    Entity(String),
    /// An entity of this enumerated type, which has these ids.
    Enum(String, BTreeSet<String>),
    /// A value of this extension type.
    Extension(String),
    /// A type that this analysis does not support.
    #[default]
    Other,
}

impl SchemaType {
    /// Parses a type definition of a schema in JSON format with resolved types. `namespace` is that of the definition. None if
    /// the definition is not supported.
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
        // A common type may refer to other common types. The recursion ends, since a valid schema has no cycles.
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
            ("Entity", _) => Some(Self::entity(schema, name)),
            (_, Some((type_namespace, definition))) => Self::parse(schema, type_namespace, definition),
            (_, None) => Some(Self::primitive(base)),
        }
    }

    /// An entity type, by its full name.
    fn entity(schema: &Value, name: &str) -> Self {
        let (namespace, base) = name.rsplit_once("::").unwrap_or(("", name));
        let declared =
            schema.get(namespace).and_then(|space| space.get("entityTypes")?.get(base)?.get("enum"));
        match declared.and_then(Value::as_array) {
            Some(ids) => {
                let ids = ids.iter().filter_map(Value::as_str).map(str::to_owned);
                Self::Enum(name.to_owned(), ids.collect())
            }
            None => Self::Entity(name.to_owned()),
        }
    }

    /// A built-in type of Cedar.
    fn primitive(name: &str) -> Self {
        match name {
            "String" => Self::String,
            "Long" => Self::Long,
            "Bool" | "Boolean" => Self::Boolean,
            "datetime" | "duration" | "decimal" | "ipaddr" => Self::Extension(name.to_owned()),
            _ => Self::Other,
        }
    }

    /// The type as a schema writes it.
    pub(super) fn name(&self) -> String {
        match self {
            Self::Record(fields) => {
                let fields = fields.iter().map(|(name, (field, required))| {
                    format!("{name}{}: {}", if *required { "" } else { "?" }, field.name())
                });
                format!("{{ {} }}", fields.collect::<Vec<_>>().join(", "))
            }
            Self::Set(element) => format!("Set<{}>", element.name()),
            Self::Long => "Long".to_owned(),
            Self::Boolean => "Bool".to_owned(),
            Self::String => "String".to_owned(),
            Self::Entity(kind) | Self::Enum(kind, _) | Self::Extension(kind) => kind.clone(),
            Self::Other => "another type".to_owned(),
        }
    }

    /// The names of the fields of a record; empty for other types.
    pub(super) fn field_names(&self) -> BTreeSet<String> {
        match self {
            Self::Record(fields) => fields.keys().cloned().collect(),
            _ => BTreeSet::new(),
        }
    }

    /// The type of a field of a record; none if it has no such field, or is no record.
    pub(super) fn field(&self, name: &str) -> Option<&SchemaType> {
        match self {
            Self::Record(fields) => fields.get(name).map(|(field, _)| field),
            _ => None,
        }
    }

    /// The required fields of a record, by name; none for other types.
    pub(super) fn required_fields(&self) -> impl Iterator<Item = (&str, &SchemaType)> {
        let fields = if let Self::Record(fields) = self { Some(fields) } else { None };
        let fields = fields.into_iter().flatten();
        fields.filter(|(_, (_, required))| *required).map(|(name, (field, _))| (name.as_str(), field))
    }

    /// Whether it is a record with a required field.
    pub(super) fn has_required(&self) -> bool {
        self.required_fields().next().is_some()
    }

    /// The declared ones of these fields, recursively. The id of an entity of an enumerated type becomes the entity.
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
            (Self::Enum(kind, ids), Value::String(id)) if ids.contains(id) => {
                json!({ "__entity": { "type": kind, "id": id } })
            }
            (_, value) => value.clone(),
        }
    }
}
