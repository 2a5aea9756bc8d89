//! What the schema declares of the attributes of an entity type or of the context of an action, so that what a caller
//! sends can be projected onto it: fields that are not declared are left out.

use serde_json::{Map, Value};
use std::collections::{BTreeMap, BTreeSet};

/// A type of the schema, as far as fields are concerned.
#[derive(Debug, Clone, Default)]
pub(super) enum Shape {
    /// A record with these fields, and whether each is required.
    Record(BTreeMap<String, (Shape, bool)>),
    /// A set of such.
    Set(Box<Shape>),
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

impl Shape {
    /// From the JSON form of a schema with resolved types; `namespace` is where `form` stands. None where it is not
    /// understood.
    pub(super) fn read(schema: &Value, namespace: &str, form: &Value) -> Option<Self> {
        if let Some(fields) = form.get("attributes").and_then(Value::as_object) {
            let fields = fields.iter().map(|(name, form)| {
                let required = form.get("required").and_then(Value::as_bool).unwrap_or(true);
                Some((name.clone(), (Self::read(schema, namespace, form)?, required)))
            });
            return Some(Self::Record(fields.collect::<Option<_>>()?));
        }
        if let Some(element) = form.get("element") {
            return Some(Self::Set(Box::new(Self::read(schema, namespace, element)?)));
        }
        let kind = form.get("type").and_then(Value::as_str)?;
        let name = form.get("name").and_then(Value::as_str).unwrap_or(kind);
        // A common type may stand for another one, but not for itself: the schema has been checked.
        let (space, base) = name.rsplit_once("::").unwrap_or((namespace, name));
        let common = [space, namespace, ""]
            .into_iter()
            .find_map(|space| schema.get(space)?.get("commonTypes")?.get(base).map(|form| (space, form)));
        match (kind, common) {
            ("Record", _) => Some(Self::Record(BTreeMap::new())),
            ("Entity", _) => Some(Self::Entity(name.to_owned())),
            (_, Some((space, form))) => Self::read(schema, space, form),
            (_, None) => Some(Self::built_in(base)),
        }
    }

    /// A type that Cedar has of itself.
    fn built_in(name: &str) -> Self {
        match name {
            "String" => Self::String,
            "Long" => Self::Long,
            "Bool" | "Boolean" => Self::Boolean,
            "datetime" | "duration" | "decimal" | "ipaddr" => Self::Extension(name.to_owned()),
            _ => Self::Other,
        }
    }

    /// The names of the fields.
    pub(super) fn names(&self) -> BTreeSet<String> {
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
            .filter_map(|(name, value)| Some((name.clone(), declared.get(name)?.0.projected(value))))
            .collect()
    }

    fn projected(&self, value: &Value) -> Value {
        match (self, value) {
            (Self::Record(_), Value::Object(fields)) => Value::Object(self.project(fields)),
            (Self::Set(element), Value::Array(items)) => {
                Value::Array(items.iter().map(|item| element.projected(item)).collect())
            }
            (_, value) => value.clone(),
        }
    }
}
