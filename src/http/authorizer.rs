//! May this caller do that? The only way from a request to a decision.

use super::audit::is_administrative;
use super::caller::{Caller, Credential, bearer_token, user_attributes};
use super::rate_limits::count_caller;
use super::refusals::Refusal;
use super::request_middleware::{RequestInfo, client_address, header_text};
use super::state::SharedState;
use super::{AppState, FieldError, Problem};
use crate::authz::{
    AuthorizedOrgs, AuthzRequest, DecisionContext, DecisionRecorder, Denied, Engine, Permitted,
    ResourceEntity, Unchecked,
};
use crate::decision_log::BatchRecorder;
use crate::resource::{Reference, Resource};
use crate::store::{Account, AuditActor, Reader, StoreError, UnitOfWork};
use crate::telemetry;
use crate::types::{FieldErrorCode, Id, OrgPath, Timestamp};
use actix_web::http::header::HeaderValue;
use actix_web::{HttpMessage, HttpRequest};
use arc_swap::Guard;
use std::collections::HashSet;
use std::net::IpAddr;
use std::sync::{Arc, OnceLock};

/// The action of the endpoints that decide for others, which go on for a while when the database is away.
pub(super) const EVALUATE_ACTION: &str = "evaluateAccess";

/// A caller at the door of one action.
#[derive(Debug, Clone)]
pub struct Authorizer {
    call: Arc<CallContext>,
    action: &'static str,
    /// Whether this door is on the way to another one.
    is_prerequisite: bool,
    /// Where the records of its decisions gather, if it asks for many.
    batch_recorder: Option<Arc<BatchRecorder>>,
}

/// What is the same at every door of one request.
#[derive(Debug)]
struct CallContext {
    state: SharedState,
    /// The policies with which the request began, and ends.
    engine: Guard<Arc<Engine>>,
    caller: Arc<Caller>,
    ip: Option<IpAddr>,
    /// When it is decided: the time at which that is first asked for, which comes after the body.
    now: OnceLock<Timestamp>,
    /// The id of the request; none where there is no request.
    request_id: Option<HeaderValue>,
}

impl Authorizer {
    /// The gate of `action` for whoever makes this request; 401 where nobody does.
    pub async fn from_request(request: &HttpRequest, action: &'static str) -> Result<Self, Problem> {
        if let Some(request_info) = request.extensions().get::<RequestInfo>() {
            request_info.set_action(action);
        }
        let state = AppState::from_request(request)?;
        let token = bearer_token(request)?.ok_or_else(Problem::missing_bearer)?;
        let engine = state.policies.current_guard();
        let caller = Caller::from_token(&state, &engine, token).await?;
        if let Some(request_info) = request.extensions().get::<RequestInfo>() {
            request_info.set_caller(caller.id);
        }
        if action != EVALUATE_ACTION && state.store.is_stale() {
            return Err(StoreError::Unavailable("only decisions are made while it is away".to_owned()).into());
        }
        count_caller(&state, request, caller.id)?;
        caller.record_use(&state, request).await;
        if state.decision_log.is_full() && !Box::pin(state.decision_log.wait_for_room()).await {
            return Err(Problem::decision_log_full());
        }
        let ip = client_address(request);
        let request = request.extensions().get::<RequestInfo>().map(RequestInfo::id_header);
        let call = CallContext { state, engine, caller, ip, now: OnceLock::new(), request_id: request };
        Ok(Self { call: Arc::new(call), action, is_prerequisite: false, batch_recorder: None })
    }

    /// The gate of `action` for this caller.
    pub fn new(state: Arc<AppState>, caller: Caller, action: &'static str) -> Self {
        let (engine, caller, state) =
            (state.policies.current_guard(), Arc::new(caller), SharedState::new(state));
        let call = CallContext { state, engine, caller, ip: None, now: OnceLock::new(), request_id: None };
        Self { call: Arc::new(call), action, is_prerequisite: false, batch_recorder: None }
    }

    /// The same caller at the door of another action.
    pub fn with_action(&self, action: &'static str) -> Self {
        Self { action, ..self.clone() }
    }

    /// 403 unless the action is permitted on this organization.
    pub fn require(&self, organization: &OrgPath) -> Result<(), Problem> {
        if self.is_permitted_in(organization) {
            Ok(())
        } else {
            Err(self.forbidden_audited(Problem::forbidden(self.action)))
        }
    }

