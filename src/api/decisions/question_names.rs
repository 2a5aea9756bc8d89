//! Names in questions: warnings about misspelt and ignored ones in explained answers, and errors of searches.

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
        let is_stored = |kind: &str| authorizer.state().resource_types.contains(kind);
        let action = engine.resolve_action(self.action, self.resource.kind);
        let mut context = self.context.clone();
        // The request for an explanation is not meant for policies.
        context.remove(EXPLAIN);
        let mut warnings = Vec::new();
        let entities = self.subject.map(|subject| ("subject", subject)).into_iter();
        for (part, entity) in entities.chain([("resource", self.resource)]) {
            let EntityRef { kind, id, properties } = entity;
            warnings.extend(engine.unknown_type(kind, &format!("{part}.type")));
            let (uid, field) = ((kind, id), format!("{part}.properties"));
            warnings.extend(engine.ignored_properties(uid, &field, properties, is_stored(kind)));
            if !is_stored(kind) {
                let suggests = authorizer.may_evaluate_external();
                warnings.extend(engine.not_in_data(uid, &format!("{part}.id"), properties, suggests));
            }
        }
        warnings.extend(engine.unknown_action(self.action, self.resource.kind));
        warnings.extend(engine.undeclared_context(action, "action.properties", self.action_properties));
        warnings.extend(engine.undeclared_context(action, "context", &context));
        warnings
    }
}

/// The field of the context that requests an explanation.
pub const EXPLAIN: &str = "explain";

/// Names that a search uses.
#[derive(Debug, Clone, Copy)]
pub(super) struct SearchNames<'a> {
    pub(super) subject_type: &'a str,
    pub(super) action: Option<&'a str>,
    pub(super) resource_type: &'a str,
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
        let types = [("subject.type", self.subject_type), ("resource.type", self.resource_type)];
        for (field, kind) in types {
            let misspelt = engine.unknown_type(kind, field).filter(|warning| warning.nearest.is_some());
            errors.extend(misspelt.map(|warning| field_error(&warning)));
        }
        // Where an action of an unknown type would be declared is not known.
        let action = self.action.filter(|_| engine.unknown_type(self.resource_type, "").is_none());
        let unknown = action.and_then(|action| engine.unknown_action(action, self.resource_type));
        errors.extend(unknown.map(|warning| field_error(&warning)));
        if errors.is_empty() { Ok(()) } else { Err(Problem::invalid_fields(errors)) }
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
