//! Messages of a conversation.

use super::commands::{self, Commands};
use super::conversations::{self, Conversation};
use crate::application::creation::{AuthorizedNew, NewResource};
use crate::application::fields::from_value;
use crate::application::writes::WritableResource;
use crate::application::{Authorizer, Error};
use crate::authz::{
    Attribute, AuthzResource, Permitted, ResourceRef, SuppliedAttribute, Unchecked, entity,
    supplied_attributes,
};
use crate::http::{RouteGroup, crud, openapi};
use crate::resource::column::json_column;
use crate::resource::user::User;
use crate::resource::{self, CreationInfo, Resource};
use crate::store::UnitOfWork;
use crate::types::{Id, JsonObject, Label, LongText, MessageText, Millis, Timestamp, json_list, object_only};
use sea_orm::FromQueryResult;
use sea_orm::entity::prelude::*;
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};
use utoipa::ToSchema;

/// The routes.
pub fn routes() -> RouteGroup {
    RouteGroup::for_resource::<Message>("Messages", "/v2/messages")
        .about("The messages of conversations.")
        .list::<Message>("listMessages")
        .fetch::<Message>()
        .post("", "createMessage", openapi::create::<Message, NewMessage>, crud::create::<NewMessage>)
        .additional_actions(commands::ACTIONS)
        .idempotent()
        .update::<Message>("updateMessage")
        .replace::<Message>("updateMessage")
        .with_operation_id("replaceMessage")
        .delete::<Message>("deleteMessage")
        .bulk::<Message>(
            "listMessages",
            ("updateMessage", "updateMessages"),
            ("deleteMessage", "deleteMessages"),
        )
}

/// A message.
pub type Message = Model;

/// A message.
#[derive(Clone, Debug, PartialEq, DeriveEntityModel, Serialize, Deserialize, ToSchema)]
#[sea_orm(table_name = "messages")]
#[serde(rename_all = "camelCase")]
#[schema(as = Message)]
pub struct Model {
    /// The id.
    #[sea_orm(primary_key, auto_increment = false)]
    pub id: Id,
    /// The owning organization: that of the conversation.
    pub organization: Id,
    /// The conversation.
    pub conversation: Id,
    /// The text.
    pub text: LongText,
    /// The message type.
    pub r#type: Label,
    /// The role of the author.
    pub role: Option<Label>,
    /// The author.
    pub user: Id,
    /// Internal note, hidden from the contact.
    pub is_backchannel: bool,
    /// Actions offered to the reader.
    pub actions: MessageActions,
    /// Delay before the message is displayed, in milliseconds.
    pub delay: Option<Millis>,
    /// Arbitrary client metadata.
    pub meta: JsonObject,
    /// Creation time.
    pub created_at: Timestamp,
    /// Time of the last update.
    pub updated_at: Timestamp,
}

/// The writable fields of a message.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields, remote = "Self")]
pub struct MessageBody {
    /// The text.
    pub text: MessageText,
    /// The message type; `chat` by default.
    #[serde(default = "default_type")]
    pub r#type: Label,
    /// The role of the author.
    #[serde(default)]
    pub role: Option<Label>,
    /// Internal note, hidden from the contact.
    #[serde(default)]
    pub is_backchannel: bool,
    /// Actions offered to the reader.
    #[serde(default)]
    pub actions: MessageActions,
    /// Delay before the message is displayed, in milliseconds.
    #[serde(default)]
    pub delay: Option<Millis>,
    /// Arbitrary client metadata.
    #[serde(default)]
    pub meta: JsonObject,
}

object_only!(MessageBody);

/// A new message with its conversation.
#[derive(Debug, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct NewMessage {
    /// The conversation.
    pub conversation: Id,
    /// The text.
    pub text: MessageText,
    /// The message type; `chat` by default.
    #[serde(default = "default_type")]
    pub r#type: Label,
    /// The role of the author.
    pub role: Option<Label>,
    /// Internal note, hidden from the contact.
    #[serde(default)]
    pub is_backchannel: bool,
    /// Actions offered to the reader.
    #[serde(default)]
    pub actions: MessageActions,
    /// Delay before the message is displayed, in milliseconds.
    pub delay: Option<Millis>,
    /// Arbitrary client metadata.
    #[serde(default)]
    pub meta: JsonObject,
}

