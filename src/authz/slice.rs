//! The policies that can speak of one action, and what they may read.

use super::answer::Answers;
use super::bundle::{Bundle, action_name};
use super::domain::{Domain, with_causes};
use super::facts::{Circumstances, Principal, Resourced};
use super::reads::Reads;
use super::rules::Rules;
use super::shape::Shape;
use crate::values::{Fingerprint, raw};
use cedar_policy::{
    ActionConstraint, Context, Entities, EntityTypeName, EntityUid, Policy, PolicyId, PolicySet,
    PrincipalConstraint, ResourceConstraint, Schema,
};
use cedar_policy_core::ast::{Entity, Expr, ExprKind, Literal, Var};
use serde_json::value::RawValue;
use serde_json::{Map, Value, json};
use std::collections::{BTreeMap, BTreeSet, HashMap, HashSet};
use std::sync::Arc;

type Failure = Box<dyn std::error::Error>;

/// All policies, by the actions that their scopes name.
#[derive(Debug, Default)]
pub(super) struct Candidates<'a> {
    of_all: Vec<&'a Policy>,
    equal: HashMap<EntityUid, Vec<&'a Policy>>,
    within: HashMap<EntityUid, Vec<&'a Policy>>,
}

impl<'a> Candidates<'a> {
    pub(super) fn new(policies: &'a PolicySet) -> Self {
        let mut candidates = Self::default();
        for policy in policies.policies() {
            match policy.action_constraint() {
                ActionConstraint::Any => candidates.of_all.push(policy),
                ActionConstraint::Eq(uid) => candidates.equal.entry(uid).or_default().push(policy),
                ActionConstraint::In(groups) => {
                    for group in groups {
                        candidates.within.entry(group).or_default().push(policy);
                    }
                }
            }
        }
        candidates
    }

    fn equal(&self, action: &EntityUid) -> impl Iterator<Item = &'a Policy> {
        self.equal.get(action).into_iter().flatten().copied()
    }

    fn within(&self, group: &EntityUid) -> impl Iterator<Item = &'a Policy> {
        self.within.get(group).into_iter().flatten().copied()
    }
}

/// The policies that can speak of one action, and what they may read.
#[derive(Debug)]
pub(super) struct Slice {
    pub(super) action: EntityUid,
    /// The name of the action in words.
    pub(super) name: Box<RawValue>,
    pub(super) rules: Rules,
    /// What the conditions of the policies may look at besides the two that are asked about: the action among its groups,
    /// and the entities that they name.
    pub(super) base: Vec<Arc<Entity>>,
    /// The types that the action applies to, by their names.
    pub(super) principals: BTreeMap<String, EntityTypeName>,
    pub(super) resources: BTreeMap<String, EntityTypeName>,
    /// Tells the slices of an engine apart.
    pub(super) number: usize,
    /// What the action's context declares.
    declared: BTreeSet<String>,
    /// What of it, and of the two, the policies read.
    reads: Reads,
    shape: Shape,
    /// Whether the action's context has a field that may not be left out.
    requires_context: bool,
    pub(super) answers: Answers,
}

