//! The JSON Schemas of filters as expression trees, as UCAST and as SQL, for the OpenAPI document.

use serde_json::{Map, Value, json};
use utoipa::openapi::{RefOr, Schema};
use utoipa::{PartialSchema, ToSchema};

/// A node of an expression tree.
#[derive(Debug)]
pub(super) struct FilterNode;

/// An operand of a node.
#[derive(Debug)]
struct FilterOperand;

/// A constant.
#[derive(Debug)]
struct FilterValue;

/// A single value.
#[derive(Debug)]
struct FilterScalar;

/// A condition of UCAST.
#[derive(Debug)]
pub(super) struct UcastNode;

/// A condition of SQL.
#[derive(Debug)]
pub(super) struct SqlCondition;

impl PartialSchema for UcastNode {
    fn schema() -> RefOr<Schema> {
        let words = |words: &[&str]| json!({ "type": "string", "enum": words });
        let name = json!({ "type": "string", "description": "A column of the request, or the name of an attribute." });
        let nodes = [
            node(
                "compound",
                "All conditions, any condition, or not the one condition.",
                [("operator", words(&["and", "or", "not"])), ("value", list(reference("UcastNode")))],
            ),
            node(
                "field",
                "A field compares so with a value.",
                [
                    ("operator", json!({ "type": "string" })),
                    ("field", name),
                    ("value", reference("FilterValue")),
                ],
            ),
        ];
        parsed(one_of("A condition on a resource, as an object of UCAST.", nodes))
    }
}

impl ToSchema for UcastNode {}

impl PartialSchema for SqlCondition {
    fn schema() -> RefOr<Schema> {
        parsed(json!({
            "type": "object",
            "description": "A condition of SQL, for the clause `WHERE`.",
            "required": ["dialect", "sql", "parameters"],
            "properties": {
                "dialect": { "type": "string", "enum": ["postgresql", "sqlite"] },
                "sql": {
                    "type": "string",
                    "description": "The condition, with the parameters `$1`, `$2`, … or `?1`, `?2`, …."
                },
                "parameters": {
                    "type": "array",
                    "description": "The values of the parameters, in their order.",
                    "items": reference("FilterValue")
                }
            }
        }))
    }
}

impl ToSchema for SqlCondition {}

impl PartialSchema for FilterNode {
    fn schema() -> RefOr<Schema> {
        let operators = json!({ "type": "string", "enum": ["==", "<", "<=", ">", ">="] });
        let parts = [
            json!({ "type": "object", "required": ["text"], "properties": { "text": { "type": "string" } } }),
            json!({ "type": "object", "required": ["any"], "properties": { "any": { "type": "boolean", "enum": [true] } } }),
        ];
        let part = one_of("A text, or any text.", parts);
        let nodes = [
            node("and", "All conditions are true.", [("conditions", list(reference("FilterNode")))]),
            node("or", "Any condition is true.", [("conditions", list(reference("FilterNode")))]),
            node("not", "The condition is false.", [("condition", reference("FilterNode"))]),
            node("isTrue", "The attribute is present and true.", [("path", path())]),
            node("has", "The attribute is present.", [("path", path())]),
            node("isEmpty", "The set is present and empty.", [("path", path())]),
            node(
                "compare",
                "Both operands are present and compare so.",
                [("left", operand()), ("operator", operators), ("right", operand())],
            ),
            node("like", "The text is present and matches.", [("path", path()), ("pattern", list(part))]),
            node("contains", "The set has the element.", [("set", operand()), ("element", operand())]),
            node("containsAll", "The set has all elements.", [("set", operand()), ("elements", operand())]),
            node("containsAny", "The set has any element.", [("set", operand()), ("elements", operand())]),
            node(
                "in",
                "The entity, or one of its ancestors, is one of the entities.",
                [("entity", operand()), ("entities", list(entity()))],
            ),
            node(
                "isInRange",
                "The IP address is present and in one of the ranges.",
                [("path", path()), ("ranges", list(json!({ "type": "string" })))],
            ),
        ];
        parsed(one_of("A condition on a resource: true or false, never unknown.", nodes))
    }
}

