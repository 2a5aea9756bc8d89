//! Explanations: why a request was denied, what an allow lacks, and which forbids an allow passed.

use super::action_policies::ActionPolicies;
use super::context_changes::context_changes;
use super::entities::ResourceEntity;
use super::explained_parts::UnmetParts;
use super::explanation::{ExplainedPolicy, Explanation, LeastChange, Outcome, Visibility};
use super::indexed_policy::IndexedPolicy;
use super::part_values::PartReader;
use super::policy_metadata::PolicyMetadata;
use super::{AuthzDecision, AuthzRequest, Engine, Scope, ScopeSet};
use cedar_policy::{Policy, PolicySet};
use std::sync::Arc;

/// The maximum number of policies of an explanation.
const MAX_POLICIES: usize = 10;
/// The maximum number of policies of which the nearest are found.
const MAX_CANDIDATES: usize = 500;
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
    /// Why a decision is a denial; none for an allow. The nearest policies are found with what is visible.
    pub fn denial_reason(
        &self,
        request: &AuthzRequest<'_>,
        resource: &ResourceEntity,
        decision: &AuthzDecision,
        visibility: Visibility,
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
        let nearest = self.nearest_permits(request, resource, visibility);
        Some(if nearest.is_empty() { DenialReason::NoPermit } else { DenialReason::UnmetConditions(nearest) })
    }

    /// Explains a decision down to the parts of the conditions. None if the request could not be evaluated.
    ///
    /// The cost is bounded: at most `MAX_CANDIDATES` policies are compared, `MAX_POLICIES` explained and 36 changed requests
    /// evaluated.
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
        let (outcome, explained) = if decision.allowed {
            let has_scope =
                |policy: &IndexedPolicy| (!policy.metadata.permits).then(|| policy.scope_only.clone());
            (Outcome::Allowed, self.matching(action_policies, has_scope, request, resource))
        } else if decision.policies.is_empty() {
            (Outcome::NotPermitted, self.nearest_permits(request, resource, visibility))
        } else {
            (Outcome::Forbidden, decision.policies.clone())
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
            let parts = match outcome {
                Outcome::NotPermitted => {
                    reader.explain_unmet(policy.scope_parts(&self.bundle().policies), conditions)
                }
                Outcome::Allowed | Outcome::Forbidden => {
                    reader.explain_conditions(conditions, outcome == Outcome::Forbidden)
                }
            };
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

    /// The permits that came nearest, the nearest first: those that match except for their conditions or except for one
    /// constraint of their scope, else those with the fewest unmet parts. All of them match in their types.
    fn nearest_permits(
        &self,
        request: &AuthzRequest<'_>,
        resource: &ResourceEntity,
        visibility: Visibility,
    ) -> Vec<Arc<PolicyMetadata>> {
        let Some(action_policies) = self.action_policies(request.action) else { return Vec::new() };
        let Ok((cedar_request, entities)) = self.cedar_request(action_policies, request, resource) else {
            return Vec::new();
        };
        let reader = PartReader { request: &cedar_request, entities: &entities, visibility };
        let has_types = |policy: &IndexedPolicy| policy.metadata.permits.then(|| policy.types_only.clone());
        let candidates = self.matching(action_policies, has_types, request, resource);
        let mut candidates: Vec<(UnmetParts, Arc<PolicyMetadata>)> = candidates
            .into_iter()
            .take(MAX_CANDIDATES)
            .filter_map(|metadata| {
                let policy = action_policies.policy(&metadata.id)?;
                let (scope, conditions) =
                    (policy.scope_parts(&self.bundle().policies), policy.conditions(&self.bundle().policies));
                Some((reader.unmet_parts(scope, conditions), metadata))
            })
            .collect();
        candidates.sort_by_key(|(unmet, _)| unmet.total());
        let is_near = |unmet: UnmetParts| unmet.scope == 0 || (unmet.scope == 1 && unmet.conditions == 0);
        let fewest = candidates.first().map_or(0, |(unmet, _)| unmet.total());
        let has_near = candidates.iter().any(|(unmet, _)| is_near(*unmet));
        candidates.retain(|(unmet, _)| if has_near { is_near(*unmet) } else { unmet.total() == fewest });
        candidates.into_iter().map(|(_, metadata)| metadata).collect()
    }

    /// The policies that would determine the decision if they were as `variant` returns them; without those for which it returns
    /// none.
    fn matching(
        &self,
        action_policies: &ActionPolicies,
        variant: impl Fn(&IndexedPolicy) -> Option<Policy>,
        request: &AuthzRequest<'_>,
        resource: &ResourceEntity,
    ) -> Vec<Arc<PolicyMetadata>> {
        let policies = action_policies.policies.iter().filter_map(|policy| variant(policy));
        match (PolicySet::from_policies(policies), self.cedar_request(action_policies, request, resource)) {
            (Ok(policies), Ok((request, entities))) => {
                self.authorize(&request, &policies, &entities).policies
            }
            _ => Vec::new(),
        }
    }
}
