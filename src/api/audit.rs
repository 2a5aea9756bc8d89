//! The audit trail, read: what happened to credentials, users, organizations and policies.

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
    RouteGroup::new("Audit trail", "/v2/audit").get(
        "",
        "listAuditEvents",
        move || list_doc(&documented),
        move |authorizer, request| list(authorizer, request, Arc::clone(&fields)),
    )
}

fn list_doc(fields: &[ListField]) -> OperationDoc {
    openapi::list_doc::<AuditEvent>(
        OperationDoc::new("List the events of the audit trail").describe(
            "Those of an organization, the caller's if none is named, and of what stood below it at that time. Those of no \
             organization, such as a change of the policies, are seen from the root only. By `seq`, or from the newest on with \
             `sort=-seq`.",
        ),
        fields,
    )
}

/// Something that happened.
#[derive(Debug, Serialize, ToSchema)]
#[serde(rename_all = "camelCase")]
struct AuditEvent {
    /// 1, 2, 3 and so on, over all organizations.
    seq: i64,
    /// When.
    time: Timestamp,
    /// What happened.
    #[schema(value_type = Event)]
    event: String,
    /// What came of it.
    #[schema(value_type = Outcome)]
    outcome: String,
    /// The user on whose behalf; none where it was the service itself, the terminal, or nobody who is known.
    #[schema(value_type = Option<Id>)]
    actor: Option<String>,
    /// With what kind of credential: `password` for a login and its access tokens, `refreshToken`, `apiKey` or `terminal`.
    credential: Option<String>,
    /// With which session or API key.
    #[schema(value_type = Option<Id>)]
    credential_id: Option<String>,
    /// To a `User` or an `Organization`.
    subject_type: Option<String>,
    /// To which one.
    #[schema(value_type = Option<Id>)]
    subject: Option<String>,
    /// The organization of which it is an event.
    #[schema(value_type = Option<Id>)]
    organization: Option<String>,
    /// Where that stood then.
    #[schema(value_type = Option<OrgPath>)]
    path: Option<String>,
    /// From which address.
    #[schema(examples("192.0.2.7"))]
    address: Option<String>,
    /// In which request: its `X-Request-ID`.
    request_id: Option<String>,
    /// What else there is to say of it.
    #[schema(value_type = Object)]
    details: Value,
    /// The hash of the event before it.
    previous: String,
    /// Its own hash, SHA-256 in hex.
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
            subject_type: row.subject_type,
            subject: row.subject,
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

/// By what it can be filtered, and by `seq` sorted.
fn fields() -> Vec<ListField> {
    let field = |name: &str, schema: RefOr<Schema>, what: &'static str| {
        let column = if name == "requestId" { "request" } else { name };
        ListField { is_sortable: name == "seq", ..ListField::new(name, column, schema, what) }
    };
    let request_id = string_schema("").min_length(Some(1)).max_length(Some(128));
    vec![
        field("organization", Id::schema(), "The organization that is asked about, with all below it."),
        field("seq", i64::schema(), ListField::EXACT_MATCH),
        field("event", Event::schema(), ListField::EXACT_MATCH),
        field("outcome", Outcome::schema(), ListField::EXACT_MATCH),
        field("actor", Id::schema(), ListField::EXACT_MATCH),
        field("subject", Id::schema(), ListField::EXACT_MATCH),
        field("requestId", request_id.into(), ListField::EXACT_MATCH),
        field("from", Timestamp::schema(), "Only those that happened then or later."),
        field("to", Timestamp::schema(), "Only those that happened before."),
    ]
}

/// `GET /v2/audit`.
async fn list(
    authorizer: Authorizer,
    request: HttpRequest,
    fields: Arc<Vec<ListField>>,
) -> Result<HttpResponse, Problem> {
    let authorized_orgs = authorizer.authorized_subtree(list::organization(&request).as_deref()).await?;
    let mut wanted = ListRequest::parse(&request, &fields)?;
    // It selects the subtree that the list is about, which is more than the events of that very organization.
    wanted.query.filters.retain(|(column, _)| column != "organization");
    let Page { items, total } = authorizer.state().store.audit_rows(&authorized_orgs, &wanted.query).await?;
    let mut page = PageWriter::new(&request)?;
    let taken = items.into_iter().map(AuditEvent::from).take_while(|event| page.push(event)).count();
    let listed = ListResult { total, item_count: u64::try_from(taken).unwrap_or(u64::MAX) };
    list::list_response(&request, &wanted, page, listed)
}
