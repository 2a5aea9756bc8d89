//! Authentication of bearer tokens, and the caches of callers and users.

use super::caller::user_attributes;
use super::{AppState, Caller, Credential, Error, ErrorKind, UserAtFullRole};
use crate::authn::{ApiKey, BearerToken, Claims, TokenError};
use crate::authz::{Engine, ResourceEntity};
use crate::config::{CacheName, Config};
use crate::types::{Cache, Id, Lifetime, RowVersion, Timestamp, Validity, Versions};
use aws_lc_rs::digest::{SHA256, SHA256_OUTPUT_LEN, digest};
use std::sync::Arc;

/// For how many seconds a cached caller is used without a database read. Changes by another program on the same SQLite file
/// take effect within that time, and so does a lost notification.
const CALLER_CACHE_SECONDS: u64 = 60;

/// The maximum number of cached callers.
const MAX_CALLERS: u64 = 20_000;

/// The maximum number of cached users.
const MAX_USERS: u64 = 50_000;

/// The SHA-256 of a bearer token, so that the cache does not hold the token and compares it completely.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
struct TokenHash([u8; SHA256_OUTPUT_LEN]);

impl TokenHash {
    fn of(token: &str) -> Option<Self> {
        digest(&SHA256, token.as_bytes()).as_ref().try_into().ok().map(Self)
    }
}

/// A caller that was loaded from the database, and when it may be used.
struct LoadedCaller {
    caller: Caller,
    row: RowVersion,
    keyring: u64,
    lifetime: Lifetime,
}

/// The caches of callers and users.
#[derive(Debug)]
pub struct CallerCache {
    callers: Cache<TokenHash, Arc<Caller>>,
    /// Users with the scopes of their roles; none for ids without a user.
    users: Cache<Id, Option<Arc<UserAtFullRole>>>,
}

impl CallerCache {
    /// Creates the caches that the settings do not turn off.
    pub fn new(config: &Config) -> Self {
        Self {
            callers: Cache::new(MAX_CALLERS, config.is_cache_on(CacheName::Callers)),
            users: Cache::new(MAX_USERS, config.is_cache_on(CacheName::Users)),
        }
    }
}

/// Returns the error of an invalid token if the condition holds.
///
/// # Errors
/// `invalid_token` if the condition holds.
pub(super) fn invalid_if(condition: bool) -> Result<(), Error> {
    if condition { Err(Error::invalid_token()) } else { Ok(()) }
}

impl Caller {
    /// Authenticates an access token or an API key. The caller has the user's current role and status.
    ///
    /// # Errors
    /// `invalid_token` or `token_expired` if the credential is not valid; others if the database is unavailable.
    pub async fn from_token(state: &AppState, engine: &Engine, token: &str) -> Result<Arc<Self>, Error> {
        let now = state.clock.now();
        let current = Versions {
            rows: Some(state.store.row_versions()),
            policies: Some(engine.instance_id()),
            keyring: Some(state.signing_keys.current_number().await?),
            now: Some(now),
        };
        let hash = TokenHash::of(token);
        if let Some(caller) = hash.and_then(|hash| state.caller_cache.callers.get(&hash, &current)) {
            return Ok(caller);
        }
        // Boxed because it is rare and large: every request would otherwise reserve the memory for it.
        let loaded = Box::pin(load_caller(state, engine, token, &current, now)).await?;
        let caller = Arc::new(loaded.caller);
        if let Some(hash) = hash {
            let validity = Validity::of_present_row(loaded.row)
                .with_policies(engine.instance_id())
                .with_keyring(loaded.keyring)
                .with_lifetime(loaded.lifetime);
            state.caller_cache.callers.insert(hash, Arc::clone(&caller), validity);
        }
        Ok(caller)
    }

    /// As [`Self::from_token`], for a logout: an access token may have expired. None if its session has ended already.
    ///
    /// # Errors
    /// As [`Self::from_token`]; in particular if the signature is not valid, or the user may not authenticate.
    pub async fn from_token_of_session(
        state: &AppState,
        engine: &Engine,
        token: &str,
    ) -> Result<Option<Arc<Self>>, Error> {
        let error = match Self::from_token(state, engine, token).await {
            Ok(caller) => return Ok(Some(caller)),
            Err(error) => error,
        };
        let is_rejected = matches!(error.kind, ErrorKind::InvalidToken | ErrorKind::TokenExpired { .. });
        let Ok(BearerToken::Jwt(token)) = token.parse() else { return Err(error) };
        if !is_rejected {
            return Err(error);
        }
        let now = state.clock.now();
        let Ok(verified) = state.signing_keys.verify_ignoring_expiry(&token, now).await? else {
            return Err(error);
        };
        let Claims { id, scope, sid } = verified.claims;
        match state.store.account_in_session(id, sid, now).await? {
            Some((account, _)) => {
                let caller = Self::new(engine, &account, &scope, Credential::Session(sid))?;
                Ok(Some(Arc::new(caller)))
            }
            None => Ok(None),
        }
    }

