//! What the service supplies to evaluations, compared with what the schema declares.
//!
//! A condition on a value of another type than the service supplies never holds, and validation against the schema accepts it:
//! a forbid on `context.credential == "apiKey"` would not apply to any request.

use super::super::attribute::AttributeType;
use super::super::decision_context::CredentialKind;
use super::super::entity_uid::{CREDENTIAL, FIELD, ORGANIZATION, SCOPE};
use super::super::read_set::ORGANIZATION_ATTRIBUTE;
use super::super::schema_type::SchemaType;
use super::super::snapshot::StoredType;
use super::action_name;
use super::diagnostics::{BundleDiagnostic, Diagnostics, SourceFile};
use super::rules::Rule;
use cedar_policy::EntityUid;
use std::collections::{BTreeMap, BTreeSet};
use std::ops::Range;

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

/// Reports what the schema declares and the service never supplies, or supplies with another type.
pub(super) fn check(
    (context_types, entity_types): &(BTreeMap<EntityUid, SchemaType>, BTreeMap<String, SchemaType>),
    stored: &[StoredType],
    files: &[SourceFile],
    diagnostics: &mut Diagnostics,
) {
    let mut violations = check_context_types(context_types, stored);
    violations.extend(check_attributes(entity_types, stored));
    for Violation { rule, owner, name, message } in violations {
        let place = files.iter().find_map(|file| Some((file, find_field(&file.text, &owner, &name)?)));
        diagnostics.0.push(match place {
            Some((file, bytes)) => file.diagnostic_at(rule, Some(bytes), message),
            None => BundleDiagnostic::in_files(rule, files, message),
        });
    }
}

/// A declaration that differs from what the service supplies.
#[derive(Debug, PartialEq, Eq, PartialOrd, Ord)]
struct Violation {
    rule: Rule,
    /// The entity type of an attribute. Empty for a context field, whose declaration may have any name.
    owner: String,
    name: String,
    message: String,
}

/// The place of the declaration of an attribute or context field. The schema is valid, so that a search for the name finds it.
fn find_field(text: &str, owner: &str, name: &str) -> Option<Range<usize>> {
    let is_word = |character: char| character.is_alphanumeric() || character == '_';
    let declares_owner = |line: &str| find_declaration(line, "entity", owner).is_some();
    let mut offset = 0;
    let mut is_in_owner = owner.is_empty();
    for line in text.split_inclusive('\n') {
        is_in_owner |= declares_owner(line);
        let field = line.match_indices(name).map(|(position, _)| position).find(|position| {
            let before = line.get(..*position).and_then(|before| before.chars().next_back());
            let after = line.get(position + name.len()..).unwrap_or_default().trim_start();
            !before.is_some_and(is_word) && (after.starts_with(':') || after.starts_with("?:"))
        });
        if let Some(position) = field.filter(|_| is_in_owner) {
            let start = offset + position;
            return Some(start..start + name.len());
        }
        offset += line.len();
    }
    None
}

/// The place of a name in the declaration of an entity type or action, which `keyword` begins.
///
/// Only the first line of a declaration is searched.
pub(super) fn find_declaration(text: &str, keyword: &str, name: &str) -> Option<Range<usize>> {
    let is_word = |character: char| character.is_alphanumeric() || character == '_';
    let mut offset = 0;
    for line in text.split_inclusive('\n') {
        let names = line.trim_start().strip_prefix(keyword).filter(|rest| rest.starts_with([' ', '\t']));
        if let Some(names) = names {
            let end = [" in ", " enum ", " appliesTo", "=", "{", ";"]
                .iter()
                .filter_map(|end| names.find(end))
                .min();
            let header = names.get(..end.unwrap_or(names.len())).unwrap_or_default();
            let position = header.match_indices(name).map(|(position, _)| position).find(|position| {
                let before = header.get(..*position).and_then(|before| before.chars().next_back());
                let after = header.get(position + name.len()..).and_then(|after| after.chars().next());
                !before.is_some_and(is_word) && !after.is_some_and(is_word)
            });
            if let Some(position) = position {
                let start = offset + (line.len() - names.len()) + position;
                return Some(start..start + name.len());
            }
        }
        offset += line.len();
    }
    None
}

fn check_context_types(
    context_types: &BTreeMap<EntityUid, SchemaType>,
    stored: &[StoredType],
) -> BTreeSet<Violation> {
    let [any_action, own_actions] = context_fields(stored);
    let mut violations = BTreeSet::new();
    for (action, context_type) in context_types {
        let SchemaType::Record(declared) = context_type else { continue };
        let is_own = action.type_name().namespace().is_empty();
        // Without the action, if it is one of the service: most of its actions share the declaration.
        let of_action = if is_own { String::new() } else { format!(" of {}", action_name(action)) };
        for (name, (declared, _)) in declared {
            let supplied = any_action.iter().chain(own_actions.iter().filter(|_| is_own));
            let supplied = supplied.into_iter().find(|(supplied, _)| supplied == name);
            let (rule, message) = match supplied.map(|(_, supplied)| difference(declared, supplied)) {
                Some(Some(difference)) => (Rule::SuppliedType, difference),
                None if is_own => {
                    let message =
                        "the service never sets this field; only questions of clients can contain it";
                    (Rule::UnsuppliedContext, message.to_owned())
                }
                Some(None) | None => continue,
            };
            let message = format!("context.{name}{of_action}: {message}");
            violations.insert(Violation { rule, owner: String::new(), name: name.clone(), message });
        }
    }
    violations
}

fn check_attributes(entity_types: &BTreeMap<String, SchemaType>, stored: &[StoredType]) -> Vec<Violation> {
    let mut violations = Vec::new();
    for kind in stored {
        let Some(SchemaType::Record(declared)) = entity_types.get(kind.name) else { continue };
        for (name, (declared, is_required)) in declared {
            let own = kind.attributes.iter().find(|attribute| attribute.name == name);
            let supplied = match own {
                Some(attribute) => Some(schema_type(attribute.value)),
                None if name == ORGANIZATION_ATTRIBUTE => Some(SchemaType::Entity(ORGANIZATION.to_owned())),
                None => None,
            };
            let is_always_supplied = own.is_none() || (kind.name, name.as_str()) == ROLE;
            let (rule, message) = match supplied.map(|supplied| difference(declared, &supplied)) {
                Some(None) if *is_required && !is_always_supplied => {
                    let message =
                        "the service does not supply this attribute for every entity; declare it as optional";
                    (Rule::SuppliedType, message.to_owned())
                }
                Some(None) => continue,
                Some(Some(difference)) => (Rule::SuppliedType, difference),
                None => {
                    let message = "the service never supplies this attribute, so that a policy that reads it enforces nothing";
                    (Rule::UnsuppliedAttribute, message.to_owned())
                }
            };
            let message = format!("{}.{name}: {message}", kind.name);
            violations.push(Violation { rule, owner: kind.name.to_owned(), name: name.clone(), message });
        }
    }
    violations
}

/// The attribute that the service always supplies, as it does `organization`: type and name. Other ones can be absent, so that a
/// policy that reads one without `has` can fail, although validation and the solver take a required attribute as present.
const ROLE: (&str, &str) = ("User", "role");

/// The declared type of a supplied value.
pub(super) fn schema_type(value: AttributeType) -> SchemaType {
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
