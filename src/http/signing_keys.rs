//! The keys that sign, as the database has them now, ready to be used. Each follows the one before; how that goes:
//!
//! - A new key is there [`LEAD`] seconds before it signs, so that everybody knows it in time who has read the keys since:
//!   the other processes on this database, and whoever keeps the answer of `/.well-known/jwks.json`.
//! - Its predecessor is good for checking as long as an access token lives, and a minute more.
//! - What is in memory is read again when another process says that it wrote (PostgreSQL), every now and then
//!   ([`TokenKeys::tend`]), and when a token names a key that is not known, though not more often than once a second.

use super::Problem;
use crate::authn::{
    Claims, IssuedToken, Keyring, KeyringError, SecretError, SigningKey, TokenError, VerifiedToken,
};
use crate::config::{Config, TokenAlgorithm};
use crate::store::{AuditActor, AuditEntry, CacheVersion, Event, SigningKeyRow, Store, StoreError};
use crate::types::{Clock, Timestamp};
use arc_swap::ArcSwap;
use secrecy::{ExposeSecret, SecretString};
use std::sync::Arc;
use tokio::sync::Mutex;

/// How long a new key waits before it signs, in seconds.
pub const ACTIVATION_DELAY: u64 = 600;
/// How long others may keep the public keys, in seconds.
pub const JWKS_MAX_AGE: u64 = 300;

/// Why the keys that sign cannot be used or changed.
#[derive(Debug, thiserror::Error)]
pub enum SigningKeysError {
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
struct CachedKeyring {
    keyring: Arc<Keyring>,
    cache_version: CacheVersion,
    read_at: Timestamp,
}

/// The keys that sign.
#[derive(Debug)]
pub struct SigningKeys {
    store: Store,
    clock: Clock,
    issuer: String,
    access_ttl: u64,
    /// What the settings want to be signed with.
    algorithm: TokenAlgorithm,
    /// After how many seconds the next key signs.
    rotation_interval: Option<u64>,
    /// Whether the settings name the one key.
    is_configured: bool,
    current: ArcSwap<CachedKeyring>,
    /// Held while the keys are read, so that what was read last is what stays.
    reload_lock: Mutex<()>,
}

impl SigningKeys {
    /// The key of the settings, else those that the database keeps, of which the first one is made here.
    pub async fn open(
        config: &Config,
        issuer: &str,
        store: &Store,
        clock: &Clock,
    ) -> Result<Self, SigningKeysError> {
        let now = clock.now();
        let stamp = store.signing_keys_version();
        let mut keys: Vec<SigningKey> =
            config.jwt_secret.iter().cloned().map(SigningKey::from_configured_secret).collect();
        if keys.is_empty() {
            keys = keys_from_rows(store.signing_keys().await?);
        }
        if keys.is_empty() {
            // Of several processes that start at once on an empty database, all use the one that was there first.
            let key = SigningKey::new(config.token_algorithm, 1, now)?;
            insert_key(store, AuditActor::service(now), &key, false).await?;
            keys = keys_from_rows(store.signing_keys().await?);
        }
        let keyring = Arc::new(Keyring::new(1, keys, config.access_ttl, issuer)?);
        Ok(Self {
            store: store.clone(),
            clock: clock.clone(),
            issuer: issuer.to_owned(),
            access_ttl: config.access_ttl,
            algorithm: config.token_algorithm,
            rotation_interval: Some(config.signing_key_rotation).filter(|seconds| *seconds > 0),
            is_configured: config.jwt_secret.is_some(),
            current: ArcSwap::from_pointee(CachedKeyring { keyring, cache_version: stamp, read_at: now }),
            reload_lock: Mutex::new(()),
        })
    }

    /// The keys as they were last read.
    pub fn cached(&self) -> Arc<Keyring> {
        Arc::clone(&self.current.load().keyring)
    }

    /// The keys, read again where another process has said that it wrote some.
    pub async fn current(&self) -> Result<Arc<Keyring>, SigningKeysError> {
        let read = self.current.load();
        if self.is_current(&read) { Ok(Arc::clone(&read.keyring)) } else { Box::pin(self.reload()).await }
    }

    /// The number of the keys, read again where another process has said that it wrote some.
    pub async fn current_number(&self) -> Result<u64, SigningKeysError> {
        let read = self.current.load();
        if self.is_current(&read) {
            Ok(read.keyring.number())
        } else {
            Ok(Box::pin(self.reload()).await?.number())
        }
    }

    fn is_current(&self, read: &CachedKeyring) -> bool {
        self.is_configured || read.cache_version == self.store.signing_keys_version()
    }

    /// A token with these claims, good for `ttl` seconds from `now`.
    pub fn issue(&self, claims: &Claims, now: Timestamp, ttl: u64) -> Result<IssuedToken, SecretError> {
        self.current.load().keyring.issue(claims, now, ttl)
    }

    /// What a token says, if it is good.
    pub async fn verify(
        &self,
        token: &SecretString,
        now: Timestamp,
    ) -> Result<Result<VerifiedToken, TokenError>, SigningKeysError> {
        let verified = self.current().await?.verify(token, now);
        let last = self.current.load().read_at;
        let is_old = now < last || now >= last.plus_seconds(1);
        if verified != Err(TokenError::UnknownKey) || self.is_configured || !is_old {
            return Ok(verified);
        }
        Ok(self.reload().await?.verify(token, now))
    }

