//! Services: what else the platform talks to.

use crate::authz::{Attribute, AuthzResource, text};
use crate::http::RouteGroup;
use crate::resource::Resource;
use crate::types::{Id, JsonObject, Label, Name, Timestamp, Url};
use sea_orm::FromQueryResult;
use sea_orm::entity::prelude::*;
use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

/// The routes.
pub fn routes() -> RouteGroup {
    RouteGroup::for_resource::<Service>("Services", "/v2/services")
        .list::<Service>("listServices")
        .fetch::<Service>()
        .create::<Service>("createService")
        .update::<Service>("updateService")
        .delete::<Service>("deleteService")
}

/// A service.
pub type Service = Model;

/// A service.
#[derive(Clone, Debug, PartialEq, DeriveEntityModel, Serialize, Deserialize, ToSchema)]
#[sea_orm(table_name = "services")]
#[serde(rename_all = "camelCase")]
#[schema(as = Service)]
pub struct Model {
    /// The service.
    #[sea_orm(primary_key, auto_increment = false)]
    pub id: Id,
    /// The organization that holds it.
    pub organization: Id,
    /// Its name.
    pub name: Name,
    /// What kind of service it is.
    pub r#type: Option<Label>,
    /// Where it is.
    pub url: Option<Url>,
    /// What it is told.
    pub params: JsonObject,
    /// Whatever else.
    pub meta: JsonObject,
    /// When it was made.
    pub created_at: Timestamp,
    /// When it was last changed.
    pub updated_at: Timestamp,
}

/// What a client writes of a service.
#[derive(Debug, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct ServiceBody {
    /// The organization that is to hold it; the caller's if none.
    pub organization: Option<Id>,
    /// Its name.
    pub name: Name,
    /// What kind of service it is.
    pub r#type: Option<Label>,
    /// Where it is.
    pub url: Option<Url>,
    /// What it is told.
    #[serde(default)]
    pub params: JsonObject,
    /// Whatever else.
    #[serde(default)]
    pub meta: JsonObject,
}

/// What its rows are related to is said by [`Resource::references`].
#[derive(Debug, Clone, Copy, EnumIter, DeriveRelation)]
pub enum Relation {}

impl ActiveModelBehavior for ActiveModel {}

impl AuthzResource for Service {
    const TYPE: &'static str = "Service";

    fn id(&self) -> Id {
        self.id
    }

    fn attributes(&self) -> Vec<(&'static str, Attribute)> {
        attributes(self.r#type.as_ref())
    }
}

/// The attributes of a service, as the schema declares them.
fn attributes(kind: Option<&Label>) -> Vec<(&'static str, Attribute)> {
    kind.map(|kind| ("type", text(kind))).into_iter().collect()
}

/// The columns of a service from which its Cedar entity is built.
#[derive(Debug, FromQueryResult)]
pub struct ServiceDecisionRow {
    id: Id,
    kind: Option<Label>,
}

impl AuthzResource for ServiceDecisionRow {
    const TYPE: &'static str = Service::TYPE;

    fn id(&self) -> Id {
        self.id
    }

    fn attributes(&self) -> Vec<(&'static str, Attribute)> {
        attributes(self.kind.as_ref())
    }
}

impl Resource for Service {
    type Entity = Entity;
    type DecisionRow = ServiceDecisionRow;
    type Body = ServiceBody;

    const FETCH_ACTION: &'static str = "fetchService";
    const DECISION_COLUMNS: &'static [(Column, &'static str)] = &[(Column::Id, "id"), (Column::Type, "kind")];

    fn organization_column() -> Column {
        Column::Organization
    }

    fn organization(&self) -> Id {
        self.organization
    }
}
