//! Policies for a principal of one scope, to compare what a scope may do with what the scope above it may do.
//!
//! `principal in Scope::"bot"` is replaced by whether the scope includes `bot`, and `principal in context.role` by a comparison
//! with each scope that it includes. Where a policy depends on the scope in another way, it is not specialized, and nothing is
//! proven.

use crate::authz::{Bundle, PathStart, Scope};
use cedar_policy::{Entities, EntityTypeName, EntityUid, Policy, PolicySet, RequestEnv};
use serde_json::{Map, Value, json};
use std::collections::BTreeSet;

/// The type of the entities that are scopes.
pub(super) const SCOPE_TYPE: &str = "Scope";

/// A scope and the scopes that it includes, itself among them.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct IncludedScopes {
    pub(super) scope: EntityUid,
    included: BTreeSet<EntityUid>,
}

/// A scope and the next higher one.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct CascadeStep {
    pub(super) lower: IncludedScopes,
    pub(super) higher: IncludedScopes,
}

/// The pairs of neighbouring scopes in the order of the specification, each with the scopes that the data give it.
///
/// The order is not that of the data: a scope that lacks its parent there would have no lower neighbour, and nothing would have to
/// hold for it.
pub(super) fn cascade_steps(data: &[cedar_policy::Entity]) -> Vec<CascadeStep> {
    let Ok(entities) = Entities::from_entities(data.to_vec(), None) else { return Vec::new() };
    let is_scope = |uid: &EntityUid| uid.type_name().to_string() == SCOPE_TYPE;
    let included_scopes = |scope: Scope| {
        let scope = uid_from_json(&json!({ "type": SCOPE_TYPE, "id": scope.as_str() }))?;
        let ancestors = entities.ancestors(&scope).into_iter().flatten().filter(|uid| is_scope(uid)).cloned();
        let included = ancestors.chain([scope.clone()]).collect();
        Some(IncludedScopes { scope, included })
    };
    let scopes: Vec<IncludedScopes> = Scope::ALL.into_iter().filter_map(included_scopes).collect();
    let higher = scopes.iter().skip(1);
    scopes
        .iter()
        .zip(higher)
        .map(|(lower, higher)| CascadeStep { lower: lower.clone(), higher: higher.clone() })
        .collect()
}

/// Whether principals of this type can have scopes.
pub(super) fn has_scopes(bundle: &Bundle, principal: &EntityTypeName) -> bool {
    bundle
        .schema()
        .ancestors(principal)
        .into_iter()
        .flatten()
        .any(|ancestor| ancestor.to_string() == SCOPE_TYPE)
}

/// The policies for principals that have exactly this scope and those that it includes, in JSON, for one request environment.
///
/// # Errors
/// The policy, and why it cannot be specialized.
pub(super) fn specialize(
    bundle: &Bundle,
    policies: &PolicySet,
    scopes: &IncludedScopes,
    environment: &RequestEnv,
) -> Result<Vec<(String, Value)>, String> {
    let specializer = Specializer { bundle, scopes, environment };
    let mut specialized = Vec::new();
    let mut sorted: Vec<&Policy> = policies.policies().collect();
    sorted.sort_by_key(|policy| policy.id().to_string());
    for policy in sorted {
        let id = policy.id().to_string();
        let json = policy.to_json().map_err(|error| format!("policy {id}: {error}"))?;
        let json = specializer.policy(json).map_err(|reason| format!("policy {id}: {reason}"))?;
        specialized.extend(json.map(|json| (id, json)));
    }
    Ok(specialized)
}

/// The policy set of policies in JSON.
///
/// # Errors
/// A policy cannot be converted.
pub(super) fn to_policy_set(policies: &[(String, Value)]) -> Result<PolicySet, String> {
    let mut set = PolicySet::new();
    for (id, json) in policies {
        let policy = Policy::from_json(Some(cedar_policy::PolicyId::new(id)), json.clone());
        let policy = policy.map_err(|error| format!("policy {id}: {error}"))?;
        set.add(policy).map_err(|error| format!("policy {id}: {error}"))?;
    }
    Ok(set)
}

struct Specializer<'a> {
    bundle: &'a Bundle,
    scopes: &'a IncludedScopes,
    environment: &'a RequestEnv,
}

