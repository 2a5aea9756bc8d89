//! Policies prepared for the index by action: without their action constraint, and without their conditions for explanations.

use super::bundle::Bundle;
use super::condition_parts::ConditionPart;
use super::policy_metadata::PolicyMetadata;
use super::read_set::PolicyReadSet;
use cedar_policy::pst::{ActionConstraint, PrincipalConstraint, ResourceConstraint, StaticPolicy, Template};
use cedar_policy::{EntityUid, Policy, PolicySet};
use std::collections::HashSet;
use std::error::Error;
use std::sync::{Arc, OnceLock};

/// A policy of a bundle, prepared for evaluation.
#[derive(Debug)]
pub(super) struct IndexedPolicy {
    pub(super) metadata: Arc<PolicyMetadata>,
    /// The policy for every action, since it is evaluated only for actions that it matches
    /// ([`super::action_policies::PolicyIndex`]).
    pub(super) policy: Policy,
    /// The policy without its conditions.
    pub(super) scope_only: Policy,
    /// The policy without its conditions, with only the types of its principal and resource.
    pub(super) types_only: Policy,
    /// Which parts of a request the policy reads.
    pub(super) read_set: PolicyReadSet,
    /// The entity literals of its conditions. Those of its scope are only compared with the ancestors of principal and
    /// resource; their own entities are not read.
    pub(super) entity_literals: HashSet<EntityUid>,
    /// The parts of its conditions and of its scope, found on first use: only explanations need them.
    parts: OnceLock<PolicyParts>,
}

/// The parts of a policy, with their places in the source.
#[derive(Debug, Default)]
struct PolicyParts {
    conditions: Vec<ConditionPart>,
    scope: Vec<ConditionPart>,
}

impl PolicyParts {
    fn new(policy: &Policy) -> Self {
        let conditions = ConditionPart::of_policy(policy).unwrap_or_default();
        Self { conditions, scope: ConditionPart::of_scope(policy).unwrap_or_default() }
    }
}

impl IndexedPolicy {
    /// Indexes a policy of a bundle.
    ///
    /// # Errors
    /// The policy is not in the bundle, or one of its variants cannot be built.
    pub(super) fn new(bundle: &Bundle, policy: &Policy) -> Result<Self, Box<dyn Error>> {
        let id = policy.id();
        let metadata =
            bundle.policy(id.as_ref()).ok_or_else(|| format!("the policy `{id}` has no metadata"))?;
        let read_set = PolicyReadSet::new(&policy.to_json()?, policy.entity_literals());
        let mut template = policy.to_pst()?.body().clone();
        template.action = ActionConstraint::Any;
        // Every action would have a copy.
        template.annotations.clear();
        let policy = build(&template)?;
        let mut scope = template.clone().try_with_clauses([])?;
        let scope_only = build(&scope)?;
        scope.principal = type_of_principal(scope.principal);
        scope.resource = type_of_resource(scope.resource);
        let types_only = build(&scope)?;
        (template.principal, template.resource) = (PrincipalConstraint::Any, ResourceConstraint::Any);
        let entity_literals = build(&template)?.entity_literals().into_iter().collect();
        let (metadata, parts) = (Arc::clone(metadata), OnceLock::new());
        Ok(Self { metadata, policy, scope_only, types_only, read_set, entity_literals, parts })
    }

    /// The parts of its conditions. `policies` are those of the bundle, which have the source locations.
    pub(super) fn conditions(&self, policies: &PolicySet) -> &[ConditionPart] {
        &self.parts(policies).conditions
    }

    /// What its scope requires of principal and resource.
    pub(super) fn scope_parts(&self, policies: &PolicySet) -> &[ConditionPart] {
        &self.parts(policies).scope
    }

    fn parts(&self, policies: &PolicySet) -> &PolicyParts {
        self.parts.get_or_init(|| policies.policy(self.policy.id()).map(PolicyParts::new).unwrap_or_default())
    }
}

/// A policy without source locations, which Cedar would copy with every value.
fn build(template: &Template) -> Result<Policy, Box<dyn Error>> {
    Ok(Policy::from_pst(StaticPolicy::try_from(template.clone())?.into())?)
}

/// The constraint on the type of the principal only.
fn type_of_principal(constraint: PrincipalConstraint) -> PrincipalConstraint {
    match constraint {
        PrincipalConstraint::Is(kind) | PrincipalConstraint::IsIn(kind, _) => PrincipalConstraint::Is(kind),
        _ => PrincipalConstraint::Any,
    }
}

/// The constraint on the type of the resource only.
fn type_of_resource(constraint: ResourceConstraint) -> ResourceConstraint {
    match constraint {
        ResourceConstraint::Is(kind) | ResourceConstraint::IsIn(kind, _) => ResourceConstraint::Is(kind),
        _ => ResourceConstraint::Any,
    }
}
