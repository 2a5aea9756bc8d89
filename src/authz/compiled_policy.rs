//! Policies compiled for evaluation: scope and conditions as one expression.

use super::bundle::{Bundle, PolicyMetadata};
use super::cedar_core::{
    Evaluator, Expr, ExprKind, Literal, PrincipalOrResource, PrincipalOrResourceConstraint, ValueKind, Var,
};
use super::decision::AuthzDecision;
use super::read_set::PolicyReadSet;
use cedar_policy::{EntityUid, Policy};
use std::collections::HashSet;
use std::error::Error;
use std::sync::Arc;

/// A policy whose scope and conditions are combined into one expression, without the action constraint.
///
/// Cedar's own authorizer combines them for every request. The action constraint is left out because the policy is evaluated
/// only for actions that it matches ([`super::action_policies::PolicyIndex`]).
#[derive(Debug)]
pub(super) struct CompiledPolicy {
    pub(super) metadata: Arc<PolicyMetadata>,
    pub(super) policy: Policy,
    condition: Expr,
    /// Which parts of a request the policy reads.
    pub(super) read_set: PolicyReadSet,
    /// The entity literals of its conditions. Those of its scope are only compared with the ancestors of principal and
    /// resource; their own entities are not read.
    pub(super) entity_literals: HashSet<EntityUid>,
    /// Whether its conditions read an action entity.
    pub(super) uses_action: bool,
}

impl CompiledPolicy {
    pub(super) fn new(bundle: &Bundle, policy: &Policy) -> Result<Self, Box<dyn Error>> {
        let id = policy.id();
        let metadata =
            bundle.policy(id.as_ref()).ok_or_else(|| format!("the policy `{id}` has no metadata"))?;
        let policy_json = policy.to_json()?;
        let read_set = PolicyReadSet::new(&policy_json, policy.entity_literals());
        // A policy that was parsed from JSON has no source locations, which Cedar would copy with every value.
        let policy = Policy::from_json(Some(id.clone()), policy_json)?;
        let conditions = policy.as_ref().non_scope_constraints().cloned();
        let (entity_literals, uses_action) = referenced_entities(conditions.as_ref());
        let condition = conjunction(scope_conditions(&policy, [false; 2]).into_iter().chain([conditions]));
        Ok(Self { metadata: Arc::clone(metadata), policy, condition, read_set, entity_literals, uses_action })
    }

    /// Whether the scope matches, ignoring the conditions and, if `ignore_constraint` says so, which principal or resource of
    /// its type the scope requires.
    pub(super) fn matches_scope(&self, evaluator: &Evaluator<'_>, ignore_constraint: [bool; 2]) -> bool {
        self.is_satisfied(&conjunction(scope_conditions(&self.policy, ignore_constraint)), evaluator)
            .unwrap_or(false)
    }

    /// Evaluates a condition. An error says why Cedar cannot evaluate it.
    fn is_satisfied(&self, condition: &Expr, evaluator: &Evaluator<'_>) -> Result<bool, String> {
        let failed = |cause: &dyn std::fmt::Display| {
            format!("error while evaluating policy `{}`: {cause}", self.policy.id())
        };
        match evaluator.interpret(condition, self.policy.as_ref().env()).map(|value| value.value) {
            Ok(ValueKind::Lit(Literal::Bool(holds))) => Ok(holds),
            Ok(other) => Err(failed(&format_args!("expected a boolean, got {other}"))),
            Err(error) => Err(failed(&error)),
        }
    }
}

/// Evaluates policies to a decision: allow if a policy permits, none forbids and none fails.
///
/// Cedar's own rule ignores a policy whose evaluation fails, so that a failing forbid would fail open.
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

/// The conjunction of these conditions, in this order.
fn conjunction(conditions: impl IntoIterator<Item = Option<Expr>, IntoIter: DoubleEndedIterator>) -> Expr {
    let conditions = conditions.into_iter().flatten().rev();
    conditions.reduce(|rest, condition| Expr::and(condition, rest)).unwrap_or_else(|| Expr::val(true))
}

/// The conditions that the scope of a policy places on principal and resource; none without a constraint. Where
/// `ignore_constraint` is set, only the type is constrained.
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

/// The entity literals of conditions, and whether the conditions read an action entity.
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
