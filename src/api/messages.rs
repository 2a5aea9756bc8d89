//! Messages of a conversation.

use super::conversations::Conversation;
use super::users::User;
use crate::authz::{Attribute, Permitted, Thing, Undecided, boolean, entity, text};
use crate::http::{Gate, Json, Problem, Routes, crud, openapi};
use crate::resource::{self, Resource, Stamp};
use crate::values::{Id, JsonObject, Label, LongText, Millis, Timestamp, json_list, object_only};
use actix_web::{HttpRequest, HttpResponse};
use sea_orm::FromQueryResult;
use sea_orm::entity::prelude::*;
use serde::{Deserialize, Serialize};
use serde_json::Value;
use utoipa::ToSchema;

/// The routes.
pub fn routes() -> Routes {
    Routes::of::<Message>("Messages", "/v2/messages")
        .list::<Message>("listMessages")
        .fetch::<Message>()
        .post("", "createMessage", openapi::create::<Message, NewMessage>, create)
        .also(&["referTo"])
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
    #[serde(default = "chat")]
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
    #[serde(default = "chat")]
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

fn chat() -> Label {
    Label::fixed("chat")
}

/// What its rows are related to is said by [`Resource::references`].
#[derive(Debug, Clone, Copy, EnumIter, DeriveRelation)]
pub enum Relation {}

impl ActiveModelBehavior for ActiveModel {}

impl Thing for Message {
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

impl Thing for MessageDecisionRow {
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

    const FETCH: &'static str = "fetchMessage";
    const DECISION_COLUMNS: &'static [(Column, &'static str)] = &[
        (Column::Id, "id"),
        (Column::Type, "kind"),
        (Column::User, "user"),
        (Column::IsBackchannel, "is_backchannel"),
    ];

    const READ_ONLY: &'static [&'static str] =
        &["id", "createdAt", "updatedAt", "organization", "conversation", "user"];

    fn holder_column() -> Column {
        Column::Organization
    }

    fn organization(&self) -> Id {
        self.organization
    }
}

/// `POST /v2/messages`.
async fn create(
    gate: Gate,
    (request, Json(new)): (HttpRequest, Json<NewMessage>),
) -> Result<HttpResponse, Problem> {
    let (id, field) = (Some(new.conversation), Some("conversation"));
    reached(&gate, id, field).await?;
    let (_, stored) = append(&gate, id, field, &[new]).await?;
    let row = stored.first().ok_or_else(|| Problem::internal("one message made none"))?;
    Ok(crud::created(&request, row.id, row))
}

/// Whether the caller may write messages in this conversation: asked before anybody is kept waiting.
pub(super) async fn reached(gate: &Gate, id: Option<Id>, field: Option<&str>) -> Result<(), Problem> {
    let thing = match id {
        Some(id) => gate.parts().store.find::<Conversation>(id).await?,
        None => None,
    };
    let conversation = gate.reach(thing, id, field)?;
    if gate.allows(conversation.path()) { Ok(()) } else { Err(Problem::forbidden("createMessage")) }
}

/// Writes messages in a conversation, all of them or none, if the caller may: their writer is the caller. The
/// conversation stays where it is until they are written.
pub(super) async fn append(
    gate: &Gate,
    id: Option<Id>,
    field: Option<&str>,
    bodies: &[impl Serialize],
) -> Result<(Id, Vec<Permitted<Message>>), Problem> {
    let work = gate.begin().await?;
    let thing = match id {
        Some(id) => work.find::<Conversation>(id).await?,
        None => None,
    };
    let conversation = gate.reach(thing, id, field)?;
    let mut stored = Vec::with_capacity(bodies.len());
    for message in permitted(gate, &conversation, bodies)? {
        stored.push(work.insert(message).await?);
    }
    work.commit().await?;
    Ok((conversation.id, stored))
}

/// New messages of this conversation, if the caller may create them: listed in their order, since their ids ascend.
pub(super) fn permitted(
    gate: &Gate,
    conversation: &Permitted<Conversation>,
    bodies: &[impl Serialize],
) -> Result<Vec<Permitted<Message>>, Problem> {
    let stamp = crud::stamp(gate, conversation.organization);
    let ids = Id::ascending(&gate.parts().clock, bodies.len());
    let message = |(body, id): (_, Id)| {
        let mut fields = resource::object(body)?;
        fields.insert("conversation".into(), Value::String(conversation.id.to_string()));
        fields.insert("user".into(), Value::String(gate.caller().id.to_string()));
        let row: Message = resource::compose(&fields, Stamp { id, ..stamp })?;
        let holder = conversation.path();
        gate.decide_new(holder, Undecided::new(row, holder.clone()))
    };
    bodies.iter().zip(ids).map(message).collect()
}
