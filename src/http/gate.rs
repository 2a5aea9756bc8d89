//! May this caller do that? The only way from a request to a decision.

use super::audit::is_administrative;
use super::caller::{Caller, Credential, bearer, facts};
use super::edge::{Passage, client_address, text};
use super::limits::count_caller;
use super::parts::Held;
use super::refusals::Refusal;
use super::{FieldError, Parts, Problem};
use crate::authz::{Ask, Circumstances, Denied, Engine, Permitted, Resourced, Trail, Undecided, Within};
use crate::decision_log::Gathered;
use crate::resource::{Reference, Resource};
use crate::store::{Account, Cause, Reader, StoreError, Work};
use crate::trace;
use crate::values::{Id, OrgPath, Timestamp};
use actix_web::http::header::HeaderValue;
use actix_web::{HttpMessage, HttpRequest};
use arc_swap::Guard;
use std::collections::HashSet;
use std::net::IpAddr;
use std::sync::{Arc, OnceLock};

/// The action of the endpoints that decide for others, which go on for a while when the database is away.
pub(super) const DECIDE: &str = "evaluateAccess";

/// A caller at the door of one action.
#[derive(Debug, Clone)]
pub struct Gate {
    call: Arc<Call>,
    action: &'static str,
    /// Whether this door is on the way to another one.
    is_step: bool,
    /// Where the records of its decisions gather, if it asks for many.
    gathered: Option<Arc<Gathered>>,
}

/// What is the same at every door of one request.
#[derive(Debug)]
struct Call {
    parts: Held,
    /// The policies with which the request began, and ends.
    engine: Guard<Arc<Engine>>,
    caller: Arc<Caller>,
    ip: Option<IpAddr>,
    /// When it is decided: the time at which that is first asked for, which comes after the body.
    now: OnceLock<Timestamp>,
    /// The id of the request; none where there is no request.
    request: Option<HeaderValue>,
}

impl Gate {
    /// The gate of `action` for whoever makes this request; 401 where nobody does.
    pub async fn of_request(request: &HttpRequest, action: &'static str) -> Result<Self, Problem> {
        if let Some(passage) = request.extensions().get::<Passage>() {
            passage.comes_to(action);
        }
        let parts = Parts::of(request)?;
        let token = bearer(request)?.ok_or_else(Problem::no_bearer)?;
        let engine = parts.policies.in_force();
        let caller = Caller::of_token(&parts, &engine, token).await?;
        if let Some(passage) = request.extensions().get::<Passage>() {
            passage.authenticated(caller.id);
        }
        if action != DECIDE && parts.store.is_stale() {
            return Err(StoreError::Unavailable("only decisions are made while it is away".to_owned()).into());
        }
        count_caller(&parts, request, caller.id)?;
        caller.touch(&parts, request).await;
        if parts.decision_log.is_full() && !Box::pin(parts.decision_log.wait_for_room()).await {
            return Err(Problem::decision_log_full());
        }
        let ip = client_address(request);
        let request = request.extensions().get::<Passage>().map(Passage::header);
        let call = Call { parts, engine, caller, ip, now: OnceLock::new(), request };
        Ok(Self { call: Arc::new(call), action, is_step: false, gathered: None })
    }

    /// The gate of `action` for this caller.
    pub fn new(parts: Arc<Parts>, caller: Caller, action: &'static str) -> Self {
        let (engine, caller, parts) = (parts.policies.in_force(), Arc::new(caller), Held::new(parts));
        let call = Call { parts, engine, caller, ip: None, now: OnceLock::new(), request: None };
        Self { call: Arc::new(call), action, is_step: false, gathered: None }
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
        Arc::clone(&self.call.parts)
    }

    /// The same caller at a door on the way to another one.
    pub fn step(&self, action: &'static str) -> Self {
        Self { is_step: true, ..self.at(action) }
    }

    /// The same door for many decisions, which are recorded together.
    pub fn for_many(&self) -> Self {
        Self {
            gathered: Some(Arc::new(self.parts().decision_log.gather(trace::mark_unrecorded))),
            ..self.clone()
        }
    }

    /// Who causes what is written in this request.
    pub fn cause(&self) -> Cause {
        let caller = self.caller();
        Cause {
            // Whoever sits at the terminal is no user.
            actor: (caller.credential != Credential::Terminal).then_some(caller.id),
            credential: Some(caller.credential.as_str()),
            credential_id: caller.credential.id(),
            address: self.call.ip.map(|ip| ip.to_string()),
            request: self.request().map(str::to_owned),
            at: self.parts().clock.now(),
        }
    }

