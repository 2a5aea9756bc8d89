//! What a translation of policies knows of the resources, and why it refuses an expression.

use super::tree::EntityId;
use crate::authz::schema_type::SchemaType;
use cedar_policy::Entities;
use cedar_policy::pst::Expr;
use std::collections::BTreeSet;

/// The maximum number of characters of an expression in a refusal.
const MAX_TEXT: usize = 500;

/// Why an expression cannot be translated.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Refusal {
    /// The expression as Cedar text, as far as the request does not determine it.
    pub expression: String,
    /// The reason.
    pub reason: &'static str,
}

impl Refusal {
    pub(super) fn new(expr: &Expr, reason: &'static str) -> Self {
        let text = expr.to_string();
        let expression = match text.char_indices().nth(MAX_TEXT) {
            Some((end, _)) => format!("{}…", text.get(..end).unwrap_or_default()),
            None => text,
        };
        Self { expression, reason }
    }
}

/// Translates the conditions of one partial evaluation.
#[derive(Debug)]
pub(super) struct Translator<'a> {
    /// The type of the resources.
    pub(super) kind: &'a str,
    /// The declared attributes of the resources.
    pub(super) resource_type: Option<&'a SchemaType>,
    /// The principal.
    pub(super) principal: EntityId,
    /// Whether the resource is the principal; else it is any other resource, or any resource of the service itself.
    pub(super) is_principal: bool,
    /// The entities that the partial evaluation had.
    pub(super) entities: &'a Entities,
    /// The types that the ancestors of the resource can have.
    pub(super) ancestor_types: &'a BTreeSet<String>,
    /// Which entities can be ancestors of the resource.
    pub(super) ancestors: AncestorRule<'a>,
}

/// Which entities are ancestors of the resources.
#[derive(Debug)]
pub(super) enum AncestorRule<'a> {
    /// Of the service's own resources: the organizations above them. The resource that is the principal has further ancestors.
    Organizations {
        /// The ancestors of the principal besides organizations, if it has the type of the resources.
        of_principal: BTreeSet<EntityId>,
    },
    /// Of external resources: any entity, and what is above it in the data.
    Data(&'a dyn DataHierarchy),
}

/// The hierarchy of the entity data.
pub(super) trait DataHierarchy: std::fmt::Debug {
    /// The entities below this one.
    fn descendants(&self, entity: &EntityId) -> Vec<EntityId>;
}
