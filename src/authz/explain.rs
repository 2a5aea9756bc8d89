//! Why it was decided so, and for a denial what is missing.

use super::bundle::About;
use super::facts::Resourced;
use super::{Answer, Ask, Engine, Scope, ScopeSet};
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
        let near = [[false, false], [true, false], [true, true]];
        let mut near = near.into_iter().map(|widened| self.permits_but_for(widened, ask, resource));
        let near = near.find(|permits| !permits.is_empty());
        Some(near.map_or(Missing::Nothing, Missing::Conditions))
    }

    /// The permits that would apply if they had no conditions, and were for every principal or resource of their type.
    fn permits_but_for(&self, widened: [bool; 2], ask: &Ask<'_>, resource: &Resourced) -> Vec<Arc<About>> {
        let Some(slice) = self.slice(ask.action) else { return Vec::new() };
        let permits = slice.rules.iter().filter(|rule| rule.about.permits);
        let would = self.call(slice, ask, resource, |call| {
            permits
                .filter(|rule| rule.would_apply(call, widened))
                .map(|rule| Arc::clone(&rule.about))
                .collect()
        });
        would.unwrap_or_default()
    }
}