    /// The problem of a caller to whom the policies say no.
    fn refuse(&self, problem: Problem) -> Problem {
        if !is_administrative(self.action) {
            return problem;
        }
        problem.refused_by_policy(self.refusal(Some(self.caller().organization.clone()), None))
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
        problem.refused_by_policy(self.refusal(None, Some(is_found)))
    }

    fn refusal(&self, organization: Option<OrgPath>, is_found: Option<bool>) -> Refusal {
        Refusal { cause: self.cause(), action: self.action, organization, is_found }
    }

    /// Who is calling.
    pub fn caller(&self) -> &Caller {
        &self.call.caller
    }

    /// What is left behind of this caller's decisions.
    pub fn trail(&self) -> Trail<'_> {
        Trail {
            log: &self.parts().decision_log,
            gathered: self.gathered.as_deref(),
            request: self.request(),
            caller: self.caller().shown(),
            time: self.now(),
            is_step: self.is_step,
            is_stale: self.parts().store.is_stale(),
        }
    }

    /// The time by which this request is decided.
    fn now(&self) -> Timestamp {
        *self.call.now.get_or_init(|| self.parts().clock.now())
    }

    /// The id of the request; none where there is no request.
    fn request(&self) -> Option<&str> {
        self.call.request.as_ref().and_then(text)
    }

    /// From where the caller calls; none where it is not by a network.
    pub fn address(&self) -> Option<IpAddr> {
        self.call.ip
    }

    /// What decides, from the beginning of the request to its end.
    pub fn engine(&self) -> &Engine {
        &self.call.engine
    }

    /// The parts of the service.
    pub fn parts(&self) -> &Parts {
        &self.call.parts
    }

    /// The request context of the caller's own request, without changed fields, a role or a scope.
    pub fn circumstances(&self) -> Circumstances {
        Circumstances { ip: self.call.ip, ..self.circumstances_of(self.caller().credential) }
    }

    /// The request context of a request that is made with this credential at the time of this request.
    pub fn circumstances_of(&self, credential: Credential) -> Circumstances {
        let provisioning = match credential {
            Credential::ApiKey(key) => Some(self.parts().rules.provisioning_keys.contains(&key)),
            Credential::Session(_) | Credential::Terminal => None,
        };
        Circumstances { credential: Some(credential.as_str()), provisioning, ..self.moment() }
    }

    /// What is known of a call that another than the caller would make at this moment.
    pub fn moment(&self) -> Circumstances {
        Circumstances { now: Some(self.now()), ..Circumstances::default() }
    }

    fn ask<'a>(&'a self, circumstances: &'a Circumstances) -> Ask<'a> {
        Ask {
            principal: &self.caller().principal,
            action: self.action,
            circumstances,
            trail: Some(self.trail()),
        }
    }

    /// The thing that a path names, if the caller may do this to it. `me` is the caller's own user.
    pub async fn find<R: Resource>(&self, id: &str) -> Result<Permitted<R>, Problem> {
        self.decide(self.look_up(id).await?, &self.circumstances())
    }

    /// The thing that a path names, to be asked about; none where there is none.
    pub async fn look_up<R: Resource>(&self, id: &str) -> Result<Option<Undecided<R>>, Problem> {
        match self.id(id) {
            Some(id) => Ok(self.parts().store.find::<R>(id).await?),
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
        if text == "me" { Some(self.caller().id) } else { text.parse().ok() }
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
        match thing.map(|thing| self.engine().permit(&self.ask(circumstances), thing)) {
            Some(Ok(permitted)) => Ok(permitted),
            refused if self.engine().could(&self.ask(at_home), R::TYPE) => {
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
        self.engine().permit(&self.ask(circumstances), thing).map_err(|denied| self.denied(&denied))
    }

    /// The new resource, if the caller may create it: authorized on the organization that is to hold it, at `holder`, and
    /// on the resource itself (decision 14).
    pub fn decide_new<R: Resource>(
        &self,
        holder: &OrgPath,
        thing: Undecided<R>,
    ) -> Result<Permitted<R>, Problem> {
        let circumstances = Circumstances { role: thing.granted_role(), ..self.circumstances() };
        self.engine()
            .permit_new(&self.ask(&circumstances), holder, thing)
            .map_err(|denied| self.denied(&denied))
    }

    /// Whether the caller may fetch this resource.
    pub fn may_fetch<R: Resource>(&self, thing: &Permitted<R>) -> bool {
        self.step(R::FETCH).permits(&thing.resourced())
    }

    /// Where a new thing goes: the organization that it names, else the caller's. One that is out of reach is, for one
    /// who could make the thing at home, a wrong field.
    pub async fn holder(
        &self,
        reader: &Reader<'_>,
        named: Option<Id>,
        field: &str,
    ) -> Result<OrgPath, Problem> {
        let Some(named) = named.filter(|named| *named != self.caller().organization.own()) else {
            return Ok(self.caller().organization.clone());
        };
        match reader.path(named).await? {
            Some(path) if self.allows(&path) => Ok(path),
            found if self.allows(&self.caller().organization) => {
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
        if let Some(Ok(permitted)) = thing.map(|thing| self.engine().permit(&gate.ask(&circumstances), thing))
        {
            return Ok(permitted);
        }
        Err(match (self.allows(&self.caller().organization), field, id) {
            (false, ..) => Problem::forbidden(self.action),
            (true, Some(field), Some(id)) => Problem::field(field, no_such(R::TYPE, id)),
            (true, ..) => Problem::not_found(R::TYPE),
        })
    }

    /// Whether the action is permitted in this organization.
    pub fn allows(&self, organization: &OrgPath) -> bool {
        self.engine().allows(&self.ask(&self.circumstances()), &Resourced::organization(organization))
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
            None => Some(self.caller().organization.clone()),
        };
        let below = match &top {
            Some(top) => Some(self.parts().store.subtree(top).await?),
            None => None,
        };
        self.permitted(below)
    }

    /// Where the organization stands that a query names; none where there is none.
    async fn named(&self, organization: &str) -> Result<Option<OrgPath>, Problem> {
        match organization.parse() {
            Ok(id) => Ok(self.parts().store.path(id).await?),
            Err(_) => Ok(None),
        }
    }

    /// Those of the organizations of which the action is permitted. Where it is of none, those that are missing and those out
    /// of reach answer alike.
    fn permitted(&self, asked: Option<Vec<OrgPath>>) -> Result<Permitted<Within>, Problem> {
        let circumstances = self.circumstances();
        let ask = self.ask(&circumstances);
        match asked.map(|asked| self.engine().permit_organizations(&ask, asked)) {
            Some(Ok(within)) => Ok(within),
            refused if self.engine().could(&ask, "Organization") => {
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
    ) -> Result<Option<Arc<Resourced>>, Problem> {
        let gate = self.step("referTo");
        let circumstances = gate.circumstances();
        let thing = self.parts().kinds.load(reader, kind, id).await?;
        Ok(thing.filter(|thing| self.engine().allows(&gate.ask(&circumstances), thing)))
    }

    /// The same, from what was read not long ago where that is still so.
    pub async fn known(&self, kind: &str, id: Id) -> Result<Option<Arc<Resourced>>, Problem> {
        let gate = self.step("referTo");
        let circumstances = gate.circumstances();
        let thing = self.parts().kinds.know(&self.parts().store, kind, id).await?;
        Ok(thing.filter(|thing| self.engine().allows(&gate.ask(&circumstances), thing)))
    }

    /// A page of the things of a type that stand in the caller's organization or below, by id; each with what Cedar must
    /// know of it, if the caller may name it.
    pub async fn candidates(
        &self,
        kind: &str,
        after: Option<Id>,
        limit: u64,
    ) -> Result<Vec<(Id, Option<Arc<Resourced>>)>, Problem> {
        let gate = self.step("referTo");
        let circumstances = gate.circumstances();
        let reader = self.reader();
        let page = self.parts().kinds.page(&reader, kind, &self.caller().organization, after, limit).await?;
        let nameable = |thing: &Arc<Resourced>| self.engine().allows(&gate.ask(&circumstances), thing);
        Ok(page.into_iter().map(|(id, thing)| (id, Some(thing).filter(nameable))).collect())
    }

    /// Whether the action is permitted on this thing.
    pub fn permits(&self, thing: &Resourced) -> bool {
        self.engine().allows(&self.ask(&self.circumstances()), thing)
    }

    /// Whether the action could be permitted on some thing of this type at home.
    pub fn could(&self, kind: &str) -> bool {
        self.engine().could(&self.ask(&self.circumstances()), kind)
    }

    /// Whether the action is permitted on the user with this account.
    pub fn may_evaluate(&self, account: &Account) -> bool {
        let thing = Resourced::user(account.id, &account.path, facts(account));
        self.engine().allows(&self.ask(&self.circumstances()), &thing)
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
        self.parts().store.reader()
    }

    /// Starts a unit of work.
    pub async fn begin(&self) -> Result<Work, Problem> {
        Ok(self.parts().store.begin(self.cause()).await?)
    }

    /// A new id.
    pub fn new_id(&self) -> Id {
        Id::new(&self.parts().clock)
    }
}

/// What a field says that names nothing.
fn no_such(kind: &str, id: Id) -> String {
    format!("there is no {kind} {id} within your reach")
}
