//! Decides. Policies are sliced per action when they are loaded: only those that can speak of an action, and of the types
//! that it applies to, are asked about it, which changes no decision, since a policy whose scope does not match neither
//! decides nor errors. What has been decided is remembered under everything that the decision reads.

use super::action_policies::{ActionPolicies, PolicyIndex};
use super::bundle::{Bundle, action_name};
use super::compiled_policy;
use super::counters::{DecisionCounters, DecisionCounts};
use super::decision::{self, AuthzDecision};
use super::decision_context::DecisionContext;
use super::entities::{AuthzResource, EntityData, Principal, ResourceEntity, SCOPE, add_entities, core, uid};
use super::external_entities::ExternalEntities;
use super::invalid_attribute::EvaluationError;
use super::permitted::{AuthorizedOrgs, Denied, Permitted, Unchecked};
use super::recorder::{DecisionDetails, DecisionRecorder};
use super::{BundleDiagnostic, BundleError, Scope, ScopeSet};
use crate::decision_log;
use crate::telemetry::{self, SpanData};
use crate::types::{Fingerprint, OrgPath, ThreadCache, to_raw_json};
use cedar_policy::{Entities, EntityId, EntityUid, Request};
use cedar_policy_core::ast::{self, Entity};
use cedar_policy_core::evaluator::Evaluator;
use cedar_policy_core::extensions::Extensions;
use quick_cache::UnitWeighter;
use quick_cache::sync::Cache;
use serde_json::value::RawValue;
use std::borrow::Cow;
use std::cell::RefCell;
use std::collections::{BTreeSet, HashMap, HashSet};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

/// How many decisions are remembered.
const DECISION_CACHE_CAPACITY: u64 = 100_000;

/// How many decisions a thread has near.
const THREAD_CACHE_CAPACITY: usize = 65_536;

thread_local! {
    /// The decisions of late, each by its fingerprint and the number of its engine. The answers are this thread's own copies.
    static THREAD_CACHE: RefCell<ThreadCache<Arc<AuthzDecision>>> = const { RefCell::new(ThreadCache::EMPTY) };
}

/// A question without its resource: may this one do that, so?
#[derive(Debug, Clone, Copy)]
pub struct AuthzRequest<'a> {
    /// Who.
    pub principal: &'a Principal,
    /// What: the name of an action.
    pub action: &'a str,
    /// What else policies may read.
    pub context: &'a DecisionContext,
    /// Where the decision is recorded, if it is.
    pub recorder: Option<DecisionRecorder<'a>>,
}

/// Decides by the policies of one bundle.
#[derive(Debug)]
pub struct Engine {
    bundle: Bundle,
    action_policies: HashMap<String, ActionPolicies>,
    external_entities: ExternalEntities,
    scope_cascade: HashMap<Scope, Vec<Scope>>,
    decision_cache: Cache<Fingerprint, Arc<AuthzDecision>>,
    instance_id: u64,
    counters: DecisionCounters,
    /// The version of the bundle in words.
    version_json: Box<RawValue>,
}

impl Engine {
    /// An engine for these policies.
    pub fn new(bundle: Bundle) -> Result<Self, BundleError> {
        let failed = |error: &dyn std::fmt::Display| {
            BundleError(vec![BundleDiagnostic {
                file: "policies".into(),
                line: None,
                message: error.to_string(),
            }])
        };
        let data = Entities::from_entities(bundle.data.clone(), None).map_err(|error| failed(&error))?;
        let actions = bundle.schema.action_entities().map_err(|error| failed(&error))?;
        let external_entities = ExternalEntities::new(&bundle, &data, &actions);
        let index = PolicyIndex::new(&bundle).map_err(|error| failed(&error))?;
        let mut action_policies = HashMap::new();
        for (index_in_schema, action) in bundle.schema.actions().enumerate() {
            let slice =
                ActionPolicies::new(&bundle, &external_entities, &index, &actions, action, index_in_schema);
            action_policies.insert(action_name(action), slice.map_err(|error| failed(&error))?);
        }
        let scope_cascade =
            Scope::ALL.into_iter().map(|scope| (scope, implied_scopes(&data, scope))).collect();
        // Room for a thousand to begin with.
        let decision_cache = Cache::with_weighter(1_000, DECISION_CACHE_CAPACITY, UnitWeighter);
        static NEXT_ID: AtomicU64 = AtomicU64::new(0);
        let instance_id = NEXT_ID.fetch_add(1, Ordering::Relaxed);
        Ok(Self {
            version_json: to_raw_json(&bundle.version()),
            bundle,
            action_policies,
            external_entities,
            scope_cascade,
            decision_cache,
            instance_id,
            counters: DecisionCounters::default(),
        })
    }

