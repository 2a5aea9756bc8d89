//! Decisions for proxies: may the bearer of this request send it on? Answers with nothing but a status and headers, as
//! nginx's auth_request, Traefik's ForwardAuth and Envoy's HTTP ext_authz ask for.

use super::question::{self, Named, POLICY_VERSION, Target};
use crate::authz::{Ask, Resourced};
use crate::http::forward::{Meaning, Of, Original, PAIRS};
use crate::http::openapi::{self, Doc};
use crate::http::{Gate, Parts, Problem, Routes};
use crate::values::OrgPath;
use actix_web::http::StatusCode;
use actix_web::http::header;
use actix_web::{HttpRequest, HttpResponse};
use serde_json::Map;
use std::sync::Arc;
use utoipa::openapi::schema::Type;

/// Where the route is.
const BASE: &str = "/v2/authorize/forward";

/// The route. Envoy appends the path of the request that it asks about.
pub fn routes() -> Routes {
    Routes::new("Decisions", BASE)
        .alias("/v2/authorize/forward/{rest:.*}")
        .any("", "evaluateAccess", doc, forward)
        .called("forward")
        .also(&["referTo"])
}

fn doc() -> Doc {
    let mut doc = Doc::new("Decide whether a request may be sent on").describe(
        "For proxies, of which each request is asked about before it is sent on: whether its bearer may do what its \
         method and path stand for, by the routes of this service and by those of `CEDARGATE_FORWARD_ROUTES`. Where \
         no route fits, it may not. The request is named by one of the pairs of headers, or by what follows in the \
         path; where by several, they must say the same. Every method is taken here.",
    );
    for (method, address) in PAIRS {
        doc = doc.parameter(openapi::header(method, "The method of the request.", "GET")).parameter(
            openapi::header(address, "Its path, with the query string if it has one.", "/v2/users/me"),
        );
    }
    doc.empty(204, "It may.")
        .header(204, "X-User-Id", Type::String, "The user of the bearer; empty where anybody may.")
        .header(
            204,
            "X-Scope",
            Type::String,
            "What the bearer can do: its scopes, ascending, with spaces between; empty where anybody may.",
        )
        .header(204, "X-Policy-Version", Type::String, "The version of the policies that decided.")
}

/// `GET /v2/authorize/forward`.
async fn forward(request: HttpRequest, action: &'static str) -> Result<HttpResponse, Problem> {
    // Of all errors of a request, proxies know 401 and 403. That somebody asks too much is no answer to what it asks.
    let known = |status: StatusCode| {
        [StatusCode::UNAUTHORIZED, StatusCode::TOO_MANY_REQUESTS].contains(&status)
            || !status.is_client_error()
    };
    decide(&request, action).await.map_err(|problem| match known(problem.status) {
        true => problem,
        false => Problem { status: StatusCode::FORBIDDEN, ..problem },
    })
}

async fn decide(request: &HttpRequest, action: &'static str) -> Result<HttpResponse, Problem> {
    let original = Original::of(request, BASE);
    let table = &Parts::of(request)?.forward;
    let meaning = original.as_ref().ok().and_then(|original| table.find(original));
    if meaning == Some(Meaning::Public) {
        // Who sends it is not looked at: a bearer that is no good any more keeps nobody from a new one. That nobody is
        // named is said, since a proxy may pass on what a client says of itself otherwise.
        return Ok(HttpResponse::NoContent()
            .insert_header((header::CACHE_CONTROL, "no-store"))
            .insert_header(("X-User-Id", ""))
            .insert_header(("X-Scope", ""))
            .finish());
    }
    let gate = Gate::of_request(request, action).await?;
    let version = gate.engine().bundle().version();
    let denied = |action: &str| Problem::forbidden(action).with(POLICY_VERSION, version);
    if !permitted(&gate.step(action), action, Of::Caller, &[]).await? {
        return Err(denied(action));
    }
    let original =
        original.map_err(|message| refused("bad_original", format!("It cannot be decided: {message}.")))?;
    let (action, of) = match meaning {
        Some(Meaning::Asked { action, of }) => (action, of),
        _ => return Err(refused("no_such_route", "No route says what this request stands for.")),
    };
    if !permitted(&gate, &action, of, &original.parameters("organization")).await? {
        return Err(denied(&action));
    }
    let scopes = gate.caller().scopes.as_ref().map(ToString::to_string);
    Ok(HttpResponse::NoContent()
        .insert_header((header::CACHE_CONTROL, "no-store"))
        .insert_header(("X-User-Id", gate.caller().id.to_string()))
        .insert_header(("X-Scope", scopes.unwrap_or_default()))
        .insert_header((POLICY_VERSION, version))
        .finish())
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
