//! Entities and contexts of the decision log as Cedar's values.
//!
//! Cedar's own parser tries several forms for each value, so that it takes longer than all else in the replay of a line. The
//! forms that the log has are read directly; every other form is left to Cedar's parser.

use super::entity_uid::uid;
use super::external_entities::error_chain;
use cedar_policy::{Context, Entity, EntityUid, RestrictedExpression, Schema};
use serde_json::{Map, Value};
use std::collections::{HashMap, HashSet};

/// An entity in Cedar's JSON format.
///
/// # Errors
/// Why it is none.
pub(super) fn entity(value: Value) -> Result<Entity, String> {
    match known_parts(&value) {
        Some((uid, attributes, parents)) => {
            Entity::new(uid, attributes, parents).map_err(|error| error_chain(&error))
        }
        None => Entity::from_json_value(value, None).map_err(|error| error_chain(&error)),
    }
}

/// A context in Cedar's JSON format for this action.
///
/// # Errors
/// Why it is none.
pub(super) fn context(
    fields: Map<String, Value>,
    schema: &Schema,
    action: &EntityUid,
) -> Result<Context, String> {
    // A client may have sent a text for a value of another type, as the schema declares it.
    let known: Option<Vec<_>> =
        fields.iter().map(|(name, value)| Some((name.clone(), typed(value)?))).collect();
    match known {
        Some(fields) => Context::from_pairs(fields).map_err(|error| error_chain(&error)),
        None => Context::from_json_value(Value::Object(fields), Some((schema, action)))
            .map_err(|error| error_chain(&error)),
    }
}

type EntityParts = (EntityUid, HashMap<String, RestrictedExpression>, HashSet<EntityUid>);

/// Uid, attributes and parents, if all of them have a form that the log has.
fn known_parts(value: &Value) -> Option<EntityParts> {
    let fields = value.as_object().filter(|fields| fields.len() == 3)?;
    let attributes = fields.get("attrs")?.as_object()?.iter();
    let attributes = attributes.map(|(name, value)| Some((name.clone(), expression(value)?)));
    let parents = fields.get("parents")?.as_array()?.iter().map(reference);
    Some((
        reference(fields.get("uid")?)?,
        attributes.collect::<Option<_>>()?,
        parents.collect::<Option<_>>()?,
    ))
}

/// A reference to an entity by type and id.
fn reference(value: &Value) -> Option<EntityUid> {
    let fields = value.as_object().filter(|fields| fields.len() == 2)?;
    uid(fields.get("type")?.as_str()?, fields.get("id")?.as_str()?)
}

/// A value of an attribute.
fn expression(value: &Value) -> Option<RestrictedExpression> {
    match value {
        Value::String(text) => Some(RestrictedExpression::new_string(text.clone())),
        Value::Array(items) => {
            items.iter().map(expression).collect::<Option<Vec<_>>>().map(RestrictedExpression::new_set)
        }
        _ => typed(value),
    }
}

/// A value whose form determines its type.
fn typed(value: &Value) -> Option<RestrictedExpression> {
    match value {
        Value::Bool(value) => Some(RestrictedExpression::new_bool(*value)),
        Value::Number(number) => number.as_i64().map(RestrictedExpression::new_long),
        Value::Array(items) => {
            items.iter().map(typed).collect::<Option<Vec<_>>>().map(RestrictedExpression::new_set)
        }
        Value::Object(fields) if fields.len() == 1 => match fields.get("__entity") {
            Some(entity) => reference(entity).map(RestrictedExpression::new_entity_uid),
            None => extension(fields.get("__extn")?),
        },
        Value::Object(_) | Value::String(_) | Value::Null => None,
    }
}