impl ToSchema for FilterNode {
    fn schemas(schemas: &mut Vec<(String, RefOr<Schema>)>) {
        schemas.push((FilterOperand::name().into_owned(), FilterOperand::schema()));
        schemas.push((FilterValue::name().into_owned(), FilterValue::schema()));
        schemas.push((FilterScalar::name().into_owned(), FilterScalar::schema()));
    }
}

impl PartialSchema for FilterOperand {
    fn schema() -> RefOr<Schema> {
        let kinds = [
            json!({ "type": "object", "required": ["path"], "properties": { "path": path() } }),
            json!({ "type": "object", "required": ["value"], "properties": { "value": reference("FilterValue") } }),
        ];
        parsed(one_of("An attribute of the resource, or a constant.", kinds))
    }
}

impl ToSchema for FilterOperand {}

impl PartialSchema for FilterValue {
    fn schema() -> RefOr<Schema> {
        let kinds = [reference("FilterScalar"), list(reference("FilterScalar"))];
        parsed(one_of("A constant: a single value, or a set of them.", kinds))
    }
}

impl PartialSchema for FilterScalar {
    fn schema() -> RefOr<Schema> {
        let kind = |kind: &str| json!({ "type": kind });
        let other = json!({
            "type": "object",
            "description": "An entity (`type` and `id`), or an object with one member: `datetime`, `millisecondsSince1970`, \
                            `milliseconds`, `decimal` or `ip`."
        });
        parsed(one_of("A single value.", [kind("boolean"), kind("number"), kind("string"), other]))
    }
}

impl ToSchema for FilterScalar {}

impl ToSchema for FilterValue {}

/// A node with these members, all of them required.
fn node<const N: usize>(name: &str, description: &str, members: [(&str, Value); N]) -> Value {
    let mut required = vec![json!("type")];
    let mut properties = Map::from_iter([("type".to_owned(), json!({ "type": "string", "enum": [name] }))]);
    for (member, schema) in members {
        required.push(json!(member));
        properties.insert(member.to_owned(), schema);
    }
    json!({ "type": "object", "description": description, "required": required, "properties": properties })
}

fn reference(name: &str) -> Value {
    json!({ "$ref": format!("#/components/schemas/{name}") })
}

fn operand() -> Value {
    reference("FilterOperand")
}

fn path() -> Value {
    json!({
        "type": "array",
        "description": "The names that lead to the attribute; the resource itself, if there are none.",
        "items": { "type": "string" }
    })
}

fn entity() -> Value {
    let text = || json!({ "type": "string" });
    json!({ "type": "object", "required": ["type", "id"], "properties": { "type": text(), "id": text() } })
}

fn list(items: Value) -> Value {
    json!({ "type": "array", "items": items })
}

fn one_of(description: &str, schemas: impl IntoIterator<Item = Value>) -> Value {
    json!({ "description": description, "oneOf": schemas.into_iter().collect::<Vec<_>>() })
}

/// The schema of this JSON; of any value if it is none, which a test excludes.
fn parsed(schema: Value) -> RefOr<Schema> {
    serde_json::from_value(schema).unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_schemas_keep_all_of_their_members() {
        for (schema, members) in [
            (FilterNode::schema(), 13),
            (FilterOperand::schema(), 2),
            (FilterValue::schema(), 2),
            (FilterScalar::schema(), 4),
            (UcastNode::schema(), 2),
        ] {
            let json = serde_json::to_value(schema).unwrap();
            assert_eq!(json["oneOf"].as_array().map(Vec::len), Some(members), "{json}");
        }
        let condition = serde_json::to_value(SqlCondition::schema()).unwrap();
        assert_eq!(condition["properties"].as_object().map(|properties| properties.len()), Some(3));
    }
}
