//! Authorization of a caller's request: every decision about the service's own resources is made here.
//!
//! [`super::Lookups`] load what is authorized.

use super::audit::is_administrative;
use super::idempotency::IdempotentRequest;
use super::refusals::Refusal;
use super::{AppState, Caller, Credential, Error, SharedState};
use crate::authz::{
    AuthorizedOrgs, AuthzRequest, DecisionContext, DecisionRecorder, Engine, Permitted, ResourceEntity,
    Unchecked,
};
use crate::decision_log::{BatchRecorder, Purpose};
use crate::resource::Resource;
use crate::store::{AuditActor, Reader, UnitOfWork};
use crate::telemetry;
use crate::types::{EvaluationId, Id, OrgPath, Timestamp};
use arc_swap::Guard;
use std::net::IpAddr;
use std::sync::{Arc, OnceLock};

/// The action of the decision endpoints, which continue for a while when the database is unavailable.
pub const EVALUATE_ACTION: &str = "evaluateAccess";

/// Authorizes one action for the caller of a request.
#[derive(Debug, Clone)]
pub struct Authorizer {
    call: Arc<CallContext>,
    action: &'static str,
    /// Why the action is authorized.
    purpose: Purpose,
    /// Collects the decision records of a request that makes many decisions.
    batch_recorder: Option<Arc<BatchRecorder>>,
    /// The request with its idempotency key, whose answer is stored with what it writes.
    idempotency: Option<Arc<IdempotentRequest>>,
}

/// Where a request comes from.
#[derive(Debug, Clone, Default)]
pub struct RequestSource {
    /// The address of the client; none if the request did not come over a network.
    pub ip: Option<IpAddr>,
    /// The id of the request.
    pub request_id: Option<Arc<str>>,
}

/// What the authorizers of one request share.
#[derive(Debug)]
struct CallContext {
    state: SharedState,
    /// The policies of this request, from its beginning to its end.
    engine: Guard<Arc<Engine>>,
    caller: Arc<Caller>,
    source: RequestSource,
    /// The time of the decisions: that of the first one, which comes after the body was received.
    now: OnceLock<Timestamp>,
}

impl Authorizer {
    /// Creates the authorizer of `action` for an authenticated request.
    pub fn for_request(
        state: SharedState,
        engine: Guard<Arc<Engine>>,
        caller: Arc<Caller>,
        source: RequestSource,
        action: &'static str,
    ) -> Self {
        let call = CallContext { state, engine, caller, source, now: OnceLock::new() };
        Self {
            call: Arc::new(call),
            action,
            purpose: Purpose::Enforcement,
            batch_recorder: None,
            idempotency: None,
        }
    }

    /// Creates the authorizer of `action` for this caller, without a request.
    pub fn new(state: Arc<AppState>, caller: Caller, action: &'static str) -> Self {
        let engine = state.policies.current_guard();
        Self::for_request(SharedState::new(state), engine, Arc::new(caller), RequestSource::default(), action)
    }

    /// Returns the authorizer of another action of the same request.
    pub fn with_action(&self, action: &'static str) -> Self {
        Self { action, ..self.clone() }
    }

    /// Returns the authorizer of an action that is a prerequisite of another one. Unless it is full, the decision log records
    /// its denials only.
    pub fn for_prerequisite(&self, action: &'static str) -> Self {
        Self { purpose: Purpose::Prerequisite, ..self.with_action(action) }
    }

    /// Returns the authorizer with decision records that are written together.
    pub fn with_batched_log(&self) -> Self {
        let recorder = self.state().decision_log.batch_recorder(telemetry::mark_unrecorded);
        Self { batch_recorder: Some(Arc::new(recorder)), ..self.clone() }
    }

    /// Returns the authorizer of a request with an idempotency key.
    pub fn with_idempotency(&self, request: Arc<IdempotentRequest>) -> Self {
        Self { idempotency: Some(request), ..self.clone() }
    }

    /// Authenticates the caller of this request again, with its bearer token and the policies in force now.
    ///
    /// # Errors
    /// `invalid_token` or `token_expired` if the credential has ended; others if the database is unavailable.
    pub async fn authenticate_again(&self, token: &str) -> Result<Self, Error> {
        let state = SharedState::clone(&self.call.state);
        // Not a guard on the handle, of which each thread has few, because the authorizer is kept.
        let engine = Guard::from_inner(state.policies.current());
        let caller = Caller::from_token(&state, &engine, token).await?;
        Ok(Self::for_request(state, engine, caller, self.call.source.clone(), self.action))
    }

