//! Policies without the hierarchy of the data: a test for membership in an entity of the data becomes one for that entity and
//! everything below it.
//!
//! The data of two versions may contradict each other (`Scope::"admin"` is in `Scope::"bot"`, or not), so that no request agrees
//! with both. Flattened, each policy contains what its own data says, and requests name the entities themselves.

use crate::types::to_raw_json;
use cedar_policy::{Entities, Entity, EntityUid, Policy};
use serde_json::{Map, Value, json};
use std::collections::{BTreeMap, BTreeSet};

/// The entities of the data that are in each entity, itself included, for the entities that have others below them.
pub(super) type Descendants = BTreeMap<EntityUid, BTreeSet<EntityUid>>;

/// The descendants of the entities that these policies name.
pub(super) fn descendants<'a>(
    data: &[Entity],
    policies: impl IntoIterator<Item = &'a Policy>,
) -> Descendants {
    let named: BTreeSet<EntityUid> = policies.into_iter().flat_map(Policy::entity_literals).collect();
    let Ok(entities) = Entities::from_entities(data.to_vec(), None) else { return Descendants::new() };
    let mut all = Descendants::new();
    for entity in entities.iter() {
        let uid = entity.uid();
        for ancestor in entities.ancestors(&uid).into_iter().flatten().filter(|uid| named.contains(*uid)) {
            all.entry(ancestor.clone())
                .or_insert_with(|| BTreeSet::from([ancestor.clone()]))
                .insert(uid.clone());
        }
    }
    all
}

/// The same policy without the hierarchy. None if Cedar cannot convert it.
pub(super) fn flatten(policy: &Policy, descendants: &Descendants) -> Option<Policy> {
    let mut json = policy.to_json().ok()?;
    let fields = json.as_object_mut()?;
    let mut conditions: Vec<Value> = Vec::new();
    for variable in ["principal", "resource"] {
        conditions.extend(flatten_scope(variable, fields, descendants));
    }
    let written = fields.remove("conditions");
    conditions.extend(written.as_ref().and_then(Value::as_array).into_iter().flatten().cloned());
    conditions.iter_mut().for_each(|condition| flatten_expression(condition, descendants));
    fields.insert("conditions".to_owned(), Value::Array(conditions));
    Policy::from_json(Some(policy.id().clone()), json).ok()
}

/// Moves the membership that a scope requires to a condition, if the entity has others below it.
fn flatten_scope(
    variable: &str,
    fields: &mut Map<String, Value>,
    descendants: &Descendants,
) -> Option<Value> {
    let scope = fields.get_mut(variable)?.as_object_mut()?;
    let entity = scope.get("entity").or_else(|| scope.get("in")?.get("entity"))?.clone();
    let is_membership = scope.get("op") == Some(&json!("in")) || scope.contains_key("in");
    if !is_membership || !descendants.contains_key(&entity_uid(&entity)?) {
        return None;
    }
    match scope.contains_key("entity_type") {
        true => drop(scope.remove("in")),
        false => *scope = Map::from_iter([("op".to_owned(), json!("All"))]),
    }
    let value = json!({ "Value": { "__entity": entity } });
    Some(json!({ "kind": "when", "body": { "in": { "left": { "Var": variable }, "right": value } } }))
}

/// Replaces the entities on the right of every `in`.
fn flatten_expression(value: &mut Value, descendants: &Descendants) {
    match value {
        Value::Array(items) => items.iter_mut().for_each(|item| flatten_expression(item, descendants)),
        Value::Object(fields) => {
            fields.values_mut().for_each(|field| flatten_expression(field, descendants));
            if let Some(expanded) = fields.get("in").and_then(|test| flatten_membership(test, descendants)) {
                *value = expanded;
            } else if let Some(expanded) =
                fields.get("is").and_then(|test| flatten_typed_membership(test, descendants))
            {
                *value = expanded;
            }
        }
        _ => {}
    }
}

