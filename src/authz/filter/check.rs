//! Whether a policy can be a filter, whatever the principal and the context are.
//!
//! A list is filtered by its policies, so that one which cannot be a filter must not become active. Principal and context are
//! unknown then: each part that does not depend on the resource is replaced by a constant of its type, and what is left is
//! translated. Parts that only some requests evaluate are translated, too, so that no request meets a refusal.

use super::translator::{AncestorRule, Refusal, Translator};
use super::tree::EntityId;
use crate::authz::entity_uid::{ORGANIZATION, USER};
use crate::authz::schema_type::SchemaType;
use cedar_policy::pst::{
    BinaryOp, Clause, EntityType, EntityUID, Expr, Literal, Name, PstConstructionError, UnaryOp, Var,
};
use cedar_policy::{Entities, Policy};
use std::collections::BTreeSet;
use std::sync::Arc;

/// Replaces what a request determines.
struct Substitution<'a> {
    /// The type of the resources.
    kind: &'a str,
    /// Its declared attributes.
    resource_type: Option<&'a SchemaType>,
}

/// The first expression of a policy that no filter of resources of this type, which are stored in the database of the service,
/// can state.
///
/// # Errors
/// Cedar cannot convert the policy.
pub(in crate::authz) fn row_refusal(
    policy: &Policy,
    kind: &str,
    resource_type: Option<&SchemaType>,
) -> Result<Option<Refusal>, Box<PstConstructionError>> {
    let (entities, ancestor_types) = (Entities::empty(), BTreeSet::from([ORGANIZATION.to_owned()]));
    let translator = Translator {
        kind,
        resource_type,
        principal: EntityId { kind: USER.to_owned(), id: String::new() },
        is_principal: false,
        entities: &entities,
        ancestor_types: &ancestor_types,
        ancestors: AncestorRule::Organizations { of_principal: BTreeSet::new() },
    };
    let substitution = Substitution { kind, resource_type };
    for clause in policy.to_pst()?.body().clauses() {
        let (Clause::When(condition) | Clause::Unless(condition)) = clause;
        let condition = substitution.condition(condition)?;
        if let Err(refusal) = translator.truth(&condition) {
            return Ok(Some(refusal));
        }
    }
    Ok(None)
}

type Substituted = Result<Arc<Expr>, Box<PstConstructionError>>;

