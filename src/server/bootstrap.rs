//! The first start on an empty database: creates the root organization and the first admin.

use super::{StartError, terminal_authorizer};
use crate::api::organizations::Organization;
use crate::api::users;
use crate::application::{AppState, Authorizer, Caller, Error};
use crate::authn::{PasswordRules, random_password};
use crate::authz::Unchecked;
use crate::config::{Config, ConfigError};
use crate::resource::{self, CreationInfo};
use crate::store::{AuditEntry, Event, StoreError};
use crate::types::{Email, Id, OrgPath};
use actix_web::http::StatusCode;
use secrecy::{ExposeSecret, SecretString};
use serde_json::json;
use std::sync::Arc;

/// The first admin of a database that had no users.
#[derive(Debug)]
pub struct FirstAdmin {
    /// The email address to log in with.
    pub email: Email,
    /// The password, if it was generated.
    pub random_password: Option<SecretString>,
}

/// Shows the first admin before it is stored. An error, which says why it could not be shown, prevents its creation.
pub type AnnounceFirstAdmin = fn(&FirstAdmin) -> Result<(), String>;

/// Returns the email address of the first admin.
pub(super) fn admin_email(config: &Config) -> Result<Email, ConfigError> {
    config.admin_email.parse().map_err(|error| ConfigError::new("admin_email", error))
}

/// Checks the configured password of the first admin.
pub(super) fn check_admin_password(config: &Config, email: &Email) -> Result<(), ConfigError> {
    let Some(password) = &config.admin_password else { return Ok(()) };
    PasswordRules::new(config.password_profile)
        .check(password, &[email.to_string()])
        .map_err(|error| ConfigError::new("admin_password", error))
}

/// Creates the root organization and the first admin in a database without users. The policies authorize both.
pub(super) async fn ensure_first_admin(
    state: &Arc<AppState>,
    config: &Config,
    announce: AnnounceFirstAdmin,
) -> Result<Option<FirstAdmin>, StartError> {
    let email = admin_email(config)?;
    let checked = check_admin_password(config, &email);
    if state.store.has_users().await? {
        if let Err(error) = checked {
            tracing::warn!(%error, "admin_password is ignored: the database has users");
        }
        return Ok(None);
    }
    checked?;
    if state.store.root().await?.is_none() {
        create_root_organization(state).await?;
    }
    let (password, random_password) = match &config.admin_password {
        Some(password) => (password.clone(), None),
        None => {
            let password = SecretString::from(random_password()?);
            (password.clone(), Some(password))
        }
    };
    let authorizer = terminal_authorizer(state, "createUser").await?;
    let fields = json!({ "email": email, "password": password.expose_secret(), "role": "admin" });
    let admin = FirstAdmin { email, random_password };
    let mut announce_error = None;
    let created = users::create_user_with(&authorizer, resource::to_json_object(&fields)?, |_| {
        announce(&admin).map_err(|error| Error::internal(announce_error.insert(error)))
    });
    match created.await {
        Ok(_) => Ok(Some(admin)),
        Err(_) if let Some(error) = announce_error => {
            Err(StartError::Failed(format!("the first admin was not created: {error}")))
        }
        // Another process that starts on the same database has just created it.
        Err(problem) if problem.status == StatusCode::CONFLICT => Ok(None),
        Err(problem) => Err(StartError::Failed(format!("the first admin cannot be created: {problem}"))),
    }
}

async fn create_root_organization(state: &Arc<AppState>) -> Result<(), StartError> {
    let id = Id::new(&state.clock);
    let path = OrgPath::root(id);
    let fields =
        json!({ "name": "root", "status": "active", "tags": [], "meta": {}, "path": path, "level": 0 });
    let creation = CreationInfo { id, organization: id, now: state.clock.now() };
    let mut row = resource::to_json_object(&fields)?;
    for name in ["displayName", "email", "url", "country", "logo", "industry", "parent"] {
        row.insert(name.into(), serde_json::Value::Null);
    }
    let row: Organization = resource::build_row(&row, creation)?;
    let caller = Caller::for_terminal(&state.policies.current(), path.clone());
    let authorizer = Authorizer::new(Arc::clone(state), caller, "createOrganization");
    let failed =
        |error: Error| StartError::Failed(format!("the root organization cannot be created: {error}"));
    let row = authorizer.authorize_new(&path, Unchecked::new(row, path.clone())).map_err(failed)?;
    let work = state.store.begin(authorizer.audit_actor()).await?;
    work.audit(
        AuditEntry::new(Event::OrganizationCreated).target("Organization", id).in_organization(row.path()),
    );
    match work.insert(row).await {
        Ok(_) => Ok(work.commit().await?),
        // Another process that starts on the same database has just created it.
        Err(StoreError::Duplicate(_)) => Ok(()),
        Err(error) => Err(error.into()),
    }
}