impl Slice {
    pub(super) fn new(
        bundle: &Bundle,
        domain: &Domain,
        candidates: &Candidates<'_>,
        actions: &Entities,
        action: &EntityUid,
        number: usize,
    ) -> Result<Self, Failure> {
        let groups: BTreeSet<&EntityUid> = actions.ancestors(action).into_iter().flatten().collect();
        let is_group = |uid: &EntityUid| uid == action || groups.contains(uid);
        let principals: HashSet<EntityTypeName> =
            bundle.schema.principals_for_action(action).into_iter().flatten().cloned().collect();
        let resources: HashSet<EntityTypeName> =
            bundle.schema.resources_for_action(action).into_iter().flatten().cloned().collect();
        let fits = |policy: &&Policy| can_match(policy, &principals, &resources);
        let of_all = candidates.of_all.iter().copied().filter(fits).cloned().map(Ok);
        // One that names several of the groups is still one.
        let within = groups.iter().copied().chain([action]).flat_map(|group| candidates.within(group));
        let of_this = candidates.equal(action).chain(within).filter(fits);
        let of_this: BTreeMap<&PolicyId, &Policy> = of_this.map(|policy| (policy.id(), policy)).collect();
        let policies = of_all.chain(of_this.into_values().map(specialized)).collect::<Result<Vec<_>, _>>()?;
        let shape = bundle.contexts.get(action).cloned().unwrap_or_default();
        let declared = shape.names();
        let (literals, asks_for_action) = in_conditions(&policies);
        // The action's own place among its groups, for policies that ask for it in a condition; all actions where one
        // asks for others.
        let mut others =
            literals.iter().filter(|uid| uid.type_name().basename() == "Action" && !is_group(uid));
        let own = || groups.iter().copied().chain([action]).filter_map(|uid| actions.get(uid));
        let actions: Vec<_> = match others.next() {
            Some(_) => actions.iter().collect(),
            None if asks_for_action => own().collect(),
            None => Vec::new(),
        };
        let actions = actions.into_iter().map(|entity| Arc::new(entity.as_ref().clone()));
        let named = literals.iter().filter_map(|literal| domain.entity(literal));
        let base = actions.chain(named).collect();
        let named = |kind: EntityTypeName| (kind.to_string(), kind);
        let reads = Reads::of(&policies, &declared, &principals, &resources)?;
        Ok(Self {
            action: action.clone(),
            name: raw(&action_name(action)),
            rules: Rules::new(bundle, policies)?,
            base,
            principals: principals.into_iter().map(named).collect(),
            resources: resources.into_iter().map(named).collect(),
            number,
            declared,
            reads,
            requires_context: shape.has_required(),
            shape,
            answers: Answers::default(),
        })
    }

    /// Whether any of the policies reads anything of the context.
    pub(super) fn reads_context(&self) -> bool {
        !self.reads.context.is_empty()
    }

    /// Whether more of the principal is read than its type, scopes and place.
    fn reads_principal(&self, circumstances: &Circumstances) -> bool {
        self.reads.principal || self.may_name(circumstances)
    }

    /// Whether more of the resource is read than its type and place.
    pub(super) fn reads_resource(&self, circumstances: &Circumstances) -> bool {
        self.reads.resource || self.may_name(circumstances)
    }

    /// Whether what is said of a call may name either of the two where a policy looks.
    fn may_name(&self, circumstances: &Circumstances) -> bool {
        self.reads_context() && self.heard(circumstances).next().is_some()
    }

    /// Everything that a decision of this engine reads.
    pub(super) fn print(
        &self,
        engine: u64,
        principal: &Principal,
        resource: &Resourced,
        circumstances: &Circumstances,
    ) -> Fingerprint {
        let who = match self.reads_principal(circumstances) {
            true => principal.fingerprint,
            false => principal.place_print,
        };
        let what = match self.reads_resource(circumstances) {
            true => resource.fingerprint,
            false => resource.place_print,
        };
        Fingerprint::of(&(who, engine, self.number, what, self.context_print(circumstances)))
    }

