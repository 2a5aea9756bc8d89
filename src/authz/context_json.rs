//! Request contexts in Cedar's JSON format, for the decision log.

use super::action_policies::ActionPolicies;
use super::decision_context::DecisionContext;
use super::entity_json::{extension, reference};
use super::entity_uid::{CREDENTIAL, FIELD, SCOPE};
use serde::ser::SerializeMap;
use serde::{Serialize, Serializer};

/// The context of a request to an action, as far as the action declares its fields; nothing of an unknown action.
#[derive(Debug, Clone, Copy)]
pub(super) struct LoggedContext<'a> {
    pub(super) context: &'a DecisionContext,
    pub(super) action: Option<&'a ActionPolicies>,
}

/// Serializes the context. A value that the service sets replaces a client value of the same name.
impl Serialize for LoggedContext<'_> {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let Self { context, action } = self;
        let is_declared = |name: &str| action.is_some_and(|action| action.declares(name));
        let mut fields = serializer.serialize_map(None)?;
        for (name, value) in context.client_context.iter().filter(|(name, _)| !context.is_set(name)) {
            fields.serialize_entry(name, value)?;
        }
        if let Some(credential) = context.credential.filter(|_| is_declared("credential")) {
            fields.serialize_entry("credential", &reference(CREDENTIAL, credential.as_str()))?;
        }
        if let Some(provisioning) = context.provisioning.filter(|_| is_declared("provisioning")) {
            fields.serialize_entry("provisioning", &provisioning)?;
        }
        if let Some(ip) = &context.ip.filter(|_| is_declared("ip")) {
            fields.serialize_entry("ip", &extension("ip", ip))?;
        }
        if let Some(now) = context.now.filter(|_| is_declared("now")) {
            fields.serialize_entry("now", &extension("datetime", now.to_string()))?;
        }
        if let Some(changes) = context.changes.as_ref().filter(|_| is_declared("changes")) {
            let changes: Vec<_> = changes.iter().map(|field| reference(FIELD, field)).collect();
            fields.serialize_entry("changes", &changes)?;
        }
        for (name, scope) in [("scope", context.scope), ("role", context.role)] {
            if let Some(scope) = scope.filter(|_| is_declared(name)) {
                fields.serialize_entry(name, &reference(SCOPE, scope.as_str()))?;
            }
        }
        fields.end()
    }
}
