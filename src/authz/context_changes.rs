//! Changes of single fields of a request context, as candidates for the least change that gives an allow.
//!
//! The candidates come from the conditions of the policies that decided: a field that they read is removed, flipped, or set to a
//! value of a literal that it is compared with. `now` and `ip`, which nobody chooses, do not change.

use super::condition_parts::{Composition, ConditionPart};
use super::decision_context::DecisionContext;
use super::schema_type::SchemaType;
use super::{CredentialKind, LeastChange, Scope};
use cedar_policy::pst::{Expr, Literal, Var};
use serde_json::{Map, Value, json};
use std::sync::Arc;

/// The maximum number of candidates.
const MAX_CANDIDATES: usize = 32;

/// A changed context, and what the change is.
#[derive(Debug)]
pub(super) struct ContextChange {
    pub(super) context: DecisionContext,
    pub(super) change: LeastChange,
}

/// A field of the context that conditions read, with the literals that occur in the same tests.
#[derive(Debug)]
struct ReadField {
    path: Vec<String>,
    literals: Vec<Value>,
}

/// The candidates for these conditions, at most [`MAX_CANDIDATES`], smaller changes of a field first.
pub(super) fn context_changes<'a>(
    conditions: impl IntoIterator<Item = &'a ConditionPart>,
    context_type: &SchemaType,
    context: &DecisionContext,
) -> Vec<ContextChange> {
    let mut fields = Vec::new();
    for part in conditions.into_iter().flat_map(ConditionPart::descendants) {
        if part.composition == Composition::Test {
            add_fields(&part.expression, &mut fields);
        }
    }
    let mut candidates = Vec::new();
    for field in &fields {
        let Some((declared, is_required)) = declared_type(context_type, &field.path) else { continue };
        match field.path.as_slice() {
            [name] if context.is_set(name) => server_changes(name, &field.literals, context, &mut candidates),
            _ => client_changes(field, declared, is_required, context, &mut candidates),
        }
    }
    candidates.truncate(MAX_CANDIDATES);
    candidates
}

/// Adds the fields that a test reads.
fn add_fields(test: &Expr, fields: &mut Vec<ReadField>) {
    let (mut paths, mut literals) = (Vec::new(), Vec::new());
    visit(test, &mut paths, &mut literals);
    for path in paths {
        let found = fields.iter().position(|field| field.path == path);
        let index = found.unwrap_or_else(|| {
            fields.push(ReadField { path, literals: Vec::new() });
            fields.len() - 1
        });
        if let Some(field) = fields.get_mut(index) {
            let new: Vec<&Value> = literals.iter().filter(|value| !field.literals.contains(value)).collect();
            let new: Vec<Value> = new.into_iter().cloned().collect();
            field.literals.extend(new);
        }
    }
}

/// Collects the fields of the context and the literals of an expression.
fn visit(expression: &Expr, paths: &mut Vec<Vec<String>>, literals: &mut Vec<Value>) {
    if let Some(path) = context_path(expression) {
        paths.push(path);
        return;
    }
    let mut each = |expression: &Arc<Expr>| visit(expression, paths, literals);
    match expression {
        Expr::Literal(literal) => literals.extend(literal_json(literal)),
        Expr::HasAttr { expr, attrs } => {
            let has = attrs.iter().fold(Arc::clone(expr), |target, attr| {
                Arc::new(Expr::GetAttr { expr: target, attr: attr.clone() })
            });
            each(&has);
        }
        Expr::GetAttr { expr, .. } | Expr::UnaryOp { expr, .. } | Expr::Like { expr, .. } => each(expr),
        Expr::BinaryOp { left, right, .. } => [left, right].into_iter().for_each(each),
        Expr::Is { expr, in_expr, .. } => [expr].into_iter().chain(in_expr).for_each(each),
        Expr::IfThenElse { cond, then_expr, else_expr } => {
            [cond, then_expr, else_expr].into_iter().for_each(each);
        }
        Expr::Set(elements) => elements.iter().for_each(each),
        Expr::Record(fields) => fields.values().for_each(each),
        _ => {}
    }
}

/// The path of a field, if the expression is one: `["address", "city"]` of `context.address.city`.
fn context_path(expression: &Expr) -> Option<Vec<String>> {
    let Expr::GetAttr { expr, attr } = expression else { return None };
    let mut path = match &**expr {
        Expr::Var(Var::Context) => Vec::new(),
        inner => context_path(inner)?,
    };
    path.push(attr.to_string());
    Some(path)
}