/// What is known of the entities that an expression stands for.
enum Entity {
    /// This one.
    Literal(EntityUid),
    /// One of this type.
    OfType(String),
    /// An entity or a set, of any type.
    Unknown,
}

impl Specializer<'_> {
    /// The policy for the scope; none if it does not apply.
    fn policy(&self, mut policy: Value) -> Result<Option<Value>, String> {
        let fields = policy.as_object_mut().ok_or("not an object")?;
        if let Some(principal) = fields.get("principal") {
            match self.principal_constraint(principal)? {
                Some(constraint) => fields.insert("principal".to_owned(), constraint),
                None => return Ok(None),
            };
        }
        if let Some(resource) = fields.get("resource") {
            let in_scope = constraint_entity(resource).is_some_and(|uid| self.is_scope_literal(&uid));
            if in_scope && self.environment.resource() == self.environment.principal() {
                return Err("the resource may be the principal, and is compared with a scope".to_owned());
            }
        }
        for condition in fields.get_mut("conditions").and_then(Value::as_array_mut).into_iter().flatten() {
            if let Some(body) = condition.get_mut("body") {
                *body = self.expression(body.take())?;
            }
        }
        Ok(Some(policy))
    }

    /// The constraint on the principal for the scope; none if no principal of the scope satisfies it.
    fn principal_constraint(&self, constraint: &Value) -> Result<Option<Value>, String> {
        let Some(uid) = constraint_entity(constraint).filter(|uid| self.is_scope_literal(uid)) else {
            return Ok(Some(constraint.clone()));
        };
        if !self.scopes.included.contains(&uid) {
            return Ok(None);
        }
        match constraint.get("entity_type") {
            Some(kind) => Ok(Some(json!({ "op": "is", "entity_type": kind }))),
            None => Ok(Some(json!({ "op": "All" }))),
        }
    }

    fn expression(&self, expression: Value) -> Result<Value, String> {
        let Value::Object(mut fields) = expression else { return Ok(expression) };
        let Some(operator) = fields.keys().next().cloned() else { return Ok(Value::Object(fields)) };
        let Some(operand) = fields.shift_remove(&operator) else { return Ok(Value::Object(fields)) };
        let operand = match (operator.as_str(), operand) {
            ("in", operand) => return self.membership(operand),
            ("is", operand) if operand.get("in").is_some() => return self.type_and_membership(operand),
            ("Value" | "Var" | "Slot" | "Unknown", operand) => operand,
            ("Record", Value::Object(fields)) => Value::Object(self.each(fields, |_| true)?),
            (_, Value::Array(items)) => {
                Value::Array(items.into_iter().map(|item| self.expression(item)).collect::<Result<_, _>>()?)
            }
            (_, Value::Object(fields)) => {
                let operands = ["left", "right", "arg", "if", "then", "else"];
                Value::Object(self.each(fields, |name| operands.contains(&name))?)
            }
            (_, operand) => operand,
        };
        Ok(json!({ operator: operand }))
    }

    fn each(
        &self,
        fields: Map<String, Value>,
        is_expression: impl Fn(&str) -> bool,
    ) -> Result<Map<String, Value>, String> {
        let convert = |(name, value): (String, Value)| {
            let value = if is_expression(&name) { self.expression(value)? } else { value };
            Ok((name, value))
        };
        fields.into_iter().map(convert).collect()
    }

    /// `left is Type in right`.
    fn type_and_membership(&self, mut operand: Value) -> Result<Value, String> {
        let fields = operand.as_object_mut().ok_or("not an object")?;
        let right = fields.shift_remove("in").unwrap_or_default();
        let left = fields.get("left").cloned().unwrap_or_default();
        let membership = self.membership(json!({ "left": left, "right": right }))?;
        let left = self.expression(left)?;
        fields.insert("left".to_owned(), left);
        Ok(json!({ "&&": { "left": { "is": operand }, "right": membership } }))
    }

    /// `left in right`.
    fn membership(&self, mut operand: Value) -> Result<Value, String> {
        let mut side = |name: &str| operand.get_mut(name).map(Value::take).unwrap_or_default();
        let (left, right) = (side("left"), side("right"));
        let is_principal = left == json!({ "Var": "principal" });
        let left_may_be_principal = is_principal
            || match self.entity(&left) {
                Entity::Literal(uid) => uid.type_name() == self.environment.principal(),
                Entity::OfType(kind) => kind == self.environment.principal().to_string(),
                Entity::Unknown => true,
            };
        let elements = match right.get("Set").and_then(Value::as_array) {
            Some(elements) => elements.clone(),
            None => vec![right.clone()],
        };
        let kinds: Vec<Entity> = elements.iter().map(|element| self.entity(element)).collect();
        let is_without_scopes = kinds.iter().all(|kind| match kind {
            Entity::Literal(uid) => !self.is_scope_literal(uid),
            Entity::OfType(kind) => kind != SCOPE_TYPE,
            Entity::Unknown => false,
        });
        if !left_may_be_principal || is_without_scopes {
            let (left, right) = (self.expression(left)?, self.expression(right)?);
            return Ok(json!({ "in": { "left": left, "right": right } }));
        }
        if !is_principal {
            return Err("an entity that may be the principal is compared with a scope".to_owned());
        }
        let alternatives = elements.into_iter().zip(kinds).map(|(element, kind)| match kind {
            Entity::Literal(uid) => Ok(json!({ "Value": self.scopes.included.contains(&uid) })),
            Entity::OfType(kind) if kind == SCOPE_TYPE => Ok(self.is_included(&element)),
            _ => Err("the principal is compared with entities that may be scopes".to_owned()),
        });
        let alternatives: Vec<Value> = alternatives.collect::<Result<_, _>>()?;
        Ok(any_of(alternatives))
    }

    /// Whether a scope that is only known with the request is one of those that the principal has.
    fn is_included(&self, scope: &Value) -> Value {
        any_of(self.scopes.included.iter().map(|uid| {
            let literal = json!({ "type": uid.type_name().to_string(), "id": uid.id().unescaped() });
            json!({ "==": { "left": scope, "right": { "Value": { "__entity": literal } } } })
        }))
    }

    fn is_scope_literal(&self, uid: &EntityUid) -> bool {
        uid.type_name().to_string() == SCOPE_TYPE
    }

    /// What is known of the entity that an expression stands for.
    fn entity(&self, expression: &Value) -> Entity {
        if let Some(uid) = expression.get("Value").and_then(uid_from_json) {
            return Entity::Literal(uid);
        }
        let mut path = Vec::new();
        let mut current = expression;
        while let Some(access) = current.get(".") {
            let Some(name) = access.get("attr").and_then(Value::as_str) else { return Entity::Unknown };
            path.push(name);
            current = access.get("left").unwrap_or(&Value::Null);
        }
        path.reverse();
        let (principal, resource) = (self.environment.principal(), self.environment.resource());
        let start = match current.get("Var").and_then(Value::as_str) {
            Some("principal") => PathStart::Entity(principal.to_string()),
            Some("resource") => PathStart::Entity(resource.to_string()),
            Some("context") => PathStart::Context(self.environment.action().clone()),
            Some("action") => PathStart::Entity(self.environment.action().type_name().to_string()),
            _ => return Entity::Unknown,
        };
        match (start, path.as_slice()) {
            (PathStart::Entity(kind), []) => Entity::OfType(kind),
            (start, path) => self.bundle.entity_type_at(start, path).map_or(Entity::Unknown, Entity::OfType),
        }
    }
}

/// The entity of `principal in X` or `principal is T in X`; none for other constraints.
fn constraint_entity(constraint: &Value) -> Option<EntityUid> {
    match constraint.get("op")?.as_str()? {
        "in" => uid_from_json(constraint.get("entity")?),
        "is" => uid_from_json(constraint.get("in")?.get("entity")?),
        _ => None,
    }
}

fn uid_from_json(value: &Value) -> Option<EntityUid> {
    let value = value.get("__entity").unwrap_or(value);
    let json = json!({ "__entity": { "type": value.get("type")?, "id": value.get("id")? } });
    EntityUid::from_json(json).ok()
}

/// The disjunction of expressions; constants are simplified.
fn any_of(alternatives: impl IntoIterator<Item = Value>) -> Value {
    let (yes, no) = (json!({ "Value": true }), json!({ "Value": false }));
    let mut open: Vec<Value> = alternatives.into_iter().filter(|alternative| *alternative != no).collect();
    if open.contains(&yes) {
        return yes;
    }
    let Some(last) = open.pop() else { return no };
    open.into_iter().rev().fold(last, |right, left| json!({ "||": { "left": left, "right": right } }))
}
