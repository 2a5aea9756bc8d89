//! Passwords: Argon2id (RFC 9106), off the async workers and behind one bound, so that a rush of logins neither starves
//! other requests nor eats the memory.

use crate::values::Invalid;
use argon2::password_hash::phc::PasswordHash;
use argon2::password_hash::{PasswordHasher, PasswordVerifier};
use argon2::{Algorithm, Argon2, Params, Version};
use secrecy::{ExposeSecret, SecretString};
use std::sync::Arc;
use tokio::sync::{OwnedSemaphorePermit, Semaphore};

/// Why a password was neither hashed nor checked.
#[derive(Debug, Clone, thiserror::Error)]
pub enum PasswordError {
    /// Too many wait already.
    #[error("too many passwords are waiting to be checked")]
    Busy,
    /// It could not be done at all.
    #[error("a password could not be hashed: {0}")]
    Failed(String),
}

/// What a new password must be.
#[derive(Debug, Clone, Copy)]
pub struct PasswordRules;

impl PasswordRules {
    /// How many characters it has at least.
    pub const MIN: usize = 8;
    /// How many characters it may have.
    pub const MAX: usize = 200;

    /// Checks a new password. It is never repeated in the message.
    pub fn check(password: &SecretString) -> Result<(), Invalid> {
        let length = password.expose_secret().chars().count();
        if (Self::MIN..=Self::MAX).contains(&length) {
            return Ok(());
        }
        let (min, max) = (Self::MIN, Self::MAX);
        Err(Invalid(format!("the password has {length} characters; it needs {min} to {max}")))
    }
}

/// Hashes and checks passwords, a few at a time.
#[derive(Debug, Clone)]
pub struct Passwords {
    argon2: Argon2<'static>,
    /// What an unknown email's password is checked against, so that it costs what a known one's does.
    decoy: Arc<str>,
    working: Arc<Semaphore>,
    waiting: Arc<Semaphore>,
}

impl Passwords {
    /// How many may wait for each that is being worked on.
    const QUEUE: usize = 16;

    /// At most `workers` at the same time. 19 MiB of memory each, two passes: OWASP's first choice for Argon2id.
    pub fn new(workers: usize) -> Result<Self, PasswordError> {
        let argon2 = Argon2::new(Algorithm::Argon2id, Version::V0x13, Params::DEFAULT);
        let decoy = hash(&argon2, &super::random_password().map_err(|error| failed(&error))?.into())?.into();
        let workers = workers.max(1);
        Ok(Self {
            argon2,
            decoy,
            working: Arc::new(Semaphore::new(workers)),
            waiting: Arc::new(Semaphore::new(workers * (1 + Self::QUEUE))),
        })
    }

    /// The hash under which a password is kept, a PHC string with its own salt.
    pub async fn hash(&self, password: SecretString) -> Result<String, PasswordError> {
        self.run(move |argon2| hash(argon2, &password)).await?
    }

    /// Whether a password is the one with this hash. Without a hash it is not, and finding out takes as long.
    pub async fn verify(
        &self,
        password: SecretString,
        stored: Option<String>,
    ) -> Result<bool, PasswordError> {
        let decoy = Arc::clone(&self.decoy);
        self.run(move |argon2| {
            let known = stored.is_some();
            let hash =
                PasswordHash::new(stored.as_deref().unwrap_or(&decoy)).map_err(|error| failed(&error))?;
            let same = argon2.verify_password(password.expose_secret().as_bytes(), &hash).is_ok();
            Ok(known && same)
        })
        .await?
    }

    async fn run<T: Send + 'static>(
        &self,
        work: impl FnOnce(&Argon2<'static>) -> T + Send + 'static,
    ) -> Result<T, PasswordError> {
        let place = Arc::clone(&self.waiting).try_acquire_owned().map_err(|_| PasswordError::Busy)?;
        let turn = Arc::clone(&self.working).acquire_owned().await.map_err(|error| failed(&error))?;
        let argon2 = self.argon2.clone();
        // A caller that goes away leaves its work running: it keeps its place until that ends.
        let kept: (OwnedSemaphorePermit, OwnedSemaphorePermit) = (place, turn);
        tokio::task::spawn_blocking(move || {
            let done = work(&argon2);
            drop(kept);
            done
        })
        .await
        .map_err(|error| failed(&error))
    }
}

fn hash(argon2: &Argon2<'_>, password: &SecretString) -> Result<String, PasswordError> {
    let hashed = argon2.hash_password(password.expose_secret().as_bytes()).map_err(|error| failed(&error))?;
    Ok(hashed.to_string())
}

fn failed(error: &impl ToString) -> PasswordError {
    PasswordError::Failed(error.to_string())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_password_is_known_by_its_hash_only() {
        let passwords = Passwords::new(1).unwrap();
        let hash = passwords.hash("t0pZ3kR3t".into()).await.unwrap();
        assert!(hash.starts_with("$argon2id$v=19$m=19456,t=2,p=1$"), "{hash}");
        assert!(passwords.verify("t0pZ3kR3t".into(), Some(hash.clone())).await.unwrap());
        assert!(!passwords.verify("t0pZ3kR3T".into(), Some(hash)).await.unwrap());
        assert!(!passwords.verify("t0pZ3kR3t".into(), None).await.unwrap());
    }

    #[tokio::test]
    async fn when_too_many_wait_the_next_one_is_turned_away_at_once() {
        let passwords = Passwords::new(1).unwrap();
        let turn = Arc::clone(&passwords.working).acquire_owned().await.unwrap();
        let waiting: Vec<_> = (0..=Passwords::QUEUE)
            .map(|_| {
                let passwords = passwords.clone();
                tokio::spawn(async move { passwords.run(|_| ()).await })
            })
            .collect();
        while passwords.waiting.available_permits() > 0 {
            tokio::task::yield_now().await;
        }
        assert!(matches!(passwords.run(|_| ()).await, Err(PasswordError::Busy)));
        drop(turn);
        for one in waiting {
            one.await.unwrap().unwrap();
        }
        assert!(passwords.run(|_| ()).await.is_ok());
    }
}