    /// Returns a user with all scopes of its role; none if there is no such user.
    ///
    /// # Errors
    /// The database is unavailable.
    pub async fn load_user_at_full_role(
        state: &AppState,
        engine: &Engine,
        user: Id,
    ) -> Result<Option<Arc<UserAtFullRole>>, Error> {
        let policies = Some(engine.instance_id());
        let current = Versions { policies, ..Versions::of_rows(state.store.row_versions()) };
        if let Some(cached) = state.caller_cache.users.get(&user, &current) {
            return Ok(cached);
        }
        // Before the row is read, so that a write in between invalidates the entry.
        let version = state.store.row_version(user);
        // Boxed, since this branch is rare and its future large.
        let account = Box::pin(state.store.account(user)).await?;
        let loaded = account.map(|account| {
            let resource = ResourceEntity::user(user, &account.path, user_attributes(&account));
            let principal = Self::from_account(engine, &account).map(|caller| caller.principal);
            Arc::new(UserAtFullRole { resource, principal })
        });
        let validity = match &loaded {
            Some(_) => Validity::of_present_row(version).with_policies(engine.instance_id()),
            None => Validity::of_absent_row(version),
        };
        state.caller_cache.users.insert(user, loaded.clone(), validity);
        Ok(loaded)
    }

    /// Returns the caller with its lifetime in the cache. Whether its use must be recorded depends on when the credential was
    /// last used.
    fn with_lifetime(
        self,
        last_used_at: Option<Timestamp>,
        expires_at: Timestamp,
        now: Timestamp,
    ) -> (Self, Lifetime) {
        let next_record_at = last_used_at
            .map(|last| last.plus_seconds(CALLER_CACHE_SECONDS))
            .filter(|next_record_at| *next_record_at > now);
        self.set_use_recorded(next_record_at.is_some());
        let end = now.plus_seconds(CALLER_CACHE_SECONDS);
        let end = next_record_at.map_or(end, |next_record_at| next_record_at.min(end)).min(expires_at);
        // While the database is unavailable, the caller is used until its credential expires.
        (self, Lifetime { start: now, end, stale_end: expires_at })
    }
}

/// Authenticates a token with the database.
async fn load_caller(
    state: &AppState,
    engine: &Engine,
    token: &str,
    current: &Versions<'_>,
    now: Timestamp,
) -> Result<LoadedCaller, Error> {
    match token.parse().map_err(|_| Error::invalid_token())? {
        BearerToken::Jwt(token) => {
            let verified = state.signing_keys.verify(&token, now).await?;
            let valid = verified.map_err(|error| rejected(state, &error))?;
            let Claims { id, scope, sid } = valid.claims;
            // The end of a session writes to its user, and the token expires before its session does.
            let row = state.store.row_version(id);
            let found = state.store.account_in_session(id, sid, now).await?;
            let (account, last_used_at) = found.ok_or_else(Error::invalid_token)?;
            let caller = Caller::new(engine, &account, &scope, Credential::Session(sid))?;
            let (caller, lifetime) = caller.with_lifetime(Some(last_used_at), valid.expires_at, now);
            Ok(LoadedCaller { caller, row, keyring: valid.keyring_number, lifetime })
        }
        BearerToken::ApiKey(key) => {
            let keyring = current.keyring.unwrap_or_default();
            load_api_key(state, engine, &key, keyring, now).await
        }
    }
}

async fn load_api_key(
    state: &AppState,
    engine: &Engine,
    key: &ApiKey,
    keyring: u64,
    now: Timestamp,
) -> Result<LoadedCaller, Error> {
    let hash = key.hash();
    let row = state.store.api_key(&hash).await?.ok_or_else(Error::invalid_token)?;
    // Read again under the version of its user, which a deletion of the key changes.
    let version = state.store.row_version(row.user);
    let row = state.store.api_key(&hash).await?.ok_or_else(Error::invalid_token)?;
    invalid_if(state.store.is_key_revoked(row.user, row.id))?;
    if row.expires_at.is_some_and(|end| end <= now) {
        return Err(rejected(state, &TokenError::Expired));
    }
    let account = state.store.account(row.user).await?.ok_or_else(Error::invalid_token)?;
    let caller = Caller::new(engine, &account, &row.scopes, Credential::ApiKey(row.id))?;
    let expires_at = row.expires_at.unwrap_or(Timestamp::from_millis(i64::MAX));
    let (caller, lifetime) = caller.with_lifetime(row.last_used_at, expires_at, now);
    Ok(LoadedCaller { caller, row: version, keyring, lifetime })
}

fn rejected(state: &AppState, error: &TokenError) -> Error {
    Error::rejected_token(error, state.request_config.is_expired_token_forbidden)
}
