//! Policies as they are asked about a call.

use super::answer::Answer;
use super::bundle::{About, Bundle};
use cedar_policy::Policy;
use cedar_policy_core::ast::{Expr, Literal, ValueKind};
use cedar_policy_core::evaluator::Evaluator;
use std::sync::Arc;

/// Policies as they are asked about a call, in the order of their ids.
#[derive(Debug)]
pub(super) struct Rules(Vec<Rule>);

#[derive(Debug)]
struct Rule {
    policy: Policy,
    /// Its scope and its conditions as one expression, which Cedar's own authorizer puts together each time that it asks.
    condition: Expr,
    about: Arc<About>,
}

impl Rules {
    /// The rules that these policies of a bundle are. An error names one that is none of the bundle's.
    pub(super) fn new(bundle: &Bundle, policies: impl IntoIterator<Item = Policy>) -> Result<Self, String> {
        let rule = |policy: Policy| {
            let id: &str = policy.id().as_ref();
            let about = bundle.policy(id).ok_or_else(|| format!("nothing is known of the policy `{id}`"))?;
            Ok(Rule { condition: policy.as_ref().condition(), about: Arc::clone(about), policy })
        };
        let mut rules = policies.into_iter().map(rule).collect::<Result<Vec<_>, String>>()?;
        rules.sort_by(|one, two| one.about.id.cmp(&two.about.id));
        Ok(Self(rules))
    }

    /// The policies.
    pub(super) fn policies(&self) -> impl Iterator<Item = &Policy> {
        self.0.iter().map(|rule| &rule.policy)
    }

    /// What they say of a call: yes where one permits and none forbids, which is Cedar's rule, and none errs. Cedar passes
    /// over a policy that errs, so a broken forbid would fail open.
    pub(super) fn answer(&self, call: &Evaluator<'_>) -> Answer {
        let (mut permits, mut forbids, mut errors) = (Vec::new(), Vec::new(), Vec::new());
        for Rule { policy, condition, about } in &self.0 {
            match call.interpret(condition, policy.as_ref().env()).map(|value| value.value) {
                Ok(ValueKind::Lit(Literal::Bool(true))) if about.permits => permits.push(Arc::clone(about)),
                Ok(ValueKind::Lit(Literal::Bool(true))) => forbids.push(Arc::clone(about)),
                Ok(ValueKind::Lit(Literal::Bool(false))) => {}
                Ok(other) => errors.push(format!("the policy `{}` is {other}, which is no truth", about.id)),
                Err(error) => errors.push(format!("error while evaluating policy `{}`: {error}", about.id)),
            }
        }
        let allowed = !permits.is_empty() && forbids.is_empty() && errors.is_empty();
        Answer::new(allowed, if allowed { permits } else { forbids }, errors)
    }
}
