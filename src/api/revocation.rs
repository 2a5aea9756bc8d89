//! Token revocation (RFC 7009) and introspection (RFC 7662).

use crate::application::token_families::{REFRESH_TOKEN_CREDENTIAL, SESSION_CREDENTIAL};
use crate::application::{AppState, Authorizer, Caller, Credential};
use crate::authn::{ApiKey, BearerToken, Claims, RefreshToken};
use crate::authz::ScopeSet;
use crate::http::authentication;
use crate::http::base_url::base_url;
use crate::http::openapi::OperationDoc;
use crate::http::problem::OAuthErrorCode;
use crate::http::{Form, OAuthForm, Problem, RouteGroup, WorkerState, request_info};
use crate::resource::user::User;
use crate::store::{AuditActor, EndReason, Event, Session, SessionSelection};
use crate::types::{Email, FieldErrorCode, Id, Timestamp};
use actix_web::http::{Method, header};
use actix_web::{HttpRequest, HttpResponse};
use serde::Serialize;
use serde_json::json;
use utoipa::ToSchema;

/// The routes.
pub fn routes() -> RouteGroup {
    RouteGroup::new("Tokens", "/v2/auth")
        .public(
            Method::POST,
            "/revoke",
            ("revokeToken", "the token in the request is its own proof: who has it may revoke it (RFC 7009)"),
            revoke_doc,
            revoke,
        )
        .post_for_clients("/introspect", "introspectToken", introspect_doc, introspect)
}

/// The form of RFC 7009 and RFC 7662. Other parameters are ignored.
#[derive(Debug, ToSchema)]
#[expect(dead_code, reason = "only the OpenAPI document uses it")]
struct TokenForm {
    /// An access token, a refresh token or an API key.
    #[schema(min_length = 1, max_length = 4096)]
    token: String,
    /// `access_token` or `refresh_token`. It has no effect: the kind of a token is known from its format.
    #[schema(max_length = 200, nullable = false)]
    token_type_hint: Option<String>,
}

/// An empty object.
#[derive(Debug, Serialize, ToSchema)]
struct Revoked {}

/// The state of a token (RFC 7662, section 2.2). For an inactive token, only `active` is present.
#[derive(Debug, Default, Serialize, ToSchema)]
#[serde(rename_all = "snake_case")]
struct Introspection {
    /// Whether the token is valid and its user is accessible to the caller.
    active: bool,
    /// The effective scopes: those of the token and below, capped by the role of the user; space-delimited.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(nullable = false)]
    scope: Option<String>,
    /// The email address of the user.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(nullable = false)]
    username: Option<Email>,
    /// `Bearer`, or `refresh_token`.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(nullable = false)]
    token_type: Option<&'static str>,
    /// Expiry in seconds since 1970; absent if the token does not expire.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(nullable = false)]
    exp: Option<i64>,
    /// Time of issue in seconds since 1970.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(nullable = false)]
    iat: Option<i64>,
    /// The user id.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(nullable = false)]
    sub: Option<Id>,
    /// The audience; access tokens only.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(nullable = false)]
    aud: Option<String>,
    /// The issuer.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(nullable = false)]
    iss: Option<String>,
    /// The `jti` of an access token, or the id of an API key.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(nullable = false)]
    jti: Option<String>,
    /// The session; absent for API keys.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(nullable = false)]
    sid: Option<Id>,
}

/// A presented token, by its format.
enum PresentedToken {
    Refresh(RefreshToken),
    Bearer(BearerToken),
}

impl PresentedToken {
    fn parse(token: &str) -> Option<Self> {
        let refresh = token.parse().map(Self::Refresh);
        refresh.or_else(|_| token.parse().map(Self::Bearer)).ok()
    }
}

/// The token of a form; none if it has no known format.
///
/// # Errors
/// An OAuth error (RFC 7009, section 2.2.1) if a parameter is missing, repeated or too long.
fn parse_presented_token(OAuthForm(form): OAuthForm) -> Result<Option<PresentedToken>, Problem> {
    let token = take_token(form).map_err(|problem| problem.as_oauth_error(OAuthErrorCode::InvalidRequest))?;
    Ok(PresentedToken::parse(&token))
}

