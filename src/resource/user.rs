//! Users: the row, its writable fields, and its Cedar attributes.

use super::{CreationInfo, Resource};
use crate::authz::{Attribute, AuthzResource, Scope, SuppliedAttribute, USER_ATTRIBUTES, UserAttributes};
use crate::types::{Email, Id, JsonObject, Name, Timestamp, Url, UserStatus};
use sea_orm::FromQueryResult;
use sea_orm::entity::prelude::*;
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};
use utoipa::ToSchema;

/// A user.
pub type User = Model;

/// A user. The password is stored separately, as a hash, and never returned.
#[derive(Clone, Debug, PartialEq, DeriveEntityModel, Serialize, Deserialize, ToSchema)]
#[sea_orm(table_name = "users")]
#[serde(rename_all = "camelCase")]
#[schema(as = User)]
pub struct Model {
    /// The id.
    #[sea_orm(primary_key, auto_increment = false)]
    pub id: Id,
    /// The organization of the user.
    pub organization: Id,
    /// The email address, which is unique and used to log in.
    pub email: Email,
    /// The given name.
    pub given_name: Option<Name>,
    /// The family name.
    pub family_name: Option<Name>,
    /// The given name and the family name.
    pub name: String,
    /// Avatar URL.
    pub avatar: Option<Url>,
    /// The role, which caps the scopes of the credentials.
    pub role: Scope,
    /// The status: a blocked user cannot authenticate.
    pub status: UserStatus,
    /// Arbitrary client metadata.
    pub meta: JsonObject,
    /// Creation time.
    pub created_at: Timestamp,
    /// Time of the last update.
    pub updated_at: Timestamp,
}

/// The field of a request that sets the password of a user, in `context.changes`. It is not a column of the row.
pub const PASSWORD_FIELD: &str = "password";

/// The writable fields of a user.
#[derive(Debug, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct UserBody {
    /// The organization of the user, which determines where the user may act. By default the organization of the caller:
    /// for an admin of the root organization that is the root, above all tenants.
    pub organization: Option<Id>,
    /// The email address, which is unique and used to log in.
    pub email: Email,
    /// The given name.
    pub given_name: Option<Name>,
    /// The family name.
    pub family_name: Option<Name>,
    /// Avatar URL.
    pub avatar: Option<Url>,
    /// The highest scope of the credentials; `guest` by default. At most the scope of the caller. Guests and
    /// agents act in their own organization only, bots and admins also in the organizations below it.
    #[serde(default = "default_role")]
    pub role: Scope,
    /// The status: a blocked user cannot authenticate.
    #[serde(default)]
    pub status: UserStatus,
    /// Arbitrary client metadata.
    #[serde(default)]
    pub meta: JsonObject,
}

const fn default_role() -> Scope {
    Scope::Guest
}

impl UserBody {
    /// Creates the fields of an active guest with this email address, in the organization of the caller.
    pub fn new(email: Email) -> Self {
        Self {
            organization: None,
            email,
            given_name: None,
            family_name: None,
            avatar: None,
            role: default_role(),
            status: UserStatus::default(),
            meta: JsonObject::default(),
        }
    }

    /// Returns the row of a new user with these fields.
    pub fn into_row(self, creation: CreationInfo) -> User {
        User {
            id: creation.id,
            organization: self.organization.unwrap_or(creation.organization),
            name: full_name(self.given_name.as_ref(), self.family_name.as_ref()),
            email: self.email,
            given_name: self.given_name,
            family_name: self.family_name,
            avatar: self.avatar,
            role: self.role,
            status: self.status,
            meta: self.meta,
            created_at: creation.now,
            updated_at: creation.now,
        }
    }
}

impl Model {
    /// Sets the name from the given name and the family name.
    pub fn update_name(&mut self) {
        self.name = full_name(self.given_name.as_ref(), self.family_name.as_ref());
    }
}

/// Empty: references between rows are declared by [`Resource::references`].
#[derive(Debug, Clone, Copy, EnumIter, DeriveRelation)]
pub enum Relation {}

impl ActiveModelBehavior for ActiveModel {}

impl AuthzResource for User {
    const TYPE: &'static str = "User";
    const ATTRIBUTES: &'static [SuppliedAttribute] = USER_ATTRIBUTES;

    fn id(&self) -> Id {
        self.id
    }

    fn attributes(&self) -> Vec<(&'static str, Attribute)> {
        attributes(self.organization, self.role, self.status, &self.email)
    }

    fn granted_role(&self) -> Option<Scope> {
        Some(self.role)
    }
}

/// The attributes of a user, as the schema declares them.
fn attributes(
    organization: Id,
    role: Scope,
    status: UserStatus,
    email: &Email,
) -> Vec<(&'static str, Attribute)> {
    UserAttributes { organization, role, status, email: Some(email) }.attributes()
}

/// The columns that the Cedar entity of a user is built from.
#[derive(Debug, FromQueryResult)]
pub struct UserDecisionRow {
    id: Id,
    organization: Id,
    role: Scope,
    status: UserStatus,
    email: Email,
}

impl AuthzResource for UserDecisionRow {
    const TYPE: &'static str = User::TYPE;
    const ATTRIBUTES: &'static [SuppliedAttribute] = USER_ATTRIBUTES;

    fn id(&self) -> Id {
        self.id
    }

    fn attributes(&self) -> Vec<(&'static str, Attribute)> {
        attributes(self.organization, self.role, self.status, &self.email)
    }
}

impl Resource for User {
    type Entity = Entity;
    type DecisionRow = UserDecisionRow;
    type Body = UserBody;

    const FETCH_ACTION: &'static str = "fetchUser";
    const DECISION_COLUMNS: &'static [(Column, &'static str)] = &[
        (Column::Id, "id"),
        (Column::Organization, "organization"),
        (Column::Role, "role"),
        (Column::Status, "status"),
        (Column::Email, "email"),
    ];

    const READ_ONLY_FIELDS: &'static [&'static str] = &["id", "createdAt", "updatedAt", "name"];

    const UPDATABLE_EXTRAS: &'static [&'static str] = &[PASSWORD_FIELD];

    fn examples() -> (Value, Value) {
        let creation = json!({"email": "ada@example.com", "givenName": "Ada", "role": "agent"});
        (creation, json!({"givenName": "Ada"}))
    }

    fn organization_column() -> Column {
        Column::Organization
    }

    fn organization(&self) -> Id {
        self.organization
    }
}

/// The `name` of a user: the given name and the family name.
fn full_name(given: Option<&Name>, family: Option<&Name>) -> String {
    let names: Vec<&str> = [given, family].into_iter().flatten().map(Name::as_str).collect();
    names.join(" ")
}
