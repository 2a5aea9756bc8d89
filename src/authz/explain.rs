//! Why it was decided so, and for a denial what is missing.

use super::bundle::About;
use super::facts::Resourced;
use super::rules::Rules;
use super::{Answer, Ask, Engine, Scope, ScopeSet};
use cedar_policy::{Effect, Policy};
use serde_json::json;
use std::sync::Arc;

/// What stands between a question and a yes.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Missing {
    /// The lowest scope that would be allowed.
    Scope(Scope),
    /// These forbid it.
    Forbidden(Vec<Arc<About>>),
    /// These would permit it, but for their conditions, or permit it to others or of others.
    Conditions(Vec<Arc<About>>),
    /// No policy permits it to anybody.
    Nothing,
}

impl Engine {
    /// What is missing for a yes; none where the answer is one.
    pub fn missing(&self, ask: &Ask<'_>, resource: &Resourced, answer: &Answer) -> Option<Missing> {
        if answer.allowed {
            return None;
        }
        for scope in Scope::ALL {
            let scopes = self.effective(&ScopeSet::from(scope), scope);
            let Some(principal) = ask.principal.with_scopes(scopes.as_ref()) else { break };
            if self.allows(&Ask { principal: &principal, trail: None, ..*ask }, resource) {
                return Some(Missing::Scope(scope));
            }
        }
        if !answer.policies.is_empty() {
            return Some(Missing::Forbidden(answer.policies.clone()));
        }
        let near =
            [&["conditions"][..], &["conditions", "principal"], &["conditions", "principal", "resource"]];
        let mut near = near.into_iter().map(|parts| self.permits_without(parts, ask, resource));
        let near = near.find(|permits| !permits.is_empty());
        Some(near.map_or(Missing::Nothing, Missing::Conditions))
    }

    /// The permits that would apply if it were not for these parts of them.
    fn permits_without(&self, parts: &[&str], ask: &Ask<'_>, resource: &Resourced) -> Vec<Arc<About>> {
        let Some(slice) = self.slice(ask.action) else { return Vec::new() };
        let permits = slice.rules.policies().filter(|policy| policy.effect() == Effect::Permit);
        let stripped = permits.filter_map(|policy| without(parts, policy));
        let answer =
            Rules::new(self.bundle(), stripped).and_then(|rules| self.evaluate(slice, &rules, ask, resource));
        answer.map(|answer| answer.policies).unwrap_or_default()
    }
}

/// The policy without these parts: without its conditions, or for every principal or resource of its type.
fn without(parts: &[&str], policy: &Policy) -> Option<Policy> {
    let mut form = policy.to_json().ok()?;
    let fields = form.as_object_mut()?;
    for part in parts {
        let widened = match fields.get(*part).and_then(|scope| scope.get("entity_type")) {
            _ if *part == "conditions" => json!([]),
            Some(kind) => json!({ "op": "is", "entity_type": kind }),
            None => json!({ "op": "All" }),
        };
        fields.insert((*part).to_owned(), widened);
    }
    Policy::from_json(Some(policy.id().clone()), form).ok()
}
