//! The engine: evaluates requests by the policies of one bundle, caches decisions and records them.
//!
//! Policies are indexed by action when a bundle is loaded ([`ActionPolicies`]). Decisions are cached under a fingerprint of
//! everything that the evaluation reads, so that nothing invalidates them but the end of the engine.

use super::action_policies::{ActionPolicies, PolicyIndex, RowPolicies};
use super::bundle::{Bundle, action_name};
use super::context_json::LoggedContext;
use super::counters::{DecisionCounters, DecisionCounts};
use super::decision::AuthzDecision;
use super::decision_context::DecisionContext;
use super::entities::{EntityData, Principal, ResourceEntity};
use super::entity_uid::{implied_scopes, scope_uid};
use super::external_entities::ExternalEntities;
use super::invalid_attribute::EvaluationError;
use super::recorder::{DecisionDetails, DecisionRecorder, logged_context};
use super::verifier::{SampleResource, Verification, Verifier};
use super::{BundleDiagnostic, BundleError, Rule, Scope, ScopeSet};
use crate::decision_log::Purpose;
use crate::telemetry::{self, SpanData};
use crate::types::{Cache, Fingerprint, Validity, Versions, to_raw_json};
use cedar_policy::{Authorizer, Decision, Entities, Entity, EntityId, EntityUid, Policy, PolicySet, Request};
use serde_json::value::RawValue;
use std::collections::{BTreeSet, HashMap, HashSet};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

/// The maximum number of cached decisions.
const DECISION_CACHE_CAPACITY: u64 = 100_000;

/// A request to authorize, without its resource.
#[derive(Debug, Clone, Copy)]
pub struct AuthzRequest<'a> {
    /// Who performs the action.
    pub principal: &'a Principal,
    /// The name of the action.
    pub action: &'a str,
    /// The request context.
    pub context: &'a DecisionContext,
    /// Where the decision is recorded; none if it is not.
    pub recorder: Option<DecisionRecorder<'a>>,
}

/// Evaluates requests by the policies of one bundle.
#[derive(Debug)]
pub struct Engine {
    bundle: Arc<Bundle>,
    action_policies: HashMap<String, ActionPolicies>,
    external_entities: ExternalEntities,
    scope_cascade: HashMap<Scope, Vec<Scope>>,
    decision_cache: Cache<Fingerprint, Arc<AuthzDecision>>,
    instance_id: u64,
    counters: DecisionCounters,
    pub(super) verification: Verification,
    /// The version of the bundle as JSON.
    version_json: Box<RawValue>,
}

impl Engine {
    /// Indexes the policies of a bundle.
    ///
    /// # Errors
    /// The data or a policy cannot be converted, which validation does not find.
    pub fn new(bundle: Bundle) -> Result<Self, BundleError> {
        let failed = |error: &dyn std::fmt::Display| {
            BundleError(vec![BundleDiagnostic::without_file(Rule::InvalidPolicy, error.to_string())])
        };
        let data = Entities::from_entities(bundle.data.clone(), None).map_err(|error| failed(&error))?;
        let actions = bundle.schema.action_entities().map_err(|error| failed(&error))?;
        let external_entities = ExternalEntities::new(&bundle, &data, &actions);
        let index = PolicyIndex::new(&bundle).map_err(|error| failed(&error))?;
        let mut action_policies = HashMap::new();
        for (index_in_schema, action) in bundle.schema.actions().enumerate() {
            let policies =
                ActionPolicies::new(&bundle, &external_entities, &index, &actions, action, index_in_schema);
            action_policies.insert(action_name(action), policies.map_err(|error| failed(&error))?);
        }
        let scope_cascade =
            Scope::ALL.into_iter().map(|scope| (scope, implied_scopes(&data, scope))).collect();
        static NEXT_ID: AtomicU64 = AtomicU64::new(0);
        let instance_id = NEXT_ID.fetch_add(1, Ordering::Relaxed);
        let bundle = Arc::new(bundle);
        Ok(Self {
            version_json: to_raw_json(&bundle.version()),
            verification: Verification::new(&bundle),
            bundle,
            action_policies,
            external_entities,
            scope_cascade,
            decision_cache: Cache::new(DECISION_CACHE_CAPACITY, true),
            instance_id,
            counters: DecisionCounters::default(),
        })
    }

    /// Turns the decision cache off: every decision is evaluated.
    pub fn without_decision_cache(self) -> Self {
        Self { decision_cache: Cache::new(0, false), ..self }
    }

