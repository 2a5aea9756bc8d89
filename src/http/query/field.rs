//! The fields by which a list is filtered and sorted, derived from the schema of its resource.

use crate::resource::Resource;
use crate::store::{ElementPath, Field, Leaf, SortKey, SortOrder};
use crate::types::{Id, NO_NUL_PATTERN, OrgPath};
use serde_json::{Map, Value};
use utoipa::Number;
use utoipa::openapi::schema::{ArrayItems, Object, Schema, SchemaType, Type};
use utoipa::openapi::{KnownFormat, RefOr, SchemaFormat};

/// The maximum number of characters of a text in a filter.
pub const MAX_FILTER: usize = 2000;
/// The maximum number of nested names in a parameter such as `meta.a.b`.
const MAX_KEYS: usize = 8;
/// The maximum number of characters of a nested name.
const MAX_KEY: usize = 100;

/// The values that a field has.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum ValueKind {
    /// Free text.
    Text {
        /// The minimum number of characters.
        min: usize,
        /// The maximum number of characters.
        max: usize,
    },
    /// An id.
    Id,
    /// The path of an organization.
    Path,
    /// An email address.
    Email,
    /// One of these texts.
    Enum(Vec<String>),
    /// A time.
    Time,
    /// An integer.
    Integer {
        /// The smallest value.
        min: i64,
        /// The largest value.
        max: i64,
    },
    /// A truth value.
    Boolean,
    /// An object, or an array of objects: compared as a whole.
    Json,
    /// A value in a free object: a text, number or truth value.
    Any,
}

impl ValueKind {
    /// Returns the kind of values with this schema, which has no references.
    fn of(schema: &Object) -> Self {
        match value_type(schema) {
            Type::String => Self::of_string(schema),
            Type::Boolean => Self::Boolean,
            Type::Integer => Self::Integer {
                min: as_i64(schema.minimum.as_ref()).unwrap_or(i64::MIN),
                max: as_i64(schema.maximum.as_ref()).unwrap_or(i64::MAX),
            },
            Type::Object | Type::Array | Type::Number | Type::Null => Self::Json,
        }
    }

    fn of_string(schema: &Object) -> Self {
        if let Some(values) = &schema.enum_values {
            return Self::Enum(values.iter().filter_map(|value| Some(value.as_str()?.to_owned())).collect());
        }
        match (&schema.format, schema.pattern.as_deref()) {
            (Some(SchemaFormat::KnownFormat(KnownFormat::DateTime)), _) => Self::Time,
            (Some(SchemaFormat::KnownFormat(KnownFormat::Email)), _) => Self::Email,
            (_, Some(Id::PATTERN)) => Self::Id,
            (_, Some(OrgPath::PATTERN)) => Self::Path,
            _ => Self::Text {
                min: schema.min_length.unwrap_or(0),
                max: schema.max_length.map_or(MAX_FILTER, |max| max.min(MAX_FILTER)),
            },
        }
    }

    /// Returns whether a text is searched in values of this kind (`~` and `^`).
    pub const fn is_text(&self) -> bool {
        matches!(self, Self::Text { .. } | Self::Email | Self::Path | Self::Any)
    }

    /// Returns whether values of this kind have an order (`>`, `>=`, `<`, `<=`).
    pub const fn is_ordered(&self) -> bool {
        matches!(self, Self::Text { .. } | Self::Time | Self::Integer { .. } | Self::Any)
    }
}

/// A field by which a list is filtered, and perhaps sorted.
#[derive(Debug, Clone)]
pub struct QueryField {
    /// The name of the parameter.
    pub name: String,
    /// Where the values are.
    pub field: Field,
    /// What the values are.
    pub kind: ValueKind,
    /// What the parameter does, for the OpenAPI document.
    pub description: &'static str,
    /// Whether the list can be sorted by it.
    pub is_sortable: bool,
    /// Whether its values are short enough for a cursor.
    pub is_cursor_key: bool,
    /// For a column with free objects: whether it is an array of them.
    pub free_objects: Option<bool>,
}

impl QueryField {
    /// Creates a field that is a column, whose values have this schema without references.
    pub fn column(name: &str, column: &str, schema: RefOr<Schema>, description: &'static str) -> Self {
        let (kind, max) = match &schema {
            RefOr::T(Schema::Object(schema)) => (ValueKind::of(schema), schema.max_length),
            _ => (ValueKind::Json, None),
        };
        let is_short = !matches!(kind, ValueKind::Text { .. }) || max.is_some_and(|max| max <= MAX_FILTER);
        let is_sortable = kind != ValueKind::Json;
        Self {
            name: name.to_owned(),
            field: Field::Column(column.to_owned()),
            kind,
            description,
            is_sortable,
            is_cursor_key: is_sortable && is_short,
            free_objects: None,
        }
    }

    /// Returns the name of the column; none if the field is within a column.
    pub fn column_name(&self) -> Option<&str> {
        match &self.field {
            Field::Column(name) => Some(name),
            Field::Property { .. } | Field::Elements(_) => None,
        }
    }

