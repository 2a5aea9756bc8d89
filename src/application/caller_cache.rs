//! Authentication of bearer tokens, and the caches of callers and users.
//!
//! Each cache has a shared tier and a tier for each worker thread. A cached caller is valid for a minute at most, and not after
//! its credential expires, its user is written, the policies change, or the signing keys change.

use super::caller::user_attributes;
use super::{AppState, Caller, Credential, Error, UserAtFullRole};
use crate::authn::{ApiKey, BearerToken, Claims, TokenError};
use crate::authz::{Engine, ResourceEntity};
use crate::store::CacheVersion;
use crate::types::{Fingerprint, Id, ThreadCache, Timestamp};
use quick_cache::UnitWeighter;
use quick_cache::sync::Cache;
use std::cell::RefCell;
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};

/// For how many seconds a cached caller is used without a database read. Changes by another program on the same SQLite file
/// take effect within that time, and so does a lost notification.
const CALLER_CACHE_SECONDS: u64 = 60;

/// The maximum number of callers that a thread caches.
const MAX_THREAD_CALLERS: usize = 1_024;

/// The maximum number of evaluated users that a thread caches.
const MAX_THREAD_USERS: usize = 8_192;

/// A cached caller.
#[derive(Debug, Clone)]
struct CachedCaller {
    caller: Arc<Caller>,
    /// The version of the user's row.
    cache_version: CacheVersion,
    /// The policies that computed the scopes.
    engine_version: u64,
    /// The key ring that verified the token.
    keyring_version: u64,
    /// When it was loaded. An entry is not used before that time: the clock was set back.
    read_at: Timestamp,
    /// Until when it is used without a database read.
    cached_until: Timestamp,
    /// When the credential expires. While the database is unavailable, the entry is used until then.
    expires_at: Timestamp,
}

/// A user with the scopes of its role, or none if there is no user with this id; with the versions of its row and of the
/// policies.
type CachedUser = (CacheVersion, u64, Option<Arc<UserAtFullRole>>);

/// A credential that was loaded from the database.
struct LoadedCredential {
    caller: Caller,
    cache_version: CacheVersion,
    cached_until: Timestamp,
    expires_at: Timestamp,
}

/// The shared tier of both caches.
#[derive(Debug)]
pub struct CallerCache {
    by_credential: Cache<Fingerprint, CachedCaller>,
    /// The absence of a user is valid until a user with that id is created.
    users: Cache<Id, CachedUser>,
    /// Separates the entries of several services in one process in the thread tier.
    instance_id: u32,
}

thread_local! {
    static THREAD_CALLERS: RefCell<ThreadCache<CachedCaller>> = const { RefCell::new(ThreadCache::EMPTY) };
    static THREAD_USERS: RefCell<ThreadCache<CachedUser>> = const { RefCell::new(ThreadCache::EMPTY) };
}

impl Default for CallerCache {
    fn default() -> Self {
        static COUNT: AtomicU32 = AtomicU32::new(0);
        Self {
            by_credential: Cache::with_weighter(1_000, 20_000, UnitWeighter),
            users: Cache::with_weighter(1_000, 50_000, UnitWeighter),
            instance_id: COUNT.fetch_add(1, Ordering::Relaxed),
        }
    }
}

/// Returns the error of an invalid token if the condition holds.
pub(super) fn invalid_if(condition: bool) -> Result<(), Error> {
    if condition { Err(Error::invalid_token()) } else { Ok(()) }
}

impl Caller {
    /// Authenticates an access token or an API key. The caller has the user's current role and status.
    ///
    /// # Errors
    /// `invalid_token` or `token_expired` if the credential is not valid; others if the database is unavailable.
    pub async fn from_token(state: &AppState, engine: &Engine, token: &str) -> Result<Arc<Self>, Error> {
        let fingerprint = Fingerprint::of(&(state.caller_cache.instance_id, token));
        let now = state.clock.now();
        let keyring = state.signing_keys.current_number().await?;
        let is_valid = |entry: &&CachedCaller| {
            let is_same = entry.engine_version == engine.instance_id() && entry.keyring_version == keyring;
            let is_in_time = (entry.read_at..entry.cached_until).contains(&now)
                || (now < entry.expires_at && state.store.is_stale());
            is_same && is_in_time && state.store.is_unchanged(entry.cache_version, entry.caller.id)
        };
        let cached = THREAD_CALLERS.with_borrow(|cached| {
            cached.get(fingerprint).filter(is_valid).map(|entry| Arc::clone(&entry.caller))
        });
        if let Some(caller) = cached {
            return Ok(caller);
        }
        let shared = state.caller_cache.by_credential.get(&fingerprint).filter(|entry| is_valid(&entry));
        let entry = match shared {
            Some(entry) => entry,
            None => {
                // Boxed because it is rare and large: every request would otherwise reserve the memory for it.
                let entry = Box::pin(load_caller(state, engine, token, keyring, now)).await?;
                state.caller_cache.by_credential.insert(fingerprint, entry.clone());
                entry
            }
        };
        let thread_copy = CachedCaller { caller: Arc::new(entry.caller.deep_clone()), ..entry };
        let caller = Arc::clone(&thread_copy.caller);
        THREAD_CALLERS.with_borrow_mut(|thread_cache| {
            thread_cache.insert(MAX_THREAD_CALLERS, fingerprint, thread_copy);
        });
        Ok(caller)
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
        let key = Fingerprint::of_id(state.caller_cache.instance_id, user);
        let is_valid = |(cache_version, engine_version, found): &&CachedUser| match found {
            Some(_) => {
                *engine_version == engine.instance_id() && state.store.is_unchanged(*cache_version, user)
            }
            None => state.store.is_still_absent(*cache_version, user),
        };
        let cached = THREAD_USERS.with_borrow(|cached| cached.get(key).filter(is_valid).cloned());
        if let Some((.., cached)) = cached {
            return Ok(cached);
        }
        let entry = match state.caller_cache.users.get(&user).filter(|entry| is_valid(&entry)) {
            Some(entry) => entry,
            None => {
                let entry = load_user(state, engine, user).await?;
                state.caller_cache.users.insert(user, entry.clone());
                entry
            }
        };
        let (cache_version, engine_version, entry) = entry;
        let thread_copy = entry.map(|entry| Arc::new(entry.deep_clone()));
        THREAD_USERS.with_borrow_mut(|thread_cache| {
            thread_cache.insert(MAX_THREAD_USERS, key, (cache_version, engine_version, thread_copy.clone()));
        });
        Ok(thread_copy)
    }

