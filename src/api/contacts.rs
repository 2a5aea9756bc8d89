//! Contacts: the people whom conversations are with.

use super::conversations::Conversation;
use crate::authz::AuthzResource;
use crate::http::RouteGroup;
use crate::resource::{IdRow, Reference, Resource};
use crate::types::{Email, Id, JsonObject, Label, Name, Timestamp, json_value, object_only};
use sea_orm::entity::prelude::*;
use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

/// The routes.
pub fn routes() -> RouteGroup {
    RouteGroup::for_resource::<Contact>("Contacts", "/v2/contacts")
        .list::<Contact>("listContacts")
        .fetch::<Contact>()
        .create::<Contact>("createContact")
        .update::<Contact>("updateContact")
        .delete::<Contact>("deleteContact")
}

/// A contact.
pub type Contact = Model;

/// A contact.
#[derive(Clone, Debug, PartialEq, DeriveEntityModel, Serialize, Deserialize, ToSchema)]
#[sea_orm(table_name = "contacts")]
#[serde(rename_all = "camelCase")]
#[schema(as = Contact)]
pub struct Model {
    /// The contact.
    #[sea_orm(primary_key, auto_increment = false)]
    pub id: Id,
    /// The organization that holds it.
    pub organization: Id,
    /// Who it is.
    pub profile: Profile,
    /// The conversation with it.
    pub conversation: Option<Id>,
    /// Whatever else.
    pub meta: JsonObject,
    /// When it was made.
    pub created_at: Timestamp,
    /// When it was last changed.
    pub updated_at: Timestamp,
}

/// What a client writes of a contact.
#[derive(Clone, Debug, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields, remote = "Self")]
pub struct ContactBody {
    /// The organization that is to hold it; the caller's if none.
    pub organization: Option<Id>,
    /// Who it is.
    #[serde(default)]
    pub profile: Profile,
    /// The conversation with it.
    pub conversation: Option<Id>,
    /// Whatever else.
    #[serde(default)]
    pub meta: JsonObject,
}

object_only!(ContactBody);

/// Who a contact is.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields, remote = "Self")]
pub struct Profile {
    /// The whole name.
    pub name: Option<Name>,
    /// The given name.
    pub given_name: Option<Name>,
    /// The family name.
    pub family_name: Option<Name>,
    /// An address.
    pub email: Option<Email>,
    /// A telephone number, as it is written.
    pub telephone: Option<Label>,
    /// A language tag, such as `de-AT` (BCP 47).
    pub locale: Option<Label>,
}

object_only!(Profile);

json_value!(Profile);

/// What its rows are related to is said by [`Resource::references`].
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
    const DECISION_COLUMNS: &'static [(Column, &'static str)] = &[(Column::Id, "id")];

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
