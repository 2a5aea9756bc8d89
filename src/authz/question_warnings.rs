//! Names of a question that the schema or the data do not have, each with the nearest one that they have.
//!
//! The evaluation ignores undeclared fields and knows nothing of an entity that is in no data. Without a warning, a misspelt
//! name looks like a denial.

use super::schema_type::SchemaType;
use super::{DecisionContext, Engine, InvalidAttribute};
use crate::types::{nearest_name, quoted, truncate_chars};
use serde::Serialize;
use serde_json::{Map, Value};
use std::collections::BTreeMap;
use utoipa::ToSchema;

/// The maximum number of warnings about one part of a question.
const MAX_WARNINGS: usize = 20;
/// The maximum number of characters of a name that a client sent.
const MAX_NAME: usize = 100;

/// A part of a question that the evaluation ignored or knows nothing of.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, ToSchema)]
pub struct QuestionWarning {
    /// A stable code: `undeclared_context`, `undeclared_property`, `ignored_property`, `unknown_action`, `unknown_type`,
    /// `not_in_data`, `not_accessible`.
    #[schema(value_type = String, examples("undeclared_context"))]
    pub code: &'static str,
    /// The field of the question.
    #[schema(examples("context.shared_until"))]
    pub field: String,
    /// What is wrong, for people. The text may change.
    pub message: String,
    /// The nearest name that exists, if one is near.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(nullable = false, examples("sharedUntil"))]
    pub nearest: Option<String>,
}

impl QuestionWarning {
    /// Creates a warning. With a nearest name, the message suggests it.
    pub fn new(code: &'static str, field: impl Into<String>, message: String, nearest: Option<&str>) -> Self {
        let field = truncate_chars(field.into(), MAX_NAME);
        let message = match nearest {
            Some(nearest) => format!("{message}; did you mean {nearest:?}?"),
            None => message,
        };
        Self { code, field, message, nearest: nearest.map(str::to_owned) }
    }
}

impl Engine {
    /// Warns of context fields that none of these actions declares; of no field if there is no such action. `part` is where they
    /// are: `context` or `action.properties`.
    pub fn undeclared_context(
        &self,
        actions: &[&str],
        part: &str,
        fields: &Map<String, Value>,
    ) -> Vec<QuestionWarning> {
        if fields.is_empty() {
            return Vec::new();
        }
        let no_fields = SchemaType::Record(BTreeMap::new());
        let mut common: Option<Vec<UndeclaredField>> = None;
        for action_policies in actions.iter().filter_map(|action| self.action_policies(action)) {
            let mut of_action = Vec::new();
            // An action without a declared context declares no field.
            let declared = match action_policies.context_type() {
                declared @ SchemaType::Record(_) => declared,
                _ => &no_fields,
            };
            undeclared(declared, part, fields, &mut |field, name, nearest| {
                of_action.push(UndeclaredField { field, name, nearest: nearest.map(str::to_owned) });
            });
            common = Some(match common {
                Some(common) => undeclared_in_both(common, &of_action),
                None => of_action,
            });
        }
        let owner = match actions {
            [action] => format!("the context of the action {action} does not declare"),
            _ => "the context of none of the actions declares".to_owned(),
        };
        let warning = |undeclared: UndeclaredField| {
            let message = format!("{owner} {}; it is ignored", undeclared.name);
            let nearest = undeclared.nearest.as_deref();
            QuestionWarning::new("undeclared_context", undeclared.field, message, nearest)
        };
        common.unwrap_or_default().into_iter().take(MAX_WARNINGS).map(warning).collect()
    }

    /// Warns of properties of an entity that are ignored: undeclared ones, those that the data has, and all of an entity that is
    /// stored in the database (`is_stored`). `part` is where they are: `subject.properties` or `resource.properties`.
    pub fn ignored_properties(
        &self,
        (kind, id): (&str, &str),
        part: &str,
        properties: &Map<String, Value>,
        is_stored: bool,
    ) -> Vec<QuestionWarning> {
        let Some(declared) = self.bundle().entity_types.get(kind) else { return Vec::new() };
        let mut warnings = Vec::new();
        let ignored = |name: &String, reason: &str| {
            let message = format!("{} is ignored: {reason}", quoted(name));
            QuestionWarning::new("ignored_property", format!("{part}.{name}"), message, None)
        };
        if is_stored {
            let reason = format!("entities of the type {kind} are stored data");
            warnings.extend(properties.keys().map(|name| ignored(name, &reason)));
        } else {
            undeclared(declared, part, properties, &mut |field, name, nearest| {
                let message = format!("the type {kind} does not declare {name}; it is ignored");
                warnings.push(QuestionWarning::new("undeclared_property", field, message, nearest));
            });
            let has = |name: &&String| self.external_entities().has_attribute(kind, id, name);
            let stored = properties.keys().filter(has);
            warnings.extend(stored.map(|name| ignored(name, "the stored value takes precedence")));
        }
        warnings.truncate(MAX_WARNINGS);
        warnings
    }

