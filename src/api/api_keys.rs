//! API keys: long-lived credentials of a user, with the scopes that they are made for (decision 10).

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

/// How many keys a user may have.
const MAX_KEYS: usize = 100;

/// The routes.
pub fn routes() -> RouteGroup {
    RouteGroup::new("API keys", "/v2/users")
        .get("/{id}/keys", "listApiKeys", list_doc, list)
        .post("/{id}/keys", "createApiKey", create_doc, create)
        .remove("/{id}/keys/{keyId}", "deleteApiKey", delete_doc, delete)
}

/// What a new key is to be.
#[derive(Debug, Deserialize, ToSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
#[schema(example = json!({"name": "nightly import", "scopes": ["agent"]}))]
pub struct NewKey {
    /// What its owner calls it.
    pub name: Name,
    /// What it is for. None of them may be above the credential that makes the key.
    pub scopes: ScopeSet,
    /// Until when it is good; for ever if nothing is said.
    pub expires_at: Option<Timestamp>,
    /// What it looks like: `cg`, which scanners can find where it has leaked, or plain hex digits.
    #[serde(default)]
    pub format: KeyFormat,
}

/// An API key, without its secret.
#[derive(Debug, Serialize, ToSchema)]
#[serde(rename_all = "camelCase")]
#[schema(as = ApiKey)]
pub struct KeyView {
    /// The key.
    id: Id,
    /// Whose it is.
    user: Id,
    /// What its owner calls it.
    name: Name,
    /// What it is for. It can do no more than its user.
    scopes: ScopeSet,
    /// The first characters of the secret, to tell keys apart.
    hint: String,
    /// When it was made.
    created_at: Timestamp,
    /// Until when it is good; for ever where there is none.
    expires_at: Option<Timestamp>,
    /// When it was last used, to the minute.
    last_used_at: Option<Timestamp>,
}

/// A new API key, with its secret, which is shown this once.
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
        .list_response::<KeyView>("The keys, without their secrets, in the order of their making.")
        .problems(&[404])
}

fn create_doc() -> OperationDoc {
    OperationDoc::new("Create an API key for a user")
        .describe("The key is shown once. Its scopes reach at most as high as the credential that makes it; a key makes no keys.")
        .path_id("id", "The id of the user, or `me`.")
        .body::<NewKey>(Some(json!({"name": "nightly import", "scopes": ["agent"]})))
        .response::<CreatedKey>(201, "The new key, with its secret.", None)
        .problems(&[404, 409])
}

fn delete_doc() -> OperationDoc {
    OperationDoc::new("Delete an API key")
        .path_id("id", "The id of the user, or `me`.")
        .path_id("keyId", "The id of the key.")
        .empty_response(204, "It is no longer good.")
        .problems(&[404])
}

/// `GET /v2/users/{id}/keys`.
async fn list(authorizer: Authorizer, id: PathId) -> Result<HttpResponse, Problem> {
    let user = authorizer.find_authorized::<User>(&id.0).await?;
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

/// The user, if the caller may make it a key with each of these scopes.
pub async fn authorize_scopes(
    authorizer: &Authorizer,
    id: &str,
    scopes: &ScopeSet,
) -> Result<Permitted<User>, Problem> {
    let user = authorizer.find_authorized::<User>(id).await?;
    for scope in scopes.iter() {
        let mut circumstances = authorizer.request_context();
        circumstances.scope = Some(scope);
        authorizer.authorize(authorizer.state().store.find::<User>(user.id).await?, &circumstances)?;
    }
    Ok(user)
}

/// Makes a key for a user.
pub async fn create_key(
    authorizer: &Authorizer,
    user: &Permitted<User>,
    new: NewKey,
) -> Result<CreatedKey, Problem> {
    create_key_with(authorizer, user, new, |_| Ok(())).await
}

/// The same, but calls `show` with the key before it becomes valid. There is no key where `show` fails.
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
            "The user has {MAX_KEYS} keys, the most that one may have. Delete one first."
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
    // Whoever blocks the user meanwhile has ended its keys already, and whoever ends the caller's session means its keys, too.
    if !work.account(user.id).await?.is_some_and(|account| account.is_active()) {
        return Err(Problem::conflict(
            "The user is blocked, or its organization is inactive: it can have no API keys.",
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
    let user = authorizer.find_authorized::<User>(&id.0).await?;
    let key = request.match_info().get("keyId").and_then(|key| key.parse().ok());
    let work = authorizer.begin().await?;
    // Whoever ends the caller's session has the row of the user, and here it is waited for.
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
