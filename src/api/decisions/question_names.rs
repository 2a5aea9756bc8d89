//! Names in questions: warnings about misspelt and ignored ones in explained answers and in searches, and errors of searches.

use crate::application::Authorizer;
use crate::application::subjects::EntityRef;
use crate::authz::{DecisionContext, Engine, QuestionWarning};
use crate::http::{FieldError, Problem};
use crate::types::FieldErrorCode;
use serde_json::{Map, Value};
use std::collections::BTreeMap;

/// What a question names.
#[derive(Debug, Clone, Copy)]
pub struct QuestionNames<'a> {
    /// The subject; none if it is named otherwise than by type and id.
    pub subject: Option<EntityRef<'a>>,
    /// The name of the action.
    pub action: &'a str,
    /// The properties of the action, which become request context.
    pub action_properties: &'a Map<String, Value>,
    /// The resource.
    pub resource: EntityRef<'a>,
    /// The context.
    pub context: &'a Map<String, Value>,
}

impl QuestionNames<'_> {
    /// Returns warnings about names that the schema or the data do not have, and about what is ignored.
    ///
    /// The nearest external entity is named to callers that may evaluate external subjects, who can search for them.
    pub fn warnings(&self, authorizer: &Authorizer) -> Vec<QuestionWarning> {
        let engine = authorizer.engine();
        let action = engine.resolve_action(self.action, self.resource.kind);
        let mut warnings = Vec::new();
        if let Some(subject) = self.subject {
            warnings.extend(entity_warnings(authorizer, "subject", subject));
        }
        warnings.extend(entity_warnings(authorizer, "resource", self.resource));
        warnings.extend(engine.unknown_action(self.action, self.resource.kind));
        let actions = [action];
        warnings.extend(engine.undeclared_context(&actions, "action.properties", self.action_properties));
        warnings.extend(engine.undeclared_context(&actions, "context", &policy_context(self.context)));
        warnings
    }
}

/// Warns of the names of a subject or a resource; `part` is which of the two.
fn entity_warnings(authorizer: &Authorizer, part: &str, entity: EntityRef<'_>) -> Vec<QuestionWarning> {
    let engine = authorizer.engine();
    let EntityRef { kind, id, properties } = entity;
    let is_stored = authorizer.state().resource_types.contains(kind);
    let mut warnings = Vec::from_iter(engine.unknown_type(kind, &format!("{part}.type")));
    let (uid, field) = ((kind, id), format!("{part}.properties"));
    warnings.extend(engine.ignored_properties(uid, &field, properties, is_stored));
    if !is_stored {
        let suggests = authorizer.may_evaluate_external();
        warnings.extend(engine.not_in_data(uid, &format!("{part}.id"), properties, suggests));
    }
    warnings
}

/// The context without the request for an explanation, which is not meant for policies.
fn policy_context(context: &Map<String, Value>) -> Map<String, Value> {
    let mut context = context.clone();
    context.remove(EXPLAIN);
    context
}

/// The field of the context that requests an explanation.
pub const EXPLAIN: &str = "explain";

/// A subject or resource of a search.
#[derive(Debug, Clone, Copy)]
pub(super) enum SearchedPart<'a> {
    /// The entity of which the search asks.
    Entity(EntityRef<'a>),
    /// The type of the entities that are searched for.
    Type(&'a str),
}

impl SearchedPart<'_> {
    /// The entity type.
    fn kind(&self) -> &str {
        match self {
            Self::Entity(entity) => entity.kind,
            Self::Type(kind) => kind,
        }
    }

    /// Warnings about its names; `part` is `subject` or `resource`.
    fn warnings(&self, authorizer: &Authorizer, part: &str) -> Vec<QuestionWarning> {
        match self {
            Self::Entity(entity) => entity_warnings(authorizer, part, *entity),
            Self::Type(kind) => {
                authorizer.engine().unknown_type(kind, &format!("{part}.type")).into_iter().collect()
            }
        }
    }
}

