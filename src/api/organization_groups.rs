//! Organization groups: sets of organizations, independent of the tree.

use crate::application::writes::WritableResource;
use crate::authz::AuthzResource;
use crate::http::RouteGroup;
use crate::resource::column::json_column;
use crate::resource::organization::Organization;
use crate::resource::{IdRow, Reference, Resource};
use crate::types::{Id, JsonObject, LongText, Name, Timestamp, json_list};
use sea_orm::entity::prelude::*;
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};
use utoipa::ToSchema;

/// The routes.
pub fn routes() -> RouteGroup {
    RouteGroup::for_resource::<OrganizationGroup>("Organization groups", "/v2/orggroups")
        .about("Groups of organizations.")
        .alias("/v2/organizationGroups")
        .list::<OrganizationGroup>("listOrganizationGroups")
        .fetch::<OrganizationGroup>()
        .create::<OrganizationGroup>("createOrganizationGroup")
        .update::<OrganizationGroup>("updateOrganizationGroup")
        .delete::<OrganizationGroup>("deleteOrganizationGroup")
        .bulk::<OrganizationGroup>(
            "listOrganizationGroups",
            ("updateOrganizationGroup", "updateOrganizationGroups"),
            ("deleteOrganizationGroup", "deleteOrganizationGroups"),
        )
}

/// An organization group.
pub type OrganizationGroup = Model;

/// An organization group.
#[derive(Clone, Debug, PartialEq, DeriveEntityModel, Serialize, Deserialize, ToSchema)]
#[sea_orm(table_name = "orggroups")]
#[serde(rename_all = "camelCase")]
#[schema(as = OrganizationGroup)]
pub struct Model {
    /// The id.
    #[sea_orm(primary_key, auto_increment = false)]
    pub id: Id,
    /// The organization that owns it.
    pub organization: Id,
    /// The name.
    pub name: Name,
    /// The description.
    pub description: Option<LongText>,
    /// The member organizations.
    pub organizations: OrganizationIds,
    /// Arbitrary client metadata.
    pub meta: JsonObject,
    /// Creation time.
    pub created_at: Timestamp,
    /// Time of the last update.
    pub updated_at: Timestamp,
}

/// The writable fields of an organization group.
#[derive(Debug, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct OrganizationGroupBody {
    /// The owning organization; by default the organization of the caller.
    pub organization: Option<Id>,
    /// The name.
    pub name: Name,
    /// The description.
    pub description: Option<LongText>,
    /// The member organizations.
    #[serde(default)]
    pub organizations: OrganizationIds,
    /// Arbitrary client metadata.
    #[serde(default)]
    pub meta: JsonObject,
}

json_list!(
    /// Up to 1000 organization ids.
    OrganizationIds, Id, 1000
);

json_column!(OrganizationIds);

/// Empty: references between rows are declared by [`Resource::references`].
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
    const REFERENCE_FIELDS: &'static [(&'static str, &'static str)] =
        &[("organization", "Organization"), ("organizations", "Organization")];
    const DECISION_COLUMNS: &'static [(Column, &'static str)] = &[(Column::Id, "id")];

    fn examples() -> (Value, Value) {
        let creation = json!({"name": "Partners"});
        (creation, json!({"description": "Companies that we work with"}))
    }

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

impl WritableResource for OrganizationGroup {}