impl From<NewMessage> for MessageBody {
    fn from(message: NewMessage) -> Self {
        let NewMessage { conversation: _, text, r#type, role, is_backchannel, actions, delay, meta } =
            message;
        Self { text, r#type, role, is_backchannel, actions, delay, meta }
    }
}

json_list!(
    /// Up to 100 actions offered to the reader, as free JSON objects.
    MessageActions, JsonObject, 100
);

json_column!(MessageActions);

/// The default message type.
pub(super) fn default_type() -> Label {
    Label::from_static("chat")
}

/// Empty: references between rows are declared by [`Resource::references`].
#[derive(Debug, Clone, Copy, EnumIter, DeriveRelation)]
pub enum Relation {}

impl ActiveModelBehavior for ActiveModel {}

impl AuthzResource for Message {
    const TYPE: &'static str = "Message";
    const ATTRIBUTES: &'static [SuppliedAttribute] = ATTRIBUTES;

    fn id(&self) -> Id {
        self.id
    }

    fn attributes(&self) -> Vec<(&'static str, Attribute)> {
        attributes(&self.r#type, entity(self.user), self.is_backchannel)
    }
}

supplied_attributes!(
    /// The attributes of a message, as the schema declares them.
    ATTRIBUTES = fn attributes(
        "type" kind: &Label,
        "user" user: ResourceRef<User>,
        "isBackchannel" is_backchannel: bool,
    )
);

/// The columns that the Cedar entity of a message is built from.
#[derive(Debug, FromQueryResult)]
pub struct MessageDecisionRow {
    id: Id,
    kind: Label,
    user: Id,
    is_backchannel: bool,
}

impl AuthzResource for MessageDecisionRow {
    const TYPE: &'static str = Message::TYPE;
    const ATTRIBUTES: &'static [SuppliedAttribute] = ATTRIBUTES;

    fn id(&self) -> Id {
        self.id
    }

    fn attributes(&self) -> Vec<(&'static str, Attribute)> {
        attributes(&self.kind, entity(self.user), self.is_backchannel)
    }
}

impl Resource for Message {
    type Entity = Entity;
    type DecisionRow = MessageDecisionRow;
    type Body = MessageBody;

    const FETCH_ACTION: &'static str = "fetchMessage";
    const REFERENCE_FIELDS: &'static [(&'static str, &'static str)] =
        &[("organization", "Organization"), ("conversation", "Conversation"), ("user", "User")];
    const DECISION_COLUMNS: &'static [(Column, &'static str)] = &[
        (Column::Id, "id"),
        (Column::Type, "kind"),
        (Column::User, "user"),
        (Column::IsBackchannel, "is_backchannel"),
    ];

    const READ_ONLY_FIELDS: &'static [&'static str] =
        &["id", "createdAt", "updatedAt", "organization", "conversation", "user"];

    fn examples() -> (Value, Value) {
        let creation = json!({"conversation": Id::EXAMPLE, "text": "When are you open?"});
        (creation, json!({"text": "When do you open?"}))
    }

    fn organization_column() -> Column {
        Column::Organization
    }

    fn organization(&self) -> Id {
        self.organization
    }
}

impl WritableResource for Message {}

/// A new message whose conversation the caller may access.
#[derive(Debug)]
pub struct AuthorizedMessage {
    conversation: Id,
    body: MessageBody,
    commands: Commands,
    creation: CreationInfo,
}

/// The message itself is authorized when its conversation is locked.
impl NewResource for NewMessage {
    type Resource = Message;
    type Authorized = AuthorizedMessage;

    fn parse(body: Value) -> Result<Self, Error> {
        from_value(body, "")
    }

    async fn authorize(
        self,
        authorizer: &Authorizer,
        creation: CreationInfo,
    ) -> Result<AuthorizedNew<AuthorizedMessage>, Error> {
        let id = self.conversation;
        let conversation = check_access(authorizer, Some(id), Some(CONVERSATION_FIELD)).await?;
        let body = MessageBody::from(self);
        let commands = Commands::parse(std::slice::from_ref(&body), |_| String::new())?;
        commands.apply(authorizer, &authorizer.reader(), &conversation).await?;
        let references = commands.references();
        let resource = AuthorizedMessage { conversation: id, body, commands, creation };
        Ok(AuthorizedNew { resource, owner: conversation.organization, references })
    }

    async fn lock(_: &Authorizer, work: &UnitOfWork, all: &[AuthorizedMessage]) -> Result<(), Error> {
        let conversations: Vec<Id> = all.iter().map(|message| message.conversation).collect();
        Ok(work.lock_rows::<Conversation>(&conversations).await?)
    }

    async fn store(
        authorizer: &Authorizer,
        work: &UnitOfWork,
        authorized: AuthorizedMessage,
    ) -> Result<Permitted<Message>, Error> {
        let AuthorizedMessage { conversation, body, commands, creation } = authorized;
        let stamp = (vec![creation.id], creation.now);
        let new = NewMessages { bodies: &[body], commands: &commands, field: Some(CONVERSATION_FIELD) };
        let stored = append_in(authorizer, work, conversation, new, stamp).await?;
        stored.into_iter().next().ok_or_else(|| Error::internal("no message was stored"))
    }
}

