use super::*;

impl Engine {
    /// Stores an allow in the cache, so that tests can see a wrong decision detected.
    pub(crate) fn cache_allow(&self, request: &AuthzRequest<'_>, resource: &ResourceEntity) {
        let action_policies = self.action_policies(request.action).unwrap();
        let key = action_policies.cache_key(request.principal, resource, request.context);
        let allow = AuthzDecision::new(true, Vec::new(), Vec::new());
        self.decision_cache.insert(key, Arc::new(allow), Validity::default());
    }
}
