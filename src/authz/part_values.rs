//! What the parts of conditions read: the values that an explanation shows, and whether it may show them.

use super::explanation::{ReadValue, Visibility};
use crate::types::truncate_chars;
use cedar_policy::pst::{BinaryOp, Expr, SmolStr, Var};
use cedar_policy::{Entities, EntityUid, EvalResult, Expression, Request, eval_expression};
use serde_json::{Map, Value};
use std::collections::BTreeSet;
use std::str::FromStr;
use std::sync::Arc;

/// The maximum number of values of a part.
const MAX_VALUES: usize = 10;
/// The maximum number of elements of a set or record that are shown.
const MAX_ELEMENTS: usize = 20;
/// The maximum number of characters of a text that are shown.
const MAX_TEXT: usize = 200;
/// The maximum depth of a value that is shown.
const MAX_DEPTH: usize = 4;

/// The field of the context that the service derives from the stored resource.
const CHANGES: &str = "changes";

/// A request whose parts are evaluated, and what of it may be shown.
#[derive(Debug, Clone, Copy)]
pub(super) struct PartReader<'a> {
    pub(super) request: &'a Request,
    pub(super) entities: &'a Entities,
    pub(super) visibility: Visibility,
}

impl PartReader<'_> {
    /// The value of an expression; none if its evaluation fails.
    fn evaluate(&self, expression: &Expr) -> Option<EvalResult> {
        let expression = Expression::from_str(&expression.to_string()).ok()?;
        eval_expression(self.request, self.entities, &expression).ok()
    }

    /// Whether an expression reads anything that must not be shown.
    pub(super) fn is_hidden(&self, expression: &Expr) -> bool {
        if self.visibility == Visibility::ALL {
            return false;
        }
        let hides = |expression: &Arc<Expr>| self.is_hidden(expression);
        match expression {
            Expr::Literal(_) | Expr::Var(_) => false,
            Expr::GetAttr { expr, attr } => self.is_hidden_attribute(expr, attr),
            Expr::HasAttr { expr, attrs } => {
                let mut target = Arc::clone(expr);
                attrs.iter().any(|attr| {
                    let is_hidden = self.is_hidden_attribute(&target, attr);
                    target = Arc::new(Expr::GetAttr { expr: Arc::clone(&target), attr: attr.clone() });
                    is_hidden
                })
            }
            Expr::BinaryOp { op: BinaryOp::In | BinaryOp::GetTag | BinaryOp::HasTag, left, right } => {
                hides(left) || hides(right) || self.is_hidden_entity(left)
            }
            Expr::Is { expr, in_expr, .. } => {
                let is_below = in_expr.as_ref();
                hides(expr) || is_below.is_some_and(|above| hides(above) || self.is_hidden_entity(expr))
            }
            Expr::BinaryOp { left, right, .. } => hides(left) || hides(right),
            Expr::UnaryOp { expr, .. } | Expr::Like { expr, .. } => hides(expr),
            Expr::IfThenElse { cond, then_expr, else_expr } => {
                hides(cond) || hides(then_expr) || hides(else_expr)
            }
            Expr::Set(elements) => elements.iter().any(hides),
            Expr::Record(fields) => fields.values().any(hides),
            _ => true,
        }
    }

    fn is_hidden_attribute(&self, target: &Expr, name: &str) -> bool {
        let is_changes = matches!(target, Expr::Var(Var::Context)) && name == CHANGES;
        (is_changes && !self.visibility.changes) || self.is_hidden(target) || self.is_hidden_entity(target)
    }

    /// Whether an expression is an entity whose attributes must not be shown.
    fn is_hidden_entity(&self, expression: &Expr) -> bool {
        match expression {
            Expr::Var(Var::Principal) => !self.visibility.principal,
            Expr::Var(Var::Resource) => !self.visibility.resource,
            Expr::Var(Var::Action | Var::Context) => false,
            // An entity of the context, or a literal, can be the principal or the resource.
            other => match self.evaluate(other) {
                Some(EvalResult::EntityUid(uid)) => {
                    let is = |variable: Option<&EntityUid>| variable == Some(&uid);
                    (is(self.request.principal()) && !self.visibility.principal)
                        || (is(self.request.resource()) && !self.visibility.resource)
                }
                Some(_) => false,
                None => true,
            },
        }
    }

    /// The values that an expression reads, each once.
    pub(super) fn values(&self, expression: &Expr) -> Vec<ReadValue> {
        let mut values = Vec::new();
        self.collect(expression, &mut values);
        values
    }

    fn collect(&self, expression: &Expr, values: &mut Vec<ReadValue>) {
        if values.len() >= MAX_VALUES {
            return;
        }
        match expression {
            Expr::Literal(_) | Expr::Var(Var::Context) => {}
            Expr::Var(_) => self.add_value(values, expression),
            Expr::GetAttr { expr, .. } => match path(expression) {
                Some(_) => self.add_value(values, expression),
                None => self.collect(expr, values),
            },
            Expr::HasAttr { expr, attrs } => {
                let attribute = attrs.iter().fold(Arc::clone(expr), |target, attr| {
                    Arc::new(Expr::GetAttr { expr: target, attr: attr.clone() })
                });
                self.collect(&attribute, values);
            }
            Expr::BinaryOp { op: BinaryOp::In, left, right } => {
                self.add_ancestors(values, left, right);
                self.collect(right, values);
            }
            Expr::Is { expr, in_expr, .. } => {
                self.collect(expr, values);
                in_expr.iter().for_each(|above| self.add_ancestors(values, expr, above));
            }
            Expr::BinaryOp { left, right, .. } => {
                self.collect(left, values);
                self.collect(right, values);
            }
            Expr::UnaryOp { expr, .. } | Expr::Like { expr, .. } => self.collect(expr, values),
            Expr::IfThenElse { cond, then_expr, else_expr } => {
                [cond, then_expr, else_expr].into_iter().for_each(|branch| self.collect(branch, values));
            }
            Expr::Set(elements) => elements.iter().for_each(|element| self.collect(element, values)),
            Expr::Record(fields) => fields.values().for_each(|field| self.collect(field, values)),
            _ => {}
        }
    }

    /// Adds the value of a variable, or of an attribute of one.
    fn add_value(&self, values: &mut Vec<ReadValue>, expression: &Expr) {
        let Some(path) = path(expression) else { return };
        // The uid of a hidden resource may be that of a hypothetical one.
        let is_unnamed = matches!(expression, Expr::Var(Var::Resource)) && !self.visibility.resource;
        let value = match is_unnamed || self.is_hidden(expression) {
            true => Err("hidden"),
            false => self.evaluate(expression).map(|value| to_json(&value, 0)).ok_or("absent"),
        };
        push(values, path, value);
    }

    /// Adds the ancestors of an entity that have the type of those with which it is compared.
    fn add_ancestors(&self, values: &mut Vec<ReadValue>, entity: &Expr, above: &Expr) {
        let Some(path) = path(entity) else { return };
        let ancestors = || {
            let Some(EvalResult::EntityUid(uid)) = self.evaluate(entity) else { return Err("absent") };
            let kinds: BTreeSet<String> = match self.evaluate(above) {
                Some(EvalResult::EntityUid(uid)) => BTreeSet::from([uid.type_name().to_string()]),
                Some(EvalResult::Set(set)) => set.iter().filter_map(type_of).collect(),
                _ => BTreeSet::new(),
            };
            let ancestors = self.entities.ancestors(&uid).into_iter().flatten();
            let ancestors = ancestors.filter(|ancestor| kinds.contains(&ancestor.type_name().to_string()));
            let texts: BTreeSet<String> = ancestors.map(ToString::to_string).collect();
            Ok(texts.into_iter().take(MAX_ELEMENTS).map(Value::String).collect())
        };
        let is_hidden = self.is_hidden(entity) || self.is_hidden_entity(entity) || self.is_hidden(above);
        let value = if is_hidden { Err("hidden") } else { ancestors() };
        push(values, format!("ancestors of {path}"), value);
    }
}