    /// How many decisions it has made.
    pub fn decision_counts(&self) -> DecisionCounts {
        self.counters.sum()
    }

    /// Tells the engines of a process apart.
    pub fn instance_id(&self) -> u64 {
        self.instance_id
    }

    /// What it decides by.
    pub fn bundle(&self) -> &Bundle {
        &self.bundle
    }

    /// The entities of other domains.
    pub fn external_entities(&self) -> &ExternalEntities {
        &self.external_entities
    }

    pub(super) fn action_policies(&self, action: &str) -> Option<&ActionPolicies> {
        self.action_policies.get(action)
    }

    /// Whether any policy that can speak of this action reads anything of the context.
    pub fn reads_context(&self, action: &str) -> bool {
        self.action_policies(action).is_some_and(ActionPolicies::reads_context)
    }

    /// The name under which an action is known that a caller names: a whole uid as it stands; a short name in the
    /// namespace of the resource's type, then in the empty one.
    pub fn resolve_action<'a>(&'a self, name: &'a str, kind: &str) -> &'a str {
        // To look for one letter is quicker than to look for several, and most names are short ones.
        if name.ends_with('"') && name.contains("::\"") {
            // `Action::"read"` of the empty namespace is known by its id.
            return name.strip_prefix("Action::\"").and_then(|rest| rest.strip_suffix('"')).unwrap_or(name);
        }
        let namespace = kind.rfind(':').and_then(|end| kind.get(..end)?.strip_suffix(':'));
        let qualified = namespace.map(|namespace| format!("{namespace}::Action::\"{name}\""));
        qualified
            .and_then(|qualified| self.action_policies.get_key_value(&qualified))
            .map_or(name, |(declared, _)| declared.as_str())
    }

    /// The names of the actions that apply to these types of principal and resource, in order.
    pub fn applicable_actions(&self, principal: &str, resource: &str) -> Vec<&str> {
        let fits = |slice: &ActionPolicies| {
            slice.principals.contains_key(principal) && slice.resources.contains_key(resource)
        };
        let mut names: Vec<&str> = self
            .action_policies
            .iter()
            .filter(|(_, slice)| fits(slice))
            .map(|(name, _)| name.as_str())
            .collect();
        names.sort_unstable();
        names
    }

    /// The scopes that a credential grants to a user with this role, the cascade applied: what the credential reaches
    /// and the role reaches too (decision 4). None where that is nothing.
    pub fn effective_scopes(&self, claimed: &ScopeSet, role: Scope) -> Option<ScopeSet> {
        let implied = |scope: Scope| self.scope_cascade.get(&scope).into_iter().flatten().copied();
        ScopeSet::new(
            claimed.iter().flat_map(implied).filter(|scope| implied(role).any(|capped| capped == *scope)),
        )
    }

    /// What Cedar says of this question. It is recorded where the question has a trail.
    pub fn decide(&self, request: &AuthzRequest<'_>, resource: &ResourceEntity) -> Arc<AuthzDecision> {
        let action_policies = self.action_policies(request.action);
        let is_prerequisite = request.recorder.is_some_and(|recorder| recorder.is_prerequisite);
        let recorder = request.recorder.filter(|recorder| recorder.should_record(false));
        // A step on the way to another decision is not timed, unless it is recorded.
        let start = (!is_prerequisite || recorder.is_some()).then(Instant::now);
        let decision = self.decide_traced(action_policies, request, resource);
        let recorder = recorder.filter(|recorder| recorder.should_record(decision.allowed));
        if !is_prerequisite || recorder.is_some() {
            let latency = start.map_or(Duration::ZERO, |start| start.elapsed());
            if !is_prerequisite {
                self.counters.record_latency(latency);
            }
            if let Some(recorder) = recorder {
                self.record(
                    &recorder,
                    action_policies,
                    request,
                    (resource.uid_json(), resource),
                    &decision,
                    latency,
                );
            }
        }
        decision
    }