/// The field that names the conversation of a message.
const CONVERSATION_FIELD: &str = "conversation";

/// New messages of one conversation.
#[derive(Debug, Clone, Copy)]
pub(super) struct NewMessages<'a> {
    /// The messages.
    pub(super) bodies: &'a [MessageBody],
    /// The commands among them.
    pub(super) commands: &'a Commands,
    /// The field that names the conversation; none if the path does.
    pub(super) field: Option<&'static str>,
}

/// Checks that the caller may create messages in this conversation, before the transaction begins, and returns it.
///
/// # Errors
/// 404 or 403 if the conversation does not exist or is not accessible, or 400 if it is named by `field`; 403 if the caller may
/// not create messages in it; 503 if the database is unavailable.
pub(super) async fn check_access(
    authorizer: &Authorizer,
    id: Option<Id>,
    field: Option<&str>,
) -> Result<Permitted<Conversation>, Error> {
    let found = match id {
        Some(id) => authorizer.state().store.find::<Conversation>(id).await?,
        None => None,
    };
    let conversation = authorizer.authorize_reference(found, id, field)?;
    authorizer.require(conversation.path())?;
    Ok(conversation)
}

/// Creates messages in a conversation, if permitted, with the caller as author, and performs the commands among them: all or
/// none. The conversation is locked meanwhile, and gets the time of its last message.
///
/// # Errors
/// As [`check_access`]; 403 or 404 if the caller may not perform a command; 400 if a command is invalid; 413 if a message or
/// the conversation is too large.
pub(super) async fn append(
    authorizer: &Authorizer,
    conversation: &Permitted<Conversation>,
    new: NewMessages<'_>,
) -> Result<Vec<Permitted<Message>>, Error> {
    // Authorized without a lock first, then again on the locked row.
    new.commands.apply(authorizer, &authorizer.reader(), conversation).await?;
    authorizer.lookups().check_references(&authorizer.reader(), new.commands.references()).await?;
    let work = authorizer.begin().await?;
    let clock = &authorizer.state().clock;
    let stamp = (Id::new_ascending(clock, new.bodies.len()), clock.now());
    let stored = append_in(authorizer, &work, conversation.id, new, stamp).await?;
    work.commit().await?;
    Ok(stored)
}

/// Creates messages with these ids at this time within a unit of work, as [`append`].
///
/// # Errors
/// As [`append`].
async fn append_in(
    authorizer: &Authorizer,
    work: &UnitOfWork,
    conversation: Id,
    NewMessages { bodies, commands, field }: NewMessages<'_>,
    (ids, now): (Vec<Id>, Timestamp),
) -> Result<Vec<Permitted<Message>>, Error> {
    let found = work.find::<Conversation>(conversation).await?;
    let conversation = authorizer.authorize_reference(found, Some(conversation), field)?;
    let mut stored = Vec::with_capacity(bodies.len());
    for message in authorize_new_messages(authorizer, &conversation, bodies, (ids, now))? {
        stored.push(work.insert(message).await?);
    }
    let conversation = match commands.apply(authorizer, &work.reader(), &conversation).await? {
        Some(changed) => work.save(changed).await?,
        None => conversation,
    };
    // Another request may have had the lock first, or the clock of another process be ahead: neither time goes back.
    let last_message_at = conversation.last_message_at.map_or(now, |last| last.max(now));
    let times = [
        (conversations::Column::LastMessageAt, last_message_at),
        (conversations::Column::UpdatedAt, conversation.updated_at.max(now)),
    ];
    work.set_times(&conversation, &times).await?;
    Ok(stored)
}

/// Authorizes new messages of this conversation with these ids, created at this time.
///
/// # Errors
/// `forbidden` if the policies do not permit one of the messages; an internal error if a body is not an object.
pub(super) fn authorize_new_messages(
    authorizer: &Authorizer,
    conversation: &Permitted<Conversation>,
    bodies: &[MessageBody],
    (ids, now): (Vec<Id>, Timestamp),
) -> Result<Vec<Permitted<Message>>, Error> {
    let message = |(body, id): (&MessageBody, Id)| {
        let mut fields = resource::to_json_object(body)?;
        fields.insert("conversation".into(), Value::String(conversation.id.to_string()));
        fields.insert("user".into(), Value::String(authorizer.caller().id.to_string()));
        let row: Message =
            resource::build_row(&fields, CreationInfo { id, organization: conversation.organization, now })?;
        let owner_path = conversation.path();
        authorizer.authorize_new(owner_path, Unchecked::new(row, owner_path.clone()))
    };
    bodies.iter().zip(ids).map(message).collect()
}
