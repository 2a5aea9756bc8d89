//! Filters: which resources of a type a subject may perform an action on, as an expression for the client's own database.

use super::authzen_body::AuthzenJson;
use super::authzen_evaluation::{Action, Subject};
use super::evaluation::{DecisionError, POLICY_VERSION, merge_client_context};
use super::filter_format::{Format, Rendered};
use super::filter_organizations::Organizations;
use super::filter_schema::{FilterNode, SqlCondition, UcastNode};
use super::question_names::{SearchNames, SearchedPart, check_context};
use crate::application::Authorizer;
use crate::application::subjects::{ResolvedSubject, SubjectResolver};
use crate::authz::AuthzRequest;
use crate::authz::filter::{Filter, FilterError, FilterExpr};
use crate::http::openapi::OperationDoc;
use crate::http::{FieldError, Problem};
use crate::store::table_filter::{ColumnMap, InvalidColumn, NotExpressible, SqlDialect};
use crate::types::{EvaluationId, FieldErrorCode, Term, null_as_default, object_only};
use actix_web::http::{StatusCode, header};
use actix_web::{HttpRequest, HttpResponse};
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value, json};
use std::collections::BTreeMap;
use std::time::Instant;
use utoipa::ToSchema;
use utoipa::openapi::schema::Type;

/// The maximum number of columns of a map.
const MAX_COLUMNS: usize = 1_000;

/// The type of the resources.
#[derive(Debug, Clone, Deserialize, ToSchema)]
#[serde(remote = "Self")]
struct ResourceType {
    /// A Cedar entity type: `Docs::Document`.
    r#type: Term,
}

object_only!(ResourceType, read);

/// A request for a filter.
#[derive(Debug, Clone, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
#[schema(example = json!({
    "subject": {"type": "User", "id": "me"},
    "action": {"name": "fetchConversation"},
    "resource": {"type": "Conversation"},
    "columns": {"resource": "id", "resource in Organization": "organization_id", "organization": "organization_id"}
}))]
pub(super) struct FilterRequest {
    subject: Subject,
    action: Action,
    resource: ResourceType,
    /// Request context for policies.
    #[serde(default, deserialize_with = "null_as_default")]
    #[schema(value_type = Option<Object>)]
    context: Map<String, Value>,
    /// For SQL and UCAST, the columns of the attributes that the filter reads: `owner` or `profile.city`; `resource` is the id
    /// of the resource, and `resource in T` the id of its parent of the type `T`, or null if it has none. A column is a name
    /// such as `owner_id` or `documents.owner_id`.
    #[serde(default, deserialize_with = "null_as_default")]
    #[schema(value_type = Option<Object>)]
    columns: Map<String, Value>,
}

/// A filter.
#[derive(Debug, Serialize, ToSchema)]
#[serde(rename_all = "camelCase")]
struct FilterAnswer {
    /// `always`: every resource of the type. `never`: none. `when`: those for which `filter` is true.
    #[schema(value_type = FilterKind)]
    kind: &'static str,
    /// The condition; null if the kind says all.
    #[schema(value_type = Option<FilterNode>)]
    filter: Option<Value>,
    /// The version of the policies.
    policy_version: String,
    /// The id of the evaluation, as in the decision log.
    #[serde(rename = "evaluation_id")]
    #[schema(value_type = String)]
    evaluation_id: EvaluationId,
}

/// How many resources a filter permits.
#[derive(ToSchema)]
#[schema(rename_all = "lowercase")]
#[expect(dead_code, reason = "only the OpenAPI document uses it")]
enum FilterKind {
    Always,
    Never,
    When,
}

/// A filter as conditions of UCAST.
#[derive(ToSchema)]
#[schema(rename_all = "camelCase")]
#[expect(dead_code, reason = "only the OpenAPI document uses it")]
struct UcastFilterAnswer {
    /// `always`: every resource of the type. `never`: none. `when`: those for which `filter` is true.
    kind: FilterKind,
    /// The condition; null if the kind says all.
    #[schema(value_type = Option<UcastNode>)]
    filter: Option<UcastNode>,
    /// The version of the policies.
    policy_version: String,
    /// The id of the evaluation, as in the decision log.
    #[schema(rename = "evaluation_id")]
    evaluation_id: String,
}

/// A filter as a condition of SQL.
#[derive(ToSchema)]
#[schema(rename_all = "camelCase")]
#[expect(dead_code, reason = "only the OpenAPI document uses it")]
struct SqlFilterAnswer {
    /// `always`: every resource of the type. `never`: none. `when`: those for which `filter` is true.
    kind: FilterKind,
    /// The condition, whatever the kind.
    filter: SqlCondition,
    /// The version of the policies.
    policy_version: String,
    /// The id of the evaluation, as in the decision log.
    #[schema(rename = "evaluation_id")]
    evaluation_id: String,
}

/// The example of an answer with this condition.
fn example(filter: Value) -> Value {
    json!({
        "kind": "when",
        "filter": filter,
        "policyVersion": "9f2c4a7be01d",
        "evaluation_id": "7d0f8a3e5b2c4d6e91a0b3c4d5e6f708"
    })
}

