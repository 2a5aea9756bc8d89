//! Revocations that are in effect in this process although the database is not writable, for example because its disk
//! is full.
//!
//! They are stored as soon as the database is writable again. Until then, other processes, and this one after a restart, do
//! not know them.

use super::durability::Durability;
use super::{AuditActor, EndReason, SessionSelection, Store, StoreError, UnitOfWork};
use crate::types::{Id, Timestamp};
use sea_orm::DbErr;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

/// The maximum number of unstored revocations. Beyond it, all credentials that exist by then are revoked.
const MAX_UNSTORED: usize = 10_000;

/// The credentials that a revocation ends.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum RevocationTarget {
    /// Sessions of the user.
    Sessions(SessionSelection),
    /// API keys of the user: this one, or all.
    ApiKeys(Option<Id>),
    /// All credentials of the user, including future ones: it is blocked or deleted.
    User,
    /// The credentials of all users.
    AllUsers,
}

/// A revocation and its actor.
#[derive(Debug, Clone)]
pub(super) struct Revocation {
    pub(super) user: Id,
    pub(super) target: RevocationTarget,
    pub(super) reason: EndReason,
    pub(super) actor: AuditActor,
    pub(super) time: Timestamp,
}

impl Revocation {
    /// Returns whether a credential with this id existed at the time of the revocation.
    fn existed_before(&self, credential: Id) -> bool {
        i64::from(credential.created_second()) <= self.time.seconds()
    }

    fn covers_session(&self, user: Id, session: Id) -> bool {
        match self.target {
            RevocationTarget::AllUsers => self.existed_before(session),
            _ if self.user != user => false,
            RevocationTarget::User => true,
            RevocationTarget::Sessions(SessionSelection::All) => self.existed_before(session),
            RevocationTarget::Sessions(SessionSelection::One(one)) => one == session,
            RevocationTarget::Sessions(SessionSelection::AllExcept(own)) => {
                own != session && self.existed_before(session)
            }
            RevocationTarget::ApiKeys(_) => false,
        }
    }

    fn covers_key(&self, user: Id, key: Id) -> bool {
        match self.target {
            RevocationTarget::AllUsers => self.existed_before(key),
            _ if self.user != user => false,
            RevocationTarget::User => true,
            RevocationTarget::ApiKeys(one) => one.map_or_else(|| self.existed_before(key), |one| one == key),
            RevocationTarget::Sessions(_) => false,
        }
    }

    fn blocks_user(&self, user: Id) -> bool {
        self.target == RevocationTarget::User && self.user == user
    }
}

/// The revocations that are not stored.
#[derive(Debug, Default)]
pub(super) struct UnstoredRevocations {
    /// Whether there are any; avoids taking the lock.
    is_any: AtomicBool,
    pending: Mutex<Vec<Revocation>>,
}

impl UnstoredRevocations {
    fn lock(&self) -> MutexGuard<'_, Vec<Revocation>> {
        self.pending.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn has_any(&self, is_covered: impl Fn(&Revocation) -> bool) -> bool {
        self.is_any.load(Ordering::Acquire) && self.lock().iter().any(is_covered)
    }

    fn is_session_revoked(&self, user: Id, session: Id) -> bool {
        self.has_any(|revocation| revocation.covers_session(user, session))
    }

    fn is_key_revoked(&self, user: Id, key: Id) -> bool {
        self.has_any(|revocation| revocation.covers_key(user, key))
    }

    fn is_user_blocked(&self, user: Id) -> bool {
        self.has_any(|revocation| revocation.blocks_user(user))
    }

    /// Puts revocations into effect.
    pub(super) fn add(&self, new: &[Revocation]) {
        let mut pending = self.lock();
        for new in new {
            pending.retain(|old| (old.user, old.target) != (new.user, new.target));
            pending.push(new.clone());
        }
        if let Some(last) = pending.last().filter(|_| pending.len() > MAX_UNSTORED).cloned() {
            tracing::error!(
                "more than {MAX_UNSTORED} revocations cannot be stored: this process rejects all existing sessions and API keys"
            );
            // Users stay blocked, since that covers future credentials, too.
            pending.retain(|old| old.target == RevocationTarget::User);
            pending.truncate(MAX_UNSTORED);
            pending.push(Revocation { target: RevocationTarget::AllUsers, ..last });
        }
        self.is_any.store(!pending.is_empty(), Ordering::Release);
    }

    /// Removes revocations that have been stored.
    pub(super) fn remove_stored(&self, stored: &[Revocation], unblocked: &[Id]) {
        if !self.is_any.load(Ordering::Acquire) {
            return;
        }
        let mut pending = self.lock();
        pending.retain(|old| {
            let is_stored = |new: &Revocation| {
                (new.user, new.target) == (old.user, old.target) || new.blocks_user(old.user)
            };
            !(stored.iter().any(is_stored) || unblocked.iter().any(|user| old.blocks_user(*user)))
        });
        self.is_any.store(!pending.is_empty(), Ordering::Release);
    }
}

/// The revocations of a unit of work, until it ends.
#[derive(Debug)]
pub(super) struct PendingRevocations {
    durability: Arc<Durability>,
    /// They take effect in this process even if they cannot be stored.
    revocations: Mutex<Vec<Revocation>>,
    /// The users that the unit of work unblocks.
    unblocked_users: Mutex<Vec<Id>>,
    /// Whether the unit of work is rolled back in any case, so that its revocations never take effect.
    is_dry_run: bool,
}

