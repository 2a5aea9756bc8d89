//! Sessions of a user, and logout.

use crate::application::{Authorizer, sessions};
use crate::http::openapi::OperationDoc;
use crate::http::{PathId, Problem, RouteGroup};
use crate::resource::user::User;
use crate::store::{EndReason, Session, SessionSelection};
use crate::types::{Id, Timestamp};
use actix_web::{HttpRequest, HttpResponse};
use serde::Serialize;
use utoipa::ToSchema;

/// The maximum number of listed sessions.
const MAX_LISTED: u64 = 1000;

/// The routes for the sessions of a user.
pub fn routes() -> RouteGroup {
    RouteGroup::new("Sessions", "/v2/users")
        .about("Logins: each has an access token and a refresh token at a time.")
        .get("/{id}/sessions", "listSessions", list_doc, list)
        .remove("/{id}/sessions/{sessionId}", "deleteSession", delete_doc, delete)
        .remove("/{id}/sessions", "deleteSession", delete_others_doc, delete_others)
        .with_operation_id("deleteSessions")
}

/// The logout route.
pub fn log_out_routes() -> RouteGroup {
    RouteGroup::new("Sessions", "/v2/auth")
        .post("/logout", "deleteSession", log_out_doc, log_out)
        .with_operation_id("logOut")
}

/// A session: one login, with all tokens refreshed from it.
#[derive(Debug, Serialize, ToSchema)]
#[serde(rename_all = "camelCase")]
#[schema(as = Session)]
struct SessionView {
    /// The id, which is the `sid` of its access tokens.
    id: Id,
    /// Whether it is the session of this request.
    current: bool,
    /// Time of the login.
    created_at: Timestamp,
    /// The client at the login.
    created_from: SessionOrigin,
    /// Time of the last login, refresh or use of an access token; uses are recorded to the minute.
    last_used_at: Timestamp,
    /// The client at the last use.
    last_used_from: SessionOrigin,
    /// When the session expires, regardless of its use.
    expires_at: Timestamp,
}

/// The client of a login or a use, as far as known.
#[derive(Debug, Serialize, ToSchema)]
#[serde(rename_all = "camelCase")]
#[schema(as = SessionPlace)]
struct SessionOrigin {
    /// The IP address.
    #[schema(examples("192.0.2.7"))]
    address: Option<String>,
    /// The first 256 characters of the `User-Agent` header.
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
        .describe("Sessions that can still have a valid token, at most the 1000 most recently used.")
        .path_id("id", "The id of the user, or `me`.")
        .list_response::<SessionView>("The sessions, the most recently used first.")
        .problems(&[404])
}

fn delete_doc() -> OperationDoc {
    OperationDoc::new("End a session")
        .describe("Revokes its refresh token and access tokens. API keys cannot end sessions.")
        .path_id("id", "The id of the user, or `me`.")
        .path_id("sessionId", "The id of the session.")
        .empty_response(204, "The session has ended.")
        .problems(&[404])
}

fn delete_others_doc() -> OperationDoc {
    OperationDoc::new("End all other sessions of a user")
        .describe("Ends all sessions of the user except the one of this request, and revokes their tokens. API keys cannot end sessions.")
        .path_id("id", "The id of the user, or `me`.")
        .empty_response(204, "The sessions have ended.")
        .problems(&[404])
}

fn log_out_doc() -> OperationDoc {
    OperationDoc::new("Log out")
        .describe(
            "Ends the session of the access token. It is authorized as `deleteSession` on the caller's own user, which every \
             scope permits; API keys have no session. Without a valid access token, send the refresh token to \
             `POST /v2/auth/revoke`.",
        )
        .empty_response(204, "The session has ended.")
}

/// `GET /v2/users/{id}/sessions`.
async fn list(authorizer: Authorizer, id: PathId) -> Result<HttpResponse, Problem> {
    let user = authorizer.lookups().find_authorized::<User>(&id.0).await?;
    let parts = authorizer.state();
    let sessions = parts.store.sessions(user.id, MAX_LISTED, parts.clock.now()).await?;
    let own = authorizer.caller().credential.session();
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
        sessions::end(&authorizer, &id.0, session.map(SessionSelection::One), EndReason::Deleted).await?;
    if ended == 0 { Err(Problem::not_found("Session")) } else { Ok(HttpResponse::NoContent().finish()) }
}

/// `DELETE /v2/users/{id}/sessions`.
async fn delete_others(authorizer: Authorizer, id: PathId) -> Result<HttpResponse, Problem> {
    let which =
        authorizer.caller().credential.session().map_or(SessionSelection::All, SessionSelection::AllExcept);
    sessions::end(&authorizer, &id.0, Some(which), EndReason::Deleted).await?;
    Ok(HttpResponse::NoContent().finish())
}

/// `POST /v2/auth/logout`.
async fn log_out(authorizer: Authorizer, (): ()) -> Result<HttpResponse, Problem> {
    sessions::end(
        &authorizer,
        "me",
        authorizer.caller().credential.session().map(SessionSelection::One),
        EndReason::Logout,
    )
    .await?;
    Ok(HttpResponse::NoContent().finish())
}