impl Substitution<'_> {
    /// A condition.
    fn condition(&self, expr: &Arc<Expr>) -> Substituted {
        if let Some(value) = self.value_of_type(expr) {
            return Ok(Arc::new(Expr::Literal(Literal::Bool(value))));
        }
        if self.is_known(expr) {
            return Ok(Arc::new(Expr::Literal(Literal::Bool(true))));
        }
        Ok(Arc::new(match &**expr {
            Expr::UnaryOp { op: op @ UnaryOp::Not, expr } => {
                Expr::UnaryOp { op: *op, expr: self.condition(expr)? }
            }
            Expr::BinaryOp { op: BinaryOp::And | BinaryOp::Or, left, right }
                if self.value_of_type(left).is_some() =>
            {
                return self.condition(right);
            }
            Expr::BinaryOp { op: op @ (BinaryOp::And | BinaryOp::Or), left, right } => {
                Expr::BinaryOp { op: *op, left: self.condition(left)?, right: self.condition(right)? }
            }
            Expr::BinaryOp { op, left, right } => self.binary(*op, left, right)?,
            Expr::IfThenElse { cond, then_expr, else_expr } if self.value_of_type(cond).is_some() => {
                let is_then = self.value_of_type(cond) == Some(true);
                return self.condition(if is_then { then_expr } else { else_expr });
            }
            Expr::IfThenElse { cond, then_expr, else_expr } => Expr::IfThenElse {
                cond: self.condition(cond)?,
                then_expr: self.condition(then_expr)?,
                else_expr: self.condition(else_expr)?,
            },
            Expr::Is { expr, entity_type, in_expr: Some(ancestor) } => Expr::Is {
                expr: Arc::clone(expr),
                entity_type: entity_type.clone(),
                in_expr: Some(self.operand(ancestor, &|| entity(ORGANIZATION))?),
            },
            _ => return Ok(Arc::clone(expr)),
        }))
    }

    /// A binary expression, with the operands that a request determines replaced.
    fn binary(
        &self,
        op: BinaryOp,
        left: &Arc<Expr>,
        right: &Arc<Expr>,
    ) -> Result<Expr, Box<PstConstructionError>> {
        let set = || Ok(Expr::Set(Vec::new()));
        let number = || Ok(Expr::Literal(Literal::Long(0)));
        let (left, right) = match op {
            BinaryOp::In => {
                (self.operand(left, &|| entity(USER))?, self.operand(right, &|| entity(ORGANIZATION))?)
            }
            BinaryOp::Contains => {
                (self.operand(left, &set)?, self.operand(right, &|| self.like_element(left))?)
            }
            BinaryOp::ContainsAll | BinaryOp::ContainsAny => {
                (self.operand(left, &set)?, self.operand(right, &set)?)
            }
            BinaryOp::Add | BinaryOp::Sub | BinaryOp::Mul => {
                (self.operand(left, &number)?, self.operand(right, &number)?)
            }
            _ => (
                self.operand(left, &|| self.like_value(right))?,
                self.operand(right, &|| self.like_value(left))?,
            ),
        };
        Ok(Expr::BinaryOp { op, left, right })
    }

    /// A value: `constant`, if a request determines it.
    fn operand(
        &self,
        expr: &Arc<Expr>,
        constant: &dyn Fn() -> Result<Expr, Box<PstConstructionError>>,
    ) -> Substituted {
        if self.is_known(expr) {
            // Constants in the source stay.
            return if is_literal(expr) { Ok(Arc::clone(expr)) } else { Ok(Arc::new(constant()?)) };
        }
        Ok(Arc::new(match &**expr {
            Expr::BinaryOp { op, left, right } => match op {
                BinaryOp::And | BinaryOp::Or => return self.condition(expr),
                _ => self.binary(*op, left, right)?,
            },
            Expr::UnaryOp { op: UnaryOp::Not, .. } => return self.condition(expr),
            Expr::IfThenElse { cond, then_expr, else_expr } => Expr::IfThenElse {
                cond: self.condition(cond)?,
                then_expr: self.operand(then_expr, constant)?,
                else_expr: self.operand(else_expr, constant)?,
            },
            Expr::Set(elements) => Expr::Set(
                elements.iter().map(|element| self.operand(element, constant)).collect::<Result<_, _>>()?,
            ),
            _ => return Ok(Arc::clone(expr)),
        }))
    }

    /// A constant with the type of an expression that reads the resource.
    fn like_value(&self, other: &Expr) -> Result<Expr, Box<PstConstructionError>> {
        Ok(match other {
            Expr::Var(Var::Resource) => entity(self.kind)?,
            Expr::GetAttr { expr, attr } if **expr == Expr::Var(Var::Resource) => {
                let declared = match self.resource_type {
                    Some(SchemaType::Record(fields)) => fields.get(attr.as_str()).map(|(kind, _)| kind),
                    _ => None,
                };
                match declared {
                    Some(SchemaType::Boolean) => Expr::Literal(Literal::Bool(true)),
                    Some(SchemaType::Long) => Expr::Literal(Literal::Long(0)),
                    Some(SchemaType::Entity(kind) | SchemaType::Enum(kind, _)) => entity(kind)?,
                    Some(SchemaType::Set(_)) => Expr::Set(Vec::new()),
                    _ => Expr::Literal(Literal::String("".into())),
                }
            }
            Expr::BinaryOp { op: BinaryOp::Add | BinaryOp::Sub | BinaryOp::Mul, .. } => {
                Expr::Literal(Literal::Long(0))
            }
            Expr::IfThenElse { then_expr, else_expr, .. } => {
                let branch = if self.is_known(then_expr) { else_expr } else { then_expr };
                self.like_value(branch)?
            }
            Expr::Set(_) => Expr::Set(Vec::new()),
            _ => Expr::Literal(Literal::Bool(true)),
        })
    }

    /// A constant with the type of the elements of a set.
    fn like_element(&self, set: &Expr) -> Result<Expr, Box<PstConstructionError>> {
        match set {
            Expr::Set(elements) => match elements.iter().find(|element| !self.is_known(element)) {
                Some(element) => self.like_value(element),
                None => Ok(Expr::Literal(Literal::Bool(true))),
            },
            _ => Ok(Expr::Literal(Literal::String("".into()))),
        }
    }

    /// The value of a condition that the type of the resource determines, without evaluating what it guards.
    fn value_of_type(&self, expr: &Expr) -> Option<bool> {
        match expr {
            Expr::Literal(Literal::Bool(value)) => Some(*value),
            Expr::HasAttr { expr, attrs } if **expr == Expr::Var(Var::Resource) => match self.resource_type {
                Some(SchemaType::Record(fields)) if fields.contains_key(attrs.first().as_str()) => None,
                _ => Some(false),
            },
            Expr::Is { expr, entity_type, in_expr: None } if **expr == Expr::Var(Var::Resource) => {
                Some(entity_type.to_string() == self.kind)
            }
            Expr::UnaryOp { op: UnaryOp::Not, expr } => self.value_of_type(expr).map(|value| !value),
            Expr::BinaryOp { op: BinaryOp::And, left, right } => match self.value_of_type(left)? {
                true => self.value_of_type(right),
                false => Some(false),
            },
            Expr::BinaryOp { op: BinaryOp::Or, left, right } => match self.value_of_type(left)? {
                true => Some(true),
                false => self.value_of_type(right),
            },
            _ => None,
        }
    }

    /// Whether a request determines the value of an expression, unless the expression reads an entity of the type of the
    /// resources, which may be the resource.
    fn is_known(&self, expr: &Expr) -> bool {
        match expr {
            Expr::Var(Var::Resource) => false,
            Expr::GetAttr { expr, .. } | Expr::HasAttr { expr, .. } => {
                !self.is_row_literal(expr) && self.is_known(expr)
            }
            Expr::BinaryOp { op: BinaryOp::In | BinaryOp::GetTag | BinaryOp::HasTag, left, right } => {
                !self.is_row_literal(left) && self.is_known(left) && self.is_known(right)
            }
            Expr::Is { expr, in_expr, .. } => {
                let is_row = in_expr.is_some() && self.is_row_literal(expr);
                !is_row && self.is_known(expr) && in_expr.iter().all(|ancestor| self.is_known(ancestor))
            }
            Expr::BinaryOp { left, right, .. } => self.is_known(left) && self.is_known(right),
            Expr::UnaryOp { expr, .. } | Expr::Like { expr, .. } => self.is_known(expr),
            Expr::IfThenElse { cond, then_expr, else_expr } => {
                [cond, then_expr, else_expr].into_iter().all(|part| self.is_known(part))
            }
            Expr::Set(elements) => elements.iter().all(|element| self.is_known(element)),
            Expr::Record(fields) => fields.values().all(|field| self.is_known(field)),
            Expr::Literal(_) | Expr::Var(_) => true,
            // What is not known here is translated as it is.
            _ => false,
        }
    }

    fn is_row_literal(&self, expr: &Expr) -> bool {
        matches!(expr, Expr::Literal(Literal::EntityUID(uid)) if uid.ty.to_string() == self.kind)
    }
}

