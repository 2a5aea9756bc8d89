//! What the schemas of two versions declare for a request environment, and in which of them both can be compared.
//!
//! The solver compares the requests of one schema. A field that only one version declares is absent for the other one, which
//! ignores it in requests. So the comparison is exact only where the policies of the version without the field do not test it.

use crate::authz::{FileKind, Snapshot};
use cedar_policy::{EntityUid, Policy, RequestEnv, schema_str_to_json_with_resolved_types};
use serde_json::{Map, Value};
use std::collections::{BTreeMap, BTreeSet};

/// The owner of the fields of the context.
const CONTEXT: &str = "the context";

/// Stands for all fields of the context among the names of fields.
const WHOLE_CONTEXT: &str = "*";

/// The schema of a version.
pub(super) struct Declarations(Value);

/// What the schema declares for a request environment: the action, and the types that its policies can reach.
#[derive(Default)]
pub(super) struct Environment {
    /// The fields of the context and of each type: the definition, and whether it is required.
    fields: BTreeMap<(String, String), (Value, bool)>,
    /// The parents that the action and each type can have, and the ids of enumerated types.
    others: BTreeMap<String, Value>,
    /// The types.
    pub(super) types: BTreeSet<String>,
}

/// In which schema an environment can be compared.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum ComparedSchema {
    /// In either one, since they declare the same.
    Any,
    /// In the old one: the new version does not know all fields.
    Old,
    /// In the new one: the old version does not know all fields.
    New,
    /// In none, for this reason.
    None(String),
}

impl Declarations {
    /// Reads the schema of a valid version.
    pub(super) fn read(files: &Snapshot) -> Self {
        let texts: Vec<&str> = files.of_kind(FileKind::Schema).map(|file| file.text.as_ref()).collect();
        let json = schema_str_to_json_with_resolved_types(&texts.join("\n"));
        Self(json.map(|(json, _)| json).unwrap_or_default())
    }

    /// What it declares for this environment.
    pub(super) fn of(&self, environment: &RequestEnv) -> Environment {
        let mut declared = Environment::default();
        let action = environment.action();
        if let Some((namespace, definition)) = self.action(action) {
            let context = definition.get("appliesTo").and_then(|applies| applies.get("context"));
            if let Some(context) = context {
                declared.add_fields(CONTEXT, &self.expand(&namespace, context));
            }
            let member_of = definition.get("memberOf").cloned().unwrap_or_default();
            declared.others.insert(action.to_string(), sorted(member_of));
        }
        let mut waiting: Vec<String> =
            vec![environment.principal().to_string(), environment.resource().to_string()];
        let context_types: Vec<String> =
            declared.fields.values().flat_map(|(definition, _)| entity_types(definition)).collect();
        waiting.extend(context_types);
        while let Some(kind) = waiting.pop() {
            if !declared.types.insert(kind.clone()) {
                continue;
            }
            let Some((namespace, definition)) = self.entity(&kind) else { continue };
            let shape =
                definition.get("shape").map(|shape| self.expand(&namespace, shape)).unwrap_or_default();
            declared.add_fields(&kind, &shape);
            waiting.extend(entity_types(&shape));
            let parents = definition.get("memberOfTypes").cloned().unwrap_or_default();
            let parents: Vec<String> =
                texts(&parents).map(|parent| qualified(&namespace, parent, self)).collect();
            waiting.extend(parents.iter().cloned());
            let tags = definition.get("tags").map(|tags| self.expand(&namespace, tags)).unwrap_or_default();
            let ids = definition.get("enum").cloned().unwrap_or_default();
            let others = Value::Array(vec![sorted(parents.into()), sorted(ids), tags]);
            declared.others.insert(kind, others);
        }
        declared
    }

    fn entity(&self, name: &str) -> Option<(String, &Value)> {
        let (namespace, base) = name.rsplit_once("::").unwrap_or(("", name));
        Some((namespace.to_owned(), self.0.get(namespace)?.get("entityTypes")?.get(base)?))
    }

    fn action(&self, action: &EntityUid) -> Option<(String, &Value)> {
        let namespace = action.type_name().namespace();
        let definition = self.0.get(&namespace)?.get("actions")?.get(action.id().unescaped())?;
        Some((namespace, definition))
    }

