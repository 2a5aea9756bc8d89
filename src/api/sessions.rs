//! Sessions of a user, and logout.

use crate::application::{Authorizer, ErrorKind, sessions};
use crate::http;
use crate::http::openapi::{self, OperationDoc};
use crate::http::query::{ListRequest, ListSpec, QueryField};
use crate::http::{PathId, Problem, RouteGroup};
use crate::resource::user::User;
use crate::store::{EndReason, Session, SessionSelection, SortKey, SortOrder};
use crate::types::{Id, Timestamp};
use actix_web::{HttpRequest, HttpResponse};
use serde::Serialize;
use std::sync::Arc;
use utoipa::openapi::RefOr;
use utoipa::openapi::schema::Schema;
use utoipa::{PartialSchema, ToSchema};

/// The routes for the sessions of a user.
pub fn routes() -> RouteGroup {
    let newest = |column: &str| SortKey::new(column, SortOrder::Descending);
    let sort = vec![newest("last_used_at"), newest("created_at")];
    let spec = Arc::new(ListSpec::with_cursors(fields(), sort));
    let documented = Arc::clone(&spec);
    let list = move |authorizer, arguments| list(authorizer, arguments, Arc::clone(&spec));
    RouteGroup::new("Sessions", "/v2/users")
        .about("Logins: each has an access token and a refresh token at a time.")
        .get("/{id}/sessions", "listSessions", move || list_doc(&documented), list)
        .parses_query()
        .remove("/{id}/sessions/{sessionId}", "deleteSession", delete_doc, delete)
        .remove("/{id}/sessions", "deleteSession", delete_others_doc, delete_others)
        .with_operation_id("deleteSessions")
}

/// The logout route.
pub fn log_out_routes() -> RouteGroup {
    RouteGroup::new("Sessions", "/v2/auth")
        .post_for_session("/logout", "deleteSession", log_out_doc, log_out)
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

/// The filters and the columns by which the list is sorted.
fn fields() -> Vec<QueryField> {
    let field =
        |name: &str, column: &str, schema: RefOr<Schema>| QueryField::column(name, column, schema, "");
    vec![
        field("id", "id", Id::schema()),
        field("createdAt", "created_at", Timestamp::schema()),
        field("lastUsedAt", "last_used_at", Timestamp::schema()),
        field("expiresAt", "expires_at", Timestamp::schema()),
    ]
}

fn list_doc(spec: &ListSpec) -> OperationDoc {
    let doc = OperationDoc::new("List the sessions of a user")
        .describe("Sessions that can still have a valid token, by default the most recently used first.")
        .path_id("id", "The id of the user, or `me`.");
    openapi::list_doc::<SessionView>(doc, spec)
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
            "Ends the session of the access token, which may have expired. If the session has ended already, the response is the \
             same. It is authorized as `deleteSession` on the caller's own user, which every scope permits; API keys have no \
             session. Without an access token, send the refresh token to `POST /v2/auth/revoke`.",
        )
        .empty_response(204, "The session has ended.")
}

/// `GET /v2/users/{id}/sessions`.
async fn list(
    authorizer: Authorizer,
    (request, id): (HttpRequest, PathId),
    spec: Arc<ListSpec>,
) -> Result<HttpResponse, Problem> {
    let user = authorizer.lookups().find_authorized::<User>(&id.0).await?;
    let list_request = ListRequest::parse(&request, &spec)?;
    let state = authorizer.state();
    let sessions = state.store.sessions(user.id, &list_request.query, state.clock.now()).await?;
    let own = authorizer.caller().credential.session();
    let sessions = sessions.map(|session| SessionView::new(session, own));
    http::list::table_response(&request, &list_request, sessions)
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

/// `POST /v2/auth/logout`. It is idempotent: if the session has ended, the response is the same.
async fn log_out(authorizer: Option<Authorizer>, (): ()) -> Result<HttpResponse, Problem> {
    let response = Ok(HttpResponse::NoContent().finish());
    let Some(authorizer) = authorizer else { return response };
    let session = authorizer.caller().credential.session().map(SessionSelection::One);
    match sessions::end(&authorizer, "me", session, EndReason::Logout).await {
        // Another request has ended the session in the meantime.
        Err(error) if error.kind == ErrorKind::InvalidToken => response,
        Err(error) => Err(error.into()),
        Ok(_) => response,
    }
}
