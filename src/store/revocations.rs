//! Revocations that are in effect in this process although the database could not be written, for example because its disk
//! is full. They are stored as soon as it can be written again; until then other processes, and this one after a restart,
//! do not know them.

use super::durability::Durability;
use super::{Cause, Ending, Sessions, Store, StoreError, Work};
use crate::values::{Id, Timestamp};
use sea_orm::DbErr;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

/// The number of revocations that are kept. Beyond it all credentials are revoked that exist by then.
const MAX: usize = 10_000;

/// The credentials that a revocation ends.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Revoked {
    /// Sessions of the user.
    Sessions(Sessions),
    /// API keys of the user: this one, else all.
    Keys(Option<Id>),
    /// All credentials of the user, those of the future too: it is blocked or deleted.
    User,
    /// The credentials of all users.
    Everyone,
}

/// A revocation, and who caused it.
#[derive(Debug, Clone)]
pub(super) struct Revocation {
    pub(super) user: Id,
    pub(super) what: Revoked,
    pub(super) because: Ending,
    pub(super) cause: Cause,
    pub(super) at: Timestamp,
}

impl Revocation {
    /// Whether a credential with this id existed when the revocation was made.
    fn is_older(&self, credential: Id) -> bool {
        i64::from(credential.second()) <= self.at.seconds()
    }

    fn covers_session(&self, user: Id, session: Id) -> bool {
        match self.what {
            Revoked::Everyone => self.is_older(session),
            _ if self.user != user => false,
            Revoked::User => true,
            Revoked::Sessions(Sessions::All) => self.is_older(session),
            Revoked::Sessions(Sessions::One(one)) => one == session,
            Revoked::Sessions(Sessions::AllBut(own)) => own != session && self.is_older(session),
            Revoked::Keys(_) => false,
        }
    }

    fn covers_key(&self, user: Id, key: Id) -> bool {
        match self.what {
            Revoked::Everyone => self.is_older(key),
            _ if self.user != user => false,
            Revoked::User => true,
            Revoked::Keys(one) => one.map_or_else(|| self.is_older(key), |one| one == key),
            Revoked::Sessions(_) => false,
        }
    }

    fn blocks(&self, user: Id) -> bool {
        self.what == Revoked::User && self.user == user
    }
}

/// The revocations that are not stored.
#[derive(Debug, Default)]
pub(super) struct Revocations {
    /// Whether there are any, so that nobody else takes the lock.
    is_any: AtomicBool,
    pending: Mutex<Vec<Revocation>>,
}

impl Revocations {
    fn lock(&self) -> MutexGuard<'_, Vec<Revocation>> {
        self.pending.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn any(&self, is_covered: impl Fn(&Revocation) -> bool) -> bool {
        self.is_any.load(Ordering::Acquire) && self.lock().iter().any(is_covered)
    }

    fn has_session(&self, user: Id, session: Id) -> bool {
        self.any(|revocation| revocation.covers_session(user, session))
    }

    fn has_key(&self, user: Id, key: Id) -> bool {
        self.any(|revocation| revocation.covers_key(user, key))
    }

    fn has_user(&self, user: Id) -> bool {
        self.any(|revocation| revocation.blocks(user))
    }

    /// Puts revocations into effect.
    pub(super) fn add(&self, new: &[Revocation]) {
        let mut pending = self.lock();
        for new in new {
            pending.retain(|old| (old.user, old.what) != (new.user, new.what));
            pending.push(new.clone());
        }
        if let Some(last) = pending.last().filter(|_| pending.len() > MAX).cloned() {
            tracing::error!(
                "more than {MAX} revocations cannot be stored: this process refuses all sessions and API keys that exist now"
            );
            // Users that are blocked stay so: their new credentials count, too.
            pending.retain(|old| old.what == Revoked::User);
            pending.truncate(MAX);
            pending.push(Revocation { what: Revoked::Everyone, ..last });
        }
        self.is_any.store(!pending.is_empty(), Ordering::Release);
    }

    /// Forgets revocations that have been stored.
    pub(super) fn settle(&self, stored: &[Revocation], unblocked: Option<Id>) {
        if !self.is_any.load(Ordering::Acquire) {
            return;
        }
        let mut pending = self.lock();
        pending.retain(|old| {
            let is_stored =
                |new: &Revocation| (new.user, new.what) == (old.user, old.what) || new.blocks(old.user);
            !(stored.iter().any(is_stored) || unblocked.is_some_and(|user| old.blocks(user)))
        });
        self.is_any.store(!pending.is_empty(), Ordering::Release);
    }
}

/// What becomes of the revocations of a unit of work when it ends.
#[derive(Debug)]
pub(super) struct Settlement {
    durability: Arc<Durability>,
    /// What the unit of work revokes, in this process even where that cannot be stored.
    revocations: Mutex<Vec<Revocation>>,
    /// The user that it unblocks.
    unblocked: Mutex<Option<Id>>,
}

