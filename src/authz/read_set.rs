//! Static analysis of what policies read of the context, the principal and the resource.
//!
//! The cache key of a decision covers only what the policies of the action read, so that more requests share a cached
//! decision. The analysis is conservative: an unknown expression counts as reading everything that it contains.

use super::entity_uid::ORGANIZATION;
use cedar_policy::{EntityTypeName, EntityUid};
use serde_json::Value;
use std::collections::{BTreeSet, HashSet};

/// The attribute that refers to the organization of a principal or resource. Every cache key contains it, so that reading it
/// does not count.
pub(super) const ORGANIZATION_ATTRIBUTE: &str = "organization";

/// What the policies of one action read.
#[derive(Debug, Clone, Default)]
pub(super) struct ActionReadSet {
    /// The fields of the context that are read.
    pub(super) context: BTreeSet<String>,
    /// Whether more of the principal is read than its type, scopes and organization.
    pub(super) principal: bool,
    /// Whether more of the resource is read than its type and organization.
    pub(super) resource: bool,
}

/// What one policy reads.
#[derive(Debug, Default)]
pub(super) struct PolicyReadSet {
    context: BTreeSet<String>,
    has_whole_context: bool,
    principal: bool,
    resource: bool,
    /// Whether it tests the type of the resource, or membership in something else than an organization.
    tests_resource_type: bool,
    /// Whether its conditions use the variable `action`.
    pub(super) action: bool,
    /// The types of its entity literals.
    entity_types: HashSet<EntityTypeName>,
}

impl ActionReadSet {
    /// Combines what these policies read. `declared` are the fields of the context; `principals` and `resources` are the types
    /// that the action applies to.
    pub(super) fn new<'a>(
        policies: impl IntoIterator<Item = &'a PolicyReadSet>,
        declared: &BTreeSet<String>,
        principals: &HashSet<EntityTypeName>,
        resources: &HashSet<EntityTypeName>,
    ) -> Self {
        // If a type can be both principal and resource, or if a literal has such a type, a policy may read the principal or
        // the resource without using its variable.
        let is_mixed = !principals.is_disjoint(resources);
        let mut combined = Self { context: BTreeSet::new(), principal: is_mixed, resource: is_mixed };
        for read_set in policies {
            let has_literal = read_set
                .entity_types
                .iter()
                .any(|kind| principals.contains(kind) || resources.contains(kind));
            let context = if read_set.has_whole_context { declared } else { &read_set.context };
            combined.context.extend(context.iter().cloned());
            combined.principal |= read_set.principal || has_literal;
            combined.resource |= read_set.resource || has_literal;
        }
        combined
    }
}

impl PolicyReadSet {
    /// Analyzes scope and conditions of a policy in its JSON format. `entity_literals` are all literals of the policy.
    pub(super) fn new(policy_json: &Value, entity_literals: impl IntoIterator<Item = EntityUid>) -> Self {
        let entity_literals = entity_literals.into_iter().map(|uid| uid.type_name().clone()).collect();
        let mut read_set = Self { entity_types: entity_literals, ..Self::default() };
        for variable in ["principal", "resource"] {
            let constraint = policy_json.get(variable).unwrap_or(&Value::Null);
            let op = constraint.get("op").and_then(Value::as_str).unwrap_or_default();
            // `in` with a literal reads ancestors only. A literal of the type of the variable itself counts as a read in
            // `ActionReadSet::new`.
            let has_slot = constraint.get("slot").or_else(|| constraint.pointer("/in/slot")).is_some();
            if !["All", "in", "is"].contains(&op) || has_slot {
                read_set.add_variable(variable);
            }
            if variable == "resource" {
                let is_organization =
                    constraint.pointer("/entity/type").and_then(Value::as_str) == Some(ORGANIZATION);
                read_set.tests_resource_type |= op == "is" || (op == "in" && !is_organization);
            }
        }
        read_set.visit(policy_json.get("conditions").unwrap_or(&Value::Null));
        read_set
    }

    /// Whether it can decide two resources of this type differently that are in one organization, or a resource and its
    /// organization.
    pub(super) fn reads_rows(&self, kind: &EntityTypeName) -> bool {
        self.resource || self.tests_resource_type || self.entity_types.contains(kind)
    }

    fn add_variable(&mut self, variable: &str) {
        match variable {
            "principal" => self.principal = true,
            "resource" => self.resource = true,
            "action" => self.action = true,
            "context" => self.has_whole_context = true,
            _ => {}
        }
    }

    fn add_both_entities(&mut self) {
        self.principal = true;
        self.resource = true;
    }

    fn visit(&mut self, expression: &Value) {
        match expression {
            Value::Object(fields) => {
                fields.iter().for_each(|(operator, operands)| self.visit_operator(operator, operands));
            }
            Value::Array(items) => items.iter().for_each(|item| self.visit(item)),
            Value::Null | Value::Bool(_) | Value::Number(_) | Value::String(_) => {}
        }
    }

    fn visit_operator(&mut self, operator: &str, operands: &Value) {
        let left = operands.get("left").unwrap_or(&Value::Null);
        let right = operands.get("right").unwrap_or(&Value::Null);
        let attribute = operands.get("attr").and_then(Value::as_str);
        self.tests_resource_type |= match operator {
            "is" => variable(left) != Some("principal"),
            "in" => variable(left) == Some("resource") && !is_of_organizations(right),
            _ => false,
        };
        match (operator, variable(left), attribute) {
            ("." | "has", Some("context"), Some(name)) => {
                self.context.insert(name.to_owned());
            }
            ("." | "has", Some("principal" | "resource"), Some(ORGANIZATION_ATTRIBUTE)) => {}
            // The cache key always contains the type.
            ("is", Some(_), None) if operands.get("in").is_none() => {}
            // Membership in an organization is part of every cache key.
            ("in", Some("principal" | "resource"), None) if is_organization_operand(right) => {}
            // A record may have a field that is named `Var`.
            ("Var", ..) => match operands.as_str() {
                Some(name) => self.add_variable(name),
                None => self.visit(operands),
            },
            ("." | "has" | "getTag" | "hasTag", ..) => {
                // An attribute may refer to the principal or the resource.
                if variable(left).is_none() {
                    self.add_both_entities();
                }
                self.visit(operands);
            }
            _ => self.visit(operands),
        }
    }
}

