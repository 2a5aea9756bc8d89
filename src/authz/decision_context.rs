//! The request context of a decision, with the field names of the schema.

use super::Scope;
use super::entity_uid::{CREDENTIAL, FIELD, scope_uid, uid};
use crate::types::{Timestamp, string_enum};
use cedar_policy::RestrictedExpression;
use serde_json::{Map, Value};
use std::net::IpAddr;

string_enum!(
    /// The kind of a credential.
    CredentialKind { Session = "session", ApiKey = "apiKey", Terminal = "terminal" }
);

/// The request context. Fields that the action's context does not declare are not passed to Cedar.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct DecisionContext {
    /// The kind of the caller's credential.
    pub credential: Option<CredentialKind>,
    /// Whether the API key is a provisioning key (a setting). None for other credentials.
    pub provisioning: Option<bool>,
    /// The client's address.
    pub ip: Option<IpAddr>,
    /// The time of the request.
    pub now: Option<Timestamp>,
    /// The names of the fields that an update changes.
    pub changes: Option<Vec<String>>,
    /// The scope that a new API key is to have.
    pub scope: Option<Scope>,
    /// The role that a new user is to have, or the new role of an existing one.
    pub role: Option<Scope>,
    /// The context that the client sent, in Cedar's JSON format. Values that the service sets take precedence.
    pub client_context: Map<String, Value>,
}

impl DecisionContext {
    /// Whether the service sets this field.
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

    /// Whether the service can set this field.
    pub(super) fn is_server_field(name: &str) -> bool {
        ["credential", "provisioning", "ip", "now", "changes", "scope", "role"].contains(&name)
    }

    /// The fields that the service sets, as far as `is_wanted` selects them by name.
    pub(super) fn server_values(
        &self,
        is_wanted: impl Fn(&str) -> bool,
    ) -> Vec<(String, RestrictedExpression)> {
        let entity = |kind: &str, id: &str| uid(kind, id).map(RestrictedExpression::new_entity_uid);
        let mut values = Vec::new();
        let mut add = |name: &str, value: Option<RestrictedExpression>| {
            values.extend(value.map(|value| (name.to_owned(), value)));
        };
        if is_wanted("credential") {
            let credential = self.credential.map(CredentialKind::as_str);
            add("credential", credential.and_then(|kind| entity(CREDENTIAL, kind)));
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
            let field = |name: &String| entity(FIELD, name);
            let changes = self.changes.as_ref();
            let changes =
                changes.map(|changes| RestrictedExpression::new_set(changes.iter().filter_map(field)));
            add("changes", changes);
        }
        for (name, scope) in [("scope", self.scope), ("role", self.role)] {
            if is_wanted(name) {
                add(name, scope.and_then(scope_uid).map(RestrictedExpression::new_entity_uid));
            }
        }
        values
    }
}
