//! Password changes: the checks before the transaction, and the sessions and keys that end.

use super::audit::user_event;
use super::login_throttle::LoginAttempt;
use super::{Authorizer, Credential, Error};
use crate::authz::Permitted;
use crate::resource::user::User;
use crate::store::{Account, EndReason, Event, Outcome, SessionSelection, UnitOfWork};
use crate::types::{FieldErrorCode, Name, Timestamp};
use secrecy::SecretString;

/// A new password of a user.
#[derive(Debug)]
pub struct PasswordChange {
    /// The new password.
    pub password: SecretString,
    /// The current password, which is required to change one's own.
    pub current: Option<SecretString>,
    /// Whether to delete the API keys of the user. By default only a reset by another user does.
    pub end_keys: Option<bool>,
}

/// A new password, hashed and checked as far as possible before the transaction.
pub(super) struct NewPassword {
    hash: String,
    /// The hash that the current password was checked against, if the user changes its own password.
    verified_hash: Option<String>,
    end_keys: bool,
}

impl PasswordChange {
    /// Verifies the current password where required, and hashes the new one. Both are slow, so they precede the transaction.
    ///
    /// # Errors
    /// The current password is required and missing or incorrect, the new one breaks the rules, the login throttle refuses the
    /// attempt, the queue of the password workers is full, or the database is unavailable.
    pub(super) async fn prepare(
        self,
        authorizer: &Authorizer,
        user: &Permitted<User>,
    ) -> Result<NewPassword, Error> {
        let is_own = user.id == authorizer.caller().id;
        let verified_hash = match is_own {
            true => Some(verify_current_password(authorizer, user, self.current).await?),
            false => None,
        };
        let hash = hash_password(authorizer, user, self.password).await?;
        // A reset by an admin is more often a response to a leak than a change by the user is.
        Ok(NewPassword { hash, verified_hash, end_keys: self.end_keys.unwrap_or(!is_own) })
    }
}

impl NewPassword {
    /// Checks that the password was not changed since the current one was verified.
    ///
    /// # Errors
    /// `incorrect` for the field `currentPassword` if the password has changed; or the database is unavailable.
    pub(super) async fn check_unchanged(
        &self,
        authorizer: &Authorizer,
        work: &UnitOfWork,
        user: &Permitted<User>,
    ) -> Result<(), Error> {
        match &self.verified_hash {
            Some(verified_hash)
                if work.account(user.id).await?.and_then(|account| account.password_hash).as_ref()
                    != Some(verified_hash) =>
            {
                Err(incorrect_password_audited(authorizer, user, "changed_meanwhile"))
            }
            _ => Ok(()),
        }
    }

    /// Sets the password. Ends all sessions of the user except the caller's own, and the API keys if `endKeys` is set
    /// or by default (see "Password change" in docs/decisions.md).
    ///
    /// # Errors
    /// The database is unavailable, or does not accept writes.
    pub(super) async fn set(
        self,
        authorizer: &Authorizer,
        work: &UnitOfWork,
        user: &Permitted<User>,
        now: Timestamp,
    ) -> Result<(), Error> {
        work.set_password(user, &self.hash, now).await?;
        work.audit(user_event(Event::UserPasswordChanged, user).with("endKeys", self.end_keys));
        let which = match authorizer.caller().credential {
            Credential::Session(own) => SessionSelection::AllExcept(own),
            Credential::ApiKey(_) | Credential::Terminal => SessionSelection::All,
        };
        work.end_sessions(user.id, which, EndReason::Password, now).await?;
        if self.end_keys {
            work.delete_api_keys(user, EndReason::Password).await?;
        }
        Ok(())
    }
}

/// Checks a new password against the rules, and returns its hash.
///
/// # Errors
/// The password breaks the rules, or the queue of the password workers is full.
pub(super) async fn hash_password(
    authorizer: &Authorizer,
    user: &User,
    password: SecretString,
) -> Result<String, Error> {
    let names = [&user.given_name, &user.family_name].into_iter().flatten().map(Name::as_str);
    let user_inputs = names.chain([user.email.as_str()]).map(str::to_owned).collect();
    Ok(authorizer.state().passwords.hash(password, user_inputs).await?)
}

/// The current password is missing or incorrect.
fn invalid_current_password(code: FieldErrorCode, message: &str) -> Error {
    Error::invalid_field("currentPassword", code, message)
}

/// The current password is incorrect. Audited, because the holder of a stolen token may try to guess the password.
fn incorrect_password_audited(authorizer: &Authorizer, user: &Permitted<User>, reason: &str) -> Error {
    let entry = user_event(Event::UserPasswordChanged, user).outcome(Outcome::Failed).with("reason", reason);
    invalid_current_password(FieldErrorCode::Incorrect, "the current password is incorrect")
        .with_audit(authorizer.audit_actor(), entry)
}

/// Verifies the current password of the caller, and returns the stored hash that it matches.
async fn verify_current_password(
    authorizer: &Authorizer,
    user: &Permitted<User>,
    current: Option<SecretString>,
) -> Result<String, Error> {
    let account = authorizer.state().store.account(user.id).await?;
    let Some(Account { email, password_hash: Some(stored), .. }) = account else {
        return Err(invalid_current_password(
            FieldErrorCode::NotAllowed,
            "the user has no password; an admin has to set the first one",
        ));
    };
    let current = current.ok_or_else(|| {
        invalid_current_password(FieldErrorCode::DependentRequired, "required to change your own password")
    })?;
    let attempt =
        LoginAttempt::begin(authorizer.state(), &email, Some(user.id), authorizer.client_address()).await?;
    let verified = attempt.verify_password(current, Some(stored.clone())).await?;
    let verified = verified.ok_or_else(|| incorrect_password_audited(authorizer, user, "wrong_password"))?;
    let work = authorizer.begin().await?;
    verified.record_success(&work).await?;
    work.commit().await?;
    Ok(stored)
}
