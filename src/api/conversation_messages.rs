//! The messages of one conversation: list and create.

use super::commands::{self, Commands};
use super::conversations::Conversation;
use super::messages::{self, Message, MessageActions, MessageBody, NewMessages as AppendedMessages};
use crate::application::creation::parse_elements;
use crate::application::fields::{element_label, from_value};
use crate::application::{Authorizer, Error, FieldError};
use crate::authz::{AuthorizedOrgs, Permitted};
use crate::http::base_url::absolute_url;
use crate::http::crud;
use crate::http::entity_tag::reject_preconditions;
use crate::http::export::ListAccess;
use crate::http::openapi::{self, OperationDoc};
use crate::http::query::ListSpec;
use crate::http::query::list_request::ListScope;
use crate::http::{Json, PathId, Problem, RouteGroup};
use crate::store::{Filter, FilterValue};
use crate::types::{FieldErrorCode, Id, JsonObject, Label, MessageText, Millis, object_only};
use actix_web::http::header;
use actix_web::{HttpRequest, HttpResponse};
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};
use std::sync::Arc;
use utoipa::openapi::schema::{ArrayBuilder, Schema, Type};
use utoipa::openapi::{Ref, RefOr};
use utoipa::{PartialSchema, ToSchema};

/// The route of the messages of one conversation.
pub fn routes() -> RouteGroup {
    let spec = Arc::new(ListSpec::for_resource::<Message>());
    let documented = Arc::clone(&spec);
    RouteGroup::new("Messages", "/v2/conversations")
        .post("/{id}/messages", "createMessage", append_doc, append)
        .idempotent()
        .with_operation_id("createMessages")
        .additional_actions(commands::ACTIONS)
        .get(
            "/{id}/messages",
            "listMessages",
            move || list_messages_doc(&documented),
            move |authorizer, arguments| list_messages(authorizer, arguments, Arc::clone(&spec)),
        )
        .parses_query()
        .with_operation_id("listConversationMessages")
        .additional_actions(&["referTo"])
}

