//! API keys: long-lived credentials of a user with scopes of their own (see "API keys" in docs/decisions.md).

use super::users::User;
use crate::application::{Authorizer, Error};
use crate::authn::{ApiKey, KeyFormat};
use crate::authz::{Permitted, ScopeSet};
use crate::http::openapi::OperationDoc;
use crate::http::{Json, PathId, Problem, RouteGroup};
use crate::store::ApiKeyRow;
use crate::types::{FieldErrorCode, Id, Name, Timestamp};
use actix_web::http::{StatusCode, header};
use actix_web::{HttpRequest, HttpResponse};
use serde::{Deserialize, Serialize};
use serde_json::json;
use utoipa::ToSchema;

/// The maximum number of keys of a user.
const MAX_KEYS: usize = 100;

/// The routes.
pub fn routes() -> RouteGroup {
    RouteGroup::new("API keys", "/v2/users")
        .get("/{id}/keys", "listApiKeys", list_doc, list)
        .post("/{id}/keys", "createApiKey", create_doc, create)
        .remove("/{id}/keys/{keyId}", "deleteApiKey", delete_doc, delete)
}

/// A request to create an API key.
#[derive(Debug, Deserialize, ToSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
#[schema(example = json!({"name": "nightly import", "scopes": ["agent"]}))]
pub struct NewKey {
    /// The name, chosen by the owner.
    pub name: Name,
    /// The scopes. They cannot exceed those of the credential that creates the key.
    pub scopes: ScopeSet,
    /// The expiry; by default the key does not expire.
    pub expires_at: Option<Timestamp>,
    /// The format: `cg`, which secret scanners can recognize, or plain hex digits.
    #[serde(default)]
    pub format: KeyFormat,
}

/// An API key, without its secret.
#[derive(Debug, Serialize, ToSchema)]
#[serde(rename_all = "camelCase")]
#[schema(as = ApiKey)]
pub struct KeyView {
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
pub struct CreatedKey {
    #[serde(flatten)]
    view: KeyView,
    /// The key itself, for `Authorization: Bearer <key>`.
    #[schema(examples("cg_94c70d470e391bdc16a8d8363b5d48910a67162d"))]
    pub key: String,
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

fn list_doc() -> OperationDoc {
    OperationDoc::new("List the API keys of a user")
        .path_id("id", "The id of the user, or `me`.")
        .list_response::<KeyView>("The keys, without their secrets, in the order of creation.")
        .problems(&[404])
}

fn create_doc() -> OperationDoc {
    OperationDoc::new("Create an API key for a user")
        .describe("The key is returned only once. Its scopes cannot exceed those of the creating credential. API keys cannot create API keys.")
        .path_id("id", "The id of the user, or `me`.")
        .body::<NewKey>(Some(json!({"name": "nightly import", "scopes": ["agent"]})))
        .response::<CreatedKey>(201, "The new key, with its secret.", None)
        .problems(&[404, 409])
}

fn delete_doc() -> OperationDoc {
    OperationDoc::new("Delete an API key")
        .path_id("id", "The id of the user, or `me`.")
        .path_id("keyId", "The id of the key.")
        .empty_response(204, "Deleted.")
        .problems(&[404])
}

/// `GET /v2/users/{id}/keys`.
async fn list(authorizer: Authorizer, id: PathId) -> Result<HttpResponse, Problem> {
    let user = authorizer.lookups().find_authorized::<User>(&id.0).await?;
    let keys = authorizer.state().store.api_keys(&user).await?;
    Ok(HttpResponse::Ok().json(keys.into_iter().map(KeyView::from).collect::<Vec<_>>()))
}

/// `POST /v2/users/{id}/keys`.
async fn create(
    authorizer: Authorizer,
    (id, Json(new)): (PathId, Json<NewKey>),
) -> Result<HttpResponse, Problem> {
    let user = authorize_scopes(&authorizer, &id.0, &new.scopes).await?;
    let created = create_key(&authorizer, &user, new).await?;
    Ok(HttpResponse::build(StatusCode::CREATED)
        .insert_header((header::CACHE_CONTROL, "no-store"))
        .json(created))
}

/// Authorizes the creation of a key with each of these scopes, and returns the user.
pub async fn authorize_scopes(
    authorizer: &Authorizer,
    id: &str,
    scopes: &ScopeSet,
) -> Result<Permitted<User>, Problem> {
    let user = authorizer.lookups().find_authorized::<User>(id).await?;
    for scope in scopes.iter() {
        let mut context = authorizer.request_context();
        context.scope = Some(scope);
        authorizer.authorize(authorizer.state().store.find::<User>(user.id).await?, &context)?;
    }
    Ok(user)
}

/// Creates an API key for a user.
pub async fn create_key(
    authorizer: &Authorizer,
    user: &Permitted<User>,
    new: NewKey,
) -> Result<CreatedKey, Problem> {
    create_key_with(authorizer, user, new, |_| Ok(())).await
}

/// Creates an API key, and calls `before_commit` with it before the transaction commits. If that fails, no key is created.
pub async fn create_key_with(
    authorizer: &Authorizer,
    user: &Permitted<User>,
    new: NewKey,
    before_commit: impl FnOnce(&str) -> Result<(), Error>,
) -> Result<CreatedKey, Problem> {
    let now = authorizer.state().clock.now();
    if let Some(end) = new.expires_at.filter(|end| *end <= now) {
        let message = format!("expected a time in the future, got {end}; now is {now}");
        return Err(Problem::invalid_field("expiresAt", FieldErrorCode::InThePast, message));
    }
    if authorizer.state().store.api_keys(user).await?.len() >= MAX_KEYS {
        return Err(Problem::conflict(format!(
            "The user has {MAX_KEYS} API keys, the maximum. Delete one first."
        )));
    }
    let key = ApiKey::new(new.format).map_err(Problem::internal)?;
    let row = ApiKeyRow {
        id: authorizer.new_id(),
        user: user.id,
        name: new.name,
        hash: key.hash(),
        hint: key.hint(),
        scopes: new.scopes,
        created_at: now,
        expires_at: new.expires_at,
        last_used_at: None,
    };
    let work = authorizer.begin().await?;
    // A concurrent block of the user, or end of the caller's session, must not leave a new key behind.
    if !work.account(user.id).await?.is_some_and(|account| account.is_active()) {
        return Err(Problem::conflict(
            "Cannot create a key: the user is blocked, or its organization is inactive.",
        ));
    }
    authorizer.caller().ensure_credential_still_valid(&work, now).await?;
    work.insert_api_key(user, &row).await?;
    before_commit(key.expose())?;
    work.commit().await?;
    Ok(CreatedKey { view: row.into(), key: key.expose().to_owned() })
}

/// `DELETE /v2/users/{id}/keys/{keyId}`.
async fn delete(
    authorizer: Authorizer,
    (request, id): (HttpRequest, PathId),
) -> Result<HttpResponse, Problem> {
    let user = authorizer.lookups().find_authorized::<User>(&id.0).await?;
    let key = request.match_info().get("keyId").and_then(|key| key.parse().ok());
    let work = authorizer.begin().await?;
    // Locks the row of the user, so that a concurrent end of the caller's session is seen below.
    work.account(user.id).await?;
    authorizer.caller().ensure_credential_still_valid(&work, authorizer.state().clock.now()).await?;
    let deleted = match key {
        Some(key) => work.delete_api_key(&user, key).await?,
        None => false,
    };
    if !deleted {
        return Err(Problem::not_found("API key"));
    }
    work.commit().await?;
    Ok(HttpResponse::NoContent().finish())
}
