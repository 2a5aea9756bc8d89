//! What other services need to check access tokens: the public keys (RFC 7517), and where things are (RFC 8414).

use crate::application::signing_keys::JWKS_MAX_AGE;
use crate::authn::PublicKey;
use crate::authz::Scope;
use crate::http::base_url::base_url;
use crate::http::openapi::OperationDoc;
use crate::http::{Problem, RouteGroup, WorkerState};
use actix_web::http::{Method, header};
use actix_web::{HttpRequest, HttpResponse};
use serde::Serialize;
use utoipa::ToSchema;
use utoipa::openapi::schema::Type;

/// The routes.
pub fn routes() -> RouteGroup {
    RouteGroup::new("Discovery", "/.well-known")
        .public(Method::GET, "/jwks.json", "jwks", jwks_doc, jwks)
        .public(Method::GET, "/oauth-authorization-server", "authorizationServer", metadata_doc, metadata)
}

/// The public keys with which access tokens can be checked.
#[derive(Debug, Serialize, ToSchema)]
struct KeySet {
    /// The keys; none where the tokens are signed with HS256.
    keys: Vec<PublicKey>,
}

/// Where things are (RFC 8414, 2).
#[derive(Debug, Serialize, ToSchema)]
struct ServerMetadata {
    /// The `iss` and `aud` of the access tokens: the public address of the service, where that is set.
    issuer: String,
    /// Where tokens are issued.
    token_endpoint: String,
    /// Where the public keys are; nothing where there are none.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(nullable = false)]
    jwks_uri: Option<String>,
    /// Where tokens are revoked (RFC 7009).
    revocation_endpoint: String,
    /// Where services ask about tokens (RFC 7662).
    introspection_endpoint: String,
    /// The scopes that a token may have.
    scopes_supported: Vec<&'static str>,
    /// `refresh_token`, and never `password` (RFC 9700, 2.4).
    grant_types_supported: [&'static str; 1],
    /// None: there is no authorization endpoint.
    response_types_supported: [&'static str; 0],
    /// `none`: clients have no secrets of their own.
    token_endpoint_auth_methods_supported: [&'static str; 1],
    /// `none`: the caller's bearer is what counts.
    revocation_endpoint_auth_methods_supported: [&'static str; 1],
    /// `Bearer`: an access token or API key of the caller.
    introspection_endpoint_auth_methods_supported: [&'static str; 1],
    /// The documentation.
    service_documentation: String,
}

fn jwks_doc() -> OperationDoc {
    OperationDoc::new("The public keys with which access tokens can be checked")
        .describe(
            "A JSON Web Key Set (RFC 7517) of Ed25519 keys (RFC 8037). A new key is in it ten minutes before it signs, and an \
             old one as long as there may be good tokens that it signed.",
        )
        .response::<KeySet>(200, "The keys.", None)
        .response_header(200, "Cache-Control", Type::String, "For how many seconds the answer may be kept.")
}

fn metadata_doc() -> OperationDoc {
    OperationDoc::new("Where tokens are issued, checked and revoked")
        .describe("The OAuth 2.0 Authorization Server Metadata (RFC 8414).")
        .response::<ServerMetadata>(200, "The metadata.", None)
}

/// `GET /.well-known/jwks.json`.
async fn jwks(request: HttpRequest, (): ()) -> Result<HttpResponse, Problem> {
    let state = &WorkerState::from_request(&request)?.app;
    let keys = state.signing_keys.cached().public_keys(state.clock.now());
    Ok(HttpResponse::Ok()
        .insert_header((header::CACHE_CONTROL, format!("public, max-age={JWKS_MAX_AGE}")))
        .json(KeySet { keys }))
}

/// `GET /.well-known/oauth-authorization-server`.
async fn metadata(request: HttpRequest, (): ()) -> Result<HttpResponse, Problem> {
    let state = &WorkerState::from_request(&request)?.app;
    let base = base_url(&request);
    let url = |path: &str| format!("{base}{path}");
    let has_keys = !state.signing_keys.cached().public_keys(state.clock.now()).is_empty();
    Ok(HttpResponse::Ok().json(ServerMetadata {
        issuer: state.request_config.issuer.clone(),
        token_endpoint: url("/v2/auth/token"),
        jwks_uri: has_keys.then(|| url("/.well-known/jwks.json")),
        revocation_endpoint: url("/v2/auth/revoke"),
        introspection_endpoint: url("/v2/auth/introspect"),
        scopes_supported: Scope::ALL.iter().map(|scope| scope.as_str()).collect(),
        grant_types_supported: ["refresh_token"],
        response_types_supported: [],
        token_endpoint_auth_methods_supported: ["none"],
        revocation_endpoint_auth_methods_supported: ["none"],
        introspection_endpoint_auth_methods_supported: ["Bearer"],
        service_documentation: url("/docs"),
    }))
}
