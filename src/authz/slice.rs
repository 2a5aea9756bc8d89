//! The policies that can speak of one action, and what they may read.

use super::bundle::Bundle;
use super::domain::{Domain, with_causes};
use super::facts::{Circumstances, Principal, Resourced};
use super::reads::Reads;
use super::shape::Shape;
use crate::values::Fingerprint;
use cedar_policy::{
    ActionConstraint, Context, Entities, EntityTypeName, EntityUid, Policy, PolicySet, Schema,
};
use cedar_policy_core::ast::Entity;
use serde_json::{Map, Value, json};
use std::collections::{BTreeSet, HashSet};
use std::sync::Arc;

type Failure = Box<dyn std::error::Error>;

/// The policies that can speak of one action, and what they may read.
#[derive(Debug)]
pub(super) struct Slice {
    pub(super) action: EntityUid,
    pub(super) policies: PolicySet,
    /// The action among its groups, and the entities that the policies name.
    pub(super) base: Vec<Arc<Entity>>,
    pub(super) principals: HashSet<EntityTypeName>,
    pub(super) resources: HashSet<EntityTypeName>,
    /// Tells the slices of an engine apart.
    pub(super) number: usize,
    /// What the action's context declares.
    declared: BTreeSet<String>,
    /// What of it, and of the two, the policies read.
    reads: Reads,
    shape: Shape,
}

impl Slice {
    pub(super) fn new(
        bundle: &Bundle,
        domain: &Domain,
        actions: &Entities,
        action: &EntityUid,
        number: usize,
    ) -> Result<Self, Failure> {
        let is_group = |group: &EntityUid| {
            group == action
                || actions.ancestors(action).is_some_and(|mut above| above.any(|found| found == group))
        };
        let mut policies = PolicySet::new();
        for policy in bundle.policies.policies() {
            match policy.action_constraint() {
                ActionConstraint::Any => policies.add(policy.clone())?,
                ActionConstraint::Eq(uid) if uid == *action => policies.add(policy.clone())?,
                ActionConstraint::In(groups) if groups.iter().any(is_group) => {
                    policies.add(specialized(policy, action)?)?;
                }
                ActionConstraint::Eq(_) | ActionConstraint::In(_) => {}
            }
        }
        let shape = bundle.contexts.get(action).cloned().unwrap_or_default();
        let declared = shape.names();
        // The action's own place among its groups, for policies that ask for it in a condition; all actions where one
        // asks for others.
        let literals: Vec<EntityUid> = policies.policies().flat_map(Policy::entity_literals).collect();
        let asks_for_others =
            literals.iter().any(|literal| literal.type_name().basename() == "Action" && !is_group(literal));
        let actions = actions
            .iter()
            .filter(|entity| asks_for_others || is_group(&entity.uid()))
            .map(|entity| Arc::new(entity.as_ref().clone()));
        let named: HashSet<EntityUid> = literals.into_iter().collect();
        let named = named.iter().filter_map(|literal| domain.entity(literal));
        let base = actions.chain(named).collect();
        let principals = bundle.schema.principals_for_action(action).into_iter().flatten().cloned().collect();
        let resources = bundle.schema.resources_for_action(action).into_iter().flatten().cloned().collect();
        let reads = Reads::of(&policies, &declared, &principals, &resources)?;
        Ok(Self {
            action: action.clone(),
            policies,
            base,
            principals,
            resources,
            number,
            declared,
            reads,
            shape,
        })
    }

    /// Whether any of the policies reads anything of the context.
    pub(super) fn reads_context(&self) -> bool {
        !self.reads.context.is_empty()
    }

    /// Everything that a decision reads.
    pub(super) fn print(
        &self,
        principal: &Principal,
        resource: &Resourced,
        circumstances: &Circumstances,
    ) -> Fingerprint {
        // What is said may name either of the two.
        let is_open = self.reads_context() && !circumstances.said.is_empty();
        let who = if self.reads.principal || is_open { principal.fingerprint } else { principal.place_print };
        let what = if self.reads.resource || is_open { resource.fingerprint } else { resource.place_print };
        Fingerprint::of(&(who, self.number, what, self.context_print(circumstances)))
    }

    /// What a decision reads of the circumstances: what the policies read, and all that whoever asks says, since that is
    /// checked even where it is not read.
    fn context_print(&self, circumstances: &Circumstances) -> Option<Fingerprint> {
        if self.reads.context.is_empty() && circumstances.said.is_empty() {
            return None;
        }
        let reads = |name: &str| self.reads.context.contains(name);
        let said = (!circumstances.said.is_empty())
            .then(|| serde_json::to_string(&circumstances.said).unwrap_or_default());
        Some(Fingerprint::of(&(
            circumstances.credential.as_ref().filter(|_| reads("credential")),
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
        !circumstances.said.is_empty() || self.shape.has_required()
    }

    /// The context of a call, with what the action's context declares. Where nothing is said and nothing read, it is
    /// empty: that changes no decision.
    pub(super) fn context(&self, schema: &Schema, circumstances: &Circumstances) -> Result<Context, String> {
        let is_checked = self.is_checked(circumstances);
        let known = circumstances
            .known(|name| self.declared.contains(name) && (is_checked || self.reads.context.contains(name)));
        if known.is_empty() && !is_checked {
            return Ok(Context::empty());
        }
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

/// The same policy for this one action: an `==` is quicker than a search in a list.
fn specialized(policy: &Policy, action: &EntityUid) -> Result<Policy, Failure> {
    let mut form = policy.to_json()?;
    let entity = json!({ "type": action.type_name().to_string(), "id": action.id().unescaped() });
    if let Some(form) = form.as_object_mut() {
        form.insert("action".into(), json!({ "op": "==", "entity": entity }));
    }
    Ok(Policy::from_json(Some(policy.id().clone()), form)?)
}
