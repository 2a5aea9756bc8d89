//! Organizations: the row, its writable fields, and its Cedar entity.

use super::column::json_column;
use super::{IdRow, Reference, Resource};
use crate::authz::{AuthzResource, ORGANIZATION_ATTRIBUTES, SuppliedAttribute};
use crate::types::{
    Email, Id, JsonObject, Label, Name, OrgPath, OrganizationStatus, Timestamp, Url, json_list,
};
use sea_orm::entity::prelude::*;
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};
use utoipa::ToSchema;

/// An organization.
pub type Organization = Model;

/// An organization.
#[derive(Clone, Debug, PartialEq, DeriveEntityModel, Serialize, Deserialize, ToSchema)]
#[sea_orm(table_name = "organizations")]
#[serde(rename_all = "camelCase")]
#[schema(as = Organization)]
pub struct Model {
    /// The id.
    #[sea_orm(primary_key, auto_increment = false)]
    pub id: Id,
    /// The name.
    pub name: Name,
    /// The display name.
    pub display_name: Option<Name>,
    /// Contact email.
    pub email: Option<Email>,
    /// The status.
    pub status: OrganizationStatus,
    /// Website URL.
    pub url: Option<Url>,
    /// Country.
    pub country: Option<Label>,
    /// Logo URL.
    pub logo: Option<Url>,
    /// Industry.
    pub industry: Option<Label>,
    /// The parent organization; null for the root.
    pub parent: Option<Id>,
    /// The path from the root organization to this one.
    pub path: OrgPath,
    /// The number of ancestors.
    pub level: i64,
    /// Tags.
    pub tags: Tags,
    /// Arbitrary client metadata.
    pub meta: JsonObject,
    /// Creation time.
    pub created_at: Timestamp,
    /// Time of the last update.
    pub updated_at: Timestamp,
}

/// The writable fields of an organization.
#[derive(Debug, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct OrganizationBody {
    /// The name.
    pub name: Name,
    /// The display name.
    pub display_name: Option<Name>,
    /// Contact email.
    pub email: Option<Email>,
    /// The status.
    #[serde(default)]
    pub status: OrganizationStatus,
    /// Website URL.
    pub url: Option<Url>,
    /// Country.
    pub country: Option<Label>,
    /// Logo URL.
    pub logo: Option<Url>,
    /// Industry.
    pub industry: Option<Label>,
    /// The parent organization; by default the organization of the caller.
    pub parent: Option<Id>,
    /// Tags.
    #[serde(default)]
    pub tags: Tags,
    /// Arbitrary client metadata.
    #[serde(default)]
    pub meta: JsonObject,
}

impl OrganizationBody {
    /// Creates the fields of an active organization with this name.
    pub fn new(name: Name) -> Self {
        Self {
            name,
            display_name: None,
            email: None,
            status: OrganizationStatus::Active,
            url: None,
            country: None,
            logo: None,
            industry: None,
            parent: None,
            tags: Tags::default(),
            meta: JsonObject::default(),
        }
    }

    /// Returns the row of a new organization at `path`, whose parent is the organization above it.
    pub fn into_row(self, path: OrgPath, now: Timestamp) -> Organization {
        Organization {
            id: path.org_id(),
            name: self.name,
            display_name: self.display_name,
            email: self.email,
            status: self.status,
            url: self.url,
            country: self.country,
            logo: self.logo,
            industry: self.industry,
            parent: path.parent(),
            level: level_column(&path),
            path,
            tags: self.tags,
            meta: self.meta,
            created_at: now,
            updated_at: now,
        }
    }
}

impl Model {
    /// Moves the organization to another path, and returns the old one.
    pub fn move_to(&mut self, path: OrgPath) -> OrgPath {
        self.level = level_column(&path);
        std::mem::replace(&mut self.path, path)
    }
}

fn level_column(path: &OrgPath) -> i64 {
    i64::try_from(path.level()).unwrap_or(i64::MAX)
}

json_list!(
    /// Up to 50 tags.
    Tags, Label, 50
);

json_column!(Tags);

/// Empty: references between rows are declared by [`Resource::references`].
#[derive(Debug, Clone, Copy, EnumIter, DeriveRelation)]
pub enum Relation {}

impl ActiveModelBehavior for ActiveModel {}

impl AuthzResource for Organization {
    const TYPE: &'static str = "Organization";
    const ATTRIBUTES: &'static [SuppliedAttribute] = ORGANIZATION_ATTRIBUTES;

    fn id(&self) -> Id {
        self.id
    }
}

impl Resource for Organization {
    type Entity = Entity;
    type DecisionRow = IdRow<Self>;
    type Body = OrganizationBody;

    const FETCH_ACTION: &'static str = "fetchOrganization";
    const REFERENCE_FIELDS: &'static [(&'static str, &'static str)] = &[("parent", "Organization")];
    const DECISION_COLUMNS: &'static [(Column, &'static str)] = &[(Column::Id, "id")];

    const READ_ONLY_FIELDS: &'static [&'static str] = &["id", "createdAt", "updatedAt", "path", "level"];

    const CONTAINER_COLUMN: &'static str = "parent";

    fn examples() -> (Value, Value) {
        let creation = json!({"name": "Acme", "country": "AT", "tags": ["new"]});
        (creation, json!({"displayName": "Acme Inc."}))
    }

    fn organization_column() -> Column {
        Column::Id
    }

    fn organization(&self) -> Id {
        self.id
    }

    fn references(&self) -> Vec<Reference> {
        self.parent.iter().map(|parent| Reference::new::<Self>("parent", *parent)).collect()
    }
}
