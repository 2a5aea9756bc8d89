//! Messages of a conversation.

use super::conversations::Conversation;
use super::users::User;
use crate::application::{Authorizer, Error};
use crate::authz::{Attribute, AuthzResource, Permitted, Unchecked, boolean, entity, text};
use crate::http::{Json, Problem, RouteGroup, crud, openapi};
use crate::resource::{self, CreationInfo, Resource};
use crate::types::{Id, JsonObject, Label, LongText, Millis, Timestamp, json_list, object_only};
use actix_web::{HttpRequest, HttpResponse};
use sea_orm::FromQueryResult;
use sea_orm::entity::prelude::*;
use serde::{Deserialize, Serialize};
use serde_json::Value;
use utoipa::ToSchema;

/// The routes.
pub fn routes() -> RouteGroup {
    RouteGroup::for_resource::<Message>("Messages", "/v2/messages")
        .list::<Message>("listMessages")
        .fetch::<Message>()
        .post("", "createMessage", openapi::create::<Message, NewMessage>, create)
        .additional_actions(&["referTo"])
        .update::<Message>("updateMessage")
        .delete::<Message>("deleteMessage")
}

/// A message.
pub type Message = Model;

/// A message.
#[derive(Clone, Debug, PartialEq, DeriveEntityModel, Serialize, Deserialize, ToSchema)]
#[sea_orm(table_name = "messages")]
#[serde(rename_all = "camelCase")]
#[schema(as = Message)]
pub struct Model {
    /// The message.
    #[sea_orm(primary_key, auto_increment = false)]
    pub id: Id,
    /// The organization that holds it: that of its conversation.
    pub organization: Id,
    /// The conversation that it belongs to.
    pub conversation: Id,
    /// What it says.
    pub text: LongText,
    /// What kind of message it is.
    pub r#type: Label,
    /// As what its writer wrote it.
    pub role: Option<Label>,
    /// Who wrote it.
    pub user: Id,
    /// Whether it is not for the contact's eyes.
    pub is_backchannel: bool,
    /// What the reader may do with it.
    pub actions: MessageActions,
    /// How many milliseconds to wait before it is shown.
    pub delay: Option<Millis>,
    /// Whatever else.
    pub meta: JsonObject,
    /// When it was made.
    pub created_at: Timestamp,
    /// When it was last changed.
    pub updated_at: Timestamp,
}

/// What a client writes of a message.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields, remote = "Self")]
pub struct MessageBody {
    /// What it says.
    pub text: LongText,
    /// What kind of message it is: `chat` if nothing is said.
    #[serde(default = "default_type")]
    pub r#type: Label,
    /// As what its writer writes it.
    #[serde(default)]
    pub role: Option<Label>,
    /// Whether it is not for the contact's eyes.
    #[serde(default)]
    pub is_backchannel: bool,
    /// What the reader may do with it.
    #[serde(default)]
    pub actions: MessageActions,
    /// How many milliseconds to wait before it is shown.
    #[serde(default)]
    pub delay: Option<Millis>,
    /// Whatever else.
    #[serde(default)]
    pub meta: JsonObject,
}

object_only!(MessageBody);

/// A new message, and the conversation that it belongs to.
#[derive(Debug, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct NewMessage {
    /// The conversation that it belongs to.
    pub conversation: Id,
    /// What it says.
    pub text: LongText,
    /// What kind of message it is: `chat` if nothing is said.
    #[serde(default = "default_type")]
    pub r#type: Label,
    /// As what its writer writes it.
    pub role: Option<Label>,
    /// Whether it is not for the contact's eyes.
    #[serde(default)]
    pub is_backchannel: bool,
    /// What the reader may do with it.
    #[serde(default)]
    pub actions: MessageActions,
    /// How many milliseconds to wait before it is shown.
    pub delay: Option<Millis>,
    /// Whatever else.
    #[serde(default)]
    pub meta: JsonObject,
}

json_list!(
    /// What the reader of a message may do with it: free objects, at most 100.
    MessageActions, JsonObject, 100
);

fn default_type() -> Label {
    Label::from_static("chat")
}

/// What its rows are related to is said by [`Resource::references`].
#[derive(Debug, Clone, Copy, EnumIter, DeriveRelation)]
pub enum Relation {}

impl ActiveModelBehavior for ActiveModel {}

impl AuthzResource for Message {
    const TYPE: &'static str = "Message";

    fn id(&self) -> Id {
        self.id
    }

