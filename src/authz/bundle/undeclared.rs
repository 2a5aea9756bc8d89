//! What the service supplies to evaluations and the schema omits.
//!
//! An entity has the attributes and ancestors that the service supplies, whether the schema declares them or not. Validation and
//! the solver of `policy prove` know the schema only: without `status` in the declaration of a type, `resource has status` is
//! false for them and true for the service. Of the context, Cedar gets the declared fields only: without `credential`, a forbid
//! on API keys applies to no request.

use super::super::entity_uid::{ORGANIZATION, SCOPE, USER};
use super::super::read_set::ORGANIZATION_ATTRIBUTE;
use super::super::schema_type::SchemaType;
use super::super::snapshot::StoredType;
use super::action_name;
use super::diagnostics::{BundleDiagnostic, Diagnostics, SourceFile};
use super::rules::Rule;
use super::schema::SchemaTypes;
use super::supplied::{find_declaration, schema_type};
use cedar_policy::{EntityTypeName, EntityUid, Schema};
use std::collections::{BTreeMap, BTreeSet};

/// The context fields that the service sets for every action that it authorizes itself.
const CALL_FIELDS: [&str; 4] = ["credential", "provisioning", "ip", "now"];

/// The further context fields that the service sets for single actions. `changes` of the actions `update…` is not listed.
const ACTION_FIELDS: [(&str, &str); 8] = [
    ("createUser", "role"),
    ("updateUser", "role"),
    ("createApiKey", "scope"),
    ("setConversationMeta", "changes"),
    ("assignConversation", "changes"),
    ("acceptConversation", "changes"),
    ("joinConversation", "changes"),
    ("leaveConversation", "changes"),
];

/// The maximum number of actions that a message lists.
const MAX_LISTED_ACTIONS: usize = 8;

/// Reports what the service supplies and the schema does not declare.
pub(super) fn check(
    schema: &Schema,
    (context_types, entity_types): &SchemaTypes,
    stored: &[StoredType],
    files: &[SourceFile],
    diagnostics: &mut Diagnostics,
) {
    let mut report = |rule, keyword, name: &str, message: String| {
        let place = files.iter().find_map(|file| Some((file, find_declaration(&file.text, keyword, name)?)));
        diagnostics.0.push(match place {
            Some((file, bytes)) => file.diagnostic_at(rule, Some(bytes), message),
            None => {
                let names: Vec<&str> = files.iter().map(|file| file.name.as_str()).collect();
                BundleDiagnostic::new(rule, names.join(", "), message)
            }
        });
    };
    for kind in stored {
        let Some(SchemaType::Record(declared)) = entity_types.get(kind.name) else { continue };
        let organization = (ORGANIZATION_ATTRIBUTE, ORGANIZATION.to_owned());
        let supplied =
            kind.attributes.iter().map(|attribute| (attribute.name, schema_type(attribute.value).name()));
        for (name, value) in supplied.chain([organization]) {
            if !declared.contains_key(name) {
                let message = format!(
                    "{}.{name}: the service supplies this attribute ({value}), but the schema does not declare it",
                    kind.name
                );
                report(Rule::UndeclaredAttribute, "entity", kind.name, message);
            }
        }
        for parent in undeclared_parents(schema, kind.name) {
            let message = format!(
                "{0}: the service places entities of this type in {parent} entities, but the schema does not declare {0} in [{parent}]",
                kind.name
            );
            report(Rule::UndeclaredParent, "entity", kind.name, message);
        }
    }
    for (field, actions) in undeclared_fields(schema, context_types, stored) {
        let listed: Vec<&str> = actions.iter().take(MAX_LISTED_ACTIONS).map(String::as_str).collect();
        let others = match actions.len().saturating_sub(MAX_LISTED_ACTIONS) {
            0 => String::new(),
            number => format!(" and {number} others"),
        };
        let message = format!(
            "context.{field}: the service sets this field, but the schema does not declare it for {}{others}",
            listed.join(", ")
        );
        report(Rule::UndeclaredContext, "action", listed.first().copied().unwrap_or_default(), message);
    }
}

/// The types of which the service makes the entities of a stored type members, and the schema does not.
fn undeclared_parents(schema: &Schema, kind: &str) -> Vec<&'static str> {
    let name: Option<EntityTypeName> = kind.parse().ok();
    let declared: BTreeSet<String> = name
        .and_then(|name| Some(schema.ancestors(&name)?.map(EntityTypeName::to_string).collect()))
        .unwrap_or_default();
    let supplied = [ORGANIZATION].into_iter().chain((kind == USER).then_some(SCOPE));
    supplied.filter(|parent| !declared.contains(*parent)).collect()
}

/// The context fields that the service sets, with the names of the actions that do not declare them.
///
/// The actions are those of users on resources of the service.
fn undeclared_fields(
    schema: &Schema,
    context_types: &BTreeMap<EntityUid, SchemaType>,
    stored: &[StoredType],
) -> BTreeMap<&'static str, BTreeSet<String>> {
    let is_stored = |kind: &EntityTypeName| stored.iter().any(|stored| stored.name == kind.to_string());
    let mut undeclared: BTreeMap<&str, BTreeSet<String>> = BTreeMap::new();
    for (action, context_type) in context_types {
        let SchemaType::Record(declared) = context_type else { continue };
        let mut principals = schema.principals_for_action(action).into_iter().flatten();
        let mut resources = schema.resources_for_action(action).into_iter().flatten();
        let is_own = action.type_name().namespace().is_empty()
            && principals.any(|kind| kind.to_string() == USER)
            && resources.any(is_stored);
        if !is_own {
            continue;
        }
        let name = action_name(action);
        let is_update = |kind: &StoredType| name.strip_prefix("update") == Some(kind.name);
        let of_action = ACTION_FIELDS.iter().filter(|(action, _)| *action == name).map(|(_, field)| *field);
        let of_update = stored.iter().any(is_update).then_some("changes");
        for field in CALL_FIELDS.into_iter().chain(of_action).chain(of_update) {
            if !declared.contains_key(field) {
                undeclared.entry(field).or_default().insert(name.clone());
            }
        }
    }
    undeclared
}
