//! The first start on an empty database: creates the root organization and the first admin.

use super::creation;
use super::organizations::organization_event;
use super::users::CreateUser;
use super::{AppState, Authorizer, Caller, Error, ErrorKind};
use crate::authn::{PasswordRules, SecretError, random_password};
use crate::authz::{Scope, Unchecked};
use crate::config::{Config, ConfigError};
use crate::resource::organization::OrganizationBody;
use crate::resource::user::UserBody;
use crate::store::{Event, StoreError};
use crate::types::{Email, Id, InvalidValue, OrgPath};
use secrecy::SecretString;
use std::sync::Arc;

/// Why the first admin or the root organization was not created.
#[derive(Debug, thiserror::Error)]
pub enum BootstrapError {
    /// A setting of the first admin is invalid.
    #[error(transparent)]
    Config(#[from] ConfigError),
    /// The database is unavailable, or has no root organization.
    #[error(transparent)]
    Store(#[from] StoreError),
    /// No random password could be generated.
    #[error(transparent)]
    Secret(#[from] SecretError),
    /// A fixed value is invalid.
    #[error(transparent)]
    Invalid(#[from] InvalidValue),
    /// The creation was refused.
    #[error("{0}")]
    Refused(String),
}

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
///
/// # Errors
/// The setting is invalid.
pub fn admin_email(config: &Config) -> Result<Email, ConfigError> {
    config.admin_email.parse().map_err(|error| ConfigError::new("admin_email", error))
}

/// Checks the configured password of the first admin.
///
/// # Errors
/// The password breaks the rules.
pub fn check_admin_password(config: &Config, email: &Email) -> Result<(), ConfigError> {
    let Some(password) = &config.admin_password else { return Ok(()) };
    PasswordRules::new(config.password_profile)
        .check(password, &[email.to_string()])
        .map_err(|error| ConfigError::new("admin_password", error))
}

/// Creates the root organization and the first admin in a database without users. The policies authorize both.
///
/// # Errors
/// As the variants of [`BootstrapError`] say.
pub async fn ensure_first_admin(
    state: &Arc<AppState>,
    config: &Config,
    announce: AnnounceFirstAdmin,
) -> Result<Option<FirstAdmin>, BootstrapError> {
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
    let fields = UserBody { role: Scope::Admin, ..UserBody::new(email.clone()) };
    let command = CreateUser { fields, password: Some(password) };
    let admin = FirstAdmin { email, random_password };
    let mut announce_error = None;
    let created = creation::create_with(&authorizer, command, |_| {
        announce(&admin).map_err(|error| Error::internal(announce_error.insert(error)))
    });
    match created.await {
        Ok(_) => Ok(Some(admin)),
        Err(_) if let Some(error) = announce_error => {
            Err(BootstrapError::Refused(format!("the first admin was not created: {error}")))
        }
        // Another process that starts on the same database has just created it.
        Err(error) if error.kind == ErrorKind::Conflict => Ok(None),
        Err(error) => Err(BootstrapError::Refused(format!("the first admin cannot be created: {error}"))),
    }
}

/// Returns an authorizer of `action` for the command line.
///
/// # Errors
/// The database is unavailable or has no root organization.
pub async fn terminal_authorizer(
    state: &Arc<AppState>,
    action: &'static str,
) -> Result<Authorizer, BootstrapError> {
    let root = state.store.root().await?;
    let root =
        root.ok_or_else(|| BootstrapError::Refused("the database has no root organization".to_owned()))?;
    Ok(authorizer_in(state, root, action))
}

fn authorizer_in(state: &Arc<AppState>, root: OrgPath, action: &'static str) -> Authorizer {
    let caller = Caller::for_terminal(&state.policies.current(), root);
    Authorizer::new(Arc::clone(state), caller, action)
}

async fn create_root_organization(state: &Arc<AppState>) -> Result<(), BootstrapError> {
    let path = OrgPath::root(Id::new(&state.clock));
    let row = OrganizationBody::new("root".parse()?).into_row(path.clone(), state.clock.now());
    let authorizer = authorizer_in(state, path.clone(), "createOrganization");
    let refused =
        |error: Error| BootstrapError::Refused(format!("the root organization cannot be created: {error}"));
    let row = authorizer.authorize_new(&path, Unchecked::new(row, path.clone())).map_err(refused)?;
    let work = state.store.begin(authorizer.audit_actor()).await?;
    work.audit(organization_event(Event::OrganizationCreated, &row, row.path()));
    match work.insert(row).await {
        Ok(_) => Ok(work.commit().await?),
        // Another process that starts on the same database has just created it.
        Err(StoreError::Duplicate(_)) => Ok(()),
        Err(error) => Err(error.into()),
    }
}
