//! The reasons of denied requests: which policies deny the caller's own request, and what would give an allow.
//!
//! The reasons must not disclose more than the response without them. They explain the denial on the resource only if it is the
//! caller's own user, if the caller sent it itself, or if the caller may fetch it and has already been permitted to act on it.
//! Otherwise they explain it on a resource of its type in the caller's own organization, whose attributes they do not show.
//! Existing, inaccessible and missing resources therefore have the same reasons.

use super::subjects::EVALUATE_EXTERNAL_ACTION;
use super::{Authorizer, Credential, Error};
use crate::authz::{
    AuthzRequest, DecisionContext, Denied, ExplainOptions, Explanation, ResourceEntity, Visibility,
};
use crate::types::OrgPath;

impl Authorizer {
    /// Returns the error of an action that is denied, with the reasons. `denied` is the denial on a resource that exists.
    /// `home_context` must not depend on that resource; `kind` is its type.
    pub(super) fn forbidden_explained(
        &self,
        denied: Option<&Denied>,
        (context, home_context): (&DecisionContext, &DecisionContext),
        kind: &str,
    ) -> Error {
        let is_own =
            |resource: &ResourceEntity| resource.is_new() || resource.is_same(&self.caller().principal);
        let own = denied.filter(|denied| denied.resource().is_some_and(is_own));
        let reasons = own.and_then(|denied| self.explain_visible(context, denied));
        let reasons = reasons.or_else(|| self.explain_in_home_org(home_context, kind));
        self.forbidden_audited().with_reasons(reasons)
    }

    /// Returns the error of an action that is denied on resources of this type in the caller's own organization, with the
    /// reasons.
    pub fn forbidden_in_home_org(&self, kind: &str) -> Error {
        let reasons = self.explain_in_home_org(&self.request_context(), kind);
        Error::forbidden(self.action()).with_reasons(reasons)
    }

    /// Returns the error of a request that a proxy asked about and that is denied, with the reasons: on an external resource, which
    /// is no secret, or else on a resource of this type in the caller's own organization.
    pub fn forbidden_forwarded(&self, action: &str, kind: &str, resource: Option<&ResourceEntity>) -> Error {
        let context = self.request_context();
        let request = AuthzRequest { action, ..self.unrecorded_request(&context) };
        let external = resource.filter(|_| !self.state().resource_types.contains(kind));
        let visibility =
            Visibility { principal: self.may_fetch_itself(), resource: external.is_some(), changes: true };
        let options = ExplainOptions { visibility, is_missing: false };
        let reasons = match external {
            Some(external) => self.engine().explain_denial(&request, external, options),
            None => self.engine().explain_denial_in_home_org(&request, kind, visibility),
        };
        Error::forbidden(action).with_reasons(reasons)
    }

    /// Explains a denial on a resource that the caller sent itself, or that it may fetch and knows of. None for another resource.
    pub(super) fn explain_visible(&self, context: &DecisionContext, denied: &Denied) -> Option<Explanation> {
        let resource = denied.resource()?;
        if !resource.is_new() && !self.may_fetch(resource) {
            return None;
        }
        let visibility = Visibility { principal: self.may_fetch_itself(), ..Visibility::ALL };
        let options = ExplainOptions { visibility, is_missing: false };
        self.engine().explain_denial(&self.unrecorded_request(context), resource, options)
    }

    /// Returns the error of an action that is denied on this organization, which the caller did not name, with the reasons.
    pub(super) fn forbidden_on(&self, organization: &OrgPath) -> Error {
        let resource = ResourceEntity::organization(organization);
        let is_visible = self.may_fetch(&resource);
        let visibility =
            Visibility { principal: self.may_fetch_itself(), resource: is_visible, changes: true };
        let options = ExplainOptions { visibility, is_missing: false };
        let context = self.request_context();
        let reasons = self.engine().explain_denial(&self.unrecorded_request(&context), &resource, options);
        self.forbidden_audited().with_reasons(reasons)
    }

    /// Explains a denial on a resource of this type in the caller's own organization.
    fn explain_in_home_org(&self, context: &DecisionContext, kind: &str) -> Option<Explanation> {
        let visibility = Visibility { principal: self.may_fetch_itself(), resource: false, changes: true };
        self.engine().explain_denial_in_home_org(&self.unrecorded_request(context), kind, visibility)
    }

    /// Returns whether the caller may fetch a resource of any type, or read an external entity, which is no secret. Not recorded.
    pub fn may_fetch(&self, resource: &ResourceEntity) -> bool {
        let Some(action) = self.state().resource_types.fetch_action(resource.kind()) else { return true };
        let context = self.request_context();
        self.engine().would_allow(&AuthzRequest { action, ..self.unrecorded_request(&context) }, resource)
    }

    /// Returns whether the caller may evaluate external subjects, as the command line may. Not recorded.
    pub fn may_evaluate_external(&self) -> bool {
        if self.caller().credential == Credential::Terminal {
            return true;
        }
        let context = self.request_context();
        let organization = ResourceEntity::organization(&self.caller().organization);
        let action = EVALUATE_EXTERNAL_ACTION;
        let request = AuthzRequest { action, ..self.unrecorded_request(&context) };
        self.engine().would_allow(&request, &organization)
    }

    fn may_fetch_itself(&self) -> bool {
        self.caller().principal.as_resource().is_some_and(|user| self.may_fetch(&user))
    }

    fn unrecorded_request<'a>(&'a self, context: &'a DecisionContext) -> AuthzRequest<'a> {
        AuthzRequest { principal: &self.caller().principal, action: self.action(), context, recorder: None }
    }
}
