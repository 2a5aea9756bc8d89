//! Who is calling: from a bearer to a user as it stands now, and what Cedar knows of it.

use super::request_middleware::request_origin;
use super::{AppState, Problem};
use crate::authn::{ApiKey, BearerToken, Claims};
use crate::authz::{Engine, Principal, ResourceEntity, Scope, ScopeSet, UserAttributes};
use crate::decision_log;
use crate::store::{Account, CacheVersion, UnitOfWork};
use crate::types::{Fingerprint, Id, OrgPath, ThreadCache, Timestamp, to_raw_json};
use actix_web::HttpRequest;
use actix_web::http::{StatusCode, header};
use quick_cache::UnitWeighter;
use quick_cache::sync::Cache;
use serde_json::value::RawValue;
use std::cell::RefCell;
use std::sync::atomic::{AtomicBool, AtomicU32, Ordering};
use std::sync::{Arc, OnceLock};

/// How a caller proved who it is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Credential {
    /// An access token, of this session.
    Session(Id),
    /// An API key, the one with this id.
    ApiKey(Id),
    /// The terminal of the machine that holds the database.
    Terminal,
}

impl Credential {
    /// The word by which policies know it.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Session(_) => "password",
            Self::ApiKey(_) => "apiKey",
            Self::Terminal => "terminal",
        }
    }

    /// The session or the key that it is.
    pub const fn id(&self) -> Option<Id> {
        match self {
            Self::Session(id) | Self::ApiKey(id) => Some(*id),
            Self::Terminal => None,
        }
    }
}

/// Who is calling, with which credential.
#[derive(Debug, Clone)]
pub struct Caller {
    /// The user on whose behalf the call is made.
    pub id: Id,
    /// Where its organization stands.
    pub organization: OrgPath,
    /// How it proved who it is.
    pub credential: Credential,
    /// What Cedar knows of it.
    pub principal: Arc<Principal>,
    /// What its credential grants, the cascade applied; none where that is nothing.
    pub scopes: Option<ScopeSet>,
    /// Whether there is nothing to note of the use of its credential. As long as the caller is known, it is noted once.
    is_use_recorded: Arc<AtomicBool>,
    /// In words, once that is wanted.
    log_json: OnceLock<Box<RawValue>>,
}

/// A user that is asked about.
#[derive(Debug)]
pub struct UserAtFullRole {
    /// What Cedar must know of it as a thing.
    pub resource: ResourceEntity,
    /// What Cedar knows of it, as it would be with a credential that carries its whole role; none where it is blocked.
    pub principal: Option<Arc<Principal>>,
}

impl UserAtFullRole {
    /// A copy that shares nothing which is counted when a decision about it is remembered.
    fn deep_clone(&self) -> Self {
        let principal = self.principal.as_ref().map(|principal| Arc::new((**principal).clone()));
        Self { resource: self.resource.clone(), principal }
    }
}

/// A caller that is known already.
#[derive(Debug, Clone)]
struct CachedCaller {
    caller: Arc<Caller>,
    /// When its user was read.
    cache_version: CacheVersion,
    /// By whose cascade its scopes were found.
    engine_version: u64,
    /// By which keyring its token was checked.
    keyring_version: u64,
    /// When it was read. Before that time nothing is known of it: the clock was set back.
    read_at: Timestamp,
    /// Until when its credential is good without another look.
    cached_until: Timestamp,
    /// When its credential expires. It is good until then while the database is away.
    expires_at: Timestamp,
}

/// For how long a caller is known without another look, in seconds: so long may what another program on the same SQLite
/// file does, or a notice that got lost, go unseen.
const CALLER_CACHE_SECONDS: u64 = 60;

/// The callers that are known already, each by its credential: good for a minute, until the credential expires, its user
/// is written, the policies change, or the keys that sign.
#[derive(Debug)]
pub struct CallerCache {
    by_credential: Cache<Fingerprint, CachedCaller>,
    /// Users as they are by their roles, each with when it was read and by whose cascade: good until they are written, or
    /// the policies change. None of an id of nobody, good until a user with that id is created.
    users: Cache<Id, CachedUser>,
    /// Tells these callers from those of other services in this process.
    instance_id: u32,
}

