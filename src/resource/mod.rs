//! The trait of the nine resources. The CRUD handlers, lists, the OpenAPI document and the Cedar entity derive from it.

pub(crate) mod column;
pub mod organization;
pub mod user;

use crate::authz::AuthzResource;
use crate::types::{FieldErrorCode, Id, InvalidValue, Timestamp};
use sea_orm::{
    DbErr, EntityTrait, FromQueryResult, Iden, IntoActiveModel, Iterable, QueryResult, TryGetable,
};
use serde::Serialize;
use serde::de::DeserializeOwned;
use serde_json::{Map, Value};
use std::marker::PhantomData;
use std::str::FromStr;
use utoipa::ToSchema;

/// A resource: a row of a table, which is also the JSON that clients receive.
///
/// The row's JSON has the fields of [`Resource::Body`], `id`, `organization`, `createdAt`, `updatedAt`, and the other
/// fields of [`Resource::READ_ONLY_FIELDS`]; each field is a column of the same name in snake case.
pub trait Resource:
    AuthzResource
    + FromQueryResult
    + IntoActiveModel<<Self::Entity as EntityTrait>::ActiveModel>
    + Serialize
    + DeserializeOwned
    + ToSchema
    + Clone
    + Send
    + Sync
    + 'static
{
    /// The table.
    type Entity: EntityTrait<Model = Self>;

    /// The columns from which the Cedar entity is built. Searches read only these.
    type DecisionRow: AuthzResource + FromQueryResult + Send + 'static;

    /// The columns of [`Resource::DecisionRow`], each with the name of its field in that type.
    const DECISION_COLUMNS: &'static [(<Self::Entity as EntityTrait>::Column, &'static str)];

    /// The fields that clients may write: the body of a create, and the fields of an update.
    type Body: Serialize + DeserializeOwned + ToSchema + 'static;

    /// The action that fetches it, such as `fetchForm`.
    const FETCH_ACTION: &'static str;

    /// The fields that only the service writes.
    const READ_ONLY_FIELDS: &'static [&'static str] = &["id", "createdAt", "updatedAt"];

    /// The fields that clients can change and that are not columns of the row, such as the password of a user.
    const UPDATABLE_EXTRAS: &'static [&'static str] = &[];

    /// The column with the organization that cannot be deleted while this resource exists.
    const CONTAINER_COLUMN: &'static str = "organization";

    /// The fields with ids of other resources, each with the Cedar entity type of that resource.
    const REFERENCE_FIELDS: &'static [(&'static str, &'static str)] = &[("organization", "Organization")];

    /// Returns the column with the id of the owning organization.
    fn organization_column() -> <Self::Entity as EntityTrait>::Column;

    /// Returns the id of the owning organization.
    fn organization(&self) -> Id;

    /// Returns the name of the column of a JSON field; none if the field is not a column.
    fn column_name(field: &str) -> Option<String> {
        let column = <Self::Entity as EntityTrait>::Column::from_str(field).ok()?;
        Some(column.unquoted().to_owned())
    }

    /// Returns whether clients can change this field, which may then be in `context.changes`.
    fn is_updatable(field: &str) -> bool {
        Self::UPDATABLE_EXTRAS.contains(&field)
            || (Self::column_name(field).is_some() && !Self::READ_ONLY_FIELDS.contains(&field))
    }

    /// Returns the names of all fields that clients can change.
    fn updatable_fields() -> Vec<String> {
        let columns =
            <Self::Entity as EntityTrait>::Column::iter().map(|column| camel_case(column.unquoted()));
        let extras = Self::UPDATABLE_EXTRAS.iter().map(|&field| field.to_owned());
        columns.filter(|field| Self::is_updatable(field)).chain(extras).collect()
    }

    /// Returns examples of the bodies of a creation and of an update, for the OpenAPI document. They work in a service as it is
    /// after its first start.
    fn examples() -> (Value, Value);

    /// Returns the references to other resources, without the owning organization.
    fn references(&self) -> Vec<Reference> {
        Vec::new()
    }
}