    fn attributes(&self) -> Vec<(&'static str, Attribute)> {
        attributes(&self.r#type, self.user, self.is_backchannel)
    }
}

/// The attributes of a message, as the schema declares them.
fn attributes(kind: &Label, user: Id, is_backchannel: bool) -> Vec<(&'static str, Attribute)> {
    vec![("type", text(kind)), ("user", entity::<User>(user)), ("isBackchannel", boolean(is_backchannel))]
}

/// The columns of a message from which its Cedar entity is built.
#[derive(Debug, FromQueryResult)]
pub struct MessageDecisionRow {
    id: Id,
    kind: Label,
    user: Id,
    is_backchannel: bool,
}

impl AuthzResource for MessageDecisionRow {
    const TYPE: &'static str = Message::TYPE;

    fn id(&self) -> Id {
        self.id
    }

    fn attributes(&self) -> Vec<(&'static str, Attribute)> {
        attributes(&self.kind, self.user, self.is_backchannel)
    }
}

impl Resource for Message {
    type Entity = Entity;
    type DecisionRow = MessageDecisionRow;
    type Body = MessageBody;

    const FETCH_ACTION: &'static str = "fetchMessage";
    const DECISION_COLUMNS: &'static [(Column, &'static str)] = &[
        (Column::Id, "id"),
        (Column::Type, "kind"),
        (Column::User, "user"),
        (Column::IsBackchannel, "is_backchannel"),
    ];

    const READ_ONLY_FIELDS: &'static [&'static str] =
        &["id", "createdAt", "updatedAt", "organization", "conversation", "user"];

    fn organization_column() -> Column {
        Column::Organization
    }

    fn organization(&self) -> Id {
        self.organization
    }
}

/// `POST /v2/messages`.
async fn create(
    authorizer: Authorizer,
    (request, Json(new)): (HttpRequest, Json<NewMessage>),
) -> Result<HttpResponse, Problem> {
    let (id, field) = (Some(new.conversation), Some("conversation"));
    check_access(&authorizer, id, field).await?;
    let (_, stored) = append(&authorizer, id, field, &[new]).await?;
    let row = stored.first().ok_or_else(|| Problem::internal("one message made none"))?;
    Ok(crud::created(&request, row.id, row))
}

/// Whether the caller may write messages in this conversation: asked before anybody is kept waiting.
pub(super) async fn check_access(
    authorizer: &Authorizer,
    id: Option<Id>,
    field: Option<&str>,
) -> Result<(), Problem> {
    let found = match id {
        Some(id) => authorizer.state().store.find::<Conversation>(id).await?,
        None => None,
    };
    let conversation = authorizer.authorize_reference(found, id, field)?;
    if authorizer.is_permitted_in(conversation.path()) {
        Ok(())
    } else {
        Err(Problem::forbidden("createMessage"))
    }
}

/// Writes messages in a conversation, all of them or none, if the caller may: their writer is the caller. The
/// conversation stays where it is until they are written.
pub(super) async fn append(
    authorizer: &Authorizer,
    id: Option<Id>,
    field: Option<&str>,
    bodies: &[impl Serialize],
) -> Result<(Id, Vec<Permitted<Message>>), Problem> {
    let work = authorizer.begin().await?;
    let found = match id {
        Some(id) => work.find::<Conversation>(id).await?,
        None => None,
    };
    let conversation = authorizer.authorize_reference(found, id, field)?;
    let mut stored = Vec::with_capacity(bodies.len());
    for message in authorize_new_messages(authorizer, &conversation, bodies)? {
        stored.push(work.insert(message).await?);
    }
    work.commit().await?;
    Ok((conversation.id, stored))
}

/// New messages of this conversation, if the caller may create them: listed in their order, since their ids ascend.
pub(super) fn authorize_new_messages(
    authorizer: &Authorizer,
    conversation: &Permitted<Conversation>,
    bodies: &[impl Serialize],
) -> Result<Vec<Permitted<Message>>, Error> {
    let stamp = crud::creation_info(authorizer, conversation.organization);
    let ids = Id::new_ascending(&authorizer.state().clock, bodies.len());
    let message = |(body, id): (_, Id)| {
        let mut fields = resource::to_json_object(body)?;
        fields.insert("conversation".into(), Value::String(conversation.id.to_string()));
        fields.insert("user".into(), Value::String(authorizer.caller().id.to_string()));
        let row: Message = resource::build_row(&fields, CreationInfo { id, ..stamp })?;
        let owner_path = conversation.path();
        authorizer.authorize_new(owner_path, Unchecked::new(row, owner_path.clone()))
    };
    bodies.iter().zip(ids).map(message).collect()
}
