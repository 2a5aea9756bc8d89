//! Reading the audit log: events about credentials, users, organizations and policies.

use crate::application::Authorizer;
use crate::authz::{AuthorizedOrgs, Permitted};
use crate::http::accept::{NDJSON, is_preferred};
use crate::http::authentication::authenticate_again;
use crate::http::export::{self, Batch, ExportSource, ItemLimit};
use crate::http::list;
use crate::http::openapi::{self, OperationDoc};
use crate::http::query::list_request::organization_in_query;
use crate::http::query::{ListRequest, ListSpec, QueryField};
use crate::http::{FieldError, Problem, RouteGroup};
use crate::store::{AuditRow, Comparison, Event, Field, Filter, FilterValue, Outcome, SortOrder, Test};
use crate::types::{FieldErrorCode, Id, OrgPath, Timestamp, string_schema};
use actix_web::{HttpRequest, HttpResponse};
use serde::Serialize;
use serde_json::Value;
use std::sync::Arc;
use utoipa::openapi::RefOr;
use utoipa::openapi::schema::Schema;
use utoipa::{PartialSchema, ToSchema};

/// The routes.
pub fn routes() -> RouteGroup {
    let spec = Arc::new(ListSpec::plain(fields()));
    let documented = Arc::clone(&spec);
    let list = move |authorizer, request| list(authorizer, request, Arc::clone(&spec));
    RouteGroup::new("Audit log", "/v2/audit")
        .about("Who administered what, in a chain of hashes.")
        .get("", "listAuditEvents", move || list_doc(&documented), list)
        .parses_query()
}

fn list_doc(spec: &ListSpec) -> OperationDoc {
    openapi::list_doc::<AuditEvent>(
        OperationDoc::new("List audit events").describe(
            "Events of an organization, by default the caller's, and of the organizations that were below it at the time. Events \
             without an organization, such as policy reloads, are visible from the root only. Sorted by `seq`; `sort=-seq` \
             returns the newest first. With `Accept: application/x-ndjson` the whole list is streamed, one event a line.",
        ),
        spec,
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
fn fields() -> Vec<QueryField> {
    let field = |name: &str, schema: RefOr<Schema>, what: &'static str| {
        let column = if name == "requestId" { "request" } else { name };
        QueryField { is_sortable: name == "seq", ..QueryField::column(name, column, schema, what) }
    };
    let request_id = string_schema("").min_length(Some(1)).max_length(Some(128));
    vec![
        field("organization", Id::schema(), "The organization, including those below it."),
        field("seq", i64::schema(), ""),
        field("event", Event::schema(), ""),
        field("outcome", Outcome::schema(), ""),
        field("actor", Id::schema(), ""),
        field("target", Id::schema(), ""),
        field("requestId", request_id.into(), ""),
        field("from", Timestamp::schema(), "Only events at or after this time."),
        field("to", Timestamp::schema(), "Only events before this time."),
    ]
}

/// Returns the filter on the column `time` for `from` and `to`; others are returned as they are.
///
/// # Errors
/// 400 if `from` or `to` has an operator.
fn time_filter(filter: Filter) -> Result<Filter, Problem> {
    let (name, comparison) = match &filter.field {
        Field::Column(name) if name == "from" => ("from", Comparison::GreaterOrEqual),
        Field::Column(name) if name == "to" => ("to", Comparison::Less),
        _ => return Ok(filter),
    };
    if let Filter { test: Test::OneOf { values, or_null: false }, is_negated: false, .. } = &filter
        && let [time @ FilterValue::Time(_)] = values.as_slice()
    {
        return Ok(Filter::compare("time", comparison, time.clone()));
    }
    let error = FieldError::new(name, FieldErrorCode::UnknownOperator, "expected a time without an operator");
    Err(Problem::invalid_fields(vec![error]))
}

fn set_time_filters(list_request: &mut ListRequest) -> Result<(), Problem> {
    let filters = std::mem::take(&mut list_request.query.filters);
    list_request.query.filters = filters.into_iter().map(time_filter).collect::<Result<_, _>>()?;
    Ok(())
}

/// The export of the audit log.
struct AuditExport {
    request: HttpRequest,
    organization: Option<String>,
    /// The authorization of the first batch.
    first: Option<(Authorizer, Permitted<AuthorizedOrgs>)>,
    list_request: ListRequest,
    limit: ItemLimit,
    /// The sequence number of the last event of the batch before.
    last: Option<i64>,
}

impl ExportSource for AuditExport {
    async fn write_batch(&mut self, batch: &mut Batch) -> Result<bool, Problem> {
        let (authorizer, within) = match self.first.take() {
            Some(first) => first,
            None => {
                let authorizer = authenticate_again(&self.request, "listAuditEvents").await?;
                let within = authorizer.lookups().authorized_subtree(self.organization.as_deref()).await?;
                (authorizer, within)
            }
        };
        let mut query = self.list_request.query.clone();
        query.limit = self.limit.of_batch();
        if let Some(last) = self.last {
            let is_descending = query.sort.first().is_some_and(|key| key.order == SortOrder::Descending);
            let comparison = if is_descending { Comparison::Less } else { Comparison::Greater };
            query.filters.push(Filter::compare("seq", comparison, FilterValue::Integer(last)));
            query.offset = 0;
        }
        let rows = authorizer.state().store.uncounted_audit_rows(&within, &query).await?;
        let count = u64::try_from(rows.len()).unwrap_or(u64::MAX);
        self.last = rows.last().map(|row| row.seq).or(self.last);
        for row in rows {
            batch.push(&AuditEvent::from(row))?;
        }
        Ok(self.limit.count(count) && count == query.limit)
    }
}

/// `GET /v2/audit`.
async fn list(
    authorizer: Authorizer,
    request: HttpRequest,
    spec: Arc<ListSpec>,
) -> Result<HttpResponse, Problem> {
    // What is no id is rejected when the query string is parsed.
    let organization = organization_in_query(&request);
    let authorized_orgs = authorizer.lookups().authorized_subtree(organization.as_deref()).await?;
    if is_preferred(&request, NDJSON) {
        let (mut list_request, limit) = export::parse_request(&request, &spec)?;
        set_time_filters(&mut list_request)?;
        let first = Some((authorizer, authorized_orgs));
        let source =
            AuditExport { request: request.clone(), organization, first, list_request, limit, last: None };
        return export::respond(&request, source).await;
    }
    let mut wanted = ListRequest::parse(&request, &spec)?;
    set_time_filters(&mut wanted)?;
    let page = authorizer.state().store.audit_rows(&authorized_orgs, &wanted.query).await?;
    list::table_response(&request, &wanted, page.map(AuditEvent::from))
}
