//! Decisions about resources that do not exist, or that the principal must not know of.

use super::entities::ResourceEntity;
use super::verifier::SampleResource;
use super::{AuthzDecision, AuthzRequest, Engine};
use crate::decision_log;
use crate::types::{OrgPath, to_raw_json};
use std::sync::Arc;
use std::time::Instant;

impl Engine {
    /// A resource of this type that does not exist, in the organization with this path.
    pub(super) fn hypothetical_resource(&self, kind: &str, path: &OrgPath) -> ResourceEntity {
        ResourceEntity::hypothetical(kind, self.bundle().entity_types.get(kind), path)
    }

    /// The entity of a missing resource, which belongs to no organization. `id` is arbitrary.
    pub fn missing_resource(&self, kind: &str, id: &str) -> ResourceEntity {
        ResourceEntity::detached(kind, self.bundle().entity_types.get(kind), id)
    }

    /// Denies a request for a resource that does not exist or that the principal must not know of.
    ///
    /// A request that would be denied for a resource of this type in the principal's own organization is denied with the same
    /// determining policies, so that the decision does not disclose whether the resource exists (see "403 or 404" in
    /// docs/decisions.md).
    pub fn deny_missing(&self, request: &AuthzRequest<'_>, kind: &str, id: &str) -> Arc<AuthzDecision> {
        let start = Instant::now();
        let home = request.principal.organization.as_deref();
        let action_policies = self.action_policies(request.action);
        let in_home_org = home.map(|home| self.hypothetical_resource(kind, home));
        let in_home_org =
            in_home_org.map(|resource| (self.decide_traced(action_policies, request, &resource), resource));
        let (decision, decided) =
            in_home_org.filter(|(decision, _)| !decision.allowed).unwrap_or_else(|| {
                let detached = self.missing_resource(kind, id);
                (self.decide_traced(action_policies, request, &detached), detached)
            });
        let decision = if decision.allowed { Arc::default() } else { decision };
        let question = (request.principal, request.action, request.context);
        let missing = || SampleResource::Missing(kind.to_owned(), id.to_owned());
        self.verification.verify(question, missing, &decision);
        let recorder = request.recorder.map(|recorder| recorder.for_decision(false));
        if let Some(recorder) = recorder.filter(|recorder| recorder.should_record(false)) {
            let resource_uid = to_raw_json(&decision_log::ResourceUid { kind, id });
            self.record(
                &recorder,
                action_policies,
                request,
                (&resource_uid, &decided),
                &decision,
                (start.elapsed(), true),
            );
        }
        decision
    }

    /// Whether the request would be allowed on another resource of this type in the principal's own organization. Not recorded.
    pub fn could_in_home_org(&self, request: &AuthzRequest<'_>, kind: &str) -> bool {
        let home = request.principal.organization.as_deref();
        let action_policies = self.action_policies(request.action);
        home.is_some_and(|home| {
            self.decide_traced(action_policies, request, &self.hypothetical_resource(kind, home)).allowed
        })
    }
}
