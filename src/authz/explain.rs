//! Why it was decided so, and for a denial what is missing.

use super::bundle::PolicyMetadata;
use super::entities::ResourceEntity;
use super::{AuthzDecision, AuthzRequest, Engine, Scope, ScopeSet};
use std::sync::Arc;

/// What stands between a question and a yes.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum DenialReason {
    /// The lowest scope that would be allowed.
    MissingScope(Scope),
    /// These forbid it.
    ForbiddenBy(Vec<Arc<PolicyMetadata>>),
    /// These would permit it, but for their conditions, or permit it to others or of others.
    UnmetConditions(Vec<Arc<PolicyMetadata>>),
    /// No policy permits it to anybody.
    NoPermit,
}

impl Engine {
    /// What is missing for a yes; none where the answer is one.
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

    /// The permits that would apply if they had no conditions, and were for every principal or resource of their type.
    fn permits_ignoring(
        &self,
        ignored: [bool; 2],
        request: &AuthzRequest<'_>,
        resource: &ResourceEntity,
    ) -> Vec<Arc<PolicyMetadata>> {
        let Some(action_policies) = self.action_policies(request.action) else { return Vec::new() };
        let permits = action_policies.policies.iter().filter(|rule| rule.metadata.permits);
        let matching = self.with_evaluator(action_policies, request, resource, |evaluator| {
            permits
                .filter(|rule| rule.matches_scope(evaluator, ignored))
                .map(|rule| Arc::clone(&rule.metadata))
                .collect()
        });
        matching.unwrap_or_default()
    }
}
