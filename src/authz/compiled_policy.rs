//! Policies as they are asked about a call.

use super::bundle::{Bundle, PolicyMetadata};
use super::decision::AuthzDecision;
use super::read_set::PolicyReadSet;
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
pub(super) struct CompiledPolicy {
    pub(super) metadata: Arc<PolicyMetadata>,
    pub(super) policy: Policy,
    condition: Expr,
    /// What it reads.
    pub(super) read_set: PolicyReadSet,
    /// The entities that its conditions name. What its scope names is held against what stands above the two that are asked
    /// about, and not looked at itself.
    pub(super) entity_literals: HashSet<EntityUid>,
    /// Whether its conditions look at an action.
    pub(super) uses_action: bool,
}

impl CompiledPolicy {
    pub(super) fn new(bundle: &Bundle, policy: &Policy) -> Result<Self, Box<dyn Error>> {
        let id = policy.id();
        let metadata =
            bundle.policy(id.as_ref()).ok_or_else(|| format!("nothing is known of the policy `{id}`"))?;
        let policy_json = policy.to_json()?;
        let read_set = PolicyReadSet::new(&policy_json, policy.entity_literals());
        // What is read from that form has no places in a file, which Cedar would copy with each value.
        let policy = Policy::from_json(Some(id.clone()), policy_json)?;
        let conditions = policy.as_ref().non_scope_constraints().cloned();
        let (entity_literals, uses_action) = referenced_entities(conditions.as_ref());
        let condition = conjunction(scope_conditions(&policy, [false; 2]).into_iter().chain([conditions]));
        Ok(Self { metadata: Arc::clone(metadata), policy, condition, read_set, entity_literals, uses_action })
    }

    /// Whether it would apply to a call if it had no conditions, and were for every principal or resource of its type.
    pub(super) fn matches_scope(&self, evaluator: &Evaluator<'_>, ignore_constraint: [bool; 2]) -> bool {
        self.is_satisfied(&conjunction(scope_conditions(&self.policy, ignore_constraint)), evaluator)
            .unwrap_or(false)
    }

    /// Whether this holds of a call. An error says why Cedar cannot tell.
    fn is_satisfied(&self, condition: &Expr, evaluator: &Evaluator<'_>) -> Result<bool, String> {
        let failed = |cause: &dyn std::fmt::Display| {
            format!("error while evaluating policy `{}`: {cause}", self.policy.id())
        };
        match evaluator.interpret(condition, self.policy.as_ref().env()).map(|value| value.value) {
            Ok(ValueKind::Lit(Literal::Bool(holds))) => Ok(holds),
            Ok(other) => Err(failed(&format_args!("{other} is no truth"))),
            Err(error) => Err(failed(&error)),
        }
    }
}

/// What policies say of a call: yes where one permits and none forbids, which is Cedar's rule, and none errs. Cedar passes
/// over a policy that errs, so a broken forbid would fail open.
pub(super) fn evaluate_policies(
    policies: &[Arc<CompiledPolicy>],
    evaluator: &Evaluator<'_>,
) -> AuthzDecision {
    let (mut permits, mut forbids, mut errors) = (Vec::new(), Vec::new(), Vec::new());
    for policy in policies {
        match policy.is_satisfied(&policy.condition, evaluator) {
            Ok(true) if policy.metadata.permits => permits.push(&policy.metadata),
            Ok(true) => forbids.push(&policy.metadata),
            Ok(false) => {}
            Err(error) => errors.push(error),
        }
    }
    let allowed = !permits.is_empty() && forbids.is_empty() && errors.is_empty();
    let determining = if allowed { permits } else { forbids };
    AuthzDecision::new(allowed, determining.into_iter().cloned().collect(), errors)
}

/// All of these, in this order.
fn conjunction(conditions: impl IntoIterator<Item = Option<Expr>, IntoIter: DoubleEndedIterator>) -> Expr {
    let conditions = conditions.into_iter().flatten().rev();
    conditions.reduce(|rest, condition| Expr::and(condition, rest)).unwrap_or_else(|| Expr::val(true))
}

/// What the scope of a policy asks of the principal and of the resource; only what it asks of the type where that is
/// `widened`. None where it asks nothing.
fn scope_conditions(policy: &Policy, ignore_constraint: [bool; 2]) -> [Option<Expr>; 2] {
    let policy = policy.as_ref();
    let [principal, resource] = ignore_constraint;
    [
        scope_condition(policy.principal_constraint().as_inner(), PrincipalOrResource::Principal, principal),
        scope_condition(policy.resource_constraint().as_inner(), PrincipalOrResource::Resource, resource),
    ]
}

fn scope_condition(
    constraint: &PrincipalOrResourceConstraint,
    variable: PrincipalOrResource,
    is_ignored: bool,
) -> Option<Expr> {
    match constraint {
        PrincipalOrResourceConstraint::Any => None,
        PrincipalOrResourceConstraint::Eq(_) | PrincipalOrResourceConstraint::In(_) if is_ignored => None,
        PrincipalOrResourceConstraint::IsIn(kind, _) if is_ignored => {
            Some(PrincipalOrResourceConstraint::is_entity_type(Arc::clone(kind)).as_expr(variable))
        }
        _ => Some(constraint.as_expr(variable)),
    }
}

/// The entities that conditions name, and whether they look at an action.
fn referenced_entities(conditions: Option<&Expr>) -> (HashSet<EntityUid>, bool) {
    let mut literals = HashSet::new();
    let mut uses_action = false;
    for expression in conditions.into_iter().flat_map(Expr::subexpressions) {
        match expression.expr_kind() {
            ExprKind::Lit(Literal::EntityUID(uid)) => {
                let uid = EntityUid::from(uid.as_ref().clone());
                uses_action |= uid.type_name().basename() == "Action";
                literals.insert(uid);
            }
            ExprKind::Var(Var::Action) => uses_action = true,
            _ => {}
        }
    }
    (literals, uses_action)
}
