//! Who is calling: from a bearer to a user as it stands now, and what Cedar knows of it.

use super::edge::origin;
use super::{Parts, Problem};
use crate::authn::{ApiKey, Bearer, Claims};
use crate::authz::{Engine, Principal, Resourced, Scope, ScopeSet, UserFacts};
use crate::decision_log;
use crate::store::{Account, Stamp, Work};
use crate::values::{Fingerprint, Id, Near, OrgPath, Timestamp, raw};
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
    is_noted: Arc<AtomicBool>,
    /// In words, once that is wanted.
    shown: OnceLock<Box<RawValue>>,
}

/// A user that is asked about.
#[derive(Debug)]
pub struct ByRole {
    /// What Cedar must know of it as a thing.
    pub thing: Resourced,
    /// What Cedar knows of it, as it would be with a credential that carries its whole role; none where it is blocked.
    pub principal: Option<Arc<Principal>>,
}

impl ByRole {
    /// A copy that shares nothing which is counted when a decision about it is remembered.
    fn apart(&self) -> Self {
        let principal = self.principal.as_ref().map(|principal| Arc::new((**principal).clone()));
        Self { thing: self.thing.clone(), principal }
    }
}

/// A caller that is known already.
#[derive(Debug, Clone)]
struct Known {
    caller: Arc<Caller>,
    /// When its user was read.
    stamp: Stamp,
    /// By whose cascade its scopes were found.
    engine: u64,
    /// By which keyring its token was checked.
    keyring: u64,
    /// When it was read. Before that time nothing is known of it: the clock was set back.
    from: Timestamp,
    /// Until when its credential is good without another look.
    until: Timestamp,
    /// When its credential expires. It is good until then while the database is away.
    expires_at: Timestamp,
}

/// For how long a caller is known without another look, in seconds: so long may what another program on the same SQLite
/// file does, or a notice that got lost, go unseen.
const REMEMBERED: u64 = 60;

/// The callers that are known already, each by its credential: good for a minute, until the credential expires, its user
/// is written, the policies change, or the keys that sign.
#[derive(Debug)]
pub struct Callers {
    by_credential: Cache<Fingerprint, Known>,
    /// Users as they are by their roles, each with when it was read and by whose cascade: good until they are written, or
    /// the policies change. None of an id of nobody, good until a user with that id is created.
    by_role: Cache<Id, KnownByRole>,
    /// Tells these callers from those of other services in this process.
    number: u32,
}

/// A user by its role, or that there is none, with when it was read and by whose cascade.
type KnownByRole = (Stamp, u64, Option<Arc<ByRole>>);

thread_local! {
    /// The callers of late, each by its credential and the number of its service. They are this thread's own copies.
    static NEAR: RefCell<Near<Known>> = const { RefCell::new(Near::EMPTY) };
    /// The users of late that were asked about, likewise.
    static NEAR_BY_ROLE: RefCell<Near<KnownByRole>> = const { RefCell::new(Near::EMPTY) };
}

/// How many callers a thread has near.
const NEAR_CALLERS: usize = 1_024;

/// How many users that were asked about.
const NEAR_USERS: usize = 8_192;

impl Default for Callers {
    fn default() -> Self {
        static COUNT: AtomicU32 = AtomicU32::new(0);
        Self {
            by_credential: Cache::with_weighter(1_000, 20_000, UnitWeighter),
            by_role: Cache::with_weighter(1_000, 50_000, UnitWeighter),
            number: COUNT.fetch_add(1, Ordering::Relaxed),
        }
    }
}

impl Caller {
    /// The caller that a token names, an access token or an API key, as its user stands now.
    pub async fn of_token(parts: &Parts, engine: &Engine, token: &str) -> Result<Arc<Self>, Problem> {
        let fingerprint = Fingerprint::of(&(parts.callers.number, token));
        let now = parts.clock.now();
        let keyring = parts.tokens.current_number().await?;
        let is_good = |known: &&Known| {
            let is_same = known.engine == engine.number() && known.keyring == keyring;
            let is_in_time = (known.from..known.until).contains(&now)
                || (now < known.expires_at && parts.store.is_stale());
            is_same && is_in_time && parts.store.is_good(known.stamp, known.caller.id)
        };
        let near = NEAR
            .with_borrow(|near| near.get(fingerprint).filter(is_good).map(|known| Arc::clone(&known.caller)));
        if let Some(caller) = near {
            return Ok(caller);
        }
        let known = match parts.callers.by_credential.get(&fingerprint).filter(|known| is_good(&known)) {
            Some(known) => known,
            None => {
                // Boxed, since it is rare and large, and every request would make room for it.
                let known = Box::pin(Self::read(parts, engine, token, keyring, now)).await?;
                parts.callers.by_credential.insert(fingerprint, known.clone());
                known
            }
        };
        let own = Known { caller: Arc::new(known.caller.apart()), ..known };
        let caller = Arc::clone(&own.caller);
        NEAR.with_borrow_mut(|near| near.keep(NEAR_CALLERS, fingerprint, own));
        Ok(caller)
    }

