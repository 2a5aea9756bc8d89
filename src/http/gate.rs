//! Who is calling, and may it? The only way from a request to a decision.

use super::audit::is_administrative;
use super::edge::{Passage, client_address};
use super::limits::count_caller;
use super::{FieldError, Parts, Problem};
use crate::authn::{ApiKey, Bearer, Claims};
use crate::authz::{
    Ask, Circumstances, Denied, Engine, Permitted, Principal, Resourced, Scope, ScopeSet, Trail, Undecided,
    UserFacts, Within,
};
use crate::decision_log;
use crate::resource::{Reference, Resource};
use crate::store::{Account, Cause, Entry, Event, Outcome, Reader, Stamp, Work};
use crate::values::{Fingerprint, Id, OrgPath, Timestamp};
use actix_web::http::header;
use actix_web::{HttpMessage, HttpRequest, web};
use quick_cache::UnitWeighter;
use quick_cache::sync::Cache;
use std::collections::HashSet;
use std::net::IpAddr;
use std::sync::Arc;

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
    /// Whether there is nothing to note of the use of its credential.
    is_noted: bool,
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
    /// Until when its credential is good without another look.
    until: Timestamp,
}

/// For how long a caller is known without another look, in seconds: so long may what another program on the same SQLite
/// file does, or a notice that got lost, go unseen.
const REMEMBERED: u64 = 60;

/// The callers that are known already, each by its credential: good for a minute, until the credential expires, its user
/// is written, the policies change, or the keys that sign.
#[derive(Debug)]
pub struct Callers {
    by_credential: Cache<Fingerprint, Known>,
    /// Users as they are by their roles.
    by_role: Cache<Id, (Stamp, u64, Arc<Principal>)>,
}

impl Default for Callers {
    fn default() -> Self {
        Self {
            by_credential: Cache::with_weighter(1_000, 20_000, UnitWeighter),
            by_role: Cache::with_weighter(1_000, 50_000, UnitWeighter),
        }
    }
}

impl Caller {
    /// The caller that a bearer token names, as its user stands now.
    pub async fn of_bearer(parts: &Parts, engine: &Engine, bearer: &Bearer) -> Result<Arc<Self>, Problem> {
        let fingerprint = bearer.fingerprint();
        let now = parts.clock.now();
        let mut keyring = parts.tokens.current().await?.number();
        if let Some(known) = parts.callers.by_credential.get(&fingerprint) {
            let is_good = parts.store.is_good(known.stamp, known.caller.id);
            let is_same = known.engine == engine.number() && known.keyring == keyring;
            if is_good && is_same && now < known.until {
                return Ok(known.caller);
            }
        }
        let (caller, stamp, until) = match bearer {
            Bearer::Jwt(token) => {
                let verified = parts.tokens.verify(token, now).await?;
                let good = verified.map_err(|error| Problem::token(&error, parts.rules.expired_status))?;
                keyring = good.keyring;
                let Claims { id, scope, sid } = good.claims;
                // The end of its session is a write to its user; and it expires before its session does.
                let stamp = parts.store.user_stamp(id);
                let account = parts.store.account_in_session(id, sid, now).await?.ok_or_else(revoked)?;
                let caller = Self::new(engine, &account, &scope, Credential::Session(sid))?;
                (caller, stamp, good.expires_at.min(now.plus_seconds(REMEMBERED)))
            }
            Bearer::ApiKey(key) => Self::of_api_key(parts, engine, key, now).await?,
        };
        let caller = Arc::new(caller);
        let known = Known { caller: Arc::clone(&caller), stamp, engine: engine.number(), keyring, until };
        parts.callers.by_credential.insert(fingerprint, known);
        Ok(caller)
    }

    async fn of_api_key(
        parts: &Parts,
        engine: &Engine,
        key: &ApiKey,
        now: Timestamp,
    ) -> Result<(Self, Stamp, Timestamp), Problem> {
        let hash = key.hash();
        let found = parts.store.api_key(&hash).await?.ok_or_else(revoked)?;
        // Read once more under the stamp of its user, which a deletion of the key changes.
        let stamp = parts.store.user_stamp(found.user);
        let found = parts.store.api_key(&hash).await?.ok_or_else(revoked)?;
        if found.expires_at.is_some_and(|end| end <= now) {
            return Err(Problem::token(&crate::authn::TokenError::Expired, parts.rules.expired_status));
        }
        let account = parts.store.account(found.user).await?.ok_or_else(revoked)?;
        let caller = Self::new(engine, &account, &found.scopes, Credential::ApiKey(found.id))?;
        // Its use is noted to the minute.
        let again = found.last_used_at.map_or(now, |last| last.plus_seconds(REMEMBERED));
        let until = found.expires_at.map_or(again, |end| end.min(again));
        Ok((Self { is_noted: again > now, ..caller }, stamp, until))
    }