    /// The parts of the service, to be taken elsewhere.
    pub fn shared_state(&self) -> Arc<AppState> {
        Arc::clone(&self.call.state)
    }

    /// The same caller at a door on the way to another one.
    pub fn for_prerequisite(&self, action: &'static str) -> Self {
        Self { is_prerequisite: true, ..self.with_action(action) }
    }

    /// The same door for many decisions, which are recorded together.
    pub fn with_batched_log(&self) -> Self {
        Self {
            batch_recorder: Some(Arc::new(
                self.state().decision_log.batch_recorder(telemetry::mark_unrecorded),
            )),
            ..self.clone()
        }
    }

    /// Who causes what is written in this request.
    pub fn audit_actor(&self) -> AuditActor {
        let caller = self.caller();
        AuditActor {
            // Whoever sits at the terminal is no user.
            user: (caller.credential != Credential::Terminal).then_some(caller.id),
            credential: Some(caller.credential.as_str()),
            credential_id: caller.credential.id(),
            address: self.call.ip.map(|ip| ip.to_string()),
            request: self.request_id().map(str::to_owned),
            time: self.state().clock.now(),
        }
    }

    /// The problem of a caller to whom the policies say no.
    fn forbidden_audited(&self, problem: Problem) -> Problem {
        if !is_administrative(self.action) {
            return problem;
        }
        problem.with_refusal(self.build_refusal(Some(self.caller().organization.clone()), None))
    }

    fn denied_problem(&self, denied: &Denied) -> Problem {
        self.forbidden_audited(Problem::denied(denied))
    }

    /// The problem of a caller who is not to learn whether what it named is there. The audit trail tells the admins of the root
    /// only, and is told in both cases: else the numbers of its entries would tell them apart.
    fn not_found_audited(&self, problem: Problem, is_found: bool) -> Problem {
        if !is_administrative(self.action) {
            return problem;
        }
        problem.with_refusal(self.build_refusal(None, Some(is_found)))
    }

    fn build_refusal(&self, organization: Option<OrgPath>, is_found: Option<bool>) -> Refusal {
        Refusal { audit_actor: self.audit_actor(), action: self.action, organization, is_found }
    }

    /// Who is calling.
    pub fn caller(&self) -> &Caller {
        &self.call.caller
    }

