//! Why it was decided so, and for a denial what is missing.

use super::bundle::About;
use super::facts::Resourced;
use super::{Answer, Ask, Engine, Scope, ScopeSet};
use cedar_policy::{Effect, Policy, PolicySet};
use std::sync::Arc;

/// What stands between a question and a yes.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Missing {
    /// The lowest scope that would be allowed.
    Scope(Scope),
    /// These forbid it.
    Forbidden(Vec<Arc<About>>),
    /// These would permit it, but for their conditions.
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
            if self.allows(&Ask { principal: &principal, ..*ask }, resource) {
                return Some(Missing::Scope(scope));
            }
        }
        if !answer.policies.is_empty() {
            return Some(Missing::Forbidden(answer.policies.clone()));
        }
        let unconditional = self.unconditional(ask, resource);
        Some(if unconditional.is_empty() { Missing::Nothing } else { Missing::Conditions(unconditional) })
    }

    /// The permits that would apply if they had no conditions.
    fn unconditional(&self, ask: &Ask<'_>, resource: &Resourced) -> Vec<Arc<About>> {
        let Some(slice) = self.slice(ask.action) else { return Vec::new() };
        let permits = slice.policies.policies().filter(|policy| policy.effect() == Effect::Permit);
        let mut stripped = PolicySet::new();
        for policy in permits {
            if let Some(policy) = without_conditions(policy) {
                let _ = stripped.add(policy);
            }
        }
        match self.response(slice, &stripped, ask, resource) {
            Ok(response) => {
                let ids = response.diagnostics().reason().map(<_ as AsRef<str>>::as_ref);
                let mut found: Vec<Arc<About>> =
                    ids.filter_map(|id| self.bundle().policy(id)).cloned().collect();
                found.sort_by(|one, two| one.id.cmp(&two.id));
                found
            }
            Err(_) => Vec::new(),
        }
    }
}

fn without_conditions(policy: &Policy) -> Option<Policy> {
    let mut form = policy.to_json().ok()?;
    form.as_object_mut()?.insert("conditions".into(), serde_json::Value::Array(Vec::new()));
    Policy::from_json(Some(policy.id().clone()), form).ok()
}