    /// The same, read from the database.
    async fn read(
        parts: &Parts,
        engine: &Engine,
        token: &str,
        mut keyring: u64,
        now: Timestamp,
    ) -> Result<Known, Problem> {
        let (caller, stamp, until, expires_at) = match token.parse().map_err(|_| revoked())? {
            Bearer::Jwt(token) => {
                let verified = parts.tokens.verify(&token, now).await?;
                let good = verified.map_err(|error| Problem::token(&error, parts.rules.expired_status))?;
                keyring = good.keyring;
                let Claims { id, scope, sid } = good.claims;
                // The end of its session is a write to its user; and it expires before its session does.
                let stamp = parts.store.stamp(id);
                let found = parts.store.account_in_session(id, sid, now).await?;
                let (account, last_used) = found.ok_or_else(revoked)?;
                let caller = Self::new(engine, &account, &scope, Credential::Session(sid))?;
                let (caller, until) = caller.used(Some(last_used), now);
                (caller, stamp, good.expires_at.min(until), good.expires_at)
            }
            Bearer::ApiKey(key) => Self::of_api_key(parts, engine, &key, now).await?,
        };
        let (caller, engine) = (Arc::new(caller), engine.number());
        Ok(Known { caller, stamp, engine, keyring, from: now, until, expires_at })
    }

    async fn of_api_key(
        parts: &Parts,
        engine: &Engine,
        key: &ApiKey,
        now: Timestamp,
    ) -> Result<(Self, Stamp, Timestamp, Timestamp), Problem> {
        let hash = key.hash();
        let found = parts.store.api_key(&hash).await?.ok_or_else(revoked)?;
        // Read once more under the stamp of its user, which a deletion of the key changes.
        let stamp = parts.store.stamp(found.user);
        let found = parts.store.api_key(&hash).await?.ok_or_else(revoked)?;
        if parts.store.is_key_revoked(found.user, found.id) {
            return Err(revoked());
        }
        if found.expires_at.is_some_and(|end| end <= now) {
            return Err(Problem::token(&crate::authn::TokenError::Expired, parts.rules.expired_status));
        }
        let account = parts.store.account(found.user).await?.ok_or_else(revoked)?;
        let caller = Self::new(engine, &account, &found.scopes, Credential::ApiKey(found.id))?;
        let (caller, until) = caller.used(found.last_used_at, now);
        let expires_at = found.expires_at.unwrap_or(Timestamp::from_millis(i64::MAX));
        Ok((caller, stamp, expires_at.min(until), expires_at))
    }

    /// The same, whose credential was last used then, and until when it is known: its use is noted to the minute.
    fn used(self, last: Option<Timestamp>, now: Timestamp) -> (Self, Timestamp) {
        let until = now.plus_seconds(REMEMBERED);
        let again = last.map(|last| last.plus_seconds(REMEMBERED)).filter(|again| *again > now);
        self.is_noted.store(again.is_some(), Ordering::Relaxed);
        (self, again.map_or(until, |again| again.min(until)))
    }

    /// Notes that its credential was used, to the minute. A request that only reads goes on where that cannot be written.
    pub(super) async fn touch(&self, parts: &Parts, request: &HttpRequest) {
        if self.is_noted.load(Ordering::Relaxed) || parts.store.is_stale() {
            return;
        }
        if !self.is_noted.swap(true, Ordering::Relaxed) {
            // Boxed, since it is rare and large, and every request would make room for it.
            Box::pin(self.note_use(parts, request)).await;
        }
    }

    async fn note_use(&self, parts: &Parts, request: &HttpRequest) {
        let Ok(_noting) = parts.noting.try_lock() else {
            // Another one is at it, and this one's next request has another try.
            return self.is_noted.store(false, Ordering::Relaxed);
        };
        let now = parts.clock.now();
        let noted = match self.credential {
            Credential::Session(session) => parts.store.touch_session(session, &origin(request), now).await,
            Credential::ApiKey(key) => parts.store.touch_api_key(key, now).await,
            Credential::Terminal => Ok(()),
        };
        if let Err(error) = noted {
            tracing::warn!(%error, id = ?self.credential, "the use of a credential could not be noted");
        }
    }

    /// 401 where its credential has ended since the request began: what gives or takes credentials must not outlive that.
    /// Whoever calls this has the user's row locked where it is about the caller's own.
    pub async fn check_again(&self, work: &Work, now: Timestamp) -> Result<(), Problem> {
        let is_live = match self.credential {
            Credential::Session(session) => work.has_session(self.id, session, now).await?,
            Credential::ApiKey(key) => work.has_api_key(self.id, key).await?,
            Credential::Terminal => true,
        };
        if is_live { Ok(()) } else { Err(revoked()) }
    }