    /// Returns whether the caller and the policies are those of another authorizer, so that it decides alike.
    pub fn has_rights_of(&self, other: &Self) -> bool {
        Arc::ptr_eq(&self.call.caller, &other.call.caller)
            && self.engine().instance_id() == other.engine().instance_id()
    }

    /// Returns the name of the action.
    pub fn action(&self) -> &'static str {
        self.action
    }

    /// Returns the caller.
    pub fn caller(&self) -> &Caller {
        &self.call.caller
    }

    /// Returns the policies of this request.
    pub fn engine(&self) -> &Engine {
        &self.call.engine
    }

    /// Returns the state of the application.
    pub fn state(&self) -> &AppState {
        &self.call.state
    }

    /// Returns the state of the application for another task.
    pub fn shared_state(&self) -> Arc<AppState> {
        Arc::clone(&self.call.state)
    }

    /// Returns the address of the client; none if the request did not come over a network.
    pub fn client_address(&self) -> Option<IpAddr> {
        self.call.source.ip
    }

    fn request_id(&self) -> Option<&str> {
        self.call.source.request_id.as_deref()
    }

    /// Returns the time of the decisions of this request.
    fn now(&self) -> Timestamp {
        *self.call.now.get_or_init(|| self.state().clock.now())
    }

    /// Returns the actor of the audit events of this request.
    pub fn audit_actor(&self) -> AuditActor {
        let caller = self.caller();
        AuditActor {
            // The command line has no user.
            user: (caller.credential != Credential::Terminal).then_some(caller.id),
            credential: Some(caller.credential.as_str()),
            credential_id: caller.credential.id(),
            address: self.client_address().map(|ip| ip.to_string()),
            request: self.request_id().map(str::to_owned),
            time: self.state().clock.now(),
        }
    }

    /// Returns the id that a path names; none if it is malformed.
    pub fn resolve_id(&self, text: &str) -> Option<Id> {
        if text == "me" { Some(self.caller().id) } else { text.parse().ok() }
    }

    /// Returns a reader outside of a unit of work.
    pub fn reader(&self) -> Reader<'_> {
        self.state().store.reader()
    }

    /// Begins a unit of work whose audit events have this request's actor.
    ///
    /// # Errors
    /// The database is unavailable; `idempotency_in_progress` if another process executes a request with the same key.
    pub async fn begin(&self) -> Result<UnitOfWork, Error> {
        let work = self.state().store.begin(self.audit_actor()).await?;
        match &self.idempotency {
            Some(request) => request.claim(work, self.state().clock.now()).await,
            None => Ok(work),
        }
    }

    /// Returns a new id.
    pub fn new_id(&self) -> Id {
        Id::new(&self.state().clock)
    }

    /// Returns the recorder of this request's decisions.
    pub fn decision_recorder(&self) -> DecisionRecorder<'_> {
        DecisionRecorder {
            log: &self.state().decision_log,
            batch: self.batch_recorder.as_deref(),
            request: self.request_id(),
            caller: self.caller().log_json(),
            time: self.now(),
            purpose: self.purpose,
            evaluation_id: None,
            is_stale: self.state().store.is_stale(),
        }
    }

    /// Returns the recorder of the answer to a question.
    pub fn question_recorder(&self, evaluation_id: EvaluationId) -> DecisionRecorder<'_> {
        let evaluation_id = Some(evaluation_id);
        DecisionRecorder { purpose: Purpose::Question, evaluation_id, ..self.decision_recorder() }
    }

    /// Returns the request context of the caller's own request, without changed fields, a role or a scope.
    pub fn request_context(&self) -> DecisionContext {
        DecisionContext { ip: self.client_address(), ..self.request_context_for(self.caller().credential) }
    }

    /// Returns the request context of a request with this credential at the time of this request.
    pub fn request_context_for(&self, credential: Credential) -> DecisionContext {
        let provisioning = match credential {
            Credential::ApiKey(key) => Some(self.state().request_config.provisioning_keys.contains(&key)),
            Credential::Session(_) | Credential::Terminal => None,
        };
        DecisionContext { credential: Some(credential.kind()), provisioning, ..self.bare_context() }
    }

    /// Returns the request context of a subject other than the caller: the time only.
    pub fn bare_context(&self) -> DecisionContext {
        DecisionContext { now: Some(self.now()), ..DecisionContext::default() }
    }

    fn authorization_request<'a>(&'a self, context: &'a DecisionContext) -> AuthzRequest<'a> {
        AuthzRequest {
            principal: &self.caller().principal,
            action: self.action,
            context,
            recorder: Some(self.decision_recorder()),
        }
    }

    /// Requires the action to be permitted on an organization.
    ///
    /// # Errors
    /// `forbidden`.
    pub fn require(&self, organization: &OrgPath) -> Result<(), Error> {
        if self.is_permitted_in(organization) { Ok(()) } else { Err(self.forbidden_on(organization)) }
    }

    /// Returns whether the action is permitted on a resource.
    pub fn is_permitted_on(&self, resource: &ResourceEntity) -> bool {
        self.engine().allows(&self.authorization_request(&self.request_context()), resource)
    }

    /// Returns whether the action is permitted on an organization.
    pub fn is_permitted_in(&self, organization: &OrgPath) -> bool {
        self.is_permitted_on(&ResourceEntity::organization(organization))
    }

    /// Returns whether the action could be permitted on some resource of this type in the caller's own organization.
    pub fn could_in_home_org(&self, kind: &str) -> bool {
        self.engine().could_in_home_org(&self.authorization_request(&self.request_context()), kind)
    }

    /// Returns whether the caller may fetch this resource.
    pub fn can_fetch<R: Resource>(&self, resource: &Permitted<R>) -> bool {
        self.for_prerequisite(R::FETCH_ACTION).is_permitted_on(&resource.resource_entity())
    }

    /// Returns the actions that may be permitted on resources of a type, sorted.
    pub fn applicable_actions(&self, type_name: &str) -> Vec<String> {
        self.engine().applicable_actions("User", type_name).into_iter().map(str::to_owned).collect()
    }

    /// Returns those of these actions that the caller may perform on a resource. The decision log does not record these
    /// decisions, like those of a search.
    pub fn permitted_actions<R: Resource>(&self, resource: &Permitted<R>, actions: &[String]) -> Vec<String> {
        let (entity, context) = (resource.resource_entity(), self.request_context());
        let is_permitted = |action: &&String| {
            let principal = &self.caller().principal;
            let request =
                AuthzRequest { principal, action: action.as_str(), context: &context, recorder: None };
            self.engine().allows(&request, &entity)
        };
        actions.iter().filter(is_permitted).cloned().collect()
    }

    /// Authorizes the action on a resource; none is one that does not exist.
    ///
    /// # Errors
    /// A missing resource and an inaccessible one give the same error: `not_found` if the caller could perform the action on
    /// some resource of this type in its own organization, else `forbidden` (see "403 or 404" in docs/decisions.md).
    pub fn authorize<R: Resource>(
        &self,
        resource: Option<Unchecked<R>>,
        context: &DecisionContext,
    ) -> Result<Permitted<R>, Error> {
        self.authorize_with_home_context(resource, context, context)
    }

    /// Authorizes like [`Authorizer::authorize`], and chooses the error by `home_context`. That context must not depend on the
    /// resource: the error would disclose something of an inaccessible one.
    ///
    /// # Errors
    /// As [`Authorizer::authorize`].
    pub fn authorize_with_home_context<R: Resource>(
        &self,
        resource: Option<Unchecked<R>>,
        context: &DecisionContext,
        home_context: &DecisionContext,
    ) -> Result<Permitted<R>, Error> {
        let request = self.authorization_request(context);
        match resource.map(|resource| self.engine().permit(&request, resource)) {
            Some(Ok(permitted)) => Ok(permitted),
            refused
                if self.engine().could_in_home_org(&self.authorization_request(home_context), R::TYPE) =>
            {
                Err(self.not_found_audited(Error::not_found(R::TYPE), refused.is_some()))
            }
            refused => {
                if refused.is_none() {
                    self.record_missing(home_context, R::TYPE);
                }
                let denied = refused.and_then(Result::err);
                Err(self.forbidden_explained(denied.as_ref(), (context, home_context), R::TYPE))
            }
        }
    }

    /// Authorizes a change of the resource `before`, on the resource as it would be.
    ///
    /// # Errors
    /// `forbidden`.
    pub fn authorize_changed<R: Resource>(
        &self,
        before: &Permitted<R>,
        resource: Unchecked<R>,
        context: &DecisionContext,
    ) -> Result<Permitted<R>, Error> {
        let permitted = self.engine().permit(&self.authorization_request(context), resource);
        permitted.map_err(|denied| {
            let is_visible = self.may_fetch(&before.resource_entity());
            let reasons = is_visible.then(|| self.explain_visible(context, &denied)).flatten();
            self.forbidden_audited().with_reasons(reasons)
        })
    }

    /// Authorizes a new resource, on the organization at `owner` and on the resource itself (see "List and create" in
    /// docs/decisions.md).
    ///
    /// # Errors
    /// `forbidden`.
    pub fn authorize_new<R: Resource>(
        &self,
        owner: &OrgPath,
        resource: Unchecked<R>,
    ) -> Result<Permitted<R>, Error> {
        let context = DecisionContext { role: resource.granted_role(), ..self.request_context() };
        let permitted = self.engine().permit_create(&self.authorization_request(&context), owner, resource);
        permitted
            .map_err(|denied| self.forbidden_explained(Some(&denied), (&context, &context), "Organization"))
    }

    /// Authorizes a reference (`referTo`) to the resource that a body or path names and that the action adds to. `field` is
    /// the field that names it.
    ///
    /// # Errors
    /// If it is missing or inaccessible: an invalid `field`, or `not_found` without one; `forbidden` if the caller may not
    /// perform the action in its own organization either.
    pub fn authorize_reference<R: Resource>(
        &self,
        resource: Option<Unchecked<R>>,
        id: Option<Id>,
        field: Option<&str>,
    ) -> Result<Permitted<R>, Error> {
        let authorizer = self.for_prerequisite("referTo");
        let context = authorizer.request_context();
        let request = authorizer.authorization_request(&context);
        if let Some(Ok(permitted)) = resource.map(|resource| self.engine().permit(&request, resource)) {
            return Ok(permitted);
        }
        Err(match (self.is_permitted_in(&self.caller().organization), field, id) {
            (false, ..) => self.forbidden_in_home_org("Organization"),
            (true, Some(field), Some(id)) => Error::missing_reference(field, R::TYPE, id),
            (true, ..) => Error::not_found(R::TYPE),
        })
    }

    /// Authorizes a list on those of the organizations in which it is permitted; none is an organization that does not exist.
    ///
    /// # Errors
    /// If it is permitted in none of them: as [`Authorizer::authorize`].
    pub(super) fn authorize_organizations(
        &self,
        organizations: Option<Vec<OrgPath>>,
    ) -> Result<Permitted<AuthorizedOrgs>, Error> {
        let context = self.request_context();
        let request = self.authorization_request(&context);
        match organizations.map(|organizations| self.engine().permit_organizations(&request, organizations)) {
            Some(Ok(permitted)) => Ok(permitted),
            refused if self.engine().could_in_home_org(&request, "Organization") => {
                Err(self.not_found_audited(Error::not_found("Organization"), refused.is_some()))
            }
            refused => {
                if refused.is_none() {
                    self.record_missing(&context, "Organization");
                }
                Err(self.forbidden_explained(None, (&context, &context), "Organization"))
            }
        }
    }

    /// Records the decision on a missing resource of this type, whose action is denied on every resource of it, as on an existing
    /// one.
    fn record_missing(&self, context: &DecisionContext, kind: &str) {
        self.engine().deny_missing(&self.authorization_request(context), kind, "");
    }

    /// Returns the error of a denied action, which the audit log records if the action is administrative.
    pub(super) fn forbidden_audited(&self) -> Error {
        let error = Error::forbidden(self.action);
        if !is_administrative(self.action) {
            return error;
        }
        error.with_refusal(self.refusal(Some(self.caller().organization.clone()), None))
    }

    /// Returns the error of a caller who must not learn whether the resource exists. The audit log discloses that to the
    /// admins of the root organization only. It has an entry in both cases, because a missing number would disclose it, too.
    pub(super) fn not_found_audited(&self, error: Error, is_found: bool) -> Error {
        if !is_administrative(self.action) {
            return error;
        }
        error.with_refusal(self.refusal(None, Some(is_found)))
    }

    fn refusal(&self, organization: Option<OrgPath>, is_found: Option<bool>) -> Refusal {
        Refusal { audit_actor: self.audit_actor(), action: self.action, organization, is_found }
    }
}