    /// The definition without annotations, and with the definitions of common types in place of their names.
    fn expand(&self, namespace: &str, definition: &Value) -> Value {
        let Some(fields) = definition.as_object() else { return definition.clone() };
        let name =
            fields.get("name").or_else(|| fields.get("type")).and_then(Value::as_str).unwrap_or_default();
        let (type_namespace, base) = name.rsplit_once("::").unwrap_or((namespace, name));
        let common = [type_namespace, namespace, ""]
            .into_iter()
            .find_map(|space| Some((space, self.0.get(space)?.get("commonTypes")?.get(base)?)));
        if let Some((space, common)) = common.filter(|_| !fields.contains_key("attributes")) {
            // A required field stays one.
            let mut expanded = self.expand(space, common);
            if let (Some(required), Some(expanded)) = (fields.get("required"), expanded.as_object_mut()) {
                expanded.insert("required".to_owned(), required.clone());
            }
            return expanded;
        }
        let expanded = fields.iter().filter(|(name, _)| *name != "annotations").map(|(name, value)| {
            let value = match value {
                Value::Object(inner) if name == "attributes" => Value::Object(
                    inner.iter().map(|(name, value)| (name.clone(), self.expand(namespace, value))).collect(),
                ),
                Value::Object(_) => self.expand(namespace, value),
                Value::String(text) if name == "name" => Value::String(qualified(namespace, text, self)),
                _ => value.clone(),
            };
            (name.clone(), value)
        });
        Value::Object(expanded.collect::<Map<_, _>>())
    }
}

impl Environment {
    fn add_fields(&mut self, owner: &str, record: &Value) {
        for (name, definition) in record.get("attributes").and_then(Value::as_object).into_iter().flatten() {
            let is_required = definition.get("required").and_then(Value::as_bool).unwrap_or(true);
            self.fields.insert((owner.to_owned(), name.clone()), (definition.clone(), is_required));
        }
    }

    /// The types of entities that fields with this name can contain.
    pub(super) fn types_of_field(&self, name: &str) -> BTreeSet<String> {
        let fields = self.fields.iter().filter(|((_, field), _)| field == name);
        let nested = self.fields.values().flat_map(|(definition, _)| nested_types(definition, name));
        fields.flat_map(|(_, (definition, _))| entity_types(definition)).chain(nested).collect()
    }

    /// Whether a request needs a context.
    pub(super) fn needs_context(&self) -> bool {
        self.fields.iter().any(|((owner, _), (_, is_required))| owner == CONTEXT && *is_required)
    }
}

/// In which schema the policies of both versions can be compared. `fields_of_old` and `fields_of_new` are the names of the fields
/// that the policies of the versions test or read.
pub(super) fn compared_schema(
    [old, new]: [&Environment; 2],
    [fields_of_old, fields_of_new]: [&BTreeSet<String>; 2],
) -> ComparedSchema {
    let changed =
        |owner: &str| format!("the schema changes {owner}, so that requests are valid for one version only");
    for (owner, before) in &old.others {
        if new.others.get(owner).is_some_and(|after| after != before) {
            return ComparedSchema::None(changed(&format!("the parents or ids of {owner}")));
        }
    }
    let (mut needs_old, mut needs_new) = (false, false);
    let names: BTreeSet<&(String, String)> = old.fields.keys().chain(new.fields.keys()).collect();
    for place in names {
        let (owner, name) = place;
        let is_known = |declared: &Environment| owner == CONTEXT || declared.types.contains(owner);
        if !is_known(old) || !is_known(new) {
            continue;
        }
        let is_mentioned = |fields: &BTreeSet<String>| {
            fields.contains(name) || (owner == CONTEXT && fields.contains(WHOLE_CONTEXT))
        };
        match (old.fields.get(place), new.fields.get(place)) {
            (Some(before), Some(after)) if before == after => {}
            (Some((_, false)), None) if !is_mentioned(fields_of_new) => {
                needs_old |= is_mentioned(fields_of_old);
            }
            (None, Some((_, false))) if !is_mentioned(fields_of_old) => {
                needs_new |= is_mentioned(fields_of_new);
            }
            _ => return ComparedSchema::None(changed(&format!("`{name}` of {owner}"))),
        }
    }
    match (needs_old, needs_new) {
        (false, false) => ComparedSchema::Any,
        (true, false) => ComparedSchema::Old,
        (false, true) => ComparedSchema::New,
        (true, true) => ComparedSchema::None(
            "the schema removes fields that the old policies read, and adds some that the new ones read"
                .to_owned(),
        ),
    }
}

