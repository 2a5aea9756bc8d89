//! Reading the audit log: events about credentials, users, organizations and policies.

use crate::application::Authorizer;
use crate::http::list::{self, ListField, ListRequest};
use crate::http::openapi::{self, OperationDoc};
use crate::http::page::PageWriter;
use crate::http::{Problem, RouteGroup};
use crate::store::{AuditRow, Event, ListResult, Outcome, Page};
use crate::types::{Id, OrgPath, Timestamp, string_schema};
use actix_web::{HttpRequest, HttpResponse};
use serde::Serialize;
use serde_json::Value;
use std::sync::Arc;
use utoipa::openapi::RefOr;
use utoipa::openapi::schema::Schema;
use utoipa::{PartialSchema, ToSchema};

/// The routes.
pub fn routes() -> RouteGroup {
    let fields = Arc::new(fields());
    let documented = Arc::clone(&fields);
    RouteGroup::new("Audit log", "/v2/audit").about("Who administered what, in a chain of hashes.").get(
        "",
        "listAuditEvents",
        move || list_doc(&documented),
        move |authorizer, request| list(authorizer, request, Arc::clone(&fields)),
    )
}

fn list_doc(fields: &[ListField]) -> OperationDoc {
    openapi::list_doc::<AuditEvent>(
        OperationDoc::new("List audit events").describe(
            "Events of an organization, by default the caller's, and of the organizations that were below it at the time. Events \
             without an organization, such as policy reloads, are visible from the root only. Sorted by `seq`; `sort=-seq` \
             returns the newest first.",
        ),
        fields,
    )
}

/// An audit event.
#[derive(Debug, Serialize, ToSchema)]
#[serde(rename_all = "camelCase")]
struct AuditEvent {
    /// The sequence number, consecutive from 1 over all organizations.
    seq: i64,
    /// Time of the event.
    time: Timestamp,
    /// The kind of event.
    #[schema(value_type = Event)]
    event: String,
    /// The outcome.
    #[schema(value_type = Outcome)]
    outcome: String,
    /// The acting user; null for the service itself, the command line and unauthenticated clients.
    #[schema(value_type = Option<Id>)]
    actor: Option<String>,
    /// The kind of credential: `session` for a login and its access tokens, `refreshToken`, `apiKey` or `terminal`.
    credential: Option<String>,
    /// The id of the session or API key.
    #[schema(value_type = Option<Id>)]
    credential_id: Option<String>,
    /// The type of the target: `User` or `Organization`.
    target_type: Option<String>,
    /// The id of the target.
    #[schema(value_type = Option<Id>)]
    target: Option<String>,
    /// The organization that the event belongs to.
    #[schema(value_type = Option<Id>)]
    organization: Option<String>,
    /// The path of that organization at the time of the event.
    #[schema(value_type = Option<OrgPath>)]
    path: Option<String>,
    /// The IP address of the client.
    #[schema(examples("192.0.2.7"))]
    address: Option<String>,
    /// The `X-Request-ID` of the request.
    request_id: Option<String>,
    /// Further details, by kind of event.
    #[schema(value_type = Object)]
    details: Value,
    /// The hash of the previous event.
    previous: String,
    /// The hash of this event: SHA-256 in hex.
    hash: String,
}

impl From<AuditRow> for AuditEvent {
    fn from(row: AuditRow) -> Self {
        Self {
            seq: row.seq,
            time: row.time,
            event: row.event,
            outcome: row.outcome,
            actor: row.actor,
            credential: row.credential,
            credential_id: row.credential_id,
            target_type: row.target_type,
            target: row.target,
            organization: row.organization,
            path: row.path,
            address: row.address,
            request_id: row.request,
            details: serde_json::from_str(&row.details).unwrap_or_default(),
            previous: row.previous,
            hash: row.hash,
        }
    }
}

/// The filters; only `seq` is sortable.
fn fields() -> Vec<ListField> {
    let field = |name: &str, schema: RefOr<Schema>, what: &'static str| {
        let column = if name == "requestId" { "request" } else { name };
        ListField { is_sortable: name == "seq", ..ListField::new(name, column, schema, what) }
    };
    let request_id = string_schema("").min_length(Some(1)).max_length(Some(128));
    vec![
        field("organization", Id::schema(), "The organization, including those below it."),
        field("seq", i64::schema(), ListField::EXACT_MATCH),
        field("event", Event::schema(), ListField::EXACT_MATCH),
        field("outcome", Outcome::schema(), ListField::EXACT_MATCH),
        field("actor", Id::schema(), ListField::EXACT_MATCH),
        field("target", Id::schema(), ListField::EXACT_MATCH),
        field("requestId", request_id.into(), ListField::EXACT_MATCH),
        field("from", Timestamp::schema(), "Only events at or after this time."),
        field("to", Timestamp::schema(), "Only events before this time."),
    ]
}

/// `GET /v2/audit`.
async fn list(
    authorizer: Authorizer,
    request: HttpRequest,
    fields: Arc<Vec<ListField>>,
) -> Result<HttpResponse, Problem> {
    let authorized_orgs =
        authorizer.lookups().authorized_subtree(list::organization(&request).as_deref()).await?;
    let mut wanted = ListRequest::parse(&request, &fields)?;
    // `organization` selects a subtree, not only the events of that organization.
    wanted.query.filters.retain(|(column, _)| column != "organization");
    let Page { items, total } = authorizer.state().store.audit_rows(&authorized_orgs, &wanted.query).await?;
    let mut page = PageWriter::new(&request)?;
    let taken = items.into_iter().map(AuditEvent::from).take_while(|event| page.push(event)).count();
    let listed = ListResult { total, item_count: u64::try_from(taken).unwrap_or(u64::MAX) };
    list::list_response(&request, &wanted, page, listed)
}
