//! Policies as they are asked about a call.

use super::answer::Answer;
use super::bundle::{About, Bundle};
use super::reads::Found;
use cedar_policy::{EntityUid, Policy};
use cedar_policy_core::ast::{
    Expr, ExprKind, Literal, PrincipalOrResource, PrincipalOrResourceConstraint, ValueKind, Var,
};
use cedar_policy_core::evaluator::Evaluator;
use std::collections::HashSet;
use std::error::Error;
use std::sync::Arc;

/// A policy as it is asked about a call of whose action it is known to speak: with its scope and its conditions as one
/// expression, which Cedar's own authorizer puts together each time that it asks.
#[derive(Debug)]
pub(super) struct Rule {
    pub(super) about: Arc<About>,
    pub(super) policy: Policy,
    condition: Expr,
    /// What it reads.
    pub(super) found: Found,
    /// The entities that its conditions name. What its scope names is held against what stands above the two that are asked
    /// about, and not looked at itself.
    pub(super) named: HashSet<EntityUid>,
    /// Whether its conditions look at an action.
    pub(super) asks_for_action: bool,
}

impl Rule {
    pub(super) fn new(bundle: &Bundle, policy: &Policy) -> Result<Self, Box<dyn Error>> {
        let id = policy.id();
        let about =
            bundle.policy(id.as_ref()).ok_or_else(|| format!("nothing is known of the policy `{id}`"))?;
        let form = policy.to_json()?;
        let found = Found::of(&form, policy.entity_literals());
        // What is read from that form has no places in a file, which Cedar would copy with each value.
        let policy = Policy::from_json(Some(id.clone()), form)?;
        let conditions = policy.as_ref().non_scope_constraints().cloned();
        let (named, asks_for_action) = looked_at(conditions.as_ref());
        let condition = all(scope(&policy, [false; 2]).into_iter().chain([conditions]));
        Ok(Self { about: Arc::clone(about), policy, condition, found, named, asks_for_action })
    }

    /// Whether it would apply to a call if it had no conditions, and were for every principal or resource of its type.
    pub(super) fn would_apply(&self, call: &Evaluator<'_>, widened: [bool; 2]) -> bool {
        self.holds(&all(scope(&self.policy, widened)), call).unwrap_or(false)
    }

    /// Whether this holds of a call. An error says why Cedar cannot tell.
    fn holds(&self, condition: &Expr, call: &Evaluator<'_>) -> Result<bool, String> {
        let failed = |what: &dyn std::fmt::Display| {
            format!("error while evaluating policy `{}`: {what}", self.policy.id())
        };
        match call.interpret(condition, self.policy.as_ref().env()).map(|value| value.value) {
            Ok(ValueKind::Lit(Literal::Bool(holds))) => Ok(holds),
            Ok(other) => Err(failed(&format_args!("{other} is no truth"))),
            Err(error) => Err(failed(&error)),
        }
    }
}

/// What policies say of a call: yes where one permits and none forbids, which is Cedar's rule, and none errs. Cedar passes
/// over a policy that errs, so a broken forbid would fail open.
pub(super) fn answer(rules: &[Arc<Rule>], call: &Evaluator<'_>) -> Answer {
    let (mut permits, mut forbids, mut errors) = (Vec::new(), Vec::new(), Vec::new());
    for rule in rules {
        match rule.holds(&rule.condition, call) {
            Ok(true) if rule.about.permits => permits.push(&rule.about),
            Ok(true) => forbids.push(&rule.about),
            Ok(false) => {}
            Err(error) => errors.push(error),
        }
    }
    let allowed = !permits.is_empty() && forbids.is_empty() && errors.is_empty();
    let decided = if allowed { permits } else { forbids };
    Answer::new(allowed, decided.into_iter().cloned().collect(), errors)
}

/// All of these, in this order.
fn all(parts: impl IntoIterator<Item = Option<Expr>, IntoIter: DoubleEndedIterator>) -> Expr {
    let parts = parts.into_iter().flatten().rev();
    parts.reduce(|rest, part| Expr::and(part, rest)).unwrap_or_else(|| Expr::val(true))
}

/// What the scope of a policy asks of the principal and of the resource; only what it asks of the type where that is
/// `widened`. None where it asks nothing.
fn scope(policy: &Policy, widened: [bool; 2]) -> [Option<Expr>; 2] {
    let policy = policy.as_ref();
    let [principal, resource] = widened;
    [
        asked(policy.principal_constraint().as_inner(), PrincipalOrResource::Principal, principal),
        asked(policy.resource_constraint().as_inner(), PrincipalOrResource::Resource, resource),
    ]
}

fn asked(
    constraint: &PrincipalOrResourceConstraint,
    of: PrincipalOrResource,
    is_widened: bool,
) -> Option<Expr> {
    match constraint {
        PrincipalOrResourceConstraint::Any => None,
        PrincipalOrResourceConstraint::Eq(_) | PrincipalOrResourceConstraint::In(_) if is_widened => None,
        PrincipalOrResourceConstraint::IsIn(kind, _) if is_widened => {
            Some(PrincipalOrResourceConstraint::is_entity_type(Arc::clone(kind)).as_expr(of))
        }
        _ => Some(constraint.as_expr(of)),
    }
}

/// The entities that conditions name, and whether they look at an action.
fn looked_at(conditions: Option<&Expr>) -> (HashSet<EntityUid>, bool) {
    let mut named = HashSet::new();
    let mut asks_for_action = false;
    for part in conditions.into_iter().flat_map(Expr::subexpressions) {
        match part.expr_kind() {
            ExprKind::Lit(Literal::EntityUID(uid)) => {
                let uid = EntityUid::from(uid.as_ref().clone());
                asks_for_action |= uid.type_name().basename() == "Action";
                named.insert(uid);
            }
            ExprKind::Var(Var::Action) => asks_for_action = true,
            _ => {}
        }
    }
    (named, asks_for_action)
}