/// Returns the JSON name of a column: `givenName` for `given_name`.
fn camel_case(column: &str) -> String {
    let mut words = column.split('_');
    let first = words.next().unwrap_or_default().to_owned();
    words.fold(first, |name, word| {
        let (initial, rest) = word.split_at_checked(1).unwrap_or_default();
        name + &initial.to_ascii_uppercase() + rest
    })
}

/// The decision row of a resource without attributes: its id.
#[derive(Debug)]
pub struct IdRow<R> {
    id: Id,
    resource: PhantomData<fn() -> R>,
}

impl<R> FromQueryResult for IdRow<R> {
    fn from_query_result(row: &QueryResult, prefix: &str) -> Result<Self, DbErr> {
        Ok(Self { id: Id::try_get(row, prefix, "id")?, resource: PhantomData })
    }
}

impl<R: AuthzResource> AuthzResource for IdRow<R> {
    const TYPE: &'static str = R::TYPE;

    fn id(&self) -> Id {
        self.id
    }
}

/// A reference from one resource to another.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct Reference {
    /// The path of the referring field: `contact`, `participants.0.user`.
    pub field: String,
    /// The Cedar entity type of the target.
    pub kind: &'static str,
    /// The id of the target.
    pub id: Id,
}

impl Reference {
    /// Creates a reference from `field` to the resource of type `R` with this id.
    pub fn new<R: AuthzResource>(field: impl Into<String>, id: Id) -> Self {
        Self { field: field.into(), kind: R::TYPE, id }
    }
}

/// The fields of a new row that the service sets.
#[derive(Debug, Clone, Copy)]
pub struct CreationInfo {
    /// The id of the new resource.
    pub id: Id,
    /// The owning organization if the body names none.
    pub organization: Id,
    /// The time of creation.
    pub now: Timestamp,
}

/// Builds a row from a validated body.
///
/// # Errors
/// The body does not have the fields of the row.
pub fn build_row<R: Resource>(body: &impl Serialize, creation: CreationInfo) -> Result<R, InvalidValue> {
    let mut row = to_json_object(body)?;
    if row.get("organization").is_none_or(Value::is_null) {
        row.insert("organization".into(), Value::String(creation.organization.to_string()));
    }
    row.insert("id".into(), Value::String(creation.id.to_string()));
    let now = Value::String(creation.now.to_string());
    row.insert("createdAt".into(), now.clone());
    row.insert("updatedAt".into(), now);
    parse(row)
}

/// Returns the body of a row with the top-level fields of `patch` merged into it.
///
/// # Errors
/// The row cannot be serialized.
pub fn apply_patch<R: Resource>(
    row: &R,
    patch: &Map<String, Value>,
) -> Result<Map<String, Value>, InvalidValue> {
    let mut body = to_json_object(row)?;
    body.retain(|field, _| !R::READ_ONLY_FIELDS.contains(&field.as_str()));
    body.extend(patch.iter().map(|(field, value)| (field.clone(), value.clone())));
    Ok(body)
}

/// Returns a row with its writable fields replaced by those of a validated body.
///
/// # Errors
/// The body does not have the fields of the row.
pub fn replace_fields<R: Resource>(
    row: &R,
    body: &impl Serialize,
    now: Timestamp,
) -> Result<R, InvalidValue> {
    let mut new = to_json_object(row)?;
    let mut body = to_json_object(body)?;
    if body.get("organization").is_some_and(Value::is_null) {
        body.remove("organization");
    }
    new.extend(body);
    new.insert("updatedAt".into(), Value::String(now.to_string()));
    parse(new)
}

/// Returns a value as a JSON object.
///
/// # Errors
/// The value serializes to something else.
pub fn to_json_object(value: &impl Serialize) -> Result<Map<String, Value>, InvalidValue> {
    match serde_json::to_value(value) {
        Ok(Value::Object(fields)) => Ok(fields),
        Ok(other) => Err(InvalidValue::new(FieldErrorCode::InvalidType, format!("{other} is not an object"))),
        Err(error) => Err(InvalidValue::new(FieldErrorCode::InvalidFormat, error.to_string())),
    }
}

fn parse<R: Resource>(row: Map<String, Value>) -> Result<R, InvalidValue> {
    R::deserialize(Value::Object(row))
        .map_err(|error| InvalidValue::new(FieldErrorCode::InvalidFormat, error.to_string()))
}
