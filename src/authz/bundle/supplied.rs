//! What the service supplies to evaluations, compared with what the schema declares.
//!
//! A condition on a value of another type than the service supplies never holds, and validation against the schema accepts it:
//! a forbid on `context.credential == "apiKey"` would not apply to any request.

use super::super::attribute::AttributeType;
use super::super::bundle::action_name;
use super::super::decision_context::CredentialKind;
use super::super::entity_uid::{CREDENTIAL, FIELD, ORGANIZATION, SCOPE};
use super::super::read_set::ORGANIZATION_ATTRIBUTE;
use super::super::schema_type::SchemaType;
use super::super::snapshot::StoredType;
use cedar_policy::EntityUid;
use std::collections::{BTreeMap, BTreeSet};

/// The context fields that the service sets, with their types. Those of the second list are set for actions of the service
/// only.
fn context_fields(stored: &[StoredType]) -> [Vec<(&'static str, SchemaType)>; 2] {
    let credentials = CredentialKind::VALUES.iter().map(|&kind| kind.to_owned()).collect();
    let fields: BTreeSet<String> = stored.iter().flat_map(|kind| &kind.fields).cloned().collect();
    let scope = SchemaType::Entity(SCOPE.to_owned());
    let any_action = vec![
        ("credential", SchemaType::Enum(CREDENTIAL.to_owned(), credentials)),
        ("provisioning", SchemaType::Boolean),
        ("ip", SchemaType::Extension("ipaddr".to_owned())),
        ("now", SchemaType::Extension("datetime".to_owned())),
    ];
    let changes = SchemaType::Set(Box::new(SchemaType::Enum(FIELD.to_owned(), fields)));
    [any_action, vec![("changes", changes), ("scope", scope.clone()), ("role", scope)]]
}

/// The context fields whose declared type differs from what the service supplies: a message for each.
pub(super) fn check_context_types(
    context_types: &BTreeMap<EntityUid, SchemaType>,
    stored: &[StoredType],
) -> BTreeSet<String> {
    let [any_action, own_actions] = context_fields(stored);
    let mut messages = BTreeSet::new();
    for (action, context_type) in context_types {
        let SchemaType::Record(declared) = context_type else { continue };
        let is_own = action.type_name().namespace().is_empty();
        let supplied = any_action.iter().chain(own_actions.iter().filter(|_| is_own));
        for (name, supplied) in supplied {
            let Some((declared, _)) = declared.get(*name) else { continue };
            if let Some(difference) = difference(declared, supplied) {
                // Without the action, if it is one of the service: most of its actions share the declaration.
                let of_action = if is_own { String::new() } else { format!(" of {}", action_name(action)) };
                messages.insert(format!("context.{name}{of_action}: {difference}"));
            }
        }
    }
    messages
}

/// The attributes of stored types that the service never supplies, or whose declared type differs from what it supplies: a
/// message for each.
pub(super) fn check_attributes(
    entity_types: &BTreeMap<String, SchemaType>,
    stored: &[StoredType],
) -> Vec<String> {
    let mut messages = Vec::new();
    for kind in stored {
        let Some(SchemaType::Record(declared)) = entity_types.get(kind.name) else { continue };
        for (name, (declared, _)) in declared {
            let own = kind.attributes.iter().find(|attribute| attribute.name == name);
            let supplied = match own {
                Some(attribute) => schema_type(attribute.value),
                None if name == ORGANIZATION_ATTRIBUTE => SchemaType::Entity(ORGANIZATION.to_owned()),
                None => {
                    messages.push(format!(
                        "{}.{name}: the service never supplies this attribute, so a policy that reads it enforces nothing",
                        kind.name
                    ));
                    continue;
                }
            };
            let difference = difference(declared, &supplied);
            messages.extend(difference.map(|difference| format!("{}.{name}: {difference}", kind.name)));
        }
    }
    messages
}

fn schema_type(value: AttributeType) -> SchemaType {
    match value {
        AttributeType::Text => SchemaType::String,
        AttributeType::Bool => SchemaType::Boolean,
        AttributeType::Long => SchemaType::Long,
        AttributeType::Entity(kind) => SchemaType::Entity(kind.to_owned()),
        AttributeType::Enum(kind, ids) => {
            SchemaType::Enum(kind.to_owned(), ids.iter().map(|&id| id.to_owned()).collect())
        }
    }
}

/// How a declared type differs from the supplied one. An empty enumeration means that its ids are not known.
fn difference(declared: &SchemaType, supplied: &SchemaType) -> Option<String> {
    match (declared, supplied) {
        (SchemaType::Set(declared), SchemaType::Set(supplied)) => difference(declared, supplied),
        (SchemaType::Enum(kind, ids), SchemaType::Enum(expected, supplied)) if kind == expected => {
            let list = |ids: Vec<&String>| {
                ids.into_iter().map(|id| format!("{id:?}")).collect::<Vec<_>>().join(", ")
            };
            let missing: Vec<&String> = supplied.difference(ids).collect();
            let unknown: Vec<&String> = ids.difference(supplied).collect();
            if supplied.is_empty() || (missing.is_empty() && unknown.is_empty()) {
                return None;
            }
            let missing = (!missing.is_empty()).then(|| format!("lacks {}", list(missing)));
            let unknown = (!unknown.is_empty())
                .then(|| format!("has {}, which the service never supplies", list(unknown)));
            let problems: Vec<String> = missing.into_iter().chain(unknown).collect();
            Some(format!("the enumerated type {kind} {}", problems.join(" and ")))
        }
        _ if declared == supplied => None,
        _ => Some(format!(
            "the service supplies {}, but the schema declares {}",
            supplied.name(),
            declared.name()
        )),
    }
}