    /// Returns the caller with the time until which it is cached. Whether its use must be recorded depends on when the
    /// credential was last used.
    fn with_last_use(self, last_used_at: Option<Timestamp>, now: Timestamp) -> (Self, Timestamp) {
        let until = now.plus_seconds(CALLER_CACHE_SECONDS);
        let next_record_at = last_used_at
            .map(|last| last.plus_seconds(CALLER_CACHE_SECONDS))
            .filter(|next_record_at| *next_record_at > now);
        self.set_use_recorded(next_record_at.is_some());
        (self, next_record_at.map_or(until, |next_record_at| next_record_at.min(until)))
    }
}

async fn load_user(state: &AppState, engine: &Engine, user: Id) -> Result<CachedUser, Error> {
    // Before the row is read, so that a write in between invalidates the entry.
    let cache_version = state.store.cache_version(user);
    let user = state.store.cached_account(user).await?.map(|account| {
        let resource = ResourceEntity::user(user, &account.path, user_attributes(&account));
        let principal = Caller::from_account(engine, &account).map(|caller| caller.principal);
        Arc::new(UserAtFullRole { resource, principal })
    });
    Ok((cache_version, engine.instance_id(), user))
}

/// Authenticates a token with the database.
async fn load_caller(
    state: &AppState,
    engine: &Engine,
    token: &str,
    mut keyring: u64,
    now: Timestamp,
) -> Result<CachedCaller, Error> {
    let loaded = match token.parse().map_err(|_| Error::invalid_token())? {
        BearerToken::Jwt(token) => {
            let verified = state.signing_keys.verify(&token, now).await?;
            let valid = verified.map_err(|error| rejected(state, &error))?;
            keyring = valid.keyring_number;
            let Claims { id, scope, sid } = valid.claims;
            // The end of a session writes to its user, and the token expires before its session does.
            let cache_version = state.store.cache_version(id);
            let found = state.store.account_in_session(id, sid, now).await?;
            let (account, last_used_at) = found.ok_or_else(Error::invalid_token)?;
            let caller = Caller::new(engine, &account, &scope, Credential::Session(sid))?;
            let (caller, until) = caller.with_last_use(Some(last_used_at), now);
            let (cached_until, expires_at) = (valid.expires_at.min(until), valid.expires_at);
            LoadedCredential { caller, cache_version, cached_until, expires_at }
        }
        BearerToken::ApiKey(key) => load_api_key(state, engine, &key, now).await?,
    };
    Ok(CachedCaller {
        caller: Arc::new(loaded.caller),
        cache_version: loaded.cache_version,
        engine_version: engine.instance_id(),
        keyring_version: keyring,
        read_at: now,
        cached_until: loaded.cached_until,
        expires_at: loaded.expires_at,
    })
}

async fn load_api_key(
    state: &AppState,
    engine: &Engine,
    key: &ApiKey,
    now: Timestamp,
) -> Result<LoadedCredential, Error> {
    let hash = key.hash();
    let row = state.store.api_key(&hash).await?.ok_or_else(Error::invalid_token)?;
    // Read again under the version of its user, which a deletion of the key changes.
    let cache_version = state.store.cache_version(row.user);
    let row = state.store.api_key(&hash).await?.ok_or_else(Error::invalid_token)?;
    invalid_if(state.store.is_key_revoked(row.user, row.id))?;
    if row.expires_at.is_some_and(|end| end <= now) {
        return Err(rejected(state, &TokenError::Expired));
    }
    let account = state.store.account(row.user).await?.ok_or_else(Error::invalid_token)?;
    let caller = Caller::new(engine, &account, &row.scopes, Credential::ApiKey(row.id))?;
    let (caller, until) = caller.with_last_use(row.last_used_at, now);
    let expires_at = row.expires_at.unwrap_or(Timestamp::from_millis(i64::MAX));
    Ok(LoadedCredential { caller, cache_version, cached_until: expires_at.min(until), expires_at })
}

fn rejected(state: &AppState, error: &TokenError) -> Error {
    Error::rejected_token(error, state.request_config.is_expired_token_forbidden)
}
