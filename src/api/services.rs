//! Services: external systems that the platform integrates.

use crate::application::writes::WritableResource;
use crate::authz::{Attribute, AuthzResource, SuppliedAttribute, supplied_attributes};
use crate::http::RouteGroup;
use crate::resource::Resource;
use crate::types::{Id, JsonObject, Label, Name, Timestamp, Url};
use sea_orm::FromQueryResult;
use sea_orm::entity::prelude::*;
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};
use utoipa::ToSchema;

/// The routes.
pub fn routes() -> RouteGroup {
    RouteGroup::for_resource::<Service>("Services", "/v2/services")
        .about("Integrations of an organization with other systems.")
        .list::<Service>("listServices")
        .fetch::<Service>()
        .create::<Service>("createService")
        .update::<Service>("updateService")
        .delete::<Service>("deleteService")
        .bulk::<Service>(
            "listServices",
            ("updateService", "updateServices"),
            ("deleteService", "deleteServices"),
        )
}

/// A service.
pub type Service = Model;

/// A service.
#[derive(Clone, Debug, PartialEq, DeriveEntityModel, Serialize, Deserialize, ToSchema)]
#[sea_orm(table_name = "services")]
#[serde(rename_all = "camelCase")]
#[schema(as = Service)]
pub struct Model {
    /// The id.
    #[sea_orm(primary_key, auto_increment = false)]
    pub id: Id,
    /// The organization that owns it.
    pub organization: Id,
    /// The name.
    pub name: Name,
    /// The service type.
    pub r#type: Option<Label>,
    /// The URL.
    pub url: Option<Url>,
    /// Parameters.
    pub params: JsonObject,
    /// Arbitrary client metadata.
    pub meta: JsonObject,
    /// Creation time.
    pub created_at: Timestamp,
    /// Time of the last update.
    pub updated_at: Timestamp,
}

/// The writable fields of a service.
#[derive(Debug, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct ServiceBody {
    /// The owning organization; by default the organization of the caller.
    pub organization: Option<Id>,
    /// The name.
    pub name: Name,
    /// The service type.
    pub r#type: Option<Label>,
    /// The URL.
    pub url: Option<Url>,
    /// Parameters.
    #[serde(default)]
    pub params: JsonObject,
    /// Arbitrary client metadata.
    #[serde(default)]
    pub meta: JsonObject,
}

/// Empty: references between rows are declared by [`Resource::references`].
#[derive(Debug, Clone, Copy, EnumIter, DeriveRelation)]
pub enum Relation {}

impl ActiveModelBehavior for ActiveModel {}

impl AuthzResource for Service {
    const TYPE: &'static str = "Service";
    const ATTRIBUTES: &'static [SuppliedAttribute] = ATTRIBUTES;

    fn id(&self) -> Id {
        self.id
    }

    fn attributes(&self) -> Vec<(&'static str, Attribute)> {
        attributes(self.r#type.as_ref())
    }
}

supplied_attributes!(
    /// The attributes of a service, as the schema declares them.
    ATTRIBUTES = fn attributes("type" kind: Option<&Label>)
);

/// The columns that the Cedar entity of a service is built from.
#[derive(Debug, FromQueryResult)]
pub struct ServiceDecisionRow {
    id: Id,
    kind: Option<Label>,
}

impl AuthzResource for ServiceDecisionRow {
    const TYPE: &'static str = Service::TYPE;
    const ATTRIBUTES: &'static [SuppliedAttribute] = ATTRIBUTES;

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

    fn examples() -> (Value, Value) {
        let creation = json!({"name": "Search", "url": "https://search.example.com", "params": {"top": 10}});
        (creation, json!({"params": {"top": 20}}))
    }

    fn organization_column() -> Column {
        Column::Organization
    }

    fn organization(&self) -> Id {
        self.organization
    }
}

impl WritableResource for Service {}