/// A value of an extension type.
fn extension(value: &Value) -> Option<RestrictedExpression> {
    let fields = value.as_object().filter(|fields| fields.len() == 2)?;
    let argument = fields.get("arg")?.as_str()?;
    match fields.get("fn")?.as_str()? {
        "datetime" => Some(RestrictedExpression::new_datetime(argument)),
        "duration" => Some(RestrictedExpression::new_duration(argument)),
        "decimal" => Some(RestrictedExpression::new_decimal(argument)),
        "ip" => Some(RestrictedExpression::new_ip(argument)),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use cedar_policy::Request;
    use serde_json::json;

    const SCHEMA: &str = r#"
        entity Person { since?: datetime };
        action read appliesTo {
            principal: Person, resource: Person,
            context: { at?: datetime, who?: Person, ids?: Set<String>, count?: Long, on?: Bool, more?: { name: String } },
        };
    "#;

    /// Values of each form, valid and invalid ones.
    fn values() -> Vec<Value> {
        let person = json!({ "__entity": { "type": "Person", "id": "\u{e9}\" quoted" } });
        vec![
            json!("text"),
            json!(true),
            json!(-7),
            json!(1.5),
            json!(9_223_372_036_854_775_808_u64),
            json!(null),
            json!([]),
            json!([1, "two", person]),
            json!([null]),
            person,
            json!({ "__entity": { "type": "not a type", "id": "x" } }),
            json!({ "__entity": { "type": "Person" } }),
            json!({ "type": "Person", "id": "x" }),
            json!({ "__extn": { "fn": "datetime", "arg": "2026-11-30T12:00:00Z" } }),
            json!({ "__extn": { "fn": "datetime", "arg": "yesterday" } }),
            json!({ "__extn": { "fn": "decimal", "arg": "1.25" } }),
            json!({ "__extn": { "fn": "duration", "arg": "1d12h" } }),
            json!({ "__extn": { "fn": "ip", "arg": "192.0.2.0/24" } }),
            json!({ "__extn": { "fn": "noSuchFunction", "arg": "1" } }),
            json!({ "__extn": { "fn": "ip" } }),
            json!({ "name": "record", "more": { "of": [1] } }),
            json!({ "__entity": { "type": "Person", "id": "x" }, "other": 1 }),
            json!("2026-11-30"),
        ]
    }

    #[test]
    fn an_entity_is_as_cedar_reads_it() {
        let uid = json!({ "type": "Person", "id": "ann" });
        let with = |value: &Value| json!({ "uid": uid, "attrs": { "a": value }, "parents": [uid, { "type": "X::Y", "id": "" }] });
        let mut entities: Vec<Value> = values().iter().map(with).collect();
        entities.extend([
            json!({ "uid": uid, "attrs": {}, "parents": [], "tags": { "a": 1 } }),
            json!({ "uid": { "__entity": uid }, "attrs": {}, "parents": [{ "__entity": uid }] }),
            json!({ "uid": "Person", "attrs": {}, "parents": [] }),
            json!({ "uid": uid, "attrs": {}, "parents": [5] }),
            json!([]),
        ]);
        for value in entities {
            let expected = Entity::from_json_value(value.clone(), None).ok();
            let actual = entity(value.clone()).ok();
            let json = |entity: Option<Entity>| {
                // A record with a reserved name is an entity, and has no JSON.
                entity.map(|entity| {
                    let mut json = entity.to_json_value().ok()?;
                    json["parents"].as_array_mut()?.sort_by_key(Value::to_string);
                    Some(json)
                })
            };
            assert_eq!(json(actual), json(expected), "{value}");
        }
    }

    #[test]
    fn a_context_is_as_cedar_reads_it_where_the_request_is_valid() {
        let (schema, _) = Schema::from_cedarschema_str(SCHEMA).unwrap();
        let action: EntityUid = r#"Action::"read""#.parse().unwrap();
        let person: EntityUid = r#"Person::"ann""#.parse().unwrap();
        let is_valid = |context: Context| {
            Request::new(person.clone(), action.clone(), person.clone(), context, Some(&schema)).is_ok()
        };
        let mut valid = 0;
        for name in ["at", "who", "ids", "count", "on", "more", "undeclared"] {
            for value in values() {
                let fields = Map::from_iter([(name.to_owned(), value.clone())]);
                let json = Value::Object(fields.clone());
                let expected = Context::from_json_value(json, Some((&schema, &action))).ok();
                let expected = expected.filter(|context| is_valid(context.clone()));
                let actual = context(fields, &schema, &action).ok();
                let actual = actual.filter(|context| is_valid(context.clone()));
                let value_of = |context: Option<Context>| context.map(|context| context.get(name));
                valid += usize::from(actual.is_some());
                assert_eq!(
                    format!("{:?}", value_of(actual)),
                    format!("{:?}", value_of(expected)),
                    "{name}: {value}"
                );
            }
        }
        assert!(valid > 6, "{valid}");
    }
}