impl PendingRevocations {
    pub(super) fn new(durability: &Arc<Durability>, is_dry_run: bool) -> Self {
        Self {
            durability: Arc::clone(durability),
            revocations: Mutex::default(),
            unblocked_users: Mutex::default(),
            is_dry_run,
        }
    }

    /// Checks that the database file was not moved away, which would lose writes.
    ///
    /// # Errors
    /// As [`super::durability::Durability::check_in_place`].
    pub(super) fn check_file_in_place(&self) -> Result<(), StoreError> {
        self.durability.check_in_place()
    }

    /// Puts the revocations into effect if they could not be stored; removes them if they were.
    ///
    /// # Errors
    /// The error in `written`; [`StoreError::RevocationNotStored`] if the database does not accept writes and there are
    /// revocations.
    pub(super) fn finish(&self, written: Result<(), StoreError>) -> Result<(), StoreError> {
        self.durability.record(&written);
        let revocations = self.revocations.lock().unwrap_or_else(PoisonError::into_inner);
        match written {
            Ok(()) => {
                let unblocked_users = self.unblocked_users.lock().unwrap_or_else(PoisonError::into_inner);
                self.durability.revocations.remove_stored(&revocations, &unblocked_users);
                Ok(())
            }
            Err(StoreError::NotWritable(cause)) if !revocations.is_empty() && !self.is_dry_run => {
                self.durability.revocations.add(&revocations);
                Err(StoreError::RevocationNotStored(cause))
            }
            Err(error) => Err(error),
        }
    }
}

impl UnitOfWork {
    /// Notes a revocation, which takes effect in this process even if it cannot be stored. Call it when the revocation is
    /// authorized, before writing it.
    pub(super) fn note_revocation(
        &self,
        user: Id,
        target: RevocationTarget,
        reason: EndReason,
        time: Timestamp,
    ) {
        let revocation = Revocation { user, target, reason, actor: self.actor.clone(), time };
        self.pending_revocations.revocations.lock().unwrap_or_else(PoisonError::into_inner).push(revocation);
    }

    /// Notes that a user is blocked or deleted. Its credentials are rejected even if that cannot be stored.
    pub fn note_user_blocked(&self, user: Id, time: Timestamp) {
        self.mark_written(user);
        self.note_revocation(user, RevocationTarget::User, EndReason::Blocked, time);
    }

    /// Notes that a user is unblocked.
    pub fn note_user_unblocked(&self, user: Id) {
        self.pending_revocations.unblocked_users.lock().unwrap_or_else(PoisonError::into_inner).push(user);
    }

    /// Converts the error of a failed statement. If the database is not writable, the noted revocations take effect.
    pub(super) fn statement_error(&self, error: DbErr) -> StoreError {
        let Err(error) = self.pending_revocations.finish(Err(error.into())) else {
            return StoreError::Failed("a failed statement was reported as successful".to_owned());
        };
        self.cache.invalidate(&self.write_set.lock().unwrap_or_else(PoisonError::into_inner));
        error
    }

    pub(super) fn is_session_revoked(&self, user: Id, session: Id) -> bool {
        self.pending_revocations.durability.revocations.is_session_revoked(user, session)
    }

    pub(super) fn is_key_revoked(&self, user: Id, key: Id) -> bool {
        self.pending_revocations.durability.revocations.is_key_revoked(user, key)
    }

    pub(super) fn is_user_blocked(&self, user: Id) -> bool {
        self.pending_revocations.durability.revocations.is_user_blocked(user)
    }
}

impl Store {
    /// Returns whether an unstored revocation covers a session.
    pub fn is_session_revoked(&self, user: Id, session: Id) -> bool {
        self.durability.revocations.is_session_revoked(user, session)
    }

    /// Returns whether an unstored revocation covers an API key.
    pub fn is_key_revoked(&self, user: Id, key: Id) -> bool {
        self.durability.revocations.is_key_revoked(user, key)
    }

    /// Returns whether an unstored revocation blocks or deletes a user.
    pub fn is_user_blocked(&self, user: Id) -> bool {
        self.durability.revocations.is_user_blocked(user)
    }

    /// The number of unstored revocations.
    pub fn unstored_revocations(&self) -> usize {
        self.durability.revocations.lock().len()
    }

    /// Stores the pending revocations of sessions and API keys. A user that is to be blocked or deleted stays rejected
    /// in this process until that request is repeated.
    ///
    /// # Errors
    ///
    /// If the database is unavailable or not writable.
    pub async fn store_revocations(&self) -> Result<(), StoreError> {
        if !self.durability.revocations.is_any.load(Ordering::Acquire) {
            return Ok(());
        }
        let pending = self.durability.revocations.lock().clone();
        for Revocation { user, target, reason, actor, time } in pending {
            let work = self.begin(actor).await?;
            match target {
                RevocationTarget::Sessions(selection) => {
                    work.end_sessions_opened_until(user, selection, reason, time, Some(time)).await?;
                }
                RevocationTarget::ApiKeys(selection) => {
                    work.delete_matching_keys(user, selection, reason, Some(time)).await?;
                }
                RevocationTarget::User | RevocationTarget::AllUsers => continue,
            }
            work.commit().await?;
            tracing::info!(%user, "stored a pending revocation");
        }
        Ok(())
    }
}
