//! The declared types of attribute paths such as `context.role`.

use super::bundle::Bundle;
use super::schema_type::SchemaType;
use cedar_policy::EntityUid;

/// Where an attribute path begins.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum PathStart {
    /// At an entity of this type.
    Entity(String),
    /// At the context of a request with this action.
    Context(EntityUid),
}

impl Bundle {
    /// The type of the entity to which a path of attributes leads. None if it leads to something else, or if the schema does
    /// not declare it.
    pub(crate) fn entity_type_at(&self, start: PathStart, path: &[&str]) -> Option<String> {
        let mut current = match &start {
            PathStart::Entity(kind) => self.entity_types.get(kind)?,
            PathStart::Context(action) => self.context_types.get(action)?,
        };
        for name in path {
            if let SchemaType::Entity(kind) = current {
                current = self.entity_types.get(kind)?;
            }
            let SchemaType::Record(fields) = current else { return None };
            current = &fields.get(*name)?.0;
        }
        match current {
            SchemaType::Entity(kind) | SchemaType::Enum(kind, _) => Some(kind.clone()),
            _ => None,
        }
    }
}