fn take_token(mut form: Form) -> Result<String, Problem> {
    form.take("token_type_hint", 200)?;
    form.take("token", 4096)?.ok_or_else(|| {
        Problem::invalid_field("token", FieldErrorCode::Required, "this parameter is required")
    })
}

fn revoke_doc() -> OperationDoc {
    OperationDoc::new("Revoke a token")
        .describe(
            "RFC 7009. Possession of the token is sufficient. A refresh token, used or not, and an access token end their \
             session with all of its tokens. An API key is deleted; use this for a leaked key. The response is the same for \
             unknown and expired tokens. A client may send an API key as the password of HTTP Basic; it is verified.",
        )
        .form::<TokenForm>(json!({"token": "599e1fcd9da1c72645c95886.28167e54e423275c0d948ce2efcaa481d4ab229ea53800502c26adae924a217f924fe2ba343d78ac"}))
        .response::<Revoked>(200, "Token revoked.", Some(json!({})))
        .problems(&[401])
        .oauth_errors()
}

fn introspect_doc() -> OperationDoc {
    OperationDoc::new("Introspect a token")
        .describe(
            "RFC 7662, for access tokens, refresh tokens and API keys. Authorized as `introspectToken` on the user of the \
             token; a token whose user is not accessible is reported as inactive.",
        )
        .form::<TokenForm>(json!({"token": "cg_94c70d470e391bdc16a8d8363b5d48910a67162d"}))
        .response::<Introspection>(200, "The state of the token.", Some(json!({"active": false})))
        .oauth_errors()
}

/// `POST /v2/auth/revoke`.
async fn revoke(request: HttpRequest, form: OAuthForm) -> Result<HttpResponse, Problem> {
    authentication::verify_client(&request).await?;
    let state = &WorkerState::from_request(&request)?.app;
    let actor = AuditActor::unauthenticated(&request_info::request_origin(&request), state.clock.now());
    match parse_presented_token(form)? {
        Some(PresentedToken::Refresh(token)) => {
            if let Some(session) = state.store.session_by_refresh_token(&token.hash()).await? {
                revoke_session(
                    state,
                    session.user,
                    session.id,
                    actor.with_credential(session.user, REFRESH_TOKEN_CREDENTIAL, session.id),
                )
                .await?;
            }
        }
        Some(PresentedToken::Bearer(BearerToken::Jwt(token))) => {
            if let Ok(verified) = state.signing_keys.verify(&token, state.clock.now()).await? {
                let Claims { id, sid, .. } = verified.claims;
                revoke_session(state, id, sid, actor.with_credential(id, SESSION_CREDENTIAL, sid)).await?;
            }
        }
        Some(PresentedToken::Bearer(BearerToken::ApiKey(key))) => revoke_key(state, actor, &key).await?,
        None => {}
    }
    Ok(HttpResponse::Ok().insert_header((header::CACHE_CONTROL, "no-store")).json(Revoked {}))
}

/// Ends the session of a presented token.
async fn revoke_session(state: &AppState, user: Id, session: Id, actor: AuditActor) -> Result<(), Problem> {
    let work = state.store.begin(actor).await?;
    let ended = work
        .end_sessions(user, SessionSelection::One(session), EndReason::Revoked, state.clock.now())
        .await?;
    if ended > 0 {
        work.audit_user_event(Event::TokenRevoked, user, "session", session).await?;
    }
    Ok(work.commit().await?)
}

async fn revoke_key(state: &AppState, actor: AuditActor, key: &ApiKey) -> Result<(), Problem> {
    let Some(key) = state.store.api_key(&key.hash()).await? else { return Ok(()) };
    let work = state
        .store
        .begin(actor.with_credential(key.user, Credential::ApiKey(key.id).as_str(), key.id))
        .await?;
    if work.revoke_api_key(&key).await? {
        work.audit_user_event(Event::TokenRevoked, key.user, "key", key.id).await?;
    }
    Ok(work.commit().await?)
}

