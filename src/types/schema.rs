//! OpenAPI schemas of the domain types.

use utoipa::openapi::schema::{ObjectBuilder, SchemaType, Type};

/// Returns the OpenAPI schema of a string type.
pub(crate) fn string_schema(description: &str) -> ObjectBuilder {
    ObjectBuilder::new().schema_type(SchemaType::Type(Type::String)).description(Some(description))
}