/// Names that a search uses.
#[derive(Debug, Clone, Copy)]
pub(super) struct SearchNames<'a> {
    pub(super) subject: SearchedPart<'a>,
    /// The name and the properties of the action; none if actions are searched for.
    pub(super) action: Option<(&'a str, &'a Map<String, Value>)>,
    pub(super) resource: SearchedPart<'a>,
    pub(super) context: &'a Map<String, Value>,
}

impl SearchNames<'_> {
    /// Checks that a search can find anything: a misspelt name would give an empty list.
    ///
    /// A type is misspelt if the schema has a similar one. A search for another unknown type is empty, as the certification of
    /// AuthZEN requires.
    ///
    /// # Errors
    /// 400 if the schema has no such action, or if a type is misspelt.
    pub(super) fn check(&self, authorizer: &Authorizer) -> Result<(), Problem> {
        let engine = authorizer.engine();
        let mut errors = Vec::new();
        let resource_type = self.resource.kind();
        let types = [("subject.type", self.subject.kind()), ("resource.type", resource_type)];
        for (field, kind) in types {
            let misspelt = engine.unknown_type(kind, field).filter(|warning| warning.nearest.is_some());
            errors.extend(misspelt.map(|warning| field_error(&warning)));
        }
        // Where an action of an unknown type would be declared is not known.
        let action = self.action.filter(|_| engine.unknown_type(resource_type, "").is_none());
        let unknown = action.and_then(|(action, _)| engine.unknown_action(action, resource_type));
        errors.extend(unknown.map(|warning| field_error(&warning)));
        if errors.is_empty() { Ok(()) } else { Err(Problem::invalid_fields(errors)) }
    }

    /// Returns the warnings that an evaluation would have about names that the schema or the data do not have, and about what is
    /// ignored. A search for actions ignores a field of the context that no action of these types declares.
    pub(super) fn warnings(&self, authorizer: &Authorizer) -> Vec<QuestionWarning> {
        let engine = authorizer.engine();
        let resource_type = self.resource.kind();
        let mut warnings = self.subject.warnings(authorizer, "subject");
        warnings.extend(self.resource.warnings(authorizer, "resource"));
        let context = policy_context(self.context);
        match self.action {
            Some((name, properties)) => {
                let actions = [engine.resolve_action(name, resource_type)];
                warnings.extend(engine.undeclared_context(&actions, "action.properties", properties));
                warnings.extend(engine.undeclared_context(&actions, "context", &context));
            }
            None => {
                let actions = engine.applicable_actions(self.subject.kind(), resource_type);
                warnings.extend(engine.undeclared_context(&actions, "context", &context));
            }
        }
        warnings
    }
}

fn field_error(warning: &QuestionWarning) -> FieldError {
    let code = match warning.code {
        "unknown_action" => FieldErrorCode::UnknownAction,
        _ => FieldErrorCode::UnknownType,
    };
    FieldError::new(&warning.field, code, &warning.message)
}

/// Checks that at least one of the actions can be evaluated in this context: otherwise a search would find nothing.
///
/// # Errors
/// 400 with the fields of the context that are missing or invalid.
pub(super) fn check_context(
    engine: &Engine,
    actions: &[&str],
    context: &DecisionContext,
) -> Result<(), Problem> {
    let mut errors = BTreeMap::new();
    for action in actions {
        let Some(invalid) = engine.invalid_context(action, context) else { return Ok(()) };
        let code = match invalid.code {
            "missing_attribute" => FieldErrorCode::MissingContext,
            _ => FieldErrorCode::InvalidContext,
        };
        let message = match code {
            FieldErrorCode::MissingContext => format!("the action {action} requires this field"),
            _ => invalid.message,
        };
        errors.entry(invalid.path.clone()).or_insert_with(|| FieldError::new(invalid.path, code, message));
    }
    if errors.is_empty() { Ok(()) } else { Err(Problem::invalid_fields(errors.into_values().collect())) }
}
