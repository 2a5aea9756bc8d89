//! Discovery: the public signing keys (RFC 7517) and the authorization server metadata (RFC 8414).

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
        .about("Metadata and public keys, for OAuth libraries.")
        .public(Method::GET, "/jwks.json", ("jwks", "public keys, with which anyone verifies access tokens (RFC 7517)"), jwks_doc, jwks)
        .public(Method::GET, "/oauth-authorization-server", ("authorizationServer", "metadata of the authorization server, which clients read before they have a token (RFC 8414)"), metadata_doc, metadata)
}

/// The public keys that verify access tokens.
#[derive(Debug, Serialize, ToSchema)]
struct KeySet {
    /// The keys; empty if tokens are signed with HS256.
    keys: Vec<PublicKey>,
}

/// Authorization server metadata (RFC 8414, section 2).
#[derive(Debug, Serialize, ToSchema)]
struct ServerMetadata {
    /// The URL of the service, the `iss` and `aud` of access tokens: `CEDARGATE_PUBLIC_URL`, else the URL of the request.
    issuer: String,
    /// The token endpoint.
    token_endpoint: String,
    /// The URL of the public keys; absent if there are none.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(nullable = false)]
    jwks_uri: Option<String>,
    /// The revocation endpoint (RFC 7009).
    revocation_endpoint: String,
    /// The introspection endpoint (RFC 7662).
    introspection_endpoint: String,
    /// The supported scopes.
    scopes_supported: Vec<&'static str>,
    /// `refresh_token`; `password` must not be advertised (RFC 9700, section 2.4).
    grant_types_supported: [&'static str; 1],
    /// Empty: there is no authorization endpoint.
    response_types_supported: [&'static str; 0],
    /// `none`: a client sends the email address of the user as `client_id`.
    token_endpoint_auth_methods_supported: [&'static str; 1],
    /// `none`: possession of the token is sufficient; `client_secret_basic`: an API key is verified.
    revocation_endpoint_auth_methods_supported: [&'static str; 2],
    /// `client_secret_basic`: an API key as the client secret; `Bearer`: an access token or API key.
    introspection_endpoint_auth_methods_supported: [&'static str; 2],
    /// The URL of the API documentation.
    service_documentation: String,
}

fn jwks_doc() -> OperationDoc {
    OperationDoc::new("Get the public signing keys")
        .describe(
            "A JSON Web Key Set (RFC 7517) of Ed25519 keys (RFC 8037). A new key is published ten minutes before it signs, \
             and an old one until the tokens that it signed have expired.",
        )
        .response::<KeySet>(200, "The keys.", None)
        .response_header(200, "Cache-Control", Type::String, "How long the response may be cached.")
}

fn metadata_doc() -> OperationDoc {
    OperationDoc::new("Authorization server metadata")
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
        issuer: base.clone(),
        token_endpoint: url("/v2/auth/token"),
        jwks_uri: has_keys.then(|| url("/.well-known/jwks.json")),
        revocation_endpoint: url("/v2/auth/revoke"),
        introspection_endpoint: url("/v2/auth/introspect"),
        scopes_supported: Scope::ALL.iter().map(|scope| scope.as_str()).collect(),
        grant_types_supported: ["refresh_token"],
        response_types_supported: [],
        token_endpoint_auth_methods_supported: ["none"],
        revocation_endpoint_auth_methods_supported: ["none", "client_secret_basic"],
        introspection_endpoint_auth_methods_supported: ["client_secret_basic", "Bearer"],
        service_documentation: url("/docs"),
    }))
}
