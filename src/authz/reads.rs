//! What the decisions on an action read: of the context, of the principal and of the resource. A remembered decision is
//! found again under just that, so the less is read, the more questions are the same one. Whatever is not understood
//! counts as read.

use cedar_policy::{EntityTypeName, EntityUid};
use serde_json::Value;
use std::collections::{BTreeSet, HashSet};

/// The attribute that names the organization of a principal or resource. It is part of the place, which every cache key
/// has, so that reading it is no further read.
pub(super) const PLACE: &str = "organization";

/// What the policies of one action read.
#[derive(Debug, Clone, Default)]
pub(super) struct Reads {
    /// The names of the context.
    pub(super) context: BTreeSet<String>,
    /// Of the principal, more than its type, scopes and place among the organizations.
    pub(super) principal: bool,
    /// Of the resource, more than its type and place.
    pub(super) resource: bool,
}

/// The use that a policy makes of the variables.
#[derive(Debug, Default)]
pub(super) struct Found {
    context: BTreeSet<String>,
    whole_context: bool,
    principal: bool,
    resource: bool,
    /// The types of the entities that it names.
    named: HashSet<EntityTypeName>,
}

impl Reads {
    /// What these policies read. `declared` are the names of the context, and the others the types to which the action
    /// applies.
    pub(super) fn of<'a>(
        policies: impl IntoIterator<Item = &'a Found>,
        declared: &BTreeSet<String>,
        principals: &HashSet<EntityTypeName>,
        resources: &HashSet<EntityTypeName>,
    ) -> Self {
        // One that can be either, or that a policy names, may be looked at under another name than its variable's.
        let is_mixed = !principals.is_disjoint(resources);
        let mut reads = Self { context: BTreeSet::new(), principal: is_mixed, resource: is_mixed };
        for found in policies {
            let is_named =
                found.named.iter().any(|kind| principals.contains(kind) || resources.contains(kind));
            let context = if found.whole_context { declared } else { &found.context };
            reads.context.extend(context.iter().cloned());
            reads.principal |= found.principal || is_named;
            reads.resource |= found.resource || is_named;
        }
        reads
    }
}

impl Found {
    /// Of a policy in its JSON form, which names these entities: of its scope, then of its conditions.
    pub(super) fn of(form: &Value, named: impl IntoIterator<Item = EntityUid>) -> Self {
        let named = named.into_iter().map(|uid| uid.type_name().clone()).collect();
        let mut found = Self { named, ..Self::default() };
        for variable in ["principal", "resource"] {
            let constraint = form.get(variable).unwrap_or(&Value::Null);
            let op = constraint.get("op").and_then(Value::as_str).unwrap_or_default();
            // What is in a literal is in none of its own type: those are refused by name.
            let has_slot = constraint.get("slot").or_else(|| constraint.pointer("/in/slot")).is_some();
            if !["All", "in", "is"].contains(&op) || has_slot {
                found.whole(variable);
            }
        }
        found.walk(form.get("conditions").unwrap_or(&Value::Null));
        found
    }

    fn whole(&mut self, variable: &str) {
        match variable {
            "principal" => self.principal = true,
            "resource" => self.resource = true,
            "context" => self.whole_context = true,
            _ => {}
        }
    }

    fn all(&mut self) {
        self.principal = true;
        self.resource = true;
    }

    fn walk(&mut self, form: &Value) {
        match form {
            Value::Object(fields) => {
                fields.iter().for_each(|(operator, operands)| self.operator(operator, operands));
            }
            Value::Array(items) => items.iter().for_each(|item| self.walk(item)),
            Value::Null | Value::Bool(_) | Value::Number(_) | Value::String(_) => {}
        }
    }

    fn operator(&mut self, operator: &str, operands: &Value) {
        let left = operands.get("left").unwrap_or(&Value::Null);
        let right = operands.get("right").unwrap_or(&Value::Null);
        let attribute = operands.get("attr").and_then(Value::as_str);
        match (operator, variable(left), attribute) {
            ("." | "has", Some("context"), Some(name)) => {
                self.context.insert(name.to_owned());
            }
            ("." | "has", Some("principal" | "resource"), Some(PLACE)) => {}
            // The type is always known.
            ("is", Some(_), None) if operands.get("in").is_none() => {}
            // In a place, which is no thing of its own type.
            ("in", Some("principal" | "resource"), None) if is_place(right) => {}
            // A record may have a field of that name.
            ("Var", ..) => match operands.as_str() {
                Some(name) => self.whole(name),
                None => self.walk(operands),
            },
            ("." | "has" | "getTag" | "hasTag", ..) => {
                // An attribute of what an attribute names may be one of either.
                if variable(left).is_none() {
                    self.all();
                }
                self.walk(operands);
            }
            _ => self.walk(operands),
        }
    }
}

