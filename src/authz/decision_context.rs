//! What Cedar learns of a call. The names here are those of the schema.

use super::Scope;
use super::entities::{SCOPE, uid};
use crate::types::Timestamp;
use cedar_policy::RestrictedExpression;
use serde_json::{Map, Value};
use std::net::IpAddr;

/// What a policy may read of a call: its context. What an action's context does not declare is left out.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct DecisionContext {
    /// How the caller proved who it is: `password`, `apiKey` or `terminal`.
    pub credential: Option<&'static str>,
    /// Whether an API key is one of the provisioning keys of the settings; none for other credentials.
    pub provisioning: Option<bool>,
    /// From where it calls.
    pub ip: Option<IpAddr>,
    /// When.
    pub now: Option<Timestamp>,
    /// The names of the fields that would get a new value.
    pub changes: Option<Vec<String>>,
    /// The scope that a key is wanted for.
    pub scope: Option<Scope>,
    /// The role that a user would get: of a new user its role, of a changed one the new role.
    pub role: Option<Scope>,
    /// What whoever asks says of the call, in Cedar's JSON form; what the service itself knows goes before it.
    pub client_context: Map<String, Value>,
}

impl DecisionContext {
    /// Whether the service itself knows what this name of the context stands for.
    pub(super) fn is_set(&self, name: &str) -> bool {
        match name {
            "credential" => self.credential.is_some(),
            "provisioning" => self.provisioning.is_some(),
            "ip" => self.ip.is_some(),
            "now" => self.now.is_some(),
            "changes" => self.changes.is_some(),
            "scope" => self.scope.is_some(),
            "role" => self.role.is_some(),
            _ => false,
        }
    }

    /// What the service itself knows, of these names of the schema.
    pub(super) fn server_values(
        &self,
        is_wanted: impl Fn(&str) -> bool,
    ) -> Vec<(String, RestrictedExpression)> {
        let text = |text: &String| RestrictedExpression::new_string(text.clone());
        let mut values = Vec::new();
        let mut add = |name: &str, value: Option<RestrictedExpression>| {
            values.extend(value.map(|value| (name.to_owned(), value)));
        };
        if is_wanted("credential") {
            let credential = self.credential.map(str::to_owned);
            add("credential", credential.map(RestrictedExpression::new_string));
        }
        if is_wanted("provisioning") {
            add("provisioning", self.provisioning.map(RestrictedExpression::new_bool));
        }
        if is_wanted("ip") {
            add("ip", self.ip.map(|ip| RestrictedExpression::new_ip(ip.to_string())));
        }
        if is_wanted("now") {
            add("now", self.now.map(|now| RestrictedExpression::new_datetime(now.to_string())));
        }
        if is_wanted("changes") {
            let changes = self.changes.as_ref();
            add("changes", changes.map(|changes| RestrictedExpression::new_set(changes.iter().map(text))));
        }
        for (name, scope) in [("scope", self.scope), ("role", self.role)] {
            if is_wanted(name) {
                let scope = scope.and_then(|scope| uid(SCOPE, scope.as_str()));
                add(name, scope.map(RestrictedExpression::new_entity_uid));
            }
        }
        values
    }
}
