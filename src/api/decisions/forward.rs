//! Forward authentication: decides whether a proxy may forward a request.
//!
//! The response is a status and headers, for nginx (`auth_request`), Traefik (ForwardAuth), Caddy (`forward_auth`) and Envoy
//! (HTTP ext_authz).

use super::evaluation::{self, ResolvedResource};
use crate::application::Authorizer;
use crate::application::subjects::EntityRef;
use crate::authz::{AuthzRequest, DecisionRecorder, ResourceEntity};
use crate::http::forward_auth::{
    EVALUATION_ID, HEADER_PAIRS, OriginalRequest, PATH, POLICY_VERSION, ResourceRef, RouteMatch, SCOPE,
    USER_ID,
};
use crate::http::openapi::{self, OperationDoc};
use crate::http::{FieldError, Problem, RouteGroup, WorkerState, authenticate};
use crate::telemetry;
use crate::types::{EvaluationId, FieldErrorCode, OrgPath};
use actix_web::http::StatusCode;
use actix_web::http::header;
use actix_web::{HttpRequest, HttpResponse};
use serde_json::Map;
use std::sync::Arc;
use utoipa::openapi::schema::Type;

/// The route. Envoy appends the path of the original request.
pub fn routes() -> RouteGroup {
    RouteGroup::new("Decisions", PATH)
        .alias("/v2/authorize/forward/{rest:.*}")
        .all_methods("", "evaluateAccess", doc, forward)
        .with_operation_id("forward")
        .additional_actions(&["referTo"])
}

fn doc() -> OperationDoc {
    let mut doc = OperationDoc::new("Authorize a forwarded request").describe(
        "For proxies, before they forward a request. Its method and path are mapped to an action on a resource by the \
         routes in the file `CEDARGATE_FORWARD_ROUTES`, and by the routes of this service if that file has `own = true`. \
         A request that matches no route is denied. One of the pairs of headers, or the rest of the path, names the \
         original request; if several do, they must agree. Every method is accepted, and `OPTIONS` is decided like any \
         other. Every response has the headers `X-User-Id`, `X-Scope`, `X-Policy-Version` and `X-Evaluation-Id`, empty if there is no value.",
    );
    let mut documented = Vec::new();
    for (method, address) in HEADER_PAIRS {
        if !documented.contains(&method) {
            documented.push(method);
            doc = doc.parameter(openapi::header_parameter(
                method,
                "The method of the original request.",
                "GET",
            ));
        }
        let is_url = address.ends_with("URL");
        let (what, example) = if is_url {
            (
                "The absolute URL or the path of the original request, with the query string.",
                "https://api.example.com/v2/users/me",
            )
        } else {
            ("The path of the original request, with the query string.", "/v2/users/me")
        };
        doc = doc.parameter(openapi::header_parameter(address, what, example));
    }
    doc.empty_response(200, "Request is authorized.")
        .response_header(200, "X-User-Id", Type::String, "The user id of the caller; empty if the route is public.")
        .response_header(
            200,
            "X-Scope",
            Type::String,
            "The effective scopes of the caller, ascending and space-delimited; empty if the route is public.",
        )
        .response_header(
            200,
            "X-Policy-Version",
            Type::String,
            "The policy version of the decision; empty if the route is public.",
        )
        .response_header(
            200,
            "X-Evaluation-Id",
            Type::String,
            "The id of the evaluation, as in the decision log; empty if the route is public.",
        )
}

/// `GET /v2/authorize/forward`.
async fn forward(request: HttpRequest, action: &'static str) -> Result<HttpResponse, Problem> {
    // Proxies treat 401 and 403 as a denial, and 429 and 5xx as "no decision". Every other error becomes a 403.
    let is_passed_through = |status: StatusCode| {
        [StatusCode::UNAUTHORIZED, StatusCode::TOO_MANY_REQUESTS].contains(&status)
            || !status.is_client_error()
    };
    authorize(&request, action).await.map_err(|problem| match is_passed_through(problem.status) {
        true => problem,
        false => Problem { status: StatusCode::FORBIDDEN, ..problem },
    })
}

async fn authorize(request: &HttpRequest, action: &'static str) -> Result<HttpResponse, Problem> {
    let original = OriginalRequest::from_request(request, PATH);
    let route_table = &WorkerState::from_request(request)?.http.forward_auth;
    let route_match = original.as_ref().ok().and_then(|original| route_table.find(original));
    if route_match == Some(RouteMatch::Public) {
        // The credential is not checked: an expired token must not block the login.
        return Ok(HttpResponse::Ok().insert_header((header::CACHE_CONTROL, "no-store")).finish());
    }
    let authorizer = authenticate(request, action).await?;
    let user = authorizer.caller().id.to_string();
    let scopes = authorizer.caller().scopes.as_ref().map(ToString::to_string).unwrap_or_default();
    let version = authorizer.engine().bundle().version();
    match decide(&authorizer, action, original, route_match).await {
        Ok(evaluation_id) => Ok(HttpResponse::Ok()
            .insert_header((header::CACHE_CONTROL, "no-store"))
            .insert_header((USER_ID, user))
            .insert_header((SCOPE, scopes))
            .insert_header((POLICY_VERSION, version))
            .insert_header((EVALUATION_ID, evaluation_id.to_string()))
            .finish()),
        Err(problem) => Err(problem
            .with_header(USER_ID, user)
            .with_header(SCOPE, scopes)
            .with_header(POLICY_VERSION, version)
            .with_header(
                EVALUATION_ID,
                telemetry::denied_evaluation().map_or_else(String::new, |id| id.to_string()),
            )),
    }
}

