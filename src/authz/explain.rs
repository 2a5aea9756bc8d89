//! Explanations: why a request was denied, and what an allow lacks.

use super::entities::ResourceEntity;
use super::policy_metadata::PolicyMetadata;
use super::{AuthzDecision, AuthzRequest, Engine, Scope, ScopeSet};
use cedar_policy::PolicySet;
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
        let permits = (0..3).map(|ignored| self.permits_by_scope(ignored, request, resource));
        let permits = permits.into_iter().find(|permits| !permits.is_empty());
        Some(permits.map_or(DenialReason::NoPermit, DenialReason::UnmetConditions))
    }

    /// The permits that would allow the request without their conditions, with the scope of
    /// [`super::indexed_policy::IndexedPolicy::scopes`] at this index.
    fn permits_by_scope(
        &self,
        index: usize,
        request: &AuthzRequest<'_>,
        resource: &ResourceEntity,
    ) -> Vec<Arc<PolicyMetadata>> {
        let Some(action_policies) = self.action_policies(request.action) else { return Vec::new() };
        let permits = action_policies.policies.iter().filter(|policy| policy.metadata.permits);
        let permits =
            PolicySet::from_policies(permits.filter_map(|policy| policy.scopes.get(index).cloned()));
        match (permits, self.cedar_request(action_policies, request, resource)) {
            (Ok(permits), Ok((request, entities))) => self.authorize(&request, &permits, &entities).policies,
            _ => Vec::new(),
        }
    }
}