/// The name of the variable, if the expression is only a variable.
fn variable(expression: &Value) -> Option<&str> {
    expression.get("Var").and_then(Value::as_str)
}

/// Whether an expression is the organization of the principal or the resource, an entity literal, or a set of literals.
fn is_organization_operand(expression: &Value) -> bool {
    if let Some(access) = expression.get(".") {
        let entity = access.get("left").and_then(variable);
        return matches!(entity, Some("principal" | "resource"))
            && access.get("attr").and_then(Value::as_str) == Some(ORGANIZATION_ATTRIBUTE);
    }
    let is_entity = |expression: &Value| expression.pointer("/Value/__entity").is_some();
    let items = expression.get("Set").and_then(Value::as_array);
    is_entity(expression) || items.is_some_and(|items| items.iter().all(is_entity))
}

/// Whether an expression that [`is_organization_operand`] accepts has organizations only.
fn is_of_organizations(expression: &Value) -> bool {
    let is_organization = |expression: &Value| {
        expression.pointer("/Value/__entity/type").and_then(Value::as_str) == Some(ORGANIZATION)
    };
    let items = expression.get("Set").and_then(Value::as_array);
    let is_attribute = expression.get(".").is_some() && is_organization_operand(expression);
    is_attribute
        || is_organization(expression)
        || items.is_some_and(|items| items.iter().all(is_organization))
}

#[cfg(test)]
mod tests {
    use super::*;
    use cedar_policy::Policy;
    use std::str::FromStr;

    /// Conditions, and whether they read more of the principal and of the resource than type, scopes and organization.
    #[test]
    fn reads_of_principal_and_resource_are_found() {
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
            let read_set = analyze(&text);
            let reads = |kinds| reads(&read_set, kinds);
            let distinct = reads(["User", "Form"]);
            assert_eq!((distinct.principal, distinct.resource), (principal, resource), "{condition}");
            let mixed = reads(["User", "User"]);
            assert!(mixed.principal && mixed.resource, "a user can be both: {condition}");
        }
        for scope in
            ["principal == User::\"x\", action, resource", "principal, action, resource == Form::\"x\""]
        {
            let reads = reads(&analyze(&format!("permit ({scope});")), ["User", "Form"]);
            assert!(reads.principal && reads.resource, "{scope}");
        }
    }

    /// Policies about lists, and whether they can decide the rows of one organization differently.
    #[test]
    fn policies_that_read_rows_are_found() {
        for (policy, expected) in [
            ("forbid (principal, action, resource) unless { resource in principal.organization };", false),
            (
                "forbid (principal, action, resource) when { resource.organization != principal.organization };",
                false,
            ),
            (r#"forbid (principal, action, resource in Organization::"x");"#, false),
            (r#"forbid (principal, action, resource) when { resource in [Organization::"x"] };"#, false),
            (r#"forbid (principal is User, action, resource) unless { principal in Scope::"bot" };"#, false),
            ("forbid (principal, action, resource) when { principal is User };", false),
            ("forbid (principal, action, resource is Form);", true),
            ("forbid (principal, action, resource) when { resource is Form };", true),
            (r#"forbid (principal, action, resource in Scope::"x");"#, true),
            (r#"forbid (principal, action, resource) when { resource in Scope::"x" };"#, true),
            (
                r#"forbid (principal, action, resource) when { resource has type && resource.type == "x" };"#,
                true,
            ),
            (r#"forbid (principal, action, resource == Form::"x");"#, true),
            (r#"forbid (principal, action, resource) when { principal.favorite == Form::"x" };"#, true),
            ("forbid (principal, action, resource) when { principal == resource };", true),
        ] {
            let form = EntityTypeName::from_str("Form").unwrap();
            assert_eq!(analyze(policy).reads_rows(&form), expected, "{policy}");
        }
    }

    #[test]
    fn reads_of_the_context_are_found() {
        let declared = BTreeSet::from(["now", "later", "ip"].map(str::to_owned));
        let kinds = HashSet::new();
        for (condition, expected) in [
            ("true", &[][..]),
            ("context.now == 1 && context has later", &["later", "now"]),
            ("[context].contains(context)", &["ip", "later", "now"]),
            ("{ of: if context has now then context else context } has of", &["ip", "later", "now"]),
        ] {
            let read_set = analyze(&format!("permit (principal, action, resource) when {{ {condition} }};"));
            let reads = ActionReadSet::new([&read_set], &declared, &kinds, &kinds);
            assert_eq!(reads.context.iter().collect::<Vec<_>>(), expected, "{condition}");
        }
    }

    fn analyze(text: &str) -> PolicyReadSet {
        let policy = Policy::from_str(text).unwrap();
        PolicyReadSet::new(&policy.to_json().unwrap(), policy.entity_literals())
    }

    fn reads(read_set: &PolicyReadSet, kinds: [&str; 2]) -> ActionReadSet {
        let [principals, resources] =
            kinds.map(|kind| HashSet::from([EntityTypeName::from_str(kind).unwrap()]));
        ActionReadSet::new([read_set], &BTreeSet::new(), &principals, &resources)
    }
}
