//! Signing keys: the key ring as the database has it, with rotation and revocation.
//!
//! - A new key becomes active [`ACTIVATION_DELAY`] seconds after it was created. By then the other processes on this database
//!   and the caches of `/.well-known/jwks.json` have it.
//! - Its predecessor keeps verifying for the lifetime of an access token and one more minute.
//! - The key ring is read again when another process notifies of a change (PostgreSQL), periodically
//!   ([`SigningKeys::maintain`]), and when a token names an unknown key, at most once a second.

use crate::authn::{
    Claims, IssuedToken, Keyring, KeyringError, SecretError, SigningKey, TokenError, VerifiedToken,
};
use crate::config::{Config, TokenAlgorithm};
use crate::store::{AuditActor, AuditEntry, Event, SigningKeyRow, Store, StoreError};
use crate::types::{Clock, RowVersion, Timestamp};
use arc_swap::ArcSwap;
use secrecy::{ExposeSecret, SecretString};
use std::sync::Arc;
use tokio::sync::Mutex;

/// The time from the creation of a key until it signs, in seconds.
pub const ACTIVATION_DELAY: u64 = 600;
/// The `max-age` of the public keys, in seconds.
pub const JWKS_MAX_AGE: u64 = 300;

/// Why the signing keys cannot be used or changed.
#[derive(Debug, thiserror::Error)]
pub enum SigningKeysError {
    /// The database failed.
    #[error(transparent)]
    Store(#[from] StoreError),
    /// The stored keys are invalid.
    #[error(transparent)]
    Keyring(#[from] KeyringError),
    /// A key cannot be generated.
    #[error(transparent)]
    Secret(#[from] SecretError),
    /// The key is configured, so it cannot be rotated or revoked.
    #[error("the signing key is set by CEDARGATE_JWT_SECRET; change it there")]
    Configured,
}

/// The key ring as it was read.
#[derive(Debug)]
struct CachedKeyring {
    keyring: Arc<Keyring>,
    version: RowVersion,
    read_at: Timestamp,
}

/// The signing keys.
#[derive(Debug)]
pub struct SigningKeys {
    store: Store,
    clock: Clock,
    issuer: Option<String>,
    access_ttl: u64,
    /// The algorithm of the settings.
    algorithm: TokenAlgorithm,
    /// The rotation interval in seconds; none if keys are not rotated automatically.
    rotation_interval: Option<u64>,
    /// Whether the settings name the only key.
    is_configured: bool,
    current: ArcSwap<CachedKeyring>,
    /// Held while the keys are read, so that the result of the last read remains.
    reload_lock: Mutex<()>,
}

impl SigningKeys {
    /// Opens the configured key, else the keys of the database, and creates the first one if there is none.
    ///
    /// # Errors
    /// The database failed or the keys are invalid.
    pub async fn open(
        config: &Config,
        issuer: Option<&str>,
        store: &Store,
        clock: &Clock,
    ) -> Result<Self, SigningKeysError> {
        let now = clock.now();
        let version = store.signing_keys_version();
        let mut keys: Vec<SigningKey> =
            config.jwt_secret.iter().cloned().map(SigningKey::from_configured_secret).collect();
        if keys.is_empty() {
            keys = keys_from_rows(store.signing_keys().await?);
        }
        if keys.is_empty() {
            // If several processes start on an empty database at once, all use the key that was stored first.
            let key = SigningKey::new(config.token_algorithm, 1, now)?;
            insert_key(store, AuditActor::service(now), &key, false).await?;
            keys = keys_from_rows(store.signing_keys().await?);
        }
        let keyring = Arc::new(Keyring::new(1, keys, config.access_ttl, issuer)?);
        Ok(Self {
            store: store.clone(),
            clock: clock.clone(),
            issuer: issuer.map(str::to_owned),
            access_ttl: config.access_ttl,
            algorithm: config.token_algorithm,
            rotation_interval: Some(config.signing_key_rotation).filter(|seconds| *seconds > 0),
            is_configured: config.jwt_secret.is_some(),
            current: ArcSwap::from_pointee(CachedKeyring { keyring, version, read_at: now }),
            reload_lock: Mutex::new(()),
        })
    }

    /// Returns the key ring as it was last read.
    pub fn cached(&self) -> Arc<Keyring> {
        Arc::clone(&self.current.load().keyring)
    }

    /// Returns the key ring, read again if another process has changed it.
    ///
    /// # Errors
    /// The database failed or the keys are invalid.
    pub async fn current(&self) -> Result<Arc<Keyring>, SigningKeysError> {
        let read = self.current.load();
        if self.is_current(&read) { Ok(Arc::clone(&read.keyring)) } else { Box::pin(self.reload()).await }
    }

    /// Returns the version of the key ring, read again if another process has changed it.
    ///
    /// # Errors
    /// The database failed or the keys are invalid.
    pub async fn current_number(&self) -> Result<u64, SigningKeysError> {
        let read = self.current.load();
        if self.is_current(&read) {
            Ok(read.keyring.number())
        } else {
            Ok(Box::pin(self.reload()).await?.number())
        }
    }

    fn is_current(&self, read: &CachedKeyring) -> bool {
        self.is_configured || read.version == self.store.signing_keys_version()
    }

    /// Issues a token with these claims that is valid for `ttl` seconds from `now`. `url` is the issuer, unless the settings name
    /// one.
    ///
    /// # Errors
    /// The random generator failed.
    pub fn issue(
        &self,
        claims: &Claims,
        url: &str,
        now: Timestamp,
        ttl: u64,
    ) -> Result<IssuedToken, SecretError> {
        self.current.load().keyring.issue(claims, url, now, ttl)
    }

    /// Verifies a token. The inner result says whether it is valid.
    ///
    /// # Errors
    /// The database failed or the keys are invalid.
    pub async fn verify(
        &self,
        token: &SecretString,
        now: Timestamp,
    ) -> Result<Result<VerifiedToken, TokenError>, SigningKeysError> {
        self.verify_with(now, |keyring| keyring.verify(token, now)).await
    }

    /// As [`Self::verify`]; also accepts a token that has expired.
    ///
    /// # Errors
    /// The database failed or the keys are invalid.
    pub async fn verify_ignoring_expiry(
        &self,
        token: &SecretString,
        now: Timestamp,
    ) -> Result<Result<VerifiedToken, TokenError>, SigningKeysError> {
        self.verify_with(now, |keyring| keyring.verify_ignoring_expiry(token, now)).await
    }

    /// Verifies a token, and reads the keys again if its key is unknown.
    async fn verify_with(
        &self,
        now: Timestamp,
        verify: impl Fn(&Keyring) -> Result<VerifiedToken, TokenError>,
    ) -> Result<Result<VerifiedToken, TokenError>, SigningKeysError> {
        let keyring = self.current().await?;
        let verified = verify(&keyring);
        let last = self.current.load().read_at;
        let is_old = now < last || now >= last.plus_seconds(1);
        if verified != Err(TokenError::UnknownKey) || self.is_configured || !is_old {
            return Ok(verified);
        }
        let keyring = self.reload().await?;
        Ok(verify(&keyring))
    }

    /// Reads the keys from the database.
    async fn reload(&self) -> Result<Arc<Keyring>, SigningKeysError> {
        let _lock = self.reload_lock.lock().await;
        let (version, read_at) = (self.store.signing_keys_version(), self.clock.now());
        let keys = keys_from_rows(self.store.signing_keys().await?);
        let mut keyring = self.cached();
        if !keyring.keys().map(|(key, _)| &key.kid).eq(keys.iter().map(|key| &key.kid)) {
            keyring =
                Arc::new(Keyring::new(keyring.number() + 1, keys, self.access_ttl, self.issuer.as_deref())?);
            tracing::info!(keys = ?keyring, "signing keys changed");
        }
        self.current.store(Arc::new(CachedKeyring { keyring: Arc::clone(&keyring), version, read_at }));
        Ok(keyring)
    }

    /// Maintains the key ring: reads it again, creates the successor of a key that is due for rotation, and deletes keys that no
    /// longer verify.
    ///
    /// # Errors
    /// The database failed or the keys are invalid.
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

    /// Ensures that the active key has the algorithm of the settings.
    ///
    /// # Errors
    /// The database failed or no key can be generated.
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

    /// Creates the next key with the algorithm of its predecessor. It signs after [`ACTIVATION_DELAY`] seconds.
    ///
    /// # Errors
    /// The key is configured, the database failed, or no key can be generated.
    pub async fn rotate(&self, actor: AuditActor) -> Result<Arc<Keyring>, SigningKeysError> {
        self.create_next(actor, self.clock.now().plus_seconds(ACTIVATION_DELAY), false).await
    }

    /// Creates the next key with the algorithm of its predecessor. It signs at once, and all others are deleted.
    ///
    /// # Errors
    /// As [`SigningKeys::rotate`].
    pub async fn revoke(&self, actor: AuditActor) -> Result<Arc<Keyring>, SigningKeysError> {
        self.create_next(actor, self.clock.now(), true).await
    }

    async fn create_next(
        &self,
        actor: AuditActor,
        signs_from: Timestamp,
        revoke_others: bool,
    ) -> Result<Arc<Keyring>, SigningKeysError> {
        if self.is_configured {
            return Err(SigningKeysError::Configured);
        }
        loop {
            let keyring = self.reload().await?;
            let algorithm = keyring.keys().next_back().map_or(self.algorithm, |(last, _)| last.algorithm);
            if self.insert_successor(actor.clone(), &keyring, algorithm, signs_from, revoke_others).await? {
                return self.reload().await;
            }
        }
    }

    /// Creates the successor of the last key. Returns false if another process has created it.
    async fn insert_successor(
        &self,
        actor: AuditActor,
        keyring: &Keyring,
        algorithm: TokenAlgorithm,
        signs_from: Timestamp,
        revoke_others: bool,
    ) -> Result<bool, SigningKeysError> {
        let number = keyring.keys().next_back().map_or(1, |(last, _)| last.number + 1);
        insert_key(&self.store, actor, &SigningKey::new(algorithm, number, signs_from)?, revoke_others).await
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

/// Stores a key, and deletes all others if `revoke_others`. Returns false if another key has its number.
async fn insert_key(
    store: &Store,
    actor: AuditActor,
    key: &SigningKey,
    revoke_others: bool,
) -> Result<bool, SigningKeysError> {
    let row = SigningKeyRow {
        kid: key.kid.clone(),
        number: key.number,
        algorithm: key.algorithm,
        secret: key.secret.expose_secret().to_owned(),
        created_at: actor.time,
        signs_from: key.signs_from,
    };
    let work = store.begin(actor).await?;
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