/// The names of the fields that these policies test or read.
pub(super) fn fields_of<'a>(policies: impl IntoIterator<Item = &'a Policy>) -> BTreeSet<String> {
    let mut names = BTreeSet::new();
    for policy in policies {
        collect_fields(&policy.to_json().unwrap_or_default(), &mut names);
    }
    names
}

fn collect_fields(expression: &Value, names: &mut BTreeSet<String>) {
    match expression {
        Value::Object(fields) => {
            for (operator, operands) in fields {
                let attribute = operands.get("attr").and_then(Value::as_str);
                match (operator.as_str(), attribute) {
                    ("." | "has", Some(name)) => {
                        names.insert(name.to_owned());
                        if let Some(left) = operands.get("left").filter(|left| left.get("Var").is_none()) {
                            collect_fields(left, names);
                        }
                    }
                    // The record as a whole, such as in a comparison, has all fields.
                    ("Var", _) if operands == "context" => drop(names.insert(WHOLE_CONTEXT.to_owned())),
                    _ => collect_fields(operands, names),
                }
            }
        }
        Value::Array(items) => items.iter().for_each(|item| collect_fields(item, names)),
        _ => {}
    }
}

/// The names of the entity types in a definition.
fn entity_types(definition: &Value) -> Vec<String> {
    match definition {
        Value::Object(fields) => {
            let is_entity = fields.get("type").and_then(Value::as_str) == Some("Entity");
            let own = fields.get("name").and_then(Value::as_str).filter(|_| is_entity).map(str::to_owned);
            own.into_iter().chain(fields.values().flat_map(entity_types)).collect()
        }
        Value::Array(items) => items.iter().flat_map(entity_types).collect(),
        _ => Vec::new(),
    }
}

/// The entity types of fields with this name within a definition.
fn nested_types(definition: &Value, name: &str) -> Vec<String> {
    match definition {
        Value::Object(fields) => {
            let own = fields.get("attributes").and_then(|attributes| attributes.get(name)).map(entity_types);
            let nested = fields.values().flat_map(|value| nested_types(value, name));
            own.into_iter().flatten().chain(nested).collect()
        }
        _ => Vec::new(),
    }
}

/// The name of a type with its namespace.
fn qualified(namespace: &str, name: &str, declarations: &Declarations) -> String {
    let in_namespace = format!("{namespace}::{name}");
    if !namespace.is_empty() && declarations.entity(&in_namespace).is_some() {
        in_namespace
    } else {
        name.to_owned()
    }
}

fn texts(value: &Value) -> impl Iterator<Item = &str> {
    value.as_array().into_iter().flatten().filter_map(Value::as_str)
}

/// The array in ascending order.
fn sorted(value: Value) -> Value {
    match value {
        Value::Array(mut items) => {
            items.sort_by_key(Value::to_string);
            Value::Array(items)
        }
        other => other,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_fields_that_a_policy_reads_include_those_of_a_whole_context() {
        for (condition, expected) in [
            ("context.a && resource has b && principal.c.d", vec!["a", "b", "c", "d"]),
            ("context has a && context.a.b", vec!["a", "b"]),
            ("context == { a: true }", vec![WHOLE_CONTEXT]),
            ("[context].contains({ a: context.b })", vec![WHOLE_CONTEXT, "b"]),
        ] {
            let policy: Policy =
                format!("permit (principal, action, resource) when {{ {condition} }};").parse().unwrap();
            assert_eq!(
                fields_of([&policy]),
                expected.into_iter().map(str::to_owned).collect(),
                "{condition}"
            );
        }
    }
}