    /// What the action's context declares of what is said of a call.
    pub(super) fn heard<'a>(
        &'a self,
        circumstances: &'a Circumstances,
    ) -> impl Iterator<Item = (&'a String, &'a Value)> {
        circumstances.said.iter().filter(|(name, _)| self.declared.contains(*name))
    }

    /// What a decision reads of the circumstances: what the policies read, and all that is said and declared, since that is
    /// checked even where it is not read.
    fn context_print(&self, circumstances: &Circumstances) -> Option<Fingerprint> {
        let said: Vec<(&String, &Value)> = self.heard(circumstances).collect();
        if self.reads.context.is_empty() && said.is_empty() {
            return None;
        }
        let reads = |name: &str| self.reads.context.contains(name);
        let said = (!said.is_empty()).then(|| serde_json::to_string(&said).unwrap_or_default());
        Some(Fingerprint::of(&(
            circumstances.credential.filter(|_| reads("credential")),
            circumstances.ip.filter(|_| reads("ip")),
            circumstances.now.filter(|_| reads("now")),
            circumstances.changes.as_ref().filter(|_| reads("changes")),
            circumstances.scope.filter(|_| reads("scope")),
            // What the service knows goes before what is said, so it counts whether it knows.
            circumstances.credential.is_some(),
            circumstances.ip.is_some(),
            circumstances.changes.is_some(),
            said,
        )))
    }

    /// What the action's context declares of what somebody says of a call.
    pub(super) fn declared_of(&self, said: &Map<String, Value>) -> Map<String, Value> {
        self.shape.project(said)
    }

    /// Whether the context has to be held against the schema: where somebody else says something of it, or where the
    /// schema asks for something.
    pub(super) fn is_checked(&self, circumstances: &Circumstances) -> bool {
        self.heard(circumstances).next().is_some() || self.requires_context
    }

    /// The context of a call, with what the action's context declares. Where nothing is said and nothing read, it is
    /// empty: that changes no decision.
    pub(super) fn context(&self, schema: &Schema, circumstances: &Circumstances) -> Result<Context, String> {
        let is_checked = self.is_checked(circumstances);
        if !is_checked && !self.reads_context() {
            return Ok(Context::empty());
        }
        let known = circumstances
            .known(|name| self.declared.contains(name) && (is_checked || self.reads.context.contains(name)));
        let known = Context::from_pairs(known).map_err(|error| error.to_string())?;
        if !is_checked {
            return Ok(known);
        }
        // Read with the schema, which knows what is an entity and what an address, and refuses what is mistyped.
        let mut fields = self.declared_of(&circumstances.said);
        if let Ok(Value::Object(known)) = known.to_json_value() {
            fields.extend(known);
        }
        Context::from_json_value(Value::Object(fields), Some((schema, &self.action)))
            .map_err(|error| format!("context: {}", with_causes(&error)))
    }
}

/// Whether a policy can speak of a principal and a resource of these types.
fn can_match(
    policy: &Policy,
    principals: &HashSet<EntityTypeName>,
    resources: &HashSet<EntityTypeName>,
) -> bool {
    let principal = match policy.principal_constraint() {
        PrincipalConstraint::Is(kind) | PrincipalConstraint::IsIn(kind, _) => principals.contains(&kind),
        PrincipalConstraint::Eq(uid) => principals.contains(uid.type_name()),
        PrincipalConstraint::Any | PrincipalConstraint::In(_) => true,
    };
    let resource = match policy.resource_constraint() {
        ResourceConstraint::Is(kind) | ResourceConstraint::IsIn(kind, _) => resources.contains(&kind),
        ResourceConstraint::Eq(uid) => resources.contains(uid.type_name()),
        ResourceConstraint::Any | ResourceConstraint::In(_) => true,
    };
    principal && resource
}

/// The same policy where only this action is asked about: that it fits is known.
fn specialized(policy: &Policy) -> Result<Policy, Failure> {
    let mut form = policy.to_json()?;
    if let Some(form) = form.as_object_mut() {
        form.insert("action".into(), json!({ "op": "All" }));
    }
    Ok(Policy::from_json(Some(policy.id().clone()), form)?)
}

/// The entities that the conditions of these policies name, and whether any looks at an action. What a scope names is held
/// against what stands above the two that are asked about, and not looked at itself.
fn in_conditions(policies: &[Policy]) -> (HashSet<EntityUid>, bool) {
    let mut literals = HashSet::new();
    let mut asks_for_action = false;
    for policy in policies {
        let conditions = policy.as_ref().non_scope_constraints();
        for part in conditions.into_iter().flat_map(Expr::subexpressions) {
            match part.expr_kind() {
                ExprKind::Lit(Literal::EntityUID(uid)) => {
                    let uid = EntityUid::from(uid.as_ref().clone());
                    asks_for_action |= uid.type_name().basename() == "Action";
                    literals.insert(uid);
                }
                ExprKind::Var(Var::Action) => asks_for_action = true,
                _ => {}
            }
        }
    }
    (literals, asks_for_action)
}