fn push(values: &mut Vec<ReadValue>, name: String, value: Result<Value, &'static str>) {
    if values.len() < MAX_VALUES && !values.iter().any(|read| read.name == name) {
        let (value, missing) =
            value.map_or_else(|missing| (None, Some(missing)), |value| (Some(value), None));
        values.push(ReadValue { name, value, missing });
    }
}

fn type_of(value: &EvalResult) -> Option<String> {
    match value {
        EvalResult::EntityUid(uid) => Some(uid.type_name().to_string()),
        _ => None,
    }
}

/// The path of an attribute of a variable, such as `context.changes`; the name of a variable itself.
fn path(expression: &Expr) -> Option<String> {
    match expression {
        Expr::Var(variable) => Some(
            match variable {
                Var::Principal => "principal",
                Var::Action => "action",
                Var::Resource => "resource",
                Var::Context => "context",
            }
            .to_owned(),
        ),
        Expr::GetAttr { expr, attr } => Some(format!("{}{}", path(expr)?, access(attr))),
        _ => None,
    }
}

fn access(name: &SmolStr) -> String {
    let is_identifier = name.chars().all(|letter| letter.is_ascii_alphanumeric() || letter == '_')
        && name.chars().next().is_some_and(|letter| !letter.is_ascii_digit());
    if is_identifier { format!(".{name}") } else { format!("[{name:?}]") }
}

/// A value as JSON, with entities in Cedar syntax.
fn to_json(value: &EvalResult, depth: usize) -> Value {
    match value {
        EvalResult::Bool(value) => (*value).into(),
        EvalResult::Long(value) => (*value).into(),
        EvalResult::String(text) | EvalResult::ExtensionValue(text) => truncated(text).into(),
        EvalResult::EntityUid(uid) => truncated(&uid.to_string()).into(),
        EvalResult::Set(_) | EvalResult::Record(_) if depth >= MAX_DEPTH => "…".into(),
        EvalResult::Set(set) => {
            let elements = set.iter().take(MAX_ELEMENTS).map(|element| to_json(element, depth + 1));
            let more = (set.len() > MAX_ELEMENTS).then(|| "…".into());
            elements.chain(more).collect()
        }
        EvalResult::Record(record) => {
            let fields = record.iter().take(MAX_ELEMENTS);
            Value::Object(Map::from_iter(
                fields.map(|(name, value)| (truncated(name), to_json(value, depth + 1))),
            ))
        }
    }
}

fn truncated(text: &str) -> String {
    truncate_chars(text.to_owned(), MAX_TEXT)
}