    /// Notes that its API key was used, to the minute. A request that only reads goes on where that cannot be written.
    async fn touch(&self, parts: &Parts) {
        let Credential::ApiKey(key) = self.credential else { return };
        if self.is_noted {
            return;
        }
        if let Err(error) = parts.store.touch_api_key(key, parts.clock.now()).await {
            tracing::warn!(%error, %key, "the use of an API key could not be noted");
        }
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
            is_noted: false,
        })
    }

    /// What Cedar knows of a user, as it would be with a credential that carries its whole role; none where it is blocked
    /// or gone.
    pub async fn by_role(
        parts: &Parts,
        engine: &Engine,
        user: Id,
    ) -> Result<Option<Arc<Principal>>, Problem> {
        let known = parts.callers.by_role.get(&user);
        let is_good = |stamp, by| by == engine.number() && parts.store.is_good(stamp, user);
        if let Some((.., principal)) = known.filter(|(stamp, by, _)| is_good(*stamp, *by)) {
            return Ok(Some(principal));
        }
        let stamp = parts.store.user_stamp(user);
        let account = parts.store.known_account(user).await?;
        let caller = account.and_then(|account| Self::of_account(engine, &account));
        let Some(caller) = caller else { return Ok(None) };
        parts.callers.by_role.insert(user, (stamp, engine.number(), Arc::clone(&caller.principal)));
        Ok(Some(caller.principal))
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
            is_noted: true,
        }
    }
}

/// What policies may know of the user with this account.
fn facts(account: &Account) -> UserFacts<'_> {
    UserFacts {
        organization: account.path.own(),
        role: account.role,
        status: &account.status,
        email: Some(&account.email),
    }
}

/// What is left behind of a caller's decisions.
fn trail(parts: &Parts, caller: &Caller, request: Option<Arc<str>>) -> Trail {
    let credential_id = caller.credential.id();
    let caller =
        decision_log::Caller { user: caller.id, credential: caller.credential.as_str(), credential_id };
    Trail { log: parts.decision_log.clone(), request, caller, is_step: false }
}

/// A token whose user, session or key is no longer there.
fn revoked() -> Problem {
    Problem::unauthorized("invalid_token", "invalid token")
}

/// The bearer of a request: none where it has no Authorization header (RFC 6750, 2.1).
pub fn bearer(request: &HttpRequest) -> Result<Option<Bearer>, Problem> {
    let Some(value) = request.headers().get(header::AUTHORIZATION) else { return Ok(None) };
    let malformed = || Problem::unauthorized("invalid_token", "invalid token");
    Bearer::parse(value.to_str().map_err(|_| malformed())?).map(Some).map_err(|_| malformed())
}

/// A caller at the door of one action.
#[derive(Debug, Clone)]
pub struct Gate {
    parts: Arc<Parts>,
    /// The policies with which the request began, and ends.
    engine: Arc<Engine>,
    /// Who is calling.
    pub caller: Arc<Caller>,
    action: &'static str,
    ip: Option<IpAddr>,
    trail: Trail,
}

impl Gate {
    /// The gate of `action` for whoever makes this request; 401 where nobody does.
    pub async fn of_request(request: &HttpRequest, action: &'static str) -> Result<Self, Problem> {
        if let Some(passage) = request.extensions().get::<Passage>() {
            passage.comes_to(action);
        }
        let parts = parts(request)?;
        let bearer = bearer(request)?.ok_or_else(Problem::no_bearer)?;
        let engine = parts.policies.current();
        let caller = Caller::of_bearer(&parts, &engine, &bearer).await?;
        count_caller(&parts, request, caller.id)?;
        caller.touch(&parts).await;
        let ip = client_address(request);
        let request = request.extensions().get::<Passage>().map(|passage| Arc::from(passage.id()));
        let trail = trail(&parts, &caller, request);
        Ok(Self { parts, engine, caller, action, ip, trail })
    }

    /// The gate of `action` for this caller.
    pub fn new(parts: Arc<Parts>, caller: Caller, action: &'static str) -> Self {
        let engine = parts.policies.current();
        let trail = trail(&parts, &caller, None);
        Self { parts, engine, caller: Arc::new(caller), action, ip: None, trail }
    }

    /// The same caller at the door of another action.
    pub fn at(&self, action: &'static str) -> Self {
        Self { action, ..self.clone() }
    }

