//! Forward authentication: decides whether the bearer of a request may send it on. Answers with a status and headers
//! only, for nginx (`auth_request`), Traefik (ForwardAuth), Caddy (`forward_auth`) and Envoy (HTTP ext_authz).

use super::question::{self, Named, Target};
use crate::authz::{Ask, Resourced};
use crate::http::forward::{HEADER_PAIRS, Meaning, Of, Original, PATH, POLICY_VERSION, SCOPE, USER_ID};
use crate::http::openapi::{self, Doc};
use crate::http::{Gate, Parts, Problem, Routes};
use crate::values::OrgPath;
use actix_web::http::StatusCode;
use actix_web::http::header;
use actix_web::{HttpRequest, HttpResponse};
use serde_json::Map;
use std::sync::Arc;
use utoipa::openapi::schema::Type;

/// The route. Envoy appends the path of the request that it asks about.
pub fn routes() -> Routes {
    Routes::new("Decisions", PATH)
        .alias("/v2/authorize/forward/{rest:.*}")
        .any("", "evaluateAccess", doc, forward)
        .called("forward")
        .also(&["referTo"])
}

fn doc() -> Doc {
    let mut doc = Doc::new("Decide whether a request may be sent on").describe(
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
            doc = doc.parameter(openapi::header(method, "The method of the request.", "GET"));
        }
        let is_url = address.ends_with("URL");
        let (what, example) = if is_url {
            ("Its absolute URL, or its path, with the query string.", "https://api.example.com/v2/users/me")
        } else {
            ("Its path, with the query string if it has one.", "/v2/users/me")
        };
        doc = doc.parameter(openapi::header(address, what, example));
    }
    doc.empty(200, "The request may be sent on.")
        .header(200, "X-User-Id", Type::String, "The caller's user id; empty where the route is public.")
        .header(
            200,
            "X-Scope",
            Type::String,
            "The scopes of the caller's credential, ascending and space-delimited; empty where the route is public.",
        )
        .header(
            200,
            "X-Policy-Version",
            Type::String,
            "The version of the policies that decided; empty where the route is public.",
        )
}

/// `GET /v2/authorize/forward`.
async fn forward(request: HttpRequest, action: &'static str) -> Result<HttpResponse, Problem> {
    // Proxies read 401 and 403 as a refusal; 429 and 5xx say that there is no decision. Everything else is a denial.
    let known = |status: StatusCode| {
        [StatusCode::UNAUTHORIZED, StatusCode::TOO_MANY_REQUESTS].contains(&status)
            || !status.is_client_error()
    };
    authorize(&request, action).await.map_err(|problem| match known(problem.status) {
        true => problem,
        false => Problem { status: StatusCode::FORBIDDEN, ..problem },
    })
}

async fn authorize(request: &HttpRequest, action: &'static str) -> Result<HttpResponse, Problem> {
    let original = Original::of(request, PATH);
    let table = &Parts::of(request)?.forward;
    let meaning = original.as_ref().ok().and_then(|original| table.find(original));
    if meaning == Some(Meaning::Public) {
        // The credential is not checked: an expired token must not keep its user from the login.
        return Ok(HttpResponse::Ok().insert_header((header::CACHE_CONTROL, "no-store")).finish());
    }
    let gate = Gate::of_request(request, action).await?;
    let user = gate.caller().id.to_string();
    let scopes = gate.caller().scopes.as_ref().map(ToString::to_string).unwrap_or_default();
    let version = gate.engine().bundle().version();
    match decide(&gate, action, original, meaning).await {
        Ok(()) => Ok(HttpResponse::Ok()
            .insert_header((header::CACHE_CONTROL, "no-store"))
            .insert_header((USER_ID, user))
            .insert_header((SCOPE, scopes))
            .insert_header((POLICY_VERSION, version))
            .finish()),
        Err(problem) => Err(problem.with(USER_ID, user).with(SCOPE, scopes).with(POLICY_VERSION, version)),
    }
}

/// Decides whether the caller may ask here, and whether it may do what the request stands for.
///
/// # Errors
/// A problem unless both are permitted.
async fn decide(
    gate: &Gate,
    action: &'static str,
    original: Result<Original, String>,
    meaning: Option<Meaning>,
) -> Result<(), Problem> {
    if !permitted(&gate.step(action), action, Of::Caller, &[]).await? {
        return Err(Problem::forbidden(action));
    }
    let original =
        original.map_err(|message| refused("bad_original", format!("It cannot be decided: {message}.")))?;
    let Some(Meaning::Asked { action, of }) = meaning else {
        return Err(refused("no_such_route", "No route says what this request stands for."));
    };
    if permitted(gate, &action, of, &original.parameters("organization")).await? {
        Ok(())
    } else {
        Err(Problem::forbidden(&action))
    }
}

/// 403: what is asked about is not what it should be.
fn refused(code: &'static str, detail: impl Into<String>) -> Problem {
    Problem::new(StatusCode::FORBIDDEN, code, detail)
}

/// Whether the caller may do this. `organizations` are those that the query string names.
async fn permitted(gate: &Gate, action: &str, of: Of, organizations: &[String]) -> Result<bool, Problem> {
    let at = |path: &OrgPath| Target::There(Arc::new(Resourced::organization(path)));
    let home = &gate.caller().organization;
    let (kind, id) = match (&of, organizations) {
        (Of::Thing(named) | Of::Holder(named), _) if named.knows_me && named.id == "me" => {
            (named.kind.as_str(), gate.caller().id.to_string())
        }
        (Of::Thing(named) | Of::Holder(named), _) => (named.kind.as_str(), named.id.clone()),
        (Of::Caller, _) => ("User", gate.caller().id.to_string()),
        (Of::Organization, [one]) => ("Organization", one.clone()),
        (Of::Organization, [_, _, ..]) => {
            return Err(refused(
                "bad_original",
                "It cannot be decided: `organization` stands twice in the query.",
            ));
        }
        (Of::Organization, []) | (Of::Root, _) => ("Organization", home.own().to_string()),
    };
    let none = Map::new();
    let named = Named { kind, id: &id, properties: &none };
    let target = match (&of, organizations) {
        (Of::Organization, []) => at(home),
        (Of::Root, _) => match gate.parts().store.root().await? {
            Some(root) => at(&root),
            None => Target::Missing,
        },
        (Of::Holder(_), _) => match question::target(gate, named).await? {
            Target::There(thing) => thing.place().map_or(Target::Missing, at),
            other => other,
        },
        _ => question::target(gate, named).await?,
    };
    // Of a thing that is not there, the organization that would hold it is asked about.
    let kind = if matches!(of, Of::Holder(_)) { "Organization" } else { kind };
    let named = Named { kind, ..named };
    let circumstances = gate.circumstances();
    let principal = &gate.caller().principal;
    let ask = Ask { principal, action, circumstances: &circumstances, trail: Some(gate.trail()) };
    Ok(question::decide(gate.engine(), &ask, &target, named, false).answer.allowed)
}
