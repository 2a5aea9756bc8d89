//! Conversations, and the messages in them.

use super::commands::Commands;
use super::contacts::{self, Contact, Profile};
use super::messages::{self, Message, MessageBody};
use super::participants::{Participant, Participants, UniqueParticipants};
use crate::application::changes::{AuthorizedUpdate, Patch, creation_info};
use crate::application::creation::{AuthorizedNew, NewResource};
use crate::application::fields::from_value;
use crate::application::writes::WritableResource;
use crate::application::{Authorizer, Error};
use crate::authz::{
    Attribute, AuthzResource, Permitted, SuppliedAttribute, Unchecked, enum_attribute, supplied_attributes,
};
use crate::http::RouteGroup;
use crate::http::crud;
use crate::http::openapi;
use crate::resource::column::text_column;
use crate::resource::user::User;
use crate::resource::{self, CreationInfo, Reference, Resource};
use crate::store::UnitOfWork;
use crate::types::{FieldErrorCode, Id, JsonObject, Label, Name, OrgPath, Timestamp, json_list, string_enum};
use sea_orm::FromQueryResult;
use sea_orm::entity::prelude::*;
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};
use utoipa::ToSchema;

/// The routes.
pub fn routes() -> RouteGroup {
    RouteGroup::for_resource::<Conversation>("Conversations", "/v2/conversations")
        .about("Conversations with a contact, and their participants.")
        .list::<Conversation>("listConversations")
        .fetch::<Conversation>()
        .post(
            "",
            "createConversation",
            openapi::create::<Conversation, NewConversation>,
            crud::create::<NewConversation>,
        )
        .additional_actions(ADDITIONAL_ACTIONS)
        .idempotent()
        .update::<Conversation>("updateConversation")
        .delete::<Conversation>("deleteConversation")
        .bulk::<Conversation>(
            "listConversations",
            ("updateConversation", "updateConversations"),
            ("deleteConversation", "deleteConversations"),
        )
}

/// What a creation authorizes depending on its body: first messages, the commands among them, a new contact, references.
const ADDITIONAL_ACTIONS: &[&str] = &[
    "createMessage",
    "createContact",
    "setConversationMeta",
    "updateConversation",
    "assignConversation",
    "acceptConversation",
    "joinConversation",
    "leaveConversation",
    "referTo",
];

/// A conversation.
pub type Conversation = Model;

/// A conversation.
#[derive(Clone, Debug, PartialEq, DeriveEntityModel, Serialize, Deserialize, ToSchema)]
#[sea_orm(table_name = "conversations")]
#[serde(rename_all = "camelCase")]
#[schema(as = Conversation)]
pub struct Model {
    /// The id.
    #[sea_orm(primary_key, auto_increment = false)]
    pub id: Id,
    /// The organization that owns it.
    pub organization: Id,
    /// The name.
    pub name: Option<Name>,
    /// Conversation type.
    pub r#type: ConversationType,
    /// Status.
    pub status: Option<Label>,
    /// The contact.
    pub contact: Option<Id>,
    /// Category.
    pub category: Option<Label>,
    /// The participants, the creator first.
    pub participants: Participants,
    /// Time of the last new message; null if there is none.
    pub last_message_at: Option<Timestamp>,
    /// Arbitrary client metadata.
    pub meta: JsonObject,
    /// Creation time.
    pub created_at: Timestamp,
    /// Time of the last update.
    pub updated_at: Timestamp,
}

/// The writable fields of a conversation.
#[derive(Debug, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct ConversationBody {
    /// The owning organization; by default the organization of the caller.
    pub organization: Option<Id>,
    /// The name.
    pub name: Option<Name>,
    /// Conversation type.
    #[serde(default)]
    pub r#type: ConversationType,
    /// Status.
    pub status: Option<Label>,
    /// The contact.
    pub contact: Option<Id>,
    /// Category.
    pub category: Option<Label>,
    /// The participants.
    #[serde(default)]
    pub participants: UniqueParticipants,
    /// Arbitrary client metadata.
    #[serde(default)]
    pub meta: JsonObject,
}

/// A new conversation, with its first messages.
#[derive(Debug, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
#[schema(example = json!({"name": "Opening hours", "messages": [{"text": "When are you open?"}]}))]
pub struct NewConversation {
    /// The owning organization; by default the organization of the caller.
    pub organization: Option<Id>,
    /// The name.
    pub name: Option<Name>,
    /// Conversation type.
    #[serde(default)]
    pub r#type: ConversationType,
    /// Status.
    pub status: Option<Label>,
    /// The contact: the id of an existing one, or a new one.
    #[schema(value_type = Option<ContactChoice>)]
    pub contact: Option<Value>,
    /// Category.
    pub category: Option<Label>,
    /// The participants. The caller is always the first one.
    #[serde(default)]
    pub participants: UniqueParticipants,
    /// The first messages.
    #[serde(default)]
    pub messages: MessageBodies,
    /// Arbitrary client metadata.
    #[serde(default)]
    pub meta: JsonObject,
}