/// `POST /v2/auth/introspect`.
async fn introspect(
    authorizer: Authorizer,
    (request, form): (HttpRequest, OAuthForm),
) -> Result<HttpResponse, Problem> {
    let introspection = match parse_presented_token(form)? {
        Some(PresentedToken::Refresh(token)) => introspect_refresh_token(&authorizer, &token).await?,
        Some(PresentedToken::Bearer(bearer)) => introspect_bearer(&authorizer, &bearer).await?,
        None => None,
    };
    Ok(HttpResponse::Ok()
        .insert_header((header::CACHE_CONTROL, "no-store"))
        .json(introspection.map(|active| with_issuer(active, &request)).unwrap_or_default()))
}

/// Access tokens name their issuer; other tokens have that of the service.
fn with_issuer(active: Introspection, request: &HttpRequest) -> Introspection {
    let iss = active.iss.or_else(|| Some(base_url(request)));
    Introspection { iss, ..active }
}

/// The fields about the user of a token, if the caller may introspect its tokens.
async fn introspect_user(authorizer: &Authorizer, user: Id) -> Result<Option<Introspection>, Problem> {
    match authorizer.lookups().find_authorized::<User>(&user.to_string()).await {
        Ok(user) => Ok(Some(Introspection {
            active: true,
            username: Some(user.email.clone()),
            sub: Some(user.id),
            ..Introspection::default()
        })),
        Err(error) if error.kind.is_server_error() => Err(error.into()),
        Err(_) => Ok(None),
    }
}

async fn introspect_bearer(
    authorizer: &Authorizer,
    bearer: &BearerToken,
) -> Result<Option<Introspection>, Problem> {
    let parts = authorizer.state();
    let caller = match Caller::from_token(parts, authorizer.engine(), bearer.expose()).await {
        Ok(caller) => caller,
        Err(error) if error.kind.is_server_error() => return Err(error.into()),
        Err(_) => return Ok(None),
    };
    let Some(user) = introspect_user(authorizer, caller.id).await? else { return Ok(None) };
    let user = Introspection {
        scope: caller.scopes.as_ref().map(ToString::to_string),
        token_type: Some("Bearer"),
        ..user
    };
    Ok(match bearer {
        BearerToken::Jwt(token) => {
            parts.signing_keys.verify(token, parts.clock.now()).await?.ok().map(|verified| Introspection {
                exp: Some(verified.expires_at.seconds()),
                iat: Some(verified.issued_at.seconds()),
                aud: Some(verified.issuer.clone()),
                iss: Some(verified.issuer),
                jti: Some(verified.jti),
                sid: Some(verified.claims.sid),
                ..user
            })
        }
        BearerToken::ApiKey(key) => parts.store.api_key(&key.hash()).await?.map(|key| Introspection {
            exp: key.expires_at.map(Timestamp::seconds),
            iat: Some(key.created_at.seconds()),
            jti: Some(key.id.to_string()),
            ..user
        }),
    })
}

async fn introspect_refresh_token(
    authorizer: &Authorizer,
    token: &RefreshToken,
) -> Result<Option<Introspection>, Problem> {
    let (store, now) = (&authorizer.state().store, authorizer.state().clock.now());
    let hash = token.hash();
    let is_live =
        |session: &Session| session.is_live(now) && !store.is_session_revoked(session.user, session.id);
    let Some(session) = store.session_by_refresh_token(&hash).await?.filter(is_live) else {
        return Ok(None);
    };
    let Some((issued_at, expires_at)) = store.valid_refresh_token(&hash, now).await? else { return Ok(None) };
    let account = store.account(session.user).await?.filter(|account| account.is_active());
    let (Some(account), Some(user)) = (account, introspect_user(authorizer, session.user).await?) else {
        return Ok(None);
    };
    // The scopes of the access tokens that it can be exchanged for.
    let scopes = authorizer.engine().effective_scopes(&ScopeSet::from(account.role), account.role);
    Ok(Some(Introspection {
        scope: scopes.as_ref().map(ToString::to_string),
        token_type: Some("refresh_token"),
        exp: Some(expires_at.seconds()),
        iat: Some(issued_at.seconds()),
        sid: Some(session.id),
        ..user
    }))
}
