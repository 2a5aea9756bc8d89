//! Organization groups: organizations that belong together, across the tree.

use super::organizations::Organization;
use crate::authz::AuthzResource;
use crate::http::RouteGroup;
use crate::resource::{IdRow, Reference, Resource};
use crate::types::{Id, JsonObject, LongText, Name, Timestamp, json_list};
use sea_orm::entity::prelude::*;
use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

/// The routes.
pub fn routes() -> RouteGroup {
    RouteGroup::for_resource::<OrganizationGroup>("Organization groups", "/v2/orggroups")
        .alias("/v2/organizationGroups")
        .list::<OrganizationGroup>("listOrganizationGroups")
        .fetch::<OrganizationGroup>()
        .create::<OrganizationGroup>("createOrganizationGroup")
        .update::<OrganizationGroup>("updateOrganizationGroup")
        .delete::<OrganizationGroup>("deleteOrganizationGroup")
}

/// An organization group.
pub type OrganizationGroup = Model;

/// An organization group.
#[derive(Clone, Debug, PartialEq, DeriveEntityModel, Serialize, Deserialize, ToSchema)]
#[sea_orm(table_name = "orggroups")]
#[serde(rename_all = "camelCase")]
#[schema(as = OrganizationGroup)]
pub struct Model {
    /// The group.
    #[sea_orm(primary_key, auto_increment = false)]
    pub id: Id,
    /// The organization that holds it.
    pub organization: Id,
    /// Its name.
    pub name: Name,
    /// What it is for.
    pub description: Option<LongText>,
    /// The organizations in it.
    pub organizations: OrganizationIds,
    /// Whatever else.
    pub meta: JsonObject,
    /// When it was made.
    pub created_at: Timestamp,
    /// When it was last changed.
    pub updated_at: Timestamp,
}

/// What a client writes of an organization group.
#[derive(Debug, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct OrganizationGroupBody {
    /// The organization that is to hold it; the caller's if none.
    pub organization: Option<Id>,
    /// Its name.
    pub name: Name,
    /// What it is for.
    pub description: Option<LongText>,
    /// The organizations in it.
    #[serde(default)]
    pub organizations: OrganizationIds,
    /// Whatever else.
    #[serde(default)]
    pub meta: JsonObject,
}

json_list!(
    /// Ids of organizations, at most 1000.
    OrganizationIds, Id, 1000
);

/// What its rows are related to is said by [`Resource::references`].
#[derive(Debug, Clone, Copy, EnumIter, DeriveRelation)]
pub enum Relation {}

impl ActiveModelBehavior for ActiveModel {}

impl AuthzResource for OrganizationGroup {
    const TYPE: &'static str = "OrganizationGroup";

    fn id(&self) -> Id {
        self.id
    }
}

impl Resource for OrganizationGroup {
    type Entity = Entity;
    type DecisionRow = IdRow<Self>;
    type Body = OrganizationGroupBody;

    const FETCH_ACTION: &'static str = "fetchOrganizationGroup";
    const DECISION_COLUMNS: &'static [(Column, &'static str)] = &[(Column::Id, "id")];

    fn organization_column() -> Column {
        Column::Organization
    }

    fn organization(&self) -> Id {
        self.organization
    }

    fn references(&self) -> Vec<Reference> {
        let members = self.organizations.iter().enumerate();
        members
            .map(|(index, id)| Reference::new::<Organization>(format!("organizations.{index}"), *id))
            .collect()
    }
}
