//! Creating, changing, deleting and unlocking users, for the API and the command line.

use super::audit::user_event;
use super::changes::{AuthorizedUpdate, Patch, UpdateRequest, authorize_new_row, creation_info};
use super::login_throttle::LoginThrottle;
use super::password_change::{PasswordChange, hash_password};
use super::precondition::Precondition;
use super::{Authorizer, Error, ErrorKind};
use crate::authz::{Permitted, Scope};
use crate::resource::user::{PASSWORD_FIELD, User, UserBody};
use crate::store::{EndReason, Event, SessionSelection, UnitOfWork};
use crate::types::{Id, UserStatus};
use secrecy::SecretString;

/// The creation of a user.
#[derive(Debug)]
pub struct CreateUser {
    /// The fields of the user.
    pub fields: UserBody,
    /// The password. A user without one cannot log in.
    pub password: Option<SecretString>,
}

/// A change of a user.
#[derive(Debug, Default)]
pub struct UpdateUser {
    /// The fields to set.
    pub patch: Patch,
    /// The new password, if it changes.
    pub password: Option<PasswordChange>,
    /// The versions of the user on which it is changed.
    pub precondition: Precondition,
}

/// Creates a user, if permitted.
///
/// # Errors
/// As [`create_with`].
pub async fn create(authorizer: &Authorizer, command: CreateUser) -> Result<Permitted<User>, Error> {
    create_with(authorizer, command, |_| Ok(())).await
}

/// Creates a user, and calls `before_commit` before the transaction commits. If that fails, no user is created,
/// because its random password would be unknown.
///
/// # Errors
/// The fields or the password are invalid, the policies do not permit it, or the database is unavailable.
pub async fn create_with(
    authorizer: &Authorizer,
    command: CreateUser,
    before_commit: impl FnOnce(&User) -> Result<(), Error>,
) -> Result<Permitted<User>, Error> {
    let CreateUser { fields, password } = command;
    let row = fields.into_row(creation_info(authorizer, authorizer.caller().organization.org_id()));
    let row = authorize_new_row(authorizer, row).await?;
    let hash = match password {
        Some(password) => Some(hash_password(authorizer, &row, password).await?),
        None => None,
    };
    let now = authorizer.state().clock.now();
    let work = authorizer.begin().await?;
    authorizer.caller().ensure_credential_still_valid(&work, now).await?;
    let row = work.insert(row).await?;
    work.audit(
        user_event(Event::UserCreated, &row).with("role", row.role.as_str()).with("password", hash.is_some()),
    );
    if let Some(hash) = hash {
        work.set_password(&row, &hash, now).await?;
    }
    before_commit(&row)?;
    work.commit().await?;
    Ok(row)
}

/// Updates a user, if permitted. Changing your own password requires the current one (see "Own user" in
/// docs/decisions.md). Blocking a user ends all of its sessions and API keys permanently.
///
/// # Errors
/// As [`Authorizer::authorize`]; the fields or a password are invalid; or `last_root_admin`.
pub async fn update(
    authorizer: &Authorizer,
    id: &str,
    command: UpdateUser,
) -> Result<Permitted<User>, Error> {
    let UpdateUser { patch, password, precondition } = command;
    let extra_changes: &[&str] = if password.is_some() { &[PASSWORD_FIELD] } else { &[] };
    let change = UpdateRequest { patch: &patch, extra_changes, precondition: &precondition };
    let update_name = |row: &mut User| {
        row.update_name();
        None
    };
    let proposal = change
        .authorize(
            authorizer,
            &authorizer.reader(),
            authorizer.lookups().find_unchecked(id).await?,
            update_name,
        )
        .await?;
    authorizer.lookups().check_references(&authorizer.reader(), proposal.references).await?;
    let password = match password {
        Some(password) => Some(password.prepare(authorizer, &proposal.row).await?),
        None => None,
    };
    let work = authorizer.begin().await?;
    let unchecked = authorizer.lookups().find_unchecked_in(&work, id).await?;
    // The session may have ended while the password was hashed.
    let now = authorizer.state().clock.now();
    authorizer.caller().ensure_credential_still_valid(&work, now).await?;
    let AuthorizedUpdate { before, row, .. } =
        change.authorize(authorizer, &work.reader(), unchecked, update_name).await?;
    if let Some(password) = &password {
        password.check_unchanged(authorizer, &work, &row).await?;
    }
    ensure_root_admin_remains(&work, &before, Some(&row)).await?;
    match row.status {
        UserStatus::Blocked => work.note_user_blocked(row.id, now),
        UserStatus::Active if patch.contains_key("status") => work.note_user_unblocked(row.id),
        UserStatus::Active => {}
    }
    let row = work.save(row).await?;
    audit_change(&work, &before, &row);
    if let Some(password) = password {
        password.set(authorizer, &work, &row, now).await?;
    }
    if row.status == UserStatus::Blocked {
        work.end_sessions(row.id, SessionSelection::All, EndReason::Blocked, now).await?;
        work.delete_api_keys(&row, EndReason::Blocked).await?;
    }
    work.commit().await?;
    Ok(row)
}