    /// 403 unless the action is permitted on this organization.
    pub fn require(&self, organization: &OrgPath) -> Result<(), Problem> {
        if self.allows(organization) { Ok(()) } else { Err(self.refuse(Problem::forbidden(self.action))) }
    }

    /// The parts of the service, to be taken elsewhere.
    pub fn shared_parts(&self) -> Arc<Parts> {
        Arc::clone(&self.parts)
    }

    /// The same caller at a door on the way to another one.
    pub fn step(&self, action: &'static str) -> Self {
        let mut step = self.at(action);
        step.trail.is_step = true;
        step
    }

    /// Who causes what is written in this request.
    pub fn cause(&self) -> Cause {
        let caller = &self.caller;
        Cause {
            // Whoever sits at the terminal is no user.
            actor: (caller.credential != Credential::Terminal).then_some(caller.id),
            credential: Some(caller.credential.as_str()),
            credential_id: caller.credential.id(),
            address: self.ip.map(|ip| ip.to_string()),
            request: self.trail.request.as_deref().map(str::to_owned),
            at: self.parts.clock.now(),
        }
    }

    /// The problem of a caller to whom the policies say no.
    fn refuse(&self, problem: Problem) -> Problem {
        if !is_administrative(self.action) {
            return problem;
        }
        problem.told(self.cause(), self.denial().within(&self.caller.organization))
    }

    fn denied(&self, denied: &Denied) -> Problem {
        self.refuse(Problem::denied(denied))
    }

    /// The problem of a caller who is not to learn whether what it named is there. The audit trail tells the admins of the root
    /// only, and is told in both cases: else the numbers of its entries would tell them apart.
    fn keep_from(&self, problem: Problem, is_found: bool) -> Problem {
        if !is_administrative(self.action) {
            return problem;
        }
        problem.told(self.cause(), self.denial().with("found", is_found))
    }

    fn denial(&self) -> Entry {
        Entry::new(Event::AccessDenied).outcome(Outcome::Denied).with("action", self.action)
    }

    /// What is left behind of this caller's decisions.
    pub fn trail(&self) -> &Trail {
        &self.trail
    }

    /// From where the caller calls; none where it is not by a network.
    pub fn address(&self) -> Option<IpAddr> {
        self.ip
    }

    /// What decides, from the beginning of the request to its end.
    pub fn engine(&self) -> &Engine {
        &self.engine
    }

    /// The parts of the service.
    pub fn parts(&self) -> &Parts {
        &self.parts
    }

    /// What the caller says, with nothing changed and no scope wanted.
    pub fn circumstances(&self) -> Circumstances {
        Circumstances {
            credential: Some(self.caller.credential.as_str().to_owned()),
            ip: self.ip,
            now: Some(self.parts.clock.now()),
            ..Circumstances::default()
        }
    }

    fn ask<'a>(&'a self, circumstances: &'a Circumstances) -> Ask<'a> {
        Ask {
            principal: &self.caller.principal,
            action: self.action,
            circumstances,
            trail: Some(&self.trail),
        }
    }

    /// The thing that a path names, if the caller may do this to it. `me` is the caller's own user.
    pub async fn find<R: Resource>(&self, id: &str) -> Result<Permitted<R>, Problem> {
        self.decide(self.look_up(id).await?, &self.circumstances())
    }

    /// The thing that a path names, to be asked about; none where there is none.
    pub async fn look_up<R: Resource>(&self, id: &str) -> Result<Option<Undecided<R>>, Problem> {
        match self.id(id) {
            Some(id) => Ok(self.parts.store.find::<R>(id).await?),
            None => Ok(None),
        }
    }

    /// The same, kept from other writers until the work ends.
    pub async fn look_up_in<R: Resource>(
        &self,
        work: &Work,
        id: &str,
    ) -> Result<Option<Undecided<R>>, Problem> {
        match self.id(id) {
            Some(id) => Ok(work.find::<R>(id).await?),
            None => Ok(None),
        }
    }

    /// The id that a path names; none where it is malformed.
    pub fn id(&self, text: &str) -> Option<Id> {
        if text == "me" { Some(self.caller.id) } else { text.parse().ok() }
    }

    /// The thing, if the caller may do this to it. A missing one and one out of reach answer alike: 404 if the caller
    /// could do this to some thing of that kind in its own organization, else 403 (decision 16).
    pub fn decide<R: Resource>(
        &self,
        thing: Option<Undecided<R>>,
        circumstances: &Circumstances,
    ) -> Result<Permitted<R>, Problem> {
        self.decide_or(thing, circumstances, circumstances)
    }

