//! The keys that sign, as the database has them now, ready to be used. Each follows the one before; how that goes:
//!
//! - A new key is there [`LEAD`] seconds before it signs, so that everybody knows it in time who has read the keys since:
//!   the other processes on this database, and whoever keeps the answer of `/.well-known/jwks.json`.
//! - Its predecessor is good for checking as long as an access token lives, and a minute more.
//! - What is in memory is read again when another process says that it wrote (PostgreSQL), every now and then
//!   ([`TokenKeys::tend`]), and when a token names a key that is not known, though not more often than once a second.

use super::Problem;
use crate::authn::{Claims, Issued, Keyring, KeyringError, SecretError, SigningKey, TokenError, Verified};
use crate::config::{Config, TokenAlgorithm};
use crate::store::{Cause, Entry, Event, SigningKeyRow, Stamp, Store, StoreError};
use crate::values::{Clock, Timestamp};
use arc_swap::ArcSwap;
use secrecy::{ExposeSecret, SecretString};
use std::sync::Arc;
use tokio::sync::Mutex;

/// How long a new key waits before it signs, in seconds.
pub const LEAD: u64 = 600;
/// How long others may keep the public keys, in seconds.
pub const MAX_AGE: u64 = 300;

/// Why the keys that sign cannot be used or changed.
#[derive(Debug, thiserror::Error)]
pub enum TokenKeysError {
    /// The database does not answer.
    #[error(transparent)]
    Store(#[from] StoreError),
    /// What it holds is no good.
    #[error(transparent)]
    Keyring(#[from] KeyringError),
    /// No key can be made.
    #[error(transparent)]
    Secret(#[from] SecretError),
    /// The settings name the key.
    #[error("the key that signs is the one of the setting CEDARGATE_JWT_SECRET: change it there")]
    Configured,
}

/// The keys as they were read.
#[derive(Debug)]
struct Read {
    ring: Arc<Keyring>,
    stamp: Stamp,
    at: Timestamp,
}

/// The keys that sign.
#[derive(Debug)]
pub struct TokenKeys {
    store: Store,
    clock: Clock,
    issuer: String,
    access_ttl: u64,
    /// What the settings want to be signed with.
    algorithm: TokenAlgorithm,
    /// After how many seconds the next key signs.
    rotation: Option<u64>,
    /// Whether the settings name the one key.
    is_configured: bool,
    current: ArcSwap<Read>,
    /// Held while the keys are read, so that what was read last is what stays.
    turn: Mutex<()>,
}

impl TokenKeys {
    /// The key of the settings, else those that the database keeps, of which the first one is made here.
    pub async fn open(
        config: &Config,
        issuer: &str,
        store: &Store,
        clock: &Clock,
    ) -> Result<Self, TokenKeysError> {
        let now = clock.now();
        let stamp = store.stamp_of_signing_keys();
        let mut keys: Vec<SigningKey> =
            config.jwt_secret.iter().cloned().map(SigningKey::configured).collect();
        if keys.is_empty() {
            keys = signing_keys(store.signing_keys().await?);
        }
        if keys.is_empty() {
            // Of several processes that start at once on an empty database, all use the one that was there first.
            let key = SigningKey::new(config.token_algorithm, 1, now)?;
            insert(store, Cause::service(now), &key, false).await?;
            keys = signing_keys(store.signing_keys().await?);
        }
        let ring = Arc::new(Keyring::new(1, keys, config.access_ttl, issuer)?);
        Ok(Self {
            store: store.clone(),
            clock: clock.clone(),
            issuer: issuer.to_owned(),
            access_ttl: config.access_ttl,
            algorithm: config.token_algorithm,
            rotation: Some(config.signing_key_rotation).filter(|seconds| *seconds > 0),
            is_configured: config.jwt_secret.is_some(),
            current: ArcSwap::from_pointee(Read { ring, stamp, at: now }),
            turn: Mutex::new(()),
        })
    }

    /// The keys as they were last read.
    pub fn known(&self) -> Arc<Keyring> {
        Arc::clone(&self.current.load().ring)
    }

    /// The keys, read again where another process has said that it wrote some.
    pub async fn current(&self) -> Result<Arc<Keyring>, TokenKeysError> {
        let read = self.current.load();
        if self.is_current(&read) { Ok(Arc::clone(&read.ring)) } else { Box::pin(self.read()).await }
    }

    /// The number of the keys, read again where another process has said that it wrote some.
    pub async fn current_number(&self) -> Result<u64, TokenKeysError> {
        let read = self.current.load();
        if self.is_current(&read) {
            Ok(read.ring.number())
        } else {
            Ok(Box::pin(self.read()).await?.number())
        }
    }

    fn is_current(&self, read: &Read) -> bool {
        self.is_configured || read.stamp == self.store.stamp_of_signing_keys()
    }

    /// A token with these claims, good for `ttl` seconds from `now`.
    pub fn issue(&self, claims: &Claims, now: Timestamp, ttl: u64) -> Result<Issued, SecretError> {
        self.current.load().ring.issue(claims, now, ttl)
    }

    /// What a token says, if it is good.
    pub async fn verify(
        &self,
        token: &SecretString,
        now: Timestamp,
    ) -> Result<Result<Verified, TokenError>, TokenKeysError> {
        let verified = self.current().await?.verify(token, now);
        let last = self.current.load().at;
        let is_old = now < last || now >= last.plus_seconds(1);
        if verified != Err(TokenError::UnknownKey) || self.is_configured || !is_old {
            return Ok(verified);
        }
        Ok(self.read().await?.verify(token, now))
    }

    /// Reads the keys again.
    async fn read(&self) -> Result<Arc<Keyring>, TokenKeysError> {
        let _turn = self.turn.lock().await;
        let (stamp, at) = (self.store.stamp_of_signing_keys(), self.clock.now());
        let keys = signing_keys(self.store.signing_keys().await?);
        let mut ring = self.known();
        if !ring.keys().map(|(key, _)| &key.kid).eq(keys.iter().map(|key| &key.kid)) {
            ring = Arc::new(Keyring::new(ring.number() + 1, keys, self.access_ttl, &self.issuer)?);
            tracing::info!(keys = ?ring, "there are other keys that sign");
        }
        self.current.store(Arc::new(Read { ring: Arc::clone(&ring), stamp, at }));
        Ok(ring)
    }

    /// What is to be done every now and then: the keys are read again, one whose time is over gets its successor, and those
    /// that are no good for anything any more are deleted.
    pub async fn tend(&self) -> Result<(), TokenKeysError> {
        if self.is_configured {
            return Ok(());
        }
        let mut ring = self.read().await?;
        let now = self.clock.now();
        let soon = now.plus_seconds(LEAD);
        let last = ring.keys().next_back().map(|(last, _)| (last.signs_from, last.algorithm));
        if let (Some(seconds), Some((signs_from, algorithm))) = (self.rotation, last)
            && signs_from.plus_seconds(seconds) <= soon
        {
            self.follow(Cause::service(now), &ring, algorithm, soon, false).await?;
            ring = self.read().await?;
        }
        let ended = ring.keys().filter(|(_, end)| end.is_some_and(|end| end <= now));
        let ended: Vec<String> = ended.map(|(key, _)| key.kid.clone()).collect();
        if !ended.is_empty() {
            let work = self.store.begin(Cause::service(now)).await?;
            work.delete_signing_keys(&ended).await?;
            work.commit().await?;
            self.read().await?;
        }
        Ok(())
    }

    /// Sees to it that what is signed from now on is signed as the settings say.
    pub async fn adopt(&self) -> Result<(), TokenKeysError> {
        if self.is_configured {
            return Ok(());
        }
        loop {
            let ring = self.read().await?;
            if ring.keys().next_back().is_none_or(|(last, _)| last.algorithm == self.algorithm) {
                return Ok(());
            }
            let now = self.clock.now();
            self.follow(Cause::service(now), &ring, self.algorithm, now, false).await?;
        }
    }

    /// Makes the next key, of the algorithm of the one before. It signs after [`LEAD`] seconds.
    pub async fn rotate(&self, cause: Cause) -> Result<Arc<Keyring>, TokenKeysError> {
        self.next(cause, self.clock.now().plus_seconds(LEAD), false).await
    }

    /// Makes the next key, of the algorithm of the one before. It signs at once, and all others are no good any more.
    pub async fn revoke(&self, cause: Cause) -> Result<Arc<Keyring>, TokenKeysError> {
        self.next(cause, self.clock.now(), true).await
    }

    async fn next(
        &self,
        cause: Cause,
        signs_from: Timestamp,
        alone: bool,
    ) -> Result<Arc<Keyring>, TokenKeysError> {
        if self.is_configured {
            return Err(TokenKeysError::Configured);
        }
        loop {
            let ring = self.read().await?;
            let algorithm = ring.keys().next_back().map_or(self.algorithm, |(last, _)| last.algorithm);
            if self.follow(cause.clone(), &ring, algorithm, signs_from, alone).await? {
                return self.read().await;
            }
        }
    }

    /// Makes the key that follows the last one: false where another process has done so.
    async fn follow(
        &self,
        cause: Cause,
        ring: &Keyring,
        algorithm: TokenAlgorithm,
        signs_from: Timestamp,
        alone: bool,
    ) -> Result<bool, TokenKeysError> {
        let number = ring.keys().next_back().map_or(1, |(last, _)| last.number + 1);
        insert(&self.store, cause, &SigningKey::new(algorithm, number, signs_from)?, alone).await
    }
}

fn signing_keys(rows: Vec<SigningKeyRow>) -> Vec<SigningKey> {
    let key = |row: SigningKeyRow| SigningKey {
        kid: row.kid,
        number: row.number,
        algorithm: row.algorithm,
        secret: row.secret.into(),
        signs_from: row.signs_from,
    };
    rows.into_iter().map(key).collect()
}

/// Keeps a key, and where it is to be `alone` deletes all others: false where another one has its number.
async fn insert(store: &Store, cause: Cause, key: &SigningKey, alone: bool) -> Result<bool, TokenKeysError> {
    let row = SigningKeyRow {
        kid: key.kid.clone(),
        number: key.number,
        algorithm: key.algorithm,
        secret: key.secret.expose_secret().to_owned(),
        created_at: cause.at,
        signs_from: key.signs_from,
    };
    let work = store.begin(cause).await?;
    let is_next = work.insert_signing_key(&row).await?;
    let told = |event| Entry::new(event).with("kid", row.kid.clone());
    if is_next {
        work.audit(told(Event::SigningKeyCreated).with("algorithm", row.algorithm.to_string()));
    }
    if is_next && alone {
        work.delete_other_signing_keys(&row.kid).await?;
        work.audit(told(Event::SigningKeysRevoked));
    }
    work.commit().await?;
    Ok(is_next)
}

impl From<TokenKeysError> for Problem {
    fn from(error: TokenKeysError) -> Self {
        match error {
            TokenKeysError::Store(error) => error.into(),
            other => Self::internal(other),
        }
    }
}