/// 409 if the user is the last active admin of the root organization and would no longer be one, since no other user could
/// then appoint an admin. `after` is the changed user; none if it is deleted.
async fn ensure_root_admin_remains(
    work: &UnitOfWork,
    before: &Permitted<User>,
    after: Option<&Permitted<User>>,
) -> Result<(), Error> {
    let is_root_admin = |user: &Permitted<User>| {
        user.path().parent().is_none() && user.role == Scope::Admin && user.status == UserStatus::Active
    };
    if !is_root_admin(before) || after.is_some_and(is_root_admin) {
        return Ok(());
    }
    if work.has_other_root_admin(before.id).await? {
        return Ok(());
    }
    Err(Error::new(
        ErrorKind::Conflict,
        "last_root_admin",
        "The user is the last active admin of the root organization. It cannot be deleted, blocked, moved or given another \
         role before another active user of the root organization has the role admin.",
    ))
}

/// Deletes a user, if permitted.
///
/// # Errors
/// As [`Authorizer::authorize`]; `precondition_failed`; or `last_root_admin`.
pub async fn delete(authorizer: &Authorizer, id: &str, precondition: &Precondition) -> Result<(), Error> {
    authorizer.lookups().find_authorized::<User>(id).await?;
    let work = authorizer.begin().await?;
    let row = authorizer.authorize(
        authorizer.lookups().find_unchecked_in::<User>(&work, id).await?,
        &authorizer.request_context(),
    )?;
    precondition.check(&row)?;
    let now = authorizer.state().clock.now();
    authorizer.caller().ensure_credential_still_valid(&work, now).await?;
    ensure_root_admin_remains(&work, &row, None).await?;
    work.note_user_blocked(row.id, now);
    work.delete(&row).await?;
    work.audit(user_event(Event::UserDeleted, &row));
    Ok(work.commit().await?)
}

/// Clears the login back-off of a user, if the caller may update the user. The back-off of client addresses is not
/// affected.
///
/// # Errors
/// As [`Authorizer::authorize`].
pub async fn unlock(authorizer: &Authorizer, id: Id) -> Result<(), Error> {
    let user = authorizer.lookups().find_authorized::<User>(&id.to_string()).await?;
    let work = authorizer.begin().await?;
    let accounts = LoginThrottle::account_keys(&user.email, &user.id.to_string());
    work.clear_account_attempts(&accounts).await?;
    work.audit(user_event(Event::UserUnlocked, &user));
    Ok(work.commit().await?)
}

/// Records changes of organization, role, status and email in the audit log.
fn audit_change(work: &UnitOfWork, before: &Permitted<User>, row: &Permitted<User>) {
    if before.organization != row.organization {
        // In the organization that the user leaves; the events below are recorded in the new one.
        let (from, to) = (before.organization.to_string(), row.organization.to_string());
        work.audit(user_event(Event::UserMoved, before).with("from", from).with("to", to));
    }
    if before.role != row.role {
        let (from, to) = (before.role.as_str(), row.role.as_str());
        work.audit(user_event(Event::UserRoleChanged, row).with("from", from).with("to", to));
    }
    match (before.status, row.status) {
        (UserStatus::Active, UserStatus::Blocked) => work.audit(user_event(Event::UserBlocked, row)),
        (UserStatus::Blocked, UserStatus::Active) => work.audit(user_event(Event::UserUnblocked, row)),
        _ => {}
    }
    if before.email != row.email {
        work.audit(user_event(Event::UserEmailChanged, row));
    }
}
