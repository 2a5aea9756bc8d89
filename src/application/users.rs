//! Creating, changing, deleting and unlocking users, for the API and the command line.

use super::audit::user_event;
use super::changes::{AuthorizedUpdate, Patch, UpdateRequest};
use super::creation::{AuthorizedNew, NewResource, authorize_row};
use super::fields::{element_label, from_value, join_path};
use super::login_throttle::LoginThrottle;
use super::password_change::{PasswordChange, hash_password};
use super::precondition::Precondition;
use super::writes::{self, WritableResource};
use super::{Authorizer, Error, ErrorKind};
use crate::authz::{Permitted, Scope, Unchecked};
use crate::resource::CreationInfo;
use crate::resource::user::{PASSWORD_FIELD, User, UserBody};
use crate::store::{EndReason, Event, Reader, SessionSelection, UnitOfWork};
use crate::types::{FieldErrorCode, Id, UserStatus};
use secrecy::SecretString;
use serde_json::Value;

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

/// The maximum number of passwords in a request that creates several users: hashing them takes time.
pub const MAX_NEW_PASSWORDS: usize = 100;

/// A new user that was authorized, with its password.
#[derive(Debug)]
pub struct NewUser {
    row: Permitted<User>,
    password: NewUserPassword,
}

/// The password of a new user.
#[derive(Debug)]
enum NewUserPassword {
    None,
    Given(SecretString),
    Hashed(String),
}

impl NewResource for CreateUser {
    type Resource = User;
    type Authorized = NewUser;

    fn parse(body: Value) -> Result<Self, Error> {
        let mut fields = body;
        let password = match fields.as_object_mut() {
            Some(fields) => take_secret(fields, PASSWORD_FIELD)?,
            None => None,
        };
        let fields = from_value(fields, "").map_err(|error| error.also_accepting(&["password"]))?;
        Ok(Self { fields, password })
    }

    fn check_limits(all: &[Self]) -> Result<(), Error> {
        let with_password = all.iter().enumerate().filter(|(_, user)| user.password.is_some());
        match with_password.map(|(index, _)| index).nth(MAX_NEW_PASSWORDS) {
            None => Ok(()),
            Some(index) => {
                let message = format!("expected at most {MAX_NEW_PASSWORDS} users with a password");
                Err(Error::invalid_field(
                    join_path(&element_label(index), PASSWORD_FIELD),
                    FieldErrorCode::TooManyItems,
                    message,
                ))
            }
        }
    }

    async fn authorize(
        self,
        authorizer: &Authorizer,
        creation: CreationInfo,
    ) -> Result<AuthorizedNew<NewUser>, Error> {
        let AuthorizedNew { resource: row, owner, references } =
            authorize_row(authorizer, self.fields.into_row(creation)).await?;
        let password = self.password.map_or(NewUserPassword::None, NewUserPassword::Given);
        Ok(AuthorizedNew { resource: NewUser { row, password }, owner, references })
    }

    /// Hashes the password. Those of a request are hashed one after the other, so that logins do not wait behind all of them.
    async fn prepare(authorizer: &Authorizer, authorized: &mut NewUser) -> Result<(), Error> {
        let password = std::mem::replace(&mut authorized.password, NewUserPassword::None);
        authorized.password = match password {
            NewUserPassword::Given(password) => {
                NewUserPassword::Hashed(hash_password(authorizer, &authorized.row, password).await?)
            }
            other => other,
        };
        Ok(())
    }

    async fn lock(authorizer: &Authorizer, work: &UnitOfWork, _: &[NewUser]) -> Result<(), Error> {
        User::check_caller(authorizer, work).await
    }

    async fn store(
        authorizer: &Authorizer,
        work: &UnitOfWork,
        authorized: NewUser,
    ) -> Result<Permitted<User>, Error> {
        let row = work.insert(authorized.row).await?;
        let hash = match authorized.password {
            NewUserPassword::Hashed(hash) => Some(hash),
            NewUserPassword::None | NewUserPassword::Given(_) => None,
        };
        let event = user_event(Event::UserCreated, &row).with("role", row.role.as_str());
        work.audit(event.with("password", hash.is_some()));
        if let Some(hash) = hash {
            work.set_password(&row, &hash, authorizer.state().clock.now()).await?;
        }
        Ok(row)
    }
}

