//! Contacts: the external parties of conversations.

use super::conversations::Conversation;
use crate::application::writes::WritableResource;
use crate::authz::AuthzResource;
use crate::http::RouteGroup;
use crate::resource::column::json_column;
use crate::resource::{IdRow, Reference, Resource};
use crate::types::{Email, Id, JsonObject, Label, Name, Timestamp, object_only};
use sea_orm::entity::prelude::*;
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};
use utoipa::ToSchema;

/// The routes.
pub fn routes() -> RouteGroup {
    RouteGroup::for_resource::<Contact>("Contacts", "/v2/contacts")
        .about("The people that conversations are held with.")
        .list::<Contact>("listContacts")
        .fetch::<Contact>()
        .create::<Contact>("createContact")
        .update::<Contact>("updateContact")
        .delete::<Contact>("deleteContact")
        .bulk::<Contact>(
            "listContacts",
            ("updateContact", "updateContacts"),
            ("deleteContact", "deleteContacts"),
        )
}

/// A contact.
pub type Contact = Model;

/// A contact.
#[derive(Clone, Debug, PartialEq, DeriveEntityModel, Serialize, Deserialize, ToSchema)]
#[sea_orm(table_name = "contacts")]
#[serde(rename_all = "camelCase")]
#[schema(as = Contact)]
pub struct Model {
    /// The id.
    #[sea_orm(primary_key, auto_increment = false)]
    pub id: Id,
    /// The organization that owns it.
    pub organization: Id,
    /// The profile.
    pub profile: Profile,
    /// The conversation with the contact.
    pub conversation: Option<Id>,
    /// Arbitrary client metadata.
    pub meta: JsonObject,
    /// Creation time.
    pub created_at: Timestamp,
    /// Time of the last update.
    pub updated_at: Timestamp,
}

/// The writable fields of a contact.
#[derive(Clone, Debug, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields, remote = "Self")]
pub struct ContactBody {
    /// The owning organization; by default the organization of the caller.
    pub organization: Option<Id>,
    /// The profile.
    #[serde(default)]
    pub profile: Profile,
    /// The conversation with the contact.
    pub conversation: Option<Id>,
    /// Arbitrary client metadata.
    #[serde(default)]
    pub meta: JsonObject,
}

object_only!(ContactBody);

/// The profile of a contact.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields, remote = "Self")]
pub struct Profile {
    /// The full name.
    pub name: Option<Name>,
    /// The given name.
    pub given_name: Option<Name>,
    /// The family name.
    pub family_name: Option<Name>,
    /// The email address.
    pub email: Option<Email>,
    /// The telephone number, as free text.
    pub telephone: Option<Label>,
    /// A language tag, such as `de-AT` (BCP 47).
    pub locale: Option<Label>,
}

object_only!(Profile);

json_column!(Profile);

/// Empty: references between rows are declared by [`Resource::references`].
#[derive(Debug, Clone, Copy, EnumIter, DeriveRelation)]
pub enum Relation {}

impl ActiveModelBehavior for ActiveModel {}

impl AuthzResource for Contact {
    const TYPE: &'static str = "Contact";

    fn id(&self) -> Id {
        self.id
    }
}

impl Resource for Contact {
    type Entity = Entity;
    type DecisionRow = IdRow<Self>;
    type Body = ContactBody;

    const FETCH_ACTION: &'static str = "fetchContact";
    const REFERENCE_FIELDS: &'static [(&'static str, &'static str)] =
        &[("organization", "Organization"), ("conversation", "Conversation")];
    const DECISION_COLUMNS: &'static [(Column, &'static str)] = &[(Column::Id, "id")];

    fn examples() -> (Value, Value) {
        let creation = json!({"profile": {"givenName": "Grace", "email": "grace@example.com"}});
        (creation, json!({"meta": {"vip": true}}))
    }

    fn organization_column() -> Column {
        Column::Organization
    }

    fn organization(&self) -> Id {
        self.organization
    }

    fn references(&self) -> Vec<Reference> {
        let conversation = self.conversation.iter();
        conversation.map(|id| Reference::new::<Conversation>("conversation", *id)).collect()
    }
}

impl WritableResource for Contact {}
