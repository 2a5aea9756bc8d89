//! `GET /v2/changes`: what was created, changed and deleted of the resources that the caller may list.

use super::contacts::Contact;
use super::conversations::Conversation;
use super::forms::Form;
use super::knowledge_items::KnowledgeItem;
use super::messages::Message;
use super::organization_groups::OrganizationGroup;
use super::services::Service;
use crate::application::change_feed::{FeedChange, FeedPage, FeedScope, FeedType, FeedTypes, Follower};
use crate::application::{Authorizer, Error};
use crate::http::accept::is_preferred;
use crate::http::authentication::bearer_token;
use crate::http::event_stream::{self, Disconnected, EVENT_STREAM, EventWriter};
use crate::http::openapi::OperationDoc;
use crate::http::query::parse_number;
use crate::http::{Problem, RouteGroup, WorkerState, body};
use crate::resource::organization::Organization;
use crate::resource::user::User;
use crate::store::ChangeKind;
use crate::types::{FieldErrorCode, Id, InvalidValue, Timestamp, quoted};
use actix_web::{HttpRequest, HttpResponse};
use serde::Serialize;
use serde_json::{Value, json};
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};
use utoipa::ToSchema;
use utoipa::openapi::path::{ParameterBuilder, ParameterIn, ParameterStyle};
use utoipa::openapi::schema::{ArrayBuilder, ObjectBuilder, SchemaType, Type};
use utoipa::openapi::{RefOr, Required, Schema};

/// The default and the maximum number of changes in a response.
const DEFAULT_LIMIT: u64 = 100;
const MAX_LIMIT: u64 = 1_000;
/// The maximum number of seconds that a request waits for a change.
const MAX_WAIT: u64 = 60;
/// The actions that the route authorizes in addition to its own, one for each type.
const OTHER_ACTIONS: &[&str] = &[
    "listContacts",
    "listForms",
    "listKnowledgeItems",
    "listMessages",
    "listOrganizationGroups",
    "listOrganizations",
    "listServices",
    "listUsers",
];

/// The routes.
pub fn routes() -> RouteGroup {
    RouteGroup::new("Changes", "/v2/changes")
        .about("What was created, changed and deleted, for clients that keep a copy or show it live.")
        .get("", "listConversations", doc, changes)
        .with_operation_id("listChanges")
        .additional_actions(OTHER_ACTIONS)
        .without_head()
}

/// The types of the feed.
fn feed_types() -> Vec<FeedType> {
    vec![
        FeedType::new::<Organization>("organizations", "listOrganizations"),
        FeedType::new::<OrganizationGroup>("orggroups", "listOrganizationGroups"),
        FeedType::new::<User>("users", "listUsers"),
        FeedType::new::<Conversation>("conversations", "listConversations"),
        FeedType::new::<Message>("messages", "listMessages"),
        FeedType::new::<Contact>("contacts", "listContacts"),
        FeedType::new::<KnowledgeItem>("kbitems", "listKnowledgeItems"),
        FeedType::new::<Form>("forms", "listForms"),
        FeedType::new::<Service>("services", "listServices"),
    ]
}

/// A change of a resource.
#[derive(Debug, Serialize, ToSchema)]
#[schema(as = Change)]
struct ChangeView {
    /// The cursor after this change.
    cursor: String,
    /// The type of the resource: the name of its path, such as `messages`.
    r#type: &'static str,
    /// What happened. A resource that was created and changed is reported once, as created.
    change: ChangeKind,
    /// The id of the resource.
    id: Id,
    /// When it happened, by the clock of the database.
    time: Timestamp,
    /// The resource as it is now; absent if it was deleted.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(value_type = Object, required = false)]
    resource: Option<Value>,
}

impl From<FeedChange> for ChangeView {
    fn from(change: FeedChange) -> Self {
        let FeedChange { cursor, type_name, id, kind, time, resource } = change;
        Self { cursor, r#type: type_name, change: kind, id, time, resource }
    }
}

/// Changes in their order.
#[derive(Debug, Serialize, ToSchema)]
#[serde(rename_all = "camelCase")]
struct ChangesPage {
    /// The changes.
    changes: Vec<ChangeView>,
    /// The cursor to continue from: the parameter `after` of the next request.
    cursor: String,
    /// Whether more changes may follow now.
    has_more: bool,
}

/// Why a stream of events ended.
#[derive(Debug, Serialize)]
struct EndView<'a> {
    code: &'a str,
    detail: &'a str,
}

/// How a stream of events ends.
#[derive(Debug)]
enum Ended {
    /// The client has disconnected.
    Disconnected,
    /// The service shuts down.
    ShutDown,
    /// The credential has ended, the caller may no longer list the types, or the database is unavailable.
    Failed(Error),
}

/// The parameters.
#[derive(Debug)]
struct ChangesQuery {
    types: FeedTypes,
    limit: u64,
    wait: u64,
    after: Option<String>,
}