/// The variable that an expression is, if it is no more than that.
fn variable(form: &Value) -> Option<&str> {
    form.get("Var").and_then(Value::as_str)
}

/// Whether an expression is an organization by the place of the principal or the resource, or a thing that the policy
/// names, or a set of such.
fn is_place(form: &Value) -> bool {
    if let Some(access) = form.get(".") {
        let of = access.get("left").and_then(variable);
        return matches!(of, Some("principal" | "resource"))
            && access.get("attr").and_then(Value::as_str) == Some(PLACE);
    }
    let is_entity = |form: &Value| form.pointer("/Value/__entity").is_some();
    let items = form.get("Set").and_then(Value::as_array);
    is_entity(form) || items.is_some_and(|items| items.iter().all(is_entity))
}

#[cfg(test)]
mod tests {
    use super::*;
    use cedar_policy::Policy;
    use std::str::FromStr;

    /// Conditions with what they read of the principal and the resource: `-` for no more than type and place.
    #[test]
    fn what_is_read_is_found() {
        for (condition, principal, resource) in [
            ("true", false, false),
            ("resource in principal.organization", false, false),
            ("principal in resource.organization || principal is User", false, false),
            (
                r#"principal in Scope::"a" && resource in [Organization::"x", Organization::"y"]"#,
                false,
                false,
            ),
            (r#"Scope::"a" in Scope::"b" && context.now == 1 && context has later"#, false, false),
            ("principal == resource", true, true),
            ("principal in resource", true, true),
            ("resource in principal", true, true),
            ("resource in principal.team", true, true),
            ("resource in principal.organization.parent", true, true),
            (r#"principal.organization == Organization::"x""#, false, false),
            ("resource has organization && resource.organization != principal.organization", false, false),
            ("resource.organization == principal", true, false),
            ("principal.organization.parent == resource.organization", true, true),
            ("principal has organization", false, false),
            (r#"principal.role == Scope::"a""#, true, false),
            ("resource has type", false, true),
            (r#"resource.type like "a*""#, false, true),
            (r#"resource in User::"x""#, true, true),
            (r#"User::"x".status == "y""#, true, true),
            (r#"[principal].contains(User::"x")"#, true, true),
            ("{Var: resource} == {Var: context.thing}", false, true),
            ("principal in context.scope", true, false),
            ("context.thing.owner.name == 1", true, true),
            (r#"if principal is User in Organization::"x" then true else false"#, true, false),
            (r#"resource.hasTag("x")"#, false, true),
            (
                r#"(if true then principal.organization else principal.organization) in Scope::"x""#,
                false,
                false,
            ),
        ] {
            let text = format!(
                r#"permit (principal in Scope::"a", action, resource is Form) when {{ {condition} }};"#
            );
            let found = found(&text);
            let reads = |kinds| reads(&found, kinds);
            let of = reads(["User", "Form"]);
            assert_eq!((of.principal, of.resource), (principal, resource), "{condition}");
            let mixed = reads(["User", "User"]);
            assert!(mixed.principal && mixed.resource, "one may be the other: {condition}");
        }
        for scope in
            ["principal == User::\"x\", action, resource", "principal, action, resource == Form::\"x\""]
        {
            let reads = reads(&found(&format!("permit ({scope});")), ["User", "Form"]);
            assert!(reads.principal && reads.resource, "{scope}");
        }
    }

    #[test]
    fn what_is_read_of_the_context_is_found() {
        let declared = BTreeSet::from(["now", "later", "ip"].map(str::to_owned));
        let kinds = HashSet::new();
        for (condition, expected) in [
            ("true", &[][..]),
            ("context.now == 1 && context has later", &["later", "now"]),
            ("[context].contains(context)", &["ip", "later", "now"]),
            ("{ of: if context has now then context else context } has of", &["ip", "later", "now"]),
        ] {
            let found = found(&format!("permit (principal, action, resource) when {{ {condition} }};"));
            let reads = Reads::of([&found], &declared, &kinds, &kinds);
            assert_eq!(reads.context.iter().collect::<Vec<_>>(), expected, "{condition}");
        }
    }

    fn found(text: &str) -> Found {
        let policy = Policy::from_str(text).unwrap();
        Found::of(&policy.to_json().unwrap(), policy.entity_literals())
    }

    fn reads(found: &Found, kinds: [&str; 2]) -> Reads {
        let [principals, resources] =
            kinds.map(|kind| HashSet::from([EntityTypeName::from_str(kind).unwrap()]));
        Reads::of([found], &BTreeSet::new(), &principals, &resources)
    }
}