    /// Reads the keys again.
    async fn reload(&self) -> Result<Arc<Keyring>, SigningKeysError> {
        let _lock = self.reload_lock.lock().await;
        let (stamp, read_at) = (self.store.signing_keys_version(), self.clock.now());
        let keys = keys_from_rows(self.store.signing_keys().await?);
        let mut keyring = self.cached();
        if !keyring.keys().map(|(key, _)| &key.kid).eq(keys.iter().map(|key| &key.kid)) {
            keyring = Arc::new(Keyring::new(keyring.number() + 1, keys, self.access_ttl, &self.issuer)?);
            tracing::info!(keys = ?keyring, "there are other keys that sign");
        }
        self.current.store(Arc::new(CachedKeyring {
            keyring: Arc::clone(&keyring),
            cache_version: stamp,
            read_at,
        }));
        Ok(keyring)
    }

    /// What is to be done every now and then: the keys are read again, one whose time is over gets its successor, and those
    /// that are no good for anything any more are deleted.
    pub async fn maintain(&self) -> Result<(), SigningKeysError> {
        if self.is_configured {
            return Ok(());
        }
        let mut keyring = self.reload().await?;
        let now = self.clock.now();
        let activates_at = now.plus_seconds(ACTIVATION_DELAY);
        let last = keyring.keys().next_back().map(|(last, _)| (last.signs_from, last.algorithm));
        if let (Some(seconds), Some((signs_from, algorithm))) = (self.rotation_interval, last)
            && signs_from.plus_seconds(seconds) <= activates_at
        {
            self.insert_successor(AuditActor::service(now), &keyring, algorithm, activates_at, false).await?;
            keyring = self.reload().await?;
        }
        let ended = keyring.keys().filter(|(_, end)| end.is_some_and(|end| end <= now));
        let ended: Vec<String> = ended.map(|(key, _)| key.kid.clone()).collect();
        if !ended.is_empty() {
            let work = self.store.begin(AuditActor::service(now)).await?;
            work.delete_signing_keys(&ended).await?;
            work.commit().await?;
            self.reload().await?;
        }
        Ok(())
    }

    /// Sees to it that what is signed from now on is signed as the settings say.
    pub async fn ensure_algorithm(&self) -> Result<(), SigningKeysError> {
        if self.is_configured {
            return Ok(());
        }
        loop {
            let keyring = self.reload().await?;
            if keyring.keys().next_back().is_none_or(|(last, _)| last.algorithm == self.algorithm) {
                return Ok(());
            }
            let now = self.clock.now();
            self.insert_successor(AuditActor::service(now), &keyring, self.algorithm, now, false).await?;
        }
    }

    /// Makes the next key, of the algorithm of the one before. It signs after [`LEAD`] seconds.
    pub async fn rotate(&self, cause: AuditActor) -> Result<Arc<Keyring>, SigningKeysError> {
        self.create_next(cause, self.clock.now().plus_seconds(ACTIVATION_DELAY), false).await
    }

    /// Makes the next key, of the algorithm of the one before. It signs at once, and all others are no good any more.
    pub async fn revoke(&self, cause: AuditActor) -> Result<Arc<Keyring>, SigningKeysError> {
        self.create_next(cause, self.clock.now(), true).await
    }

    async fn create_next(
        &self,
        cause: AuditActor,
        signs_from: Timestamp,
        revoke_others: bool,
    ) -> Result<Arc<Keyring>, SigningKeysError> {
        if self.is_configured {
            return Err(SigningKeysError::Configured);
        }
        loop {
            let keyring = self.reload().await?;
            let algorithm = keyring.keys().next_back().map_or(self.algorithm, |(last, _)| last.algorithm);
            if self.insert_successor(cause.clone(), &keyring, algorithm, signs_from, revoke_others).await? {
                return self.reload().await;
            }
        }
    }

    /// Makes the key that follows the last one: false where another process has done so.
    async fn insert_successor(
        &self,
        cause: AuditActor,
        keyring: &Keyring,
        algorithm: TokenAlgorithm,
        signs_from: Timestamp,
        revoke_others: bool,
    ) -> Result<bool, SigningKeysError> {
        let number = keyring.keys().next_back().map_or(1, |(last, _)| last.number + 1);
        insert_key(&self.store, cause, &SigningKey::new(algorithm, number, signs_from)?, revoke_others).await
    }
}

fn keys_from_rows(rows: Vec<SigningKeyRow>) -> Vec<SigningKey> {
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
async fn insert_key(
    store: &Store,
    cause: AuditActor,
    key: &SigningKey,
    revoke_others: bool,
) -> Result<bool, SigningKeysError> {
    let row = SigningKeyRow {
        kid: key.kid.clone(),
        number: key.number,
        algorithm: key.algorithm,
        secret: key.secret.expose_secret().to_owned(),
        created_at: cause.time,
        signs_from: key.signs_from,
    };
    let work = store.begin(cause).await?;
    let is_next = work.insert_signing_key(&row).await?;
    let audit_entry = |event| AuditEntry::new(event).with("kid", row.kid.clone());
    if is_next {
        work.audit(audit_entry(Event::SigningKeyCreated).with("algorithm", row.algorithm.to_string()));
    }
    if is_next && revoke_others {
        work.delete_other_signing_keys(&row.kid).await?;
        work.audit(audit_entry(Event::SigningKeysRevoked));
    }
    work.commit().await?;
    Ok(is_next)
}

impl From<SigningKeysError> for Problem {
    fn from(error: SigningKeysError) -> Self {
        match error {
            SigningKeysError::Store(error) => error.into(),
            other => Self::internal(other),
        }
    }
}