fn is_literal(expr: &Expr) -> bool {
    match expr {
        Expr::Literal(_) => true,
        Expr::Set(elements) => elements.iter().all(|element| is_literal(element)),
        _ => false,
    }
}

/// An entity of this type.
fn entity(kind: &str) -> Result<Expr, Box<PstConstructionError>> {
    let (namespace, base) = kind.rsplit_once("::").unwrap_or(("", kind));
    let name = match namespace {
        "" => Name::unqualified(base),
        _ => Name::qualified(namespace.split("::"), base),
    };
    let ty = EntityType::from_name(name.map_err(Box::new)?);
    Ok(Expr::Literal(Literal::EntityUID(EntityUID { ty, eid: "".into() })))
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::BTreeMap;

    fn conversation() -> SchemaType {
        let status = SchemaType::Enum("Status".to_owned(), BTreeSet::new());
        let fields = [
            ("organization", SchemaType::Entity(ORGANIZATION.to_owned()), true),
            ("category", SchemaType::String, false),
            ("status", status, false),
            ("user", SchemaType::Entity(USER.to_owned()), false),
            ("rank", SchemaType::Long, false),
            ("isOpen", SchemaType::Boolean, false),
        ];
        let fields = fields.map(|(name, kind, is_required)| (name.to_owned(), (kind, is_required)));
        SchemaType::Record(BTreeMap::from(fields))
    }

    /// The refused expression of a condition on rows of the type `kind`; empty if none is refused.
    fn refused(condition: &str, kind: &str) -> String {
        let text = format!("forbid (principal, action, resource) when {{ {condition} }};");
        let refusal = row_refusal(&text.parse().unwrap(), kind, Some(&conversation())).unwrap();
        refusal.map(|refusal| refusal.expression).unwrap_or_default()
    }

    #[test]
    fn conditions_on_attributes_are_accepted_whatever_the_request_determines() {
        for condition in [
            "true",
            r#"principal in Scope::"admin" && resource.status == Status::"open""#,
            r#"resource.category like "a*" || resource.category == principal.email"#,
            "resource in principal.organization && !(resource.organization == principal.organization)",
            "principal == resource.user || resource.user == principal || principal in resource.user",
            "context has ip && context.ip.isInRange(ip(\"10.0.0.0/8\")) && resource.isOpen",
            "context.now.toDate() > datetime(\"2026-01-01\") && resource.rank < context.level * 2",
            "resource.rank + 5 > context.level && context.names.contains(resource.category)",
            r#"["a", principal.email].contains(resource.category)"#,
            "[resource.user, principal].contains(principal)",
            "if principal in Scope::\"admin\" then resource has rank else resource.isOpen == context.isOpen",
            "(if context.strict then resource.category else principal.email) == \"a\"",
            "resource is Conversation in principal.organization",
            "principal.level * principal.level == 4",
            // The type of the rows has no such attribute.
            "resource has level && resource.level * resource.level == 4",
            "!(resource has level) || resource.level * 2 == 4",
            "if resource is Form then resource.level * 2 == 4 else resource.isOpen",
        ] {
            assert_eq!(refused(condition, "Conversation"), "", "{condition}");
        }
    }

    #[test]
    fn the_first_expression_that_no_filter_states_is_named() {
        for (condition, kind, expression) in [
            ("resource has rank && resource.rank * 2 == 4", "Conversation", "resource.rank * 2"),
            // No request of an admin evaluates it.
            (
                "principal in Scope::\"admin\" || resource.rank * resource.rank == 4",
                "Conversation",
                "resource.rank * resource.rank",
            ),
            ("resource in resource.user", "Conversation", "resource in resource.user"),
            ("resource.user in principal.organization", "Conversation", "resource.user in"),
            ("resource.user.email == \"x\"", "Conversation", "resource.user.email"),
            ("{it: resource.category} == {it: \"x\"}", "Conversation", "{"),
            ("resource.category.hasTag(\"x\")", "Conversation", "resource.category.hasTag"),
            // The user may be the row.
            ("User::\"x\".email == resource.category", "User", "User::\"x\".email"),
            ("User::\"x\" in resource.organization", "User", "User::\"x\" in resource.organization"),
        ] {
            let found = refused(condition, kind);
            assert!(found.contains(expression) && !found.is_empty(), "{condition}: {found:?}");
        }
    }
}
