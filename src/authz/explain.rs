//! Explanations: why a request was denied, what an allow lacks, and which forbids an allow passed.

use super::action_policies::ActionPolicies;
use super::context_changes::context_changes;
use super::entities::ResourceEntity;
use super::explanation::{ExplainedPolicy, Explanation, LeastChange, Outcome, Visibility};
use super::indexed_policy::IndexedPolicy;
use super::part_values::PartReader;
use super::policy_metadata::PolicyMetadata;
use super::{AuthzDecision, AuthzRequest, Engine, Scope, ScopeSet};
use cedar_policy::PolicySet;
use std::sync::Arc;

/// The maximum number of policies of an explanation.
const MAX_POLICIES: usize = 10;
/// The maximum number of changes of the context in an explanation.
const MAX_CONTEXT_CHANGES: usize = 3;

/// Why a request was denied.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum DenialReason {
    /// The lowest scope with which the request would be allowed.
    MissingScope(Scope),
    /// These policies forbid it.
    ForbiddenBy(Vec<Arc<PolicyMetadata>>),
    /// These policies match except for their conditions, or except for which principal or resource they require.
    UnmetConditions(Vec<Arc<PolicyMetadata>>),
    /// No policy permits the action on this resource type.
    NoPermit,
}

/// How an explanation is made.
#[derive(Debug, Clone, Copy)]
pub struct ExplainOptions {
    /// What it may show.
    pub visibility: Visibility,
    /// Whether the resource does not exist or is not accessible, so that no change gives an allow.
    pub is_missing: bool,
}

impl Engine {
    /// Why a decision is a denial; none for an allow.
    pub fn denial_reason(
        &self,
        request: &AuthzRequest<'_>,
        resource: &ResourceEntity,
        decision: &AuthzDecision,
    ) -> Option<DenialReason> {
        if decision.allowed {
            return None;
        }
        if let Some(scope) = self.lowest_sufficient_scope(request, resource) {
            return Some(DenialReason::MissingScope(scope));
        }
        if !decision.policies.is_empty() {
            return Some(DenialReason::ForbiddenBy(decision.policies.clone()));
        }
        let (_, nearest) = self.nearest_permits(request, resource);
        Some(if nearest.is_empty() { DenialReason::NoPermit } else { DenialReason::UnmetConditions(nearest) })
    }

    /// Explains a decision down to the parts of the conditions. None if the request could not be evaluated.
    ///
    /// The cost is bounded: at most `MAX_POLICIES` policies are explained and 36 changed requests evaluated.
    pub fn explain(
        &self,
        request: &AuthzRequest<'_>,
        resource: &ResourceEntity,
        decision: &AuthzDecision,
        options: ExplainOptions,
    ) -> Option<Explanation> {
        if !decision.errors.is_empty() {
            return None;
        }
        let action_policies = self.action_policies(request.action)?;
        let (cedar_request, entities) = self.cedar_request(action_policies, request, resource).ok()?;
        let visibility = options.visibility;
        let reader = PartReader { request: &cedar_request, entities: &entities, visibility };
        let (outcome, (has_scope, explained)) = if decision.allowed {
            (Outcome::Allowed, (true, self.matching_by_scope(0, false, request, resource)))
        } else if decision.policies.is_empty() {
            (Outcome::NotPermitted, self.nearest_permits(request, resource))
        } else {
            (Outcome::Forbidden, (true, decision.policies.clone()))
        };
        let policies: Vec<&IndexedPolicy> = explained
            .iter()
            .take(MAX_POLICIES)
            .filter_map(|policy| action_policies.policy(&policy.id))
            .collect();
        let changes = match decision.allowed || options.is_missing {
            true => Vec::new(),
            false => self.least_changes(action_policies, &policies, request, resource),
        };
        let explain = |policy: &&IndexedPolicy| {
            let conditions = policy.conditions(&self.bundle().policies);
            let mut parts = Vec::new();
            if !has_scope {
                reader.add_unmet(policy.scope_parts(&self.bundle().policies), &mut parts);
            }
            // A policy that lacks only principal or resource has conditions that may hold.
            if parts.is_empty() {
                parts = reader.explain_conditions(conditions, outcome == Outcome::Forbidden);
            }
            ExplainedPolicy::new(&policy.metadata, parts)
        };
        Some(Explanation { outcome, policies: policies.iter().map(explain).collect(), changes })
    }