/// A contact: the id of an existing one, or a new one.
#[derive(Debug, Serialize, ToSchema)]
#[serde(untagged)]
#[expect(clippy::large_enum_variant, reason = "only the OpenAPI document uses it")]
pub enum ContactChoice {
    /// The id of an existing contact.
    Existing(Id),
    /// A new contact.
    New(FirstContact),
}

/// A new contact, created together with its conversation.
#[derive(Debug, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct FirstContact {
    /// The owning organization; by default that of the conversation.
    organization: Option<Id>,
    /// The profile.
    #[serde(default)]
    profile: Profile,
    /// Arbitrary client metadata.
    #[serde(default)]
    meta: JsonObject,
}

json_list!(
    /// Up to 1000 messages.
    MessageBodies, MessageBody, 1000
);

string_enum!(
    /// The kind of party that a conversation is with.
    ConversationType { Contact = "contact", Agent = "agent", Bot = "bot", System = "system" }
);

text_column!(ConversationType);
enum_attribute!(ConversationType);

/// Empty: references between rows are declared by [`Resource::references`].
#[derive(Debug, Clone, Copy, EnumIter, DeriveRelation)]
pub enum Relation {}

impl ActiveModelBehavior for ActiveModel {}

impl AuthzResource for Conversation {
    const TYPE: &'static str = "Conversation";
    const ATTRIBUTES: &'static [SuppliedAttribute] = ATTRIBUTES;

    fn id(&self) -> Id {
        self.id
    }

    fn attributes(&self) -> Vec<(&'static str, Attribute)> {
        attributes(self.r#type, self.status.as_ref(), self.category.as_ref())
    }
}

supplied_attributes!(
    /// The attributes of a conversation, as the schema declares them.
    ATTRIBUTES = fn attributes(
        "type" kind: ConversationType,
        "status" status: Option<&Label>,
        "category" category: Option<&Label>,
    )
);

/// The columns that the Cedar entity of a conversation is built from.
#[derive(Debug, FromQueryResult)]
pub struct ConversationDecisionRow {
    id: Id,
    kind: ConversationType,
    status: Option<Label>,
    category: Option<Label>,
}

impl AuthzResource for ConversationDecisionRow {
    const TYPE: &'static str = Conversation::TYPE;
    const ATTRIBUTES: &'static [SuppliedAttribute] = ATTRIBUTES;

    fn id(&self) -> Id {
        self.id
    }

    fn attributes(&self) -> Vec<(&'static str, Attribute)> {
        attributes(self.kind, self.status.as_ref(), self.category.as_ref())
    }
}

impl Resource for Conversation {
    type Entity = Entity;
    type DecisionRow = ConversationDecisionRow;
    type Body = ConversationBody;

    const FETCH_ACTION: &'static str = "fetchConversation";
    const REFERENCE_FIELDS: &'static [(&'static str, &'static str)] =
        &[("organization", "Organization"), ("contact", "Contact"), ("participants.user", "User")];
    const DECISION_COLUMNS: &'static [(Column, &'static str)] = &[
        (Column::Id, "id"),
        (Column::Type, "kind"),
        (Column::Status, "status"),
        (Column::Category, "category"),
    ];
    const READ_ONLY_FIELDS: &'static [&'static str] = &["id", "createdAt", "updatedAt", "lastMessageAt"];

    fn examples() -> (Value, Value) {
        let creation = json!({"name": "Opening hours", "messages": [{"text": "When are you open?"}]});
        (creation, json!({"status": "closed"}))
    }

    fn organization_column() -> Column {
        Column::Organization
    }

    fn organization(&self) -> Id {
        self.organization
    }

    fn references(&self) -> Vec<Reference> {
        let contact = self.contact.iter().map(|id| Reference::new::<Contact>("contact", *id));
        let users = self.participants.iter().enumerate().map(|(index, participant)| {
            Reference::new::<User>(format!("participants.{index}.user"), participant.user)
        });
        contact.chain(users).collect()
    }
}

/// A new conversation that was authorized, with what is stored together with it.
#[derive(Debug)]
pub struct AuthorizedConversation {
    row: Permitted<Conversation>,
    /// The new contact, if the body has one.
    contact: Option<Permitted<Contact>>,
    first_messages: Vec<Permitted<Message>>,
}

/// The maximum number of first messages of all conversations that are created together.
const MAX_FIRST_MESSAGES: usize = 1000;

/// A conversation, its first messages, and a new contact if the body has one. Each is authorized (see "List and create" in
/// docs/decisions.md).
impl NewResource for NewConversation {
    type Resource = Conversation;
    type Authorized = AuthorizedConversation;

    fn parse(body: Value) -> Result<Self, Error> {
        from_value(body, "")
    }