    fn record(
        &self,
        recorder: &DecisionRecorder<'_>,
        action_policies: Option<&ActionPolicies>,
        request: &AuthzRequest<'_>,
        (resource_uid, resource): (&RawValue, &ResourceEntity),
        decision: &AuthzDecision,
        latency: Duration,
    ) {
        let unknown;
        let action = match action_policies {
            Some(action_policies) => &action_policies.name,
            None => {
                unknown = to_raw_json(&request.action);
                &unknown
            }
        };
        let context = &*logged_context(action_policies, request);
        let (subject, version) = (request.principal, &*self.version_json);
        recorder.record(&DecisionDetails {
            subject,
            action,
            resource_uid,
            resource,
            context,
            decision,
            version,
            latency,
        });
    }

    /// The version of its policies, as the decision log has it.
    pub fn version_json(&self) -> &RawValue {
        &self.version_json
    }

    fn decide_traced(
        &self,
        action_policies: Option<&ActionPolicies>,
        request: &AuthzRequest<'_>,
        resource: &ResourceEntity,
    ) -> Arc<AuthzDecision> {
        let timer = telemetry::start_timer();
        let (decision, is_cached) = self.cached_or_evaluate(action_policies, request, resource);
        self.counters.record(&decision, is_cached);
        timer.record(|| {
            let span = SpanData::new("authorize")
                .with("cedargate.decision", if decision.allowed { "allow" } else { "deny" })
                .with("cedargate.remembered", is_cached)
                .with("cedargate.policy_version", self.bundle.version().to_owned());
            // An action that the schema does not have is whatever somebody wrote.
            match action_policies {
                Some(_) => span.with("cedargate.action", request.action.to_owned()),
                None => span,
            }
        });
        decision
    }

    /// The answer, and whether it was remembered.
    fn cached_or_evaluate(
        &self,
        action_policies: Option<&ActionPolicies>,
        request: &AuthzRequest<'_>,
        resource: &ResourceEntity,
    ) -> (Arc<AuthzDecision>, bool) {
        let Some(action_policies) = action_policies else {
            let error = format!("there is no action {:?}", request.action);
            return (Arc::new(AuthzDecision::from_error(error)), false);
        };
        let key = action_policies.cache_key(self.instance_id, request.principal, resource, request.context);
        if let Some(decision) = THREAD_CACHE.with_borrow(|cache| cache.get(key).cloned()) {
            return (decision, true);
        }
        if let Some(decision) = self.decision_cache.get(&key) {
            THREAD_CACHE.with_borrow_mut(|cache| {
                cache.insert(THREAD_CACHE_CAPACITY, key, decision::thread_local_copy(&decision));
            });
            return (decision, true);
        }
        let decision = self.evaluate(action_policies, request, resource);
        // What went wrong is told with the names of those that it went wrong with.
        if !decision.errors.is_empty() {
            return (Arc::new(decision), false);
        }
        let decision = action_policies.decisions.intern(decision);
        self.decision_cache.insert(key, Arc::clone(&decision));
        (decision, false)
    }

    fn evaluate(
        &self,
        action_policies: &ActionPolicies,
        request: &AuthzRequest<'_>,
        resource: &ResourceEntity,
    ) -> AuthzDecision {
        match self.with_evaluator(action_policies, request, resource, |evaluator| {
            compiled_policy::evaluate_policies(&action_policies.policies, evaluator)
        }) {
            Ok(decision) => {
                if !decision.errors.is_empty() {
                    // An error may cite values, which the decision log masks.
                    tracing::error!(action = request.action, "a policy could not be evaluated: denied");
                    tracing::debug!(action = request.action, errors = ?decision.errors, "why a policy could not be evaluated");
                }
                decision
            }
            Err(error) => {
                // A client names the action and the types.
                let message = &error.message;
                tracing::debug!(
                    action = request.action,
                    error = message,
                    "a question could not be decided: denied"
                );
                AuthzDecision::from_error(error)
            }
        }
    }