    fn new(
        engine: &Engine,
        account: &Account,
        claimed: &ScopeSet,
        credential: Credential,
    ) -> Result<Self, Problem> {
        if !account.is_active() {
            return Err(revoked());
        }
        let scopes = engine.effective(claimed, account.role);
        let principal = Arc::new(Principal::new(account.id, &account.path, facts(account), scopes.as_ref()));
        Ok(Self {
            id: account.id,
            organization: account.path.clone(),
            credential,
            principal,
            scopes,
            is_noted: Arc::default(),
            shown: OnceLock::new(),
        })
    }

    /// A copy that shares nothing which is counted when a decision about it is remembered.
    fn apart(&self) -> Self {
        Self { principal: Arc::new((*self.principal).clone()), ..self.clone() }
    }

    /// As the decision log has it.
    pub(super) fn shown(&self) -> &RawValue {
        let Self { id, credential, .. } = *self;
        let (kind, credential_id) = (credential.as_str(), credential.id());
        self.shown.get_or_init(|| raw(&decision_log::Caller { user: id, credential: kind, credential_id }))
    }

    /// A user, to be asked about; none where there is none.
    pub async fn by_role(parts: &Parts, engine: &Engine, user: Id) -> Result<Option<Arc<ByRole>>, Problem> {
        let key = Fingerprint::of_id(parts.callers.number, user);
        let is_good = |(stamp, by, found): &&KnownByRole| match found {
            Some(_) => *by == engine.number() && parts.store.is_good(*stamp, user),
            None => parts.store.is_still_absent(*stamp, user),
        };
        if let Some((.., near)) = NEAR_BY_ROLE.with_borrow(|near| near.get(key).filter(is_good).cloned()) {
            return Ok(near);
        }
        let known = match parts.callers.by_role.get(&user).filter(|known| is_good(&known)) {
            Some(known) => known,
            None => {
                let stamp = parts.store.stamp(user);
                let by_role = parts.store.known_account(user).await?.map(|account| {
                    let thing = Resourced::user(user, &account.path, facts(&account));
                    let principal = Self::of_account(engine, &account).map(|caller| caller.principal);
                    Arc::new(ByRole { thing, principal })
                });
                let known = (stamp, engine.number(), by_role);
                parts.callers.by_role.insert(user, known.clone());
                known
            }
        };
        let (stamp, by, known) = known;
        let own = known.map(|known| Arc::new(known.apart()));
        NEAR_BY_ROLE.with_borrow_mut(|near| near.keep(NEAR_USERS, key, (stamp, by, own.clone())));
        Ok(own)
    }

    /// A user as it would be with a credential that carries its whole role; none where it is blocked.
    pub fn of_account(engine: &Engine, account: &Account) -> Option<Self> {
        let scopes = ScopeSet::from(account.role);
        Self::new(engine, account, &scopes, Credential::Terminal).ok()
    }

    /// Whoever sits at the terminal of the machine that holds the database. For the policies it is the user
    /// `User::"000000000000000000000000"` of the root organization, with the scope admin.
    pub fn at_terminal(engine: &Engine, root: OrgPath) -> Self {
        let scopes = ScopeSet::from(Scope::Admin);
        let facts = UserFacts { organization: root.own(), role: Scope::Admin, status: "active", email: None };
        let scopes = engine.effective(&scopes, Scope::Admin);
        let principal = Arc::new(Principal::new(Id::NONE, &root, facts, scopes.as_ref()));
        Self {
            id: Id::NONE,
            organization: root,
            credential: Credential::Terminal,
            principal,
            scopes,
            is_noted: Arc::default(),
            shown: OnceLock::new(),
        }
    }
}

/// What policies may know of the user with this account.
pub(super) fn facts(account: &Account) -> UserFacts<'_> {
    UserFacts {
        organization: account.path.own(),
        role: account.role,
        status: &account.status,
        email: Some(&account.email),
    }
}

/// A token that is none, or whose user, session or key is no longer there.
fn revoked() -> Problem {
    Problem::unauthorized("invalid_token", "invalid token")
}

/// The token that a request bears: none where it has no Authorization header (RFC 6750, 2.1).
///
/// # Errors
///
/// 401 where the header holds no bearer token, 400 where there are several: a proxy may have checked another one.
pub fn bearer(request: &HttpRequest) -> Result<Option<&str>, Problem> {
    let mut values = request.headers().get_all(header::AUTHORIZATION);
    let Some(value) = values.next() else { return Ok(None) };
    if values.next().is_some() {
        let detail = "The request has several Authorization headers. Send one.";
        return Err(Problem::new(StatusCode::BAD_REQUEST, "duplicate_authorization", detail));
    }
    let text = std::str::from_utf8(value.as_bytes()).map_err(|_| revoked())?;
    Bearer::in_header(text).map(Some).map_err(|_| revoked())
}
