//! Explanations: why a request was denied, and what an allow lacks.

use super::bundle::PolicyMetadata;
use super::entities::ResourceEntity;
use super::{AuthzDecision, AuthzRequest, Engine, Scope, ScopeSet};
use std::sync::Arc;

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
        for scope in Scope::ALL {
            let scopes = self.effective_scopes(&ScopeSet::from(scope), scope);
            let Some(principal) = request.principal.with_scopes(scopes.as_ref()) else { break };
            if self.allows(&AuthzRequest { principal: &principal, recorder: None, ..*request }, resource) {
                return Some(DenialReason::MissingScope(scope));
            }
        }
        if !decision.policies.is_empty() {
            return Some(DenialReason::ForbiddenBy(decision.policies.clone()));
        }
        let candidates = [[false, false], [true, false], [true, true]];
        let mut candidates =
            candidates.into_iter().map(|ignored| self.permits_ignoring(ignored, request, resource));
        let candidates = candidates.find(|permits| !permits.is_empty());
        Some(candidates.map_or(DenialReason::NoPermit, DenialReason::UnmetConditions))
    }

    /// The permits whose scope matches if conditions and the `ignored` constraints, on principal and resource, are disregarded.
    fn permits_ignoring(
        &self,
        ignored: [bool; 2],
        request: &AuthzRequest<'_>,
        resource: &ResourceEntity,
    ) -> Vec<Arc<PolicyMetadata>> {
        let Some(action_policies) = self.action_policies(request.action) else { return Vec::new() };
        let permits = action_policies.policies.iter().filter(|policy| policy.metadata.permits);
        let matching = self.with_evaluator(action_policies, request, resource, |evaluator| {
            permits
                .filter(|policy| policy.matches_scope(evaluator, ignored))
                .map(|policy| Arc::clone(&policy.metadata))
                .collect()
        });
        matching.unwrap_or_default()
    }
}