    /// What Cedar says of a thing that is not there, or that whoever asks could not name: never yes. What would be
    /// denied of such a thing at home is denied for the same reasons, so that the answer does not tell whether it is
    /// there (decision 16).
    pub fn deny_missing(&self, request: &AuthzRequest<'_>, kind: &str, id: &str) -> Arc<AuthzDecision> {
        let start = Instant::now();
        let home = request.principal.organization.as_deref();
        let action_policies = self.action_policies(request.action);
        let in_home_org = home.map(|home| ResourceEntity::hypothetical(kind, home));
        let in_home_org =
            in_home_org.map(|resource| (self.decide_traced(action_policies, request, &resource), resource));
        let (decision, decided) =
            in_home_org.filter(|(decision, _)| !decision.allowed).unwrap_or_else(|| {
                let detached = ResourceEntity::detached(kind, id);
                (self.decide_traced(action_policies, request, &detached), detached)
            });
        let decision = if decision.allowed { Arc::default() } else { decision };
        if let Some(recorder) = request.recorder.filter(|recorder| recorder.should_record(false)) {
            let resource_uid = to_raw_json(&decision_log::ResourceUid { kind, id });
            self.record(
                &recorder,
                action_policies,
                request,
                (&resource_uid, &decided),
                &decision,
                start.elapsed(),
            );
        }
        decision
    }