    /// Has a sample of the decisions verified.
    pub(super) fn with_verifier(mut self, verifier: Option<Arc<Verifier>>) -> Self {
        self.verification.verifier = verifier;
        self
    }

    /// The number of decisions that it has made.
    pub fn decision_counts(&self) -> DecisionCounts {
        self.counters.sum()
    }

    /// A number that identifies the engine within the process.
    pub fn instance_id(&self) -> u64 {
        self.instance_id
    }

    /// The bundle.
    pub fn bundle(&self) -> &Bundle {
        &self.bundle
    }

    /// The entities of external domains.
    pub fn external_entities(&self) -> &ExternalEntities {
        &self.external_entities
    }

    pub(super) fn action_policies(&self, action: &str) -> Option<&ActionPolicies> {
        self.action_policies.get(action)
    }

    /// The policies that can apply to an action: those whose scope matches it and its types.
    pub(crate) fn policies_of_action(&self, action: &str) -> Vec<&Policy> {
        let policies = self.action_policies(action).map(|action| action.policies.as_slice());
        policies.unwrap_or_default().iter().map(|policy| &policy.policy).collect()
    }

    /// All actions by name, with their policies.
    pub(super) fn actions(&self) -> impl Iterator<Item = (&str, &ActionPolicies)> {
        self.action_policies.iter().map(|(name, policies)| (name.as_str(), policies))
    }

    /// The type of the rows that this list action returns, if policies can distinguish the rows of an organization.
    pub(super) fn row_type(&self, action: &str) -> Option<&str> {
        let rows = self.action_policies(action)?.rows.as_ref()?;
        rows.read_rows().then_some(rows.kind_name.as_str())
    }

    /// Whether any policy that can apply to this action reads the context.
    pub fn reads_context(&self, action: &str) -> bool {
        self.action_policies(action).is_some_and(ActionPolicies::reads_context)
    }

    /// Whether policies may take rows out of the list that this action returns: whether they can decide the rows of one
    /// organization differently. Determined once for each bundle.
    pub fn reads_rows(&self, action: &str) -> bool {
        let rows = self.action_policies(action).and_then(|policies| policies.rows.as_ref());
        rows.is_some_and(RowPolicies::read_rows)
    }

    /// The full name of the action that a client names.
    ///
    /// A uid such as `Docs::Action::"read"` is returned as it is. A short name is looked up in the namespace of the resource
    /// type `kind`, then in the empty namespace.
    pub fn resolve_action<'a>(&'a self, name: &'a str, kind: &str) -> &'a str {
        // Most names are short: comparing the last character first is fastest.
        if name.ends_with('"') && name.contains("::\"") {
            // Actions of the empty namespace are known by their id: `Action::"read"` is `read`.
            return name.strip_prefix("Action::\"").and_then(|rest| rest.strip_suffix('"')).unwrap_or(name);
        }
        let namespace = kind.rfind(':').and_then(|end| kind.get(..end)?.strip_suffix(':'));
        let qualified = namespace.map(|namespace| format!("{namespace}::Action::\"{name}\""));
        qualified
            .and_then(|qualified| self.action_policies.get_key_value(&qualified))
            .map_or(name, |(declared, _)| declared.as_str())
    }

    /// The names of the actions that apply to these principal and resource types, in ascending order.
    pub fn applicable_actions(&self, principal: &str, resource: &str) -> Vec<&str> {
        let applies = |action: &ActionPolicies| {
            action.principals.contains_key(principal) && action.resources.contains_key(resource)
        };
        let mut names: Vec<&str> = self
            .action_policies
            .iter()
            .filter(|(_, action)| applies(action))
            .map(|(name, _)| name.as_str())
            .collect();
        names.sort_unstable();
        names
    }

    /// The effective scopes of a credential: the scopes that both its claims and the role of its user imply (see "Effective
    /// scope" in docs/decisions.md). None if there are none.
    pub fn effective_scopes(&self, claimed: &ScopeSet, role: Scope) -> Option<ScopeSet> {
        let implied = |scope: Scope| self.scope_cascade.get(&scope).into_iter().flatten().copied();
        ScopeSet::new(
            claimed.iter().flat_map(implied).filter(|scope| implied(role).any(|capped| capped == *scope)),
        )
    }

