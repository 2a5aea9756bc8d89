//! Creating and deleting the API keys of a user, for the API and the command line.

use super::{Authorizer, Error};
use crate::authn::{ApiKey, KeyFormat};
use crate::authz::{Engine, Permitted, Scope, ScopeSet};
use crate::resource::user::User;
use crate::store::{Account, ApiKeyRow};
use crate::types::{FieldErrorCode, Id, Name, Timestamp};
use serde::Deserialize;
use utoipa::ToSchema;

/// The maximum number of keys of a user.
const MAX_KEYS: usize = 100;

/// A request to create an API key.
#[derive(Debug, Deserialize, ToSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
#[schema(as = NewKey, example = json!({"name": "nightly import", "scopes": ["agent"]}))]
pub struct CreateApiKey {
    /// The name, chosen by the owner.
    pub name: Name,
    /// The scopes. They cannot exceed those of the credential that creates the key, nor the role of the user.
    pub scopes: ScopeSet,
    /// The expiry; by default the key does not expire.
    pub expires_at: Option<Timestamp>,
    /// The format: `cg`, which secret scanners can recognize, or plain hex digits.
    #[serde(default)]
    pub format: KeyFormat,
}

/// Authorizes the creation of a key with each of these scopes, and returns the user.
async fn authorize_scopes(
    authorizer: &Authorizer,
    id: &str,
    scopes: &ScopeSet,
) -> Result<Permitted<User>, Error> {
    let user = authorizer.lookups().find_authorized::<User>(id).await?;
    for scope in scopes.iter() {
        let mut context = authorizer.request_context();
        context.scope = Some(scope);
        authorizer.authorize(authorizer.state().store.find::<User>(user.id).await?, &context)?;
    }
    Ok(user)
}

/// Checks that the role of the user has all of these scopes: the key could never use the others.
///
/// # Errors
/// The scopes that the role does not have.
fn check_role(engine: &Engine, scopes: &ScopeSet, role: Scope) -> Result<(), Error> {
    let has = |scope: Scope| {
        let effective = engine.effective_scopes(&ScopeSet::from(scope), role);
        effective.is_some_and(|effective| effective.iter().any(|other| other == scope))
    };
    let exceeding: Vec<String> =
        scopes.iter().filter(|scope| !has(*scope)).map(|scope| scope.to_string()).collect();
    if exceeding.is_empty() {
        return Ok(());
    }
    let message =
        format!("the role of the user is {role}, which does not have the scope {}", exceeding.join(", "));
    Err(Error::invalid_field("scopes", FieldErrorCode::NotAllowed, message))
}

/// Creates an API key for a user, if permitted, and calls `before_commit` with it before the transaction commits. If that
/// fails, no key is created.
///
/// # Errors
/// As [`Authorizer::authorize`], for each of the scopes; or the role of the user does not have one of them, the expiry is in the
/// past, or the user has the maximum of keys, is blocked or belongs to an inactive organization.
pub async fn create(
    authorizer: &Authorizer,
    user: &str,
    new: CreateApiKey,
    before_commit: impl FnOnce(&str) -> Result<(), Error>,
) -> Result<(ApiKeyRow, ApiKey), Error> {
    let user = &authorize_scopes(authorizer, user, &new.scopes).await?;
    let now = authorizer.state().clock.now();
    if let Some(end) = new.expires_at.filter(|end| *end <= now) {
        let message = format!("expected a time in the future, got {end}; now is {now}");
        return Err(Error::invalid_field("expiresAt", FieldErrorCode::InThePast, message));
    }
    let key = ApiKey::new(new.format).map_err(Error::internal)?;
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
    let Some(account) = work.account(user.id).await?.filter(Account::is_active) else {
        return Err(Error::conflict(
            "Cannot create a key: the user is blocked, or its organization is inactive.",
        ));
    };
    check_role(authorizer.engine(), &row.scopes, account.role)?;
    if work.count_api_keys(user.id).await? >= MAX_KEYS {
        let message = format!("The user has {MAX_KEYS} API keys, the maximum. Delete one first.");
        return Err(Error::conflict(message));
    }
    authorizer.caller().ensure_credential_still_valid(&work, now).await?;
    work.insert_api_key(user, &row).await?;
    before_commit(key.expose())?;
    work.commit().await?;
    Ok((row, key))
}

/// Deletes an API key of a user, if permitted.
///
/// # Errors
/// As [`Authorizer::authorize`]; `not_found` if the user has no such key.
pub async fn delete(authorizer: &Authorizer, user: &str, key: Option<Id>) -> Result<(), Error> {
    let user = authorizer.lookups().find_authorized::<User>(user).await?;
    let work = authorizer.begin().await?;
    // Locks the row of the user, so that a concurrent end of the caller's session is seen below.
    work.account(user.id).await?;
    authorizer.caller().ensure_credential_still_valid(&work, authorizer.state().clock.now()).await?;
    let deleted = match key {
        Some(key) => work.delete_api_key(&user, key).await?,
        None => false,
    };
    if !deleted {
        return Err(Error::not_found("API key"));
    }
    Ok(work.commit().await?)
}