    /// What `to_ask` learns from Cedar's evaluator of a call. An error says why there is nothing to be asked.
    pub(super) fn with_evaluator<T>(
        &self,
        action_policies: &ActionPolicies,
        request: &AuthzRequest<'_>,
        resource: &ResourceEntity,
        evaluate_with: impl FnOnce(&Evaluator<'_>) -> T,
    ) -> Result<T, EvaluationError> {
        let unknown = "the subject is not of a type that the schema knows";
        let principal = request.principal.uid.clone().ok_or(unknown)?;
        let not_applicable = |role: &str, kind: &dyn std::fmt::Display| {
            format!("the action {} does not apply to the {role} type {kind}", request.action)
        };
        if !action_policies.principals.values().any(|kind| kind == principal.type_name()) {
            return Err(not_applicable("subject", principal.type_name()).into());
        }
        let (kind, id) = resource.data().uid_parts();
        let is_new = matches!(resource.data(), EntityData::Local(local) if local.is_new);
        let resource_uid =
            action_policies.resource_type(kind, is_new).ok_or_else(|| not_applicable("resource", &kind))?;
        let resource_uid = EntityUid::from_type_name_and_id(resource_uid.clone(), EntityId::new(id));
        let entity = match resource.data() {
            EntityData::Local(local) => {
                // The caller itself: the thing says how it is, or would be, and the credential says with which scopes.
                let no_ancestors = HashSet::new();
                let extra_ancestors =
                    if resource_uid == principal { &*request.principal.scopes } else { &no_ancestors };
                local.build(&resource_uid, extra_ancestors, action_policies.reads_resource(request.context))
            }
            EntityData::External(external) => external.entity.clone(),
        };
        let context = action_policies.context(&self.bundle.schema, request.context)?;
        let context_entities = match action_policies.reads_context() {
            true => self.context_entities(action_policies, request.context),
            false => Vec::new(),
        };
        // What is known of the two goes before what the data says of them.
        let (principal_ref, resource_ref) = (principal.as_ref(), resource_uid.as_ref());
        let others = action_policies.literal_entities.iter().cloned().chain(context_entities);
        let others = others.filter(|entity| entity.uid() != principal_ref && entity.uid() != resource_ref);
        let principal_entities = if principal_ref == resource_ref {
            Default::default()
        } else {
            request.principal.entities().clone()
        };
        let entities = add_entities(principal_entities, others.chain(entity))?;
        let schema = action_policies.needs_validation(request.context).then_some(&self.bundle.schema);
        let cedar_request =
            Request::new(principal, action_policies.action.clone(), resource_uid, context, schema)
                .map_err(|error| action_policies.invalid_context(request.context, || error.to_string()))?;
        let cedar_request = AsRef::<ast::Request>::as_ref(&cedar_request).clone();
        Ok(evaluate_with(&Evaluator::new(cedar_request, &entities, Extensions::all_available())))
    }

    /// The entities that the context names, since policies may look at them, too.
    fn context_entities(
        &self,
        action_policies: &ActionPolicies,
        context: &DecisionContext,
    ) -> Vec<Arc<Entity>> {
        let client_values = action_policies.declared_client_context(context).map(|(_, value)| value);
        let scopes = BTreeSet::from_iter([context.scope, context.role].into_iter().flatten());
        let scopes = scopes.into_iter().filter_map(|scope| uid(SCOPE, scope.as_str()));
        let mut named = self.external_entities.referenced_in(client_values);
        named.extend(scopes.filter_map(|scope| self.external_entities.entity(&scope)));
        named
    }

    /// Whether it is permitted.
    pub fn allows(&self, request: &AuthzRequest<'_>, resource: &ResourceEntity) -> bool {
        self.decide(request, resource).allowed
    }

    /// Whether the principal could do this to some other thing of this type in its own organization.
    pub fn could_in_home_org(&self, request: &AuthzRequest<'_>, kind: &str) -> bool {
        let home = request.principal.organization.as_deref();
        let action_policies = self.action_policies(request.action);
        home.is_some_and(|home| {
            self.decide_traced(action_policies, request, &ResourceEntity::hypothetical(kind, home)).allowed
        })
    }

    /// The types of things that an action applies to, in the order of their names.
    pub fn resource_types(&self, action: &str) -> Vec<String> {
        self.action_policies(action)
            .into_iter()
            .flat_map(|action_policies| action_policies.resources.keys().cloned())
            .collect()
    }

    /// The thing, if the action on it is permitted.
    pub fn permit<T: AuthzResource>(
        &self,
        request: &AuthzRequest<'_>,
        resource: Unchecked<T>,
    ) -> Result<Permitted<T>, Denied> {
        if self.allows(request, &resource.resource_entity()) {
            Ok(resource.into_permitted())
        } else {
            Err(Denied::new(request.action))
        }
    }

    /// The new resource, if the action is permitted on the organization that is to hold it, at `holder`, and on the
    /// resource itself (decision 14). A new organization is held by the organization above it.
    pub fn permit_create<T: AuthzResource>(
        &self,
        request: &AuthzRequest<'_>,
        owner_org: &OrgPath,
        resource: Unchecked<T>,
    ) -> Result<Permitted<T>, Denied> {
        if self.allows(request, &ResourceEntity::organization(owner_org))
            && self.allows(request, &resource.created_entity())
        {
            Ok(resource.into_permitted())
        } else {
            Err(Denied::new(request.action))
        }
    }

    /// Those of these organizations, the top of their subtree first, of which the action is permitted.
    pub fn permit_organizations(
        &self,
        request: &AuthzRequest<'_>,
        organizations: Vec<OrgPath>,
    ) -> Result<Permitted<AuthorizedOrgs>, Denied> {
        let allowed = |path: &OrgPath| self.allows(request, &ResourceEntity::organization(path));
        AuthorizedOrgs::new_permitted(organizations, allowed).ok_or_else(|| Denied::new(request.action))
    }
}

/// The circumstances of a question as a decision can read them: with nothing that is said but not declared.
fn logged_context<'a>(
    action_policies: Option<&ActionPolicies>,
    request: &AuthzRequest<'a>,
) -> Cow<'a, DecisionContext> {
    let client_context = &request.context.client_context;
    if client_context.is_empty() {
        return Cow::Borrowed(request.context);
    }
    let client_context = action_policies
        .map(|action_policies| action_policies.project_declared(client_context))
        .unwrap_or_default();
    Cow::Owned(DecisionContext { client_context, ..request.context.clone() })
}

/// The scopes that a scope reaches: itself and those below it.
fn implied_scopes(data: &Entities, scope: Scope) -> Vec<Scope> {
    let entity = uid(SCOPE, scope.as_str()).and_then(|uid| data.get(&uid));
    Scope::ALL
        .into_iter()
        .filter(|below| {
            let named = uid(SCOPE, below.as_str()).map(|uid| core(&uid));
            *below == scope
                || entity.is_some_and(|entity| {
                    entity.as_ref().ancestors().any(|above| Some(above) == named.as_ref())
                })
        })
        .collect()
}