    /// Returns the key of the order by this field; none if it is within elements, so that a resource can have several values.
    pub fn sort_key(&self, order: SortOrder) -> Option<SortKey> {
        let (column, property) = match &self.field {
            Field::Column(column) => (column, None),
            Field::Property { column, key } => (column, Some(key.clone())),
            Field::Elements(_) => return None,
        };
        Some(SortKey { column: column.clone(), property, order })
    }

    /// Returns the value of the field in the JSON of a resource; null if it has none.
    pub fn value_in<'a>(&self, resource: &'a Map<String, Value>) -> &'a Value {
        let mut names = self.name.split('.');
        let top = names.next().and_then(|name| resource.get(name));
        names.fold(top, |value, name| value?.get(name)).unwrap_or(&Value::Null)
    }

    /// Creates a field within a JSON column, by which a list is not sorted.
    fn nested(name: String, field: Field, kind: ValueKind) -> Self {
        Self {
            name,
            field,
            kind,
            description: "",
            is_sortable: false,
            is_cursor_key: false,
            free_objects: None,
        }
    }
}

/// Returns the type of a schema's non-null values.
fn value_type(schema: &Object) -> Type {
    match &schema.schema_type {
        SchemaType::Type(kind) => kind.clone(),
        SchemaType::Array(kinds) => {
            kinds.iter().find(|kind| **kind != Type::Null).cloned().unwrap_or(Type::String)
        }
        SchemaType::AnyValue => Type::Object,
    }
}

fn as_i64(number: Option<&Number>) -> Option<i64> {
    match number? {
        Number::Int(number) => i64::try_from(*number).ok(),
        Number::UInt(number) => i64::try_from(*number).ok(),
        Number::Float(_) => None,
    }
}

/// Returns the schema of a nullable field without null.
fn non_null(schema: RefOr<Schema>) -> RefOr<Schema> {
    let is_null = |item: &RefOr<Schema>| {
        matches!(item, RefOr::T(Schema::Object(Object { schema_type: SchemaType::Type(Type::Null), .. })))
    };
    match schema {
        RefOr::T(Schema::OneOf(choice)) => {
            choice.items.into_iter().find(|item| !is_null(item)).unwrap_or_else(|| Object::new().into())
        }
        other => other,
    }
}

/// The schemas of a resource, with those that it refers to.
struct Schemas(Vec<(String, RefOr<Schema>)>);

impl Schemas {
    /// Returns a schema without null and without references at its top.
    fn resolve(&self, schema: RefOr<Schema>) -> RefOr<Schema> {
        match non_null(schema) {
            RefOr::Ref(reference) => {
                let name = reference.ref_location.rsplit('/').next().unwrap_or_default();
                let found = self.0.iter().find(|(known, _)| known == name);
                found.map_or(RefOr::Ref(reference.clone()), |(_, schema)| schema.clone())
            }
            other => other,
        }
    }

    /// Appends the fields within a JSON column: the properties of an object, or of the objects in an array.
    fn nested_fields(&self, parent: &mut QueryField, column: &str, schema: RefOr<Schema>) -> Vec<QueryField> {
        let (object, in_elements) = match schema {
            RefOr::T(Schema::Object(object)) => (object, false),
            RefOr::T(Schema::Array(array)) => {
                let ArrayItems::RefOrSchema(items) = array.items else { return Vec::new() };
                match self.resolve(*items) {
                    RefOr::T(Schema::Object(object)) if ValueKind::of(&object) == ValueKind::Json => {
                        (object, true)
                    }
                    RefOr::T(Schema::Object(item)) => {
                        // An array of texts: each of them is a value of the field itself.
                        parent.kind = ValueKind::of(&item);
                        parent.field = element_field(column, false, &[], Leaf::Array);
                        parent.is_sortable = false;
                        parent.is_cursor_key = false;
                        return Vec::new();
                    }
                    _ => return Vec::new(),
                }
            }
            _ => return Vec::new(),
        };
        if value_type(&object) != Type::Object {
            return Vec::new();
        }
        if object.properties.is_empty() {
            parent.free_objects = Some(in_elements);
        }
        object
            .properties
            .into_iter()
            .filter_map(|(name, schema)| self.nested_field(&parent.name, column, in_elements, &name, schema))
            .collect()
    }