/// A literal in Cedar's JSON format.
fn literal_json(literal: &Literal) -> Option<Value> {
    match literal {
        Literal::Long(number) => Some((*number).into()),
        Literal::String(text) => Some(text.as_str().into()),
        Literal::EntityUID(uid) => Some(json!({ "type": uid.ty.to_string(), "id": uid.eid.as_str() })),
        _ => None,
    }
}

/// The type of a field, and whether it is required; none if it is not declared.
fn declared_type<'a>(context_type: &'a SchemaType, path: &[String]) -> Option<(&'a SchemaType, bool)> {
    let (first, rest) = path.split_first()?;
    let SchemaType::Record(fields) = context_type else { return None };
    let (declared, is_required) = fields.get(first)?;
    if rest.is_empty() { Some((declared, *is_required)) } else { declared_type(declared, rest) }
}

/// Adds the changes of a field that the service sets.
fn server_changes(
    name: &str,
    literals: &[Value],
    context: &DecisionContext,
    candidates: &mut Vec<ContextChange>,
) {
    let field = format!("context.{name}");
    let set_to = |context: DecisionContext, value: &str, json: Value| ContextChange {
        context,
        change: LeastChange::Context {
            text: format!("with {field} = {value}"),
            field: field.clone(),
            value: Some(json),
        },
    };
    let set = |context: DecisionContext, value: &str| set_to(context, value, value.into());
    let lower = |current: Option<Scope>| {
        let lower = Scope::ALL.into_iter().filter(move |scope| Some(*scope) < current);
        lower.collect::<Vec<Scope>>().into_iter().rev()
    };
    match name {
        "credential" => candidates.extend(
            [CredentialKind::Session, CredentialKind::ApiKey]
                .into_iter()
                .filter(|kind| context.credential != Some(*kind))
                .map(|kind| {
                    set(DecisionContext { credential: Some(kind), ..context.clone() }, kind.as_str())
                }),
        ),
        "provisioning" => candidates.extend(context.provisioning.map(|value| {
            let changed = DecisionContext { provisioning: Some(!value), ..context.clone() };
            set_to(changed, &(!value).to_string(), (!value).into())
        })),
        "scope" => candidates.extend(
            lower(context.scope)
                .map(|scope| set(DecisionContext { scope: Some(scope), ..context.clone() }, scope.as_str())),
        ),
        "role" => candidates.extend(
            lower(context.role)
                .map(|role| set(DecisionContext { role: Some(role), ..context.clone() }, role.as_str())),
        ),
        "changes" => {
            let current = context.changes.clone().unwrap_or_default();
            for removed in
                removals(&current, |name| literals.iter().any(|value| literal_id(value) == Some(name)))
            {
                let rest: Vec<String> =
                    current.iter().filter(|name| !removed.contains(name)).cloned().collect();
                candidates.push(ContextChange {
                    change: LeastChange::Context {
                        text: format!("without {} in {field}", quoted_list(&removed)),
                        field: field.clone(),
                        value: Some(json!(rest)),
                    },
                    context: DecisionContext { changes: Some(rest), ..context.clone() },
                });
            }
        }
        // The client address and the time are not chosen.
        _ => {}
    }
}

/// The text of a string, or the id of an entity.
fn literal_id(value: &Value) -> Option<&str> {
    value.as_str().or_else(|| value.get("__entity").unwrap_or(value).get("id")?.as_str())
}

/// The elements to remove: each that is named, then all of them.
fn removals<T>(elements: &[T], is_named: impl Fn(&T) -> bool) -> Vec<Vec<&T>> {
    let named: Vec<&T> = elements.iter().filter(|element| is_named(element)).collect();
    let mut removals: Vec<Vec<&T>> = named.iter().map(|element| vec![*element]).collect();
    if named.len() > 1 {
        removals.push(named);
    }
    removals
}

fn quoted_list(names: &[&String]) -> String {
    names.iter().map(|name| format!("{name:?}")).collect::<Vec<_>>().join(", ")
}