/// A new message of the conversation in the path.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields, remote = "Self")]
#[schema(example = json!({"text": "Hello"}))]
pub struct ConversationMessage {
    /// The conversation. It must be that of the path.
    #[serde(default)]
    pub conversation: Option<Id>,
    /// The text.
    pub text: MessageText,
    /// The message type; `chat` by default.
    #[serde(default = "messages::default_type")]
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

object_only!(ConversationMessage);

impl From<ConversationMessage> for MessageBody {
    fn from(message: ConversationMessage) -> Self {
        let ConversationMessage { conversation: _, text, r#type, role, is_backchannel, actions, delay, meta } =
            message;
        Self { text, r#type, role, is_backchannel, actions, delay, meta }
    }
}

/// The OpenAPI schema of one message or several.
#[derive(Debug)]
struct NewMessages;

impl PartialSchema for NewMessages {
    fn schema() -> RefOr<Schema> {
        let one = || Ref::from_schema_name(ConversationMessage::name());
        let several = ArrayBuilder::new().items(one()).min_items(Some(1)).max_items(Some(1000));
        utoipa::openapi::OneOfBuilder::new()
            .description(Some("One message or several."))
            .item(one())
            .item(several)
            .into()
    }
}

impl ToSchema for NewMessages {
    fn schemas(schemas: &mut Vec<(String, RefOr<Schema>)>) {
        schemas.push((ConversationMessage::name().into_owned(), ConversationMessage::schema()));
        ConversationMessage::schemas(schemas);
    }
}

/// One message or several.
#[derive(Debug, ToSchema)]
#[serde(untagged)]
#[expect(dead_code, clippy::large_enum_variant, reason = "only the OpenAPI document uses it")]
enum StoredMessages {
    One(Message),
    More(Vec<Message>),
}

fn append_doc() -> OperationDoc {
    OperationDoc::new("Create messages in a conversation")
        .describe(
            "One message, or an array of at most 1000, stored atomically. The response has the same form.\n\n\
             A message of the type `command` changes the conversation, if the caller may perform the command: `/set key value` \
             (a value in `meta`), `/set @field value` (`name`, `category` or `status`), `/assign` (the users in `meta.users`), \
             `/accept`, `/join` and `/leave` (the caller). docs/commands.md describes them.",
        )
        .path_id("id", "The id of the conversation.")
        .body::<NewMessages>(Some(json!({"text": "Hello"})))
        .response::<StoredMessages>(201, "The new message, or an array of the new messages.", None)
        .response_header(
            201,
            "Location",
            Type::String,
            "The URL of the new message, or of the list of messages of the conversation.",
        )
        .response_header(201, "ETag", Type::String, "The version of the message. Absent for an array.")
        .problems(&[404, 409])
}

/// `POST /v2/conversations/{id}/messages`.
async fn append(
    authorizer: Authorizer,
    (request, id, Json(body)): (HttpRequest, PathId, Json<Value>),
) -> Result<HttpResponse, Problem> {
    let conversation = messages::check_access(&authorizer, authorizer.resolve_id(&id.0), None).await?;
    reject_preconditions(&request)?;
    let is_list = body.is_array();
    let parse = |body| parse_message(body, conversation.id);
    let new = match body {
        Value::Array(bodies) => parse_elements(bodies, parse)?,
        body => vec![parse(body)?],
    };
    let path = |index: usize| if is_list { element_label(index) } else { String::new() };
    let bodies: Vec<MessageBody> = new.into_iter().map(MessageBody::from).collect();
    let commands = Commands::parse(&bodies, path)?;
    let appended = AppendedMessages { bodies: &bodies, commands: &commands, field: None };
    let stored = messages::append(&authorizer, &conversation, appended).await?;
    Ok(match stored.as_slice() {
        [one] if !is_list => crud::created_at(&request, &format!("/v2/messages/{}", one.id), one),
        all => HttpResponse::Created()
            .insert_header((
                header::LOCATION,
                absolute_url(&request, &format!("/v2/messages?conversation={}", conversation.id)),
            ))
            .json(all),
    })
}

/// Parses a message, which may name its conversation.
///
/// # Errors
/// Invalid fields, or another conversation.
fn parse_message(body: Value, conversation: Id) -> Result<ConversationMessage, Error> {
    let message: ConversationMessage = from_value(body, "")?;
    match message.conversation.filter(|named| *named != conversation) {
        Some(named) => {
            let text = format!("expected {conversation}, the conversation in the path, got {named}");
            let mismatch = FieldError::new("conversation", FieldErrorCode::Mismatch, text);
            Err(Error::invalid_fields(vec![mismatch]))
        }
        None => Ok(message),
    }
}

fn list_messages_doc(spec: &ListSpec) -> OperationDoc {
    openapi::list::<Message>(spec)
        .describe(
            "The messages of the conversation, as `GET /v2/messages?conversation=…` returns them; with `Accept: \
             application/x-ndjson` all of them, one a line.",
        )
        .path_id("id", "The id of the conversation.")
}

/// `GET /v2/conversations/{id}/messages`.
async fn list_messages(
    authorizer: Authorizer,
    (request, id): (HttpRequest, PathId),
    spec: Arc<ListSpec>,
) -> Result<HttpResponse, Problem> {
    let id = authorizer.resolve_id(&id.0);
    let access = ConversationAccess { scope: ListScope::of(&request), id };
    crud::list_with::<Message, _>(authorizer, request, &spec, access).await
}

/// The messages of one conversation, to which the caller may refer.
struct ConversationAccess {
    scope: ListScope,
    /// The id of the conversation; none if it is malformed.
    id: Option<Id>,
}

impl ListAccess for ConversationAccess {
    async fn authorize(&self, authorizer: &Authorizer) -> Result<Permitted<AuthorizedOrgs>, Problem> {
        let within = self.scope.authorize(authorizer).await?;
        let found = match self.id {
            Some(id) => authorizer.state().store.find::<Conversation>(id).await?,
            None => None,
        };
        authorizer.authorize_reference(found, self.id, None)?;
        Ok(within)
    }

    fn filters(&self) -> Vec<Filter> {
        let id = self.id.map(|id| Filter::equal("conversation", FilterValue::Text(id.to_string())));
        id.into_iter().collect()
    }
}