    fn nested_field(
        &self,
        parent: &str,
        column: &str,
        in_elements: bool,
        name: &str,
        schema: RefOr<Schema>,
    ) -> Option<QueryField> {
        let (kind, leaf) = match self.resolve(schema) {
            RefOr::T(Schema::Object(object)) => (ValueKind::of(&object), Leaf::Value),
            RefOr::T(Schema::Array(array)) => {
                let ArrayItems::RefOrSchema(items) = array.items else { return None };
                let RefOr::T(Schema::Object(item)) = self.resolve(*items) else { return None };
                (ValueKind::of(&item), Leaf::Array)
            }
            _ => return None,
        };
        if kind == ValueKind::Json {
            return None;
        }
        let is_text = matches!(
            kind,
            ValueKind::Text { .. } | ValueKind::Email | ValueKind::Id | ValueKind::Enum(_) | ValueKind::Path
        );
        let name_in_query = format!("{parent}.{name}");
        if is_text && leaf == Leaf::Value && !in_elements {
            let field = Field::Property { column: column.to_owned(), key: name.to_owned() };
            let is_short = !matches!(kind, ValueKind::Text { max, .. } if max >= MAX_FILTER);
            let nested = QueryField::nested(name_in_query, field, kind);
            return Some(QueryField { is_sortable: true, is_cursor_key: is_short, ..nested });
        }
        let field = element_field(column, in_elements, &[name], leaf);
        Some(QueryField::nested(name_in_query, field, kind))
    }
}

fn element_field(column: &str, in_elements: bool, keys: &[&str], leaf: Leaf) -> Field {
    let keys = keys.iter().map(|&key| key.to_owned()).collect();
    Field::Elements(ElementPath { column: column.to_owned(), in_elements, keys, leaf })
}

/// Returns the schema of a resource and those that it refers to.
fn schemas<R: Resource>() -> (Object, Schemas) {
    let mut components = Vec::new();
    R::schemas(&mut components);
    match R::schema() {
        RefOr::T(Schema::Object(row)) => (row, Schemas(components)),
        _ => (Object::new(), Schemas(components)),
    }
}

/// What a list accepts in its query string.
#[derive(Debug, Clone)]
pub struct ListSpec {
    /// The Cedar entity type of the resources; none for a list of something else.
    pub resource: Option<&'static str>,
    /// The fields, in the order of the schema.
    pub fields: Vec<QueryField>,
    /// The names of the top-level fields of a resource.
    pub top_level: Vec<String>,
    /// Whether pages have cursors.
    pub has_cursors: bool,
    /// The order without `sort`, before that of creation.
    pub default_sort: Vec<SortKey>,
}

impl ListSpec {
    /// Returns what lists of a resource accept.
    pub fn for_resource<R: Resource>() -> Self {
        let (row, schemas) = schemas::<R>();
        let top_level = row.properties.keys().cloned().collect();
        let mut fields = Vec::new();
        for (name, schema) in row.properties {
            let Some(column) = R::column_name(&name) else { continue };
            let schema = schemas.resolve(schema);
            let mut field = QueryField::column(&name, &column, schema.clone(), "");
            let nested = schemas.nested_fields(&mut field, &column, schema);
            fields.push(field);
            fields.extend(nested);
        }
        Self { resource: Some(R::TYPE), fields, top_level, has_cursors: true, default_sort: Vec::new() }
    }

    /// Returns what a list of something else than resources accepts: filters, `sort`, `limit`, `offset` and `total`.
    pub fn plain(fields: Vec<QueryField>) -> Self {
        Self { resource: None, fields, top_level: Vec::new(), has_cursors: false, default_sort: Vec::new() }
    }

    /// As [`Self::plain`], for rows with an id and a creation time, which determine the order after that of `default_sort`: such
    /// lists have cursors, too.
    pub fn with_cursors(fields: Vec<QueryField>, default_sort: Vec<SortKey>) -> Self {
        Self { has_cursors: true, default_sort, ..Self::plain(fields) }
    }

    /// Returns the field of a parameter; none if there is none.
    pub fn field(&self, name: &str) -> Option<QueryField> {
        if let Some(field) = self.fields.iter().find(|field| field.name == name) {
            return Some(field.clone());
        }
        let (parent, rest) = name.split_once('.')?;
        let parent = self.fields.iter().find(|field| field.name == parent)?;
        let in_elements = parent.free_objects?;
        let keys: Vec<&str> = rest.split('.').collect();
        if keys.len() > MAX_KEYS || !keys.iter().all(|key| is_key(key)) {
            return None;
        }
        let field = element_field(parent.column_name()?, in_elements, &keys, Leaf::Any);
        Some(QueryField::nested(name.to_owned(), field, ValueKind::Any))
    }

    /// Returns the names of all accepted filters; `meta.*` stands for the values in the object `meta`.
    pub fn filter_names(&self) -> Vec<String> {
        let mut names = Vec::new();
        for field in &self.fields {
            names.push(field.name.clone());
            if field.free_objects.is_some() {
                names.push(format!("{}.*", field.name));
            }
        }
        if self.resource.is_some() {
            names.push("orgPath".to_owned());
        }
        names
    }
}

/// Returns whether a name in a free object can be named in a parameter.
fn is_key(key: &str) -> bool {
    let is_allowed = |letter: char| !letter.is_control() && !['"', '\\'].contains(&letter);
    !key.is_empty() && key.chars().count() <= MAX_KEY && key.chars().all(is_allowed)
}

/// The pattern of texts in a filter, for the OpenAPI document.
pub const TEXT_PATTERN: &str = NO_NUL_PATTERN;