/// Decides whether the caller may use this endpoint, and whether it may perform the action of the original request. Returns the
/// id of the evaluation.
///
/// # Errors
/// A problem unless both are permitted.
async fn decide(
    authorizer: &Authorizer,
    action: &'static str,
    original: Result<OriginalRequest, FieldError>,
    route_match: Option<RouteMatch>,
) -> Result<EvaluationId, Problem> {
    let prerequisite = authorizer.for_prerequisite(action);
    require(&prerequisite, EvaluationId::generate(), action, ResourceRef::Caller, &[]).await?;
    let original = original.map_err(invalid_forwarded_request)?;
    let Some(RouteMatch::Authorize { action, resource: of }) = route_match else {
        return Err(forbidden("no_such_route", "No route matches the forwarded request."));
    };
    let evaluation_id = EvaluationId::generate();
    require(authorizer, evaluation_id, &action, of, &original.parameters("organization")).await?;
    Ok(evaluation_id)
}

/// 403: the forwarded request is invalid or ambiguous.
fn invalid_forwarded_request(error: FieldError) -> Problem {
    let detail = format!("Invalid forwarded request: {}: {}.", error.field, error.message);
    Problem { errors: vec![error], ..forbidden("invalid_forwarded_request", detail) }
}

/// 403: the forwarded request cannot be decided.
fn forbidden(code: &'static str, detail: impl Into<String>) -> Problem {
    Problem::new(StatusCode::FORBIDDEN, code, detail)
}

/// Requires that the caller may perform the action. `organizations` are the values of that query parameter.
///
/// # Errors
/// 403 with the reasons; 503 if the database is unavailable.
async fn require(
    authorizer: &Authorizer,
    evaluation_id: EvaluationId,
    action: &str,
    of: ResourceRef,
    organizations: &[String],
) -> Result<(), Problem> {
    let (kind, id) = named_resource(authorizer, &of, organizations)?;
    let none = Map::new();
    let entity_ref = EntityRef { kind, id: &id, properties: &none };
    let target = resolve_target(authorizer, &of, organizations, entity_ref).await?;
    // The action is evaluated on the owning organization, also if the resource does not exist.
    let kind = if matches!(of, ResourceRef::OwnerOrganization(_)) { "Organization" } else { kind };
    let entity_ref = EntityRef { kind, ..entity_ref };
    let request_context = authorizer.request_context();
    let principal = &authorizer.caller().principal;
    let ask = AuthzRequest {
        principal,
        action,
        context: &request_context,
        recorder: Some(DecisionRecorder {
            evaluation_id: Some(evaluation_id),
            ..authorizer.decision_recorder()
        }),
    };
    if evaluation::decide(authorizer.engine(), &ask, &target, entity_ref, None).answer.allowed {
        return Ok(());
    }
    let resource = match &target {
        ResolvedResource::Found(resource) => Some(&**resource),
        ResolvedResource::NotFound | ResolvedResource::Invalid(_) => None,
    };
    Err(authorizer.forbidden_forwarded(action, kind, resource).into())
}

/// Returns the type and the id of the resource that a route names.
fn named_resource<'a>(
    authorizer: &Authorizer,
    of: &'a ResourceRef,
    organizations: &[String],
) -> Result<(&'a str, String), Problem> {
    let home = &authorizer.caller().organization;
    Ok(match (of, organizations) {
        (ResourceRef::Resource(reference) | ResourceRef::OwnerOrganization(reference), _)
            if reference.resolves_me && reference.id == "me" =>
        {
            (reference.kind.as_str(), authorizer.caller().id.to_string())
        }
        (ResourceRef::Resource(reference) | ResourceRef::OwnerOrganization(reference), _) => {
            (reference.kind.as_str(), reference.id.clone())
        }
        (ResourceRef::Caller, _) => ("User", authorizer.caller().id.to_string()),
        (ResourceRef::Organization, [one]) => ("Organization", one.clone()),
        (ResourceRef::Organization, [_, _, ..]) => {
            return Err(invalid_forwarded_request(FieldError::new(
                "organization",
                FieldErrorCode::Duplicate,
                "the query parameter of the forwarded request is sent more than once",
            )));
        }
        (ResourceRef::Organization, []) | (ResourceRef::Root, _) => {
            ("Organization", home.org_id().to_string())
        }
    })
}

/// Resolves the resource that a route names, or the organization on which the action is evaluated.
///
/// # Errors
/// The database is unavailable.
async fn resolve_target(
    authorizer: &Authorizer,
    of: &ResourceRef,
    organizations: &[String],
    entity_ref: EntityRef<'_>,
) -> Result<ResolvedResource, Problem> {
    let org_target = |path: &OrgPath| ResolvedResource::Found(Arc::new(ResourceEntity::organization(path)));
    Ok(match (of, organizations) {
        (ResourceRef::Organization, []) => org_target(&authorizer.caller().organization),
        (ResourceRef::Root, _) => match authorizer.state().store.root().await? {
            Some(root) => org_target(&root),
            None => ResolvedResource::NotFound,
        },
        (ResourceRef::OwnerOrganization(_), _) => {
            match evaluation::resolve_resource(authorizer, entity_ref).await? {
                ResolvedResource::Found(resource) => {
                    resource.organization_path().map_or(ResolvedResource::NotFound, org_target)
                }
                other => other,
            }
        }
        _ => evaluation::resolve_resource(authorizer, entity_ref).await?,
    })
}