/// Adds the changes of a field that the client sends.
fn client_changes(
    field: &ReadField,
    declared: &SchemaType,
    is_required: bool,
    context: &DecisionContext,
    candidates: &mut Vec<ContextChange>,
) {
    let name = format!("context.{}", field.path.join("."));
    let current = value_at(&context.client_context, &field.path);
    let mut add = |value: Option<Value>, text: String| {
        if value.as_ref() == current {
            return;
        }
        let mut client_context = context.client_context.clone();
        if replace_at(&mut client_context, &field.path, value.clone()) {
            candidates.push(ContextChange {
                context: DecisionContext { client_context, ..context.clone() },
                change: LeastChange::Context { field: name.clone(), value, text },
            });
        }
    };
    if let (SchemaType::Set(_), Some(Value::Array(elements))) = (declared, current) {
        let is_named = |element: &Value| {
            field.literals.iter().any(|literal| {
                literal == element || {
                    literal_id(literal).is_some() && literal_id(literal) == literal_id(element)
                }
            })
        };
        for removed in removals(elements, is_named) {
            let rest: Vec<&Value> = elements.iter().filter(|element| !removed.contains(element)).collect();
            add(Some(json!(rest)), format!("without {} in {name}", list(&removed)));
        }
    }
    if current.is_some() && !is_required {
        add(None, format!("without {name}"));
    }
    for value in values_of(declared, &field.literals, current) {
        let text = format!("with {name} = {}", shown(&value));
        add(Some(value), text);
    }
}

/// The values of a type to try.
fn values_of(declared: &SchemaType, literals: &[Value], current: Option<&Value>) -> Vec<Value> {
    let of_type = |kind: &SchemaType| -> Vec<Value> {
        let is_of_type = |value: &&Value| match kind {
            SchemaType::String | SchemaType::Extension(_) => value.is_string(),
            SchemaType::Long => value.is_i64(),
            SchemaType::Entity(kind) | SchemaType::Enum(kind, _) => {
                value.get("type").and_then(Value::as_str) == Some(kind)
            }
            _ => false,
        };
        literals.iter().filter(is_of_type).cloned().collect()
    };
    match declared {
        SchemaType::Boolean => vec![true.into(), false.into()],
        SchemaType::Enum(_, ids) => {
            let current = current.and_then(literal_id);
            ids.iter().filter(|id| current != Some(id)).map(|id| id.as_str().into()).collect()
        }
        SchemaType::Long => {
            let numbers = of_type(declared).into_iter().filter_map(|value| value.as_i64());
            let near = |number: i64| [Some(number), number.checked_add(1), number.checked_sub(1)];
            numbers.flat_map(near).flatten().map(Value::from).collect()
        }
        SchemaType::Set(element) => {
            let elements: Vec<Value> = current.and_then(Value::as_array).cloned().unwrap_or_default();
            let values = of_type(element);
            let extended = |more: &[Value]| Value::from([elements.as_slice(), more].concat());
            let all = (values.len() > 1).then(|| extended(&values));
            values.iter().map(|value| extended(std::slice::from_ref(value))).chain(all).collect()
        }
        _ => of_type(declared),
    }
}

/// The text of a value: texts as they are, entities in Cedar syntax.
fn shown(value: &Value) -> String {
    let text = |name: &str| value.get(name).and_then(Value::as_str);
    match (value, text("type"), text("id")) {
        (Value::Array(elements), ..) => format!("[{}]", list(&elements.iter().collect::<Vec<_>>())),
        (_, Some(kind), Some(id)) => format!("{kind}::{id:?}"),
        _ => value.to_string(),
    }
}

fn list(values: &[&Value]) -> String {
    values.iter().map(|value| shown(value)).collect::<Vec<_>>().join(", ")
}

fn value_at<'a>(fields: &'a Map<String, Value>, path: &[String]) -> Option<&'a Value> {
    let (first, rest) = path.split_first()?;
    let value = fields.get(first)?;
    if rest.is_empty() { Some(value) } else { value_at(value.as_object()?, rest) }
}

/// Sets or removes the value at a path. Returns whether that is possible: the records around it exist or can be added.
fn replace_at(fields: &mut Map<String, Value>, path: &[String], value: Option<Value>) -> bool {
    match (path, value) {
        ([name], Some(value)) => {
            fields.insert(name.clone(), value);
            true
        }
        ([name], None) => fields.remove(name).is_some(),
        ([name, rest @ ..], value) => match fields.entry(name.clone()).or_insert_with(|| json!({})) {
            Value::Object(inner) => replace_at(inner, rest, value),
            _ => false,
        },
        ([], _) => false,
    }
}