    /// The same, where what the caller could do at home is asked in circumstances that do not depend on the thing: they
    /// would tell something of one that is out of reach.
    pub fn decide_or<R: Resource>(
        &self,
        thing: Option<Undecided<R>>,
        circumstances: &Circumstances,
        at_home: &Circumstances,
    ) -> Result<Permitted<R>, Problem> {
        match thing.map(|thing| self.engine.permit(&self.ask(circumstances), thing)) {
            Some(Ok(permitted)) => Ok(permitted),
            refused if self.engine.could(&self.ask(at_home), R::TYPE) => {
                Err(self.keep_from(Problem::not_found(R::TYPE), refused.is_some()))
            }
            Some(Err(_)) | None => Err(self.refuse(Problem::forbidden(self.action))),
        }
    }

    /// The changed thing, if the caller may change it like this, asked of the thing as it would be.
    pub fn decide_changed<R: Resource>(
        &self,
        thing: Undecided<R>,
        circumstances: &Circumstances,
    ) -> Result<Permitted<R>, Problem> {
        self.engine.permit(&self.ask(circumstances), thing).map_err(|denied| self.denied(&denied))
    }

    /// The new thing, if the caller may make it: asked of the organization that is to hold it.
    pub fn decide_new<R: Resource>(&self, thing: Undecided<R>) -> Result<Permitted<R>, Problem> {
        let circumstances = self.circumstances();
        self.engine.permit_within(&self.ask(&circumstances), thing).map_err(|denied| self.denied(&denied))
    }

    /// Where a new thing goes: the organization that it names, else the caller's. One that is out of reach is, for one
    /// who could make the thing at home, a wrong field.
    pub async fn holder(
        &self,
        reader: &Reader<'_>,
        named: Option<Id>,
        field: &str,
    ) -> Result<OrgPath, Problem> {
        let Some(named) = named.filter(|named| *named != self.caller.organization.own()) else {
            return Ok(self.caller.organization.clone());
        };
        match reader.path(named).await? {
            Some(path) if self.allows(&path) => Ok(path),
            found if self.allows(&self.caller.organization) => {
                let problem = Problem::field(field, no_such("Organization", named));
                Err(self.keep_from(problem, found.is_some()))
            }
            _ => Err(self.refuse(Problem::forbidden(self.action))),
        }
    }

    /// The thing that a body or path names and that the action is about to add to, if the caller may name it. One that is
    /// missing or out of reach is a wrong `field`, or where there is no field a 404; for one who could not do this at
    /// home either, a 403.
    pub fn reach<R: Resource>(
        &self,
        thing: Option<Undecided<R>>,
        id: Option<Id>,
        field: Option<&str>,
    ) -> Result<Permitted<R>, Problem> {
        let gate = self.step("referTo");
        let circumstances = gate.circumstances();
        if let Some(Ok(permitted)) = thing.map(|thing| self.engine.permit(&gate.ask(&circumstances), thing)) {
            return Ok(permitted);
        }
        Err(match (self.allows(&self.caller.organization), field, id) {
            (false, ..) => Problem::forbidden(self.action),
            (true, Some(field), Some(id)) => Problem::field(field, no_such(R::TYPE, id)),
            (true, ..) => Problem::not_found(R::TYPE),
        })
    }

    /// Whether the action is permitted in this organization.
    pub fn allows(&self, organization: &OrgPath) -> bool {
        self.engine.allows(&self.ask(&self.circumstances()), &Resourced::organization(organization))
    }

    /// The organizations of which a list shows the things: the one that is named, else the caller's and all below it of
    /// which the list is permitted.
    pub async fn listable(&self, named: Option<&str>) -> Result<Permitted<Within>, Problem> {
        match named {
            Some(named) => {
                let path = self.named(named).await?;
                self.permitted(path.map(|path| vec![path]))
            }
            None => self.listable_below(None).await,
        }
    }

    /// The same, with all that is below the one that is named, too.
    pub async fn listable_below(&self, named: Option<&str>) -> Result<Permitted<Within>, Problem> {
        let top = match named {
            Some(named) => self.named(named).await?,
            None => Some(self.caller.organization.clone()),
        };
        let below = match &top {
            Some(top) => Some(self.parts.store.subtree(top).await?),
            None => None,
        };
        self.permitted(below)
    }

    /// Where the organization stands that a query names; none where there is none.
    async fn named(&self, organization: &str) -> Result<Option<OrgPath>, Problem> {
        match organization.parse() {
            Ok(id) => Ok(self.parts.store.path(id).await?),
            Err(_) => Ok(None),
        }
    }

