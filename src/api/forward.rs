//! Forward authentication: decides whether the bearer of a request may send it on. Answers with a status and headers
//! only, for nginx (`auth_request`), Traefik (ForwardAuth), Caddy (`forward_auth`) and Envoy (HTTP ext_authz).

use super::evaluation::{self, EntityRef, ResolvedResource};
use crate::application::Authorizer;
use crate::authz::{AuthzRequest, ResourceEntity};
use crate::http::forward_auth::{
    HEADER_PAIRS, OriginalRequest, PATH, POLICY_VERSION, ResourceRef, RouteMatch, SCOPE, USER_ID,
};
use crate::http::openapi::{self, OperationDoc};
use crate::http::{Problem, RouteGroup, WorkerState, authenticate};
use crate::types::OrgPath;
use actix_web::http::StatusCode;
use actix_web::http::header;
use actix_web::{HttpRequest, HttpResponse};
use serde_json::Map;
use std::sync::Arc;
use utoipa::openapi::schema::Type;

/// The route. Envoy appends the path of the request that it asks about.
pub fn routes() -> RouteGroup {
    RouteGroup::new("Decisions", PATH)
        .alias("/v2/authorize/forward/{rest:.*}")
        .all_methods("", "evaluateAccess", doc, forward)
        .with_operation_id("forward")
        .additional_actions(&["referTo"])
}

fn doc() -> OperationDoc {
    let mut doc = OperationDoc::new("Decide whether a request may be sent on").describe(
        "For proxies, which ask before they send a request on. Its method and path stand for an action on a resource, \
         by the routes in the file `CEDARGATE_FORWARD_ROUTES`, and by the routes of this service where that file has \
         `own = true`. A request that no route matches is denied. The request is named by one of the pairs of headers, \
         or by what follows in the path; where it is named in several ways, they must be the same. Every method is \
         accepted here, and `OPTIONS` is decided like any other. Every answer, whatever its status, has the headers \
         `X-User-Id`, `X-Scope` and `X-Policy-Version`; they are empty where there is no value.",
    );
    let mut documented = Vec::new();
    for (method, address) in HEADER_PAIRS {
        if !documented.contains(&method) {
            documented.push(method);
            doc = doc.parameter(openapi::header_parameter(method, "The method of the request.", "GET"));
        }
        let is_url = address.ends_with("URL");
        let (what, example) = if is_url {
            ("Its absolute URL, or its path, with the query string.", "https://api.example.com/v2/users/me")
        } else {
            ("Its path, with the query string if it has one.", "/v2/users/me")
        };
        doc = doc.parameter(openapi::header_parameter(address, what, example));
    }
    doc.empty_response(200, "The request may be sent on.")
        .response_header(200, "X-User-Id", Type::String, "The caller's user id; empty where the route is public.")
        .response_header(
            200,
            "X-Scope",
            Type::String,
            "The scopes of the caller's credential, ascending and space-delimited; empty where the route is public.",
        )
        .response_header(
            200,
            "X-Policy-Version",
            Type::String,
            "The version of the policies that decided; empty where the route is public.",
        )
}

/// `GET /v2/authorize/forward`.
async fn forward(request: HttpRequest, action: &'static str) -> Result<HttpResponse, Problem> {
    // Proxies read 401 and 403 as a refusal; 429 and 5xx say that there is no decision. Everything else is a denial.
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
        // The credential is not checked: an expired token must not keep its user from the login.
        return Ok(HttpResponse::Ok().insert_header((header::CACHE_CONTROL, "no-store")).finish());
    }
    let authorizer = authenticate(request, action).await?;
    let user = authorizer.caller().id.to_string();
    let scopes = authorizer.caller().scopes.as_ref().map(ToString::to_string).unwrap_or_default();
    let version = authorizer.engine().bundle().version();
    match decide(&authorizer, action, original, route_match).await {
        Ok(()) => Ok(HttpResponse::Ok()
            .insert_header((header::CACHE_CONTROL, "no-store"))
            .insert_header((USER_ID, user))
            .insert_header((SCOPE, scopes))
            .insert_header((POLICY_VERSION, version))
            .finish()),
        Err(problem) => Err(problem
            .with_header(USER_ID, user)
            .with_header(SCOPE, scopes)
            .with_header(POLICY_VERSION, version)),
    }
}

/// Decides whether the caller may ask here, and whether it may do what the request stands for.
///
/// # Errors
/// A problem unless both are permitted.
async fn decide(
    authorizer: &Authorizer,
    action: &'static str,
    original: Result<OriginalRequest, String>,
    route_match: Option<RouteMatch>,
) -> Result<(), Problem> {
    if !is_permitted(&authorizer.for_prerequisite(action), action, ResourceRef::Caller, &[]).await? {
        return Err(Problem::forbidden(action));
    }
    let original = original.map_err(|message| {
        forbidden("invalid_forwarded_request", format!("It cannot be decided: {message}."))
    })?;
    let Some(RouteMatch::Authorize { action, resource: of }) = route_match else {
        return Err(forbidden("no_such_route", "No route says what this request stands for."));
    };
    if is_permitted(authorizer, &action, of, &original.parameters("organization")).await? {
        Ok(())
    } else {
        Err(Problem::forbidden(&action))
    }
}

/// 403: what is asked about is not what it should be.
fn forbidden(code: &'static str, detail: impl Into<String>) -> Problem {
    Problem::new(StatusCode::FORBIDDEN, code, detail)
}

/// Whether the caller may do this. `organizations` are those that the query string names.
async fn is_permitted(
    authorizer: &Authorizer,
    action: &str,
    of: ResourceRef,
    organizations: &[String],
) -> Result<bool, Problem> {
    let org_target = |path: &OrgPath| ResolvedResource::Found(Arc::new(ResourceEntity::organization(path)));
    let home = &authorizer.caller().organization;
    let (kind, id) = match (&of, organizations) {
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
            return Err(forbidden(
                "invalid_forwarded_request",
                "It cannot be decided: `organization` stands twice in the query.",
            ));
        }
        (ResourceRef::Organization, []) | (ResourceRef::Root, _) => {
            ("Organization", home.org_id().to_string())
        }
    };
    let none = Map::new();
    let entity_ref = EntityRef { kind, id: &id, properties: &none };
    let target = match (&of, organizations) {
        (ResourceRef::Organization, []) => org_target(home),
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
    };
    // Of a thing that is not there, the organization that would hold it is asked about.
    let kind = if matches!(of, ResourceRef::OwnerOrganization(_)) { "Organization" } else { kind };
    let entity_ref = EntityRef { kind, ..entity_ref };
    let circumstances = authorizer.request_context();
    let principal = &authorizer.caller().principal;
    let ask = AuthzRequest {
        principal,
        action,
        context: &circumstances,
        recorder: Some(authorizer.decision_recorder()),
    };
    Ok(evaluation::decide(authorizer.engine(), &ask, &target, entity_ref, false).answer.allowed)
}