/// `left in right` for each type of the entities below `right`, combined by `||`.
fn flatten_membership(test: &Value, descendants: &Descendants) -> Option<Value> {
    let (left, right) = (test.get("left")?, test.get("right")?);
    let listed = match right.get("Set").and_then(Value::as_array) {
        Some(elements) => elements.iter().map(literal).collect::<Option<Vec<_>>>()?,
        None => vec![literal(right)?],
    };
    if !listed.iter().any(|uid| descendants.contains_key(uid)) {
        return None;
    }
    let mut by_type: BTreeMap<String, BTreeSet<EntityUid>> = BTreeMap::new();
    for uid in listed {
        let below = descendants.get(&uid).cloned().unwrap_or_else(|| BTreeSet::from([uid]));
        for uid in below {
            by_type.entry(uid.type_name().to_string()).or_default().insert(uid);
        }
    }
    let value = |uid: &EntityUid| {
        let entity = json!({ "type": uid.type_name().to_string(), "id": uid.id().unescaped() });
        json!({ "Value": { "__entity": entity } })
    };
    by_type
        .values()
        .map(|uids| {
            let set: Vec<Value> = uids.iter().map(value).collect();
            json!({ "in": { "left": left, "right": { "Set": set } } })
        })
        .reduce(|one, other| json!({ "||": { "left": one, "right": other } }))
}

/// `left is Type in right` as `left is Type && left in …`.
fn flatten_typed_membership(test: &Value, descendants: &Descendants) -> Option<Value> {
    let (left, kind) = (test.get("left")?, test.get("entity_type")?);
    let membership = json!({ "left": left, "right": test.get("in")? });
    let expanded = flatten_membership(&membership, descendants)?;
    let is_type = json!({ "is": { "left": left, "entity_type": kind } });
    Some(json!({ "&&": { "left": is_type, "right": expanded } }))
}

fn literal(expression: &Value) -> Option<EntityUid> {
    entity_uid(expression.get("Value")?.get("__entity")?)
}

fn entity_uid(entity: &Value) -> Option<EntityUid> {
    EntityUid::from_json(json!({ "__entity": entity })).ok()
}

/// The entities without their parents.
pub(super) fn without_parents(data: &[Entity]) -> Vec<Entity> {
    let flat = |entity: &Entity| {
        let (uid, _, _) = entity.clone().into_inner();
        Entity::new_no_attrs(uid, std::collections::HashSet::new())
    };
    data.iter().map(flat).collect()
}

/// What a policy says, without its id and annotations: policies with equal texts match the same requests.
pub(super) fn logic(policy: &Policy) -> String {
    let mut json = policy.to_json().unwrap_or_default();
    if let Some(fields) = json.as_object_mut() {
        fields.remove("annotations");
    }
    to_raw_json(&json).get().to_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_flattened_policy_names_everything_below_an_entity() {
        let data = r#"[
            {"uid": {"type": "Scope", "id": "admin"}, "attrs": {}, "parents": [{"type": "Scope", "id": "bot"}]},
            {"uid": {"type": "Scope", "id": "bot"}, "attrs": {}, "parents": []}]"#;
        let data: Vec<Entity> = Entities::from_json_str(data, None).unwrap().iter().cloned().collect();
        for (text, expected) in [
            (
                r#"permit (principal is User in Scope::"bot", action, resource) when { resource in Scope::"admin" };"#,
                r#"principal in [Scope::"admin", Scope::"bot"]"#,
            ),
            (
                r#"forbid (principal in Scope::"bot", action, resource);"#,
                r#"principal in [Scope::"admin", Scope::"bot"]"#,
            ),
            (
                r#"forbid (principal, action, resource) unless { principal is User in Scope::"bot" };"#,
                r#"principal is User && principal in [Scope::"admin", Scope::"bot"]"#,
            ),
        ] {
            let policy = Policy::parse(None, text).unwrap();
            let flat = flatten(&policy, &descendants(&data, [&policy])).unwrap().to_string();
            let compact = |text: &str| text.replace(['(', ')'], "");
            assert!(compact(&flat).contains(&compact(expected)), "{flat}");
            assert!(!flat.contains(r#"in Scope::"bot""#), "{flat}");
        }
    }
}