pub(super) fn filter_doc() -> OperationDoc {
    let organization = "599e1fcd9da1c72645c95885";
    let tree = json!({
        "type": "in",
        "entity": {"path": []},
        "entities": [{"type": "Organization", "id": organization}]
    });
    let ucast =
        json!({ "type": "field", "operator": "eq", "field": "organization_id", "value": organization });
    let sql = |dialect: &str, parameter: &str| {
        let sql = format!("(\"organization_id\" = {parameter})");
        json!({ "dialect": dialect, "sql": sql, "parameters": [organization] })
    };
    let [postgres, sqlite] =
        [SqlDialect::Postgres, SqlDialect::Sqlite].map(|dialect| Format::Sql(dialect).media_type());
    OperationDoc::new("Filter resources")
        .describe(
            "Returns a condition that is true for exactly the resources of a type on which the subject may perform the \
             action, so that a service can select them in its own database with one query. `Accept` selects the form: \
             `application/json`, an expression tree; `application/vnd.cedargate.ucast+json`, conditions of UCAST; \
             `application/vnd.cedargate.sql.postgresql+json` and `application/vnd.cedargate.sql.sqlite+json`, SQL with bound \
             parameters, which needs `columns`. A policy that cannot be translated, and an attribute without a column, are \
             422 and are named. Subjects are resolved and authorized as in an evaluation.",
        )
        .body::<FilterRequest>(None)
        .response::<FilterAnswer>(200, "The filter.", Some(example(tree)))
        .or_response::<UcastFilterAnswer>(200, Format::Ucast.media_type(), example(ucast))
        .or_response::<SqlFilterAnswer>(200, postgres, example(sql("postgresql", "$1")))
        .or_response::<SqlFilterAnswer>(200, sqlite, example(sql("sqlite", "?1")))
        .response_header(200, "X-Policy-Version", Type::String, "The policy version of the filter.")
        .problems(&[406, 422])
}

/// `POST /access/v1/filter`.
///
/// # Errors
/// 400 for unknown names and invalid columns, 403 if the caller may not evaluate the subject, 406 for another form, 422 for what
/// cannot be translated.
pub(super) async fn filter(
    authorizer: Authorizer,
    (request, AuthzenJson(body)): (HttpRequest, AuthzenJson<FilterRequest>),
) -> Result<HttpResponse, Problem> {
    let format = requested_format(&request)?;
    let columns = parse_columns(&body.columns)?;
    let kind = body.resource.r#type.as_str();
    let (subject_type, _) = body.subject.type_and_id();
    let action_name = body.action.name.as_str();
    let names = SearchNames {
        subject: SearchedPart::Type(subject_type),
        action: Some((action_name, &body.action.properties)),
        resource: SearchedPart::Type(kind),
        context: &body.context,
    };
    names.check(&authorizer)?;
    let engine = authorizer.engine();
    let name = engine.resolve_action(action_name, kind);
    let evaluation_id = EvaluationId::generate();
    let recorder = authorizer.question_recorder(evaluation_id);
    let start = Instant::now();
    let filter = match SubjectResolver::for_questions(&authorizer).resolve(body.subject.selector()).await {
        Ok(ResolvedSubject { principal, context }) => {
            let request_context = merge_client_context(context, &body.action.properties, &body.context);
            check_context(engine, &[name], &request_context)?;
            let ask = AuthzRequest {
                principal: &principal,
                action: name,
                context: &request_context,
                recorder: None,
            };
            permitted(&authorizer, &ask, kind)?
        }
        // As a subject about which nothing is allowed.
        Err(error) => {
            DecisionError::from_subject(&authorizer, error)?;
            Filter::Never
        }
    };
    let filter = match filter {
        Filter::When(expr) if format != Format::Tree && authorizer.state().resource_types.contains(kind) => {
            let organizations = Organizations::read(&authorizer.reader(), &expr).await?;
            Filter::from_expr(organizations.map_err(|error| not_expressible(&error))?.expand(&expr))
        }
        other => other,
    };
    let kind_name = match &filter {
        Filter::Always => "always",
        Filter::Never => "never",
        Filter::When(_) => "when",
    };
    let rendered = Rendered { columns: &columns, kind, ancestor_types: &engine.ancestor_types(kind) };
    let answer = FilterAnswer {
        kind: kind_name,
        filter: rendered.render(&filter, format).map_err(|error| not_expressible(&error))?,
        policy_version: engine.bundle().version().to_owned(),
        evaluation_id,
    };
    let subject = body.subject.type_and_id();
    recorder.record_filter(subject, name, (kind, kind_name), engine.version_json(), start.elapsed());
    Ok(HttpResponse::Ok()
        .insert_header((header::CONTENT_TYPE, format.media_type()))
        .insert_header((header::VARY, "Accept"))
        .insert_header((POLICY_VERSION, engine.bundle().version()))
        .json(answer))
}

