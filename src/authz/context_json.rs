//! Request contexts in Cedar's JSON format, for the decision log.

use super::decision_context::DecisionContext;
use super::entity_json::{extension, reference};
use super::entity_uid::{CREDENTIAL, FIELD, SCOPE};
use serde::ser::SerializeMap;
use serde::{Serialize, Serializer};

/// Serializes the context. A value that the service sets replaces a client value of the same name.
impl Serialize for DecisionContext {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let mut context = serializer.serialize_map(None)?;
        for (name, value) in self.client_context.iter().filter(|(name, _)| !self.is_set(name)) {
            context.serialize_entry(name, value)?;
        }
        if let Some(credential) = self.credential {
            context.serialize_entry("credential", &reference(CREDENTIAL, credential.as_str()))?;
        }
        if let Some(provisioning) = self.provisioning {
            context.serialize_entry("provisioning", &provisioning)?;
        }
        if let Some(ip) = &self.ip {
            context.serialize_entry("ip", &extension("ip", ip))?;
        }
        if let Some(now) = self.now {
            context.serialize_entry("now", &extension("datetime", now.to_string()))?;
        }
        if let Some(changes) = &self.changes {
            let changes: Vec<_> = changes.iter().map(|field| reference(FIELD, field)).collect();
            context.serialize_entry("changes", &changes)?;
        }
        for (name, scope) in [("scope", self.scope), ("role", self.role)] {
            if let Some(scope) = scope {
                context.serialize_entry(name, &reference(SCOPE, scope.as_str()))?;
            }
        }
        context.end()
    }
}