    /// Warns of an action that the schema does not have. `name` is the name in the question; `kind` is the resource type.
    pub fn unknown_action(&self, name: &str, kind: &str) -> Option<QuestionWarning> {
        if self.action_policies(self.resolve_action(name, kind)).is_some() {
            return None;
        }
        let nearest = nearest_name(name, self.action_names(kind, true))
            .or_else(|| nearest_name(name, self.action_names(kind, false)));
        let message = format!("{} is not an action of the schema", quoted(name));
        Some(QuestionWarning::new("unknown_action", "action.name", message, nearest))
    }

    /// The names by which a question about this resource type can name an action. `applicable`: of those that apply to the type.
    fn action_names<'a>(&'a self, kind: &'a str, applicable: bool) -> impl Iterator<Item = &'a str> {
        let prefix = kind.rsplit_once("::").map(|(namespace, _)| format!("{namespace}::Action::\""));
        let actions =
            self.actions().filter(move |(_, action)| !applicable || action.resources.contains_key(kind));
        actions.map(move |(name, _)| {
            let short = prefix.as_deref().and_then(|prefix| name.strip_prefix(prefix)?.strip_suffix('"'));
            short.unwrap_or(name)
        })
    }

    /// The field of a request context that is missing, or violates its declaration for the action; none if the context is valid.
    pub fn invalid_context(&self, action: &str, context: &DecisionContext) -> Option<InvalidAttribute> {
        let action_policies = self.action_policies(action)?;
        action_policies.invalid_context(context, String::new).attribute
    }

    /// Warns of an entity type that the schema does not have. `field` is the field that names it.
    pub fn unknown_type(&self, kind: &str, field: &str) -> Option<QuestionWarning> {
        let types = &self.bundle().entity_types;
        if types.contains_key(kind) {
            return None;
        }
        let nearest = nearest_name(kind, types.keys().map(String::as_str));
        let message = format!("{} is not an entity type of the schema", quoted(kind));
        Some(QuestionWarning::new("unknown_type", field, message, nearest))
    }

    /// Warns of an external entity that is not in the data and has no properties, so that policies know nothing of it. `field` is
    /// the field that names it; `suggests`: whether the nearest entity is named.
    pub fn not_in_data(
        &self,
        (kind, id): (&str, &str),
        field: &str,
        properties: &Map<String, Value>,
        suggests: bool,
    ) -> Option<QuestionWarning> {
        let entities = self.external_entities();
        if !entities.has_type(kind) || !properties.is_empty() || entities.is_listed(kind, id) {
            return None;
        }
        let nearest = suggests.then(|| nearest_name(id, entities.ids(kind, None))).flatten();
        let message = format!("{kind}::{} is in no data", quoted(id));
        Some(QuestionWarning::new("not_in_data", field, message, nearest))
    }
}

/// A field of a context that is undeclared.
struct UndeclaredField {
    /// The path of the field.
    field: String,
    /// The quoted name.
    name: String,
    /// The nearest declared name.
    nearest: Option<String>,
}

/// The fields that are undeclared in both. A field has the nearest name of the first that has one.
fn undeclared_in_both(mut first: Vec<UndeclaredField>, second: &[UndeclaredField]) -> Vec<UndeclaredField> {
    first.retain_mut(|undeclared| {
        let Some(other) = second.iter().find(|other| other.field == undeclared.field) else { return false };
        if undeclared.nearest.is_none() {
            undeclared.nearest.clone_from(&other.nearest);
        }
        true
    });
    first
}

/// Calls `report` with every field that a record type does not declare, at any depth: its path, its quoted name, and the nearest
/// declared name.
fn undeclared(
    declared: &SchemaType,
    path: &str,
    fields: &Map<String, Value>,
    report: &mut impl FnMut(String, String, Option<&str>),
) {
    let SchemaType::Record(declared) = declared else { return };
    for (name, value) in fields {
        let field = format!("{path}.{name}");
        match (declared.get(name), value) {
            (None, _) => report(field, quoted(name), nearest_name(name, declared.keys().map(String::as_str))),
            (Some((inner, _)), Value::Object(inner_fields)) => {
                undeclared(inner, &field, inner_fields, report);
            }
            (Some(_), _) => {}
        }
    }
}