    /// Those of the organizations of which the action is permitted. Where it is of none, those that are missing and those out
    /// of reach answer alike.
    fn permitted(&self, asked: Option<Vec<OrgPath>>) -> Result<Permitted<Within>, Problem> {
        let circumstances = self.circumstances();
        let ask = self.ask(&circumstances);
        match asked.map(|asked| self.engine.permit_organizations(&ask, asked)) {
            Some(Ok(within)) => Ok(within),
            refused if self.engine.could(&ask, "Organization") => {
                Err(self.keep_from(Problem::not_found("Organization"), refused.is_some()))
            }
            Some(Err(denied)) => Err(self.denied(&denied)),
            None => Err(self.refuse(Problem::forbidden(self.action))),
        }
    }

    /// What Cedar must know of the thing of this type with this id, if the caller may name it (`referTo`).
    pub async fn nameable(
        &self,
        reader: &Reader<'_>,
        kind: &str,
        id: Id,
    ) -> Result<Option<Resourced>, Problem> {
        let gate = self.step("referTo");
        let circumstances = gate.circumstances();
        let thing = self.parts.kinds.load(reader, kind, id).await?;
        Ok(thing.filter(|thing| self.engine.allows(&gate.ask(&circumstances), thing)))
    }

    /// The same, from what was read not long ago where that is still so.
    pub async fn known(&self, kind: &str, id: Id) -> Result<Option<Arc<Resourced>>, Problem> {
        let gate = self.step("referTo");
        let circumstances = gate.circumstances();
        let thing = self.parts.kinds.know(&self.parts.store, kind, id).await?;
        Ok(thing.filter(|thing| self.engine.allows(&gate.ask(&circumstances), thing)))
    }

    /// A page of the things of a type that stand in the caller's organization or below, by id; each with what Cedar must
    /// know of it, if the caller may name it.
    pub async fn candidates(
        &self,
        kind: &str,
        after: Option<Id>,
        limit: u64,
    ) -> Result<Vec<(Id, Option<Resourced>)>, Problem> {
        let gate = self.step("referTo");
        let circumstances = gate.circumstances();
        let reader = self.reader();
        let page = self.parts.kinds.page(&reader, kind, &self.caller.organization, after, limit).await?;
        let nameable = |thing: &Resourced| self.engine.allows(&gate.ask(&circumstances), thing);
        Ok(page.into_iter().map(|(id, thing)| (id, Some(thing).filter(nameable))).collect())
    }

    /// Whether the action is permitted on this thing.
    pub fn permits(&self, thing: &Resourced) -> bool {
        self.engine.allows(&self.ask(&self.circumstances()), thing)
    }

    /// Whether the action could be permitted on some thing of this type at home.
    pub fn could(&self, kind: &str) -> bool {
        self.engine.could(&self.ask(&self.circumstances()), kind)
    }

    /// Whether the action is permitted on the user with this account.
    pub fn may_evaluate(&self, account: &Account) -> bool {
        let thing = Resourced::user(account.id, &account.path, facts(account));
        self.engine.allows(&self.ask(&self.circumstances()), &thing)
    }

    /// Checks that everything that a thing names exists and that the caller may name it.
    pub async fn check_references(
        &self,
        reader: &Reader<'_>,
        references: impl IntoIterator<Item = Reference>,
    ) -> Result<(), Problem> {
        let mut known = HashSet::new();
        let mut errors = Vec::new();
        for Reference { field, kind, id } in references {
            if known.insert((kind, id)) && self.nameable(reader, kind, id).await?.is_none() {
                errors.push(FieldError::new(field, no_such(kind, id)));
            }
        }
        if errors.is_empty() { Ok(()) } else { Err(Problem::fields(errors)) }
    }

    /// Reads what everybody sees.
    pub fn reader(&self) -> Reader<'_> {
        self.parts.store.reader()
    }

    /// Starts a unit of work.
    pub async fn begin(&self) -> Result<Work, Problem> {
        Ok(self.parts.store.begin(self.cause()).await?)
    }

    /// The address of a path of this service, as a client reaches it: with the public address where that is set.
    pub fn location(&self, path: &str) -> String {
        format!("{}{path}", self.parts.rules.public_url.as_deref().unwrap_or_default())
    }

    /// A new id.
    pub fn new_id(&self) -> Id {
        Id::new(&self.parts.clock)
    }
}

/// What a field says that names nothing.
fn no_such(kind: &str, id: Id) -> String {
    format!("there is no {kind} {id} within your reach")
}

/// The parts of the service, from a request.
pub fn parts(request: &HttpRequest) -> Result<Arc<Parts>, Problem> {
    request
        .app_data::<web::Data<Parts>>()
        .map(|parts| Arc::clone(parts))
        .ok_or_else(|| Problem::internal("the service has no parts"))
}