    /// The lowest scope, and single fields of the context, that give an allow.
    fn least_changes(
        &self,
        action_policies: &ActionPolicies,
        policies: &[&IndexedPolicy],
        request: &AuthzRequest<'_>,
        resource: &ResourceEntity,
    ) -> Vec<LeastChange> {
        let scope = self.lowest_sufficient_scope(request, resource);
        let scope = scope.map(|scope| LeastChange::Scope { scope, text: format!("with the scope {scope}") });
        let conditions = policies.iter().flat_map(|policy| policy.conditions(&self.bundle().policies));
        let candidates = context_changes(conditions, action_policies.context_type(), request.context);
        let allowed = candidates.into_iter().filter(|candidate| {
            let changed = AuthzRequest { context: &candidate.context, ..*request };
            self.would_allow(&changed, resource)
        });
        let allowed = allowed.map(|candidate| candidate.change).take(MAX_CONTEXT_CHANGES);
        scope.into_iter().chain(allowed).collect()
    }

    /// Explains why a request is denied, without the decision cache, the counters and the decision log. None if it is not denied,
    /// or if it cannot be evaluated.
    pub fn explain_denial(
        &self,
        request: &AuthzRequest<'_>,
        resource: &ResourceEntity,
        options: ExplainOptions,
    ) -> Option<Explanation> {
        let action_policies = self.action_policies(request.action)?;
        let (cedar_request, entities) = self.cedar_request(action_policies, request, resource).ok()?;
        let decision = self.authorize(&cedar_request, &action_policies.policy_set, &entities);
        if decision.allowed { None } else { self.explain(request, resource, &decision, options) }
    }

    /// Explains why a request would be denied on a resource of this type in the principal's own organization. None if it would
    /// not.
    pub fn explain_denial_in_home_org(
        &self,
        request: &AuthzRequest<'_>,
        kind: &str,
        visibility: Visibility,
    ) -> Option<Explanation> {
        let home = request.principal.organization.as_deref()?;
        let resource = self.hypothetical_resource(kind, home);
        self.explain_denial(request, &resource, ExplainOptions { visibility, is_missing: false })
    }

    /// Whether a request would be allowed. Neither cached, counted nor recorded.
    pub fn would_allow(&self, request: &AuthzRequest<'_>, resource: &ResourceEntity) -> bool {
        let Some(action_policies) = self.action_policies(request.action) else { return false };
        self.cedar_request(action_policies, request, resource).is_ok_and(|(cedar_request, entities)| {
            self.authorize(&cedar_request, &action_policies.policy_set, &entities).allowed
        })
    }

    /// The lowest scope with which a user would be allowed.
    fn lowest_sufficient_scope(
        &self,
        request: &AuthzRequest<'_>,
        resource: &ResourceEntity,
    ) -> Option<Scope> {
        Scope::ALL.into_iter().find(|scope| {
            let scopes = self.effective_scopes(&ScopeSet::from(*scope), *scope);
            let principal = request.principal.with_scopes(scopes.as_ref());
            principal.is_some_and(|principal| {
                self.would_allow(&AuthzRequest { principal: &principal, ..*request }, resource)
            })
        })
    }

    /// The permits that came nearest: those that match except for their conditions, else those that match except for the
    /// principal, else those that match in their types. Returns whether they match except for their conditions, and the permits.
    fn nearest_permits(
        &self,
        request: &AuthzRequest<'_>,
        resource: &ResourceEntity,
    ) -> (bool, Vec<Arc<PolicyMetadata>>) {
        let permits =
            (0..3).map(|ignored| (ignored == 0, self.matching_by_scope(ignored, true, request, resource)));
        permits.into_iter().find(|(_, permits)| !permits.is_empty()).unwrap_or_default()
    }

    /// The permits, or the forbids, that would determine the decision without their conditions, with the scope of
    /// [`super::indexed_policy::IndexedPolicy::scopes`] at this index.
    fn matching_by_scope(
        &self,
        index: usize,
        permits: bool,
        request: &AuthzRequest<'_>,
        resource: &ResourceEntity,
    ) -> Vec<Arc<PolicyMetadata>> {
        let Some(action_policies) = self.action_policies(request.action) else { return Vec::new() };
        let policies = action_policies.policies.iter().filter(|policy| policy.metadata.permits == permits);
        let policies =
            PolicySet::from_policies(policies.filter_map(|policy| policy.scopes.get(index).cloned()));
        match (policies, self.cedar_request(action_policies, request, resource)) {
            (Ok(policies), Ok((request, entities))) => {
                self.authorize(&request, &policies, &entities).policies
            }
            _ => Vec::new(),
        }
    }
}