impl Settlement {
    pub(super) fn new(durability: &Arc<Durability>) -> Self {
        Self {
            durability: Arc::clone(durability),
            revocations: Mutex::default(),
            unblocked: Mutex::default(),
        }
    }

    /// Checks that what is written is not lost with a file that was moved away.
    pub(super) fn check_in_place(&self) -> Result<(), StoreError> {
        self.durability.check_in_place()
    }

    /// Puts the revocations into effect where they could not be stored, and forgets those that were.
    pub(super) fn settle(&self, written: Result<(), StoreError>) -> Result<(), StoreError> {
        self.durability.record(&written);
        let revocations = self.revocations.lock().unwrap_or_else(PoisonError::into_inner);
        match written {
            Ok(()) => {
                let unblocked = *self.unblocked.lock().unwrap_or_else(PoisonError::into_inner);
                self.durability.revocations.settle(&revocations, unblocked);
                Ok(())
            }
            Err(StoreError::NotWritable(cause)) if !revocations.is_empty() => {
                self.durability.revocations.add(&revocations);
                Err(StoreError::NotStored(cause))
            }
            Err(error) => Err(error),
        }
    }
}

impl Work {
    /// Notes that this unit of work revokes credentials, which holds in this process even where it cannot be stored. To be
    /// called when the revocation is permitted, before it is written.
    pub(super) fn revokes(&self, user: Id, what: Revoked, because: Ending, at: Timestamp) {
        let revocation = Revocation { user, what, because, cause: self.cause.clone(), at };
        self.settlement.revocations.lock().unwrap_or_else(PoisonError::into_inner).push(revocation);
    }

    /// Notes that a user is blocked or deleted: its credentials are refused even where that cannot be stored.
    pub fn revokes_user(&self, user: Id, at: Timestamp) {
        self.wrote(user);
        self.revokes(user, Revoked::User, Ending::Blocked, at);
    }

    /// Notes that a user is no longer blocked.
    pub fn unblocks_user(&self, user: Id) {
        *self.settlement.unblocked.lock().unwrap_or_else(PoisonError::into_inner) = Some(user);
    }

    /// The error of a statement that failed. Where the database cannot be written, the revocations are in effect.
    pub(super) fn failed(&self, error: DbErr) -> StoreError {
        let Err(error) = self.settlement.settle(Err(error.into())) else {
            return StoreError::Failed("a failed statement was settled".to_owned());
        };
        self.facts.forget(&self.written.lock().unwrap_or_else(PoisonError::into_inner));
        error
    }

    pub(super) fn is_session_revoked(&self, user: Id, session: Id) -> bool {
        self.settlement.durability.revocations.has_session(user, session)
    }

    pub(super) fn is_key_revoked(&self, user: Id, key: Id) -> bool {
        self.settlement.durability.revocations.has_key(user, key)
    }

    pub(super) fn is_user_revoked(&self, user: Id) -> bool {
        self.settlement.durability.revocations.has_user(user)
    }
}

impl Store {
    /// Whether a session was revoked by a revocation that is not stored.
    pub fn is_session_revoked(&self, user: Id, session: Id) -> bool {
        self.durability.revocations.has_session(user, session)
    }

    /// Whether an API key was.
    pub fn is_key_revoked(&self, user: Id, key: Id) -> bool {
        self.durability.revocations.has_key(user, key)
    }

    /// Whether a user was blocked or deleted by a revocation that is not stored.
    pub fn is_user_revoked(&self, user: Id) -> bool {
        self.durability.revocations.has_user(user)
    }

    /// The number of revocations that are not stored.
    pub fn unstored_revocations(&self) -> usize {
        self.durability.revocations.lock().len()
    }

    /// Stores the revocations of sessions and API keys that could not be stored before. A user that is to be blocked or
    /// deleted stays refused until the request is repeated.
    pub async fn store_revocations(&self) -> Result<(), StoreError> {
        if !self.durability.revocations.is_any.load(Ordering::Acquire) {
            return Ok(());
        }
        let pending = self.durability.revocations.lock().clone();
        for Revocation { user, what, because, cause, at } in pending {
            let work = self.begin(cause).await?;
            match what {
                Revoked::Sessions(which) => {
                    work.end_sessions_opened(user, which, because, at, Some(at)).await?;
                }
                Revoked::Keys(which) => {
                    work.end_keys(user, which, because, Some(at)).await?;
                }
                Revoked::User | Revoked::Everyone => continue,
            }
            work.commit().await?;
            tracing::info!(%user, "a revocation is stored that could not be stored before");
        }
        Ok(())
    }
}