    fn check_limits(all: &[Self]) -> Result<(), Error> {
        let mut count = 0;
        for (index, conversation) in all.iter().enumerate() {
            count += conversation.messages.len();
            if count > MAX_FIRST_MESSAGES {
                let message = format!("expected at most {MAX_FIRST_MESSAGES} messages in all conversations");
                let field = format!("[{index}].messages");
                return Err(Error::invalid_field(field, FieldErrorCode::TooManyItems, message));
            }
        }
        Ok(())
    }

    async fn authorize(
        self,
        authorizer: &Authorizer,
        creation: CreationInfo,
    ) -> Result<AuthorizedNew<AuthorizedConversation>, Error> {
        let holder = authorizer
            .lookups()
            .resolve_owner_org(&authorizer.reader(), self.organization, "organization")
            .await?;
        let stamp = CreationInfo { organization: holder.org_id(), ..creation };
        let mut fields = resource::to_json_object(&self)?;
        fields.remove("messages");
        let commands = Commands::parse(&self.messages, |index| format!("messages.{index}"))?;
        let contact = match self.contact.filter(|contact| contact.is_object()) {
            Some(contact) => {
                let contact = authorize_first_contact(authorizer, contact, &holder).await?;
                fields.insert("contact".into(), Value::String(contact.id.to_string()));
                Some(contact)
            }
            None => None,
        };
        let body: ConversationBody = from_value(Value::Object(fields), "")?;
        let mut row: Conversation = resource::build_row(&body, stamp)?;
        let mut references = row.references();
        references.retain(|reference| contact.as_ref().is_none_or(|contact| contact.id != reference.id));
        references.extend(commands.references());
        row.participants = with_creator_first(row.participants, authorizer.caller().id)?;
        row.last_message_at = (!self.messages.is_empty()).then_some(stamp.now);

        let row = authorizer.authorize_new(&holder, Unchecked::new(row, holder.clone()))?;
        let ids = Id::new_ascending(&authorizer.state().clock, self.messages.len());
        let at = authorizer.with_action("createMessage");
        let first_messages = messages::authorize_new_messages(&at, &row, &self.messages, (ids, stamp.now))?;
        let row = commands.apply(authorizer, &authorizer.reader(), &row).await?.unwrap_or(row);
        let resource = AuthorizedConversation { row, contact, first_messages };
        Ok(AuthorizedNew { resource, owner: holder.org_id(), references })
    }

    async fn store(
        _: &Authorizer,
        work: &UnitOfWork,
        authorized: AuthorizedConversation,
    ) -> Result<Permitted<Conversation>, Error> {
        let AuthorizedConversation { row, contact, first_messages } = authorized;
        let contact = match contact {
            Some(contact) => Some(work.insert(contact).await?),
            None => None,
        };
        let row = work.insert(row).await?;
        if let Some(contact) = contact {
            work.set_reference(&contact, contacts::Column::Conversation, row.id).await?;
        }
        for message in first_messages {
            work.insert(message).await?;
        }
        Ok(row)
    }
}

/// Authorizes a contact that is created with its conversation. It belongs to the organization of the conversation unless it names
/// another one.
///
/// # Errors
/// `forbidden` if the policies do not permit it; the fields of `contact` that are invalid.
async fn authorize_first_contact(
    authorizer: &Authorizer,
    contact: Value,
    holder: &OrgPath,
) -> Result<Permitted<Contact>, Error> {
    let body: FirstContact = from_value(contact, "contact")?;
    let contact: Contact = resource::build_row(&body, creation_info(authorizer, holder.org_id()))?;
    let at = authorizer.with_action("createContact");
    let held_by = at
        .lookups()
        .resolve_owner_org(&authorizer.reader(), Some(contact.organization), "contact.organization")
        .await?;
    at.authorize_new(&held_by, Unchecked::new(contact, held_by.clone()))
}

impl WritableResource for Conversation {
    /// A change of the organization moves the messages, too.
    async fn save(
        _: &Authorizer,
        work: &UnitOfWork,
        update: AuthorizedUpdate<Self>,
        patch: &Patch,
    ) -> Result<Permitted<Self>, Error> {
        let row = work.save(update.row).await?;
        if patch.contains_key("organization") {
            work.move_children_to_org::<Message, _>(&row, messages::Column::Conversation).await?;
        }
        Ok(row)
    }
}

/// The participants with the creator first. A creator that is not listed is added as active.
fn with_creator_first(participants: Participants, user: Id) -> Result<Participants, Error> {
    let existing = participants.iter().find(|participant| participant.user == user);
    let first = existing.cloned().unwrap_or(Participant {
        user,
        role: None,
        active: true,
        accepted: false,
        inbox: false,
    });
    let others = participants.iter().filter(|participant| participant.user != user).cloned();
    Participants::try_from([first].into_iter().chain(others).collect::<Vec<_>>())
        .map_err(|error| Error::invalid_field_value("participants", &error))
}