/// The resources that an evaluation would allow: of the service's own types, only those to which the caller may refer.
fn permitted(authorizer: &Authorizer, ask: &AuthzRequest<'_>, kind: &str) -> Result<Filter, Problem> {
    let engine = authorizer.engine();
    let filter = translated(engine.filter(ask, kind))?;
    if filter == Filter::Never || !authorizer.state().resource_types.contains(kind) {
        return Ok(filter);
    }
    let context = authorizer.request_context();
    let refer = AuthzRequest {
        principal: &authorizer.caller().principal,
        action: "referTo",
        context: &context,
        recorder: None,
    };
    let referenceable = translated(engine.filter(&refer, kind))?;
    Ok(Filter::from_expr(FilterExpr::and([filter.into_expr(), referenceable.into_expr()])))
}

/// The filter; one that permits nothing for a question that cannot be evaluated, which an evaluation would deny.
fn translated(filter: Result<Filter, FilterError>) -> Result<Filter, Problem> {
    let refused = |detail: String| Problem::new(StatusCode::UNPROCESSABLE_ENTITY, "untranslatable", detail);
    match filter {
        Ok(filter) => Ok(filter),
        Err(FilterError::Failed(reason)) => {
            tracing::debug!(reason, "request cannot be filtered: nothing is permitted");
            Ok(Filter::Never)
        }
        Err(FilterError::Untranslatable(policies)) => {
            let errors = policies.iter().map(|refused| {
                let message = format!("{}: {}", refused.refusal.expression, refused.refusal.reason);
                FieldError::new(
                    format!("policies.{}", refused.policy),
                    FieldErrorCode::Untranslatable,
                    message,
                )
            });
            let errors = errors.collect();
            let detail = "These policies cannot be translated to a filter. Evaluate the resources instead.";
            Err(Problem { errors, ..refused(detail.to_owned()) })
        }
        Err(error @ (FilterError::TooManyStored(_) | FilterError::StoredValue { .. })) => {
            Err(refused(format!("The filter cannot be translated: {error}.")))
        }
    }
}

fn not_expressible(error: &NotExpressible) -> Problem {
    match error {
        NotExpressible::MissingColumns(keys) => {
            let errors = keys.iter().map(|key| {
                FieldError::new(format!("columns.{key}"), FieldErrorCode::Required, "the filter reads it")
            });
            let errors = errors.collect();
            let detail = "The filter reads attributes for which no column is given.";
            Problem { errors, ..Problem::new(StatusCode::UNPROCESSABLE_ENTITY, "missing_columns", detail) }
        }
        NotExpressible::Unsupported(reason) => {
            let detail = format!("The filter has no such form: {reason}.");
            Problem::new(StatusCode::UNPROCESSABLE_ENTITY, "unsupported_filter", detail)
        }
    }
}

fn parse_columns(columns: &Map<String, Value>) -> Result<ColumnMap, Problem> {
    if columns.len() > MAX_COLUMNS {
        let message = format!("expected at most {MAX_COLUMNS} columns, got {}", columns.len());
        return Err(Problem::invalid_field("columns", FieldErrorCode::TooManyItems, message));
    }
    let mut names: BTreeMap<&str, Option<&str>> = BTreeMap::new();
    for (key, name) in columns {
        let name = match name {
            Value::String(name) => Some(name.as_str()),
            Value::Null => None,
            _ => {
                let message = "expected the name of a column";
                return Err(Problem::invalid_field(
                    format!("columns.{key}"),
                    FieldErrorCode::InvalidType,
                    message,
                ));
            }
        };
        names.insert(key, name);
    }
    ColumnMap::parse(names).map_err(|InvalidColumn { key, reason }| {
        Problem::invalid_field(format!("columns.{key}"), FieldErrorCode::InvalidFormat, reason)
    })
}

/// The form that the client prefers; the tree if it accepts anything.
fn requested_format(request: &HttpRequest) -> Result<Format, Problem> {
    let values = request.headers().get_all(header::ACCEPT).filter_map(|value| value.to_str().ok());
    let accepted: Vec<&str> = values.flat_map(|value| value.split(',')).map(str::trim).collect();
    if accepted.iter().all(|range| range.is_empty()) {
        return Ok(Format::Tree);
    }
    let mut best: Option<(f32, Format)> = None;
    for range in accepted {
        let mut parts = range.split(';').map(str::trim);
        let media_type = parts.next().unwrap_or_default();
        let quality = parts.find_map(|part| part.strip_prefix("q=")?.parse::<f32>().ok()).unwrap_or(1.0);
        let Some(format) = Format::accepted_by(media_type).filter(|_| quality > 0.0) else { continue };
        if best.is_none_or(|(known, _)| quality > known) {
            best = Some((quality, format));
        }
    }
    best.map(|(_, format)| format).ok_or_else(|| {
        let names = Format::ALL.map(Format::media_type).join(", ");
        let detail = format!("The filter has the forms {names}.");
        Problem::new(StatusCode::NOT_ACCEPTABLE, "not_acceptable", detail)
    })
}