impl ChangesQuery {
    fn parse(request: &HttpRequest) -> Result<Self, Problem> {
        let types = FeedTypes { types: feed_types(), is_explicit: false };
        let mut query = Self { types, limit: DEFAULT_LIMIT, wait: 0, after: None };
        let (mut errors, mut seen) = (Vec::new(), Vec::new());
        for (name, text) in body::query_pairs(request)? {
            let set = if seen.contains(&name) {
                Err(InvalidValue::new(FieldErrorCode::Duplicate, "duplicate parameter".to_owned()))
            } else {
                query.set(&name, &text)
            };
            if let Err(error) = set {
                errors.push(crate::http::FieldError::new(name.clone(), error.code, error));
            }
            seen.push(name);
        }
        if errors.is_empty() { Ok(query) } else { Err(Problem::invalid_fields(errors)) }
    }

    fn set(&mut self, name: &str, text: &str) -> Result<(), InvalidValue> {
        match name {
            "types" => self.types = parse_types(text)?,
            "limit" => self.limit = parse_number(text, 1, MAX_LIMIT)?,
            "wait" => self.wait = parse_number(text, 0, MAX_WAIT)?,
            "after" => self.after = Some(text.to_owned()),
            _ => {
                let message = "unknown parameter; expected one of after, limit, types, wait";
                return Err(InvalidValue::new(FieldErrorCode::UnknownField, message.to_owned()));
            }
        }
        Ok(())
    }
}

fn parse_types(text: &str) -> Result<FeedTypes, InvalidValue> {
    let all = feed_types();
    let mut types: Vec<FeedType> = Vec::new();
    for name in text.split(',') {
        let Some(found) = all.iter().find(|feed_type| feed_type.name == name) else {
            let names: Vec<&str> = all.iter().map(|feed_type| feed_type.name).collect();
            let message = format!("expected some of {}, got {}", names.join(","), quoted(name));
            return Err(InvalidValue::new(FieldErrorCode::UnknownValue, message));
        };
        if types.iter().any(|feed_type| feed_type.name == name) {
            return Err(InvalidValue::new(
                FieldErrorCode::Duplicate,
                format!("duplicate type {}", quoted(name)),
            ));
        }
        types.push(*found);
    }
    Ok(FeedTypes { types, is_explicit: true })
}

fn doc() -> OperationDoc {
    let example = json!({
        "changes": [
            {"cursor": "AAAAAAAAAAAB", "type": "forms", "change": "deleted", "id": "599e1fcd9da1c72645c95886", "time": "2026-01-31T12:00:00.000Z"}
        ],
        "cursor": "AAAAAAAAAAAB",
        "hasMore": false
    });
    let number = |name: &str, description: &str, (min, max, default): (u64, u64, u64)| {
        let schema = ObjectBuilder::new()
            .schema_type(SchemaType::Type(Type::Integer))
            .minimum(Some(min))
            .maximum(Some(max))
            .default(Some(json!(default)));
        parameter(name, description, schema).build()
    };
    let names: Vec<&str> = feed_types().iter().map(|feed_type| feed_type.name).collect();
    let name = ObjectBuilder::new().schema_type(SchemaType::Type(Type::String)).enum_values(Some(names));
    let types = parameter(
        "types",
        "The types of the resources; by default all that the caller may list.",
        ArrayBuilder::new().items(name).min_items(Some(1)),
    );
    let text = ObjectBuilder::new().schema_type(SchemaType::Type(Type::String)).max_length(Some(200));
    OperationDoc::new("List changes")
        .describe(
            "The changes after a cursor, in the order in which they were committed, of the resources that the caller may list. \
             Each resource is reported once in a page, as it is now; of a deleted one, only its type and id. Without `after`, \
             the response has no changes, and the cursor of the present. With `Accept: text/event-stream`, changes are sent as \
             events as they happen. docs/changes.md describes how to keep a copy.",
        )
        .parameter(parameter("after", "The cursor of the last response, or of a change in it.", text).build())
        .parameter(types.explode(Some(false)).style(Some(ParameterStyle::Form)).build())
        .parameter(number("limit", "The maximum number of changes.", (1, MAX_LIMIT, DEFAULT_LIMIT)))
        .parameter(number(
            "wait",
            "For how many seconds to wait for a change if there is none after the cursor.",
            (0, MAX_WAIT, 0),
        ))
        .response::<ChangesPage>(200, "The changes.", Some(example))
        .event_stream(200)
        .problems(&[400, 404, 410])
}

fn parameter(name: &str, description: &str, schema: impl Into<RefOr<Schema>>) -> ParameterBuilder {
    ParameterBuilder::new()
        .name(name)
        .parameter_in(ParameterIn::Query)
        .required(Required::False)
        .description(Some(description))
        .schema(Some(schema))
}