/// A user by its role, or that there is none, with when it was read and by whose cascade.
type CachedUser = (CacheVersion, u64, Option<Arc<UserAtFullRole>>);

thread_local! {
    /// The callers of late, each by its credential and the number of its service. They are this thread's own copies.
    static THREAD_CALLERS: RefCell<ThreadCache<CachedCaller>> = const { RefCell::new(ThreadCache::EMPTY) };
    /// The users of late that were asked about, likewise.
    static THREAD_USERS: RefCell<ThreadCache<CachedUser>> = const { RefCell::new(ThreadCache::EMPTY) };
}

/// How many callers a thread has near.
const MAX_THREAD_CALLERS: usize = 1_024;

/// How many users that were asked about.
const MAX_THREAD_USERS: usize = 8_192;

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

impl Caller {
    /// The caller that a token names, an access token or an API key, as its user stands now.
    pub async fn from_token(state: &AppState, engine: &Engine, token: &str) -> Result<Arc<Self>, Problem> {
        let fingerprint = Fingerprint::of(&(state.caller_cache.instance_id, token));
        let now = state.clock.now();
        let keyring = state.signing_keys.current_number().await?;
        let is_good = |entry: &&CachedCaller| {
            let is_same = entry.engine_version == engine.instance_id() && entry.keyring_version == keyring;
            let is_in_time = (entry.read_at..entry.cached_until).contains(&now)
                || (now < entry.expires_at && state.store.is_stale());
            is_same && is_in_time && state.store.is_unchanged(entry.cache_version, entry.caller.id)
        };
        let cached = THREAD_CALLERS.with_borrow(|cached| {
            cached.get(fingerprint).filter(is_good).map(|entry| Arc::clone(&entry.caller))
        });
        if let Some(caller) = cached {
            return Ok(caller);
        }
        let entry = match state.caller_cache.by_credential.get(&fingerprint).filter(|entry| is_good(&entry)) {
            Some(entry) => entry,
            None => {
                // Boxed, since it is rare and large, and every request would make room for it.
                let entry = Box::pin(Self::load(state, engine, token, keyring, now)).await?;
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

    /// The same, read from the database.
    async fn load(
        state: &AppState,
        engine: &Engine,
        token: &str,
        mut keyring: u64,
        now: Timestamp,
    ) -> Result<CachedCaller, Problem> {
        let (caller, stamp, until, expires_at) = match token.parse().map_err(|_| invalid_token())? {
            BearerToken::Jwt(token) => {
                let verified = state.signing_keys.verify(&token, now).await?;
                let valid = verified
                    .map_err(|error| Problem::invalid_token(&error, state.request_config.expired_status))?;
                keyring = valid.keyring_number;
                let Claims { id, scope, sid } = valid.claims;
                // The end of its session is a write to its user; and it expires before its session does.
                let stamp = state.store.cache_version(id);
                let found = state.store.account_in_session(id, sid, now).await?;
                let (account, last_used) = found.ok_or_else(invalid_token)?;
                let caller = Self::new(engine, &account, &scope, Credential::Session(sid))?;
                let (caller, until) = caller.with_last_use(Some(last_used), now);
                (caller, stamp, valid.expires_at.min(until), valid.expires_at)
            }
            BearerToken::ApiKey(key) => Self::from_api_key(state, engine, &key, now).await?,
        };
        let (caller, engine) = (Arc::new(caller), engine.instance_id());
        Ok(CachedCaller {
            caller,
            cache_version: stamp,
            engine_version: engine,
            keyring_version: keyring,
            read_at: now,
            cached_until: until,
            expires_at,
        })
    }

    async fn from_api_key(
        state: &AppState,
        engine: &Engine,
        key: &ApiKey,
        now: Timestamp,
    ) -> Result<(Self, CacheVersion, Timestamp, Timestamp), Problem> {
        let hash = key.hash();
        let row = state.store.api_key(&hash).await?.ok_or_else(invalid_token)?;
        // Read once more under the stamp of its user, which a deletion of the key changes.
        let stamp = state.store.cache_version(row.user);
        let row = state.store.api_key(&hash).await?.ok_or_else(invalid_token)?;
        if state.store.is_key_revoked(row.user, row.id) {
            return Err(invalid_token());
        }
        if row.expires_at.is_some_and(|end| end <= now) {
            return Err(Problem::invalid_token(
                &crate::authn::TokenError::Expired,
                state.request_config.expired_status,
            ));
        }
        let account = state.store.account(row.user).await?.ok_or_else(invalid_token)?;
        let caller = Self::new(engine, &account, &row.scopes, Credential::ApiKey(row.id))?;
        let (caller, until) = caller.with_last_use(row.last_used_at, now);
        let expires_at = row.expires_at.unwrap_or(Timestamp::from_millis(i64::MAX));
        Ok((caller, stamp, expires_at.min(until), expires_at))
    }

    /// The same, whose credential was last used then, and until when it is known: its use is noted to the minute.
    fn with_last_use(self, last: Option<Timestamp>, now: Timestamp) -> (Self, Timestamp) {
        let until = now.plus_seconds(CALLER_CACHE_SECONDS);
        let next_record_at = last
            .map(|last| last.plus_seconds(CALLER_CACHE_SECONDS))
            .filter(|next_record_at| *next_record_at > now);
        self.is_use_recorded.store(next_record_at.is_some(), Ordering::Relaxed);
        (self, next_record_at.map_or(until, |next_record_at| next_record_at.min(until)))
    }

    /// Notes that its credential was used, to the minute. A request that only reads goes on where that cannot be written.
    pub(super) async fn record_use(&self, state: &AppState, request: &HttpRequest) {
        if self.is_use_recorded.load(Ordering::Relaxed) || state.store.is_stale() {
            return;
        }
        if !self.is_use_recorded.swap(true, Ordering::Relaxed) {
            // Boxed, since it is rare and large, and every request would make room for it.
            Box::pin(self.write_last_used(state, request)).await;
        }
    }

    async fn write_last_used(&self, state: &AppState, request: &HttpRequest) {
        let Ok(_lock) = state.last_used_lock.try_lock() else {
            // Another one is at it, and this one's next request has another try.
            return self.is_use_recorded.store(false, Ordering::Relaxed);
        };
        let now = state.clock.now();
        let result = match self.credential {
            Credential::Session(session) => {
                state.store.record_session_use(session, &request_origin(request), now).await
            }
            Credential::ApiKey(key) => state.store.record_api_key_use(key, now).await,
            Credential::Terminal => Ok(()),
        };
        if let Err(error) = result {
            tracing::warn!(%error, id = ?self.credential, "the use of a credential could not be noted");
        }
    }

    /// 401 where its credential has ended since the request began: what gives or takes credentials must not outlive that.
    /// Whoever calls this has the user's row locked where it is about the caller's own.
    pub async fn ensure_credential_still_valid(
        &self,
        work: &UnitOfWork,
        now: Timestamp,
    ) -> Result<(), Problem> {
        let is_live = match self.credential {
            Credential::Session(session) => work.has_live_session(self.id, session, now).await?,
            Credential::ApiKey(key) => work.has_api_key(self.id, key).await?,
            Credential::Terminal => true,
        };
        if is_live { Ok(()) } else { Err(invalid_token()) }
    }

    fn new(
        engine: &Engine,
        account: &Account,
        claimed: &ScopeSet,
        credential: Credential,
    ) -> Result<Self, Problem> {
        if !account.is_active() {
            return Err(invalid_token());
        }
        let scopes = engine.effective_scopes(claimed, account.role);
        let principal =
            Arc::new(Principal::new(account.id, &account.path, user_attributes(account), scopes.as_ref()));
        Ok(Self {
            id: account.id,
            organization: account.path.clone(),
            credential,
            principal,
            scopes,
            is_use_recorded: Arc::default(),
            log_json: OnceLock::new(),
        })
    }

    /// A copy that shares nothing which is counted when a decision about it is remembered.
    fn deep_clone(&self) -> Self {
        Self { principal: Arc::new((*self.principal).clone()), ..self.clone() }
    }

    /// As the decision log has it.
    pub(super) fn log_json(&self) -> &RawValue {
        let Self { id, credential, .. } = *self;
        let (kind, credential_id) = (credential.as_str(), credential.id());
        self.log_json
            .get_or_init(|| to_raw_json(&decision_log::Caller { user: id, credential: kind, credential_id }))
    }

    /// A user, to be asked about; none where there is none.
    pub async fn load_user_at_full_role(
        state: &AppState,
        engine: &Engine,
        user: Id,
    ) -> Result<Option<Arc<UserAtFullRole>>, Problem> {
        let key = Fingerprint::of_id(state.caller_cache.instance_id, user);
        let is_good = |(stamp, engine_version, found): &&CachedUser| match found {
            Some(_) => *engine_version == engine.instance_id() && state.store.is_unchanged(*stamp, user),
            None => state.store.is_still_absent(*stamp, user),
        };
        if let Some((.., cached)) =
            THREAD_USERS.with_borrow(|cached| cached.get(key).filter(is_good).cloned())
        {
            return Ok(cached);
        }
        let entry = match state.caller_cache.users.get(&user).filter(|entry| is_good(&entry)) {
            Some(entry) => entry,
            None => {
                let stamp = state.store.cache_version(user);
                let user_at_full_role = state.store.cached_account(user).await?.map(|account| {
                    let resource = ResourceEntity::user(user, &account.path, user_attributes(&account));
                    let principal = Self::from_account(engine, &account).map(|caller| caller.principal);
                    Arc::new(UserAtFullRole { resource, principal })
                });
                let entry = (stamp, engine.instance_id(), user_at_full_role);
                state.caller_cache.users.insert(user, entry.clone());
                entry
            }
        };
        let (stamp, engine_version, entry) = entry;
        let thread_copy = entry.map(|entry| Arc::new(entry.deep_clone()));
        THREAD_USERS.with_borrow_mut(|thread_cache| {
            thread_cache.insert(MAX_THREAD_USERS, key, (stamp, engine_version, thread_copy.clone()));
        });
        Ok(thread_copy)
    }

    /// A user as it would be with a credential that carries its whole role; none where it is blocked.
    pub fn from_account(engine: &Engine, account: &Account) -> Option<Self> {
        let scopes = ScopeSet::from(account.role);
        Self::new(engine, account, &scopes, Credential::Terminal).ok()
    }

    /// Whoever sits at the terminal of the machine that holds the database. For the policies it is the user
    /// `User::"000000000000000000000000"` of the root organization, with the scope admin.
    pub fn for_terminal(engine: &Engine, root: OrgPath) -> Self {
        let scopes = ScopeSet::from(Scope::Admin);
        let facts =
            UserAttributes { organization: root.org_id(), role: Scope::Admin, status: "active", email: None };
        let scopes = engine.effective_scopes(&scopes, Scope::Admin);
        let principal = Arc::new(Principal::new(Id::NIL, &root, facts, scopes.as_ref()));
        Self {
            id: Id::NIL,
            organization: root,
            credential: Credential::Terminal,
            principal,
            scopes,
            is_use_recorded: Arc::default(),
            log_json: OnceLock::new(),
        }
    }
}

/// What policies may know of the user with this account.
pub(super) fn user_attributes(account: &Account) -> UserAttributes<'_> {
    UserAttributes {
        organization: account.path.org_id(),
        role: account.role,
        status: &account.status,
        email: Some(&account.email),
    }
}

/// A token that is none, or whose user, session or key is no longer there.
fn invalid_token() -> Problem {
    Problem::unauthorized("invalid_token", "invalid token")
}

/// The token that a request bears: none where it has no Authorization header (RFC 6750, 2.1).
///
/// # Errors
///
/// 401 where the header holds no bearer token, 400 where there are several: a proxy may have checked another one.
pub fn bearer_token(request: &HttpRequest) -> Result<Option<&str>, Problem> {
    let mut values = request.headers().get_all(header::AUTHORIZATION);
    let Some(value) = values.next() else { return Ok(None) };
    if values.next().is_some() {
        let detail = "The request has several Authorization headers. Send one.";
        return Err(Problem::new(StatusCode::BAD_REQUEST, "duplicate_authorization", detail));
    }
    let text = std::str::from_utf8(value.as_bytes()).map_err(|_| invalid_token())?;
    BearerToken::token_from_header(text).map(Some).map_err(|_| invalid_token())
}
