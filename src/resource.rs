//! What one of the nine resources must say about itself. Everything else (the five verbs, lists, the OpenAPI document,
//! what Cedar learns of it) follows from this.

use crate::authz::AuthzResource;
use crate::types::{FieldErrorCode, Id, InvalidValue, Timestamp};
use sea_orm::{DbErr, EntityTrait, FromQueryResult, IntoActiveModel, QueryResult, TryGetable};
use serde::Serialize;
use serde::de::DeserializeOwned;
use serde_json::{Map, Value};
use std::marker::PhantomData;
use utoipa::ToSchema;

/// A resource: a row of a table, which is also what a client sees of it.
///
/// The row's JSON has the fields of [`Resource::Body`], `id`, `organization`, `createdAt`, `updatedAt`, and what else
/// stands in [`Resource::READ_ONLY`]; each field is a column of the same name in snake case.
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

    /// The part of a row from which its Cedar entity is built. Searches read this part only.
    type DecisionRow: AuthzResource + FromQueryResult + Send + 'static;

    /// The columns of [`Resource::DecisionRow`], each with the name of its field there.
    const DECISION_COLUMNS: &'static [(<Self::Entity as EntityTrait>::Column, &'static str)];

    /// What a client may write: the body of a create, and the fields of an update.
    type Body: Serialize + DeserializeOwned + ToSchema + 'static;

    /// The action that permits to fetch it, such as `fetchForm`.
    const FETCH_ACTION: &'static str;

    /// The fields that only the service writes.
    const READ_ONLY_FIELDS: &'static [&'static str] = &["id", "createdAt", "updatedAt"];

    /// The column that names the organization that holds the thing.
    fn organization_column() -> <Self::Entity as EntityTrait>::Column;

    /// The organization that holds the thing.
    fn organization(&self) -> Id;

    /// The other things that this one names, its organization aside.
    fn references(&self) -> Vec<Reference> {
        Vec::new()
    }
}

/// The part of a row that decisions on a resource without attributes read: its id.
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

/// That a thing names another one.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Reference {
    /// The field that names it, as the client writes it: `contact`, `participants.0.user`.
    pub field: String,
    /// The Cedar entity type of the other thing.
    pub kind: &'static str,
    /// The id of the other thing.
    pub id: Id,
}

impl Reference {
    /// From `field` to the thing of type `R` with this id.
    pub fn new<R: AuthzResource>(field: impl Into<String>, id: Id) -> Self {
        Self { field: field.into(), kind: R::TYPE, id }
    }
}

/// What the service itself writes on a new row.
#[derive(Debug, Clone, Copy)]
pub struct CreationInfo {
    /// The id of the new thing.
    pub id: Id,
    /// The organization that holds it where the body names none.
    pub organization: Id,
    /// The moment of its making.
    pub now: Timestamp,
}

/// The row that a checked body makes.
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

/// The body that a row would have after `patch`: its own fields, overlaid by those of the patch, top level only.
pub fn apply_patch<R: Resource>(
    row: &R,
    patch: &Map<String, Value>,
) -> Result<Map<String, Value>, InvalidValue> {
    let mut body = to_json_object(row)?;
    body.retain(|field, _| !R::READ_ONLY_FIELDS.contains(&field.as_str()));
    body.extend(patch.iter().map(|(field, value)| (field.clone(), value.clone())));
    Ok(body)
}

/// A row with the fields of a checked body instead of its own.
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

/// A value's JSON object.
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
