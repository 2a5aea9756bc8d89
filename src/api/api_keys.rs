//! API keys: long-lived credentials of a user with scopes of their own (see "API keys" in docs/decisions.md).

use crate::application::Authorizer;
use crate::application::api_keys::{self, CreateApiKey};
use crate::authz::ScopeSet;
use crate::http;
use crate::http::compression::uncompressed;
use crate::http::openapi::{self, OperationDoc};
use crate::http::query::{ListRequest, ListSpec, QueryField};
use crate::http::{Json, PathId, Problem, RouteGroup};
use crate::resource::user::User;
use crate::store::ApiKeyRow;
use crate::types::{Id, Name, Timestamp};
use actix_web::http::{StatusCode, header};
use actix_web::{HttpRequest, HttpResponse};
use serde::Serialize;
use serde_json::json;
use std::sync::Arc;
use utoipa::openapi::RefOr;
use utoipa::openapi::schema::Schema;
use utoipa::{PartialSchema, ToSchema};

/// The routes.
pub fn routes() -> RouteGroup {
    let spec = Arc::new(ListSpec::with_cursors(fields(), Vec::new()));
    let documented = Arc::clone(&spec);
    let list = move |authorizer, arguments| list(authorizer, arguments, Arc::clone(&spec));
    RouteGroup::new("API keys", "/v2/users")
        .about("Credentials for programs, with scopes of their own.")
        .get("/{id}/keys", "listApiKeys", move || list_doc(&documented), list)
        .parses_query()
        .post("/{id}/keys", "createApiKey", create_doc, create)
        .refuses_idempotency_key()
        .remove("/{id}/keys/{keyId}", "deleteApiKey", delete_doc, delete)
}

/// An API key, without its secret.
#[derive(Debug, Serialize, ToSchema)]
#[serde(rename_all = "camelCase")]
#[schema(as = ApiKey)]
struct KeyView {
    /// The id.
    id: Id,
    /// The user that the key belongs to.
    user: Id,
    /// The name, chosen by the owner.
    name: Name,
    /// The scopes, which are capped by the role of the user.
    scopes: ScopeSet,
    /// The first characters of the secret, to tell keys apart.
    hint: String,
    /// Creation time.
    created_at: Timestamp,
    /// The expiry; null if the key does not expire.
    expires_at: Option<Timestamp>,
    /// Time of the last use, to the minute.
    last_used_at: Option<Timestamp>,
}

/// A new API key with its secret, which is returned only once.
#[derive(Debug, Serialize, ToSchema)]
#[serde(rename_all = "camelCase")]
struct CreatedKey {
    #[serde(flatten)]
    view: KeyView,
    /// The key itself, for `Authorization: Bearer <key>`.
    #[schema(examples("cg_94c70d470e391bdc16a8d8363b5d48910a67162d"))]
    key: String,
}

impl From<ApiKeyRow> for KeyView {
    fn from(row: ApiKeyRow) -> Self {
        Self {
            id: row.id,
            user: row.user,
            name: row.name,
            scopes: row.scopes,
            hint: row.hint,
            created_at: row.created_at,
            expires_at: row.expires_at,
            last_used_at: row.last_used_at,
        }
    }
}

/// The filters and the columns by which the list is sorted.
fn fields() -> Vec<QueryField> {
    let field =
        |name: &str, column: &str, schema: RefOr<Schema>| QueryField::column(name, column, schema, "");
    vec![
        field("id", "id", Id::schema()),
        field("name", "name", Name::schema()),
        field("createdAt", "created_at", Timestamp::schema()),
        field("expiresAt", "expires_at", Timestamp::schema()),
        field("lastUsedAt", "last_used_at", Timestamp::schema()),
    ]
}

fn list_doc(spec: &ListSpec) -> OperationDoc {
    let doc = OperationDoc::new("List the API keys of a user")
        .describe("The keys without their secrets, by default in the order of their creation.")
        .path_id("id", "The id of the user, or `me`.");
    openapi::list_doc::<KeyView>(doc, spec)
}

fn create_doc() -> OperationDoc {
    OperationDoc::new("Create an API key for a user")
        .describe("The key is returned only once. Its scopes cannot exceed those of the creating credential (403), nor the role of the user (400). API keys cannot create API keys.")
        .path_id("id", "The id of the user, or `me`.")
        .body::<CreateApiKey>(Some(json!({"name": "nightly import", "scopes": ["agent"]})))
        .response::<CreatedKey>(201, "The new key, with its secret.", None)
        .problems(&[404, 409])
}

fn delete_doc() -> OperationDoc {
    OperationDoc::new("Delete an API key")
        .describe("The key is rejected from the next request on.")
        .path_id("id", "The id of the user, or `me`.")
        .path_id("keyId", "The id of the key.")
        .empty_response(204, "Deleted.")
        .problems(&[404])
}

/// `GET /v2/users/{id}/keys`.
async fn list(
    authorizer: Authorizer,
    (request, id): (HttpRequest, PathId),
    spec: Arc<ListSpec>,
) -> Result<HttpResponse, Problem> {
    let user = authorizer.lookups().find_authorized::<User>(&id.0).await?;
    let list_request = ListRequest::parse(&request, &spec)?;
    let keys = authorizer.state().store.api_keys(&user, &list_request.query).await?;
    http::list::table_response(&request, &list_request, keys.map(KeyView::from))
}

/// `POST /v2/users/{id}/keys`.
async fn create(
    authorizer: Authorizer,
    (id, Json(new)): (PathId, Json<CreateApiKey>),
) -> Result<HttpResponse, Problem> {
    let (row, key) = api_keys::create(&authorizer, &id.0, new, |_| Ok(())).await?;
    let mut response = HttpResponse::build(StatusCode::CREATED);
    response.insert_header((header::CACHE_CONTROL, "no-store"));
    Ok(uncompressed(response.json(CreatedKey { view: row.into(), key: key.expose().to_owned() })))
}

/// `DELETE /v2/users/{id}/keys/{keyId}`.
async fn delete(
    authorizer: Authorizer,
    (request, id): (HttpRequest, PathId),
) -> Result<HttpResponse, Problem> {
    let key = request.match_info().get("keyId").and_then(|key| key.parse().ok());
    api_keys::delete(&authorizer, &id.0, key).await?;
    Ok(HttpResponse::NoContent().finish())
}