/// `GET /v2/changes`.
async fn changes(authorizer: Authorizer, request: HttpRequest) -> Result<HttpResponse, Problem> {
    let query = ChangesQuery::parse(&request)?;
    let scope = FeedScope::authorize(&authorizer, &query.types, true).await?;
    let is_stream = is_preferred(&request, EVENT_STREAM);
    let last_event = if is_stream { event_stream::last_event_id(&request)? } else { None };
    let (field, cursor) = match last_event {
        Some(id) => ("Last-Event-ID", Some(id)),
        None => ("after", query.after),
    };
    let feed = &authorizer.state().change_feed;
    let after = match &cursor {
        Some(cursor) => feed.position(&authorizer, field, cursor).await?,
        None => authorizer.state().store.last_change().await?,
    };
    let state = WorkerState::from_request(&request)?;
    let place = match is_stream || (query.wait > 0 && cursor.is_some()) {
        true => Some(feed.admit(authorizer.caller().id)?),
        false => None,
    };
    let token = bearer_token(&request)?.ok_or_else(Problem::missing_bearer)?.into();
    let bounds = (query.limit, state.http.config.list_max_bytes);
    let mut follower = Follower::new(authorizer, token, (query.types, scope), after, bounds);
    if is_stream {
        // Before the response begins, so that its error has a status.
        follower.subscribe().await?;
        let (writer, response) = event_stream::event_stream(&request);
        let state = state.clone();
        actix_web::rt::spawn(async move {
            // Ends when the client has disconnected.
            let _ = follow(follower, &writer, &state).await;
            drop(place);
        });
        return Ok(response);
    }
    let page = match (&cursor, place) {
        (None, _) => FeedPage { changes: Vec::new(), end: after, has_more: false },
        (Some(_), None) => follower.read().await?,
        (Some(_), Some(_place)) => wait_for_changes(&mut follower, query.wait, state).await?,
    };
    let cursor = follower.cursor().await?;
    let changes = page.changes.into_iter().map(ChangeView::from).collect();
    Ok(HttpResponse::Ok().json(ChangesPage { changes, cursor, has_more: page.has_more }))
}

/// Returns the next page that has changes, or an empty one after `seconds`.
async fn wait_for_changes(
    follower: &mut Follower,
    seconds: u64,
    state: &WorkerState,
) -> Result<FeedPage, Error> {
    let until = Instant::now() + Duration::from_secs(seconds);
    follower.subscribe().await?;
    loop {
        let page = follower.read().await?;
        if !page.changes.is_empty() || page.has_more || Instant::now() >= until {
            return Ok(page);
        }
        if is_shutting_down(state) {
            return Ok(page);
        }
        follower.wait(until, || is_shutting_down(state)).await?;
    }
}

fn is_shutting_down(state: &WorkerState) -> bool {
    state.http.is_shutting_down.load(Ordering::Relaxed)
}

/// Sends changes as events until the client disconnects, its credential ends, or it may no longer list the types.
async fn follow(
    mut follower: Follower,
    writer: &EventWriter,
    state: &WorkerState,
) -> Result<(), Disconnected> {
    let ended = tokio::select! {
        ended = send_changes(&mut follower, writer, state) => ended,
        () = writer.closed() => Ended::Disconnected,
    };
    match ended {
        Ended::Disconnected => Err(Disconnected),
        Ended::ShutDown => {
            let detail = "The service shuts down. Connect again.";
            writer.event("end", None, &EndView { code: "shutting_down", detail }).await
        }
        Ended::Failed(error) => {
            writer.event("end", None, &EndView { code: error.code, detail: &error.message }).await
        }
    }
}

async fn send_changes(follower: &mut Follower, writer: &EventWriter, state: &WorkerState) -> Ended {
    match try_send_changes(follower, writer, state).await {
        Ok(ended) => ended,
        Err(error) => Ended::Failed(error),
    }
}

async fn try_send_changes(
    follower: &mut Follower,
    writer: &EventWriter,
    state: &WorkerState,
) -> Result<Ended, Error> {
    let heartbeat = Duration::from_secs(state.app.request_config.changes_heartbeat);
    let id = follower.cursor().await?;
    if writer.begin(&id).await.is_err() {
        return Ok(Ended::Disconnected);
    }
    let mut next_heartbeat = Instant::now() + heartbeat;
    loop {
        if is_shutting_down(state) {
            return Ok(Ended::ShutDown);
        }
        let page = follower.read().await?;
        let is_empty = page.changes.is_empty();
        for change in page.changes {
            let view = ChangeView::from(change);
            if writer.event("change", Some(&view.cursor), &view).await.is_err() {
                return Ok(Ended::Disconnected);
            }
        }
        if !is_empty {
            next_heartbeat = Instant::now() + heartbeat;
        } else if Instant::now() >= next_heartbeat {
            let id = follower.cursor().await?;
            if writer.heartbeat(&id).await.is_err() {
                return Ok(Ended::Disconnected);
            }
            next_heartbeat = Instant::now() + heartbeat;
        }
        if !page.has_more {
            follower.wait(next_heartbeat, || is_shutting_down(state)).await?;
        }
    }
}
