//! Sessions: where a user is logged in, and logging out.

use super::users::User;
use crate::application::{Authorizer, Credential};
use crate::http::openapi::OperationDoc;
use crate::http::{PathId, Problem, RouteGroup};
use crate::store::{EndReason, Session, SessionSelection};
use crate::types::{Id, Timestamp};
use actix_web::{HttpRequest, HttpResponse};
use serde::Serialize;
use utoipa::ToSchema;

/// How many sessions are listed.
const MAX_LISTED: u64 = 1000;

/// The routes of a user's sessions.
pub fn routes() -> RouteGroup {
    RouteGroup::new("Sessions", "/v2/users")
        .get("/{id}/sessions", "listSessions", list_doc, list)
        .remove("/{id}/sessions/{sessionId}", "deleteSession", delete_doc, delete)
        .remove("/{id}/sessions", "deleteSession", delete_others_doc, delete_others)
        .with_operation_id("deleteSessions")
}

/// The route for leaving one's own.
pub fn log_out_routes() -> RouteGroup {
    RouteGroup::new("Sessions", "/v2/auth")
        .post("/logout", "deleteSession", log_out_doc, log_out)
        .with_operation_id("logOut")
}

/// A session: one login, with all that was refreshed from it.
#[derive(Debug, Serialize, ToSchema)]
#[serde(rename_all = "camelCase")]
#[schema(as = Session)]
struct SessionView {
    /// The session, the `sid` of its access tokens.
    id: Id,
    /// Whether it is the caller's own.
    current: bool,
    /// When its user logged in.
    created_at: Timestamp,
    /// From where.
    created_from: SessionOrigin,
    /// When it was last refreshed or opened, or one of its access tokens was used; this to the minute.
    last_used_at: Timestamp,
    /// From where.
    last_used_from: SessionOrigin,
    /// When it ends, however it is used.
    expires_at: Timestamp,
}

/// From where somebody called, as far as it told.
#[derive(Debug, Serialize, ToSchema)]
#[serde(rename_all = "camelCase")]
#[schema(as = SessionPlace)]
struct SessionOrigin {
    /// The address.
    #[schema(examples("192.0.2.7"))]
    address: Option<String>,
    /// The first 256 characters of the `User-Agent`.
    user_agent: Option<String>,
}

impl SessionView {
    fn new(session: Session, own: Option<Id>) -> Self {
        Self {
            current: Some(session.id) == own,
            id: session.id,
            created_at: session.created_at,
            created_from: SessionOrigin {
                address: session.created_address,
                user_agent: session.created_agent,
            },
            last_used_at: session.last_used_at,
            last_used_from: SessionOrigin { address: session.used_address, user_agent: session.used_agent },
            expires_at: session.expires_at,
        }
    }
}

fn list_doc() -> OperationDoc {
    OperationDoc::new("List the sessions of a user")
        .describe("Where the user is logged in: the sessions of which a token can be good still, the 1000 last used at most.")
        .path_id("id", "The id of the user, or `me`.")
        .list_response::<SessionView>("The sessions, those last used first.")
        .problems(&[404])
}

fn delete_doc() -> OperationDoc {
    OperationDoc::new("End a session")
        .describe("Its refresh token and its access tokens are no longer good. An API key ends no sessions.")
        .path_id("id", "The id of the user, or `me`.")
        .path_id("sessionId", "The id of the session.")
        .empty_response(204, "It has ended.")
        .problems(&[404])
}

fn delete_others_doc() -> OperationDoc {
    OperationDoc::new("End all sessions of a user but the caller's own")
        .describe("Their refresh tokens and access tokens are no longer good. An API key ends no sessions.")
        .path_id("id", "The id of the user, or `me`.")
        .empty_response(204, "They have ended.")
        .problems(&[404])
}

fn log_out_doc() -> OperationDoc {
    OperationDoc::new("Log out")
        .describe(
            "Ends the session of the bearer, an access token. That is its user's to do: it asks about `deleteSession` on the \
             user itself, which every scope may and an API key, having no session, may not. Without an access token that is \
             good still, present the refresh token to `POST /v2/auth/revoke`.",
        )
        .empty_response(204, "The session has ended.")
}

/// The session of the caller; none where it calls otherwise.
fn own_session(authorizer: &Authorizer) -> Option<Id> {
    match authorizer.caller().credential {
        Credential::Session(id) => Some(id),
        Credential::ApiKey(_) | Credential::Terminal => None,
    }
}

/// `GET /v2/users/{id}/sessions`.
async fn list(authorizer: Authorizer, id: PathId) -> Result<HttpResponse, Problem> {
    let user = authorizer.find_authorized::<User>(&id.0).await?;
    let parts = authorizer.state();
    let sessions = parts.store.sessions(user.id, MAX_LISTED, parts.clock.now()).await?;
    let own = own_session(&authorizer);
    let views: Vec<_> = sessions.into_iter().map(|session| SessionView::new(session, own)).collect();
    Ok(HttpResponse::Ok().json(views))
}

/// `DELETE /v2/users/{id}/sessions/{sessionId}`.
async fn delete(
    authorizer: Authorizer,
    (request, id): (HttpRequest, PathId),
) -> Result<HttpResponse, Problem> {
    let session = request.match_info().get("sessionId").and_then(|id| id.parse().ok());
    let ended =
        end_sessions(&authorizer, &id.0, session.map(SessionSelection::One), EndReason::Deleted).await?;
    if ended == 0 { Err(Problem::not_found("session")) } else { Ok(HttpResponse::NoContent().finish()) }
}

/// `DELETE /v2/users/{id}/sessions`.
async fn delete_others(authorizer: Authorizer, id: PathId) -> Result<HttpResponse, Problem> {
    let which = own_session(&authorizer).map_or(SessionSelection::All, SessionSelection::AllExcept);
    end_sessions(&authorizer, &id.0, Some(which), EndReason::Deleted).await?;
    Ok(HttpResponse::NoContent().finish())
}

/// `POST /v2/auth/logout`.
async fn log_out(authorizer: Authorizer, (): ()) -> Result<HttpResponse, Problem> {
    end_sessions(&authorizer, "me", own_session(&authorizer).map(SessionSelection::One), EndReason::Logout)
        .await?;
    Ok(HttpResponse::NoContent().finish())
}

/// Ends sessions of a user, if the caller may, and gives their number.
async fn end_sessions(
    authorizer: &Authorizer,
    id: &str,
    which: Option<SessionSelection>,
    reason: EndReason,
) -> Result<u64, Problem> {
    authorizer.find_authorized::<User>(id).await?;
    let work = authorizer.begin().await?;
    let user = authorizer
        .authorize(authorizer.find_unchecked_in::<User>(&work, id).await?, &authorizer.request_context())?;
    let now = authorizer.state().clock.now();
    authorizer.caller().ensure_credential_still_valid(&work, now).await?;
    let ended = match which {
        Some(which) => work.end_sessions(user.id, which, reason, now).await?,
        None => 0,
    };
    work.commit().await?;
    Ok(ended)
}
