//! The policies that can speak of one action, and what they may read.

use super::bundle::Bundle;
use super::domain::{Domain, with_causes};
use super::facts::Circumstances;
use super::shape::Shape;
use crate::values::Fingerprint;
use cedar_policy::{
    ActionConstraint, Context, Entities, EntityTypeName, EntityUid, Policy, PolicySet, Schema,
};
use cedar_policy_core::ast::Entity;
use serde_json::{Value, json};
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
    /// What of it the policies read.
    read: BTreeSet<String>,
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
        let read = context_reads(&policies, &declared)?;
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
        Ok(Self {
            action: action.clone(),
            policies,
            base,
            principals: bundle.schema.principals_for_action(action).into_iter().flatten().cloned().collect(),
            resources: bundle.schema.resources_for_action(action).into_iter().flatten().cloned().collect(),
            number,
            declared,
            read,
            shape,
        })
    }

    /// Whether any of the policies reads anything of the context.
    pub(super) fn reads_context(&self) -> bool {
        !self.read.is_empty()
    }

    /// What a decision reads of the circumstances: what the policies read, and all that whoever asks says, since that is
    /// checked even where it is not read.
    pub(super) fn context_print(&self, circumstances: &Circumstances) -> Option<Fingerprint> {
        if self.read.is_empty() && circumstances.said.is_empty() {
            return None;
        }
        let reads = |name: &str| self.read.contains(name);
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
            .known(|name| self.declared.contains(name) && (is_checked || self.read.contains(name)));
        if known.is_empty() && !is_checked {
            return Ok(Context::empty());
        }
        let known = Context::from_pairs(known).map_err(|error| error.to_string())?;
        if !is_checked {
            return Ok(known);
        }
        // Read with the schema, which knows what is an entity and what an address, and refuses what is mistyped.
        let mut fields = self.shape.project(&circumstances.said);
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

/// The names of the context that policies read; all that are declared where the context is used as a whole.
fn context_reads(policies: &PolicySet, declared: &BTreeSet<String>) -> Result<BTreeSet<String>, Failure> {
    let mut read = BTreeSet::new();
    let mut whole = false;
    for policy in policies.policies() {
        walk(&policy.to_json()?, &mut read, &mut whole);
    }
    Ok(if whole { declared.clone() } else { read })
}

/// Finds `context.name` and `context has name` in the JSON form of a policy, and any other use of `context`.
fn walk(form: &Value, read: &mut BTreeSet<String>, whole: &mut bool) {
    let is_context = |value: &Value| value.get("Var").and_then(Value::as_str) == Some("context");
    match form {
        Value::Object(fields) => {
            for (operator, operands) in fields {
                let names_one =
                    [".", "has"].contains(&operator.as_str()) && operands.get("left").is_some_and(is_context);
                match operands.get("attr").and_then(Value::as_str).filter(|_| names_one) {
                    Some(name) => {
                        read.insert(name.to_owned());
                    }
                    None => {
                        *whole |= operator == "Var" && operands.as_str() == Some("context");
                        walk(operands, read, whole);
                    }
                }
            }
        }
        Value::Array(items) => items.iter().for_each(|item| walk(item, read, whole)),
        Value::Null | Value::Bool(_) | Value::Number(_) | Value::String(_) => {}
    }
}