/// Removes a secret from the fields of a body, and returns it.
///
/// # Errors
/// The field is not a string.
pub fn take_secret(fields: &mut Patch, name: &str) -> Result<Option<SecretString>, Error> {
    match fields.remove(name) {
        None | Some(Value::Null) => Ok(None),
        Some(Value::String(secret)) => Ok(Some(secret.into())),
        Some(_) => Err(Error::invalid_field(name, FieldErrorCode::InvalidType, "expected a string")),
    }
}

impl WritableResource for User {
    async fn check_caller(authorizer: &Authorizer, work: &UnitOfWork) -> Result<(), Error> {
        // The session may have ended while a password was hashed.
        let now = authorizer.state().clock.now();
        authorizer.caller().ensure_credential_still_valid(work, now).await
    }

    async fn authorize_change(
        authorizer: &Authorizer,
        reader: &Reader<'_>,
        resource: Option<Unchecked<Self>>,
        change: UpdateRequest<'_>,
    ) -> Result<AuthorizedUpdate<Self>, Error> {
        let update_name = |row: &mut Self| {
            row.update_name();
            None
        };
        change.authorize(authorizer, reader, resource, update_name).await
    }

    /// Blocking a user ends all of its sessions and API keys permanently.
    async fn save(
        authorizer: &Authorizer,
        work: &UnitOfWork,
        update: AuthorizedUpdate<Self>,
        patch: &Patch,
    ) -> Result<Permitted<Self>, Error> {
        let AuthorizedUpdate { before, row, .. } = update;
        let now = authorizer.state().clock.now();
        ensure_root_admin_remains(work, &before, Some(&row)).await?;
        match row.status {
            UserStatus::Blocked => work.note_user_blocked(row.id, now),
            UserStatus::Active if patch.contains_key("status") => work.note_user_unblocked(row.id),
            UserStatus::Active => {}
        }
        let row = work.save(row).await?;
        audit_change(work, &before, &row);
        if row.status == UserStatus::Blocked {
            work.end_sessions(row.id, SessionSelection::All, EndReason::Blocked, now).await?;
            work.delete_api_keys(&row, EndReason::Blocked).await?;
        }
        Ok(row)
    }

    async fn delete(authorizer: &Authorizer, work: &UnitOfWork, row: &Permitted<Self>) -> Result<(), Error> {
        ensure_root_admin_remains(work, row, None).await?;
        work.note_user_blocked(row.id, authorizer.state().clock.now());
        work.delete(row).await?;
        work.audit(user_event(Event::UserDeleted, row));
        Ok(())
    }
}

/// Updates a user, if permitted. Changing your own password requires the current one (see "Own user" in
/// docs/decisions.md).
///
/// # Errors
/// As [`Authorizer::authorize`]; the fields or a password are invalid; or `last_root_admin`.
pub async fn update(
    authorizer: &Authorizer,
    id: &str,
    command: UpdateUser,
) -> Result<Permitted<User>, Error> {
    let UpdateUser { patch, password, precondition } = command;
    let Some(password) = password else { return writes::update(authorizer, id, &patch, &precondition).await };
    let change =
        UpdateRequest { patch: &patch, extra_changes: &[PASSWORD_FIELD], precondition: &precondition };
    let unchecked = authorizer.lookups().find_unchecked(id).await?;
    let first = User::authorize_change(authorizer, &authorizer.reader(), unchecked, change).await?;
    authorizer.lookups().check_references(&authorizer.reader(), first.references).await?;
    let password = password.prepare(authorizer, &first.row).await?;
    let work = authorizer.begin().await?;
    let unchecked = authorizer.lookups().find_unchecked_in(&work, id).await?;
    User::check_caller(authorizer, &work).await?;
    let update = User::authorize_change(authorizer, &work.reader(), unchecked, change).await?;
    password.check_unchanged(authorizer, &work, &update.row).await?;
    let row = User::save(authorizer, &work, update, &patch).await?;
    password.set(authorizer, &work, &row, authorizer.state().clock.now()).await?;
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