    /// Decides a request, and records the decision if the request has a recorder.
    pub fn decide(&self, request: &AuthzRequest<'_>, resource: &ResourceEntity) -> Arc<AuthzDecision> {
        let action_policies = self.action_policies(request.action);
        let is_prerequisite =
            request.recorder.is_some_and(|recorder| recorder.purpose == Purpose::Prerequisite);
        let recorder = request.recorder;
        // A prerequisite of another decision is timed only if it is recorded.
        let is_timed = !is_prerequisite || recorder.is_some_and(|recorder| recorder.should_record(false));
        let start = is_timed.then(Instant::now);
        let decision = self.decide_traced(action_policies, request, resource);
        // An allowed decision that is not recorded needs no id; the answer to a denied request has one in any case.
        let recorder = recorder
            .filter(|recorder| !decision.allowed || recorder.should_record(true))
            .map(|recorder| recorder.for_decision(decision.allowed))
            .filter(|recorder| recorder.should_record(decision.allowed));
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
                    (latency, false),
                );
            }
        }
        decision
    }

    pub(super) fn record(
        &self,
        recorder: &DecisionRecorder<'_>,
        action_policies: Option<&ActionPolicies>,
        request: &AuthzRequest<'_>,
        (resource_uid, resource): (&RawValue, &ResourceEntity),
        decision: &AuthzDecision,
        (latency, is_missing): (Duration, bool),
    ) {
        let unknown;
        let action = match action_policies {
            Some(action_policies) => &action_policies.name,
            None => {
                unknown = to_raw_json(&request.action);
                &unknown
            }
        };
        let context = logged_context(action_policies, request.context);
        let context = LoggedContext { context: &context, action: action_policies };
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
            is_missing,
        });
    }

    /// The version of the bundle as JSON, as in the decision log.
    pub fn version_json(&self) -> &RawValue {
        &self.version_json
    }

    pub(super) fn decide_traced(
        &self,
        action_policies: Option<&ActionPolicies>,
        request: &AuthzRequest<'_>,
        resource: &ResourceEntity,
    ) -> Arc<AuthzDecision> {
        let timer = telemetry::start_timer();
        let (decision, is_cached) = self.cached_or_evaluate(action_policies, request, resource);
        self.counters.record(&decision, is_cached);
        let question = (request.principal, request.action, request.context);
        self.verification.verify(question, || SampleResource::Entity(resource.clone()), &decision);
        timer.record(|| {
            let span = SpanData::new("authorize")
                .with("cedargate.decision", if decision.allowed { "allow" } else { "deny" })
                .with("cedargate.cached", is_cached)
                .with("cedargate.policy_version", self.bundle.version().to_owned());
            // An unknown action is arbitrary client input.
            match action_policies {
                Some(_) => span.with("cedargate.action", request.action.to_owned()),
                None => span,
            }
        });
        decision
    }

    /// The decision, and whether it comes from a cache.
    fn cached_or_evaluate(
        &self,
        action_policies: Option<&ActionPolicies>,
        request: &AuthzRequest<'_>,
        resource: &ResourceEntity,
    ) -> (Arc<AuthzDecision>, bool) {
        let Some(action_policies) = action_policies else {
            let error = format!("unknown action {:?}", request.action);
            return (Arc::new(AuthzDecision::from_error(error)), false);
        };
        let key = action_policies.cache_key(request.principal, resource, request.context);
        if let Some(decision) = self.decision_cache.get(&key, &Versions::default()) {
            return (decision, true);
        }
        let decision = Arc::new(self.evaluate(action_policies, request, resource));
        // Errors name the entities of this request, so that the decision must not be used for another one.
        if decision.errors.is_empty() {
            self.decision_cache.insert(key, Arc::clone(&decision), Validity::default());
        }
        (decision, false)
    }

    fn evaluate(
        &self,
        action_policies: &ActionPolicies,
        request: &AuthzRequest<'_>,
        resource: &ResourceEntity,
    ) -> AuthzDecision {
        match self.cedar_request(action_policies, request, resource) {
            Ok((cedar_request, entities)) => {
                let decision = self.authorize(&cedar_request, &action_policies.policy_set, &entities);
                if !decision.errors.is_empty() {
                    // Errors may contain attribute values, which the decision log masks.
                    tracing::error!(action = request.action, "policy evaluation failed: denied");
                    tracing::debug!(action = request.action, errors = ?decision.errors, "policy evaluation errors");
                }
                decision
            }
            Err(error) => {
                // At debug level, since clients choose the action and the types.
                let message = &error.message;
                tracing::debug!(
                    action = request.action,
                    error = message,
                    "request cannot be evaluated: denied"
                );
                AuthzDecision::from_error(error)
            }
        }
    }

    /// Evaluates policies of the bundle to a decision: allow if a policy permits, none forbids and none fails.
    ///
    /// Cedar ignores a policy whose evaluation fails, so that a failing forbid would fail open.
    pub(super) fn authorize(
        &self,
        request: &Request,
        policies: &PolicySet,
        entities: &Entities,
    ) -> AuthzDecision {
        let response = Authorizer::new().is_authorized(request, policies, entities);
        let errors: Vec<String> = response.diagnostics().errors().map(ToString::to_string).collect();
        let is_permitted = response.decision() == Decision::Allow;
        // If a policy fails, the permits are not the reason for the denial.
        let is_failed = is_permitted && !errors.is_empty();
        let determining: BTreeSet<&str> =
            response.diagnostics().reason().filter(|_| !is_failed).map(AsRef::as_ref).collect();
        let determining = determining.into_iter().filter_map(|id| self.bundle.policy(id)).cloned().collect();
        AuthzDecision::new(is_permitted && !is_failed, determining, errors)
    }

    /// The Cedar request for a request, and the entities that policies may read.
    ///
    /// # Errors
    /// The action does not apply to the types, or the context is invalid.
    pub(super) fn cedar_request(
        &self,
        action_policies: &ActionPolicies,
        request: &AuthzRequest<'_>,
        resource: &ResourceEntity,
    ) -> Result<(Request, Entities), EvaluationError> {
        let unknown = "the subject type is not in the schema";
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
        let is_self = resource_uid == principal;
        let resource_entity = match resource.data() {
            EntityData::Local(local) => {
                // If the resource is the caller itself, its attributes come from the resource and its scopes from the credential.
                let no_ancestors = HashSet::new();
                let extra_ancestors = if is_self { &*request.principal.scopes } else { &no_ancestors };
                local.build(&resource_uid, extra_ancestors, action_policies.reads_resource(request.context))
            }
            EntityData::External(external) => external.entity.clone(),
        };
        let context = action_policies.context(&self.bundle.schema, request.context)?;
        let context_entities = match action_policies.reads_context() {
            true => self.context_entities(action_policies, request.context),
            false => Vec::new(),
        };
        let principal_entity = request.principal.entity.clone().filter(|_| !is_self);
        // In this order, since principal and resource take precedence over entities of the data with the same uid.
        let request_entities = context_entities.into_iter().chain(principal_entity).chain(resource_entity);
        let literal_entities = action_policies.literal_entities.clone();
        let entities = literal_entities
            .upsert_entities(request_entities.map(Arc::unwrap_or_clone), None)
            .map_err(|error| error.to_string())?;
        let schema = action_policies.needs_validation(request.context).then_some(&self.bundle.schema);
        let cedar_request =
            Request::new(principal, action_policies.action.clone(), resource_uid, context, schema)
                .map_err(|error| action_policies.invalid_context(request.context, || error.to_string()))?;
        Ok((cedar_request, entities))
    }

    /// The entities that the context refers to, since policies may read them.
    pub(super) fn context_entities(
        &self,
        action_policies: &ActionPolicies,
        context: &DecisionContext,
    ) -> Vec<Arc<Entity>> {
        let client_values = action_policies.declared_client_context(context).map(|(_, value)| value);
        let scopes = BTreeSet::from_iter([context.scope, context.role].into_iter().flatten());
        let scopes = scopes.into_iter().filter_map(scope_uid);
        let mut referenced = self.external_entities.referenced_in(client_values);
        referenced.extend(scopes.filter_map(|scope| self.external_entities.entity(&scope)));
        referenced
    }

    /// Whether a request is allowed, as [`Engine::decide`].
    pub fn allows(&self, request: &AuthzRequest<'_>, resource: &ResourceEntity) -> bool {
        self.decide(request, resource).allowed
    }

    /// The names of the resource types that an action applies to, in ascending order.
    pub fn resource_types(&self, action: &str) -> Vec<String> {
        self.action_policies(action)
            .into_iter()
            .flat_map(|action_policies| action_policies.resources.keys().cloned())
            .collect()
    }
}

#[cfg(test)]
mod tests;