    /// What is left behind of this caller's decisions.
    pub fn decision_recorder(&self) -> DecisionRecorder<'_> {
        DecisionRecorder {
            log: &self.state().decision_log,
            batch: self.batch_recorder.as_deref(),
            request: self.request_id(),
            caller: self.caller().log_json(),
            time: self.now(),
            is_prerequisite: self.is_prerequisite,
            is_stale: self.state().store.is_stale(),
        }
    }

    /// The time by which this request is decided.
    fn now(&self) -> Timestamp {
        *self.call.now.get_or_init(|| self.state().clock.now())
    }

    /// The id of the request; none where there is no request.
    fn request_id(&self) -> Option<&str> {
        self.call.request_id.as_ref().and_then(header_text)
    }

    /// From where the caller calls; none where it is not by a network.
    pub fn client_address(&self) -> Option<IpAddr> {
        self.call.ip
    }

    /// What decides, from the beginning of the request to its end.
    pub fn engine(&self) -> &Engine {
        &self.call.engine
    }

    /// The parts of the service.
    pub fn state(&self) -> &AppState {
        &self.call.state
    }

    /// The request context of the caller's own request, without changed fields, a role or a scope.
    pub fn request_context(&self) -> DecisionContext {
        DecisionContext { ip: self.call.ip, ..self.request_context_for(self.caller().credential) }
    }

    /// The request context of a request that is made with this credential at the time of this request.
    pub fn request_context_for(&self, credential: Credential) -> DecisionContext {
        let provisioning = match credential {
            Credential::ApiKey(key) => Some(self.state().request_config.provisioning_keys.contains(&key)),
            Credential::Session(_) | Credential::Terminal => None,
        };
        DecisionContext { credential: Some(credential.as_str()), provisioning, ..self.bare_context() }
    }

    /// What is known of a call that another than the caller would make at this moment.
    pub fn bare_context(&self) -> DecisionContext {
        DecisionContext { now: Some(self.now()), ..DecisionContext::default() }
    }

    fn authorization_request<'a>(&'a self, circumstances: &'a DecisionContext) -> AuthzRequest<'a> {
        AuthzRequest {
            principal: &self.caller().principal,
            action: self.action,
            context: circumstances,
            recorder: Some(self.decision_recorder()),
        }
    }

    /// The thing that a path names, if the caller may do this to it. `me` is the caller's own user.
    pub async fn find_authorized<R: Resource>(&self, id: &str) -> Result<Permitted<R>, Problem> {
        self.authorize(self.find_unchecked(id).await?, &self.request_context())
    }

    /// The thing that a path names, to be asked about; none where there is none.
    pub async fn find_unchecked<R: Resource>(&self, id: &str) -> Result<Option<Unchecked<R>>, Problem> {
        match self.resolve_id(id) {
            Some(id) => Ok(self.state().store.find::<R>(id).await?),
            None => Ok(None),
        }
    }

    /// The same, kept from other writers until the work ends.
    pub async fn find_unchecked_in<R: Resource>(
        &self,
        work: &UnitOfWork,
        id: &str,
    ) -> Result<Option<Unchecked<R>>, Problem> {
        match self.resolve_id(id) {
            Some(id) => Ok(work.find::<R>(id).await?),
            None => Ok(None),
        }
    }

    /// The id that a path names; none where it is malformed.
    pub fn resolve_id(&self, text: &str) -> Option<Id> {
        if text == "me" { Some(self.caller().id) } else { text.parse().ok() }
    }

    /// The thing, if the caller may do this to it. A missing one and one out of reach answer alike: 404 if the caller
    /// could do this to some thing of that kind in its own organization, else 403 (decision 16).
    pub fn authorize<R: Resource>(
        &self,
        resource: Option<Unchecked<R>>,
        request_context: &DecisionContext,
    ) -> Result<Permitted<R>, Problem> {
        self.authorize_with_home_context(resource, request_context, request_context)
    }

    /// The same, where what the caller could do at home is asked in circumstances that do not depend on the thing: they
    /// would tell something of one that is out of reach.
    pub fn authorize_with_home_context<R: Resource>(
        &self,
        resource: Option<Unchecked<R>>,
        request_context: &DecisionContext,
        home_context: &DecisionContext,
    ) -> Result<Permitted<R>, Problem> {
        match resource
            .map(|resource| self.engine().permit(&self.authorization_request(request_context), resource))
        {
            Some(Ok(permitted)) => Ok(permitted),
            refused
                if self.engine().could_in_home_org(&self.authorization_request(home_context), R::TYPE) =>
            {
                Err(self.not_found_audited(Problem::not_found(R::TYPE), refused.is_some()))
            }
            Some(Err(_)) | None => Err(self.forbidden_audited(Problem::forbidden(self.action))),
        }
    }

    /// The changed thing, if the caller may change it like this, asked of the thing as it would be.
    pub fn authorize_changed<R: Resource>(
        &self,
        resource: Unchecked<R>,
        request_context: &DecisionContext,
    ) -> Result<Permitted<R>, Problem> {
        self.engine()
            .permit(&self.authorization_request(request_context), resource)
            .map_err(|denied| self.denied_problem(&denied))
    }

    /// The new resource, if the caller may create it: authorized on the organization that is to hold it, at `holder`, and
    /// on the resource itself (decision 14).
    pub fn authorize_new<R: Resource>(
        &self,
        holder: &OrgPath,
        resource: Unchecked<R>,
    ) -> Result<Permitted<R>, Problem> {
        let request_context = DecisionContext { role: resource.granted_role(), ..self.request_context() };
        self.engine()
            .permit_create(&self.authorization_request(&request_context), holder, resource)
            .map_err(|denied| self.denied_problem(&denied))
    }

    /// Whether the caller may fetch this resource.
    pub fn can_fetch<R: Resource>(&self, resource: &Permitted<R>) -> bool {
        self.for_prerequisite(R::FETCH_ACTION).is_permitted_on(&resource.resource_entity())
    }

    /// Where a new thing goes: the organization that it names, else the caller's. One that is out of reach is, for one
    /// who could make the thing at home, a wrong field.
    pub async fn resolve_owner_org(
        &self,
        reader: &Reader<'_>,
        organization_id: Option<Id>,
        field: &str,
    ) -> Result<OrgPath, Problem> {
        let Some(organization_id) =
            organization_id.filter(|organization_id| *organization_id != self.caller().organization.org_id())
        else {
            return Ok(self.caller().organization.clone());
        };
        match reader.path(organization_id).await? {
            Some(path) if self.is_permitted_in(&path) => Ok(path),
            found if self.is_permitted_in(&self.caller().organization) => {
                let problem = Problem::invalid_field(
                    field,
                    FieldErrorCode::NotFound,
                    missing_reference_message("Organization", organization_id),
                );
                Err(self.not_found_audited(problem, found.is_some()))
            }
            _ => Err(self.forbidden_audited(Problem::forbidden(self.action))),
        }
    }

    /// The thing that a body or path names and that the action is about to add to, if the caller may name it. One that is
    /// missing or out of reach is a wrong `field`, or where there is no field a 404; for one who could not do this at
    /// home either, a 403.
    pub fn authorize_reference<R: Resource>(
        &self,
        resource: Option<Unchecked<R>>,
        id: Option<Id>,
        field: Option<&str>,
    ) -> Result<Permitted<R>, Problem> {
        let authorizer = self.for_prerequisite("referTo");
        let request_context = authorizer.request_context();
        if let Some(Ok(permitted)) = resource.map(|resource| {
            self.engine().permit(&authorizer.authorization_request(&request_context), resource)
        }) {
            return Ok(permitted);
        }
        Err(match (self.is_permitted_in(&self.caller().organization), field, id) {
            (false, ..) => Problem::forbidden(self.action),
            (true, Some(field), Some(id)) => Problem::invalid_field(
                field,
                FieldErrorCode::NotFound,
                missing_reference_message(R::TYPE, id),
            ),
            (true, ..) => Problem::not_found(R::TYPE),
        })
    }

    /// Whether the action is permitted in this organization.
    pub fn is_permitted_in(&self, organization: &OrgPath) -> bool {
        self.engine().allows(
            &self.authorization_request(&self.request_context()),
            &ResourceEntity::organization(organization),
        )
    }

    /// The organizations of which a list shows the things: the one that is named, else the caller's and all below it of
    /// which the list is permitted.
    pub async fn authorized_orgs(
        &self,
        requested: Option<&str>,
    ) -> Result<Permitted<AuthorizedOrgs>, Problem> {
        match requested {
            Some(requested) => {
                let path = self.resolve_organization(requested).await?;
                self.filter_permitted_orgs(path.map(|path| vec![path]))
            }
            None => self.authorized_subtree(None).await,
        }
    }

    /// The same, with all that is below the one that is named, too.
    pub async fn authorized_subtree(
        &self,
        requested: Option<&str>,
    ) -> Result<Permitted<AuthorizedOrgs>, Problem> {
        let top = match requested {
            Some(requested) => self.resolve_organization(requested).await?,
            None => Some(self.caller().organization.clone()),
        };
        let subtree_paths = match &top {
            Some(top) => Some(self.state().store.subtree(top).await?),
            None => None,
        };
        self.filter_permitted_orgs(subtree_paths)
    }

    /// Where the organization stands that a query names; none where there is none.
    async fn resolve_organization(&self, organization: &str) -> Result<Option<OrgPath>, Problem> {
        match organization.parse() {
            Ok(id) => Ok(self.state().store.path(id).await?),
            Err(_) => Ok(None),
        }
    }

    /// Those of the organizations of which the action is permitted. Where it is of none, those that are missing and those out
    /// of reach answer alike.
    fn filter_permitted_orgs(
        &self,
        organizations: Option<Vec<OrgPath>>,
    ) -> Result<Permitted<AuthorizedOrgs>, Problem> {
        let request_context = self.request_context();
        let ask = self.authorization_request(&request_context);
        match organizations.map(|organizations| self.engine().permit_organizations(&ask, organizations)) {
            Some(Ok(within)) => Ok(within),
            refused if self.engine().could_in_home_org(&ask, "Organization") => {
                Err(self.not_found_audited(Problem::not_found("Organization"), refused.is_some()))
            }
            Some(Err(denied)) => Err(self.denied_problem(&denied)),
            None => Err(self.forbidden_audited(Problem::forbidden(self.action))),
        }
    }

    /// What Cedar must know of the thing of this type with this id, if the caller may name it (`referTo`).
    pub async fn load_referenceable(
        &self,
        reader: &Reader<'_>,
        kind: &str,
        id: Id,
    ) -> Result<Option<Arc<ResourceEntity>>, Problem> {
        let authorizer = self.for_prerequisite("referTo");
        let request_context = authorizer.request_context();
        let resource = self.state().resource_types.load(reader, kind, id).await?;
        Ok(resource.filter(|resource| {
            self.engine().allows(&authorizer.authorization_request(&request_context), resource)
        }))
    }

    /// The same, from what was read not long ago where that is still so.
    pub async fn load_referenceable_cached(
        &self,
        kind: &str,
        id: Id,
    ) -> Result<Option<Arc<ResourceEntity>>, Problem> {
        let authorizer = self.for_prerequisite("referTo");
        let request_context = authorizer.request_context();
        let resource = self.state().resource_types.load_cached(&self.state().store, kind, id).await?;
        Ok(resource.filter(|resource| {
            self.engine().allows(&authorizer.authorization_request(&request_context), resource)
        }))
    }

    /// A page of the things of a type that stand in the caller's organization or below, by id; each with what Cedar must
    /// know of it, if the caller may name it.
    pub async fn page_referenceable(
        &self,
        kind: &str,
        after: Option<Id>,
        limit: u64,
    ) -> Result<Vec<(Id, Option<Arc<ResourceEntity>>)>, Problem> {
        let authorizer = self.for_prerequisite("referTo");
        let request_context = authorizer.request_context();
        let reader = self.reader();
        let page = self
            .state()
            .resource_types
            .page(&reader, kind, &self.caller().organization, after, limit)
            .await?;
        let is_referenceable = |resource: &Arc<ResourceEntity>| {
            self.engine().allows(&authorizer.authorization_request(&request_context), resource)
        };
        Ok(page.into_iter().map(|(id, resource)| (id, Some(resource).filter(is_referenceable))).collect())
    }

    /// Whether the action is permitted on this thing.
    pub fn is_permitted_on(&self, resource: &ResourceEntity) -> bool {
        self.engine().allows(&self.authorization_request(&self.request_context()), resource)
    }

    /// Whether the action could be permitted on some thing of this type at home.
    pub fn could_in_home_org(&self, kind: &str) -> bool {
        self.engine().could_in_home_org(&self.authorization_request(&self.request_context()), kind)
    }

    /// Whether the action is permitted on the user with this account.
    pub fn can_evaluate(&self, account: &Account) -> bool {
        let resource = ResourceEntity::user(account.id, &account.path, user_attributes(account));
        self.engine().allows(&self.authorization_request(&self.request_context()), &resource)
    }

    /// Checks that everything that a thing names exists and that the caller may name it.
    pub async fn check_references(
        &self,
        reader: &Reader<'_>,
        references: impl IntoIterator<Item = Reference>,
    ) -> Result<(), Problem> {
        let mut seen = HashSet::new();
        let mut errors = Vec::new();
        for Reference { field, kind, id } in references {
            if seen.insert((kind, id)) && self.load_referenceable(reader, kind, id).await?.is_none() {
                errors.push(FieldError::new(
                    field,
                    FieldErrorCode::NotFound,
                    missing_reference_message(kind, id),
                ));
            }
        }
        if errors.is_empty() { Ok(()) } else { Err(Problem::invalid_fields(errors)) }
    }

    /// Reads what everybody sees.
    pub fn reader(&self) -> Reader<'_> {
        self.state().store.reader()
    }

    /// Starts a unit of work.
    pub async fn begin(&self) -> Result<UnitOfWork, Problem> {
        Ok(self.state().store.begin(self.audit_actor()).await?)
    }

    /// A new id.
    pub fn new_id(&self) -> Id {
        Id::new(&self.state().clock)
    }
}

/// What a field says that names nothing.
fn missing_reference_message(kind: &str, id: Id) -> String {
    format!("{kind} {id} does not exist or is not accessible")
}
